"""What all tests share: programs to start, a watchdog, and the check that nothing is left behind."""

import faulthandler
import gc
import os
import sys
from pathlib import Path

import alongside
import pytest

PROGRAMS = Path(__file__).parent / "programs"
WATCHDOG_S = 120


@pytest.fixture(autouse=True)
def _watchdog():
    """A test that hangs says where, and ends the run; no test measures time by it."""
    faulthandler.dump_traceback_later(WATCHDOG_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def open_files():
    """What this process has open, by number and target; the listing's own descriptor left out."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
    return found


def mappings():
    """The shared memory of sessions that this process has mapped."""
    return [
        line for line in Path("/proc/self/maps").read_text().splitlines() if "alongside-" in line
    ]


def children():
    """The processes, dead or alive, that this one has to reap."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(path.read_text().split())


@pytest.fixture
def leaves_nothing():
    """Descriptors, mappings and children are after the test what they were before it."""
    # What the process makes once and keeps, is made before the count.
    with alongside.start([sys.executable, PROGRAMS / "echo.py"], die_with_parent=True):
        pass
    gc.collect()
    before = open_files(), mappings(), children()
    yield
    gc.collect()
    assert (open_files(), mappings(), children()) == before


@pytest.fixture
def echo():
    """A session with a program that sends back what it gets."""
    with alongside.start([sys.executable, PROGRAMS / "echo.py"]) as session:
        yield session
    session.kill()
    session.wait()


def run(source, **options):
    """Start a program given as source; `s` is its session there."""
    head = "import alongside, os, sys, time\ns = alongside.session(required=True)\n"
    return alongside.start([sys.executable, "-c", head + source], **options)
