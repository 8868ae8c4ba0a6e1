"""The directory: finding running programs, and talking to them.

Loads when a program first looks a name up.
"""

from __future__ import annotations

from . import _core
from ._errors import NotFound, RemoteError, SessionEnded, TimedOut
from ._session import Session, limit, remember
from ._until import Until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from ._types import Scope

Entry = _core.Entry

_LONGEST_MESSAGE = 1 << 30
# The most bytes of a name that the library makes a longer one of.
_MOST_SHORT = 190
_MOST_USERS = 1 << 32


def running(pattern: str = "*", /, *, scope: Scope = "user") -> list[Entry]:
    """Give the running programs whose name fits, the oldest registration first.

    Args:
        pattern: "*" stands for any text, slashes included, "?" for one character.
        scope: who shares the names.

    Raises:
        OSError: the scope's directory cannot be read; `filename` says which.
    """
    return _core.running(text(pattern), scope)


def find(
    name: str,
    /,
    *,
    scope: Scope = "user",
    instance: str | None = None,
    owner: int | str | None = None,
) -> Entry | None:
    """Give the oldest registration of a name, or None.

    Args:
        name: the name; in the scope "machine" perhaps a name@user, as "viewer/42@bob".
        scope: who shares it.
        instance: this registration and no other.
        owner: the user whose name is meant, or its number. In the scope "machine" root's is meant
            if nothing is said, then one's own, and no other user's.

    Raises:
        ValueError: the name breaks a rule.
        OSError: the scope's directory cannot be read; `filename` says which.
    """
    meant, uid = _owned(name, owner)
    return _core.find(meant, scope, instance, uid)


# ---- connecting ----------------------------------------------------------------------------------


def connect(
    name: str | Entry,
    /,
    *,
    timeout: float | None = 10.0,
    scope: Scope = "user",
    instance: str | None = None,
    owner: int | str | None = None,
    max_message: int = _LONGEST_MESSAGE,
) -> Session:
    """Connect to a running program, and give the session with it.

    Args:
        name: the name, of which the oldest registration that takes connections is meant; or an
            entry, and then that registration and no other.
        timeout: seconds until it must have answered; None for ever.
        scope: who shares the name.
        instance: this registration and no other.
        owner: the user whose name is meant, or its number; see `find`.
        max_message: the longest message, in bytes, that either side may send.

    Raises:
        NotFound: no program runs under that name; the text names those that are nearly the same.
        Denied: it takes no connections, or none of this user's.
        TimedOut: it has not answered before the deadline.
        Busy: it has hung up until then; it is short of descriptors, as a rule.
        Incompatible, Corrupt: it speaks another version, or nonsense.
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
    session = Session(_call(name, scope, instance, owner, max_message).wait(limit(timeout)), None)
    remember(session)
    return session


async def aconnect(
    name: str | Entry,
    /,
    *,
    timeout: float | None = 10.0,
    scope: Scope = "user",
    instance: str | None = None,
    owner: int | str | None = None,
    max_message: int = _LONGEST_MESSAGE,
) -> Session:
    """Connect to a running program, waiting for it in asyncio or trio.

    Arguments, result and errors are those of `connect`.
    """
    call = _call(name, scope, instance, owner, max_message)
    session = Session(await _answer(call, limit(timeout)), None)
    remember(session)
    return session


def _call(
    name: str | Entry,
    scope: Scope,
    instance: str | None,
    owner: int | str | None,
    max_message: int = _LONGEST_MESSAGE,
    *,
    wants_reports: bool = False,
) -> _core.Call:
    if isinstance(name, _core.Registration):
        # This program's own, which is as good as its entry.
        entry = name._entry()
        if entry is None:
            msg = "this registration is revoked, and leads to nobody"
            raise NotFound(msg)
        name = entry
    if isinstance(name, Entry):
        uid, scope, instance = name.peer.uid, name.scope, name.instance
        return _core.Call(name.name, scope, instance, uid, max_message, wants_reports)
    meant, found = _owned(name, owner)
    return _core.Call(meant, scope, instance, found, max_message, wants_reports)


def _owned(name: str, owner: int | str | None) -> tuple[str, int | None]:
    """Give a name as the core knows it, and whose it is if that is a number."""
    if isinstance(owner, int) and not 0 <= owner < _MOST_USERS:
        msg = f"owner is {owner}, which is no user's number"
        raise ValueError(msg)
    if isinstance(owner, str):
        return f"{text(name)}@{text(owner)}", None
    return text(name), owner


async def _answer(call: _core.Call, timeout: float | None) -> _core.Connection:
    """Wait for the connection."""
    from ._tasks import deadline, pause, readable

    until = deadline(timeout)
    while True:
        connection, descriptor = call.step()
        if connection is not None:
            return connection
        if descriptor is not None:
            is_in_time = await readable(descriptor, until)
        else:
            is_in_time = await pause(call.pause(), until)
        if not is_in_time:
            call.give_up()


# ---- sending one message -------------------------------------------------------------------------


def send_to(
    name: str | Entry,
    data: object,
    /,
    *,
    wait: bool = False,
    timeout: float | None = 10.0,
    scope: Scope = "user",
    instance: str | None = None,
    owner: int | str | None = None,
) -> None:
    """Send one message to a running program, which takes it with its `on_message`.

    It is in the other program's memory when this returns; with `wait` its handler has ended.

    Args:
        name: the name, of which the oldest registration that takes connections is meant; or an
            entry, and then that registration and no other.
        data: what `Session.send` takes.
        wait: wait until the handler there has returned; what it sends is dropped.
        timeout: seconds for all of it; None for ever.
        scope: who shares the name.
        instance: this registration and no other.
        owner: the user whose name is meant, or its number; see `find`.

    Raises:
        RemoteError: the handler raised; only with `wait`.
        ValueError: with `wait`, when the program has no handler.
        TimedOut: not done before the deadline; the text says what was.
        NotFound, Denied, Busy: see `connect`. TypeError, TooLarge: see `Session.send`.
        Closed, PeerGone: the program closed the session, or ended, before its handler had ended.

    Example:
        >>> import alongside
        >>> seen = []
        >>> with alongside.publish("example/log", lambda data, session: seen.append(data)):
        ...     alongside.send_to("example/log", {"line": 1}, wait=True)
        >>> seen
        [{'line': 1}]
    """
    until = Until(limit(timeout))
    call = _call(name, scope, instance, owner, wants_reports=wait)
    session = Session(call.wait(until.left()), None)
    try:
        session.send(data, timeout=until.left())
        if wait:
            with _AfterSending():
                (report,) = session._receive_report(until.left())
            _judge(report, name)
    finally:
        session.close(timeout=0)


async def asend_to(
    name: str | Entry,
    data: object,
    /,
    *,
    wait: bool = False,
    timeout: float | None = 10.0,
    scope: Scope = "user",
    instance: str | None = None,
    owner: int | str | None = None,
) -> None:
    """Send one message to a running program, waiting in asyncio or trio.

    Arguments and errors are those of `send_to`.
    """
    from ._tasks import areceive_report

    until = Until(limit(timeout))
    call = _call(name, scope, instance, owner, wants_reports=wait)
    session = Session(await _answer(call, until.left()), None)
    try:
        await session.asend(data, timeout=until.left())
        if wait:
            with _AfterSending():
                report = await areceive_report(session, until.left())
            _judge(report, name)
    finally:
        session.close(timeout=0)


class _AfterSending:
    """Has errors say that the message has arrived, and only its handler's end is not known."""

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self, _kind: object, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if isinstance(error, TimedOut):
            msg = "the message has arrived, but its handler has not ended before the deadline"
            raise TimedOut(msg) from None
        if isinstance(error, SessionEnded):
            error.add_note("the message has arrived; whether its handler has ended is not known")


def _judge(report: Any, name: str | Entry) -> None:
    """Raise what a report says."""
    if report is None:
        return
    shown = name if isinstance(name, str) else name.name
    kind, words, where = report
    msg = f'the handler of "{shown}" raised {kind}: {words}'
    raise RemoteError(msg, kind=kind, traceback=where)


def short_name(name: Any) -> str:
    """Refuse what is no name, or too long to have one of the library's words before it."""
    _core.check_name(text(name), _MOST_SHORT)
    found: str = name
    return found


def text(name: Any) -> str:
    """Refuse what is no text, or cannot be written as UTF-8, with a word of why."""
    if not isinstance(name, str):
        msg = f"a name is a str, not {name!r}"
        raise TypeError(msg)
    try:
        name.encode()
    except UnicodeEncodeError:
        msg = f"{name!r} is no name: it has a lone surrogate in it, which is no character"
        raise ValueError(msg) from None
    return name
