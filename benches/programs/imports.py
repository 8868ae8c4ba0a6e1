"""What statements cost a new interpreter; prints medians in microseconds.

Run as `python -I imports.py COUNT NAME=STATEMENT...`. Each statement's process comes right after
one that does nothing, and the difference of the two is taken. None: that module is not here.
"""

import importlib.util
import json
import os
import sys
import time
from statistics import median


def _took(statement):
    begin = time.perf_counter_ns()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-I", "-c", statement], os.environ)
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit(f"{statement!r} ended with {status}")
    return (time.perf_counter_ns() - begin) / 1e3


def _is_here(statement):
    return importlib.util.find_spec(statement.split()[1].partition(".")[0]) is not None


def main():
    """All statements in turn, again and again; the first time is only for the caches."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    words = dict(word.split("=") for word in sys.argv[2:])
    times = {name: [] for name, statement in words.items() if _is_here(statement)}
    bare = []
    for turn in range(int(sys.argv[1]) + 1):
        for name, over in times.items():
            nothing = _took("pass")
            something = _took(words[name])
            if turn:
                bare.append(nothing)
                over.append(something - nothing)
    medians = {name: median(times[name]) if name in times else None for name in words}
    print(json.dumps({"bare_us": median(bare), **medians}))


if __name__ == "__main__":
    main()
