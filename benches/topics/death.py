"""How long after SIGKILL a sleeping receiver knows.

The other program sends the time and kills itself; the receiver is back in `receive` and asleep long
before the kernel has taken that process apart, which is most of what is measured. So Pipe, which
learns of it from the same kernel, is the yardstick.
"""

from statistics import median

from ..processes import program
from ..samples import Case, Row, absent_row, time_text, times_text

TITLE = "SIGKILL to notice"
METHOD = "From just before the kill to `PeerGone` (Pipe: `EOFError`); p50 / p99 of all rounds."
_KEY = ("all", "unpinned")
_WHO = {"alongside": "alongside", "Pipe": "Pipe"}


def cases(settings):
    return [Case(_KEY, lambda: program("deaths.py", settings.starts))]


def rows(samples):
    if not samples.has(_KEY):
        return [absent_row(TITLE, _KEY, samples)]
    return [_row(samples, who) for who in _WHO]


def _row(samples, who):
    times = sorted(time for numbers in samples.rounds[_KEY] for time in numbers[who])
    p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
    row = Row(TITLE, _KEY[1], who, f"{time_text(p50)} / {time_text(p99)}")
    if who == "alongside":
        rounds = samples.rounds[_KEY]
        ratio = median(median(numbers[who]) / median(numbers["Pipe"]) for numbers in rounds)
        row.ratio = times_text(ratio, "Pipe")
    return row
