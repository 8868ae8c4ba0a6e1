"""What all tests share: programs to start, and the check that nothing is left behind.

A test that hangs is ended by pytest's own watchdog (`faulthandler_timeout`), which says where; no
test measures time by it.
"""

import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import alongside
import pytest

# Who runs the tests in the background has SIGINT ignored, and so would every program started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

HEAD = "import alongside, os, signal, sys, threading, time\ns = alongside.session(required=True)\n"


ECHO = "for message in s: s.send(message)"


def command(source, head=HEAD):
    """What starts a program given as source, in which `s` is its session."""
    return [sys.executable, "-c", head + textwrap.dedent(source)]


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


def children(pid="self"):
    """The processes, dead or alive, that a process has to reap."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found.update((task / "children").read_text().split())
        except OSError:
            # A thread that has ended meanwhile.
            continue
    return found


def has_ended(pid):
    """Whether a process is dead, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def left_behind():
    """All that this process has open, mapped, or to reap."""
    return {*open_files().items(), *mappings(), *children()}


@pytest.fixture
def leaves_nothing():
    """After the test there are no more descriptors, mappings and children than before it."""
    # What the process makes once and keeps, is made before the count.
    with alongside.start(command("s.close()"), die_with_parent=True) as session:
        session.on_message(print)
        session.wait()
    del session
    gc.collect()
    before = left_behind()
    yield
    gc.collect()
    # Fewer is no fault: programs of earlier tests that nobody waited for are reaped by any start.
    assert left_behind() <= before


@pytest.fixture
def program():
    """Start programs given as source, in which `s` is their session; end them after the test."""
    started = []

    def start(source, *arguments, head=HEAD, **options):
        session = alongside.start([*command(source, head), *map(str, arguments)], **options)
        started.append(session)
        return session

    yield start
    for session in started:
        session.kill()
        session.wait()
        session.close(timeout=0)


@pytest.fixture
def echo(program):
    """A session with a program that sends back what it gets."""
    return program(ECHO)


@pytest.fixture
def scope(tmp_path, monkeypatch):
    """Give a runtime directory of its own, and in it the directory of the scope "user"."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "alongside" / "user"


@pytest.fixture
def owner_anywhere():
    """Run programs given as source, which publish and wait until their standard input ends.

    Their names go where the environment says. What their workers write, in whatever order, is to be
    said with `begun`.
    """
    started = []

    def run(source, *arguments, begun=b""):
        source = "import alongside, os, sys, threading\n" + textwrap.dedent(source)
        source += "\nprint('there', flush=True)\nos.read(0, 1)\n"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        argv = [sys.executable, "-c", source, *map(str, arguments)]
        process = subprocess.Popen(argv, **pipes)
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
def owner(scope, owner_anywhere):
    """Run programs whose names go into the scope of the test."""
    return owner_anywhere


# Runs what it is told, and tells what that gives, or the error.
PUPPET = """
import pickle, sys, os, time, signal, threading, alongside
said, told = os.fdopen(SAID, "rb"), os.fdopen(TOLD, "wb")
space = dict(globals())
while True:
    kind, code = pickle.load(said)
    try:
        value = eval(code, space) if kind == "eval" else exec(code, space)
        answer = True, value
    except BaseException as error:
        answer = False, error
    pickle.dump(answer, told)
    told.flush()
"""


class Puppet:
    """Another process, which runs what this one says."""

    def __init__(self, **options):
        ours, its = os.pipe(), os.pipe()
        code = f"SAID, TOLD = {ours[0]}, {its[1]}\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code + PUPPET], pass_fds=[ours[0], its[1]], **options
        )
        os.close(ours[0])
        os.close(its[1])
        self.saying, self.hearing = os.fdopen(ours[1], "wb"), os.fdopen(its[0], "rb")
        self.pid = self.process.pid

    def say(self, code, kind="eval"):
        """Have it begin with something; `hear` gives what comes of it."""
        pickle.dump((kind, textwrap.dedent(code)), self.saying)
        self.saying.flush()
        return self

    def hear(self):
        done, value = pickle.load(self.hearing)
        if not done:
            raise value
        return value

    def __call__(self, code):
        """Give what an expression is there."""
        return self.say(code).hear()

    def run(self, code):
        """Run statements there."""
        return self.say(code, "exec").hear()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        """End it in order, as a program does that has come to its end."""
        self.run("threading.Timer(0, lambda: None)")
        self.saying.close()
        self.process.wait()

    def close(self):
        self.kill()
        for end in (self.saying, self.hearing):
            with contextlib.suppress(OSError):
                end.close()


@pytest.fixture
def puppet(scope):
    """Start processes that run what they are told, in the scope of the test."""
    started = []

    def start(**options):
        started.append(Puppet(**options))
        return started[-1]

    yield start
    for each in started:
        each.close()


def wait_until(condition):
    """Wait for a condition that nothing announces; the watchdog ends it."""
    while not condition():
        time.sleep(0.001)


WAITING_CALLS = {
    7,
    202,
    232,
    271,
    281,
    441,
}  # poll, futex, epoll_wait, ppoll, epoll_pwait(2): x86-64


def is_stopped(pid):
    """Whether a process is stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def is_asleep(pid, thread=None):
    """Whether a process's main thread, or the given one, sleeps in a call that waits."""
    try:
        number = Path(f"/proc/{pid}/task/{thread or pid}/syscall").read_text().split()[0]
    except (OSError, IndexError):
        return False
    return number.isdigit() and int(number) in WAITING_CALLS
