"""What a session costs that nothing happens in.

`programs/idle.py` opens several sessions, whose programs sleep in `receive`, and sleeps itself. The
processes are then looked at from outside, twice, some seconds apart: time on a processor, times put
to sleep. Memory and descriptors are looked at by the processes themselves, before and after; the
rings are mapped ahead of use, so all of them is touched, and they are counted apart.
"""

from ..processes import program
from ..samples import Case, Row, absent_row

TITLE = "idle session"
METHOD = "One side sleeps in `receive`, the other in a read; both are looked at from outside."
_KEY = ("alongside", "unpinned")
_MOST_KIB, _MOST_FDS = 64, 7


def cases(settings):
    return [Case(_KEY, lambda: program("idle.py", settings.idle_seconds))]


def rows(samples):
    if not samples.has(_KEY):
        return [absent_row(TITLE, _KEY, samples)]

    def most(metric):
        return max(numbers[metric] for numbers in samples.rounds[_KEY])

    def row(what, value, goal, is_met):
        return Row(f"{TITLE}: {what}", _KEY[1], "alongside", value, goal=goal, is_met=is_met)

    seconds, ticks, run_us = most("seconds"), most("ticks"), most("run_us")
    found = [
        row(
            "CPU, both sides",
            f"{ticks} ticks, {run_us:.0f} µs in {seconds:.0f} s",
            "0 ticks",
            ticks == 0,
        ),
        row("voluntary switches", f"{most('switches')}", "0", most("switches") == 0),
    ]
    for side in ("starter", "started"):
        kib, fds = samples.median(_KEY, f"{side}_kib"), most(f"{side}_fds")
        rings = samples.median(_KEY, f"{side}_ring_kib")
        found += [
            row(
                f"resident, {side}",
                f"{kib:.0f} KiB beside {rings:.0f} KiB of rings",
                f"≤ {_MOST_KIB} KiB beside the rings",
                kib <= _MOST_KIB,
            ),
            row(f"descriptors, {side}", f"{fds:g}", f"≤ {_MOST_FDS}", fds <= _MOST_FDS),
        ]
    return found
