"""What these tests share: asyncio's loops, programs that publish names, locks, and other users."""

import asyncio
import os
import pwd
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import alongside
import pytest
import uvloop
from alongside import Lock, RWLock

MACHINE = Path("/run/alongside")
ROOT_NEEDED = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who makes users")


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


@pytest.fixture
def machine():
    """Set the machine up as root does, and leave it as it was."""
    was_there = MACHINE.exists()
    if not was_there:
        MACHINE.mkdir()
        MACHINE.chmod(0o1777)
    before = set(MACHINE.iterdir())
    yield MACHINE
    for path in set(MACHINE.iterdir()) - before:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not was_there:
        MACHINE.rmdir()


@pytest.fixture(scope="module")
def users():
    """Make two users; give their numbers."""
    names = [f"alongside-test-{number}" for number in (1, 2)]
    for name in names:
        subprocess.run(["useradd", "--no-create-home", name], check=True)
    yield [pwd.getpwnam(name).pw_uid for name in names]
    for name in names:
        subprocess.run(["userdel", name], check=True)


# Becomes another user for good. The interpreter may lie where that user cannot read, so what is
# needed is loaded before; and it is made like any other program of that user (PR_SET_DUMPABLE).
BECOME = """
import alongside, ctypes, glob, grp, logging, shutil, os, pwd, sys, threading, traceback
from alongside import _callbacks, _cells, _changes, _data, _directory, _distant, _instances
from alongside import _locks, _publish, _watch, loops
import alongside.loops._polled
user = pwd.getpwuid({uid})
# Its further groups, of which it has none: the first one is no part of them.
os.setgroups([])
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0
"""


@pytest.fixture
def as_user():
    """Run programs given as source as another user; they wait until their standard input ends."""
    started = []

    def run(uid, source, *arguments, waits=True):
        source = BECOME.format(uid=uid) + textwrap.dedent(source)
        if waits:
            source += "\nprint('there', flush=True)\nos.read(0, 1)\n"
        argv = [sys.executable, "-c", source, *map(str, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(argv, **pipes, cwd="/")
        started.append(process)
        if waits:
            assert process.stdout.readline() == b"there\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
