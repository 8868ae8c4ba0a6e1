"""No descriptors, no memory, at every step: the OSError or MemoryError, and nothing left behind.

Each shortage happens in a program of its own, whose limits are its own.
"""

import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import alongside, errno, gc, os, resource, sys, warnings
ECHO = [sys.executable, "-c", "import alongside; s = alongside.session(); [s.send(m) for m in s]"]

def opened():
    return len(os.listdir("/proc/self/fd")) - 1

def mapped():
    return sum("alongside-" in line for line in open("/proc/self/maps"))

def children():
    return open(f"/proc/self/task/{os.getpid()}/children").read().split()

def with_room_for(count, call):
    '''Run a call while only so many more descriptors can be opened.'''
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Numbers may have gaps: fill them, then set the limit right above.
    fillers = []
    while True:
        fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        fillers.append(fd)
        if fd == max(map(int, os.listdir("/proc/self/fd")[:-1] or [fd])) or fd > 300:
            break
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + count, hard))
    try:
        return call()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)
"""


def run(source):
    command = [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_start_without_descriptors_is_an_error_at_each_step_and_leaks_nothing():
    out = run("""
        s = alongside.start(ECHO, die_with_parent=True); s.close(); s.wait(); del s
        before = opened(), mapped(), children()
        worked = 0
        for room in range(40):
            try:
                s = with_room_for(room, lambda: alongside.start(ECHO, hello=bytes(1000)))
            except OSError as error:
                assert error.errno == errno.EMFILE, error
            else:
                s.send(1)
                assert s.receive() == 1
                s.close(); s.wait(); del s
                worked += 1
            gc.collect()
            assert (opened(), mapped(), children()) == before, (room, opened(), before)
        print(worked)
    """)
    # Some failed, and with room enough it works.
    assert 20 <= int(out) < 40


def test_a_program_without_descriptors_fails_with_the_os_error():
    out = run("""
        inner = (
            "import alongside, errno, resource, sys\\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), 4096))\\n"
            "try: alongside.session()\\n"
            "except OSError as error: raise SystemExit(50 if error.errno == errno.EMFILE else 51)"
        )
        failed = worked = 0
        for room in range(6, 40):
            try:
                s = alongside.start([sys.executable, "-c", inner, str(room)])
            except alongside.StartFailed as error:
                assert error.exit_status == 50, error
                failed += 1
            else:
                worked += 1
                s.close(); s.wait(); del s
        print(failed, worked)
    """)
    failed, worked = map(int, out.split())
    assert failed >= 5
    assert worked >= 5


@pytest.mark.parametrize(
    "call",
    [
        "s.fileno()",
        "s.on_message(print)",
        "s.send(bytes(1_000_000))",
        "s.ping()",
        "s.wait(timeout=0)",
    ],
)
def test_a_session_without_descriptors_raises_or_works_and_leaks_nothing(call):
    run(f"""
        s = alongside.start(ECHO, die_with_parent=True)
        s.on_message(print); s.on_message(None)
        s.close(); s.wait(); del s
        before = opened(), mapped()
        for room in range(5):
            s = alongside.start(ECHO)
            try:
                with_room_for(room, lambda: {call})
            except OSError as error:
                assert error.errno in (errno.EMFILE, None) or isinstance(error, alongside.TimedOut)
            s.close(timeout=0); s.kill(); s.wait(); del s
            gc.collect()
            assert (opened(), mapped()) == before
    """)


def test_a_start_without_memory_is_an_error_and_leaks_nothing():
    run("""
        s = alongside.start(ECHO); s.close(); s.wait(); del s
        before = opened(), mapped(), children()
        size = int(open("/proc/self/statm").read().split()[0]) * 4096
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size + (100 << 10), hard))
        try:
            alongside.start(ECHO)
        except (OSError, MemoryError) as error:
            failed = error
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert getattr(failed, "errno", errno.ENOMEM) == errno.ENOMEM
        assert (opened(), mapped(), children()) == before
    """)


def test_a_message_without_memory_stays_and_can_be_received_later():
    run("""
        s = alongside.start(ECHO)
        s.send(bytes(60_000_000))
        size = int(open("/proc/self/statm").read().split()[0]) * 4096
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), hard))
        try:
            s.receive()
        except MemoryError as error:
            assert "60000000 bytes; it can still be received" in str(error), error
        else:
            raise SystemExit("received")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert len(s.receive()) == 60_000_000
        s.close()
    """)


def test_data_that_comes_where_nothing_can_be_loaded_is_not_lost():
    run("""
        ORDERS = "import alongside; s = alongside.session(); s.send({'order': 1}); s.receive()"
        s = alongside.start([sys.executable, "-c", ORDERS])
        try:
            with_room_for(0, lambda: s.receive())
        except OSError as error:
            assert error.errno == errno.EMFILE, error
        else:
            raise SystemExit("received")
        assert s.receive() == {"order": 1}
        s.send(0); s.close(); s.wait()
    """)


def test_callbacks_end_at_a_message_without_memory_which_stays():
    # More than malloc's reserve for a thread, 64 MiB.
    run("""
        import logging, queue
        logging.disable()
        MAKE = "import alongside; s = alongside.session(); [s.send(bytes(m)) for m in s]"
        s = alongside.start([sys.executable, "-c", MAKE])
        got, errors = queue.SimpleQueue(), queue.SimpleQueue()
        s.on_error(errors.put)
        s.on_message(got.put)
        s.send(1)
        assert got.get() == bytes(1)
        with open("/proc/self/statm") as statm:
            size = int(statm.read().split()[0]) * 4096
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size + (24 << 20), hard))
        try:
            s.send(80_000_000)
            assert isinstance(errors.get(), MemoryError)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert len(s.receive()) == 80_000_000
        s.on_message(got.put)
        s.send(2)
        assert got.get() == bytes(2)
        s.close()
    """)


def test_staging_memory_that_is_not_to_be_had_is_an_error_and_the_session_goes_on():
    run("""
        s = alongside.start(ECHO)
        message = bytes(30_000_000)
        size = int(open("/proc/self/statm").read().split()[0]) * 4096
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), hard))
        try:
            s.send(message)
        except OSError as error:
            assert error.errno == errno.ENOMEM, error
        else:
            raise SystemExit("sent")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        s.send(message)
        assert s.receive() == message
        s.close()
    """)


def test_lent_memory_that_is_not_to_be_had_is_an_error_and_the_session_goes_on():
    """The space is reserved when it is asked for: nobody is killed by SIGBUS later."""
    run(
        """
        import array
        with alongside.start(ECHO) as s:
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            s.lend_bytes(1)
            before = opened()
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
            for call in (
                lambda: s.lend_bytes(8 << 20),
                lambda: s.send(array.array("d", bytes(8 << 20))),
                lambda: s.send({"deep": [bytearray(8 << 20)]}),
            ):
                try:
                    call()
                except OSError as error:
                    assert error.errno == errno.EFBIG, error
                    assert "reserving" in str(error), error
                else:
                    raise AssertionError(call)
            assert opened() == before
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            with s.lend_bytes(8 << 20) as space:
                space[:] = bytes(8 << 20)
                s.send(space)
            assert len(s.receive()) == 8 << 20
        """
    )


def test_an_arena_that_cannot_be_mapped_ends_the_session_with_the_reason():
    run(
        """
        import array
        SENDER = "import alongside, array; s = alongside.session(); s.receive(); " \\
            "s.send(array.array('d', bytes(512 << 20))); s.wait()"
        s = alongside.start([sys.executable, "-c", SENDER])
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * 4096 + (64 << 20)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        s.send("go")
        try:
            s.receive()
        except OSError as error:
            assert error.errno == errno.ENOMEM, error
            assert "mapping" in str(error), error
        else:
            raise AssertionError
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        assert not s.alive
        s.close(timeout=0)
        s.wait()
        """
    )
