"""The results of every engine are reported in the order of the plan."""

from __future__ import annotations

import pickle
import sys
from itertools import chain
from pathlib import Path

import cloudpickle
import pytest

from cosmos_core.utils.distributed import SINGLE_PROCESS
from cosmos_eval.protocols import named_protocols, protocols_of_dataset
from cosmos_eval.protocols.sets import set_names
from cosmos_eval.runner.execute import engine_of, execute, reason_of
from cosmos_eval.runner.plan import Result, pair_of
from cosmos_eval.types import UsageError

from .conftest import plan_of


@pytest.fixture
def plan(datasets, tmp_path):
    """Two models, three tasks each: the two segmentations are one."""
    return plan_of(datasets, tmp_path, SINGLE_PROCESS)


def done(job, count=None):
    """Results of the first protocols of a job, of all by default."""
    protocols = [dataset.protocol for dataset in job.datasets[:count]]
    return [
        Result(pair_of(job.spec, protocol), path=Path(protocol.dataset)) for protocol in protocols
    ]


def backwards(jobs, show_progress):
    """An engine whose last job ends first."""
    for index, job in reversed([*enumerate(jobs)]):
        yield index, done(job)


def test_results_come_in_the_order_of_the_plan(plan, tmp_path):
    results = list(chain(*execute(plan, tmp_path, backwards)))
    sets = ["segmented", "again", "named", "found"]
    assert [str(result.path) for result in results] == sets * 2
    assert [result.pair.model for result in results] == [plan.specs[n // 4].text for n in range(8)]


class Failing:
    """An engine whose second job fails first; the first job fails after one of two protocols."""

    closed = False

    def __call__(self, jobs, show_progress):
        try:
            yield 1, jobs[1].failed(UsageError("no such\nimage"))
            yield 0, done(jobs[0], 1) + jobs[0].failed(ValueError("odd"), 1)
            yield from ((n, done(jobs[n])) for n in (2, 4, 5, 3))
        finally:
            self.closed = True


def test_the_first_failure_ends_all_at_once(plan, tmp_path):
    engine = Failing()
    with pytest.raises(UsageError) as ended:
        next(execute(plan, tmp_path, engine))
    assert str(ended.value) == "no such\nimage (--keep-going measures the other results)"
    assert engine.closed


@pytest.mark.parametrize(("failed_model", "hint"), [(0, True), (1, False)])
def test_a_model_that_cannot_be_loaded_is_skipped_only_if_another_one_is_left(
    plan, tmp_path, failed_model, hint
):
    """The plan has two models, and three jobs of each."""

    def fail_to_load(jobs, show_progress):
        for index in range(3 * failed_model):
            yield index, done(jobs[index])
        index = 3 * failed_model
        yield index, jobs[index].failed(UsageError("no weights"), is_load_error=True)

    with pytest.raises(UsageError) as ended:
        list(execute(plan, tmp_path, fail_to_load))
    assert ("--keep-going" in str(ended.value)) == hint


def test_a_failure_of_the_last_job_does_not_mention_other_results(plan, tmp_path):
    def fail_last(jobs, show_progress):
        yield from ((n, done(job)) for n, job in enumerate(jobs[:-1]))
        yield len(jobs) - 1, jobs[-1].failed(UsageError("no image"))

    with pytest.raises(UsageError) as ended:
        list(execute(plan, tmp_path, fail_last))
    assert str(ended.value) == "no image"


def test_or_it_is_reported_in_its_place(plan, tmp_path):
    batches = list(execute(plan, tmp_path, Failing(), keep_going=True))
    (segmented,), (again,), (named,) = batches[:3]
    assert (segmented.pair.dataset, segmented.error) == ("segmented", None)
    assert (again.pair.dataset, reason_of(again.error)) == ("again", "ValueError: odd")
    assert (named.pair.dataset, reason_of(named.error)) == ("named", "no such image")
    assert len(list(chain(*batches))) == 8


def test_every_known_protocol_can_be_sent_to_another_process():
    for name in (*named_protocols(), *set_names()):
        for protocol in protocols_of_dataset(name).values():
            assert pickle.loads(cloudpickle.dumps(protocol)) == protocol


@pytest.mark.parametrize(("executor", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed(executor, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"cosmos_eval.runner.{executor}", raising=False)
    with pytest.raises(UsageError, match=rf"pip install 'cosmos-eval\[{executor}\]'"):
        engine_of(executor)
