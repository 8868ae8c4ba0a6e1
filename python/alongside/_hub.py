"""Many sessions behind one descriptor, which whatever loop can watch.

A loop knows one thing of all sessions that it serves: whether this descriptor is readable. Then it
calls `dispatch`, which gives each session that has something its turn.
"""

from __future__ import annotations

import functools
import itertools
import weakref

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    _Ready: TypeAlias = Callable[[int], object]

# So many callbacks run before the loop gets its turn.
_PER_TURN = 64


class Watched:
    """One thing that a hub watches for a session."""

    def __init__(
        self,
        hub: Hub,
        number: int,
        session: _core.Session,
        event: str,
        ready: Callable[[int], object],
    ) -> None:
        self._hub = weakref.ref(hub)
        self.number = number
        among = hub.watched
        # Callbacks keep their session; who only waited for it once shall not.
        self._session = weakref.ref(session, lambda _: among.pop(number, None))
        self.event: str = event
        self.ready = ready
        self.aside = _core.Aside(session) if event == "aside" else None

    @property
    def session(self) -> _core.Session | None:
        """The session, as long as somebody has it."""
        return self._session()

    def leave(self) -> None:
        """Be watched no longer."""
        if hub := self._hub():
            hub.remove(self)


class Served:
    """What a hub watches, and keeps, that is no session: callers, or changes of names."""

    def __init__(self, number: int, remove: Callable[[], None], ready: _Ready) -> None:
        self.number = number
        self.remove = remove
        self.ready = ready


class Hub:
    """Watches sessions for one loop. `add`, `remove` and `wake` may be called from any thread."""

    def __init__(self) -> None:
        self._poller = _core.Poller()
        # By number; what is watched for callbacks keeps them, and they their session.
        self.watched: dict[int, Watched | Served] = {}
        self._poked: list[Watched | Served] = []
        self._numbers = itertools.count(1)

    def fileno(self) -> int:
        """Give the descriptor that is readable while `dispatch` has something to do."""
        return self._poller.fileno()

    def add(self, session: _core.Session, event: str, ready: Callable[[int], object]) -> Watched:
        """Call `ready(n)` when a session has something; it may take n messages.

        Args:
            session: is not kept alive by this.
            event: "messages", which are messages and the end, as long as there are any; "once", the
                same, told once each time; "end" alone; "aside", everything but messages; "exit",
                the started program's end.
            ready: is called in the loop.

        Raises:
            Closed: the session is closed. OSError: there are no descriptors left.
        """
        # No lock: each of these is one step of the interpreter, and a signal's handler may come in.
        watched = Watched(self, next(self._numbers), session, event, ready)
        self.watched[watched.number] = watched
        try:
            self.watch(watched)
        except BaseException:
            self.forget(watched)
            raise
        return watched

    def watch(self, watched: Watched) -> None:
        """Begin to watch, or go on after `unwatch`."""
        session, poller, number = watched.session, self._poller, watched.number
        if watched.aside is not None:
            poller.add_aside(watched.aside, number)
        elif session is not None:
            add = {
                "messages": poller.add,
                "once": poller.add_once,
                "end": poller.add_end,
                "exit": poller.add_exit,
            }[watched.event]
            add(session, number)

    def unwatch(self, watched: Watched) -> None:
        """Call it no more until `watch`."""
        session = watched.session
        if session is not None:
            self._poller.remove(session)

    def forget(self, watched: Watched | Served) -> None:
        """Call it no more, and keep nothing of it."""
        self.watched.pop(watched.number, None)

    def remove(self, watched: Watched) -> None:
        """Watch a session no longer."""
        self.unwatch(watched)
        self.forget(watched)

    def serve(
        self, thing: _core.Registration | _core.Watch | _core.Changes | None, ready: _Ready
    ) -> Served:
        """Call `ready(n)` when callers of a registration, or changes, wait to be taken.

        Where there is nothing to watch, when it is poked.
        """
        number, poller = next(self._numbers), self._poller
        if thing is None:
            served = Served(number, _nothing, ready)
        elif isinstance(thing, _core.Registration):
            served = Served(number, functools.partial(poller.remove_callers, thing), ready)
            poller.add_callers(thing, number)
        elif isinstance(thing, _core.Changes):
            served = Served(number, functools.partial(poller.remove_cell, thing), ready)
            poller.add_cell(thing, number)
        else:
            served = Served(number, functools.partial(poller.remove_changes, thing), ready)
            poller.add_changes(thing, number)
        self.watched[number] = served
        return served

    def dismiss(self, served: Served) -> None:
        """Call it no more, and let what it watches go."""
        served.remove()
        self.forget(served)

    def wake(self) -> None:
        """Have `dispatch` called, though nothing has come."""
        self._poller.wake()

    def poke(self, watched: Watched | Served) -> None:
        """Have it called in the loop, though nothing has come."""
        self._poked.append(watched)
        self._poller.wake()

    def dispatch(self, timeout: float | None = 0) -> bool:
        """Give each session that has something its turn.

        Args:
            timeout: seconds to wait until one has; None for ever. 0 does not let go of the
                interpreter.

        Returns:
            Whether there was any.
        """
        numbers = self._poller.wait(timeout)
        budget = _PER_TURN if len(numbers) < 2 else max(1, _PER_TURN // len(numbers))
        while self._poked:
            numbers.append(self._poked.pop().number)
        found = bool(numbers)
        try:
            while numbers:
                watched = self.watched.get(numbers[-1])
                if watched is not None:
                    watched.ready(budget)
                numbers.pop()
        except BaseException:
            # The program ends, or not: who has not had its turn to the end is not told again.
            for number in numbers:
                if watched := self.watched.get(number):
                    self.poke(watched)
            raise
        return found


def _nothing() -> None:
    """Do nothing."""
