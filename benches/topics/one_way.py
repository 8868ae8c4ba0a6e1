"""Messages of 64 bytes in one direction, as fast as they go.

The clock runs from before the first `send` until the receiver has said how many it has. A
contestant that drops what the receiver does not take in time is credited with what arrived.
"""

from .. import contestants, placement
from ..processes import pair
from ..samples import TIMES, Case, Row, absent_row, rate_text, time_text, times_text

TITLE = "64 B one way"
METHOD = (
    "Messages that arrived, over the time until the last of them. CPU: both processes, a message."
)
_WHO = tuple(name for name in contestants.ALL if name != "iceoryx2 events")
_PIPES = 20


def cases(settings):
    return [
        _case(name, where, settings)
        for where in filter(placement.can, placement.ALL)
        for name in _WHO
    ]


def _case(name, where, settings):
    return Case(
        (name, where),
        lambda: pair(name, "one way", where=where, size=64, seconds=settings.seconds),
    )


def rows(samples):
    return [_row(samples, (name, where)) for where in placement.ALL for name in _WHO]


def _row(samples, key):
    if not samples.has(key):
        return absent_row(TITLE, key, samples)
    name, where = key
    value = rate_text(samples.median(key, "per_s"))
    if lost := samples.median(key, "lost"):
        value += f", {lost:.1%} lost"
    row = Row(TITLE, where, name, value, time_text(samples.median(key, "cpu_us")))
    pipe, alongside = ("Pipe", where), ("alongside", where)
    if name == "alongside" and samples.has(pipe):
        ratio = samples.ratio(key, pipe, "per_s")
        row.ratio, row.goal = times_text(ratio, "Pipe"), f"≥ {_PIPES} {TIMES} Pipe"
        row.is_met = ratio >= _PIPES
    elif samples.has(alongside):
        row.ratio = times_text(samples.ratio(key, alongside, "per_s"), "alongside")
    return row
