"""Names of running programs: complete when they appear, gone when their process is."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import alongside
import pytest

from tests.conftest import wait_until

pytestmark = pytest.mark.usefixtures("scope")


def entries(scope):
    return sorted(scope.joinpath("names").iterdir())


def test_a_name_is_found_by_others_until_it_is_revoked(owner):
    before = time.time()
    owner("alongside.publish('viewer/42', about='plan.png', info={'pages': [1, 2]})")
    (entry,) = alongside.running("viewer/*")
    assert (entry.name, entry.about, entry.info) == ("viewer/42", "plan.png", {"pages": [1, 2]})
    assert before <= entry.since == entry.changed <= time.time()
    assert entry.peer.executable == str(Path(sys.executable).resolve())
    assert alongside.find("viewer/42") == entry
    assert alongside.find("viewer/42", instance=entry.instance) == entry
    assert alongside.find("viewer/42", instance="0" * 16) is None
    assert alongside.find("viewer") is None
    assert alongside.running("editor/*") == []


def test_several_may_have_one_name_and_the_oldest_comes_first(owner):
    first = owner("alongside.publish('same')")
    second = owner("alongside.publish('same')")
    with alongside.publish("same") as mine:
        found = alongside.running("same")
        assert [entry.peer.pid for entry in found] == [first.pid, second.pid, os.getpid()]
        assert len({entry.instance for entry in found}) == 3
        assert found[2].instance == mine.instance
        first.kill()
        first.wait()
        assert alongside.find("same").peer.pid == second.pid
    assert [entry.peer.pid for entry in alongside.running()] == [second.pid]


def test_a_change_is_seen_whole(scope):
    registration = alongside.publish("a", about="one", info={"x": 1})
    first = registration.entry
    registration.update(about="two")
    (second,) = alongside.running()
    assert (second.about, second.info) == ("two", {"x": 1})
    assert second.since == first.since
    assert second.changed > first.changed
    assert second != first
    assert (second.instance, hash(second)) == (first.instance, hash(first))
    registration.update(info={})
    assert alongside.find("a").info == {}
    assert len(entries(scope)) == 1
    registration.revoke()
    registration.revoke()
    assert entries(scope) == []
    for call in (registration.update, lambda: registration.name):
        with pytest.raises(ValueError, match="revoked"):
            call()
    assert "revoked" in repr(registration)


def test_names_end_with_their_process(owner, scope):
    process = owner("alongside.publish('a')\nalongside.publish('b')")
    assert len(alongside.running()) == 2
    os.kill(process.pid, signal.SIGKILL)
    # Not waited for: dead is dead before anybody has reaped it.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert alongside.running() == []
    assert alongside.find("a") is None
    assert entries(scope) == []
    with alongside.publish("a"):
        assert len(alongside.running("a")) == 1


def test_a_program_that_ends_in_order_leaves_nothing(scope):
    source = "import alongside\nalongside.publish('a')\nalongside.publish('b')"
    subprocess.run([sys.executable, "-c", source], check=True)
    assert entries(scope) == []
    assert list(scope.joinpath("lives").iterdir()) == []


def test_workers_of_a_dead_program_do_not_keep_its_names(owner):
    process = owner(
        """
        import multiprocessing, signal
        alongside.publish('a')
        def work():
            os.write(1, b"w")
            signal.pause()
        context = multiprocessing.get_context("fork")
        for _ in range(3):
            context.Process(target=work).start()
        """,
        begun=b"w" * 3,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 3
    assert len(alongside.running()) == 1
    process.kill()
    process.wait()
    assert alongside.running() == []
    for child in children:
        os.kill(int(child), signal.SIGKILL)


def test_a_forked_child_publishes_for_itself():
    parent = alongside.publish("parent")
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)

    def child():
        names = [entry.name for entry in alongside.running()]
        with alongside.publish("child") as own:
            tell.send((names, own.entry.peer.pid, len(alongside.running())))

    process = context.Process(target=child)
    process.start()
    assert told.recv() == (["parent"], process.pid, 2)
    process.join()
    assert process.exitcode == 0
    assert [entry.name for entry in alongside.running()] == ["parent"]
    parent.revoke()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "at least one character"),
        ("a//b", "at least one character"),
        ("/a", "at least one character"),
        ("a/", "at least one character"),
        (".", "is . or .."),
        ("a/../b", "is . or .."),
        ("a\nb", "control characters"),
        ("x" * 201, "at most 200 bytes"),
        ("a\udc80", "lone surrogate"),
    ],
)
def test_a_name_that_breaks_a_rule_is_refused_with_the_rule(name, rule):
    for call in (alongside.publish, alongside.find):
        with pytest.raises(ValueError, match=rule):
            call(name)


def test_an_at_sign_stands_before_a_user():
    with pytest.raises(ValueError, match="no @"):
        alongside.publish("a@b")
    with pytest.raises(ValueError, match='no user "b"'):
        alongside.find("a@b")


@pytest.mark.parametrize("name", ["Ärger/äpfel", "a b", "*", "a/.b", "'\"\\", "x" * 200, "…"])
def test_every_other_name_can_be_published(name):
    with alongside.publish(name):
        assert alongside.find(name).name == name


@pytest.mark.parametrize(
    ("info", "error"),
    [
        ({"x": object()}, TypeError),
        ({"x": float("nan")}, TypeError),
        ({"x": "y" * 5000}, ValueError),
    ],
)
def test_what_an_entry_cannot_say_is_refused(info, error, scope):
    with pytest.raises(error):
        alongside.publish("a", info=info)
    with alongside.publish("a", info={"x": 1}) as registration:
        with pytest.raises(error):
            registration.update(info=info)
        assert alongside.find("a").info == {"x": 1}
    assert entries(scope) == []


def planted(scope):
    """All kinds of things that are no entries."""
    names = scope / "names"
    with alongside.publish("honest") as honest:
        (file,) = entries(scope)
        right = json.loads(file.read_text())
        number = file.name.partition("-")[0]
        yield "truncated", lambda: (names / f"{number}-{1:016x}").write_bytes(b'{"version": 1')
        yield "another version", lambda: (names / f"{number}-{2:016x}").write_text('{"version": 9}')
        other = json.dumps(right | {"name": "x" * 9})
        yield "another name", lambda: (names / f"{number}-{3:016x}").write_text(other)
        lives = json.dumps(right | {"instance": f"{4:016x}", "life": "../../life"})
        yield "a path as its life", lambda: (names / f"{number}-{4:016x}").write_text(lives)
        yield "a link", lambda: (names / f"{number}-{5:016x}").symlink_to(file)
        yield "a FIFO", lambda: os.mkfifo(names / f"{number}-{6:016x}")
        yield "a directory", lambda: (names / f"{number}-{7:016x}").mkdir()
        yield "a strange name", lambda: (names / "..hello").write_text("x")
        yield "too long", lambda: (names / f"{number}-{8:016x}").write_bytes(b" " * 5000)
        yield "nested", lambda: (names / f"{number}-{9:016x}").write_bytes(b"[" * 4000)
        assert [entry.instance for entry in alongside.running()] == [honest.instance]
        assert alongside.find("honest").instance == honest.instance


def test_what_is_no_entry_is_passed_over(scope):
    for what, plant in planted(scope):
        plant()
        assert [entry.name for entry in alongside.running()] == ["honest"], what
        assert alongside.find("honest") is not None, what


def test_an_entry_that_others_may_write_does_not_count(scope):
    with alongside.publish("a"):
        (file,) = entries(scope)
        file.chmod(0o666)
        assert alongside.running() == []
        file.chmod(0o600)
        assert len(alongside.running()) == 1


def test_a_directory_that_others_may_enter_is_refused(scope, tmp_path):
    alongside.publish("a").revoke()
    scope.parent.chmod(0o755)
    with pytest.raises(alongside.Denied, match=r"alongside: others may enter it \(mode 0755\)"):
        alongside.publish("b")
    assert alongside.running() == []
    scope.parent.chmod(0o500)
    what_for = r"alongside: its owner may not read, write and enter it \(mode 0500\)"
    for make in (alongside.publish, alongside.Cell, alongside.Lock):
        with pytest.raises(alongside.Denied, match=what_for):
            make("b")
    scope.parent.chmod(0o700)
    with alongside.publish("b"):
        # A runtime directory that others may enter is none: the next place is taken.
        tmp_path.chmod(0o711)
        assert not any(entry.name == "b" for entry in alongside.running())
        tmp_path.chmod(0o700)


def test_many_come_and_go_and_the_listing_is_always_true(owner):
    stay = [alongside.publish(f"stay/{number}") for number in range(20)]
    process = owner(
        """
        import threading
        def churn():
            while True:
                with alongside.publish("come/and/go") as r:
                    r.update(about="x" * 1000)
        threading.Thread(target=churn, daemon=True).start()
        """
    )
    for _ in range(300):
        found = alongside.running()
        assert [entry.name for entry in found if entry.name != "come/and/go"] == [
            f"stay/{number}" for number in range(20)
        ]
        assert all(entry.about in {"", "x" * 1000} for entry in found)
    process.kill()
    process.wait()
    wait_until(lambda: len(alongside.running()) == 20)
    for registration in stay:
        registration.revoke()


def test_a_place_that_goes_while_it_is_looked_at_is_empty(scope):
    """As a runtime directory does at a logout."""
    is_over = threading.Event()

    def come_and_go():
        while not is_over.is_set():
            scope.joinpath("names").mkdir(parents=True, mode=0o700, exist_ok=True)
            scope.parent.chmod(0o700)
            shutil.rmtree(scope.parent)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(2000):
            assert alongside.running() == []
            assert alongside.find("a") is None
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize("part", ["names", "lives", "sockets", "."])
def test_a_part_of_a_place_that_was_taken_away_is_made_anew(scope, part):
    with alongside.publish("a", print):
        shutil.rmtree(scope / part)
        with alongside.publish("b", print):
            alongside.send_to("b", 1, wait=True)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Give a runtime directory on a file system with room for two registrations."""
    if os.geteuid() != 0:
        pytest.skip("needs root, who mounts")
    path = tmp_path / "small"
    path.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k,nr_inodes=12,mode=700", "none"]
    if subprocess.run(["mount", *options, path], capture_output=True, check=False).returncode:
        pytest.skip("may not mount here")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def test_a_full_directory_is_named_and_what_was_there_stays(small):
    held = []
    with pytest.raises(OSError, match="No space left") as told:
        held.extend(alongside.publish(f"a/{number}", print) for number in range(12))
    assert told.value.filename.startswith(f"{small}/alongside/user/")
    held = alongside.running("a/*")
    assert len(held) >= 1
    alongside.send_to(held[0], "x", wait=True)
    # What was begun is not left behind.
    sockets = list(small.glob("alongside/user/sockets/*"))
    assert len(sockets) == len(held)


def test_a_directory_that_is_gone_is_named(scope):
    registration = alongside.publish("a", print)
    shutil.rmtree(scope.parent)
    assert alongside.running() == []
    with pytest.raises(FileNotFoundError) as told:
        registration.update(about="more")
    assert told.value.filename.startswith(str(scope))
    registration.revoke()
    # A new one can be made at once.
    with alongside.publish("a", print):
        alongside.send_to("a", 1, wait=True)
