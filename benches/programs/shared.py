"""Values and locks that programs share, by one library: `python -I shared.py WHO COUNT CPUS`.

Prints microseconds, medians of batches for what takes less than a few:

    read       a small value (the number 7) is read; data means {"port": 1234, "by": [1, 2]}; bytes
    read data  are seven of them, which nothing has to decode
    read bytes
    write      another one is put in its place
    open       a value that another process holds is opened, read, and let go of
    seen       another process waits for a value, and answers with one: half of that
    lock       a lock that nobody wants is taken and given back
    hand-over  from just before a lock is given back until another process that waits has it
    death      from just before the SIGKILL of the owner until another process that waits has it
    connect    a running program is connected to, and again by start_or_connect ("or start")
    crowd      500 processes open one cell at once and ask for its value, which one of them makes

CPUS are two numbers, the second for the other process; -1 leaves it to the scheduler. Who cannot do
a thing leaves it out. "eventfd" is a bare eventfd for each way, read and written by Python.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

BATCH = 200
SMALL = {"port": 1234, "by": [1, 2]}
CROWD = 500


def timed(count, act):
    """The median of batches of something short."""
    act()
    times = []
    for _ in range(count):
        begin = time.perf_counter_ns()
        for _ in range(BATCH):
            act()
        times.append((time.perf_counter_ns() - begin) / 1e3 / BATCH)
    return times


def each(count, act):
    """The time of each."""
    times = []
    for turn in range(count + count // 10 + 1):
        begin = time.perf_counter_ns()
        act()
        if turn > count // 10:
            times.append((time.perf_counter_ns() - begin) / 1e3)
    return times


def pin(cpu):
    if int(cpu) >= 0:
        os.sched_setaffinity(0, {int(cpu)})


class Other:
    """Another process of this program."""

    def __init__(self, who, role, cpu, *words):
        command = [sys.executable, "-I", __file__, who, role, cpu, *map(str, words)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, close_fds=False
        )
        assert self.hear() == "there"

    def hear(self):
        """Its next line."""
        return self.process.stdout.readline().strip()

    def say(self, word):
        """A line to it."""
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def kill(self):
        """End it."""
        self.process.kill()
        self.process.wait()


def there():
    print("there", flush=True)


# ---- alongside -----------------------------------------------------------------------------------


def by_alongside(count, cpu):
    import alongside

    folder = tempfile.mkdtemp(prefix="shared-", dir="/dev/shm")
    os.environ["XDG_RUNTIME_DIR"] = folder
    other = Other("alongside", "answer", cpu)
    cell, lock = alongside.Cell("bench"), alongside.Lock("bench")
    cell.set(7)
    times = {"read": timed(count, cell.get), "write": timed(count, lambda: cell.set(7))}
    cell.set(SMALL)
    times["read data"] = timed(count, cell.get)
    cell.set(b"sevenof")
    times["read bytes"] = timed(count, cell.get)

    def use():
        with lock:
            pass

    def open_one():
        with alongside.Cell("held") as held:
            assert held.get_or_set(int) == 7

    times["lock"] = timed(count, use)
    times["open"] = each(count * 10, open_one)

    def ask():
        nonlocal version
        asked.set(version)
        _, version = answered.wait(version)

    version, asked, answered = 0, alongside.Cell("asked"), alongside.Cell("answered")
    times["seen"] = [value / 2 for value in each(count * 10, ask)]
    times["hand-over"] = hand_over(count * 2, other, lock.acquire, lock.release)
    times["death"] = death(max(5, count // 10), "alongside", cpu, lock.acquire, lock.release)
    times |= connections(count)
    other.kill()
    times["crowd"] = [crowd()]
    shutil.rmtree(folder)
    return times


def hand_over(count, other, acquire, release):
    """The other process says when it gave the lock back."""
    times = []
    for _ in range(count):
        other.say("take")
        assert other.hear() == "taken"
        other.say("release")
        acquire()
        at = time.perf_counter_ns()
        release()
        times.append((at - int(other.hear())) / 1e3)
    return times


def death(count, who, cpu, acquire, release):
    times = []
    for _ in range(count):
        owner = Other(who, "own", cpu)
        # Is killed by a third one, while this one waits.
        code = "import os, signal, sys, time; time.sleep(0.05); t = time.perf_counter_ns(); "
        code += "os.kill(int(sys.argv[1]), signal.SIGKILL); print(t)"
        killer = subprocess.Popen(
            [sys.executable, "-ISc", code, str(owner.process.pid)], stdout=subprocess.PIPE
        )
        acquire()
        at = time.perf_counter_ns()
        release()
        times.append((at - int(killer.communicate()[0])) / 1e3)
        owner.process.wait()
    return times


def connections(count):
    import alongside

    def connect():
        alongside.connect("bench").close()

    def start_or_connect():
        alongside.start_or_connect("bench", ["/there/is/no/such/program"]).close()

    # In turn: both see the same minute of the machine.
    times = {"connect": [], "or start": []}
    for _ in range(5):
        times["connect"] += each(count, connect)
        times["or start"] += each(count, start_or_connect)
    return times


def crowd():
    """Processes that are there already, and are let go all at once by the end of a pipe."""
    gate, opener = os.pipe()
    os.set_inheritable(gate, True)
    read, write = os.pipe()
    os.set_inheritable(write, True)
    pids = []
    for _ in range(CROWD):
        pid = os.fork()
        if pid == 0:
            os.close(opener)
            os.read(gate, 1)
            import alongside

            value = alongside.Cell("crowd").get_or_set(os.getpid)
            os.write(write, f"{value}\n".encode())
            # Held until all have seen it.
            os.read(gate, 1)
            os._exit(0)
        pids.append(pid)
    begin = time.perf_counter_ns()
    os.close(opener)
    seen = b""
    while seen.count(b"\n") < CROWD:
        seen += os.read(read, 65536)
    took = (time.perf_counter_ns() - begin) / 1e3
    for pid in pids:
        os.waitpid(pid, 0)
    return took


def answer_by_alongside():
    """Hold a value, answer others, and take a lock when told to."""
    import alongside

    held, lock = alongside.Cell("held"), alongside.Lock("bench")
    held.set(7)
    alongside.publish("bench", on_message=print)

    def answer():
        seen, asked, answered = 0, alongside.Cell("asked"), alongside.Cell("answered")
        while True:
            _, seen = asked.wait(seen)
            answered.set(seen)

    import threading

    threading.Thread(target=answer, daemon=True).start()
    there()
    take_when_told(lock.acquire, lock.release)


def take_when_told(acquire, release):
    for line in sys.stdin:
        if line == "take\n":
            acquire()
            print("taken", flush=True)
        else:
            # The other one waits by then.
            time.sleep(0.002)
            begin = time.perf_counter_ns()
            release()
            print(begin, flush=True)


def own_by_alongside():
    import alongside

    alongside.Lock("bench").acquire()
    there()
    sys.stdin.readline()


# ---- a bare eventfd ------------------------------------------------------------------------------


def by_eventfd(count, cpu):
    ask, answer = os.eventfd(0), os.eventfd(0)
    for fd in (ask, answer):
        os.set_inheritable(fd, True)
    other = Other("eventfd", "answer", cpu, ask, answer)

    def turn():
        os.eventfd_write(ask, 1)
        os.eventfd_read(answer)

    times = {"seen": [value / 2 for value in each(count * 10, turn)]}
    woken = []
    for _ in range(count * 2):
        other.say("wake")
        os.eventfd_read(answer)
        at = time.perf_counter_ns()
        woken.append((at - int(other.hear())) / 1e3)
    times["hand-over"] = woken
    other.kill()
    return times


def answer_by_eventfd(ask, answer):
    import threading

    ask, answer = int(ask), int(answer)

    def serve():
        while True:
            os.eventfd_read(ask)
            os.eventfd_write(answer, 1)

    threading.Thread(target=serve, daemon=True).start()
    there()
    for _ in sys.stdin:
        time.sleep(0.002)
        begin = time.perf_counter_ns()
        os.eventfd_write(answer, 1)
        print(begin, flush=True)


# ---- the others ----------------------------------------------------------------------------------


def by_manager(count, _cpu):
    from multiprocessing import Manager

    with Manager() as manager:
        shared, lock = manager.dict(x=7, y=SMALL), manager.Lock()

        def use():
            with lock:
                pass

        count = max(3, count // 10)
        return {
            "read": timed(count, lambda: shared["x"]),
            "read data": timed(count, lambda: shared["y"]),
            "write": timed(count, lambda: shared.__setitem__("x", 7)),
            "lock": timed(count, use),
        }


def by_filelock(count, _cpu):
    import filelock

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        lock = filelock.FileLock(f"{folder}/lock")

        def use():
            with lock:
                pass

        return {"lock": timed(max(3, count // 10), use)}


def by_portalocker(count, _cpu):
    import portalocker

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:

        def use():
            with portalocker.Lock(f"{folder}/lock"):
                pass

        return {"lock": timed(max(3, count // 10), use)}


def by_posix_ipc(count, _cpu):
    """A named semaphore, and a number in shared memory: nothing of it ends with its process."""
    import mmap
    import struct

    import posix_ipc

    name = f"/alongside-bench-{os.getpid()}"
    memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=4096)
    semaphore = posix_ipc.Semaphore(name, posix_ipc.O_CREX, initial_value=1)
    try:
        mapped = mmap.mmap(memory.fd, 4096)
        pack, unpack = struct.Struct("q").pack_into, struct.Struct("q").unpack_from

        def read():
            with semaphore:
                return unpack(mapped)

        def write():
            with semaphore:
                pack(mapped, 0, 7)

        def use():
            with semaphore:
                pass

        return {
            "read": timed(count, read),
            "write": timed(count, write),
            "lock": timed(count, use),
        }
    finally:
        posix_ipc.unlink_shared_memory(name)
        semaphore.unlink()


def by_ultradict(count, _cpu):
    import UltraDict

    shared = UltraDict.UltraDict(x=7, y=SMALL, name=f"bench{os.getpid()}")

    def use():
        with shared.lock:
            pass

    count = max(3, count // 10)
    try:
        return {
            "read": timed(count, lambda: shared["x"]),
            "read data": timed(count, lambda: shared["y"]),
            "write": timed(count, lambda: shared.__setitem__("x", 7)),
            "lock": timed(count, use),
        }
    finally:
        shared.unlink()


def by_redis(count, _cpu):
    """A server of its own, over a Unix socket."""
    import redis

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = f"{folder}/socket"
        words = ["redis-server", "--port", "0", "--unixsocket", path, "--save", ""]
        server = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            while not os.path.exists(path):
                time.sleep(0.01)
            shared = redis.Redis(unix_socket_path=path)
            shared.set("x", 7)
            shared.set("y", json.dumps(SMALL))
            lock = shared.lock("lock")

            def use():
                with lock:
                    pass

            count = max(3, count // 10)
            return {
                "read": timed(count, lambda: int(shared.get("x"))),
                "read data": timed(count, lambda: json.loads(shared.get("y"))),
                "write": timed(count, lambda: shared.set("x", 7)),
                "lock": timed(count, use),
            }
        finally:
            server.kill()
            server.wait()


# ---- all -----------------------------------------------------------------------------------------

ROLES = {
    ("alongside", "answer"): answer_by_alongside,
    ("alongside", "own"): own_by_alongside,
    ("eventfd", "answer"): answer_by_eventfd,
}
WAYS = {
    "alongside": by_alongside,
    "eventfd": by_eventfd,
    "Manager": by_manager,
    "filelock": by_filelock,
    "portalocker": by_portalocker,
    "posix_ipc": by_posix_ipc,
    "UltraDict": by_ultradict,
    "redis": by_redis,
}


def main():
    who, what, cpu, *words = sys.argv[1:]
    if (who, what) in ROLES:
        pin(cpu)
        ROLES[who, what](*words)
    else:
        mine, other = cpu.split(",")
        pin(mine)
        print(json.dumps(WAYS[who](int(what), other)))


if __name__ == "__main__":
    main()
