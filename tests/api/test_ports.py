"""Ports: nobody takes them in between, and their numbers die with who listens."""

import asyncio
import contextlib
import errno
import http.server
import os
import pickle
import resource
import socket
import subprocess
import sys
import threading

import alongside
import pytest
from alongside import listening_socket, loops

pytestmark = pytest.mark.usefixtures("scope")


@pytest.fixture
def share():
    """Share ports of the scope "user", and close them after the test."""
    shared = []

    def begin(name="p", **said):
        shared.append(alongside.shared_port(name, **{"scope": "user", "listen": True} | said))
        return shared[-1]

    yield begin
    for port in shared:
        port.close()


PORT = "port = alongside.shared_port('p', listen={}, scope='user')"


def reaches(number):
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", number)).close()
    except ConnectionRefusedError:
        return False
    return True


# ---- sockets -------------------------------------------------------------------------------------


def test_a_socket_listens_at_once():
    with listening_socket() as server:
        host, number = server.getsockname()
        assert host == "127.0.0.1"
        assert reaches(number)
        with pytest.raises(OSError, match=f"port {number} of 127.0.0.1 is taken") as caught:
            listening_socket(port=number)
        assert caught.value.errno == errno.EADDRINUSE
        with listening_socket(first_port=number) as next_one:
            assert next_one.getsockname()[1] > number


def test_a_port_can_be_had_again_at_once():
    with listening_socket() as server:
        number = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", number))
        connection, _ = server.accept()
        # Who closes first keeps the port in TIME_WAIT.
        connection.close()
        client.close()
    listening_socket(port=number).close()


def test_other_addresses():
    with listening_socket("localhost") as server:
        assert server.getsockname()[1] > 0
    if socket.has_ipv6:
        try:
            with listening_socket("::1") as server:
                assert server.family == socket.AF_INET6
        except OSError:
            pytest.skip("no IPv6 here")


@pytest.mark.parametrize("wrong", [{"port": -1}, {"port": 65_536}, {"first_port": 70_000}])
def test_what_is_no_port_is_refused(wrong):
    with pytest.raises(ValueError, match="no port"):
        listening_socket(**wrong)
    with pytest.raises(ValueError, match="name one of them"):
        listening_socket(port=5, first_port=5)
    for what in ({"port": "80"}, {"port": True}, {"host": None}, {"host": 5}):
        with pytest.raises(TypeError, match=r"is no port|host is"):
            listening_socket(**what)


# ---- shared ports --------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["who listens", "who learns"])
def test_whoever_is_first_all_know_the_number(share, puppet, first):
    other = puppet()
    if first == "who learns":
        other.run(PORT.format(False))
        assert other("port.number") is None
    port = share()
    if first == "who listens":
        other.run(PORT.format(True))
    assert port.mine
    assert reaches(port.number)
    assert other("port.number") == port.number == port.socket.getsockname()[1]
    assert not other("port.mine")
    assert other("port.socket") is None
    assert other("port.wait(timeout=0)") == port.number


def test_a_death_clears_the_number_and_the_next_one_has_it_again(share, puppet):
    other, learner = puppet(), share(listen=False)
    other.run(PORT.format(True))
    number = learner.wait()
    assert other("port.mine")
    seen, is_gone = [], threading.Event()

    def note(found):
        seen.append(found)
        if found is None:
            is_gone.set()

    learner.on_change(note)
    other.kill()
    is_gone.wait()
    assert learner.number is None
    assert seen == [None]
    assert not reaches(number)
    with pytest.raises(alongside.TimedOut, match="nobody listens"):
        learner.wait(timeout=0.01)
    assert share().number == number == learner.number


def test_what_was_taken_meanwhile_is_not_had_again(share, puppet):
    other, learner = puppet(), share(listen=False)
    other.run(PORT.format(True))
    number = learner.wait()
    other.kill()
    with listening_socket(port=number):
        assert share().number != number


def test_nothing_is_kept_when_all_are_gone(puppet, scope):
    others = [puppet(), puppet()]
    others[0].run(PORT.format(True))
    others[1].run(PORT.format(False))
    for other in others:
        other.kill()
    alongside.shared_port("p", listen=False, scope="user").close()
    assert list((scope / "cells").iterdir()) == []


def test_an_end_in_order_clears_it_too(share, puppet):
    other, learner = puppet(), share(listen=False)
    other.run(PORT.format(True))
    learner.wait()
    other.run("port.close(); port.close()")
    assert learner.number is None
    assert other("port.number if False else 0") == 0
    with share() as port:
        assert learner.wait() == port.number
    assert learner.number is None


def test_changes_are_told_on_a_loop_of_ones_own(share, puppet):
    learner, manual, seen = share(listen=False), loops.Manual(), []
    learner.on_change(seen.append, on=manual)
    for _ in range(3):
        other = puppet()
        other.run(PORT.format(True))
        while len(seen) % 2 == 0:
            manual.dispatch(timeout=None)
        other.kill()
        while len(seen) % 2 == 1:
            manual.dispatch(timeout=None)
    assert seen == [seen[0], None] * 3


def test_callbacks_are_told_of_an_end_in_order(share, puppet):
    """The process goes on, so it is the value that tells."""
    learner, manual, seen = share(listen=False), loops.Manual(), []
    learner.on_change(seen.append, on=manual)
    other = puppet()
    for _ in range(3):
        other.run(PORT.format(True))
        while len(seen) % 2 == 0:
            manual.dispatch(timeout=None)
        other.run("port.close()")
        while len(seen) % 2 == 1:
            manual.dispatch(timeout=None)
    assert seen == [seen[0], None] * 3


def test_who_is_about_to_listen_has_not_the_last_one_s_number(share, puppet):
    other, next_one, learner = puppet(), puppet(), share(listen=False)
    other.run(PORT.format(True))
    learner.wait()
    other.kill()
    next_one.run("lock = alongside.Lock('.port/p'); lock.acquire()")
    assert learner.number is None
    with pytest.raises(alongside.TimedOut, match="nobody listens"):
        learner.wait(timeout=0)


@pytest.mark.parametrize("said", ["text", {}, {"number": "x"}, {"number": 1 << 40}, {"by": 3}])
def test_what_is_no_number_is_passed_over(share, said):
    with alongside.Cell(".port/p", max_size=1024) as cell:
        cell.set(said)
        learner = share(listen=False)
        assert learner.number is None
        assert reaches(share().number)


def test_a_forked_child_that_closes_leaves_the_port_to_its_parent(share):
    port = share()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            port.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert share(listen=False).number == port.number
    assert reaches(port.number)


def test_a_port_belongs_to_the_process(puppet):
    other = puppet()
    other.run("number = alongside.shared_port('p', listen=True, scope='user').number")
    assert reaches(other("number"))


def test_a_port_that_cannot_be_told_is_free_all_the_same(share, puppet, scope):
    other = puppet()
    other.run(PORT.format(True))
    other.run("os.truncate(port._cell._path, 0)")
    with pytest.raises(alongside.Corrupt):
        other.run("port.close()")
    assert other("port._lock.owner()") is None


def test_tasks_wait_for_a_number(share, puppet):
    learner, other = share(listen=False), puppet()

    async def main():
        waiter = asyncio.create_task(learner.await_number())
        await asyncio.sleep(0)
        other.run(PORT.format(True))
        assert await waiter == other("port.number")
        other.kill()
        with pytest.raises(alongside.TimedOut):
            await learner.await_number(timeout=0.01)

    asyncio.run(main())


def test_of_many_programs_one_listens(puppet):
    others = [puppet() for _ in range(8)]
    for other in others:
        other.say(PORT.format(True), "exec")
    for other in others:
        other.hear()
    assert sum(other("port.mine") for other in others) == 1
    assert len({other("port.wait()") for other in others}) == 1


def test_login_sessions_have_ports_of_their_own(share, monkeypatch):
    found = {}
    for login in ("one", "two"):
        monkeypatch.setenv("ALONGSIDE_LOGIN", login)
        port = share(scope="login")
        assert port.mine
        found[login] = port.number
    assert found["one"] != found["two"]


def test_an_address_that_cannot_be_had_leaves_nothing(share, scope):
    with pytest.raises(OSError, match=r"cannot listen at 192\.0\.2\.1, port 0: ") as caught:
        share(host="192.0.2.1")
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert list((scope / "cells").iterdir()) == []
    assert share().mine


def test_a_host_that_is_not_known_is_named():
    with pytest.raises(socket.gaierror, match=r"cannot listen at no\.invalid: "):
        listening_socket("no.invalid")


def test_a_process_that_runs_another_program_listens_no_more(share):
    port = share(listen=False)
    code = (
        "import alongside, os, sys;"
        "port = alongside.shared_port('p', listen=True, scope='user');"
        "os.execv('/bin/sh', ['sh', '-c', 'echo runs; read x'])"
    )
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout.readline() == b"runs\n"
        assert port.number is None
        assert share().mine
        program.stdin.close()


def test_errors_speak_of_the_port_and_not_of_what_it_is_made_of(share):
    port = share()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _ = port.number
        except alongside.HandleLost as error:
            status = ".port" in str(error) or "shared_port" not in str(error)
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    port.close()
    for use in (lambda: port.number, port.wait, lambda: port.on_change(print)):
        with pytest.raises(ValueError, match="the port 'p' is closed"):
            use()
    for name in ("a@b", "", "x" * 191):
        for ask in (share, alongside.only):
            with pytest.raises(ValueError, match=rf'^"{name}" is '):
                ask(name)


def test_a_server_that_closes_its_socket_listens_no_more(share, puppet):
    other = puppet()
    port = share()
    number = port.number
    other.run(PORT.format(False))
    with http.server.HTTPServer(("", 0), http.server.BaseHTTPRequestHandler, False) as server:
        server.socket.close()
        server.socket = port.socket
    assert (port.mine, port.number, other("port.number")) == (False, None, None)
    # Who asks next has it again.
    assert share().number == number
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(port)


def test_asyncio_s_servers_do_so_too(share):
    async def main():
        port = share()
        server = await asyncio.start_server(print, sock=port.socket)
        assert port.mine
        server.close()
        await server.wait_closed()
        assert (port.mine, port.number) == (False, None)

    asyncio.run(main())


def test_who_has_taken_the_descriptor_goes_on_listening(share):
    port = share()
    number = port.number
    with socket.socket(fileno=port.socket.detach()):
        port.socket.close()
        assert (port.mine, port.number) == (True, number)
        assert reaches(number)


def test_a_forked_child_does_not_listen(share):
    port = share()
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(port.mine)
        finally:
            os._exit(9)
    assert os.waitpid(pid, 0)[1] == 0
    assert port.mine


def test_a_shortage_of_descriptors_is_told_as_such(share, puppet):
    """And not as if nobody listened, or had the lock."""
    other = puppet()
    other.run(PORT.format(True))
    port, lock = share(listen=False), alongside.Lock("p")
    assert port.number == other("port.number")
    other.run("lock = alongside.Lock('p'); lock.acquire()")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        for ask in (lambda: port.number, lock.owner):
            with pytest.raises(OSError, match="Too many open files"):
                ask()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in opened:
            os.close(descriptor)
    assert port.number == other("port.number")
    assert lock.owner().pid == other.pid
