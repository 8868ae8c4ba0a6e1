"""Watching names appear, change and vanish.

Loads when a program first watches.
"""

from __future__ import annotations

from . import _core
from ._closing import Closing
from ._directory import text
from ._errors import Closed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from ._changes import OnChange
    from ._types import Scope
    from .loops import Loop

Change = _core.Change


class Watch(_core.Watch, Closing):
    """The names that fit a pattern, and what becomes of them; `watch` gives it.

    Iterating gives a `Change` for each program that is there (`initial`), then for each that
    appears, changes or vanishes, as it happens, until the watch is closed.
    """

    _callback: OnChange | None = None
    _is_awaited = False
    _pattern = "*"

    def next(self, *, timeout: float | None = None) -> Change:
        """Give the next change, waiting for it.

        Args:
            timeout: seconds to wait; None for ever.

        Raises:
            TimedOut: nothing has changed. Closed: the watch is closed.
        """
        return self._next(timeout)

    def fileno(self) -> int:
        """Give a descriptor that is readable while there is a change to take."""
        return self._fileno()

    def __iter__(self) -> Iterator[Change]:
        """Give each change as it happens, until the watch is closed."""
        while True:
            try:
                yield self._next(None)
            except Closed:
                return

    async def __aiter__(self) -> AsyncIterator[Change]:
        """Give each change as it happens, in asyncio or trio, until the watch is closed."""
        from ._tasks import readable

        while True:
            try:
                change = self._take()
            except Closed:
                return
            if change is None:
                await self._wait(readable)
            else:
                yield change

    async def _wait(self, readable: Callable[[int], Awaitable[object]]) -> None:
        if self._is_awaited:
            msg = "another task iterates over this watch\nmake one for each"
            raise RuntimeError(msg)
        self._is_awaited = True
        try:
            await readable(self._fileno())
        finally:
            self._is_awaited = False

    def on_change(
        self, callback: Callable[[Change], object] | None, /, *, on: Loop | None = None
    ) -> None:
        """Call `callback(change)` for each change. None takes it away.

        Args:
            callback: a function; on `Asyncio` and `Trio` an async one as well, which is awaited
                before the next change is taken. What it raises goes to `logging`.
            on: where it runs, one of `alongside.loops`; the library's thread if nothing is said.
        """
        known, self._callback = self._callback, None
        if known is not None:
            known.stop()
        if callback is not None:
            from ._changes import NOTHING, OnChange

            def take() -> Change:
                found = self._take()
                return NOTHING if found is None else found

            self._callback = OnChange(self, take, callback, on, self)

    def close(self) -> None:
        """End the watch, for whoever waits as well."""
        self.on_change(None)
        self._close()

    def __repr__(self) -> str:
        return f"<alongside.Watch of {self._pattern!r}>"


Watch.__module__ = "alongside"


def watch(pattern: str = "*", /, *, scope: Scope = "user") -> Watch:
    """Watch the running programs whose name fits.

        for change in alongside.watch("viewer/*"):
            print(change.kind, change.entry.name, change.entry.about)

    Args:
        pattern: "*" stands for any text, slashes included, "?" for one character.
        scope: who shares the names.

    Raises:
        Denied: the scope's directory is not this user's alone.
        OSError: it cannot be watched; `filename` says which.
    """
    watch = Watch(text(pattern), scope)
    watch._pattern = pattern
    return watch
