"""`alongside demo`: two programs publish a name, get a message, and one is killed.

Everything is real: the programs are processes of their own, in the directory of this user, and end
when this one does, however that comes about: their standard input ends then.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from .._directory import running, send_to
from .._watch import watch
from ._listing import HEAD, row_of
from ._printing import say, say_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from .._watch import Watch

_PROGRAM = """\
import sys
import alongside

def show(data, session):
    print(f"  {sys.argv[1]} (pid {session.peer.pid} sent this): {data}", flush=True)

alongside.publish(sys.argv[1], show, about=sys.argv[2])
sys.stdin.read()                            # until the demo ends
"""
# So long a program may take to appear, on a machine that is busy.
_PATIENCE_S = 60.0


def demo(_options: Namespace) -> int:
    """Show it."""
    # The demos of two terminals do not meet.
    place = f"demo-{os.getpid()}"
    names = [f"{place}/painter", f"{place}/clock"]
    with watch(f"{place}/*") as changes:
        programs: list[subprocess.Popen[bytes]] = []
        try:
            _begin(names, programs)
            _list(place, changes, len(names))
            _send(names[0])
            _kill(programs[1], changes)
        finally:
            _end(programs)
    say("\nThe painter has ended, too, and nothing is left of either.")
    return 0


def _begin(names: list[str], programs: list[subprocess.Popen[bytes]]) -> None:
    say("This program starts twice, under two names:\n")
    for line in _PROGRAM.splitlines():
        say(f"    {line}".rstrip())
    for name, about in zip(names, ["paints what it gets", "will be killed"], strict=True):
        command = [sys.executable, "-c", _PROGRAM, name, about]
        # Ctrl-C is for the demo, which ends them.
        programs.append(subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0))


def _list(place: str, changes: Watch, count: int) -> None:
    for _ in range(count):
        changes.next(timeout=_PATIENCE_S)
    say(f"\n$ alongside ls '{place}/*'")
    say_table(HEAD, map(row_of, running(f"{place}/*")))


def _send(name: str) -> None:
    # The first message has both programs load what they need for messages.
    for data in ("a plan", "another plan"):
        say(f"\n$ alongside send --wait {name} '{data}'")
        begun = time.perf_counter()
        send_to(name, data, wait=True)
        say(f"found, connected, handled and reported in {_milliseconds_since(begun)}")


def _kill(program: subprocess.Popen[bytes], changes: Watch) -> None:
    say(f"\n$ kill -9 {program.pid}")
    begun = time.perf_counter()
    program.kill()
    change = changes.next(timeout=_PATIENCE_S)
    took = _milliseconds_since(begun)
    say(f"{change.kind} {change.entry.name}, seen {took} after the signal")


def _milliseconds_since(begun: float) -> str:
    return f"{(time.perf_counter() - begun) * 1000:.1f} ms"


def _end(programs: list[subprocess.Popen[bytes]]) -> None:
    for program in programs:
        if program.stdin is not None:
            program.stdin.close()
    for program in programs:
        program.wait()
