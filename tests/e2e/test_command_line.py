"""The command line does what it says: real processes, as a shell runs them, and their statuses."""

import base64
import datetime
import json
import os
import pwd
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import alongside
import numpy as np
import pytest

from tests.conftest import has_ended, wait_until
from tests.e2e.command import COMMAND, ended, fails, on_terminal, run, says, stop

pytestmark = pytest.mark.usefixtures("scope")

MACHINE = Path("/run/alongside")
RULE = Path("/etc/tmpfiles.d/alongside.conf")
ROOT_NEEDED = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
PTRACE_ATTACH, PTRACE_DETACH = 16, 17


@pytest.fixture(autouse=True)
def usual_buffers(monkeypatch):
    """Have output be written late, as it is wherever nobody has said otherwise."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


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
        (["send", "a", "b", "--timeout", "soon"], "'soon' is no number of seconds"),
        (["send", "sink", "[99999999999999999999]", "--json"], "data[0]"),
        (["send", "a", "[" * 100_000, "--json"], "too deep"),
        (["send", "a", "b", "--timeout", "nan"], "'nan' is no number of seconds"),
        (["send", "a", "b", "--wait", "--reply"], "not allowed with"),
        (["send", "a//b", "x"], '"a//b" is no name'),
        (["send", "a", "{", "--json"], "{ is no JSON"),
        (["send", "a", "b", "--owner", "nobody here"], "no user"),
        (["listen", "a", "--count", "0"], "'0' is no whole number, 1 or more"),
        (["listen", "a", "--reply"], "--exec"),
        (["listen", "a b@c"], "is no name"),
        (["listen", "a", "--allow", "nobody here"], "nobody here"),
        (["listen", "a", "--allow", "9" * 30], "is no user's number"),
        (["listen", "a", "--timeout", "3"], "unrecognized arguments: --timeout 3"),
        (["cell", "set", "held", "9" * 20, "--json"], "more than 64 bits"),
        (["cell", "set", "held", "[" * 300 + "]" * 300, "--json"], "nested more than"),
        (["cell", "set", "held", "{", "--json"], "without --json it is text"),
        (["cell", "hold", "a", "9" * 20, "--json", "--", "true"], "more than 64 bits"),
        (["cell", "hold", "a", "--max-size", "9" * 30, "--", "true"], "more than any value"),
        (["cell", "hold", "a", "--max-size", "9" * 18, "--", "true"], "it can be 1099511627776"),
        (["lock", "a", "b"], "unrecognized arguments: b"),
        (["only", "a"], "only runs a command"),
    ],
)
@pytest.mark.usefixtures("sink")
def test_wrong_usage_is_said_with_status_2(arguments, why):
    """In one line, and below it with two spaces what to do."""
    with alongside.Cell("held"):
        first, *further = fails(2, *arguments).splitlines()
    assert first.startswith("alongside: ")
    assert why in " ".join([first, *further])
    assert all(each.startswith("  ") for each in further)


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
