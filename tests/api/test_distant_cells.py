"""Cells of other users, who are real ones here: any number of threads and tasks wait at once."""

import asyncio
import os
import queue
import threading

import alongside
import pytest
import trio
import trio.testing
import uvloop

from tests.api.conftest import ROOT_NEEDED
from tests.conftest import is_asleep, open_files, wait_until

pytestmark = ROOT_NEEDED

# Puts into the cell what it is told. Root may read whatever is served at all.
HOLD = """
cell = alongside.Cell("state", scope="machine", allow=[0])
cell.get_or_set(lambda: 1)
print("there", flush=True)
for line in sys.stdin:
    cell.set(int(line))
"""
# What a cell of another user does as one's own does.
DONE = {"name", "closed", "get", "read", "wait", "achanged", "on_change", "close"}


@pytest.fixture
def hold(machine, users, as_user):
    """Begin programs of another user, each of which holds the cell."""

    def begin():
        process = as_user(users[0], HOLD, waits=False)
        assert process.stdout.readline() == b"there\n"
        return process

    return begin


@pytest.fixture
def holder(hold):
    return hold()


@pytest.fixture
def cell(holder, users):
    with alongside.Cell(f"state@{users[0]}", scope="machine") as found:
        yield found


def put(process, number):
    process.stdin.write(f"{number}\n".encode())
    process.stdin.flush()


def end(process):
    process.kill()
    process.wait()


async def on_asyncio(waits, then):
    tasks = [asyncio.create_task(wait()) for wait in waits]
    # Each takes its first step, to where it waits.
    await asyncio.sleep(0)
    then()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def on_trio(waits, then):
    given = [None] * len(waits)

    async def run(place):
        try:
            given[place] = await waits[place]()
        except Exception as error:
            given[place] = error

    async with trio.open_nursery() as nursery:
        for place in range(len(waits)):
            nursery.start_soon(run, place)
        await trio.testing.wait_all_tasks_blocked()
        then()
    return given


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def together(request):
    """Run tasks, and something else when all of them wait; give what they gave or raised."""
    loops = {
        "asyncio": lambda *given: asyncio.run(on_asyncio(*given)),
        "uvloop": lambda *given: uvloop.run(on_asyncio(*given)),
        "trio": lambda *given: trio.run(on_trio, *given),
    }
    return loops[request.param]


def in_threads(waits, then):
    """Do so with threads."""
    given = [None] * len(waits)

    def run(place):
        try:
            given[place] = waits[place]()
        except Exception as error:
            given[place] = error

    threads = [threading.Thread(target=run, args=[place]) for place in range(len(waits))]
    for thread in threads:
        thread.start()
    for thread in threads:
        wait_until(lambda thread=thread: is_asleep(os.getpid(), thread.native_id))
    then()
    for thread in threads:
        thread.join()
    return given


# ---- values --------------------------------------------------------------------------------------


def test_each_of_several_tasks_is_told_of_each_value(together, holder, cell):
    for seen in (1, 2):
        waits = [lambda seen=seen: cell.achanged(seen, timeout=60)] * 3
        assert (
            together(waits, lambda seen=seen: put(holder, seen + 10)) == [(seen + 10, seen + 1)] * 3
        )


def test_each_of_several_threads_is_told_of_each_value(holder, cell):
    for seen in (1, 2):
        waits = [lambda seen=seen: cell.wait(seen, timeout=60)] * 3
        assert (
            in_threads(waits, lambda seen=seen: put(holder, seen + 10))
            == [(seen + 10, seen + 1)] * 3
        )


def test_threads_and_loops_and_a_callback_are_told_at_once(holder, cell):
    seen = queue.Queue()
    cell.on_change(seen.put)

    async def changed():
        return await cell.achanged(1, timeout=60)

    waits = [
        lambda: asyncio.run(changed()),
        lambda: uvloop.run(changed()),
        lambda: trio.run(changed),
        lambda: cell.wait(1, timeout=60),
    ] * 2
    assert in_threads(waits, lambda: put(holder, 7)) == [(7, 2)] * 8
    assert seen.get(timeout=60) == 7


def test_a_wait_is_told_of_what_another_thread_gets_first(holder, cell):
    for version in range(1, 200):
        told = []
        waiter = threading.Thread(
            target=lambda version=version, told=told: told.append(cell.wait(version, timeout=60))
        )
        waiter.start()
        put(holder, version)
        while cell.read()[1] == version:
            pass
        waiter.join()
        assert told == [(version, version + 1)]


def test_a_task_that_is_cancelled_takes_nothing_from_the_others(run, holder, cell):
    async def main():
        tasks = [asyncio.create_task(cell.achanged(1, timeout=60)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
        await asyncio.wait([tasks[0], tasks[2]])
        put(holder, 7)
        assert await tasks[1] == (7, 2)

    run(main())


def test_a_task_of_trio_s_that_is_cancelled_takes_nothing_from_the_others(holder, cell):
    told = []

    async def wait():
        told.append(await cell.achanged(1, timeout=60))

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as cancelled:
                    cancelled.start_soon(wait)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            put(holder, 7)

    trio.run(main)
    assert told == [(7, 2)]


def test_who_has_waited_leaves_nothing(cell):
    def wait():
        with pytest.raises(alongside.TimedOut):
            cell.wait(1, timeout=0)

    # What a session makes once and keeps, is made before the count.
    wait()
    before = open_files()
    for _ in range(50):
        wait()
    assert open_files() == before


# ---- ends ----------------------------------------------------------------------------------------


def kinds(given):
    return [(type(each), "closed" in str(each)) for each in given]


def test_tasks_that_wait_learn_that_it_is_closed(together, cell):
    given = together([lambda: cell.achanged(1, timeout=60)] * 3, cell.close)
    assert kinds(given) == [(ValueError, True)] * 3


def test_threads_that_wait_learn_that_it_is_closed(cell):
    given = in_threads([lambda: cell.wait(1, timeout=60)] * 3, cell.close)
    assert kinds(given) == [(ValueError, True)] * 3


def test_tasks_that_wait_learn_that_nobody_holds_it_any_more(together, holder, cell):
    given = together([lambda: cell.achanged(1, timeout=60)] * 3, lambda: end(holder))
    assert kinds(given) == [(alongside.NotFound, False)] * 3


def test_threads_that_wait_learn_that_nobody_holds_it_any_more(holder, cell):
    given = in_threads([lambda: cell.wait(1, timeout=60)] * 3, lambda: end(holder))
    assert kinds(given) == [(alongside.NotFound, False)] * 3


def test_all_who_wait_go_on_with_the_next_holder(together, hold, holder, cell):
    second = hold()

    def change():
        end(holder)
        # Of those who wait, one may have been the first to see that.
        assert cell.read() == (1, 1)
        put(second, 7)

    assert together([lambda: cell.achanged(1, timeout=60)] * 3, change) == [(7, 2)] * 3
    third = hold()

    def change():
        end(second)
        put(third, 8)

    assert in_threads([lambda: cell.wait(2, timeout=60)] * 3, change) == [(8, 3)] * 3


def test_who_waits_learns_that_the_cell_began_anew(together, hold, holder, cell):
    """What begins anew has version 1, and may never come to where the other one was."""
    put(holder, 2)
    assert cell.wait(1) == (2, 2)

    def begin_anew():
        end(holder)
        hold()

    given = together([lambda: cell.achanged(2, timeout=60)] * 2, begin_anew)
    assert kinds(given) == [(alongside.NotFound, False)] * 2
    assert cell.read() == (1, 1)


# ---- what it does not do -------------------------------------------------------------------------


def test_whatever_else_a_cell_does_is_refused_in_the_same_words(cell):
    public = {name for name in dir(alongside.Cell) if not name.startswith("_")}
    assert {"holders", "aget_or_set", "max_size"} <= public - DONE
    told = set()
    for name in public - DONE:
        with pytest.raises(alongside.Denied, match="another user's") as caught:
            getattr(cell, name)(1)
        told.add(str(caught.value))
    assert len(told) == 1
