"""Sessions: what `alongside.Session` adds to its native half, and the one of a started program.

A program's start waits for this module to load, so what few programs need, or only later, stands
elsewhere: starting others, callbacks. The exceptions load at once: they are raised where nothing
could be loaded, amid a fork, in a signal handler, with no descriptor left.
"""

import _thread
import _weakref
import atexit
import os
import sys

from . import _core
from ._errors import Closed, NotStarted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
    from types import ModuleType, TracebackType
    from typing import IO, Any, Literal, Self, TypeVar, overload

    from ._callbacks import Callbacks
    from ._lending import Lent
    from .loops import Loop

    _T = TypeVar("_T")

_ADOPT_TIMEOUT = 10.0
_CLOSE_TIMEOUT = 5.0


class Session(_core.Session):
    """Two-way, ordered messages with one other program.

    `start` and `session` give one; both ends have the same methods. Any number of threads may use
    it: messages stay whole and in order. It works as a context manager, which closes it; the
    program goes on until it notices, `wait()` waits for that. A session that is over because the
    other side ended it need not be closed, but may.

    Attributes:
        hello: the first data, that `start` was given.
        peer: the process at the other end (pid, start time, user, executable).
        alive: whether the other process exists and the session is open.
        exit_status: how the started program ended; None as long as it runs.
        stdin, stdout, stderr: the pipes that `start` was asked for; else None.
    """

    stdin: "IO[bytes] | None" = None
    stdout: "IO[bytes] | None" = None
    stderr: "IO[bytes] | None" = None
    _last_queue: "_weakref.ReferenceType[Any] | None" = None
    _served: "Callbacks | None" = None
    # The program has not asked for it, and is not told that it has left it open.
    _may_be_dropped = False

    def __iter__(self) -> "Iterator[Any]":
        """Give each message as it arrives; end when the other program closes.

        Raises:
            PeerGone: the other program died.
        """
        return self._messages(None)

    if TYPE_CHECKING:

        @overload
        def messages(self, type: "type[_T]") -> "Iterator[_T]": ...
        @overload
        def messages(self, type: object) -> "Iterator[Any]": ...

    def messages(self, type: object) -> "Iterator[Any]":
        """Give each message as it arrives, checked and converted to `type`.

        Raises:
            Invalid: a message is not of that type. Iterating anew goes on behind it.
            PeerGone: the other program died.
        """
        return self._messages(type)

    def _messages(self, kind: object) -> "Iterator[Any]":
        if self._is_closed:
            # Iterating over what was closed here before is a mistake, not an end.
            self.receive()
        while True:
            try:
                taken = [self.receive(type=kind)]
            except Closed:
                return
            # Not kept here while the caller works: memory goes back when the caller lets it go.
            yield taken.pop()

    def lend(
        self, shape: "int | Sequence[int]", dtype: object = "u1", *, timeout: float | None = None
    ) -> "Lent[Any]":
        """Give an array to fill in place: sending it moves nothing, whatever its size.

            with session.lend((480, 640, 3), "u1") as frame:
                camera.read_into(frame)
                session.send(frame)

        It moves once: after `send` it is read-only here, and the memory is used again when the
        other program has let it go and nothing here looks at it any more. Sent again, or on
        another session, it is copied like any other array. A part of it that lies in one piece
        moves as well. Its contents are what they were before, not zeros.

        Args:
            shape: of the array, in items.
            dtype: as numpy says it. Without numpy a memoryview is given, and the types are "b1",
                "i1" to "i8", "u1" to "u8", "f2" to "f8".
            timeout: seconds to wait if as much is lent as `lend_limit` allows; None for ever.

        Raises:
            TooLarge: more than `lend_limit`, or than a message may have.
            TimedOut: nothing was given back before the deadline.
            Closed, PeerGone: the session is over. OSError: there is no memory.
        """
        from ._lending import lend

        return lend(self, shape, dtype, timeout)

    def lend_bytes(self, size: int, *, timeout: float | None = None) -> "Lent[memoryview]":
        """Give a memoryview to fill in place, of which a message of bytes becomes: see `lend`.

            with session.lend_bytes(1 << 20) as space:
                size = file.readinto(space)
                session.send(space[:size])

        After `send` the memoryview is released: it cannot be used here any more.

        Args:
            size: in bytes.
            timeout: as for `lend`.

        Raises:
            What `lend` raises.
        """
        from ._lending import lend_bytes

        return lend_bytes(self, size, timeout)

    def on_message(
        self, callback: "Callable[[Any], object] | None", /, *, on: "Loop | None" = None
    ) -> None:
        """Call `callback(message)` for each message, in order.

        Messages that have arrived before go to the callback first. What it raises goes to
        `logging` and to `on_error`, and the next message follows. None takes it away.

        Args:
            callback: a function; on `Asyncio` and `Trio` an async one as well.
            on: where it runs, one of `alongside.loops`; the library's thread if nothing is said.
                All callbacks of a session run in one place.

        Raises:
            Closed, PeerGone: the session is over and nothing is left to deliver.
            RuntimeError: the loop is closed, or belongs to another thread.
        """
        _callbacks().set_callback(self, "message", callback, on)

    def on_close(
        self, callback: "Callable[[Any], object] | None", /, *, on: "Loop | None" = None
    ) -> None:
        """Call `callback(reason)` once when the session ends.

        `reason` is the exception that `receive` would raise: `Closed`, `PeerGone` or `Corrupt`.
        With an `on_message` callback, all messages come before it. Closing from here is no news and
        calls nothing. None takes it away.

        Args:
            callback: as for `on_message`.
            on: as for `on_message`.
        """
        _callbacks().set_callback(self, "close", callback, on)

    def on_error(
        self, callback: "Callable[[Any], object] | None", /, *, on: "Loop | None" = None
    ) -> None:
        """Call `callback(exception)` with what another callback raised. None takes it away.

        Args:
            callback: as for `on_message`.
            on: as for `on_message`.
        """
        _callbacks().set_callback(self, "error", callback, on)

    # ---- asyncio and trio ------------------------------------------------------------------

    if TYPE_CHECKING:

        @overload
        def areceive(
            self, *, timeout: float | None = ..., type: "type[_T]"
        ) -> "Coroutine[Any, Any, _T]": ...
        @overload
        def areceive(
            self, *, timeout: float | None = ..., type: object = ...
        ) -> "Coroutine[Any, Any, Any]": ...

    def areceive(
        self, *, timeout: float | None = None, type: object = None
    ) -> "Coroutine[Any, Any, Any]":
        """Receive the next message, waiting for it in asyncio or trio.

        A task that is cancelled while it waits loses nothing: the message is the next one's.
        Arguments, result and errors are those of `receive`.
        """
        call: "Coroutine[Any, Any, Any]" = _twins().areceive(self, timeout, type)
        return call

    def asend(
        self, data: object, /, *, timeout: float | None = None
    ) -> "Coroutine[Any, Any, None]":
        """Send a message, waiting for space in asyncio or trio.

        A task that is cancelled while it waits has sent nothing. Arguments and errors are those of
        `send`; `data` must not be changed by others meanwhile.
        """
        call: "Coroutine[Any, Any, None]" = _twins().asend(self, data, timeout)
        return call

    def alend(
        self, shape: "int | Sequence[int]", dtype: object = "u1", *, timeout: float | None = None
    ) -> "Coroutine[Any, Any, Lent[Any]]":
        """Give an array to fill in place, waiting for memory in asyncio or trio.

            with await session.alend((480, 640, 3)) as frame:
                camera.read_into(frame)
                await session.asend(frame)

        Arguments, result and errors are those of `lend`.
        """
        from ._lending import lend

        call: "Coroutine[Any, Any, Lent[Any]]"
        call = _twins().alend(self, lambda: lend(self, shape, dtype, 0.0), timeout)
        return call

    def alend_bytes(
        self, size: int, *, timeout: float | None = None
    ) -> "Coroutine[Any, Any, Lent[memoryview]]":
        """Give a memoryview to fill in place, waiting for memory in asyncio or trio.

        Arguments, result and errors are those of `lend_bytes`.
        """
        from ._lending import lend_bytes

        call: "Coroutine[Any, Any, Lent[memoryview]]"
        call = _twins().alend(self, lambda: lend_bytes(self, size, 0.0), timeout)
        return call

    def aclose(self, *, timeout: float | None = _CLOSE_TIMEOUT) -> "Coroutine[Any, Any, int]":
        """End the session in order, as `close` does, waiting in asyncio or trio."""
        call: "Coroutine[Any, Any, int]" = _twins().aclose(self, limit(timeout))
        return call

    def await_exit(self, timeout: float | None = None) -> "Coroutine[Any, Any, int | None]":
        """Wait until the started program has ended, as `wait` does, in asyncio or trio."""
        call: "Coroutine[Any, Any, int | None]" = _twins().await_exit(self, timeout)
        return call

    def __aiter__(self) -> "AsyncIterator[Any]":
        """Give each message as it arrives; end when the other program closes.

        Raises:
            PeerGone: the other program died.
        """
        return self._amessages()

    async def _amessages(self) -> "AsyncIterator[Any]":
        if self._is_closed:
            await self.areceive()
        while True:
            try:
                taken = [await self.areceive()]
            except Closed:
                return
            yield taken.pop()

    async def __aenter__(self) -> "Self":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        if not self._is_ours:
            return
        if kind is None:
            await self.aclose()
        else:
            self.close(timeout=0)

    def close(self, *, timeout: float | None = _CLOSE_TIMEOUT) -> int:
        """End the session in order. The other program is not ended.

        What was sent stays receivable for the other program, even after this one has ended; what
        was not received here is dropped. Waits until the other program has taken everything, has
        closed too or is gone, but not beyond the deadline: that is no error, the result tells.

        Args:
            timeout: seconds to wait; 0 does not wait for the other program, None waits for ever.

        Returns:
            How many of the messages sent from here the other program has been handed.

        Raises:
            Busy: this is a signal's handler amid a large `send`, which has to end first.
        """
        self._check_not_amid_a_send()
        _forget(self)
        try:
            return self._close(limit(timeout))
        except BaseException:
            # A signal's handler raised: nobody waits, but closed it is.
            self._close(0)
            raise

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the started program has ended, and give its exit status.

        Arrivals are taken in meanwhile and can be received afterwards. On the side that was
        started: wait until the session is over, and give None.

        Args:
            timeout: seconds to wait; None for ever.

        Raises:
            TimedOut: it has not ended.
        """
        return self._wait(timeout)

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        # Who leaves with an exception does not want to wait for anybody.
        if self._is_ours:
            self.close(timeout=_CLOSE_TIMEOUT if kind is None else 0)

    def __del__(self) -> None:
        # At the very end the module's names are None, those with an underscore before the others.
        names: Any = (sys, _kept)
        if None in names or not self._is_ours or self._is_closed or self in _kept:
            return
        # One that the other side has ended is only being tidied away.
        if self._end_reason() is None and not self._may_be_dropped:
            import warnings

            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        self._close(0)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"with {self.peer!r}"
        return f"<alongside.Session {state}>"


Session.__module__ = "alongside"


if TYPE_CHECKING:

    @overload
    def session(*, required: Literal[True]) -> Session: ...
    @overload
    def session(*, required: bool = ...) -> Session | None: ...


def session(*, required: bool = False) -> "Session | None":
    """Give the session that this program was started with; None if nobody waits for it.

    Every call gives the same session.

    Args:
        required: raise instead of giving None.

    Raises:
        NotStarted: with `required`, when nobody waits; always, when the starter has stopped to.
        Incompatible: the starter uses another version of this library.
        Corrupt: the environment variable of the handshake names what is not there.
    """
    with _lock:
        variable = os.environ.pop(_core.ENVIRONMENT_VARIABLE, None)
        if variable is not None:
            adopted = Session(_core.adopt(variable, limit(_ADOPT_TIMEOUT)))
            remember(adopted)
            _adopted.append(adopted)
        found = _adopted[0] if _adopted else None
    if found is None and required:
        msg = (
            "this program was not started by another through alongside.start()\n"
            "session() without required=True gives None then"
        )
        raise NotStarted(msg)
    return found


_adopted: "list[Session]" = []


def limit(timeout: float | None) -> float | None:
    """Lift a deadline of the library when the other program is being debugged."""
    return None if os.environ.get("ALONGSIDE_NO_DEADLINES") == "1" and timeout else timeout


# ---- ends ------------------------------------------------------------------------------------

_lock = _thread.RLock()


def _begin_anew() -> None:
    """In a forked child: whoever held the lock is not here, and the sessions are the parent's."""
    global _lock  # noqa: PLW0603 - the one place
    _lock = _thread.RLock()
    _open.clear()


os.register_at_fork(after_in_child=_begin_anew)
_kept: "list[Session]" = []
_open: "dict[int, _weakref.ReferenceType[Session]]" = {}


def remember(session: "Session") -> None:
    """Close the session in order when the interpreter ends."""
    key = id(session)
    with _lock:
        if not _open:
            atexit.unregister(_close_all)
            atexit.register(_close_all)
        _open[key] = _weakref.ref(session, lambda _: _open.pop(key, None))


def _forget(session: "Session") -> None:
    with _lock:
        _open.pop(id(session), None)
    if not session._is_ours:
        return
    # Callbacks are not told of a close from here; tasks that wait are, once it is one.
    _have_left("alongside._callbacks", session)
    session._begin_close()
    _have_left("alongside._tasks", session)


def _have_left(name: str, session: Session) -> None:
    """Tell a module, if it is loaded; it may be loading at this moment."""
    if leave := getattr(sys.modules.get(name), "leave", None):
        leave(session)


def _close_all() -> None:
    if stop := getattr(sys.modules.get("alongside.loops._polled"), "stop", None):
        stop()
    for reference in list(_open.values()):
        session = reference()
        if session is None or not session._is_ours:
            continue
        # A traceback ends this program: to the other side that is a death, not a close.
        if getattr(sys, "last_value", None) is not None and not hasattr(sys, "ps1"):
            session._disown()
            _kept.append(session)
        else:
            session._close(0)
    _open.clear()


_tasks: "ModuleType | None" = None


def _twins() -> "Any":
    """Give the module of what can be awaited, once it is loaded whole."""
    global _tasks  # noqa: PLW0603 - loaded when first needed
    if _tasks is None:
        from . import _tasks as loaded

        _tasks = loaded
    return _tasks


def _callbacks() -> "ModuleType":
    from . import _callbacks

    return _callbacks


if TYPE_CHECKING:
    # Only `_core` imports it; tools that gather a program's modules see it here.
    from . import _data as _data  # noqa: PLC0414 - the form that type checkers take for a use
