"""Whichever comes first: exactly one start, all connected, and a reason for all if it fails."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import alongside
import pytest
from alongside import start_or_connect

from tests.conftest import has_ended, wait_until

pytestmark = pytest.mark.usefixtures("scope")

SERVE = """
import alongside, os, signal, sys, time
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
def answer(data, session):
    if data == "end":
        os._exit(0)
    session.send([os.getpid(), data])
with alongside.publish("controller", answer):
    signal.pause()
"""


@pytest.fixture
def started(tmp_path):
    """Where programs note that they were started; they are ended after the test."""
    path = tmp_path / "started"
    path.touch()
    yield path
    for pid in pids(path):
        if not has_ended(pid):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: has_ended(pid))


def pids(path):
    return [int(line) for line in path.read_text().split()]


@pytest.fixture
def controller(started):
    return [sys.executable, "-c", SERVE, str(started)]


def ask(session, data="hello"):
    session.send(data)
    return session.receive(timeout=60)


def test_it_is_started_once_and_connected_to_then(controller, started):
    with start_or_connect("controller", controller) as session:
        pid, answer = ask(session)
        assert (answer, pids(started)) == ("hello", [pid])
        assert session.peer.pid == pid
    with start_or_connect("controller", ["/there/is/no/such/program"]) as session:
        assert ask(session) == [pid, "hello"]
    assert pids(started) == [pid]


def test_hello_is_the_first_message(controller):
    with start_or_connect("controller", controller, hello={"first": 1}) as session:
        assert session.receive(timeout=60)[1] == {"first": 1}


def test_nothing_is_started_for_a_hello_that_cannot_be_sent(controller, started):
    with pytest.raises(TypeError, match=r"data\[0\]"):
        start_or_connect("controller", controller, hello=[object()])
    assert pids(started) == []


def test_one_that_was_killed_is_started_anew(controller, started):
    with start_or_connect("controller", controller) as session:
        first = ask(session)[0]
        os.kill(first, signal.SIGKILL)
    with start_or_connect("controller", controller) as session:
        second = ask(session)[0]
    assert first != second
    assert pids(started) == [first, second]


def test_however_many_ask_there_is_one_start(controller, started, puppet):
    others = [puppet() for _ in range(10)]
    for other in others:
        other.say(f"alongside.start_or_connect('controller', {controller!r}, timeout=60).peer.pid")
    found = {other.hear() for other in others}
    assert found == set(pids(started))
    assert len(found) == 1


@pytest.fixture
def go(tmp_path):
    """A FIFO at which a slow program waits until it is to publish."""
    path = tmp_path / "go"
    os.mkfifo(path)
    return path


@pytest.fixture
def slow(controller, go):
    """A program that publishes when it is told to."""
    waits = f"open({str(go)!r}).close()\ndef answer"
    return [*controller[:2], controller[2].replace("def answer", waits, 1), *controller[3:]]


def test_what_a_killed_starter_has_started_is_waited_for(slow, go, started, puppet):
    starter = puppet()
    starter.say(f"alongside.start_or_connect('controller', {slow!r}, timeout=None)")
    wait_until(lambda: pids(started))
    starter.kill()
    other = puppet()
    other.say(f"alongside.start_or_connect('controller', {slow!r}, timeout=60).peer.pid")
    wait_until(lambda: alongside.Lock(".start/controller").owner())
    go.write_text("")
    assert [other.hear()] == pids(started)


def test_what_a_killed_starter_has_started_may_fail(slow, controller, started, puppet):
    starter = puppet()
    starter.say(f"alongside.start_or_connect('controller', {slow!r}, timeout=None)")
    wait_until(lambda: pids(started))
    starter.kill()
    other = puppet()
    other.say(f"alongside.start_or_connect('controller', {controller!r}, timeout=None).peer.pid")
    wait_until(alongside.Lock(".start/controller").owner)
    os.kill(pids(started)[0], signal.SIGKILL)
    assert other.hear() == pids(started)[1]


def test_one_that_has_published_and_stopped_is_not_waited_for(controller, started, puppet):
    """Its environment says for ever that it was started for the name."""
    code = """
import alongside, sys
alongside.publish("controller", print).revoke()
print("revoked", flush=True)
sys.stdin.read()
"""
    said = os.memfd_create("alongside-stderr")
    of = {"ALONGSIDE_STDERR_UNTIL_PUBLISHED": f"{os.fstat(said).st_ino}:user:controller"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | of,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        start_new_session=True,
    ) as old:
        assert old.stdout.readline() == b"revoked\n"
        killed = puppet()
        killed.run("lock = alongside.Lock('.start/controller'); lock.acquire()")
        killed.kill()
        with start_or_connect("controller", controller, timeout=None) as session:
            assert [ask(session)[0]] == pids(started)
        old.stdin.close()
    os.close(said)


@pytest.mark.parametrize("other", ["'x/controller', scope='user'", "'controller', scope='login'"])
def test_a_program_of_another_name_is_not_waited_for(
    other, slow, controller, started, puppet, monkeypatch
):
    monkeypatch.setenv("ALONGSIDE_LOGIN", "of-a-test")
    name, scope = other.split(", ")
    starter = puppet()
    starter.say(f"alongside.start_or_connect({name}, {slow!r}, {scope}, timeout=None)")
    wait_until(lambda: pids(started))
    # This name's starter has started nothing.
    killed = puppet()
    killed.run("lock = alongside.Lock('.start/controller'); lock.acquire()")
    killed.kill()
    with start_or_connect("controller", controller, timeout=None) as session:
        assert ask(session)[0] == pids(started)[1]


@pytest.mark.parametrize("is_async", [False, True])
def test_who_gives_up_waiting_for_it_lets_the_next_wait(slow, go, started, puppet, is_async):
    starter = puppet()
    starter.say(f"alongside.start_or_connect('controller', {slow!r}, timeout=None)")
    wait_until(lambda: pids(started))
    starter.kill()
    for _ in range(2):
        with pytest.raises(alongside.TimedOut, match="has not done so"):
            start_or_connect("controller", slow, timeout=0.05)
    lock = alongside.Lock(".start/controller")
    assert lock.owner() is None

    async def give_up():
        asking = asyncio.create_task(alongside.astart_or_connect("controller", slow, timeout=None))
        while lock.owner() is None:
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        while lock.owner() is not None:
            await asyncio.sleep(0)

    if is_async:
        asyncio.run(give_up())
    other = puppet()
    other.say(f"alongside.start_or_connect('controller', {slow!r}, timeout=60).peer.pid")
    wait_until(lock.owner)
    go.write_text("")
    assert [other.hear()] == pids(started)


def test_a_task_that_is_cancelled_leaves_nothing_running(slow, started):
    """Not what it has started, nor a thread that the program's end would wait for."""

    async def main():
        asking = asyncio.create_task(alongside.astart_or_connect("controller", slow, timeout=None))
        while not pids(started):
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(main())
    wait_until(lambda: has_ended(pids(started)[0]))
    assert len(pids(started)) == 1


def test_a_task_that_is_cancelled_waits_for_no_answer(controller, started):
    with start_or_connect("controller", controller):
        pass
    os.kill(pids(started)[0], signal.SIGSTOP)

    def asks():
        return [it for it in threading.enumerate() if it.name == "alongside: task"]

    async def main():
        asking = asyncio.create_task(
            alongside.astart_or_connect("controller", controller, timeout=None)
        )
        while not asks():
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(main())
    wait_until(lambda: not asks())


def test_who_waits_for_another_s_start_is_told_so(slow, go, started, puppet):
    starter = puppet()
    starter.say(f"alongside.start_or_connect('controller', {slow!r}, timeout=60).peer.pid")
    wait_until(lambda: pids(started))
    with pytest.raises(alongside.TimedOut, match=f"process {starter.pid} starts the program"):
        start_or_connect("controller", slow, timeout=0.05)
    go.write_text("")
    assert [starter.hear()] == pids(started)


def test_what_a_killed_starter_was_about_to_run_is_waited_for(started, puppet, tmp_path):
    """A lease of the program's file keeps it from being run, after it was started."""
    program = tmp_path / "program"
    serve = f"import sys\nsys.argv.append({str(started)!r})\n{SERVE}"
    program.write_text(f"#!{sys.executable}\n{serve}")
    program.chmod(0o755)
    start = f"alongside.start_or_connect('controller', [{str(program)!r}], timeout=60).peer.pid"
    starter, other = puppet(), puppet()
    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)
    with open(program, "rb") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        starter.say(start)
        wait_until(lambda: fcntl.fcntl(file, fcntl.F_GETLEASE) != fcntl.F_WRLCK)
        starter.kill()
        other.say(start)
        # Not amid a start of its own, but before the lock.
        wait_until(lambda: "futex" in Path(f"/proc/{other.pid}/wchan").read_text())
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    signal.signal(signal.SIGIO, handler)
    assert [other.hear()] == pids(started)


def test_all_that_wait_are_told_why_it_failed(puppet, tmp_path):
    others = [puppet() for _ in range(5)]
    count, go = tmp_path / "count", tmp_path / "go"
    fail = [
        "sh",
        "-c",
        f"echo x >> {count}; until [ -e {go} ]; do :; done; echo no plan today >&2; exit 3",
    ]
    failures = alongside.Cell(".start/controller", max_size=256 << 10)
    for other in others:
        other.say(f"alongside.start_or_connect('controller', {fail!r})")
    # One has started it, and all the others wait for that.
    wait_until(lambda: len(failures.holders()) == len(others) + 1)
    go.touch()
    for other in others:
        with pytest.raises(alongside.StartFailed, match="no plan today") as caught:
            other.hear()
        assert caught.value.exit_status == 3
        assert caught.value.stderr == b"no plan today\n"
    # Who asked while another's start went on shares its end.
    assert len(count.read_text().split()) < len(others)
    failures.close()


def test_one_that_ends_as_soon_as_it_has_published_is_not_started_for_ever(tmp_path):
    code = f"""
import alongside, os
open({str(tmp_path / "count")!r}, "a").write("x")
alongside.publish("controller", print)
os._exit(3)
"""
    with pytest.raises(alongside.StartFailed, match="published the name"):
        start_or_connect("controller", [sys.executable, "-c", code], timeout=60)
    assert len((tmp_path / "count").read_text()) <= 3


def test_a_traceback_is_told():
    command = [sys.executable, "-c", "import alongside; 1 / 0"]
    with pytest.raises(alongside.StartFailed, match="ZeroDivisionError") as caught:
        start_or_connect("controller", command)
    assert "before it had published the name" in str(caught.value)
    with pytest.raises(alongside.StartFailed, match="signal 9"):
        start_or_connect("controller", ["sh", "-c", "kill -9 $$"])


def test_what_cannot_be_run_is_said():
    with pytest.raises(FileNotFoundError):
        start_or_connect("controller", ["/there/is/no/such/program"])
    with pytest.raises(ValueError, match="empty"):
        start_or_connect("controller", [])
    with pytest.raises(FileNotFoundError) as caught:
        start_or_connect("controller", "sleep 3")
    assert "is a list" in caught.value.__notes__[0]


def test_one_that_never_publishes_is_ended(tmp_path):
    note = tmp_path / "pid"
    command = ["sh", "-c", f"echo $$ > {note}; sleep 1000 & sleep 1000"]
    with pytest.raises(alongside.TimedOut, match="was ended"):
        start_or_connect("controller", command, timeout=0.5)
    sid = int(note.read_text())
    wait_until(lambda: not any(_sid(pid) == sid for pid in os.listdir("/proc")))


def test_one_that_is_not_detached_is_ended_too(slow, started):
    with pytest.raises(alongside.TimedOut, match="was ended"):
        start_or_connect("controller", slow, detached=False, timeout=0.5)
    wait_until(lambda: all(map(has_ended, pids(started))))


def _sid(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return int(fields[3]) if fields[0] != "Z" else None


def test_a_wrapper_that_leaves_it_behind_is_no_failure(controller, started):
    command = ["sh", "-c", '"$@" & exit 0', "sh", *controller]
    with start_or_connect("controller", command, timeout=60) as session:
        assert ask(session)[0] in pids(started)


def test_what_a_wrapper_has_left_behind_may_fail_too():
    # It outlives the wrapper, whose end has been noticed when nothing is left of it.
    left = "while kill -0 $$ 2>/dev/null; do :; done; echo gave up >&2; exit 3"
    wrapper = ["sh", "-c", f"({left}) & exit 0"]
    with pytest.raises(alongside.StartFailed, match="gave up"):
        start_or_connect("controller", wrapper, timeout=None)


def test_a_wrapper_that_leaves_nothing_behind_is_one():
    with pytest.raises(alongside.StartFailed, match="exit status 0"):
        start_or_connect("controller", ["true"], timeout=60)


STARTER = """
import alongside, sys
session = alongside.start_or_connect("controller", sys.argv[1:], timeout=60)
print(session.peer.pid)
"""


def test_a_detached_one_outlives_its_starter_and_holds_nothing_of_it(controller, started):
    """As in `$(starter)`: the shell waits until all ends of the pipe are closed."""
    read, write = os.pipe()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STARTER, *controller],
        capture_output=True,
        check=True,
        pass_fds=[write],
        start_new_session=True,
    )
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    assert done.stderr == b""
    pid = int(done.stdout)
    assert pids(started) == [pid]
    assert os.getsid(pid) == pid
    streams = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)]
    assert streams == ["/dev/null"] * 3
    # Another starter finds it.
    again = subprocess.run(
        [sys.executable, "-c", STARTER, *controller], capture_output=True, check=True
    )
    assert int(again.stdout) == pid


def test_a_hang_up_of_the_terminal_does_not_end_it(controller, started):
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER + "sys.stdout.flush(); session.receive()", *controller],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    pid = int(starter.stdout.readline())
    os.killpg(starter.pid, signal.SIGHUP)
    starter.wait()
    starter.stdout.close()
    with start_or_connect("controller", ["false"]) as session:
        assert ask(session)[0] == pid


def test_one_that_is_not_detached_shares_streams_and_group(controller, started):
    code = STARTER.replace("timeout=60", "timeout=60, detached=False")
    with subprocess.Popen(
        [sys.executable, "-c", code, *controller], stdout=subprocess.PIPE, start_new_session=True
    ) as starter:
        pid = int(starter.stdout.readline())
        assert os.getpgid(pid) == starter.pid
        os.kill(pid, signal.SIGKILL)


def test_programs_that_end_are_reaped(controller, started):
    found = []
    for _ in range(3):
        with start_or_connect("controller", controller) as session:
            found.append(ask(session)[0])
            session.send("end")
            wait_until(lambda: has_ended(found[-1]))
    # The last one may wait for the next start; those before do not.
    assert not any(os.path.exists(f"/proc/{pid}") for pid in found[:-1])


def test_tasks_start_or_connect(controller, started):
    async def main():
        sessions = await asyncio.gather(
            *(alongside.astart_or_connect("controller", controller, timeout=60) for _ in range(3))
        )
        assert len({session.peer.pid for session in sessions}) == 1
        for session in sessions:
            await session.aclose()

    asyncio.run(main())


def test_a_name_that_nobody_can_call_is_said():
    with alongside.publish("controller"), pytest.raises(alongside.Denied):
        start_or_connect("controller", ["false"])


def test_what_it_prints_later_fills_nothing(started):
    """Its stderr is kept until it has published its name, and not for ever."""
    code = textwrap.dedent(SERVE).replace(
        "    session.send(", "    print('x' * 10_000, file=sys.stderr)\n    session.send("
    )
    command = [sys.executable, "-c", code, str(started)]
    with start_or_connect("controller", command) as session:
        pid, _ = ask(session)
    assert os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
    assert "ALONGSIDE_STDERR" not in subprocess.check_output(
        ["sh", "-c", "env"], env=dict(os.environ), text=True
    )
