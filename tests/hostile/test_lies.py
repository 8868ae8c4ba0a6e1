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
LIES = {
    "a negative size": "shape = (-1,)",
    "more than is there": "shape = (1_000_000,)",
    "more than can be counted": "shape = (1 << 62, 1 << 62)",
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
    "a table that is none": "code, kind, shape, order = 5, 800, 'table', ''",
    "a table of no known form": "code, kind, shape, order = 5, 800, 'chair', ''",
}


@pytest.mark.parametrize("where", ["{}", "['deep', [{}]]"])
@pytest.mark.parametrize("name", sorted(LIES))
def test_a_lie_about_an_array_ends_the_session_as_corrupt(program, name, where):
    data = where.format("array.array('d', range(100))")
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
