"""multiprocessing.shared_memory with a Pipe: what one builds from the standard library.

Two blocks in turn, so that one is filled while the other is read; the Pipe says which is full, and
the reader's next `receive` says that it has let go of the last. What is received is a view.
"""

from multiprocessing import Pipe, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory

from . import End, launch

_BLOCKS = 2


class OverSharedMemory:
    """One direction: the client fills, the server looks."""

    name = "shared_memory + Pipe"
    longest = 1 << 30

    def connect(self, command, size):
        """The client makes the blocks, and removes them at the end."""
        blocks = [SharedMemory(create=True, size=size) for _ in range(_BLOCKS)]
        ours, theirs = Pipe()
        fd = theirs.fileno()
        words = [str(fd), *(block.name for block in blocks)]
        import os

        os.set_inheritable(fd, True)
        server = launch([*command, *words], (fd,))
        theirs.close()
        views = [block.buf[:size] for block in blocks]
        sent = 0

        def send(data):
            nonlocal sent
            if sent >= _BLOCKS:
                ours.recv_bytes()
            number = sent % _BLOCKS
            views[number][:] = data
            ours.send_bytes(bytes([number]))
            sent += 1

        def close():
            for view, block in zip(views, blocks, strict=True):
                view.release()
                block.close()
                block.unlink()

        return End(send, ours.recv_bytes, close=close), server

    def accept(self, size, words):
        """The server lets go of a block when it asks for the next."""
        connection = Connection(int(words[0]))
        blocks = [SharedMemory(name) for name in words[1:]]
        for block in blocks:
            # They are the client's to remove.
            resource_tracker.unregister(block._name, "shared_memory")
        views = [block.buf[:size].toreadonly() for block in blocks]
        is_first = True

        def receive():
            nonlocal is_first
            if not is_first:
                connection.send_bytes(b"!")
            is_first = False
            return views[connection.recv_bytes()[0]]

        return End(receive, receive, keep=[blocks, views])


CONTESTANTS = [OverSharedMemory()]
