"""What importing costs a new interpreter, over one that imports nothing.

`programs/imports.py` starts interpreters in turn, all with `-I`, all on the one processor on which
it waits for them, and takes differences between neighbours, which see the same moment.
"""

from statistics import median

from ..processes import program
from ..samples import Case, Row, absent_row, time_text, times_text

TITLE = "import"
METHOD = "Median difference to `python -I -c pass` done just before; whole processes, on one core."
_STATEMENTS = {
    "alongside": "import alongside",
    "multiprocessing.connection": "import multiprocessing.connection",
    "zmq": "import zmq",
    "iceoryx2": "import iceoryx2",
    "kickmsg": "import kickmsg",
}
_WHERE = "one core"
_MOST_US = 2000


def cases(settings):
    statements = [f"{name}={statement}" for name, statement in _STATEMENTS.items()]
    return [Case(("all", _WHERE), lambda: program("imports.py", settings.starts, *statements))]


def rows(samples):
    key = ("all", _WHERE)
    if not samples.has(key):
        return [absent_row(TITLE, key, samples)]
    bare = Row(TITLE, _WHERE, "bare Python", time_text(samples.median(key, "bare_us")))
    return [bare, *(_row(samples, name) for name in _STATEMENTS)]


def _row(samples, name):
    key = ("all", _WHERE)
    if any(numbers[name] is None for numbers in samples.rounds[key]):
        return Row(TITLE, _WHERE, name, "not installed")
    over = samples.median(key, name)
    row = Row(TITLE, _WHERE, name, f"+ {time_text(over)}")
    if name == "alongside":
        row.goal, row.is_met = f"≤ + {time_text(_MOST_US)}", over <= _MOST_US
    else:
        ratio = median(numbers[name] / numbers["alongside"] for numbers in samples.rounds[key])
        row.ratio = times_text(ratio, "alongside")
    return row
