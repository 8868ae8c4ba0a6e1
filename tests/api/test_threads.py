"""Many threads, one session; and event loops that watch its descriptor."""

import asyncio
import select
import threading
from collections import Counter

import alongside
import pytest

SENDERS, RECEIVERS, EACH = 8, 2, 3000


def test_eight_senders_and_two_receivers_lose_and_mix_nothing(program):
    """Each sender's messages arrive whole and in its order; each message once."""
    session = program("for m in s: s.send(m)")
    got = [[] for _ in range(RECEIVERS)]
    gate = threading.Barrier(SENDERS + RECEIVERS)

    def send(number):
        gate.wait()
        for count in range(EACH):
            session.send([number, count, bytes([number]) * (count % 500)])

    def receive(mine):
        gate.wait()
        while True:
            message = session.receive()
            if message == "end":
                session.send("end")
                return
            mine.append(message)

    senders = [threading.Thread(target=send, args=(n,)) for n in range(SENDERS)]
    receivers = [threading.Thread(target=receive, args=(mine,)) for mine in got]
    for thread in senders + receivers:
        thread.start()
    for thread in senders:
        thread.join()
    session.send("end")
    for thread in receivers:
        thread.join()
    assert sum(map(len, got)) == SENDERS * EACH
    for mine in got:
        last = Counter()
        for number, count, payload in mine:
            assert payload == bytes([number]) * (count % 500)
            assert count >= last[number]
            last[number] = count
    seen = {(number, count) for mine in got for number, count, _ in mine}
    assert len(seen) == SENDERS * EACH


def test_large_and_small_messages_of_many_threads_stay_whole(program):
    session = program("for m in s: s.send([len(m), m[:1], m[-1:]])")

    def send(number):
        for count in range(20):
            session.send(bytes([number]) * (1 if count % 2 else 700_000))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    seen = Counter()
    for _ in range(80):
        length, first, last = session.receive()
        assert first == last
        seen[length, first[0]] += 1
    for thread in threads:
        thread.join()
    assert seen == {(n, k): 10 for n in (1, 700_000) for k in range(1, 5)}


def readable(fd):
    return bool(select.select([fd], [], [], 0)[0])


def test_the_descriptor_is_readable_exactly_while_there_is_something(program):
    session = program("for m in s: s.send(m)")
    fd = session.fileno()
    for burst in (1, 3, 500):
        assert not readable(fd)
        for i in range(burst):
            session.send(i)
        for i in range(burst):
            select.select([fd], [], [])
            assert session.receive_nowait() == i
        with pytest.raises(alongside.WouldBlock):
            session.receive_nowait()
    session.send(bytes(3_000_000))
    while True:
        select.select([fd], [], [])
        try:
            assert len(session.receive_nowait()) == 3_000_000
        except alongside.WouldBlock:
            continue
        break
    assert not readable(fd)


@pytest.mark.parametrize("end", ["s.close(); os.read(0, 1)", "os.kill(os.getpid(), 9)"])
def test_the_end_makes_the_descriptor_readable(program, end):
    session = program(f"s.receive()\n{end}", stdin=alongside.PIPE)
    fd = session.fileno()
    session.send("go")
    select.select([fd], [], [])
    with pytest.raises(alongside.SessionEnded):
        while True:
            select.select([fd], [], [])
            try:
                session.receive_nowait()
            except alongside.WouldBlock:
                continue
    assert readable(fd)
    session.stdin.close()


def test_a_loop_and_a_thread_on_one_session_strand_nothing_and_make_no_storm(program):
    """Half the messages are taken by a blocked thread, half by asyncio, in whatever mixture."""
    total = 20_000
    session = program(f"""
        for i in range({total}):
            s.send(i)
            if i % 100 == 0: s.ping(timeout=None)
        s.receive()
    """)
    taken, calls = [], 0

    async def main():
        nonlocal calls
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def arrived():
            nonlocal calls
            calls += 1
            try:
                taken.append(session.receive_nowait())
            except alongside.WouldBlock:
                return
            if len(taken) >= total:
                done.set()

        def receive():
            while len(taken) < total - 1:
                try:
                    taken.append(session.receive(timeout=0.05))
                except alongside.TimedOut:
                    continue
            loop.call_soon_threadsafe(done.set)

        loop.add_reader(session.fileno(), arrived)
        thread = asyncio.create_task(asyncio.to_thread(receive))
        await done.wait()
        await thread
        while len(taken) < total:
            await asyncio.sleep(0)
        loop.remove_reader(session.fileno())

    asyncio.run(main())
    assert sorted(taken) == list(range(total))
    assert calls < 4 * total


def test_an_idle_loop_is_not_called(program):
    session = program("s.receive(); s.send('one'); s.receive(); s.send('two'); s.receive()")
    calls = []

    async def main():
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def called():
            try:
                calls.append(session.receive_nowait())
            except alongside.WouldBlock:
                calls.append(None)
            arrived.set()

        loop.add_reader(session.fileno(), called)
        for expected in ("one", "two"):
            session.send("go")
            while expected not in calls:
                arrived.clear()
                await arrived.wait()
        # A thousand turns of the loop, with nothing to do.
        for _ in range(1000):
            await asyncio.sleep(0)
        loop.remove_reader(session.fileno())

    asyncio.run(main())
    assert [call for call in calls if call] == ["one", "two"]
    assert len(calls) <= 6


def test_threads_that_wait_for_one_session_are_all_served(program):
    session = program("s.receive()\nfor i in range(6): s.send(i)\ns.receive()")
    got = []
    threads = [threading.Thread(target=lambda: got.append(session.receive())) for _ in range(6)]
    for thread in threads:
        thread.start()
    session.send("go")
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(6))


def test_receive_into_while_others_receive(program):
    session = program(
        "for i in range(60): s.send(bytes([i]) * (900_000 if i % 2 else 10))\ns.receive()"
    )
    got = []

    def into():
        buffer = bytearray(1_000_000)
        for _ in range(30):
            size = session.receive_into(buffer)
            assert buffer[:size] == buffer[:1] * size
            got.append((buffer[0], size))

    def plain():
        for _ in range(30):
            message = session.receive()
            assert message == message[:1] * len(message)
            got.append((message[0], len(message)))

    threads = [threading.Thread(target=into), threading.Thread(target=plain)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [(i, 900_000 if i % 2 else 10) for i in range(60)]
