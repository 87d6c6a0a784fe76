"""What is asked of every engine, and what is made of its answers."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import cloudpickle
import pytest

from cosmos_core.utils.distributed import SINGLE_PROCESS
from cosmos_eval.protocols import known_families, known_protocols
from cosmos_eval.runner.batch import Failed, Stored, execute
from cosmos_eval.runner.executors import engine_of
from cosmos_eval.runner.executors.worker import Numbered, Outcome
from cosmos_eval.types import UsageError

from .conftest import plan_of


@pytest.fixture
def plan(datasets, tmp_path):
    """Two models, three tasks each: the two segmentations are one."""
    return plan_of(datasets, tmp_path, SINGLE_PROCESS)


def backwards(tasks, watch):
    """An engine that knows the last task's outcome first."""
    for number, task in reversed([*enumerate(tasks)]):
        paths = tuple(Path(protocol.dataset) for protocol in task.job.protocols)
        yield Numbered(number, Outcome(paths))


def test_results_are_told_in_the_order_of_the_plan(plan, tmp_path):
    events = list(execute(plan, tmp_path, backwards))
    sets = ["segmented", "again", "named", "found"]
    assert [str(event.path) for event in events] == sets * 2
    assert [event.pair.model for event in events] == [plan.specs[n // 4].text for n in range(8)]


class Failing:
    """An engine whose second task fails first, after one of its two protocols."""

    closed = False

    def __call__(self, tasks, watch):
        try:
            yield Numbered(1, Outcome((), UsageError("no such\nimage")))
            yield Numbered(0, Outcome((Path("segmented"),), ValueError("odd")))
            yield from (Numbered(n, Outcome((Path("x"),))) for n in (2, 4, 5))
            yield Numbered(3, Outcome((Path("x"), Path("y"))))
        finally:
            self.closed = True


def test_the_first_failure_ends_all_at_once(plan, tmp_path):
    engine = Failing()
    events = execute(plan, tmp_path, engine)
    with pytest.raises(UsageError, match="no such"):
        next(events)
    assert engine.closed


def test_or_it_is_told_in_its_place(plan, tmp_path):
    events = list(execute(plan, tmp_path, Failing(), keep_going=True))
    assert [type(event) for event in events[:3]] == [Stored, Failed, Failed]
    (again,), (named,) = events[1].pairs, events[2].pairs
    assert (again.dataset, events[1].reason) == ("again", "ValueError: odd")
    assert (named.dataset, events[2].reason) == ("named", "no such image")
    assert len(events) == 3 + 1 + 2 + 1 + 1


def test_every_known_protocol_can_be_sent_to_another_process():
    for name in known_protocols():
        for protocol in known_families(name).values():
            assert pickle.loads(cloudpickle.dumps(protocol)) == protocol


@pytest.mark.parametrize(("executor", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed(executor, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"cosmos_eval.runner.executors.{executor}", raising=False)
    with pytest.raises(UsageError, match=rf"pip install 'cosmos-eval\[{executor}\]'"):
        engine_of(executor)
