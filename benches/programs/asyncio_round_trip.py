"""Round trips between two asyncio loops; prints microseconds.

Run as `python -I asyncio_round_trip.py WHO SECONDS CPU CPU`, WHO being alongside (`asend`,
`areceive`) or eventfd: two eventfds, each watched with `add_reader`, whose callback reads it and
lets a task go on by a future. That is the least by which one task can wake another in another
process.
"""

import asyncio
import json
import os
import subprocess
import sys
import time

_MESSAGE = b"x" * 64


def _pin(cpu):
    if cpu >= 0:
        os.sched_setaffinity(0, {cpu})


async def _measured(exchange, seconds):
    for _ in range(200):
        await exchange()
    times = []
    clock, end = time.perf_counter_ns, time.perf_counter() + seconds
    last = clock()
    while time.perf_counter() < end:
        for _ in range(20):
            await exchange()
            now = clock()
            times.append(now - last)
            last = now
        last = clock()
    times.sort()
    return {"p50_us": times[len(times) // 2] / 1e3, "count": len(times)}


# ---- alongside -----------------------------------------------------------------------------------


async def ask_alongside(seconds, cpu):
    """Measure with a session."""
    import alongside

    command = [sys.executable, "-I", __file__, "answer-alongside", str(cpu)]
    async with await alongside.astart(command) as session:

        async def exchange():
            await session.asend(_MESSAGE)
            await session.areceive()

        return await _measured(exchange, seconds)


async def answer_alongside():
    """Send back what comes."""
    import alongside

    session = alongside.session(required=True)
    try:
        while True:
            await session.asend(await session.areceive())
    except alongside.Closed:
        pass


# ---- eventfd -------------------------------------------------------------------------------------


class _End:
    def __init__(self, ear, bell):
        self._ear, self._bell = ear, bell
        self._loop = asyncio.get_running_loop()
        self._future = None
        self._is_rung = False
        self._loop.add_reader(ear, self._rung)

    def _rung(self):
        os.eventfd_read(self._ear)
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
        else:
            self._is_rung = True

    async def hear(self):
        if not self._is_rung:
            self._future = self._loop.create_future()
            await self._future
            self._future = None
        self._is_rung = False

    def ring(self):
        os.eventfd_write(self._bell, 1)


async def ask_eventfd(seconds, cpu):
    """Measure with two eventfds."""
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    command = [sys.executable, "-I", __file__, "answer-eventfd", str(cpu), *map(str, fds)]
    process = subprocess.Popen(command, pass_fds=fds)
    end = _End(fds[1], fds[0])

    async def exchange():
        end.ring()
        await end.hear()

    try:
        return await _measured(exchange, seconds)
    finally:
        process.kill()
        process.wait()


async def answer_eventfd():
    """Ring back."""
    end = _End(int(sys.argv[3]), int(sys.argv[4]))
    while True:
        await end.hear()
        end.ring()


def main():
    """Take one of the parts."""
    part = sys.argv[1]
    if part.startswith("answer"):
        _pin(int(sys.argv[2]))
        answer = {"answer-alongside": answer_alongside, "answer-eventfd": answer_eventfd}
        asyncio.run(answer[part]())
        return
    _pin(int(sys.argv[3]))
    ask = {"alongside": ask_alongside, "eventfd": ask_eventfd}[part]
    print(json.dumps(asyncio.run(ask(float(sys.argv[2]), int(sys.argv[4])))))


if __name__ == "__main__":
    main()
