"""Receiving into memory of one's own."""

import array
import os

import alongside
import pytest


@pytest.mark.parametrize("size", [0, 1, 1000, 65536, 65537, 300_000, 5_000_000])
def test_bytes_of_every_size_arrive_in_the_buffer(echo, size):
    message = os.urandom(size)
    buffer = bytearray(b"." * (size + 3))
    echo.send(message)
    assert echo.receive_into(buffer) == size
    assert buffer == message + b"..."


def test_any_writable_contiguous_buffer_will_do(echo):
    echo.send(array.array("d", [1.5, 2.5]).tobytes())
    numbers = array.array("d", [0, 0, 0])
    assert echo.receive_into(numbers) == 16
    assert numbers.tolist() == [1.5, 2.5, 0]
    for bad in (b"bytes", memoryview(bytearray(8))[::2]):
        with pytest.raises(BufferError):
            echo.receive_into(bad)
    with pytest.raises(TypeError):
        echo.receive_into("text")


@pytest.mark.parametrize("size", [11, 70_000, 1_000_000])
@pytest.mark.parametrize("first", ["ring", "inbox"])
def test_a_message_that_does_not_fit_stays(echo, size, first):
    echo.send(bytes(size))
    if first == "inbox":
        echo.ping(timeout=None)
    with pytest.raises(ValueError, match=f"{size} bytes, the buffer 10"):
        echo.receive_into(bytearray(10))
    assert echo.receive_into(bytearray(size)) == size
    echo.send(bytes(size))
    with pytest.raises(ValueError, match="can still be received"):
        echo.receive_into(bytearray(10))
    assert len(echo.receive()) == size


@pytest.mark.parametrize("first", ["ring", "inbox"])
def test_a_message_that_is_data_stays(echo, first):
    echo.send({"a": 1})
    if first == "inbox":
        echo.ping(timeout=None)
    with pytest.raises(alongside.Invalid, match="data, not bytes"):
        echo.receive_into(bytearray(1000))
    assert echo.receive() == {"a": 1}


def test_a_deadline_amid_a_large_message_loses_nothing(program):
    """The reader gives up again and again while the message trickles in."""
    size = 200_000_000
    session = program(f"s.send(b'abcd' * {size // 4}); s.receive()")
    buffer = bytearray(size)
    while True:
        try:
            got = session.receive_into(buffer, timeout=0.0005)
        except alongside.TimedOut:
            continue
        break
    assert got == size
    assert buffer == b"abcd" * (size // 4)
