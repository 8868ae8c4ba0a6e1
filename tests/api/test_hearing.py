"""Many cells followed at once: one inotify hears of them all."""

import asyncio
import contextlib
import os
import select
import subprocess
import sys
import threading
from pathlib import Path

import alongside
import pytest
from alongside import Cell, loops

pytestmark = pytest.mark.usefixtures("scope")


def inotifies():
    """How many of them this process has."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(link))
    return links.count("anon_inode:inotify")


@pytest.fixture
def cells():
    """Three of them, and what their callbacks were called with."""
    with Cell("a") as a, Cell("b") as b, Cell("c") as c:
        yield a, b, c


def collect(loop, until):
    """Run a loop of one's own until something is true."""
    while not until():
        select.select([loop], [], [])
        loop.dispatch()


def test_more_cells_than_a_user_has_inotifies(puppet):
    count = 2 * int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    before = inotifies()
    loop, seen = loops.Manual(), {}
    with contextlib.ExitStack() as stack:
        cells = [stack.enter_context(Cell(f"many/{n}")) for n in range(count)]
        for n, cell in enumerate(cells):
            cell.on_change(lambda value, n=n: seen.setdefault(n, value), on=loop)
        assert inotifies() == before + 1
        writer = puppet()
        writer.run(f"cells = [alongside.Cell(f'many/{{n}}') for n in range({count})]")
        writer.run("for n, cell in enumerate(cells): cell.set(n * n)")
        collect(loop, lambda: len(seen) == count)
        assert seen == {n: n * n for n in range(count)}
        for cell in cells:
            cell.on_change(None)
        assert inotifies() == before


def test_many_tasks_wait_for_many_cells(puppet):
    writer = puppet()
    writer.run("cells = [alongside.Cell(f'many/{n}') for n in range(200)]")

    async def main():
        with contextlib.ExitStack() as stack:
            cells = [stack.enter_context(Cell(f"many/{n}")) for n in range(200)]
            # More than the kernel lets wait for one file through nested epolls: 500.
            tasks = [asyncio.create_task(cell.achanged()) for cell in cells * 3]
            await asyncio.sleep(0)
            writer.run("for n, cell in enumerate(cells): cell.set(n)")
            assert await asyncio.gather(*tasks) == [(n, 1) for n in range(200)] * 3

    before = inotifies()
    asyncio.run(main())
    assert inotifies() == before


def test_all_who_wait_are_told_that_the_file_was_removed(cells):
    a, *_ = cells

    async def main():
        tasks = [asyncio.create_task(a.achanged()) for _ in range(5)]
        await asyncio.sleep(0)
        os.unlink(a._path)
        for task in tasks:
            with pytest.raises(alongside.ScopeLost):
                await task

    asyncio.run(main())


def test_all_callbacks_end_when_the_file_was_removed(cells, caplog):
    loop, handles = loops.Manual(), [Cell("a") for _ in range(3)]
    for handle in handles:
        handle.on_change(print, on=loop)
    os.unlink(handles[0]._path)
    collect(loop, lambda: caplog.text.count("callbacks end, of") == 3)
    assert caplog.text.count("ScopeLost: ") == 3
    for handle in handles:
        handle.close()


def test_a_callback_that_forks_leaves_the_child_s_files_alone(cells):
    a, *_ = cells
    loop = loops.Manual()
    ends = []

    def fork(_):
        pid = os.fork()
        if pid:
            ends.append(os.waitpid(pid, 0)[1])

    is_parent = os.getpid()
    a.on_change(fork, on=loop)
    a.set(1)
    try:
        with contextlib.suppress(alongside.HandleLost):
            while not ends and os.getpid() == is_parent:
                loop.dispatch()
        if os.getpid() != is_parent:
            # Where the parent's inotify was, and whatever the child opens first.
            pipes = [os.pipe() for _ in range(20)]
            for _, end in pipes:
                os.write(end, b"own")
            with contextlib.suppress(alongside.HandleLost):
                a._callback._ready(1)
            whole = all(os.read(end, 3) == b"own" for end, _ in pipes)
            os._exit(0 if whole else 1)
    finally:
        if os.getpid() != is_parent:
            os._exit(2)
    assert ends == [0]


def test_a_program_with_callbacks_ends_without_a_word():
    program = """
import alongside, threading
cell = alongside.Cell("spoken")
port = alongside.shared_port("spoken", listen=True, scope="user")
called = threading.Event()
cell.on_change(lambda value: called.set())
port.on_change(print)
cell.set(1)
called.wait()
"""
    for _ in range(20):
        argv = [sys.executable, "-c", program]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("", "")


def test_several_loops_hear_of_their_cells_whoever_comes_first(cells, puppet):
    a, b, _ = cells
    writer = puppet()
    writer.run("a, b = alongside.Cell('a'), alongside.Cell('b')")
    first, second, seen = loops.Manual(), loops.Manual(), []
    a.on_change(lambda value: seen.append(("a", value)), on=first)
    b.on_change(lambda value: seen.append(("b", value)), on=second)
    writer.run("a.set(1); b.set(2)")
    collect(second, lambda: ("b", 2) in seen)
    assert seen == [("b", 2)]
    # It was told by the other, and there is nothing more to be told.
    assert select.select([first], [], [])[0]
    first.dispatch()
    assert seen == [("b", 2), ("a", 1)]


def test_a_cell_with_two_who_wait_goes_on_when_one_stops(cells, puppet):
    a, *_ = cells
    writer = puppet()
    writer.run("a = alongside.Cell('a')")
    loop, seen = loops.Manual(), []
    with Cell("a") as again:
        a.on_change(seen.append, on=loop)
        again.on_change(lambda value: seen.append(-value), on=loop)
        writer.run("a.set(1)")
        collect(loop, lambda: {1, -1} <= set(seen))
        again.on_change(None)
        writer.run("a.set(2)")
        collect(loop, lambda: 2 in seen)
        assert -2 not in seen


def test_nothing_is_lost_with_what_the_kernel_drops(cells, puppet):
    """It keeps so many events, and then says only that there were more."""
    a, b, c = cells
    loop, seen = loops.Manual(), []
    for cell in (a, b, c):
        cell.on_change(lambda value, name=cell.name: seen.append((name, value)), on=loop)
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    writer = puppet()
    writer.run("a, b, c = (alongside.Cell(name) for name in 'abc')")
    # One after the other: the kernel merges what is told twice in a row.
    writer.run(f"for n in range({most}): a.set(n); b.set(n)")
    writer.run("c.set('last')")
    collect(loop, lambda: ("c", "last") in seen)
    assert ("a", most - 1) in seen
    assert ("b", most - 1) in seen


def test_a_forked_child_takes_nothing_from_its_parent(cells, puppet):
    a, b, _ = cells
    loop, seen = loops.Manual(), []
    a.on_change(lambda value: seen.append(("a", value)), on=loop)
    b.on_change(lambda value: seen.append(("b", value)), on=loop)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with Cell("a") as own:
                own_loop, own_seen = loops.Manual(), []
                own.on_change(own_seen.append, on=own_loop)
                a.on_change(None)
                own.set("child")
                collect(own_loop, lambda: own_seen == ["child"])
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    collect(loop, lambda: ("a", "child") in seen)
    writer = puppet()
    writer.run("alongside.Cell('b').set('after')")
    collect(loop, lambda: ("b", "after") in seen)


def test_callbacks_come_and_go_while_others_are_told(cells, puppet):
    a, b, _ = cells
    writer = puppet()
    writer.run("""
        a = alongside.Cell('a')
        def write():
            n = 0
            while n < 1000:
                n += 1
                a.set(n)
        thread = threading.Thread(target=write)
        """)
    seen, is_last = [], threading.Event()

    def note(value):
        seen.append(value)
        if value == 1000:
            is_last.set()

    a.on_change(note)
    writer.run("thread.start()")
    while not is_last.is_set():
        for on in (None, loops.Manual()):
            b.on_change(print, on=on)
            b.on_change(None)
    assert seen == sorted(seen)


def test_without_an_inotify_there_is_an_error_that_says_so(puppet):
    """The user's are used up by other programs."""
    other, program = puppet(), puppet()
    other.run("""
        import ctypes
        libc = ctypes.CDLL(None)
        taken = []
        while (fd := libc.inotify_init1(0)) >= 0:
            taken.append(fd)
        """)
    program.run("cell = alongside.Cell('a')")
    with pytest.raises(OSError, match="watching a cell") as caught:
        program.run("cell.on_change(print)")
    assert not isinstance(caught.value, alongside.AlongsideError)
    other.run("os.close(taken.pop())")
    program.run("cell.on_change(print)")
