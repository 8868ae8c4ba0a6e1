"""`alongside doctor` names each planted fault, and what it says mends it."""

import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import alongside
import pytest
from alongside import _core

from tests.conftest import wait_until
from tests.e2e.command import COMMAND, NOBODY, ended, run, says, stop

pytestmark = pytest.mark.usefixtures("scope")

MACHINE = Path("/run/alongside")
RULE = Path("/etc/tmpfiles.d/alongside.conf")
ROOT_NEEDED = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
PTRACE_ATTACH, PTRACE_DETACH = 16, 17


def diagnosis():
    """What doctor says of this test's own directory, and whether its status fits all it says."""
    done = run("doctor", "--json")
    told = json.loads(done.stdout)
    assert done.stderr == b""
    assert told["well"] == all(finding["level"] == "info" for finding in told["findings"])
    assert done.returncode == (0 if told["well"] else 1)
    # Of the machine, others may have made something else.
    ours = {"scope user", "XDG_RUNTIME_DIR", "who waits"}
    return [finding for finding in told["findings"] if finding["subject"] in ours]


def troubles():
    """What is no information, which people are shown as well."""
    found = [finding for finding in diagnosis() if finding["level"] != "info"]
    shown = run("doctor").stdout.decode()
    for finding in found:
        line = f"{finding['level']}: {finding['text']}"
        assert not line.isprintable() or line in shown
    return found


def follow(mend):
    """Do what is said mends it."""
    command = re.search(r"(rm|chmod|kill) .*", mend)[0]
    command = command.removesuffix(" makes it right").removesuffix(" lets it go on")
    subprocess.run(["sh", "-c", command], check=True)


def test_where_nothing_is_wrong_all_is_information(sink):
    texts = [finding["text"] for finding in diagnosis()]
    assert troubles() == []
    assert "names can be published" in texts
    assert "names of running programs: 1" in texts
    # What it tried it has taken away again.
    assert [entry.name for entry in alongside.running()] == ["sink"]


def test_the_kernel_and_the_limits_are_told():
    told = json.loads(run("doctor", "--json").stdout)["findings"]
    subjects = {finding["subject"] for finding in told}
    assert {"kernel", "limits", "scope login", "scope user", "scope machine"} <= subjects
    kernel = " ".join(finding["text"] for finding in told if finding["subject"] == "kernel")
    assert os.uname().release in kernel
    version = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    assert ("of its own (pidfs)" in kernel) == (version >= (6, 9))
    assert ("(SO_PEERPIDFD)" in kernel) == (version >= (6, 5))


ENTRY = "0123456789abcdef-0123456789abcdef"
FLAWS = {
    "garbage": lambda path: path.write_text("{"),
    "another version": lambda path: path.write_text('{"version": 99}'),
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a FIFO": os.mkfifo,
    "a directory": lambda path: path.mkdir(),
    "a file that others may write": lambda path: (path.touch(), path.chmod(0o666)),
    "a file of somebody else": lambda path: (path.touch(), os.chown(path, NOBODY, NOBODY)),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_what_is_no_entry_is_found_and_can_be_mended_as_said(sink, scope, flaw):
    if flaw.endswith("else") and os.geteuid() != 0:
        pytest.skip("needs root, who gives files away")
    path = scope / "names" / ENTRY
    FLAWS[flaw](path)
    (found,) = troubles()
    assert (found["level"], found["subject"]) == ("warning", "scope user")
    assert found["text"].startswith(f"{path} is passed over: ")
    follow(found["mend"])
    assert not os.path.lexists(path)
    assert troubles() == []


def test_a_file_with_a_name_of_its_own_is_found_and_shown_harmlessly(sink, scope):
    path = scope / "names" / "a b\x1b[2J'; echo"
    path.touch()
    assert b"\x1b" not in run("doctor").stdout
    (found,) = troubles()
    follow(found["mend"])
    assert not path.exists()


def test_a_directory_that_others_may_enter_is_found(sink, scope):
    scope.chmod(0o755)
    found = troubles()
    assert f"{scope} is passed over" in found[0]["text"]
    follow(found[0]["mend"])
    assert troubles() == []


def test_a_file_in_a_directory_s_place_is_found(scope):
    alongside.publish("a").revoke()
    scope.joinpath("names").rmdir()
    scope.joinpath("names").touch()
    found = troubles()
    assert f"{scope}/names is no directory" in found[0]["text"]
    follow(found[0]["mend"])
    assert troubles() == []


@pytest.fixture
def last_resort():
    """Leave nothing where names go without a runtime directory, but what others have there."""
    yield
    place = Path(f"/tmp/alongside-{os.getuid()}")
    user = place / "user"
    for path in (user / "names", user / "sockets", user / "lives", user, place):
        with contextlib.suppress(OSError):
            path.rmdir()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.chmod(0o755), "others may enter it (mode 0755)"),
        (lambda path: path.chmod(0o500), "its owner may not read, write and enter it (mode 0500)"),
        (lambda path: (path.rmdir(), path.symlink_to("/run")), "symbolic link"),
        (lambda path: path.rmdir(), "No such file"),
        (lambda path: (path.rmdir(), path.touch()), "no directory"),
    ],
)
@pytest.mark.usefixtures("last_resort")
def test_a_runtime_directory_that_does_not_count_is_found(tmp_path, monkeypatch, change, why):
    path = tmp_path / "runtime"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    change(path)
    (found,) = [each for each in troubles() if each["subject"] == "XDG_RUNTIME_DIR"]
    assert found["text"].startswith(f"{path} is passed over: ")
    assert why in found["text"]


@pytest.mark.parametrize(
    "plant",
    [
        lambda path: path.symlink_to("/etc/passwd"),
        os.mkfifo,
        Path.mkdir,
        lambda path: (path.touch(), path.chmod(0o666)),
    ],
)
def test_what_is_in_the_way_of_a_cell_is_found_and_can_be_mended_as_said(scope, plant):
    with alongside.Cell("state") as cell:
        path = Path(cell._path)
    plant(path)
    with pytest.raises(alongside.Denied):
        alongside.Cell("state")
    (found,) = troubles()
    assert f"{path} is in the way" in found["text"]
    follow(found["mend"])
    with alongside.Cell("state") as cell:
        cell.set(1)
    assert troubles() == []


def test_what_the_killed_have_left_is_no_trouble(owner):
    process = owner("for n in range(3): alongside.publish(f'a/{n}')")
    process.kill()
    process.wait()
    told = json.loads(run("doctor", "--json").stdout)["findings"]
    texts = " ".join(each["text"] for each in told if each["subject"] == "scope user")
    assert "3 left by programs that were killed" in texts
    assert "names of running programs: 0" in texts
    assert troubles() == []


def test_a_program_that_is_stopped_is_found_and_goes_on_as_said(listen):
    process = listen("sink")
    stop(process)
    (found,) = troubles()
    assert found["subject"] == "who waits"
    assert f'whoever calls "sink" waits: its process {process.pid} is stopped' in found["text"]
    follow(found["mend"])
    says("send", "sink", "x", "--wait")
    assert troubles() == []


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("lock = alongside.Lock('l'); lock.acquire()", 'wants the lock "l"'),
        ("hold = alongside.RWLock('l').writing().__enter__()", 'wants the RWLock "l"'),
        ("hold = alongside.RWLock('l').reading().__enter__()", 'wants the RWLock "l"'),
        ("p = alongside.shared_port('p', listen=True, scope='user')", 'calls shared_port("p")'),
    ],
)
def test_a_lock_of_a_program_that_is_stopped_is_found(owner, code, what):
    process = owner(code)
    assert troubles() == []
    stop(process)
    (found,) = troubles()
    assert f"whoever {what} waits: process {process.pid} (" in found["text"]
    assert found["text"].endswith("which is in the way, is stopped")
    follow(found["mend"])
    assert troubles() == []


def test_a_writer_that_is_stopped_at_the_door_is_found(owner):
    """Nobody has the lock when the reader is gone; but nobody gets it."""
    lock = alongside.RWLock("l")
    with lock.reading():
        writes = """
            import threading
            r = threading.Thread(target=alongside.RWLock("l").writing().__enter__, daemon=True)
            r.start()
        """
        process = owner(writes)
        wait_until(lambda: process.pid in [pid for _, pid, _ in _core.lock_owners("user")])
        stop(process)
    (found,) = troubles()
    assert f'whoever wants the RWLock "l" waits: process {process.pid} (' in found["text"]
    with pytest.raises(alongside.TimedOut, match="is the next to have it, and is stopped"):
        lock.reading(timeout=0).__enter__()
    follow(found["mend"])
    assert troubles() == []


@pytest.fixture
def traced(listen):
    """A listener that this thread holds as a debugger does."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    process = listen("sink")
    if libc.ptrace(PTRACE_ATTACH, process.pid, None, None) != 0:
        pytest.skip(f"no debugging here: {os.strerror(ctypes.get_errno())}")
    os.waitpid(process.pid, 0)
    yield process
    assert libc.ptrace(PTRACE_DETACH, process.pid, None, None) == 0


def test_a_program_that_a_debugger_holds_is_found(traced):
    (found,) = troubles()
    assert f"its process {traced.pid} is held by a debugger" in found["text"]
    assert found["mend"] == f"let it go on there (process {os.getpid()})"


def test_names_that_may_not_be_read_are_said(runtime, run_as_nobody):
    """As another user than root, who may read all."""
    run_as_nobody("doctor")
    names = runtime / "alongside/user/names"
    names.chmod(0)
    done = run_as_nobody("doctor")
    assert done.returncode == 1
    assert f"{names}" in done.stdout.decode()
    assert "error: " in done.stdout.decode()
    assert done.stderr == b""


def test_a_program_that_may_open_few_files_is_warned():
    source = 'ulimit -n 100; exec "$@"'
    command = ["sh", "-c", source, "sh", *COMMAND, "doctor"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"warning: a program may have 100 descriptors open" in done.stdout


# ---- who waits for whom --------------------------------------------------------------------------


def relations(condition=bool):
    """What doctor says of who waits, once that fits a condition."""
    while True:
        found = [finding for finding in troubles() if finding["subject"] == "who waits"]
        if condition(found):
            return found


def is_told(text):
    """Make a condition: this is said."""
    return lambda found: any(text in finding["text"] for finding in found)


def test_who_calls_a_program_that_is_stopped_is_told(listen, begin):
    awaited = listen("sink")
    stop(awaited)
    caller = begin("send", "sink", "x", "--timeout", "1000")
    found = relations(is_told(f"process {caller.pid} "))
    (told,) = [each for each in found if f"process {caller.pid} " in each["text"]]
    assert "-m alongside send sink x" in told["text"]
    end = f'calls "sink" and is not let in: process {awaited.pid} is stopped'
    assert told["text"].endswith(end)
    follow(told["mend"])
    assert ended(caller) == (0, "", "")
    assert troubles() == []


def test_locks_of_one_name_are_told_apart(owner):
    process = owner("""
        lock = alongside.Lock("l")
        lock.acquire()
        hold = alongside.RWLock("l").writing().__enter__()
    """)
    stop(process)
    texts = [found["text"] for found in troubles()]
    for lock in ("lock", "RWLock"):
        (told,) = [text for text in texts if text.startswith(f'whoever wants the {lock} "l" waits')]
        assert told.endswith("which is in the way, is stopped")
    assert len(texts) == 2


def test_a_first_instance_that_is_stopped_is_told_once_and_who_has_given_up_is_not(owner, begin):
    process = owner("instance = alongside.only('so')")
    stop(process)
    for _ in range(2):
        with pytest.raises(alongside.TimedOut):
            alongside.only("so", timeout=0.01)
    (found,) = troubles()
    assert found["text"] == f'whoever calls only("so") waits: its process {process.pid} is stopped'
    caller = begin("only", "so", "--timeout", "1000", "--", "true")
    texts = relations(is_told(f"process {caller.pid} "))
    (told,) = [each["text"] for each in texts if each["text"] != found["text"]]
    end = f'calls only("so") and is not let in: process {process.pid} is stopped'
    assert told.endswith(end)
    follow(found["mend"])
    # Nobody has said what later instances are for, so it stays held up, but waits in no queue.
    process.kill()
    assert ended(caller)[0] == 0


BUSY = """
def hold_up(data, session):
    {work}
alongside.publish("sink", hold_up)
"""


@pytest.mark.parametrize(
    ("work", "why"),
    [
        ("while True: pass", "computes, and lets nobody in meanwhile"),
        ("threading.Event().wait()", "is held up in a handler, or its loop does not run"),
    ],
)
def test_who_calls_a_program_that_is_busy_is_told(owner, begin, work, why):
    process = owner("import threading\n" + BUSY.format(work=work))
    says("send", "sink", "x")
    caller = begin("send", "sink", "y", "--timeout", "1000")
    (found,) = relations()
    assert f"process {caller.pid} (" in found["text"]
    assert found["text"].endswith(f'calls "sink" and is not let in: process {process.pid} {why}')
    assert found["mend"].startswith(f"py-spy dump --pid {process.pid} ")


def test_who_calls_a_program_without_descriptors_is_told(owner, begin):
    source = """
        import os, resource
        alongside.publish("sink", lambda data, session: None)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, most))
    """
    process = owner(source)
    caller = begin("send", "sink", "x", "--timeout", "1000")
    (found,) = relations()
    why = "has as many descriptors open as it may"
    assert found["text"].endswith(f'calls "sink" and is not let in: process {process.pid} {why}')
    command = re.match(r"prlimit --pid \d+ --nofile=4096", found["mend"])[0]
    subprocess.run(command.split(), check=True)
    assert ended(caller) == (0, "", "")


def test_programs_that_call_each_other_are_told(owner, tmp_path):
    source = """
        def call(path, session):
            while not os.path.exists(path):
                pass
            alongside.connect("{}", timeout=1000)
        alongside.publish("{}", call)
    """
    owner(source.format("two", "one"))
    owner(source.format("one", "two"))
    both_handle = tmp_path / "go"
    for name in ("one", "two"):
        alongside.send_to(name, str(both_handle))
    both_handle.touch()
    found = relations(lambda found: len(found) == 2)
    for each, name in zip(found, ("two", "one"), strict=True):
        assert f'it calls "{name}" itself, and is not let in there' in each["text"]


def test_the_session_of_a_program_that_is_stopped_is_told(program):
    child = program("s.send(0); s.receive()")
    child.receive()
    os.kill(child.peer.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.peer.pid, os.WSTOPPED | os.WNOWAIT)
    (found,) = troubles()
    text = found["text"]
    assert text.startswith(f"process {os.getpid()} (")
    assert f") has a session with process {child.peer.pid} (" in text
    assert text.endswith("), which is stopped")
    follow(found["mend"])
    child.send("go on")
    child.wait()
    assert troubles() == []
