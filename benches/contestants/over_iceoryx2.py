"""iceoryx2: publish-subscribe, a service per direction, polled or with an event for each message.

A service of slices of bytes: loaning a slice takes 2.2 µs with the rest of a message, a service of
fixed arrays 2.8, `send_copy` 2.4. Payloads go in by `memmove`; up to 64 KiB they come out as bytes,
longer ones stay in the sample, which is the message then. Full buffers hold the sender up
(RetryUntilDelivered): the default would lose messages.

Polling asks `receive` in a loop; after a while without anything it lets others run, or two pollers
on one processor would keep each other out for whole time slices. With events the listener sleeps in
`blocking_wait`, as in the project's example `event`; every message has its own wake-up there, so
nothing may be sent ahead.
"""

import ctypes
import os
import uuid

import iceoryx2 as iox2
import numpy as np

from . import End, launch

_BYTES_UP_TO = 64 << 10
_POLLS_BEFORE_YIELD = 64


class _Side:
    """The services of both directions, and the ports of one side."""

    def __init__(self, size, out, back, *, with_events):
        iox2.set_log_level(iox2.LogLevel.Error)
        self.node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        depth = 256 if size <= _BYTES_UP_TO else 2
        self.services = [self._service(name, depth) for name in (out, back)]
        publisher = self.services[0].publisher_builder().initial_max_slice_len(size)
        wait = iox2.BackpressureStrategy.RetryUntilDelivered
        self.publisher = publisher.backpressure_strategy(wait).create()
        self.subscriber = self.services[1].subscriber_builder().create()
        if with_events:
            self.events = [self._event(name) for name in (out, back)]
            self.notifier = self.events[0].notifier_builder().create()
            self.listener = self.events[1].listener_builder().create()

    def _service(self, name, depth):
        builder = self.node.service_builder(iox2.ServiceName.new(name))
        builder = builder.publish_subscribe(iox2.Slice[ctypes.c_uint8])
        builder = builder.enable_safe_overflow(False).subscriber_max_buffer_size(depth)
        return builder.max_publishers(1).max_subscribers(1).open_or_create()

    def _event(self, name):
        return self.node.service_builder(iox2.ServiceName.new(name)).event().open_or_create()


def _sender(side, size):
    loan, copy = side.publisher.loan_slice_uninit, ctypes.memmove

    def send(data):
        sample = loan(size)
        copy(sample.payload_ptr, data if isinstance(data, bytes) else data.data_ptr, size)
        sample.assume_init().send()

    return send


def _poller(side, size):
    receive, copy_out, give_way = side.subscriber.receive, ctypes.string_at, os.sched_yield

    def poll():
        polls = 0
        while (sample := receive()) is None:
            polls += 1
            if polls > _POLLS_BEFORE_YIELD:
                give_way()
        return copy_out(sample.payload_ptr, size)

    def poll_large():
        while (sample := receive()) is None:
            give_way()
        return sample.payload()

    return poll if size <= _BYTES_UP_TO else poll_large


def _sleeper(side, size):
    receive, copy_out = side.subscriber.receive, ctypes.string_at
    wait = side.listener.blocking_wait

    def sleep():
        wait()
        while (sample := receive()) is None:
            wait()
        return copy_out(sample.payload_ptr, size)

    return sleep


def _numbers(payload):
    """The float64 numbers of a sample, where they lie."""
    pointer = ctypes.cast(payload.data_ptr, ctypes.POINTER(ctypes.c_double))
    return np.ctypeslib.as_array(pointer, (payload.number_of_elements // 8,))


class Iceoryx2:
    """Two services; every message is `size` bytes long."""

    longest = 64 << 20

    def __init__(self, name, *, with_events):
        self.name = name
        self._with_events = with_events

    def connect(self, command, size):
        """Services of a name that nobody else has."""
        token = f"benches/{uuid.uuid4().hex}"
        side = _Side(size, f"{token}/out", f"{token}/back", with_events=self._with_events)
        return self._end(side, size), launch([*command, token])

    def accept(self, size, words):
        """The same services, the other way round."""
        token = words[0]
        side = _Side(size, f"{token}/back", f"{token}/out", with_events=self._with_events)
        return self._end(side, size)

    def _end(self, side, size):
        put = _sender(side, size)
        if not self._with_events:
            return End(put, _poller(side, size), keep=[side], numbers=_numbers)
        notify = side.notifier.notify

        def send(data):
            put(data)
            notify()

        return End(send, _sleeper(side, size), keep=[side])


CONTESTANTS = [
    Iceoryx2("iceoryx2 polling", with_events=False),
    Iceoryx2("iceoryx2 events", with_events=True),
]
