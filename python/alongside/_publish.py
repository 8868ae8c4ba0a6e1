"""Publishing a name, and serving those who connect to it.

Loads when a program first publishes.
"""

from __future__ import annotations

import atexit
import inspect
import json
import logging
import os
import sys
import traceback
import weakref

from . import _core
from ._directory import text
from ._errors import SessionEnded
from ._session import Session, remember

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Any, Self

    from ._directory import Entry
    from ._hub import Served
    from ._types import Scope
    from .loops import Loop

    _OnMessage = Callable[[Any, Session], object]
    _OnConnect = Callable[[Session], object]

_log = logging.getLogger("alongside")
# What is told of a handler's failure is cut to its end, where the reason is.
_TRACEBACK_CHARACTERS = 8000
# Of a program that `start_or_connect` has started: the inode of its stderr, which is kept until it
# has published a name, the scope, and that name, with colons between.
UNTIL_PUBLISHED = "ALONGSIDE_STDERR_UNTIL_PUBLISHED"
# What stands before a group where users are expected.
_GROUP = "group:"


class Registration(_core.Registration):
    """A name that this program has published; `publish` gives it.

    It belongs to the process: it ends with `revoke()`, at the end of its `with`, or when the
    process ends, however that comes about.

    Attributes:
        sessions: those with programs that are connected now.
    """

    _callers: Callers | None = None
    # Those that were let in; they outlive the name.
    _open: Mapping[int, Session] = {}

    @property
    def sessions(self) -> list[Session]:
        """Give the sessions with programs that are connected now."""
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

    def update(self, *, about: str | None = None, info: Mapping[str, Any] | None = None) -> None:
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
        # Let go at once: it has the registration, and its callbacks perhaps a whole program.
        callers, self._callers = self._callers, None
        if callers is not None:
            callers.stop()
        self._revoke()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.revoke()

    def __repr__(self) -> str:
        entry = self._entry()
        if entry is None:
            return "<alongside.Registration, revoked>"
        return f"<alongside.Registration {entry.name!r}, instance {entry.instance}>"


Registration.__module__ = "alongside"


# ---- callers -------------------------------------------------------------------------------------


class Callers:
    """Lets callers of one registration in, and hands what they send to its callbacks."""

    def __init__(
        self,
        registration: Registration,
        on_message: _OnMessage | None,
        on_connect: _OnConnect | None,
        loop: Loop,
    ) -> None:
        self._registration = registration
        self._on_message = on_message
        self._on_connect = on_connect
        self.loop = loop
        # Each is kept by its callbacks, of which it has one at least.
        self.open: weakref.WeakValueDictionary[int, Session] = weakref.WeakValueDictionary()
        # Before the first is let in, whose callback may ask for it.
        registration._open = self.open
        # It has been said already that nobody can be let in.
        self._is_told = False
        from ._callbacks import move_in

        self._kept = move_in(self)
        try:
            self._hub = loop._hub
            self._served: Served | None = self._hub.serve(registration, self._let_in)
        except BaseException:
            from ._callbacks import move_out

            move_out(self, self._kept)
            raise

    def stop(self) -> None:
        """Let nobody in any more."""
        from ._callbacks import move_out

        served, self._served = self._served, None
        if served is not None:
            self._hub.dismiss(served)
            move_out(self, self._kept)

    def give_up(self) -> None:
        """Take the name away: where callers would be let in nothing runs any more."""
        _log.info("%r ends, and with it %r", self.loop, self._registration)
        self._registration.revoke()

    def _let_in(self, _budget: int) -> None:
        try:
            taken = self._registration._step()
        except Exception:
            # A shortage, of descriptors mostly: callers wait, and it is tried again and again.
            if not self._is_told:
                _log.exception("callers cannot be let in for now, by %r", self._registration)
            self._is_told = True
            return
        self._is_told = self._is_told and not taken
        for connection, wants_reports in taken:
            session = Session(connection, None)
            remember(session)
            self.open[id(session)] = session
            self._greet(session, wants_reports)

    def _greet(self, session: Session, wants_reports: bool) -> None:
        try:
            result: Any = None if self._on_connect is None else self._on_connect(session)
            if not inspect.isawaitable(result):
                self._take_up(session, wants_reports)
                return
        except self.loop._survives:
            self._turn_away(session)
            return
        except BaseException:
            self._leave(session)
            raise
        from ._callbacks import Once

        greeting = self._greet_at_length(result, session, wants_reports)
        self.loop._spawn(Once(greeting, lambda: self._leave(session)))

    async def _greet_at_length(
        self, greeting: Awaitable[object], session: Session, wants_reports: bool
    ) -> None:
        try:
            await greeting
            self._take_up(session, wants_reports)
        except Exception:
            self._turn_away(session)

    def _take_up(self, session: Session, wants_reports: bool) -> None:
        """Have the callbacks served from now on."""
        if self._on_message is not None:
            from ._callbacks import is_async

            kind = _AsyncHandler if is_async(self._on_message) else _Handler
            handler = kind(self._on_message, session, self.loop, wants_reports)
            session.on_message(handler, on=self.loop)
        if session._served is None or session._served.close is None:
            session.on_close(lambda _: self._end(session), on=self.loop)

    def _end(self, session: Session) -> None:
        """Let an ended session go, whoever has it, unless there may be messages to receive."""
        self.open.pop(id(session), None)
        if self._on_message is not None:
            session.close(timeout=0)

    def _turn_away(self, session: Session) -> None:
        """Refuse a caller: the program's callback raised, or the session is over already."""
        if session._end_reason() is None:
            _log.exception("a caller is turned away, by %r", self._registration)
        self._leave(session)

    def _leave(self, session: Session) -> None:
        self.open.pop(id(session), None)
        session.close(timeout=0)


class _Handler:
    """Hands one caller's messages on, and tells the caller how that ended if it asked."""

    def __init__(
        self, on_message: _OnMessage, session: Session, loop: Loop, wants_reports: bool
    ) -> None:
        self._on_message = on_message
        self._session = session
        self._loop = loop
        self._wants_reports = wants_reports

    def __repr__(self) -> str:
        # It is named where the program's own function is meant.
        return repr(self._on_message)

    def __call__(self, data: object) -> object:
        """Handle a message; give what is still to be awaited."""
        try:
            result: Any = self._on_message(data, self._session)
            if inspect.isawaitable(result):
                return self._later(result)
        except BaseException as error:
            self._failed(error)
            return None
        self._report(None)
        return result

    def _later(self, result: Awaitable[object]) -> object:
        """Give what is to be awaited, if anything is awaited there."""
        if self._loop._takes_coroutines:
            return self._finish(result)
        if inspect.iscoroutine(result):
            result.close()
        msg = f"{self!r} returned something to await, which {self._loop!r} does not do"
        raise TypeError(msg)

    async def _finish(self, result: Awaitable[object]) -> None:
        try:
            await result
        except BaseException as error:
            self._failed(error)
        else:
            self._report(None)

    def _failed(self, error: BaseException) -> None:
        """Tell the caller, and the log; an answer that nobody waits for is no error."""
        self._report(error)
        if isinstance(error, SessionEnded) and self._session._end_reason() is not None:
            _log.info("the caller did not wait for an answer, in %r", self._session)
            return
        raise error

    def _report(self, error: BaseException | None) -> None:
        if not self._wants_reports:
            return
        try:
            self._session._send_report(None if error is None else told(error))
        except SessionEnded:
            pass
        except Exception:
            # It asked to be told, and does not listen: nobody waits for it here.
            self._session.close(timeout=0)


class _AsyncHandler(_Handler):
    """The same for an async function."""

    async def __call__(self, data: object) -> None:
        """Handle a message to the end."""
        result: Any = self._on_message(data, self._session)
        await self._finish(result)


def told(error: BaseException) -> tuple[str, str, str]:
    """Give what a caller is told of an exception."""
    try:
        said = str(error)
    except Exception:
        said = "what it says of itself cannot be had"
    # From the program's own function on: what calls it is of no use to who reads this.
    where = error.__traceback__ and error.__traceback__.tb_next
    whole = "".join(traceback.format_exception(type(error), error, where))
    parts = (type(error).__qualname__, said, whole[-_TRACEBACK_CHARACTERS:])
    kind, words, shown = (part.encode("utf-8", "replace").decode() for part in parts)
    return kind, words[:_TRACEBACK_CHARACTERS], shown


# ---- publishing ----------------------------------------------------------------------------------


def publish(
    name: str,
    target: _OnMessage | None = None,
    /,
    *,
    on_message: _OnMessage | None = None,
    on_connect: _OnConnect | None = None,
    on: Loop | None = None,
    unique: bool = False,
    weak: bool = False,
    about: str = "",
    info: Mapping[str, Any] | None = None,
    scope: Scope = "user",
    allow: Iterable[int | str] = (),
) -> Registration:
    """Publish a name, under which other programs find this one, and may connect to it.

    Any number of programs may publish the same name; each registration is an entry of its own. With
    a callback others can connect; without one they can only see it.

    Args:
        name: parts joined by slashes, as "viewer/42"; at most 200 bytes of UTF-8, without control
            characters and "@".
        target: the same as `on_message`.
        on_message: called as `on_message(data, session)` for each message of each program that is
            connected; `session.peer` says which that is, and `session.send` answers.
        on_connect: called as `on_connect(session)` for each program that connects.
        on: where the callbacks run, one of `alongside.loops`; the library's thread if nothing is
            said. On `Asyncio` and `Trio` they may be async functions.
        unique: append a part to the name that makes it one that no program has; `name` of the
            result tells it.
        weak: do not keep the target alive; when nobody has it any more the name is revoked.
        about: what others shall read, as the title of what is shown.
        info: what other programs shall read: an object that JSON knows, of about 3 KiB.
        scope: who shares the name: "user" for all programs of this user, "login" for those of this
            login session, "machine" for all programs of the machine.
        allow: in the scope "machine", who may connect beside this user and root: users by name or
            number, groups as "group:NAME". All can see the entry.

    Raises:
        ValueError: the name breaks a rule, an entry has no room for all of it, or somebody to allow
            is not there.
        NoScope: there is no login session, or the machine is not set up for that scope.
        TypeError: a callback is none, or is an async function where none is awaited.
        Denied: the scope's directory is not this user's alone.
        OSError: the directory cannot be made, or is full; `filename` says which.

    Example:
        >>> import alongside
        >>> with alongside.publish("viewer/42", about="plan.png"):
        ...     [entry.about for entry in alongside.running("viewer/*")]
        ['plan.png']
    """
    _check_target(target, on_message, weak)
    handler = on_message or target
    loop = None
    if handler is not None or on_connect is not None:
        from ._callbacks import place

        loop = place(on, handler, on_connect)
    given: Any = about
    if not isinstance(given, str):
        msg = f"about is a str, not {given!r}"
        raise TypeError(msg)
    wanted = entry_of(
        about=about,
        info="{}" if info is None else _json(info),
        connects=loop is not None,
        reports=handler is not None,
        unique=unique,
        **_allowed(allow),
    )

    def callers(registration: Registration, loop: Loop) -> Callers:
        weakly = _weakly(target, registration) if weak and target is not None else handler
        return Callers(registration, weakly, on_connect, loop)

    registration = registered(text(name), scope, wanted, loop, callers)
    if UNTIL_PUBLISHED in os.environ:
        _quieten(f"{scope}:{name}")
    return registration


def entry_of(**what: object) -> dict[str, object]:
    """Give all that a registration says, of which most says nothing."""
    nothing = {"about": "", "info": "{}", "connects": False, "reports": False, "unique": False}
    return {**nothing, **_allowed(()), **what}


def registered(
    name: str,
    scope: Scope,
    wanted: dict[str, object],
    loop: Loop | None,
    callers: Callable[[Registration, Loop], Callers],
) -> Registration:
    """Give a registration whose callers are let in on a loop, if there is one."""
    registration = Registration(name, scope, wanted)
    if loop is not None:
        try:
            registration._callers = callers(registration, loop)
        except BaseException:
            # Nobody would answer under the name, nor have what revokes it.
            registration._revoke()
            raise
    atexit.unregister(_core.leave_directories)
    atexit.register(_core.leave_directories)
    return registration


def _quieten(published: str) -> None:
    """Let what this program says to stderr go, if whoever started it has waited for this name."""
    inode, _, awaited = os.environ[UNTIL_PUBLISHED].partition(":")
    if published != awaited:
        return
    del os.environ[UNTIL_PUBLISHED]
    try:
        is_kept = str(os.fstat(2).st_ino) == inode
    except OSError:
        return
    if is_kept:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        os.close(nothing)


def _check_target(target: object, on_message: object, weak: bool) -> None:
    if target is None:
        if weak:
            msg = "weak=True is about a target, and none is given\npublish(name, target, weak=True)"
            raise TypeError(msg)
        return
    if on_message is not None:
        msg = "a target is what on_message says, and both are given\nleave one of them out"
        raise TypeError(msg)
    if not inspect.isroutine(target):
        what = "a class" if isinstance(target, type) else f"a {type(target).__name__}"
        msg = (
            f"{target!r} is {what}; a target is a function or a method, called as target(data, "
            "session)\npublish(name, on_message=...) takes whatever can be called"
        )
        raise TypeError(msg)


def _allowed(allow: Iterable[int | str]) -> dict[str, list[int]]:
    """Give users and groups by their numbers."""
    users: list[int] = []
    groups: list[int] = []
    if isinstance(allow, str):
        msg = f"allow={allow!r} is one text, and allow takes several\nallow=[{allow!r}]"
        raise TypeError(msg)
    for each in allow:
        if isinstance(each, int):
            users.append(each)
        elif each.startswith(_GROUP):
            groups.append(_group(each.removeprefix(_GROUP)))
        else:
            users.append(_user(each))
    return {"users": users, "groups": groups}


def _user(name: str) -> int:
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        msg = f'there is no user {name!r} here\na group is allowed as "{_GROUP}{name}"'
        raise ValueError(msg) from None


def _group(name: str) -> int:
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        msg = f"there is no group {name!r} here"
        raise ValueError(msg) from None


def _weakly(target: _OnMessage, registration: Registration) -> _OnMessage:
    """Give a handler that does not keep the target; without that the name goes."""
    known: weakref.ref[Any]

    def lose(_: object) -> None:
        # When the interpreter ends, so does the name.
        if not sys.is_finalizing():
            registration.revoke()

    if inspect.ismethod(target):
        known = weakref.WeakMethod(target, lose)
    else:
        known = weakref.ref(target, lose)

    def handle(data: object, session: Session) -> object:
        found: Any = known()
        return None if found is None else found(data, session)

    async def handle_async(data: object, session: Session) -> None:
        found: Any = known()
        if found is not None:
            await found(data, session)

    return handle_async if inspect.iscoroutinefunction(target) else handle


def _json(info: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(dict(info), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        msg = f"info is an object that JSON knows; this one is not: {error}"
        raise TypeError(msg) from error
    return text
