"""A Ray cluster of two workers gives what this process gives, even if one is killed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cosmos_core.utils.distributed import SINGLE_PROCESS
from cosmos_eval.runner.execute import engine_of, execute
from cosmos_eval.runner.ray import connected

from .conftest import ARCH, MODELS, plan_of, written

pytestmark = pytest.mark.slow  # starts processes of its own


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with connected(processors=2):
        yield


def test_a_killed_worker_changes_nothing(run, here, deadly, tmp_path):
    assert run(tmp_path / "out", engine_of("ray"), deadly) == here
    assert int((tmp_path / "killed").read_text()) > 1


def test_the_command_prints_what_a_run_here_prints(datasets, here, tmp_path, command):
    models = [word for model in MODELS for word in ("--model", model)]
    sets = [word for name in datasets for word in ("--dataset", name)]
    done = command(
        *("run", "--executor", "ray", "--json", "--no-cache", "--device", "cpu"),
        *("--output", tmp_path, "--arch", ARCH, "--workers", "1", *models, *sets),
    )
    assert not done.status
    printed = json.loads(done.out)
    named = [(row["model"]["spec"], row["dataset"], row["protocol"]) for row in printed]
    assert named == [(model, Path(name).stem, "user") for model in MODELS for name in datasets]
    assert written(tmp_path) == (here.results, here.samples)
    # Not that of the worker process.
    assert {row["provenance"]["command"].split()[0] for row in printed} == {Path(sys.argv[0]).name}


def test_what_fails_elsewhere_is_reported_here(datasets, tmp_path, capfd):
    plan = plan_of(datasets[1:2], tmp_path, SINGLE_PROCESS)
    good, spoilt = plan.specs
    # No result can be written where a folder has the name of its file.
    (tmp_path / f"{spoilt.text}__named__user.json").mkdir()
    (stored,), (failed,) = execute(plan, tmp_path, engine_of("ray"), keep_going=True)
    assert (stored.pair.model, stored.error) == (good.text, None)
    assert failed.pair.model == spoilt.text
    assert str(failed.error) == f"cannot write results to {tmp_path}: Is a directory"
    assert capfd.readouterr() == ("", "")
