"""The directory: names under which running programs are found.

Loads when a program first publishes, or looks a name up.
"""

import atexit
import json
import logging

from . import _core
from ._session import Session, limit, remember

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Any, Literal, Self, TypeAlias

    from ._hub import Served
    from .loops import Loop

    _Scope: TypeAlias = Literal["user"]

Entry = _core.Entry
_log = logging.getLogger("alongside")


class Registration(_core.Registration):
    """A name that this program has published; `publish` gives it.

    It belongs to the process: it ends with `revoke()`, at the end of its `with`, or when the
    process ends, however that comes about.

    Attributes:
        sessions: those with programs that are connected now.
    """

    _callers: "Served | None" = None
    _loop: "Loop"
    _on_connect: "Callable[[Session], object] | None"
    _on_message: "Callable[[Any, Session], object] | None"

    def _serve(self, loop: "Loop") -> None:
        """Let callers in, in a place of the program's choice."""
        self._loop = loop
        self._open: dict[int, Session] = {}
        self._callers = loop._hub.serve(self, self._let_in)

    def _let_in(self, _budget: int) -> None:
        try:
            connections = self._step()
        except Exception:
            _log.exception("callers cannot be let in, by %r", self)
            return
        for connection in connections:
            session = Session(connection, None)
            remember(session)
            self._open[id(session)] = session
            try:
                self._take_up(session)
            except Exception:
                # It has ended already, or the program's own callback raised.
                _log.exception("a caller is turned away, by %r", self)
                self._leave(session)

    def _take_up(self, session: Session) -> None:
        on_connect, on_message = self._on_connect, self._on_message
        if on_connect is not None:
            on_connect(session)
        if on_message is not None:
            session.on_message(lambda data: on_message(data, session), on=self._loop)
        if session._served is None or session._served.close is None:
            session.on_close(lambda _: self._open.pop(id(session), None), on=self._loop)

    def _leave(self, session: Session) -> None:
        self._open.pop(id(session), None)
        session.close(timeout=0)

    @property
    def sessions(self) -> list[Session]:
        """Give the sessions with programs that are connected now."""
        if self._callers is None:
            return []
        return [session for session in list(self._open.values()) if session.alive]

    @property
    def name(self) -> str:
        """The name.

        Raises:
            ValueError: it is revoked.
        """
        return self.entry.name

    @property
    def instance(self) -> str:
        """What tells this registration from all others, also of the same name."""
        return self.entry.instance

    @property
    def entry(self) -> Entry:
        """What others see of it.

        Raises:
            ValueError: it is revoked.
        """
        entry = self._entry()
        if entry is None:
            msg = "this registration is revoked\npublish the name again"
            raise ValueError(msg)
        return entry

    def update(self, *, about: str | None = None, info: "Mapping[str, Any] | None" = None) -> None:
        """Say something else; others see all of it at once, or nothing yet.

        Args:
            about: in words; None leaves it as it is.
            info: as data that JSON knows; None leaves it as it is.

        Raises:
            ValueError: it is revoked, or that is more than an entry has room for.
            OSError: the directory is gone, or full.
        """
        self._update(about, None if info is None else _json(info))

    def revoke(self) -> None:
        """Take the name away; a second time does nothing. Sessions that are open stay so."""
        callers, self._callers = self._callers, None
        if callers is not None:
            self._loop._hub.dismiss(callers)
        self._revoke()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        self.revoke()

    def __repr__(self) -> str:
        entry = self._entry()
        if entry is None:
            return "<alongside.Registration, revoked>"
        return f"<alongside.Registration {entry.name!r}, instance {entry.instance}>"


Registration.__module__ = "alongside"


def publish(
    name: str,
    /,
    *,
    on_message: "Callable[[Any, Session], object] | None" = None,
    on_connect: "Callable[[Session], object] | None" = None,
    on: "Loop | None" = None,
    about: str = "",
    info: "Mapping[str, Any] | None" = None,
    scope: "_Scope" = "user",
) -> Registration:
    """Publish a name, under which other programs find this one, and may connect to it.

    Any number of programs may publish the same name; each registration is an entry of its own. With
    a callback others can connect; without one they can only see it.

    Args:
        name: parts joined by slashes, as "viewer/42"; at most 200 bytes of UTF-8, without control
            characters and "@".
        on_message: called as `on_message(data, session)` for each message of each program that is
            connected; `session.peer` says which that is, and `session.send` answers.
        on_connect: called as `on_connect(session)` for each program that connects.
        on: where the callbacks run, one of `alongside.loops`; the library's thread if nothing is
            said.
        about: what others shall read, as the title of what is shown.
        info: what other programs shall read: an object that JSON knows, of about 3 KiB.
        scope: who shares the name; "user" for all programs of this user.

    Raises:
        ValueError: the name breaks a rule, or an entry has no room for all of it.
        Denied: the scope's directory is not this user's alone.
        OSError: the directory cannot be made, or is full; `filename` says which.

    Example:
        >>> import alongside
        >>> with alongside.publish("viewer/42", about="plan.png"):
        ...     [entry.about for entry in alongside.running("viewer/*")]
        ['plan.png']
    """
    connects = on_message is not None or on_connect is not None
    loop = place(on, on_message, on_connect) if connects else None
    said = "{}" if info is None else _json(info)
    registration = Registration(text(name), scope, about, said, connects)
    registration._on_message, registration._on_connect = on_message, on_connect
    if loop is not None:
        registration._serve(loop)
    atexit.unregister(_core.leave_directories)
    atexit.register(_core.leave_directories)
    return registration


def place(on: "Loop | None", *callbacks: "Callable[..., object] | None") -> "Loop":
    from ._callbacks import check, default

    for callback in callbacks:
        check(callback, on)
    loop = on or default()
    loop._check()
    loop._hub.fileno()
    return loop


def connect(
    name: "str | Entry",
    /,
    *,
    timeout: float | None = 10.0,
    scope: "_Scope" = "user",
    instance: str | None = None,
    max_message: int = 1 << 30,
) -> Session:
    """Connect to a running program, and give the session with it.

    Args:
        name: the name, of which the oldest registration that takes connections is meant; or an
            entry, and then that registration and no other.
        timeout: seconds until it must have answered; None for ever.
        scope: who shares the name.
        instance: this registration and no other.
        max_message: the longest message, in bytes, that either side may send.

    Raises:
        NotFound: no program runs under that name; the text names those that are nearly the same.
        Denied: it takes no connections, or none of this user's.
        TimedOut: it has not answered before the deadline.
        ValueError: the name breaks a rule.

    Example:
        >>> import alongside
        >>> echo = lambda data, session: session.send(data)
        >>> with alongside.publish("example/echo", on_message=echo):
        ...     with alongside.connect("example/echo") as session:
        ...         session.send("hello")
        ...         session.receive(timeout=5)
        'hello'
    """
    if isinstance(name, Entry):
        meant, instance = name.name, name.instance
    else:
        meant = text(name)
    connection = _core.connect(meant, scope, instance, max_message, limit(timeout))
    session = Session(connection, None)
    remember(session)
    return session


def running(pattern: str = "*", /, *, scope: "_Scope" = "user") -> list[Entry]:
    """Give the running programs whose name fits, the oldest registration first.

    Args:
        pattern: "*" stands for any text, slashes included, "?" for one character.
        scope: who shares the names.

    Raises:
        OSError: the scope's directory cannot be read; `filename` says which.
    """
    return _core.running(text(pattern), scope)


def find(name: str, /, *, scope: "_Scope" = "user", instance: str | None = None) -> Entry | None:
    """Give the oldest registration of a name, or None.

    Args:
        name: the name.
        scope: who shares it.
        instance: this registration and no other.

    Raises:
        ValueError: the name breaks a rule.
        OSError: the scope's directory cannot be read; `filename` says which.
    """
    return _core.find(text(name), scope, instance)


def text(name: str) -> str:
    """Refuse what cannot be written as UTF-8, with a word of why."""
    try:
        name.encode()
    except UnicodeEncodeError:
        msg = f"{name!r} is no name: it has a lone surrogate in it, which is no character"
        raise ValueError(msg) from None
    return name


def _json(info: "Mapping[str, Any]") -> str:
    try:
        text = json.dumps(dict(info), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        msg = f"info is an object that JSON knows; this one is not: {error}"
        raise TypeError(msg) from error
    return text
