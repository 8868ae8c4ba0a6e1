"""The orderly end: nothing lost, told apart from death, nothing left behind."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap

import alongside
import pytest

from tests.conftest import HEAD, is_asleep, wait_until


def test_close_says_how_much_was_delivered(program):
    session = program("for i in range(3): s.receive()\nos.read(0, 1)", stdin=alongside.PIPE)
    for i in range(5):
        session.send(i)
    wait_until(lambda: session.statistics().messages_delivered == 3)
    assert session.close(timeout=0) == 3
    assert session.close() == 3
    assert session.statistics().messages_sent == 5
    session.stdin.close()


def test_close_waits_until_all_is_delivered(program):
    session = program("for m in s: pass")
    for _ in range(5000):
        session.send(b"x" * 100)
    assert session.close() == 5000


def test_what_was_sent_before_the_close_is_delivered_first(program):
    session = program("""
        for i in range(100): s.send(i)
        s.send(bytes(1_000_000))
        s.close(timeout=0)
    """)
    assert session.wait() == 0
    assert [session.receive() for _ in range(100)] == list(range(100))
    assert len(session.receive()) == 1_000_000
    for _ in range(2):
        with pytest.raises(alongside.Closed) as caught:
            session.receive()
        assert caught.value.by == "peer"
    assert list(session) == []
    with pytest.raises(alongside.Closed):
        session.send(1)


def test_a_normal_exit_closes_in_order(program):
    """Without a word from the program."""
    session = program("s.send('bye')")
    assert list(session) == ["bye"]
    session = program("s.send('bye'); os._exit(3)")
    assert session.receive() == "bye"
    with pytest.raises(alongside.PeerGone) as caught:
        session.receive()
    assert caught.value.exit_status == 3


def test_a_sys_exit_closes_in_order_too(program):
    session = program("s.send('before'); sys.exit(4)")
    assert list(session) == ["before"]
    assert session.wait() == 4


def test_a_program_that_ends_with_a_traceback_is_gone_and_not_closed(program):
    """Else a loop over its messages would end as if all of them had come."""
    session = program("s.send('before'); 1 / 0", stderr=alongside.DEVNULL)
    assert session.receive() == "before"
    with pytest.raises(alongside.PeerGone) as caught:
        session.receive()
    assert caught.value.exit_status == 1
    with pytest.raises(alongside.PeerGone):
        list(session)


def test_both_may_close_at_once(program):
    for _ in range(20):
        session = program("s.close()")
        assert session.close() == 0


def test_a_closed_session_refuses_everything_and_says_why(echo):
    echo.close(timeout=0)
    for call in (
        echo.receive,
        echo.receive_nowait,
        lambda: echo.send(1),
        lambda: echo.send(bytes(1_000_000)),
        lambda: echo.send_nowait(1),
        lambda: echo.receive_into(bytearray(1)),
        echo.fileno,
        echo.ping,
    ):
        with pytest.raises(alongside.Closed) as caught:
            call()
        assert caught.value.by == "me"
    assert not echo.alive
    with pytest.raises(alongside.Closed):
        list(echo)
    assert "closed" in repr(echo)
    assert echo.peer.pid


def test_close_does_not_end_the_program(echo):
    echo.close()
    assert echo.wait() == 0
    assert echo.exit_status == 0


@pytest.mark.usefixtures("leaves_nothing")
def test_a_session_leaves_nothing():
    source = "import alongside; s = alongside.session()\nfor m in s: s.send(m)"
    session = alongside.start([sys.executable, "-c", source], die_with_parent=True)
    session.send(bytes(5_000_000))
    session.receive()
    session.fileno()
    session.on_message(print)
    session.on_message(None)
    session.close()
    session.wait()


def test_a_dropped_session_closes_in_order_with_a_warning(program):
    session = alongside.start(
        [sys.executable, "-c", "import alongside; print(list(alongside.session()))"],
        stdout=alongside.PIPE,
    )
    session.send("kept")
    out = session.stdout
    with pytest.warns(ResourceWarning, match=r"unclosed <alongside\.Session"):
        del session
        gc.collect()
    assert out.read() == b"['kept']\n"
    out.close()


def test_the_interpreters_exit_gives_no_warning_and_loses_nothing():
    inner = "import alongside; print(list(alongside.session()))"
    source = f"""
        import alongside, sys
        s = alongside.start([sys.executable, "-c", {inner!r}])
        s.on_close(print)
        s.send("last")
        s.send(bytes(1_000_000) and "words")
    """
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", textwrap.dedent(source)]
    done = subprocess.run(command, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"['last', 'words']\n", b"")


def test_the_context_manager_waits_for_nobody_when_it_is_left_by_an_exception(program):
    session = program("os.read(0, 1)", stdin=alongside.PIPE)
    with pytest.raises(ZeroDivisionError), session:
        session.send("never taken")
        _ = 1 / 0
    assert not session.alive
    session.stdin.close()


def test_errors_pickle_and_sessions_do_not(echo):
    gone = alongside.PeerGone("text", exit_status=-9)
    closed = alongside.Closed("text", by="peer")
    failed = alongside.StartFailed("text", exit_status=1, stderr=b"why")
    invalid = alongside.Invalid("text", data=[1])
    for error in (
        gone,
        closed,
        failed,
        invalid,
        alongside.TimedOut("text"),
        alongside.Corrupt("x"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (again.args, vars(again)) == (error.args, vars(error))
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(echo)
    assert pickle.loads(pickle.dumps(echo.peer)) == echo.peer


def test_statistics_count_what_was_done(echo):
    count = 0
    # Some answers are there before they are waited for; not all.
    while not (seen := echo.statistics()).wakeups + seen.spins_paid:
        echo.send(b"12345")
        echo.receive()
        count += 1
    assert (seen.messages_sent, seen.messages_received) == (count, count)
    assert (seen.bytes_sent, seen.bytes_received) == (5 * count, 5 * count)
    assert seen.messages_delivered == count > 0
    assert f"messages_sent={count}" in repr(seen)


@pytest.mark.parametrize(
    "call",
    [
        "s.receive()",
        "s.receive(timeout=0.0002)",
        "s.wait()",
        "s.send(bytes(60_000))",
        "alongside.start(['sleep', '0.03'])",
        "alongside.Lock('lock').acquire()",
        "alongside.RWLock('lock').writing().__enter__()",
        "alongside.Cell('cell').wait(0)",
        "alongside.Cell('cell', max_size=100).close()",
    ],
)
@pytest.mark.usefixtures("scope")
def test_a_program_ends_quietly_whatever_its_daemon_threads_are_in(call):
    """The interpreter unwinds such a thread when it ends: through this library's frames."""
    source = f"""
        # Loaded here: Python 3.11 itself may crash if it ends while a daemon thread waits
        # for another one's import.
        alongside.start, alongside.Lock, alongside.RWLock, alongside.Cell, alongside.StartFailed
        begun = threading.Semaphore(0)
        def work():
            while True:
                begun.release()
                try:
                    {call}
                except (alongside.TimedOut, alongside.StartFailed):
                    pass
                except BaseException:
                    return
        for _ in range(4):
            threading.Thread(target=work, daemon=True).start()
        for _ in range(4):
            begun.acquire()
    """
    command = [sys.executable, "-c", HEAD + textwrap.dedent(source)]
    for _ in range(8):
        with alongside.start(command, stderr=alongside.PIPE) as session:
            assert session.wait() == 0
            assert session.stderr.read() == b""
            session.stderr.close()


def test_a_session_that_fails_on_one_side_is_over_on_the_other(program):
    session = program(
        """
        import resource
        s.receive()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, files[1]))
        try:
            s.receive()
        except OSError:
            resource.setrlimit(resource.RLIMIT_NOFILE, files)
            sys.stdin.read()
        """,
        stdin=alongside.PIPE,
    )
    session.send("go")
    # Needs a descriptor there.
    with pytest.raises(alongside.PeerGone):
        session.send(bytes(100_000_000))
    with pytest.raises(alongside.PeerGone):
        session.receive()
    assert not session.alive
    session.stdin.close()
    assert session.wait() == 0


def test_a_close_by_a_handler_amid_a_large_send_leaves_the_session_whole(program):
    session = program(
        """
        def stop(*_):
            try:
                s.close()
            except alongside.Busy:
                seen.append("busy")
            print("handled", flush=True)
        seen = []
        signal.signal(signal.SIGUSR1, stop)
        s.send("begin")
        s.send(bytes(50_000_000))
        s.send(bytes(50_000_000))
        s.send(seen)
        """,
        max_message=50_000_000,
        stdout=alongside.PIPE,
    )
    assert session.receive() == "begin"
    wait_until(lambda: is_asleep(session.peer.pid))
    os.kill(session.peer.pid, signal.SIGUSR1)
    with session.stdout:
        assert session.stdout.readline() == b"handled\n"
    assert len(session.receive()) == 50_000_000
    assert len(session.receive()) == 50_000_000
    assert session.receive() == ["busy"]
    assert session.wait() == 0
