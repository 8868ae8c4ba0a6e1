"""Starts programs in three ways, in turn; prints the median of each, in microseconds.

Run as `python -I starts.py COUNT THEN`. THEN is what the program does after its answer: `wait` for
the end of the connection, or `end` at once. What the parent needs is imported before the clock
runs, and in functions, because `multiprocessing` runs this file again in its child.
"""

import sys
import time
from pathlib import Path

HELLO = b"hello"
COMMAND = [sys.executable, "-I"]


def answer(connection, hello, then):
    """The child of `multiprocessing`."""
    connection.send_bytes(hello)
    if then == "wait":
        connection.poll(None)


def _over_alongside(then):
    import alongside

    program = Path(__file__).with_name("hello_alongside.py")
    begin = time.perf_counter_ns()
    session = alongside.start([*COMMAND, program, then], hello=HELLO)
    message = session.receive()
    took = time.perf_counter_ns() - begin
    session.close()
    session.wait()
    return took, message


def _over_subprocess(then):
    import subprocess

    program = Path(__file__).with_name("hello_bare.py")
    begin = time.perf_counter_ns()
    process = subprocess.Popen(
        [*COMMAND, program, then], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    process.stdin.write(HELLO)
    message = process.stdout.read(len(HELLO))
    took = time.perf_counter_ns() - begin
    process.stdin.close()
    process.stdout.close()
    process.wait()
    return took, message


def _over_spawn(then):
    import multiprocessing

    # The child gets this interpreter's own flags, -I among them.
    spawn = multiprocessing.get_context("spawn")
    begin = time.perf_counter_ns()
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=answer, args=(theirs, HELLO, then))
    process.start()
    message = ours.recv_bytes()
    took = time.perf_counter_ns() - begin
    theirs.close()
    ours.close()
    process.join()
    return took, message


def main():
    """The first turn warms up: imports here, byte code and files there."""
    import json
    from statistics import median

    count, then = int(sys.argv[1]), sys.argv[2]
    ways = {"alongside": _over_alongside, "subprocess": _over_subprocess, "spawn": _over_spawn}
    times = {name: [] for name in ways}
    for turn in range(count + 1):
        for name, way in ways.items():
            took, message = way(then)
            if message != HELLO:
                sys.exit(f"{name} answered {message!r}")
            if turn:
                times[name].append(took / 1e3)
    print(json.dumps({name: median(taken) for name, taken in times.items()}))


if __name__ == "__main__":
    main()
