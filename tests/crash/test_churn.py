"""Fifty processes publish, change, revoke, list and watch, and die at random moments.

In the end every watcher's picture equals the truth, and no change was missed or told twice.
`ALONGSIDE_CYCLES` sets how many deaths there are, a tenth of it: a minute of them in the campaign.
"""

import json
import os
import random
import signal
import subprocess
import sys

import alongside
import pytest

DEATHS = int(os.environ.get("ALONGSIDE_CYCLES", "300")) // 10
PUBLISHERS, WATCHERS = 44, 6

PUBLISHER = """
import alongside, random, sys
choose = random.Random(int(sys.argv[1]))
held = []
print("there", flush=True)
while True:
    act = choose.randrange(4)
    if act == 0 or not held:
        handler = (lambda data, session: None) if choose.random() < 0.2 else None
        held.append(alongside.publish(f"churn/{choose.randrange(20)}", handler))
    elif act == 1:
        held.pop(choose.randrange(len(held))).revoke()
    elif act == 2:
        choose.choice(held).update(about=str(choose.random()))
    else:
        found = alongside.running(f"churn/{choose.randrange(20)}")
        mine = {r.instance for r in held}
        assert len({e.instance for e in found}) == len(found)
        assert all(e.peer.pid > 0 for e in found) and mine is not None
"""

# Follows until the sign appears, then whatever else has happened, and says what is there.
WATCHER = """
import alongside, json
picture = {}
watch = alongside.watch("churn/*")
print("there", flush=True)
is_over = False
while True:
    try:
        change = watch.next(timeout=0 if is_over else None)
    except alongside.TimedOut:
        break
    entry = change.entry
    assert (entry.instance not in picture) == (change.kind == "appeared"), change
    if entry.name == "churn/sign":
        is_over = True
    if change.kind == "vanished":
        del picture[entry.instance]
    else:
        picture[entry.instance] = [entry.name, entry.about, entry.changed]
print(json.dumps(picture))
"""


def begin(source, *arguments):
    argv = [sys.executable, "-c", source, *map(str, arguments)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"there\n"
    return process


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("seed", range(1))
def test_every_picture_equals_the_truth_in_the_end(seed, tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    choose = random.Random(seed)
    watchers = [begin(WATCHER) for _ in range(WATCHERS)]
    publishers = [begin(PUBLISHER, number) for number in range(PUBLISHERS)]
    try:
        for number in range(DEATHS):
            end(publishers.pop(choose.randrange(len(publishers))))
            publishers.append(begin(PUBLISHER, PUBLISHERS + number))
            assert publishers[0].poll() is None
        for process in publishers:
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        with alongside.publish("churn/sign"):
            pictures = [json.loads(watcher.stdout.readline()) for watcher in watchers]
            there = alongside.running("churn/*")
        truth = {entry.instance: [entry.name, entry.about, entry.changed] for entry in there}
        for picture in pictures:
            assert picture == truth
        assert [watcher.wait() for watcher in watchers] == [0] * WATCHERS
    finally:
        for process in publishers + watchers:
            end(process)
    assert alongside.running("churn/*") == []
