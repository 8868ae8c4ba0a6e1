"""Callbacks on asyncio's and uvloop's loops: order, floods, ends, changes, closed loops."""

import asyncio
import gc
import logging
import os
import threading
import weakref

import alongside
import pytest
from alongside import loops

from tests.conftest import ECHO, command, is_asleep, left_behind, wait_until


def test_callbacks_run_on_the_loop_in_order(run, echo):
    async def main():
        got, threads = [], set()
        before = threading.active_count()

        def arrived(message):
            got.append(message)
            threads.add(threading.get_ident())
            asyncio.get_running_loop()

        echo.on_message(arrived, on=loops.Asyncio())
        for i in range(1000):
            await echo.asend(i)
        while len(got) < 1000:
            await asyncio.sleep(0)
        assert got == list(range(1000))
        assert threads == {threading.get_ident()}
        assert threading.active_count() == before

    run(main())


def test_async_callbacks_are_awaited_one_after_the_other(run, echo):
    async def main():
        log = []

        async def arrived(message):
            log.append(("begin", message))
            for _ in range(message % 3):
                await asyncio.sleep(0)
            log.append(("end", message))

        echo.on_message(arrived, on=loops.Asyncio())
        for i in range(300):
            await echo.asend(i)
        while len(log) < 600:
            await asyncio.sleep(0)
        assert log == [(what, i) for i in range(300) for what in ("begin", "end")]

    run(main())


def test_sessions_do_not_wait_for_each_others_async_callbacks(run, program):
    async def main():
        first, second = program(ECHO), program(ECHO)
        held, done = asyncio.Event(), asyncio.Event()

        async def wait(_message):
            await held.wait()

        first.on_message(wait, on=loops.Asyncio())
        second.on_message(lambda _message: done.set(), on=loops.Asyncio())
        await first.asend(1)
        await asyncio.sleep(0)
        await second.asend(1)
        await done.wait()
        held.set()

    run(main())


def test_a_flood_does_not_starve_the_loop(run, program):
    session = program("while True: s.send(b'x')")

    async def main():
        counts = []
        count = 0

        def arrived(_message):
            nonlocal count
            count += 1

        session.on_message(arrived, on=loops.Asyncio())
        while count < 10_000:
            before = count
            await asyncio.sleep(0)
            counts.append(count - before)
        assert max(counts) <= 64
        session.on_message(None)

    run(main())


def test_a_loop_that_is_busy_holds_the_sender_up(program):
    source = "n = 0\nwhile True:\n    s.send(b'x' * 1000)\n    n += 1"
    session = program(source)

    async def main():
        got = []
        session.on_message(got.append, on=loops.Asyncio())
        while not got:
            await asyncio.sleep(0)
        # Nothing is taken while the loop stands still, so the sender has to wait.
        wait_until(lambda: is_asleep(session.peer.pid))
        assert len(got) < 1000
        session.on_message(None)

    asyncio.run(main())


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "s.close()"])
def test_the_end_comes_through_the_same_door_after_the_messages(run, program, end, is_async):
    session = program("for i in range(500): s.send(i)\n" + end)

    async def main():
        log = []

        async def later(what):
            await asyncio.sleep(0)
            log.append(what)

        callback = later if is_async else log.append
        session.on_close(callback, on=loops.Asyncio())
        session.on_message(callback)
        while len(log) < 501:
            await asyncio.sleep(0)
        assert log[:500] == list(range(500))
        kind = alongside.Closed if "close" in end else alongside.PeerGone
        assert type(log[500]) is kind

    run(main())


def test_the_end_alone_leaves_the_messages_receivable(run, program):
    session = program("s.send(1)\ns.send(2)\ns.receive()")

    async def main():
        ended = asyncio.Event()
        session.on_close(lambda _reason: ended.set(), on=loops.Asyncio())
        assert await session.areceive() == 1
        assert await session.areceive() == 2
        session.send("go")
        await ended.wait()

    run(main())


def test_what_an_async_callback_raises_is_reported_and_the_next_message_follows(run, echo, caplog):
    async def main():
        failed, got = [], []

        async def arrived(message):
            await asyncio.sleep(0)
            if message == 0:
                raise KeyError("zero")
            got.append(message)

        async def error(reason):
            await asyncio.sleep(0)
            failed.append(reason)

        echo.on_error(error, on=loops.Asyncio())
        echo.on_message(arrived)
        for i in range(3):
            await echo.asend(i)
        while len(got) < 2:
            await asyncio.sleep(0)
        assert got == [1, 2]
        assert [type(reason) for reason in failed] == [KeyError]

    run(main())
    assert "raised" in caplog.text


def test_a_callback_may_take_itself_away(run, echo):
    async def main():
        got = []

        async def arrived(message):
            got.append(message)
            echo.on_message(None)
            await asyncio.sleep(0)

        echo.on_message(arrived, on=loops.Asyncio())
        await echo.asend(1)
        await echo.asend(2)
        while not got:
            await asyncio.sleep(0)
        assert await echo.areceive() == 2
        assert got == [1]

    run(main())


def test_a_loop_that_is_closed_leaves_the_messages_receivable(run, echo, caplog):
    async def main():
        echo.on_message(print, on=loops.Asyncio())

    run(main())
    echo.send(1)
    with caplog.at_level(logging.ERROR):
        assert echo.receive() == 1
    assert "loops.Asyncio" in caplog.text
    assert "is closed" in caplog.text
    echo.send(2)
    assert echo.receive() == 2


def test_a_closed_loop_is_refused_by_name(echo):
    async def main():
        return loops.Asyncio()

    closed = asyncio.run(main())
    with pytest.raises(RuntimeError, match=r"loops.Asyncio\(.*is closed"):
        echo.on_message(print, on=closed)
    echo.send(1)
    assert echo.receive() == 1


def test_one_session_has_one_place(run, echo):
    async def main():
        echo.on_message(print, on=loops.Asyncio())
        with pytest.raises(ValueError, match="one place"):
            echo.on_close(print, on=loops.Thread())
        echo.on_close(print, on=loops.Asyncio())
        echo.on_message(None)
        echo.on_close(None)
        echo.on_message(print, on=loops.Thread())
        echo.on_message(None)

    run(main())


def test_wrong_places_are_named(echo):
    with pytest.raises(TypeError, match="is no loop"):
        echo.on_message(print, on=asyncio)
    with pytest.raises(RuntimeError):
        loops.Asyncio()
    with pytest.raises(RuntimeError, match="asyncio or trio"):
        echo.areceive().send(None)


def test_another_threads_loop_can_be_named(echo):
    """From here, for a loop that runs there."""
    ready, done = threading.Event(), threading.Event()
    got, place = [], []

    async def main():
        place.append((asyncio.get_running_loop(), threading.get_ident()))
        ready.set()
        while not done.is_set():
            await asyncio.sleep(0.001)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    ready.wait()
    loop, ident = place[0]
    echo.on_message(lambda m: got.append((m, threading.get_ident())), on=loops.Asyncio(loop))
    echo.send(1)
    wait_until(lambda: got)
    assert got == [(1, ident)]
    echo.on_message(None)
    done.set()
    thread.join()


@pytest.mark.usefixtures("leaves_nothing")
def test_loops_leave_nothing_behind(run):
    async def main():
        for _ in range(3):
            async with await alongside.astart(command(ECHO)) as session:
                session.on_close(print, on=loops.Asyncio())
                await session.asend(1)
                await session.areceive()
                task = asyncio.create_task(session.areceive())
                await asyncio.sleep(0)
                task.cancel()
            await session.await_exit()

    # What executors and loops keep is theirs.
    run(main())
    gc.collect()


def test_a_session_that_was_awaited_can_be_dropped(echo):
    async def main():
        session = alongside.start(command(ECHO))
        await session.asend(1)
        await session.areceive()
        fds = len(os.listdir("/proc/self/fd"))
        session.close()
        del session
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= fds - 7

    asyncio.run(main())
    assert left_behind()


# ---- changes amid callbacks ----------------------------------------------------------------------


def test_a_callback_may_hand_over_to_an_async_one(run, echo):
    async def main():
        log = []

        async def later(message):
            await asyncio.sleep(0)
            log.append(("later", message))

        def first(message):
            log.append(("first", message))
            echo.on_message(later)

        for i in range(6):
            echo.send(i)
        echo.on_message(first, on=loops.Asyncio())
        while len(log) < 6:
            await asyncio.sleep(0)
        assert log == [("first", 0), *(("later", i) for i in range(1, 6))]

    run(main())


def test_what_a_plain_callback_returns_is_awaited_in_order(run, echo):
    async def main():
        log = []

        async def handle(message):
            await asyncio.sleep(0)
            log.append(message)

        echo.on_message(lambda message: handle(message), on=loops.Asyncio())
        for i in range(10):
            await echo.asend(i)
        while len(log) < 10:
            await asyncio.sleep(0)
        assert log == list(range(10))

    run(main())


def test_a_busy_async_callback_may_be_replaced_and_the_end_still_comes(run, program):
    session = program("for i in range(3): s.send(i)\ns.receive()\nos.kill(os.getpid(), 9)")

    async def main():
        log, at_once, most = [], 0, 0

        async def other(message):
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            log.append(message)
            at_once -= 1

        async def first(message):
            nonlocal at_once, most
            at_once += 1
            session.on_message(None)
            session.on_message(other)
            for _ in range(10):
                await asyncio.sleep(0)
            most = max(most, at_once)
            log.append(message)
            at_once -= 1

        session.on_close(log.append, on=loops.Asyncio())
        session.on_message(first)
        while len(log) < 3:
            await asyncio.sleep(0)
        session.send("end")
        while len(log) < 4:
            await asyncio.sleep(0)
        assert log[:3] == [0, 1, 2]
        assert isinstance(log[3], alongside.PeerGone)
        assert most == 1

    run(main())


def test_what_is_cancelled_in_a_callback_ends_no_callbacks(run, echo):
    async def main():
        got = []

        async def arrived(message):
            got.append(message)
            if message == 0:
                raise asyncio.CancelledError

        echo.on_message(arrived, on=loops.Asyncio())
        for i in range(3):
            await echo.asend(i)
        while len(got) < 3:
            await asyncio.sleep(0)
        assert got == [0, 1, 2]

    run(main())


def test_a_loop_that_ends_takes_no_more_messages(run, echo):
    begun, ended = [], []

    async def arrived(message):
        begun.append(message)
        await asyncio.sleep(0)
        if message == 2:
            await asyncio.get_running_loop().create_future()
        ended.append(message)

    async def main():
        for i in range(6):
            echo.send(i)
        echo.on_message(arrived, on=loops.Asyncio())
        while len(begun) < 3:
            await asyncio.sleep(0)

    run(main())
    assert (begun, ended) == ([0, 1, 2], [0, 1])
    assert [echo.receive() for _ in range(3)] == [3, 4, 5]


def test_a_second_loop_may_follow_a_closed_one(run, echo):
    async def main():
        got = []
        echo.on_close(print, on=loops.Asyncio())
        echo.on_message(got.append, on=loops.Asyncio())
        await echo.asend(1)
        while not got:
            await asyncio.sleep(0)

    run(main())
    run(main())


def test_a_session_on_a_closed_loop_can_be_dropped(run):
    async def main():
        session = alongside.start(command(ECHO))
        session.on_message(print, on=loops.Asyncio())
        session.on_close(print)
        return weakref.ref(session)

    with pytest.warns(ResourceWarning, match="unclosed"):
        dropped = run(main())
        gc.collect()
    assert dropped() is None


def test_loops_that_come_and_go_leave_no_descriptors(run, echo):
    async def main():
        await echo.asend(1)
        task = asyncio.create_task(echo.areceive())
        await task

    run(main())
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run(main())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_callback_that_is_cancelled_before_it_begins_leaves_the_messages_receivable(
    run, program, caplog
):
    session = program("s.send(1)\ns.receive()")

    async def main():
        got = []

        async def arrived(message):
            got.append(message)

        session.on_message(arrived, on=loops.Asyncio())
        me = asyncio.current_task()
        while not (others := asyncio.all_tasks() - {me}):
            await asyncio.sleep(0)
        others.pop().cancel()
        while not caplog.records:
            await asyncio.sleep(0)
        assert await session.areceive(timeout=30) == 1
        session.on_message(got.append, on=loops.Asyncio())
        session.on_message(None)
        assert got == []

    run(main())
    assert "can be received" in caplog.text


@pytest.mark.parametrize("is_async", [True, False])
def test_a_callback_that_exits_ends_the_loop(run, program, is_async):
    session = program("s.send(1)\ns.receive()")

    def exits(_):
        raise SystemExit(7)

    async def aexits(_):
        await asyncio.sleep(0)
        raise SystemExit(7)

    async def main():
        session.on_message(aexits if is_async else exits, on=loops.Asyncio())
        await asyncio.Event().wait()

    with pytest.raises(SystemExit, match="7"):
        run(main())


def test_an_async_error_callback_is_told_of_what_is_no_data(run, program):
    session = program(
        """
        import datetime
        # What the encoder takes for a date, and no decoder does.
        datetime.datetime = type("Never", (), {"isoformat": lambda self: "never"})
        s.send(datetime.datetime())
        s.send(2)
        s.receive()
        """
    )

    async def main():
        told, got = [], []

        async def failed(error):
            await asyncio.sleep(0)
            told.append(error)

        session.on_error(failed, on=loops.Asyncio())
        session.on_message(got.append)
        while not got:
            await asyncio.sleep(0)
        assert (got, [type(error) for error in told]) == ([2], [alongside.Invalid])

    run(main())


def test_callbacks_move_here_amid_one_in_the_librarys_thread(run, program):
    session = program("for i in range(3): s.send(i)\ns.receive()")
    begun, go_on = threading.Event(), threading.Event()
    got = []

    def slow(message):
        got.append((message, threading.current_thread().name))
        begun.set()
        go_on.wait()

    async def main():
        session.on_message(slow)
        begun.wait()
        session.on_message(lambda m: got.append((m, "here")), on=loops.Asyncio())
        go_on.set()
        while len(got) < 3:
            await asyncio.sleep(0)

    run(main())
    assert got == [(0, "alongside"), (1, "here"), (2, "here")]
