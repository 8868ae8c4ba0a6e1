"""Round trips while another thread of the client's process computes in Python.

Whoever gives up the interpreter lock to wait gets it back after a switch interval of 5 ms. Rates
are compared and not medians: most round trips can be quick while most of the time goes elsewhere.
"""

from .. import placement
from ..processes import pair
from ..samples import TIMES, Case, Row, absent_row, rate_text, time_text, times_text

TITLE = "64 B round trip beside a busy thread"
METHOD = (
    "Round trips over the whole time, and p50, with a Python thread in the client that computes."
)
_WHO = ("alongside", "Pipe", "socketpair", "pyzmq", "iceoryx2 polling", "kickmsg")
_PLACES = (placement.TWO_CORES, placement.UNPINNED)
_PIPES = 10


def cases(settings):
    return [
        _case(name, where, settings) for where in filter(placement.can, _PLACES) for name in _WHO
    ]


def _case(name, where, settings):
    # Below a second a few switch intervals more or less would decide.
    seconds = max(2 * settings.seconds, 0.5)
    return Case(
        (name, where),
        lambda: pair(name, "beside a busy thread", where=where, size=64, seconds=seconds),
    )


def rows(samples):
    return [_row(samples, (name, where)) for where in _PLACES for name in _WHO]


def _row(samples, key):
    if not samples.has(key):
        return absent_row(TITLE, key, samples)
    name, where = key
    rate, p50 = samples.median(key, "per_s"), samples.median(key, "p50_us")
    row = Row(TITLE, where, name, f"{rate_text(rate)}, p50 {time_text(p50)}")
    pipe, alongside = ("Pipe", where), ("alongside", where)
    if name == "alongside" and samples.has(pipe):
        ratio = samples.ratio(key, pipe, "per_s")
        row.ratio, row.goal = times_text(ratio, "Pipe"), f"≥ {_PIPES} {TIMES} Pipe"
        row.is_met = ratio >= _PIPES
    elif samples.has(alongside):
        row.ratio = times_text(samples.ratio(key, alongside, "per_s"), "alongside")
    return row
