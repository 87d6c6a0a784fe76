"""`cosmos-train` on streams that never deliver: it stops on request, and nothing outlives it."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from support.runs import shard_settings, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def processes():
    """The parent, by process, of all that live."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):  # it has ended
            continue
        if state != "Z":
            parents[int(path.parent.name)] = int(parent)
    return parents


def descendants(process):
    parents = processes()
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def alive(found):
    return list(names(set(found) & processes().keys()))


def names(found):
    for process in found:
        try:
            yield Path(f"/proc/{process}/comm").read_text().strip()
        except OSError:
            yield "ended"


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def stalled(tmp_path):
    """A run whose two workers each wait for a pipeline, and all of its processes."""
    for number in range(2):
        os.mkfifo(tmp_path / f"fifo{number}")
    spec = f"pipe:cat {tmp_path}/fifo{{0..1}} | cat"
    run = start(tmp_path / "run", *shard_settings(spec), "--set", "data.workers=2")
    pid = run._process.pid

    def started():
        return run.poll() is not None or list(names(descendants(pid))).count("cat") == 4

    wait_until(started, 100, "no commands")
    assert run.poll() is None, run.communicate()
    found = descendants(pid)
    yield run, found
    run.communicate(timeout=60)
    wait_until(lambda: not alive(found), 5, f"{alive(found)} outlive the run")


def test_sigterm_makes_a_snapshot_in_time(stalled, tmp_path):
    run, found = stalled
    assert len(found) >= 2 + 2 * 3  # workers; a shell and two commands each
    run.send_signal(signal.SIGTERM)
    started = time.monotonic()
    _, err = run.communicate(timeout=60)
    assert time.monotonic() - started < 15
    assert run.returncode == 0, err
    assert "stopped after 0 of 6 steps; go on with" in err
    assert list((tmp_path / "run" / "snapshots").glob("*.pt"))


@pytest.mark.parametrize("signals", [[signal.SIGINT] * 2, [signal.SIGKILL]])
def test_nothing_outlives_a_run_that_is_interrupted_or_killed(stalled, signals):
    run, _ = stalled
    for number in signals:
        run.send_signal(number)
    wait_until(lambda: run.poll() is not None, 15, "the run goes on")
    assert run.returncode in (0, 130, -signal.SIGKILL)
