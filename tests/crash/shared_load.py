"""Many processes at one cell or name, some of which are killed; what each saw is checked.

    python -m tests.crash.shared_load openers COUNT KILLED
    python -m tests.crash.shared_load history SEED DEATHS
    python -m tests.crash.shared_load only SEED COUNT
    python -m tests.crash.shared_load starts SEED COUNT
    python -m tests.crash.shared_load opens COUNT

The scope's directory is XDG_RUNTIME_DIR's. Each says on its standard output what there was.
"""

import contextlib
import fcntl
import gc
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import alongside

# Loaded before anybody forks.
from alongside import Cell, _callbacks, _core, _instances, _publish, _whichever

from tests.conftest import open_files, wait_until

from .kill_points import child, succeeds
from .test_many_sessions import own_kb

LOADED = _callbacks, _instances, _publish, _whichever
HERE = Path(os.environ.get("XDG_RUNTIME_DIR", "/nowhere"))


class Log:
    """Lines that many processes write, each at once, in the order in which they were written."""

    def __init__(self, name):
        self.path = HERE / name
        self._file = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def write(self, *words):
        os.write(self._file, (json.dumps(words) + "\n").encode())

    def read(self):
        # A last line without an end was begun by somebody who was killed.
        return [json.loads(line) for line in self.path.read_bytes().split(b"\n")[:-1]]

    def read_more(self, lines):
        """Wait for more lines than these."""
        wait_until(lambda: len(self.read()) > len(lines))
        return self.read()


class Start:
    """Where processes wait until all of them are let go at once."""

    def __init__(self):
        self._ready, self._gate = os.pipe(), os.pipe()

    def wait(self):
        os.close(self._gate[1])
        os.write(self._ready[1], b"x")
        os.read(self._gate[0], 1)

    def let_go(self, count):
        for _ in range(count):
            os.read(self._ready[0], 1)
        os.close(self._gate[1])


def end(pids):
    for pid in pids:
        succeeds(pid, "one of many")


def killed(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# ---- who opens and makes the first value ---------------------------------------------------------


def openers(count, deaths):
    """All open one cell at once, and want a value; the first so many that make one die of it."""
    log, start, over = Log("log"), Start(), Start()

    def ask():
        start.wait()
        cell = Cell("openers")

        def factory():
            runs = [line for line in log.read() if line[0] == "begin"]
            log.write("begin", os.getpid())
            if len(runs) < deaths:
                os.kill(os.getpid(), signal.SIGKILL)
            log.write("made", os.getpid())
            return os.getpid()

        log.write("got", cell.get_or_set(factory), cell._version())
        over.wait()

    pids = [child(ask) for _ in range(count)]
    start.let_go(count)
    begun = time.monotonic()
    over.let_go(count - deaths)
    took = time.monotonic() - begun
    ends = [os.waitpid(pid, 0)[1] for pid in pids]
    assert ends.count(signal.SIGKILL) == deaths
    assert ends.count(0) == count - deaths
    lines = log.read()
    made = [line[1] for line in lines if line[0] == "made"]
    assert len(made) == 1, made
    got = [line[1:] for line in lines if line[0] == "got"]
    assert got == [[made[0], 1]] * (count - deaths), got
    with Cell("openers") as cell:
        assert cell.get(None) is None
    print(f"{count} openers, {deaths} of them killed as they made a value: {took:.2f} s")


# ---- histories -----------------------------------------------------------------------------------

WORKERS = 5
LENGTHS = (0, 100, 3_000, 50_000)


def history(seed, deaths):
    """Processes read, set and compare at random, and some are killed; their order must exist."""
    choose = random.Random(seed)
    cell = Cell("history")
    made, logs, alive = 0, [], []

    def begin():
        nonlocal made
        made += 1
        log = Log(f"log{made}")
        number = made
        logs.append(log)
        alive.append((child(lambda: work(log, number, seed)), log))

    for _ in range(WORKERS):
        begin()
    for _ in range(deaths):
        pid, log = alive.pop(choose.randrange(WORKERS))
        most = log.path.stat().st_size + choose.randrange(10_000)
        wait_until(lambda log=log, most=most: log.path.stat().st_size > most)
        killed(pid)
        begin()
    for pid, _ in alive:
        killed(pid)
    last = cell.read()
    cell.close()
    operations = [it for log in logs for it in read_history(log)]
    check_history(operations, last)
    kinds = [it["kind"] for it in operations]
    said = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("read", "set", "compare"))
    print(f"{made} processes, all killed: {said}; {last[1]} values")


def work(log, number, seed):
    """Do something with the cell, over and over, and say before and after what."""
    choose = random.Random(f"{seed} {number}")
    cell = Cell("history")
    count, seen = 0, 0
    while True:
        count += 1
        kind = choose.choice(["read", "set", "compare"])
        value = [number, count, "x" * choose.choice(LENGTHS)]
        expected = max(0, seen - choose.choice([0, 0, 0, 1]))
        log.write("begin", kind, value[:2], expected, time.monotonic_ns())
        if kind == "read":
            try:
                (*found, text), seen = cell.read()
                assert len(text) in LENGTHS
                assert set(text) <= {"x"}
                result = [found, seen]
            except alongside.NotFound:
                result = [None, 0]
        elif kind == "set":
            result = cell.set(value)
        else:
            result = cell.compare_and_set(value, version=expected)
        log.write("end", result, time.monotonic_ns())


def read_history(log):
    found, lines = [], log.read()
    for begin, after in zip(lines[::2], [*lines[1::2], None], strict=False):
        _, kind, value, expected, start = begin
        operation = {"kind": kind, "value": tuple(value), "expected": expected, "start": start}
        # Who was killed amid it has done it or not, or does so for ever.
        _, operation["result"], operation["end"] = after or ("end", "unknown", 1 << 63)
        found.append(operation)
    return found


def check_history(operations, last):
    """Find an order: the versions are one, for those operations of which they are known."""
    writes = {it["value"]: it for it in operations if it["kind"] != "read"}
    version_of = {tuple(last[0][:2]): last[1]}
    for it in operations:
        known = None
        if it["kind"] == "read" and it["result"] != "unknown" and it["result"][0] is not None:
            known = tuple(it["result"][0]), it["result"][1]
        elif it["kind"] == "compare" and it["result"] is True:
            known = it["value"], it["expected"] + 1
        if known is not None:
            assert known[0] in writes, f"nobody has set {known}"
            assert version_of.setdefault(*known) == known[1], f"{known} has two versions"
    values = {version: value for value, version in version_of.items()}
    assert len(values) == len(version_of), "a version with two values"
    for value in version_of:
        assert writes[value]["result"] is not False, f"{value} was not set, and was read"
    # No value was lost and none counted twice: the numbers say how many there were.
    sure = [it for it in writes.values() if it["result"] in {None, True}]
    maybe = [it for it in writes.values() if it["result"] == "unknown"]
    assert len(sure) <= last[1] <= len(sure) + len(maybe), (len(sure), last[1], len(maybe))
    for it in operations:
        if it["kind"] == "read":
            it["version"] = None if it["result"] == "unknown" else it["result"][1]
        else:
            it["version"] = version_of.get(it["value"])
    known = [it for it in operations if it["version"] is not None]
    # What ended before something began, comes before it.
    by_end = sorted(known, key=lambda it: it["end"])
    newest, at = 0, 0
    for it in sorted(known, key=lambda it: it["start"]):
        while at < len(by_end) and by_end[at]["end"] < it["start"]:
            newest = max(newest, by_end[at]["version"])
            at += 1
        if it["kind"] == "read":
            assert it["version"] >= newest, f"{it} comes after {newest}"
        else:
            assert it["version"] > newest, f"{it} comes after {newest}"
        if it["kind"] == "read" and it["version"] > 0:
            assert writes[values[it["version"]]]["start"] < it["end"], f"{it} was read too early"
    # Who was refused had seen that version, so a newer one was there, or was on its way.
    first_newer = {}
    soonest = 1 << 63
    for version in range(last[1], 0, -1):
        write = writes[values[version]] if version in values else None
        # Which write an unseen version was is not known.
        soonest = min(soonest, write["start"]) if write is not None else 0
        first_newer[version] = soonest
    for it in operations:
        if it["kind"] == "compare" and it["result"] is False and it["expected"] > 0:
            newer = first_newer.get(it["expected"] + 1, 1 << 63)
            assert newer < it["end"], f"{it} was refused"


# ---- the one instance ----------------------------------------------------------------------------


class Witness:
    """A file of which one process at a time has the lock: who else should be alone has to get it.

    Its number is zero: what a process that is killed has open, the kernel closes in their order.
    """

    def __init__(self):
        file = os.open(HERE / "witness", os.O_CREAT | os.O_RDWR, 0o600)
        os.dup2(file, 0)
        os.close(file)

    def take(self):
        fcntl.flock(0, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def give_back(self):
        fcntl.flock(0, fcntl.LOCK_UN)


def only(seed, count):
    """All want to be the only one; firsts are killed again and again."""
    choose = random.Random(seed)
    log, start, over = Log("log"), Start(), os.pipe()

    def call():
        witness, mine = Witness(), os.getpid()
        os.close(over[1])
        start.wait()
        instance = alongside.only("only", argv=[str(mine)], timeout=None)
        if not instance.first:
            log.write("taken", mine)
            return
        witness.take()
        log.write("first", mine)
        instance.on_other(lambda visit: log.write("visit", int(visit.argv[0]), mine))
        os.read(over[0], 1)
        witness.give_back()
        instance.close()

    pids = {child(call) for _ in range(count)}
    start.let_go(count)
    deaths, lines = 0, []
    while True:
        lines = log.read_more(lines)
        done = {line[1] for line in lines if line[0] == "taken"}
        firsts = [line[1] for line in lines if line[0] == "first"]
        if pids <= done | set(firsts[-1:]):
            break
        if firsts and firsts[-1] in pids and choose.random() < 0.3:
            killed(firsts[-1])
            pids.remove(firsts[-1])
            deaths += 1
            if pids <= done:
                break
    os.close(over[1])
    end(pids)
    lines = log.read()
    visits = {line[1] for line in lines if line[0] == "visit"}
    taken = [line[1] for line in lines if line[0] == "taken"]
    assert set(taken) <= visits, "a command line was lost"
    assert len(taken) == len(set(taken))
    print(f"{count} callers, {deaths} firsts killed, {len(taken)} handed over")


# ---- whichever comes first -----------------------------------------------------------------------

SERVER = """
import sys
sys.path[:0] = {path!r}
from tests.crash.shared_load import serve
serve()
"""


def serve():
    """Publish the name, and answer each caller once, until there is nobody any more."""
    log, mine = Log("log"), os.getpid()
    log.write("server", mine)
    with alongside.publish("starts", lambda data, session: session.send(mine)):
        log.write("published", mine)
        wait_until((HERE / "over").exists)


def starts(seed, count):
    """All want to be connected to a program that does not run; those who start it are killed."""
    choose = random.Random(seed)
    log, start = Log("log"), Start()
    command = [sys.executable, "-c", SERVER.format(path=sys.path)]

    def call():
        start.wait()
        log.write("asks", os.getpid())
        # A program that was there a moment ago may have been killed since.
        while True:
            try:
                with alongside.start_or_connect("starts", command, timeout=None, hello=1) as it:
                    answer = it.receive(timeout=None)
                break
            except (alongside.SessionEnded, alongside.StartFailed):
                continue
        log.write("answered", os.getpid(), answer)

    pids = {child(call) for _ in range(count)}
    start.let_go(count)
    deaths, lines = 0, []
    while pids:
        known, lines = len(lines), log.read_more(lines)
        answered = {line[1] for line in lines if line[0] == "answered"}
        end(pids & answered)
        pids -= answered
        for kind, who, *_ in lines[known:]:
            if kind not in {"server", "published"} or deaths == 5 or choose.random() < 0.3:
                continue
            deaths += 1
            starter = parent(who)
            if starter in pids and choose.random() < 0.5:
                killed(starter)
                pids.remove(starter)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(who, signal.SIGKILL)
    alive = len(alongside.running("starts"))
    (HERE / "over").touch()
    wait_until(lambda: alongside.running("starts") == [])
    lines = log.read()
    begun = [line[1] for line in lines if line[0] == "server"]
    # Each death lets another one be begun, and no more.
    assert len(begun) <= 1 + deaths, (len(begun), deaths)
    print(f"{count} callers, {deaths} killed, {len(begun)} servers begun, {alive} there in the end")


def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


# ---- opening and closing -------------------------------------------------------------------------


def opens(count):
    """Two open and close the same names over and over."""

    def repeat(times):
        for number in range(times):
            with Cell(f"opens/{number % 3}") as cell:
                cell.set(number)
            if number % 10 == 0:
                with alongside.Lock(f"opens/{number % 3}"):
                    pass
                with alongside.RWLock(f"opens/{number % 3}").writing():
                    pass

    def measured():
        repeat(300)
        gc.collect()
        files, memory = open_files(), own_kb()
        repeat(count // 2)
        gc.collect()
        assert open_files() == files
        # Not a byte for each: what is left is the allocators' business.
        assert own_kb() - memory < 4096

    begun = time.monotonic()
    end([child(measured) for _ in range(2)])
    took = time.monotonic() - begun

    def look():
        repeat(20)
        _core.leave_shared()
        home = HERE / "alongside" / "user"
        left = [path for path in home.glob("*/*") if path.parent.name != "gates"]
        assert left == [], left

    end([child(look)])
    print(f"{count} opens and closes by two at once: {took / count * 1e6:.0f} µs each")


def main():
    which, *arguments = sys.argv[1:]
    works = {"openers": openers, "history": history, "only": only, "opens": opens, "starts": starts}
    works[which](*map(int, arguments))


if __name__ == "__main__":
    main()
