"""Who takes part: one file each, all with the same small face.

A contestant gives two ends. The client's process calls `connect`, which has to start the server's
process in whatever way this contestant starts processes; that calls `accept`. An end is plain
callables, so that a loop calls the contestant and nothing of ours between:

    send(data)          one message; waits for space
    receive()           one message: bytes, or something whose buffer they are
    receive_into(buf)   the same, into the caller's memory; None where there is no such thing
    drain(count)        receive so many, give how many were really delivered

Each head says which of the library's ways it takes and why that is its fastest for the purpose.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from subprocess import PIPE, Popen
from typing import IO, Any, Protocol

import numpy as np


@dataclass
class End:
    """One side of a connection."""

    send: Callable[[Any], object]
    receive: Callable[[], Any]
    receive_into: Callable[[Any], int] | None = None
    drain: Callable[[int], int] | None = None
    numbers: Callable[[Any], Any] = np.frombuffer  # what is received, as float64, where it lies
    close: Callable[[], object] | None = None
    keep: list[object] = field(default_factory=list)  # what must not be collected before the end


@dataclass
class Server:
    """The started process, and its standard streams, over which it is told what to do."""

    pid: int
    stdin: IO[bytes]
    stdout: IO[bytes]
    wait: Callable[[], object]


class Contestant(Protocol):
    """What a file of this folder defines as `contestant`."""

    name: str
    longest: int  # bytes of the longest message that it is asked to carry

    def connect(self, command: list[str], size: int) -> tuple[End, Server]:
        """Start `command` plus whatever words `accept` is to get; the client's end.

        Must not wait for the server, which says itself when it is ready.
        """
        ...

    def accept(self, size: int, words: list[str]) -> End:
        """The server's end."""
        ...


class NotInstalledError(Exception):
    """A contestant's module is not here; it is shown as such, never left out."""


# The file of each, in the order of the tables.
_FILES = {
    "alongside": "over_alongside",
    "alongside views": "over_alongside",
    "alongside arrays": "over_alongside",
    "Pipe": "over_pipe",
    "socketpair": "over_socketpair",
    "pyzmq": "over_pyzmq",
    "iceoryx2 polling": "over_iceoryx2",
    "iceoryx2 events": "over_iceoryx2",
    "kickmsg": "over_kickmsg",
    "kickmsg polling": "over_kickmsg",
    "shared_memory + Pipe": "over_shared_memory",
    "zenoh": "over_zenoh",
    "joblib": "over_joblib",
}
# Who carries large data one way only, or in a second way; the others exchange messages of any size.
_ONE_WAY = (
    "alongside views",
    "alongside arrays",
    "shared_memory + Pipe",
    "zenoh",
    "joblib",
)
ALL = tuple(name for name in _FILES if name not in _ONE_WAY)
PEERS = tuple(name for name in ALL if name != "alongside")

_MODULES = {"over_alongside": "alongside", "over_pyzmq": "zmq"} | {
    f"over_{name}": name for name in ("iceoryx2", "kickmsg", "zenoh", "joblib")
}


def check_installed(name: str) -> None:
    """Raise `NotInstalledError` if this contestant cannot take part here."""
    module = _MODULES.get(_FILES[name])
    if module is not None:
        check_module(module)


def check_module(name: str) -> None:
    """Raise `NotInstalledError` if a module is not here."""
    if importlib.util.find_spec(name) is None:
        raise NotInstalledError(name)


def named(name: str) -> Contestant:
    """The contestant of that name; its library loads here and not before."""
    module = importlib.import_module(f"{__name__}.{_FILES[name]}")
    return next(one for one in module.CONTESTANTS if one.name == name)


def launch(command: list[str], pass_fds: tuple[int, ...] = ()) -> Server:
    """Start a server, for those who have no way of their own."""
    process = Popen(command, stdin=PIPE, stdout=PIPE, pass_fds=pass_fds)
    assert process.stdin is not None
    assert process.stdout is not None
    return Server(process.pid, process.stdin, process.stdout, process.wait)


def drain(end: End, count: int) -> int:
    """Receive `count` messages in the way of this end."""
    if end.drain is not None:
        return end.drain(count)
    receive = end.receive
    for _ in range(count):
        receive()
    return count
