"""What these tests share: asyncio's loops, and programs that publish names."""

import asyncio

import pytest
import uvloop


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine to its end, on asyncio's own loop or on uvloop's."""
    return request.param


@pytest.fixture
def other(owner):
    """Run programs that publish names."""
    return lambda *names: owner("for n in sys.argv[1:]: alongside.publish(n)", *names)
