"""How long after a SIGKILL the other side knows; prints all times, in microseconds.

Run as `python -I deaths.py COUNT`. The dying side sends the time and kills itself: no third process
has to be woken for that, and the receiver is asleep again long before the kernel is done.
"""

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection


def die_in_a_session():
    """Wait for a word, send the time, die."""
    import alongside

    session = alongside.session(required=True)
    session.receive()
    session.send(str(time.perf_counter_ns()).encode())
    os.kill(os.getpid(), signal.SIGKILL)


def die_on_a_pipe():
    """The same on an inherited Connection."""
    connection = Connection(int(sys.argv[2]))
    connection.recv_bytes()
    connection.send_bytes(str(time.perf_counter_ns()).encode())
    os.kill(os.getpid(), signal.SIGKILL)


def _us_since(stamp):
    return (time.perf_counter_ns() - int(stamp)) / 1e3


def _of_a_session():
    import alongside

    session = alongside.start([sys.executable, "-I", __file__, "session"])
    session.send(b"die")
    killed_at = session.receive()
    try:
        session.receive()
    except alongside.PeerGone:
        took = _us_since(killed_at)
    session.close()
    session.wait()
    return took


def _of_a_pipe():
    ours, theirs = Pipe()
    fd = theirs.fileno()
    process = subprocess.Popen([sys.executable, "-I", __file__, "pipe", str(fd)], pass_fds=(fd,))
    theirs.close()
    ours.send_bytes(b"die")
    killed_at = ours.recv_bytes()
    try:
        ours.recv_bytes()
    except EOFError:
        took = _us_since(killed_at)
    ours.close()
    process.wait()
    return took


def main():
    """Both in turn; the first of each warms up."""
    ways = {"alongside": _of_a_session, "Pipe": _of_a_pipe}
    times = {name: [] for name in ways}
    for turn in range(int(sys.argv[1]) + 1):
        for name, way in ways.items():
            took = way()
            if turn:
                times[name].append(took)
    print(json.dumps(times))


if __name__ == "__main__":
    {"session": die_in_a_session, "pipe": die_on_a_pipe}.get(sys.argv[1], main)()
