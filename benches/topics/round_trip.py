"""A message of 64 bytes there and back, one at a time.

The yardsticks are C programs of the same round: two processes that spin on a cache line each (what
the hardware gives on two cores), two that block on pipes (what the kernel gives on one), and two
that sleep in epoll on eventfds, which is nearer to what a library has to do to notice more than one
thing. The allowance of 0.3 µs on two cores is for what two interpreters do between messages.

Spinning looks fast and costs two processors, so the time of both stands beside every latency.
"""

from .. import contestants, placement
from ..processes import baseline, pair
from ..samples import TIMES, Case, Row, absent_row, time_text, times_text

TITLE = "64 B round trip"
METHOD = (
    "p50 / p99 of single round trips, one reading of the clock each. CPU: user + system time of "
    "both processes for each round trip."
)
_LINE, _PIPE, _EVENTFD = "C cache line", "C pipe", "C eventfd + epoll"
_MODES = {_LINE: "line", _PIPE: "pipe", _EVENTFD: "eventfd"}
_PYTHON_US = 0.3
_LINES = 2.5
_PIPES = 1.3


def cases(settings):
    found = []
    for where in filter(placement.can, placement.ALL):
        for name, mode in _MODES.items():
            # Where the two might share a processor, spinning measures its time slice.
            if mode != "line" or where == placement.TWO_CORES:
                found.append(_c(name, mode, where, settings))
        found += [_python(name, where, settings) for name in contestants.ALL]
    return found


def _c(name, mode, where, settings):
    return Case((name, where), lambda: baseline(mode, where=where, seconds=settings.seconds))


def _python(name, where, settings):
    return Case(
        (name, where),
        lambda: pair(name, "round trip", where=where, size=64, seconds=settings.seconds),
    )


def rows(samples):
    return [
        row
        for where in filter(placement.can, placement.ALL)
        for row in (*_latencies(samples, where), *_cpu(samples, where))
    ]


def _latencies(samples, where):
    for name in (*_MODES, *contestants.ALL):
        key = (name, where)
        if not samples.has(key):
            if name in contestants.ALL or key in samples.absent:
                yield absent_row(TITLE, key, samples)
            continue
        row = Row(
            TITLE,
            where,
            name,
            f"{time_text(samples.median(key, 'p50_us'))} / "
            f"{time_text(samples.median(key, 'p99_us'))}",
            time_text(samples.median(key, "cpu_us")),
        )
        if name == "alongside":
            _judge(row, samples, where)
        elif samples.has(("alongside", where)):
            row.ratio = times_text(samples.ratio(key, ("alongside", where), "p50_us"), "alongside")
        yield row


def _judge(row, samples, where):
    key = ("alongside", where)
    if where == placement.TWO_CORES and samples.has((_LINE, where)):
        line = samples.median((_LINE, where), "p50_us")
        row.ratio = times_text(samples.ratio(key, (_LINE, where), "p50_us"), _LINE)
        limit = time_text(_LINES * line + _PYTHON_US)
        row.goal = f"≤ {_LINES} {TIMES} {_LINE} + {_PYTHON_US} µs = {limit}"
        share = samples.ratio(key, (_LINE, where), "p50_us", lambda us: _LINES * us + _PYTHON_US)
        row.is_met = share <= 1
    elif samples.has((_PIPE, where)):
        ratio = samples.ratio(key, (_PIPE, where), "p50_us")
        row.ratio = times_text(ratio, _PIPE)
        if where == placement.ONE_CORE:
            row.goal, row.is_met = f"≤ {_PIPES} {TIMES} {_PIPE}", ratio <= _PIPES


def _cpu(samples, where):
    key = ("alongside", where)
    peers = [(name, where) for name in contestants.PEERS if samples.has((name, where))]
    if not samples.has(key) or not peers:
        return
    ratio, (least, _) = samples.ratio_to_least(key, peers, "cpu_us")
    yield Row(
        "CPU of a 64 B round trip",
        where,
        "alongside",
        time_text(samples.median(key, "cpu_us")),
        ratio=times_text(ratio, least),
        goal="< every peer's",
        is_met=ratio < 1,
    )
