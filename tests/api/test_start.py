"""Starting a program, and every way in which that goes wrong."""

import asyncio
import gc
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import alongside
import pytest

from tests.conftest import children, has_ended, is_asleep, open_files, wait_until

PROGRAM = "import alongside; s = alongside.session(required=True); "


def python(source):
    return [sys.executable, "-c", PROGRAM + source]


def wait_for_end(handle):
    """Wait until a process has ended; its handle is readable then."""
    select.select([handle], [], [])
    os.close(handle)


# ---- what works ------------------------------------------------------------------------------


def test_the_peer_is_named_by_the_kernel(program):
    session = program("s.send([os.getpid(), os.getuid(), s.peer.pid, s.peer.uid]); s.receive()")
    assert session.receive() == [session.peer.pid, os.getuid(), os.getpid(), os.getuid()]
    assert session.peer.executable == str(Path(sys.executable).resolve())
    age = Path(f"/proc/{session.peer.pid}").stat().st_ctime - session.peer.start_time
    assert abs(age) < 5


def test_a_python_file_runs_under_this_interpreter(tmp_path):
    file = tmp_path / "it's a program.py"
    file.write_text(PROGRAM + "import sys; s.send([sys.executable, *sys.argv[1:]])")
    with alongside.start([file, "one", "two words"]) as session:
        assert session.receive() == [sys.executable, "one", "two words"]
    with alongside.start(file) as session:
        assert session.receive() == [sys.executable]


def test_a_relative_python_file_is_looked_up_from_where_the_program_starts(tmp_path):
    (tmp_path / "plug.py").write_text(PROGRAM + "s.send('found')")
    with alongside.start(["plug.py"], cwd=tmp_path) as session:
        assert session.receive() == "found"
    with pytest.raises(FileNotFoundError):
        alongside.start(["plug.py"])


def test_much_is_said_before_the_session_is_taken_up():
    source = "import sys; sys.stderr.write('e' * 500_000); sys.exit(5)"
    with pytest.raises(alongside.StartFailed) as caught:
        alongside.start([sys.executable, "-c", source], stderr=alongside.PIPE)
    assert caught.value.exit_status == 5
    assert caught.value.stderr == b"e" * (64 << 10)


def test_directory_and_environment_are_the_given_ones(tmp_path):
    source = "import os; s.send([os.getcwd(), dict(os.environ)])"
    env = {**os.environ, "WORD": "is here", "UTF": "é\udc80"}
    with alongside.start(python(source), cwd=tmp_path, env=env) as session:
        cwd, seen = session.receive()
    assert cwd == str(tmp_path.resolve())
    assert seen.pop("LC_CTYPE", None) in (env.get("LC_CTYPE"), "C.UTF-8")
    env.pop("LC_CTYPE", None)
    assert seen == env


def test_the_variable_of_the_handshake_is_gone_once_adopted(program):
    session = program(
        """
        import subprocess
        seen = subprocess.run(["env"], capture_output=True, text=True).stdout
        s.send(["ALONGSIDE_SESSION" in os.environ, "ALONGSIDE_SESSION" in seen])
        """
    )
    assert session.receive() == [False, False]


def test_standard_streams_are_the_programs_own():
    source = "import sys; print('out'); print('err', file=sys.stderr); s.send(input())"
    options = {"stdin": alongside.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with alongside.start(python(source), **options) as session:
        session.stdin.write(b"typed\n")
        session.stdin.close()
        assert session.receive() == "typed"
        assert session.stdout.read() == b"out\n"
        assert session.stderr.read() == b"err\n"
        for file in (session.stdout, session.stderr):
            file.close()
        assert session.wait() == 0


def test_streams_may_be_files_descriptors_or_nothing(tmp_path):
    log = tmp_path / "log"
    source = "import sys; print('to the file', flush=True); s.send(sys.stdin.read())"
    with (
        log.open("wb") as file,
        alongside.start(python(source), stdin=alongside.DEVNULL, stdout=file, stderr=1) as session,
    ):
        assert session.receive() == ""
        session.wait()
    assert log.read_text() == "to the file\n"


def test_standard_streams_may_be_swapped():
    read, write = os.pipe()
    source = (
        "import alongside, sys; s = alongside.start([sys.executable, '-c', "
        '\'import alongside, os; alongside.session(); os.write(2, b"two"); os.write(1, b"one")\'],'
        " stdout=2, stderr=1); sys.exit(s.wait())"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], stdout=write, stderr=subprocess.PIPE, check=True
    )
    os.close(write)
    assert (done.stderr, os.read(read, 99)) == (b"one", b"two")
    os.close(read)


def test_a_program_without_standard_streams_can_start_another():
    source = "import alongside, os, sys; os.close(0); os.close(1); os.close(2)\n"
    source += f"s = alongside.start({python('s.send(5)')!r}, stdin=-3, stdout=-3, stderr=-3)\n"
    source += "os._exit(s.receive(timeout=60))"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 5


def test_no_descriptor_is_inheritable_or_reaches_a_program_started_beside(program):
    before = open_files()
    program("s.receive()").fileno()
    ours = open_files().keys() - before.keys()
    assert ours
    assert not any(os.get_inheritable(fd) for fd in ours)
    command = ["ls", "-l", "/proc/self/fd"]
    beside = subprocess.run(command, close_fds=False, capture_output=True, text=True, check=True)
    assert "eventpoll" not in beside.stdout
    assert "pidfd" not in beside.stdout


def test_an_idle_session_has_seven_descriptors_on_either_side(program):
    count = "len(os.listdir('/proc/self/fd'))"
    before = open_files()
    session = program(f"s.send({count}); s.receive()")
    assert len(open_files()) - len(before) <= 7
    plain = subprocess.run(
        [sys.executable, "-c", f"import os; print({count})"],
        stdout=subprocess.PIPE,
        close_fds=False,
        check=True,
    )
    assert session.receive() - int(plain.stdout) <= 7


@pytest.mark.parametrize(
    "wrapper",
    [
        lambda command: ["sh", "-c", '"$@"; exit $?', "sh", *command],
        lambda command: ["env", "A=1", "nice", *command],
        lambda command: [
            sys.executable,
            "-c",
            "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:], close_fds=False))",
            *command,
        ],
    ],
    ids=["shell", "env", "python"],
)
def test_wrappers_work_and_the_peer_is_who_adopted(wrapper):
    source = "import os, sys; s.send(os.getpid()); s.receive(); sys.exit(7)"
    with alongside.start(wrapper(python(source))) as session:
        assert session.receive() == session.peer.pid
        session.send("go")
        assert session.wait() == 7
        assert session.exit_status == 7


def test_a_venv_launcher_works(tmp_path):
    import venv

    venv.create(tmp_path / "v", symlinks=False, system_site_packages=True)
    root = Path(alongside.__file__).parents[1]
    site = next((Path(sys.prefix) / "lib").glob("python*/site-packages"))
    env = {**os.environ, "PYTHONPATH": f"{root}:{site}"}
    command = [tmp_path / "v" / "bin" / "python", "-c", PROGRAM + "s.send(s.hello)"]
    with alongside.start(command, hello="through a venv", env=env) as session:
        assert session.receive() == "through a venv"


UV = Path(sys.executable).with_name("uv")


@pytest.mark.skipif(not UV.exists(), reason="uv is not in this environment")
def test_uv_run_works():
    uv = [UV, "run", "--no-project", "--offline", "--python", sys.executable, "python"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    source = "import os, sys; s.send(os.getpid()); s.receive(); sys.exit(7)"
    with alongside.start([*uv, "-c", PROGRAM + source], env=env) as session:
        assert session.receive() == session.peer.pid
        session.send("go")
        assert session.wait() == 7


NOBODY = 65534
OTHER_PYTHON = Path("/usr/bin/python3")


@pytest.mark.skipif(os.getuid() != 0, reason="only root starts programs as another user")
@pytest.mark.skipif(not OTHER_PYTHON.exists(), reason="no interpreter that another user can reach")
def test_a_program_that_root_starts_as_another_user_is_named_as_that_user(tmp_path):
    package = tmp_path / "packages"
    for module in ("alongside", "msgspec"):
        source = Path(__import__(module).__file__).parent
        shutil.copytree(source, package / module)
    for path in (tmp_path.parent.parent, tmp_path.parent, tmp_path):
        path.chmod(0o755)
    env = {"PYTHONPATH": str(package), "PATH": os.environ["PATH"]}
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", OTHER_PYTHON]
    known = subprocess.run(
        [*user, "-c", "import msgspec"], env=env, check=False, capture_output=True
    )
    if known.returncode:
        pytest.skip("the other interpreter cannot load our packages")
    source = "import os; s.send([os.getuid(), s.peer.uid, s.peer.pid]); s.send(len(s.receive()))"
    with alongside.start([*user, "-c", PROGRAM + source], env=env) as session:
        assert session.receive() == [NOBODY, 0, os.getpid()]
        assert session.peer.uid == NOBODY
        session.send(bytes(3_000_000))
        assert session.receive() == 3_000_000


def test_a_wrapper_that_closes_descriptors_is_told_apart():
    inner = python("")
    wrapper = [
        sys.executable,
        "-c",
        "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))",
    ]
    with pytest.raises(alongside.StartFailed) as caught:
        alongside.start([*wrapper, *inner], stderr=alongside.PIPE)
    assert b"Corrupt" in caught.value.stderr
    assert b"a wrapper between the two programs may have closed it" in caught.value.stderr


def test_a_group_is_ended_whole(tmp_path):
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    source = f"""
        import subprocess
        p = subprocess.Popen(["sh", "-c", "sleep 1000 & echo $! > {ready}; wait"])
        s.send(p.pid)
        s.receive()
    """
    command = [sys.executable, "-c", PROGRAM + "\n" + textwrap.dedent(source)]
    session = alongside.start(command, new_group=True)
    shell = session.receive()
    grandchild = int(ready.read_text())
    handles = [os.pidfd_open(pid) for pid in (shell, grandchild)]
    session.kill()
    assert session.wait() == -signal.SIGKILL
    for handle in handles:
        wait_for_end(handle)
    session.close(timeout=0)


def test_without_a_group_the_program_shares_ours(program):
    assert program("s.send(os.getpgrp())").receive() == os.getpgrp()


# ---- what does not ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("no-such-program-anywhere", FileNotFoundError),
        ("/no/such/program", FileNotFoundError),
        ("/no/such/program.py", FileNotFoundError),
        ("/usr", IsADirectoryError),
    ],
)
@pytest.mark.usefixtures("leaves_nothing")
def test_what_cannot_be_run_is_the_matching_error_with_its_path(name, error):
    with pytest.raises(error) as caught:
        alongside.start([name])
    assert caught.value.filename == name


def test_a_command_that_was_meant_as_a_list_is_hinted_at():
    with pytest.raises(FileNotFoundError) as caught:
        alongside.start("python editor.py")
    assert "is a list" in caught.value.__notes__[0]


def test_a_file_that_is_no_program_is_an_os_error(tmp_path):
    file = tmp_path / "empty"
    file.write_text("")
    with pytest.raises(PermissionError) as caught:
        alongside.start([file])
    assert caught.value.filename == str(file)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(OSError, match=r"[Ee]xec format"):
        alongside.start([file])


def test_stderr_can_go_where_stdout_goes(tmp_path):
    source = "import os; os.write(1, b'out '); os.write(2, b'err')"
    with alongside.start(python(source), stdout=alongside.PIPE, stderr=alongside.STDOUT) as session:
        session.wait()
        assert session.stdout.read() == b"out err"
        session.stdout.close()
        assert session.stderr is None


def test_the_error_of_an_early_exit_shows_what_the_program_said():
    with pytest.raises(alongside.StartFailed) as caught:
        alongside.start([sys.executable, "no such file.py"], stderr=alongside.PIPE)
    assert "its stderr ends:\n" in str(caught.value)
    assert "can't open file" in str(caught.value)
    with pytest.raises(alongside.StartFailed, match=r"with stderr=alongside\.PIPE this"):
        alongside.start([sys.executable, "-c", "raise SystemExit(3)"])


def test_bad_arguments_are_refused_before_anything_starts():
    with pytest.raises(ValueError, match="empty"):
        alongside.start([])
    with pytest.raises(FileNotFoundError) as caught:
        alongside.start(["true"], cwd="/no/such/directory")
    assert caught.value.filename == "/no/such/directory"
    with pytest.raises(ValueError, match="timeout"):
        alongside.start(["true"], timeout=-1)
    with pytest.raises(ValueError, match="max_message"):
        alongside.start(["true"], max_message=0)
    with pytest.raises(TypeError, match=r"data\[0\] is of type object"):
        alongside.start(["true"], hello=[object()])
    with pytest.raises(ValueError, match="null byte"):
        alongside.start(["true"], env={"A": "b\0c"})
    with pytest.raises(ValueError, match=r"command\[1\] has a null byte"):
        alongside.start(["true", "a\0b"])
    with pytest.raises(TypeError, match=r"command\[1\] is 3, expected text"):
        alongside.start(["true", 3])
    with pytest.raises(ValueError, match=r"'out\.txt' is no stream"):
        alongside.start(["true"], stdout="out.txt")
    with pytest.raises(TypeError, match="the command is None, expected a program"):
        alongside.start(None)
    with pytest.raises(TypeError, match="max_message is '1MB', expected a number"):
        alongside.start(["true"], max_message="1MB")


@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.usefixtures("leaves_nothing")
def test_an_early_exit_is_an_error_at_once_with_the_end_of_stderr(status):
    source = f"import sys; print('what is wrong', file=sys.stderr); sys.exit({status})"
    with pytest.raises(alongside.StartFailed, match=f"exit status {status}") as caught:
        alongside.start([sys.executable, "-c", source], stderr=alongside.PIPE, timeout=None)
    assert caught.value.exit_status == status
    assert caught.value.stderr == b"what is wrong\n"


def test_an_early_death_is_an_error_at_once():
    with pytest.raises(alongside.StartFailed, match="signal 9") as caught:
        alongside.start(["sh", "-c", "kill -9 $$"], timeout=None)
    assert (caught.value.exit_status, caught.value.stderr) == (-9, None)


@pytest.mark.usefixtures("leaves_nothing")
def test_a_program_that_never_adopts_times_out_and_is_ended():
    command = ["sh", "-c", "echo warming up >&2; exec sleep 1000"]
    with pytest.raises(alongside.TimedOut, match=re.escape("alongside.session()")) as caught:
        alongside.start(command, timeout=0.2, stderr=alongside.PIPE)
    assert caught.value.__notes__ == ["warming up"]
    assert "echo warming up" in str(caught.value)


def test_a_program_that_lets_go_of_its_session_fails_at_once():
    source = "import os, time; os.closerange(3, 10_000); time.sleep(1000)"
    with pytest.raises(alongside.StartFailed, match=r"let go"):
        alongside.start([sys.executable, "-c", source], timeout=None)


def test_ctrl_c_ends_a_start_and_the_program():
    source = """
        import alongside
        try:
            alongside.start(["sleep", "1000"], timeout=None)
        except KeyboardInterrupt:
            print("interrupted")
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as starter:
        wait_until(lambda: children(starter.pid) and is_asleep(starter.pid))
        (child,) = children(starter.pid)
        starter.send_signal(signal.SIGINT)
        assert starter.stdout.read() == b"interrupted\n"
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ("nonsense", alongside.Corrupt, "'nonsense'|\"nonsense\""),
        ("", alongside.Corrupt, "expected"),
        ("1:2", alongside.Corrupt, "expected"),
        ("1:2:3:4", alongside.Corrupt, "expected"),
        ("1:-1:3", alongside.Corrupt, "expected"),
        ("1:99999999999:3", alongside.Corrupt, "expected"),
        ("1:999:3", alongside.Corrupt, "descriptor 999 with inode 3, but that is closed"),
        ("1:0:3", alongside.Corrupt, "descriptor 0 with inode 3, but that has inode"),
        ("2:3:4", alongside.Incompatible, "version 2, this program speaks 1"),
    ],
)
def test_garbage_in_the_variable_is_named_and_gone_afterwards(monkeypatch, value, error, text):
    monkeypatch.setenv("ALONGSIDE_SESSION", value)
    with pytest.raises(error, match=text):
        alongside.session()
    assert alongside.session() is None


def test_a_program_that_starts_itself_is_stopped_at_the_second_time(tmp_path):
    file = tmp_path / "selfish.py"
    file.write_text("import alongside\nalongside.start(__file__)\n")
    first = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False)
    assert "is about to start itself again" in first.stderr
    assert first.stderr.count("selfish.py") < 6, "it went on for ever"


def test_a_program_may_start_its_own_file_with_other_arguments(tmp_path):
    file = tmp_path / "family.py"
    file.write_text(
        "import alongside, sys\n"
        "s = alongside.session()\n"
        "if len(sys.argv) < 4:\n"
        "    child = alongside.start([__file__, *sys.argv[1:], 'more'])\n"
        "    print(child.receive())\n"
        "else: s.send('deep')\n"
        "if s and len(sys.argv) < 4: s.send('deeper')\n"
    )
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "deeper"


def test_a_tool_that_gathers_modules_finds_what_the_native_part_imports(tmp_path):
    import modulefinder

    program = tmp_path / "program.py"
    program.write_text("import alongside\n")
    finder = modulefinder.ModuleFinder(path=sys.path)
    finder.run_script(str(program))
    assert {"alongside._data", "alongside._errors", "alongside._start"} <= set(finder.modules)


def test_a_program_started_by_a_person_has_no_session():
    assert alongside.session() is None
    with pytest.raises(alongside.NotStarted, match=r"alongside\.start"):
        alongside.session(required=True)


def test_every_call_gives_the_same_session(program):
    assert program("s.send(alongside.session() is s)").receive() is True


# ---- exit status -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 255])
@pytest.mark.usefixtures("leaves_nothing")
def test_the_exit_status_follows_subprocess(status):
    session = alongside.start(python(f"import sys; sys.exit({status})"))
    assert session.wait() == status
    assert session.exit_status == status
    session.close()


def test_the_exit_status_of_a_killed_program(program):
    session = program("s.receive()")
    assert session.exit_status is None
    session.terminate()
    assert session.wait() == -signal.SIGTERM
    with pytest.raises(alongside.PeerGone, match="signal 15") as caught:
        session.receive()
    assert caught.value.exit_status == -signal.SIGTERM


def test_wait_gives_up_at_its_deadline(program):
    session = program("s.receive()")
    with pytest.raises(alongside.TimedOut):
        session.wait(timeout=0)
    with pytest.raises(TimeoutError):
        session.wait(timeout=0.01)
    assert session.alive


def test_wait_takes_in_what_a_program_sends_before_it_ends(program):
    session = program("for i in range(20_000): s.send(i)")
    assert session.wait() == 0
    assert list(session) == list(range(20_000))


KERNEL_TELLS = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15)


@pytest.mark.skipif(not KERNEL_TELLS, reason="before Linux 6.15 nobody knows")
@pytest.mark.parametrize(
    "reaper",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "def reap(*_):\n"
        "  try: os.waitpid(-1, os.WNOHANG)\n"
        "  except ChildProcessError: pass\n"
        "signal.signal(signal.SIGCHLD, reap)",
        "threading.Thread(target=lambda: (started.wait(), os.wait())).start()",
    ],
    ids=["ignored", "handler", "thread"],
)
def test_the_exit_status_is_right_whoever_reaps(reaper):
    source = f"""
s = alongside.start({python("import sys; s.receive(); sys.exit(9)")!r})
started.set()
s.send("go")
sys.exit(0 if s.wait() == 9 and s.exit_status == 9 else 1)
"""
    head = "import alongside, os, signal, sys, threading\nstarted = threading.Event()\n"
    subprocess.run([sys.executable, "-c", head + reaper + source], check=True)


def test_asyncio_and_subprocess_beside_get_their_own_status(program):
    async def main():
        ours = program("import sys; s.receive(); sys.exit(3)")
        theirs = await asyncio.create_subprocess_exec("sh", "-c", "exit 4")
        plain = subprocess.Popen(["sh", "-c", "exit 5"])
        ours.send("go")
        status = await asyncio.to_thread(ours.wait)
        return status, await theirs.wait(), await asyncio.to_thread(plain.wait)

    assert asyncio.run(main()) == (3, 4, 5)


# ---- die_with_parent -------------------------------------------------------------------------

STARTER = """
    import alongside, os, sys, threading
    inner = "import alongside, time; s = alongside.session(); s.send(1); time.sleep(1000)"
    command = [*{wrapper!r}, sys.executable, "-c", inner]
    def start():
        global s
        s = alongside.start(command, die_with_parent={dies}, stdin=-3)
        s.receive()
    t = threading.Thread(target=start); t.start(); t.join()
    outer = alongside.session(required=True)
    outer.send(s.peer.pid)
    outer.receive()
"""


@pytest.mark.parametrize("wrapper", [[], ["sh", "-c", '"$@"; true', "sh"]], ids=["plain", "shell"])
def test_a_program_tied_to_its_starter_dies_with_it(program, wrapper):
    """And not with the thread that started it, which is over by then."""
    source = textwrap.dedent(STARTER.format(wrapper=wrapper, dies=True))
    starter = program(source, head="")
    inner = os.pidfd_open(starter.receive())
    starter.kill()
    wait_for_end(inner)


def test_a_program_that_is_not_tied_survives_its_starter(program):
    starter = program(textwrap.dedent(STARTER.format(wrapper=[], dies=False)), head="")
    pid = starter.receive()
    starter.kill()
    starter.wait()
    inner = os.pidfd_open(pid)
    signal.pidfd_send_signal(inner, 0)
    signal.pidfd_send_signal(inner, signal.SIGKILL)
    os.close(inner)


def test_a_program_that_nobody_waited_for_is_reaped_at_the_next_start():
    with alongside.start(python("s.close()")) as session:
        pid = session.peer.pid
    del session
    gc.collect()
    wait_until(lambda: has_ended(pid))
    with alongside.start(python("s.close()")) as session:
        session.wait()
    assert str(pid) not in children()


def test_zombies_do_not_pile_up():
    before = children()
    for _ in range(5):
        with alongside.start(python("s.close()")) as session:
            wait_until(lambda session=session: session.exit_status is not None)
    assert children() == before
