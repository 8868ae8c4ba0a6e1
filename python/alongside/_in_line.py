"""Tasks that wait for a lock stand in line, and a thread waits for the first of them.

Who waits for a lock sleeps on a word in shared memory, which no event loop can watch. A task that
looked again and again instead would come last for ever where others take the lock in turns: each
of those sleeps until the very moment at which it is free.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from typing import Any, Generic, TypeVar

from . import _tasks
from ._errors import TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import _core

_T = TypeVar("_T")

# So often the thread looks whether anybody still wants what it waits for.
_LOOK_S = 0.05


class Wants(Generic[_T]):
    """What a task waits for. The thread calls all of it, the task only `give_back`."""

    def take(self, seconds: float) -> _T:
        """Take it, in at most so many seconds; called again and again. Raises `TimedOut`."""
        raise NotImplementedError

    def give_back(self, taken: _T) -> None:
        """Take it back: the task has gone."""
        raise NotImplementedError

    def leave(self) -> None:
        """Wait no longer; called whether it was taken or not."""


class ToHave(Wants[None]):
    """A lock. It is this object's first, and then passed on: the task may have gone by then."""

    def __init__(self, lock: _core.Lock) -> None:
        self._lock = lock
        self._was_abandoned = False

    def take(self, seconds: float) -> None:
        self._lock._acquire_for(id(self), seconds)
        self._was_abandoned = self._lock.abandoned

    def give_back(self, taken: None) -> None:
        del taken
        # Whoever has it next is told what nobody has heard here.
        give = self._lock._abandon_for if self._was_abandoned else self._lock._release_for
        give(id(self))


class ToEnter(Wants["_core.RwHold"]):
    """A lock's room, to read or to write there. A writer that waits has the door."""

    def __init__(self, lock: _core.RWLock, *, is_writer: bool) -> None:
        self._entry = lock._entry(is_writer)

    def take(self, seconds: float) -> _core.RwHold:
        return self._entry.acquire(seconds)

    def give_back(self, taken: _core.RwHold) -> None:
        taken.abandon()

    def leave(self) -> None:
        self._entry.leave()


class _Place(Generic[_T]):
    """Where one task stands, until it leaves or is served."""

    def __init__(self, wants: Wants[_T]) -> None:
        self.wants = wants
        self.handover = _tasks.Handover(wants.give_back)


# Those of this process, and its parents'.
_lines: weakref.WeakSet[Line] = weakref.WeakSet()


class Line:
    """The tasks of this process that wait for one lock, in whatever loops."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin()
        _lines.add(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._places: deque[_Place[Any]] = deque()
        # Under this tasks come, and the thread ends.
        self._changing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_ending = False

    async def wait(self, wants: Wants[_T], until: float | None) -> list[_T]:
        """Give what is taken for this task, in its turn; nothing if the deadline came first.

        Args:
            wants: what it waits for.
            until: the deadline, as the loop counts; None for ever.

        Raises:
            Exception: what taking it raises.
        """
        if self._pid != os.getpid():
            # In a forked child nobody stands here, nor does the thread.
            self._begin()
        place = _Place(wants)
        self._join(place)
        return await place.handover.wait(until)

    def _join(self, place: _Place[Any]) -> None:
        with self._changing:
            if self._thread is None:
                named = f"alongside: {self._name}"
                self._thread = threading.Thread(target=self._serve, name=named, daemon=True)
                self._thread.start()
            self._places.append(place)

    def _first(self) -> _Place[Any] | None:
        """Give the first place at which a task stands; the thread ends if there is none."""
        with self._changing:
            while self._places and not self._is_ending:
                if not self._places[0].handover.is_left:
                    return self._places[0]
                self._places.popleft().wants.leave()
            self._thread = None
            return None

    def end(self) -> None:
        """Wait for the thread: it takes nothing any more, and what nobody wants it has given back.

        At the end of the program it would be too late to do so.
        """
        thread, self._is_ending = self._thread, True
        if thread is not None and self._pid == os.getpid():
            thread.join()
        self._is_ending = False

    def _serve(self) -> None:
        while (place := self._first()) is not None:
            taken: list[Any] = []
            error: BaseException | None = None
            try:
                taken = [place.wants.take(_LOOK_S)]
            except TimedOut:
                continue
            except BaseException as raised:
                error = raised.with_traceback(None)
            place.wants.leave()
            self._places.popleft()
            place.handover.give(taken, error)


@atexit.register
def _end_all() -> None:
    for line in list(_lines):
        line.end()
