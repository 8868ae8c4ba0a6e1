"""`alongside lock` and `alongside only`: a command that runs while no other one does.

What a command holds it inherits. If a signal has ended it, what it has started may go on, and then
nothing is given back: the lock ends with the last process that has inherited it, and is abandoned.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from shlex import join

from .._instances import Visit
from .._instances import only as ask
from .._locks import Lock, RWLock
from ._printing import note, printable, tell
from ._running import end_of, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

_NOT_THE_FIRST = 1


def lock(options: Namespace) -> int:
    """Run a command with a lock; give its status."""
    with ExitStack() as held:
        path = _take(options, held)
        return _run(options, {"ALONGSIDE_LOCK": options.name}, held, path)


def _take(options: Namespace, held: ExitStack) -> Path:
    """Take the lock, until `held` gives it back; give its file."""
    if options.shared or options.exclusive:
        lock = RWLock(options.name, scope=options.scope)
        enters = lock.reading if options.shared else lock.writing
        hold = held.enter_context(enters(timeout=options.timeout))
        _warn(options.name, abandoned=hold.abandoned and options.exclusive)
        return Path(lock._path)
    only_one = Lock(options.name, scope=options.scope)
    only_one.acquire(timeout=options.timeout)
    held.callback(only_one.release)
    _warn(options.name, abandoned=only_one.abandoned)
    return Path(only_one._path)


def _run(
    options: Namespace, environment: Mapping[str, str], held: ExitStack, inherits: Path
) -> int:
    """Run the command; give its status."""
    end = end_of(options.words, environment, inherits=inherits)
    if end < 0:
        # To the end of this program, and of all that has inherited it.
        held.pop_all()
    return status_of(end)


def _warn(name: str, *, abandoned: bool) -> None:
    if abandoned:
        tell(f'the lock "{name}" was abandoned: who had it before ended without giving it back')


def only(options: Namespace) -> int:
    """Run a command unless another instance runs, which is told the command line then."""

    def take(visit: Visit) -> None:
        note(f"process {visit.peer.pid} has asked for: {printable(join(visit.argv))}")

    found = ask(options.name, argv=options.words, scope=options.scope, timeout=options.timeout)
    with ExitStack() as held:
        instance = held.enter_context(found)
        if instance.first and instance._asked is not None:
            instance.on_other(take)
            # Not if a signal ends the command: what that has started goes on.
            instance._asked._give_back_at_the_end(False)
            path = Path(instance._asked._path)
            return _run(options, {"ALONGSIDE_ONLY": options.name}, held, path)
        first = instance.session
        pid = "" if first is None else f" as process {first.peer.pid}"
        tell(f"{printable(options.name)} runs already{pid}, and was told")
    return _NOT_THE_FIRST
