"""Values and locks that programs share.

Against what Python programs take for it: a manager's dictionary, lock files, POSIX semaphores with
shared memory, UltraDict, and redis with a server of its own. Waking is compared with a bare
eventfd, which wakes and says nothing else. No other of these frees anything when its process is
killed, but for lock files.
"""

from statistics import median

from .. import contestants, placement
from ..processes import program
from ..samples import TIMES, Case, Row, time_text, times_text

TITLE = "values and locks that programs share"
METHOD = (
    "Medians; p99 where it says so. Two processes where there is another one, on two processors "
    "and on one. A value is the number 7, data a small dictionary; both are decoded. "
    "`programs/shared.py`."
)
_WHERE = (placement.TWO_CORES, placement.ONE_CORE)
_MODULES = {
    "filelock": "filelock",
    "portalocker": "portalocker",
    "posix_ipc": "posix_ipc",
    "UltraDict": "UltraDict",
    "redis": "redis",
}
_WHO = ("alongside", "eventfd", "Manager", *_MODULES)
_WORK = {
    "read": "a value read",
    "read bytes": "seven bytes read",
    "read data": "data read",
    "write": "a value written",
    "open": "a value of another process opened, read, let go of",
    "lock": "a free lock taken and given back",
    "seen": "a change seen by a process that waits",
    "hand-over": "a lock handed over to a process that waits",
    "death": "a killed owner's lock taken over, p99",
    "or start": "start_or_connect to a running program",
    "crowd": "500 processes open one value at once",
}
# In microseconds; how many times the bare eventfd, or a connect.
_MOST = {
    "read": 0.8,
    "read bytes": 0.8,
    "write": 3,
    "open": 60,
    "lock": 2.5,
    "death": 10_000,
    "crowd": 2_000_000,
}
_MOST_WAKES = {"seen": 1.2, "hand-over": 1.5}
_MOST_CONNECTS = 1.1
_BY_PLACE = ("seen", "hand-over")


def cases(settings):
    count = settings.starts * 10
    found = []
    for where in _WHERE:
        if placement.can(where):
            pair = ",".join(map(str, placement.cpus(where)))
            who = _WHO if where == placement.ONE_CORE else ("alongside", "eventfd")
            found += [Case((each, where), _round(each, count, pair)) for each in who]
    return found


def _round(who, count, pair):
    def run():
        if who in _MODULES:
            contestants.check_module(_MODULES[who])
        return program("shared.py", who, count, pair)

    return run


def rows(samples):
    found = []
    for work in _WORK:
        places = _WHERE if work in _BY_PLACE else (placement.ONE_CORE,)
        for where in places:
            found += [row for who in _WHO for row in _rows(samples, work, who, where)]
    return found


def _value(numbers, work):
    times = sorted(numbers[work])
    return times[len(times) * 99 // 100] if work == "death" else median(times)


def _rows(samples, work, who, where):
    key = (who, where)
    if key in samples.absent:
        return [Row(_WORK[work], where, who, samples.absent[key])]
    if not samples.has(key) or work not in samples.rounds[key][0]:
        return []
    mine = samples.rounds[key]
    row = Row(_WORK[work], where, who, time_text(median(_value(one, work) for one in mine)))
    if who != "alongside":
        ratio = _ratio(mine, samples.rounds.get(("alongside", where), []), work, work)
        row.ratio = times_text(ratio, "alongside") if ratio else ""
    elif work in _MOST_WAKES and (work == "seen" or where == placement.TWO_CORES):
        ratio = _ratio(mine, samples.rounds.get(("eventfd", where), []), work, work)
        row.ratio = times_text(ratio, "eventfd") if ratio else ""
        row.goal = f"≤ {_MOST_WAKES[work]} {TIMES} eventfd"
        row.is_met = bool(ratio) and ratio <= _MOST_WAKES[work]
    elif work == "or start":
        ratio = _ratio(mine, mine, work, "connect")
        row.ratio = times_text(ratio, "connect")
        row.goal, row.is_met = f"≤ {_MOST_CONNECTS} {TIMES} connect", ratio <= _MOST_CONNECTS
    elif work in _MOST:
        value = median(_value(one, work) for one in mine)
        row.goal, row.is_met = f"≤ {time_text(_MOST[work])}", value <= _MOST[work]
    return [row]


def _ratio(mine, theirs, work, their_work):
    both = zip(mine, theirs, strict=False)
    ratios = [_value(one, work) / _value(other, their_work) for one, other in both]
    return median(ratios) if ratios else 0
