"""Callbacks when the program asks for them, and the loop that a program brings itself."""

import select
import threading

import alongside
import pytest
from alongside import loops

ECHO = "for message in s: s.send(message)"


def test_callbacks_run_in_dispatch_and_nowhere_else(echo):
    loop = loops.Manual()
    got = []
    echo.on_message(lambda m: got.append((m, threading.get_ident())), on=loop)
    for i in range(5):
        echo.send(i)
    echo.send("last")
    while not got or got[-1][0] != "last":
        select.select([loop], [], [])
        loop.dispatch()
    assert [message for message, _ in got] == [*range(5), "last"]
    assert {ident for _, ident in got} == {threading.get_ident()}


def test_the_descriptor_is_readable_exactly_while_there_is_something(program):
    session = program("s.send(1)\ns.receive()\ns.send(2)\ns.receive()")
    loop = loops.Manual()
    got = []
    session.on_message(got.append, on=loop)
    for round_ in (1, 2):
        assert select.select([loop], [], [])[0]
        assert select.select([loop], [], [], 0)[0], "level, not edge"
        loop.dispatch()
        assert got == [1, 2][:round_]
        assert not select.select([loop], [], [], 0)[0]
        session.send("go on")


def test_a_dispatch_waits_if_it_is_told_to(echo):
    loop = loops.Manual()
    got = []
    echo.on_message(got.append, on=loop)
    loop.dispatch(timeout=0.01)
    assert got == []
    echo.send(1)
    while not got:
        loop.dispatch(timeout=None)
    assert got == [1]


def test_a_flood_is_dispatched_in_turns(program):
    session = program("while True: s.send(b'x')")
    loop = loops.Manual()
    got = []
    session.on_message(got.append, on=loop)
    most = 0
    while len(got) < 5000:
        before = len(got)
        loop.dispatch(timeout=None)
        most = max(most, len(got) - before)
    assert most <= 64


def test_all_sessions_get_their_turn(program):
    loop = loops.Manual()
    sessions = [program("while True: s.send(b'x')") for _ in range(4)]
    counts = [0] * 4

    def count(number):
        def arrived(_message):
            counts[number] += 1

        return arrived

    for number, session in enumerate(sessions):
        session.on_message(count(number), on=loop)
    while min(counts) < 500:
        loop.dispatch(timeout=None)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "s.close()"])
def test_the_end_comes_after_the_messages(program, end):
    session = program("for i in range(500): s.send(i)\n" + end)
    loop = loops.Manual()
    log = []
    session.on_close(log.append, on=loop)
    session.on_message(log.append)
    while len(log) < 501:
        loop.dispatch(timeout=None)
    assert log[:500] == list(range(500))
    assert isinstance(log[500], alongside.SessionEnded)
    assert not select.select([loop], [], [], 0)[0]


def test_async_callbacks_are_refused_by_name(echo):
    async def later(_message):
        pass

    with pytest.raises(TypeError, match=r"async function, which <loops.Manual"):
        echo.on_message(later, on=loops.Manual())


def test_a_callback_may_close_its_session(echo):
    loop = loops.Manual()
    echo.on_message(lambda _message: echo.close(), on=loop)
    echo.send(1)
    echo.send(2)
    while not echo._is_closed:
        loop.dispatch(timeout=None)
    loop.dispatch()


def test_the_package_loads_no_loop_that_is_not_used():
    import subprocess
    import sys

    source = (
        "import sys, alongside; from alongside import loops; loops.Manual; loops.Thread\n"
        "print([m for m in ('asyncio', 'trio', 'tkinter', 'PySide6') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_a_name_that_is_no_loop_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Gtk"):
        loops.Gtk  # noqa: B018
    assert {"Asyncio", "Trio", "Tk", "Qt", "Manual", "Thread"} <= {*dir(loops)}


def test_callbacks_may_move_to_another_place_from_within(echo):
    import queue

    loop, got = loops.Manual(), queue.SimpleQueue()

    def second(message):
        got.put((message, threading.current_thread().name))

    def first(message):
        got.put((message, "here"))
        echo.on_message(second, on=loops.Thread())

    for i in range(10):
        echo.send(i)
    echo.on_message(first, on=loop)
    # The other program is slow to answer perhaps, and has taken something meanwhile.
    while got.empty():
        loop.dispatch(timeout=None)
    found = [got.get() for _ in range(10)]
    assert found == [(0, "here"), *((i, "alongside") for i in range(1, 10))]
    loop.dispatch()


def test_a_callback_that_cannot_move_stays(echo):
    async def later(_message):
        pass

    loop, got = loops.Manual(), []
    echo.on_message(got.append, on=loop)
    with pytest.raises(TypeError, match="async"):
        echo.on_message(later, on=loops.Manual())
    echo.send(1)
    while not got:
        loop.dispatch(timeout=None)
    assert got == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_to_end_the_program_reaches_it(echo, error):
    def arrived(message):
        if message == 0:
            raise error
        got.append(message)

    loop, got = loops.Manual(), []
    echo.on_message(arrived, on=loop)
    echo.send(0)
    echo.send(1)
    with pytest.raises(error):
        while True:
            loop.dispatch(timeout=None)
    while not got:
        loop.dispatch(timeout=None)
    assert got == [1]


def test_a_callback_that_dispatches_itself_is_not_run_twice_at_once(echo):
    loop, log = loops.Manual(), []

    def arrived(message):
        log.append(("begin", message))
        loop.dispatch(timeout=0)
        log.append(("end", message))

    echo.on_message(arrived, on=loop)
    for i in range(5):
        echo.send(i)
    while len(log) < 10:
        loop.dispatch(timeout=None)
    assert log == [(what, i) for i in range(5) for what in ("begin", "end")]


def test_what_a_callback_returns_to_await_is_an_error_where_nobody_does(echo, caplog):
    async def handle(_message):
        pass

    loop, failed = loops.Manual(), []
    echo.on_error(failed.append, on=loop)
    echo.on_message(lambda message: handle(message))
    echo.send(1)
    while not failed:
        loop.dispatch(timeout=None)
    assert "returned something to await" in str(failed[0])


def test_a_forked_child_cannot_use_its_parents_loop(echo):
    import os

    loop = loops.Manual()
    echo.on_message(print, on=loop)
    if (pid := os.fork()) == 0:
        code = 0
        for call in (loop.fileno, loop.dispatch, echo.close):
            try:
                call()
                code = 1
            except alongside.HandleLost:
                pass
        # A file that has got the number of something that was closed is left alone.
        with open("/dev/shm/alongside-test", "w+b") as file:
            loop._hub.wake()
            code += file.seek(0, 2)
        os.unlink("/dev/shm/alongside-test")
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    echo.on_message(None)
