"""The programs in README.md, in the tutorial and in the how-tos work as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROGRAM = re.compile(r"```python\n# (\w+\.py)\n(.*?)```", re.DOTALL)
CONSOLE = re.compile(r"```console\n\$ python (\w+\.py)\n(.*?)```", re.DOTALL)
OUTPUT = {
    "viewer.py": "{'done': 'blur', 'on': 'plan.png'}\n",
    "host.py": "HELLO\n",
    "boss.py": "".join(f"{n} of 5\n" for n in range(1, 6))
    + "ended: the other program (pid N) has closed the session status 0\n",
}
FOLDERS = [ROOT / "docs" / name for name in ("tutorial", "how-to")]
PAGES = {page.stem: page.read_text() for each in FOLDERS for page in sorted(each.glob("*.md"))}
RUNS = [(page, *run) for page, text in PAGES.items() for run in CONSOLE.findall(text)]


def run(directory, text, name):
    for file, source in PROGRAM.findall(text):
        (directory / file).write_text(source)
    # Names of other programs of this user shall not get into it.
    directory.chmod(0o700)
    environment = os.environ | {"XDG_RUNTIME_DIR": str(directory), "ALONGSIDE_LOGIN": "test"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", name],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return re.sub(r"pid \d+", "pid N", done.stdout)


@pytest.mark.parametrize("name", OUTPUT)
def test_a_program_of_the_readme_says_what_it_should(tmp_path, name):
    assert run(tmp_path, README, name) == OUTPUT[name]


@pytest.mark.parametrize(("page", "name", "output"), RUNS, ids=[f"{r[0]}-{r[1]}" for r in RUNS])
def test_a_program_of_a_how_to_says_what_it_should(
    tmp_path, request, monkeypatch, page, name, output
):
    if "tkinter" in PAGES[page]:
        monkeypatch.setenv("DISPLAY", request.getfixturevalue("display"))
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    assert run(tmp_path, PAGES[page], name) == output


@pytest.mark.parametrize("text", [README, *PAGES.values()], ids=["README", *PAGES])
def test_every_program_is_run(text):
    started = set(re.findall(r'"(\w+\.py)"', text))
    started |= {f"{name}.py" for name in re.findall(r"^from (\w+) import", text, re.MULTILINE)}
    started &= {file for file, _ in PROGRAM.findall(text)}
    shown = set(OUTPUT) if text is README else {name for name, _ in CONSOLE.findall(text)}
    assert {file for file, _ in PROGRAM.findall(text)} == shown | started


TEXTS = [*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("page", TEXTS, ids=[str(page.relative_to(ROOT)) for page in TEXTS])
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link
