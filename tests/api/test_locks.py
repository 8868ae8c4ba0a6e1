"""Locks: one at a time, whatever becomes of who has it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import alongside
import pytest
import trio
from alongside import Lock, RWLock

from tests.conftest import wait_until

pytestmark = pytest.mark.usefixtures("scope")


@pytest.fixture
def lock():
    return Lock("a/b")


def test_one_program_has_it_at_a_time(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b')")
    assert lock.owner() is None
    with lock:
        assert lock.owner().pid == os.getpid()
        assert not other("lock.try_acquire()")
        with pytest.raises(alongside.TimedOut, match="not free"):
            other.run("lock.acquire(timeout=0.02)")
        assert other("lock.owner().pid") == os.getpid()
    assert other("lock.try_acquire()")
    assert lock.owner().pid == other.pid
    assert not lock.try_acquire()
    other.run("lock.release()")
    assert lock.try_acquire()
    lock.release()


def test_who_waits_gets_it_when_it_is_released(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")
    waits = f"'futex' not in open('/proc/{os.getpid()}/wchan').read()"
    other.say(f"while {waits}: pass\nlock.release()", "exec")
    lock.acquire()
    other.hear()
    assert not lock.abandoned
    lock.release()


def test_counting_by_many_loses_nothing(lock, puppet, tmp_path):
    """A number in a file, read and written by whoever has the lock."""
    path = tmp_path / "number"
    path.write_text("0")
    count = """
    for _ in range(200):
        with alongside.Lock('a/b'):
            with open({path!r}) as file: number = int(file.read())
            with open({path!r}, 'w') as file: file.write(str(number + 1))
    """
    others = [puppet() for _ in range(4)]
    for other in others:
        other.say(count.format(path=str(path)), "exec")
    space = {"alongside": alongside}
    code = compile(__import__("textwrap").dedent(count.format(path=str(path))), "", "exec")
    threads = [threading.Thread(target=exec, args=(code, dict(space))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.hear()
    assert path.read_text() == "1400"


def test_death_frees_it_and_the_next_one_is_told(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")
    other.kill()
    assert lock.owner() is None
    with lock:
        assert lock.abandoned
    with lock:
        assert not lock.abandoned


def test_who_waits_gets_it_at_once_when_its_owner_dies(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")
    waiter = puppet()
    waiter.run("lock = alongside.Lock('a/b')")
    waiter.say("lock.acquire() or lock.abandoned")
    other.kill()
    assert waiter.hear()
    waiter.run("lock.release()")


def test_a_death_is_told_though_nobody_had_the_lock_open(puppet, scope):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")
    other.kill()
    lock = Lock("a/b")
    with lock:
        assert lock.abandoned
    with lock:
        assert not lock.abandoned
    del lock
    assert list((scope / "locks").iterdir()) == []


def test_who_ends_without_giving_it_back_has_abandoned_it(puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")
    other.end()
    lock = Lock("a/b")
    with lock:
        assert lock.abandoned


def test_a_lock_is_held_to_the_very_end(scope):
    """What a program does at its end is still excluded from what others do."""
    code = """
import atexit, subprocess, sys
ask = "import alongside; print(alongside.Lock('a/b').try_acquire())"
@atexit.register
def at_the_end():
    print(subprocess.check_output([sys.executable, "-c", ask]).decode(), flush=True)
import alongside
lock = alongside.Lock("a/b")
lock.acquire()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"False\n\n"
    assert done.stderr == b""


def test_a_file_that_was_removed_is_noticed(lock, scope):
    (path,) = (scope / "locks").iterdir()
    path.unlink()
    with pytest.raises(alongside.ScopeLost, match="removed by somebody"):
        while True:
            with lock:
                pass
    with Lock("a/b"):
        pass
    rwlock = RWLock("a/b")
    (path,) = (scope / "rwlocks").iterdir()
    path.unlink()
    with pytest.raises(alongside.ScopeLost), rwlock.writing():
        pass


def test_what_has_a_descriptor_s_number_later_is_left_alone(puppet, tmp_path):
    (tmp_path / "precious").write_bytes(b"precious" * 100)
    other = puppet()
    other.run(f"""
        locks = [alongside.Lock('l'), alongside.RWLock('r'), alongside.Cell('c')]
        locks[2].set(1)
        kept = {{said.fileno(), told.fileno()}}
        [os.close(fd) for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and fd not in kept
         and os.path.exists(f"/proc/self/fd/{{fd}}")]
        files = [open({str(tmp_path / "precious")!r}, "r+b") for _ in range(40)]
    """)
    for use in ("locks[0].acquire()", "locks[1].writing().__enter__()", "locks[2].set(2)"):
        with pytest.raises(alongside.HandleLost):
            other(use)
    assert (tmp_path / "precious").read_bytes() == b"precious" * 100


def test_a_lock_that_is_held_belongs_to_the_process(puppet):
    Lock("a/b").acquire()
    assert not puppet()("alongside.Lock('a/b').try_acquire()")
    Lock("a/b").release()
    assert puppet()("alongside.Lock('a/b').try_acquire()")


def test_threads_exclude_each_other(lock):
    lock.acquire()
    found = []
    thread = threading.Thread(target=lambda: found.append(Lock("a/b").try_acquire()))
    thread.start()
    thread.join()
    assert found == [False]
    thread = threading.Thread(target=lambda: (lock.acquire(), found.append(True), lock.release()))
    thread.start()
    lock.release()
    thread.join()
    assert found == [False, True]


def test_misuse_is_told(lock):
    with pytest.raises(RuntimeError, match="nobody here has it"):
        lock.release()
    with lock:
        with pytest.raises(RuntimeError, match="for ever"):
            lock.acquire()
        with pytest.raises(RuntimeError, match="for ever"):
            Lock("a/b").acquire(timeout=1)
        assert not lock.try_acquire()
        errors = []

        def release():
            try:
                lock.release()
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=release)
        thread.start()
        thread.join()
        assert "does not have it" in errors[0]
    with pytest.raises(TypeError, match="open it by its name"):
        __import__("pickle").dumps(lock)


def test_a_forked_child_does_not_hold_it(lock):
    lock.acquire()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        answers = [lock.try_acquire(), lock.owner().pid == os.getppid()]
        os.write(write, repr(answers).encode())
        os.read(0, 0)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        assert told.read() == "[False, True]"
    os.waitpid(pid, 0)
    # The child's end has not released it.
    assert not Lock("a/b").try_acquire()
    lock.release()
    pid = os.fork()
    if pid == 0:
        lock.acquire()
        os._exit(0 if lock.owner().pid == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with lock:
        assert lock.abandoned


def test_a_killed_owner_with_workers_frees_it(lock, puppet):
    other = puppet()
    other.run(
        """
        lock = alongside.Lock('a/b')
        lock.acquire()
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
        with lock:
            assert lock.abandoned
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)


def test_an_owner_that_is_stopped_is_named(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")
    os.kill(other.pid, signal.SIGSTOP)
    with pytest.raises(alongside.TimedOut):
        lock.acquire(timeout=0.02)
    assert lock.owner().pid == other.pid
    os.kill(other.pid, signal.SIGCONT)
    other.run("lock.release()")
    with lock:
        assert not lock.abandoned


def test_ctrl_c_ends_a_wait(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")
    waiter = puppet()
    waiter.run("signal.signal(signal.SIGINT, signal.default_int_handler)")
    waiter.run("lock = alongside.Lock('a/b')")
    waiter.say("os.write(1, b'') or lock.acquire()")
    wait_until(lambda: "futex" in _waits_in(waiter.pid))
    waiter.process.send_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        waiter.hear()
    other.run("lock.release()")
    waiter.run("lock.acquire(); lock.release()")


def _waits_in(pid):
    with open(f"/proc/{pid}/wchan") as file:
        return file.read()


def test_a_file_cut_short_is_told(lock, scope):
    (path,) = (scope / "locks").iterdir()
    os.truncate(path, 0)
    with pytest.raises(alongside.Corrupt, match="cut short"):
        lock.acquire()
    with pytest.raises(alongside.Corrupt, match="no lock"):
        Lock("a/b")


@pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)])
def test_tasks_exclude_each_other(run, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b')")
    asleep = trio.sleep if run is not asyncio.run else asyncio.sleep
    inside, most = 0, []

    async def use():
        nonlocal inside
        async with Lock("a/b") as lock:
            inside += 1
            most.append(inside)
            assert not other("lock.try_acquire()")
            await asleep(0)
            with pytest.raises(RuntimeError, match="for ever"):
                await lock.aacquire()
            inside -= 1

    async def main():
        if run is asyncio.run:
            await asyncio.gather(*(use() for _ in range(5)))
            return
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(use)

    run(main())
    assert most == [1] * 5
    assert other("lock.try_acquire()")


def test_a_task_that_is_cancelled_does_not_have_it(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")

    async def main():
        with pytest.raises(alongside.TimedOut):
            await lock.aacquire(timeout=0.01)
        waiter = asyncio.create_task(lock.aacquire())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        with pytest.raises(RuntimeError):
            lock.arelease()

    asyncio.run(main())
    other.run("lock.release()")
    # What waited for the task may take it, to give it back.
    wait_until(lock.try_acquire)
    lock.release()


# ---- readers and writers -------------------------------------------------------------------------


@pytest.fixture
def rwlock():
    return RWLock("a/b")


def test_many_read_and_one_writes(rwlock, puppet):
    other = puppet()
    other.run("lock = alongside.RWLock('a/b')")
    with rwlock.reading(), rwlock.reading():
        other.run("with lock.reading(timeout=0): pass")
        for timeout in (0, 0.01):
            with pytest.raises(alongside.TimedOut):
                other.run(f"with lock.writing(timeout={timeout}): pass")
    other.run("hold = lock.writing(); hold.__enter__()")
    for hold in (rwlock.reading, rwlock.writing):
        with pytest.raises(alongside.TimedOut), hold(timeout=0.01):
            pass
    other.run("hold.__exit__(None, None, None)")
    with rwlock.writing() as hold:
        assert not hold.abandoned
        with pytest.raises(RuntimeError, match="in use"):
            hold.__enter__()


def test_a_writer_that_waits_goes_before_later_readers(rwlock, puppet):
    writer, late = puppet(), puppet()
    for each in (writer, late):
        each.run("lock = alongside.RWLock('a/b')")
    with rwlock.reading():
        writer.say("with lock.writing(): got = time.monotonic()", "exec")
        wait_until(lambda: not _may_read(rwlock))
        late.say("with lock.reading(): got = time.monotonic()", "exec")
    writer.hear()
    late.hear()
    assert writer("got") < late("got")


def _may_read(rwlock):
    """Whether another thread may: one that reads already may read again."""
    found = []

    def read():
        try:
            with rwlock.reading(timeout=0):
                found.append(True)
        except alongside.TimedOut:
            found.append(False)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    return found[0]


def test_death_frees_readers_and_writers(rwlock, puppet):
    for how in ("reading", "writing"):
        other = puppet()
        other.run(f"hold = alongside.RWLock('a/b').{how}(); hold.__enter__()")
        other.kill()
        with rwlock.reading() as hold:
            assert hold.abandoned == (how == "writing")
        with rwlock.writing() as hold:
            assert hold.abandoned == (how == "writing")
        with rwlock.writing() as hold:
            assert not hold.abandoned


def test_who_waits_to_write_gets_in_when_a_reader_dies(rwlock, puppet):
    reader, writer = puppet(), puppet()
    reader.run("hold = alongside.RWLock('a/b').reading(); hold.__enter__()")
    writer.say("with alongside.RWLock('a/b').writing(): pass", "exec")
    wait_until(lambda: not _may_read(rwlock))
    reader.kill()
    writer.hear()


def test_threads_of_one_program_are_told_apart(rwlock):
    order = []
    with rwlock.reading():

        def write():
            with rwlock.writing():
                order.append("writer")

        thread = threading.Thread(target=write)
        thread.start()
        wait_until(lambda: not _may_read(rwlock))
        order.append("reader")
    thread.join()
    assert order == ["reader", "writer"]


def test_tasks_read_and_write(rwlock):
    async def main():
        inside = []

        async def write():
            async with rwlock.writing():
                inside.append("in")
                await asyncio.sleep(0)
                inside.append("out")

        await asyncio.gather(*(write() for _ in range(5)))
        assert inside == ["in", "out"] * 5
        async with rwlock.reading():
            with pytest.raises(alongside.TimedOut):
                async with rwlock.writing(timeout=0.01):
                    pass

    asyncio.run(main())


# ---- tasks that wait -----------------------------------------------------------------------------


def in_line():
    """Whether a thread waits for tasks."""
    return any(thread.name.startswith("alongside: a/b") for thread in threading.enumerate())


def test_tasks_get_it_in_their_turn(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")
    order = []

    async def use(number):
        async with lock:
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    async def main():
        tasks = [asyncio.create_task(use(n)) for n in range(30)]
        await asyncio.sleep(0)
        for n in (0, 7, 8, 29):
            tasks[n].cancel()
        await asyncio.sleep(0)
        other.run("lock.release()")
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [n for n, end in enumerate(ends) if end is not None] == [0, 7, 8, 29]

    asyncio.run(main())
    assert order == [n for n in range(30) if n not in {0, 7, 8, 29} for _ in range(2)]
    assert lock.owner() is None
    wait_until(lambda: not in_line())


def test_a_task_that_waited_too_long_may_wait_again(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")

    async def main():
        for _ in range(20):
            with pytest.raises(alongside.TimedOut, match="not free"):
                await lock.aacquire(timeout=0.001)
        last = asyncio.create_task(lock.aacquire(timeout=60))
        await asyncio.sleep(0)
        other.run("lock.release()")
        await last

    asyncio.run(main())
    assert lock.owner().pid == os.getpid()


def test_a_dead_owner_is_told_to_tasks_too(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")

    async def main():
        waiter = asyncio.create_task(lock.aacquire())
        await asyncio.sleep(0)
        other.kill()
        await waiter
        assert lock.abandoned
        assert lock.owner().pid == os.getpid()
        with pytest.raises(RuntimeError, match="does not have it"):
            lock.arelease()

    asyncio.run(main())


def test_a_task_that_cannot_go_on_waiting_is_told_why(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")

    async def main():
        waiters = [asyncio.create_task(lock.aacquire()) for _ in range(3)]
        await asyncio.sleep(0)
        os.truncate(lock._path, 100)
        for waiter in waiters:
            with pytest.raises(alongside.Corrupt, match="cut short"):
                await waiter

    asyncio.run(main())


def test_a_child_forked_while_tasks_wait_has_a_line_of_its_own(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")

    async def use():
        async with lock:
            return lock.owner().pid

    async def main():
        waiter = asyncio.create_task(use())
        await asyncio.sleep(0)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.kill(other.pid, signal.SIGUSR1)
                status = asyncio.run(use()) != os.getpid()
            finally:
                os._exit(status)
        assert await asyncio.to_thread(os.waitpid, pid, 0) == (pid, 0)
        assert await waiter == os.getpid()

    # Both wait until it is told to.
    other.run("import signal; signal.signal(signal.SIGUSR1, lambda *_: lock.release())")
    asyncio.run(main())


def test_a_program_ends_though_tasks_wait(lock, puppet):
    program = """
import alongside, asyncio
async def main():
    waiters = [asyncio.create_task(alongside.Lock("a/b").aacquire()) for _ in range(3)]
    await asyncio.sleep(0)
    print("waits", flush=True)
{}
"""
    with lock:
        for end in ("asyncio.run(main())", "asyncio.new_event_loop().run_until_complete(main())"):
            argv = [sys.executable, "-c", program.format(end)]
            done = subprocess.run(argv, capture_output=True, text=True, check=True)
            assert done.stdout == "waits\n"


def test_a_task_that_is_to_write_keeps_later_readers_out(rwlock, puppet):
    first, second = puppet(), puppet()
    first.run("hold = alongside.RWLock('a/b').reading().__enter__()")
    second.run("""
        rwlock = alongside.RWLock('a/b')
        def may_read():
            try:
                with rwlock.reading(timeout=0):
                    return True
            except alongside.TimedOut:
                return False
        """)

    async def write():
        async with rwlock.writing():
            assert not second("may_read()")

    async def main():
        for is_cancelled in (True, False):
            writer = asyncio.create_task(write())
            while second("may_read()"):
                await asyncio.sleep(0)
            # As long as it waits; it looks up now and then.
            for _ in range(2000):
                assert not second("may_read()")
                await asyncio.sleep(0)
            if is_cancelled:
                writer.cancel()
                while not second("may_read()"):
                    await asyncio.sleep(0)
        first.kill()
        await writer

    asyncio.run(main())
    assert second("may_read()")


def test_a_reader_that_is_not_let_go_is_the_process_s(rwlock, puppet):
    rwlock._acquire(False, None)
    with pytest.raises(alongside.TimedOut):
        puppet().run("with alongside.RWLock('a/b').writing(timeout=0): pass")


# ---- what would never end, and what is not so ----------------------------------------------------


def test_who_would_wait_for_itself_is_told(rwlock):
    for outer, inner in (("writing", "writing"), ("writing", "reading"), ("reading", "writing")):
        with getattr(rwlock, outer)(), pytest.raises(RuntimeError, match="for ever"):
            getattr(RWLock("a/b"), inner)().__enter__()
    with rwlock.reading(), rwlock.reading():
        pass
    with rwlock.writing():
        pass

    def write():
        with rwlock.writing():
            pass

    with rwlock.reading():
        writer = threading.Thread(target=write)
        writer.start()
        wait_until(lambda: not _may_read(rwlock))
        # It would wait for the writer, which waits for it.
        with rwlock.reading():
            pass
    writer.join()

    async def main():
        async with rwlock.reading():
            with pytest.raises(RuntimeError, match="for ever"):
                async with rwlock.writing():
                    pass
        async with rwlock.writing():
            pass
        reads, goes_on = asyncio.Event(), asyncio.Event()

        async def read():
            async with rwlock.reading():
                reads.set()
                await goes_on.wait()

        other = asyncio.create_task(read())
        await reads.wait()
        # It holds up the thread, and with it the task that reads.
        with pytest.raises(RuntimeError, match="for ever"):
            rwlock.writing().__enter__()
        goes_on.set()
        await other

    asyncio.run(main())


def test_callbacks_of_two_loops_are_not_one_and_the_same(rwlock):
    order = []

    def run(name):
        loop = asyncio.new_event_loop()

        def callback():
            with rwlock.writing():
                order.append(name)
                order.append(name)

        loop.call_soon(callback)
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()

    threads = [threading.Thread(target=run, args=[name]) for name in ("one", "two")]
    with rwlock.writing():
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert order in (["one", "one", "two", "two"], ["two", "two", "one", "one"])


def test_two_tasks_cannot_use_one_hold(rwlock, puppet):
    hold = rwlock.reading()

    async def use():
        async with hold:
            pass

    async def main():
        with rwlock.writing():
            first = asyncio.create_task(use())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="in use"):
                await use()
        await first

    asyncio.run(main())
    puppet().run("with alongside.RWLock('a/b').writing(timeout=0): pass")


@pytest.mark.parametrize("kind", ["lock", "rwlock"])
def test_a_death_that_a_cancelled_task_would_have_heard_of_is_told_the_next(
    kind, lock, rwlock, puppet
):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")
    other.run("hold = alongside.RWLock('a/b').writing().__enter__()")
    take = lock.aacquire if kind == "lock" else rwlock.writing().__aenter__

    async def main():
        waiter = asyncio.create_task(take())
        await asyncio.sleep(0)
        other.kill()
        # It is taken for the task, which is cancelled before it has its turn.
        if kind == "lock":
            wait_until(lock.owner)
        else:
            wait_until(lambda: not _may_read(rwlock))
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(main())
    with lock if kind == "lock" else rwlock.writing() as held:
        assert held.abandoned


def test_who_waited_too_long_learns_for_whom(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")
    with pytest.raises(alongside.TimedOut, match=f"process {other.pid} has it$"):
        lock.acquire(timeout=0)
    os.kill(other.pid, signal.SIGSTOP)

    async def main():
        await lock.aacquire(timeout=0.01)

    wait_until(lambda: "T" in Path(f"/proc/{other.pid}/stat").read_text().split()[2])
    with pytest.raises(alongside.TimedOut, match=f"process {other.pid} has it, and is stopped"):
        asyncio.run(main())


@pytest.mark.parametrize("opens", ["pass", "lock = alongside.Lock('a/b'); lock.owner()"])
def test_a_process_that_runs_another_program_has_its_locks_no_more(lock, opens):
    code = "import alongside, os, sys; lock = alongside.Lock('a/b'); lock.acquire(); "
    after = f"import alongside; {opens}; print('runs', flush=True); input()"
    code += f"os.execv(sys.executable, [sys.executable, '-c', {after!r}])"
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout.readline() == b"runs\n"
        assert lock.owner() is None
        with lock:
            assert lock.abandoned
            assert lock.owner().pid == os.getpid()
        program.stdin.close()


def test_a_forked_child_leaves_a_with_as_it_likes(lock, rwlock):
    for hold in (lock, rwlock.writing()):
        pid = -1
        try:
            with hold:
                pid = os.fork()
                if pid == 0:
                    sys.exit(7)
        except BaseException as end:
            if pid == 0:
                os._exit(end.code if isinstance(end, SystemExit) else 1)
            raise
        finally:
            if pid == 0:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert lock.owner() is None
