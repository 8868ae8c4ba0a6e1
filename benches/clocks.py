"""The processor time and the page faults of processes, without being one of them.

Linux makes a clock of every process's processor time (user and system, all threads); its number is
the complement of the pid, shifted, and 2 for "as the scheduler counts". It has no ticks, unlike
`/proc/PID/stat`.
"""

import time
from collections.abc import Iterable
from pathlib import Path

_CPUCLOCK_SCHED = 2


def cpu_ns(pids: Iterable[int]) -> int:
    """What these processes have used so far, together."""
    return sum(time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED) for pid in pids)


def page_faults(pids: Iterable[int]) -> int:
    """How often these processes touched a page that was not mapped, so far, together."""
    stats = (Path(f"/proc/{pid}/stat").read_text() for pid in pids)
    return sum(int(stat.rpartition(")")[2].split()[7]) for stat in stats)
