"""Arrays of 64 MiB of float64, one after the other, which the receiver adds up.

What is sent is the same array each time, and it stays the sender's: so it has to be copied once.
The yardstick is that copy in one process beside the sum in another, neither waiting for the other
(`programs/copy_and_sum.py`); nothing that copies can be quicker.
"""

from .. import placement
from ..processes import pair, program
from ..samples import TIMES, Case, Row, absent_row, time_text, times_text
from .views import stream_row

TITLE = "64 MiB array, added up where it arrives"
METHOD = "Time for each, over a stream of them; page faults of both processes for each; CPU: both."
_SIZE = 64 << 20
_WHO = (
    "alongside arrays",
    "shared_memory + Pipe",
    "iceoryx2 polling",
    "kickmsg",
    "zenoh",
    "joblib",
    "pyzmq",
    "Pipe",
)
_FLOOR = "copy beside sum"
_OF_FLOOR = 1.15
_PLACES = (placement.TWO_CORES, placement.UNPINNED)


def cases(settings):
    found = []
    for where in filter(placement.can, _PLACES):
        found.append(_floor(where, settings))
        found += [_case(name, where, settings) for name in _WHO]
    return found


def _floor(where, settings):
    cpus = placement.cpus(where) or (-1, -1)
    return Case((_FLOOR, where), lambda: program("copy_and_sum.py", settings.large_seconds, *cpus))


def _case(name, where, settings):
    def run():
        return pair(
            name, "stream", where=where, size=_SIZE, seconds=settings.large_seconds, how="sum"
        )

    return Case((name, where), run)


def rows(samples):
    return [_row(samples, (name, where)) for where in _PLACES for name in (_FLOOR, *_WHO)]


def _row(samples, key):
    name, where = key
    if not samples.has(key):
        return absent_row(TITLE, key, samples)
    if name == _FLOOR:
        each = samples.median(key, "each_us")
        return Row(TITLE, where, name, f"{time_text(each)}, {_SIZE / each / 1e3:.1f} GB/s")
    row = stream_row(samples, key, TITLE, _SIZE)
    if name == _WHO[0]:
        if samples.has((_FLOOR, where)):
            ratio = samples.ratio(key, (_FLOOR, where), "each_us")
            row.ratio, row.is_met = times_text(ratio, _FLOOR), ratio <= _OF_FLOOR
            row.goal = f"≤ {_OF_FLOOR} {TIMES} {_FLOOR}"
    elif samples.has((_WHO[0], where)):
        row.ratio = times_text(samples.ratio(key, (_WHO[0], where), "each_us"), "alongside")
    return row
