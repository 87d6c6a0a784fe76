"""The lock of an output folder: which run holds it, and when another run takes it over."""

import json
import os
import platform
import time
from typing import NamedTuple

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
    """Take the lock of a folder for a moment, and return what its file says."""
    with lock.locked(output):
        return json.loads((output / lock.LOCK).read_text())


def disable_system_lock(monkeypatch):
    """Let the lock of the file system never refuse, as if the holder were on another machine."""

    def take_without_refusal(handle):
        return None

    monkeypatch.setattr(lock, "_take_system_lock", take_without_refusal)


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
    disable_system_lock(monkeypatch)
    entry = {"host": platform.node(), "process": process, "since": "then", "run": "none"}
    (tmp_path / lock.LOCK).write_text(json.dumps(entry))
    assert take(tmp_path)["process"] == os.getpid()


@pytest.fixture
def remote_holder(tmp_path, monkeypatch):
    """A living process that holds the lock of the folder `run` as if on another machine.

    The locks of the file system do not reach this machine.
    """
    ready = context.Queue()
    process = context.Process(target=hold_elsewhere, args=(tmp_path / "run", ready))
    process.start()
    ready.get(timeout=60)
    disable_system_lock(monkeypatch)
    yield process
    process.kill()
    process.join()


def test_a_lock_that_another_machine_renews_is_refused(tmp_path, remote_holder):
    with pytest.raises(ValueError, match=f"in use by a run: process {remote_holder.pid} on node7"):
        take(tmp_path / "run")


def test_a_lock_that_another_machine_no_longer_renews_is_taken_over(
    tmp_path, remote_holder, monkeypatch, caplog
):
    remote_holder.kill()
    remote_holder.join()
    monkeypatch.setattr(lock, "HEARTBEAT", 0.1)
    monkeypatch.setattr(lock, "EXPIRY", 0.1)
    assert take(tmp_path / "run")["host"] == platform.node()
    assert f"took over the lock of process {remote_holder.pid} on node7" in caplog.text


def test_a_run_whose_lock_was_taken_says_so_and_leaves_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    path = tmp_path / lock.LOCK
    with lock.locked(tmp_path):
        path.write_text('{"host": "node7"}')
        while "another run has taken" not in caplog.text:
            time.sleep(0.01)
    assert path.read_text() == '{"host": "node7"}'


class Answer(NamedTuple):
    """What `squeue` answers when it is asked for the state of a job."""

    text: str  # on standard output, or on standard error if the status is not 0
    status: int


ENDED, RUNNING, REQUEUED = Answer("", 0), Answer("RUNNING\n", 0), Answer("PENDING\n", 0)
FORGOTTEN = Answer("slurm_load_jobs error: Invalid job id specified\n", 1)
FAILED = Answer("", 1)


def write_job_lock(path, **values):
    """Write the lock of a process that renewed it just now, in job 7 on another machine."""
    entry = {
        "host": "node7",
        "process": 12,
        "since": "then",
        "run": "none",
        "cluster": "here",
        "job": "7",
        "restarts": "0",
        "heartbeat": 15,
    }
    path.write_text(json.dumps({**entry, **values}))


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A function that sets the answer of `squeue`, which is only asked for the state of job 7.

    This process is part of job 8.
    """

    def set_answer(answer):
        script = tmp_path / "bin" / "squeue"
        script.parent.mkdir(exist_ok=True)
        stream = "&2" if answer.status else "&1"
        lines = [
            "#!/bin/bash",
            '[[ "$*" == "--noheader --format=%T --jobs=7" ]] || exit 9',
            f"printf %s '{answer.text}' >{stream}",
            f"exit {answer.status}",
        ]
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "here")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    return set_answer


def refuse_to_wait(*_):
    pytest.fail("SLURM knows that the job has ended")


@pytest.mark.parametrize(
    "answer", [ENDED, REQUEUED, FORGOTTEN], ids=["ended", "requeued", "forgotten"]
)
def test_the_lock_of_a_job_that_has_ended_is_taken_over_at_once(
    tmp_path, slurm, monkeypatch, answer
):
    slurm(answer)
    write_job_lock(tmp_path / lock.LOCK)
    monkeypatch.setattr(lock, "_wait_for_renewal", refuse_to_wait)
    assert take(tmp_path)["job"] == "8"


def test_a_job_that_was_requeued_takes_over_its_own_lock_at_once(tmp_path, slurm, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    slurm(RUNNING)
    write_job_lock(tmp_path / lock.LOCK)
    monkeypatch.setattr(lock, "_wait_for_renewal", refuse_to_wait)
    assert take(tmp_path)["restarts"] == "1"


@pytest.mark.parametrize(
    ("answer", "cluster"),
    [(RUNNING, "here"), (ENDED, "there"), (FAILED, "here")],
    ids=["running", "of another cluster", "squeue fails"],
)
def test_a_lock_is_watched_if_slurm_does_not_know_that_its_job_has_ended(
    tmp_path, slurm, monkeypatch, answer, cluster
):
    def is_renewed(*_):
        return True

    slurm(answer)
    write_job_lock(tmp_path / lock.LOCK, cluster=cluster)
    monkeypatch.setattr(lock, "_wait_for_renewal", is_renewed)
    with pytest.raises(ValueError, match="in use by a run: process 12 on node7"):
        take(tmp_path)


def test_a_user_must_remove_the_lock_of_another_machine_that_has_no_renewals(tmp_path):
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


def test_a_lock_is_removed_if_the_run_ends_with_an_error(tmp_path):
    def write_and_fail():
        (tmp_path / "run" / "log.txt").touch()
        raise RuntimeError("of the run")

    with pytest.raises(RuntimeError, match="of the run"), lock.locked(tmp_path / "run"):
        write_and_fail()
    assert list((tmp_path / "run").iterdir()) == [tmp_path / "run" / "log.txt"]


@pytest.mark.parametrize("existed", [False, True])
def test_a_run_that_writes_nothing_leaves_no_new_folder(tmp_path, existed):
    output = tmp_path / "run"
    if existed:
        output.mkdir()
    with lock.locked(output):
        assert output.is_dir()
    assert output.exists() == existed
    assert list(output.glob("*")) == []
