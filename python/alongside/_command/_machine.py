"""`alongside setup-machine`: the directory in which all users of the machine find each other.

What is looked at is what is changed: the directory is opened without following a link, and then
only its descriptor is used. /run is emptied when the machine starts, so systemd is told to make the
directory anew, where there is a systemd.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from .._directory import running
from .._errors import Denied, NoScope
from ._listing import full_name
from ._printing import say, say_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from .._directory import Entry

_DIRECTORY = Path("/run/alongside")
# Everybody may make a directory in it, and nobody remove another's.
_MODE = 0o1777
_AT_EACH_START = Path("/etc/tmpfiles.d/alongside.conf")
_RULE = f"d {_DIRECTORY} {_MODE:o} root root -\n"


def setup_machine(options: Namespace) -> int:
    """Make the scope, or remove it, and say what was done."""
    if os.geteuid() != 0:
        again = "setup-machine --undo" if options.undo else "setup-machine"
        msg = f"only root may set the machine up\nsudo alongside {again}"
        raise Denied(msg)
    done = [*_remove()] if options.undo else [*_make()]
    if options.json:
        say_json({"done": done})
    else:
        for line in done:
            say(line)
    return 0


# ---- making --------------------------------------------------------------------------------------


def _make() -> list[str]:
    return [_make_directory(), _make_rule()]


def _make_directory() -> str:
    try:
        _DIRECTORY.mkdir()
        was_there = False
    except FileExistsError:
        was_there = True
    _refuse_unless_directory(_DIRECTORY)
    handle = os.open(_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(handle)
        if (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, _MODE):
            return f"{_DIRECTORY} is there"
        os.fchown(handle, 0, 0)
        # After the owner, whose change takes bits away; and whatever the process masks.
        os.fchmod(handle, _MODE)
    finally:
        os.close(handle)
    return f"{_DIRECTORY} is put right" if was_there else f"{_DIRECTORY} is made"


def _refuse_unless_directory(path: Path) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode):
        msg = f"{path} is no directory\nsee whose it is, and remove it: rm {path}"
        raise Denied(msg)


def _make_rule() -> str:
    if not _AT_EACH_START.parent.is_dir():
        place = _AT_EACH_START.parent
        return f"there is no {place}: do this again whenever the machine has started"
    if not os.path.lexists(_AT_EACH_START):
        _AT_EACH_START.write_text(_RULE)
        # Whatever the process masks: it is no secret.
        _AT_EACH_START.chmod(0o644)
        return f"{_AT_EACH_START} is made: the directory will be there whenever the machine starts"
    if _is_own_rule():
        return f"{_AT_EACH_START} is there"
    return f"{_AT_EACH_START} says something else, and is left as it is"


def _is_own_rule() -> bool:
    return not _AT_EACH_START.is_symlink() and _AT_EACH_START.read_text() == _RULE


# ---- removing ------------------------------------------------------------------------------------


def _remove() -> list[str]:
    return [_remove_directory(), _remove_rule()]


def _remove_directory() -> str:
    if not os.path.lexists(_DIRECTORY):
        return f"there is no {_DIRECTORY}"
    _refuse_unless_directory(_DIRECTORY)
    if users := _users():
        named = "\n".join(f"{full_name(entry)} of process {entry.peer.pid}" for entry in users)
        msg = f"{_DIRECTORY} is not removed: programs have published names there\n{named}"
        raise Denied(msg)
    # Under another name first: nothing new comes in while it is emptied.
    draft = _DIRECTORY.with_name(f".{_DIRECTORY.name}-{os.getpid()}")
    _DIRECTORY.rename(draft)
    # Nor by those who have it open.
    draft.chmod(0o700)
    shutil.rmtree(draft)
    return f"{_DIRECTORY} is removed"


def _users() -> list[Entry]:
    """Give the names that stand there; in a directory that does not count there are none."""
    try:
        return running(scope="machine")
    except NoScope:
        return []


def _remove_rule() -> str:
    if not os.path.lexists(_AT_EACH_START):
        return f"there is no {_AT_EACH_START}"
    if not _is_own_rule():
        return f"{_AT_EACH_START} says something else, and is left as it is"
    _AT_EACH_START.unlink()
    return f"{_AT_EACH_START} is removed"
