"""Jobs through submitit, which starts them on this machine here, give what this process gives."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import submitit

from cosmos_eval.runner import slurm
from cosmos_eval.runner.execute import engine_of
from cosmos_eval.runner.slurm import execute
from cosmos_eval.types import CosmosEvalError, UsageError

pytestmark = pytest.mark.slow  # starts processes of its own


def test_a_killed_job_changes_nothing(run, deadly, tmp_path, monkeypatch):
    # How long submitit waits for the answer of a job that has ended, for the sake of slow disks.
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 1)
    measured_after_kill = run(
        tmp_path / "out", partial(execute, cluster="local"), deadly, in_part=True
    )
    assert measured_after_kill == run(tmp_path / "here", engine_of("local"), in_part=True)
    assert len(measured_after_kill.order) == 2
    assert int((tmp_path / "killed").read_text()) > 1


def test_without_slurm_one_line_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match='--executor slurm: Could not detect "srun"'):
        run(tmp_path / "out", engine_of("slurm"))


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes SLURM's commands: what sbatch and sacct do, in the words of a shell. Jobs never run,
    and scancel notes the ids that it gets in `cancelled`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def write(sbatch: str, sacct: str) -> None:
        scancel = f"echo $1 >> {tmp_path}/cancelled"
        scripts = {"srun": "true", "sbatch": sbatch, "sacct": sacct, "scancel": scancel}
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

    return write


def table(state: str) -> str:
    """Return the command that prints a state of a job, alone or as an array, as sacct does."""
    rows = "".join(f"{job}|{state}|node1\\n" for job in ("12", "12_0", "12_1"))
    return f"printf 'JobID|State|NodeList\\n{rows}'"


def test_a_preempted_job_that_is_not_queued_again_ends_the_wait(
    run, commands, tmp_path, monkeypatch
):
    monkeypatch.setattr(slurm, "_REQUEUE_SECONDS", 0)
    monkeypatch.setattr(slurm, "RETRIES", 0)
    commands("echo Submitted batch job 12", table("PREEMPTED"))
    with pytest.raises(CosmosEvalError, match=r"job 12.* is PREEMPTED and was not queued again"):
        run(tmp_path / "out", engine_of("slurm"), in_part=True)


def test_a_preempted_job_is_submitted_again(run, commands, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "_REQUEUE_SECONDS", 0)
    count = f"echo >> {tmp_path}/submitted; echo Submitted batch job 12"
    commands(count, table("PREEMPTED"))
    with pytest.raises(CosmosEvalError, match=r"no result after 3 retries: job 12"):
        run(tmp_path / "out", engine_of("slurm"), in_part=True)
    assert len((tmp_path / "submitted").read_text().splitlines()) >= 1 + slurm.RETRIES


@pytest.mark.parametrize(
    ("sbatch", "message"),
    [
        ("echo Welcome to the cluster", "Could not make sense of sbatch output"),
        ("echo 'no such partition: gpu' >&2; exit 1", "sbatch: no such partition: gpu"),
        ("exit 1", "sbatch: it failed without a message"),
        ("echo one; echo two >&2; exit 1", "sbatch: two"),
    ],
)
def test_nonsense_of_sbatch_is_one_line(sbatch, message, run, commands, tmp_path, capfd):
    commands(sbatch, table("RUNNING"))
    with pytest.raises(UsageError, match=f"--executor slurm: .*{message}") as raised:
        run(tmp_path / "out", engine_of("slurm"), in_part=True)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "sacct", ["echo Database is down; echo please wait", "printf 'A|B\\n1|2\\n'"]
)
def test_nonsense_of_sacct_is_one_line(sacct, run, commands, tmp_path):
    commands("echo Submitted batch job 12", sacct)
    message = "--executor slurm: sacct prints no table of jobs: "
    with pytest.raises(UsageError, match=message) as raised:
        run(tmp_path / "out", engine_of("slurm"), in_part=True)
    assert "\n" not in str(raised.value)
    assert "12" in (tmp_path / "cancelled").read_text()
