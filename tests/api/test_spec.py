"""A program that knows nothing but `spec/files-v1.md` shares cells and locks with the library."""

import fcntl
import os
import platform
import struct
from pathlib import Path

import alongside
import pytest
from alongside import Cell, Lock, RWLock

from tests.conftest import is_asleep, wait_until

pytestmark = pytest.mark.usefixtures("scope")

SLOTS, SLOT_BYTES, LONG_AT = (272, 2184), 1912, 4096
SHORT = 1872
WORD_AT = 256
HEAD = struct.Struct("<5Q")
MASK = (1 << 64) - 1
START, FACTOR = 0x9E3779B97F4A7C15, 0xA0761D6478BD642F
BYTES, PLAIN = 0, 1

# Sleeps on a word for ever, if that is what it should be: nothing but waking ends it.
SLEEPER = """
import ctypes, mmap
def sleep(path, at, seen):
    with open(path, "r+b") as file:
        page = mmap.mmap(file.fileno(), 0)
    word = ctypes.c_uint32.from_buffer(page, at)
    return ctypes.CDLL(None).syscall(
        {"x86_64": 202, "aarch64": 98}[os.uname().machine], ctypes.byref(word), 0, seen, None)
"""
knows_futex = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "aarch64"}, reason="the number of a system call"
)


# ---- what stands in the files --------------------------------------------------------------------


def checksum(values, total):
    for value in values:
        product = (total ^ value) * FACTOR
        total = (product & MASK) ^ (product >> 64) ^ ((total << 23 | total >> 41) & MASK)
    return total


def checksum_of(value):
    padded = value + b"\0" * (8 - len(value) % 8)
    return checksum(struct.unpack(f"<{len(padded) // 8}Q", padded), START ^ len(value))


def long_at(which, max_size):
    return LONG_AT + which * (-(-max_size // 4096) * 4096)


def current(path):
    """Give the sequence, the codec and the bytes of a cell's value that nobody is writing."""
    content = Path(path).read_bytes()
    (max_size,) = struct.unpack_from("<Q", content, 16)
    heads = [HEAD.unpack_from(content, at) for at in SLOTS]
    which = 0 if heads[0][0] > heads[1][0] else 1
    sequence, length, codec, sum_, seal = heads[which]
    assert seal == checksum(heads[which][:4], START)
    at = SLOTS[which] + HEAD.size if length <= SHORT else long_at(which, max_size)
    value = content[at : at + length]
    assert sum_ == checksum_of(value)
    return sequence, codec, value


def write(path, value, codec=BYTES):
    """Put a value in place, in the slot that is not current."""
    sequence = 1 + max(HEAD.unpack_from(Path(path).read_bytes(), at)[0] for at in SLOTS)
    which = 0 if HEAD.unpack_from(Path(path).read_bytes(), SLOTS[0])[0] < sequence - 1 else 1
    if sequence == 1:
        which = 0
    fields = (sequence, len(value), codec, checksum_of(value))
    head = HEAD.pack(*fields, checksum(fields, START))
    with open(path, "r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if len(value) <= SHORT:
            os.pwrite(file.fileno(), head + value, SLOTS[which])
        else:
            (max_size,) = struct.unpack_from("<Q", Path(path).read_bytes(), 16)
            os.pwrite(file.fileno(), value, long_at(which, max_size))
            os.pwrite(file.fileno(), head, SLOTS[which])


@pytest.mark.parametrize("size", [0, 1, 7, 8, SHORT, SHORT + 1, 10_000])
def test_values_are_where_they_should_be(size):
    with Cell("c", max_size=10_000) as cell:
        assert Path(cell._path).read_bytes()[:16] == b"ALONGSC\1" + struct.pack("<II", 1, 1)
        for sequence in (1, 2, 3):
            value = os.urandom(size)
            cell.set(value)
            assert current(cell._path) == (sequence, BYTES, value)
    with Cell("c") as cell:
        cell.set({"key": 5})
        assert current(cell._path) == (1, PLAIN, b"\x81\xa3key\x05")


@pytest.mark.parametrize("size", [0, 9, SHORT, SHORT + 1, 10_000])
def test_values_that_another_program_writes_are_read(size):
    with Cell("c", max_size=10_000) as cell:
        for sequence in (1, 2, 3):
            value = os.urandom(size)
            write(cell._path, value)
            assert cell.read() == (value, sequence)
        cell.set(b"ours")
        assert current(cell._path) == (4, BYTES, b"ours")


def test_the_holders_are_locked_bytes(puppet):
    other = puppet()
    other.run("cell = alongside.Cell('c')")
    with Cell("c") as cell, open(cell._path, "r+b") as file:
        for pid in (os.getpid(), other.pid):
            asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 2**40 + pid, 1, 0)
            kind, _, start, length, _ = struct.unpack(
                "hhqqi4x", fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked)
            )
            assert (kind, start, length) == (fcntl.F_RDLCK, 2**40 + pid, 1)


def test_the_lock_says_who_has_it():
    lock = Lock("l")
    name = b"ALONGSL\1" + struct.pack("<II", 1, 1)
    with lock:
        content = Path(lock._path).read_bytes()
        assert content[:16] == name
        word, pid, begun = struct.unpack_from("<IIQ", content, WORD_AT)
        assert (word % 2, pid) == (1, os.getpid())
        # The 22nd field; the name before it may have blanks.
        stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        assert begun == int(stat[19])
    assert struct.unpack_from("<I", Path(lock._path).read_bytes(), WORD_AT) == (word + 1,)


def test_another_program_s_lock_holds_up_and_its_death_is_told(puppet):
    lock = Lock("l")
    other = puppet()
    other.run(f"""
        import fcntl, struct
        file = open({lock._path!r}, "r+b", buffering=0)
        byte = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 2**40 + os.getpid(), 1, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, byte)
        fcntl.flock(file, fcntl.LOCK_EX)
        begun = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
        os.pwrite(file.fileno(), struct.pack("<IIQ", 1, os.getpid(), begun), {WORD_AT})
        """)
    assert lock.owner().pid == other.pid
    with pytest.raises(alongside.TimedOut):
        lock.acquire(timeout=0)
    other.kill()
    with lock:
        assert lock.abandoned


# ---- who is woken --------------------------------------------------------------------------------


@pytest.fixture
def sleeper(puppet):
    """Other programs, each of which sleeps on a word; what is given says whether it was woken."""

    def begin(path, at):
        other = puppet()
        other.run(SLEEPER)
        (seen,) = struct.unpack_from("<I", Path(path).read_bytes(), at)
        other.say(f"sleep({path!r}, {at}, {seen})")
        wait_until(lambda: is_asleep(other.pid))
        return lambda: other.hear() == 0

    return begin


@knows_futex
@pytest.mark.parametrize("size", [0, SHORT + 1])
def test_a_value_wakes_who_sleeps_on_its_slot(sleeper, size):
    with Cell("c") as cell:
        for which in (0, 1, 0):
            sleepers = [sleeper(cell._path, SLOTS[which]) for _ in range(2)]
            cell.set(bytes(size))
            assert all(is_woken() for is_woken in sleepers)


@knows_futex
def test_who_makes_no_first_value_wakes_the_next(sleeper):
    with Cell("c") as cell:
        is_woken = sleeper(cell._path, SLOTS[0])
        with pytest.raises(ZeroDivisionError):
            cell.get_or_set(lambda: 1 / 0)
        assert is_woken()


@knows_futex
def test_a_lock_that_is_given_back_wakes_one(sleeper):
    lock = Lock("l")
    with lock:
        is_woken = sleeper(lock._path, WORD_AT)
    assert is_woken()


@knows_futex
@pytest.mark.parametrize("hold", ["reading", "writing"])
def test_whoever_leaves_an_rwlock_wakes_all(sleeper, hold):
    lock = RWLock("l")
    with getattr(lock, hold)():
        sleepers = [sleeper(lock._path, WORD_AT) for _ in range(2)]
    assert all(is_woken() for is_woken in sleepers)
