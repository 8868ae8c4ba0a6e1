"""Sessions: what `alongside.Session` adds to its native half, and how one comes to be."""

import _thread
import _weakref
import atexit
import os
import sys

from . import _core
from ._errors import Closed, NotStarted, StartFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from os import PathLike
    from types import TracebackType
    from typing import IO, Any, Literal, Protocol, Self, TypeAlias, TypeVar, overload

    _T = TypeVar("_T")

    class _HasFileno(Protocol):
        """A file, a pipe, a socket."""

        def fileno(self) -> int: ...

    from ._service import Service

    _Callback: TypeAlias = Callable[[Any], object]
    _Word: TypeAlias = str | bytes | PathLike[str] | PathLike[bytes]
    _Stream: TypeAlias = int | _HasFileno | None

PIPE = -1
"""For `start(stdin=, stdout=, stderr=)`: a pipe; has the value of `subprocess.PIPE`."""
DEVNULL = -3
"""For `start(stdin=, stdout=, stderr=)`: nothing; has the value of `subprocess.DEVNULL`."""

_CLOSE_TIMEOUT = 5.0
_STDERR_SHOWN = 64 * 1024
_PIPE_BYTES = 1024 * 1024


class Session(_core.Endpoint):
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

    def __iter__(self) -> "Iterator[Any]":
        """Give each message as it arrives; end when the other program closes.

        Raises:
            PeerGone: the other program died.
        """
        return self._messages(None)

    def messages(self, type: "type[_T]") -> "Iterator[_T]":
        """Give each message as it arrives, checked and converted to `type`.

        Raises:
            Invalid: a message is not of that type. Iterating anew goes on behind it.
            PeerGone: the other program died.
        """
        return self._messages(type)

    def _messages(self, kind: "type[_T] | None") -> "Iterator[_T]":
        if self._is_closed:
            # Iterating over what was closed here before is a mistake, not an end.
            self.receive()
        while True:
            try:
                message = self.receive() if kind is None else self.receive(type=kind)
            except Closed:
                return
            yield message

    def on_message(self, callback: "Callable[[Any], object] | None", /) -> None:
        """Call `callback(message)` for each message, in order, on the service thread.

        Messages that have arrived before go to the callback first. What it raises goes to
        `logging` and to `on_error`, and the next message follows. None takes it away.

        Raises:
            Closed, PeerGone: the session is over and nothing is left to deliver.
        """
        _service().on_message(self, _callable(callback))

    def on_close(self, callback: "Callable[[Exception], object] | None", /) -> None:
        """Call `callback(reason)` once when the session ends, on the service thread.

        `reason` is the exception that `receive` would raise: `Closed`, `PeerGone` or `Corrupt`.
        With an `on_message` callback, all messages come before it. Closing from here is no news and
        calls nothing. None takes it away.
        """
        _service().on_close(self, _callable(callback))

    def on_error(self, callback: "Callable[[Exception], object] | None", /) -> None:
        """Call `callback(exception)` with what another callback raised. None takes it away."""
        _service().on_error(self, _callable(callback))

    def close(self, *, timeout: float | None = _CLOSE_TIMEOUT) -> int:
        """End the session in order. The other program is not ended.

        What was sent stays receivable for the other program, even after this one has ended; what
        was not received here is dropped. Waits until the other program has taken everything, has
        closed too or is gone, but not beyond the deadline: that is no error, the result tells.

        Args:
            timeout: seconds to wait; 0 does not wait, None waits for ever.

        Returns:
            How many of the messages sent from here the other program has been handed.
        """
        _forget(self)
        try:
            return self._close(_limit(timeout))
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
        if sys is None or not self._is_ours or self._is_closed or self in _kept:
            return
        # One that the other side has ended is only being tidied away.
        if self._end_reason() is None:
            import warnings

            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        self._close(0)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"with {self.peer!r}"
        return f"<alongside.Session {state}>"


Session.__module__ = "alongside"


def _callable(callback: "_Callback | None") -> "_Callback | None":
    """Refuse at once what could only fail at each message."""
    if callback is not None and not callable(callback):
        msg = f"{callback!r} cannot be called; a callback is a function, or None to take it away"
        raise TypeError(msg)
    code = getattr(callback, "__code__", None)
    if code is not None and code.co_flags & _COROUTINE:
        msg = f"{callback!r} is an async function, which nobody here would await"
        raise TypeError(msg)
    return callback


_COROUTINE = 0x80  # inspect.CO_COROUTINE, without importing inspect


# ---- beginnings ------------------------------------------------------------------------------


def start(
    command: "_Word | Sequence[_Word]",
    /,
    *,
    hello: object = None,
    timeout: float | None = 10.0,
    cwd: "str | PathLike[str] | None" = None,
    env: "Mapping[str, str] | None" = None,
    stdin: "_Stream" = None,
    stdout: "_Stream" = None,
    stderr: "_Stream" = None,
    new_group: bool = False,
    die_with_parent: bool = False,
    max_message: int = 1 << 30,
) -> "Session":
    """Start a program and give the session with it, once it has taken that up.

    The program calls `alongside.session()`. Its standard streams are its own.

    Args:
        command: the program and its arguments, or the program alone. One that ends in `.py` runs
            under this interpreter; one without a slash is looked up in PATH. No shell is involved.
        hello: the first data; the program finds it as `session.hello`.
        timeout: seconds until the program must have taken up its session; None for ever.
        cwd: where it starts; a relative path of a program is looked up from there.
        env: its whole environment; None for this program's.
        stdin: None for this program's own, `PIPE`, `DEVNULL`, a file or a descriptor, as with
            `subprocess`.
        stdout: likewise.
        stderr: likewise. With `PIPE`, its end goes into `StartFailed`.
        new_group: it leads a process group, which `terminate` and `kill` end as a whole.
        die_with_parent: it is killed when this process ends, however that comes about.
        max_message: the longest message, in bytes, that either side may send.

    Raises:
        OSError: the program cannot be run; `filename` says which.
        StartFailed: it ended without taking up its session.
        TimedOut: it did not take up its session before the deadline. It has been ended.
        TypeError, TooLarge: `hello` cannot be sent. Nothing was started.
        Incompatible: it uses another version of this library. It has been ended.

    Example:
        >>> import alongside, sys
        >>> program = "import alongside; s = alongside.session(); s.send(s.hello * 2)"
        >>> with alongside.start([sys.executable, "-c", program], hello=21) as child:
        ...     child.receive(timeout=5)
        42
    """
    words = _command(command, cwd)
    if not 0 < max_message <= 1 << 62:
        msg = f"max_message is {max_message}, it must be at least 1 and at most 2**62"
        raise ValueError(msg)
    pipes = _Pipes(stdin=stdin, stdout=stdout, stderr=stderr)
    try:
        connection = _core.start(
            words,
            _environment(env),
            None if cwd is None else os.fspath(cwd),
            pipes.theirs,
            new_group,
            die_with_parent,
            max_message,
            hello,
            _limit(timeout),
        )
    except StartFailed as error:
        pipes.close_theirs()
        error.stderr = pipes.end_of_stderr()
        _add_hints(error, words, error.stderr)
        pipes.close_ours()
        raise
    except BaseException as error:
        pipes.close_theirs()
        _add_hints(error, words, pipes.end_of_stderr())
        pipes.close_ours()
        raise
    pipes.close_theirs()
    session = Session(connection, hello)
    session.stdin, session.stdout, session.stderr = pipes.files()
    _remember(session)
    return session


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
            adopted = Session(_core.adopt(variable, _limit(_ADOPT_TIMEOUT)))
            _remember(adopted)
            _adopted.append(adopted)
        found = _adopted[0] if _adopted else None
    if found is None and required:
        msg = (
            "this program was not started by another through alongside.start()\n"
            "session() without required=True gives None then"
        )
        raise NotStarted(msg)
    return found


_ADOPT_TIMEOUT = 10.0
_adopted: "list[Session]" = []


def _limit(timeout: float | None) -> float | None:
    """Lift a deadline of the library when the other program is being debugged."""
    return None if os.environ.get("ALONGSIDE_NO_DEADLINES") == "1" and timeout else timeout


def _command(command: "_Word | Sequence[_Word]", cwd: "str | PathLike[str] | None") -> list[str]:
    """Give the words of a command; a Python file gets its interpreter."""
    words = [command] if isinstance(command, str | bytes | os.PathLike) else list(command)
    if not words:
        msg = "the command is empty"
        raise ValueError(msg)
    named = [os.fsdecode(word) for word in words]
    if not named[0].endswith(".py"):
        return named
    if getattr(sys, "frozen", False) or not sys.executable:
        msg = f"{named[0]!r} needs an interpreter, and this frozen application is none: name one"
        raise ValueError(msg)
    # A missing file would be Python's own complaint otherwise, on stderr.
    try:
        os.stat(named[0] if cwd is None else os.path.join(cwd, named[0]))
    except FileNotFoundError as error:
        _add_hints(error, named, None)
        raise
    return [sys.executable, *named]


def _add_hints(error: BaseException, words: list[str], stderr: bytes | None) -> None:
    """Tell what the program said, and what a newcomer may have meant."""
    if stderr:
        error.add_note(stderr.decode(errors="backslashreplace").rstrip())
    if isinstance(error, FileNotFoundError) and len(words) == 1 and " " in words[0]:
        error.add_note('a command with arguments is a list, like ["python", "editor.py"]; no shell')


def _environment(env: "Mapping[str, str] | None") -> list[bytes]:
    pairs = os.environ if env is None else env
    return [os.fsencode(key) + b"=" + os.fsencode(value) for key, value in pairs.items()]


def _enlarge(pipe: int) -> None:
    """Give a pipe room, for nobody reads it until the program has taken up its session."""
    import fcntl

    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        # Beyond what this user may have; the usual size has to do.
        return


class _Pipes:
    """The standard streams of a program that is being started."""

    def __init__(self, **streams: "_Stream") -> None:
        self.theirs: list[int | None] = []
        self._ours: list[int | None] = []
        self._to_close: list[int] = []
        try:
            for name, stream in streams.items():
                ours, theirs = self._open(stream, reads=name == "stdin")
                self._ours.append(ours)
                self.theirs.append(theirs)
        except BaseException:
            self.close_theirs()
            self.close_ours()
            raise

    def _open(self, stream: "_Stream", *, reads: bool) -> tuple[int | None, int | None]:
        if stream is None:
            return None, None
        if stream == PIPE:
            read, write = os.pipe()
            _enlarge(read)
            ours, theirs = (write, read) if reads else (read, write)
            self._to_close.append(theirs)
            return ours, theirs
        if stream == DEVNULL:
            theirs = os.open(os.devnull, os.O_RDWR)
            self._to_close.append(theirs)
            return None, theirs
        fd = stream if isinstance(stream, int) else stream.fileno()
        if fd < 0:
            msg = f"{stream!r} is no stream: a file, a descriptor, PIPE, DEVNULL or None"
            raise ValueError(msg)
        return None, fd

    def close_theirs(self) -> None:
        while self._to_close:
            os.close(self._to_close.pop())

    def close_ours(self) -> None:
        for fd in self._ours:
            if fd is not None:
                os.close(fd)
        self._ours = []

    def end_of_stderr(self) -> bytes | None:
        """Give the end of what is in the pipe now."""
        fd = self._ours[2] if self._ours else None
        if fd is None:
            return None
        os.set_blocking(fd, False)
        end = b""
        try:
            while chunk := os.read(fd, _STDERR_SHOWN):
                end = (end + chunk)[-_STDERR_SHOWN:]
        except BlockingIOError:
            pass
        return end

    def files(self) -> "list[IO[bytes] | None]":
        files: "list[IO[bytes] | None]" = [
            None if fd is None else open(fd, "wb" if place == 0 else "rb")  # noqa: SIM115 - handed out
            for place, fd in enumerate(self._ours)
        ]
        self._ours = []
        return files


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


def _remember(session: "Session") -> None:
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
    if service := sys.modules.get("alongside._service"):
        service.the_service.leave(session)


def _close_all() -> None:
    if service := sys.modules.get("alongside._service"):
        service.the_service.stop()
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


def _service() -> "Service":
    from ._service import the_service

    return the_service
