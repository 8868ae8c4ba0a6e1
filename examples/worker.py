"""The worker of worker_progress.py: counts primes, tells how far it is, and can be cancelled.

It computes on its main thread. Meanwhile the callbacks run on the library's thread: a message
cancels the work, and so does the end of the session, so that no worker computes for nobody.
"""

import sys
import threading

import alongside


def main():
    session = alongside.session()
    if session is None:
        sys.exit("worker.py has nobody to work for: run worker_progress.py, which starts it")
    cancelled = threading.Event()
    session.on_message(lambda _: cancelled.set())
    session.on_close(lambda _: cancelled.set())
    try:
        with session:
            work(session, session.hello["below"], session.hello["step"], cancelled)
    except alongside.SessionEnded as ended:
        sys.exit(f"worker.py: {ended}")


def work(session, below, step, cancelled):
    """Count the primes below a number, and report after each step."""
    primes = 0
    for begin in range(0, below, step):
        if cancelled.is_set():
            session.send({"state": "cancelled", "at": begin, "primes": primes})
            return
        end = min(begin + step, below)
        primes += sum(is_prime(number) for number in range(begin, end))
        session.send({"state": "working", "at": end, "primes": primes})
    session.send({"state": "done", "at": below, "primes": primes})


def is_prime(number):
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


if __name__ == "__main__":
    main()
