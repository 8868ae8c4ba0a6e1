"""What these tests share: asyncio's loops, programs that publish names, and locks."""

import asyncio
import threading

import alongside
import pytest
import uvloop
from alongside import Lock, RWLock


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine to its end, on asyncio's own loop or on uvloop's."""
    return request.param


@pytest.fixture
def other(owner):
    """Run programs that publish names."""
    return lambda *names: owner("for n in sys.argv[1:]: alongside.publish(n)", *names)


@pytest.fixture
def lock():
    return Lock("a/b")


@pytest.fixture
def rwlock():
    return RWLock("a/b")


def may_read(rwlock):
    """Whether another thread may read: one that reads already may read again."""
    found = []

    def read():
        try:
            with rwlock.reading(timeout=0):
                found.append(True)
        except alongside.TimedOut:
            found.append(False)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    return found[0]
