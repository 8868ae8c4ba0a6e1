"""SIGKILL of either side at random moments under load, in both directions at once.

Every message received is whole, in order and without gaps; every survivor sees the death; nothing
is left. `ALONGSIDE_CYCLES` sets how many deaths there are, half of each kind.
"""

import os
import random
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import alongside
import pytest

from tests.conftest import children

from .load import receive_all, send_all

LOAD = Path(__file__).with_name("load.py")
CYCLES = int(os.environ.get("ALONGSIDE_CYCLES", "300"))
BATCH = 10


def moment(seed):
    """After how many messages to kill; most deaths come early, some late."""
    return int(random.Random(seed).expovariate(1 / 200))


@pytest.mark.parametrize("batch", range(CYCLES // 2 // BATCH))
@pytest.mark.usefixtures("leaves_nothing")
def test_the_starter_survives_the_death_of_the_program(batch):
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        fatal = moment(seed)
        session = alongside.start([sys.executable, LOAD], stdout=alongside.DEVNULL)
        sender = threading.Thread(target=send_all, args=(session,))
        sender.start()
        count, reason = receive_all(
            session, lambda count, fatal=fatal, session=session: count > fatal and session.kill()
        )
        sender.join()
        assert isinstance(reason, alongside.PeerGone), reason
        assert reason.exit_status == -signal.SIGKILL
        assert count > fatal
        session.close(timeout=0)
        del session, sender, reason


@pytest.mark.parametrize("batch", range(CYCLES // 2 // BATCH))
def test_the_program_survives_the_death_of_its_starter(batch):
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        starter = subprocess.Popen([sys.executable, LOAD], stdout=subprocess.PIPE)
        assert starter.stdout.readline() == b"begun\n"
        (pid,) = map(int, children(starter.pid))
        handle = os.pidfd_open(pid)
        # The pace of the two is not ours to see; a random stretch of our own work is the moment.
        for _ in range(random.Random(seed).randrange(100)):
            Path(f"/proc/{pid}/maps").read_bytes()
        starter.kill()
        kind, count = starter.stdout.read().split()
        starter.wait()
        starter.stdout.close()
        assert kind == b"PeerGone"
        assert int(count) >= 0
        # The survivor has ended by itself.
        select.select([handle], [], [])
        os.close(handle)
