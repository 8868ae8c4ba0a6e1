"""Many callers of one owner: a hundred thousand one after the other, hundreds at once, too many.

`ALONGSIDE_CYCLES` sets how many: ten times as many connects, a tenth as many at once.
"""

import gc
import os
import resource
from pathlib import Path

import alongside
import pytest

from tests.conftest import open_files, wait_until

CYCLES = int(os.environ.get("ALONGSIDE_CYCLES", "300"))

# With a limit of descriptors.
OWNER = """
import resource
soft = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
r = alongside.publish("echo", lambda data, session: session.send(data))
def tell(_, session):
    session.send([len(r.sessions), len(os.listdir("/proc/self/fd")),
                  [line for line in open("/proc/self/status") if line.startswith("RssAnon")][0]])
alongside.publish("state", tell)
"""


pytestmark = pytest.mark.usefixtures("scope")


def state():
    """Give the owner's sessions, its descriptors, and its own memory in KiB."""
    with alongside.connect("state", timeout=60) as session:
        session.send(None)
        sessions, files, memory = session.receive(timeout=60)
    return sessions, files, int(memory.split()[1])


def own_kb():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("RssAnon")).split()[1])


def exchange(number):
    with alongside.connect("echo", timeout=60) as session:
        session.send(number)
        assert session.receive(timeout=60) == number


def test_connects_leave_no_descriptor_and_no_memory_behind(owner):
    """A hundred thousand in the campaign."""
    owner(OWNER, 1024)
    for number in range(500):
        exchange(number)
    state()
    gc.collect()
    files, memory, theirs = len(open_files()), own_kb(), state()
    for number in range(CYCLES * 10):
        exchange(number)
    gc.collect()
    wait_until(lambda: state()[:2] == theirs[:2])
    assert len(open_files()) == files
    # Not a byte for each: what is left is the allocators' business.
    most = 4096
    assert own_kb() - memory < most
    assert state()[2] - theirs[2] < most


def test_hundreds_are_served_at_once(owner):
    """A thousand in the campaign."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        owner(OWNER, hard)
        sessions = [alongside.connect("echo", timeout=60) for _ in range(CYCLES // 10)]
        for number, session in enumerate(sessions):
            session.send(number)
        for number, session in enumerate(sessions):
            assert session.receive(timeout=60) == number
        assert state()[0] == len(sessions)
        for session in sessions:
            session.close()
        wait_until(lambda: state()[0] == 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_callers_than_an_owner_has_descriptors_for_wait_or_are_told(owner):
    """Those who are in are served all the while, and when they leave others get in."""
    owner(OWNER, 150)
    sessions = []
    with pytest.raises((alongside.Busy, alongside.TimedOut)) as told:
        for _ in range(100):
            sessions.append(alongside.connect("echo", timeout=1))
    assert "descriptors" in str(told.value) or "has not answered" in str(told.value)
    assert len(sessions) >= 8
    for number, session in enumerate(sessions):
        session.send(number)
        assert session.receive(timeout=60) == number
    for session in sessions[5:]:
        session.close()

    def gets_in():
        try:
            exchange(1)
        except alongside.Busy:
            return False
        return True

    wait_until(gets_in)
    for session in sessions[:5]:
        session.close()
    wait_until(lambda: state()[0] == 0)
