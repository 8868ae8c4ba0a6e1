"""Sending one message to a name, waiting for its handler or not; what else publish can do."""

import asyncio
import gc
import os
import pickle
import signal
import threading

import alongside
import numpy as np
import pytest
import trio
from alongside import loops

from tests.conftest import wait_until

pytestmark = pytest.mark.usefixtures("scope")

# Says of each message what it is, on a second name; raises for the word "raise".
SINK = """
seen = []
def take(data, session):
    if data == "raise":
        raise KeyError("no such plan")
    if data == "hang":
        threading.Event().wait()
    seen.append(data)
def tell(_, session):
    session.send(seen)
alongside.publish("sink", take)
alongside.publish("sink/seen", tell)
"""


def seen():
    with alongside.connect("sink/seen") as session:
        session.send(None)
        return session.receive(timeout=30)


def in_asyncio(*args, **named):
    asyncio.run(alongside.asend_to(*args, **named))


def in_trio(*args, **named):
    trio.run(lambda: alongside.asend_to(*args, **named))


ways = pytest.mark.parametrize("send_to", [alongside.send_to, in_asyncio, in_trio])


@ways
def test_a_message_arrives_whether_its_handler_is_waited_for_or_not(owner, send_to):
    owner(SINK)
    send_to("sink", {"line": 1}, wait=True)
    assert seen() == [{"line": 1}]
    send_to("sink", "x" * 3_000_000)
    wait_until(lambda: len(seen()) == 2)
    send_to(alongside.find("sink"), b"bytes", wait=True)
    assert seen()[2] == b"bytes"


@ways
def test_what_a_handler_raises_is_raised_here_if_it_is_waited_for(owner, send_to):
    owner(SINK)
    with pytest.raises(alongside.RemoteError, match=r"of .sink. raised KeyError: 'no such") as told:
        send_to("sink", "raise", wait=True)
    assert told.value.kind == "KeyError"
    assert "in take" in told.value.traceback
    assert "in take" in told.value.__notes__[0]
    copy = pickle.loads(pickle.dumps(told.value))
    assert (str(copy), copy.kind, copy.__notes__) == (
        str(told.value),
        "KeyError",
        told.value.__notes__,
    )
    send_to("sink", "raise")
    send_to("sink", "it goes on", wait=True)
    assert seen() == ["it goes on"]


@ways
def test_a_handler_that_does_not_end_is_waited_for_until_the_deadline(owner, send_to):
    owner(SINK)
    with pytest.raises(alongside.TimedOut, match="has arrived, but its handler has not ended"):
        send_to("sink", "hang", wait=True, timeout=0.2)


@ways
def test_a_program_that_ends_amid_its_handler_is_gone(owner, send_to):
    process = owner(
        """
        def take(data, session):
            os.kill(os.getpid(), 9)
        alongside.publish("sink", take)
        """
    )
    with pytest.raises(alongside.PeerGone) as told:
        send_to("sink", 1, wait=True)
    assert "whether its handler has ended is not known" in told.value.__notes__[0]
    assert process.wait() == -signal.SIGKILL


@ways
def test_what_cannot_be_sent_is_refused(owner, send_to):
    owner(SINK)
    with pytest.raises(alongside.NotFound, match='there is "sink"'):
        send_to("sank", 1)
    with pytest.raises(TypeError, match=r"data\[0\]"):
        send_to("sink", [object()])
    with pytest.raises(ValueError, match="no user"):
        send_to("a@b@c", 1)
    assert seen() == []


@ways
def test_a_name_without_a_handler_cannot_be_waited_for(owner, send_to):
    owner("alongside.publish('deaf', on_connect=lambda session: None)")
    with pytest.raises(ValueError, match="has no on_message"):
        send_to("deaf", 1, wait=True)
    send_to("deaf", 1)


@ways
def test_a_program_that_does_not_answer_is_waited_for_until_the_deadline(owner, send_to):
    process = owner(SINK)
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    with pytest.raises(alongside.TimedOut, match='"sink" has not answered'):
        send_to("sink", 1, timeout=0.1)


def test_arrays_are_sent_to_names_and_outlive_the_sending(owner):
    owner(
        """
        import numpy
        sums = []
        alongside.publish("adder", lambda data, session: sums.append(float(data.sum())))
        alongside.publish("adder/sums", lambda _, session: session.send(sums))
        """
    )
    for _ in range(3):
        alongside.send_to("adder", np.ones((1000, 1000)))
    alongside.send_to("adder", np.zeros(5), wait=True)
    with alongside.connect("adder/sums") as session:
        session.send(None)
        wait_until(lambda: session.send(None) or len(session.receive(timeout=30)) == 4)


def test_a_handler_that_answers_one_who_did_not_wait_is_no_error(owner, caplog):
    with alongside.publish("echo", lambda data, session: session.send(data)) as mine:
        for number in range(5):
            alongside.send_to("echo", number)
        alongside.send_to("echo", "last", wait=True)
        wait_until(lambda: not mine.sessions)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_report_that_nobody_asked_for_ends_the_session(owner):
    owner(
        """
        def connected(session):
            session._send_report(None)
        alongside.publish("liar", on_connect=connected)
        """
    )
    with alongside.connect("liar") as session, pytest.raises(alongside.Corrupt, match="nobody ask"):
        session.receive(timeout=30)


def test_who_asks_for_reports_and_takes_none_is_left(owner):
    """Its ring is full of answers, and nobody waits until it reads them."""
    with alongside.publish("flood", lambda n, session: [session.send_nowait(b"x" * 1000)]) as mine:
        call = alongside._core.Call("flood", "user", None, None, 1 << 20, True)
        session = alongside.Session(call.wait(30), None)
        try:
            while mine.sessions:
                session.send(1, timeout=30)
        except alongside.SessionEnded:
            pass
        wait_until(lambda: not mine.sessions)
        alongside.send_to("flood", 1, wait=True)
        session.close(timeout=0)


# ---- async callbacks -----------------------------------------------------------------------------


async def _serves(on, sleep):
    steps = []

    async def connected(session):
        steps.append("connecting")
        await sleep(0)
        session.greeted = True
        steps.append("connected")

    async def take(data, session):
        steps.append(("begin", data))
        await sleep(0)
        if data == "raise":
            raise LookupError(data)
        await session.asend(data)
        steps.append(("end", data))

    with alongside.publish("a", take, on_connect=connected, on=on):
        session = await alongside.aconnect("a")
        await session.asend(1)
        assert await session.areceive(timeout=30) == 1
        assert steps == ["connecting", "connected", ("begin", 1), ("end", 1)]
        await alongside.asend_to("a", 2, wait=True)
        assert steps[-1] == ("end", 2)
        with pytest.raises(alongside.RemoteError, match="LookupError: raise"):
            await alongside.asend_to("a", "raise", wait=True)
        await session.aclose()


async def _turns_away(on, sleep):
    async def connected(session):
        await sleep(0)
        raise ValueError("not you")

    with alongside.publish("a", on_connect=connected, on=on) as mine:
        session = await alongside.aconnect("a")
        with pytest.raises(alongside.Closed):
            await session.areceive(timeout=30)
        assert mine.sessions == []
        session.close()


@pytest.mark.parametrize("main", [_serves, _turns_away])
def test_async_callbacks_are_awaited_in_asyncio(run, main):
    async def with_loop():
        await main(loops.Asyncio(), asyncio.sleep)

    run(with_loop())


@pytest.mark.parametrize("main", [_serves, _turns_away])
def test_async_callbacks_are_awaited_in_trio(main):
    async def with_nursery():
        async with trio.open_nursery() as nursery:
            await main(loops.Trio(nursery), trio.sleep)

    trio.run(with_nursery)


def test_an_async_callback_needs_a_loop_that_awaits():
    async def take(data, session):
        pass

    with pytest.raises(TypeError, match=r"async function.*\n.*loops\.Asyncio"):
        alongside.publish("a", take)
    with pytest.raises(TypeError, match="async function"):
        alongside.publish("a", on_connect=take)
    assert alongside.running() == []


def test_a_nursery_that_ends_takes_its_name_with_it():
    async def main():
        async with trio.open_nursery() as nursery:
            alongside.publish("a", lambda data, session: None, on=loops.Trio(nursery))
            await alongside.asend_to("a", 1, wait=True)
            nursery.cancel_scope.cancel()
        assert alongside.running() == []

    trio.run(main)


def leave(*_):
    raise SystemExit(3)


def test_a_callback_that_would_end_the_program_ends_nothing_else(owner):
    """The library's thread serves all the others."""
    process = owner(
        """
        def leave(*_):
            sys.exit(3)
        alongside.publish("greeter", on_connect=leave)
        alongside.publish("taker", leave)
        watch = alongside.watch()
        watch.on_change(leave)
        alongside.publish("other", lambda data, session: session.send(data))
        """
    )
    with alongside.connect("greeter") as session, pytest.raises(alongside.Closed):
        session.receive(timeout=30)
    with pytest.raises(alongside.RemoteError, match="SystemExit: 3"):
        alongside.send_to("taker", 1, wait=True)
    with alongside.connect("other") as session:
        session.send(1)
        assert session.receive(timeout=30) == 1
    assert process.poll() is None


def test_a_handler_whose_task_is_cancelled_is_reported():
    async def take(data, session):
        raise asyncio.CancelledError

    async def main():
        with (
            alongside.publish("a", take, on=loops.Asyncio()),
            pytest.raises(alongside.RemoteError, match="CancelledError"),
        ):
            await alongside.asend_to("a", 1, wait=True)

    asyncio.run(main())


def test_what_ends_a_nursery_takes_its_names_with_it():
    async def main():
        async with trio.open_nursery() as nursery:
            alongside.publish("a", on_connect=leave, on=loops.Trio(nursery))
            with pytest.raises(alongside.SessionEnded):
                await (await alongside.aconnect("a")).areceive()

    with pytest.raises(BaseExceptionGroup):
        trio.run(main)
    assert alongside.find("a") is None


def test_a_name_that_nobody_could_answer_is_not_published(owner):
    owner(
        """
        def start(self):
            raise RuntimeError("can't start new thread")
        kept, threading.Thread.start = threading.Thread.start, start
        try:
            alongside.publish("a", print)
        except RuntimeError:
            threading.Thread.start = kept
            alongside.publish("b", lambda data, session: session.send(data))
        """
    )
    assert [entry.name for entry in alongside.running()] == ["b"]
    with alongside.connect("b") as session:
        session.send(1)
        assert session.receive(timeout=30) == 1


def test_threads_that_publish_first_share_the_library_s_thread(owner):
    owner(
        """
        gate = threading.Barrier(8)
        def publish(number):
            gate.wait()
            alongside.publish(f"t/{number}", lambda data, session: None)
        threads = [threading.Thread(target=publish, args=[n]) for n in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert [t.name for t in threading.enumerate()].count("alongside") == 1
        """
    )
    assert len(alongside.running("t/*")) == 8


def test_a_forked_child_leaves_its_parent_s_name_alone(owner):
    owner(
        """
        with alongside.publish("a", print) as r:
            pid = os.fork()
            if not pid:
                assert r._entry() is None
                sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            assert alongside.find("a").peer.pid == os.getpid()
            r.update(about="still mine")
        """
    )
    assert alongside.find("a") is None


def test_every_change_is_later_than_the_one_before():
    with alongside.publish("a") as mine:
        times = [mine.entry.changed]
        for number in range(100):
            mine.update(about=str(number))
            times.append(mine.entry.changed)
    assert times == sorted(set(times))


@pytest.mark.parametrize("is_awaited", [False, True])
def test_a_loop_that_ends_takes_its_names_and_watches_with_it(run, is_awaited):
    async def take_async(data, session):
        pass

    take = take_async if is_awaited else lambda data, session: None
    kept = []

    async def main():
        kept.append(alongside.publish("a", take, on=loops.Asyncio()))
        kept.append(alongside.watch())
        kept[1].on_change(print, on=loops.Asyncio())
        with alongside.publish("b", take, on=loops.Asyncio()):
            await alongside.asend_to("a", 1, wait=True)

    run(main())
    assert alongside.running() == []
    kept[0].revoke()
    # The watch goes on, for whoever asks.
    assert kept[1].next(timeout=30).kind in {"appeared", "vanished"}
    kept[1].close()


def test_a_loop_may_be_given_names_from_another_thread(run):
    async def main():
        loop = loops.Asyncio()

        def publish():
            return alongside.publish("a", lambda data, session: None, on=loop)

        registration = await asyncio.to_thread(publish)
        await alongside.asend_to("a", 1, wait=True)
        await asyncio.to_thread(registration.revoke)
        with alongside.publish("b", lambda data, session: None, on=loop):
            await alongside.asend_to("b", 1, wait=True)

    run(main())
    assert alongside.running() == []


# ---- names and targets ---------------------------------------------------------------------------


def test_a_unique_name_is_one_that_no_program_has():
    first, second = alongside.publish("v", unique=True), alongside.publish("v", unique=True)
    with first, second, alongside.publish("v"):
        assert first.name == f"v/{os.getpid()}" or first.name.startswith(f"v/{os.getpid()}-")
        assert len({first.name, second.name, "v"}) == 3
        assert {entry.name for entry in alongside.running("v/*")} == {first.name, second.name}
        taken = int(second.name.rpartition("-")[2]) + 1
    with (
        alongside.publish(f"v/{os.getpid()}-{taken}"),
        alongside.publish("v", unique=True) as third,
    ):
        assert third.name == f"v/{os.getpid()}-{taken + 1}"


class Viewer:
    def __init__(self):
        self.shown = []

    def show(self, data, session):
        self.shown.append(data)


def test_a_target_is_kept_unless_it_is_weak():
    viewer = Viewer()
    shown = viewer.shown
    strong = alongside.publish("v", viewer.show)
    weak = alongside.publish("w", viewer.show, weak=True)
    alongside.send_to("w", 1, wait=True)
    del viewer
    gc.collect()
    with strong:
        alongside.send_to("v", 2, wait=True)
        assert shown == [1, 2]
        assert alongside.find("w") is not None, "the other registration keeps it"
    # Revoked it does so no longer, whoever still has it.
    wait_until(lambda: alongside.find("w") is None)
    weak.revoke()


@pytest.mark.parametrize(
    ("args", "named", "text"),
    [
        ((Viewer,), {}, "is a class"),
        ((Viewer(),), {}, "is a Viewer.*\n.*on_message="),
        ((Viewer().show,), {"on_message": print}, "both are given"),
        ((), {"weak": True}, "none is given"),
        ((), {"on_message": 7}, "cannot be called"),
        ((), {"on_message": print, "on": 7}, "is no loop"),
        ((), {"about": 7}, "about is a str"),
    ],
)
def test_a_target_that_is_none_is_refused(args, named, text):
    with pytest.raises(TypeError, match=f"(?s){text}"):
        alongside.publish("a", *args, **named)
    assert alongside.running() == []


def test_threads_that_publish_unique_names_never_get_the_same():
    got = []

    def publish():
        got.extend(alongside.publish("t", unique=True) for _ in range(20))

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.name for each in got}) == 80
    for each in got:
        each.revoke()


def test_the_log_and_the_caller_are_told_of_the_program_s_own_function(caplog):
    def take(data, session):
        raise ValueError(data)

    with alongside.publish("a", take) as mine:
        with pytest.raises(alongside.RemoteError) as told:
            alongside.send_to(mine, "words", wait=True)
        assert "_publish.py" not in told.value.traceback
        wait_until(lambda: caplog.records)
    assert "take at 0x" in caplog.text
    assert "_Handler" not in caplog.text


@pytest.mark.parametrize(
    "call",
    [
        lambda: alongside.running(None),
        lambda: alongside.find(b"a"),
        lambda: alongside.publish(5),
        lambda: alongside.connect(None),
        lambda: alongside.send_to(5, 1),
        lambda: alongside.watch(5),
    ],
)
def test_what_is_no_name_is_refused_in_words(call):
    with pytest.raises(TypeError, match="a name is a str, not"):
        call()
