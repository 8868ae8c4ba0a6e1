"""Who waits for whom, and why, as far as the kernel tells.

From outside, three things can be seen: a program that is stopped, or held in some other way, by
its state; who has called a name and is not let in, by the queue at the name's socket; and which
programs share a session, by the memory that both map. What a handler waits for is its own affair.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from .. import _core
from .._directory import running
from .._errors import AlongsideError
from ._finding import Finding
from ._listing import full_name, or_root
from ._processes import processes, program, sessions, sockets, why_it_is_busy, why_it_waits
from ._queues import queues

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._core import Entry
    from .._types import Scope
    from ._processes import Reason

SCOPES: tuple[Scope, ...] = ("login", "user", "machine")
_SUBJECT = "who waits"
# What the library has names and locks for, by how these begin.
_OWN = {
    ".port/": "shared_port",
    ".only/": "only",
    ".start/": "start_or_connect",
    ".cell/": "Cell",
}
# Seconds between two looks at the queues: who is in both has not just come.
_MOMENT = 0.25


class _Call:
    """Somebody who has called a name and is not let in.

    Attributes:
        caller: the process; 0 if nobody who may look has that socket.
        entry: whom it calls.
    """

    def __init__(self, caller: int, entry: Entry) -> None:
        self.caller = caller
        self.entry = entry


def waiting() -> Iterator[Finding]:
    """Look for programs that answer nobody, and for those that wait for them."""
    entries = list(_entries())
    calls = _calls(entries)
    found = [*_held_up(entries, calls), *_not_let_in(calls), *_owners_of_locks(entries)]
    text = "no program with a name, a session or a lock is held up"
    yield from found or [Finding("info", _SUBJECT, text)]


def _entries() -> Iterator[Entry]:
    for scope in SCOPES:
        try:
            yield from running(scope=scope)
        except (AlongsideError, OSError, ValueError):
            # Told where the scope was looked at.
            continue


# ---- programs that stand still -------------------------------------------------------------------


def _held_up(entries: list[Entry], calls: list[_Call]) -> Iterator[Finding]:
    """Tell of programs that stand still, with a name or a session, and of those that share one."""
    names: dict[int, set[str]] = {}
    for entry in entries:
        names.setdefault(entry.peer.pid, set()).add(_named(full_name(entry)))
    partners = _partners()
    for pid in sorted(names.keys() | partners.keys()):
        reason = why_it_waits(pid)
        if reason is None:
            continue
        if pid in names:
            called = ", ".join(sorted(names[pid]))
            text = f"whoever calls {called} waits: its process {pid} {reason.text}"
            yield _finding(reason, pid, text)
        for caller in [call for call in calls if call.entry.peer.pid == pid]:
            yield _finding(reason, pid, f"{_called(caller)}: process {pid} {reason.text}")
        for partner in sorted(partners.get(pid, set())):
            text = f"{_shown(partner)} has a session with {_shown(pid)}, which {reason.text}"
            yield _finding(reason, pid, text)


def _partners() -> dict[int, set[int]]:
    """Give whom each program shares a session with."""
    sharing: dict[int, set[int]] = {}
    for pid in processes():
        for inode in sessions(pid):
            sharing.setdefault(inode, set()).add(pid)
    partners: dict[int, set[int]] = {}
    for pids in sharing.values():
        for pid in pids:
            partners.setdefault(pid, set()).update(pids - {pid})
    return partners


def _finding(reason: Reason, pid: int, text: str) -> Finding:
    owner = _owner(pid)
    is_ours = os.geteuid() in {0, owner}
    mend = reason.mend if is_ours else f"{or_root(owner)}: {reason.mend}"
    return Finding(reason.level, _SUBJECT, text, mend)


def _owner(pid: int) -> int:
    """Give a process' user; this one if it is gone."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return os.geteuid()


def _owners_of_locks(entries: list[Entry]) -> Iterator[Finding]:
    """Tell of programs that stand still and have a lock."""
    # Of the one instance, which has a name and a lock, the name was told.
    told = {(entry.name, entry.peer.pid) for entry in entries}
    for scope in SCOPES:
        try:
            owners = _core.lock_owners(scope)
        except (AlongsideError, OSError, ValueError):
            continue
        for name, pid, is_for_readers in owners:
            reason = why_it_waits(pid)
            if reason is not None and (name, pid) not in told:
                who = f"{_shown(pid)}, which is in the way, {reason.text}"
                lock = _lock(name, is_for_readers=is_for_readers)
                yield _finding(reason, pid, f"whoever {lock} waits: {who}")


def _lock(name: str, *, is_for_readers: bool) -> str:
    """Give what somebody does who is to get a lock: some are the library's own."""
    named = _named(name)
    if not named.startswith('"'):
        return f"calls {named}"
    return f"wants the {'RWLock' if is_for_readers else 'lock'} {named}"


def _named(name: str) -> str:
    """Give a name, or what of the library's somebody calls who uses one of its own."""
    for prefix, what in _OWN.items():
        if name.startswith(prefix):
            return f'{what}("{name[len(prefix) :]}")'
    return f'"{name}"'


# ---- callers that are not let in -----------------------------------------------------------------


def _not_let_in(calls: list[_Call]) -> Iterator[Finding]:
    """Tell of callers whose owner could go on, and does not look at them."""
    for call in calls:
        pid = call.entry.peer.pid
        if why_it_waits(pid) is not None:
            continue
        reason = why_it_is_busy(pid)
        onward = [_named(full_name(its.entry)) for its in calls if its.caller == pid]
        text = f"{_called(call)}: process {pid} {reason.text}"
        if onward:
            text += f"; it calls {', '.join(onward)} itself, and is not let in there"
        yield _finding(reason, pid, text)


def _calls(entries: list[Entry]) -> list[_Call]:
    """Give the calls that were not answered for a moment."""
    try:
        before = queues()
        if not before:
            return []
        time.sleep(_MOMENT)
        now = queues()
    except OSError:
        # No such kernel; whoever stands still is found all the same.
        return []
    called = {entry.instance: entry for entry in entries}
    calls: list[_Call] = []
    for name, callers in now.items():
        # As in LIFE-INSTANCE (spec/files-v1.md).
        entry = called.get(name.rpartition("-")[2])
        if entry is not None:
            owners = _owners(callers & before.get(name, set()))
            calls += [_Call(pid, entry) for pid in owners]
    return calls


def _owners(inodes: set[int]) -> list[int]:
    """Give the processes that have these sockets open, each once; 0 for those of nobody seen."""
    found = {pid: inodes & sockets(pid) for pid in processes()} if inodes else {}
    pids = sorted(pid for pid, its in found.items() if its)
    return pids if inodes == set().union(*found.values()) else [*pids, 0]


def _called(call: _Call) -> str:
    who = _shown(call.caller) if call.caller else "a program that cannot be seen from here"
    return f"{who} calls {_named(full_name(call.entry))} and is not let in"


def _shown(pid: int) -> str:
    command = program(pid)
    return f"process {pid} ({command})" if command else f"process {pid}"
