"""Running a command while something is held for it.

The command must not go on without that: if this program is killed, so is the command, but not what
that has started in its turn. A lock is therefore handed on as flock(1) does: what the command
starts inherits its open file, and the kernel's lock ends with the last that has it. What a terminal
or another program tells this one to do (`kill`, Ctrl-C, a hang-up) it tells the command, and ends
with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from typing import NoReturn

from ._printing import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import FrameType

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_SIGNALLED = 128
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


def run(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command to its end; give its status as a shell does."""
    return status_of(end_of(words, environment))


def status_of(end: int) -> int:
    """Give a status as a shell does: of what a signal has ended, too."""
    return _SIGNALLED - end if end < 0 else end


def end_of(
    words: Sequence[str], environment: Mapping[str, str], *, inherits: Path | None = None
) -> int:
    """Run a command to its end; give its status, or less than 0 if a signal has ended it.

    Args:
        words: the command.
        environment: what it has beside this program's.
        inherits: a file of which it is to have what this program has open.
    """
    known = {number: signal.getsignal(number) for number in _FORWARDED}
    # What is ignored, as by nohup, is ignored by the command as well.
    known = {each: handler for each, handler in known.items() if handler != signal.SIG_IGN}
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        # Ctrl-C on a terminal comes to both; a second one does no harm.
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    for number in known:
        signal.signal(number, forward)
    try:
        parent, end_with = os.getpid(), _end_with_parent()
        with _copies(inherits) as copies:
            # In the child, of which this thread is the parent: it lives as long as this process.
            process = subprocess.Popen(
                words,
                env=os.environ | environment,
                pass_fds=copies,
                preexec_fn=lambda: end_with(parent),  # noqa: PLW1509 - takes no lock
            )
        for told in early:
            process.send_signal(told)
        return process.wait()
    except FileNotFoundError as error:
        tell(error)
        return _NOT_FOUND
    except PermissionError as error:
        tell(error)
        return _NOT_EXECUTABLE
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _copies(path: Path | None) -> Generator[list[int]]:
    """Give copies of what this program has open of a file; a forked child has no originals."""
    copies: list[int] = []
    try:
        for descriptor in _open_at(path) if path is not None else ():
            copies.append(os.dup(descriptor))
        yield copies
    finally:
        for copy in copies:
            os.close(copy)


def _open_at(path: Path) -> Iterator[int]:
    """Give this program's descriptors of a file."""
    try:
        meant = path.stat()
    except FileNotFoundError:
        # Somebody has removed it: nobody else comes upon that one any more.
        return
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        # The listing's own is closed by now.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), meant):
                yield descriptor


def _end_with_parent() -> Callable[[int], None]:
    """Give what has a child be killed when its parent ends."""
    libc = ctypes.CDLL(None)

    def end_with(parent: int) -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            _leave()

    return end_with


def _leave() -> NoReturn:
    os._exit(_SIGNALLED + signal.SIGKILL)
