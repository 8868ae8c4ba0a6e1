"""Names of running programs, by one library: `python -I names.py WHO COUNT`; prints microseconds.

    publish    a name is published and revoked
    list       a hundred names of other programs are listed
    list all   ten thousand
    call       a name is looked up, its program connected to, a word sent and its answer received,
               by one that was not connected to anything before
    crowded    the same while two hundred others have connected and say nothing
    seen       from just before another program publishes until a watcher knows
    gone       from just before the SIGKILL of a program until a watcher knows

Each library has its names in one other process, the owner, which answers calls; who cannot do a
thing leaves it out. D-Bus has a daemon of its own for the time, and Pyro5 a name server.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = 100
WATCHED = 1000
ALL = 10_000
CROWD = 200


def timed(count, act, *, then=lambda: None):
    """Do something so many times; the first few warm up."""
    times = []
    for turn in range(count + count // 10 + 1):
        begin = time.perf_counter_ns()
        act()
        took = (time.perf_counter_ns() - begin) / 1e3
        then()
        if turn > count // 10:
            times.append(took)
    return times


def other(role, who, *words):
    """Start another process of this program, and wait until it says that it is there."""
    command = [sys.executable, "-I", __file__, who, role, *map(str, words)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "there\n"
    return process


def say_there_and_wait():
    print("there", flush=True)
    os.read(0, 1)


# ---- alongside -----------------------------------------------------------------------------------


def own_in_alongside():
    import alongside

    for number in range(NAMES):
        alongside.publish(f"bench/{number}", lambda data, session: session.send(data))
    say_there_and_wait()


def brief_in_alongside():
    """Publish when told to, and say when that began; until killed."""
    from alongside import publish

    print("there", flush=True)
    sys.stdin.readline()
    print(time.perf_counter_ns(), flush=True)
    publish("brief")
    os.read(0, 1)


def by_alongside(count):
    import alongside

    folder = tempfile.mkdtemp(prefix="names-", dir="/dev/shm")
    os.environ["XDG_RUNTIME_DIR"] = folder
    owner = other("own", "alongside")

    def call():
        session = alongside.connect("bench/50")
        session.send("x")
        assert session.receive() == "x"
        sessions.append(session)

    def publish():
        alongside.publish("bench/own").revoke()

    def list_all():
        assert len(alongside.running("bench/*")) == NAMES

    sessions = []

    def leave():
        sessions.pop().close()

    times = {
        "publish": timed(count, publish),
        "list": timed(count, list_all),
        "call": timed(count, call, then=leave),
    }
    crowd = silent_callers(Path(folder, "alongside/user/sockets"))
    times["crowded"] = timed(count, call, then=leave)
    for caller in crowd:
        caller.close()
    times |= seen_by_alongside(max(5, count // 20))
    many = [alongside.publish(f"many/{number}") for number in range(ALL - NAMES)]
    times["list all"] = timed(5, alongside.running)
    assert len(alongside.running()) == ALL
    for registration in many:
        registration.revoke()
    owner.kill()
    owner.wait()
    shutil.rmtree(folder)
    return times


def silent_callers(folder):
    """Connect to every socket there is in turn, and say nothing."""
    os.chdir(folder)
    paths = sorted(os.listdir())
    crowd = []
    for number in range(CROWD):
        caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        caller.connect(paths[number % len(paths)])
        crowd.append(caller)
    return crowd


def seen_by_alongside(count):
    """Have programs come and go while a thousand names are watched."""
    import alongside

    kept = [alongside.publish(f"kept/{number}") for number in range(WATCHED - NAMES)]
    times = {"seen": [], "gone": []}
    with alongside.watch() as watch:
        while watch.next().entry.name != kept[-1].name:
            pass
        for _ in range(count):
            brief = other("brief", "alongside")
            brief.stdin.write("now\n")
            brief.stdin.flush()
            while watch.next().entry.name != "brief":
                pass
            at = time.perf_counter_ns()
            times["seen"].append((at - int(brief.stdout.readline())) / 1e3)
            begin = time.perf_counter_ns()
            brief.kill()
            assert watch.next().kind == "vanished"
            times["gone"].append((time.perf_counter_ns() - begin) / 1e3)
            brief.wait()
    for registration in kept:
        registration.revoke()
    return times


# ---- D-Bus ---------------------------------------------------------------------------------------


class Daemon:
    """A message bus of our own."""

    def __enter__(self):
        """Start it."""
        self.folder = tempfile.TemporaryDirectory(prefix="names-")
        address = f"unix:path={self.folder.name}/bus"
        command = ["dbus-daemon", "--session", "--nofork", "--print-address=1"]
        pipe = {"stdout": subprocess.PIPE}
        self.process = subprocess.Popen([*command, f"--address={address}"], **pipe)
        self.process.stdout.readline()
        os.environ["DBUS_SESSION_BUS_ADDRESS"] = address
        return self

    def __exit__(self, *_):
        """End it."""
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


INTERFACE = "bench.Echo"
DAEMON = "org.freedesktop.DBus"


def own_in_dbus_fast():
    import asyncio

    from dbus_fast.aio import MessageBus
    from dbus_fast.annotations import DBusStr
    from dbus_fast.service import ServiceInterface, dbus_method

    class Echo(ServiceInterface):
        @dbus_method()
        def echo(self, word: DBusStr) -> DBusStr:
            return word

    async def main():
        bus = await MessageBus().connect()
        bus.export("/bench", Echo(INTERFACE))
        for number in range(NAMES):
            await bus.request_name(f"bench.n{number}")
        print("there", flush=True)
        await bus.wait_for_disconnect()

    asyncio.run(main())


def by_dbus_fast(count):
    import asyncio

    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

    async def timed_async(act):
        times = []
        for turn in range(count + count // 10 + 1):
            begin = time.perf_counter_ns()
            left = await act()
            took = (time.perf_counter_ns() - begin) / 1e3
            if left is not None:
                left.disconnect()
                await left.wait_for_disconnect()
            if turn > count // 10:
                times.append(took)
        return times

    async def main():
        bus = await MessageBus().connect()

        async def publish():
            await bus.request_name("bench.own")
            await bus.release_name("bench.own")

        async def list_all():
            answer = await bus.call(
                Message(
                    destination=DAEMON,
                    path="/org/freedesktop/DBus",
                    interface=DAEMON,
                    member="ListNames",
                )
            )
            assert sum(name.startswith("bench.n") for name in answer.body[0]) == NAMES

        async def call():
            fresh = await MessageBus().connect()
            answer = await fresh.call(
                Message(
                    destination="bench.n50",
                    path="/bench",
                    interface=INTERFACE,
                    member="echo",
                    signature="s",
                    body=["x"],
                )
            )
            assert answer.body == ["x"], answer.body
            return fresh

        return {
            "publish": await timed_async(publish),
            "list": await timed_async(list_all),
            "call": await timed_async(call),
        }

    with Daemon():
        owner = other("own", "dbus-fast")
        times = asyncio.run(main())
        owner.kill()
        owner.wait()
    return times


def own_in_sdbus():
    import asyncio

    import sdbus
    from sdbus import DbusInterfaceCommonAsync, dbus_method_async

    class Echo(DbusInterfaceCommonAsync, interface_name=INTERFACE):
        @dbus_method_async("s", "s", method_name="echo")
        async def echo(self, word: str) -> str:
            return word

    async def main():
        bus = sdbus.sd_bus_open_user()
        sdbus.set_default_bus(bus)
        echo = Echo()
        echo.export_to_dbus("/bench")
        for number in range(NAMES):
            await bus.request_name_async(f"bench.n{number}", 0)
        print("there", flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


def by_sdbus(count):
    from sdbus import DbusInterfaceCommon, dbus_method, sd_bus_open_user
    from sdbus_block.dbus_daemon import FreedesktopDbus

    class Echo(DbusInterfaceCommon, interface_name=INTERFACE):
        @dbus_method("s", method_name="echo")
        def echo(self, word: str) -> str:
            raise NotImplementedError

    with Daemon():
        owner = other("own", "sdbus")
        bus = sd_bus_open_user()
        daemon = FreedesktopDbus(bus)

        def publish():
            bus.request_name("bench.own", 0)
            message = bus.new_method_call_message(
                DAEMON, "/org/freedesktop/DBus", DAEMON, "ReleaseName"
            )
            message.append_data("s", "bench.own")
            bus.call(message)

        def list_all():
            assert sum(name.startswith("bench.n") for name in daemon.list_names()) == NAMES

        def call():
            fresh = sd_bus_open_user()
            assert Echo("bench.n50", "/bench", fresh).echo("x") == "x"
            opened.append(fresh)

        opened = []
        times = {
            "publish": timed(count, publish),
            "list": timed(count, list_all),
            "call": timed(count, call, then=lambda: opened.pop().close()),
        }
        owner.kill()
        owner.wait()
    return times


# ---- Pyro5 ---------------------------------------------------------------------------------------


def serve_names_of_pyro5():
    import Pyro5.nameserver

    uri, daemon, _ = Pyro5.nameserver.start_ns(host="127.0.0.1", port=0, enableBroadcast=False)
    print("there", flush=True)
    print(uri.port, flush=True)
    daemon.requestLoop()


def own_in_pyro5():
    import Pyro5.api

    @Pyro5.api.expose
    class Echo:
        def echo(self, word):
            return word

    daemon = Pyro5.api.Daemon(host="127.0.0.1")
    uri = daemon.register(Echo())
    with Pyro5.api.locate_ns("127.0.0.1", int(sys.argv[3])) as names:
        for number in range(NAMES):
            names.register(f"bench.{number}", uri)
    print("there", flush=True)
    daemon.requestLoop()


def by_pyro5(count):
    import Pyro5.api

    server = other("serve", "Pyro5")
    port = int(server.stdout.readline())
    owner = other("own", "Pyro5", port)
    with Pyro5.api.locate_ns("127.0.0.1", port) as names:
        uri = names.lookup("bench.50")

        def publish():
            names.register("own", uri)
            names.remove("own")

        def list_all():
            assert len(names.list(prefix="bench.")) == NAMES

        def call():
            with Pyro5.api.locate_ns("127.0.0.1", port) as fresh:
                proxy = Pyro5.api.Proxy(fresh.lookup("bench.50"))
            assert proxy.echo("x") == "x"
            proxies.append(proxy)

        proxies = []
        times = {
            "publish": timed(count, publish),
            "list": timed(count, list_all),
            "call": timed(count, call, then=lambda: proxies.pop()._pyroRelease()),
        }
    for process in (owner, server):
        process.kill()
        process.wait()
    return times


# ---- all -----------------------------------------------------------------------------------------

ROLES = {
    ("alongside", "own"): own_in_alongside,
    ("alongside", "brief"): brief_in_alongside,
    ("dbus-fast", "own"): own_in_dbus_fast,
    ("sdbus", "own"): own_in_sdbus,
    ("Pyro5", "own"): own_in_pyro5,
    ("Pyro5", "serve"): serve_names_of_pyro5,
}
WAYS = {
    "alongside": by_alongside,
    "dbus-fast": by_dbus_fast,
    "sdbus": by_sdbus,
    "Pyro5": by_pyro5,
}


def main():
    who, what = sys.argv[1:3]
    if (who, what) in ROLES:
        ROLES[who, what]()
    else:
        print(json.dumps(WAYS[who](int(what))))


if __name__ == "__main__":
    main()
