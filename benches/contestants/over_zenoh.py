"""zenoh with its shared memory: a buffer for each message, peer to peer over loopback.

The payload is allocated and filled in shared memory and published. Its Python binding gives the
subscriber no view of that: `to_bytes` copies, and there is nothing quicker. Delivery is set to
block where queues are full, else messages would be lost.
"""

import socket

import zenoh
import zenoh.shm

from . import End, launch

_KEY = "benches/data"


def _config(listens, port):
    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("transport/shared_memory/enabled", "true")
    where = "listen" if listens else "connect"
    config.insert_json5(f"{where}/endpoints", f'["tcp/127.0.0.1:{port}"]')
    return config


class OverZenoh:
    """One direction: the client publishes, the server subscribes."""

    name = "zenoh"
    longest = 64 << 20

    def connect(self, command, size):
        """The client listens on a free port."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        session = zenoh.open(_config(True, port))
        provider = zenoh.shm.ShmProvider.default_backend(4 * size + (1 << 20))
        publisher = session.declare_publisher(
            _KEY, congestion_control=zenoh.CongestionControl.BLOCK
        )
        wait = zenoh.shm.BlockOn(zenoh.shm.GarbageCollect())

        def send(data):
            buffer = provider.alloc(size, policy=wait)
            buffer[:] = data
            publisher.put(buffer)

        server = launch([*command, str(port)])
        # The first must not be published before the subscription is known here.
        while not publisher.matching_status.matching:
            if server.stdout.closed:
                break
        return End(send, lambda: None, close=session.close, keep=[provider, publisher]), server

    def accept(self, size, words):
        """The server connects, and takes samples from a queue."""
        del size
        session = zenoh.open(_config(False, int(words[0])))
        handler = zenoh.handlers.FifoChannel(4)
        subscriber = session.declare_subscriber(_KEY, handler)

        def receive():
            return subscriber.recv().payload.to_bytes()

        return End(receive, receive, close=session.close, keep=[subscriber])


CONTESTANTS = [OverZenoh()]
