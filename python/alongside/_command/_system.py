"""What `alongside doctor` says of the kernel, of file systems and of limits."""

from __future__ import annotations

import errno
import os
import resource
import socket
from pathlib import Path

from ._finding import Finding, finding_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# A session takes about eight descriptors: with fewer than these, a program has few sessions.
_FEW_DESCRIPTORS = 256
# Linux 6.5; the same number on all machines but MIPS, PA-RISC and SPARC.
_SO_PEERPIDFD = 77

# ---- the kernel ----------------------------------------------------------------------------------


def kernel() -> Iterator[Finding]:
    """Look for what the kernel has or has not."""
    yield Finding("info", "kernel", f"{os.uname().sysname} {os.uname().release}")
    if _has_process_file_system():
        yield Finding("info", "kernel", "each process has an inode of its own (pidfs)")
    else:
        text = "processes have no inodes of their own (pidfs, Linux 6.9)"
        mend = "other users' processes are told apart by when they began instead"
        yield Finding("info", "kernel", text, mend)
    if _tells_peers():
        yield Finding("info", "kernel", "a socket gives its peer's process (SO_PEERPIDFD)")
    else:
        text = "a socket does not give its peer's process (SO_PEERPIDFD, Linux 6.5)"
        yield Finding("info", "kernel", text, "it is looked up by its number instead")


def _has_process_file_system() -> bool:
    """Whether handles of processes are files of their own, and not all the same anonymous one."""
    handles = os.pidfd_open(os.getpid()), os.eventfd(0)
    try:
        process, anonymous = (os.fstat(handle).st_dev for handle in handles)
    finally:
        for handle in handles:
            os.close(handle)
    return process != anonymous


def _tells_peers() -> bool:
    one, other = socket.socketpair()
    with one, other:
        try:
            handle = one.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError:
            return False
    os.close(handle)
    return True


def shown_type(path: Path) -> str:
    """Say on which type of file system a path is."""
    kind = file_system(path)
    return "there" if kind is None else f"there, on {kind}"


def file_system(path: Path) -> str | None:
    """Give the type of the file system in which a path lies; None if the mounts do not say."""
    try:
        device = path.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    # As in "36 35 0:32 / /run rw - tmpfs tmpfs rw": the device, and behind the dash the type.
    wanted = f"{os.major(device)}:{os.minor(device)}"
    kinds = [mount.partition(" - ")[2].split()[0] for mount in mounts if mount.split()[2] == wanted]
    return kinds[-1] if kinds else None


# ---- limits --------------------------------------------------------------------------------------


def limits() -> Iterator[Finding]:
    """Look at what a program may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"a program may have {_shown_limit(soft)} descriptors open, of at most "
    text += f"{_shown_limit(hard)} that it can ask for"
    if 0 <= soft < _FEW_DESCRIPTORS:
        mend = f"ulimit -n {_FEW_DESCRIPTORS} or more: a session takes about eight"
        yield Finding("warning", "limits", text, mend)
    else:
        yield Finding("info", "limits", text)
    yield from _watches()


def _shown_limit(limit: int) -> str:
    return "any number of" if limit == resource.RLIM_INFINITY else str(limit)


def _watches() -> Iterator[Finding]:
    """Watch for a moment: each watch takes one of the user's inotify instances."""
    from .._watch import watch

    path = Path("/proc/sys/fs/inotify/max_user_instances")
    most = path.read_text().strip() if path.exists() else "an unknown number of"
    try:
        watch().close()
    except OSError as error:
        finding = finding_of(error, "limits", "error")
        if error.errno == errno.EMFILE:
            finding.text = f"names cannot be watched: this user has {most} watches already"
            finding.mend = f"sysctl {'.'.join(path.parts[3:])}=1024, as root"
        yield finding
    else:
        yield Finding("info", "limits", f"all programs of a user together may have {most} watches")
