"""alongside: `start` and `session`, `send` and `receive`, nothing tuned.

bytes go as they are. Whether a side spins or sleeps is the library's decision in every placement.
"""

import alongside

from . import End, Server


class Alongside:
    """A session between a program and the one it has started."""

    name = "alongside"
    longest = 1 << 30

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

    @staticmethod
    def _end(session):
        return End(session.send, session.receive, session.receive_into, close=session.close)


CONTESTANTS = [Alongside()]
