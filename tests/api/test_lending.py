"""Memory that is filled in place moves once; long bytes are looked at where they lie."""

import gc
import os
import sys
import textwrap

import alongside
import numpy as np
import pytest

from tests.conftest import HEAD, is_asleep, wait_until

KEEPER = """
    kept = []
    for m in s:
        if isinstance(m, str):
            kept.clear()
            del m
        else:
            kept.append(m)
"""


def address(array):
    return array.__array_interface__["data"][0]


def nothing_is_lent(session):
    gc.collect()
    return session.lent_bytes == 0


def test_lent_memory_arrives_filled(echo):
    with echo.lend((30, 40), "f4") as lent:
        assert (lent.shape, lent.dtype, lent.flags.writeable) == ((30, 40), np.float32, True)
        lent[:] = np.arange(1200).reshape(30, 40)
        echo.send(lent)
    got = echo.receive()
    assert got.dtype == np.float32
    assert (got == np.arange(1200).reshape(30, 40)).all()


def test_sending_lent_memory_takes_no_other(program):
    session = program(KEEPER)
    with session.lend(1_000_000) as lent:
        before = session.lent_bytes
        session.send([lent, lent[10:20], {"a": lent.reshape(1000, 1000)}])
        assert session.lent_bytes == before


@pytest.mark.parametrize(
    "part",
    [
        lambda lent: lent,
        lambda lent: lent[3:5],
        lambda lent: lent.T,
        lambda lent: lent.reshape(-1).view("u1"),
        lambda lent: lent[:, 1:3],
        lambda lent: lent[::-1],
        lambda lent: lent[2, 2],
    ],
)
def test_any_part_of_lent_memory_can_be_sent(echo, part):
    with echo.lend((6, 4), "i8") as lent:
        lent[:] = np.arange(24).reshape(6, 4)
        expected = part(lent).copy(order="K")
        echo.send([part(lent)] if isinstance(expected, np.ndarray) else part(lent).item())
    got = echo.receive()
    if isinstance(got, list):
        assert (got[0] == expected).all()
        assert got[0].shape == expected.shape
    else:
        assert got == expected


@pytest.mark.parametrize(
    "dtype", ["datetime64[us]", "U5", "c16", ">i4", [("a", "i4"), ("b", "f8")]]
)
def test_lent_memory_is_of_any_plain_type(program, dtype):
    session = program(KEEPER)
    with session.lend(100, dtype) as lent:
        lent[:] = np.zeros(100, dtype)
        before = session.lent_bytes
        session.send(lent)
        assert session.lent_bytes == before


def test_what_was_sent_is_read_only_here(echo):
    with echo.lend(100) as lent:
        view = lent[:10]
        echo.send(view)
        with pytest.raises(ValueError, match="read-only"):
            lent[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1


def test_lent_memory_moves_once_and_is_copied_afterwards(program):
    session, other = program(KEEPER), program("s.send(s.receive())")
    with session.lend(100_000) as lent:
        lent[:] = 7
        session.send(lent)
        once = session.lent_bytes
        session.send(lent)
        assert session.lent_bytes == 2 * once
        other.send(lent)
        assert (other.receive() == 7).all()


def test_lent_memory_is_not_used_again_while_it_is_looked_at_here(program):
    session = program("for m in s: s.send(int(m[0]) if len(m) else 0); del m")
    with session.lend(100_000) as lent:
        lent[:] = 5
        session.send(lent)
        assert session.receive() == 5
        for number in range(20):
            session.send(np.full(100_000, number, "u1"))
            assert session.receive() == number
        assert (lent == 5).all()
        assert session.lent_bytes >= 100_000
    del lent
    wait_until(lambda: nothing_is_lent(session))


def test_lent_memory_that_is_not_sent_goes_back(echo):
    with echo.lend(100_000) as lent:
        assert echo.lent_bytes >= 100_000
        del lent
    assert nothing_is_lent(echo)
    given = echo.lend(100_000)
    del given
    assert nothing_is_lent(echo)


def test_the_same_memory_is_filled_again_and_again(echo):
    seen = set()
    for number in range(50):
        with echo.lend(1_000_000) as lent:
            seen.add(address(lent))
            lent[:] = number
            echo.send(lent)
            del lent
        got = echo.receive()
        assert (got[0], got[-1]) == (number, number)
        del got
    assert len(seen) <= 4


def test_what_could_not_be_sent_can_still_be_filled_and_sent(program):
    session = program("signal.pause()")
    with session.lend(10) as lent:
        with pytest.raises(TypeError):
            session.send([lent, object()])
        lent[:] = 3
        with pytest.raises(alongside.WouldBlock):
            for _ in range(10_000):
                session.send_nowait(bytes(10_000))
        with pytest.raises(alongside.WouldBlock):
            session.send_nowait([lent, "x" * 10_000])
        lent[:] = 4


def test_bytes_are_filled_in_place_too(echo):
    with echo.lend_bytes(1_000_000) as space:
        space[:5] = b"hello"
        echo.send(space[:5])
        with pytest.raises(ValueError, match="released"):
            space[0]
    assert echo.receive() == b"hello"
    with echo.lend_bytes(10) as space:
        space[:] = b"0123456789"
        echo.send({"a": space[2:4], "b": space})
    assert echo.receive() == {"a": b"23", "b": b"0123456789"}


@pytest.mark.parametrize("size", [0, 5, 20_000, 3_000_000])
def test_bytes_can_be_looked_at_where_they_lie(echo, size):
    sent = os.urandom(size)
    for _ in range(3):
        echo.send(sent)
        got = echo.receive_view()
        assert type(got) is memoryview
        assert got == sent
        assert got.readonly


def test_bytes_that_are_viewed_are_lent_from_the_second_on(program):
    session = program(
        """
        os.read(0, 1)
        kept = [s.receive_view()]
        s.send("looked")
        kept.append(s.receive_view())
        s.send("looked")
        s.receive()
        """,
        stdin=alongside.PIPE,
    )
    session.send(bytes(100_000))
    session.stdin.close()
    assert session.receive() == "looked"
    assert session.lent_bytes == 0
    session.send(bytes(100_000))
    assert session.receive() == "looked"
    assert session.lent_bytes >= 100_000


def test_lent_bytes_can_be_received_in_any_way(echo):
    echo.send(b"")
    echo.receive_view()
    sent = os.urandom(100_000)
    # The other side is asked for views by nobody: it gets bytes, and this side gets what it sends.
    for receive in (
        echo.receive,
        lambda: bytes(echo.receive_view()),
        lambda: (space := bytearray(100_000), echo.receive_into(space))[0],
    ):
        echo.send(sent)
        assert receive() == sent
    echo.send(sent)
    with pytest.raises(ValueError, match="100000 bytes, the buffer 10"):
        echo.receive_into(bytearray(10))
    assert echo.receive() == sent


def test_a_view_of_data_is_refused_and_the_data_kept(echo):
    echo.send([1])
    with pytest.raises(alongside.Invalid, match="data, not bytes"):
        echo.receive_view()
    assert echo.receive() == [1]


def test_long_bytes_amid_data_travel_beside_it(echo):
    sent = {"a": os.urandom(200_000), "b": [bytearray(os.urandom(70_000))], "c": b"short"}
    echo.send(sent)
    assert echo.receive() == sent
    key = {os.urandom(70_000): 1}
    echo.send(key)
    assert echo.receive() == key


def test_more_than_the_limit_is_refused(echo):
    echo.lend_limit = 1 << 20
    assert echo.lend_limit == 1 << 20
    for call in (
        lambda: echo.lend((1 << 20) + 1),
        lambda: echo.lend_bytes(2 << 20),
        lambda: echo.send(np.zeros(1 << 20)),
    ):
        with pytest.raises(alongside.TooLarge, match="lend_limit is 1048576"):
            call()
    with pytest.raises(alongside.TooLarge, match="max_message"):
        echo.lend(1 << 40)
    echo.send([1])
    assert echo.receive() == [1]


def test_at_the_limit_a_sender_waits_for_what_comes_back(program):
    session = program(KEEPER)
    session.lend_limit = 1 << 20
    session.send(np.zeros(1 << 20, "u1"))
    for call in (
        lambda: session.send(np.zeros(5), timeout=0.05),
        lambda: session.lend(5, timeout=0.05),
        lambda: session.lend_bytes(5, timeout=0),
    ):
        with pytest.raises(alongside.TimedOut):
            call()
    with pytest.raises(alongside.Busy, match="lend_limit"):
        session.send_nowait(np.zeros(5))
    session.send("let go")
    session.send(np.zeros(1 << 20, "u1"))
    assert session.lent_bytes == 1 << 20


def test_the_limit_counts_what_was_asked_for(program):
    session = program(KEEPER)
    frame = np.zeros((480, 640, 3), "u1")
    session.lend_limit = 4 * frame.nbytes
    for count in range(1, 5):
        session.send(frame, timeout=0)
        assert session.lent_bytes == count * frame.nbytes
    with pytest.raises(alongside.Busy, match="lend_limit"):
        session.send_nowait(frame)


def test_bytes_go_another_way_where_no_memory_may_be_lent(program):
    session = program(
        """
        s.receive()
        first = s.receive_view()
        s.send("I look at what I get")
        for _ in range(2):
            s.send(len(s.receive()))
        first.release()
        del first
        s.send(len(s.receive_view()))
        """
    )
    session.send(bytes(100))
    session.lend_limit = 1 << 20
    session.send(bytes(900_000))
    assert session.receive() == "I look at what I get"
    for size in (200_000, 2_000_000):
        session.send(bytes(size))
        assert session.receive() == size
    session.send(bytes(900_000))
    assert session.receive() == 900_000


def test_two_that_only_lend_are_told_that_they_are_busy(program):
    session = program(
        """
        s.lend_limit = 2_000_000
        try:
            while True:
                with s.lend(500_000) as array:
                    s.send(array)
        except (alongside.Busy, alongside.SessionEnded):
            sys.exit(5)
        """
    )
    session.lend_limit = 2_000_000
    with pytest.raises((alongside.Busy, alongside.SessionEnded)):
        while True:
            session.send(np.zeros(500_000, "u1"))
    assert session.wait() == 5


def test_a_lent_view_is_released_with_its_block(echo):
    with echo.lend_bytes(1000) as space:
        assert echo.lent_bytes == 1000
    assert echo.lent_bytes == 0
    with pytest.raises(ValueError, match="released"):
        space[0]


def test_what_lend_gives_is_no_array(echo):
    lent = echo.lend(10)
    for slip in (
        lambda: lent[0],
        lambda: lent.__setitem__(0, 1),
        lambda: echo.send(lent),
        lambda: echo.send({"a": lent}),
    ):
        with pytest.raises(TypeError, match=r"with session\.lend\(\.\.\.\) as array"):
            slip()
    with pytest.raises(AttributeError, match=r"shape.*with session\.lend"):
        _ = lent.shape


@pytest.mark.parametrize("limit", [-1, "4 frames", 1.5])
def test_a_limit_that_is_none_is_named(echo, limit):
    with pytest.raises(ValueError, match="lend_limit is a number of bytes"):
        echo.lend_limit = limit


def test_a_wait_for_memory_ends_with_the_other_program(program):
    session = program(KEEPER + "        if len(kept) == 2: os.kill(os.getpid(), signal.SIGKILL)\n")
    session.lend_limit = 1 << 20
    session.send(np.zeros(1 << 20, "u1"))
    session.send(1)
    with pytest.raises(alongside.PeerGone):
        session.send(np.zeros(1 << 20, "u1"))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s: s.lend(-1), ValueError),
        (lambda s: s.lend((2, -3)), ValueError),
        (lambda s: s.lend(5, "O"), TypeError),
        (lambda s: s.lend(5, "no such"), TypeError),
        (lambda s: s.lend_bytes(-1), ValueError),
        (lambda s: s.lend(5, timeout=-1), ValueError),
    ],
)
def test_bad_arguments_are_named(echo, call, error):
    with pytest.raises(error):
        call(echo)


def test_without_numpy_a_memoryview_is_lent():
    source = """
        sys.modules["numpy"] = None
        with s.lend((2, 3), "f4") as lent:
            lent[1, 2] = 1.5
            before = s.lent_bytes
            s.send(lent)
            print(s.lent_bytes == before, flush=True)
        try:
            s.lend(3, "c16")
        except TypeError as error:
            s.send(str(error))
    """
    with alongside.start(
        [sys.executable, "-c", HEAD + textwrap.dedent(source)], stdout=alongside.PIPE
    ) as session:
        got = session.receive()
        assert (got.shape, got.dtype, got[1, 2]) == ((2, 3), np.float32, 1.5)
        assert "needs numpy" in session.receive()
        session.wait()
        session.stdout.close()


def test_lent_memory_ends_with_the_session(echo):
    with echo.lend(10) as lent:
        echo.close()
        lent[:] = 1
        with pytest.raises(alongside.Closed):
            echo.send(lent)
    with pytest.raises(alongside.Closed):
        echo.lend(10)


def test_two_threads_may_lend_and_send_at_once(echo):
    import threading

    def work(number):
        for _ in range(100):
            with echo.lend(1000) as lent:
                lent[:] = number
                echo.send(lent)

    threads = [threading.Thread(target=work, args=[number]) for number in (1, 2)]
    for thread in threads:
        thread.start()
    seen = [echo.receive() for _ in range(200)]
    for thread in threads:
        thread.join()
    assert sorted(got[0] for got in seen) == [1] * 100 + [2] * 100
    assert all((got == got[0]).all() for got in seen)


def test_who_waits_for_memory_does_not_keep_others_from_sending(program):
    """What another thread has yet to send may be what comes back."""
    import threading

    session = program("for m in s: del m")
    session.lend_limit = 1 << 20
    lent = session.lend(1 << 20)
    waiter = threading.Thread(target=lambda: session.lend(1 << 20))
    waiter.start()
    wait_until(lambda: is_asleep("self", waiter.native_id))
    session.send("small")
    session.send(lent.memory)
    del lent
    waiter.join()


def test_any_number_of_lent_arrays_goes_with_one_message(echo):
    lent = [echo.lend(8, "u1").memory for _ in range(1500)]
    for number, array in enumerate(lent):
        array[:] = number % 251
    echo.send(lent)
    got = echo.receive()
    assert [array[0] for array in got] == [number % 251 for number in range(1500)]


def test_two_views_of_one_block_are_both_read_only_after_sending(echo):
    with echo.lend(100) as lent:
        first, second = lent[:10], lent[10:20]
        echo.send([first, second])
        assert not first.flags.writeable
        assert not second.flags.writeable
        assert not lent.flags.writeable


def test_closing_without_waiting_while_another_thread_waits_for_memory(program):
    import threading

    session = program("kept = [s.receive()]\ns.send('have it')\nkept.append(s.receive())")
    session.lend_limit = 1 << 20
    session.send(np.zeros(1 << 20, "u1"))
    assert session.receive() == "have it"
    ended = []

    def wait():
        try:
            session.lend(10)
        except alongside.Closed as error:
            ended.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_until(lambda: is_asleep("self", waiter.native_id))
    session.close(timeout=0)
    waiter.join()
    assert ended
    # The other side hears of it without a second close.
    session.wait()


def test_shapes_may_be_of_numpys_numbers(echo):
    assert echo.lend(np.int64(5)).memory.shape == (5,)
    assert echo.lend((np.uint8(2), 3)).memory.shape == (2, 3)
    for wrong in ("5", 2.5, (2.5,), None):
        with pytest.raises(TypeError, match="expected a size"):
            echo.lend(wrong)
    with pytest.raises(alongside.TooLarge):
        echo.lend((1 << 40, 1 << 40))
