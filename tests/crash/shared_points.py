"""Kills, stops or fails who shares cells, locks and ports, at its n-th system call, for every n.

The tracer is that of `kill_points`. What has to hold afterwards is asked by further children.

    python -m tests.crash.shared_points kill|stop|fail ROLE FIRST STEP

treats one role so, at its points FIRST, FIRST + STEP and so on, and prints at how many. The scope's
directory is XDG_RUNTIME_DIR's.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import signal
import struct
import sys
from pathlib import Path

import alongside

# Loaded before anything is counted.
from alongside import Cell, Lock, RWLock, _changes, _core, _instances, _ports, _publish, _watch

from tests.conftest import open_files

from .kill_points import _BEGIN, _END, Traced, child, killed_at, mark, succeeds

LOADED = _changes, _instances, _ports, _publish, _watch
NAME = "shared-points/name"
MOST = 1 << 20
# What a cell has in its slot, beside it, and what is written in more than one page.
LENGTHS = {"short": 100, "long": 5_000, "longer": 200_000}
# More than one creation sweeps.
DEAD = 20
_WORD_AT = 256
# F_OFD_GETLK of asm-generic/fcntl.h.
_GET_FILES_LOCK = 36


def cell():
    return Cell(NAME, max_size=MOST)


def value(letter, length="short"):
    return letter * LENGTHS[length]


def is_whole(found, letters):
    return found in [letter * length for letter in letters for length in LENGTHS.values()]


# ---- roles ---------------------------------------------------------------------------------------
# Each prepares something, does what is traced, and ends in order: a yield is between.


def create():
    yield
    made = cell()
    yield
    made.close()


def create_and_set():
    yield
    with cell() as made:
        made.set(value(b"n"))
        yield


def initialise():
    with cell() as made:
        yield
        made.get_or_set(lambda: value(b"n"))
        yield


def close():
    made = cell()
    yield
    made.close()
    yield


def close_with_a_value():
    made = cell()
    made.set(value(b"o"))
    yield
    made.close()
    yield


def set_of(length):
    def role():
        with cell() as made:
            yield
            made.set(value(b"n", length))
            yield

    return role


def read():
    with cell() as made:
        yield
        made.get(None)
        made.holders()
        yield


def wait():
    with cell() as made:
        yield
        with contextlib.suppress(alongside.TimedOut):
            made.wait(1000, timeout=0.002)
        yield


def watch():
    with cell() as made:
        yield
        made.on_change(print)
        made.on_change(None)
        yield


def take():
    yield
    lock = Lock(NAME)
    lock.acquire()
    say(b"a")
    say(b"r")
    lock.release()
    yield


def hold_of(how):
    def role():
        yield
        with getattr(RWLock(NAME), how)():
            say(b"a")
            say(b"r")
        yield

    return role


def listen():
    yield
    port = alongside.shared_port(NAME, listen=True, scope="user")
    yield
    port.close()


def listen_no_more():
    port = alongside.shared_port(NAME, listen=True, scope="user")
    yield
    port.close()
    yield


def be_only():
    yield
    instance = alongside.only(NAME, argv=[])
    yield
    instance.close()


# Where a role says how far it is.
_said = os.pipe()
os.set_blocking(_said[0], False)


def say(word):
    os.write(_said[1], word)


def heard():
    with contextlib.suppress(BlockingIOError):
        return os.read(_said[0], 100)
    return b""


def traced(role):
    """Give the work that does a role, with marks."""

    def work():
        steps = role()
        next(steps)
        mark(_BEGIN)
        next(steps)
        mark(_END)

    return work


# ---- what has to hold ----------------------------------------------------------------------------


def left():
    """What lies in the scope, but for gates."""
    home = Path(os.environ["XDG_RUNTIME_DIR"], "alongside", "user")
    return [str(it.relative_to(home)) for it in home.glob("*/*") if it.parent.name != "gates"]


def leave():
    """Let go of all, having made one of each, which sweeps what is dead beside it."""
    Cell("another").close()
    RWLock("another")
    Lock("another")
    Lock("one")
    alongside.publish("another").revoke()
    # A listing sweeps too. (It shows what else runs on this machine, in other places.)
    alongside.running("*")
    _core.leave_shared()
    _core.leave_directories()
    assert left() == [], left()


def nobody_is_there():
    """The value is dead, the name can be used, and in the end nothing is left."""
    with cell() as made:
        assert made.get(None) is None
        assert made._version() == 0
        assert made.get_or_set(lambda: b"again") == b"again"
        assert [peer.pid for peer in made.holders()] == [os.getpid()]
    Cell("one").close()
    leave()


def somebody_is_there(found):
    """Whoever comes finds the old value or the new one, and can put another one in its place."""
    with cell() as made:
        got, version = made.read()
        assert got == found
        assert made.compare_and_set(b"later", version=version)
        assert made.read() == (b"later", version + 1)


def nobody_may_be_first(found):
    with cell() as made:
        assert made.get_or_set(lambda: b"mine") == (b"mine" if found is None else found)
        made.set(b"later")


def lock_is_free(abandoned):
    lock = Lock(NAME)
    for expected in (abandoned, False):
        assert lock.owner() is None
        assert lock.try_acquire()
        assert lock.abandoned == expected
        lock.release()
    del lock
    leave()


def rwlock_is_free(abandoned):
    lock = RWLock(NAME)
    with lock.reading(timeout=0) as one, lock.reading(timeout=0) as two:
        assert one.abandoned == two.abandoned == abandoned
    for expected in (abandoned, False):
        with lock.writing(timeout=0) as hold:
            assert hold.abandoned == expected
    del lock, one, two, hold
    leave()


def nobody_listens():
    other = alongside.shared_port(NAME, listen=False, scope="user")
    assert other.number is None
    port = alongside.shared_port(NAME, listen=True, scope="user")
    assert port.mine
    assert other.wait() == port.number == port.socket.getsockname()[1]
    port.close()
    assert other.number is None
    other.close()
    del port, other
    leave()


def nobody_is_first():
    with alongside.only(NAME, argv=[], timeout=60) as instance:
        assert instance.first
    del instance
    leave()


class Keeper:
    """A child that has the cell open, and says what is in it."""

    def __init__(self, value):
        self._asks, self._answers = os.pipe(), os.pipe()

        def keep():
            with cell() as made:
                if value is not None:
                    made.set(value)
                while True:
                    os.write(self._answers[1], b"x")
                    word = os.read(self._asks[0], 1)
                    if word == b"0":
                        return
                    found = made.get(None)
                    if word == b"2":
                        assert found == b"later", found
                    elif value is None:
                        assert found is None or is_whole(found, [b"n"]), found
                    else:
                        assert is_whole(found, [b"o", b"n"]), found
                        assert made._version() == (1 if found == value else 2)

        self._pid = child(keep)
        assert os.read(self._answers[0], 1) == b"x"

    def look(self, word=b"1"):
        os.write(self._asks[1], word)
        # One that has failed says nothing.
        os.set_blocking(self._answers[0], False)
        while True:
            with contextlib.suppress(BlockingIOError):
                os.read(self._answers[0], 1)
                return
            ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                sys.exit("the keeper has failed")
            os.sched_yield()

    def end(self):
        os.write(self._asks[1], b"0")
        succeeds(self._pid, "the keeper")
        for end in self._asks + self._answers:
            os.close(end)


def ask(work, *arguments):
    succeeds(child(lambda: work(*arguments)), f"{work.__name__}{arguments}")


def file_of(kind):
    """The one file of a kind that there is, if there is one."""
    home = Path(os.environ["XDG_RUNTIME_DIR"], "alongside", "user", kind)
    paths = list(home.iterdir()) if home.exists() else []
    assert len(paths) <= 1, paths
    return paths[0] if paths else None


def is_odd(kind):
    path = file_of(kind)
    return path is not None and struct.unpack_from("<I", path.read_bytes(), _WORD_AT)[0] % 2 == 1


def plant():
    """Leave files of the dead: a child dies that has many cells, locks among them."""

    def die():
        made = [Cell(f"dead/{number}") for number in range(DEAD)]
        made[0].set(b"o")
        made += [Lock(f"dead/{number}") for number in range(DEAD)]
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(child(die), 0)


# ---- kills ---------------------------------------------------------------------------------------


def current():
    """Give what a newcomer finds in the cell."""
    read, write = os.pipe()

    def tell():
        with cell() as made, os.fdopen(write, "wb") as out:
            out.write(repr(made.get(None)).encode())

    pid = child(tell)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        found = told.read()
    succeeds(pid, "reading")
    return eval(found)


def alone(role):
    """Nobody else has the cell."""

    def kill(count):
        is_killed = killed_at(count, traced(role))
        ask(nobody_is_there)
        return is_killed

    return kill


def beside(role, old):
    """Somebody else has the cell, with a value or without."""

    def kill(count):
        keeper = Keeper(old)
        is_killed = killed_at(count, traced(role))
        keeper.look()
        ask(nobody_may_be_first if old is None else somebody_is_there, current())
        keeper.look(b"2")
        keeper.end()
        ask(nobody_is_there)
        return is_killed

    return kill


def sweep(count):
    plant()
    is_killed = killed_at(count, traced(create))
    ask(nobody_is_there)
    return is_killed


def locked(role, kind, check, *, is_open):
    """A lock, which somebody else has open or nobody."""

    def kill(count):
        keeper = OpenLock() if is_open else None
        is_killed = killed_at(count, traced(role))
        said, odd = heard(), is_odd(kind)
        if said == b"a":
            assert odd == (role is not READ), "killed while it had the lock"
        if keeper is not None:
            keeper.end()
        ask(check, odd)
        return is_killed

    return kill


class OpenLock:
    """A child that has both locks open, and does nothing with them."""

    def __init__(self):
        self._pipe, there = os.pipe(), os.pipe()

        def keep():
            kept = Lock(NAME), RWLock(NAME)
            os.write(there[1], b"x")
            os.read(self._pipe[0], 1)
            del kept
            _core.leave_shared()

        self._pid = child(keep)
        os.read(there[0], 1)
        for end in there:
            os.close(end)

    def end(self):
        os.write(self._pipe[1], b"x")
        succeeds(self._pid, "who had the locks open")
        for end in self._pipe:
            os.close(end)


def asked(role, check):
    def kill(count):
        is_killed = killed_at(count, traced(role))
        ask(check)
        return is_killed

    return kill


SETS = {f"set_{length}": (set_of(length), value(b"o", length)) for length in LENGTHS}
READ, WRITE = hold_of("reading"), hold_of("writing")

KILLS = {
    "create": alone(create),
    "create_and_set": alone(create_and_set),
    "initialise": alone(initialise),
    "set_alone": alone(set_of("long")),
    "read_alone": alone(read),
    "close_last": alone(close_with_a_value),
    "sweep": sweep,
    "join": beside(create, value(b"o")),
    "initialise_beside": beside(initialise, None),
    "close_beside": beside(close, value(b"o")),
    "read": beside(read, value(b"o")),
    "wait": beside(wait, value(b"o")),
    "watch": beside(watch, value(b"o")),
    **{name: beside(role, old) for name, (role, old) in SETS.items()},
    "take": locked(take, "locks", lock_is_free, is_open=False),
    "take_beside": locked(take, "locks", lock_is_free, is_open=True),
    "read_lock": locked(READ, "rwlocks", rwlock_is_free, is_open=False),
    "read_lock_beside": locked(READ, "rwlocks", rwlock_is_free, is_open=True),
    "write_lock": locked(WRITE, "rwlocks", rwlock_is_free, is_open=False),
    "write_lock_beside": locked(WRITE, "rwlocks", rwlock_is_free, is_open=True),
    "listen": asked(listen, nobody_listens),
    "listen_no_more": asked(listen_no_more, nobody_listens),
    "only": asked(be_only, nobody_is_first),
}


# ---- stops ---------------------------------------------------------------------------------------


def is_being_written():
    with open(file_of("cells"), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def set_by_another():
    with cell() as made:
        made.set(b"later")


def is_told_that_another_writes():
    with cell() as made:
        try:
            made.set(b"not this")
        except alongside.TimedOut as error:
            assert "does not go on" in str(error)
        else:
            raise AssertionError


def read_by_another():
    with cell() as made:
        assert is_whole(made.get(), [b"o", b"n"])
        assert made.wait(0, timeout=60)[1] in {1, 2}
        assert len(made.holders()) == 3


def stop(role, old, *, waits):
    """Stop at one system call; others go on, and then it does too."""

    def stop_at(count):
        keeper = Keeper(old)
        work, seen, setter = Traced(traced(role)), 0, None
        for _ in work:
            seen += 1
            if seen != count:
                continue
            keeper.look()
            ask(read_by_another)
            if not is_being_written():
                ask(set_by_another)
            else:
                if waits:
                    ask(is_told_that_another_writes)
                # And who waits when it goes on gets in.
                setter = child(set_by_another)
        assert work.is_done
        if setter is not None:
            succeeds(setter, "setting after one that was stopped")
        keeper.end()
        ask(nobody_is_there)
        return seen >= count

    return stop_at


def is_being_opened():
    """Whether somebody has locked a stretch of a gate: all who open or close do, for a moment."""
    homes = [
        Path(os.environ["XDG_RUNTIME_DIR"], "alongside"),
        Path(f"/tmp/alongside-{os.getuid()}"),
    ]
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    for path in itertools.chain(*(home.glob("user/gates/*") for home in homes)):
        with open(path, "rb+") as file:
            found = struct.unpack("hhqqi4x", fcntl.fcntl(file, _GET_FILES_LOCK, asked))
        if found[0] != fcntl.F_UNLCK:
            return True
    return False


def open_another():
    with Cell("another") as made:
        made.set(1)


def is_told_that_another_opens():
    try:
        cell()
    except alongside.TimedOut as error:
        assert "is in the middle of opening or closing" in str(error)
        assert "process" in str(error)
    else:
        raise AssertionError


def stop_opener(role, *, waits):
    """Stop who opens or closes at one system call; who has it open goes on, then all others do."""

    def stop_at(count):
        keeper = Keeper(value(b"o"))
        work, seen, opener = Traced(traced(role)), 0, None
        for _ in work:
            seen += 1
            if seen != count:
                continue
            keeper.look()
            if not is_being_opened():
                ask(set_by_another)
                keeper.look(b"2")
            else:
                ask(open_another)
                if waits:
                    ask(is_told_that_another_opens)
                opener = child(set_by_another)
        assert work.is_done
        if opener is not None:
            succeeds(opener, "opening after one that was stopped")
        keeper.look(b"2" if seen >= count else b"1")
        keeper.end()
        ask(nobody_is_there)
        return seen >= count

    return stop_at


# Who waits for one that is stopped does so until it is told; only in the campaign.
STOPS = {
    f"{name}{'_wait' * waits}": stopped
    for waits in (False, True)
    for name, stopped in [
        *((name, stop(role, old, waits=waits)) for name, (role, old) in SETS.items()),
        ("open", stop_opener(create, waits=waits)),
        ("close", stop_opener(close, waits=waits)),
    ]
}


# ---- failures ------------------------------------------------------------------------------------

FAILED = []
ERRNOS = [errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM, errno.ENOLCK, errno.EACCES]
# What may fail: descriptors, files, locks, pages of files, sockets. (x86-64; of memory and threads
# the interpreter and the allocators speak for themselves, and a close that fails has closed.)
_MMAP, _FCNTL, _NEWFSTATAT = 9, 72, 262
_MAY_FAIL = """
0 1 2 4 6 7 17 18 32 41 42 44 45 46 47 49 50 51 54 55 72 73 77 82 83 86 87 91 217 232 233
254 255 257 258 262 263 265 267 268 269 271 281 285 288 290 291 292 293 294 302 316 318
319 424 434 439 441
"""
MAY_FAIL = {int(number) for number in _MAY_FAIL.split()}
FAILING = {
    "create": (create, nobody_is_there),
    "create_and_set": (create_and_set, nobody_is_there),
    "initialise": (initialise, nobody_is_there),
    **{name: (role, nobody_is_there) for name, (role, _) in SETS.items()},
    "read": (read, nobody_is_there),
    "wait": (wait, nobody_is_there),
    "watch": (watch, nobody_is_there),
    "close": (close_with_a_value, nobody_is_there),
    "take": (take, None),
    "read_lock": (READ, None),
    "write_lock": (WRITE, None),
    "listen": (listen, nobody_listens),
    "listen_no_more": (listen_no_more, nobody_listens),
    "only": (be_only, nobody_is_first),
}


def is_worth_failing(call):
    if call.number == _MMAP:
        return call.arguments[4] & 0xFFFFFFFF != 0xFFFFFFFF
    # What a role says here is no part of it.
    return call.number in MAY_FAIL and call.arguments[0] != _said[1]


def does_it_cleanly(role):
    """Do a role amid failures: it succeeds or raises, keeps nothing, and can be done again."""

    def once():
        for _ in role():
            pass

    def work():
        # What is loaded and made once.
        once()
        _core.leave_shared()
        before = open_files()
        steps = role()
        next(steps)
        mark(_BEGIN)
        try:
            next(steps)
        except (OSError, alongside.AlongsideError, MemoryError):
            pass
        mark(_END)
        for _ in steps:
            pass
        del steps
        _core.leave_shared()
        _core.leave_directories()
        after = open_files()
        more = {number: it for number, it in after.items() if before.get(number) != it}
        assert not more, more
        once()
        _core.leave_shared()
        _core.leave_directories()

    return work


def says_something(call, number, how):
    """Tell whether that is no error, but an answer."""
    if number != errno.EACCES:
        return False
    # Another one has the lock, and who waits, waits; that place is not this user's.
    return call == _NEWFSTATAT or (call == _FCNTL and how == "always")


def fail(role, check):
    """Have one system call fail with each error, once, and all of its kind from then on."""

    def fail_at(count):
        for how, number in itertools.product(("once", "always"), [*ERRNOS, errno.EINTR]):
            if how == "always" and number == errno.EINTR:
                # Nobody is interrupted for ever, and who is tries again.
                continue
            work, seen, which = Traced(does_it_cleanly(role), goes_on=True), 0, None
            is_no_error = False
            for call in work:
                if not is_worth_failing(call):
                    continue
                seen += 1
                if seen == count:
                    which = call.number
                    what = f"call {which}, {errno.errorcode[number]}, {how}"
                    is_no_error = says_something(which, number, how)
                if is_no_error:
                    continue
                if call.number == which and (seen == count or how == "always"):
                    call.fail(number)
            heard()
            if which is None:
                return False
            if work.status != 0:
                FAILED.append(f"{work.status:#x} at {count}: {what}")
            if check is not None:
                try:
                    ask(check)
                except SystemExit as error:
                    FAILED.append(f"{error} at {count}: {what}")
        return True

    return fail_at


HOW = {
    "kill": KILLS,
    "stop": STOPS,
    "fail": {name: fail(*it) for name, it in FAILING.items()},
}


def main():
    how, role, first, step = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    for met, count in enumerate(itertools.count(first, step)):
        if not HOW[how][role](count):
            if FAILED:
                sys.exit("\n".join(FAILED))
            print(met)
            return


if __name__ == "__main__":
    main()
