"""The one instance: exactly one is the first, and nothing that a later one brings is lost."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import alongside
import pytest
import trio
from alongside import loops, only

from tests.conftest import wait_until

pytestmark = pytest.mark.usefixtures("scope")


@pytest.fixture
def first():
    with only("app") as instance:
        yield instance


FIRST = """
visits = []
instance = alongside.only("app", argv={argv!r})
if instance.first: instance.on_other(lambda visit: visits.append(visit.argv))
"""


def test_a_forked_child_of_the_first_is_not_the_first(puppet):
    with alongside.only("app") as instance:
        if (pid := os.fork()) == 0:
            is_first = instance.first
            instance.close()
            os._exit(is_first)
        assert os.waitpid(pid, 0)[1] == 0
        assert instance.first
        later = puppet().say("alongside.only('app', timeout=60).first")
        came = threading.Event()
        instance.on_other(lambda visit: came.set())
        assert came.wait(60)
        assert not later.hear()
    assert not instance.first


def test_the_first_is_the_first_and_others_hand_over(first, puppet, tmp_path):
    assert first.first
    assert first.session is None
    visits = []
    first.on_other(visits.append)
    other = puppet(cwd=tmp_path, env=os.environ | {"SHOWN": "yes", "HIDDEN": "no"})
    other.run("instance = alongside.only('app', argv=['x', 'é\\udc80'], env=['SHOWN', 'NONE'])")
    assert not other("instance.first")
    (visit,) = visits
    assert visit.argv == ["x", "é\udc80"]
    assert visit.cwd == str(tmp_path)
    assert visit.env == {"SHOWN": "yes"}
    assert visit.peer.pid == other.pid
    assert other("instance.session.peer.pid") == os.getpid()
    # And they go on talking, if they like.
    visit.session.send("more?")
    assert other("instance.session.receive()") == "more?"
    other.run("instance.session.send('no')")
    assert visit.session.receive() == "no"
    other.run("instance.close()")


def test_the_command_line_is_the_program_s_own_if_nothing_is_said(first, puppet):
    visits = []
    first.on_other(visits.append)
    other = puppet()
    other.run("sys.argv = ['prog', '--show']; alongside.only('app')")
    assert visits[0].argv == ["prog", "--show"]


def test_who_comes_before_there_is_a_handler_waits(first, puppet):
    other = puppet()
    other.say("alongside.only('app', argv=['early']).first")
    wait_until(lambda: first._waiting)
    visits = []
    first.on_other(visits.append)
    assert not other.hear()
    assert visits[0].argv == ["early"]


def test_what_the_handler_says_meanwhile_is_kept(first, puppet):
    def welcome(visit):
        visit.session.send({"raised": 7})
        visit.session.send("second")

    first.on_other(welcome)
    other = puppet()
    other.run("instance = alongside.only('app')")
    assert other("[instance.session.receive() for _ in range(2)]") == [{"raised": 7}, "second"]


def test_a_handler_that_closes_the_session_is_called_once(first, puppet):
    visits = []

    def close(visit):
        visits.append(visit)
        visit.session.close()

    first.on_other(close)
    assert not puppet()("alongside.only('app').first")
    assert len(visits) == 1


@pytest.mark.parametrize("wrong", [{"argv": "abc"}, {"argv": [1]}, {"env": "HOME"}])
def test_what_is_no_command_line_is_refused(wrong):
    with pytest.raises(TypeError, match=next(iter(wrong))):
        only("other", **wrong)


def test_a_handler_s_error_is_told(first, puppet):
    def refuse(visit):
        msg = f"no {visit.argv[0]}"
        raise LookupError(msg)

    first.on_other(refuse)
    with pytest.raises(alongside.RemoteError, match="raised LookupError: no thing") as caught:
        puppet()("alongside.only('app', argv=['thing'])")
    assert caught.value.kind == "LookupError"


def test_an_async_handler_is_awaited(first, puppet):
    async def main():
        visits = []

        async def take(visit):
            await asyncio.sleep(0)
            visits.append(visit)

        first.on_other(take, on=loops.Asyncio())
        other = puppet().say("alongside.only('app').first")
        assert not await asyncio.to_thread(other.hear)
        assert len(visits) == 1
        with pytest.raises(TypeError, match="does not await"):
            first.on_other(take, on=loops.Thread())

    asyncio.run(main())


def test_when_the_first_dies_the_next_to_ask_is_the_first(puppet):
    one, two, three = puppet(), puppet(), puppet()
    one.run(FIRST.format(argv=["one"]))
    assert one("instance.first")
    one.kill()
    two.run(FIRST.format(argv=["two"]))
    assert two("instance.first")
    three.run(FIRST.format(argv=["three"]))
    assert not three("instance.first")
    assert two("visits") == [["three"]]
    two.run("instance.close()")
    assert puppet()("alongside.only('app').first")


@pytest.mark.parametrize("how", ["kill", "close"])
def test_who_waits_becomes_the_first_when_that_is_gone(puppet, how):
    one, two = puppet(), puppet()
    one.run("instance = alongside.only('app')")
    two.say("alongside.only('app', timeout=None).first")
    wait_until(lambda: one("len(instance._waiting)") == 1)
    if how == "kill":
        one.kill()
    else:
        one.run("instance.close()")
    assert two.hear()


def test_a_first_that_is_stopped_is_named(puppet):
    one = puppet()
    one.run("instance = alongside.only('app')")
    os.kill(one.pid, signal.SIGSTOP)
    with pytest.raises(alongside.TimedOut, match=f"process {one.pid}, the first instance of"):
        only("app", timeout=0.1)
    os.kill(one.pid, signal.SIGCONT)


def test_of_many_at_once_one_is_the_first_and_has_all_visits(puppet):
    others = [puppet() for _ in range(10)]
    for number, other in enumerate(others):
        other.say(FIRST.format(argv=[str(number)]), "exec")
    for other in others:
        other.hear()
    firsts = [other for other in others if other("instance.first")]
    assert len(firsts) == 1
    visits = sorted(int(argv[0]) for argv in firsts[0]("visits"))
    assert visits == sorted(set(range(10)) - {others.index(firsts[0])})


def test_the_first_is_so_as_long_as_its_process_lives(puppet):
    other = puppet()
    other.run("import gc; alongside.only('app').on_other(print); gc.collect()")
    assert not only("app").first
    other.kill()
    with only("app") as instance:
        assert instance.first


def test_who_cannot_be_reached_is_not_the_first(monkeypatch):
    """Its lock is free again for the next one."""
    import alongside._publish

    def fail(*_, **__):
        msg = "no room"
        raise OSError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(alongside._publish, "registered", fail)
        with pytest.raises(OSError, match="no room"):
            only("app")
    with only("app") as instance:
        assert instance.first


def test_a_later_instance_serves_nobody(first, puppet):
    first.on_other(lambda visit: None)
    with pytest.raises(RuntimeError, match="not the first"):
        puppet()("alongside.only('app').on_other(print)")


def test_threads_of_one_program_are_instances_of_their_own(first):
    first.on_other(lambda visit: None)
    found = []
    thread = threading.Thread(target=lambda: found.append(only("app")))
    thread.start()
    thread.join()
    assert not found[0].first
    found[0].close()


def test_tasks_ask(first, puppet):
    first.close()

    async def main():
        with await alongside.aonly("app") as instance:
            assert instance.first
        other = puppet()
        other.run("instance = alongside.only('app')")
        waiter = asyncio.create_task(alongside.aonly("app", timeout=0.2))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        with pytest.raises(alongside.TimedOut):
            await alongside.aonly("app", timeout=0.01)

    asyncio.run(main())


def test_scopes_have_first_ones_of_their_own(first, monkeypatch):
    monkeypatch.setenv("ALONGSIDE_LOGIN", "one")
    with only("app", scope="login") as one:
        assert one.first
        monkeypatch.setenv("ALONGSIDE_LOGIN", "two")
        with only("app", scope="login") as two:
            assert two.first


def test_a_task_that_is_cancelled_asks_no_more(first, puppet):
    """Nor does anything of it hold up the program's end, however long it would have waited."""

    async def main():
        waiter = asyncio.create_task(alongside.aonly("app", timeout=None))
        while not first._waiting:
            await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    before = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() == before


def test_what_the_handler_says_meanwhile_waits_for_the_task(first):
    def say(visit):
        for number in range(5):
            visit.session.send(number)

    async def main():
        later = await alongside.aonly("app")
        return [await later.session.areceive() for _ in range(5)]

    first.on_other(say)
    assert asyncio.run(main()) == list(range(5))


@pytest.mark.parametrize("is_async", [False, True])
def test_an_async_handler_that_raises_is_told_of(first, puppet, is_async):
    other = puppet()
    ask = "asyncio.run(alongside.aonly('app'))" if is_async else "alongside.only('app')"

    async def fail(visit):
        await asyncio.sleep(0)
        msg = "not today"
        raise ValueError(msg)

    async def main():
        first.on_other(fail, on=loops.Asyncio())
        with pytest.raises(alongside.RemoteError, match="not today") as caught:
            await asyncio.to_thread(other.run, f"import asyncio; {ask}")
        assert caught.value.kind == "ValueError"

    asyncio.run(main())


def test_who_has_given_up_is_not_handled_later(first, puppet):
    with pytest.raises(alongside.TimedOut, match="has not taken"):
        puppet().run("alongside.only('app', argv=['late'], timeout=0.05)")
    other = puppet()
    other.say("alongside.only('app', argv=['in time'], timeout=60).first")
    wait_until(lambda: any(session.alive for session in first._waiting))
    visits = []
    first.on_other(lambda visit: visits.append(visit.argv))
    assert not other.hear()
    assert visits == [["in time"]]


def test_who_comes_while_the_first_closes_asks_on(first, puppet):
    came = []
    with alongside.publish("elsewhere", on_connect=came.append):
        on_the_way = alongside.connect("elsewhere")
        wait_until(lambda: came)
        door = first._door
        first.close()
        first._welcome(door, came[0])
        with pytest.raises(alongside.Closed):
            on_the_way.receive(timeout=60)


def test_a_closed_instance_says_so(first):
    first.close()
    assert "closed" in repr(first)
    with pytest.raises(RuntimeError, match="is closed"):
        first.on_other(print)


def test_a_working_directory_that_is_gone_is_no_matter(first, puppet, tmp_path):
    visits = []
    first.on_other(visits.append)
    there = tmp_path / "gone"
    there.mkdir()
    other = puppet(cwd=there)
    there.rmdir()
    assert not other("alongside.only('app').first")
    assert visits[0].cwd == f"{there} (deleted)"


@pytest.mark.parametrize(("timeout", "error"), [(-1, ValueError), (float("nan"), ValueError)])
def test_a_deadline_that_is_none_is_refused(timeout, error):
    with pytest.raises(error, match="timeout is"):
        only("app", timeout=timeout)
    with pytest.raises(error, match="timeout is"):
        alongside.start_or_connect("app", ["true"], timeout=timeout)
    with alongside.shared_port("app", listen=False, scope="user") as port:
        with pytest.raises(error, match="timeout is"):
            port.wait(timeout=timeout)
        with pytest.raises(TypeError, match="timeout is '1'"):
            port.wait(timeout="1")


def run_in_trio(main):
    async def with_nursery():
        async with trio.open_nursery() as nursery:
            await main(loops.Trio(nursery))
            nursery.cancel_scope.cancel()

    trio.run(with_nursery)


def run_in_asyncio(main):
    async def with_loop():
        await main(loops.Asyncio())

    asyncio.run(with_loop())


@pytest.mark.parametrize(
    ("run", "sleep"), [(run_in_asyncio, asyncio.sleep), (run_in_trio, trio.sleep)]
)
@pytest.mark.parametrize("is_async", [False, True])
def test_the_handler_runs_on_its_loop_also_for_who_came_before(first, puppet, run, sleep, is_async):
    early, late, after = puppet(), puppet(), puppet()
    early.say("alongside.only('app', argv=['early'], timeout=60).first")
    wait_until(lambda: first._waiting)
    seen = []

    def came(visit):
        seen.append((visit.argv, threading.get_ident()))

    async def acame(visit):
        await sleep(0)
        came(visit)

    async def main(loop):
        first.on_other(acame if is_async else came, on=loop)
        late.say("alongside.only('app', argv=['late'], timeout=60).first")
        while len(seen) < 2:
            await sleep(0)

    run(main)
    assert (early.hear(), late.hear()) == (False, False)
    here = threading.get_ident()
    assert sorted(seen) == [(["early"], here), (["late"], here)]
    # The loop has ended: who comes then waits until there is a handler again.
    after.say("alongside.only('app', argv=['after'], timeout=60).first")
    wait_until(lambda: first._waiting)
    first.on_other(came)
    assert not after.hear()
    assert seen[2][0] == ["after"]
    assert seen[2][1] != here


def test_a_handler_may_move_to_another_loop(first, puppet):
    one, two = loops.Manual(), loops.Manual()
    seen = []
    first.on_other(lambda visit: seen.append("one"), on=one)
    first.on_other(lambda visit: seen.append("two"), on=two)
    later = puppet()
    later.say("alongside.only('app', timeout=60).first")
    while not seen:
        one.dispatch()
        two.dispatch()
    assert not later.hear()
    assert seen == ["two"]
    first.on_other(None)
    later.say("alongside.only('app', timeout=0.1)", "exec")
    with pytest.raises(alongside.TimedOut):
        later.hear()


def test_who_waits_and_gives_up_leaves_nothing_with_the_first(first, puppet):
    other = puppet()
    for _ in range(3):
        with pytest.raises(alongside.TimedOut):
            other.run("alongside.only('app', timeout=0.02)")
    other.say("alongside.only('app', timeout=60).first")
    wait_until(lambda: [session.alive for session in first._waiting] == [True])
    first.on_other(print)
    assert not other.hear()


def test_who_asks_twice_learns_that_it_is_the_first_itself(first):
    with pytest.raises(alongside.TimedOut, match="this very process, the first instance"):
        only("app", timeout=0)


def test_a_program_that_ends_in_order_leaves_nothing(scope):
    """Whether it has closed what it was the first of, or not."""
    program = """
import alongside
alongside.only("app")
alongside.shared_port("port", listen=True, scope="user")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    left = [path for path in scope.rglob("*") if path.is_file() and path.parent.name != "gates"]
    assert left == []
    with only("app") as instance:
        assert instance.first
