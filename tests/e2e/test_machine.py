"""The command line for all users of a machine: root sets it up, others are let in."""

import json
import os
import stat
from pathlib import Path

import alongside
import pytest

from tests.e2e.command import NOBODY, ended, fails, run, says

pytestmark = pytest.mark.usefixtures("scope")

MACHINE = Path("/run/alongside")
RULE = Path("/etc/tmpfiles.d/alongside.conf")
ROOT_NEEDED = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
PTRACE_ATTACH, PTRACE_DETACH = 16, 17


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


@ROOT_NEEDED
@pytest.mark.usefixtures("machine")
def test_callers_that_one_may_not_look_into_are_told_all_the_same(begin, run_as_nobody):
    said = {"scope": "machine", "allow": ["nobody"], "on": alongside.loops.Manual()}
    with alongside.publish("sink", lambda data, session: None, **said):
        caller = begin("send", "sink", "x", "--scope", "machine", "--timeout", "1000")
        told = ""
        while "is not let in" not in told:
            told = run_as_nobody("doctor").stdout.decode()
        assert 'a program that cannot be seen from here calls "sink@root" and is not let in' in told
        assert f"root: py-spy dump --pid {os.getpid()} " in told
        caller.kill()


# ---- cells of other users ------------------------------------------------------------------------

CELL = ("state@0", "--scope", "machine")


@ROOT_NEEDED
@pytest.mark.usefixtures("machine")
def test_another_user_s_cell_is_shown(run_as_nobody):
    with alongside.Cell("state", scope="machine", allow=[NOBODY]) as cell:
        done = run_as_nobody("cell", "get", *CELL)
        assert (done.returncode, b"no value yet" in done.stderr) == (1, True)
        cell.set({"x": 1})
        done = run_as_nobody("cell", "get", *CELL)
        assert (done.returncode, done.stdout) == (0, b'{"x": 1}\n')
    for action in ("get", "watch"):
        done = run_as_nobody("cell", action, *CELL)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b'no program holds the cell "state@0"' in done.stderr


@ROOT_NEEDED
@pytest.mark.usefixtures("machine")
def test_a_watch_of_another_user_s_cell_shows_each_value_and_ends_with_it(begin_as_nobody):
    with alongside.Cell("state", scope="machine", allow=[NOBODY]) as cell:
        cell.set("1")
        watch = begin_as_nobody("cell", "watch", *CELL)
        as_json = begin_as_nobody("cell", "watch", *CELL, "--json")
        for value in ("1", "2", "3"):
            cell.set(value)
            while (shown := watch.stdout.readline()) != f"{value}\n".encode():
                assert shown == b"1\n"
            while (shown := as_json.stdout.readline()) != f'"{value}"\n'.encode():
                assert shown == b'"1"\n'
    assert ended(watch) == (0, "", "")
    assert ended(as_json) == (0, "", "")


@ROOT_NEEDED
@pytest.mark.usefixtures("machine")
def test_a_watch_of_another_user_s_cell_ends_when_nobody_reads_it(begin_as_nobody):
    with alongside.Cell("state", scope="machine", allow=[NOBODY]) as cell:
        cell.set("1")
        watch = begin_as_nobody("cell", "watch", *CELL)
        assert watch.stdout.readline() == b"1\n"
        watch.stdout.close()
        assert watch.wait() == 0


@ROOT_NEEDED
@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("action", [("set", "x"), ("hold",), ("hold", "x")])
@pytest.mark.parametrize("is_held", [False, True])
def test_another_user_s_cell_is_not_changed(run_as_nobody, action, is_held):
    with alongside.Cell("state", scope="machine", allow=[NOBODY] if is_held else ()) as cell:
        action, *value = action
        done = run_as_nobody("cell", action, CELL[0], *value, *CELL[1:])
        assert (done.returncode, done.stdout) == (1, b"")
        told = done.stderr.decode()
        assert "another user's: it can be read, and not changed" in told
        assert "only programs of its own user hold it and change it" in told
        assert cell.get(None) is None
