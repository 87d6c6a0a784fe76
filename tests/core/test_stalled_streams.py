"""`cosmos-train` on streams that deliver nothing: it stops on request with all its processes."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from support.forked import Forked
from support.runs import shard_settings, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def parents_of_processes():
    """Return process id -> id of its parent, for all processes that have not ended."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):  # it has ended
            continue
        if state != "Z":
            parents[int(path.parent.name)] = int(parent)
    return parents


def find_descendants(process_id):
    """Return the ids of the children of a process, their children, and so on."""
    parents = parents_of_processes()
    descendants, generation = [], {process_id}
    while generation:
        generation = {child for child, parent in parents.items() if parent in generation}
        descendants += generation
    return descendants


def command_names(process_ids):
    """Return the names of the commands of processes, with "ended" for those that have ended."""
    names = []
    for process_id in process_ids:
        try:
            names.append(Path(f"/proc/{process_id}/comm").read_text().strip())
        except OSError:
            names.append("ended")
    return names


def wait_until(condition, seconds, message):
    """Wait until a function returns true; fail with a message after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.05)


class StalledRun(NamedTuple):
    """A run whose workers wait for data, and the ids of all processes that it has started."""

    run: Forked
    descendants: list[int]


@pytest.fixture
def stalled(tmp_path):
    """A run with two workers, each of which waits for a pipeline of two commands.

    After the test, none of its processes may be alive.
    """
    for number in range(2):
        os.mkfifo(tmp_path / f"fifo{number}")
    spec = f"pipe:cat {tmp_path}/fifo{{0..1}} | cat"
    run = start(tmp_path / "run", *shard_settings(spec), "--set", "data.workers=2")
    process_id = run._process.pid

    def has_ended_or_started_four_commands():
        names = command_names(find_descendants(process_id))
        return run.poll() is not None or names.count("cat") == 4

    wait_until(has_ended_or_started_four_commands, 100, "the commands do not start")
    assert run.poll() is None, run.communicate()
    descendants = find_descendants(process_id)

    def living_descendants():
        return set(descendants) & parents_of_processes().keys()

    def all_have_ended():
        return not living_descendants()

    yield StalledRun(run, descendants)
    run.communicate(timeout=60)
    names = command_names(living_descendants())
    wait_until(all_have_ended, 5, f"{names} outlive the run")


def test_sigterm_makes_a_snapshot_in_time(stalled, tmp_path):
    run = stalled.run
    # Two workers, each with a shell and two commands.
    assert len(stalled.descendants) >= 2 + 2 * 3
    run.send_signal(signal.SIGTERM)
    time_of_signal = time.monotonic()
    _, err = run.communicate(timeout=60)
    assert time.monotonic() - time_of_signal < 15
    assert run.returncode == 0, err
    assert "stopped after 0 of 6 steps; go on with" in err
    assert list((tmp_path / "run" / "snapshots").glob("*.pt"))


@pytest.mark.parametrize("signals", [[signal.SIGINT] * 2, [signal.SIGKILL]])
def test_no_process_outlives_a_run_that_is_interrupted_or_killed(stalled, signals):
    run = stalled.run
    for signal_number in signals:
        run.send_signal(signal_number)

    def has_ended():
        return run.poll() is not None

    wait_until(has_ended, 15, "the run goes on")
    assert run.returncode in (0, 130, -signal.SIGKILL)
