"""What a run measures: models on data sets. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cosmos_eval.models.specs import BUNDLED, parse_model_spec
from cosmos_eval.protocols import embedded_on_request, embedded_protocols
from cosmos_eval.tasks import find_protocol, task_named, task_of
from cosmos_eval.types import (
    ModelSpec,
    Precision,
    Protocol,
    RunOptions,
    UsageError,
    Weights,
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the models run on. `auto` is the first CUDA device, or the CPU where there is none."""

    device: str = "auto"
    precision: Precision = "fp32"


class Pair(NamedTuple):
    """What one result is of: a model as it was named, a data set and its protocol family."""

    model: str
    dataset: str
    family: str


def pair_of(spec: ModelSpec, protocol: Protocol) -> Pair:
    """The model and the data set by their names."""
    return Pair(spec.text, protocol.dataset, protocol.family)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All models on all data sets."""

    specs: Sequence[ModelSpec]
    protocols: Sequence[Protocol]
    options: RunOptions = field(default_factory=RunOptions)
    machine: Machine = field(default_factory=Machine)

    @property
    def pairs(self) -> list[Pair]:
        """Every model with every data set, models outermost."""
        return [pair_of(spec, protocol) for spec in self.specs for protocol in self.protocols]


def make_plan(
    *,
    task: str = "all",
    datasets: Sequence[str] = (),
    families: Sequence[str] = (),
    models: Sequence[str] = (),
    arch: str | None = None,
    weights: Weights = "teacher",
    options: RunOptions | None = None,
    machine: Machine | None = None,
) -> Plan:
    """A plan from names as they are typed; none: the bundled models, the embedded data sets.

    Every data set is measured by its protocol of every family; none: by its usual protocol.
    `task` may be `all`. Raises UsageError for unknown names and for a data set of another task.
    """
    return plan_of(
        choose_protocols(task, datasets, families),
        models=models,
        arch=arch,
        weights=weights,
        options=options,
        machine=machine,
    )


def plan_of(
    protocols: Sequence[Protocol],
    *,
    models: Sequence[str] = (),
    arch: str | None = None,
    weights: Weights = "teacher",
    options: RunOptions | None = None,
    machine: Machine | None = None,
) -> Plan:
    """A plan from protocols and names of models as they are typed; none: the bundled models.

    Raises UsageError for unknown models, repetitions, and options that contradict each other.
    """
    options = options or RunOptions()
    if options.overlays and options.save_predictions is None:
        raise UsageError("--overlays needs --save-predictions DIR: where the pictures go")
    specs = [parse_model_spec(text, arch=arch, weights=weights) for text in models or BUNDLED]
    _refuse_repeated([spec.text for spec in specs])
    _refuse_repeated([f"{protocol.dataset} ({protocol.family})" for protocol in protocols])
    return Plan(specs=specs, protocols=protocols, options=options, machine=machine or Machine())


def require_folders(plan: Plan) -> None:
    """Raise UsageError for a data set whose folder the user has to name, and has not."""
    for protocol in plan.protocols:
        data_folder(protocol, plan.options)


def data_folder(protocol: Protocol, options: RunOptions) -> Path:
    """The folder that a data set's paths are relative to. Raises UsageError where it cannot be."""
    if protocol.root is not None:
        return Path(protocol.root)
    if options.data_root is None:
        raise UsageError(
            f"{protocol.dataset} is not embedded: say where it lies with --data-root DIR"
        )
    if not Path(options.data_root).is_dir():
        raise UsageError(f"{protocol.dataset}: no folder {options.data_root}, see --data-root")
    return Path(options.data_root)


def choose_protocols(task: str, datasets: Sequence[str], families: Sequence[str]) -> list[Protocol]:
    """The protocols that `make_plan` names; raises as it does."""
    if task != "all":
        task_named(task)
    if not datasets:
        if families:
            raise UsageError("--protocol needs --dataset: which data sets are to be measured by it")
        if task == "all":
            return list(embedded_protocols())
        known = [*embedded_protocols(), *embedded_on_request()]
        embedded = [protocol for protocol in known if task_of(protocol) == task]
        if not embedded:
            raise UsageError(f"no embedded data set is of task {task}: name one with --dataset")
        return embedded
    wanted: Sequence[str | None] = families or [None]
    protocols = [find_protocol(name, family) for name in datasets for family in wanted]
    for protocol in protocols:
        if task not in ("all", task_of(protocol)):
            raise UsageError(
                f"{protocol.dataset} is a data set of task {task_of(protocol)}, not {task}: "
                "leave --task out"
            )
    return protocols


def _refuse_repeated(names: Sequence[str]) -> None:
    """The second result of a name would replace the first one."""
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name} is given twice")
