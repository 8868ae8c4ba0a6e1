"""Who has called at a socket and has not been let in: the kernel's own list of that.

Asked by sock_diag(7), as `ss` does: for each listening Unix socket, the sockets of those that wait
in its queue. Anybody may ask; to whom a socket belongs knows only who may look into its process.
"""

from __future__ import annotations

import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_STATE_LISTEN = 10
_SHOW_NAME, _SHOW_ICONS = 1, 8
_NAME, _ICONS = 0, 3
# Of a socket that nobody has open any more.
_NO_INODE = 0
# length, type, flags, sequence, port
_HEADER = struct.Struct("=IHHII")
# family, protocol, padding, states, inode, what to show, cookie
_REQUEST = struct.Struct("=BBHIIIII")
# family, type, state, padding, inode, cookie
_FOUND = struct.Struct("=BBBBIII")
# length, type
_ATTRIBUTE = struct.Struct("=HH")


def queues() -> dict[str, set[int]]:
    """Give who waits to be let in: by the last part of a socket's path, the inodes of the callers.

    Callers that have closed their sockets, or ended, stay in the queue, but are nobody any more.

    Raises OSError where the kernel does not tell.
    """
    asked = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    )
    with asked:
        show = _SHOW_NAME | _SHOW_ICONS
        request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 1 << _STATE_LISTEN, 0, show, 0, 0)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        size = _HEADER.size + len(request)
        asked.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, flags, 1, 0) + request)
        found: dict[str, set[int]] = {}
        for body in _answers(asked):
            attributes = dict(_attributes(body[_FOUND.size :]))
            callers = attributes.get(_ICONS, b"")
            if living := set(struct.unpack(f"={len(callers) // 4}I", callers)) - {_NO_INODE}:
                name = attributes.get(_NAME, b"").rstrip(b"\0").decode(errors="replace")
                found[name.rpartition("/")[2]] = living
        return found


def _answers(asked: socket.socket) -> Iterator[bytes]:
    """Give the bodies of an answer's messages, until the last."""
    while True:
        datagram = asked.recv(1 << 20)
        while len(datagram) >= _HEADER.size:
            size, kind, _, _, _ = _HEADER.unpack_from(datagram)
            body = datagram[_HEADER.size : size]
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                (error,) = struct.unpack_from("=i", body)
                raise OSError(-error, "the kernel does not tell who waits at sockets")
            yield body
            datagram = datagram[_aligned(size) :]


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    while len(body) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(body)
        yield kind, body[_ATTRIBUTE.size : size]
        body = body[max(_aligned(size), _ATTRIBUTE.size) :]


def _aligned(size: int) -> int:
    return (size + 3) & ~3
