"""The hostile side: a program that maps its session's memory like any other and scribbles.

Started with a place and a value; see `PLACES`. It first behaves, so that the other side is amid its
work, then writes, then rings the other side's bells by sending as usual.
"""

import array
import ctypes
import os
import random
import sys

import alongside

HEADER, RING = 4096, 256 << 10
LANES = {"to us": 384, "from us": 896}
# The fields of a lane; spec/memory-v1.md.
FIELDS = {
    "head": (0, 8),
    "sent": (8, 8),
    "finished": (16, 4),
    "tail": (128, 8),
    "delivered": (136, 8),
    "blocks returned": (144, 8),
    "data flag": (256, 4),
    "space flag": (384, 4),
}
PLACES = {
    **{
        f"{lane} {field}": (at + o, n)
        for lane, at in LANES.items()
        for field, (o, n) in FIELDS.items()
    },
    "presence": (256, 4),
    "magic": (0, 8),
    "state": (8, 4),
    "version": (12, 4),
    "fingerprint": (16, 8),
    "total": (24, 8),
    "ring sizes": (32, 16),
    "max message": (48, 8),
}


class Memory:
    """The session's memory, written from outside the library."""

    def __init__(self):
        with open("/proc/self/maps") as maps:
            (line,) = [line for line in maps if "alongside-session" in line]
        self.base = int(line.split("-")[0], 16)

    def write(self, at, raw):
        ctypes.memmove(self.base + at, raw, len(raw))

    def read(self, at, size):
        return ctypes.string_at(self.base + at, size)

    def word(self, at):
        return int.from_bytes(self.read(at, 8), sys.byteorder)


def main():
    session = alongside.session(required=True)
    kind, argument = session.hello
    memory = Memory()
    if kind == "lease":
        session.send(array.array("d", range(100)))
    session.send("ready")
    assert session.receive() == "go"
    head = memory.word(LANES["from us"])
    record = HEADER + RING + head % RING
    if kind == "field":
        place, value = argument
        at, size = PLACES[place]
        memory.write(at, (value % (1 << 8 * size)).to_bytes(size, sys.byteorder))
    elif kind in {"record", "lease"}:
        # A record of the given words, published by hand.
        words, length = argument
        memory.write(record, b"".join(word.to_bytes(8, sys.byteorder) for word in words))
        memory.write(LANES["from us"], (head + length).to_bytes(8, sys.byteorder))
    elif kind == "noise":
        noise = random.Random(argument)
        for _ in range(noise.randrange(1, 30)):
            at = noise.choice([noise.randrange(1536), noise.randrange(HEADER + 2 * RING - 64)])
            memory.write(at, noise.randbytes(noise.choice([1, 2, 4, 8, 60])))
    elif kind == "punch":
        # Zeroes everything, as a peer can even though the file is sealed.
        memory.write(0, bytes(HEADER + 2 * RING))
    ring_bells()
    os.read(0, 1)


def ring_bells():
    """Ring whatever pipe this process holds the write end of, but for its standard streams."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
                os.write(fd, b"!")
        except OSError:
            continue


if __name__ == "__main__":
    main()
