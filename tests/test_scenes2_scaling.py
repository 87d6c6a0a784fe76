"""benchmarks/scenes2_scaling.py: all budgets of a seed are one training up to their cooldowns."""

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest

from cosmos_core.engine.build import learning_rate, teacher_momentum
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def scaling(monkeypatch):
    """The command. The learning rates are chosen by the stored trainings, or else stated here."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("scenes2_scaling")
    monkeypatch.setattr(module.study, "choose_learning_rate", {"CLIP": "0.002"}.get)
    yield module
    for name in ("scenes2_scaling", "scenes2_study"):
        sys.modules.pop(name)


def test_budgets_of_a_ladder_share_their_steps_before_the_cooldown(scaling):
    jobs = scaling.ladder_jobs("CLIP", 1)
    assert [job.steps for job in jobs] == [10_000, 5_000, 2_500, 1_250, 625]
    largest, *others = [override(RECIPES["scenes_tiny"](), job.settings) for job in jobs]
    snapshots = range(0, largest.optim.steps + 1, largest.save.every)
    assert largest.save.keep >= len(snapshots) - 1
    for config in others:
        budget = {"steps": largest.optim.steps, "cooldown_steps": largest.optim.cooldown_steps}
        optim = dataclasses.replace(config.optim, **budget)
        assert dataclasses.replace(config, optim=optim) == largest
        branching_step = config.optim.steps - config.optim.cooldown_steps
        assert branching_step in snapshots
        for step in (0, 50, branching_step - 1):
            assert learning_rate(step, config.optim) == learning_rate(step, largest.optim)
            assert teacher_momentum(step, config.optim) == teacher_momentum(step, largest.optim)
        last_rate = learning_rate(config.optim.steps - 1, config.optim)
        assert last_rate < 0.1 * learning_rate(branching_step - 1, config.optim)


def test_trainings_have_names_of_their_own_and_a_group_per_method(scaling, monkeypatch):
    assert scaling.ladder_jobs("COSMOS", 0) == []  # its learning rate is not chosen
    rates = {"CLIP": "0.002", "COSMOS": "0.001"}
    monkeypatch.setattr(scaling.study, "choose_learning_rate", rates.get)
    jobs = scaling.all_jobs()
    assert len({job.name for job in jobs}) == len({job.results_folder for job in jobs}) == 30
    groups = {(job.method, job.group) for job in jobs}
    assert groups == {("CLIP", "scenes2-scaling-clip"), ("COSMOS", "scenes2-scaling-cosmos")}
    assert {job.learning_rate for job in jobs if job.method == "COSMOS"} == {"0.001"}
