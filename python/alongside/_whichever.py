"""Whichever comes first: a session with the program of a name, started if it does not run.

Loads when a program first asks for that.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from . import _core
from ._cells import Cell
from ._directory import _call, connect, find, short_name
from ._errors import NotFound, SessionEnded, StartFailed, TimedOut
from ._locks import Lock
from ._publish import UNTIL_PUBLISHED
from ._session import Session, limit, remember
from ._start import _STDERR_IN_TEXT, _STDERR_SHOWN, _command, _complete, _environment
from ._until import Until, ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._core import Peer
    from ._start import _Command
    from ._types import Scope
    from ._watch import Watch

# What the names of cells and locks begin with that belong to a start.
_PREFIX = ".start/"
# How a start has failed, encoded: the reason, and the end of what the program said.
_MOST_BYTES = 256 << 10
# A process that is about to run its program has no environment for a moment: so often, and so long
# apart, it is looked for.
_LOOKS = 50
_LOOK_AGAIN_S = 0.001
# So often what cannot be told is looked at.
_LOOK_S = 0.1


def start_or_connect(
    name: str,
    command: _Command,
    /,
    *,
    hello: object = None,
    detached: bool = True,
    scope: Scope = "user",
    timeout: float | None = 10.0,
) -> Session:
    """Connect to the program that runs under a name; if none does, start it first.

        controller = alongside.start_or_connect("transfer", ["transfers", "serve"])
        controller.send({"upload": path})

    However many programs ask at once, one of them starts it, and all are connected. It has to
    `publish` the name with `on_message` or `on_connect`.

    Args:
        name: the name, as for `connect`; of at most 190 bytes.
        command: what starts it, as for `start`.
        hello: the first message to it, if it is not None.
        detached: it leads a kernel session of its own, with /dev/null for its standard streams, and
            none of this program's descriptors: it outlives this program, its terminal, and its
            login's hang-up. What it writes to stderr until it has published the name is kept for
            the error. Without `detached` it shares streams, terminal and process group.
        scope: who shares the name.
        timeout: seconds until it must have answered; None for ever. A program that was started
            here and has not published the name by then is ended.

    Raises:
        StartFailed: it ended without publishing the name; all that waited are told. `stderr` has
            what it said.
        TimedOut: it has not published the name, or not answered, before the deadline.
        OSError: it cannot be run.
        TypeError: `hello` cannot be sent. Nothing was started.
        Denied, Incompatible, ValueError: see `connect`.

    Example:
        >>> import alongside, sys
        >>> source = '''
        ... import alongside, threading
        ... done = threading.Event()
        ... def answer(data, session):
        ...     session.send(data * 2)
        ...     done.set()
        ... with alongside.publish("example/double", answer):
        ...     done.wait()
        ... '''
        >>> program = [sys.executable, "-c", source]
        >>> with alongside.start_or_connect("example/double", program, hello=21) as session:
        ...     session.receive(timeout=5)
        42
    """
    until = Until(limit(timeout))
    return _whichever(name, command, until, hello=hello, detached=detached, scope=scope)


def _whichever(
    name: str, command: _Command, until: Until, *, hello: object, detached: bool, scope: Scope
) -> Session:
    session = _running(name, scope, until)
    if session is None:
        words = _command(command, None)
        # Before anything is started for it.
        _core.check_message(hello)
        session = _start_once(short_name(name), words, until, scope=scope, detached=detached)
    if hello is not None:
        try:
            session.send(hello, timeout=until.left())
        except BaseException:
            session.close(timeout=0)
            raise
    return session


async def astart_or_connect(
    name: str,
    command: _Command,
    /,
    *,
    hello: object = None,
    detached: bool = True,
    scope: Scope = "user",
    timeout: float | None = 10.0,
) -> Session:
    """Connect to the program of a name, or start it first, waiting in asyncio or trio.

    Arguments, result and errors are those of `start_or_connect`.
    """
    from ._tasks import in_thread

    until = Until(limit(timeout), may_be_called_off=True)

    def ask() -> Session:
        return _whichever(name, command, until, hello=hello, detached=detached, scope=scope)

    return await in_thread(ask, lambda session: session.close(timeout=0), until.call_off)


def _running(name: str, scope: Scope, until: Until) -> Session | None:
    """Give a session with the program that runs under a name; None if none does."""
    try:
        if until.may_be_called_off:
            return _connect(name, scope, until)
        return connect(name, timeout=until.left(), scope=scope)
    except NotFound:
        return None
    except SessionEnded:
        # It has ended while it was called.
        return None


def _connect(name: str, scope: Scope, until: Until) -> Session:
    """Do what `connect` does, until it is called off."""
    call = _call(name, scope, None, None)
    while True:
        connection, descriptor = call.step()
        if connection is not None:
            session = Session(connection, None)
            remember(session)
            return session
        if descriptor is not None:
            ready(until, descriptor)
        else:
            ready(until.at_most(call.pause()))
        if until.left() == 0:
            call.give_up()


def _start_once(
    name: str, words: list[str], until: Until, *, scope: Scope, detached: bool
) -> Session:
    """Start the program, unless another one does so at the moment."""
    lock = Lock(_PREFIX + name, scope=scope)
    with Cell[Any](_PREFIX + name, scope=scope, max_size=_MOST_BYTES) as failures:
        seen = failures._version()
        task, is_settled = object(), False
        try:
            _acquire(lock, id(task), name, until)
            if lock.abandoned:
                # One that was started by a program which was killed may have yet to publish.
                _wait_for_begun(name, scope, until)
            is_settled = True
            while True:
                session = _running(name, scope, until)
                if session is not None:
                    return session
                # Somebody has tried while this one waited: it would fail again.
                if failures._version() > seen:
                    raise _failed(words, *failures.get())
                program = _Program(name, scope, words, detached=detached)
                try:
                    session = program.connect(name, scope, until)
                except StartFailed as error:
                    failures.set([error.exit_status, error.stderr])
                    raise
                if session is not None:
                    return session
        finally:
            # Ctrl-C may have come before it was taken.
            if lock._is_taken_by(id(task)):
                # The next one waits for what was begun, as this one has.
                is_begun = lock.abandoned and not is_settled
                give_back = lock._abandon_for if is_begun else lock._release_for
                give_back(id(task))


def _acquire(lock: Lock, task: int, name: str, until: Until) -> None:
    """Wait until no other program is at it."""
    while True:
        step = until.at_most(_LOOK_S).left() if until.may_be_called_off else until.left()
        try:
            lock._acquire_for(task, step)
        except TimedOut:
            if until.left() == 0:
                raise _being_started(lock.owner(), name) from None
        else:
            return


def _being_started(starter: Peer | None, name: str) -> TimedOut:
    who = "another program" if starter is None else f"process {starter.pid}"
    return TimedOut(
        f"{who} starts the program of the name {name!r}, and has not done so before the deadline"
    )


def _wait_for_begun(name: str, scope: Scope, until: Until) -> None:
    """Wait for a program that was started by one which was killed, if it has yet to publish.

    Raises:
        TimedOut: it has not, before the deadline.
    """
    from ._watch import watch

    for handle in _begun(_awaited(name, scope)):
        try:
            with watch(name, scope=scope) as names:
                while not _is_callable(name, scope):
                    if until.left() == 0:
                        raise _being_started(None, name)
                    found = ready(until, names.fileno(), handle)
                    while names._take() is not None:
                        pass
                    if handle in found:
                        break
        finally:
            os.close(handle)


def _awaited(name: str, scope: Scope) -> str:
    """Give what a program is started for, as its environment says it."""
    return f"{scope}:{name}"


def _begun(awaited: str) -> Iterator[int]:
    """Give handles of programs that were started for a name, and have yet to publish it.

    Each says so in its environment, which stays; but its stderr is another one when it has.
    """
    key = UNTIL_PUBLISHED.encode() + b"="
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            # What it has started in its turn says the same, and leads no kernel session.
            if os.getsid(pid) != pid:
                continue
            handle = os.pidfd_open(pid)
        except OSError:
            # Gone.
            continue
        words = _environment_of(pid, handle)
        said = [word.removeprefix(key) for word in words if word.startswith(key)]
        inode, _, of = said[0].partition(b":") if said else (b"", b"", b"")
        if of == awaited.encode() and inode == _stderr_of(pid):
            yield handle
        else:
            os.close(handle)


def _stderr_of(pid: int) -> bytes:
    """Give the inode of a process's stderr."""
    try:
        return b"%d" % os.stat(f"/proc/{pid}/fd/2").st_ino
    except OSError:
        return b""


def _environment_of(pid: int, handle: int) -> list[bytes]:
    """Give what a process was started with; nothing if it has ended, or is another user's."""
    for _ in range(_LOOKS):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                found = file.read()
        except OSError:
            return []
        if found or ready(Until(0), handle):
            return found.split(b"\0")
        time.sleep(_LOOK_AGAIN_S)
    return []


def _failed(
    words: list[str],
    exit_status: int | None,
    said: bytes,
    when: str = "before it had published the name",
) -> StartFailed:
    """Give the error for a program that has ended too early."""
    how = "ended" if exit_status is None else f"ended with exit status {exit_status}"
    if exit_status is not None and exit_status < 0:
        how = f"was ended by signal {-exit_status}"
    lines = [f'"{" ".join(words)}" {how} {when}']
    if shown := said.decode(errors="backslashreplace").rstrip():
        lines += ["its stderr ends:", shown[-_STDERR_IN_TEXT:]]
    error = StartFailed("\n".join(lines), exit_status=exit_status)
    error.stderr = said
    return error


class _Program:
    """A program that was started and has yet to publish its name."""

    # It has ended, and left another program behind.
    _has_ended = False

    def __init__(self, name: str, scope: Scope, words: list[str], *, detached: bool) -> None:
        self._words = words
        self._detached = detached
        self._said = os.memfd_create("alongside-stderr")
        try:
            self._child = self._run(_awaited(name, scope))
        except BaseException as error:
            os.close(self._said)
            _complete(error, words, None)
            raise

    def _run(self, awaited: str) -> _core.Child:
        """Start it. It has this program's lock until it runs, so that nobody overlooks it."""
        if not self._detached:
            return _core.run(self._words, _environment(None), (None, None, None), False)
        until_then = f"{os.fstat(self._said).st_ino}:{awaited}"
        environment = _environment({**os.environ, UNTIL_PUBLISHED: until_then})
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            return _core.run(self._words, environment, (nothing, nothing, self._said), True)
        finally:
            os.close(nothing)

    def connect(self, name: str, scope: Scope, until: Until) -> Session | None:
        """Give a session with it once it has published the name; None if that was somebody else's.

        Raises:
            StartFailed: the program has ended. TimedOut: the deadline; it is ended then.
        """
        is_done = False
        try:
            self._wait_for(name, scope, until)
            session = _running(name, scope, until)
            is_done = True
            if session is not None or not self._child.is_over():
                return session
            # It has published its name, and ended at once.
            status, said = self._child.exit_status(), self._stderr()
            error = _failed(self._words, status, said, "after it had published the name")
        finally:
            if not is_done:
                # Ctrl-C, say: nobody waits for it any more, and the next one starts another.
                self._end()
            os.close(self._said)
        raise error

    def _wait_for(self, name: str, scope: Scope, until: Until) -> None:
        from ._watch import watch

        with watch(name, scope=scope) as names:
            while not _is_callable(name, scope):
                if not self._wait(names, until):
                    self._end()
                    msg = (
                        f'"{" ".join(self._words)}" has not published the name {name!r} before '
                        "the deadline, and was ended"
                    )
                    raise TimedOut(msg)

    def _wait(self, names: Watch, until: Until) -> bool:
        """Wait for something to happen; False if the deadline comes first."""
        if self._has_ended:
            # What it has left behind is watched by a look now and then.
            found = ready(until.at_most(_LOOK_S), names.fileno())
            if not found and not _has_session(self._child.pid):
                raise _failed(self._words, self._child.exit_status(), self._stderr())
        else:
            found = ready(until, names.fileno(), self._child.fileno())
        while names._take() is not None:
            pass
        if self._child.fileno() in found:
            self._ended()
        return bool(found) or until.left() != 0

    def _ended(self) -> None:
        """Take note of the end; who has left another program behind, as a shell does, is none."""
        self._has_ended = True
        status = self._child.exit_status()
        if not status and self._detached and _has_session(self._child.pid):
            return
        raise _failed(self._words, status, self._stderr())

    def _stderr(self) -> bytes:
        size = os.fstat(self._said).st_size
        return os.pread(self._said, _STDERR_SHOWN, max(0, size - _STDERR_SHOWN))

    def _end(self) -> None:
        """End it, and what it has started in its kernel session."""
        if self._detached:
            for pid in _members(self._child.pid):
                _kill(pid)
        self._child.kill()


def _is_callable(name: str, scope: Scope) -> bool:
    return find(name, scope=scope) is not None


def _has_session(sid: int) -> bool:
    """Whether any process is in this kernel session."""
    return any(True for _ in _members(sid))


def _members(sid: int) -> list[int]:
    """Give the processes in a kernel session."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and os.getsid(int(name)) == sid:
                found.append(int(name))
        except ProcessLookupError:
            continue
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
