"""Cells of other users: read through a session with a program that holds one.

Nobody else may open a user's files, let alone lock them. So a program that opens a cell with
`allow=` publishes a name for it, and those who may connect to that ask for values: one message is a
version, and the answer is the value when it is newer, at once for version -1. Who asks has one
question open at a time, so nobody is sent more than it takes.

    reader → holder   {"newer_than": version}
    holder → reader   {"version": version, "value": value}, without a value if there is none
"""

from __future__ import annotations

import os
import select
import threading
from typing import Any

from . import _core
from ._directory import Until, connect, text
from ._errors import Denied, NotFound, SessionEnded, TimedOut, WouldBlock
from ._session import limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from ._cells import Cell
    from ._publish import Registration
    from ._session import Session

# What the names begin with under which cells are served.
_PREFIX = ".cell/"
_MISSING: Any = object()
_PATIENCE_S = 10.0


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


class DistantCell:
    """A cell of another user, to be read; `Cell("name@user", scope="machine")` gives it.

    It is there as long as a program of that user holds the cell and allows this one's user to read
    it. What it gives was the value a moment ago.

    Attributes:
        name: the name, as name@user.
        closed: whether it was closed here.
    """

    def __init__(self, name: str, kind: Any = None) -> None:
        self.name = text(name)
        self.closed = False
        self._kind = kind
        self._changed = threading.RLock()
        self._value: Any = _MISSING
        self._version = 0
        self._session: Session | None = None
        self._connect(Until(limit(_PATIENCE_S)))

    def _connect(self, until: Until) -> None:
        """Have a session with a program that holds it, and the value that there is."""
        name, _, user = self.name.rpartition("@")
        session = connect(f"{_PREFIX}{name}@{user}", scope="machine", timeout=until.left())
        try:
            session.send({"newer_than": -1}, timeout=until.left())
            self._note(session.receive(timeout=until.left()))
        except BaseException:
            session.close(timeout=0)
            raise
        self._session = session
        self._ask()

    def _ask(self) -> None:
        session = self._session
        if session is not None:
            session.send({"newer_than": self._version}, timeout=_PATIENCE_S)

    def _note(self, answer: Any) -> None:
        self._version = answer["version"]
        self._value = answer.get("value", _MISSING)

    def _refresh(self) -> None:
        """Take what has come; look for another holder if the one that served this has ended."""
        if self.closed:
            msg = f"the cell {self.name!r} is closed; open it again"
            raise ValueError(msg)
        while self._session is not None:
            try:
                answer = self._session.receive_nowait()
            except WouldBlock:
                return
            except SessionEnded:
                self._session.close(timeout=0)
                self._session = None
            else:
                self._note(answer)
                self._ask()
        # Versions begin anew where all holders were gone.
        self._connect(Until(limit(_PATIENCE_S)))

    def get(self, default: Any = ...) -> Any:
        """Give the value; see `Cell.get`.

        Raises:
            NotFound: it has none, or no program holds the cell any more.
            Denied: the programs that hold it do not allow this one's user to read it.
        """
        with self._changed:
            try:
                self._refresh()
            except NotFound:
                self._value = _MISSING
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
        while True:
            with self._changed:
                self._refresh()
                if self._version > newer_than and self._value is not _MISSING:
                    return self._checked(self._value), self._version
                session = self._session
            if session is None:
                continue
            poller = select.poll()
            poller.register(session.fileno(), select.POLLIN)
            left = until.left()
            if not poller.poll(None if left is None else left * 1000) and left is not None:
                msg = f"the cell {self.name!r} has not changed before the deadline"
                raise TimedOut(msg)

    async def achanged(
        self, newer_than: int = 0, /, *, timeout: float | None = None
    ) -> tuple[Any, int]:
        """Give the value and its version when that is newer, in asyncio or trio."""
        from . import _tasks

        until = _tasks.deadline(timeout)
        while True:
            with self._changed:
                self._refresh()
                if self._version > newer_than and self._value is not _MISSING:
                    return self._checked(self._value), self._version
                session = self._session
            if session is not None and not await _tasks.readable(session.fileno(), until):
                msg = f"the cell {self.name!r} has not changed before the deadline"
                raise TimedOut(msg)

    def _checked(self, value: Any) -> Any:
        if self._kind is None:
            return value
        from ._data import convert

        return convert(value, self._kind)

    def _refused(self, *_: object, **__: object) -> Any:
        msg = (
            f"the cell {self.name!r} is another user's: it can be read, and not changed\n"
            "its user's own programs change it"
        )
        raise Denied(msg)

    set = compare_and_set = get_or_set = update = _refused

    def close(self) -> None:
        """Read it no more; a second time does nothing."""
        self.closed = True
        session, self._session = self._session, None
        if session is not None:
            session.close(timeout=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<alongside.DistantCell {self.name!r}{', closed' if self.closed else ''}>"

    def __reduce__(self) -> Any:
        msg = "a cell cannot be pickled\nopen it by its name in the other process"
        raise TypeError(msg)


DistantCell.__module__ = "alongside"
