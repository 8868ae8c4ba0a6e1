"""Every wait ends: on arrival, on space, at the deadline, on death, on close, on Ctrl-C."""

import os
import select
import signal
import subprocess
import sys
import textwrap
import threading

import alongside
import pytest

from tests.conftest import is_asleep, wait_until


def asleep(thread):
    return is_asleep(os.getpid(), thread.native_id)


def in_thread(call):
    """Run a call in a thread; give what it returned or raised once it is over."""
    outcome = []

    def run():
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def result():
        thread.join()
        return outcome[0]

    return thread, result


def fill(session, message=b"x" * 1000):
    """Send until the other side's memory is full; give the count."""
    count = 0
    while True:
        try:
            session.send_nowait(message)
        except alongside.WouldBlock:
            return count
        count += 1


# ---- deadlines -------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.001, 0.05])
def test_receive_times_out_and_loses_nothing(echo, timeout):
    with pytest.raises(alongside.TimedOut):
        echo.receive(timeout=timeout)
    with pytest.raises(TimeoutError):
        echo.receive_into(bytearray(10), timeout=timeout)
    echo.send(1)
    assert echo.receive() == 1


@pytest.mark.parametrize("bad", [-1, float("nan")])
def test_a_deadline_that_is_none_is_refused(echo, bad):
    with pytest.raises(ValueError, match="timeout"):
        echo.receive(timeout=bad)
    with pytest.raises(ValueError, match="timeout"):
        echo.ping(timeout=bad)


def test_a_deadline_beyond_the_clock_is_for_ever(echo):
    echo.send(1)
    assert echo.receive(timeout=1e300) == 1


def test_nowait_never_waits(echo):
    with pytest.raises(alongside.WouldBlock):
        echo.receive_nowait()
    with pytest.raises(BlockingIOError):
        echo.receive_nowait()
    echo.send("x")
    wait_until(lambda: echo.statistics().messages_delivered == 1)
    while True:
        try:
            assert echo.receive_nowait() == "x"
        except alongside.WouldBlock:
            continue
        break


# ---- a full ring -----------------------------------------------------------------------------


def test_a_full_ring_holds_a_sender_up_until_the_deadline_and_nothing_is_half_sent(program):
    session = program(
        """
        while os.read(0, 1) != b"g": pass
        for m in s: s.send(len(m))
        """,
        stdin=alongside.PIPE,
    )
    count = fill(session)
    with pytest.raises(alongside.TimedOut):
        session.send(b"y" * 1000, timeout=0.02)
    session.stdin.write(b"g")
    session.stdin.flush()
    session.send(b"end")
    assert [session.receive() for _ in range(count + 1)] == [1000] * count + [3]
    session.stdin.close()


def test_a_sender_goes_on_as_soon_as_there_is_space(program):
    session = program(
        """
        os.read(0, 1)
        s.receive()
        os.read(0, 1)
        """,
        stdin=alongside.PIPE,
    )
    fill(session)
    thread, result = in_thread(lambda: session.send(b"x" * 1000))
    wait_until(lambda: asleep(thread))
    session.stdin.write(b"1")
    session.stdin.flush()
    assert result() is None
    session.stdin.close()


@pytest.mark.parametrize("size", [100, 60_000, 200_000, 3_000_000])
def test_two_sides_that_answer_each_other_with_full_rings_do_not_lock_up(program, size):
    """Each sends all it has before it receives anything."""
    count = 6_000_000 // (size + 64)
    session = program(f"""
        for i in range({count}): s.send(i.to_bytes(4, "big") + bytes({size}))
        for i in range({count}): assert int.from_bytes(s.receive()[:4], "big") == i
        s.send("done")
        s.receive()
    """)
    for i in range(count):
        session.send(i.to_bytes(4, "big") + bytes(size))
    for i in range(count):
        assert int.from_bytes(session.receive()[:4], "big") == i
    assert session.receive() == "done"


def test_two_sides_that_never_receive_are_told_instead_of_hanging(program):
    session = program(
        """
        try:
            while True: s.send(b"x" * 10_000)
        except alongside.Busy:
            os.write(1, b"told")
            os.kill(os.getpid(), 9)
        """,
        stdout=alongside.PIPE,
    )
    with pytest.raises((alongside.Busy, alongside.PeerGone)) as caught:
        while True:
            session.send(b"x" * 10_000)
    if caught.type is alongside.PeerGone:
        assert session.stdout.read() == b"told"
    else:
        assert "both programs wait for the other to receive" in str(caught.value)
    assert len(session.receive()) == 10_000
    session.stdout.close()


def test_waiting_for_the_end_of_a_program_that_waits_for_room_is_told_instead_of_hanging(program):
    session = program("for i in range(30_000): s.send(bytes(2000))")
    with pytest.raises(alongside.Busy, match="receive first"):
        session.wait()
    for _ in range(30_000):
        session.receive()
    assert session.wait() == 0


def test_a_large_message_to_a_reader_that_is_asleep_for_good_ends_at_the_deadline(program):
    session = program("time.sleep(1000)", max_message=8 << 20)
    session.send(bytes(8 << 20))
    with pytest.raises(alongside.TimedOut):
        session.send(bytes(8 << 20), timeout=0.02)
    with pytest.raises(alongside.WouldBlock):
        session.send_nowait(bytes(8 << 20))


def test_an_abandoned_message_is_forgotten_and_the_next_one_is_whole(program):
    session = program(
        "os.read(0, 1)\nfor m in s: s.send([len(m), m[:1]])",
        max_message=8 << 20,
        stdin=alongside.PIPE,
    )
    session.send(b"a" * (8 << 20))
    with pytest.raises(alongside.TimedOut):
        session.send(b"b" * (8 << 20), timeout=0.01)
    session.stdin.write(b"g")
    session.stdin.close()
    session.send(b"c" * (8 << 20))
    assert session.receive() == [8 << 20, b"a"]
    assert session.receive() == [8 << 20, b"c"]


# ---- death and close -------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["kill", "close"])
@pytest.mark.parametrize(
    "wait", ["receive", "receive_into", "send", "send large", "wait", "ping", "for"]
)
def test_the_others_end_ends_every_wait(program, wait, end):
    last_words = "s.close()\nos.read(0, 1)" if end == "close" else "os.kill(os.getpid(), 9)"
    session = program(f"os.read(0, 1)\n{last_words}", stdin=alongside.PIPE, max_message=1 << 20)
    if wait.startswith("send"):
        fill(session)
        fill(session, bytes(1 << 20))
    call = {
        "receive": session.receive,
        "receive_into": lambda: session.receive_into(bytearray(10)),
        "send": lambda: session.send(b"x" * 1000),
        "send large": lambda: session.send(bytes(1 << 20)),
        "wait": lambda: session.wait(),
        "ping": lambda: session.ping(timeout=None),
        "for": lambda: list(session),
    }[wait]
    thread, result = in_thread(call)
    wait_until(lambda: asleep(thread))
    session.stdin.write(b"g")
    session.stdin.flush()
    if wait == "wait" and end == "close":
        session.stdin.close()
    outcome = result()
    if wait == "wait":
        assert outcome == (-9 if end == "kill" else 0)
    elif end == "kill":
        assert isinstance(outcome, alongside.PeerGone)
        assert isinstance(outcome, ConnectionError)
        assert outcome.exit_status == -9
    elif wait == "for":
        assert outcome == []
    else:
        assert isinstance(outcome, alongside.Closed)
        assert outcome.by == "peer"
    assert not session.alive
    session.stdin.close()


@pytest.mark.parametrize("wait", ["receive", "receive_into", "send", "send large", "ping", "for"])
def test_closing_here_ends_every_wait_of_other_threads(program, wait):
    session = program("os.read(0, 1)", stdin=alongside.PIPE, max_message=1 << 20)
    if wait.startswith("send"):
        fill(session)
        fill(session, bytes(1 << 20))
    call = {
        "receive": session.receive,
        "receive_into": lambda: session.receive_into(bytearray(10)),
        "send": lambda: session.send(b"x" * 1000),
        "send large": lambda: session.send(bytes(1 << 20)),
        "ping": lambda: session.ping(timeout=None),
        "for": lambda: list(session),
    }[wait]
    waits = [in_thread(call) for _ in range(3)]
    for thread, _ in waits:
        wait_until(lambda thread=thread: asleep(thread))
    session.close(timeout=0)
    for _, result in waits:
        outcome = result()
        if wait == "for":
            assert outcome == []
        else:
            assert isinstance(outcome, alongside.Closed)
            assert outcome.by == "me"
    session.stdin.close()


def test_what_was_sent_before_death_is_delivered_first(program):
    session = program("""
        for i in range(1000): s.send(i)
        s.send(bytes(3_000_000))
        os.kill(os.getpid(), 9)
    """)
    assert session.wait() == -9
    assert [session.receive() for _ in range(1000)] == list(range(1000))
    assert len(session.receive()) == 3_000_000
    for _ in range(2):
        with pytest.raises(alongside.PeerGone):
            session.receive()
    with pytest.raises(alongside.PeerGone):
        session.receive_nowait()
    with pytest.raises(alongside.PeerGone):
        for _ in session:
            pass


def test_sending_to_the_dead_is_an_error_soon(program):
    """Not only when the ring is full."""
    session = program("s.receive()\nos.kill(os.getpid(), 9)")
    session.send("die")
    session.wait()
    with pytest.raises(alongside.PeerGone) as caught:
        session.send("to the dead")
    assert caught.value.exit_status == -9


def test_a_death_amid_a_large_message_delivers_nothing_of_it(program):
    session = program(
        """
        s.send("first")
        threading.Thread(target=lambda: s.send(bytes(60 << 20)), daemon=True).start()
        os.read(0, 1)
        os.kill(os.getpid(), 9)
        """,
        stdin=alongside.PIPE,
    )
    assert session.receive() == "first"
    session.stdin.write(b"g")
    session.stdin.close()
    try:
        assert len(session.receive()) == 60 << 20
    except alongside.PeerGone:
        return
    with pytest.raises(alongside.PeerGone):
        session.receive()


# ---- Ctrl-C ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wait",
    [
        "s.receive()",
        "s.receive(timeout=1000)",
        "s.receive_into(bytearray(10))",
        "fill(); s.send(b'x' * 1000)",
        "fill(); s.send(bytes(1 << 20))",
        "s.wait()",
        "s.ping(timeout=None)",
        "s.send(1); s.close(timeout=None)",
        "list(s)",
    ],
)
def test_ctrl_c_ends_any_wait(wait):
    source = f"""
        import alongside, sys
        s = alongside.start(
            [sys.executable, "-c", "import alongside, time; alongside.session(); time.sleep(1000)"],
            die_with_parent=True, max_message=1 << 20)
        def fill():
            for m in (b"x" * 1000, bytes(1 << 20)):
                try:
                    while True: s.send_nowait(m)
                except alongside.WouldBlock: pass
        sys.stdout.write("ready"); sys.stdout.flush()
        try:
            {wait}
        except KeyboardInterrupt:
            print(" interrupted")
        s.kill()
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.read(5) == b"ready"
        wait_until(lambda: is_asleep(process.pid))
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b" interrupted\n"
    assert process.returncode == 0


def test_a_signal_whose_handler_does_not_raise_ends_no_wait(program):
    session = program("s.receive()\ns.send('late')\ns.receive()")
    seen = []
    before = signal.signal(
        signal.SIGUSR1, lambda *_: (seen.append(1), len(seen) == 3 and session.send(0))
    )
    main = threading.main_thread().native_id

    def interrupt():
        for count in range(1, 4):
            wait_until(lambda: is_asleep(os.getpid(), main))
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(lambda count=count: len(seen) == count)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert session.receive() == "late"
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert len(seen) == 3


@pytest.mark.parametrize("call", ["s.send(1)", "s.close()", "s.ping()"])
def test_a_handler_that_uses_the_session_amid_a_large_send_is_told_and_not_hung(call):
    source = f"""
        import alongside, signal, sys
        s = alongside.start(
            [sys.executable, "-c", "import alongside, time; alongside.session(); time.sleep(1000)"],
            die_with_parent=True, max_message=1 << 20)
        s.send(bytes(1 << 20)); s.send_nowait(bytes(1 << 20))
        def handler(*_): {call}
        signal.signal(signal.SIGUSR1, handler)
        sys.stdout.write("ready"); sys.stdout.flush()
        try:
            s.send(bytes(1 << 20))
        except alongside.Busy as error:
            print("", error)
        s.kill()
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.read(5) == b"ready"
        wait_until(lambda: is_asleep(process.pid))
        process.send_signal(signal.SIGUSR1)
        assert b"interrupted a send" in process.stdout.read()


# ---- ping ------------------------------------------------------------------------------------


def test_a_program_that_receives_answers_a_ping_and_others_do_not(program):
    session = program("s.receive()\nos.read(0, 1)\ns.receive()", stdin=alongside.PIPE)
    assert 0 < session.ping() < 60
    session.send("now it reads elsewhere")
    wait_until(lambda: session.statistics().messages_delivered == 1)
    with pytest.raises(alongside.TimedOut):
        session.ping(timeout=0.02)
    assert session.alive
    session.stdin.close()
    assert session.ping(timeout=None) > 0


def test_a_ping_takes_arrivals_in_and_loses_none(program):
    session = program("for i in range(100): s.send(i)\ns.receive()")
    session.ping(timeout=None)
    assert [session.receive() for _ in range(100)] == list(range(100))


def test_no_deadlines_of_the_library_when_the_other_is_being_debugged(monkeypatch, program):
    monkeypatch.setenv("ALONGSIDE_NO_DEADLINES", "1")
    assert program("s.send(1); s.receive()", timeout=0.000001).receive() == 1


def test_a_small_message_behind_a_large_one_is_never_slept_through():
    """Both sides on one processor; a change that was published without its bell hung this."""
    source = """
        import alongside, os, sys
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        child = (
            "import alongside; s = alongside.session()\\n"
            "for _ in s: s.send(bytes(1 << 20)); s.send(1)"
        )
        with alongside.start([sys.executable, "-c", child]) as s:
            for n in range(5000):
                s.send(0)
                s.receive()
                s.receive()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(source)], check=True)


# ---- deadlines and bells that are hung up or shared --------------------------------------------


@pytest.mark.parametrize("wait", ["wait", "ping"])
def test_a_deadline_holds_though_the_other_side_has_closed_and_lives_on(program, wait):
    """Its bells are hung up then, and ready for ever."""
    session = program("s.close()\nos.read(0, 1)", stdin=alongside.PIPE)
    with pytest.raises(alongside.Closed):
        session.receive()
    with pytest.raises(alongside.TimedOut if wait == "wait" else alongside.Closed):
        getattr(session, wait)(timeout=0.05)
    session.stdin.close()
    assert session.wait() == 0


def test_a_sender_is_woken_though_another_thread_waits_for_something_else(program):
    """Who waits for an exit must not empty the bell of who waits for space."""
    session = program("for m in s: pass")
    thread, result = in_thread(session.wait)
    wait_until(lambda: asleep(thread))
    for _ in range(3000):
        session.send(bytes(60_000))
    session.close()
    assert result() == 0


def test_close_waits_for_nobody_elses_close(program):
    session = program("os.read(0, 1)", stdin=alongside.PIPE)
    session.send("never taken")
    thread, result = in_thread(lambda: session.close(timeout=None))
    wait_until(lambda: asleep(thread))
    assert session.close(timeout=0) == 0
    session.stdin.close()
    assert result() == 0


@pytest.mark.parametrize("look", ["s.alive", "s.ping(0)", "s.send(1)"])
def test_whoever_learns_of_the_death_leaves_the_descriptor_readable(program, look):
    import select

    session = program("s.receive()")
    fd = session.fileno()
    session.kill()
    session.wait()
    try:
        eval(look, {"s": session})
    except alongside.PeerGone:
        pass
    select.select([fd], [], [])
    with pytest.raises(alongside.PeerGone):
        session.receive_nowait()


def test_signals_while_a_session_is_taken_up_lose_nothing():
    source = """
        import alongside, signal
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        s = alongside.session(required=True)
        s.send(s.hello)
        s.receive()
    """
    for _ in range(10):
        command = [sys.executable, "-c", textwrap.dedent(source)]
        with alongside.start(command, hello="whole") as session:
            assert session.receive() == "whole"


def test_a_handler_amid_the_first_exception_of_a_process_does_not_hang(program):
    source = """
        def handle(*_):
            try:
                s.receive_nowait()
            except alongside.WouldBlock:
                pass
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]), 0.0005)
        try:
            s.receive_nowait()
        except alongside.WouldBlock:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        s.send("well")
        """
    for step in range(1, 11):
        assert program(source, step * 0.0001).receive() == "well"


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_bad_timeout_is_refused_whether_or_not_there_is_anything_to_wait_for(echo, timeout):
    for call in (echo.receive, lambda timeout: echo.send(1, timeout=timeout)):
        with pytest.raises(ValueError, match="timeout is"):
            call(timeout=timeout)


def test_what_has_come_is_checked_without_waiting_too(echo):
    with pytest.raises(alongside.WouldBlock):
        echo.receive_nowait(type=int)
    echo.send([1, 2])
    wait_until(lambda: select.select([echo], [], [], 0)[0])
    assert echo.receive_nowait(type=tuple[int, ...]) == (1, 2)
    echo.send("x")
    wait_until(lambda: select.select([echo], [], [], 0)[0])
    with pytest.raises(alongside.Invalid):
        echo.receive_nowait(type=int)
