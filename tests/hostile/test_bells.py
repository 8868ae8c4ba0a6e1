"""The other side stuffs the bells, switches them to blocking, or holds on to what it should not."""

import os
import re
import signal
import subprocess
import sys
import threading

import alongside
import pytest

from tests.conftest import is_asleep, wait_until

BELLS = """
import fcntl
def pipes():
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try: target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError: continue
        if fd > 2 and target.startswith("pipe:"):
            yield fd, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
"""


def test_bells_that_are_stuffed_hang_nobody(program):
    """The bells' pipes are full: ringing again must not block, there or here."""
    session = program(
        BELLS
        + """
for fd, writes in pipes():
    # Through /proc a pipe's other end opens too: whatever this process can reach is filled.
    other = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True: os.write(other, bytes(4096))
    except OSError: pass
s.send("stuffed")
for m in s: s.send(m)
"""
    )
    assert session.receive() == "stuffed"
    for i in range(3000):
        session.send(i)
        assert session.receive() == i
    session.send(bytes(5_000_000))
    assert len(session.receive()) == 5_000_000
    with pytest.raises(alongside.TimedOut):
        session.receive(timeout=0.01)


def test_bells_that_are_switched_to_blocking_hang_nobody(program):
    session = program(
        BELLS
        + """
for fd, writes in pipes():
    os.set_blocking(fd, True)
s.send("blocking")
for m in s: s.send(m)
"""
    )
    assert session.receive() == "blocking"
    for i in range(3000):
        session.send(i)
        assert session.receive() == i
    with pytest.raises(alongside.TimedOut):
        session.ping(timeout=0.01) and session.receive(timeout=0.01)


def test_a_bell_that_never_stops_ringing_ends_no_deadline(program):
    session = program(
        BELLS
        + """
s.send("ringing")
bells = [fd for fd, writes in pipes() if writes]
for fd in bells: os.set_blocking(fd, False)
while True:
    for fd in bells:
        try: os.write(fd, bytes(1000))
        except OSError: pass
"""
    )
    assert session.receive() == "ringing"
    with pytest.raises(alongside.TimedOut):
        session.receive(timeout=0.05)
    with pytest.raises(alongside.TimedOut):
        session.ping(timeout=0.05)
    with pytest.raises(alongside.TimedOut):
        while True:
            session.send(b"x" * 1000, timeout=0.05)


@pytest.mark.parametrize("ignore", ["SIG_IGN", "SIG_DFL"])
def test_ringing_a_side_that_closed_its_ears_raises_no_signal(program, ignore):
    """A program that has SIGPIPE at its default would be killed by it."""
    session = program(
        BELLS
        + """
s.send(os.getpid())
for fd, writes in pipes():
    os.close(fd)
os.read(0, 1)
""",
        stdin=alongside.PIPE,
    )
    session.receive()
    before = signal.signal(signal.SIGPIPE, getattr(signal, ignore))
    try:
        for _ in range(100):
            session.send(b"x" * 100)
    finally:
        signal.signal(signal.SIGPIPE, before)
        session.stdin.close()


def test_a_stopped_program_hangs_nobody_who_has_a_deadline(program):
    session = program("for m in s: s.send(m)")
    os.kill(session.peer.pid, signal.SIGSTOP)
    try:
        with pytest.raises(alongside.TimedOut):
            session.receive(timeout=0.02)
        with pytest.raises(alongside.TimedOut):
            session.ping(timeout=0.02)
        with pytest.raises(alongside.TimedOut):
            while True:
                session.send(bytes(60_000), timeout=0.02)
        assert session.close(timeout=0.02) == 0
    finally:
        os.kill(session.peer.pid, signal.SIGCONT)


def test_an_adopter_of_another_version_is_told_apart():
    """The first packet, sent by hand, speaks wire version 9."""
    source = """
import os, socket, struct
_, fd, _ = map(int, os.environ["ALONGSIDE_SESSION"].split(":"))
meeting = socket.socket(fileno=fd)
magic = int.from_bytes(b"ALWR", "little")
meeting.send(struct.pack("<IHHIIQ", magic, {version}, {kind}, {layout}, 0, 0))
meeting.recv(1)
"""
    for version, kind, layout, error, text in [
        (9, 1, 1, alongside.Incompatible, "wire version 9, this program speaks 1"),
        (1, 77, 1, alongside.Corrupt, "kind 77"),
        (1, 1, 1, alongside.Corrupt, "0 descriptors"),
        (1, 4, 1, alongside.Corrupt, "0 descriptors"),
    ]:
        command = source.format(version=version, kind=kind, layout=layout)
        with pytest.raises(error, match=text):
            alongside.start([sys.executable, "-c", command])


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        ("os.memfd_create('x')", alongside.Corrupt, "seals"),
        ("sealed(0)", alongside.Corrupt, "file size"),
        ("sealed(100)", alongside.Corrupt, "bytes present|file size"),
        ("sealed(8192, b'')", alongside.Corrupt, "bytes present"),
        ("sealed(8192)", alongside.Corrupt, "empty"),
        ("sealed(8192, MAGIC)", alongside.Corrupt, "state"),
        ("sealed(8192, MAGIC + pack(1, 1))", alongside.Corrupt, "unfinished"),
        (
            "sealed(8192, MAGIC + pack(2, 7))",
            alongside.Incompatible,
            "layout 7, this program knows 1",
        ),
        ("sealed(8192, MAGIC + pack(2, 1))", alongside.Incompatible, "fingerprint"),
        ("sealed(8192, b'something else')", alongside.Corrupt, "not a session's"),
        ("os.open('/proc/self/exe', os.O_RDONLY)", alongside.Corrupt, "file system"),
        ("os.open('/dev/null', os.O_RDWR)", alongside.Corrupt, "seals"),
    ],
)
def test_foreign_memory_is_named_and_never_mapped_blindly(program, tmp_path, make, error, text):
    """A starter that hands over anything but a session's memory."""
    starter = f"""
import array, fcntl, os, socket, struct, subprocess, sys
MAGIC = b"ALONGSD\\x01"
def pack(state, version): return struct.pack("<II", state, version)
def sealed(size, content=None):
    fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if content is None: os.posix_fallocate(fd, 0, size) if size else None
    elif content: os.posix_fallocate(fd, 0, size); os.pwrite(fd, content, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.set_inheritable(theirs.fileno(), True)
fd = theirs.fileno()
env = dict(os.environ, ALONGSIDE_SESSION=f"1:{{fd}}:{{os.fstat(fd).st_ino}}")
code = '''
import alongside
try: alongside.session()
except alongside.AlongsideError as e: print(type(e).__name__, e)
'''
child = subprocess.Popen([sys.executable, "-c", code], env=env, close_fds=False)
theirs.close()
data, fds, _, _ = socket.recv_fds(ours, 100, 8)
control = socket.socket(fileno=fds[0])
head = struct.pack("<IHHIIQ", int.from_bytes(b"ALWR", "little"), 1, 2, 1, 0, 0)
socket.send_fds(control, [head], [{make}, os.pipe()[0], os.pipe()[0]])
child.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", starter], capture_output=True, text=True, check=False
    )
    name, _, said = done.stdout.partition(" ")
    assert name == error.__name__, done
    assert re.search(text, said), said


def test_a_receiver_asleep_is_not_kept_awake_by_a_full_bell(program):
    """After stuffing, a wait costs no processor time."""
    session = program(
        BELLS
        + """
for fd, writes in pipes():
    if writes:
        os.set_blocking(fd, False)
        try:
            while True: os.write(fd, bytes(4096))
        except OSError: pass
s.send("stuffed")
s.receive()
s.send("end")
"""
    )
    assert session.receive() == "stuffed"
    thread = threading.Thread(target=session.receive)
    thread.start()
    wait_until(lambda: is_asleep(os.getpid(), thread.native_id))
    session.send("go")
    thread.join()


def test_bells_whose_ringer_is_closed_hold_nobody_past_a_deadline(program):
    session = program(
        BELLS
        + """
for fd, writes in pipes():
    if writes: os.close(fd)
os.write(1, b"x")
time.sleep(1000)
""",
        stdout=alongside.PIPE,
    )
    session.stdout.read(1)
    session.stdout.close()
    with pytest.raises(alongside.TimedOut):
        while True:
            session.send(bytes(60_000), timeout=0.05)
    with pytest.raises(alongside.TimedOut):
        session.ping(timeout=0.05)
    with pytest.raises(alongside.TimedOut):
        session.wait(timeout=0.05)


def test_a_flood_of_pings_holds_nobody_past_a_deadline(program):
    """The ring is filled with pings once; then only the position is moved, without end."""
    session = program(
        """
        import ctypes
        maps = [l for l in open("/proc/self/maps") if "alongside-session" in l]
        base = int(maps[0].split("-")[0], 16)
        head = ctypes.c_uint64.from_address(base + 896)
        tail = ctypes.c_uint64.from_address(base + 896 + 128)
        size = 256 << 10
        ping = (6 << 32).to_bytes(8, "little") + bytes(8)
        ctypes.memmove(base + 4096 + size, ping * (size // 16), size)
        os.write(1, b"x")
        while True: head.value = tail.value + size
    """,
        stdout=alongside.PIPE,
    )
    session.stdout.read(1)
    session.stdout.close()
    for _ in range(3):
        with pytest.raises(alongside.TimedOut):
            session.receive(timeout=0.05)
        with pytest.raises(alongside.TimedOut):
            session.wait(timeout=0.05)
        with pytest.raises(alongside.WouldBlock):
            session.receive_nowait()


def test_waiting_on_a_corrupt_ring_keeps_its_deadline(program):
    session = program(
        """
        import ctypes
        maps = [l for l in open("/proc/self/maps") if "alongside-session" in l]
        base = int(maps[0].split("-")[0], 16)
        ctypes.c_uint64.from_address(base + 896).value = 8
        os.write(1, b"x")
        time.sleep(1000)
    """,
        stdout=alongside.PIPE,
    )
    session.stdout.read(1)
    session.stdout.close()
    with pytest.raises(alongside.TimedOut):
        session.wait(timeout=0.05)
    with pytest.raises(alongside.Corrupt):
        session.receive()
