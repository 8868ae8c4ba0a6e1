"""A Unix socket pair and nothing else: what one writes who wants no library.

Up to 64 KiB SOCK_SEQPACKET, which keeps the ends of messages at the price of one call each. Longer
messages do not fit its buffers: SOCK_STREAM then, a length before each message, and MSG_WAITALL, so
that the kernel and not Python collects the pieces.
"""

import socket
import struct
from functools import partial

from . import End, launch

_LONGEST_PACKET = 64 << 10
_LENGTH = struct.Struct("<Q")


def _stream_end(sock):
    def send(data):
        sent = sock.sendmsg((_LENGTH.pack(len(data)), data))
        if sent < _LENGTH.size + len(data):
            sock.sendall(memoryview(data)[sent - _LENGTH.size :])

    def length():
        return _LENGTH.unpack(sock.recv(_LENGTH.size, socket.MSG_WAITALL))[0]

    def receive():
        return sock.recv(length(), socket.MSG_WAITALL)

    def receive_into(buffer):
        return sock.recv_into(buffer, length(), socket.MSG_WAITALL)

    return End(send, receive, receive_into, close=sock.close)


class SocketPair:
    """Unix sockets, with the calls of the module `socket`."""

    name = "socketpair"
    longest = 1 << 30

    def connect(self, command, size):
        """The other socket goes by inheritance, its number by word."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, self._kind(size))
        fd = theirs.fileno()
        server = launch([*command, str(fd)], (fd,))
        theirs.close()
        return self._end(ours, size), server

    def accept(self, size, words):
        """The inherited socket."""
        return self._end(socket.socket(fileno=int(words[0])), size)

    @staticmethod
    def _kind(size):
        return socket.SOCK_SEQPACKET if size <= _LONGEST_PACKET else socket.SOCK_STREAM

    @staticmethod
    def _end(sock, size):
        if size > _LONGEST_PACKET:
            return _stream_end(sock)
        return End(sock.send, partial(sock.recv, size), sock.recv_into, close=sock.close)


CONTESTANTS = [SocketPair()]
