"""The command line, run as a shell runs it: what its tests have in common."""

import os
import pty
import signal
import subprocess
import sys

COMMAND = [sys.executable, "-W", "error", "-m", "alongside"]
NOBODY = 65534


def run(*arguments, **options):
    """Run a command to its end."""
    options = {"stdin": subprocess.DEVNULL} | options if "input" not in options else options
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, **options)


def says(*arguments, **options):
    """Run a command that ends well, and give what it prints."""
    done = run(*arguments, **options)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def fails(status, *arguments, **options):
    """Run a command that fails, and give what it says about that, which is no traceback."""
    done = run(*arguments, **options)
    assert (done.returncode, done.stdout) == (status, b"")
    told = done.stderr.decode()
    assert "Traceback" not in told
    return told


def ended(process):
    """Wait for a command's end; give its status, and what it printed and said."""
    printed, told = process.communicate()
    return process.returncode, printed.decode(), told.decode()


def on_terminal(command):
    """Run a command on a terminal, and give what it prints and says there."""
    ours, its = pty.openpty()
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its)
    os.close(its)
    shown = b""
    while True:
        try:
            part = os.read(ours, 10_000)
        except OSError:
            # Nobody has the terminal open any more.
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    return shown.decode().replace("\r\n", "\n")


def stop(process):
    """Stop a program, and return when it stands still."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
