"""fork, multiprocessing and exec beside live sessions."""

import multiprocessing
import os
import subprocess
import sys
import textwrap

import alongside
import pytest

from tests.conftest import mappings, open_files

PROGRAM = "import alongside; alongside.session()"


def in_child(check):
    """Run a check in a forked child; it fails if that raises."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def refuses(session):
    calls = [
        session.receive,
        session.receive_nowait,
        lambda: session.send(1),
        lambda: session.send(bytes(1_000_000)),
        lambda: session.send_nowait(1),
        lambda: session.receive_into(bytearray(1)),
        session.receive_view,
        lambda: session.lend(3),
        lambda: session.send([bytearray(100_000)]),
        session.fileno,
        session.ping,
        session.close,
        session.wait,
        session.kill,
        session.terminate,
        session.statistics,
    ]
    for call in calls:
        try:
            call()
        except alongside.HandleLost as error:
            assert "belongs to the process that forked" in str(error)
        else:
            raise AssertionError(call)
    assert not session.alive
    assert session.exit_status is None


def test_a_forked_child_is_refused_and_the_parent_unharmed(echo):
    echo.send("before")
    in_child(lambda: refuses(echo))
    assert echo.receive() == "before"
    echo.send("after")
    assert echo.receive() == "after"


def test_a_child_forked_while_another_thread_fails_is_refused_and_does_not_hang(program):
    """The first exception of a process used to be loaded when it was raised."""
    source = """
        def fail():
            try:
                s.receive(timeout=0)
            except TimeoutError:
                pass
        thread = threading.Thread(target=fail)
        thread.start()
        end = time.perf_counter() + float(sys.argv[1])
        while time.perf_counter() < end:
            pass
        if (pid := os.fork()) == 0:
            signal.alarm(60)
            try:
                s.receive(timeout=0)
            except alongside.HandleLost:
                os._exit(0)
        thread.join()
        s.send(os.waitpid(pid, 0)[1])
        """
    for step in range(20):
        session = program(source, step * 0.00005)
        assert session.receive() == 0


def test_a_child_that_drops_or_leaves_the_session_does_not_end_it(echo):
    import gc

    def drop():
        for reference in gc.get_referrers(echo):
            if isinstance(reference, list):
                reference.clear()
        gc.collect()

    in_child(drop)
    echo.send(1)
    assert echo.receive() == 1


def test_a_child_that_exits_normally_does_not_end_the_parents_session():
    """Its exit handlers are the parent's, and run."""
    source = """
        import alongside, os, sys
        s = alongside.start([sys.executable, "-c",
            "import alongside; s = alongside.session(); [s.send(m) for m in s]"])
        s.on_message(print)
        if os.fork() == 0:
            sys.exit(5)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 5
        s.on_message(None)
        s.send("parent")
        assert s.receive() == "parent"
        s.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(source)], check=True)


def test_a_child_may_have_sessions_of_its_own(echo, program):
    def own():
        mine = program("s.send('mine'); s.receive()", die_with_parent=True)
        assert mine.receive() == "mine"
        mine.close()

    in_child(own)
    echo.send("parent's")
    assert echo.receive() == "parent's"


def test_the_child_holds_none_of_the_parents_descriptors(echo):
    echo.close()
    with alongside.start([sys.executable, "-c", PROGRAM], die_with_parent=True) as warm:
        warm.wait()
    del warm

    def open_in_child():
        if (pid := os.fork()) == 0:
            os._exit(255 if mappings() else len(open_files()))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    # Counted in a child, too: other libraries (libuv) open things anew in each.
    before = open_in_child()
    with alongside.start([sys.executable, "-c", PROGRAM], die_with_parent=True) as other:
        other.fileno()
        assert open_in_child() == before


def test_a_death_is_seen_though_a_child_of_the_dead_lives_on(program):
    """The child shares the dead one's open files, and must have let go of these."""
    session = program(
        """
        pid = os.fork()
        if pid == 0:
            os.read(0, 1)
            os._exit(0)
        s.send(pid)
        s.receive()
        os.kill(os.getpid(), 9)
        """,
        stdin=alongside.PIPE,
    )
    child = session.receive()
    session.send("die")
    with pytest.raises(alongside.PeerGone):
        session.receive()
    assert os.path.exists(f"/proc/{child}")
    session.stdin.close()


def answer(queue):
    queue.put([os.getpid(), alongside.session() is None])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_beside_a_session(echo, method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=answer, args=(queue,))
    process.start()
    pid, has_none = queue.get()
    process.join()
    assert (pid, has_none, process.exitcode) == (process.pid, True, 0)
    echo.send("still here")
    assert echo.receive() == "still here"


def test_many_forks_and_spawns_beside_a_busy_session(echo):
    for i in range(30):
        echo.send(i)
        if i % 2:
            subprocess.run(["true"], check=True)
        else:
            in_child(lambda: None)
        assert echo.receive() == i


def test_exec_ends_the_session_and_the_other_side_knows(program):
    session = program("s.send('bye')\nos.execvp('sleep', ['sleep', '1000'])")
    assert session.receive() == "bye"
    with pytest.raises(alongside.PeerGone) as caught:
        session.receive()
    assert caught.value.exit_status is None
    assert session.exit_status is None


def test_a_child_of_a_bare_clone_knows_too(echo):
    """No fork handler runs there; a page that the kernel wipes tells."""
    source = """
        import alongside, ctypes, os, sys
        s = alongside.start([sys.executable, "-c",
            "import alongside; s = alongside.session(); [s.send(m) for m in s]"])
        libc = ctypes.CDLL(None)
        pid = libc.syscall(56, 17, 0, 0, 0, 0)  # clone(SIGCHLD)
        if pid == 0:
            try:
                s.send(1)
            except alongside.HandleLost:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        s.send("parent")
        assert s.receive() == "parent"
        s.close()
    """
    if os.uname().machine != "x86_64":
        pytest.skip("the number of clone is x86-64's")
    subprocess.run([sys.executable, "-c", textwrap.dedent(source)], check=True)


def test_a_program_that_closes_all_descriptors_is_told(program):
    session = program("for m in s: s.send(m)")
    source = """
        import alongside, os, sys
        s = alongside.start([sys.executable, "-c",
            "import alongside; s = alongside.session(); [s.send(m) for m in s]"])
        os.closerange(3, 1000)
        try:
            s.receive()
        except alongside.HandleLost as error:
            assert "closed behind its back" in str(error), error
        else:
            raise SystemExit("received")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(source)], check=True)
    session.send(1)
    assert session.receive() == 1
