"""Cells of other users: read through a session with a program that holds one.

Nobody else may open a user's files, let alone lock them. So a program that opens a cell with
`allow=` publishes a name for it, and those who may connect to that ask for values: one message is a
version, and the answer is the value when it is newer, at once for version -1. Who asks has one
question open at a time, so nobody is sent more than it takes.

    reader → holder   {"newer_than": version}
    holder → reader   {"version": version, "value": value}, without a value if there is none

A `DistantCell` has one session, and any number of threads and tasks that wait. Each watches the
session itself. Of those who see an answer one takes it, and asks for the next; that one wakes all
the others, and so does whoever ends the session. Nobody sleeps but with a question open.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import Any

from . import _core
from ._closing import Closing
from ._directory import connect, text
from ._errors import (
    Busy,
    Denied,
    HandleLost,
    Invalid,
    NotFound,
    SessionEnded,
    TimedOut,
    WouldBlock,
)
from ._session import limit
from ._until import Until, ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._cells import Cell
    from ._publish import Registration
    from ._session import Session
    from .loops import Loop

# What the names begin with under which cells are served.
_PREFIX = ".cell/"
_MISSING: Any = object()
_PATIENCE_S = 10.0
# How soon a program is asked again that holds a cell and did not answer.
_ASK_AGAIN_S = 1.0
_log = logging.getLogger("alongside")


def own_name(name: str) -> str | None:
    """Give a name@user without the user, if that is this one; else None."""
    plain, _, user = name.rpartition("@")
    if user.isascii() and user.isdigit():
        return plain if int(user) == os.geteuid() else None
    import pwd

    try:
        return plain if pwd.getpwnam(user).pw_uid == os.geteuid() else None
    except KeyError:
        msg = f"{name!r} is no name: there is no user {user!r} here"
        raise ValueError(msg) from None


def refusal(name: str) -> Denied:
    """Give what is said of changing another user's cell."""
    msg = (
        f"the cell {name!r} is another user's: it can be read, and not changed\n"
        "only programs of its own user hold it and change it"
    )
    return Denied(msg)


class Service:
    """Serves a cell of this program to other users."""

    def __init__(self, cell: Cell[Any], allow: Iterable[int | str]) -> None:
        from ._changes import OnChange
        from ._publish import publish

        self._cell = cell
        self._changes = _core.Changes(cell)
        # Who has asked for something newer than this, and not been answered.
        self._asked: dict[Session, int] = {}
        self._registration: Registration = publish(
            _PREFIX + cell.name, self._answer, scope="machine", allow=allow
        )
        self._told = OnChange(self._changes, self._tell, _nothing, None, cell)

    def _answer(self, question: Any, session: Session) -> None:
        newer_than = question["newer_than"]
        if not isinstance(newer_than, int):
            msg = f"newer_than is {newer_than!r}, a version is a number"
            raise TypeError(msg)
        self._asked = {each: seen for each, seen in self._asked.items() if each.alive}
        self._asked[session] = newer_than
        self._tell()

    def _tell(self) -> Any:
        """Answer those for whom there is something newer. Both run in the library's thread."""
        from ._changes import NOTHING

        self._changes.take()
        version = self._cell._version()
        for session, newer_than in list(self._asked.items()):
            if version > newer_than:
                del self._asked[session]
                self._send(session)
        return NOTHING

    def _send(self, session: Session) -> None:
        try:
            value, version = self._cell.read()
            answer: dict[str, Any] = {"version": version, "value": value}
        except NotFound:
            answer = {"version": 0}
        try:
            session.send_nowait(answer)
        except (SessionEnded, WouldBlock):
            # It has one question open, so there is room; or it is gone.
            session.close(timeout=0)

    def close(self) -> None:
        self._told.stop()
        self._registration.revoke()
        for session in self._registration.sessions:
            session.close(timeout=0)


def _nothing(_: object) -> None:
    """Do nothing."""


class DistantCell(Closing):
    """A cell of another user, to be read; `Cell("name@user", scope="machine")` gives it.

    It is there as long as a program of that user holds the cell and allows this one's user to read
    it. What it gives was the value a moment ago. Whatever else a `Cell` does raises `Denied`.

    Attributes:
        name: the name, as name@user.
        closed: whether it was closed here.
    """

    _callback: _Following | None = None

    def __init__(self, name: str, kind: Any = None) -> None:
        self.name = text(name)
        self.closed = False
        self._kind = kind
        self._changed = threading.RLock()
        self._value: Any = _MISSING
        self._version = 0
        # How often all holders were gone, as far as it was seen. Versions begin anew there.
        self._ends = 0
        self._session: Session | None = None
        # What those who wait sleep on.
        self._sleeps: set[_core.Poller] = set()
        self._refresh()

    def _refresh(self) -> Session:
        """Take what has come, from another holder if the one that served this has ended.

        Gives the session, which has a question open: it is readable when more has come.
        """
        with self._changed:
            while not self.closed:
                session = self._session or self._connect()
                if self._has_taken_all(session):
                    return session
        msg = f'the cell "{self.name}" is closed; open it again'
        raise ValueError(msg)

    def _has_taken_all(self, session: Session) -> bool:
        """Take what has come; False if the session has ended."""
        try:
            while True:
                self._note(session.receive_nowait())
                self._ask(session)
        except WouldBlock:
            return True
        except SessionEnded:
            self._leave()
            return False
        except HandleLost:
            # It is the parent's, who goes on with it.
            raise
        except BaseException:
            # An answer may be taken, and nothing asked: nobody would hear anything any more.
            self._leave()
            raise

    def _connect(self) -> Session:
        """Have a session with a program that holds it, and the value that there is."""
        until = Until(limit(_PATIENCE_S))
        while True:
            # One may have just ended. Then another one holds it, or it is told that none does.
            with contextlib.suppress(SessionEnded):
                session = self._session = self._connected(until)
                break
        if self.closed:
            # By another thread, which may have found no session.
            self._leave()
        return session

    def _connected(self, until: Until) -> Session:
        session = self._called(until)
        try:
            session.send({"newer_than": -1}, timeout=until.left())
            self._note(session.receive(timeout=until.left()))
            self._ask(session)
        except BaseException:
            session.close(timeout=0)
            raise
        return session

    def _called(self, until: Until) -> Session:
        try:
            return connect(_PREFIX + self.name, scope="machine", timeout=until.left())
        except NotFound:
            self._value = _MISSING
            self._ends += 1
            msg = (
                f'no program holds the cell "{self.name}" for others to read\n'
                "its user's programs open it with allow= for that"
            )
            raise NotFound(msg) from None

    def _ask(self, session: Session) -> None:
        session.send({"newer_than": self._version}, timeout=_PATIENCE_S)

    def _note(self, answer: Any) -> None:
        version = answer["version"]
        if version < self._version:
            self._ends += 1
        self._version = version
        self._value = answer.get("value", _MISSING)
        self._wake_all()

    def _leave(self) -> None:
        """End the session; whoever waits looks for another one, or finds this closed."""
        session, self._session = self._session, None
        if session is not None:
            # A forked child has nothing of it.
            with contextlib.suppress(HandleLost):
                session.close(timeout=0)
        self._wake_all()

    def _wake_all(self) -> None:
        for sleep in list(self._sleeps):
            sleep.wake()

    def get(self, default: Any = ...) -> Any:
        """Give the value; see `Cell.get`.

        Raises:
            NotFound: it has none, or no program holds the cell any more.
            Denied: the programs that hold it do not allow this one's user to read it.
        """
        with self._changed:
            with contextlib.suppress(NotFound):
                self._refresh()
            if self._value is not _MISSING:
                return self._checked(self._value)
        if default is ...:
            msg = f"the cell {self.name!r} has no value, or nobody holds it"
            raise NotFound(msg)
        return default

    def read(self) -> tuple[Any, int]:
        """Give the value and its version."""
        with self._changed:
            return self.get(), self._version

    def wait(self, newer_than: int, /, *, timeout: float | None = None) -> tuple[Any, int]:
        """Give the value and its version when that is newer; see `Cell.wait`.

        Raises:
            NotFound: no program holds the cell any more.
        """
        until = Until(timeout)
        with Waiter(self) as waiter:
            while True:
                found = waiter.look(newer_than)
                if found is not None:
                    return found
                if not ready(until, waiter.fileno()):
                    raise self._unchanged()

    async def achanged(
        self, newer_than: int = 0, /, *, timeout: float | None = None
    ) -> tuple[Any, int]:
        """Give the value and its version when that is newer, in asyncio or trio.

        Raises:
            NotFound: no program holds the cell any more.
        """
        from . import _tasks

        until = _tasks.deadline(timeout)
        with Waiter(self) as waiter:
            while True:
                found = waiter.look(newer_than)
                if found is not None:
                    return found
                if not await _tasks.readable(waiter.fileno(), until):
                    raise self._unchanged()

    def on_change(
        self, callback: Callable[[Any], object] | None, /, *, on: Loop | None = None
    ) -> None:
        """Call `callback(value)` for each new value from now on; see `Cell.on_change`.

        While no program holds the cell that lets this one's user read it, nothing is called; once
        there is one again, its value counts as new if it is another one.
        """
        self._replace_callback(None)
        if callback is not None:
            self._replace_callback(_Following(self, callback, on))
            if self.closed:
                self._replace_callback(None)

    def _replace_callback(self, by: _Following | None) -> None:
        """Stop what is called, from whatever thread; the last one to come stays."""
        # No lock: a child forked while it is taken could not close this. Each is one step.
        of_this = vars(self)
        while True:
            known = of_this.pop("_callback", None)
            if known is not None:
                known.stop()
            if by is None or of_this.setdefault("_callback", by) is by:
                return

    def _unchanged(self) -> TimedOut:
        return TimedOut(f"the cell {self.name!r} has not changed before the deadline")

    def _checked(self, value: Any) -> Any:
        if self._kind is None:
            return value
        from ._data import convert

        try:
            return convert(value, self._kind, f'the value of the cell "{self.name}"')
        except Invalid as error:
            error.version = self._version
            raise

    def _refused(self, *_: object, **__: object) -> Any:
        raise refusal(self.name)

    set = compare_and_set = get_or_set = aget_or_set = update = holders = _refused

    @property
    def max_size(self) -> int:
        """What only its owner's user may ask."""
        raise refusal(self.name)

    def close(self) -> None:
        """Read it no more, nor does who waits; a second time does nothing."""
        self.closed = True
        self.on_change(None)
        self._leave()

    def __repr__(self) -> str:
        return f"<alongside.DistantCell {self.name!r}{', closed' if self.closed else ''}>"

    def __reduce__(self) -> Any:
        msg = "a cell cannot be pickled\nopen it by its name in the other process"
        raise TypeError(msg)


DistantCell.__module__ = "alongside"


class Waiter(Closing):
    """One thread or task that waits for news of another user's cell."""

    def __init__(self, cell: DistantCell) -> None:
        self._cell = cell
        self._ends = cell._ends
        self._session: Session | None = None
        self._sleep = _core.Poller()
        # Woken from now on, so whatever comes after a look is not missed.
        cell._sleeps.add(self._sleep)

    def look(self, newer_than: int) -> tuple[Any, int] | None:
        """Give the value and its version, if that is newer; else wait until this is readable.

        Raises:
            NotFound: no program holds the cell any more, or none did meanwhile.
            ValueError: it is closed.
        """
        self._sleep.wait(0)
        cell = self._cell
        while True:
            with cell._changed, contextlib.suppress(SessionEnded):
                self._watch(cell._refresh())
                if cell._version > newer_than and cell._value is not _MISSING:
                    return cell._checked(cell._value), cell._version
                if cell._ends != self._ends:
                    msg = f'no program held the cell "{cell.name}" meanwhile; versions begin anew'
                    raise NotFound(msg)
                return None

    def _watch(self, session: Session) -> None:
        if session is not self._session:
            # One that is over has left by itself.
            self._sleep.add(session, 1)
            self._session = session

    def fileno(self) -> int:
        """Give the descriptor that is readable when it is time for another look."""
        return self._sleep.fileno()

    def close(self) -> None:
        """Wait no more."""
        self._cell._sleeps.discard(self._sleep)
        # Its descriptors go now, though the traceback of an error may keep this.
        del self._sleep


class _Following:
    """Hands over each new value of another user's cell.

    It is looked for in a thread: who holds the cell may take its time, and may come and go.
    """

    def __init__(
        self, cell: DistantCell, callback: Callable[[Any], object], on: Loop | None
    ) -> None:
        from ._changes import NOTHING, OnChange

        self._cell = cell
        with cell._changed:
            with contextlib.suppress(NotFound):
                cell._refresh()
            self._known = (cell._value, cell._version)
        self._news: Any = NOTHING
        self._stop = _core.Beacon()
        self._is_over = False
        self._told = OnChange(None, self._take, callback, on, cell)
        named = f"alongside: {cell.name}"
        threading.Thread(target=self._run, name=named, daemon=True).start()

    def stop(self) -> None:
        """Call nobody any more."""
        self._is_over = True
        self._told.stop()
        self._stop.light()

    def _take(self) -> Any:
        from ._changes import NOTHING

        news, self._news = self._news, NOTHING
        return news if news is NOTHING else self._cell._checked(news)

    def _run(self) -> None:
        try:
            self._follow()
        except Exception:
            # A shortage, or a scope that is gone.
            _log.exception("changes cannot be seen; callbacks end, of %r", self._cell)
            self._told.stop()

    def _follow(self) -> None:
        """Read from whoever holds it, until that is over."""
        from ._watch import watch

        name, _, _ = self._cell.name.rpartition("@")
        with watch(_PREFIX + name, scope="machine") as holders:
            while not self._is_over:
                again = Until(None)
                try:
                    self._read()
                except (NotFound, Denied):
                    # Until another one holds it.
                    pass
                except (Busy, TimedOut, SessionEnded):
                    again = Until(_ASK_AGAIN_S)
                self._wait(again, holders.fileno())
                while holders._take() is not None:
                    pass

    def _read(self) -> None:
        with DistantCell(self._cell.name) as cell:
            while not self._is_over:
                session = cell._refresh()
                self._note(cell)
                self._wait(Until(None), session.fileno())

    def _note(self, cell: DistantCell) -> None:
        """Hand over what the cell has, if that is new; values of other holders may be the same."""
        known, self._known = self._known, (cell._value, cell._version)
        if cell._value is not _MISSING and not _is_same(known, self._known):
            self._news = cell._value
            self._told.poke()

    def _wait(self, until: Until, descriptor: int) -> None:
        ready(until, descriptor, self._stop.fileno())


def _is_same(one: tuple[Any, int], other: tuple[Any, int]) -> bool:
    """Tell whether two values with their versions are one for certain."""
    if one[1] != other[1]:
        return False
    try:
        return bool(one[0] == other[0])
    except ValueError:
        # Arrays say it for each element.
        return False
