"""Messages of 1 MiB in one direction, looked at where they arrive.

Copied once, by the sender, into memory that both see; the receiver gets a view, and lets it go.
The yardstick is one memcpy of 1 MiB by one processor, both buffers in its cache. Who has no views
copies once more. A contestant that drops what the receiver does not take in time is credited with
what arrived.
"""

from .. import placement
from ..processes import baseline, pair
from ..samples import TIMES, Case, Row, absent_row, time_text, times_text

TITLE = "1 MiB one way, as a view"
METHOD = "Time for each, over a stream of them; page faults of both processes for each; CPU: both."
_SIZE = 1 << 20
_WHO = (
    "alongside views",
    "shared_memory + Pipe",
    "iceoryx2 polling",
    "kickmsg",
    "zenoh",
    "pyzmq",
    "Pipe",
)
_CACHED = "C memcpy, in cache"
_OF_MEMCPY = 0.7
_PLACES = (placement.TWO_CORES, placement.UNPINNED)


def cases(settings):
    found = []
    for where in filter(placement.can, _PLACES):
        found.append(_cached(where, settings))
        found += [_case(name, where, settings) for name in _WHO]
    return found


def _cached(where, settings):
    return Case((_CACHED, where), lambda: baseline("cached", where=where, seconds=settings.seconds))


def _case(name, where, settings):
    def run():
        return pair(
            name, "stream", where=where, size=_SIZE, seconds=settings.large_seconds, how="sink"
        )

    return Case((name, where), run)


def rows(samples):
    return [_row(samples, (name, where)) for where in _PLACES for name in (_CACHED, *_WHO)]


def _row(samples, key):
    name, where = key
    if not samples.has(key):
        return absent_row(TITLE, key, samples)
    if name == _CACHED:
        p50 = samples.median(key, "p50_us")
        return Row(TITLE, where, name, f"{time_text(p50)}, {_SIZE / p50 / 1e3:.1f} GB/s")
    row = stream_row(samples, key, TITLE, _SIZE)
    if name == _WHO[0]:
        memcpy = (_CACHED, where)
        if samples.has(memcpy):
            pairs = zip(samples.rounds[key], samples.rounds[memcpy], strict=False)
            ratios = sorted(theirs["p50_us"] / mine["each_us"] for mine, theirs in pairs)
            speed = ratios[len(ratios) // 2]
            row.ratio = f"{times_text(speed, _CACHED)}'s speed"
            row.goal, row.is_met = f"≥ {_OF_MEMCPY} {TIMES} {_CACHED}'s speed", speed >= _OF_MEMCPY
    elif samples.has((_WHO[0], where)):
        row.ratio = times_text(samples.ratio(key, (_WHO[0], where), "each_us"), "alongside")
    return row


def stream_row(samples, key, work, size):
    """The line of a stream: time and speed, page faults, what was lost."""
    name, where = key
    each, faults = samples.median(key, "each_us"), samples.median(key, "faults")
    value = f"{time_text(each)}, {size / each / 1e3:.1f} GB/s, {faults:.2f} faults"
    if (lost := samples.median(key, "lost")) > 0:
        value += f", {lost:.0%} lost"
    return Row(work, where, name, value, time_text(samples.median(key, "cpu_us")))
