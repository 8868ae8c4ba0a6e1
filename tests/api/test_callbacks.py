"""Callbacks: in order, on one thread, never lost, never ending a session silently."""

import gc
import logging
import os
import queue
import subprocess
import sys
import textwrap
import threading
import weakref

import alongside
import pytest

from tests.conftest import ECHO, HEAD, command, wait_until


@pytest.fixture
def inbox():
    return queue.SimpleQueue()


def test_messages_go_to_the_callback_in_order_on_one_service_thread(echo, inbox):
    echo.on_message(lambda message: inbox.put((message, threading.current_thread())))
    for i in range(1000):
        echo.send(i)
    got = [inbox.get() for _ in range(1000)]
    assert [message for message, _ in got] == list(range(1000))
    (thread,) = {thread for _, thread in got}
    assert thread is not threading.current_thread()
    assert thread.name == "alongside"
    assert [t.name for t in threading.enumerate()].count("alongside") == 1


def test_messages_that_came_before_the_callback_come_first(program, inbox):
    session = program("for i in range(10): s.send(i)\ns.receive()\ns.send('after')\ns.receive()")
    session.ping(timeout=None)
    session.on_message(inbox.put)
    session.send("go")
    assert [inbox.get() for _ in range(11)] == [*range(10), "after"]


def test_receive_is_refused_while_a_callback_is_set(echo, inbox):
    echo.on_message(inbox.put)
    for call in (echo.receive, echo.receive_nowait, lambda: echo.receive_into(bytearray(1))):
        with pytest.raises(RuntimeError, match="on_message"):
            call()
    echo.send(1)
    assert inbox.get() == 1
    echo.on_message(None)
    echo.send(2)
    assert echo.receive() == 2


def test_what_cannot_be_called_is_refused_at_once(echo):
    async def later(message):
        pass

    for setter in (echo.on_message, echo.on_close, echo.on_error):
        with pytest.raises(TypeError, match="cannot be called"):
            setter(5)
        with pytest.raises(TypeError, match="async"):
            setter(later)
    echo.send(1)
    assert echo.receive() == 1


def test_a_callback_that_pauses_makes_no_sender_busy(echo, inbox):
    """Full everywhere for a moment, while arrivals are being handed out, is no standstill."""
    gate = threading.Event()

    def slow(message):
        gate.wait()
        inbox.put(message)

    echo.on_message(slow)
    threading.Timer(1.5, gate.set).start()
    for i in range(15_000):
        echo.send([i, "x" * 2000])
    assert [inbox.get()[0] for _ in range(15_000)] == list(range(15_000))


def test_a_callback_may_send_and_receive_on_other_sessions(program, inbox):
    one, other = (program("for m in s: s.send(m + 1)") for _ in range(2))
    one.on_message(lambda m: (other.send(m), inbox.put(other.receive())))
    one.send(1)
    assert inbox.get() == 3


def test_a_callback_that_raises_is_logged_told_and_followed_by_the_next(echo, inbox, caplog):
    def callback(message):
        if message % 2:
            msg = f"odd: {message}"
            raise ValueError(msg)
        inbox.put(message)

    errors = queue.SimpleQueue()
    echo.on_error(errors.put)
    echo.on_message(callback)
    with caplog.at_level(logging.ERROR, "alongside"):
        for i in range(4):
            echo.send(i)
        assert [inbox.get(), inbox.get()] == [0, 2]
        found = [errors.get(), errors.get()]
    assert [str(error) for error in found] == ["odd: 1", "odd: 3"]
    assert echo.alive
    # The fourth record may be logged a moment after it was told.
    assert caplog.records[0].exc_info[1] is found[0]


def test_an_on_error_that_raises_is_logged_and_ends_nothing(echo, inbox, caplog):
    def bad(argument):
        raise KeyError(argument)

    echo.on_error(bad)
    echo.on_message(lambda m: inbox.put(m) or bad(m))
    for i in range(3):
        echo.send(i)
    assert [inbox.get() for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("end", ["close", "kill"])
def test_on_close_comes_once_after_the_last_message(program, inbox, end):
    ending = {"close": "s.close()", "kill": "os.kill(os.getpid(), 9)"}[end]
    session = program(f"s.receive()\nfor i in range(200): s.send(i)\n{ending}")
    session.on_message(inbox.put)
    session.on_close(inbox.put)
    session.send("go")
    assert [inbox.get() for _ in range(200)] == list(range(200))
    reason = inbox.get()
    if end == "close":
        assert isinstance(reason, alongside.Closed)
        assert reason.by == "peer"
    else:
        assert isinstance(reason, alongside.PeerGone)
        assert reason.exit_status == -9
    with pytest.raises(type(reason)):
        session.receive()


def test_on_close_alone_leaves_the_messages_to_receive(program, inbox):
    session = program("for i in range(5): s.send(i)\ns.receive()")
    session.on_close(inbox.put)
    assert [session.receive() for _ in range(5)] == list(range(5))
    assert inbox.empty()
    session.send("end")
    assert isinstance(inbox.get(), alongside.Closed)


def test_on_close_of_a_session_that_is_over_already(program, inbox):
    session = program("s.close()")
    session.wait()
    session.on_close(inbox.put)
    assert isinstance(inbox.get(), alongside.Closed)


def test_a_session_can_be_closed_from_its_own_callback(program, inbox):
    session = program("for i in range(5): s.send(i)\nfor m in s: pass")
    session.on_message(lambda m: (inbox.put(m), session.close(timeout=0)))
    assert inbox.get() == 0
    session.wait()
    assert inbox.empty()


def test_a_busy_session_does_not_starve_the_others(program, inbox):
    busy = program("while True: s.send(b'x')")
    quiet = program("for m in s: s.send(m)")
    busy.on_message(lambda _: None)
    quiet.on_message(inbox.put)
    for i in range(20):
        quiet.send(i)
        assert inbox.get() == i


def test_a_session_with_a_callback_stays_though_nobody_holds_it(inbox):
    import gc
    import sys

    source = "import alongside; s = alongside.session(); s.receive(); s.send('still there')"
    session = alongside.start([sys.executable, "-c", source])
    session.on_message(inbox.put)
    session.send(1)
    del session
    gc.collect()
    assert inbox.get() == "still there"


def test_callbacks_in_a_forked_child_are_its_own(program, inbox):
    session = program("for m in s: s.send(m)")
    session.on_message(inbox.put)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            mine = program("s.send('child'); s.receive()")
            theirs = queue.SimpleQueue()
            mine.on_message(theirs.put)
            status = 0 if theirs.get() == "child" else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    session.send("parent")
    assert inbox.get() == "parent"


def test_a_callback_that_exits_ends_only_itself(program, inbox):
    one, other = (program("for m in s: s.send(m)") for _ in range(2))
    one.on_message(lambda _: sys.exit(3))
    other.on_message(inbox.put)
    errors = queue.SimpleQueue()
    one.on_error(errors.put)
    one.send(1)
    assert isinstance(errors.get(), SystemExit)
    other.send(2)
    assert inbox.get() == 2


def test_taking_the_message_callback_away_ends_no_session(program, inbox):
    one, other = (program("for m in s: s.send(m)") for _ in range(2))
    other.on_close(inbox.put)
    one.on_message(lambda _: other.on_message(None))
    for _ in range(200):
        other.on_message(lambda _: None)
        one.send(1)
        other.send(2)
    assert other.ping(timeout=None) > 0
    assert inbox.empty()


def test_a_callback_that_waits_for_ever_does_not_keep_the_program_from_ending():
    source = """
        import alongside, sys, threading
        echo = "import alongside; s = alongside.session(); [s.send(m) for m in s]"
        s = alongside.start([sys.executable, "-c", echo], die_with_parent=True)
        entered = threading.Event()
        s.on_message(lambda _: (entered.set(), threading.Event().wait()))
        s.send(1)
        entered.wait()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(source)], check=True)


def test_a_callback_that_cannot_be_set_leaves_nothing_set(echo, inbox):
    echo.close()
    with pytest.raises(alongside.Closed):
        echo.on_message(inbox.put)
    with pytest.raises(alongside.Closed):
        echo.receive()


def test_callbacks_that_are_taken_away_keep_no_session():
    session = alongside.start(
        [sys.executable, "-c", HEAD + "s.receive()"], stderr=alongside.DEVNULL
    )
    for register in (session.on_error, session.on_close, session.on_message):
        register(print)
        register(None)
    gone = weakref.ref(session)
    session.kill()
    session.wait()
    session.close()
    del session, register
    wait_until(lambda: gc.collect() is not None and gone() is None)


def test_closing_while_another_thread_sets_the_first_callback(program):
    source = """
        def set_one():
            s.on_error(print)
        thread = threading.Thread(target=set_one)
        thread.start()
        end = time.perf_counter() + float(sys.argv[1])
        while time.perf_counter() < end:
            pass
        s.close(timeout=0)
        thread.join()
        """
    for step in range(20):
        session = program(source, step * 0.0006)
        with pytest.raises(alongside.Closed):
            session.receive()
        assert session.wait() == 0


def test_a_callback_that_cannot_even_be_shown_ends_nobody_elses(program, inbox):
    class Broken:
        def __repr__(self):
            raise ValueError

        def __call__(self, message):
            raise KeyError(message)

    first, second = (program("for m in s: s.send(m)") for _ in range(2))
    first.on_message(Broken())
    second.on_message(inbox.put)
    first.send(1)
    first.send(2)
    second.send("hi")
    assert inbox.get() == "hi"


def test_a_session_that_nothing_is_called_for_can_be_dropped():
    session = alongside.start(command(ECHO))
    session.on_error(print)
    session.on_message(print)
    session.on_message(None)
    dropped = weakref.ref(session)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del session
        gc.collect()
    assert dropped() is None


def test_what_comes_after_a_callback_was_taken_away_is_not_for_it(echo):
    """Nor for one that was set before another: a turn may be amid looking for more."""
    for number in range(10_000):
        got = queue.SimpleQueue()
        echo.on_message(got.put)
        echo.send(number)
        assert got.get() == number
        echo.on_message(None)
        echo.send(-number)
        assert echo.receive() == -number
        assert got.empty()
