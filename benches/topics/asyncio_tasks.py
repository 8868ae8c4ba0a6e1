"""64 bytes from a task to a task of another process and back, on asyncio.

The yardstick is the least by which one task can wake another there: two eventfds, watched by the
loops themselves (`programs/asyncio_round_trip.py`).
"""

from .. import placement
from ..processes import program
from ..samples import TIMES, Case, Row, absent_row, time_text, times_text

TITLE = "64 B round trip between asyncio tasks"
METHOD = "p50 of `asend` and `areceive`, both programs on loops of the standard library."
_BARE = "bare eventfd"
_WHO = {"alongside": "alongside", _BARE: "eventfd"}
_MOST = 1.3


def cases(settings):
    return [
        _case(name, where, settings)
        for where in filter(placement.can, placement.ALL)
        for name in _WHO
    ]


def _case(name, where, settings):
    cpus = placement.cpus(where) or (-1, -1)

    def run():
        return program("asyncio_round_trip.py", _WHO[name], settings.seconds, *cpus)

    return Case((name, where), run)


def rows(samples):
    return [_row(samples, (name, where)) for where in placement.ALL for name in _WHO]


def _row(samples, key):
    name, where = key
    if not samples.has(key):
        return absent_row(TITLE, key, samples)
    row = Row(TITLE, where, name, time_text(samples.median(key, "p50_us")))
    bare = (_BARE, where)
    if name == "alongside" and samples.has(bare):
        ratio = samples.ratio(key, bare, "p50_us")
        row.ratio, row.goal = times_text(ratio, _BARE), f"≤ {_MOST} {TIMES} {_BARE}"
        # Unpinned, the scheduler decides which of two times it is.
        row.is_met = ratio <= _MOST if where != placement.UNPINNED else None
    return row
