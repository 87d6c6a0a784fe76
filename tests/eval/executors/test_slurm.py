"""Jobs through submitit, which starts them on this machine here, give what this process gives."""

from __future__ import annotations

from functools import partial

import pytest
import submitit

from cosmos_eval.runner.execute import engine_of
from cosmos_eval.runner.slurm import execute
from cosmos_eval.types import UsageError

pytestmark = pytest.mark.slow  # starts processes of its own


def test_a_killed_job_changes_nothing(run, deadly, tmp_path, monkeypatch):
    # How long submitit waits for the answer of a job that has ended, for the sake of slow disks.
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 1)
    found = run(tmp_path / "out", partial(execute, cluster="local"), deadly, in_part=True)
    assert found == run(tmp_path / "here", engine_of("local"), in_part=True)
    assert len(found.order) == 2
    assert int((tmp_path / "killed").read_text()) > 1


def test_without_slurm_one_line_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match='--executor slurm: Could not detect "srun"'):
        run(tmp_path / "out", engine_of("slurm"))
