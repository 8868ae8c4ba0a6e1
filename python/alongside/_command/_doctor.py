"""`alongside doctor`: what is wrong here, and how to mend it.

Each check looks at one thing and gives findings. What can be tried is tried, rather than concluded
from a version or from permission bits: a name is published, a descriptor asked for. A scope that is
not there is no fault; a machine need not have it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import resource
import socket
import stat
from pathlib import Path
from shlex import quote

from .. import _core
from .._directory import running
from .._errors import AlongsideError, NoScope
from ._listing import full_name, user
from ._printing import json_of, printable, say, words
from ._processes import why_it_waits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

    from .._core import Peer
    from .._types import Scope

_SCOPES: tuple[Scope, ...] = ("login", "user", "machine")
# A session takes about eight descriptors: with fewer than these, a program has few sessions.
_FEW_DESCRIPTORS = 256
# What a mount of these types says of a lock may be another machine's word, or nobody's.
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph")
# Linux 6.5; the same number on all machines but MIPS, PA-RISC and SPARC.
_SO_PEERPIDFD = 77
_PARTS = ("names", "lives", "sockets")


class Finding:
    """What a check has found.

    Attributes:
        level: "info", which is as it should be, "warning" or "error".
        subject: what it is about: "scope user", "kernel".
        text: in one sentence.
        mend: how to mend it; empty if nothing needs to be.
    """

    def __init__(self, level: str, subject: str, text: str, mend: str = "") -> None:
        self.level = level
        self.subject = subject
        self.text = text
        self.mend = mend


def doctor(options: Namespace) -> int:
    """Say what there is to say."""
    findings = [finding for check in _checks() for finding in check()]
    is_well = all(finding.level == "info" for finding in findings)
    if options.json:
        say(json_of({"well": is_well, "findings": [vars(finding) for finding in findings]}))
    else:
        _report(findings, is_well=is_well)
    return 0 if is_well else 1


def _report(findings: list[Finding], *, is_well: bool) -> None:
    subject = ""
    for finding in findings:
        if finding.subject != subject:
            subject = finding.subject
            say(subject)
        level = "" if finding.level == "info" else f"{finding.level}: "
        say(f"  {level}{printable(finding.text)}")
        if finding.mend:
            say(f"    {printable(finding.mend)}")
    say("all is well" if is_well else "not all is well")


def _checks() -> Iterator[Callable[[], Iterator[Finding]]]:
    for scope in _SCOPES:
        yield functools.partial(_scope, scope)
    yield _runtime_directory
    yield _waiting
    yield _kernel
    yield _limits


# ---- scopes --------------------------------------------------------------------------------------


def _scope(scope: Scope) -> Iterator[Finding]:
    """Look at a scope: its directories, what lies in them, and whether it can be used."""
    subject = f"scope {scope}"
    try:
        places = _core.places(scope)
        _check(scope)
    except NoScope as error:
        # The machine's directory is there, but of no use.
        is_broken = scope == "machine" and os.path.lexists(_core.places(scope)[0][0])
        yield _of(error, subject, "error" if is_broken else "info")
        return
    except ValueError as error:
        yield _of(error, subject, "error")
        return
    for path, is_there, refusal in places:
        yield from _place(path, is_there, refusal, scope)
    try:
        yield from _content(scope, subject)
    except OSError as error:
        yield _of(error, subject, "error")
    yield _trial(scope, subject)


def _check(scope: Scope) -> None:
    """Raise NoScope if there is none."""
    with contextlib.suppress(OSError):
        # Told where its content is looked at.
        running(scope=scope)


def _of(error: Exception, subject: str, level: str) -> Finding:
    text, _, mend = words(error).partition("\n")
    return Finding(level, subject, text, mend)


def _place(path: Path, is_there: bool, refusal: str | None, scope: Scope) -> Iterator[Finding]:
    subject = f"scope {scope}"
    if not is_there:
        yield Finding("info", subject, f"{path}: not there; made when a name is published")
    elif refusal is None:
        yield Finding("info", subject, f"{path}: {_shown_type(path)}")
        yield from _far(path, subject)
        yield from _rooms(path, scope)
    elif path.name.startswith("."):
        yield Finding("info", subject, f"{path}: being made, or left when that was interrupted")
    else:
        text, _, mend = refusal.partition("\n")
        text = f"{path} is passed over: {text}"
        mend = mend.replace(" makes it", f" {quote(str(path))} makes it") or _removal(path)
        # No error: names may stand elsewhere. Whether they can is tried below.
        yield Finding("warning", subject, text, mend)


def _removal(path: Path) -> str:
    is_directory = path.is_dir() and not path.is_symlink()
    return f"remove it: {'rm -r' if is_directory else 'rm'} {quote(str(path))}"


def _far(path: Path, subject: str) -> Iterator[Finding]:
    if file_system(path) in _REMOTE:
        text = f"{path} lies on a network file system, where a lock may not tell who lives"
        yield Finding("warning", subject, text, "have XDG_RUNTIME_DIR name a directory on tmpfs")


def _rooms(path: Path, scope: Scope) -> Iterator[Finding]:
    """Look at the directories in a place: one that does not count is passed over without a word."""
    rooms = {"user": ["user"], "login": [room.name for room in path.glob("login-*")]}
    for room in rooms.get(scope, []):
        yield from _room(path / room, f"scope {scope}", closed=0o077)
        for part in _PARTS:
            yield from _room(path / room / part, f"scope {scope}", closed=0)


def _room(path: Path, subject: str, closed: int) -> Iterator[Finding]:
    try:
        found = path.lstat()
    except OSError:
        return
    if not stat.S_ISDIR(found.st_mode):
        text = f"{path} is no directory, and so there are no names in it"
        yield Finding("error", subject, text, _removal(path))
    elif found.st_uid != os.geteuid():
        text = f"{path} belongs to user {found.st_uid}, and is passed over"
        yield Finding("error", subject, text, _removal(path))
    elif found.st_mode & closed:
        text = (
            f"{path} is passed over: others may enter it (mode {stat.S_IMODE(found.st_mode):04o})"
        )
        yield Finding("error", subject, text, f"chmod 700 {quote(str(path))}")


def _content(scope: Scope, subject: str) -> Iterator[Finding]:
    """Look at the names that are there."""
    dead = 0
    for path, reason in _core.flaws(scope):
        if reason is None:
            dead += 1
        else:
            text = f"{path} is passed over: {reason}"
            yield Finding("warning", subject, text, _removal(path))
    if dead:
        text = f"{dead} left by programs that were killed; whoever lists the names removes them"
        yield Finding("info", subject, text)
    yield Finding("info", subject, f"names of running programs: {len(running(scope=scope))}")


def _trial(scope: Scope, subject: str) -> Finding:
    """Publish a name for a moment: nothing else tells as surely that it can be done."""
    from .._publish import publish

    try:
        about = "looks whether a name can be published"
        publish("alongside/doctor", unique=True, about=about, scope=scope).revoke()
    except (AlongsideError, OSError, ValueError) as error:
        return _of(error, subject, "error")
    return Finding("info", subject, "names can be published")


def _runtime_directory() -> Iterator[Finding]:
    """Look at the variable that says where names stand; one that does not count is passed over."""
    told = os.environ.get("XDG_RUNTIME_DIR")
    subject = "XDG_RUNTIME_DIR"
    if not told:
        yield Finding("info", subject, "not set")
        return
    if fault := _fault_of_runtime_directory(Path(told)):
        text = f"{told} is passed over: {fault}"
        yield Finding("warning", subject, text, "name a directory of your own, of mode 0700")
    else:
        yield Finding("info", subject, told)


def _fault_of_runtime_directory(path: Path) -> str:
    if not path.is_absolute():
        return "it is no absolute path"
    try:
        found = path.stat()
    except OSError as error:
        return error.strerror or "it cannot be looked at"
    if not stat.S_ISDIR(found.st_mode):
        return "it is no directory"
    if found.st_uid != os.geteuid():
        return f"it belongs to user {found.st_uid}"
    if found.st_mode & 0o077:
        return f"others may enter it (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


# ---- who waits -----------------------------------------------------------------------------------


def _waiting() -> Iterator[Finding]:
    """Look for programs that have published names and answer nobody."""
    named: dict[Peer, set[str]] = {}
    for scope in _SCOPES:
        try:
            entries = running(scope=scope)
        except (AlongsideError, OSError, ValueError):
            # Told where the scope was looked at.
            continue
        for entry in entries:
            named.setdefault(entry.peer, set()).add(f'"{full_name(entry)}"')
    found = [_standstill(peer, ", ".join(sorted(names))) for peer, names in named.items()]
    standstills = [finding for finding in found if finding is not None]
    yield from standstills or [Finding("info", "who waits", "no program with a name is held up")]


def _standstill(peer: Peer, names: str) -> Finding | None:
    reason = why_it_waits(peer.pid)
    if reason is None:
        return None
    text = f"whoever calls {names} waits: its process {peer.pid} {reason.text}"
    is_ours = os.geteuid() in {0, peer.uid}
    mend = reason.mend if is_ours else f"{user(peer.uid)}, or root: {reason.mend}"
    return Finding(reason.level, "who waits", text, mend)


# ---- the kernel ----------------------------------------------------------------------------------


def _kernel() -> Iterator[Finding]:
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


def _shown_type(path: Path) -> str:
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


def _limits() -> Iterator[Finding]:
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
        finding = _of(error, "limits", "error")
        if error.errno == errno.EMFILE:
            finding.text = f"names cannot be watched: this user has {most} watches already"
            finding.mend = f"sysctl {'.'.join(path.parts[3:])}=1024, as root"
        yield finding
    else:
        yield Finding("info", "limits", f"all programs of a user together may have {most} watches")
