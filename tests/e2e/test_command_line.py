"""The command line does what it says: real processes, as a shell runs them, and their statuses."""

import base64
import contextlib
import ctypes
import datetime
import json
import os
import pty
import pwd
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import alongside
import numpy as np
import pytest

from tests.conftest import has_ended, wait_until

pytestmark = pytest.mark.usefixtures("scope")

MACHINE = Path("/run/alongside")
RULE = Path("/etc/tmpfiles.d/alongside.conf")
ROOT_NEEDED = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
COMMAND = [sys.executable, "-W", "error", "-m", "alongside"]


@pytest.fixture(autouse=True)
def usual_buffers(monkeypatch):
    """Have output be written late, as it is wherever nobody has said otherwise."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


def run(*arguments, **options):
    """Run a command to its end."""
    options = {"stdin": subprocess.DEVNULL} | options if "input" not in options else options
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, **options)


def says(*arguments, **options):
    """Run a command that ends well, and give what it prints."""
    done = run(*arguments, **options)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def fails(status, *arguments, **options):
    """Run a command that fails, and give what it says about that, which is no traceback."""
    done = run(*arguments, **options)
    assert (done.returncode, done.stdout) == (status, b"")
    told = done.stderr.decode()
    assert "Traceback" not in told
    return told


@pytest.fixture
def begin():
    """Begin commands that go on until they are ended."""
    begun = []

    def start(*arguments, **options):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([*COMMAND, *map(str, arguments)], **(pipes | options))
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


def ended(process):
    """Wait for a command's end; give its status, and what it printed and said."""
    printed, told = process.communicate()
    return process.returncode, printed.decode(), told.decode()


def on_terminal(command):
    """Run a command on a terminal, and give what it prints and says there."""
    ours, its = pty.openpty()
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its)
    os.close(its)
    shown = b""
    while True:
        try:
            part = os.read(ours, 10_000)
        except OSError:
            # Nobody has the terminal open any more.
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    return shown.decode().replace("\r\n", "\n")


def stop(process):
    """Stop a program, and return when it stands still."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


# ---- usage ---------------------------------------------------------------------------------------


def test_alone_it_shows_what_it_can_do():
    shown = says()
    for word in ("ls", "watch", "send", "listen", "doctor", "setup-machine", "demo", "124"):
        assert word in shown
    assert says("--version") == f"alongside {alongside.__version__}\n"
    installed = Path(sys.executable).with_name("alongside")
    assert subprocess.run([installed], capture_output=True, check=True).stdout.decode() == shown


@pytest.mark.parametrize("command", ["ls", "watch", "send", "listen", "doctor", "setup-machine"])
def test_each_command_explains_itself(command):
    shown = says(command, "--help")
    assert f"usage: alongside {command}" in shown
    assert "--json" in shown


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["lss"], "invalid choice"),
        (["ls", "--scope", "galaxy"], "invalid choice"),
        (["send", "a"], "required: DATA"),
        (["send", "a", "b", "--timeout", "soon"], "invalid seconds value: 'soon'"),
        (["send", "sink", "[99999999999999999999]", "--json"], "data[0]"),
        (["send", "a", "[" * 100_000, "--json"], "too deep"),
        (["send", "a", "b", "--timeout", "nan"], "invalid seconds value"),
        (["send", "a", "b", "--wait", "--reply"], "not allowed with"),
        (["send", "a//b", "x"], '"a//b" is no name'),
        (["send", "a", "{", "--json"], "{ is no JSON"),
        (["send", "a", "b", "--owner", "nobody here"], "no user"),
        (["listen", "a", "--count", "0"], "invalid count value"),
        (["listen", "a", "--reply"], "--exec"),
        (["listen", "a b@c"], "is no name"),
        (["listen", "a", "--allow", "nobody here"], "nobody here"),
    ],
)
@pytest.mark.usefixtures("sink")
def test_wrong_usage_is_said_with_status_2(arguments, why):
    assert why in fails(2, *arguments)


def test_a_file_that_is_not_there_is_said(tmp_path):
    path = tmp_path / "plan.png"
    assert fails(1, "send", "a", f"@{path}") == f"alongside: {path}: No such file or directory\n"


def test_closed_standard_streams_are_no_fault(sink):
    for source in ('"$@" <&-', '"$@" >&-', '"$@" 2>&-', '"$@" <&- >&- 2>&-'):
        for arguments in (["ls"], ["send", "sink", "-", "--wait"], ["send", "no", "x"]):
            command = ["sh", "-c", source, "sh", *COMMAND, *arguments]
            done = subprocess.run(command, capture_output=True, input=b"", check=False)
            assert done.returncode == ("no" in arguments), (source, arguments)
            assert b"Traceback" not in done.stderr
    assert sink == [b""] * 4


def test_what_a_terminal_has_no_letters_for_is_escaped(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with alongside.publish("ä"):
        assert says("ls").startswith("\\xe4\t")
        assert json.loads(says("ls", "--json"))[0]["name"] == "ä"


# ---- ls ------------------------------------------------------------------------------------------


def test_where_nobody_runs_ls_prints_nothing():
    assert says("ls") == ""
    assert says("ls", "--json") == "[]\n"
    assert on_terminal([*COMMAND, "ls", "a/*"]) == "no program has published a name like a/* here\n"


def test_ls_in_a_pipe_has_a_line_for_each_name_with_tabs():
    with alongside.publish("a/1", about="the first"), alongside.publish("a/2"):
        lines = [line.split("\t") for line in says("ls").splitlines()]
        assert [(line[0], line[1], line[4]) for line in lines] == [
            ("a/1", str(os.getpid()), "the first"),
            ("a/2", str(os.getpid()), ""),
        ]
        assert all(line[3].isdigit() for line in lines), "seconds"
        assert says("ls", "*2").startswith("a/2\t")
        (long,) = says("ls", "a/1", "--long").splitlines()
        assert alongside.find("a/1").instance in long.split("\t")


def test_ls_on_a_terminal_is_a_table():
    with alongside.publish("short", about="one"), alongside.publish("a/longer/name", about="two"):
        head, *rows = on_terminal([*COMMAND, "ls"]).splitlines()
        assert head.split() == ["NAME", "PID", "USER", "AGE", "ABOUT"]
        assert {row[head.index("ABOUT") :] for row in rows} == {"one", "two"}
        assert {row[head.index("PID") :].split()[0] for row in rows} == {str(os.getpid())}


def test_what_others_say_of_themselves_moves_no_cursor():
    about = "\x1b[2J\ta\n\u202eb\x9b"
    with alongside.publish("a", about=about):
        for shown in (
            says("ls"),
            on_terminal([*COMMAND, "ls"]),
            on_terminal([*COMMAND, "ls", "--long"]),
        ):
            assert r"\x1b[2J\ta\n\u202eb\x9b" in shown
            assert not set("\x1b\u202e\x9b") & set(shown)
        told = says("ls", "--json")
        assert told.removesuffix("\n").isprintable()
        assert json.loads(told)[0]["about"] == about


def test_ls_as_json_says_all_of_an_entry():
    with alongside.publish("a", about="plan.png", info={"zoom": 2}):
        entry = alongside.find("a")
        (found,) = json.loads(says("ls", "--json"))
    user = found.pop("user")
    assert user in {"root", str(os.getuid())} or os.getuid() != 0
    assert Path(found.pop("executable")).samefile(sys.executable)
    assert found == {
        "name": "a",
        "instance": entry.instance,
        "pid": os.getpid(),
        "uid": os.getuid(),
        "about": "plan.png",
        "info": {"zoom": 2},
        "since": entry.since,
        "changed": entry.changed,
        "scope": "user",
    }


def test_names_of_a_login_are_listed_apart(monkeypatch):
    monkeypatch.setenv("ALONGSIDE_LOGIN", "7")
    with alongside.publish("mine", scope="login"):
        assert says("ls", "--scope", "login").startswith("mine\t")
        assert says("ls") == ""


def test_a_scope_that_is_not_there_is_said_with_how_to_make_it():
    if MACHINE.exists():
        pytest.skip("this machine is set up")
    told = fails(1, "ls", "--scope", "machine")
    assert told.startswith("alongside: this machine is not set up")
    assert "\n  root makes it with: alongside setup-machine\n" in told


# ---- watch ---------------------------------------------------------------------------------------


def test_watch_says_what_becomes_of_names(begin):
    with alongside.publish("a/1", about="first") as mine:
        watching = begin("watch", "a/*")
        me = os.getpid()

        def read():
            return watching.stdout.readline().decode()

        assert read() == f"appeared\ta/1\t{me}\tfirst\n"
        mine.update(about="\x1b")
        assert read() == f"changed\ta/1\t{me}\t\\x1b\n"
        with alongside.publish("a/2"):
            assert read() == f"appeared\ta/2\t{me}\t\n"
        assert read() == f"vanished\ta/2\t{me}\t\n"


def test_watch_as_json_sees_a_program_killed(begin, owner):
    program = owner("alongside.publish('a', about='x')")
    watching = begin("watch", "--json")
    first = json.loads(watching.stdout.readline())
    assert (first["kind"], first["initial"], first["name"]) == ("appeared", True, "a")
    program.kill()
    then = json.loads(watching.stdout.readline())
    assert (then["kind"], then["initial"], then["pid"]) == ("vanished", False, program.pid)


def test_ctrl_c_ends_a_watch_quietly(begin):
    with alongside.publish("a"):
        watching = begin("watch")
        watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert ended(watching) == (130, "", "")


def test_a_watch_that_nobody_reads_ends_though_nothing_changes(begin):
    with alongside.publish("a"):
        watching = begin("watch")
        watching.stdout.readline()
        watching.stdout.close()
        assert watching.wait() == 0
        assert watching.stderr.read() == b""


def test_a_closed_pipe_is_no_fault():
    read, write = os.pipe()
    os.close(read)
    with alongside.publish("a"):
        for arguments in (["ls"], ["ls", "--json"], ["watch"], ["doctor"], [], ["--help"]):
            done = subprocess.run(
                [*COMMAND, *arguments], stdout=write, stderr=subprocess.PIPE, check=False
            )
            assert (done.returncode, done.stderr) == (0, b""), arguments
    os.close(write)


# ---- send ----------------------------------------------------------------------------------------


def test_send_sends_text_bytes_and_data(sink, tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"[1, null]")
    says("send", "sink", "hello", "--wait")
    says("send", "sink", "-", "--wait", input=b"\xff\0")
    says("send", "sink", f"@{path}", "--wait")
    says("send", "sink", '{"tool": ["blur", 3, 2.5]}', "--json", "--wait")
    says("send", "sink", "-", "--json", "--wait", input=b'"text"')
    says("send", "sink", f"@{path}", "--json", "--wait")
    data = {"tool": ["blur", 3, 2.5]}
    assert sink == ["hello", b"\xff\0", b"[1, null]", data, "text", [1, None]]


def test_send_does_not_wait_for_a_handler_unless_asked(sink):
    says("send", "sink", "hello")
    wait_until(lambda: sink == ["hello"])


def test_a_file_name_that_is_no_text_arrives_as_it_is(sink):
    says("send", "sink", b"\xff.png".decode(errors="surrogateescape"), "--wait")
    assert os.fsencode(sink[0]) == b"\xff.png"


def test_a_name_that_nobody_has_is_status_1(sink):
    told = fails(1, "send", "sank", "x")
    assert told == 'alongside: no program runs under the name "sank"\n  there is "sink"\n'


def test_what_a_handler_raises_is_one_line_and_status_1():
    def refuse(data, session):
        msg = "no such \x1b plan"
        raise LookupError(msg)

    with alongside.publish("sink", refuse):
        told = fails(1, "send", "sink", "x", "--wait")
    assert told == 'alongside: the handler of "sink" raised LookupError: no such \\x1b plan\n'


@pytest.mark.parametrize("how", ["", "--wait", "--reply"])
def test_who_is_stopped_does_not_answer_which_is_status_124_and_said(listen, how):
    process = listen("sink")
    stop(process)
    told = fails(124, "send", "sink", "x", "--timeout", "0.1", *how.split())
    assert told.startswith('alongside: "sink" has not answered before the deadline')
    assert f"\n  it is stopped\n  kill -CONT {process.pid} lets it go on\n" in told


def test_a_handler_that_does_not_end_is_waited_for_until_the_deadline(listen):
    listen("sink", "--exec", "exec sleep 1000")
    told = fails(124, "send", "sink", "x", "--wait", "--timeout", "2")
    assert "has arrived, but its handler has not ended" in told


def test_who_does_not_answer_is_waited_for_until_the_deadline(sink):
    told = fails(124, "send", "sink", "x", "--reply", "--timeout", "2")
    assert 'the message has been sent, but "sink" has not answered' in told
    assert sink == ["x"]


def test_one_of_several_is_chosen_by_its_instance(sink):
    seen = []
    with alongside.publish("sink", lambda data, session: seen.append(data)) as second:
        says("send", "sink", "x", "--wait", "--instance", second.instance)
        says("send", "sink", "y", "--wait", "--owner", os.getuid())
    assert (seen, sink) == (["x"], ["y"])


TIME = datetime.datetime(2026, 1, 2, 3, 4, 5)
ANSWERS = [
    ("text", "text\n", '"text"'),
    ("line\n", "line\n", r'"line\n"'),
    (b"\xff\0\n", b"\xff\0\n", '{"bytes": "/wAK"}'),
    ([1, 2.5, None, True], "[1, 2.5, null, true]\n", "[1, 2.5, null, true]"),
    ({"a": {"b": b"x"}}, '{"a": {"b": {"bytes": "eA=="}}}\n', '{"a": {"b": {"bytes": "eA=="}}}'),
    (TIME, '"2026-01-02T03:04:05"\n', '"2026-01-02T03:04:05"'),
    (float("nan"), "null\n", "null"),
    (
        np.array([[1, 2], [3, 4]], "i2"),
        '{"dtype": "int16", "shape": [2, 2], "values": [[1, 2], [3, 4]]}\n',
        '{"dtype": "int16", "shape": [2, 2], "values": [[1, 2], [3, 4]]}',
    ),
]


@pytest.mark.parametrize(("answer", "printed", "as_json"), ANSWERS)
def test_an_answer_is_printed(answer, printed, as_json):
    with alongside.publish("oracle", lambda data, session: session.send(answer)):
        done = run("send", "oracle", "?", "--reply")
        assert done.stdout == (printed if isinstance(printed, bytes) else printed.encode())
        assert says("send", "oracle", "1", "--reply", "--json") == f"{as_json}\n"


def test_who_is_not_answered_is_told_at_once(owner):
    with alongside.publish("mute", lambda data, session: session.close(timeout=0)):
        told = fails(1, "send", "mute", "x", "--reply", "--timeout", "1000")
        assert "has closed the session\n  it has not answered\n" in told
    owner("alongside.publish('dead', lambda data, session: os.kill(os.getpid(), 9))")
    told = fails(1, "send", "dead", "x", "--reply", "--timeout", "1000")
    assert "it has not answered" in told


# ---- listen --------------------------------------------------------------------------------------


def test_listen_prints_what_arrives_and_ends_after_so_many(listen):
    process = listen("log", "--count", "4", "--about", "a log")
    assert alongside.find("log").about == "a log"
    for data in ("text", b"\xff\0", {"tool": [1]}, "\x1b"):
        alongside.send_to("log", data, wait=True)
    assert process.stdout.read() == b'text\n\xff\0{"tool": [1]}\n\x1b\n'
    assert process.wait() == 0
    assert process.stderr.read() == b""
    assert alongside.running() == []


def test_a_message_too_many_is_not_taken(listen):
    """It has arrived before the name was revoked: its sender is told, not left in the belief."""
    process = listen("log", "--count", "1")
    with alongside.connect("log") as session:
        stop(process)
        session.send("first")
        session.send("second")
        process.send_signal(signal.SIGCONT)
        with pytest.raises(alongside.SessionEnded):
            session.receive(timeout=60)
    assert ended(process) == (0, "first\n", "")


def test_listen_as_json_says_who_has_sent(listen):
    process = listen("log", "--json", "--count", "2")
    alongside.send_to("log", ["\u202e", None], wait=True)
    alongside.send_to("log", b"\0", wait=True)
    lines = process.stdout.read().decode().splitlines()
    assert all(line.isprintable() for line in lines)
    sender = {"pid": os.getpid(), "uid": os.getuid()}
    nothing = {"bytes": base64.b64encode(b"\0").decode()}
    assert [json.loads(line) for line in lines] == [
        sender | {"data": ["\u202e", None]},
        sender | {"data": nothing},
    ]


def test_on_a_terminal_a_message_moves_no_cursor():
    seen = {"text": "a\tb\n\x1b[2J", "bytes": b"\xff\x1b[2J"}
    with alongside.publish("oracle", lambda data, session: session.send(seen[data])):
        assert on_terminal([*COMMAND, "send", "oracle", "text", "--reply"]) == "a\tb\n\\x1b[2J\n"
        assert on_terminal([*COMMAND, "send", "oracle", "bytes", "--reply"]) == "\\xff\\x1b[2J\n"


def test_a_unique_name_is_said(begin):
    process = begin("listen", "log", "--unique")
    name = process.stderr.readline().decode().removeprefix("listening as ").strip()
    assert name != "log"
    assert [entry.name for entry in alongside.running()] == [name]


def test_a_command_gets_each_message_and_who_has_sent_it(listen):
    command = "cat; echo $ALONGSIDE_NAME $ALONGSIDE_PEER_PID $ALONGSIDE_PEER_UID"
    process = listen("log", "--exec", command, "--count", "3")
    for data in ("text ", b"bytes ", [1]):
        alongside.send_to("log", data, wait=True)
    sender = f"log {os.getpid()} {os.getuid()}\n"
    assert ended(process) == (0, f"text {sender}bytes {sender}[1]{sender}", "")


def test_a_command_gets_json_if_asked(listen):
    process = listen("log", "--exec", "cat", "--count", "1", "--json")
    alongside.send_to("log", "text", wait=True)
    assert json.loads(process.stdout.read())["data"] == "text"


@pytest.mark.parametrize(
    ("command", "why"), [("exit 3", "ended with status 3"), ("kill -9 $$", "signal 9")]
)
def test_a_command_that_fails_fails_the_sender_and_the_next_one_runs(listen, command, why):
    process = listen("log", "--exec", f"read x; test $x = good || {command}", "--count", "2")
    told = fails(1, "send", "log", "bad\n", "--wait")
    assert told.startswith('alongside: the handler of "log" raised CommandFailed:')
    assert why in told
    says("send", "log", "good\n", "--wait")
    status, printed, complaint = ended(process)
    assert (status, printed) == (0, "")
    assert why in complaint
    assert "Traceback" not in complaint


def test_what_a_command_prints_is_the_answer(listen):
    listen("upper", "--exec", "tr a-z A-Z", "--reply")
    assert says("send", "upper", "hello", "--reply") == "HELLO\n"
    with alongside.connect("upper") as session:
        session.send("one")
        session.send(b"\xff two")
        assert session.receive(timeout=60) == "ONE"
        assert session.receive(timeout=60) == b"\xff TWO"


def test_answers_are_data_if_asked(listen):
    listen("wrap", "--exec", "cat", "--reply", "--json", "--count", "1")
    told = json.loads(says("send", "wrap", "[1]", "--reply", "--json"))
    assert told["data"] == [1]
    listen("nothing", "--exec", "echo null", "--reply", "--json")
    assert says("send", "nothing", "[1]", "--reply", "--json") == "null\n"


def test_an_answer_that_is_no_json_fails(listen):
    listen("wrap", "--exec", "echo {", "--reply", "--json")
    told = fails(1, "send", "wrap", "[1]", "--wait", "--json")
    assert "CommandFailed: 'echo {' has answered what is no JSON" in told


def test_who_waits_for_an_answer_of_a_command_that_fails_is_told_at_once(listen):
    listen("broken", "--exec", "false", "--reply")
    told = fails(1, "send", "broken", "x", "--reply", "--timeout", "1000")
    assert "it has not answered" in told
    told = fails(1, "send", "broken", "x", "--wait", "--timeout", "1000")
    assert "CommandFailed: 'false' ended with status 1" in told


def test_ctrl_c_ends_listening_quietly(listen):
    process = listen("log")
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "", "")
    assert alongside.running() == []


def test_ctrl_c_ends_a_command_that_runs(listen):
    process = listen("log", "--exec", "echo $$; exec sleep 1000", start_new_session=True)
    alongside.send_to("log", "x")
    command = int(process.stdout.readline())
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130
    wait_until(lambda: has_ended(command))


def test_a_listener_that_nobody_reads_ends(listen):
    process = listen("log")
    process.stdout.close()
    assert process.wait() == 0
    assert process.stderr.read() == b""
    assert alongside.running() == []


@pytest.mark.parametrize("arguments", [["ls"], ["ls", "--json"], ["doctor"], []])
@pytest.mark.usefixtures("sink")
def test_a_full_disk_is_told(arguments):
    if not Path("/dev/full").exists():
        pytest.skip("there is no disk that is always full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"alongside: No space left on device\n")


def test_what_cannot_be_printed_is_told_on_both_sides(listen):
    if not Path("/dev/full").exists():
        pytest.skip("there is no disk that is always full")
    with open("/dev/full", "wb") as full:
        listening = listen("log", stdout=full)
    told = fails(1, "send", "log", "x", "--wait")
    assert "raised OSError" in told
    assert alongside.find("log") is not None, "it goes on"
    listening.send_signal(signal.SIGINT)
    assert listening.wait() == 130
    assert listening.stderr.read() == b"alongside: No space left on device\n"


# ---- doctor --------------------------------------------------------------------------------------


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


# ---- the machine ---------------------------------------------------------------------------------

# As another user, for good. The interpreter may lie where that user cannot read, so what is needed
# is loaded before; and it is made like any other program of that user (PR_SET_DUMPABLE).
AS_NOBODY = f"""
import ctypes, json, logging, os, pwd, shutil, subprocess, sys
import alongside, alongside.loops._polled
from alongside import _callbacks, _data, _directory, _publish, _watch
from alongside._command import _doctor, _listening, _listing, _machine, _sending, main
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0
sys.exit(main(sys.argv[1:]))
"""


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
def bare_machine():
    """A machine that is not set up; what the test makes of it is undone."""
    if MACHINE.exists() or RULE.exists():
        pytest.skip("this machine is set up")
    yield
    says("setup-machine", "--undo")
    assert not MACHINE.exists()
    assert not RULE.exists()


@pytest.fixture
def machine(bare_machine):
    says("setup-machine")


@ROOT_NEEDED
@pytest.mark.usefixtures("bare_machine")
def test_root_sets_the_machine_up_and_undoes_it():
    made = says("setup-machine").splitlines()
    assert made[0] == f"{MACHINE} is made"
    found = MACHINE.lstat()
    assert (found.st_uid, found.st_gid, oct(found.st_mode)) == (0, 0, "0o41777")
    if RULE.parent.is_dir():
        assert RULE.read_text() == "d /run/alongside 1777 root root -\n"
        assert stat.S_IMODE(RULE.stat().st_mode) == 0o644
        assert made[1].startswith(f"{RULE} is made")
    with alongside.publish("a", scope="machine"):
        again = json.loads(says("setup-machine", "--json"))["done"]
        assert again[0] == f"{MACHINE} is there"
        told = fails(1, "setup-machine", "--undo")
        assert (
            f"not removed: programs have published names there\n  a of process {os.getpid()}\n"
            in told
        )
    assert says("setup-machine", "--undo").startswith(f"{MACHINE} is removed\n")
    assert says("setup-machine", "--undo").startswith(f"there is no {MACHINE}\n")


@ROOT_NEEDED
@pytest.mark.usefixtures("machine")
def test_a_machine_that_was_set_up_wrongly_is_put_right():
    MACHINE.chmod(0o777)
    told = json.loads(run("doctor", "--json").stdout)["findings"]
    (found,) = [each for each in told if each["subject"] == "scope machine"]
    assert found["level"] == "error"
    assert "alongside setup-machine" in found["mend"]
    assert says("setup-machine").startswith(f"{MACHINE} is put right\n")
    assert oct(MACHINE.stat().st_mode) == "0o41777"


@ROOT_NEEDED
@pytest.mark.usefixtures("bare_machine")
def test_what_stands_in_its_place_is_not_followed(tmp_path):
    MACHINE.symlink_to(tmp_path)
    for arguments in (["setup-machine"], ["setup-machine", "--undo"]):
        assert f"{MACHINE} is no directory" in fails(1, *arguments)
    assert tmp_path.exists()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    MACHINE.unlink()


@ROOT_NEEDED
@pytest.mark.usefixtures("bare_machine")
def test_a_rule_of_somebody_else_s_is_left_alone():
    if not RULE.parent.is_dir():
        pytest.skip("there is no systemd here")
    RULE.write_text("# mine\n")
    assert f"{RULE} says something else" in says("setup-machine")
    assert f"{RULE} says something else" in says("setup-machine", "--undo")
    assert RULE.read_text() == "# mine\n"
    RULE.unlink()


@ROOT_NEEDED
def test_only_root_sets_the_machine_up(run_as_nobody):
    for arguments in (["setup-machine"], ["setup-machine", "--undo"]):
        done = run_as_nobody(*arguments)
        assert done.returncode == 1
        command = " ".join(["sudo alongside", *arguments])
        told = f"alongside: only root may set the machine up\n  {command}\n"
        assert done.stderr.decode() == told


@ROOT_NEEDED
@pytest.mark.usefixtures("machine")
def test_what_another_user_plants_is_told_with_who_can_remove_it(run_as_nobody):
    path = MACHINE / "12345"
    path.mkdir()
    for diagnose in (run, run_as_nobody):
        found = json.loads(diagnose("doctor", "--json").stdout)
        (flaw,) = [each for each in found["findings"] if each["text"].startswith(str(path))]
        assert flaw["level"] == "warning"
        assert "belongs to user 0, not to user 12345" in flaw["text"]
        assert f"rm -r {path}" in flaw["mend"]
        assert not found["well"]


@ROOT_NEEDED
@pytest.mark.usefixtures("machine")
def test_other_users_are_listed_by_name_and_let_in_if_allowed(listen, run_as_nobody):
    open_ = listen("open", "--scope", "machine", "--allow", NOBODY, "--count", "1")
    listen("closed", "--scope", "machine")
    listed = run_as_nobody("ls", "--scope", "machine").stdout.decode().splitlines()
    assert {line.split("\t")[0] for line in listed} == {"open@root", "closed@root"}
    assert run_as_nobody("send", "open@root", "x", "--scope", "machine", "--wait").returncode == 0
    assert ended(open_) == (0, "x\n", "")
    refused = run_as_nobody("send", "closed@root", "x", "--scope", "machine")
    assert refused.returncode == 1
    told = f'alongside: "closed" belongs to user 0, who has not allowed user {NOBODY}'
    assert refused.stderr.decode().startswith(told)


# ---- demo ----------------------------------------------------------------------------------------


def test_the_demo_shows_a_death_and_leaves_nothing(begin):
    status, printed, told = ended(begin("demo"))
    assert (status, told) == (0, "")
    assert "a plan" in printed
    assert re.search(r"vanished demo-\d+/clock, seen \d+\.\d ms after", printed)
    assert alongside.running() == []
    for pid in re.findall(r"^demo-\S+\t(\d+)\t", printed, re.MULTILINE):
        assert has_ended(int(pid))


def test_the_programs_of_a_demo_that_is_killed_end_with_it(begin):
    process = begin("demo")
    with alongside.watch("demo-*") as watch:
        started = [watch.next(timeout=60).entry.peer.pid for _ in range(2)]
        process.kill()
        process.wait()
        wait_until(lambda: all(has_ended(pid) for pid in started))


# ---- the how-to ----------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs/how-to/command-line.md"
BLOCK = re.compile(r"```console\n(\$ .*?)```", re.DOTALL)
STEP = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


def alike(shown):
    """What is shown but for numbers of processes, times, this user and how wide a column is."""
    user = pwd.getpwuid(os.getuid()).pw_name
    shown = re.sub(rf" {re.escape(user)} ", " ada ", shown)
    return re.sub(r" +", " ", re.sub(r"\d+(\.\d+)?", "N", shown))


def test_the_how_to_shows_what_happens(begin, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    lasting = {}
    for block in BLOCK.findall(PAGE.read_text()):
        for command, expected in STEP.findall(block):
            if command.startswith(("alongside listen", "alongside watch")):
                lasting[command] = in_another_terminal(begin, command, expected)
            else:
                shown = on_terminal(["bash", "-c", command])
                assert alike(shown) == alike(expected), command
                if "-STOP" in command:
                    os.waitid(os.P_PID, next(iter(lasting.values()))[0].pid, os.WSTOPPED)
    for command, (process, expected) in lasting.items():
        shown = b"".join(process.stdout.readline() for _ in expected.splitlines())
        assert alike(shown.decode()) == alike(expected), command


def in_another_terminal(begin, command, expected):
    """Begin what goes on; give what it has yet to print."""
    arguments = shlex.split(command)[1:]
    process = begin(*arguments, stderr=subprocess.STDOUT)
    first, _, further = expected.partition("\n")
    assert alike(process.stdout.readline().decode()) == alike(f"{first}\n")
    return process, further
