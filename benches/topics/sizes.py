"""Round trips of messages from 64 B to 64 MiB, on two cores: the plot.

Each size has processes of its own, so that none profits from what a larger one has left mapped.
What arrives is a new object each time; above 64 KiB pyzmq, iceoryx2 and kickmsg hand out their own
memory instead, as they can.
"""

from .. import contestants, placement
from ..processes import pair
from ..samples import Case, Row, absent_row, time_text, times_text

TITLE = "round trip by size"
METHOD = "p50 on two cores; the message comes back as it went."
WHO = tuple(name for name in contestants.ALL if name not in ("iceoryx2 events", "kickmsg"))
SMALLEST, LARGEST = 64, 64 << 20
# Who hands out views of its shared memory instead of bytes, and from where on.
_VIEWS, _VIEWS_ABOVE = ("iceoryx2 polling", "kickmsg polling"), 64 << 10
_JUDGED, _MOST_US = 1 << 20, 200
_WHERE = placement.TWO_CORES if placement.can(placement.TWO_CORES) else placement.ONE_CORE


def size_text(size):
    """64 B, 4 KiB, 1 MiB."""
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size // factor} {unit}"
    return f"{size} B"


def _sizes(step):
    sizes, size = {_JUDGED, LARGEST}, SMALLEST
    while size < LARGEST:
        sizes.add(size)
        size *= step
    return sorted(sizes)


def cases(settings):
    return [_case(name, size, settings) for size in _sizes(settings.size_step) for name in WHO]


def _case(name, size, settings):
    seconds = settings.large_seconds if size >= 1 << 20 else settings.seconds / 2
    return Case(
        (name, _WHERE, size),
        lambda: pair(name, "round trip", where=_WHERE, size=size, seconds=seconds),
    )


def rows(samples):
    keys = {*samples.rounds, *samples.absent}
    order = sorted(keys, key=lambda key: (key[2], WHO.index(key[0])))
    return [_row(samples, key) for key in order]


def _row(samples, key):
    name, where, size = key
    work = f"{size_text(size)} round trip"
    if not samples.has(key):
        return absent_row(work, key, samples)
    p50 = samples.median(key, "p50_us")
    value = time_text(p50) + (", a view" if is_view(name, size) else "")
    row = Row(work, where, name, value, time_text(samples.median(key, "cpu_us")))
    if name == "alongside" and size == _JUDGED:
        row.goal, row.is_met = f"≤ {_MOST_US} µs", p50 <= _MOST_US
    alongside = ("alongside", where, size)
    if name != "alongside" and samples.has(alongside):
        row.ratio = times_text(samples.ratio(key, alongside, "p50_us"), "alongside")
    return row


def is_view(name, size):
    """Whether what is received then is a view."""
    return name in _VIEWS and size > _VIEWS_ABOVE


def curves(samples):
    """Of each contestant its sizes and times, for the plot."""
    found = {}
    for name, _, size in sorted(samples.rounds, key=lambda key: key[2]):
        p50 = samples.median((name, _WHERE, size), "p50_us")
        found.setdefault(name, []).append((size, p50))
    return {name: found[name] for name in WHO if name in found}
