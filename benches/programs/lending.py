"""Hands memory over that was filled in place, of one size after the other; prints microseconds.

Run as `python -I lending.py WHO CPU CPU COUNT SIZE...`, WHO being alongside or iceoryx2. The
clock runs from before `send` until the receiver has looked at the first bytes, on the clock that
all processes share; before each the sender lets the receiver settle in its wait. The filling
itself is not timed, and the first bytes only are filled: what a message holds is no matter of
handing it over.
"""

import json
import os
import struct
import subprocess
import sys
import time
import uuid

_STAMP = struct.Struct("<Q")
_WARM_UP = 5


def _pin(cpu):
    if cpu >= 0:
        os.sched_setaffinity(0, {cpu})


def _pause():
    """Long enough for the other side to be in its wait, short enough that it does not sleep."""
    begin = time.perf_counter_ns()
    while time.perf_counter_ns() - begin < 15_000:
        pass


def _median(times):
    times = sorted(times[_WARM_UP:])
    return times[len(times) // 2] / 1e3


# ---- alongside -----------------------------------------------------------------------------------


def lend_alongside(cpu, count, sizes):
    """Give the medians of the sizes."""
    import alongside

    words = [str(cpu), str(count), *map(str, sizes)]
    command = [sys.executable, "-I", __file__, "receive-alongside", *words]
    found = []
    with alongside.start(command) as session:
        for size in sizes:
            for _ in range(count):
                with session.lend(size) as memory:
                    stamp = memory[:8]
                    _pause()
                    _STAMP.pack_into(stamp, 0, time.perf_counter_ns())
                    session.send(memory)
                    del stamp, memory
                # Each is taken before the next: a queue is no hand-over.
                session.receive()
            found.append(_median(session.receive()))
    return found


def receive_alongside(cpu, count, sizes):
    """Note when each has come."""
    import alongside

    _pin(cpu)
    session = alongside.session(required=True)
    clock = time.perf_counter_ns
    for _ in sizes:
        times = []
        for _ in range(count):
            memory = session.receive()
            (sent,) = _STAMP.unpack_from(memory, 0)
            times.append(clock() - sent)
            del memory
            session.send(b"")
        session.send(times)
    session.wait()


# ---- iceoryx2 ------------------------------------------------------------------------------------


def _service(name):
    import ctypes

    import iceoryx2 as iox2

    iox2.set_log_level(iox2.LogLevel.Error)
    node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
    builder = node.service_builder(iox2.ServiceName.new(name))
    builder = builder.publish_subscribe(iox2.Slice[ctypes.c_uint8]).enable_safe_overflow(False)
    return node, builder.subscriber_max_buffer_size(2).open_or_create()


def lend_iceoryx2(cpu, count, sizes):
    """Give the medians of the sizes; a service for each."""
    import ctypes

    import iceoryx2 as iox2

    found = []
    for size in sizes:
        name = f"benches/{uuid.uuid4().hex}"
        keep = _service(name)
        publisher = (
            keep[1]
            .publisher_builder()
            .initial_max_slice_len(size)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        words = [str(cpu), str(count), name]
        command = [sys.executable, "-I", __file__, "receive-iceoryx2", *words]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        server.stdout.readline()
        for _ in range(count):
            sample = publisher.loan_slice_uninit(size)
            _pause()
            pointer = ctypes.cast(sample.payload_ptr, ctypes.POINTER(ctypes.c_uint64))
            pointer[0] = time.perf_counter_ns()
            sample.assume_init().send()
        found.append(_median(json.loads(server.stdout.readline())))
        server.communicate()
    return found


def receive_iceoryx2(cpu, count, name):
    """Ask again and again, and note when each has come."""
    import ctypes

    _pin(cpu)
    keep = _service(name)
    subscriber = keep[1].subscriber_builder().create()
    print("ready", flush=True)
    receive, clock = subscriber.receive, time.perf_counter_ns
    times = []
    for _ in range(count):
        while (sample := receive()) is None:
            pass
        pointer = ctypes.cast(sample.payload_ptr, ctypes.POINTER(ctypes.c_uint64))
        times.append(clock() - pointer[0])
        del sample
    print(json.dumps(times), flush=True)


def main():
    """Take one of the parts."""
    part, words = sys.argv[1], sys.argv[2:]
    if part == "receive-alongside":
        cpu, count, *sizes = map(int, words)
        receive_alongside(cpu, count, sizes)
    elif part == "receive-iceoryx2":
        receive_iceoryx2(int(words[0]), int(words[1]), words[2])
    else:
        first, second, count, *sizes = map(int, words)
        _pin(first)
        lend = {"alongside": lend_alongside, "iceoryx2": lend_iceoryx2}[part]
        medians = lend(second, count, sizes)
        print(json.dumps(dict(zip(map(str, sizes), medians, strict=True))))


if __name__ == "__main__":
    main()
