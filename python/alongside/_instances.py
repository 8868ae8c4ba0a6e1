"""The one instance of a program: it is the first, or hands over to the first what it was asked for.

Loads when a program first asks whether it is the only one.

What the later one says is plain data: `{"id": …, "argv": …, "cwd": …, "env": …}`. It is told how
the first one's handler ended by a report (codec 5), among which the two may talk. If the session
ends before that, it asks again: the first one knows by the id what its handler has had already.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import sys
import threading
import time
from typing import Any

from ._closing import Closing
from ._directory import aconnect, connect, short_name
from ._errors import Busy, NotFound, RemoteError, SessionEnded, TimedOut, WouldBlock
from ._locks import Lock
from ._session import limit
from ._until import Until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence

    from ._core import Peer
    from ._door import Door
    from ._publish import Registration
    from ._session import Session
    from ._types import Scope
    from .loops import Loop

    _OnOther = Callable[["Visit"], object]

_log = logging.getLogger("alongside")
# What the names of locks and registrations begin with that belong to the one instance.
_PREFIX = ".only/"
# So many visits are known again.
_REMEMBERED = 10_000
# How soon to look again for who was first and cannot be reached: it has just begun, or just ended.
_LOOK_AGAIN_S = 0.001
_LOOK_AGAIN_AT_LAST_S = 0.05
_SLOWER = 1.2
# Said if the first one does not answer.
_WHAT_IT_HAS_TO_DO = (
    "it has to call on_other(...), its loop has to run, and what on_other calls has to end"
)


# How it shows that there is no first one any more, or not yet.
_GONE = (NotFound, Busy, SessionEnded)

# An instance belongs to the process, whoever has a reference to it.
_open: set[Instance] = set()


class Visit:
    """What a later instance was asked for, handed over to the first.

    Attributes:
        argv: its command line.
        cwd: its working directory.
        env: those of its environment variables that it was told to hand over.
        session: the session with it, until it ends.
        peer: the process that it is.
    """

    def __init__(
        self, argv: list[str], cwd: str, env: dict[str, str], session: Session, peer: Peer
    ) -> None:
        self.argv = argv
        self.cwd = cwd
        self.env = env
        self.session = session
        self.peer = peer

    def __repr__(self) -> str:
        return f"Visit(argv={self.argv!r}, cwd={self.cwd!r}, peer={self.peer!r})"


Visit.__module__ = "alongside"


class Instance(Closing):
    """This program, as the first of its name or as a later one; `only` gives it.

    Attributes:
        name: the name.
        session: the session with the first, if this is a later one; else None.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.session: Session | None = None
        self._lock: Lock | None = None
        # That which it has, or is about to have.
        self._asked: Lock | None = None
        self._registration: Registration | None = None
        self._door: Door | None = None
        self._handler: _OnOther | None = None
        # Who has come and waits until there is a handler.
        self._waiting: list[Session] = []
        # From then on nobody is let in who was on the way.
        self._is_closed = False
        self._changing = threading.Lock()
        # The visits that a handler has had, the last of them.
        self._had: dict[str, None] = {}
        self._pid = os.getpid()

    @property
    def first(self) -> bool:
        """Whether this process is the first, until `close()`; a forked child of it is not."""
        return self._lock is not None and self._pid == os.getpid()

    def on_other(self, callback: _OnOther | None, /, *, on: Loop | None = None) -> None:
        """Call `callback(visit)` for each later instance; its `only` returns when that has ended.

        Those that have come before there is a callback wait for it.

        Args:
            callback: a function; on `Asyncio` and `Trio` an async one as well. What it raises is
                raised there, as `RemoteError`. None takes it away: who comes then waits.
            on: where it runs, one of `alongside.loops`; the library's thread if nothing is said.
                When that loop ends, those that come wait as before. A nursery of trio's stays open
                until `on_other(None)` or `close()`.

        Raises:
            RuntimeError: this is not the first instance, or the loop belongs to another thread.
        """
        if not self.first:
            what = "is closed" if self._is_closed else "is not the first"
            msg = f"this instance of {self.name!r} {what}: nobody comes here"
            raise RuntimeError(msg)
        from ._callbacks import place

        self._move(callback, place(on if callback is not None else None, callback))

    def _move(self, handler: _OnOther | None, loop: Loop) -> None:
        """Let later instances in on a loop, and have a handler called there."""
        from ._door import Door

        while (registration := self._registration) and (old := self._door):
            is_new = old.loop != loop
            door = Door(registration, loop, self._welcome, self._loop_ended) if is_new else old
            with self._changing:
                has_moved = self._door is old
                if has_moved:
                    self._handler, self._door = handler, door
                    registration._callers = door
            if is_new:
                # In another thread somebody else may have closed it, or moved it.
                (old if has_moved else door).stop()
            if has_moved:
                door.knock()
                return

    def _loop_ended(self, door: Door) -> None:
        """Go on without a handler where its loop has ended."""
        from ._callbacks import default

        if door is self._door:
            self._move(None, default())

    def _welcome(self, door: Door, session: Session | None) -> None:
        """Have visits handled: that of who has just come, and of those who have waited."""
        with self._changing:
            if session is not None:
                self._waiting.append(session)
            # Who comes through a door that was open before is for the one that is open now.
            handler, now = self._handler, self._door
            is_for_later = not self._is_closed and (door is not now or handler is None)
            taken = [it for it in self._waiting if not is_for_later or not it.alive]
            self._waiting = [it for it in self._waiting if it not in taken]
        for other in taken:
            if handler is not None and other.alive:
                self._receive(other, handler, door.loop)
            else:
                # It has given up, or asks whoever is the first by then.
                other.close(timeout=0)
        if door is not now and now is not None:
            now.knock()

    def _receive(self, session: Session, handler: _OnOther, loop: Loop) -> None:
        try:
            session._may_be_dropped = True
            session.on_message(_Reception(session, handler, self._had), on=loop)
            # Something has the session until the other side ends it, if not the program.
            session.on_close(_let_go, on=loop)
        except SessionEnded:
            session.close(timeout=0)
        except Exception:
            _log.exception("a later instance is turned away, by %r", self)
            session.close(timeout=0)

    def close(self) -> None:
        """Be the first no longer; a second time does nothing. Whoever waits becomes the first."""
        _open.discard(self)
        if self._pid != os.getpid():
            # A forked child has nothing of it.
            return
        with self._changing:
            self._is_closed, self._handler, self._door = True, None, None
            waiting, self._waiting = self._waiting, []
        if self._registration is not None:
            registration, self._registration = self._registration, None
            registration.revoke()
        for session in waiting:
            session.close(timeout=0)
        self._lock = None
        if self._asked is not None and self._asked._is_taken_by(id(self)):
            self._asked._release_for(id(self))
        if self.session is not None:
            self.session.close()

    def __repr__(self) -> str:
        which = "the first" if self.first else "closed" if self._is_closed else "a later one"
        return f"<alongside.Instance of {self.name!r}, {which}>"

    def __reduce__(self) -> Any:
        msg = "an instance cannot be pickled\nask only(...) in the other process"
        raise TypeError(msg)

    # ---- becoming one or the other ---------------------------------------------------------------

    def _try_first(self, scope: Scope) -> bool:
        self._asked = lock = Lock(_PREFIX + self.name, scope=scope)
        if not lock._try_acquire_for(id(self)):
            return False
        from ._callbacks import default
        from ._door import Door
        from ._publish import entry_of, registered

        def door(registration: Registration, loop: Loop) -> Door:
            self._door = Door(registration, loop, self._welcome, self._loop_ended)
            return self._door

        name, what = _PREFIX + self.name, entry_of(connects=True)
        lock._give_back_at_the_end()
        self._registration = registered(name, scope, what, default(), door)
        self._lock = lock
        return True

    def _try_visit(self, scope: Scope, visit: dict[str, Any], until: Until) -> bool:
        """Hand over what this program was asked for; False if there is no first one any more."""
        try:
            session = connect(_PREFIX + self.name, timeout=until.left(), scope=scope)
        except _GONE:
            return False
        try:
            with _kept_if_all_goes_well(session):
                session.send(visit, timeout=until.left())
                # What the handler says to this program meanwhile is kept for it.
                (report,) = session._receive_report(until.left(), keep=True)
                self._has_visited(session, report)
        except SessionEnded:
            return False
        return True

    async def _atry_visit(self, scope: Scope, visit: dict[str, Any], until: Until) -> bool:
        """Do what `_try_visit` does, as a task."""
        from ._tasks import areceive_report

        try:
            session = await aconnect(_PREFIX + self.name, timeout=until.left(), scope=scope)
        except _GONE:
            return False
        try:
            with _kept_if_all_goes_well(session):
                await session.asend(visit, timeout=until.left())
                report = await areceive_report(session, until.left(), keep=True)
                self._has_visited(session, report)
        except SessionEnded:
            return False
        return True

    def _has_visited(self, session: Session, report: Any) -> None:
        if report is not None:
            kind, words, where = report
            msg = f'the handler of the first instance of "{self.name}" raised {kind}: {words}'
            raise RemoteError(msg, kind=kind, traceback=where)
        self.session = session


@contextlib.contextmanager
def _kept_if_all_goes_well(session: Session) -> Generator[None]:
    try:
        yield
    except BaseException:
        session.close(timeout=0)
        raise


Instance.__module__ = "alongside"


def _let_go(_: object) -> None:
    """Do nothing: a session with a callback stays, and one that has ended may go."""


class _Reception:
    """Takes the first message of a later instance: its visit."""

    def __init__(self, session: Session, handler: _OnOther, had: dict[str, None]) -> None:
        self._session = session
        self._handler = handler
        self._had = had

    def __repr__(self) -> str:
        return repr(self._handler)

    def __call__(self, data: Any) -> object:
        session = self._session
        # What else it says is for the program, which may ask for it now.
        session.on_message(None)
        if not session.alive:
            # It has given up, and said so to whoever started it.
            _log.info("a later instance has not waited, in %r", session)
            return None
        try:
            if data["id"] in self._had:
                # Its session ended before it was told, and it asks once more.
                self._tell(None)
                return None
            self._had[data["id"]] = None
            if len(self._had) > _REMEMBERED:
                del self._had[next(iter(self._had))]
            visit = Visit(data["argv"], data["cwd"], data["env"], session, session.peer)
            result: Any = self._handler(visit)
        except BaseException as error:
            self._tell(error)
            raise
        if inspect.isawaitable(result):
            return self._finish(result)
        self._tell(None)
        return None

    async def _finish(self, result: Awaitable[object]) -> None:
        try:
            await result
        except BaseException as error:
            self._tell(error)
            raise
        self._tell(None)

    def _tell(self, error: BaseException | None) -> None:
        from ._publish import told

        try:
            self._session._send_report(None if error is None else told(error))
        except (SessionEnded, WouldBlock, TimedOut):
            _log.info("a later instance has not waited, in %r", self._session)


def only(
    name: str,
    /,
    *,
    argv: Sequence[str] | None = None,
    env: Iterable[str] = (),
    scope: Scope = "user",
    timeout: float | None = 10.0,
) -> Instance:
    """Be the only instance of a program: the first, or one that hands over to the first.

        instance = alongside.only("transfer")
        if not instance.first:
            sys.exit()                      # the first one has taken what this was asked for
        instance.on_other(lambda visit: open_window(visit.argv))

    Exactly one living process is the first. A later one hands its command line over, and returns
    when the first one's handler (`on_other`) has taken it. If the first one dies, the next to ask
    is the first, also amid this call.

    Args:
        name: parts joined by slashes, of at most 190 bytes.
        argv: the command line to hand over; `sys.argv` if nothing is said.
        env: names of environment variables to hand over.
        scope: among which programs it is the only one: those of this user, or of this login
            session.
        timeout: seconds until the first one's handler must have ended; None for ever.

    Raises:
        TimedOut: the first one has not taken it.
        RemoteError: its handler raised.
        ValueError: the name breaks a rule.
        NoScope: there is no login session.

    Example:
        >>> import alongside
        >>> with alongside.only("example/only") as instance:
        ...     instance.first
        True
    """
    instance, visit, until = Instance(short_name(name)), _visit(argv, env), Until(limit(timeout))
    with _given_up_if_it_fails(instance, scope):
        for nap in _naps():
            if instance._try_first(scope) or instance._try_visit(scope, visit, until):
                break
            if until.left() == 0:
                raise TimedOut
            time.sleep(nap)
    return instance


def _visit(argv: Sequence[str] | None, env: Iterable[str]) -> dict[str, Any]:
    """Give what this program was asked for."""
    words = _words(argv)
    if isinstance(env, str):
        msg = f"env is one text, {env!r}, and takes several\nenv=[{env!r}]"
        raise TypeError(msg)
    wanted = {key: os.environ[key] for key in env if key in os.environ}
    # As the kernel has it: getcwd() fails where somebody has removed it.
    where = os.readlink("/proc/self/cwd")
    return {"id": os.urandom(16).hex(), "argv": words, "cwd": where, "env": wanted}


def _words(argv: Sequence[str] | None) -> list[str]:
    words: list[Any] = list(sys.argv if argv is None else argv)
    if isinstance(argv, str) or not all(isinstance(word, str) for word in words):
        msg = f"argv is {argv!r}, expected a list of texts"
        raise TypeError(msg)
    return words


async def aonly(
    name: str,
    /,
    *,
    argv: Sequence[str] | None = None,
    env: Iterable[str] = (),
    scope: Scope = "user",
    timeout: float | None = 10.0,
) -> Instance:
    """Be the only instance of a program, waiting for the first one in asyncio or trio.

    Arguments, result and errors are those of `only`.
    """
    from ._tasks import pause

    instance, visit, until = Instance(short_name(name)), _visit(argv, env), Until(limit(timeout))
    with _given_up_if_it_fails(instance, scope):
        for nap in _naps():
            if instance._try_first(scope) or await instance._atry_visit(scope, visit, until):
                break
            if until.left() == 0:
                raise TimedOut
            await pause(nap, None)
    return instance


@contextlib.contextmanager
def _given_up_if_it_fails(instance: Instance, scope: Scope) -> Generator[None]:
    """Keep an instance for the process, unless there is an error; also Ctrl-C is one."""
    try:
        yield
        _open.add(instance)
    except BaseException as error:
        instance.close()
        if isinstance(error, TimedOut):
            raise _not_taken(instance.name, scope) from None
        raise


def _naps() -> Generator[float]:
    """Give how soon to look again: the first has just begun, or ended; or turns everybody away."""
    nap = _LOOK_AGAIN_S
    while True:
        yield nap
        nap = min(nap * _SLOWER, _LOOK_AGAIN_AT_LAST_S)


def _not_taken(name: str, scope: Scope) -> TimedOut:
    found = Lock(_PREFIX + name, scope=scope)._in_the_way()
    pid, life = (0, "") if found is None else found
    who = f"process {pid}, the first instance" if pid else "the first instance"
    if pid == os.getpid():
        who = "this very process, the first instance"
    whys = {
        "stopped": "it is stopped; kill -CONT it",
        "ended": "it has ended, and what it had started has its place still",
    }
    why = whys.get(life, _WHAT_IT_HAS_TO_DO)
    return TimedOut(
        f"{who} of {name!r}, has not taken what this one was asked for before the deadline\n{why}"
    )
