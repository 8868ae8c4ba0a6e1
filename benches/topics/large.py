"""64 MiB in one direction, one message at a time.

The clock runs from before `send` until the receiver's call has returned, on the clock that all
processes share. Into memory that is there already the yardstick is one memcpy by one processor; as
new bytes, whose pages the kernel has to find and clear first, the peer is Pipe. The receiver
drops each message before it takes the next. Who hands out a view of shared memory instead has
copied once, and the receiver has not seen a byte of it yet; that is a line of its own.
"""

from .. import placement
from ..processes import baseline, pair
from ..samples import TIMES, Case, Row, absent_row, time_text, times_text

TITLE = "64 MiB one way"
METHOD = "p50 of single transfers after a few; the sender's bytes are the same object each time."
_SIZE = 64 << 20
_INTO, _FRESH, _VIEW = "into a buffer", "as new bytes", "as a view"
_WHO = {
    _INTO: ("alongside", "Pipe", "socketpair"),
    _FRESH: ("alongside", "Pipe", "socketpair", "pyzmq"),
    _VIEW: ("iceoryx2 polling", "kickmsg"),
}
_HOW = {_INTO: "fill", _FRESH: "stamp", _VIEW: "stamp"}
_MEMCPY = "C memcpy"
_OF_MEMCPY, _OF_PIPE = 0.75, 1.7
_PLACES = (placement.TWO_CORES, placement.UNPINNED)


def cases(settings):
    found = []
    for where in filter(placement.can, _PLACES):
        found.append(_memcpy(where, settings))
        found += [_case(name, where, how, settings) for how in _WHO for name in _WHO[how]]
    return found


def _memcpy(where, settings):
    return Case(
        (_MEMCPY, where, _INTO),
        lambda: baseline("memcpy", where=where, seconds=settings.large_seconds),
    )


def _case(name, where, how, settings):
    return Case(
        (name, where, how),
        lambda: pair(
            name,
            "transfer",
            where=where,
            size=_SIZE,
            seconds=settings.large_seconds,
            how=_HOW[how],
        ),
    )


def rows(samples):
    return [
        _row(samples, (name, where, how))
        for where in _PLACES
        for how in _WHO
        for name in ((_MEMCPY, *_WHO[how]) if how == _INTO else _WHO[how])
    ]


def _row(samples, key):
    name, where, how = key
    work = f"{TITLE} {how}"
    if not samples.has(key):
        return absent_row(work, key, samples)
    p50 = samples.median(key, "p50_us")
    value = f"{time_text(p50)}, {_SIZE / p50 / 1e3:.1f} GB/s"
    row = Row(work, where, name, value, time_text(samples.median(key, "cpu_us")))
    if name == "alongside":
        _judge(row, samples, key)
    else:
        alongside = ("alongside", where, how if how != _VIEW else _FRESH)
        if samples.has(alongside):
            row.ratio = times_text(samples.ratio(key, alongside, "p50_us"), "alongside")
    return row


def _judge(row, samples, key):
    _, where, how = key
    other, least = (_MEMCPY, _OF_MEMCPY) if how == _INTO else ("Pipe", _OF_PIPE)
    if samples.has((other, where, how)):
        # A ratio of speeds: more is better.
        speed = 1 / samples.ratio(key, (other, where, how), "p50_us")
        row.ratio = f"{times_text(speed, other)}'s speed"
        row.goal, row.is_met = f"≥ {least} {TIMES} {other}'s speed", speed >= least
