"""joblib's memmapping: an array dumped to a file in memory, and mapped by the other program.

It is made for handing one large input to workers, not for streams: each array is a file of its own.
A Pipe says which. The reader maps it, and removes the one before.
"""

import os
import uuid
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import joblib
import numpy as np

from . import End, launch


class OverJoblib:
    """One direction: the client dumps, the server maps."""

    name = "joblib"
    longest = 1 << 30

    def connect(self, command, size):
        """Files of a name that nobody else has, in /dev/shm."""
        del size
        token = f"/dev/shm/benches-{uuid.uuid4().hex}"
        ours, theirs = Pipe()
        fd = theirs.fileno()
        os.set_inheritable(fd, True)
        server = launch([*command, str(fd)], (fd,))
        theirs.close()
        sent = 0

        def send(data):
            nonlocal sent
            path = f"{token}-{sent}"
            joblib.dump(np.frombuffer(data), path)
            if sent >= 2:
                ours.recv_bytes()
            ours.send_bytes(path.encode())
            sent += 1

        return End(send, ours.recv_bytes), server

    def accept(self, size, words):
        """The server maps what it is told of."""
        del size
        connection = Connection(int(words[0]))
        is_first = True

        def receive():
            nonlocal is_first
            if not is_first:
                connection.send_bytes(b"!")
            is_first = False
            path = Path(connection.recv_bytes().decode())
            found = joblib.load(path, mmap_mode="r")
            path.unlink()
            return found

        return End(receive, receive, numbers=lambda array: array)


CONTESTANTS = [OverJoblib()]
