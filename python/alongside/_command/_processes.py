"""What the kernel tells of a process: what it does, what it has open, whom it shares memory with.

A process that waits for something sleeps like one that has nothing to do; but one that is stopped,
held by a debugger or stuck in the kernel answers nobody, and that is its state.
"""

from __future__ import annotations

import resource
from pathlib import Path
from shlex import join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# What the memory of a session is called in a process' map.
_SESSION = "/memfd:alongside-session"
_MOST_SHOWN = 60


class Reason:
    """Why a process answers nobody.

    Attributes:
        level: "warning" if it stays so by itself; "info" if it may be over in a moment.
        text: in words, after "it".
        mend: what to do about it.
    """

    def __init__(self, level: str, text: str, mend: str) -> None:
        self.level = level
        self.text = text
        self.mend = mend


def why_it_waits(pid: int) -> Reason | None:
    """Give why a process answers nobody; None if nothing says that."""
    state = _state(Path(f"/proc/{pid}"))
    if state == "T":
        return Reason("warning", "is stopped", f"kill -CONT {pid} lets it go on")
    if state == "t":
        return Reason("warning", "is held by a debugger", f"let it go on there ({_tracer(pid)})")
    if state == "D":
        mend = f"if that lasts, see which device or file system hangs: /proc/{pid}/stack"
        return Reason("info", "waits in the kernel and cannot be interrupted", mend)
    return None


def why_it_is_busy(pid: int) -> Reason:
    """Give why a process that could go on lets nobody in."""
    if _has_no_descriptor(pid):
        mend = f"prlimit --pid {pid} --nofile=4096 lets it have more, or end sessions in it"
        return Reason("warning", "has as many descriptors open as it may", mend)
    where = f"py-spy dump --pid {pid} shows where, for a Python program"
    if any(_state(thread) == "R" for thread in _listed(Path(f"/proc/{pid}/task"))):
        return Reason("warning", "computes, and lets nobody in meanwhile", where)
    return Reason("warning", "is held up in a handler, or its loop does not run", where)


def _state(process: Path) -> str:
    """Give the letter for what a process, or a thread, does; nothing if it is gone."""
    try:
        # The name before the last parenthesis is the program's own choice.
        return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _tracer(pid: int) -> str:
    """Give who debugs a process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return "it is gone"
    found = [line.split()[1] for line in lines if line.startswith("TracerPid:")]
    return f"process {found[0]}" if found else "which one is not known"


def _has_no_descriptor(pid: int) -> bool:
    try:
        most, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    except OSError:
        # Gone, or another user's.
        return False
    return 0 <= most <= len(_listed(Path(f"/proc/{pid}/fd")))


def program(pid: int) -> str:
    """Give what a process runs, as far as it fits into a line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        words = []
    text = join([Path(word).name if place == 0 else word for place, word in enumerate(words[:-1])])
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


def processes() -> Iterator[int]:
    """Give all that run here."""
    return (int(each.name) for each in _listed(Path("/proc")) if each.name.isdecimal())


def sockets(pid: int) -> set[int]:
    """Give the inodes of the sockets that a process has open; none if it may not be looked at."""
    found: set[int] = set()
    for descriptor in _listed(Path(f"/proc/{pid}/fd")):
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(int(target[len("socket:[") : -1]))
    return found


def sessions(pid: int) -> set[int]:
    """Give the inodes of the memory of a process' sessions; none if it may not be looked at."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    # As in "7f…-7f… rw-s 00000000 00:01 1027 /memfd:alongside-session (deleted)".
    found = (line.split(maxsplit=5) for line in lines if _SESSION in line)
    return {int(fields[4]) for fields in found if fields[5].startswith(_SESSION)}


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []
