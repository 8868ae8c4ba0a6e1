"""Scopes: a login session's names, the machine's, and other users, who are real ones here."""

import os
import queue
import select
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import alongside
import pytest

from tests.api.conftest import MACHINE, ROOT_NEEDED
from tests.conftest import wait_until

# ---- login ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("scope")
def test_names_of_one_login_are_not_another_s(monkeypatch):
    monkeypatch.setenv("ALONGSIDE_LOGIN", "7")
    with alongside.publish("a", lambda data, session: None, scope="login") as mine:
        assert mine.entry.scope == "login"
        assert [entry.name for entry in alongside.running(scope="login")] == ["a"]
        alongside.send_to("a", 1, scope="login", wait=True)
        # An entry knows its scope.
        alongside.send_to(alongside.find("a", scope="login"), 1, wait=True)
        assert alongside.running() == []
        monkeypatch.setenv("ALONGSIDE_LOGIN", "8")
        assert alongside.running(scope="login") == []
        with pytest.raises(alongside.NotFound):
            alongside.connect("a", scope="login")


@pytest.mark.usefixtures("scope")
def test_a_program_of_no_login_is_told_so(monkeypatch):
    for variable in ("ALONGSIDE_LOGIN", "XDG_SESSION_ID"):
        monkeypatch.delenv(variable, raising=False)
    if "session-" in Path("/proc/self/cgroup").read_text() or not is_without_audit_session():
        pytest.skip("these tests run in a login session")
    for call in (alongside.publish, alongside.find, alongside.connect):
        with pytest.raises(alongside.NoScope, match=r'(?s)no login session.*scope "user"'):
            call("a", scope="login")
    with pytest.raises(alongside.NoScope):
        alongside.watch(scope="login")
    assert alongside.running() == []


@ROOT_NEEDED
def test_each_audit_session_of_the_kernel_is_a_login(puppet, monkeypatch):
    for variable in ("ALONGSIDE_LOGIN", "XDG_SESSION_ID"):
        monkeypatch.delenv(variable, raising=False)
    if "session-" in Path("/proc/self/cgroup").read_text():
        pytest.skip("these tests run in a login session")
    one, two = puppet(), puppet()
    try:
        # As pam_loginuid does at each login: the kernel begins a session.
        for each in (one, two):
            each.run("with open('/proc/self/loginuid', 'w') as file: file.write('0')")
    except OSError:
        pytest.skip("this kernel, or who set this machine up, keeps audit sessions as they are")
    one.run("""
        import subprocess, sys
        alongside.Cell("a", scope="login").set("of one")
        alongside.Cell("a", scope="user").set("of both")
    """)
    read = "alongside.Cell('a', scope={!r}).get('nothing')"
    assert two(read.format("login")) == "nothing"
    assert two(read.format("user")) == "of both"
    # What it starts belongs to its login.
    code = f"import alongside; print({read.format('login')})"
    assert one(f"subprocess.check_output([sys.executable, '-c', {code!r}])") == b"of one\n"


def is_without_audit_session():
    path = Path("/proc/self/sessionid")
    return not path.exists() or path.read_text().strip() == "4294967295"


@pytest.mark.usefixtures("scope")
@pytest.mark.parametrize("told", ["../user", "a b", "x" * 65, "ä"])
def test_a_login_is_never_a_path(monkeypatch, told):
    monkeypatch.setenv("ALONGSIDE_LOGIN", told)
    with pytest.raises(ValueError, match="ALONGSIDE_LOGIN is"):
        alongside.publish("a", scope="login")


def test_a_scope_that_is_none_is_refused():
    with pytest.raises(ValueError, match='expected "login", "user" or "machine"'):
        alongside.running(scope="galaxy")


# ---- machine -------------------------------------------------------------------------------------


def says(process):
    """Give what a program printed, which ends well."""
    printed = process.stdout.read().decode()
    assert process.wait() == 0
    return printed.strip()


PUBLISH = """
r = alongside.publish(sys.argv[1], lambda data, s: s.send([data, s.peer.uid, s.peer.pid]),
                      scope="machine", about="theirs")
"""
OPEN = PUBLISH.replace('about="theirs"', "allow=[int(u) for u in sys.argv[2:]]")
ASK = """
try:
    with alongside.connect(sys.argv[1], scope="machine", timeout=30) as session:
        session.send("hello")
        print(session.receive(timeout=30)[:2], session.peer.uid)
except alongside.AlongsideError as error:
    print(type(error).__name__, str(error).splitlines()[0])
"""


def test_a_machine_that_is_not_set_up_says_so():
    if MACHINE.exists():
        pytest.skip("this machine is set up")
    for call in (
        lambda: alongside.publish("a", scope="machine"),
        lambda: alongside.connect("a", scope="machine"),
        lambda: alongside.running(scope="machine"),
        lambda: alongside.watch(scope="machine"),
    ):
        with pytest.raises(alongside.NoScope, match=r"(?s)not set up.*setup-machine"):
            call()


@ROOT_NEEDED
def test_a_machine_where_users_could_remove_each_other_s_names_is_none(machine):
    machine.chmod(0o777)
    with pytest.raises(alongside.NoScope, match="remove each other"):
        alongside.publish("a", scope="machine")
    machine.chmod(0o1777)


@ROOT_NEEDED
def test_names_are_seen_by_all_and_connected_to_by_those_who_may(machine, users, as_user):
    one, two = users
    owner = as_user(one, PUBLISH, "shared")
    (entry,) = alongside.running("shared", scope="machine")
    assert (entry.peer.uid, entry.peer.pid, entry.about) == (one, owner.pid, "theirs")
    # Root may; a connection goes both ways, and each side knows who the other is.
    with alongside.connect(entry) as session:
        session.send(1)
        assert session.receive(timeout=30) == [1, 0, os.getpid()]
        assert session.peer.uid == one
    refused = f'Denied "shared" belongs to user {one}, who has not allowed user {two}'
    assert says(as_user(two, ASK, f"shared@{one}", waits=False)) == refused
    assert says(as_user(one, ASK, "shared", waits=False)) == f"['hello', {one}] {one}"


@ROOT_NEEDED
def test_users_and_groups_can_be_allowed(machine, users, as_user):
    one, two = users
    as_user(one, OPEN, "open", two)
    as_user(one, PUBLISH.replace('about="theirs"', 'allow=["group:alongside-test-2"]'), "group")
    as_user(one, OPEN, "closed", 12345)
    for name in ("open", "group"):
        assert says(as_user(two, ASK, f"{name}@{one}", waits=False)) == f"['hello', {two}] {one}"
        named = f"{name}@alongside-test-1"
        assert says(as_user(two, ASK, named, waits=False)) == f"['hello', {two}] {one}"
    assert "has not allowed" in says(as_user(two, ASK, f"closed@{one}", waits=False))


CELL = """
cell = alongside.Cell("state", scope="machine", allow=[int(u) for u in sys.argv[1:]])
cell.get_or_set(lambda: {"number": 1})
"""
READ = """
try:
    with alongside.Cell(sys.argv[1], scope="machine") as cell:
        print(cell.get())
except alongside.AlongsideError as error:
    print(type(error).__name__)
"""


@ROOT_NEEDED
def test_a_cell_is_written_by_its_user_and_read_by_those_who_may(machine, users, as_user):
    one, two = users
    as_user(one, CELL, two)
    assert says(as_user(two, READ, f"state@{one}", waits=False)) == "{'number': 1}"
    assert says(as_user(one, READ, f"state@{one}", waits=False)) == "{'number': 1}"
    # A name alone is one's own cell.
    assert says(as_user(two, READ, "state", waits=False)) == "NotFound"
    assert list(machine.glob("*/cells/*")) != []
    assert {path.stat().st_mode & 0o77 for path in machine.glob("*/cells")} == {0}


@ROOT_NEEDED
def test_a_cell_of_another_user_s_changes_and_ends_as_it_does_there(machine, users, as_user):
    one, two = users
    with pytest.raises(alongside.NotFound):
        alongside.Cell(f"state@{one}", scope="machine")
    first = as_user(one, CELL, two)
    with alongside.Cell("state@alongside-test-1", scope="machine") as distant:
        assert type(distant) is alongside.DistantCell
        assert distant.read() == ({"number": 1}, 1)
        with pytest.raises(alongside.TimedOut):
            distant.wait(1, timeout=0.01)
        change = 'with alongside.Cell("state", scope="machine") as c: c.set(sys.argv[1])'
        as_user(one, change, "new", waits=False)
        assert distant.wait(1, timeout=60) == ("new", 2)
        for refused in (distant.set, distant.get_or_set, distant.update):
            with pytest.raises(alongside.Denied, match="can be read, and not changed"):
                refused(1)
        # Another program that holds it serves it, too, when the first one has gone.
        second = as_user(one, CELL, two)
        first.kill()
        first.wait()
        assert distant.get() == "new"
        second.kill()
        second.wait()
        assert distant.get(None) is None
        with pytest.raises(alongside.NotFound):
            distant.wait(2)
    with pytest.raises(ValueError, match="closed"):
        distant.get()
    # Root may always, others if they are named; and nobody where nobody is.
    as_user(one, CELL, 12345)
    assert says(as_user(two, READ, f"state@{one}", waits=False)) == "Denied"


@ROOT_NEEDED
def test_changes_of_a_cell_of_another_user_are_called_back(machine, users, as_user):
    one, two = users
    seen, change = queue.Queue(), 'alongside.Cell("state", scope="machine").set(sys.argv[1])'
    first = as_user(one, CELL, two)
    with alongside.Cell(f"state@{one}", scope="machine") as distant:
        distant.on_change(seen.put)
        for word in ("a", "b"):
            as_user(one, change, word, waits=False)
            assert seen.get(timeout=60) == word
        # Who holds it next serves it with the same value: that is no change.
        second = as_user(one, CELL, two)
        first.kill()
        first.wait()
        as_user(one, change, "c", waits=False)
        assert seen.get(timeout=60) == "c"
        # A cell that all have left begins anew, and so do its versions.
        second.kill()
        second.wait()
        as_user(one, CELL, two)
        assert seen.get(timeout=60) == {"number": 1}
        distant.on_change(None)
        loop = alongside.loops.Manual()
        distant.on_change(seen.put, on=loop)
        as_user(one, change, "d", waits=False)
        while seen.empty():
            loop.dispatch(timeout=60)
        assert seen.get_nowait() == "d"
    wait_until(lambda: f"alongside: state@{one}" not in {it.name for it in threading.enumerate()})
    assert seen.empty()


@ROOT_NEEDED
def test_a_forked_child_that_closes_such_a_cell_leaves_its_parent_s_alone(machine, users, as_user):
    one, two = users
    seen, change = queue.Queue(), 'alongside.Cell("state", scope="machine").set(sys.argv[1])'
    as_user(one, CELL, two)
    with alongside.Cell(f"state@{one}", scope="machine") as distant:
        distant.on_change(seen.put)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                distant.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        # Else its thread would never sleep again.
        assert not select.select([distant._callback._stop], [], [], 0)[0]
        as_user(one, change, "b", waits=False)
        assert seen.get(timeout=60) == "b"


def test_only_cells_of_the_machine_can_be_read_by_others(scope):
    with pytest.raises(ValueError, match=r"whatever allow says"):
        alongside.Cell("a", allow=["root"])
    with pytest.raises(ValueError, match="no user"):
        alongside.Cell("a@no-such-user", scope="machine")
    assert not (scope / "cells").exists()


@ROOT_NEEDED
def test_locks_and_instances_of_the_machine_are_a_user_s_own(machine, users, as_user):
    one, two = users
    hold = 'lock = alongside.Lock("l", scope="machine"); lock.acquire()'
    as_user(one, hold)
    as_user(two, hold)
    with alongside.Lock("l", scope="machine") as lock:
        assert lock.owner().pid == os.getpid()
    ask = 'print(alongside.only("app", scope="machine", timeout=0.1).first)'
    as_user(one, 'instance = alongside.only("app", scope="machine")')
    assert says(as_user(two, ask, waits=False)) == "True"


@ROOT_NEEDED
def test_another_user_s_name_is_never_taken_for_one_s_own(machine, users, as_user):
    one, two = users
    as_user(one, OPEN, "name", two)
    told = says(as_user(two, ASK, "name", waits=False))
    assert told == 'NotFound no program runs under the name "name"'
    as_user(two, OPEN, "name", one)
    assert says(as_user(two, ASK, "name", waits=False)) == f"['hello', {two}] {two}"
    assert says(as_user(one, ASK, "name", waits=False)) == f"['hello', {one}] {one}"

    # Root's comes before one's own.
    def reply(data, session):
        session.send([data, session.peer.uid])

    with alongside.publish("name", reply, scope="machine", allow=[one]):
        assert says(as_user(one, ASK, "name", waits=False)) == f"['hello', {one}] 0"
        assert {entry.peer.uid for entry in alongside.running("name", scope="machine")} == {
            0,
            one,
            two,
        }
        found = alongside.find("name", scope="machine", owner="alongside-test-2")
        assert found.peer.uid == two
        with pytest.raises(ValueError, match="name one of them"):
            alongside.find(f"name@{one}", scope="machine", owner=two)


@ROOT_NEEDED
def test_a_name_of_another_user_is_mentioned_where_it_is_not_found(machine, users, as_user):
    as_user(users[0], PUBLISH, "viewer")
    with pytest.raises(alongside.NotFound, match=f'there is "viewer@{users[0]}"'):
        alongside.connect("viewer", scope="machine")


@ROOT_NEEDED
def test_another_user_s_names_vanish_with_the_process(machine, users, as_user):
    watch = alongside.watch(scope="machine")
    owner = as_user(users[0], PUBLISH, "mortal")
    change = watch.next(timeout=30)
    assert (change.kind, change.entry.name, change.entry.peer.uid) == (
        "appeared",
        "mortal",
        users[0],
    )
    owner.send_signal(signal.SIGKILL)
    change = watch.next(timeout=30)
    assert (change.kind, change.entry.name) == ("vanished", "mortal")
    assert alongside.running(scope="machine") == []
    with pytest.raises(alongside.NotFound):
        alongside.connect(change.entry)
    # Whose they were sweeps them.
    (home,) = machine.glob(f"{users[0]}*")
    assert list(home.joinpath("names").iterdir())
    as_user(users[0], "assert alongside.running(scope='machine') == []")
    assert list(home.joinpath("names").iterdir()) == []
    watch.close()


@ROOT_NEEDED
def test_another_user_cannot_squat(machine, users, as_user):
    """Whoever takes the name of a user's directory has taken nothing."""
    one, two = users
    source = "d = '/run/alongside/' + sys.argv[1]\nos.mkdir(d)\nos.mkdir(d + '/names')"
    as_user(two, source, one)
    assert alongside.running(scope="machine") == []
    as_user(one, OPEN, "mine", two)
    assert says(as_user(two, ASK, f"mine@{one}", waits=False)) == f"['hello', {two}] {one}"
    (entry,) = alongside.running(scope="machine")
    assert entry.peer.uid == one


@ROOT_NEEDED
def test_another_user_cannot_delete_write_or_lock(machine, users, as_user):
    one, two = users
    as_user(one, PUBLISH, "mine")
    (home,) = machine.glob(f"{one}*")
    attacks = f"""
    home = {str(home)!r}
    paths = glob.glob(home + "/*") + glob.glob(home + "/*/*") + [home]
    assert len(paths) >= 6, paths
    for path in paths:
        for attack in (os.unlink, os.rmdir, lambda p: os.rename(p, p + "x"),
                       lambda p: open(p, "ab"), lambda p: os.chmod(p, 0o777),
                       lambda p: os.mkdir(p + "/new"), lambda p: open(p + "/new", "w")):
            try:
                attack(path)
            except OSError:
                continue
            raise SystemExit(f"{{attack}} of {{path}} was possible")
    # Lives are not even seen: who could lock one could make the dead seem alive.
    try:
        os.listdir(home + "/lives")
    except PermissionError:
        print("refused")
    """
    assert says(as_user(two, attacks, waits=False)) == "refused"
    assert len(alongside.running("mine", scope="machine")) == 1


@ROOT_NEEDED
def test_another_user_cannot_fake_life(machine, users, as_user):
    """A liar's entries speak for others, or name a process that is not theirs."""
    one, two = users
    as_user(one, OPEN, "mine", two)
    liar = as_user(two, OPEN, "theirs", one)
    (home,), (honest,) = machine.glob(f"{two}*"), machine.glob(f"{one}*")
    (theirs,) = home.joinpath("names").iterdir()
    (mine,) = honest.joinpath("names").iterdir()
    liar.kill()
    liar.wait()
    # As user one: the entry of the first user, word for word, in the second's directory.
    for text, why in (
        (mine.read_text(), "speaks for another user"),
        (theirs.read_text(), None),
        (theirs.read_text().replace(f'"pid":{liar.pid}', '"pid":1'), None),
        (theirs.read_text().replace('"inode":', '"inode":null,"x":'), "no entry"),
    ):
        theirs.write_text(text)
        os.chown(theirs, two, two)
        name = mine.name if why == "speaks for another user" else theirs.name
        place = theirs.with_name(name)
        theirs.rename(place)
        found = {entry.peer.uid for entry in alongside.running(scope="machine")}
        assert found == {one}, text
        flaws = dict(alongside._core.flaws("machine"))
        assert place in flaws
        assert why is None or why in flaws[place]
        theirs = place.rename(theirs)


@ROOT_NEEDED
@pytest.mark.parametrize("pid", ["thread", 0, 2**31, 2**32 - 1])
def test_an_entry_of_no_process_is_passed_over(machine, users, as_user, pid):
    """Whatever another user writes there, it breaks nobody's look-ups."""
    one, two = users
    as_user(one, OPEN, "mine", two)
    waiting = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    liar = as_user(two, waiting + OPEN, "theirs")
    (home,) = machine.glob(f"{two}*")
    (entry,) = home.joinpath("names").iterdir()
    if pid == "thread":
        pid = max(int(task) for task in os.listdir(f"/proc/{liar.pid}/task"))
    watch = alongside.watch(scope="machine")
    entry.write_text(entry.read_text().replace(f'"pid":{liar.pid}', f'"pid":{pid}'))
    assert [found.name for found in alongside.running(scope="machine")] == ["mine"]
    assert alongside.find("mine", owner=one, scope="machine").peer.uid == one
    with alongside.watch(scope="machine") as another:
        assert another.next(timeout=30).entry.name == "mine"
    with alongside.publish("after", scope="machine"):
        while watch.next(timeout=30).entry.name != "after":
            pass
    watch.close()


@ROOT_NEEDED
def test_a_file_of_the_same_name_is_another_user_s_entry(machine, users, as_user):
    """It neither changes nor ends the one that it imitates."""
    one, two = users
    as_user(two, OPEN, "scanner", one)
    (home,) = machine.glob(f"{two}*")
    with alongside.publish("scanner", about="true", scope="machine") as mine:
        watch = alongside.watch("scanner", scope="machine")
        first = {watch.next(timeout=30).entry.peer.uid for _ in range(2)}
        assert first == {0, two}
        (theirs,) = home.joinpath("names").iterdir()
        text = theirs.read_text()
        number, _, instance = theirs.name.partition("-")
        text = text.replace(instance, mine.instance).replace('"about":""', '"about":"false"')
        planted = theirs.with_name(f"{number}-{mine.instance}")
        planted.write_text(text)
        os.chown(planted, two, two)
        change = watch.next(timeout=30)
        assert (change.kind, change.entry.peer.uid) == ("appeared", two)
        planted.unlink()
        change = watch.next(timeout=30)
        assert (change.kind, change.entry.peer.uid) == ("vanished", two)
        mine.update(about="still")
        change = watch.next(timeout=30)
        assert (change.kind, change.entry.peer.uid) == ("changed", 0)
        watch.close()


@ROOT_NEEDED
def test_many_directories_of_one_user_hide_nobody_s_names(machine, users, as_user):
    one, _ = users
    as_user(
        one,
        """
        for number in range(400):
            home = f"/run/alongside/{os.getuid()}-{number}"
            os.mkdir(home)
            os.mkdir(home + "/names")
            os.mkdir(home + "/sockets")
        """,
    )
    source = """
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    assert [e.name for e in alongside.running(scope="machine")] == ["scanner"]
    assert alongside.find("scanner", scope="machine").peer.uid == 0
    alongside.watch(scope="machine").close()
    """
    with alongside.publish("scanner", scope="machine"):
        done = subprocess.run(
            [sys.executable, "-c", "import alongside\n" + textwrap.dedent(source)],
            capture_output=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr


@ROOT_NEEDED
def test_a_watch_keeps_nothing_of_places_that_came_and_went(machine, users, as_user):
    watch = alongside.watch(scope="machine")
    before = len(os.listdir("/proc/self/fd"))
    source = """
    for number in range(50):
        alongside.publish("brief", scope="machine").revoke()
        shutil.rmtree(f"/run/alongside/{os.getuid()}")
        alongside._core.leave_directories()
    r = alongside.publish("last", scope="machine")
    """
    as_user(users[0], source)
    while watch.next(timeout=30).entry.name != "last":
        pass
    # One place has come since: two directories, a process, and what the test holds of that.
    assert len(os.listdir("/proc/self/fd")) <= before + 5
    watch.close()


@ROOT_NEEDED
def test_an_entry_that_names_another_s_process_is_not_connected_to(machine, users, as_user):
    one, two = users
    as_user(one, OPEN, "mine", two)
    liar = as_user(two, OPEN, "theirs", one)
    (home,) = machine.glob(f"{two}*")
    (entry,) = home.joinpath("names").iterdir()
    victim = as_user(one, "")
    mark = f"/proc/{victim.pid}/stat"
    begun = Path(mark).read_text().rpartition(")")[2].split()[19]
    text = entry.read_text()
    for name, value in {"pid": victim.pid, "begun": begun}.items():
        at = text.index(f'"{name}":') + len(name) + 3
        text = text[:at] + str(value) + text[text.index(",", at) :]
    at = text.index('"inode":') + 8
    handle = os.pidfd_open(victim.pid)
    text = text[:at] + str(os.stat(handle).st_ino) + text[text.index(",", at) :]
    os.close(handle)
    entry.write_text(text)
    (found,) = alongside.running("theirs", scope="machine")
    assert found.peer.pid == victim.pid, "it lies, and nobody can see that yet"
    with pytest.raises(alongside.Denied, match=f"process {liar.pid} of user {two} listens there"):
        alongside.connect(found)


@ROOT_NEEDED
def test_a_mask_of_the_process_does_not_hide_its_names(machine, users, as_user):
    one, two = users
    as_user(one, "os.umask(0o777)\n" + OPEN, "masked", two)
    assert says(as_user(two, ASK, f"masked@{one}", waits=False)) == f"['hello', {two}] {one}"
    (home,) = machine.glob(f"{one}*")
    assert stat.S_IMODE(home.stat().st_mode) == 0o755


@ROOT_NEEDED
@pytest.mark.parametrize("what", ["a FIFO", "a link", "a file", "names elsewhere"])
def test_what_another_user_plants_is_passed_over(machine, users, as_user, what):
    one, two = users
    plant = {
        "a FIFO": "os.mkfifo('/run/alongside/' + me)",
        "a link": "os.symlink('/', '/run/alongside/' + me)",
        "a file": "open('/run/alongside/' + me, 'w')",
        "names elsewhere": (
            "os.mkdir('/run/alongside/' + me); "
            "[os.symlink('/tmp', f'/run/alongside/{me}/{p}') for p in ('names', 'sockets')]"
        ),
    }[what]
    as_user(two, "me = str(os.getuid())\n" + plant)
    as_user(one, OPEN, "mine", two)
    assert [entry.name for entry in alongside.running(scope="machine")] == ["mine"]
    with alongside.watch(scope="machine") as watch:
        assert watch.next(timeout=30).entry.name == "mine"


def test_whom_to_allow_is_checked():
    with pytest.raises(ValueError, match="no user 'nobody here'"):
        alongside.publish("a", print, scope="machine", allow=["nobody here"])
    with pytest.raises(ValueError, match="no group"):
        alongside.publish("a", print, scope="machine", allow=["group:nobody here"])
    with pytest.raises(TypeError, match="allow takes several"):
        alongside.publish("a", print, scope="machine", allow="root")


@pytest.mark.usefixtures("scope")
def test_nobody_else_can_be_let_into_a_user_s_own_scope():
    with pytest.raises(ValueError, match=r"(?s)whatever allow says.*machine"):
        alongside.publish("a", print, allow=["root"])
    with pytest.raises(ValueError, match="this user's own"):
        alongside.find("a", owner=os.getuid() + 1)


# ---- a runtime directory that appears later ------------------------------------------------------


@pytest.fixture
def late(tmp_path, monkeypatch):
    """Name a runtime directory that is not there yet; names go to the next place until then."""
    tmp_path.chmod(0o700)
    path = tmp_path / "later"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    usual = Path(f"/run/user/{os.getuid()}")
    if usual.exists():
        pytest.skip("this user has a runtime directory")
    return path
    # The next place is not this test's alone: what is in it goes with its processes.


def test_no_name_splits_when_the_runtime_directory_appears(late, owner_anywhere):
    before = owner_anywhere("alongside.publish('split', lambda d, s: s.send('before'))")
    with alongside.watch("split") as watch:
        assert watch.next(timeout=30).entry.peer.pid == before.pid
        late.mkdir(mode=0o700)
        after = owner_anywhere("alongside.publish('split', lambda d, s: s.send('after'))")
        change = watch.next(timeout=30)
        assert (change.kind, change.entry.peer.pid) == ("appeared", after.pid)
        # The oldest is the same for everybody, wherever it stands.
        found = [entry.peer.pid for entry in alongside.running("split")]
        assert found == [before.pid, after.pid]
        with alongside.connect("split") as session:
            session.send(None)
            assert session.receive(timeout=30) == "before"
        before.kill()
        assert watch.next(timeout=30).kind == "vanished"
        with alongside.connect("split") as session:
            session.send(None)
            assert session.receive(timeout=30) == "after"


def test_a_runtime_directory_that_becomes_private_later_counts_from_then_on(late):
    late.mkdir(mode=0o755)
    with alongside.watch("w/*") as watch, alongside.publish("w/1"):
        assert watch.next(timeout=30).entry.name == "w/1"
        late.chmod(0o700)
        with alongside.publish("w/2"):
            assert watch.next(timeout=30).entry.name == "w/2"
            assert len(alongside.running("w/*")) == 2
            assert list(late.joinpath("alongside/user/names").iterdir())
