"""Locks for readers and writers: many read, or one writes."""

import asyncio
import gc
import os
import signal
import threading
import weakref

import alongside
import pytest
from alongside import RWLock

from tests.api.conftest import may_read
from tests.conftest import is_stopped, wait_until

pytestmark = pytest.mark.usefixtures("scope")


def test_many_read_and_one_writes(rwlock, puppet):
    other = puppet()
    other.run("lock = alongside.RWLock('a/b')")
    with rwlock.reading(), rwlock.reading():
        other.run("with lock.reading(timeout=0): pass")
        for timeout in (0, 0.01):
            with pytest.raises(alongside.TimedOut):
                other.run(f"with lock.writing(timeout={timeout}): pass")
    other.run("hold = lock.writing(); hold.__enter__()")
    for hold in (rwlock.reading, rwlock.writing):
        with pytest.raises(alongside.TimedOut), hold(timeout=0.01):
            pass
    other.run("hold.__exit__(None, None, None)")
    with rwlock.writing() as hold:
        assert not hold.abandoned
        with pytest.raises(RuntimeError, match="in use"):
            hold.__enter__()


def test_a_writer_that_waits_goes_before_later_readers(rwlock, puppet):
    writer, late = puppet(), puppet()
    for each in (writer, late):
        each.run("lock = alongside.RWLock('a/b')")
    with rwlock.reading():
        writer.say("with lock.writing(): got = time.monotonic()", "exec")
        wait_until(lambda: not may_read(rwlock))
        late.say("with lock.reading(): got = time.monotonic()", "exec")
    writer.hear()
    late.hear()
    assert writer("got") < late("got")


def test_death_frees_readers_and_writers(rwlock, puppet):
    for how in ("reading", "writing"):
        other = puppet()
        other.run(f"hold = alongside.RWLock('a/b').{how}(); hold.__enter__()")
        other.kill()
        with rwlock.reading() as hold:
            assert hold.abandoned == (how == "writing")
        with rwlock.writing() as hold:
            assert hold.abandoned == (how == "writing")
        with rwlock.writing() as hold:
            assert not hold.abandoned


def test_who_waits_to_write_gets_in_when_a_reader_dies(rwlock, puppet):
    reader, writer = puppet(), puppet()
    reader.run("hold = alongside.RWLock('a/b').reading(); hold.__enter__()")
    writer.say("with alongside.RWLock('a/b').writing(): pass", "exec")
    wait_until(lambda: not may_read(rwlock))
    reader.kill()
    writer.hear()


def test_threads_of_one_program_are_told_apart(rwlock):
    order = []
    with rwlock.reading():

        def write():
            with rwlock.writing():
                order.append("writer")

        thread = threading.Thread(target=write)
        thread.start()
        wait_until(lambda: not may_read(rwlock))
        order.append("reader")
    thread.join()
    assert order == ["reader", "writer"]


def test_a_reader_that_is_not_let_go_is_the_process_s(rwlock, puppet):
    rwlock.reading().__enter__()
    with pytest.raises(alongside.TimedOut):
        puppet().run("with alongside.RWLock('a/b').writing(timeout=0): pass")


def test_who_would_wait_for_itself_is_told(rwlock):
    for outer, inner in (("writing", "writing"), ("writing", "reading"), ("reading", "writing")):
        with getattr(rwlock, outer)(), pytest.raises(RuntimeError, match="for ever"):
            getattr(RWLock("a/b"), inner)().__enter__()
    with rwlock.reading(), rwlock.reading():
        pass
    with rwlock.writing():
        pass

    def write():
        with rwlock.writing():
            pass

    with rwlock.reading():
        writer = threading.Thread(target=write)
        writer.start()
        wait_until(lambda: not may_read(rwlock))
        # It would wait for the writer, which waits for it.
        with rwlock.reading():
            pass
    writer.join()

    async def main():
        async with rwlock.reading():
            with pytest.raises(RuntimeError, match="for ever"):
                async with rwlock.writing():
                    pass
        async with rwlock.writing():
            pass
        reads, goes_on = asyncio.Event(), asyncio.Event()

        async def read():
            async with rwlock.reading():
                reads.set()
                await goes_on.wait()

        other = asyncio.create_task(read())
        await reads.wait()
        # It holds up the thread, and with it the task that reads.
        with pytest.raises(RuntimeError, match="for ever"):
            rwlock.writing().__enter__()
        goes_on.set()
        await other

    asyncio.run(main())


def test_who_waited_too_long_learns_for_whom(rwlock, puppet):
    other, waits = puppet(), puppet()
    other.run("lock = alongside.RWLock('a/b')")
    for way in ("reading", "writing"):
        other.run(f"hold = lock.{way}(); hold.__enter__()")
        with pytest.raises(alongside.TimedOut, match=f"process {other.pid} has it$"):
            rwlock.writing(timeout=0).__enter__()
        other.run("hold.__exit__(None, None, None)")
    # A writer that waits has the door, and keeps it where it is stopped.
    other.run("hold = lock.reading(); hold.__enter__()")
    waits.say("alongside.RWLock('a/b').writing().__enter__()", "exec")
    wait_until(lambda: not may_read(rwlock))
    os.kill(waits.pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(waits.pid))
    with pytest.raises(alongside.TimedOut, match=f"{waits.pid} is the next to have it, and is st"):
        rwlock.reading(timeout=0).__enter__()


INTERRUPTED = """
import random, signal
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
rwlock, interrupts = alongside.RWLock("a/b"), 0
while interrupts < {count}:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-6, 120e-6))
        try:
            with rwlock.{way}(timeout=0):
                pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupts += 1
"""


@pytest.mark.parametrize("way", ["reading", "writing"])
def test_ctrl_c_at_any_moment_of_a_with_lets_go(way, rwlock, puppet):
    other = puppet()
    other.run(INTERRUPTED.format(way=way, count=2000))
    with rwlock.writing(timeout=0):
        pass


def test_a_hold_says_what_it_is(rwlock):
    hold = rwlock.reading()
    assert repr(hold) == "<alongside.RWLock 'a/b', reading, not held>"
    with hold:
        assert "reading, held" in repr(hold)


def test_what_was_held_is_not_kept(rwlock):
    """Neither its descriptors nor what else the lock is made of."""
    gone = weakref.ref(rwlock.reading())
    gc.collect()
    assert gone() is None
    with rwlock.reading() as hold, rwlock.reading():
        pass
    gone = weakref.ref(hold)
    del hold
    gc.collect()
    assert gone() is None
