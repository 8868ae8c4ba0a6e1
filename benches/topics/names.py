"""Publishing, listing, finding and watching the names of running programs.

Against what offers that on one machine: D-Bus, by two libraries and with a daemon of its own, and
Pyro5 with its name server. A call is by one that was not connected to anything: on D-Bus it
connects to the bus first, at Pyro5 it asks the name server. Who keeps that connection calls sooner;
so does who keeps a session, for which see the round trips. D-Bus lists bare names, the others
what programs say of themselves.

What a silent crowd costs an honest caller is measured beside: the same call while two hundred
others have connected and say nothing.
"""

from statistics import median

from .. import contestants
from ..processes import program
from ..samples import TIMES, Case, Row, time_text, times_text

TITLE = "names of running programs"
METHOD = (
    "Medians over calls of one process, unpinned, its names in another process; p99 where it says "
    "so. A hundred names are listed, a thousand are watched. `programs/names.py`."
)
_WHERE = "unpinned"
_WHO = ("alongside", "dbus-fast", "sdbus", "Pyro5")
_WORK = {
    "publish": "a name published and revoked",
    "list": "100 names listed",
    "list all": "10,000 names listed",
    "call": "found, connected, first answer",
    "crowded": "the same beside 200 silent callers, p99",
    "seen": "appearance seen by a watcher of 1,000, p99",
    "gone": "SIGKILL seen by a watcher of 1,000, p99",
}
_MODULES = {"dbus-fast": "dbus_fast", "sdbus": "sdbus", "Pyro5": "Pyro5"}
# In microseconds.
_MOST = {
    "publish": 150,
    "list": 1_000,
    "list all": 60_000,
    "call": 400,
    "seen": 5_000,
    "gone": 5_000,
}
_AT_WORST = ("seen", "gone", "crowded")
# A crowd may cost so many times the quiet p99.
_MOST_CROWDED = 2


def cases(settings):
    count = settings.starts * 40
    return [Case((who, _WHERE), lambda who=who: _round(who, count)) for who in _WHO]


def _round(who, count):
    if who in _MODULES:
        contestants.check_module(_MODULES[who])
    return program("names.py", who, count)


def rows(samples):
    return [row for work in _WORK for row in _rows(samples, work)]


def _rows(samples, work):
    for who in _WHO:
        key = (who, _WHERE)
        if not samples.has(key):
            yield Row(_WORK[work], _WHERE, who, samples.absent.get(key, "not measured"))
        elif work in samples.rounds[key][0]:
            yield _row(samples, work, who)


def _value(numbers, work):
    times = sorted(numbers[work])
    return times[len(times) * 99 // 100] if work in _AT_WORST else median(times)


def _row(samples, work, who):
    mine = samples.rounds[who, _WHERE]
    value = median(_value(numbers, work) for numbers in mine)
    row = Row(_WORK[work], _WHERE, who, time_text(value))
    if who != "alongside" and samples.has(("alongside", _WHERE)):
        ours = samples.rounds["alongside", _WHERE]
        both = zip(mine, ours, strict=False)
        ratio = median(_value(one, work) / _value(other, work) for one, other in both)
        row.ratio = times_text(ratio, "alongside")
    elif work == "crowded":
        ratio = median(_value(numbers, work) / _at_worst(numbers["call"]) for numbers in mine)
        row.ratio = times_text(ratio, "without them")
        row.goal, row.is_met = f"≤ {_MOST_CROWDED} {TIMES} without them", ratio <= _MOST_CROWDED
    elif work in _MOST:
        row.goal, row.is_met = f"≤ {time_text(_MOST[work])}", value <= _MOST[work]
    return row


def _at_worst(times):
    return sorted(times)[len(times) * 99 // 100]
