"""`alongside port`: a port's number, the same for all that ask for its name."""

from __future__ import annotations

import time

from .._errors import NoScope
from .._ports import SharedPort, shared_port
from ._printing import Reader, note, printable, say, say_json, tell
from ._running import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

_A_MOMENT_S = 0.001


def port(options: Namespace) -> int:
    """Share a port, and show its number, until Ctrl-C or while a command runs."""
    try:
        return _port(options)
    except NoScope as error:
        # Nobody has to have named a scope.
        what, *_ = str(error).splitlines()
        msg = (
            f"{what}\n--scope user shares the port among all programs of this user; "
            "ALONGSIDE_LOGIN=NAME in their environment makes a login session of some"
        )
        raise NoScope(msg) from None


def _port(options: Namespace) -> int:
    if options.once:
        return _once(options)
    with _share(options, listen=True) as shared:
        if options.words:
            return _while_it_runs(shared, options)
        return _until_nobody_reads(shared, options)


def _share(options: Namespace, *, listen: bool) -> SharedPort:
    # A command that is given the port binds it itself.
    reserves = bool(options.words)
    return shared_port(
        options.name, listen=listen, scope=options.scope, host=options.host, _reserve=reserves
    )


def _once(options: Namespace) -> int:
    """Show the number that there is, and hold nothing."""
    with _share(options, listen=False) as shared:
        number = shared.number
        if number is None:
            tell(f'nobody listens at the port "{printable(options.name)}"')
            return 1
        _show(shared, number, options)
    return 0


def _show(shared: SharedPort, number: int | None, options: Namespace) -> None:
    if options.json:
        say_json({"name": shared.name, "number": number, "mine": shared.mine})
    elif number is not None:
        say(str(number))


def _while_it_runs(shared: SharedPort, options: Namespace) -> int:
    number = shared.wait(timeout=options.timeout)
    return run(options.words, {"PORT": str(number), "PORT_IS_MINE": str(int(shared.mine))})


def _until_nobody_reads(shared: SharedPort, options: Namespace) -> int:
    """Show the number, and each that follows; listen if nobody does any more."""
    from .. import _core

    changes, reader, shown = _core.Changes(shared._cell), Reader(), None
    note(f"holding the port {printable(options.name)}; Ctrl-C lets go")
    while True:
        number, pid = shared._state()
        if number is None and pid is None:
            # Who listened is gone. One of those that hold the name is next.
            shared._begin_to_listen()
            # Or somebody else does, who is about to say so.
            time.sleep(_A_MOMENT_S)
            continue
        if number is not None and number != shown:
            _show(shared, number, options)
            shown = number
        if not changes.follow(pid):
            # It has ended since.
            continue
        reader.wait_until_readable(changes.fileno())
        changes.take()
