"""Traffic whose every message can be checked: numbered, patterned, of mixed sizes.

Run as a program, it is one side of a session under load in both directions until it is killed or
the other side is gone; then it says on its standard output what it saw.
"""

import random
import sys
import threading

import alongside

SIZES = (0, 1, 60, 900, 20_000, 65_536, 70_000, 400_000, 1_500_000)
WEIGHTS = (5, 10, 60, 20, 5, 2, 2, 1, 0.3)


def message(number):
    """The message of this number, which every side can make itself."""
    size = random.Random(number).choices(SIZES, WEIGHTS)[0]
    return number.to_bytes(8, "big") + bytes([number % 251]) * size


def send_all(session):
    """Send without end; give how many were sent when the session ended."""
    number = 0
    try:
        while True:
            session.send(message(number))
            number += 1
    except alongside.SessionEnded:
        return number


def receive_all(session, after_each=lambda count: None):
    """Receive and check without end; give how many came, and why they stopped coming."""
    count = 0
    try:
        while True:
            got = session.receive()
            assert got == message(count), (count, len(got), got[:8])
            count += 1
            after_each(count)
    except alongside.SessionEnded as reason:
        return count, reason


def main():
    session = alongside.session()
    if session is None:
        session = alongside.start([sys.executable, __file__])
    else:
        print("begun", flush=True)
    sender = threading.Thread(target=send_all, args=(session,), daemon=True)
    sender.start()
    count, reason = receive_all(session)
    sender.join()
    print(type(reason).__name__, count, flush=True)


if __name__ == "__main__":
    main()
