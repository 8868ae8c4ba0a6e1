"""A display, and commands that go on in the background or run as somebody else."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import alongside
import pytest

from tests.e2e.command import COMMAND, NOBODY

# As another user, for good. The interpreter may lie where that user cannot read, so what is needed
# is loaded before; and it is made like any other program of that user (PR_SET_DUMPABLE).
AS_NOBODY = f"""
import ctypes, json, logging, os, pwd, shutil, subprocess, sys
import alongside, alongside.loops._polled
from alongside import _callbacks, _data, _directory, _distant, _publish, _watch
from alongside._command import _cells, _doctor, _listening, _listing, _machine, _sending, main
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="session")
def display():
    """A virtual display, or the test does not run."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as number:
        yield ":" + number.readline().strip()
    server.terminate()
    server.wait()


@pytest.fixture
def begin():
    """Begin commands that go on until they are ended."""
    begun = []

    def start(*arguments, command=COMMAND, **options):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([*command, *map(str, arguments)], **(pipes | options))
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def listen(begin):
    """Begin to listen; the name is there when this returns."""

    def start(name, *arguments, **options):
        process = begin("listen", name, *arguments, **options)
        told = process.stderr.readline().decode()
        assert told.startswith(f"listening as {name}"), told
        return process

    return start


@pytest.fixture
def sink():
    """A name in this process; gives what arrives under it."""
    seen = []
    with alongside.publish("sink", lambda data, session: seen.append(data)):
        yield seen


@pytest.fixture
def runtime():
    """A runtime directory of another user's."""
    if os.geteuid() != 0:
        pytest.skip("needs root, who becomes another user")
    path = Path(tempfile.mkdtemp())
    os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def run_as_nobody(runtime):
    """Run a command to its end, as another user."""

    def run(*arguments):
        command = [sys.executable, "-c", AS_NOBODY, *map(str, arguments)]
        environment = os.environ | {"XDG_RUNTIME_DIR": str(runtime)}
        return subprocess.run(command, capture_output=True, check=False, cwd="/", env=environment)

    return run


@pytest.fixture
def begin_as_nobody(begin, runtime):
    """Begin commands as another user."""
    environment = os.environ | {"XDG_RUNTIME_DIR": str(runtime)}

    def start(*arguments):
        command = [sys.executable, "-c", AS_NOBODY]
        return begin(*arguments, command=command, cwd="/", env=environment)

    return start
