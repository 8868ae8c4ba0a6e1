"""What these tests share: asyncio's loops, and programs that publish in a scope of the test's."""

import asyncio
import os
import subprocess
import sys
import textwrap

import pytest
import uvloop


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine to its end, on asyncio's own loop or on uvloop's."""
    return request.param


@pytest.fixture
def scope(tmp_path, monkeypatch):
    """Give a runtime directory of its own, and in it the directory of the scope "user"."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "alongside" / "user"


@pytest.fixture
def owner(scope):
    """Run programs given as source, which publish and wait until their standard input ends.

    What their workers write, in whatever order, is to be said with `begun`.
    """
    started = []

    def run(source, *arguments, begun=b""):
        source = "import alongside, os, sys, threading\n" + textwrap.dedent(source)
        source += "\nprint('there', flush=True)\nos.read(0, 1)\n"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", source, *arguments], **pipes)
        started.append(process)
        said = b""
        while sorted(said) != sorted(b"there\n" + begun):
            said += os.read(process.stdout.fileno(), 100)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def other(owner):
    """Run programs that publish names."""
    return lambda *names: owner("for n in sys.argv[1:]: alongside.publish(n)", *names)
