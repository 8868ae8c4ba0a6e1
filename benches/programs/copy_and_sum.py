"""One warm copy of 64 MiB in one process while another adds 64 MiB up; prints microseconds.

Run as `python -I copy_and_sum.py SECONDS CPU CPU`. Neither waits for the other: it is what a stream
of arrays, each copied once and added up where it lies, cannot be quicker than.
"""

import json
import os
import sys
import time

import numpy as np

_NUMBERS = (64 << 20) // 8


def _timed(work, seconds):
    work()
    work()
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        work()
        count += 1
    return (time.perf_counter() - begin) / count * 1e6


def main():
    """Measure both at once; the slower counts."""
    seconds, first, second = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    ones, place = np.ones(_NUMBERS), np.zeros(_NUMBERS)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        if second >= 0:
            os.sched_setaffinity(0, {second})
        own = np.ones(_NUMBERS)
        took = _timed(own.sum, seconds)
        os.write(write, json.dumps(took).encode())
        os._exit(0)
    if first >= 0:
        os.sched_setaffinity(0, {first})
    copying = _timed(lambda: np.copyto(place, ones), seconds)
    adding = json.loads(os.read(read, 100))
    os.waitpid(child, 0)
    print(json.dumps({"each_us": max(copying, adding), "copy_us": copying, "sum_us": adding}))


if __name__ == "__main__":
    main()
