"""`alongside cell`: values that programs share as long as one of them holds them."""

from __future__ import annotations

from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

from .. import _core
from .._cells import Cell
from .._errors import Corrupt, NotFound, TooLarge
from ._data import given, given_on
from ._printing import Reader, note, printable, say_json, say_message, say_table
from ._running import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator


def cell(options: Namespace) -> int:
    """Do what the command line says with a cell."""
    actions = {"get": _get, "set": _set, "hold": _hold, "watch": _watch, "ls": _ls}
    try:
        return actions[options.action](options)
    except TooLarge as error:
        too_large, *_ = str(error).splitlines()
        msg = f"{too_large}\n`alongside cell hold` has --max-size for that; all have to open it so"
        raise TooLarge(msg) from None


def _existing(options: Namespace) -> Cell[Any]:
    """Give a cell that somebody holds, without keeping it alive."""
    return Cell(options.name, scope=options.scope, _hold=False)


def _is_distant(options: Namespace) -> bool:
    """Tell whether it is another user's cell."""
    if options.scope != "machine" or "@" not in options.name:
        return False
    from .._distant import own_name

    return own_name(options.name) is None


def _check_own(options: Namespace) -> None:
    """Refuse to change another user's cell, whether or not somebody holds it."""
    if _is_distant(options):
        from .._distant import refusal

        raise refusal(options.name)


def _get(options: Namespace) -> int:
    with _existing(options) as found:
        try:
            value = found.get()
        except NotFound:
            msg = f'the cell "{printable(options.name)}" has no value yet'
            raise NotFound(msg) from None
        say_message(value, as_json=options.json)
    return 0


def _set(options: Namespace) -> int:
    _check_own(options)
    value = given(options.value, is_json=options.json)
    with _existing(options) as found, given_on():
        found.set(value)
    return 0


def _hold(options: Namespace) -> int:
    """Hold a cell, and give it a value if it has none, until Ctrl-C or while a command runs."""
    _check_own(options)
    with Cell[Any](options.name, scope=options.scope, max_size=options.max_size) as held:
        if options.value is not None:
            with given_on():
                held.get_or_set(lambda: given(options.value, is_json=options.json))
        if options.words:
            return run(options.words, {"ALONGSIDE_CELL": options.name})
        note(f"holding the cell {printable(options.name)}; Ctrl-C lets go")
        while True:
            # For ever: no version is as high.
            held.wait((1 << 63) - 1)


def _watch(options: Namespace) -> int:
    """Show the value, and each that follows, until nobody holds the cell."""
    if _is_distant(options):
        return _watch_distant(options)
    with _existing(options) as watched:
        changes, reader, shown = _core.Changes(watched), Reader(), 0
        while True:
            if watched._version() > shown:
                value, shown = watched.read()
                say_message(value, as_json=options.json)
            holders = watched.holders()
            if not holders:
                return 0
            # When that one has gone, the others are looked at anew.
            if changes.follow(holders[0].pid):
                reader.wait_until_readable(changes.fileno())
            # It says so if nobody holds it, before the last value was looked at.
            with suppress(NotFound):
                changes.take()


def _watch_distant(options: Namespace) -> int:
    """Show another user's value, and each that follows, until nobody holds the cell."""
    from .._distant import DistantCell, Waiter

    with DistantCell(options.name) as watched, Waiter(watched) as waiter:
        reader, shown = Reader(), 0
        while True:
            try:
                news = waiter.look(shown)
            except NotFound:
                return 0
            if news is None:
                reader.wait_until_readable(waiter.fileno())
            else:
                value, shown = news
                say_message(value, as_json=options.json)


def _ls(options: Namespace) -> int:
    """List the cells that somebody holds."""
    names = [
        name
        for name in _core.cell_names(options.scope)
        if fnmatchcase(name, options.pattern.replace("[", "[[]"))
    ]
    found = [row for name in names for row in _row(name, options)]
    if options.json:
        say_json(found)
        return 0
    rows = [[row["name"], str(row["version"]), " ".join(map(str, row["holders"]))] for row in found]
    say_table(["NAME", "VERSION", "HOLDERS"], rows)
    return 0


def _row(name: str, options: Namespace) -> Iterator[dict[str, Any]]:
    # The library's own begin so: of ports, of the one instance.
    if name.startswith(".") and not options.all:
        return
    try:
        with Cell[Any](name, scope=options.scope, _hold=False) as found:
            holders = [peer.pid for peer in found.holders()]
            version = found._version()
    except (NotFound, Corrupt, ValueError):
        # Gone since it was listed, or none of ours: `doctor` tells of those.
        return
    if holders:
        yield {"name": name, "version": version, "holders": holders}
