"""Deadlines of several steps, and waiting until then for something to read."""

from __future__ import annotations

import select
from time import monotonic

from . import _core

# The most milliseconds that poll(2) takes.
_MOST_MS = (1 << 31) - 1


class Until:
    """A deadline for several steps, which may be called off from another thread."""

    def __init__(self, timeout: float | None, *, may_be_called_off: bool = False) -> None:
        """Begin now.

        Raises:
            ValueError, TypeError: `timeout` is no number of seconds, nor None for ever.
        """
        check_timeout(timeout)
        self._at = None if timeout is None else monotonic() + timeout
        self._beacon = _core.Beacon() if may_be_called_off else None
        self._is_off = False

    def left(self) -> float | None:
        """Give the seconds that are left.

        Raises:
            CalledOff: it was called off.
        """
        if self._is_off:
            raise CalledOff
        return None if self._at is None else max(0.0, self._at - monotonic())

    def at_most(self, seconds: float) -> Until:
        """Give the deadline of one step."""
        left = self.left()
        return Until(seconds if left is None else min(left, seconds))

    def call_off(self) -> None:
        """End what waits with this deadline."""
        self._is_off = True
        if self._beacon is not None:
            self._beacon.light()

    @property
    def may_be_called_off(self) -> bool:
        """Whether somebody may do so."""
        return self._beacon is not None

    def descriptors(self) -> list[int]:
        """Give what is readable once it is called off."""
        return [] if self._beacon is None else [self._beacon.fileno()]


class CalledOff(BaseException):
    """Nobody waits for this any more."""


def check_timeout(timeout: object) -> None:
    """Refuse what is no number of seconds, nor None for ever."""
    if timeout is None:
        return
    if not isinstance(timeout, (int, float)):
        msg = f"timeout is {timeout!r}, it must be a number of seconds, or None for ever"
        raise TypeError(msg)
    if not timeout >= 0:
        msg = f"timeout is {timeout}, it must be at least 0 seconds, or None for ever"
        raise ValueError(msg)


def ready(until: Until, *descriptors: int) -> list[int]:
    """Give those that have something to read, waiting for the first of them until the deadline.

    Raises:
        CalledOff: it was called off.
    """
    poller = select.poll()
    for descriptor in (*descriptors, *until.descriptors()):
        poller.register(descriptor, select.POLLIN)
    while True:
        left = until.left()
        most = None if left is None else min(left * 1000, _MOST_MS)
        found = [descriptor for descriptor, _ in poller.poll(most)]
        until.left()
        if found or most != _MOST_MS:
            return found
