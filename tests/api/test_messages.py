"""What is sent is what arrives."""

import os

import pytest

SIZES = [0, 1, 15, 16, 17, 65535, 65536, 65537, 262_143, 262_144, 262_145, 1 << 20, (5 << 20) + 3]


@pytest.mark.parametrize("size", SIZES)
def test_bytes_of_every_size_come_back_whole(echo, size):
    message = os.urandom(size)
    echo.send(message)
    assert echo.receive() == message
