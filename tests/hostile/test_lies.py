"""The other side lies about arrays: the session ends as corrupt, and nothing else happens.

The liar is a real program whose descriptions of what it sends are changed before they go out.
"""

import subprocess
import sys

import alongside
import pytest

LIAR = """
import array
from alongside import _arrays, _arrow
honest = _arrays.describe

def lie(data):
    code, fill, size, facts, source = honest(data)
    kind, shape, order = facts
    {lie}
    return code, fill, size, (kind, shape, order), source

_arrays.describe = lie
s.send({data})
s.receive()
"""
# The second of two is told of as if it reached round all memory.
BEYOND = "kind, shape = ('u1', (2**63 - 1,)) if len(data) < 100 else (kind, shape)"
# A field of a type at an offset of an item of a size.
PLACED = (
    "kind = {{'names': ['x'], 'formats': [{}], 'offsets': [{}], 'titles': [None], 'itemsize': {}}}"
)
LIES = {
    "a negative size": "shape = (-1,)",
    "more than is there": "shape = (1_000_000,)",
    "more than can be counted": "shape = (1 << 62, 1 << 62)",
    "an end beyond what 64 bits count": BEYOND,
    "a type of more than can be counted": "kind = 'V2147483647,V2147483647'",
    "a type whose fields lie outside": f"kind = '{'V1073741824,' * 4}i4'",
    "a type that is evaluated": "kind = 'i4,('",
    "a type of old": "kind = 'a5'",
    "a field beyond the item": PLACED.format("'<i4'", 2, 4),
    "a field before the item": PLACED.format("'<i4'", -4, 4),
    "a field beyond what 64 bits count": PLACED.format("'<i4'", 2**63 - 1, 4),
    "an item of more than can be counted": PLACED.format("'<i4'", 0, 2**63 - 1),
    "Python objects in a place": PLACED.format("'O'", 0, 8),
    "a place that is evaluated": PLACED.format("'i4,('", 0, 8),
    "places of a type that is none": PLACED.format("7", 0, 8),
    "an array in a place that wraps": PLACED.format("['<i4', [1 << 62, 4]]", 0, 8),
    "places of nothing": "kind = {}",
    "a size that is no number": "shape = ('x',)",
    "a shape that is no list": "shape = 5",
    "Python objects": "kind = 'O'",
    "Python objects in a field": "kind = [('x', '<i4'), ('y', 'O')]",
    "a type without end": "kind = '<U' + '9' * 30",
    "a type that is none": "kind = 'no such'",
    "a field without a type": "kind = [('x',)]",
    "a type that is a number": "kind = 7",
    "an order that is none": "order = 'Z'",
    "an extension that is none": "code = 77",
    "bytes that are not there": "code, kind, shape, order = 4, 1 << 40, (), ''",
    "a table that is none": "code, kind, shape, order = 5, 700, 'table', ''",
    "a table of no known form": "code, kind, shape, order = 5, 700, 'chair', ''",
}


# Alone, deep in data, and behind another one.
PLACES = ["{}", "['deep', [{}]]", "[array.array('d', range(100)), array.array('d', range(99))]"]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", sorted(LIES))
def test_a_lie_about_an_array_ends_the_session_as_corrupt(program, name, where):
    data = where.format("array.array('d', range(99))")
    session = program(LIAR.format(lie=LIES[name], data=data))
    with pytest.raises(alongside.Corrupt):
        session.receive()
    with pytest.raises(alongside.Corrupt):
        session.send(1)
    assert not session.alive


STARTER = """
import sys, alongside, array
from alongside import _arrays
honest = _arrays.describe

def lie(data):
    code, fill, size, (kind, _, order), source = honest(data)
    return code, fill, size, (kind, (-5,), order), source

_arrays.describe = lie
source = '''
import alongside
s = alongside.session()
try:
    s.hello
except alongside.Corrupt:
    print("corrupt", not s.alive)
'''
alongside.start([sys.executable, "-c", source], hello=array.array("d", [1])).wait()
"""


def test_a_lie_in_the_first_data_ends_the_session_as_corrupt():
    done = subprocess.run([sys.executable, "-c", STARTER], capture_output=True, check=True)
    assert done.stdout == b"corrupt True\n", done.stderr


def test_the_liar_is_honest_without_a_lie(program):
    session = program(LIAR.format(lie="pass", data="array.array('d', range(100))"))
    assert session.receive().tolist() == list(range(100))


OVERFLOW = """
import array, ctypes
from alongside import _arrays
honest = _arrays.describe

def lie(data):
    code, fill, size, (kind, shape, order), source = honest(data)
    return code, fill, size, (kind, (2**63 - 1,) if len(data) == 99 else shape, order), source

_arrays.describe = lie
s.send(array.array("b", bytes(100)))
s.receive()
with s.lend_bytes(200) as lent:
    s.send((ctypes.c_int8 * 99).from_buffer(lent, 64))
s.receive()
"""


def test_an_array_alone_may_not_lie_about_its_end_either(program):
    session = program(OVERFLOW)
    assert session.receive().tolist() == [0] * 100
    session.send("the type is known now")
    with pytest.raises(alongside.Corrupt):
        session.receive()


BOMB = """
import array
from alongside import _arrays
honest = _arrays.describe

def lie(data):
    if len(data) > 1:
        return honest(data)
    return 4, lambda block, offset: None, 0, (1_000_000,), None

_arrays.describe = lie
s.send([array.array("i", [1])] * {count} + [array.array("B", bytes(2_000_000))])
s.receive()
"""


def test_bytes_become_no_more_than_a_message_may_be(program):
    session = program(BOMB.format(count=2), max_message=4_000_000)
    assert [len(part) for part in session.receive()] == [1_000_000, 1_000_000, 2_000_000]
    session = program(BOMB.format(count=5), max_message=4_000_000)
    with pytest.raises(alongside.Corrupt, match="more bytes than max_message allows"):
        session.receive()


def test_honest_data_that_names_lent_bytes_often_is_refused_before_it_is_sent(program):
    session = program("s.send(s.receive())", max_message=4_000_000)
    with session.lend_bytes(1_000_000) as lent:
        with pytest.raises(alongside.TooLarge, match="5000000 bytes"):
            session.send([lent] * 5)
        session.send([lent] * 4)
    assert session.receive() == [bytes(1_000_000)] * 4
