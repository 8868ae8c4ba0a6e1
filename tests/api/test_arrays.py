"""Arrays arrive equal, in the memory they were sent in, and give it back."""

import array
import dataclasses
import gc
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import alongside
import hypothesis.extra.numpy as hn
import msgspec
import numpy as np
import numpy.lib.recfunctions
import pytest
from alongside import _arrays, _data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import HEAD, mappings, wait_until

PLAIN = (
    hn.boolean_dtypes()
    | hn.integer_dtypes(endianness="?")
    | hn.unsigned_integer_dtypes(endianness="?")
    | hn.floating_dtypes(endianness="?")
    | hn.complex_number_dtypes(endianness="?")
    | hn.datetime64_dtypes(endianness="?")
    | hn.timedelta64_dtypes(endianness="?")
    | hn.byte_string_dtypes()
    | hn.unicode_string_dtypes(endianness="?")
)
DTYPES = PLAIN | hn.nested_dtypes(PLAIN, max_leaves=5, max_itemsize=400)
ARRAYS = DTYPES.flatmap(lambda dtype: hn.arrays(dtype, hn.array_shapes(min_dims=0, min_side=0)))


def same(got, sent):
    """Equal in every byte, of the same type, shape and order."""
    return (
        got.dtype == sent.dtype
        and got.shape == sent.shape
        and got.tobytes() == sent.tobytes()
        and (not sent.flags.f_contiguous or got.flags.f_contiguous)
    )


@dataclasses.dataclass
class Picture:
    image: np.ndarray
    name: str


def leases():
    return [line for line in mappings() if "alongside-lease" in line]


@given(sent=ARRAYS)
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_an_array_arrives_as_it_was(echo, sent):
    echo.send(sent)
    got = echo.receive()
    assert same(got, sent)
    assert not got.flags.writeable


@given(data=st.data())
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_part_of_an_array_arrives_as_it_was(echo, data):
    """Strides of all signs and sizes, in either order."""
    shape = data.draw(hn.array_shapes(max_dims=4, max_side=6))
    whole = np.arange(np.prod(shape), dtype="i4").reshape(
        shape, order=data.draw(st.sampled_from("CF"))
    )
    part = whole[data.draw(hn.basic_indices(shape))]
    if isinstance(part, np.ndarray):
        part = part.transpose(data.draw(st.permutations(range(part.ndim))))
        echo.send([part])
        assert same(echo.receive()[0], part)


@pytest.mark.parametrize(
    "sent",
    [
        np.arange(24.0).reshape(2, 3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.arange(100)[::-3],
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        np.broadcast_to(np.arange(3), (4, 3)),
        np.array(7.5),
        np.zeros((0, 3)),
        np.array([(1, 2.5, [3, 4])], dtype=[("a", "i4"), ("b", "f8"), ("c", "u1", (2,))]),
        np.zeros(3, dtype=np.dtype([("a", "u1"), ("b", "f8")], align=True)),
        np.frombuffer(os.urandom(10_000_000), np.uint8),
    ],
    ids=lambda sent: f"{sent.dtype}{list(sent.shape)}",
)
def test_its_layout_does_not_matter(echo, sent):
    echo.send(sent)
    assert same(echo.receive(), sent)


def test_arrays_stand_anywhere_in_data(echo):
    first, second = np.arange(1000), np.ones((3, 3), "f4", order="F")
    echo.send({"a": [first, {"b": second}], "c": (first, b"bytes", None), "d": "x" * 100_000})
    got = echo.receive()
    assert same(got["a"][0], first)
    assert same(got["a"][1]["b"], second)
    assert same(got["c"][0], first)
    assert (got["c"][1:], got["d"]) == ([b"bytes", None], "x" * 100_000)


@pytest.mark.parametrize(
    ("sent", "dtype"),
    [
        (array.array("d", [1.5, 2.5]), "f8"),
        (array.array("H", range(9)), "u2"),
        (memoryview(np.arange(6.0).reshape(2, 3)), "f8"),
        (memoryview(bytes(range(24))).cast("B", (2, 3, 4)), "u1"),
        (memoryview(bytes(range(24)))[::5], "u1"),
    ],
)
def test_other_buffers_arrive_as_arrays(echo, sent, dtype):
    echo.send(sent)
    got = echo.receive()
    assert same(got, np.asarray(sent, dtype))


def test_without_numpy_a_typed_memoryview_arrives(echo):
    source = """
        sys.modules["numpy"] = None
        import array
        s.send(array.array("d", [1.5, 2.5, 3.5]))
        got = s.receive()
        s.send([str(type(got)), got.format, got.shape, got.tolist(), got.readonly])
    """
    with alongside.start([sys.executable, "-c", HEAD + textwrap.dedent(source)]) as session:
        assert session.receive().tolist() == [1.5, 2.5, 3.5]
        session.send(np.arange(6, dtype="i4").reshape(2, 3))
        kind, *rest = session.receive()
        assert "memoryview" in kind
        assert rest == ["i", [2, 3], [[0, 1, 2], [3, 4, 5]], True]


def test_without_numpy_the_session_goes_on_after_what_only_numpy_knows(program):
    session = program(
        """
        sys.modules["numpy"] = None
        for _ in range(s.hello):
            try:
                s.receive()
            except alongside.Invalid as error:
                s.send(str(error))
        while True:
            got = s.receive()
            s.send([got.shape, got.format, got.tolist()])
        """,
        hello=6,
    )
    for sent in (
        np.ones((2, 2), order="F"),
        np.ones(2, ">f8"),
        np.ones(2, "c16"),
        np.array(["text"]),
        np.array(["2026-01-01"], "M8[s]"),
        np.zeros(2, [("x", "i4")]),
    ):
        session.send(sent)
        assert "needs numpy" in session.receive()
    session.send(np.zeros(0))
    assert session.receive() == [[0], "d", []]
    session.send(np.zeros((0, 3), "i2"))
    assert session.receive() == [[0], "h", []]


SCATTERED = np.dtype(
    {
        "names": ["b", "whole", "a"],
        "formats": ["f8", "V16", ("<i2", (2,))],
        "offsets": [8, 0, 2],
        "titles": ["the second", None, None],
        "itemsize": 24,
    }
)


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype([("a", "i4"), ("b", "f8")])[["b", "a"]],
        np.dtype([("a", "i4"), ("b", "f8"), ("c", "M8[ms]")])[["c", "a"]],
        SCATTERED,
        [("x", SCATTERED, (2, 2)), ("y", "i1")],
        {"names": ["x", "y"], "formats": [SCATTERED, "u1"], "offsets": [1, 0], "itemsize": 30},
    ],
)
def test_fields_that_overlap_or_are_out_of_order_arrive_where_they_were(echo, dtype):
    sent = np.zeros((3, 2), dtype)
    sent.view("u1")[:] = np.arange(sent.nbytes).reshape(3, -1) % 100
    for _ in range(2):
        echo.send({"x": sent})
        got = echo.receive()["x"]
        assert got.dtype == sent.dtype
        assert got.dtype.fields == sent.dtype.fields
        assert (got == sent).all()


def test_a_received_array_cannot_be_written(echo):
    echo.send(np.arange(3))
    got = echo.receive()
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        got.flags.writeable = True


def test_what_nobody_looks_at_any_more_is_used_again(program):
    session = program("for m in s:\n    del m")
    gc.collect()
    before = leases()
    for number in range(200):
        session.send(np.full(500_000, number))
        # It comes back as soon as the other side has dropped it.
        wait_until(lambda: session.lent_bytes == 0)
    assert len({*leases()} - {*before}) == 1
    session.close()
    assert {*leases()} <= {*before}


def leases_of(pid):
    return Path(f"/proc/{pid}/maps").read_text().count("alongside-lease")


def caretakers():
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found.append((task / "comm").read_text())
        except OSError:
            # It has ended meanwhile.
            continue
    return [name for name in found if name == "alongside-idle\n"]


def shared_kb(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssShmem")))


def test_memory_that_lies_idle_goes_back_to_the_system_on_both_sides(program):
    """Neither side makes a call meanwhile that could do it."""
    session = program(
        """
        kept = [s.receive() for _ in range(10)]
        s.send("have them")
        os.read(0, 1)
        """,
        stdin=alongside.PIPE,
    )
    gc.collect()
    # What other tests have lent goes back meanwhile.
    wait_until(lambda: not caretakers())
    before, pid = leases_of("self"), session.peer.pid
    at_start = shared_kb("self")
    for _ in range(10):
        session.send(np.ones(1_000_000))
    assert session.receive() == "have them"
    assert (leases_of("self"), leases_of(pid)) == (before + 10, 10)
    assert shared_kb("self") > at_start + 70_000
    assert caretakers()
    session.stdin.close()
    wait_until(lambda: leases_of("self") == before)
    assert shared_kb("self") < at_start + 4096
    wait_until(lambda: not caretakers())


@pytest.mark.parametrize("way", ["sleeps", "waits", "is asked"])
def test_idle_memory_goes_back_whatever_the_reader_does(program, way):
    rest = {"sleeps": "os.read(0, 1)", "waits": "s.receive()", "is asked": "list(s)"}[way]
    session = program(
        f"""
        kept = [s.receive() for _ in range(10)]
        s.send("have them")
        kept.clear()
        {rest}
        """,
        stdin=alongside.PIPE,
    )
    for _ in range(10):
        session.send(np.ones(1_000_000))
    assert session.receive() == "have them"

    def has_shrunk():
        if way == "is asked":
            session.ping(timeout=None)
        return leases_of(session.peer.pid) == 0

    wait_until(has_shrunk)
    session.send(np.ones(1_000_000))
    assert leases_of("self") >= 1
    session.stdin.close()


def test_a_forked_child_has_its_own_memory_looked_after(echo):
    echo.send(np.ones(1_000_000))
    echo.receive()
    assert caretakers()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            command = [sys.executable, "-c", HEAD + "s.receive()\ns.receive()"]
            with alongside.start(command, die_with_parent=True) as own:
                own.send(np.ones(1_000_000))
                wait_until(lambda: leases_of(own.peer.pid) == 0 and own.lent_bytes == 0)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_memory_is_lent_as_long_as_a_view_lives(program):
    session = program(
        """
        whole = s.receive()
        part = whole[10:20]
        del whole
        s.send("part")
        s.receive()
        del part
        s.send("none")
        s.receive()
        """
    )
    session.send(np.arange(1_000_000))
    assert session.receive() == "part"
    assert session.lent_bytes >= 8_000_000
    session.send("go on")
    assert session.receive() == "none"
    assert session.lent_bytes == 0


def test_views_outlive_the_session_and_the_sender():
    source = "import numpy as np; s.send(np.arange(300_000)); s.receive()"
    session = alongside.start([sys.executable, "-c", HEAD + source])
    got = session.receive()
    session.kill()
    session.wait()
    session.close()
    del session
    gc.collect()
    held = leases()
    assert got.sum() == sum(range(300_000))
    del got
    gc.collect()
    assert len(leases()) == len(held) - 1


def test_a_received_array_can_be_read_in_a_forked_child(echo):
    echo.send(np.arange(100_000))
    got = echo.receive()
    if (pid := os.fork()) == 0:
        right = got[-1] == 99_999
        del got
        gc.collect()
        os._exit(0 if right else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert got[-1] == 99_999
    echo.send(got)
    assert same(echo.receive(), got)


def test_what_a_forked_child_looks_at_is_not_used_again(program):
    session = program(
        """
        import numpy
        for number in range(1, 5):
            s.send(numpy.full(100_000, number))
            s.receive()
        while s.lent_bytes:
            time.sleep(0.001)
        s.send("all is back")
        s.receive()
        """
    )
    got = session.receive()
    asked, ask = os.pipe()
    told, tell = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(ask)
        os.read(asked, 1)
        os.write(tell, b"same" if set(got.tolist()) == {1} else b"other")
        os.read(asked, 1)
        os._exit(0)
    os.close(asked)
    del got
    for _ in range(3):
        session.send("next")
        last = session.receive()
    session.send("next")
    assert set(last.tolist()) == {4}
    del last
    os.write(ask, b"x")
    assert os.read(told, 10) == b"same"
    os.close(ask)
    assert os.waitpid(pid, 0)[1] == 0
    assert session.receive() == "all is back"
    for fd in (told, tell):
        os.close(fd)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (np.array([object()]), "data has items of the type object"),
        ({"a": [np.array([{}])]}, "data['a'][0] has items of the type object"),
        (np.zeros(1, [("x", "i4"), ("y", "O")]), "data has items of the type [('x'"),
        (np.ma.masked_array([1], [True]), "data is a MaskedArray"),
        (np.float64(1.5), "data is a number of numpy's"),
    ],
)
def test_what_is_no_plain_array_is_named_with_its_place(echo, data, text):
    with pytest.raises(TypeError) as caught:
        echo.send(data)
    assert text in str(caught.value)
    assert "send " in str(caught.value)
    echo.send([1])
    assert echo.receive() == [1]


def test_an_array_over_the_limit_is_refused(program):
    session = program("[s.send(m) for m in s]", max_message=1_000_000)
    with pytest.raises(alongside.TooLarge):
        session.send(np.zeros(200_000))
    session.send(np.zeros(100_000))
    assert session.receive().shape == (100_000,)


def test_many_arrays_may_be_kept(echo):
    kept = []
    for number in range(3000):
        echo.send(np.full(100, number))
        kept.append(echo.receive())
    assert all(got[0] == number for number, got in enumerate(kept))
    assert math.isclose(sum(got.mean() for got in kept), sum(range(3000)))


def test_a_type_may_have_arrays_in_it(echo):
    echo.send({"image": np.arange(4), "name": "x"})
    assert echo.receive(type=Picture).image.tolist() == [0, 1, 2, 3]
    echo.send(np.arange(3))
    assert echo.receive(type=np.ndarray).shape == (3,)
    echo.send([1])
    with pytest.raises(alongside.Invalid):
        echo.receive(type=np.ndarray)


@pytest.mark.parametrize(
    ("offset", "kind", "shape", "order"),
    [
        (0, "<f8", [1 << 40], "C"),
        (0, "<f8", [1 << 62, 1 << 62], "C"),
        (0, "<f8", [-1], "C"),
        (0, "<f8", [2.5], "C"),
        (0, "<f8", 3, "C"),
        (0, "<f8", [2], "K"),
        (1 << 62, "<f8", [2], "C"),
        (-8, "<f8", [2], "C"),
        (4096, "<f8", [1], "C"),
        (0, "O", [1], "C"),
        (0, "no such", [1], "C"),
        (0, None, [1], "C"),
        (0, [["x", "O"]], [1], "C"),
        (0, [["x"]], [1], "C"),
        (0, [["x", "<f8", 7]], [1], "C"),
        (0, "<U" + "9" * 30, [1], "C"),
    ],
)
def test_a_description_of_no_array_is_corrupt(offset, kind, shape, order):
    with pytest.raises(alongside.Corrupt):
        _arrays.make(memoryview(bytes(4096)), offset, kind, shape, order)


@pytest.mark.parametrize("extra", ["", "x" * 50_000])
def test_an_array_can_be_the_first_data(program, extra):
    sent = np.arange(1_000_000)
    session = program("s.send([s.hello['a'], s.hello['b']])", hello={"a": sent, "b": extra})
    got, back = session.receive()
    assert same(got, sent)
    assert back == extra


@pytest.mark.usefixtures("leaves_nothing")
def test_a_first_array_that_is_too_large_is_refused_and_the_program_ended():
    with pytest.raises(alongside.TooLarge):
        alongside.start(
            [sys.executable, "-c", HEAD],
            hello=np.zeros(1000),
            max_message=100,
            stderr=alongside.DEVNULL,
        )


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 9), (9, 0), (-1, 1), (4, -4), (1 << 62, 1 << 62), (0.5, 1), (None, 1)]
)
def test_a_note_of_bytes_that_are_not_there_is_corrupt(offset, size):
    encode = msgspec.msgpack.encode
    for code, note in [(4, [None, offset, size]), (5, [None, offset, size, "table"])]:
        body = encode([msgspec.msgpack.Ext(code, encode(note))])
        with pytest.raises(alongside.Corrupt):
            _data.decode_leased(body, [bytes(8)], is_beside=False, most=8)


@pytest.mark.parametrize(
    "note",
    [5, [], [1, 2], ["x", 0, "<f8", [1], "C"], [9, 0, "<f8", [1], "C"], [0, 0, "<f8", [9], 1]],
)
def test_a_note_of_no_array_is_corrupt(note):
    encode = msgspec.msgpack.encode
    body = encode([msgspec.msgpack.Ext(3, encode(note))])
    with pytest.raises(alongside.Corrupt):
        _data.decode_leased(body, [bytes(8)], is_beside=False, most=8)
    with pytest.raises(alongside.Corrupt):
        _data.decode_leased(b"short", [bytes(8)], is_beside=True, most=8)


def test_a_message_with_arrays_that_cannot_be_taken_now_keeps_its_memory():
    """What is dropped is given back, so nothing may be borrowed before the message can be taken."""
    source = """
        s.send([np.full(1000, 1)]); s.send([np.full(1000, 2)]); s.receive()
    """
    with alongside.start(
        [sys.executable, "-c", HEAD + "import numpy as np\n" + textwrap.dedent(source)]
    ) as session:
        with pytest.raises(alongside.Invalid):
            session.receive_into(bytearray(100))
        first, second = session.receive()[0], session.receive()[0]
        assert (first == 1).all()
        assert (second == 2).all()
        session.send(0)


def test_an_array_goes_to_a_callback(echo):
    import queue

    inbox = queue.SimpleQueue()
    echo.on_message(inbox.put)
    echo.send([np.arange(5)])
    assert inbox.get()[0].tolist() == [0, 1, 2, 3, 4]


def test_numpy_is_not_loaded_by_the_package():
    source = "import alongside, sys; alongside.start; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    assert done.stdout == b"False\n"
