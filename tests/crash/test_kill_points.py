"""A kill at every system call of publishing, changing, revoking, letting in, calling, sending.

Afterwards nothing of the dead is listed, their names can be published at once, the next who
publishes finds nothing left, and an owner whose callers were killed has nothing left of them and
serves others. `ALONGSIDE_CYCLES` of 2000 and more takes every system call, fewer a share of them.
"""

import os
import subprocess
import sys

import pytest

from tests.crash.kill_points import ROLES

IS_WHOLE = int(os.environ.get("ALONGSIDE_CYCLES", "300")) >= 2000
SHORT = {"update", "revoke"}


@pytest.mark.parametrize("role", ROLES)
def test_a_kill_at_any_system_call_leaves_nothing(role, tmp_path):
    tmp_path.chmod(0o700)
    step = 1 if IS_WHOLE or role in SHORT else 20
    argv = [sys.executable, "-m", "tests.crash.kill_points", role, "1", str(step)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5
