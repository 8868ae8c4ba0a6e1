"""Starting what is measured: each piece of work a process of its own, whose answer is JSON.

The interpreter is the one that runs this, in its own folder, so that `-m benches.…` is found.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from . import contestants, placement

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "programs"
_PATIENCE_S = 120


class FailedError(Exception):
    """A process that was to measure something ended without an answer."""


def answer(command):
    """Run to the end; the last line of its stdout, decoded."""
    # A group of its own, so that a case can be ended with its server.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        cwd=ROOT,
    )
    try:
        out, err = process.communicate(timeout=_PATIENCE_S)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        msg = f"no end within {_PATIENCE_S} s"
        raise FailedError(msg) from None
    if process.returncode != 0:
        raise FailedError((err.strip().splitlines() or [f"exit {process.returncode}"])[-1])
    return json.loads(out.strip().splitlines()[-1])


def pair(contestant, work, *, where, size, seconds, **more):
    """A client and a server of this contestant, at this work."""
    contestants.check_installed(contestant)
    job = {
        "contestant": contestant,
        "work": work,
        "cpus": placement.cpus(where),
        "size": size,
        "seconds": seconds,
        **more,
    }
    return answer([sys.executable, "-m", "benches.client", json.dumps(job)])


@cache
def _baselines():
    """The C program, compiled once a run into a folder that goes with it."""
    folder = tempfile.TemporaryDirectory(prefix="benches-")
    program = Path(folder.name) / "baselines"
    source = Path(__file__).with_name("baselines.c")
    try:
        subprocess.run(["gcc", "-O2", "-o", program, source], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        msg = f"gcc: {error}"
        raise FailedError(msg) from None
    return folder, program


def baseline(mode, *, where, seconds):
    """A round of `baselines.c`."""
    first, second = placement.cpus(where) or (-1, -1)
    _, program = _baselines()
    return answer([program, mode, str(seconds), str(first), str(second)])


def program(name, *words):
    """A program of `programs/`, isolated (`-I`).

    No PYTHON… variable of the caller's changes what starting and importing cost, as
    PYTHONDONTWRITEBYTECODE would where byte code is not there yet.
    """
    return answer([sys.executable, "-I", PROGRAMS / name, *map(str, words)])
