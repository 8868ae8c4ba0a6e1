"""trio: awaiting, callbacks in a nursery, cancellation, ends."""

import logging
import sys
import threading

import alongside
import pytest
import trio
from alongside import loops

from tests.conftest import ECHO, children, command


def test_both_sides_may_be_in_trio(program):
    source = """
import trio
async def main():
    async for message in s:
        await s.asend(message)
trio.run(main)
"""

    async def main():
        session = program(source)
        for data in (1, b"x" * 1_000_000, {"a": [None]}):
            await session.asend(data)
            assert await session.areceive() == data
        await session.aclose()
        assert await session.await_exit() == 0

    trio.run(main)


@pytest.mark.usefixtures("leaves_nothing")
def test_a_program_is_started_awaited_and_left_in_order():
    async def main():
        async with await alongside.astart(command(ECHO), hello=[1]) as session:
            await session.asend("x")
            assert await session.areceive(timeout=10) == "x"
        with pytest.raises(alongside.Closed):
            await session.areceive()
        assert await session.await_exit(timeout=10) == 0

    trio.run(main)


def test_a_start_that_is_cancelled_ends_at_once_and_leaves_no_program():
    """The program never takes its session up, so only the cancelling ends the wait."""

    async def main():
        before = children()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                argv = [sys.executable, "-c", "import os; os.read(0, 1)"]
                options = {"stdin": alongside.PIPE, "timeout": 3}
                nursery.start_soon(lambda: alongside.astart(argv, **options))
                while children() == before:
                    await trio.sleep(0)
                scope.cancel()
        assert scope.cancelled_caught
        while children() != before:
            await trio.sleep(0.001)

    trio.run(main)


def test_deadlines_and_cancel_scopes_end_a_wait_and_nothing_is_lost(echo):
    async def main():
        for timeout in (0, 0.01):
            with pytest.raises(alongside.TimedOut):
                await echo.areceive(timeout=timeout)
        with trio.move_on_after(0.01) as scope:
            await echo.areceive()
        assert scope.cancelled_caught
        await echo.asend(1)
        assert await echo.areceive(timeout=30) == 1

    trio.run(main)


def test_every_await_is_a_checkpoint(echo):
    async def main():
        await echo.asend(1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await echo.areceive()
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await echo.asend(2)
        assert scope.cancelled_caught
        assert await echo.areceive() == 1
        await echo.asend(3)
        assert await echo.areceive() == 3

    trio.run(main)


def test_a_cancelled_wait_never_loses_a_message(program):
    session = program("for i in range(2000): s.send(i)\ns.receive()")

    async def main():
        got = []
        turn = 0
        while len(got) < 2000:
            turn += 1
            with trio.move_on_after(0.00002 * (turn % 5)):
                got.append(await session.areceive())
        assert got == list(range(2000))

    trio.run(main)


def test_many_tasks_share_the_messages(program):
    session = program("s.receive()\nfor i in range(1000): s.send(i)\ns.receive()")

    async def main():
        got = []

        async def work(scope):
            with scope:
                while True:
                    got.append(await session.areceive())

        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()
            nursery.start_soon(work, first)
            for _ in range(9):
                nursery.start_soon(work, trio.CancelScope())
            await trio.sleep(0)
            first.cancel()
            await session.asend("go")
            while len(got) < 1000:
                await trio.sleep(0)
            nursery.cancel_scope.cancel()
        assert sorted(got) == list(range(1000))

    trio.run(main)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "s.close()"])
def test_everybody_who_waits_hears_of_the_end(program, end):
    session = program("s.send('last')\ns.receive()\n" + end)
    kind = alongside.Closed if "close" in end else alongside.PeerGone

    async def main():
        assert await session.areceive() == "last"
        ended = []

        async def wait():
            with pytest.raises(kind):
                await session.areceive()
            ended.append(1)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            await trio.sleep(0)
            await session.asend("end")
        assert len(ended) == 3

    trio.run(main)


@pytest.mark.parametrize("is_other_thread", [False, True])
def test_closing_here_wakes_those_who_wait_here(echo, is_other_thread):
    async def main():
        async def wait():
            with pytest.raises(alongside.Closed):
                await echo.areceive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0)
            if is_other_thread:
                threading.Thread(target=echo.close).start()
            else:
                echo.close()

    trio.run(main)


def test_a_sender_waits_for_space(program):
    session = program("os.read(0, 1)\nfor m in s: pass", stdin=alongside.PIPE)

    async def main():
        async def fill():
            for _ in range(2000):
                await session.asend(b"x" * 1000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill)
            while session.statistics().messages_sent < 200:
                await trio.sleep(0)
            with pytest.raises(alongside.TimedOut):
                await session.asend(b"x" * 60_000, timeout=0.01)
            session.stdin.close()
        await session.aclose()
        assert await session.await_exit() == 0

    trio.run(main)


def test_callbacks_run_in_the_nursery_in_order(echo):
    async def main():
        log = []

        async def arrived(message):
            log.append(("begin", message))
            for _ in range(message % 3):
                await trio.sleep(0)
            log.append(("end", message))
            if message == 299:
                echo.on_message(None)

        async with trio.open_nursery() as nursery:
            echo.on_message(arrived, on=loops.Trio(nursery))
            for i in range(300):
                await echo.asend(i)
        # The nursery ends once nobody has callbacks there any more.
        assert log == [(what, i) for i in range(300) for what in ("begin", "end")]

    trio.run(main)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "s.close()"])
def test_the_end_comes_through_the_same_door_after_the_messages(program, end):
    session = program("for i in range(500): s.send(i)\n" + end)
    log = []

    async def main():
        async with trio.open_nursery() as nursery:
            session.on_close(log.append, on=loops.Trio(nursery))
            session.on_message(log.append)

    trio.run(main)
    assert log[:500] == list(range(500))
    assert type(log[500]) is (alongside.Closed if "close" in end else alongside.PeerGone)


def test_a_flood_does_not_starve_the_loop(program):
    session = program("while True: s.send(b'x')")

    async def main():
        count, most = 0, 0

        def arrived(_message):
            nonlocal count
            count += 1

        async with trio.open_nursery() as nursery:
            session.on_message(arrived, on=loops.Trio(nursery))
            while count < 10_000:
                before = count
                await trio.sleep(0)
                most = max(most, count - before)
            session.on_message(None)
        # trio shuffles its tasks: two turns may come between two of this one's.
        assert most <= 2 * 64

    trio.run(main)


def test_a_nursery_that_is_cancelled_leaves_the_messages_receivable(echo, caplog):
    async def main():
        async with trio.open_nursery() as nursery:
            echo.on_message(print, on=loops.Trio(nursery))
            await trio.sleep(0)
            nursery.cancel_scope.cancel()

    with caplog.at_level(logging.ERROR):
        trio.run(main)
    assert "loops.Trio" in caplog.text
    assert "is closed" in caplog.text
    echo.send(1)
    assert echo.receive() == 1


def test_what_a_callback_raises_is_reported_and_the_next_message_follows(echo, caplog):
    async def main():
        failed, got = [], []

        async def arrived(message):
            await trio.sleep(0)
            if message == 0:
                raise KeyError("zero")
            got.append(message)
            if message == 2:
                echo.on_message(None)
                echo.on_error(None)

        async with trio.open_nursery() as nursery:
            echo.on_error(failed.append, on=loops.Trio(nursery))
            echo.on_message(arrived)
            for i in range(3):
                await echo.asend(i)
        assert got == [1, 2]
        assert [type(reason) for reason in failed] == [KeyError]

    trio.run(main)
    assert "raised" in caplog.text


def test_another_thread_is_refused_by_name(echo):
    async def main():
        async with trio.open_nursery() as nursery:
            place = loops.Trio(nursery)
            caught = []

            def elsewhere():
                try:
                    echo.on_message(print, on=place)
                except RuntimeError as error:
                    caught.append(error)

            await trio.to_thread.run_sync(elsewhere)
            assert "thread in which its trio runs" in str(caught[0])

    trio.run(main)
    echo.send(1)
    assert echo.receive() == 1


def test_callbacks_taken_away_by_another_thread_end_the_nursery(echo):
    got = []

    async def main():
        async with trio.open_nursery() as nursery:
            echo.on_message(got.append, on=loops.Trio(nursery))
            await echo.asend(1)
            while not got:
                await trio.sleep(0)
            await trio.to_thread.run_sync(lambda: echo.on_message(None))

    trio.run(main)
    echo.send(2)
    assert echo.receive() == 2


def test_callbacks_move_here_amid_one_in_the_librarys_thread(program):
    session = program("for i in range(3): s.send(i)\ns.receive()")
    begun, go_on = threading.Event(), threading.Event()
    got = []

    def slow(message):
        got.append(message)
        begun.set()
        go_on.wait()

    async def main():
        session.on_message(slow)
        begun.wait()
        async with trio.open_nursery() as nursery:
            session.on_message(lambda m: got.append(str(m)), on=loops.Trio(nursery))
            go_on.set()
            while len(got) < 3:
                await trio.sleep(0)
            session.on_message(None)

    trio.run(main)
    assert got == [0, "1", "2"]
