"""asyncio and uvloop: awaiting, cancellation, ends, several who wait."""

import asyncio
import gc
import os
import select
import sys
import threading

import alongside
import numpy as np
import pytest
import uvloop
from alongside import _tasks

from tests.conftest import ECHO, children, command, wait_until


def loops_waited_in(session):
    """How many loops have had a task waiting for a session."""
    return sum(session in tasks.queues for tasks in list(_tasks._all_tasks))


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


def test_a_start_that_is_cancelled_ends_at_once(run):
    """The program never takes its session up, and nothing but the cancelling ends the wait."""
    before = children()

    async def main():
        waiting = "import os; os.read(0, 1)"
        argv = [sys.executable, "-c", waiting]
        start = alongside.astart(argv, stdin=alongside.PIPE, timeout=None)
        task = asyncio.create_task(start)
        while children() == before:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert children() == before

    run(main())


@pytest.mark.parametrize("kind", ["alend", "alend_bytes"])
def test_lending_waits_for_memory_while_other_tasks_go_on(run, program, kind):
    session = program("kept = [s.receive()]\ns.receive()\nkept.clear()\ns.receive()")
    session.lend_limit = 1 << 20

    async def main():
        await session.asend(np.zeros(1 << 20, "u1"))
        alend = getattr(session, kind)
        with pytest.raises(alongside.TimedOut, match="nothing that is lent was let go"):
            await alend(1 << 20, timeout=0.01)
        task = asyncio.create_task(alend(1 << 20))
        while not loops_waited_in(session):
            await asyncio.sleep(0)
        await session.asend("let go")
        with await task as space:
            assert len(space) == 1 << 20

    run(main())


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


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_task_that_exits_takes_no_turn_from_others(program, new_loop):
    """Both are woken in one round of the loop, and the first to go on ends that round."""
    source = "s.receive()\ns.send('here')\ns.receive()"
    sessions = [program(source) for _ in range(3)]
    got = []

    async def wait(session):
        await session.areceive()
        got.append(session)
        if len(got) == 1:
            raise SystemExit(7)

    async def rest():
        while left := [task for task in tasks if not task.done()]:
            await asyncio.wait(left)

    loop = new_loop()
    tasks = [loop.create_task(wait(session)) for session in sessions]
    loop.run_until_complete(asyncio.sleep(0))
    for session in sessions:
        session.send("go")
        select.select([session.fileno()], [], [])
    with pytest.raises(SystemExit, match="7"):
        loop.run_until_complete(rest())
    loop.run_until_complete(rest())
    assert set(got) == set(sessions)
    assert [task.exception().code for task in tasks if task.exception()] == [7]
    loop.close()


def test_waits_that_time_out_in_loops_that_come_and_go_leave_no_descriptors(run, program):
    session = program("os.read(0, 1)", stdin=alongside.PIPE)
    with pytest.raises(alongside.WouldBlock):
        while True:
            session.send_nowait(b"x" * 30_000)

    async def send(**timeout):
        await session.asend(b"x" * 30_000, **timeout)

    async def main():
        for wait in (session.await_exit, session.areceive, send):
            with pytest.raises(alongside.TimedOut):
                await wait(timeout=0.001)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(wait(), 0.001)

    with session.stdin:
        run(main())
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            run(main())
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before
