"""alongside: `start` and `session`, `send` and `receive`, nothing tuned.

bytes go as they are. Whether a side spins or sleeps is the library's decision in every placement.
The variant with views receives by `receive_view`, the one with arrays sends numpy's.
"""

import alongside
import numpy as np

from . import End, Server


class Alongside:
    """A session between a program and the one it has started."""

    longest = 1 << 30

    def __init__(self, name, end):
        self.name = name
        self._end = end

    def connect(self, command, size):
        """Started by the library itself."""
        del size
        session = alongside.start(command, stdin=alongside.PIPE, stdout=alongside.PIPE)
        server = Server(session.peer.pid, session.stdin, session.stdout, session.wait)
        return self._end(session), server

    def accept(self, size, words):
        """The session that the process was started with."""
        del size, words
        return self._end(alongside.session(required=True))


def _bytes(session):
    return End(session.send, session.receive, session.receive_into, close=session.close)


def _views(session):
    return End(session.send, session.receive_view, close=session.close)


def _arrays(session):
    def send(data):
        session.send(np.frombuffer(data))

    return End(send, session.receive, close=session.close, numbers=lambda array: array)


CONTESTANTS = [
    Alongside("alongside", _bytes),
    Alongside("alongside views", _views),
    Alongside("alongside arrays", _arrays),
]
