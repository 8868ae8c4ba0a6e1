"""Whatever two do to a cell at the same time, there is one of its name.

`ALONGSIDE_CYCLES` changes nothing: it is short.
"""

import os
import subprocess
import sys

import pytest

from tests.crash.shared_turns import ROLES


@pytest.mark.parametrize("role", ROLES)
def test_another_one_may_come_between_any_two_system_calls(role, tmp_path):
    tmp_path.chmod(0o700)
    argv = [sys.executable, "-m", "tests.crash.shared_turns", role, "1", "1"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
