"""Starting a program: its words, its environment, its standard streams.

Loads when a program first starts another; one that is only started does without.
"""

import os
import sys
from _thread import _local

from . import _core
from ._errors import StartFailed, TimedOut
from ._session import Session, limit, remember

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from typing import IO, Protocol, TypeAlias

    class _HasFileno(Protocol):
        """A file, a pipe, a socket."""

        def fileno(self) -> int: ...

    _Word: TypeAlias = str | bytes | PathLike[str] | PathLike[bytes]
    _Command: TypeAlias = _Word | Sequence[_Word]
    _Stream: TypeAlias = int | _HasFileno | None

PIPE = -1
"""For `start(stdin=, stdout=, stderr=)`: a pipe; has the value of `subprocess.PIPE`."""
STDOUT = -2
"""For `start(stderr=)`: where stdout goes; has the value of `subprocess.STDOUT`."""
DEVNULL = -3
"""For `start(stdin=, stdout=, stderr=)`: nothing; has the value of `subprocess.DEVNULL`."""


class _ThisThread(_local):
    """What a start in this thread goes by beside its arguments."""

    # By it another thread, which waits for this one's start, can end that.
    canceller: "_core.Canceller | None" = None


this_thread = _ThisThread()

_STDERR_SHOWN = 64 * 1024
_STDERR_IN_TEXT = 2000
_REAP_PATIENCE = 1.0
_PIPE_BYTES = 1024 * 1024


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
) -> Session:
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
        stderr: likewise, or `STDOUT`. With `PIPE`, its end goes into `StartFailed`.
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
    _refuse_endless_starts(words)
    _check_limit(max_message)
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
            limit(timeout),
            this_thread.canceller,
        )
    except BaseException as error:
        pipes.close_theirs()
        said = pipes.end_of_stderr()
        pipes.close_ours()
        _complete(error, words, said)
        raise
    pipes.close_theirs()
    session = Session(connection, hello)
    session.stdin, session.stdout, session.stderr = pipes.files()
    remember(session)
    if connection.needs_hello:
        try:
            session._send_hello(hello, limit(timeout))
        except BaseException:
            _end(session)
            raise
    return session


def _end(session: Session) -> None:
    """End a program that was started and cannot be worked with, and reap it."""
    session.kill()
    session.close(timeout=0)
    try:
        session.wait(_REAP_PATIENCE)
    except TimedOut:
        return  # the next start reaps it


def _command(command: "_Word | Sequence[_Word]", cwd: "str | PathLike[str] | None") -> list[str]:
    """Give the words of a command; a Python file gets its interpreter."""
    named = _words(command)
    if not named[0].endswith(".py"):
        return named
    if getattr(sys, "frozen", False) or not sys.executable:
        msg = f"{named[0]!r} needs an interpreter, and this frozen application is none: name one"
        raise ValueError(msg)
    # A missing file would be Python's own complaint otherwise, on stderr.
    try:
        os.stat(named[0] if cwd is None else os.path.join(cwd, named[0]))
    except FileNotFoundError as error:
        _complete(error, named, None)
        raise
    return [sys.executable, *named]


def _words(command: "_Word | Sequence[_Word]") -> list[str]:
    try:
        words = [command] if isinstance(command, str | bytes | os.PathLike) else list(command)
    except TypeError:
        msg = f"the command is {command!r}, expected a program, or a list of it and its arguments"
        raise TypeError(msg) from None
    if not words:
        msg = "the command is empty"
        raise ValueError(msg)
    named: list[str] = []
    for place, word in enumerate(words):
        try:
            named.append(os.fsdecode(word))
        except TypeError:
            msg = f"command[{place}] is {word!r}, expected text, bytes or a path"
            raise TypeError(msg) from None
        if "\0" in named[-1]:
            msg = f"command[{place}] has a null byte in it: {word!r}"
            raise ValueError(msg)
    return named


def _refuse_endless_starts(words: list[str]) -> None:
    """Refuse what would start itself for ever: a program that starts at the top of its own file."""
    if _core.ENVIRONMENT_VARIABLE not in os.environ or not sys.argv[0]:
        return
    again = words[-len(sys.argv) :]
    if again[1:] == sys.argv[1:] and os.path.abspath(again[0]) == os.path.abspath(sys.argv[0]):
        msg = (
            "this program was started by itself, and is about to start itself again\n"
            "call session() first; it gives None where start() is to be called"
        )
        raise RuntimeError(msg)


def _check_limit(max_message: object) -> None:
    if type(max_message) is not int:
        msg = f"max_message is {max_message!r}, expected a number of bytes"
        raise TypeError(msg)
    if not 0 < max_message <= 1 << 62:
        msg = f"max_message is {max_message}, it must be at least 1 and at most 2**62"
        raise ValueError(msg)


def _complete(error: BaseException, words: list[str], said: bytes | None) -> None:
    """Tell what the program said, and what a newcomer may have meant."""
    text = said.decode(errors="backslashreplace").rstrip() if said else ""
    if isinstance(error, StartFailed):
        error.stderr = said
        if text:
            error.args = (f"{error}\nits stderr ends:\n{text[-_STDERR_IN_TEXT:]}",)
        elif said is None and error.exit_status:
            more = "its stderr says why; with stderr=alongside.PIPE this error has it"
            error.args = (f"{error}\n{more}",)
    elif text:
        error.add_note(text)
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
                if name == "stderr" and stream == STDOUT:
                    out = self.theirs[1]
                    self._ours.append(None)
                    self.theirs.append(1 if out is None else out)
                    continue
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
        file = getattr(stream, "fileno", None)
        fd = file() if file else stream
        if not isinstance(fd, int) or fd < 0:
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
