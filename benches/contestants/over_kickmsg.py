"""kickmsg: a publish-subscribe region per direction, asleep in `receive` or polled.

`send` and `receive` of bytes: reserving a slot and filling it through a memoryview costs more than
it saves at 64 bytes. A full ring overwrites its oldest messages, that is the library's nature: what
was lost is counted and not credited. The ring is as deep as pays in one-way traffic.

`receive` sleeps on a futex. The polling variant asks `try_receive` and, after a while without
anything, lets others run. Above 64 KiB both use its zero-copy calls: the message is filled into a
slot, and received as a view of that.
"""

import os
import uuid
from functools import partial

import kickmsg

from . import End, launch

_POLLS_BEFORE_YIELD = 64
_DEEP_UP_TO = 4 << 10
_BYTES_UP_TO = 64 << 10
_PATIENCE_S = 10.0
_QUIET_S = 0.002
_QUIET_AT_MOST = 50


def _config(size):
    config = kickmsg.Config()
    config.max_subscribers = 1
    config.sub_ring_capacity = 8192 if size <= _DEEP_UP_TO else 4
    config.pool_size = 2 * config.sub_ring_capacity
    config.max_payload_size = size
    return config


def _poller(receive):
    give_way = os.sched_yield

    def poll():
        polls = 0
        while (data := receive()) is None:
            polls += 1
            if polls > _POLLS_BEFORE_YIELD:
                give_way()
        return data

    return poll


def _filler(publisher):
    def send(data):
        while (slot := publisher.allocate()) is None:
            os.sched_yield()
        memoryview(slot)[:] = memoryview(data)
        slot.publish(len(data))

    return send


def _drainer(subscriber):
    receive = partial(subscriber.receive, _QUIET_S)

    def drain(count):
        got, quiet, lost_before = 0, 0, subscriber.lost
        while quiet < _QUIET_AT_MOST:
            left = count - got - (subscriber.lost - lost_before)
            if left <= 0:
                break
            for taken in range(left):
                if receive() is None:
                    quiet = quiet + 1 if taken == 0 else 0
                    got += taken
                    break
            else:
                got += left
        return got

    return drain


class Kickmsg:
    """Two regions of shared memory, made by the client."""

    longest = 64 << 20

    def __init__(self, name, *, polls):
        self.name = name
        self._polls = polls

    def connect(self, command, size):
        """Regions of a name that nobody else has, unlinked at the end."""
        token = f"/benches_{uuid.uuid4().hex[:16]}"
        out, back = (
            kickmsg.SharedRegion.create(
                token + way, kickmsg.ChannelType.PubSub, _config(size), "benches"
            )
            for way in ("_out", "_back")
        )
        end = self._end(out, back, size)

        def close():
            out.unlink()
            back.unlink()

        end.close = close
        return end, launch([*command, token])

    def accept(self, size, words):
        """The same regions, the other way round."""
        return self._end(
            kickmsg.SharedRegion.open(words[0] + "_back"),
            kickmsg.SharedRegion.open(words[0] + "_out"),
            size,
        )

    def _end(self, out, back, size):
        publisher, subscriber = kickmsg.Publisher(out), kickmsg.Subscriber(back)
        keep = [out, back, publisher, subscriber]
        if size > _BYTES_UP_TO:
            send = _filler(publisher)
            ask, wait = subscriber.try_receive_view, subscriber.receive_view
        else:
            send = publisher.send
            ask, wait = subscriber.try_receive, subscriber.receive
        receive = _poller(ask) if self._polls else partial(wait, _PATIENCE_S)
        return End(send, receive, drain=_drainer(subscriber), keep=keep)


CONTESTANTS = [Kickmsg("kickmsg", polls=False), Kickmsg("kickmsg polling", polls=True)]
