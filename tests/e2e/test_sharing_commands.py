"""`alongside port`, `cell`, `lock` and `only`: what programs share, from a shell."""

import contextlib
import json
import os
import re
import signal
import socket
import sys

import alongside
import pytest

from tests.conftest import has_ended, wait_until
from tests.e2e.command import COMMAND, ended, fails, run, says

pytestmark = pytest.mark.usefixtures("scope")
USER = ("--scope", "user")


@pytest.fixture
def line(begin):
    """Begin a command; it, and the first line that it prints."""

    def start(*arguments, **options):
        process = begin(*arguments, **options)
        return process, process.stdout.readline().decode()

    return start


@pytest.fixture
def holder(begin):
    """Begin to hold a cell; it is held when this returns."""

    def start(*arguments):
        process = begin("cell", "hold", *arguments)
        assert process.stderr.readline().startswith(b"holding the cell ")
        return process

    return start


# ---- port ----------------------------------------------------------------------------------------


def test_the_prototype_of_the_article(line):
    """The first finds a port, all others show it, and after the death of all it begins afresh."""
    first, number = line("port", "transfer", *USER)
    socket.create_connection(("127.0.0.1", int(number))).close()
    others = [line("port", "transfer", *USER) for _ in range(2)]
    assert [shown for _, shown in others] == [number] * 2
    assert says("port", "transfer", *USER, "--once") == number
    for process in (first, *(other for other, _ in others)):
        process.kill()
        process.wait()
    assert "nobody listens" in fails(1, "port", "transfer", *USER, "--once")
    _, again = line("port", "transfer", *USER)
    assert int(again) > 0


def test_when_the_first_dies_another_one_listens_at_the_same_port(line):
    first, number = line("port", "transfer", *USER, "--json")
    other, shown = line("port", "transfer", *USER, "--json")
    number, shown = json.loads(number), json.loads(shown)
    assert (number["mine"], shown["mine"]) == (True, False)
    first.kill()
    first.wait()

    def is_taken_over():
        done = run("port", "transfer", *USER, "--once", "--json")
        return done.returncode == 0 and json.loads(done.stdout)["number"] == number["number"]

    wait_until(is_taken_over)
    socket.create_connection(("127.0.0.1", number["number"])).close()
    assert not has_ended(other.pid)


def test_ctrl_c_lets_go_of_a_port(line):
    process, _ = line("port", "transfer", *USER)
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 130
    assert "nobody listens" in fails(1, "port", "transfer", *USER, "--once")


SERVE = """
import os, socket, sys
with socket.create_server(("127.0.0.1", int(os.environ["PORT"]))) as server:
    print("serving", os.environ["PORT_IS_MINE"], flush=True)
    server.accept()
"""


def test_a_command_serves_at_the_port(line):
    server, said = line("port", "transfer", *USER, "--", sys.executable, "-c", SERVE)
    assert said == "serving 1\n"
    told = says("port", "transfer", *USER, "--", "sh", "-c", "echo $PORT $PORT_IS_MINE")
    number, mine = told.split()
    assert mine == "0"
    socket.create_connection(("127.0.0.1", int(number))).close()
    assert ended(server)[0] == 0


def test_ports_are_the_login_s_if_nothing_is_said(line, monkeypatch):
    monkeypatch.setenv("ALONGSIDE_LOGIN", "one")
    _, number = line("port", "transfer")
    assert says("port", "transfer", "--once") == number
    monkeypatch.setenv("ALONGSIDE_LOGIN", "two")
    fails(1, "port", "transfer", "--once")


def test_where_there_is_no_login_session_a_scope_is_advised(monkeypatch):
    # No name of one: as in a service, wherever the test runs.
    monkeypatch.setenv("ALONGSIDE_LOGIN", "")
    shown = says("port", "--help")
    assert "--scope login" in shown
    done = run("port", "transfer", "--once")
    if b"no login session" not in done.stderr:
        pytest.skip("there is a login session here")
    assert done.returncode == 1
    assert b"\n  --scope user shares the port" in done.stderr


def test_a_host_that_is_not_known_is_named():
    told = fails(1, "port", "transfer", *USER, "--host", "no.invalid")
    assert told.startswith("alongside: cannot listen at no.invalid: ")


# ---- cell ----------------------------------------------------------------------------------------


def test_a_cell_is_held_shown_and_set(holder, tmp_path):
    assert 'no program holds the cell "a/b"' in fails(1, "cell", "get", "a/b")
    assert 'no program holds the cell "a/b"' in fails(1, "cell", "set", "a/b", "x")
    process = holder("a/b", "first")
    assert says("cell", "get", "a/b") == "first\n"
    says("cell", "set", "a/b", '{"x": [1, 2]}', "--json")
    assert says("cell", "get", "a/b") == '{"x": [1, 2]}\n'
    (tmp_path / "file").write_bytes(b"\0\xff")
    says("cell", "set", "a/b", f"@{tmp_path / 'file'}")
    assert run("cell", "get", "a/b").stdout == b"\0\xff"
    assert says("cell", "ls") == f"a/b\t3\t{process.pid}\n"
    (found,) = json.loads(says("cell", "ls", "a/*", "--json"))
    assert found == {"name": "a/b", "version": 3, "holders": [process.pid]}
    assert says("cell", "ls", "z*") == ""
    process.kill()
    process.wait()
    fails(1, "cell", "get", "a/b")


def test_who_holds_second_keeps_what_is_there(holder):
    holder("a", "first")
    holder("a", "second")
    assert says("cell", "get", "a") == "first\n"
    told = fails(1, "cell", "hold", "a", "--max-size", "5")
    assert "max_size=65536" in told


def test_a_cell_without_a_value_is_status_1(holder):
    holder("a")
    assert "no value yet" in fails(1, "cell", "get", "a")
    says("cell", "set", "a", "now")
    assert says("cell", "get", "a") == "now\n"


def test_a_value_without_room_is_told_in_the_words_of_the_command_line(holder):
    told = fails(1, "cell", "hold", "a", "1234", "--max-size", "3")
    assert "a value of 5 bytes" in told
    assert "--max-size" in told
    assert "alongside.Cell" not in told


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--json", '{"a":1}'], '{"a": 1}'),
        (["--max-size", "100", "v"], "v"),
        (["v", "--max-size", "100"], "v"),
        (["--max-size", "100", "--json", "-5"], "-5"),
        (["--json", '"-x"'], "-x"),
    ],
)
def test_options_may_stand_before_the_value(arguments, value):
    show = [sys.executable, "-m", "alongside", "cell", "get", "a"]
    assert says("cell", "hold", "a", *arguments, "--", *show) == f"{value}\n"


def test_a_value_from_standard_input_may_stand_behind_options():
    show = [sys.executable, "-m", "alongside", "cell", "get", "a"]
    held = run("cell", "hold", "a", "--max-size", "9", "-", "--", *show, input=b"in")
    assert held.stdout == b"in"


def test_a_value_may_begin_with_a_dash(holder, sink):
    holder("a")
    says("cell", "set", "a", "--", "-x")
    assert says("cell", "get", "a") == "-x\n"
    says("send", "sink", "--wait", "--", "--x")
    assert sink == ["--x"]
    for command in ("cell set", "send"):
        for told in (
            fails(2, *command.split(), "a", "-x"),
            fails(2, *command.split(), "a", "x", "-x"),
        ):
            assert f"stands behind a --: alongside {command} NAME -- -x" in told
    told = fails(2, "cell", "hold", "b", "-x")
    assert """alongside cell hold NAME --json '"-x"'""" in told
    told = fails(2, "cell", "hold", "b", "x", "y")
    assert "a command stands behind a --: alongside cell hold NAME -- y" in told
    assert "--:" not in fails(2, "cell", "get", "b", "x")


def test_a_cell_is_held_while_a_command_runs():
    code = 'alongside cell get "$ALONGSIDE_CELL"; exit 5'
    environment = os.environ | {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    done = run("cell", "hold", "a", "value", "--", "sh", "-c", code, env=environment)
    assert (done.returncode, done.stdout) == (5, b"value\n")
    fails(1, "cell", "get", "a")


def test_a_watch_shows_each_value_and_ends_with_the_last_holder(holder, line):
    process = holder("a", "1")
    watch, shown = line("cell", "watch", "a")
    assert shown == "1\n"
    for value in ("2", "3"):
        says("cell", "set", "a", value)
        assert watch.stdout.readline().decode() == f"{value}\n"
    process.kill()
    process.wait()
    assert ended(watch)[0] == 0


def test_those_who_watch_keep_no_value_alive(holder, line):
    """Two of them took each other for holders, and went on with a dead value for ever."""
    process = holder("a", "1")
    watches = [line("cell", "watch", "a") for _ in range(2)]
    assert [shown for _, shown in watches] == ["1\n"] * 2
    assert says("cell", "ls") == f"a\t1\t{process.pid}\n"
    process.kill()
    process.wait()
    for watch, _ in watches:
        assert ended(watch)[0] == 0


def test_nobody_joins_a_dead_value_that_is_watched(holder, line):
    process = holder("a", "1")
    watch, _ = line("cell", "watch", "a")
    watch.send_signal(signal.SIGSTOP)
    process.kill()
    process.wait()
    for command in (("get", "a"), ("set", "a", "2"), ("watch", "a")):
        assert 'no program holds the cell "a"' in fails(1, "cell", *command)
    holder("a")
    assert "no value yet" in fails(1, "cell", "get", "a")
    watch.send_signal(signal.SIGCONT)
    assert ended(watch)[0] == 0


@pytest.mark.parametrize("first", [0, 1])
def test_a_watch_ends_when_the_last_holder_closes_the_cell_and_goes_on(puppet, line, first):
    holders = [puppet(), puppet()]
    for each in holders:
        each.run("cell = alongside.Cell('a'); cell.set('1')")
    watch, _ = line("cell", "watch", "a")
    holders[first].run("cell.close()")
    holders[1 - first].run("cell.set('2')")
    assert watch.stdout.readline() == b"2\n"
    holders[1 - first].run("cell.close()")
    assert ended(watch)[0] == 0


def test_the_library_s_own_cells_are_hidden(line):
    line("port", "transfer", *USER)
    assert says("cell", "ls") == ""
    assert says("cell", "ls", "--all").startswith(".port/transfer\t")


# ---- lock ----------------------------------------------------------------------------------------

STAY = ["sh", "-c", "echo in; exec sleep 1000"]


def test_a_command_runs_with_the_lock(line):
    process, shown = line("lock", "l", "--", *STAY)
    assert shown == "in\n"
    told = fails(124, "lock", "l", "--timeout", "0.05", "--", "true")
    assert "not free before the deadline" in told
    assert alongside.Lock("l").owner().pid == process.pid
    process.terminate()
    assert ended(process)[0] == 128 + signal.SIGTERM
    assert run("lock", "l", "--", "sh", "-c", "exit 7").returncode == 7


def test_who_is_killed_frees_the_lock_and_its_command_does_not_go_on(line):
    process, _ = line("lock", "l", "--", "sh", "-c", "echo $$; exec sleep 1000")
    (child,) = (int(pid) for pid in _children(process.pid))
    process.kill()
    process.wait()
    wait_until(lambda: has_ended(child))
    done = run("lock", "l", "--", "echo", "in")
    assert done.stdout == b"in\n"
    assert done.stderr.startswith(b'alongside: the lock "l" was abandoned: ')
    assert run("lock", "l", "--", "true").stderr == b""


# What it leaves running says its number, and is not waited for.
LEAVE = ["sh", "-c", "sleep 1000 & echo $!; wait"]


@pytest.fixture
def leaving(line):
    """Begin a command that runs LEAVE; it, and what that has started, which ends with the test."""
    left = []

    def start(*arguments):
        process, number = line(*arguments, "--", *LEAVE)
        left.append(int(number))
        return process, left[-1]

    yield start
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("kind", [[], ["--shared"], ["--exclusive"]])
def test_what_a_killed_command_has_started_has_the_lock_until_it_ends(leaving, kind, number):
    """It went on, while others had the lock already."""
    process, left = leaving("lock", "l", *kind)
    process.send_signal(number)
    assert process.wait() in {-number, 128 + number}
    other = ["--exclusive"] if kind else []
    told = fails(124, "lock", "l", *other, "--timeout", "0.05", "--", "true")
    assert "not free before the deadline" in told
    if not kind:
        assert f"process {process.pid} has ended, and what it had started has it still" in told
        assert alongside.Lock("l").owner() is None
    os.kill(left, signal.SIGKILL)
    done = run("lock", "l", *other, "--", "echo", "in")
    assert done.stdout == b"in\n"
    assert (b"was abandoned" in done.stderr) == (kind != ["--shared"])


@pytest.mark.parametrize("kind", [[], ["--exclusive"]])
def test_a_command_that_ends_gives_the_lock_back_whatever_it_leaves_running(kind):
    leave = ["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]
    left = int(says("lock", "l", *kind, "--", *leave))
    try:
        assert says("lock", "l", *kind, "--timeout", "0", "--", "echo", "in") == "in\n"
    finally:
        os.kill(left, signal.SIGKILL)


def _children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def test_readers_share_and_writers_do_not(line):
    line("lock", "l", "--shared", "--", *STAY)
    line("lock", "l", "--shared", "--", *STAY)
    fails(124, "lock", "l", "--exclusive", "--timeout", "0.05", "--", "true")


def test_what_cannot_be_run_is_said():
    assert "No such file" in fails(127, "lock", "l", "--", "/there/is/none")
    assert "denied" in fails(126, "lock", "l", "--", "/etc/passwd")
    for command in ("lock", "only"):
        assert f"alongside {command} NAME -- COMMAND" in fails(2, command, "x")
    done = run("lock", "l", "--", "echo", "--", "-x")
    assert done.stdout == b"-- -x\n"


def test_what_nohup_ignores_the_command_ignores_too(line):
    process, _ = line(
        "lock",
        "l",
        "--",
        *STAY,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    (child,) = _children(process.pid)
    with open(f"/proc/{child}/status") as status:
        (ignored,) = [row.split()[1] for row in status if row.startswith("SigIgn:")]
    assert int(ignored, 16) & 1 << signal.SIGHUP - 1


# ---- only ----------------------------------------------------------------------------------------


def test_a_second_instance_tells_the_first(line):
    process, _ = line("only", "app", "--", *STAY)
    told = fails(1, "only", "app", "--", "show", "a plan")
    assert f"app runs already as process {process.pid}, and was told" in told
    said = process.stderr.readline().decode()
    assert re.fullmatch(r"process \d+ has asked for: show 'a plan'\n", said)
    process.kill()
    process.wait()
    assert says("only", "app", "--", "echo", "first") == "first\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_first_has_started_keeps_its_place_until_it_ends(leaving, number):
    process, left = leaving("only", "app")
    process.send_signal(number)
    process.wait()
    told = fails(124, "only", "app", "--timeout", "0.05", "--", "true")
    assert f"process {process.pid}, the first instance of 'app'" in told
    assert "what it had started has its place still" in told
    os.kill(left, signal.SIGKILL)
    assert says("only", "app", "--", "echo", "first") == "first\n"


@pytest.mark.parametrize("command", ["lock", "only", "port"])
def test_a_command_without_its_dashes_is_asked_for_them(command):
    told = fails(2, command, "l", "echo", "a b")
    assert f"a command stands behind a --: alongside {command} NAME -- echo 'a b'" in told


def test_each_explains_itself():
    for command in ("port", "lock", "only"):
        shown = says(command, "--help")
        assert f"usage: alongside {command}" in shown
        assert "[-- COMMAND ...]" in shown
    for action in ("get", "set", "hold", "watch", "ls"):
        assert "--scope" in says("cell", action, "--help")
    assert COMMAND
