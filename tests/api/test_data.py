"""Plain data arrives equal; what cannot be sent is named with its place."""

import collections
import dataclasses
import datetime as dt
import enum
import math
from pathlib import Path
from typing import NamedTuple

import alongside
import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

UTC = dt.UTC
OFFSETS = st.integers(-1439, 1439).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))
ANY_TEXT = st.text(st.characters(), max_size=30) | st.binary(max_size=20).map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | ANY_TEXT
    | st.binary(max_size=40)
    | st.datetimes()
    | st.datetimes(timezones=OFFSETS)
)
KEYS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | ANY_TEXT | st.binary(max_size=9)
)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


def same(a, b):
    """Equal, of the same types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(k, m) and same(v, w) for (k, v), (m, w) in zip(a.items(), b.items(), strict=True)
        )
    return a == b


@given(data=DATA)
@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_sent_comes_back_equal(echo, data):
    echo.send(data)
    assert same(echo.receive(), data)


def test_tuples_arrive_as_lists_and_nan_as_nan(echo):
    echo.send((1, (2, [3])))
    assert echo.receive() == [1, [2, [3]]]
    echo.send(math.nan)
    assert math.isnan(echo.receive())


def test_an_aware_datetime_keeps_its_offset(echo):
    moment = dt.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=dt.timezone(dt.timedelta(hours=5.5)))
    echo.send(moment)
    assert echo.receive().utcoffset() == dt.timedelta(hours=5.5)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_byte_buffers_arrive_as_bytes(echo, kind):
    echo.send(kind(b"some bytes"))
    assert echo.receive() == b"some bytes"
    echo.send({"inside": kind(b"some bytes")})
    assert echo.receive() == {"inside": b"some bytes"}


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5
    hidden: dataclasses.InitVar[int] = 3


class Shape(msgspec.Struct, tag="shape", rename="camel"):
    corner_points: list[Point]
    note: str | msgspec.UnsetType = msgspec.UNSET


def test_structs_and_dataclasses_arrive_as_dicts_or_as_asked(echo):
    shape = Shape([Point(1), Point(2, 2.5)])
    plain = {"type": "shape", "cornerPoints": [{"x": 1, "y": 0.5}, {"x": 2, "y": 2.5}]}
    echo.send(shape)
    assert echo.receive() == plain

    echo.send(Point(7))
    assert echo.receive(type=dict) == {"x": 7, "y": 0.5}

    class Plain(msgspec.Struct):
        x: int
        y: float

    echo.send(Point(7))
    assert echo.receive(type=Plain) == Plain(7, 0.5)
    echo.send(shape)
    assert echo.receive(type=dict[str, object]) == plain


def test_types_are_checked_and_the_message_is_kept_in_the_error(echo):
    echo.send({"x": "no number"})
    with pytest.raises(alongside.Invalid, match=r"int") as caught:
        echo.receive(type=dict[str, int])
    assert caught.value.data == {"x": "no number"}
    echo.send(b"bytes")
    assert echo.receive(type=bytes) == b"bytes"
    echo.send(dt.datetime(2020, 1, 1))
    assert echo.receive(type=dt.datetime) == dt.datetime(2020, 1, 1)
    assert echo.alive


def test_a_type_that_is_none_costs_no_message(echo):
    echo.send([1])
    for slip in ("A", 5, list[object()]):
        with pytest.raises(TypeError):
            echo.receive(type=slip)
    assert echo.receive(type=list[int]) == [1]


class Color(enum.IntEnum):
    RED = 1


class Loud(str):
    __slots__ = ()


class Place(NamedTuple):
    x: int
    y: int


CYCLE = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (object(), "data is of type object"),
        ({"a": [1, 2, 3, {1, 2}]}, "data['a'][3] is of type set"),
        ([0, (1, Color.RED)], "data[1][1] is of type"),
        ({"k": Loud("x")}, "data['k'] is of type"),
        ({"n": 2**64}, "data['n'] is an int of more than 64 bits"),
        (-(2**63) - 1, "data is an int of more than 64 bits"),
        ({(1, 2): 3}, "data has the key (1, 2) of type tuple"),
        ({frozenset(): 3}, "data key [frozenset()] is of type frozenset"),
        ([Point(object())], "data[0].x is of type object"),
        (dt.date(2020, 1, 1), "data is of type datetime.date"),
        (1j, "data is of type complex"),
        (CYCLE, "nested more than 256 levels deep, or contains itself"),
        (len, "data is of type builtin_function_or_method"),
    ],
)
def test_what_cannot_be_sent_is_named_with_its_place(echo, data, place):
    with pytest.raises(TypeError) as caught:
        echo.send(data)
    assert place in str(caught.value)
    with pytest.raises(TypeError):
        echo.send_nowait(data)
    echo.send("still whole")
    assert echo.receive() == "still whole"


@pytest.mark.parametrize(
    ("data", "way_out", "wanted"),
    [
        (Color.RED, lambda data: data.value, Color),
        ({1, 2}, list, set),
        (Loud("x"), str, str),
        (collections.OrderedDict(a=1), dict, dict),
        (Place(1, 2), list, Place),
        (dt.date(2020, 1, 2), dt.date.isoformat, dt.date),
        (dt.time(1, 2), dt.time.isoformat, dt.time),
        (Path("a/b"), str, str),
    ],
)
def test_the_way_out_that_the_error_names_works(echo, data, way_out, wanted):
    with pytest.raises(TypeError) as caught:
        echo.send(data)
    named = getattr(way_out, "__name__", ".value").replace("<lambda>", ".value")
    assert f"send its {named}" in str(caught.value) or f"{named}(" in str(caught.value)
    echo.send(way_out(data))
    assert echo.receive(type=wanted) == (str(data) if wanted is str else data)


def test_an_undecodable_message_is_invalid_and_the_session_goes_on(program):
    session = program(
        """
        import alongside._core
        # A message that claims to be data: the codec of the next record is changed in the ring.
        import ctypes
        maps = [l for l in open("/proc/self/maps") if "alongside-session" in l]
        base = int(maps[0].split("-")[0], 16)
        real = s.send
        s.receive()
        head = ctypes.c_uint64.from_address(base + 896).value
        class Held: pass
        s.send({"k": 1})
        # the record's payload begins 16 bytes behind its head
        ctypes.memset(base + 4096 + (256 << 10) + head + 16, 0xC1, 1)
        s.send("ready")
        s.receive()
        """
    )
    session.send("go")
    # The payload may have been read before it was spoilt; then there is nothing to see here.
    try:
        session.receive()
    except alongside.Invalid as error:
        assert isinstance(error.data, bytes)
    assert session.receive() == "ready"


def test_messages_over_the_limit_are_refused_and_the_session_stays_whole(program):
    session = program("for m in s: s.send(len(m))", max_message=100_000)
    session.send(bytes(100_000))
    assert session.receive() == 100_000
    for size in (100_001, 10_000_000):
        with pytest.raises(alongside.TooLarge, match="100000"):
            session.send(bytes(size))
        with pytest.raises(alongside.TooLarge):
            session.send_nowait(bytes(size))
    with pytest.raises(alongside.TooLarge):
        program("", hello=bytes(11), max_message=10)
    assert session.alive


def test_both_ends_know_the_hello(program):
    hello = {"a": [1, 2.5, None], "b": b"bytes"}
    session = program("s.send(s.hello); s.receive()", hello=hello)
    assert session.hello == hello
    assert session.receive() == hello
    session = program("s.send(s.hello); s.receive()")
    assert session.hello is None
    assert session.receive() is None


def test_a_large_hello_arrives(program):
    session = program("s.send(len(s.hello)); s.receive()", hello=bytes(20 << 20))
    assert session.receive() == 20 << 20
