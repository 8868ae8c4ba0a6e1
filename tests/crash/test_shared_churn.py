"""Many processes share a cell, a lock or a name at once, and are killed at random.

One of all makes the first value; reads and writes of a cell have an order, killed writers or not;
there is one first instance at a time, and no command line is lost; opening and closing leaves
nothing. `ALONGSIDE_CYCLES` sets how many processes, deaths and opens there are.
"""

import os
import subprocess
import sys

import pytest

CYCLES = int(os.environ.get("ALONGSIDE_CYCLES", "300"))
IS_CAMPAIGN = CYCLES >= 2000
OPENERS = 500 if IS_CAMPAIGN else 50
CALLERS = 100 if IS_CAMPAIGN else 20
SEEDS = range(max(1, CYCLES // 500))


@pytest.fixture
def run(tmp_path):
    """Run one of the loads in a scope of its own."""

    def run(*words):
        tmp_path.chmod(0o700)
        argv = [sys.executable, "-m", "tests.crash.shared_load", *map(str, words)]
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        print(done.stdout)

    return run


@pytest.mark.parametrize("killed", [0, OPENERS // 2])
def test_one_of_all_makes_the_first_value(run, killed):
    """Those that are killed at it leave it to the next; half of all, one after the other."""
    run("openers", OPENERS, killed)


@pytest.mark.parametrize("seed", SEEDS)
def test_reads_and_writes_have_an_order(run, seed):
    """Writers are killed all the while; what they were at is done or not."""
    run("history", seed, CYCLES // 10)


@pytest.mark.parametrize("seed", SEEDS)
def test_there_is_one_first_instance_at_a_time_and_no_command_line_is_lost(run, seed):
    run("only", seed, CALLERS)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_are_connected_though_starters_and_programs_are_killed(run, seed):
    run("starts", seed, CALLERS)


def test_opening_and_closing_leaves_nothing(run):
    """A million in the campaign."""
    run("opens", CYCLES * 100 if IS_CAMPAIGN else 2_000)
