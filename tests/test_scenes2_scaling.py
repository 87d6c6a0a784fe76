"""benchmarks/scenes2_scaling.py: all budgets of a seed are one training up to their cooldowns."""

import dataclasses

import pytest
from support.benchmark_modules import BENCHMARKS, import_benchmarks

from cosmos_core.engine.build import learning_rate, teacher_momentum
from cosmos_core.engine.loggers import LOG
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override


@pytest.fixture
def scaling(monkeypatch):
    """The command, with learning rates that are stated here."""
    rates = {"CLIP": "0.002", "COSMOS": "0.001"}
    with import_benchmarks("scenes2_scaling") as (module,):
        monkeypatch.setattr(module, "choose_learning_rates", lambda: rates)
        yield module


def test_budgets_of_a_ladder_share_their_steps_before_the_cooldown(scaling):
    jobs = scaling.ladder_jobs("CLIP", 1, "0.002")
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
    jobs = scaling.all_jobs()
    assert len({job.name for job in jobs}) == len({job.results_folder for job in jobs}) == 30
    groups = {(job.method, job.group) for job in jobs}
    assert groups == {("CLIP", "scenes2-scaling-clip"), ("COSMOS", "scenes2-scaling-cosmos")}
    assert {job.learning_rate for job in jobs if job.method == "COSMOS"} == {"0.001"}
    assert {job.results_folder.parent for job in jobs} == {BENCHMARKS / "scenes2" / "scaling"}
    assert {job.datasets for job in jobs} == {
        ("scenes2-select", "scenes2-beside", "scenes2-siblings", "scenes2-retrieval", "scenes2-cls")
    }
    assert not any(job.has_segmentation for job in jobs)
    monkeypatch.setattr(scaling, "choose_learning_rates", lambda: {"CLIP": "0.002"})
    assert {job.method for job in scaling.all_jobs()} == {"CLIP"}
    assert [job.seed for job in scaling.all_jobs()] == [0] * 5 + [1] * 5 + [2] * 5


def test_hours_left_count_only_the_steps_that_are_computed(scaling, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling.worker, "is_measured", lambda job: False)  # whatever is stored
    monkeypatch.setattr(scaling.worker, "_seconds_per_step", lambda jobs, output: {"CLIP": 3.6})
    jobs = scaling.ladder_jobs("CLIP", 0, "0.002")
    # 10,000 steps, and the cooldowns of the other budgets: 1,000 + 500 + 250 + 125.
    *lines, hours = scaling.worker.listing(jobs, tmp_path)
    assert [line.split()[1] for line in lines] == ["0/10000", "0/1000", "0/500", "0/250", "0/125"]
    assert hours.startswith("11.9 hours left")  # 11,875 steps of 3.6 seconds
    # The budget of 5,000 steps branches after 4,000, and has computed 300 steps.
    log = tmp_path / "clip-5000-steps-seed-0" / "run" / LOG
    log.parent.mkdir(parents=True)
    log.write_text('{"step": 4298}\n{"step": 4299}\n')
    _, second, *_, hours = scaling.worker.listing(jobs, tmp_path)
    assert second.split()[1] == "300/1000"
    assert hours.startswith("11.6 hours left")


def test_snapshots_of_the_largest_budget_stay_until_all_branches_succeed(
    scaling, tmp_path, monkeypatch
):
    monkeypatch.setattr(scaling, "is_measured", lambda job: False)
    jobs = scaling.ladder_jobs("CLIP", 0, "0.002")
    snapshots = tmp_path / jobs[0].name / "run" / "snapshots"
    starts = {}

    def train_and_measure(job, output, log, start=None):
        starts[job.steps] = start
        return job.steps not in failing_steps

    monkeypatch.setattr(scaling.worker, "train_and_measure", train_and_measure)
    for failing_steps, failed_names in (
        ({1_250}, ["clip-1250-steps-seed-0"]),
        ({10_000}, ["clip-10000-steps-seed-0"]),
        ((), []),
    ):
        starts.clear()
        snapshots.mkdir(parents=True, exist_ok=True)
        assert scaling.train_ladder(jobs, tmp_path, None) == failed_names
        assert snapshots.exists() == bool(failed_names)
        # Nothing can branch from a training that failed.
        assert len(starts) == (1 if 10_000 in failing_steps else 5)
    assert starts[10_000] is None
    assert starts[1_250] == snapshots / "step-00001000"
