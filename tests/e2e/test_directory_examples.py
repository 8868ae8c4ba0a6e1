"""The server and the viewer of the directory: real windows, driven and looked into from outside."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageGrab

from tests.conftest import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
PICTURE = "directory-windows.png"

# Runs an example with a Tk that answers questions on its standard input: each line is an
# expression, evaluated in the window's own thread and between its own events.
PUPPET = """
import json, runpy, sys, tkinter
from tkinter import ttk

def every(kind, widget=None):
    widget = widget or root
    below = [found for child in widget.winfo_children() for found in every(kind, child)]
    return [widget, *below] if widget.winfo_class() == kind else below

def the(kind, text=None):
    (found,) = [each for each in every(kind) if text is None or each.cget("text") == text]
    return found

def click(widget, x, y):
    root.update()
    for event in ("<Button-1>", "<ButtonRelease-1>"):
        widget.event_generate(event, x=x, y=y)

def pick(row):
    rows = the("Treeview")
    root.update()
    left, top, _, height = rows.bbox(rows.get_children()[row])
    click(rows, left + 1, top + height // 2)

def write(text):
    field = the("Entry")
    field.delete(0, "end")
    field.insert(0, text)
    field.focus_force()
    root.update()
    field.event_generate("<Return>")

class Answering(tkinter.Tk):
    def __init__(self):
        global root
        super().__init__()
        root = self
        self.tk.createfilehandler(sys.stdin, tkinter.READABLE, self.answer)

    def answer(self, *_):
        question = sys.stdin.readline()
        if question:
            print(json.dumps(eval(question)), flush=True)
        else:
            self.tk.deletefilehandler(sys.stdin)

tkinter.Tk = Answering
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run programs in a directory of the test's own; each has to end well, and say nothing bad."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    started = []

    def start(*words):
        pipe = subprocess.PIPE
        command = [sys.executable, *map(os.fspath, words)]
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8")
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Window:
    """An example's window."""

    def __init__(self, process):
        self.process = process
        # It has a window when it answers.
        self.ask("root.update()")

    def ask(self, expression):
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, self.process.stderr.read()
        return json.loads(answer)

    def lines(self):
        """What its list of messages, or of outcomes, shows."""
        return self.ask("the('Listbox').get(0, 'end')")

    def rows(self):
        """What its list of servers shows, but since when."""
        rows = self.ask(
            "[the('Treeview').item(i)['values'] for i in the('Treeview').get_children()]"
        )
        assert all(re.fullmatch(r"\d\d:\d\d:\d\d", row[3]) for row in rows)
        return [(row[1], str(row[2])) for row in rows]

    def send(self, text, button="Send"):
        self.ask(f"write({text!r})")
        self.ask(f"the('Button', {button!r}).invoke()")

    def close(self):
        """Close it as its frame's button does; give what it said on stderr."""
        self.ask("root.after_idle(root.tk.call, root.protocol('WM_DELETE_WINDOW'))")
        _, said = self.process.communicate()
        assert self.process.returncode == 0, said
        return said


@pytest.fixture
def windows(run, display, monkeypatch):
    monkeypatch.setenv("DISPLAY", display)
    return lambda name, *words: Window(run("-c", PUPPET, EXAMPLES / f"{name}.py", *words))


@pytest.fixture
def servers(windows):
    """Start two servers of one name, one after the other."""
    return [windows("sample_server", "--about", about) for about in ("first", "second")]


@pytest.fixture
def viewer(servers, windows):
    viewer = windows("server_viewer")
    wait_until(lambda: len(viewer.rows()) == 2)
    return viewer


def shown(servers, *abouts):
    return [(server.process.pid, about) for server, about in zip(servers, abouts, strict=True)]


def test_a_text_goes_to_the_server_that_was_picked_and_to_no_other(servers, viewer):
    first, second = servers
    assert viewer.rows() == shown(servers, "first", "second")
    viewer.ask("pick(1)")
    for number, text in enumerate(("hello", "again"), start=1):
        viewer.send(text)
        wait_until(lambda number=number: len(viewer.lines()) == number)
        assert viewer.lines()[-1] == f"{text} - arrived at process {second.process.pid}"
    wait_until(lambda: len(second.lines()) == 2)
    of = f"from process {viewer.process.pid}"
    assert second.lines() == [f"1. hello - {of}", f"2. again - {of}"]
    assert first.lines() == []
    assert [window.close() for window in (viewer, *servers)] == ["", "", ""]


def test_a_sender_that_waits_is_told_what_the_handler_raised(servers, viewer):
    viewer.ask("pick(0)")
    viewer.send("well", "Send and wait")
    wait_until(lambda: len(viewer.lines()) == 1)
    assert len(servers[0].lines()) == 1
    viewer.send("fail", "Send and wait")
    wait_until(lambda: len(viewer.lines()) == 2)
    assert viewer.lines() == [
        f"well - handled by process {servers[0].process.pid}",
        'fail - the handler of "SampleServer/notes" raised ValueError: asked to fail',
    ]
    assert viewer.close() == ""
    assert "ValueError: asked to fail" in servers[0].close()


def test_what_a_server_says_of_itself_is_seen_at_once(servers, viewer):
    servers[1].ask("write('no longer the second')")
    wait_until(lambda: viewer.rows() == shown(servers, "first", "no longer the second"))


def test_servers_come_and_go_in_the_list(servers, viewer, windows):
    first, second = servers
    first.process.send_signal(signal.SIGKILL)
    wait_until(lambda: viewer.rows() == shown([second], "second"))
    third = windows("sample_server", "other", "--about", "third")
    wait_until(lambda: viewer.rows() == shown([second, third], "second", "third"))
    assert second.close() == ""
    wait_until(lambda: viewer.rows() == shown([third], "third"))


def test_the_viewer_lives_on_while_a_server_stands_still(servers, viewer):
    servers[0].process.send_signal(signal.SIGSTOP)
    viewer.ask("pick(0)")
    viewer.send("slow", "Send and wait")
    viewer.ask("pick(1)")
    viewer.send("quick", "Send and wait")
    wait_until(lambda: len(viewer.lines()) == 1)
    assert viewer.lines()[0].startswith("quick - handled")
    servers[0].process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(viewer.lines()) == 2)
    assert viewer.lines()[1].startswith("slow - handled")


def test_who_picks_nothing_is_told_so(viewer):
    viewer.send("to nobody")
    assert viewer.lines() == ["pick a server first"]


def test_the_windows_can_be_looked_at(servers, viewer, display, tmp_path):
    """Makes the picture of the how-to; ALONGSIDE_PICTURES=docs/how-to puts it there."""
    for row, text in enumerate(("hello", "good morning")):
        viewer.ask(f"pick({row})")
        viewer.send(text, "Send and wait")
        wait_until(lambda row=row: len(viewer.lines()) == row + 1)
    picture = Image.new("RGB", (600, 450), "#eceef1")
    picture.paste(photograph(viewer, (510, 240), display), (45, 12))
    for server, left in zip(servers, (12, 312), strict=True):
        picture.paste(photograph(server, (276, 174), display), (left, 264))
    picture.save(tmp_path / PICTURE)
    if directory := os.environ.get("ALONGSIDE_PICTURES"):
        shutil.copy(tmp_path / PICTURE, directory)


def photograph(window, size, display):
    """Give what the screen shows of a window, wherever it stands, once it is drawn."""
    window.ask("root.geometry('{}x{}')".format(*size))
    window.ask("root.lift()")
    before = None
    while True:
        window.ask("root.update()")
        left, top, *found = window.ask(
            "[root.winfo_rootx(), root.winfo_rooty(), root.winfo_width(), root.winfo_height()]"
        )
        box = (left, top, left + found[0], top + found[1])
        picture = ImageGrab.grab(box, xdisplay=display)
        is_drawn = picture.getcolors(9) is None
        if found == list(size) and is_drawn and picture == before:
            return picture
        before = picture


# ---- without windows -----------------------------------------------------------------------------


@pytest.fixture
def terminal_servers(run):
    started = []
    for about in ("first", "second"):
        server = run(EXAMPLES / "sample_server.py", "--terminal", "--about", about)
        assert server.stdout.readline() == f"SampleServer/notes, process {server.pid}\n"
        started.append(server)
    return started


def viewed(run, *words):
    """Run the viewer to its end; give its status, its list, what else it says, and its errors."""
    viewer = run(EXAMPLES / "server_viewer.py", "--terminal", *words)
    out, errors = viewer.communicate()
    lines = out.splitlines()
    listed = [line.split("\t")[:4] for line in lines if "\t" in line]
    return viewer.returncode, listed, [line for line in lines if "\t" not in line], errors


def test_the_terminal_shows_the_servers_and_sends_to_the_one_that_is_picked(run, terminal_servers):
    first, second = terminal_servers
    listed = [
        ["1", "SampleServer/notes", str(first.pid), "first"],
        ["2", "SampleServer/notes", str(second.pid), "second"],
    ]
    assert viewed(run) == (0, listed, [], "")
    arrived = f"arrived at process {second.pid}"
    assert viewed(run, "--send", "hello", "--pick", "2") == (0, listed, [arrived], "")
    assert second.stdout.readline().startswith("hello - from process ")
    second.stdin.write("no longer the second\n")
    second.stdin.flush()
    wait_until(lambda: viewed(run)[1][1][3] == "no longer the second")
    second.send_signal(signal.SIGKILL)
    second.wait()
    assert viewed(run) == (0, listed[:1], [], "")
    # The input's end is the program's.
    out, errors = first.communicate()
    assert (first.returncode, out, errors) == (0, "", "")
    assert viewed(run) == (0, [], [], "")


def test_the_terminal_shows_where_the_handler_raised(run, terminal_servers):
    handled = f"handled by process {terminal_servers[0].pid}"
    status, _, said, errors = viewed(run, "--send", "well", "--wait")
    assert (status, said, errors) == (0, [handled], "")
    status, _, said, errors = viewed(run, "--send", "fail", "--wait")
    assert (status, said) == (1, [])
    assert "raised ValueError: asked to fail\nin the other program:\nTraceback" in errors
    assert "sample_server.py" in errors


def test_a_number_that_is_not_on_the_list_is_an_error_of_one_line(run):
    status, listed, said, errors = viewed(run, "--send", "hello", "--pick", "3")
    assert (status, listed, said) == (1, [], [])
    assert errors == "server_viewer.py: there is no number 3\n"


def test_ctrl_c_ends_a_server_and_its_name(run, terminal_servers):
    for server in terminal_servers:
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate()
        assert (server.returncode, errors) == (130, "")
    assert viewed(run)[1] == []
