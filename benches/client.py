"""The client's process: `python -m benches.client JOB`, where JOB is JSON; so is what it prints.

It starts the server, warms both up until a first guess at the speed stands, and then measures for
about the time asked. Latencies are taken one by one, with one reading of the clock for each (about
45 ns, included), throughput over the whole. Processor time is that of both processes, all threads.
"""

import json
import os
import signal
import sys
import threading
import time

from . import contestants, placement
from .clocks import cpu_ns, page_faults

_LARGE = 1 << 20


class _Connection:
    """The client's end, and the lines by which the server is led."""

    def __init__(self, job):
        cpus = job["cpus"] or (-1, -1)
        placement.pin(cpus[0])
        contestant = contestants.named(job["contestant"])
        self.size = job["size"]
        command = [sys.executable, "-m", "benches.server", contestant.name]
        command += [str(self.size), str(cpus[1])]
        self.end, self.server = contestant.connect(command, self.size)
        if self.hear() != b"ready":
            msg = f"the server of {contestant.name} did not come up"
            raise RuntimeError(msg)
        self.pids = (os.getpid(), self.server.pid)

    def order(self, work, count):
        self.server.stdin.write(f"{work} {count}\n".encode())
        self.server.stdin.flush()

    def hear(self):
        return self.server.stdout.readline().strip()

    def close(self):
        self.server.stdin.close()
        self.server.wait()
        if self.end.close is not None:
            self.end.close()


def _settled(run, seconds, size):
    """How often to do it for so many seconds: tried with more and more, which also warms up."""
    count = 2 if size >= _LARGE else 8
    run(count)
    while True:
        begin = time.perf_counter()
        run(count)
        took = time.perf_counter() - begin
        if took >= seconds / 5:
            return max(5, int(count * seconds / took))
        count *= 4


def _exchange(connection, data, count):
    """Nanoseconds of each of so many round trips."""
    send, receive, clock = connection.end.send, connection.end.receive, time.perf_counter_ns
    times = []
    note = times.append
    connection.order("echo", count)
    last = clock()
    for _ in range(count):
        send(data)
        receive()
        now = clock()
        note(now - last)
        last = now
    return times


def _round_trip(connection, job):
    data = (bytes(range(256)) * (connection.size // 256 + 1))[: connection.size]
    count = _settled(lambda n: _exchange(connection, data, n), job["seconds"], connection.size)
    before = cpu_ns(connection.pids)
    times = _exchange(connection, data, count)
    used = cpu_ns(connection.pids) - before
    # The first few find the server still reading its order.
    times = sorted(times[min(10, count // 5) :])
    return {
        "p50_us": times[len(times) // 2] / 1e3,
        "p99_us": times[len(times) * 99 // 100] / 1e3,
        "per_s": len(times) / (sum(times) / 1e9),
        "cpu_us": used / count / 1e3,
        "count": count,
    }


def _burst(connection, data, count, work="sink"):
    """Send so many; the seconds until the server has them, and how many it had."""
    send = connection.end.send
    connection.order(work, count)
    begin = time.perf_counter()
    for _ in range(count):
        send(data)
    came = int(connection.hear())
    return time.perf_counter() - begin, came


def _one_way(connection, job):
    data = bytes(connection.size)
    count = _settled(lambda n: _burst(connection, data, n), job["seconds"], connection.size)
    before = cpu_ns(connection.pids)
    took, came = _burst(connection, data, count)
    used = cpu_ns(connection.pids) - before
    return {
        "per_s": came / took,
        "cpu_us": used / max(came, 1) / 1e3,
        "lost": 1 - came / count,
        "count": count,
    }


def _stream(connection, job):
    """Large messages, one after the other, each seen or added up where it arrives."""
    ones = b"\0\0\0\0\0\0\xf0\x3f"  # 1.0
    data, work = ones * (connection.size // 8), job["how"]

    def burst(count):
        return _burst(connection, data, count, work)

    count = _settled(burst, job["seconds"], connection.size)
    cpu, faults = cpu_ns(connection.pids), page_faults(connection.pids)
    took, came = burst(count)
    return {
        "each_us": took / max(came, 1) * 1e6,
        "cpu_us": (cpu_ns(connection.pids) - cpu) / max(came, 1) / 1e3,
        "faults": (page_faults(connection.pids) - faults) / max(came, 1),
        "lost": 1 - came / count,
        "count": count,
    }


def _transfers(connection, data, work, count):
    """Nanoseconds from before each `send` to when the server has the message."""
    send, clock = connection.end.send, time.perf_counter_ns
    times = []
    connection.order(work, count)
    for _ in range(count):
        begin = clock()
        send(data)
        times.append(int(connection.hear()) - begin)
    return times


def _transfer(connection, job):
    data = b"\2" * connection.size
    work = job["how"]
    count = _settled(lambda n: _transfers(connection, data, work, n), job["seconds"], _LARGE)
    before = cpu_ns(connection.pids)
    times = sorted(_transfers(connection, data, work, count))
    used = cpu_ns(connection.pids) - before
    return {"p50_us": times[len(times) // 2] / 1e3, "cpu_us": used / count / 1e3, "count": count}


def _beside_a_busy_thread(connection, job):
    """Round trips while another thread of this process computes, in Python."""
    goes_on = True

    def compute():
        number = 0
        while goes_on:
            number += 1

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        return _round_trip(connection, job)
    finally:
        goes_on = False
        thread.join()


_WORKS = {
    "round trip": _round_trip,
    "one way": _one_way,
    "stream": _stream,
    "transfer": _transfer,
    "beside a busy thread": _beside_a_busy_thread,
}


def main():
    """Do one job."""
    job = json.loads(sys.argv[1])
    connection = _Connection(job)
    try:
        result = _WORKS[job["work"]](connection, job)
    except BaseException:
        # The server may wait for a message that will not come.
        os.kill(connection.server.pid, signal.SIGKILL)
        raise
    finally:
        connection.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
