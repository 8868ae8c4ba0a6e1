"""Locks in asyncio and trio: tasks exclude each other, and wait in line."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import alongside
import pytest
import trio
from alongside import Lock

from tests.api.conftest import may_read
from tests.conftest import wait_until

pytestmark = pytest.mark.usefixtures("scope")


def in_line():
    """Whether a thread waits for tasks."""
    return any(thread.name.startswith("alongside: a/b") for thread in threading.enumerate())


@pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)])
def test_tasks_exclude_each_other(run, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b')")
    asleep = trio.sleep if run is not asyncio.run else asyncio.sleep
    inside, most = 0, []

    async def use():
        nonlocal inside
        async with Lock("a/b") as lock:
            inside += 1
            most.append(inside)
            assert not other("lock.try_acquire()")
            await asleep(0)
            with pytest.raises(RuntimeError, match="for ever"):
                await lock.aacquire()
            inside -= 1

    async def main():
        if run is asyncio.run:
            await asyncio.gather(*(use() for _ in range(5)))
            return
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(use)

    run(main())
    assert most == [1] * 5
    assert other("lock.try_acquire()")


def test_tasks_get_it_in_their_turn(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")
    order = []

    async def use(number):
        async with lock:
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    async def main():
        tasks = [asyncio.create_task(use(n)) for n in range(30)]
        await asyncio.sleep(0)
        for n in (0, 7, 8, 29):
            tasks[n].cancel()
        await asyncio.sleep(0)
        other.run("lock.release()")
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [n for n, end in enumerate(ends) if end is not None] == [0, 7, 8, 29]

    asyncio.run(main())
    assert order == [n for n in range(30) if n not in {0, 7, 8, 29} for _ in range(2)]
    assert lock.owner() is None
    wait_until(lambda: not in_line())


def test_a_task_that_is_cancelled_does_not_have_it(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")

    async def main():
        with pytest.raises(alongside.TimedOut):
            await lock.aacquire(timeout=0.01)
        waiter = asyncio.create_task(lock.aacquire())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        with pytest.raises(RuntimeError):
            lock.arelease()

    asyncio.run(main())
    other.run("lock.release()")
    # What waited for the task may take it, to give it back.
    wait_until(lock.try_acquire)
    lock.release()


def test_a_task_that_waited_too_long_may_wait_again(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")

    async def main():
        for _ in range(20):
            with pytest.raises(alongside.TimedOut, match="not free"):
                await lock.aacquire(timeout=0.001)
        last = asyncio.create_task(lock.aacquire(timeout=60))
        await asyncio.sleep(0)
        other.run("lock.release()")
        await last

    asyncio.run(main())
    assert lock.owner().pid == os.getpid()


def test_a_dead_owner_is_told_to_tasks_too(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")

    async def main():
        waiter = asyncio.create_task(lock.aacquire())
        await asyncio.sleep(0)
        other.kill()
        await waiter
        assert lock.abandoned
        assert lock.owner().pid == os.getpid()
        with pytest.raises(RuntimeError, match="does not have it"):
            lock.arelease()

    asyncio.run(main())


def test_a_task_that_cannot_go_on_waiting_is_told_why(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")

    async def main():
        waiters = [asyncio.create_task(lock.aacquire()) for _ in range(3)]
        await asyncio.sleep(0)
        os.truncate(lock._path, 100)
        for waiter in waiters:
            with pytest.raises(alongside.Corrupt, match="cut short"):
                await waiter

    asyncio.run(main())


def test_a_child_forked_while_tasks_wait_has_a_line_of_its_own(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")

    async def use():
        async with lock:
            return lock.owner().pid

    async def main():
        waiter = asyncio.create_task(use())
        await asyncio.sleep(0)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.kill(other.pid, signal.SIGUSR1)
                status = asyncio.run(use()) != os.getpid()
            finally:
                os._exit(status)
        assert await asyncio.to_thread(os.waitpid, pid, 0) == (pid, 0)
        assert await waiter == os.getpid()

    # Both wait until it is told to.
    other.run("import signal; signal.signal(signal.SIGUSR1, lambda *_: lock.release())")
    asyncio.run(main())


def test_a_program_ends_though_tasks_wait(lock, puppet):
    program = """
import alongside, asyncio
async def main():
    waiters = [asyncio.create_task(alongside.Lock("a/b").aacquire()) for _ in range(3)]
    await asyncio.sleep(0)
    print("waits", flush=True)
{}
"""
    with lock:
        for end in ("asyncio.run(main())", "asyncio.new_event_loop().run_until_complete(main())"):
            argv = [sys.executable, "-c", program.format(end)]
            done = subprocess.run(argv, capture_output=True, text=True, check=True)
            assert done.stdout == "waits\n"


def test_tasks_read_and_write(rwlock):
    async def main():
        inside = []

        async def write():
            async with rwlock.writing():
                inside.append("in")
                await asyncio.sleep(0)
                inside.append("out")

        await asyncio.gather(*(write() for _ in range(5)))
        assert inside == ["in", "out"] * 5
        async with rwlock.reading():
            with pytest.raises(RuntimeError, match="for ever"):
                async with rwlock.writing(timeout=0.01):
                    pass
            with pytest.raises(alongside.TimedOut, match=f"process {os.getpid()} has it"):
                await asyncio.create_task(rwlock.writing(timeout=0.01).__aenter__())

    asyncio.run(main())


def test_a_task_that_is_to_write_keeps_later_readers_out(rwlock, puppet):
    first, second = puppet(), puppet()
    first.run("hold = alongside.RWLock('a/b').reading().__enter__()")
    second.run("""
        rwlock = alongside.RWLock('a/b')
        def may_read():
            try:
                with rwlock.reading(timeout=0):
                    return True
            except alongside.TimedOut:
                return False
        """)

    async def write():
        async with rwlock.writing():
            assert not second("may_read()")

    async def main():
        for is_cancelled in (True, False):
            writer = asyncio.create_task(write())
            while second("may_read()"):
                await asyncio.sleep(0)
            # As long as it waits; it looks up now and then.
            for _ in range(2000):
                assert not second("may_read()")
                await asyncio.sleep(0)
            if is_cancelled:
                writer.cancel()
                while not second("may_read()"):
                    await asyncio.sleep(0)
        first.kill()
        await writer

    asyncio.run(main())
    assert second("may_read()")


def test_callbacks_of_two_loops_are_not_one_and_the_same(rwlock):
    order = []

    def run(name):
        loop = asyncio.new_event_loop()

        def callback():
            with rwlock.writing():
                order.append(name)
                order.append(name)

        loop.call_soon(callback)
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()

    threads = [threading.Thread(target=run, args=[name]) for name in ("one", "two")]
    with rwlock.writing():
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert order in (["one", "one", "two", "two"], ["two", "two", "one", "one"])


def test_two_tasks_cannot_use_one_hold(rwlock, puppet):
    hold = rwlock.reading()

    async def use():
        async with hold:
            pass

    async def main():
        with rwlock.writing():
            first = asyncio.create_task(use())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="in use"):
                await use()
        await first

    asyncio.run(main())
    puppet().run("with alongside.RWLock('a/b').writing(timeout=0): pass")


@pytest.mark.parametrize("kind", ["lock", "rwlock"])
def test_a_death_that_a_cancelled_task_would_have_heard_of_is_told_the_next(
    kind, lock, rwlock, puppet
):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")
    other.run("hold = alongside.RWLock('a/b').writing().__enter__()")
    take = lock.aacquire if kind == "lock" else rwlock.writing().__aenter__

    async def main():
        waiter = asyncio.create_task(take())
        await asyncio.sleep(0)
        other.kill()
        # It is taken for the task, which is cancelled before it has its turn.
        if kind == "lock":
            wait_until(lock.owner)
        else:
            wait_until(lambda: not may_read(rwlock))
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(main())
    with lock if kind == "lock" else rwlock.writing() as held:
        assert held.abandoned


def test_a_thread_does_not_wait_for_a_task_that_runs_there(lock):
    async def main():
        async with lock:
            for wait in (lock.__enter__, lock.acquire, lambda: lock.acquire(timeout=0.01)):
                with pytest.raises(RuntimeError, match="very thread"):
                    wait()
            # Another thread does.
            with pytest.raises(alongside.TimedOut):
                await asyncio.to_thread(lock.acquire, timeout=0.01)

        def take_and_release():
            lock.acquire()
            lock.release()

        await asyncio.to_thread(take_and_release)
        # It is told by who has it now, not by who had it.
        lock.acquire()
        thread = asyncio.to_thread(take_and_release)
        waiting = asyncio.create_task(thread)
        await asyncio.sleep(0)
        lock.release()
        await waiting

    asyncio.run(main())


@pytest.mark.parametrize("round_", range(8))
def test_who_ends_after_waiting_as_a_task_ends_in_order(round_, lock, puppet):
    """The thread that waited for it may just have got the lock, or be about to."""
    program = """
import alongside, asyncio, sys
async def main():
    lock = alongside.Lock("a/b")
    print("begun", flush=True)
    try:
        await lock.aacquire(timeout=0.05)
    except alongside.TimedOut:
        return
    lock.arelease()
asyncio.run(main())
"""
    lock.acquire()
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"begun\n"
        # At some moment of its end.
        until = time.monotonic() + 0.05 + 0.002 * round_
        wait_until(lambda: time.monotonic() > until)
        lock.release()
        assert child.wait() == 0
    with lock:
        assert not lock.abandoned
