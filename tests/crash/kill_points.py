"""Kills a process at its n-th system call, for every n: all states that a kill can leave.

A tracer (ptrace(2)) stops a forked child at the beginning of each system call, in whichever of its
threads, counts from one mark of the child to the next, and kills it when the count is reached. What
has to hold afterwards is asked by further children, so that this process stays as it was.

    python -m tests.crash.kill_points ROLE FIRST STEP

runs one role, at its points FIRST, FIRST + STEP and so on, and prints how many kills that were. The
scope's directory is XDG_RUNTIME_DIR's.
"""

import contextlib
import ctypes
import itertools
import os
import signal
import struct
import sys
import threading
import traceback
from pathlib import Path

import alongside
from alongside import _core

# ptrace(2) and linux/ptrace.h.
_TRACEME, _SYSCALL, _SETOPTIONS, _SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_SYSGOOD, _FOLLOW_THREADS, _EXITKILL = 1, 8, 0x100000
_GETREGS, _SETREGS = 12, 13
_RAX, _ORIG_RAX = 10, 15
_ENTRY = 1
_WALL = 0x40000000
# A child says where it is by a system call that fails: seeking in no file to one of these places.
_BEGIN, _END = 0x5EED0001, 0x5EED0002

# How other children ended that the tracer met.
_ended = {}
# Whatever else runs on this machine has other names.
NAME, STATE = f"kill-points/{os.getpid()}", f"kill-points-state/{os.getpid()}"
_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request, pid, address=0, data=0):
    address, data = ctypes.c_void_p(address), ctypes.c_void_p(data)
    result = _libc.ptrace(request, pid, address, data)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")
    return result


def mark(place):
    """Tell the tracer where this process is."""
    with contextlib.suppress(OSError):
        os.lseek(-1, place, os.SEEK_SET)


def _begun_call(thread):
    """Give the system call that a stopped thread is about to do, and its arguments, if it is."""
    space = ctypes.create_string_buffer(88)
    _ptrace(_SYSCALL_INFO, thread, len(space), ctypes.addressof(space))
    if space.raw[0] != _ENTRY:
        return None
    number, *arguments = struct.unpack_from("<7Q", space.raw, 24)
    return Call(thread, number, arguments)


def _set_register(thread, which, value):
    """Set one of a stopped thread's registers, as x86-64 numbers them."""
    space = ctypes.create_string_buffer(8 * 27)
    _ptrace(_GETREGS, thread, 0, ctypes.addressof(space))
    struct.pack_into("<q", space, which * 8, value)
    _ptrace(_SETREGS, thread, 0, ctypes.addressof(space))


def child(work):
    """Fork a child that does some work and ends; give its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class Call:
    """A system call that a traced thread is about to do."""

    def __init__(self, thread, number, arguments):
        self.thread, self.number, self.arguments = thread, number, arguments
        self.errno = None

    def is_mark(self):
        return self.arguments[0] & 0xFFFFFFFF == 0xFFFFFFFF

    def fail(self, errno):
        """Have it do nothing and give this error. (x86-64 only.)"""
        self.errno = errno
        # No such call; what it gives is put in place of what the kernel says.
        _set_register(self.thread, _ORIG_RAX, -1)


class Traced:
    """A child that does some work, and stands still at each system call between its marks.

    Iterating gives the calls; the child stands still until the next one is asked for. It is killed
    at its second mark, unless it is to go on.
    """

    def __init__(self, work, *, goes_on=False):
        def traced():
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            work()

        self._goes_on = goes_on
        self.is_done = False
        self.status = None
        self.pid = child(traced)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def __iter__(self):
        os.waitpid(self.pid, _WALL)
        _ptrace(_SETOPTIONS, self.pid, 0, _SYSGOOD | _FOLLOW_THREADS | _EXITKILL)
        _ptrace(_SYSCALL, self.pid)
        threads, failing, is_counting = {self.pid}, {}, False
        while True:
            thread, status = os.waitpid(-1, _WALL)
            if not os.WIFSTOPPED(status):
                if thread == self.pid:
                    self.status = status
                    return
                if thread not in threads:
                    _ended[thread] = status
                continue
            threads.add(thread)
            stop = os.WSTOPSIG(status)
            passed_on = 0
            # Killed meanwhile, it is not there any more.
            with contextlib.suppress(ProcessLookupError):
                if stop == signal.SIGTRAP | 0x80:
                    call = _begun_call(thread)
                    place = call.arguments[1] if call and call.is_mark() else None
                    if thread in failing:
                        _set_register(thread, _RAX, -failing.pop(thread))
                    elif place == _BEGIN:
                        is_counting = True
                    elif place == _END:
                        is_counting, self.is_done = False, True
                        if not self._goes_on:
                            self.kill()
                    elif call is not None and is_counting:
                        yield call
                        if call.errno is not None:
                            failing[thread] = call.errno
                elif stop not in {signal.SIGTRAP, signal.SIGSTOP}:
                    passed_on = stop
                _ptrace(_SYSCALL, thread, 0, passed_on)


def killed_at(count, work):
    """Do some work in a child, and kill it at a system call between its marks.

    False if it has fewer.
    """
    traced, seen = Traced(work), 0
    for _ in traced:
        seen += 1
        if seen == count:
            traced.kill()
    assert traced.is_done or seen >= count, f"it ended by itself: {traced.status:#x}"
    return not traced.is_done


def succeeds(pid, what):
    """Wait for a child, which has to end well."""
    status = _ended.pop(pid, None)
    if status is None:
        _, status = os.waitpid(pid, 0)
    if status != 0:
        sys.exit(f"{what}: status {status:#x}")


# ---- what has to hold ----------------------------------------------------------------------------


def echo(data, session):
    session.send(data)


def exchanged():
    with alongside.connect(NAME, timeout=60) as session:
        session.send("x")
        assert session.receive(timeout=60) == "x"


def check_after_an_owner():
    """Nothing is listed, the name can be published at once, and in the end nothing is left."""
    assert alongside.running(NAME + "*") == []
    assert alongside.find(NAME) is None
    with alongside.publish(NAME, echo):
        exchanged()
    _core.leave_directories()
    home = Path(os.environ["XDG_RUNTIME_DIR"], "alongside", "user")
    left = [str(path.relative_to(home)) for path in home.glob("*/*")]
    assert left == [], left


def ends_clearly(work):
    """Do what may fail only by the other program's end."""
    with contextlib.suppress(alongside.NotFound, alongside.SessionEnded):
        work()


# ---- owners that are killed ----------------------------------------------------------------------


def publish():
    mark(_BEGIN)
    alongside.publish(NAME, echo)
    mark(_END)


def publish_to_be_seen():
    mark(_BEGIN)
    alongside.publish(NAME, unique=True)
    mark(_END)


def update():
    registration = alongside.publish(NAME, echo)
    mark(_BEGIN)
    registration.update(about="something else")
    mark(_END)


def revoke():
    registration = alongside.publish(NAME, echo)
    mark(_BEGIN)
    registration.revoke()
    mark(_END)


def accept(is_there):
    ended = threading.Event()

    def connected(session):
        session.on_close(lambda _: ended.set())

    alongside.publish(NAME, echo, on_connect=connected)
    mark(_BEGIN)
    os.write(is_there, b"x")
    ended.wait()
    mark(_END)


def an_owner_dies(work, points):
    for kills, count in enumerate(points):
        if not killed_at(count, work):
            return kills
        succeeds(child(check_after_an_owner), f"{work.__name__} killed at {count}")
    raise AssertionError


def an_owner_dies_amid_a_call(points):
    for kills, count in enumerate(points):
        there, is_there = os.pipe()

        def call(there=there):
            os.read(there, 1)
            ends_clearly(exchanged)

        caller = child(call)
        is_killed = killed_at(count, lambda is_there=is_there: accept(is_there))
        # A caller that was never called goes on too, when the pipe is closed.
        os.write(is_there, b"x")
        os.close(there)
        os.close(is_there)
        succeeds(caller, f"calling one that is killed at {count}")
        if not is_killed:
            return kills
        succeeds(child(check_after_an_owner), f"accept killed at {count}")
    raise AssertionError


# ---- callers that are killed ---------------------------------------------------------------------


def connect():
    mark(_BEGIN)
    session = alongside.connect(NAME, timeout=60)
    session.send("x")
    session.receive(timeout=60)
    session.close()
    mark(_END)


def send_to():
    mark(_BEGIN)
    alongside.send_to(NAME, "x", wait=True, timeout=60)
    mark(_END)


def serve(is_there):
    """Publish the name, and say on another one what its callers have left."""
    registration = alongside.publish(NAME, echo)

    def tell(_, session):
        session.send([len(registration.sessions), len(os.listdir("/proc/self/fd"))])

    alongside.publish(STATE, tell)
    os.write(is_there, b"x")
    threading.Event().wait()


def state():
    with alongside.connect(STATE, timeout=60) as session:
        session.send(None)
        return session.receive(timeout=60)


def a_caller_dies(work, points):
    there, is_there = os.pipe()
    owner = child(lambda: serve(is_there))
    assert os.read(there, 1) == b"x"
    before = []

    def check():
        exchanged()
        # Closing comes to the owner when it comes; what is left then is what was there before.
        while state() != before[0]:
            os.sched_yield()

    def measure(out):
        exchanged()
        state()
        sessions, files = state()
        os.write(out, bytes([sessions, files]))

    succeeds(child(lambda: measure(is_there)), "asking")
    before.append(list(os.read(there, 2)))
    try:
        for kills, count in enumerate(points):
            if not killed_at(count, work):
                return kills
            succeeds(child(check), f"{work.__name__} killed at {count}")
    finally:
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
    raise AssertionError


ROLES = {
    **{work.__name__: work for work in (publish, publish_to_be_seen, update, revoke)},
    **{work.__name__: work for work in (connect, send_to)},
    "accept": accept,
}


def main():
    role, first, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    points = itertools.count(first, step)
    work = ROLES[role]
    if role == "accept":
        kills = an_owner_dies_amid_a_call(points)
    elif work in {connect, send_to}:
        kills = a_caller_dies(work, points)
    else:
        kills = an_owner_dies(work, points)
    print(kills)


if __name__ == "__main__":
    main()
