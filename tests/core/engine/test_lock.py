"""The lock of an output folder: who holds it, and what a dead holder leaves."""

import json
import os
import platform
import time

import pytest
from support.processes import context
from support.resuming import hold, hold_elsewhere

from cosmos_core.engine import lock


@pytest.fixture
def holder(tmp_path):
    """A living process that holds the lock of the folder `run`."""
    ready = context.Queue()
    process = context.Process(target=hold, args=(tmp_path / "run", ready))
    process.start()
    ready.get(timeout=60)
    yield process
    process.kill()
    process.join()


def take(output):
    with lock.locked(output):
        return json.loads((output / lock.LOCK).read_text())


def test_a_second_run_is_refused_with_the_holders_host_and_process(tmp_path, holder):
    with pytest.raises(ValueError, match="is in use by a run") as caught:
        take(tmp_path / "run")
    assert f"process {holder.pid} on {platform.node()}, since 20" in str(caught.value)
    holder.kill()
    holder.join()
    assert (tmp_path / "run" / lock.LOCK).exists()
    assert take(tmp_path / "run")["process"] == os.getpid()


def test_without_a_lock_of_the_file_system_a_living_process_is_recognised(
    tmp_path, holder, monkeypatch
):
    def unsupported(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", unsupported)
    with pytest.raises(ValueError, match=f"in use by a run: process {holder.pid} on"):
        take(tmp_path / "run")
    holder.kill()
    holder.join()
    assert take(tmp_path / "run")["process"] == os.getpid()


@pytest.mark.parametrize("process", [10**30, None, "12"])
def test_an_entry_that_names_no_possible_process_is_taken_over(tmp_path, monkeypatch, process):
    monkeypatch.setattr(lock, "_take_system_lock", lambda handle: None)
    entry = {"host": platform.node(), "process": process, "since": "then", "run": "none"}
    (tmp_path / lock.LOCK).write_text(json.dumps(entry))
    assert take(tmp_path)["process"] == os.getpid()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A living process that holds the lock of the folder `run` as if on another machine, on a file
    system whose locks do not reach this one."""
    ready = context.Queue()
    process = context.Process(target=hold_elsewhere, args=(tmp_path / "run", ready))
    process.start()
    ready.get(timeout=60)
    monkeypatch.setattr(lock, "_take_system_lock", lambda handle: None)
    yield process
    process.kill()
    process.join()


def test_a_lock_that_another_machine_renews_is_refused(tmp_path, elsewhere):
    with pytest.raises(ValueError, match=f"in use by a run: process {elsewhere.pid} on node7"):
        take(tmp_path / "run")


def test_a_lock_that_another_machine_no_longer_renews_is_taken_over(
    tmp_path, elsewhere, monkeypatch, caplog
):
    elsewhere.kill()
    elsewhere.join()
    monkeypatch.setattr(lock, "HEARTBEAT", 0.1)
    monkeypatch.setattr(lock, "EXPIRY", 0.1)
    assert take(tmp_path / "run")["host"] == platform.node()
    named = f"took over the lock of process {elsewhere.pid} on node7"
    assert named in caplog.text


def test_a_run_whose_lock_was_taken_says_so_and_leaves_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    path = tmp_path / lock.LOCK
    with lock.locked(tmp_path):
        path.write_text('{"host": "node7"}')
        while "another run has taken" not in caplog.text:
            time.sleep(0.01)
    assert path.read_text() == '{"host": "node7"}'


ENDED, RUNNING = ("", 0), ("RUNNING\n", 0)
REQUEUED, FORGOTTEN = ("PENDING\n", 0), ("slurm_load_jobs error: Invalid job id specified\n", 1)


def job_lock(path, **values):
    """The lock of a process that renewed it just now, in job 7 on another machine."""
    entry = {"host": "node7", "process": 12, "since": "then", "run": "none", "cluster": "here"}
    path.write_text(json.dumps({**entry, "job": "7", "restarts": "0", "heartbeat": 15, **values}))


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Put a `squeue` that knows one state of job 7 alone first on the path."""

    def set_state(text, status):
        script = tmp_path / "bin" / "squeue"
        script.parent.mkdir(exist_ok=True)
        stream = "&2" if status else "&1"
        asked = '[[ "$*" == "--noheader --format=%T --jobs=7" ]] || exit 9'
        script.write_text(f"#!/bin/bash\n{asked}\nprintf %s '{text}' >{stream}\nexit {status}\n")
        script.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "here")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    return set_state


def refuse_to_wait(*_):
    pytest.fail("SLURM knows that the job has ended")


@pytest.mark.parametrize("state", [ENDED, REQUEUED, FORGOTTEN])
def test_the_lock_of_a_job_that_has_ended_is_taken_over_at_once(
    tmp_path, slurm, monkeypatch, state
):
    slurm(*state)
    job_lock(tmp_path / lock.LOCK)
    monkeypatch.setattr(lock, "_wait_for_renewal", refuse_to_wait)
    assert take(tmp_path)["job"] == "8"


def test_a_job_that_was_requeued_takes_over_its_own_lock_at_once(tmp_path, slurm, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    slurm(*RUNNING)
    job_lock(tmp_path / lock.LOCK)
    monkeypatch.setattr(lock, "_wait_for_renewal", refuse_to_wait)
    assert take(tmp_path)["restarts"] == "1"


@pytest.mark.parametrize(
    ("state", "values"), [(RUNNING, {}), (ENDED, {"cluster": "there"}), (("", 1), {})]
)
def test_a_lock_is_watched_where_slurm_does_not_know_that_its_job_has_ended(
    tmp_path, slurm, monkeypatch, state, values
):
    slurm(*state)
    job_lock(tmp_path / lock.LOCK, **values)
    monkeypatch.setattr(lock, "_wait_for_renewal", lambda *_: True)
    with pytest.raises(ValueError, match="in use by a run: process 12 on node7"):
        take(tmp_path)


def test_the_lock_of_another_machine_without_renewals_is_for_a_user_to_judge(tmp_path):
    path = tmp_path / lock.LOCK
    path.write_text(json.dumps({"host": "node7", "process": 12, "since": "then"}))
    with pytest.raises(ValueError, match="process 12 on node7, since then") as caught:
        take(tmp_path)
    assert str(caught.value).endswith(f"if that process has ended, remove {path}")
    path.unlink()
    assert take(tmp_path)["host"] == platform.node()


def test_torchrun_may_start_the_first_process_again_on_another_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 8")
    path = tmp_path / lock.LOCK
    path.write_text(json.dumps({"host": "node7", "process": 12, "since": "then", "run": "job 8"}))
    assert take(tmp_path)["host"] == platform.node()
    path.write_text(json.dumps({"host": "node7", "process": 12, "since": "then", "run": "job 7"}))
    with pytest.raises(ValueError, match="process 12 on node7"):
        take(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_lock_file_without_a_holder_is_taken_over(tmp_path, content):
    (tmp_path / lock.LOCK).write_text(content)
    assert take(tmp_path)["process"] == os.getpid()


def test_nothing_is_left_of_a_run_that_ends_also_by_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="of the run"), lock.locked(tmp_path / "run"):
        raise RuntimeError("of the run")
    assert list((tmp_path / "run").iterdir()) == []
