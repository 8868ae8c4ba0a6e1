"""Many sessions on one asyncio loop: quiet ones cost nothing, and all are heard."""

import asyncio
import os
import resource
import sys
import time
from pathlib import Path

import alongside
from alongside import loops

COUNT = int(os.environ.get("ALONGSIDE_CYCLES", "300")) // 10
# The same source for all: each sends its number when told to, and sleeps otherwise.
SOURCE = """
import alongside
s = alongside.session(required=True)
s.receive()
s.send(s.hello)
s.receive()
"""


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def own_kb():
    """Resident memory but for the rings."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0])


def test_a_thousand_sessions_on_one_loop_cost_nothing_while_they_are_quiet():
    """A thousand in the campaign, a share of them otherwise."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{SOURCE}"]

    async def main():
        got = []
        place = loops.Asyncio()
        warm = await alongside.astart(command, hello=-1)
        warm.on_message(got.append, on=place)
        before = descriptors(), own_kb()
        sessions = []
        for number in range(COUNT):
            session = await alongside.astart(command, hello=number, stderr=alongside.DEVNULL)
            session.on_message(got.append, on=place)
            sessions.append(session)
        each_fds = (descriptors() - before[0]) / COUNT
        each_kb = (own_kb() - before[1]) / COUNT
        await asyncio.sleep(0)
        used, woken = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        await asyncio.sleep(1)
        used = time.process_time() - used
        woken = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - woken
        for session in (warm, *sessions):
            await session.asend("go")
        while len(got) < COUNT + 1:
            await asyncio.sleep(0)
        assert sorted(got) == [-1, *range(COUNT)]
        for session in (warm, *sessions):
            session.close(timeout=0)
            await session.await_exit()
        print(
            f"{COUNT} sessions: {each_fds:.1f} descriptors and {each_kb:.0f} KiB each, "
            f"{used * 1000:.1f} ms of CPU and {woken} wake-ups in 1 s"
        )
        # One more than a session has alone: the beacon that makes its set readable for loops.
        # (What the loop itself opened meanwhile is not counted to any.)
        assert int(each_fds) <= 8
        assert each_kb <= 64
        # Nothing polls: what little there is, is this test's own timer.
        assert woken < 10

    try:
        asyncio.run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
