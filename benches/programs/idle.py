"""What idle sessions cost; prints numbers.

Run as `python -I idle.py SECONDS`, which starts a holder of several sessions and looks at it and at
one of the programs it has started. The other roles of this file are `hold` and `held`.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

FIRST, MORE = 2, 8
SETTLED_S = 0.3


def _footprint():
    """Resident KiB of the sessions' memory and of this process's own, and descriptors.

    Pages of program files do not count: whether code was touched before is no matter of a session.
    """
    rings = own = 0
    is_ring = False
    # Line by line: looking must not itself need memory.
    with Path("/proc/self/smaps").open() as smaps:
        for line in smaps:
            words = line.split()
            if not words[0].endswith(":"):
                is_ring = "/memfd:alongside" in line
            elif is_ring and words[0] == "Rss:":
                rings += int(words[1])
            elif not is_ring and words[0] == "Anonymous:":
                own += int(words[1])
    return {"kib": own, "ring_kib": rings, "fds": len(os.listdir("/proc/self/fd"))}


def _grown(before, after, by):
    return {name: (after[name] - before[name]) / by for name in before}


def held():
    """Take up a session, say what that has cost, and sleep in it."""
    import alongside

    _footprint()
    before = _footprint()
    session = alongside.session(required=True)
    after = _footprint()
    # The meeting place, inherited and closed by now, stands for one of the descriptors.
    after["fds"] += 1
    session.send(json.dumps(_grown(before, after, 1)).encode())
    for _ in session:
        pass


def hold():
    """Hold sessions until a line comes."""
    import alongside

    def begin(count):
        return [alongside.start([sys.executable, "-I", __file__, "held"]) for _ in range(count)]

    sessions = begin(FIRST)
    _footprint()
    before = _footprint()
    sessions += begin(MORE)
    starter = _grown(before, _footprint(), MORE)
    started = [json.loads(session.receive()) for session in sessions]
    numbers = {f"starter_{name}": value for name, value in starter.items()}
    numbers |= {f"started_{name}": value for name, value in started[-1].items()}
    pids = [os.getpid(), *(session.peer.pid for session in sessions)]
    print(json.dumps({"numbers": numbers, "pids": pids}), flush=True)
    sys.stdin.readline()
    for session in sessions:
        session.close()


def _spent(pid):
    """Ticks and nanoseconds on a processor, and voluntary switches, of all threads."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks, run_ns, switches = int(stat[11]) + int(stat[12]), 0, 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        run_ns += int((task / "schedstat").read_text().split()[0])
        status = (task / "status").read_text()
        switches += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return ticks, run_ns, switches


def main():
    """Look, wait, look again."""
    seconds = float(sys.argv[1])
    holder = subprocess.Popen(
        [sys.executable, "-I", __file__, "hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    told = json.loads(holder.stdout.readline())
    time.sleep(SETTLED_S)
    before = [_spent(pid) for pid in told["pids"]]
    time.sleep(seconds)
    after = [_spent(pid) for pid in told["pids"]]
    holder.communicate(b"\n")
    ticks, run_ns, switches = (
        sum(late[i] - early[i] for early, late in zip(before, after, strict=True)) for i in range(3)
    )
    numbers = told["numbers"]
    numbers |= {"seconds": seconds, "ticks": ticks, "run_us": run_ns / 1e3, "switches": switches}
    print(json.dumps(numbers))


if __name__ == "__main__":
    {"hold": hold, "held": held}.get(sys.argv[1], main)()
