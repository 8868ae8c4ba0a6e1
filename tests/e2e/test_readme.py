"""The programs in README.md work as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.DOTALL)
OUTPUT = {
    "viewer.py": "{'done': 'blur', 'on': 'plan.png'}\n",
    "host.py": "HELLO\n",
    "boss.py": "".join(f"{n} of 5\n" for n in range(1, 6))
    + "ended: the other program (pid N) has closed the session status 0\n",
}


@pytest.mark.parametrize("name", OUTPUT)
def test_a_program_of_the_readme_says_what_it_should(tmp_path, name):
    for file, text in BLOCKS:
        (tmp_path / file).write_text(text)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.sub(r"pid \d+", "pid N", done.stdout) == OUTPUT[name]
    assert done.stderr == ""


def test_every_program_of_the_readme_is_run():
    started = set(re.findall(r'"(\w+\.py)"', README))
    assert {file for file, _ in BLOCKS} == set(OUTPUT) | started
