"""The other side writes what it likes into the shared memory: never a crash, never a hang.

Each test works with the session afterwards, under the watchdog: it sends, it receives, it closes.
A wrong position, length or count must be named; other fields are harmless.
"""

import os
import sys
from pathlib import Path

import alongside
import pytest

from .scribbler import FIELDS, HEADER, PLACES, RING

SCRIBBLER = Path(__file__).with_name("scribbler.py")
EXTREME = [0, 1, 8, 16, 17, 1 << 18, (1 << 18) + 16, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]


@pytest.fixture
def hostile():
    started = []

    def start(*hello):
        session = alongside.start([sys.executable, SCRIBBLER], hello=hello, stdin=alongside.PIPE)
        started.append(session)
        arrived = session.receive()
        if hello[0] == "lease":
            assert arrived.tolist() == list(range(100))
            del arrived
            arrived = session.receive()
        assert arrived == "ready"
        session.send("go")
        return session

    yield start
    for session in started:
        session.kill()
        session.wait()
        session.stdin.close()
        session.close(timeout=0)


def use(session):
    """Do everything once; give the error that ended the session, if one did."""
    ended = None
    for call in (
        lambda: session.receive(timeout=0.05),
        session.receive_nowait,
        lambda: session.send(b"x" * 100, timeout=0.05),
        lambda: session.send(bytes(1_000_000), timeout=0.05),
        lambda: session.receive_into(bytearray(100), timeout=0),
        lambda: session.ping(timeout=0.01),
        session.statistics,
        lambda: session.alive,
        lambda: [session.send_nowait(b"y" * 1000) for _ in range(300)],
        lambda: session.receive(timeout=0),
    ):
        try:
            call()
        except (
            alongside.TimedOut,
            alongside.WouldBlock,
            alongside.Busy,
            alongside.Invalid,
            ValueError,
        ):
            continue
        except alongside.AlongsideError as error:
            ended = ended or error
    session.close(timeout=0.01)
    return ended


@pytest.mark.parametrize("place", ["from us head", "to us tail"])
@pytest.mark.parametrize("value", EXTREME)
def test_a_position_out_of_bounds_ends_the_session_as_corrupt(hostile, place, value):
    session = hostile("field", [place, value])
    ended = use(session)
    # These two positions are where an honest peer's would be, or could be.
    if not (place == "to us tail" and value in (0, 16)):
        assert isinstance(ended, alongside.Corrupt), ended
        assert "position" in str(ended) or "record" in str(ended)


@pytest.mark.parametrize("place", ["to us delivered", "to us blocks returned"])
@pytest.mark.parametrize("value", [100, 1 << 32, (1 << 64) - 1])
def test_a_count_out_of_bounds_ends_the_session_as_corrupt(hostile, place, value):
    session = hostile("field", [place, value])
    ended = use(session)
    assert isinstance(ended, alongside.Corrupt)


@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("value", [0, 1, 0xDEAD_BEEF_DEAD_BEEF, (1 << 64) - 1])
def test_no_field_can_crash_or_hang_this_side(hostile, place, value):
    session = hostile("field", [place, value])
    ended = use(session)
    assert ended is None or isinstance(ended, alongside.Corrupt | alongside.SessionEnded)


RECORD = {
    "longer than a ring": ([1 << 32 | 1 << 31, 0], 32, "record length"),
    "longer than allowed": ([1 << 32 | (RING // 4 + 1), 0], RING, "record length"),
    "beyond what is published": ([1 << 32 | 64, 0], 32, "record end"),
    "of an unknown kind": ([99 << 32, 0], 16, "record kind"),
    "of kind zero": ([0, 0], 16, "record kind"),
    "with unknown flags": ([1 << 48 | 1 << 32, 0], 16, "record kind"),
    "a part of nothing": ([4 << 32, 0], 16, "part of no large message"),
    "a large one of no bytes": ([3 << 32, 0], 16, "large message of 0 bytes"),
    "a large one beyond the limit": ([3 << 32, (1 << 30) + 1], 16, "message of 1073741825 bytes"),
    "a large one with a payload": ([3 << 32 | 8, 8], 32, "with 8 bytes of payload"),
}


@pytest.mark.parametrize("name", sorted(RECORD))
def test_a_record_out_of_bounds_ends_the_session_as_corrupt(hostile, name):
    words, length, text = RECORD[name]
    session = hostile("record", [words, length])
    with pytest.raises(alongside.Corrupt, match=text):
        session.receive()
    with pytest.raises(alongside.Corrupt, match=text):
        session.send(1)
    assert not session.alive


def leased(arena=0, slot=1, generation=1, offset=0, size=800, count=1, length=49):
    """Give the words of a message, of one byte, that says that it has borrowed memory."""
    terms = [arena, generation << 32 | slot, offset, size]
    body = 0x90  # an empty list
    return [2 << 40 | 9 << 32 | length, 0, count, 0, *terms, body], 80


LEASE = {
    "an arena that was not announced": leased(arena=7),
    "an arena beyond all numbers": leased(arena=1 << 40),
    "an offset beyond the arena": leased(offset=1 << 40),
    "an offset that is not aligned": leased(offset=4),
    "an end beyond the arena": leased(size=1 << 40),
    "an end beyond all numbers": leased(offset=(1 << 64) - 8, size=(1 << 64) - 1),
    "a slot beyond the table": leased(slot=1 << 20),
    "more terms than the message holds": leased(count=2),
    "terms without number": leased(count=(1 << 64) - 1),
    "no room for terms": leased(length=8),
}


@pytest.mark.parametrize("name", sorted(LEASE))
def test_memory_lent_on_impossible_terms_ends_the_session_as_corrupt(hostile, name):
    session = hostile("lease", LEASE[name])
    with pytest.raises(alongside.Corrupt):
        session.receive()
    with pytest.raises(alongside.Corrupt):
        session.send(1)
    assert not session.alive


def test_the_terms_that_these_tests_change_are_right(hostile):
    assert hostile("lease", leased()).receive() == []


@pytest.mark.parametrize("codec", [1, 4])
def test_a_codec_that_does_not_fit_the_terms_neither_crashes_nor_hangs(hostile, codec):
    words, length = leased()
    session = hostile("lease", [[words[0] ^ 2 << 40 ^ codec << 40, *words[1:]], length])
    assert isinstance(use(session), alongside.Corrupt | None)


def test_a_message_of_an_unknown_codec_is_refused_and_the_session_goes_on(hostile):
    session = hostile("record", [[7 << 40 | 1 << 32, 0], 16])
    with pytest.raises(alongside.Incompatible, match="codec 7"):
        session.receive()
    assert session.alive


@pytest.mark.parametrize("seed", range(int(os.environ.get("ALONGSIDE_CYCLES", "300")) // 6))
def test_random_bytes_anywhere_neither_crash_nor_hang_this_side(hostile, seed):
    ended = use(hostile("noise", seed))
    assert ended is None or isinstance(ended, alongside.AlongsideError)


def test_memory_that_turns_to_zeroes_neither_crashes_nor_hangs_this_side(hostile):
    assert isinstance(use(hostile("punch", None)), alongside.Corrupt)


def test_all_fields_are_tried():
    assert len(PLACES) == 2 * len(FIELDS) + 8
    assert max(at + size for at, size in PLACES.values()) <= HEADER
