"""A cell's first value: one of all that ask makes it."""

import os
import signal
import threading

import alongside
import pytest
from alongside import Cell

from tests.conftest import has_ended, is_asleep, is_stopped, wait_until

pytestmark = pytest.mark.usefixtures("scope")


@pytest.fixture
def cell():
    with Cell("a/b") as cell:
        yield cell


def test_get_or_set_makes_the_value_once(cell):
    made = []
    assert cell.get_or_set(lambda: made.append(1) or "made") == "made"
    assert cell.get_or_set(lambda: made.append(2)) == "made"
    assert made == [1]


def test_of_many_programs_one_makes_the_value(cell, puppet):
    others = [puppet() for _ in range(8)]
    for other in others:
        other.run("cell = alongside.Cell('a/b')")
    for other in others:
        other.say("cell.get_or_set(os.getpid)")
    found = [other.hear() for other in others]
    assert len(set(found)) == 1
    assert found[0] in {other.pid for other in others}
    assert cell.read() == (found[0], 1)


def test_a_factory_that_raises_leaves_it_to_the_next(cell, puppet):
    with pytest.raises(ZeroDivisionError):
        cell.get_or_set(lambda: 1 // 0)
    assert puppet()("alongside.Cell('a/b').get_or_set(lambda: 'next')") == "next"
    assert cell.get() == "next"


def test_who_waits_goes_on_when_a_factory_raises(cell, puppet):
    other = puppet()
    other.run("cell = alongside.Cell('a/b'); go = threading.Event()")
    other.run(
        """
        def fail():
            os.write(1, b"")
            go.wait()
            raise LookupError("not here")
        def attempt():
            try:
                cell.get_or_set(fail)
            except LookupError:
                pass
        thread = threading.Thread(target=attempt)
        thread.start()
        """
    )
    found = []
    waiter = threading.Thread(target=lambda: found.append(cell.get_or_set(lambda: "ours")))
    wait_until(lambda: not _may_make(cell))
    waiter.start()
    other.run("go.set(); thread.join()")
    waiter.join()
    assert found == ["ours"]


def _may_make(cell):
    try:
        first = cell._make_first(0)
    except alongside.TimedOut:
        return False
    first.release()
    return True


def test_who_waits_goes_on_when_the_maker_is_killed(cell, puppet):
    other = puppet()
    other.run("cell = alongside.Cell('a/b')")
    other.say("cell.get_or_set(signal.pause)")
    wait_until(lambda: not _may_make(cell))
    with pytest.raises(alongside.TimedOut):
        cell.get_or_set(lambda: "too early", timeout=0.05)
    found = []
    waiter = threading.Thread(target=lambda: found.append(cell.get_or_set(lambda: "ours")))
    waiter.start()
    other.kill()
    waiter.join()
    assert found == ["ours"]


def test_who_waits_gets_what_somebody_sets_meanwhile(cell, puppet):
    other = puppet()
    other.run("cell = alongside.Cell('a/b')")
    other.say("cell.get_or_set(signal.pause)")
    wait_until(lambda: not _may_make(cell))
    found = []
    waiter = threading.Thread(target=lambda: found.append(cell.get_or_set(lambda: "never")))
    waiter.start()
    cell.set("set")
    waiter.join()
    assert found == ["set"]


def test_a_factory_that_asks_for_its_own_cell_is_told(cell):
    with pytest.raises(RuntimeError, match="wait for itself"):
        cell.get_or_set(lambda: Cell("a/b").get_or_set(lambda: 1))
    assert cell.get_or_set(lambda: 2) == 2
    alongside._core.leave_shared()


def test_threads_of_one_program_make_one_value(cell):
    made, found = [], []
    barrier = threading.Barrier(8)

    def ask():
        barrier.wait()
        found.append(cell.get_or_set(lambda: made.append(1) or len(made)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (made, found) == ([1], [1] * 8)


def test_who_makes_the_first_value_is_named(cell, puppet):
    maker = puppet()
    maker.say("alongside.Cell('a/b').get_or_set(threading.Event().wait)", "exec")
    wait_until(lambda: not _may_make(cell))
    with pytest.raises(alongside.TimedOut, match=f"process {maker.pid} has not made the first"):
        cell.get_or_set(int, timeout=0)
    os.kill(maker.pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(maker.pid))
    with pytest.raises(alongside.TimedOut, match="and is stopped"):
        cell.get_or_set(int, timeout=0.01)


def test_a_child_forked_in_a_factory_waits_for_the_value(cell):
    children = []

    def factory():
        pid = os.fork()
        if pid:
            children.append(pid)
            # Until it waits, or has failed.
            wait_until(lambda: is_asleep(pid) or has_ended(pid))
            return "the parent's"
        status = 1
        try:
            status = 0 if Cell("a/b").get_or_set(lambda: "the child's") == "the parent's" else 2
        finally:
            os._exit(status)

    assert cell.get_or_set(factory) == "the parent's"
    assert os.waitpid(children[0], 0)[1] == 0


def test_ctrl_c_in_a_factory_lets_the_next_one_try(puppet):
    other = puppet()
    other.run(
        """
        import random, signal
        def interrupt(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        interrupts = 0
        while interrupts < 500:
            with alongside.Cell("a/b") as cell:
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-6, 60e-6))
                    try:
                        cell.get_or_set(int)
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    interrupts += 1
                assert cell.get_or_set(int) == 0
        """
    )
