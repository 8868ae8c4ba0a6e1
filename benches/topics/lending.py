"""Memory that was filled in place, handed over: 64 KiB to 1 GiB.

Nothing is copied, so the time does not depend on the size: that is the flat line of the plot. It
runs from before `send` until the receiver has looked at the first bytes; the receiver is in its
wait.
"""

from .. import placement
from ..processes import program
from ..samples import Case, Row, absent_row, time_text, times_text
from .sizes import size_text

TITLE = "lent array handed over"
METHOD = "p50 of single hand-overs; two cores, so that the receiver is awake."
SIZES = tuple((64 << 10) << (2 * step) for step in range(8))
_WHO = {"alongside": SIZES, "iceoryx2": tuple(size for size in SIZES if size <= 256 << 20)}
_WHERE = placement.TWO_CORES
_COUNT = 200
_MOST_US = 5


def cases(settings):
    del settings
    if not placement.can(_WHERE):
        return []
    return [_case(name) for name in _WHO]


def _case(name):
    cpus = placement.cpus(_WHERE)
    return Case((name, _WHERE), lambda: program("lending.py", name, *cpus, _COUNT, *_WHO[name]))


def rows(samples):
    return [_row(samples, name, size) for size in SIZES for name in _WHO if size in _WHO[name]]


def _row(samples, name, size):
    key, work = (name, _WHERE), f"{size_text(size)} {TITLE}"
    if not samples.has(key):
        return absent_row(work, key, samples)
    p50 = samples.median(key, str(size))
    row = Row(work, _WHERE, name, time_text(p50))
    if name == "alongside":
        row.goal, row.is_met = f"≤ {_MOST_US} µs", p50 <= _MOST_US
    elif samples.has(("alongside", _WHERE)):
        row.ratio = times_text(samples.ratio(key, ("alongside", _WHERE), str(size)), "alongside")
    return row


def curves(samples):
    """Of each contestant its sizes and times, for the plot."""
    return {
        name: [(size, samples.median((name, _WHERE), str(size))) for size in _WHO[name]]
        for name in _WHO
        if samples.has((name, _WHERE))
    }
