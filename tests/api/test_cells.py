"""Cells: values that live as long as some process holds them."""

import asyncio
import datetime
import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import alongside
import numpy as np
import pytest
from alongside import Cell, loops

pytestmark = pytest.mark.usefixtures("scope")


def files(scope):
    """What of cells lies in the scope."""
    directory = scope / "cells"
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


@pytest.fixture
def cell():
    with Cell("a/b") as cell:
        yield cell


# ---- values --------------------------------------------------------------------------------------

VALUES = [
    None,
    True,
    False,
    -5,
    *(
        sign * 2**bits - below
        for bits in (0, 5, 7, 8, 15, 16, 31, 32, 63)
        for sign in (1, -1)
        for below in (0, 1)
        if sign * 2**bits - below >= -(2**63)
    ),
    2**64 - 1,
    float("inf"),
    1.5,
    "text",
    "surrogate \udc80",
    "",
    b"",
    b"bytes" * 1000,
    [1, [2, {"a": b"x"}]],
    {"key": "value", 3: None},
    datetime.datetime(2026, 1, 2, 3, 4, 5),
    "x" * 60_000,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_a_value_arrives_as_it_was(cell, puppet, value):
    cell.set(value)
    assert cell.get() == value
    other = puppet()
    other.run("cell = alongside.Cell('a/b')")
    assert other("cell.get()") == value
    other.run(f"cell.set({['back', 0]})")
    assert cell.get() == ["back", 0]


def test_arrays_arrive_as_they_were(puppet):
    with Cell("a", max_size=1 << 20) as cell:
        value = {
            "x": np.arange(12.0).reshape(3, 4).T,
            "long": b"b" * 100_000,
            "y": [np.array([1, 2], ">i2")],
        }
        cell.set(value)
        for found in (cell.get(), puppet()("alongside.Cell('a', max_size=1 << 20).get()")):
            assert found["long"] == value["long"]
            np.testing.assert_array_equal(found["x"], value["x"])
            assert list(found["y"][0]) == [1, 2]
        # (Pickled back to here, an array would lose its order of bytes.)
        assert cell.get()["y"][0].dtype == ">i2"
        assert not cell.get()["x"].flags.writeable


def test_an_array_alone(cell):
    cell.set(np.eye(3))
    np.testing.assert_array_equal(cell.get(), np.eye(3))


def test_what_cannot_be_sent_cannot_be_set(cell):
    cell.set("old")
    with pytest.raises(TypeError, match=r"data\['a'\]\[1\]"):
        cell.set({"a": [1, {2}]})
    assert cell.get() == "old"


def test_without_a_value_there_is_none(cell):
    with pytest.raises(alongside.NotFound, match=r"no value yet"):
        cell.get()
    with pytest.raises(LookupError):
        cell.read()
    with pytest.raises(alongside.NotFound):
        cell.update(str)
    assert cell.get(None) is None
    assert cell.get(default=5) == 5


def test_versions_count_the_values(cell):
    for count in range(1, 6):
        cell.set(f"value {count}")
        assert cell.read() == (f"value {count}", count)


def test_values_are_checked_against_a_type(cell, puppet):
    with Cell("a/b", type=list[int]) as typed:
        cell.set([1, 2])
        assert typed.get() == [1, 2]
        cell.set(["x"])
        with pytest.raises(alongside.Invalid, match="does not fit"):
            typed.get()
        assert cell.get() == ["x"]
    with pytest.raises(TypeError):
        Cell("a/b", type=threading.Lock)


def test_a_typed_cell_takes_no_other_values(cell):
    with Cell("a/b", type=list[int]) as typed:
        for put in (
            lambda: typed.get_or_set(lambda: ["x"]),
            lambda: typed.set("x"),
            lambda: typed.compare_and_set({}, version=0),
        ):
            with pytest.raises(alongside.Invalid, match='the value of the cell "a/b" does not fit'):
                put()
            assert cell.get(None) is None
        assert typed.get_or_set(lambda: [1]) == [1]
        with pytest.raises(alongside.Invalid):
            typed.update(lambda value: [*value, "x"])
        assert typed.update(lambda value: [*value, 2]) == [1, 2]


def test_a_value_that_does_not_fit_is_passed_over(cell, caplog):
    seen, loop = [], loops.Manual()
    with Cell("a/b", type=int) as typed:
        typed.on_change(seen.append, on=loop)
        cell.set("wrong")
        loop.dispatch(timeout=None)
        assert "does not fit int" in caplog.text
        with pytest.raises(alongside.Invalid) as caught:
            typed.wait(0)
        assert (caught.value.version, caught.value.data) == (1, "wrong")
        cell.set(2)
        assert typed.wait(caught.value.version) == (2, 2)
        loop.dispatch(timeout=None)
    assert seen == [2]


def test_a_value_too_long_leaves_the_old_one(cell):
    cell.set("old")
    with pytest.raises(alongside.TooLarge, match="has room for 65536"):
        cell.set(b"x" * 65_537)
    cell.set(b"x" * 65_536)
    assert cell.get() == b"x" * 65_536
    with Cell("small", max_size=0) as small:
        small.set(b"")
        with pytest.raises(alongside.TooLarge):
            small.set(b"x")


def test_compare_and_set_sets_only_what_was_seen(cell):
    assert not cell.compare_and_set("x", version=1)
    assert cell.compare_and_set("first", version=0)
    assert not cell.compare_and_set("x", version=0)
    assert not cell.compare_and_set("x", version=-1)
    assert cell.compare_and_set("second", version=1)
    assert cell.read() == ("second", 2)


def test_updates_of_many_are_all_there(cell, puppet):
    cell.set(0)
    others = [puppet() for _ in range(3)]
    for other in others:
        other.run("cell = alongside.Cell('a/b')")
        other.say("[cell.update(lambda n: n + 1) for _ in range(500)] and None")
    threads = [
        threading.Thread(target=lambda: [cell.update(lambda n: n + 1) for _ in range(200)])
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.hear()
    assert cell.read() == (2100, 2101)


# ---- life ----------------------------------------------------------------------------------------


def test_a_value_is_gone_with_its_last_holder(puppet, scope):
    one, two = puppet(), puppet()
    one.run("cell = alongside.Cell('a'); cell.set('old')")
    two.run("cell = alongside.Cell('a')")
    one.kill()
    assert two("cell.get()") == "old"
    two.kill()
    with Cell("a") as cell:
        assert cell.get(None) is None
    assert files(scope) == []


@pytest.mark.parametrize("how", ["close", "end", "kill"])
def test_holders_are_told_and_gone_when_they_are(cell, puppet, how):
    other = puppet()
    other.run("cell = alongside.Cell('a/b')")
    assert {peer.pid for peer in cell.holders()} == {os.getpid(), other.pid}
    assert [peer.uid for peer in cell.holders()] == [os.getuid()] * 2
    {"close": lambda: other.run("cell.close()"), "end": other.end, "kill": other.kill}[how]()
    assert [peer.pid for peer in cell.holders()] == [os.getpid()]


def test_a_program_that_ends_leaves_nothing(puppet, scope):
    other = puppet()
    other.run("alongside.Cell('a').set(1); lock = alongside.Lock('l')")
    other.run("with lock, alongside.RWLock('l').reading(): pass")
    assert len(files(scope)) == 1
    other.end()
    assert files(scope) == []
    assert list((scope / "locks").iterdir()) == []
    assert list((scope / "rwlocks").iterdir()) == []


def test_a_handle_that_nobody_has_still_holds(puppet):
    Cell("a").set("kept")
    assert puppet()("alongside.Cell('a').get()") == "kept"
    cell = Cell("a")
    cell.close()
    # The first handle was not closed, so the process still holds it.
    with Cell("a") as again:
        assert again.get() == "kept"
    alongside._core.leave_shared()


def test_many_handles_take_one_descriptor():
    # What other tests have left is not to go meanwhile.
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    cells = [Cell("a") for _ in range(100)]
    # The file, its directory, the place.
    assert len(os.listdir("/proc/self/fd")) - before < 8
    for cell in cells:
        cell.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_handle_says_so(cell):
    cell.set(1)
    other = Cell("a/b")
    other.close()
    other.close()
    assert other.closed
    for use in (other.get, other.holders, lambda: other.set(1), lambda: other.wait(0)):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert cell.get() == 1


def test_all_have_to_say_the_same_size(cell, puppet):
    with pytest.raises(alongside.Incompatible, match=r"max_size=65536.* 100"):
        puppet()("alongside.Cell('a/b', max_size=100)")
    for wrong in (-1, 1 << 50):
        with pytest.raises(ValueError, match="max_size"):
            Cell("c", max_size=wrong)


def test_a_killed_holder_with_workers_is_gone_at_once(cell, puppet):
    """Workers inherit open files, and would keep the value alive."""
    other = puppet()
    other.run(
        """
        cell = alongside.Cell('a')
        cell.set('old')
        import multiprocessing
        context = multiprocessing.get_context("fork")
        read, write = os.pipe()
        def work():
            os.write(write, b"x")
            signal.pause()
        workers = [context.Process(target=work) for _ in range(3)]
        [worker.start() for worker in workers]
        # Each has begun: what it does first of all is to close what is not its own.
        [os.read(read, 1) for _ in workers]
        """
    )
    workers = other("[worker.pid for worker in workers]")
    other.kill()
    try:
        with Cell("a") as cell:
            assert cell.get(None) is None
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)


def test_a_forked_child_has_to_open_it_anew(cell):
    cell.set("there")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            cell.get()
        except alongside.HandleLost as error:
            os.write(write, str(error).encode())
        with Cell("a/b") as own:
            os.write(write, own.get().encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as told:
        said = told.read()
    assert "belongs to the process that forked this one" in said
    assert said.endswith("there")
    assert cell.get() == "there"


def test_a_holder_that_is_stopped_holds_up_nobody(cell, puppet):
    other = puppet()
    other.run("cell = alongside.Cell('a/b'); cell.set('its')")
    os.kill(other.pid, signal.SIGSTOP)
    assert cell.get() == "its"
    cell.set("ours")
    assert cell.wait(1)[0] == "ours"
    with Cell("a/b") as another:
        assert another.get() == "ours"
    os.kill(other.pid, signal.SIGCONT)
    assert other("cell.get()") == "ours"


def test_a_cell_cannot_be_pickled(cell):
    import pickle

    with pytest.raises(TypeError, match="open it by its name"):
        pickle.dumps(cell)


@pytest.mark.parametrize("name", ["", "a//b", "..", "a@b", "x" * 201, "new\nline"])
def test_names_have_rules(name):
    with pytest.raises(ValueError, match="no name"):
        Cell(name)
    assert os.getpid()


@pytest.mark.parametrize("make", [Cell, alongside.Lock, alongside.RWLock])
def test_what_is_no_name_is_said_in_the_same_words(make):
    with pytest.raises(TypeError, match="a name is a str, not None"):
        make(None)
    with pytest.raises(ValueError, match="lone surrogate"):
        make("\udcff")
    with pytest.raises(ValueError, match="neither begins nor ends with a slash"):
        make("/x")


@pytest.mark.parametrize(
    ("size", "error"), [(-1, ValueError), (1 << 70, ValueError), ("5", TypeError)]
)
def test_what_is_no_size_is_refused(size, error):
    with pytest.raises(error, match="expected a number of bytes"):
        Cell("a/b", max_size=size)


def test_scopes_are_apart(monkeypatch):
    monkeypatch.setenv("ALONGSIDE_LOGIN", "one")
    with Cell("a") as user, Cell("a", scope="login") as one:
        user.set("user")
        one.set("one")
        monkeypatch.setenv("ALONGSIDE_LOGIN", "two")
        with Cell("a", scope="login") as two:
            assert two.get(None) is None
            two.set("two")
            assert (user.get(), one.get(), two.get()) == ("user", "one", "two")


# ---- what goes wrong -----------------------------------------------------------------------------


def test_a_file_that_was_removed_is_noticed(cell, scope):
    cell.set(1)
    (path,) = (scope / "cells").iterdir()
    path.unlink()
    with pytest.raises(alongside.ScopeLost, match="removed by somebody"):
        while True:
            cell.set(2)
    with Cell("a/b") as anew:
        assert anew.get(None) is None


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_a_file_cut_short_is_no_crash(cell, scope, size):
    cell.set("x" * 3000)
    (path,) = (scope / "cells").iterdir()
    os.truncate(path, size)
    for use in (cell.get, lambda: cell.set(1), lambda: cell.wait(5), lambda: Cell("a/b")):
        with pytest.raises(alongside.Corrupt):
            use()


def test_noise_is_no_crash(cell, scope):
    cell.set("x" * 3000)
    (path,) = (scope / "cells").iterdir()
    noise = np.random.default_rng(1)
    outcomes = set()
    for _ in range(200):
        with path.open("r+b") as file:
            file.seek(272)
            file.write(noise.bytes(3824))
        try:
            cell.get()
            outcomes.add("value")
        except (alongside.Corrupt, alongside.NotFound) as error:
            outcomes.add(type(error))
    assert outcomes == {alongside.Corrupt}


def test_what_stands_in_its_place_is_refused(scope, cell):
    cell.close()
    with Cell("planted") as planted:
        path = Path(planted._path)
    for plant in (
        lambda: path.symlink_to("/etc/passwd"),
        lambda: os.mkfifo(path),
        path.mkdir,
        lambda: (path.touch(), path.chmod(0o666)),
    ):
        plant()
        with pytest.raises(alongside.Denied, match="remove it"):
            Cell("planted")
        path.rmdir() if path.is_dir() else path.unlink()
    with Cell("planted") as planted:
        planted.set(1)


def test_a_gate_that_others_may_lock_is_refused(scope, cell):
    for gate in (scope / "gates").iterdir():
        gate.chmod(0o666)
    with pytest.raises(alongside.Denied, match="remove it"):
        Cell(cell.name)
    for gate in (scope / "gates").iterdir():
        gate.unlink()
    with Cell(cell.name) as again:
        assert again.holders() == cell.holders()


def test_what_lives_in_any_place_counts(puppet):
    """A program may have begun before its user's runtime directory was there."""
    name = f"places/{os.getpid()}"
    take = f"lock = alongside.Lock({name!r}); lock.acquire(); rw = alongside.RWLock({name!r})"
    killed = puppet()
    killed.run(f"{take}; hold = rw.writing().__enter__()")
    killed.kill()
    # It cannot know of what has died in a place that it does not see.
    early = {key: value for key, value in os.environ.items() if key != "XDG_RUNTIME_DIR"}
    early = puppet(env=early)
    early.run(f"{take}; hold = rw.writing().__enter__(); alongside.Cell({name!r}).set('early')")
    with Cell(name) as cell:
        assert cell.get() == "early"
        lock, rwlock = alongside.Lock(name), alongside.RWLock(name)
        assert lock.owner().pid == early.pid
        assert not lock.try_acquire()
        with pytest.raises(alongside.TimedOut):
            rwlock.reading(timeout=0).__enter__()
        early.run("hold.__exit__(None, None, None); lock.release()")
        assert lock.try_acquire()
        lock.release()


def test_a_full_disk_leaves_the_old_value(puppet):
    """By a limit of file sizes: who meets a full tmpfs is told the same way."""
    other = puppet()
    other.run(
        """
        import resource
        cell = alongside.Cell('a', max_size=1 << 20)
        cell.set('old')
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        """
    )
    with pytest.raises(OSError, match="large") as caught:
        other("cell.set(b'x' * 500_000)")
    assert caught.value.filename.endswith(other("cell._path").rsplit("/")[-1])
    assert other("cell.get()") == "old"
    other.run("cell.set('new')")
    assert other("cell.get()") == "new"


def test_daemon_threads_that_wait_end_with_the_program_without_a_word(scope):
    program = """
import alongside, threading
lock, cell = alongside.Lock("lock"), alongside.Cell("cell")
port = alongside.shared_port("port", listen=False, scope="user")
lock.acquire()
begun = threading.Barrier(5)
def wait_in(call):
    begun.wait()
    call()
for call in (lock.acquire, lambda: cell.wait(0), port.wait, lambda: cell.wait(0)):
    threading.Thread(target=wait_in, args=[call], daemon=True).start()
begun.wait()
"""
    for _ in range(5):
        argv = [sys.executable, "-c", program]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_an_async_with_closes_too():
    async def main():
        async with Cell("c") as cell, await alongside.aonly("c") as instance:
            assert instance.first
        assert cell.closed
        assert not instance.first

    asyncio.run(main())
