"""pyzmq: a PAIR over ipc://, the pattern for exactly two.

PAIR is the leanest of its patterns (no envelope, no routing). The high-water marks are lifted, so
that a sender hands over without waiting. Above 64 KiB `copy=False` on both sides, as its guide
advises for large messages; below, its own copy is faster than its bookkeeping.
"""

import tempfile
from functools import partial
from pathlib import Path

import zmq

from . import End, launch

_ZERO_COPY_FROM = 64 << 10


class PyZmq:
    """Two sockets, and libzmq's own thread on each side."""

    name = "pyzmq"
    longest = 1 << 30

    def connect(self, command, size):
        """Bound to a path in a folder of its own."""
        folder = tempfile.TemporaryDirectory(prefix="benches-")
        address = f"ipc://{Path(folder.name) / 'pair'}"
        end = self._end(size, lambda pair: pair.bind(address))
        end.keep.append(folder)
        return end, launch([*command, address])

    def accept(self, size, words):
        """Connected to that path."""
        return self._end(size, lambda pair: pair.connect(words[0]))

    @staticmethod
    def _end(size, attach):
        context = zmq.Context()
        pair = context.socket(zmq.PAIR)
        pair.set_hwm(0)
        pair.linger = 0
        attach(pair)
        if size > _ZERO_COPY_FROM:
            end = End(partial(pair.send, copy=False), partial(pair.recv, copy=False))
        else:
            end = End(pair.send, pair.recv)
        end.keep += [context, pair]
        end.close = partial(context.destroy, 0)
        return end


CONTESTANTS = [PyZmq()]
