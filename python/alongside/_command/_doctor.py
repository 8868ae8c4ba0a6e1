"""`alongside doctor`: what is wrong here, and how to mend it.

Each check looks at one thing and gives findings. What can be tried is tried, rather than concluded
from a version or from permission bits: a name is published, a descriptor asked for. A scope that is
not there is no fault; a machine need not have it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from pathlib import Path
from shlex import quote

from .. import _core
from .._directory import find, running
from .._errors import AlongsideError, NoScope
from ._finding import Finding, finding_of
from ._listing import or_root
from ._printing import printable, say, say_json
from ._system import file_system, kernel, limits, shown_type
from ._waiting import SCOPES, waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

    from .._types import Scope

# What a mount of these types says of a lock may be another machine's word, or nobody's.
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph")
_TRIAL = "alongside/doctor"
_SHARED = ("gates", "cells", "locks", "rwlocks")
_PARTS = ("names", "lives", "sockets", *_SHARED)


def doctor(options: Namespace) -> int:
    """Say what there is to say."""
    findings = [finding for check in _checks() for finding in check()]
    is_well = all(finding.level == "info" for finding in findings)
    if options.json:
        say_json({"well": is_well, "findings": [vars(finding) for finding in findings]})
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
    for scope in SCOPES:
        yield functools.partial(_scope, scope)
    yield _runtime_directory
    yield waiting
    yield kernel
    yield limits


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
        yield finding_of(error, subject, "error" if is_broken else "info")
        return
    except (ValueError, OSError) as error:
        yield finding_of(error, subject, "error")
        return
    for path, is_there, refusal in places:
        yield from _place(path, is_there, refusal, scope)
    try:
        yield from _content(scope, subject)
    except OSError as error:
        yield finding_of(error, subject, "error")
    yield _trial(scope, subject)


def _check(scope: Scope) -> None:
    """Raise NoScope if there is none.

    By one name: looking at all would remove what the killed have left, before it is counted.
    """
    with contextlib.suppress(OSError):
        # Told where its content is looked at.
        find(_TRIAL, scope=scope)


def _place(path: Path, is_there: bool, refusal: str | None, scope: Scope) -> Iterator[Finding]:
    subject = f"scope {scope}"
    if not is_there:
        yield Finding("info", subject, f"{path}: not there; made when a name is published")
    elif refusal is None:
        yield Finding("info", subject, f"{path}: {shown_type(path)}")
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
    """Say how to remove what is in the way, and who can if this user cannot."""
    try:
        found, owners = path.lstat(), {0, path.lstat().st_uid, path.parent.stat().st_uid}
    except OSError:
        return "it is gone meanwhile"
    command = f"{'rm -r' if stat.S_ISDIR(found.st_mode) else 'rm'} {quote(str(path))}"
    if os.geteuid() in owners:
        return f"remove it: {command}"
    return f"{or_root(found.st_uid)} can remove it: {command}"


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
        for part in _SHARED:
            yield from _shared(path / room / part, f"scope {scope}")


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


def _shared(path: Path, subject: str) -> Iterator[Finding]:
    """Look at the files of what is shared: whoever opens one that is none of ours is refused."""
    try:
        found = sorted(path.iterdir())
    except OSError:
        return
    for each in found:
        try:
            facts = each.lstat()
        except OSError:
            continue
        if not stat.S_ISREG(facts.st_mode):
            fault = "it is no file"
        elif facts.st_uid != os.geteuid():
            fault = f"it belongs to user {facts.st_uid}"
        elif facts.st_mode & 0o077:
            fault = f"others may open it (mode {stat.S_IMODE(facts.st_mode):04o})"
        else:
            continue
        text = f"{each} is in the way of what is shared under its name: {fault}"
        yield Finding("error", subject, text, _removal(each))


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
        publish(_TRIAL, unique=True, about=about, scope=scope).revoke()
    except (AlongsideError, OSError, ValueError) as error:
        return finding_of(error, subject, "error")
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
        found = path.lstat()
    except OSError as error:
        return error.strerror or "it cannot be looked at"
    mode = stat.S_IMODE(found.st_mode)
    faults = {
        "it is a symbolic link": stat.S_ISLNK(found.st_mode),
        "it is no directory": not stat.S_ISDIR(found.st_mode),
        f"it belongs to user {found.st_uid}": found.st_uid != os.geteuid(),
        f"others may enter it (mode {mode:04o})": mode & 0o077,
        f"its owner may not read, write and enter it (mode {mode:04o})": mode & 0o700 != 0o700,
    }
    return next((fault for fault, is_so in faults.items() if is_so), "")
