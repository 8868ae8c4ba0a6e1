"""Deadlines of several steps, and waiting until then for something to read."""

from __future__ import annotations

import select
from time import monotonic

# The most milliseconds that poll(2) takes.
_MOST_MS = (1 << 31) - 1


class Until:
    """A deadline for several steps."""

    def __init__(self, timeout: float | None) -> None:
        """Begin now.

        Raises:
            ValueError, TypeError: `timeout` is no number of seconds, nor None for ever.
        """
        check_timeout(timeout)
        self._at = None if timeout is None else monotonic() + timeout

    def left(self) -> float | None:
        """Give the seconds that are left."""
        return None if self._at is None else max(0.0, self._at - monotonic())


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
    """Give those that have something to read, waiting for the first of them until the deadline."""
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    while True:
        left = until.left()
        most = None if left is None else min(left * 1000, _MOST_MS)
        found = [descriptor for descriptor, _ in poller.poll(most)]
        if found or most != _MOST_MS:
            return found
