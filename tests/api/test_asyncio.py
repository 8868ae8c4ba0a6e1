"""asyncio and uvloop: awaiting, callbacks on the loop, cancellation, ends."""

import asyncio
import gc
import logging
import os
import sys
import threading

import alongside
import numpy as np
import pytest
import uvloop
from alongside import _tasks, loops

from tests.conftest import HEAD, is_asleep, left_behind, wait_until

ECHO = "for message in s: s.send(message)"


def run_plain(main):
    return asyncio.run(main)


def run_uvloop(main):
    return uvloop.run(main)


@pytest.fixture(params=[run_plain, run_uvloop], ids=["asyncio", "uvloop"])
def run(request):
    return request.param


def loops_waited_in(session):
    """How many loops have had a task waiting for a session."""
    return sum(session in tasks.queues for tasks in list(_tasks._all_tasks))


def command(source):
    return [sys.executable, "-c", HEAD + source]


def test_both_sides_may_be_asynchronous(run, program):
    source = """
import asyncio
async def main():
    async for message in s:
        await s.asend(message)
asyncio.run(main())
"""

    async def main():
        session = program(source)
        for data in (1, b"x" * 1_000_000, {"a": [None]}):
            await session.asend(data)
            assert await session.areceive() == data
        await session.aclose()
        assert await session.await_exit() == 0

    run(main())


def test_a_program_is_started_awaited_and_left_in_order(run):
    async def main():
        async with await alongside.astart(command(ECHO), hello=[1]) as session:
            await session.asend("x")
            assert await session.areceive(timeout=10) == "x"
        with pytest.raises(alongside.Closed):
            await session.areceive()
        assert await session.await_exit(timeout=10) == 0

    run(main())


def test_a_start_that_fails_says_so(run):
    async def main():
        with pytest.raises(FileNotFoundError):
            await alongside.astart(["no such program"])
        with pytest.raises(alongside.StartFailed):
            await alongside.astart([sys.executable, "-c", "raise SystemExit(3)"])

    run(main())


@pytest.mark.usefixtures("leaves_nothing")
def test_a_start_that_is_cancelled_leaves_no_program(run):
    async def main(turns):
        task = asyncio.create_task(alongside.astart(command(ECHO)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for turns in (1, 2, 1000):
        run(main(turns))


def test_other_tasks_go_on_while_one_waits(run, echo):
    async def main():
        waiting = asyncio.create_task(echo.areceive())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done()
        await echo.asend("now")
        assert await waiting == "now"

    run(main())


def test_a_deadline_ends_a_wait_and_nothing_is_lost(run, echo):
    async def main():
        for timeout in (0, 0.01):
            with pytest.raises(alongside.TimedOut):
                await echo.areceive(timeout=timeout)
        with pytest.raises(ValueError, match="timeout"):
            await echo.areceive(timeout=-1)
        await echo.asend(1)
        assert await echo.areceive(timeout=30) == 1

    run(main())


def test_a_cancelled_wait_never_loses_a_message(run, program):
    """Cancelled at every moment there is, under a stream of messages."""
    source = "for i in range(3000): s.send(i)\ns.receive()"

    async def main():
        session = program(source)
        got = []
        turn = 0
        while len(got) < 3000:
            task = asyncio.ensure_future(session.areceive())
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            turn += 1
            task.cancel()
            try:
                got.append(await task)
            except asyncio.CancelledError:
                pass
            if turn % 50 == 0:
                try:
                    got.append(await asyncio.wait_for(session.areceive(), 0.0005))
                except TimeoutError:
                    pass
        assert got == list(range(3000))

    run(main())


def test_many_tasks_share_the_messages(run, program):
    session = program("s.receive()\nfor i in range(1000): s.send(i)\ns.receive()")

    async def main():
        got = []

        async def work():
            while len(got) < 1000:
                got.append(await session.areceive())

        tasks = [asyncio.create_task(work()) for _ in range(10)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await session.asend("go")
        while len(got) < 1000:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(got) == list(range(1000))

    run(main())


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "s.close()"])
def test_everybody_who_waits_hears_of_the_end(run, program, end):
    session = program("s.send('last')\ns.receive()\n" + end)

    async def main():
        assert await session.areceive() == "last"
        waiting = [asyncio.create_task(session.areceive()) for _ in range(3)]
        await asyncio.sleep(0)
        await session.asend("end")
        found = await asyncio.gather(*waiting, return_exceptions=True)
        kind = alongside.Closed if "close" in end else alongside.PeerGone
        assert [type(error) for error in found] == [kind] * 3

    run(main())


def test_closing_here_wakes_those_who_wait_here(run, echo):
    async def main():
        waiting = asyncio.create_task(echo.areceive())
        await asyncio.sleep(0)
        echo.close()
        with pytest.raises(alongside.Closed) as caught:
            await waiting
        assert caught.value.by == "me"

    run(main())


def test_closing_in_another_thread_wakes_those_who_wait_here(run, echo):
    async def main():
        waiting = asyncio.create_task(echo.areceive())
        await asyncio.sleep(0)
        threading.Thread(target=echo.close).start()
        with pytest.raises(alongside.Closed):
            await waiting

    run(main())


def test_a_sender_waits_for_space_and_others_go_on(run, program):
    session = program("s.receive()\nos.read(0, 1)\nfor m in s: pass", stdin=alongside.PIPE)

    async def main():
        async def fill():
            for _ in range(2000):
                await session.asend(b"x" * 1000)

        task = asyncio.create_task(fill())
        await session.asend("begin")
        while session.statistics().messages_sent < 200:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done()
        with pytest.raises(alongside.TimedOut):
            await session.asend(b"x" * 60_000, timeout=0.01)
        session.stdin.close()
        await task
        await session.aclose()
        assert await session.await_exit() == 0

    run(main())


def test_a_cancelled_send_has_sent_nothing(run, program):
    session = program(
        "os.read(0, 1)\ns.send(sum(1 for m in s if m == 'late'))", stdin=alongside.PIPE
    )

    async def main():
        for size in (1000, 1):
            with pytest.raises(alongside.WouldBlock):
                while True:
                    session.send_nowait(b"x" * size)
        task = asyncio.create_task(session.asend("late"))
        while not loops_waited_in(session):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        sent = session.statistics().messages_sent
        session.stdin.close()
        await session.asend("last")
        assert session.statistics().messages_sent == sent + 1

    run(main())


def test_two_sides_that_only_send_do_not_lock_up(run, program):
    """A sender that waits takes arrivals in, like `send` does."""
    source = """
import asyncio
async def main():
    for i in range(3000):
        await s.asend(b"x" * 1000)
    for i in range(3000):
        await s.areceive()
    await s.aclose()
asyncio.run(main())
"""

    async def main():
        session = program(source)
        for _ in range(3000):
            await session.asend(b"y" * 1000)
        for _ in range(3000):
            assert await session.areceive() == b"x" * 1000
        with pytest.raises(alongside.Closed):
            await session.areceive()

    run(main())


def test_a_sender_waits_for_lent_memory(run, program):
    session = program("kept = [s.receive()]\ns.receive()\nkept.clear()\nfor m in s: del m")
    session.lend_limit = 1 << 20

    async def main():
        await session.asend(np.zeros(1 << 20, "u1"))
        with pytest.raises(alongside.TimedOut):
            await session.asend(np.zeros(5), timeout=0.01)
        task = asyncio.create_task(session.asend(np.zeros(1 << 20, "u1")))
        await asyncio.sleep(0)
        await session.asend("let go")
        await task

    run(main())


def test_a_thread_that_sends_does_not_starve_a_task_that_sends(run, program):
    session = program("while True: s.receive()")

    async def main():
        stop = threading.Event()

        def flood():
            while not stop.is_set():
                session.send(b"x" * 10_000)

        thread = threading.Thread(target=flood)
        thread.start()
        for _ in range(300):
            await session.asend(b"y" * 10_000)
        stop.set()
        await asyncio.get_running_loop().run_in_executor(None, thread.join)

    run(main())


def test_the_end_of_a_program_is_awaited(run, program):
    async def main():
        session = program("s.receive()\nraise SystemExit(7)")
        with pytest.raises(alongside.TimedOut):
            await session.await_exit(timeout=0.01)
        waiting = asyncio.create_task(session.await_exit())
        await session.asend("end")
        assert await waiting == 7
        assert await session.await_exit() == 7
        session.close()
        assert await session.await_exit() == 7

    run(main())


def test_waiting_for_the_end_takes_arrivals_in(run, program):
    async def main():
        session = program("for i in range(5000): s.send(b'x' * 1000)")
        assert await session.await_exit() == 0
        got = 0
        with pytest.raises(alongside.Closed):
            while True:
                await session.areceive()
                got += 1
        assert got == 5000

    run(main())


def test_a_program_can_wait_for_its_starter(run, program):
    source = """
import asyncio
async def main():
    s.send("up")
    assert await s.await_exit() is None
    raise SystemExit(4)
asyncio.run(main())
"""
    session = program(source)
    assert session.receive() == "up"
    session.close()
    assert session.wait() == 4


# ---- callbacks -----------------------------------------------------------------------------------


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


# ---- several who wait ----------------------------------------------------------------------------


def test_a_thread_and_a_task_share_large_and_small_messages(program):
    """The task is turned away while a large message grows in the thread's buffer."""
    session = program(
        """
        for i in range(300):
            s.send(bytes(600_000))
            s.send(b"small")
            s.receive()
        """
    )
    got = []

    def thread():
        space = bytearray(600_000)
        while len(got) < 300:
            try:
                session.receive_into(space, timeout=0.01)
            except (alongside.TimedOut, alongside.SessionEnded):
                continue
            got.append(1)
            session.send(b"next") if len(got) % 2 == 0 else None

    async def main():
        while True:
            try:
                await session.areceive()
            except alongside.SessionEnded:
                return
            got.append(1)
            if len(got) % 2 == 0:
                await session.asend(b"next")

    worker = threading.Thread(target=thread)
    worker.start()
    asyncio.run(main())
    worker.join()


def test_those_who_wait_in_several_loops_are_all_woken(program):
    session = program("os.read(0, 1)\nfor m in s: pass", stdin=alongside.PIPE)
    with pytest.raises(alongside.WouldBlock):
        while True:
            session.send_nowait(b"x" * 30_000)

    async def watch():
        await session.await_exit()

    async def send():
        await session.asend(b"x" * 30_000)

    watchers = [threading.Thread(target=lambda: asyncio.run(watch())) for _ in range(3)]
    senders = [threading.Thread(target=lambda: asyncio.run(send())) for _ in range(2)]
    for thread in (*watchers, *senders):
        thread.start()
    wait_until(lambda: loops_waited_in(session) == 5)
    session.stdin.close()
    for thread in senders:
        thread.join()
    session.close()
    for thread in watchers:
        thread.join()


def test_a_sender_is_woken_by_memory_that_is_let_go_here(run, program):
    session = program("kept = list(s)")
    session.lend_limit = 1 << 20

    async def main():
        held = session.lend(1 << 20)
        task = asyncio.create_task(session.asend(np.zeros(1 << 20, "u1")))
        while not loops_waited_in(session):
            await asyncio.sleep(0)
        assert not task.done()
        del held
        await task

    run(main())


def test_two_sides_of_which_neither_receives_are_told_that_they_are_busy(program):
    source = """
import asyncio
async def main():
    try:
        while True:
            await s.asend(bytes(60_000))
    except alongside.Busy:
        print("busy", flush=True)
        os.read(0, 1)
asyncio.run(main())
"""
    session = program(source, stdout=alongside.PIPE, stdin=alongside.PIPE)

    async def main():
        with pytest.raises(alongside.Busy, match="wait for the other to receive"):
            while True:
                await session.asend(bytes(60_000))

    asyncio.run(main())
    assert session.stdout.readline() == b"busy\n"
    session.stdin.close()
    session.stdout.close()
