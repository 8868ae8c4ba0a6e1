"""A kill, a stop or a failure at every system call of whoever shares cells, locks and ports.

After a kill the old value stands or the new one, a value without holders is gone, locks are free
and say whether their owner was killed, names can be used at once, and nothing is left. Who is
stopped holds up no reader. What fails is told, takes no descriptor, and can be done again.
`ALONGSIDE_CYCLES` of 2000 and more takes every system call, and kills at each three times, for what
others do meanwhile is never the same; fewer take a share of them.
"""

import os
import platform
import subprocess
import sys

import pytest

from tests.crash.shared_points import HOW

IS_WHOLE = int(os.environ.get("ALONGSIDE_CYCLES", "300")) >= 2000
KILLS = 3 if IS_WHOLE else 1
# What takes few system calls, or shows most when every one of them is a point.
SHORT = {"initialise", "set_alone", "close_last", "wait", "set_short", "set_long", "set_longer"}
STEPS = {"kill": 12, "stop": 1, "fail": 15}
LONG = {"sweep": 60, "listen": 50, "listen_no_more": 50, "only": 50}


def treat(how, role, tmp_path, step):
    tmp_path.chmod(0o700)
    argv = [sys.executable, "-m", "tests.crash.shared_points", how, role, "1", str(step)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    print(f"{how} {role}: {done.stdout.strip()} points")
    assert int(done.stdout) >= 1


@pytest.mark.parametrize("role", HOW["kill"])
def test_a_kill_at_any_system_call_breaks_no_promise(role, tmp_path):
    step = 1 if IS_WHOLE or role in SHORT else LONG.get(role, STEPS["kill"])
    for _ in range(KILLS):
        treat("kill", role, tmp_path, step)


@pytest.mark.parametrize("role", [role for role in HOW["stop"] if IS_WHOLE or "wait" not in role])
def test_who_is_stopped_at_any_system_call_holds_up_no_reader(role, tmp_path):
    """In the campaign others that write, open or close wait until told, ten seconds each."""
    treat("stop", role, tmp_path, STEPS["stop"])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the tracer knows its registers only")
@pytest.mark.parametrize("role", HOW["fail"])
def test_any_system_call_may_fail(role, tmp_path):
    treat("fail", role, tmp_path, 1 if IS_WHOLE else LONG.get(role, STEPS["fail"]))
