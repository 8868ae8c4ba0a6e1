"""Values that live as long as some program holds them.

Loads when a program first opens a cell.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from . import _core
from ._closing import Closing
from ._errors import TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from typing_extensions import TypeVar

    from ._changes import OnChange
    from ._distant import Service
    from ._types import Scope
    from .loops import Loop

    _T = TypeVar("_T", default=Any)


_MISSING: Any = object()
# Which first values are made at the moment, and by which threads of which process.
_made: set[tuple[int, int, str]] = set()
# How soon a task looks again whether it may make the first value.
_LOOK_AGAIN_S = 0.005


class Cell(_core.Cell["_T"], Closing):
    """A value that programs share, and that is gone when the last of them lets go of it.

        state = alongside.Cell("transfer/state")
        state.get_or_set(lambda: {"files": 0})
        state.set({"files": 3})

    Opening a cell makes this process one of its holders, until it calls `close()`, leaves the
    cell's `with`, or ends, however that comes about: `kill -9` lets go as surely as `close`.
    (Dropping the object does not.) Whoever opens the cell after the last holder is gone finds it
    without a value.

    Reading locks nothing, and gives a whole value whatever becomes of those who write. Each value
    has a version: 1 for the first, and one more for each that follows.

    Args:
        name: parts joined by slashes, at most 200 bytes of UTF-8, without control characters and
            "@". Names of cells, of locks and in the directory do not meet.
        scope: who shares it: the programs of this user, of this login session, or, in the scope
            "machine", of this user and those that `allow` names. Another user's cell is
            "name@user" there; it can be read, and gives a `DistantCell`.
        max_size: the most bytes that a value may take, encoded. All have to say the same.
        type: what values are checked against when they are put in, and made into when they are
            read.
        allow: in the scope "machine", who else may read the value as long as this program holds it:
            users by name or number, groups as "group:NAME".

    Raises:
        ValueError: the name breaks a rule.
        NoScope: there is no login session.
        Incompatible: it is open with another `max_size`.
        Corrupt: its file is none of this library's, or of another version.
        Denied: the scope's directory is not this user's alone.
        TimedOut: another process is stopped in the middle of opening it.
        OSError: it cannot be made, or nothing more can be opened; `filename` says which file.
        TypeError: no value can be checked against `type`.

    Example:
        >>> import alongside
        >>> with alongside.Cell("example/state") as state:
        ...     state.get_or_set(lambda: {"files": 0})
        ...     state.update(lambda value: {"files": value["files"] + 1})
        ...     state.read()
        {'files': 0}
        {'files': 1}
        ({'files': 1}, 2)
    """

    _callback: OnChange | None = None
    _service: Service | None = None

    if not TYPE_CHECKING:

        def __new__(
            cls,
            name: str,
            /,
            *,
            scope: Scope = "user",
            max_size: int = 65536,
            type: type[_T] | None = None,
            allow: Iterable[int | str] = (),
            _hold: bool = True,
        ) -> Any:
            """Open a cell; one of another user's can be read only, and is a `DistantCell`."""
            if scope == "machine" and isinstance(name, str) and "@" in name:
                from ._distant import DistantCell, own_name

                own = own_name(name)
                if own is None:
                    return DistantCell(name, type)
                name = own
            if allow and scope != "machine":
                msg = (
                    f"nobody else can read cells of scope {scope!r}, whatever allow says\n"
                    'Cell(..., scope="machine") is for several users'
                )
                raise ValueError(msg)
            return super().__new__(
                cls, name, scope=scope, max_size=max_size, type=type, _hold=_hold
            )

    def __init__(  # pyright: ignore[reportInconsistentConstructor] - `allow` is of this one
        self,
        _name: str,
        /,
        *,
        scope: Scope = "user",
        max_size: int = 65536,
        type: type[_T] | None = None,
        allow: Iterable[int | str] = (),
        _hold: bool = True,
    ) -> None:
        # What it was made from is `__new__`'s business.
        del scope, max_size, type, _hold
        if allow:
            from ._distant import Service

            try:
                self._service = Service(self, allow)
            except BaseException:
                super().close()
                raise

    def get_or_set(self, factory: Callable[[], _T], /, *, timeout: float | None = None) -> _T:
        """Give the value; if there is none yet, make it, or wait for who does.

        Of all programs one runs its factory. If that raises, or its process dies, the next one runs
        its own.

        Args:
            factory: gives the first value.
            timeout: seconds to wait for another program's; None for ever.

        Raises:
            TimedOut: the other program's factory has not ended.
            RuntimeError: the factory asks for this very cell, and would wait for itself.
        """
        while True:
            found = self.get(_MISSING)
            if found is not _MISSING:
                return found
            making = self._enter_factory()
            first = self._make_first(timeout)
            if first is None:
                continue
            try:
                _made.add(making)
                self.compare_and_set(factory(), version=0)
            finally:
                _made.discard(making)
                first.release()

    async def aget_or_set(
        self,
        factory: Callable[[], _T] | Callable[[], Awaitable[_T]],
        /,
        *,
        timeout: float | None = None,
    ) -> _T:
        """Do what `get_or_set` does, in asyncio or trio; the factory may be an async function."""
        from . import _tasks

        until = _tasks.deadline(timeout)
        while True:
            found = self.get(_MISSING)
            if found is not _MISSING:
                return found
            making = self._enter_factory()
            try:
                first = self._make_first(0)
            except TimedOut:
                if not await _tasks.pause(_LOOK_AGAIN_S, until):
                    raise
                continue
            if first is None:
                continue
            try:
                _made.add(making)
                made: Any = factory()
                if hasattr(made, "__await__"):
                    made = await made
                self.compare_and_set(made, version=0)
            finally:
                _made.discard(making)
                first.release()

    def update(self, change: Callable[[_T], _T], /) -> _T:
        """Put in the value's place what `change(value)` gives, and give that.

        No value in between is lost: if another program is faster, `change` is called once more,
        with what that has set.

        Raises:
            NotFound: there is no value.
        """
        while True:
            value, version = self.read()
            new = change(value)
            if self.compare_and_set(new, version=version):
                return new

    async def achanged(
        self, newer_than: int = 0, /, *, timeout: float | None = None
    ) -> tuple[_T, int]:
        """Give the value and its version when that is newer, in asyncio or trio.

        Args:
            newer_than: a version that `read` or this gave; 0 waits for any value.
            timeout: seconds to wait; None for ever.

        Raises:
            TimedOut: nothing has changed.
        """
        from . import _tasks

        until = _tasks.deadline(timeout)
        changes = _core.Changes(self)
        while self._version() <= newer_than:
            if not await _tasks.changed(changes, until):
                # It says so.
                return self.wait(newer_than, timeout=0)
            changes.take()
        return self.read()

    def on_change(
        self, callback: Callable[[_T], object] | None, /, *, on: Loop | None = None
    ) -> None:
        """Call `callback(value)` for each new value from now on. None takes it away.

        Where values come faster than they are handled, those in between are skipped; the last one
        is not.

        Args:
            callback: a function; on `Asyncio` and `Trio` an async one as well, which is awaited
                before the next value is taken. What it raises goes to `logging`.
            on: where it runs, one of `alongside.loops`; the library's thread if nothing is said.

        Raises:
            OSError: this user watches too much already; `alongside doctor` has the limit.
        """
        known, self._callback = self._callback, None
        if known is not None:
            known.stop()
        if callback is not None:
            from ._changes import OnChange

            changes = _core.Changes(self)
            news = _News(self, changes)
            self._callback = OnChange(changes, news.take, callback, on, self)

    def close(self) -> None:
        """Let go of it; the value is gone with the last who does. A second time does nothing."""
        self.on_change(None)
        service, self._service = self._service, None
        if service is not None:
            service.close()
        super().close()

    def __repr__(self) -> str:
        return f"<alongside.Cell {self.name!r}{', closed' if self.closed else ''}>"

    def __reduce__(self) -> Any:
        msg = "a cell cannot be pickled\nopen it by its name in the other process"
        raise TypeError(msg)

    def _enter_factory(self) -> tuple[int, int, str]:
        """Give what says that this thread, or task, makes the first value."""
        making = (os.getpid(), _who(), self._path)
        if making in _made:
            msg = f"the factory of {self!r} asks for that cell, and would wait for itself"
            raise RuntimeError(msg)
        return making


Cell.__module__ = "alongside"


def _who() -> int:
    """Give what stands for the task, or else for the thread, that runs here."""
    from ._locks import this_task

    return this_task() or threading.get_ident()


class _News:
    """Gives each value of a cell once, as far as it is seen in time."""

    def __init__(self, cell: Cell[Any], changes: _core.Changes) -> None:
        self._cell = cell
        self._changes = changes
        self._version = cell._version()

    def take(self) -> Any:
        """Give the value if it is a new one."""
        from ._changes import NOTHING
        from ._errors import Closed, Invalid

        if self._cell.closed:
            msg = "the cell is closed"
            raise Closed(msg, by="me")
        self._changes.take()
        if self._cell._version() <= self._version:
            return NOTHING
        try:
            value, self._version = self._cell.read()
        except Invalid as error:
            self._version = error.version
            raise
        return value
