"""A worker that reports its progress through callbacks, and can be cancelled by a message.

After `start` nothing here waits for a message: `on_message` runs for each report, in order, on
the library's thread, and `on_close` runs once, after the last of them, whether the worker has
closed or has died. The main thread stays free; here it just waits for the end.

    python worker_progress.py [--below N] [--cancel-after REPORTS]
"""

import argparse
import contextlib
import sys
import threading
from pathlib import Path

import alongside

WORKER = Path(__file__).with_name("worker.py")
STEP = 20_000


class Progress:
    """Shows the reports of a worker, and cancels it when there were enough."""

    def __init__(self, worker, cancel_after):
        self.worker = worker
        self.reports_left = cancel_after
        self.ended = threading.Event()
        self.reason = None

    def on_report(self, report):
        """Show one report."""
        print(f"{report['state']}: {report['primes']} primes below {report['at']}")
        if self.reports_left is not None:
            self.reports_left -= 1
        if self.reports_left == 0:
            self.cancel()

    def cancel(self):
        """Ask the worker to stop; it answers with a last report."""
        # It may have done everything and closed while its reports were being shown.
        with contextlib.suppress(alongside.SessionEnded):
            self.worker.send("cancel")

    def on_end(self, reason):
        """Tell the main thread that nothing more will come, and why."""
        self.reason = reason
        self.ended.set()


def main():
    arguments = parse_arguments()
    job = {"below": arguments.below, "step": STEP}
    with alongside.start([sys.executable, WORKER], hello=job) as worker:
        print(f"process {worker.peer.pid} counts")
        progress = Progress(worker, arguments.cancel_after)
        worker.on_message(progress.on_report)
        worker.on_close(progress.on_end)
        progress.ended.wait()
    if isinstance(progress.reason, alongside.PeerGone):
        sys.exit(f"worker_progress.py: {progress.reason}")


def parse_arguments():
    parser = argparse.ArgumentParser(description="Count primes in another program.")
    parser.add_argument("--below", type=int, default=10 * STEP, metavar="N")
    parser.add_argument("--cancel-after", type=int, metavar="REPORTS")
    return parser.parse_args()


if __name__ == "__main__":
    main()
