"""What the tests of asyncio share: the loops that it can run on."""

import asyncio

import pytest
import uvloop


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine to its end, on asyncio's own loop or on uvloop's."""
    return request.param
