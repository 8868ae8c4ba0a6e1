"""Between any two system calls of who opens, closes or sweeps a cell, another does all it does.

A kill at each call shows what one leaves behind; this shows what two do to each other. The tracer
of `kill_points` stops one at its n-th system call. Another comes, opens the cell, gives it a first
value if it has none, and stays; where the first one has the gate, it waits until that goes on. Then
whoever comes next has to find the other's value: there is one file of the name.

    python -m tests.crash.shared_turns ROLE FIRST STEP

does so for one role, at its points FIRST, FIRST + STEP and so on, and prints at how many.
"""

import contextlib
import itertools
import os
import signal
import sys

from alongside import Cell

from .kill_points import Traced, child, succeeds
from .shared_points import ask, cell, current, is_being_opened, nobody_is_there, traced

_told, _telling = os.pipe()
# That somebody comes, and that the cell is open there: who opens it as well stays until then.
_coming, _has_come = os.pipe(), os.pipe()
_OPENED = b"x"


class Comer:
    """A child that opens the cell, and stays until it is told to go."""

    def __init__(self):
        self._goes, self._is_there = os.pipe(), os.pipe()

        def come():
            with cell() as made:
                os.write(self._is_there[1], _OPENED)
                os.write(_has_come[1], _OPENED)
                value = made.get_or_set(lambda: b"comer's")
                os.write(self._is_there[1], value)
                os.read(self._goes[0], 1)
                assert made.get() == value

        os.write(_coming[1], _OPENED)
        self._pid = child(come)
        os.close(self._is_there[1])

    def opened(self):
        """Wait until it has the cell open; what reads nothing is one that has failed."""
        assert os.read(self._is_there[0], 1) == _OPENED

    def value(self):
        """Wait until it has a value, which another one may be making."""
        return os.read(self._is_there[0], 100)

    def end(self):
        os.write(self._goes[1], b"x")
        succeeds(self._pid, "who came in between")
        for end in (*self._goes, self._is_there[0]):
            os.close(end)


# ---- roles ---------------------------------------------------------------------------------------
# Each prepares something, and does what is traced: a yield is between.


def opening():
    yield
    made = cell()
    os.write(_telling, made.get_or_set(lambda: b"opener's"))
    if _read_at_once(_coming[0]):
        os.read(_has_come[0], 1)
    yield


def closing():
    made = cell()
    made.set(b"old")
    yield
    made.close()
    yield


def sweeping():
    """Make another cell beside the dead one of this name."""
    yield
    Cell("another").close()
    yield


def leave_a_dead_one():
    def die():
        cell().set(b"dead")
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(child(die), 0)


# What was there before, and what the one who comes in between may find.
ROLES = {
    "opening": (opening, None, {b"opener's", b"comer's"}),
    "closing": (closing, None, {b"old", b"comer's"}),
    "sweeping": (sweeping, leave_a_dead_one, {b"comer's"}),
    "opening_beside_a_dead_one": (opening, leave_a_dead_one, {b"opener's", b"comer's"}),
}


def take_turns(name, count):
    """Let another come at one system call; false if there are fewer."""
    role, prepare, may_be = ROLES[name]
    if prepare is not None:
        prepare()
    seen, comer, waits = 0, None, False
    for _ in Traced(traced(role), goes_on=True):
        seen += 1
        if seen != count:
            continue
        waits = is_being_opened()
        comer = Comer()
        if not waits:
            comer.opened()
    opener_s = _read_at_once(_told)
    if comer is None:
        return False
    if waits:
        comer.opened()
    value = comer.value()
    assert value in may_be, value
    assert opener_s in {b"", value}, "two cells of one name"
    assert current() == value, "another cell has its name"
    comer.end()
    for pipe in (_coming[0], _has_come[0]):
        _read_at_once(pipe)
        os.set_blocking(pipe, True)
    ask(nobody_is_there)
    return True


def _read_at_once(pipe):
    """Give what is in a pipe, if anything is."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(pipe, 100)
    return b""


def main():
    name, first, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for met, count in enumerate(itertools.count(first, step)):
        if not take_turns(name, count):
            print(met)
            return


if __name__ == "__main__":
    main()
