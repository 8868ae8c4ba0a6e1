"""Ports: sockets that listen, and numbers that programs share as long as somebody listens.

Loads when a program first asks for one.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, cast

from . import _core
from ._cells import Cell
from ._closing import Closing
from ._errors import HandleLost, TimedOut
from ._locks import Lock
from ._until import Until, ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._changes import OnChange
    from ._types import Scope
    from .loops import Loop

_MOST_PORTS = 1 << 16
# A port's number, and who listens, encoded.
_MOST_BYTES = 1024
# What the names of cells and locks that belong to ports begin with.
_PREFIX = ".port/"


def listening_socket(
    host: str = "127.0.0.1", port: int = 0, *, first_port: int | None = None
) -> socket.socket:
    """Give a socket that listens already: nobody can take its port in between.

    Args:
        host: the address to listen at; a name is looked up.
        port: the port; 0 for any that is free.
        first_port: take the first free port from this one on, instead.

    Raises:
        OSError: the port is taken (`EADDRINUSE`), or none is free, or the address is none of this
            machine's.
        ValueError: there is no such port.

    Example:
        >>> import alongside
        >>> with alongside.listening_socket() as server:
        ...     server.getsockname()[1] > 0
        True
    """
    return _bound(host, port, first_port, listens=True)


def _bound(host: str, port: int, first_port: int | None, *, listens: bool) -> socket.socket:
    """Give a socket at a port, which listens, or only reserves the port for who does."""
    for number in (port, first_port):
        _check_number(number)
    given: Any = host
    if not isinstance(given, str):
        msg = f"host is {host!r}, expected an address or a name"
        raise TypeError(msg)
    if port and first_port is not None:
        msg = f"port={port} and first_port={first_port}: name one of them"
        raise ValueError(msg)
    flags = socket.AI_PASSIVE
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"cannot listen at {host}: {error.strerror}") from error
    family, kind, protocol, _, address = found[0]
    ports: Iterable[int] = [port] if first_port is None else range(max(1, first_port), _MOST_PORTS)
    for number in ports:
        made = socket.socket(family, kind, protocol)
        if _bind(made, (address[0], number, *address[2:]), listens=listens):
            return made
    what = f"port {port}" if first_port is None else f"every port from {first_port} on"
    raise OSError(errno.EADDRINUSE, f"{what} of {host} is taken")


def _check_number(number: object) -> None:
    if number is None:
        return
    if not isinstance(number, int) or isinstance(number, bool):
        msg = f"{number!r} is no port: a port is a number"
        raise TypeError(msg)
    if not 0 <= number < _MOST_PORTS:
        msg = f"{number} is no port: they go from 1 to {_MOST_PORTS - 1}, and 0 is any"
        raise ValueError(msg)


def _bind(made: socket.socket, address: tuple[Any, ...], *, listens: bool) -> bool:
    """Bind a socket, and listen; false, and the socket closed, if the port is taken."""
    try:
        # Connections of a server that is gone do not keep its port; one that listens does.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        if listens:
            # Where two have bound the same port, the second to listen is refused here.
            made.listen()
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            return False
        why = f"cannot listen at {address[0]}, port {address[1]}: {error.strerror}"
        raise OSError(error.errno, why) from error
    except BaseException:
        made.close()
        raise
    return True


class _PortSocket(socket.socket):
    """A socket that tells when it is closed: servers close what they were given."""

    tells: Callable[[], None] | None = None

    @classmethod
    def of(cls, made: socket.socket, closed: Callable[[], None]) -> _PortSocket:
        """Take a socket over."""
        taken = cls(made.family, made.type, made.proto, fileno=made.detach())
        taken.tells = closed
        return taken

    def close(self) -> None:
        """Close it, and say so, unless somebody else has its descriptor."""
        has_descriptor, tells = self.fileno() >= 0, self.tells
        self.tells = None
        super().close()
        if tells is not None and has_descriptor:
            tells()


# A port belongs to the process, whoever has a reference to it.
_open: set[SharedPort] = set()


class SharedPort(Closing):
    """The number of a port under a name, as long as the program lives that listens there.

    `shared_port` gives it. It belongs to the process until `close()`, the end of its `with`, or the
    process's end.

    Attributes:
        name: the name.
        socket: what listens, if it is this object that does; else None. To close it is to listen no
            longer.
    """

    def __init__(self, name: str, scope: Scope, host: str, *, listens: bool) -> None:
        self.name = name
        self._is_mine = False
        self.socket: _PortSocket | None = None
        self._host = host
        self._listens = listens
        self._cell: Cell[Any] = Cell(_PREFIX + name, scope=scope, max_size=_MOST_BYTES)
        try:
            self._lock = Lock(_PREFIX + name, scope=scope)
        except BaseException:
            self._cell.close()
            raise
        self._callback: OnChange | None = None
        self._pid = os.getpid()
        _open.add(self)

    @property
    def mine(self) -> bool:
        """Whether it is this object that listens, until `close()`; none of a forked child does."""
        return self._is_mine and self._pid == os.getpid()

    @property
    def number(self) -> int | None:
        """The port's number; None while nobody listens."""
        return self._state()[0]

    def _state(self) -> tuple[int | None, int | None]:
        """Give the number, and which process has it, or is about to have one."""
        self._check_open()
        owner = self._lock._mark()
        said = self._said()
        if owner is None:
            return None, None
        number: int | None = said.get("number") if said.get("by") == list(owner) else None
        return number, owner[0]

    def _check_open(self) -> None:
        if self._pid != os.getpid():
            msg = (
                f"the port {self.name!r} belongs to the process that forked this one\n"
                f"alongside.shared_port({self.name!r}, ...) opens it here"
            )
            raise HandleLost(msg)
        if self._cell.closed:
            msg = f"the port {self.name!r} is closed; open it again"
            raise ValueError(msg)

    def _said(self) -> dict[str, Any]:
        """Give what the last program said that listened, whether it does or not."""
        said: object = self._cell.get(None)
        return cast("dict[str, Any]", said) if isinstance(said, dict) else {}

    def wait(self, *, timeout: float | None = None) -> int:
        """Give the number, waiting until there is one.

        Args:
            timeout: seconds to wait; None for ever.

        Raises:
            TimedOut: nobody listens.
        """
        self._check_open()
        until, changes = Until(timeout), _core.Changes(self._cell)
        while True:
            number, pid = self._state()
            if number is not None:
                return number
            # Other cells of this program wake it, too, and may do so all the time.
            if changes.follow(pid) and (until.left() == 0 or not ready(until, changes.fileno())):
                raise self._nobody()
            changes.take()

    def _nobody(self) -> TimedOut:
        return TimedOut(f"nobody listens at the port {self.name!r} yet")

    async def await_number(self, *, timeout: float | None = None) -> int:
        """Give the number when there is one, in asyncio or trio; as `wait`."""
        from . import _tasks

        self._check_open()
        until, changes = _tasks.deadline(timeout), _core.Changes(self._cell)
        while True:
            number, pid = self._state()
            if number is not None:
                return number
            if changes.follow(pid) and not await _tasks.changed(changes, until):
                raise self._nobody()
            changes.take()

    def on_change(
        self, callback: Callable[[int | None], object] | None, /, *, on: Loop | None = None
    ) -> None:
        """Call `callback(number)` when another program listens, or none any more (None).

        Who wants to listen then asks `shared_port` again.

        Args:
            callback: a function; on `Asyncio` and `Trio` an async one as well. None takes it away.
                What it raises goes to `logging`.
            on: where it runs, one of `alongside.loops`; the library's thread if nothing is said.

        Raises:
            OSError: this user watches too much already; `alongside doctor` has the limit.
        """
        known, self._callback = self._callback, None
        if known is not None:
            known.stop()
        if callback is not None:
            from ._changes import OnChange

            self._check_open()
            changes = _core.Changes(self._cell)
            self._callback = OnChange(changes, _News(self, changes).take, callback, on, self)
            # Whatever has happened until here.
            self._callback.poke()

    def _begin_to_listen(self) -> None:
        """Listen, unless another does."""
        if not self._lock._try_acquire_for(id(self)):
            return
        self._lock._give_back_at_the_end()
        self.socket = _PortSocket.of(self._socket(self._said()), self._end_listening)
        self._cell.set({"number": self.socket.getsockname()[1], "by": self._lock._mark()})
        self._is_mine = True

    def _socket(self, said: dict[str, Any]) -> socket.socket:
        """Give one that listens, at the port that was the last one's if it can be had."""
        last = said.get("number")
        if isinstance(last, int) and 0 < last < _MOST_PORTS:
            try:
                return _bound(self._host, last, None, listens=self._listens)
            except OSError:
                # Taken by now, or not to be had at this address.
                pass
        return _bound(self._host, 0, None, listens=self._listens)

    def close(self) -> None:
        """Listen no longer, and let go of the name. A second time does nothing."""
        _open.discard(self)
        self.on_change(None)
        try:
            self._end_listening()
        finally:
            self._cell.close()

    def _end_listening(self) -> None:
        if self._pid != os.getpid() or not self._lock._is_taken_by(id(self)):
            return
        self._is_mine = False
        try:
            if self.socket is not None:
                self.socket.tells = None
                self.socket.close()
            version, said = self._cell._version(), self._said()
        finally:
            self._lock._release_for(id(self))
        # All are told, unless somebody listens already: the number stays for who is next.
        if said:
            self._cell.compare_and_set({**said, "by": None}, version=version)

    def __repr__(self) -> str:
        if self._cell.closed:
            return f"<alongside.SharedPort {self.name!r}, closed>"
        whose = "its number is this one's" if self.mine else "to learn its number"
        return f"<alongside.SharedPort {self.name!r}, {whose}>"

    def __reduce__(self) -> Any:
        msg = "a port cannot be pickled\nask shared_port for it in the other process"
        raise TypeError(msg)


SharedPort.__module__ = "alongside"


class _News:
    """Gives each number that differs from the one before."""

    def __init__(self, port: SharedPort, changes: _core.Changes) -> None:
        self._port = port
        self._changes = changes
        self._told, self._followed = port._state()
        changes.follow(self._followed)

    def take(self) -> Any:
        from ._changes import NOTHING

        self._changes.take()
        number, pid = self._port._state()
        while pid != self._followed:
            self._followed = pid if self._changes.follow(pid) else None
            # It may have ended before it was followed.
            number, pid = self._port._state()
        if number == self._told:
            return NOTHING
        self._told = number
        return number


def shared_port(
    name: str,
    /,
    *,
    listen: bool,
    scope: Scope = "login",
    host: str = "127.0.0.1",
    _reserve: bool = False,
) -> SharedPort:
    """Share the number of a port with all programs that ask for its name.

        port = alongside.shared_port("transfer", listen=True)
        if port.mine:
            serve(port.socket)
        else:
            print("it listens at", port.wait())

    The first program that asks with `listen` listens, at a port that was free, and the others learn
    its number, whoever was started first. When that program ends, however that comes about, the
    number is nobody's at once; the next program that listens takes the same one if it can.

    Args:
        name: parts joined by slashes, of at most 190 bytes.
        listen: listen if nobody else does; without it, only learn.
        scope: who shares it: this login session, or all programs of this user.
        host: where to listen.

    Raises:
        ValueError: the name breaks a rule.
        NoScope: there is no login session; `scope="user"` does without.
        OSError: no port can be had, or nothing more can be opened.

    Example:
        >>> import alongside
        >>> with alongside.shared_port("example/port", listen=True, scope="user") as port:
        ...     other = alongside.shared_port("example/port", listen=False, scope="user")
        ...     port.mine, other.mine, port.number == other.wait()
        (True, False, True)
        >>> other.number is None
        True
        >>> other.close()
    """
    from ._directory import short_name

    port = SharedPort(short_name(name), scope, host, listens=not _reserve)
    if listen:
        try:
            port._begin_to_listen()
        except BaseException:
            port.close()
            raise
    return port
