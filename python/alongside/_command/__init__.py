"""The command line, `alongside`: what the library does, from a shell.

This module knows the options and the exit statuses; what a command does stands in a module of its
own, which loads when the command is called. A command returns its exit status. What goes wrong it
raises, and here that becomes one line on standard error: an exception of the library, or of the
system, is no fault of this program, so nobody sees a traceback of it.

argparse, since it is there: what others build on it takes longer to load than `ls` takes in all.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from shlex import join

from .._errors import AlongsideError, TimedOut
from ._printing import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

DONE, FAILED, WRONG_USAGE, TIMED_OUT, INTERRUPTED = 0, 1, 2, 124, 130
_STANDARD_ERROR = 2
# What the library's numbers have room for; what it refuses of that, it says itself.
_MOST_BYTES, _MOST_USER = (1 << 63) - 1, (1 << 32) - 1

_STATUSES = """\
exit status:
  0    done; also when whoever read the output has stopped to
  1    it failed: no such name, refused, the handler raised, doctor has findings
  2    wrong usage: an option, a name, or JSON that is none
  124  the deadline came first, as with timeout(1)
  130  ended by Ctrl-C
"""
_SEND = """\
DATA is sent as text. "-" sends the bytes of standard input, "@file" those of a
file. With --json, all three are JSON, and sent as the data that it means.
"""
_PORT = """\
The first to ask for NAME finds a free port and listens there; all others show
the same number, whoever was started first. Each holds the name until Ctrl-C. If
the one that listens ends, however that comes about, another one takes its
place, at the same port if it can.

A port belongs to a desktop: of somebody who is logged in twice, each login has
its own (--scope login). A service, cron, or a container has no login session:
--scope user shares the port among all programs of this user.

With COMMAND, PORT is set for it, and PORT_IS_MINE to 1 in one of all instances,
to 0 in the others; the port is kept free for it to listen at (as servers do,
with SO_REUSEADDR). The name is held while it runs, and its status is given.
"""
_CELL = """\
VALUE is text. "-" is the bytes of standard input, "@file" those of a file. With
--json, all three are JSON, and mean data.
"""
_CELL_ACTIONS = {
    "get": "show the value; status 1 if nobody holds it",
    "set": "give a cell that somebody holds another value",
    "hold": "hold a cell, and give it VALUE if it has none, until Ctrl-C or while COMMAND runs",
    "watch": "show the value, and each that follows, until nobody holds it",
    "ls": "list the cells that somebody holds",
}
_LOCK = """\
As flock(1), with a name. The lock is given back when COMMAND has ended, whatever
that has left running; its status is given. If this program is killed, so is
COMMAND. What COMMAND has started inherits the lock, as with flock: where a
signal has ended COMMAND, the lock is free when the last of that has ended.
If the lock is not free in time, that is status 124, and nothing runs.
"""
_ONLY = """\
The first runs COMMAND, and gives its status. Another one, as long as that runs,
tells the first what it was asked for, and gives status 1. Where a signal has
ended COMMAND, or this program, what COMMAND had started keeps its place: until
that has ended there is no first, and another one has status 124.
"""
_LISTEN = """\
Text is printed as it comes, with a line feed if it ends in none; bytes are
printed raw, and other data as one line of JSON. On a terminal, control
characters are escaped.

With --exec, CMD runs once for each message, one at a time, in a shell (sh -c),
with the message on its standard input, and ALONGSIDE_NAME, ALONGSIDE_PEER_PID
and ALONGSIDE_PEER_UID in its environment. If it fails, so does the sender's
--wait; a sender that waits for an answer sees the session closed.
"""


# What has a "--" and a command behind it, and what has to have it.
_TAKE_WORDS = ("cell hold", "lock", "only", "port")
_NEED_WORDS = ("lock", "only")
# Of all others what stands behind a "--" is no option, as everywhere.
_DASH = "what begins with a dash and is no option stands behind a --: {} NAME -- -x"
_DASH_HELD = """a VALUE that begins with a dash is given as JSON: {} NAME --json '"-x"'"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and give its exit status.

    Args:
        arguments: of the command line; the process's own if nothing is said.
    """
    _prepare_streams()
    try:
        try:
            return _run(arguments)
        finally:
            # Here, where it can be told that it failed, not at the interpreter's end.
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return DONE
    except TimedOut as error:
        tell(error)
        return TIMED_OUT
    except (AlongsideError, OSError) as error:
        tell(error)
        _drop_output()
        return FAILED
    except ValueError as error:
        tell(error)
        return WRONG_USAGE


def _run(arguments: Sequence[str] | None) -> int:
    """Call what the command line says."""
    parser = _parser()
    given, words = _split(sys.argv[1:] if arguments is None else arguments)
    options, unknown = parser.parse_known_args(given)
    options.words = words
    _take_value(options, unknown)
    if unknown:
        options.parser.error(_unknown(options, unknown))
    if options.command in _NEED_WORDS and not words:
        options.parser.error(
            f"{options.command} runs a command: {options.parser.prog} NAME -- COMMAND"
        )
    if options.command is None:
        parser.print_help()
        return DONE
    module = importlib.import_module(f".{options.module}", __name__)
    command: Callable[[argparse.Namespace], int] = getattr(module, options.function)
    return command(options)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Give what is for this program, and, of what runs a command, the command behind the "--"."""
    given = list(arguments)
    takes_words = any(join(given[:count]) in _TAKE_WORDS for count in (1, 2))
    if not takes_words or "--" not in given:
        return given, []
    place = given.index("--")
    return given[:place], given[place + 1 :]


def _take_value(options: argparse.Namespace, unknown: list[str]) -> None:
    """Have a VALUE behind options be that: argparse takes one for missing that may be."""
    is_left_out = hasattr(options, "value") and options.value is None
    if is_left_out and len(unknown) == 1 and not _is_like_an_option(unknown[0]):
        options.value = unknown.pop()


def _is_like_an_option(text: str) -> bool:
    # As argparse has it.
    return text.startswith("-") and not re.fullmatch(r"-|-\d+|-\d*\.\d+", text)


def _unknown(options: argparse.Namespace, unknown: Sequence[str]) -> str:
    """Give what is wrong with what nobody knows: before a command there is to be a "--"."""
    text = f"unrecognized arguments: {join(unknown)}"
    program = options.parser.prog
    if _is_like_an_option(unknown[0]):
        return f"{text}\n{options.parser.about_dashes}".strip()
    if program.removeprefix("alongside ") not in _TAKE_WORDS or options.words:
        return text
    return f"{text}\na command stands behind a --: {program} NAME -- {join(unknown)}"


def _prepare_streams() -> None:
    """Have standard streams that are there, and that fail over no character."""
    # Where one is closed, the next file that is opened would stand in its place.
    while (handle := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(handle, True)
    os.close(handle)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Have the interpreter's last flush not fail once more: what is left goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


# ---- options -------------------------------------------------------------------------------------


def _parser() -> _Parser:
    parser = _Parser(
        prog="alongside",
        description="Programs on one machine find each other and work together.",
        epilog=_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(parser=parser)
    parser.add_argument("--version", action="version", version=_version())
    commands = _Commands(parser)
    _looking(commands)
    _talking(commands)
    _sharing(commands)
    _machine(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as all of this program does, and how it is used below.

    Attributes:
        about_dashes: how an argument that begins with a dash is given; empty if none could.
    """

    about_dashes = ""

    def error(self, message: str) -> NoReturn:
        # That which is missing may be there, and have been taken for options.
        if self.about_dashes and message.startswith("the following arguments are required"):
            message = f"{message}\n{self.about_dashes}"
        tell(f"{message}\n{self.format_usage()}")
        self.exit(WRONG_USAGE)

    def has_data(self, about_dashes: str = _DASH) -> None:
        """Say how data is given that looks like an option."""
        self.about_dashes = about_dashes.format(self.prog)
        self.epilog = self.about_dashes


class _Commands:
    """Adds commands to a parser, each with the function that it calls."""

    def __init__(self, parser: _Parser) -> None:
        self._added = parser.add_subparsers(
            dest="command",
            metavar="COMMAND",
            title="commands",
            help="its options: COMMAND --help",
        )

    def add(self, name: str, module: str, summary: str, description: str = "") -> _Parser:
        parser = self._added.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{description}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        function = name.replace("-", "_")
        parser.set_defaults(module=module, function=function, parser=parser)
        return parser


def _looking(commands: _Commands) -> None:
    ls = commands.add("ls", "_listing", "list the running programs that have published a name")
    ls.add_argument("--long", action="store_true", help="with all that is known of them")
    watch = commands.add("watch", "_listing", "say which names appear, change and vanish")
    for parser in (ls, watch):
        parser.add_argument(
            "pattern",
            nargs="?",
            default="*",
            metavar="PATTERN",
            help='"*" stands for any text, slashes included, "?" for one character',
        )
        _scope(parser)
    _json(ls, "one array of JSON")
    _json(watch, "one line of JSON for each change")


def _talking(commands: _Commands) -> None:
    send = commands.add("send", "_sending", "send one message to a running program", _SEND)
    send.add_argument("name", metavar="NAME", help="in the scope machine perhaps NAME@USER")
    send.add_argument("data", metavar="DATA|-|@file")
    send.has_data()
    waiting = send.add_mutually_exclusive_group()
    waiting.add_argument("--wait", action="store_true", help="until its handler has returned")
    waiting.add_argument("--reply", action="store_true", help="wait for one answer, and print it")
    _json(send, "DATA is JSON, and so is the answer that is printed")
    send.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="S",
        help='seconds for all of it (10); "inf" waits for ever',
    )
    _scope(send)
    send.add_argument("--instance", metavar="ID", help="this registration (see ls --long)")
    send.add_argument("--owner", type=_user, metavar="USER", help="whose name is meant")

    listen = commands.add("listen", "_listening", "publish a name, and print what arrives", _LISTEN)
    listen.add_argument("name", metavar="NAME", help='parts joined by "/", as viewer/42')
    listen.add_argument("--exec", metavar="CMD", help="run CMD for each message")
    listen.add_argument("--reply", action="store_true", help="send back what CMD prints")
    _json(listen, "each message is one line of JSON with its sender; so is what CMD answers")
    listen.add_argument("--about", default="", metavar="TEXT", help="what others shall read")
    listen.add_argument("--unique", action="store_true", help="make the name one of its own")
    listen.add_argument("--count", type=_count, metavar="N", help="end after N messages")
    _scope(listen)
    listen.add_argument(
        "--allow",
        type=_user,
        action="append",
        default=[],
        metavar="USER",
        help="in the scope machine, a further user, or group:NAME, who may connect",
    )


def _sharing(commands: _Commands) -> None:
    port = commands.add(
        "port", "_ports", "share a port's number, as long as somebody listens", _PORT
    )
    port.add_argument("name", metavar="NAME")
    _scope(port, "login")
    port.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1)")
    port.add_argument("--once", action="store_true", help="show the number that there is, and end")
    _timeout(port, "until the number is known, before COMMAND runs")
    _json(port, "each number is one line of JSON")
    _words(port)

    cell = commands.add("cell", "_cells", "share a value, as long as somebody holds it", _CELL)
    actions = cell.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, summary in _CELL_ACTIONS.items():
        parser = actions.add_parser(action, help=summary, description=summary, allow_abbrev=False)
        parser.set_defaults(parser=parser)
        if action == "ls":
            parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN")
            parser.add_argument("--all", action="store_true", help="the library's own as well")
        else:
            parser.add_argument("name", metavar="NAME")
        if action == "set":
            parser.add_argument("value", metavar="VALUE|-|@file")
            parser.has_data()
        if action == "hold":
            parser.add_argument("value", nargs="?", metavar="VALUE|-|@file")
            parser.has_data(_DASH_HELD)
            parser.add_argument("--max-size", type=_size, default=65536, metavar="BYTES")
        _scope(parser)
        _json(parser, "values are JSON")
        if action == "hold":
            _words(parser)

    lock = commands.add("lock", "_locks", "run a command while nobody else has a lock", _LOCK)
    lock.add_argument("name", metavar="NAME")
    kind = lock.add_mutually_exclusive_group()
    kind.add_argument("--shared", action="store_true", help="as a reader, of the RWLock")
    kind.add_argument("--exclusive", action="store_true", help="as the writer, of the RWLock")
    only = commands.add("only", "_locks", "run a command unless another instance of it runs", _ONLY)
    only.add_argument("name", metavar="NAME")
    for parser, until in ((lock, "until the lock is free"), (only, "until the first was told")):
        _scope(parser)
        _timeout(parser, until)
        _words(parser)
    lock.set_defaults(timeout=None)


def _words(parser: argparse.ArgumentParser) -> None:
    # Taken off before the options are looked at; here for the help's sake.
    parser.usage = parser.format_usage().removeprefix("usage: ").strip() + " [-- COMMAND ...]"


def _timeout(parser: argparse.ArgumentParser, until: str) -> None:
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="S",
        help=f'seconds {until} (10); "inf" waits for ever',
    )


def _machine(commands: _Commands) -> None:
    doctor = commands.add("doctor", "_doctor", "say what is wrong here, and how to mend it")
    _json(doctor, "one object of JSON")
    setup = commands.add(
        "setup-machine", "_machine", "make the scope machine, which all users share; as root"
    )
    setup.add_argument("--undo", action="store_true", help="remove it, if no program uses it")
    _json(setup, "one object of JSON")
    commands.add("demo", "_demo", "show in three seconds what this is about")


def _scope(parser: argparse.ArgumentParser, usual: str = "user") -> None:
    parser.add_argument(
        "--scope",
        choices=["login", "user", "machine"],
        default=usual,
        help=f"who shares the names ({usual})",
    )


def _json(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--json", action="store_true", help=what)


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    # What is not a number is not that, either.
    if not seconds >= 0:
        msg = f"{text!r} is no number of seconds, 0 or more, or inf"
        raise argparse.ArgumentTypeError(msg)
    return None if seconds == float("inf") else seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and text.strip("0")):
        msg = f"{text!r} is no whole number, 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _size(text: str) -> int:
    size = _count(text)
    if size > _MOST_BYTES:
        msg = f"{text} is more than any value may have"
        raise argparse.ArgumentTypeError(msg)
    return size


def _user(text: str) -> int | str:
    if not (text.isascii() and text.isdigit()):
        return text
    if len(text) > len(str(_MOST_USER)) or int(text) > _MOST_USER:
        msg = f"{text} is no user's number"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _version() -> str:
    from .. import __version__

    return f"alongside {__version__}"
