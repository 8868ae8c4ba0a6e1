"""What docs/how-to/debugging.md says of breakpoints and stacks in a started program."""

import os
import pty
import re
import signal
import subprocess
import sys

import alongside
import pytest

from tests.conftest import command, is_asleep, wait_until

HOST = """
import alongside, sys
with alongside.start([sys.executable, "tool.py"], timeout=0.001) as tool:
    tool.send({"radius": 3})
    print("the host got", tool.receive())
"""
STOPS = {
    "at a message": """
import alongside
session = alongside.session(required=True)
for message in session:
    breakpoint()
    session.send(message["radius"] * 2)
""",
    "before it takes up its session": """
import alongside
message = {"radius": 3}
breakpoint()
session = alongside.session(required=True)
session.send(session.receive()["radius"] * 2)
""",
}


@pytest.mark.parametrize("place", STOPS)
def test_a_breakpoint_in_a_started_program_reads_the_terminal(tmp_path, place):
    (tmp_path / "host.py").write_text(HOST)
    (tmp_path / "tool.py").write_text(STOPS[place])
    ours, theirs = pty.openpty()
    host = subprocess.Popen(
        [sys.executable, "host.py"],
        cwd=tmp_path,
        env=os.environ | {"ALONGSIDE_NO_DEADLINES": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = read_until(ours, rb"\(Pdb\) $")
    assert b"tool.py(" in seen
    os.write(ours, b"p message\n")
    assert b"{'radius': 3}" in read_until(ours, rb"\(Pdb\) $")
    os.write(ours, b"c\n")
    read_until(ours, b"the host got 6")
    assert host.wait() == 0
    os.close(ours)


def read_until(terminal, pattern):
    seen = b""
    while not re.search(pattern, seen):
        seen += os.read(terminal, 1000)
    return seen


def test_a_program_that_waits_for_a_message_shows_its_stack_when_asked():
    source = """
    import faulthandler
    faulthandler.register(signal.SIGUSR1)
    def wait_for_work():
        return s.receive()
    s.send(wait_for_work())
    """
    with alongside.start(command(source), stderr=alongside.PIPE) as program:
        pid = program.peer.pid
        program.ping(timeout=60)
        wait_until(lambda: is_asleep(pid))
        os.kill(pid, signal.SIGUSR1)
        seen = b""
        while b"in <module>" not in seen:
            seen += os.read(program.stderr.fileno(), 1000)
        assert b"in wait_for_work" in seen
        # It goes on waiting.
        program.send(1)
        assert program.receive(timeout=60) == 1
        program.stderr.close()
        program.wait()
