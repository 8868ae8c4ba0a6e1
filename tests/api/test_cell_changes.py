"""Cells that change: who waits, calls back or watches is told."""

import asyncio
import os
import threading

import alongside
import pytest
from alongside import Cell, loops

from tests.conftest import wait_until

pytestmark = pytest.mark.usefixtures("scope")


@pytest.fixture
def cell():
    with Cell("a/b") as cell:
        yield cell


def test_waiting_gives_what_is_newer(cell, puppet):
    cell.set("old")
    assert cell.wait(0) == ("old", 1)
    with pytest.raises(alongside.TimedOut, match="has not changed"):
        cell.wait(1, timeout=0.01)
    other = puppet()
    other.run("cell = alongside.Cell('a/b')")
    other.say("cell.wait(1)")
    other_found = []
    waiter = threading.Thread(target=lambda: other_found.append(cell.wait(1)))
    waiter.start()
    cell.set("new")
    assert other.hear() == ("new", 2)
    waiter.join()
    assert other_found == [("new", 2)]
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            cell.wait(0, timeout=wrong)


def test_each_change_is_seen_by_who_waits_for_the_next(cell, puppet):
    """Back and forth: a change that is missed would end it."""
    other = puppet()
    other.run("cell = alongside.Cell('a/b')")
    other.say("[cell.set(cell.wait(2 * n)[1]) for n in range(500)] and None")
    cell.set("go")
    for n in range(500):
        value, version = cell.wait(2 * n + 1)
        assert (value, version) == (2 * n + 1, 2 * n + 2)
        if n < 499:
            cell.set("go")
    other.hear()


def test_callbacks_get_the_newest(cell, puppet):
    seen, is_there = [], threading.Event()
    cell.set("before")

    def note(value):
        seen.append(value)
        if value == "last":
            is_there.set()

    cell.on_change(note)
    other = puppet()
    other.run("cell = alongside.Cell('a/b')")
    other.run("for n in range(100): cell.set(n)")
    other.run("cell.set('last')")
    is_there.wait()
    assert "before" not in seen
    numbers = seen[:-1]
    assert numbers == sorted(numbers)
    cell.on_change(None)
    cell.set("unseen")
    assert seen[-1] == "last"


def test_callbacks_run_on_a_loop_of_ones_own(cell):
    manual, seen = loops.Manual(), []
    cell.on_change(seen.append, on=manual)
    cell.set(1)
    assert seen == []
    manual.dispatch(timeout=None)
    assert seen == [1]
    cell.close()
    manual.dispatch()
    assert seen == [1]


def test_async_callbacks_are_awaited(cell):
    async def main():
        seen, is_done = [], asyncio.Event()

        async def note(value):
            await asyncio.sleep(0)
            seen.append(value)
            if value == 3:
                is_done.set()

        cell.on_change(note, on=loops.Asyncio())
        for value in (1, 2, 3):
            cell.set(value)
        await is_done.wait()
        cell.on_change(None)
        return seen

    assert asyncio.run(main())[-1] == 3


def test_tasks_wait_for_changes(cell, puppet):
    other = puppet()
    other.run("cell = alongside.Cell('a/b')")

    async def main():
        waiter = asyncio.create_task(cell.achanged())
        await asyncio.sleep(0)
        other.run("cell.set('first')")
        assert await waiter == ("first", 1)
        with pytest.raises(alongside.TimedOut):
            await cell.achanged(1, timeout=0.01)
        assert await cell.achanged(0) == ("first", 1)
        gone = asyncio.create_task(cell.achanged(1))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(main())


def test_tasks_make_one_value(cell):
    async def main():
        made = []

        async def factory():
            await asyncio.sleep(0)
            made.append(1)
            return len(made)

        found = await asyncio.gather(*(cell.aget_or_set(factory) for _ in range(5)))
        assert (made, found) == ([1], [1] * 5)
        assert await cell.aget_or_set(lambda: 7) == 1

    asyncio.run(main())


def test_who_waits_is_told_of_the_end(cell, puppet):
    for end in ("cell.close()", "os.unlink(cell._path)"):
        other = puppet()
        other.run("cell = alongside.Cell('w')")
        other.run("""
            errors = []
            def wait():
                try:
                    cell.wait(0)
                except Exception as error:
                    errors.append(type(error).__name__)
            thread = threading.Thread(target=wait)
            thread.start()
            """)
        wait_until(lambda other=other: other("len(os.listdir('/proc/self/task'))") == 2)
        other.run(f"{end}; thread.join()")
        assert other("errors")[0] in {"ValueError", "ScopeLost"}
        other.kill()


def test_tasks_that_wait_are_told_of_the_end(cell):
    async def main():
        waiter = asyncio.create_task(cell.achanged(5))
        await asyncio.sleep(0)
        await asyncio.to_thread(cell.close)
        with pytest.raises(ValueError, match="closed"):
            await waiter

    asyncio.run(main())


def test_a_handle_closed_amid_a_factory_holds_nobody_up(cell, puppet):
    other = puppet()
    other.run("cell, kept = alongside.Cell('a/b'), alongside.Cell('a/b')")
    with pytest.raises(ValueError, match="closed"):
        other("cell.get_or_set(lambda: cell.close())")
    assert cell.get_or_set(lambda: "ours") == "ours"


def test_who_locks_all_of_the_file_is_no_holder(cell):
    import fcntl

    with open(cell._path) as file:
        fcntl.flock(file, fcntl.LOCK_UN)
        fcntl.lockf(file, fcntl.LOCK_SH)
        assert [peer.pid for peer in cell.holders()] == [os.getpid()]


def test_a_value_of_more_than_there_is_is_no_crash(scope):
    import struct

    with Cell("big", max_size=1 << 40) as cell:
        cell.set(b"x" * 5000)
        with open(cell._path, "r+b") as file:
            file.seek(272)
            head = list(struct.unpack("<5Q", file.read(40)))
            head[1] = 1 << 39
            total = 0x9E3779B97F4A7C15
            for word in head[:4]:
                product = (total ^ word) * 0xA0761D6478BD642F
                turned = (total << 23 | total >> 41) & (1 << 64) - 1
                total = (product & (1 << 64) - 1) ^ (product >> 64) ^ turned
            file.seek(272)
            file.write(struct.pack("<5Q", *head[:4], total))
        with pytest.raises(alongside.Corrupt, match="cut short"):
            cell.get()


def test_a_child_that_was_forked_amid_opening_opens_too():
    """Whatever locks other threads had then."""
    is_over = threading.Event()

    def open_and_close():
        while not is_over.is_set():
            with Cell("busy"):
                pass

    threads = [threading.Thread(target=open_and_close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with Cell("busy"):
                    status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
    is_over.set()
    for thread in threads:
        thread.join()


def test_who_waits_by_a_handle_that_is_closed_is_told(cell):
    """Though the program has another one."""
    other, told = Cell("a/b"), []

    def wait():
        try:
            other.wait(0)
        except ValueError as error:
            told.append(str(error))

    async def change():
        await other.achanged()

    thread = threading.Thread(target=wait)
    thread.start()

    async def main():
        task = asyncio.create_task(change())
        await asyncio.sleep(0)
        other.close()
        with pytest.raises(ValueError, match="closed"):
            await task

    asyncio.run(main())
    thread.join()
    assert "is closed" in told[0]
    cell.set(1)
