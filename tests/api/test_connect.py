"""Connecting to programs by name: both directions, many callers, callers that say nothing."""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import alongside
import pytest
from alongside import loops

from tests.conftest import open_files, wait_until

ECHO = "r = alongside.publish('echo', on_message=lambda data, session: session.send(data))"


pytestmark = pytest.mark.usefixtures("scope")


def test_a_program_is_connected_to_by_its_name(owner):
    process = owner(ECHO)
    with alongside.connect("echo") as session:
        assert session.peer.pid == process.pid
        for data in ("x", b"y" * 1_000_000, {"a": [1, None]}):
            session.send(data)
            assert session.receive(timeout=30) == data
    with alongside.connect("echo") as session:
        session.send(2)
        assert session.receive(timeout=30) == 2


def test_the_owner_sends_first_and_knows_who_is_there(owner):
    owner(
        """
        def connected(session):
            session.send([session.peer.pid, len(r.sessions)])
            session.on_message(lambda data: session.send(data * 2))
        r = alongside.publish("greeter", on_connect=connected)
        """
    )
    first, second = alongside.connect("greeter"), alongside.connect("greeter")
    assert first.receive(timeout=30) == [os.getpid(), 1]
    assert second.receive(timeout=30) == [os.getpid(), 2]
    for session in (first, second):
        session.send("ab")
        assert session.receive(timeout=30) == "abab"
        session.close()


def test_one_of_several_can_be_picked(owner):
    owners = [owner(ECHO) for _ in range(3)]
    for entry, process in zip(alongside.running("echo"), owners, strict=True):
        with alongside.connect(entry) as session:
            assert session.peer.pid == process.pid
        with alongside.connect("echo", instance=entry.instance) as session:
            assert session.peer.pid == process.pid
    owners[0].kill()
    owners[0].wait()
    with alongside.connect("echo") as session:
        assert session.peer.pid == owners[1].pid


def test_each_side_knows_at_once_that_the_other_is_gone(owner):
    process = owner(ECHO)
    session = alongside.connect("echo")
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(alongside.PeerGone):
        session.receive()
    session.close()
    with pytest.raises(alongside.NotFound):
        alongside.connect("echo")


def test_a_caller_that_dies_is_told_to_the_owner():
    ended = threading.Event()
    reasons = []

    def connected(session):
        session.on_message(print)
        session.on_close(lambda reason: (reasons.append(reason), ended.set()))

    with alongside.publish("owner", on_connect=connected) as registration:
        source = "import alongside, os\ns = alongside.connect('owner')\nos.kill(os.getpid(), 9)"
        subprocess.run([sys.executable, "-c", source], check=False)
        assert ended.wait(60)
        assert isinstance(reasons[0], alongside.PeerGone)
        assert registration.sessions == []


@pytest.mark.parametrize("name", ["ecko", "echoo", "ECHO", "ech"])
def test_a_name_that_is_nearly_one_is_told(owner, name):
    owner(ECHO)
    with pytest.raises(alongside.NotFound, match='there is "echo"'):
        alongside.connect(name)
    with pytest.raises(LookupError, match="no program runs under the name"):
        alongside.connect("something else")


def test_a_name_without_callbacks_takes_no_connections():
    refused = pytest.raises(alongside.Denied, match="takes no connections")
    with alongside.publish("seen"), refused:
        alongside.connect("seen")


def test_after_revoke_nobody_is_let_in_and_sessions_go_on():
    done = threading.Event()

    def arrived(data, session):
        session.send(data)
        done.set()

    registration = alongside.publish("a", on_message=arrived)
    session = alongside.connect("a")
    session.send(1)
    assert session.receive(timeout=30) == 1
    entry = registration.entry
    registration.revoke()
    for call in (lambda: alongside.connect("a"), lambda: alongside.connect(entry)):
        with pytest.raises(alongside.NotFound):
            call()
    session.send(2)
    assert session.receive(timeout=30) == 2
    session.close()


def test_a_program_that_does_not_answer_is_waited_for_until_the_deadline(owner):
    process = owner(ECHO)
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    with pytest.raises(alongside.TimedOut, match="has not answered"):
        alongside.connect("echo", timeout=0.05)
    os.kill(process.pid, signal.SIGCONT)
    with alongside.connect("echo") as session:
        session.send(1)
        assert session.receive(timeout=30) == 1


@pytest.fixture
def echo_socket(owner, scope, monkeypatch):
    """Give the path of a socket where a program takes callers, short enough for an address."""
    owner(ECHO)
    (path,) = scope.joinpath("sockets").iterdir()
    monkeypatch.chdir(path.parent)
    return path.name


def test_callers_that_say_nothing_hold_up_nobody(echo_socket):
    silent = []
    for _ in range(600):
        caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        caller.connect(echo_socket)
        silent.append(caller)
    silent[-1].send(b"what is this")
    silent[-2].send(bytes(10_000))
    for number in range(20):
        with alongside.connect("echo") as session:
            session.send(number)
            assert session.receive(timeout=30) == number
    for caller in silent:
        caller.close()


def test_callers_that_say_nothing_leave_a_program_its_descriptors(owner, scope, monkeypatch):
    """Of 120, those of three names get a quarter, and one each."""
    most, names = 120, ["a", "b", "c"]
    owner(
        """
        import resource
        most, names = int(sys.argv[1]), sys.argv[2:]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        def answer(_, session):
            session.send(len(os.listdir("/proc/self/fd")))
        for name in names:
            alongside.publish(name, answer)
        """,
        most,
        *names,
    )

    def used():
        found = []
        for name in names:
            with alongside.connect(name) as session:
                session.send(None)
                found.append(session.receive(timeout=30))
        return max(found)

    def call(path, times):
        for _ in range(times):
            caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            caller.connect(path.name)
            silent.append(caller)

    before, silent = used(), []
    sockets = list(scope.joinpath("sockets").iterdir())
    monkeypatch.chdir(sockets[0].parent)
    for path in sockets:
        call(path, most)
        # One more has come, and has been answered: all these were looked at before it.
        # What it had for who has just asked goes a moment later.
        wait_until(lambda: used() - before <= most // 4 + len(names))
    assert used() - before >= most // 4 - len(names)
    for caller in silent:
        caller.close()


def test_a_caller_that_says_nothing_is_left_after_a_while(echo_socket):
    """Five seconds, by the owner's clock."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.settimeout(100)
        silent.connect(echo_socket)
        with alongside.connect("echo") as session:
            session.send(1)
            assert session.receive(timeout=30) == 1
        assert silent.recv(100) == b""


def test_a_liar_about_its_memory_is_turned_away(echo_socket):
    # "ALWR", version 1, kind 7 (connect), layout, 0, the instance.
    call = b"ALWR" + (1).to_bytes(2, "little") + (7).to_bytes(2, "little")
    instance = int(echo_socket.rpartition("-")[2], 16).to_bytes(8, "little")
    memory = os.memfd_create("lie")
    os.truncate(memory, 1 << 20)
    ends = os.pipe()
    for files in ([], [memory], [memory, *ends], [memory, *ends, *ends]):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as liar:
            liar.connect(echo_socket)
            message = call + (1).to_bytes(4, "little") + bytes(4) + instance
            socket.send_fds(liar, [message], files)
            liar.settimeout(60)
            answer = liar.recv(100)
            # Refused for its layout, or hung up.
            assert answer == b"" or answer[6] == 3
    for fd in (memory, *ends):
        os.close(fd)
    with alongside.connect("echo") as session:
        session.send(1)
        assert session.receive(timeout=30) == 1


def test_callbacks_run_where_the_program_wants_them():
    async def main():
        here = threading.get_ident()
        seen = []

        def arrived(data, session):
            seen.append((data, threading.get_ident()))
            session.send(data)

        with alongside.publish("loop", on_message=arrived, on=loops.Asyncio()):
            caller = asyncio.to_thread(ask)
            assert await caller == "hello"
        assert seen == [("hello", here)]

    def ask():
        with alongside.connect("loop") as session:
            session.send("hello")
            return session.receive(timeout=30)

    asyncio.run(main())


def test_what_a_callback_raises_ends_nothing(caplog):
    def connected(session):
        session.send("first")
        if len(registration.sessions) == 1:
            msg = "on purpose"
            raise ValueError(msg)
        session.on_message(session.send)

    with alongside.publish("raises", on_connect=connected) as registration:
        with alongside.connect("raises") as turned_away:
            assert turned_away.receive(timeout=30) == "first"
            with pytest.raises(alongside.Closed):
                turned_away.receive(timeout=30)
        kept = alongside.connect("raises")
        wait_until(lambda: registration.sessions == [] or kept.alive)
        kept.close()
    assert "on purpose" in caplog.text


def test_hundreds_of_callers_leave_nothing(owner):
    owner(ECHO)
    with alongside.connect("echo"):
        pass
    before = len(open_files())
    for _ in range(10):
        sessions = [alongside.connect("echo") for _ in range(30)]
        for number, session in enumerate(sessions):
            session.send(number)
        assert [session.receive(timeout=60) for session in sessions] == list(range(30))
        while sessions:
            sessions.pop().close()
    del session
    gc.collect()
    assert len(open_files()) <= before


@pytest.mark.parametrize("name", ["", "a//b", "@root"])
def test_a_name_that_breaks_a_rule_is_refused(name):
    with pytest.raises(ValueError, match="is no name"):
        alongside.connect(name)


def test_a_program_that_published_does_nothing_while_nobody_calls(owner):
    """Not one of its threads wakes up, with callbacks, a session and a watch."""
    process = owner(
        """
        r = alongside.publish("idle", on_message=lambda data, session: session.send(data))
        watch = alongside.watch("elsewhere/*")
        watch.on_change(print)
        """
    )
    with alongside.connect("idle") as session:
        session.send(1)
        assert session.receive(timeout=30) == 1

        def switches():
            tasks = Path(f"/proc/{process.pid}/task").iterdir()
            texts = [task.joinpath("status").read_text() for task in tasks]
            return [line for text in texts for line in text.splitlines() if "ctxt" in line]

        def nothing_happens_for_a_second():
            before = switches()
            # No wait for a condition: that nothing happens shows in time alone.
            time.sleep(1)
            return switches() == before

        # Beside busy programs a thread may still be on its way to sleep when the answer is here.
        wait_until(nothing_happens_for_a_second)
