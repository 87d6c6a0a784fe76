"""A plan carried out by an engine, result by result, up to the first failure or past it."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cosmos_core.utils.environment import command_line
from cosmos_core.utils.files import require_writable
from cosmos_eval.runner.executors import Engine
from cosmos_eval.runner.executors.worker import Numbered, Outcome, Task
from cosmos_eval.runner.plan import Pair, Plan, pair_of, require_folders
from cosmos_eval.runner.run import Fault, Job, Watch, data_faults, jobs_of, unwatched
from cosmos_eval.types import CosmosEvalError, Protocol, RunOptions, UsageError


class Stored(NamedTuple):
    """A pair was measured, and its result is on the disk."""

    pair: Pair
    path: Path


class Failed(NamedTuple):
    """Pairs have no result, for one reason."""

    pairs: tuple[Pair, ...]
    reason: str


def execute(
    plan: Plan,
    output: Path,
    engine: Engine,
    *,
    skip: Container[Pair] = (),
    keep_going: bool = False,
    watch: Watch = unwatched,
) -> Iterator[Stored | Failed]:
    """Measure and store what of a plan is not to be skipped, in the plan's order.

    The folders that are written, then the data of every data set, are looked at first. With
    `keep_going` failures are yielded. Otherwise the first one is raised; several data sets that
    cannot be measured on are yielded before UsageError is.
    """
    plan = _needed(plan, skip)
    require_folders(plan)
    if plan.specs:
        plan.options.distributed.main_process_first(partial(_require_outputs, plan.options, output))
    faults = list(data_faults(plan, watch))
    if len(faults) == 1 and not keep_going:
        raise faults[0].error
    for fault in faults:
        yield _failed_data(plan, fault, skip)
    if faults and not keep_going:
        raise UsageError(
            f"{len(faults)} of {len(plan.protocols)} data sets cannot be measured on; nothing was "
            "measured (--keep-going measures on the others)"
        )
    faulty = [fault.protocol for fault in faults]
    plan = replace(plan, protocols=[p for p in plan.protocols if not _is_in(p, faulty)])
    jobs = plan.options.distributed.synchronized(partial(jobs_of, plan, skip))
    command, folder = command_line(), os.getcwd()
    tasks = [Task(job, plan.options, plan.machine, output, command, folder) for job in jobs]
    if not tasks:
        return
    with closing(engine(tasks, watch)) as outcomes:
        for number, outcome in _in_order(outcomes, raising=not keep_going):
            yield from _events(jobs[number], outcome)


def _require_outputs(options: RunOptions, output: Path) -> None:
    """Raise UsageError where the results of a run or what it keeps could not be written."""
    for name, folder in (
        ("--output", str(output)),
        ("--save-predictions", options.save_predictions),
        ("COSMOS_EVAL_CACHE (--no-cache does without)", options.cache),
    ):
        try:
            if folder is not None:
                require_writable(Path(folder))
        except ValueError as error:
            raise UsageError(f"{error}; choose another folder by {name}") from error


def _needed(plan: Plan, skip: Container[Pair]) -> Plan:
    """The plan without models and data sets that nothing is to be measured of."""
    wanted = [pair for pair in plan.pairs if pair not in skip]
    models = {pair.model for pair in wanted}
    sets = {pair[1:] for pair in wanted}
    return replace(
        plan,
        specs=[spec for spec in plan.specs if spec.text in models],
        protocols=[p for p in plan.protocols if (p.dataset, p.family) in sets],
    )


def _failed_data(plan: Plan, fault: Fault, skip: Container[Pair]) -> Failed:
    pairs = (pair_of(spec, fault.protocol) for spec in plan.specs)
    return Failed(tuple(pair for pair in pairs if pair not in skip), reason_of(fault.error))


def _is_in(protocol: Protocol, some: Iterable[Protocol]) -> bool:
    return any(protocol is one for one in some)


def _in_order(outcomes: Iterator[Numbered], *, raising: bool) -> Iterator[Numbered]:
    """Outcomes in the order of their numbers; with `raising` an error as soon as it is known."""
    waiting: dict[int, Outcome] = {}
    following = 0
    for number, outcome in outcomes:
        if raising and outcome.error is not None:
            raise outcome.error
        waiting[number] = outcome
        while following in waiting:
            yield Numbered(following, waiting.pop(following))
            following += 1


def _events(job: Job, outcome: Outcome) -> Iterator[Stored | Failed]:
    pairs = [pair_of(job.spec, protocol) for protocol in job.protocols]
    yield from map(Stored, pairs, outcome.stored)
    if outcome.error is not None:
        yield Failed(tuple(pairs[len(outcome.stored) :]), reason_of(outcome.error))


def reason_of(error: Exception) -> str:
    """An error in one line; its kind, where it is none of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, CosmosEvalError) else f"{type(error).__name__}: {text}"
