"""`alongside lock` and `alongside only`: a command that runs while no other one does."""

from __future__ import annotations

from shlex import join

from .._instances import Visit
from .._instances import only as ask
from .._locks import Lock, RWLock
from ._printing import note, printable, tell
from ._running import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

_NOT_THE_FIRST = 1


def lock(options: Namespace) -> int:
    """Run a command with a lock; give its status."""
    environment = {"ALONGSIDE_LOCK": options.name}
    if options.shared:
        with RWLock(options.name, scope=options.scope).reading(timeout=options.timeout):
            return run(options.words, environment)
    if options.exclusive:
        with RWLock(options.name, scope=options.scope).writing(timeout=options.timeout) as hold:
            _warn(options.name, abandoned=hold.abandoned)
            return run(options.words, environment)
    held = Lock(options.name, scope=options.scope)
    held.acquire(timeout=options.timeout)
    try:
        _warn(options.name, abandoned=held.abandoned)
        return run(options.words, environment)
    finally:
        held.release()


def _warn(name: str, *, abandoned: bool) -> None:
    if abandoned:
        note(f"the lock {printable(name)} was abandoned: who had it before was killed meanwhile")


def only(options: Namespace) -> int:
    """Run a command unless another instance runs, which is told the command line then."""

    def take(visit: Visit) -> None:
        note(f"process {visit.peer.pid} has asked for: {printable(join(visit.argv))}")

    found = ask(options.name, argv=options.words, scope=options.scope, timeout=options.timeout)
    with found as instance:
        if instance.first:
            instance.on_other(take)
            return run(options.words, {"ALONGSIDE_ONLY": options.name})
        first = instance.session
        pid = "" if first is None else f" as process {first.peer.pid}"
        tell(f"{printable(options.name)} runs already{pid}, and was told")
    return _NOT_THE_FIRST
