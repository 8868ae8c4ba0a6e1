"""SIGKILL of either side while arrays are out: readers go on reading, and nothing stays behind."""

import gc
import os
import random
import sys
import textwrap

import alongside
import numpy as np
import pytest

from tests.conftest import HEAD

CYCLES = int(os.environ.get("ALONGSIDE_CYCLES", "300")) // 10
LENGTHS = (10, 3_000, 40_000, 300_000)
SENDER = """
    import numpy as np
    number = 0
    while True:
        length = {lengths}[number % 4]
        if number % 3:
            s.send([number, np.full(length, number)])
        else:
            with s.lend(length, "i8") as lent:
                lent[:] = number
                s.send([number, lent])
        number += 1
"""
READER = """
    kept = []
    for number, got in s:
        assert (got == number).all()
        kept = [*kept[-20:], got]
        s.send(number)
"""


def start(source):
    return alongside.start(
        [sys.executable, "-c", HEAD + textwrap.dedent(source)],
        stderr=alongside.DEVNULL,
        die_with_parent=True,
    )


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("seed", range(CYCLES))
def test_arrays_stay_whole_when_their_sender_is_killed(seed):
    session = start(SENDER.format(lengths=LENGTHS))
    fatal, kept, expected = random.Random(seed).randrange(60), [], 0
    try:
        while True:
            number, got = session.receive()
            assert number == expected
            assert got.shape == (LENGTHS[number % 4],)
            kept = [*kept[-30:], (number, got)]
            expected += 1
            if expected > fatal:
                session.kill()
    except alongside.PeerGone as reason:
        assert reason.exit_status == -9
    session.close()
    assert all((got == number).all() for number, got in kept)
    del session, kept, got
    gc.collect()


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("seed", range(CYCLES))
def test_a_sender_survives_a_reader_that_is_killed_with_arrays_out(seed):
    session = start(READER)
    fatal = random.Random(seed).randrange(60)
    with pytest.raises(alongside.PeerGone):
        for number in range(1_000_000):
            if number % 3:
                session.send([number, np.full(LENGTHS[number % 4], number)])
            else:
                with session.lend(LENGTHS[number % 4], "i8") as lent:
                    lent[:] = number
                    session.send([number, lent])
            if number >= fatal:
                session.kill()
    session.wait()
    session.close()
    del session, lent
    gc.collect()
