"""Locks: one at a time, whatever becomes of who has it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import alongside
import pytest
from alongside import Lock, RWLock

from tests.conftest import is_stopped, wait_until

pytestmark = pytest.mark.usefixtures("scope")


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


def test_who_waited_too_long_learns_for_whom(lock, puppet):
    other = puppet()
    other.run("lock = alongside.Lock('a/b'); lock.acquire()")
    with pytest.raises(alongside.TimedOut, match=f"process {other.pid} has it$"):
        lock.acquire(timeout=0)
    os.kill(other.pid, signal.SIGSTOP)

    async def main():
        await lock.aacquire(timeout=0.01)

    wait_until(lambda: is_stopped(other.pid))
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
