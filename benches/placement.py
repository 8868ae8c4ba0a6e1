"""Where the two processes of a case run.

Blocking figures have two modes on a machine with several processors: a wake-up on the same one
costs a tenth of one on another. So each is measured three times: on two processors, on one, and
where the scheduler likes, which mixes the two.
"""

import os
from pathlib import Path

TWO_CORES = "two cores"
ONE_CORE = "one core"
UNPINNED = "unpinned"
ALL = (TWO_CORES, ONE_CORE, UNPINNED)


def _siblings(cpu: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return path.read_text().strip() if path.exists() else str(cpu)


def _pair() -> tuple[int, int]:
    """Two processors that are not two threads of one core, if there are such."""
    allowed = sorted(os.sched_getaffinity(0))
    first = allowed[0]
    others = [cpu for cpu in allowed if _siblings(cpu) != _siblings(first)]
    return first, (others or allowed)[-1 if len(allowed) == 1 else 0]


def cpus(placement: str) -> tuple[int, int] | None:
    """The processors of the client and the server; None leaves it to the scheduler."""
    first, second = _pair()
    return {TWO_CORES: (first, second), ONE_CORE: (first, first), UNPINNED: None}[placement]


def can(placement: str) -> bool:
    """Whether this machine has such a place."""
    return placement != TWO_CORES or len(os.sched_getaffinity(0)) > 1


def pin(cpu: int) -> None:
    """Keep this process on one processor; a negative number leaves it where it is."""
    if cpu >= 0:
        os.sched_setaffinity(0, {cpu})
