"""From the wish to have a program to its first message.

The starter gives the program `hello`, bytes, and the clock stops when the bytes it answers are
here. Interpreters are new each time, all with `-I`. `programs/starts.py` does all ways in turn.

Having answered, the program either waits for more, as most do, or ends at once. The second is the
harder: where both run on one processor, the end of an interpreter takes 1.7 ms, and a starter that
was put to sleep just before is not let in between.
"""

from statistics import median

from ..processes import program
from ..samples import TIMES, Case, Row, absent_row, time_text, times_text

TITLE = "start to first message"
METHOD = "Median of starts done in turn by one process; `python -I` for all, unpinned."
_WHO = {
    "alongside": "alongside",
    "subprocess": "subprocess + pipe",
    "spawn": "multiprocessing spawn",
}
_THEN = {"wait": "the program then waits", "end": "the program then ends"}
_WHERE = "unpinned"
_MOST = 1.3


def cases(settings):
    return [_case(then, settings) for then in _THEN]


def _case(then, settings):
    return Case(("all", _WHERE, then), lambda: program("starts.py", settings.starts, then))


def rows(samples):
    return [row for then in _THEN for row in _rows(samples, ("all", _WHERE, then))]


def _rows(samples, key):
    work = f"{TITLE}, {_THEN[key[2]]}"
    if not samples.has(key):
        return [absent_row(work, key, samples)]
    return [_row(samples, work, key, who) for who in _WHO]


def _row(samples, work, key, who):
    row = Row(work, _WHERE, _WHO[who], time_text(samples.median(key, who)))
    ratio = median(numbers[who] / numbers["subprocess"] for numbers in samples.rounds[key])
    if who != "subprocess":
        row.ratio = times_text(ratio, _WHO["subprocess"])
    if who == "alongside":
        row.goal, row.is_met = f"≤ {_MOST} {TIMES} {_WHO['subprocess']}", ratio <= _MOST
    return row
