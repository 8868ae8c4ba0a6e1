"""The server's process: `python -m benches.server NAME SIZE CPU WORDS...`.

It opens its end, says so on stdout, and then does what its stdin says, a line at a time:

    echo N    send back N messages
    sink N    take N messages, then say on stdout how many of them really came
    sum N     the same, and add the float64 numbers of each up
    stamp N   take N messages, and say after each on stdout when it was here
    fill N    the same, into memory of its own

Between two lines it sleeps in a read, so that even a polling contestant costs nothing then. The end
of its stdin is its end.
"""

import sys
import time
from functools import cache

from . import contestants, placement


def _say(word):
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _echo(end, count, size):
    del size
    send, receive = end.send, end.receive
    for _ in range(count):
        send(receive())


def _sink(end, count, size):
    del size
    _say(contestants.drain(end, count))


def _sum(end, count, size):
    receive, numbers = end.receive, end.numbers
    total = 0.0
    for _ in range(count):
        message = receive()
        array = numbers(message)
        total += array.sum()
        # Let go before the next is asked for: some lend no more than one or two.
        del message, array
    # Every number is a one.
    _say(count if total == count * (size // 8) else 0)


def _stamp(end, count, size):
    del size
    for _ in range(count):
        message = end.receive()
        _say(time.perf_counter_ns())
        # Not while the clock runs, and before the next is taken: two would need twice the memory.
        del message


@cache
def _buffer(size):
    """Memory that is there already, every page of it."""
    return bytearray(b"\1" * size)


def _fill(end, count, size):
    buffer = _buffer(size)
    for _ in range(count):
        end.receive_into(buffer)
        _say(time.perf_counter_ns())


_WORKS = {"echo": _echo, "sink": _sink, "sum": _sum, "stamp": _stamp, "fill": _fill}


def main():
    """Serve until told to end."""
    name, size, cpu, *words = sys.argv[1:]
    placement.pin(int(cpu))
    end = contestants.named(name).accept(int(size), words)
    _say("ready")
    for line in sys.stdin:
        work, count = line.split()
        _WORKS[work](end, int(count), int(size))
    if end.close is not None:
        end.close()


if __name__ == "__main__":
    main()
