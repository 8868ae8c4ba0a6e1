"""Watching names: what is there first, then what happens, each thing once, and nothing missed."""

import asyncio
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading

import alongside
import pytest
import trio
from alongside import loops

pytestmark = pytest.mark.usefixtures("scope")


def shown(change):
    return change.kind, change.entry.name, change.initial


def test_what_is_there_comes_first_and_then_what_happens(other):
    process = other("a/1")
    with alongside.publish("a/2", about="mine") as mine, alongside.publish("b"):
        watch = alongside.watch("a/*")
        assert shown(watch.next(timeout=30)) == ("appeared", "a/1", True)
        assert shown(watch.next(timeout=30)) == ("appeared", "a/2", True)
        mine.update(about="changed")
        change = watch.next(timeout=30)
        assert (*shown(change), change.entry.about) == ("changed", "a/2", False, "changed")
        with alongside.publish("a/3"):
            assert shown(watch.next(timeout=30)) == ("appeared", "a/3", False)
        assert shown(watch.next(timeout=30)) == ("vanished", "a/3", False)
        os.kill(process.pid, signal.SIGKILL)
        change = watch.next(timeout=30)
        assert (*shown(change), change.entry.peer.pid) == ("vanished", "a/1", False, process.pid)
        with pytest.raises(alongside.TimedOut):
            watch.next(timeout=0.01)
        watch.close()


def test_all_names_of_a_dead_program_vanish(other):
    names = [f"many/{number}" for number in range(50)]
    process = other(*names)
    with alongside.watch() as watch:
        assert [watch.next(timeout=30).entry.name for _ in names] == names
        process.kill()
        gone = [watch.next(timeout=30) for _ in names]
        assert {change.kind for change in gone} == {"vanished"}
        assert sorted(change.entry.name for change in gone) == sorted(names)
        assert alongside.running() == []


def test_iteration_ends_with_close():
    seen = []
    watch = alongside.watch()

    def iterate():
        seen.extend(shown(change) for change in watch)

    thread = threading.Thread(target=iterate)
    thread.start()
    with alongside.publish("a"):
        while not seen:
            pass
    watch.close()
    thread.join()
    assert seen[0] == ("appeared", "a", False)
    with pytest.raises(alongside.Closed):
        watch.next()
    watch.close()


@pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)])
def test_tasks_iterate(run):
    async def main():
        seen = []
        with alongside.publish("a") as registration, alongside.watch() as watch:
            async for change in watch:
                seen.append(shown(change))
                if len(seen) == 1:
                    registration.update(about="x")
                if len(seen) == 2:
                    registration.revoke()
                if len(seen) == 3:
                    watch.close()
        assert seen == [("appeared", "a", True), ("changed", "a", False), ("vanished", "a", False)]

    run(main())


def test_a_callback_is_called_on_a_loop_of_choice():
    loop = loops.Manual()
    seen = []
    with alongside.publish("a"), alongside.watch() as watch:
        watch.on_change(lambda change: seen.append(shown(change)), on=loop)
        loop.dispatch(timeout=None)
        assert seen == [("appeared", "a", True)]
        with alongside.publish("b"):
            loop.dispatch(timeout=None)
        while len(seen) < 3:
            loop.dispatch(timeout=None)
        assert seen[1:] == [("appeared", "b", False), ("vanished", "b", False)]
        watch.on_change(None)
        with alongside.publish("c"):
            assert watch.next(timeout=30).entry.name == "c"


def test_a_callback_that_raises_is_called_for_the_next_change(caplog):
    seen = threading.Semaphore(0)

    def changed(change):
        seen.release()
        msg = "on purpose"
        raise ValueError(msg)

    with alongside.watch() as watch:
        watch.on_change(changed)
        with alongside.publish("a"), alongside.publish("b"):
            for _ in range(2):
                assert seen.acquire(timeout=60)
    assert "on purpose" in caplog.text


def test_a_place_that_is_made_anew_is_watched_again(scope, other):
    """As after a logout and the next login."""
    watch = alongside.watch()
    for number in range(3):
        process = other(f"login/{number}")
        assert watch.next(timeout=30).entry.name == f"login/{number}"
        shutil.rmtree(scope.parent if number else scope)
        assert watch.next(timeout=30).kind == "vanished"
        process.kill()
    watch.close()


def test_nothing_is_missed_while_descriptors_are_short(other):
    """An error says that it could not be seen; afterwards everything has been."""
    watch = alongside.watch()
    with alongside.publish("mine") as mine:
        assert watch.next(timeout=30).entry.name == "mine"
        # What is needed to update stays free until it is done.
        mine.update(about="new")
        process = other("theirs")
        hoard = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    hoard.append(os.open("/dev/null", os.O_RDONLY))
            with pytest.raises(OSError, match="Too many open files"):
                watch.next(timeout=30)
        finally:
            for fd in hoard:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        seen = {shown(watch.next(timeout=30)) for _ in range(2)}
        assert seen == {("changed", "mine", False), ("appeared", "theirs", False)}
        process.kill()
        assert shown(watch.next(timeout=30)) == ("vanished", "theirs", False)
    watch.close()


async def _sees(on, sleep):
    """One change after the other is awaited, and none while another is."""
    seen = []

    async def changed(change):
        seen.append(("begin", change.kind))
        await sleep(0)
        if change.entry.name == "b":
            msg = "on purpose"
            raise ValueError(msg)
        seen.append(("end", change.kind))

    with alongside.watch() as watch:
        watch.on_change(changed, on=on)
        with alongside.publish("a"), alongside.publish("b"):
            while len(seen) < 3:
                await sleep(0.001)
        while seen.count(("begin", "vanished")) < 2:
            await sleep(0.001)
        assert seen[:3] == [("begin", "appeared"), ("end", "appeared"), ("begin", "appeared")]


def test_an_async_callback_is_awaited_in_asyncio(run):
    async def main():
        await _sees(loops.Asyncio(), asyncio.sleep)

    run(main())


def test_an_async_callback_is_awaited_in_trio():
    async def main():
        async with trio.open_nursery() as nursery:
            await _sees(loops.Trio(nursery), trio.sleep)

    trio.run(main)


CHURN = """
import alongside, os, random, sys
r = random.Random(int(sys.argv[1]))
held = []
print("there", flush=True)
while True:
    act = r.randrange(3)
    if act == 0 or not held:
        held.append(alongside.publish(f"churn/{r.randrange(20)}"))
    elif act == 1:
        held.pop(r.randrange(len(held))).revoke()
    else:
        r.choice(held).update(about=str(r.random()))
"""


def test_a_picture_is_true_after_any_amount_of_coming_and_going():
    picture = {}
    watch = alongside.watch("churn/*")

    def take(change):
        known = picture.get(change.entry.instance)
        assert (known is None) == (change.kind == "appeared")
        if change.kind == "vanished":
            del picture[change.entry.instance]
        else:
            picture[change.entry.instance] = change.entry

    processes = []
    for number in range(30):
        if len(processes) == 4:
            victim = processes.pop(random.Random(number).randrange(4))
            victim.kill()
            victim.wait()
            victim.stdout.close()
        arguments = [sys.executable, "-c", CHURN, str(number)]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"there\n"
        processes.append(process)
        for _ in range(50):
            take(watch.next(timeout=60))
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    while True:
        try:
            take(watch.next(timeout=0.05))
        except alongside.TimedOut:
            break
    truth = {entry.instance: entry for entry in alongside.running("churn/*")}
    assert picture == truth
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
    while picture:
        take(watch.next(timeout=60))
    assert alongside.running("churn/*") == []
    watch.close()
