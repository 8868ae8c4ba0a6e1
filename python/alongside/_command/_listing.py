"""`alongside ls` and `alongside watch`: who runs, and what becomes of them."""

from __future__ import annotations

import os
import sys
import time

from .. import _core
from .._directory import running
from ._printing import Reader, json_of, note, printable, say, say_json, say_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from .._directory import Entry

HEAD = ["NAME", "PID", "USER", "AGE", "ABOUT"]
_LONG_HEAD = [*HEAD, "INSTANCE", "SINCE", "CHANGED", "PROGRAM", "INFO"]
# Each with how many of it are the fewest that are said in the next one.
_UNITS = [("s", 1, 100), ("min", 60, 100), ("h", 3600, 48), ("d", 86400, None)]


def ls(options: Namespace) -> int:
    """List the running programs."""
    entries = running(options.pattern, scope=options.scope)
    if options.json:
        say_json([_described(entry) for entry in entries])
        return 0
    row = _long_row if options.long else row_of
    if entries:
        say_table(_LONG_HEAD if options.long else HEAD, map(row, entries))
    elif sys.stdout.isatty():
        note(f"no program has published a name like {printable(options.pattern)} here")
    return 0


def watch(options: Namespace) -> int:
    """Say what changes, until Ctrl-C or until nobody reads it any more."""
    from .._watch import watch as begin

    reader = Reader()
    with begin(options.pattern, scope=options.scope) as changes:
        while True:
            while (change := changes._take()) is not None:
                if options.json:
                    say_json(_described_change(change))
                else:
                    say(_change_as_text(change))
            reader.wait_until_readable(changes.fileno())


def _described(entry: Entry) -> dict[str, Any]:
    """Give an entry as data."""
    return {
        "name": entry.name,
        "instance": entry.instance,
        "pid": entry.peer.pid,
        "uid": entry.peer.uid,
        "user": user(entry.peer.uid),
        "executable": _program(entry),
        "about": entry.about,
        "info": entry.info,
        "since": entry.since,
        "changed": entry.changed,
        "scope": entry.scope,
    }


def user(uid: int) -> str:
    """Give a user's name, or the number of one who has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def or_root(uid: int) -> str:
    """Give who may do what a user may."""
    return "root" if uid == 0 else f"{user(uid)}, or root"


def full_name(entry: Entry) -> str:
    """Give the name by which this user reaches the entry: others' are NAME@USER."""
    if entry.peer.uid == os.geteuid():
        return entry.name
    return f"{entry.name}@{user(entry.peer.uid)}"


def row_of(entry: Entry) -> list[str]:
    """Give what is listed of an entry."""
    peer = entry.peer
    return [full_name(entry), str(peer.pid), user(peer.uid), _age(entry), entry.about]


def _long_row(entry: Entry) -> list[str]:
    times = [_moment(entry.since), _moment(entry.changed)]
    info = json_of(entry.info) if entry.info else ""
    return [*row_of(entry), entry.instance, *times, _program(entry) or "", info]


def _program(entry: Entry) -> str | None:
    executable = entry.peer.executable
    return None if executable is None else os.fspath(executable)


def _age(entry: Entry) -> str:
    """Give how long an entry is there: in words for people, in seconds for programs."""
    # A clock that was set back makes nobody younger than born.
    seconds = max(0, int(time.time() - entry.since))
    if not sys.stdout.isatty():
        return str(seconds)
    unit, size = next((u, s) for u, s, most in _UNITS if most is None or seconds < most * s)
    return f"{seconds // size} {unit}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def _described_change(change: _core.Change) -> dict[str, Any]:
    return {"kind": change.kind, "initial": change.initial} | _described(change.entry)


def _change_as_text(change: _core.Change) -> str:
    entry = change.entry
    cells = [change.kind, full_name(entry), str(entry.peer.pid), entry.about]
    return "\t".join(map(printable, cells))
