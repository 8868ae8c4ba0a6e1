"""Why a process does nothing, as far as the kernel says so.

A process that waits for something sleeps like one that has nothing to do; but one that is stopped,
held by a debugger or stuck in the kernel answers nobody, and that is its state.
"""

from __future__ import annotations

from pathlib import Path


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
    try:
        # The name before the last parenthesis is the program's own choice.
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return None
    if state == "T":
        return Reason("warning", "is stopped", f"kill -CONT {pid} lets it go on")
    if state == "t":
        return Reason("warning", "is held by a debugger", f"let it go on there ({_tracer(pid)})")
    if state == "D":
        mend = f"if that lasts, see which device or file system hangs: /proc/{pid}/stack"
        return Reason("info", "waits in the kernel and cannot be interrupted", mend)
    return None


def _tracer(pid: int) -> str:
    """Give who debugs a process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return "it is gone"
    found = [line.split()[1] for line in lines if line.startswith("TracerPid:")]
    return f"process {found[0]}" if found else "which one is not known"
