"""What a run measures, a `Plan` made of `Job`s, and what it gives, `Result`s. Imports no torch."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Container, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_core.utils import environment
from cosmos_core.utils.files import require_writable
from cosmos_eval import types
from cosmos_eval.models.specs import BUNDLED, labelled, parse_auxiliary, parse_model_spec
from cosmos_eval.models.training import state_trainings
from cosmos_eval.protocols import embedded_protocols, prepare
from cosmos_eval.results.record import ResultRow
from cosmos_eval.runner.suites import read_suite, refuse_repeated
from cosmos_eval.tasks import find_protocol, task_for, task_named

Watch = Callable[[str, types.Progress], None]
"""Called with the names of model and data set, and their progress."""


def unwatched(what: str, progress: types.Progress) -> None:
    """The watch that shows nothing."""


class Pair(NamedTuple):
    """The key of one result: what results call a model, a data set and its protocol family."""

    model: str
    dataset: str
    family: str


def pair_of(spec: types.ModelSpec, protocol: types.Protocol) -> Pair:
    """Return the key of the result of a model on a data set."""
    return Pair(spec.called, protocol.dataset, protocol.family)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All models on all data sets."""

    specs: Sequence[types.ModelSpec]
    protocols: Sequence[types.Protocol]
    options: types.RunOptions

    @property
    def pairs(self) -> list[Pair]:
        """Every model with every data set, models outermost."""
        return [pair_of(spec, protocol) for spec in self.specs for protocol in self.protocols]


class Result(NamedTuple):
    """The result of one model on one data set, or the error for which there is none.

    `samples` follow metrics, None once they are stored in the files of `path`. `aside` is where the
    former result of another model of this name was moved.
    """

    pair: Pair
    row: ResultRow | None = None
    samples: types.Samples | None = None
    path: Path | None = None
    error: Exception | None = None
    aside: Path | None = None


class Dataset(NamedTuple):
    """A data set of a plan: its protocol and its opened data, or the error that opening raised.

    Pickled without its data, which another process opens itself.
    """

    protocol: types.Protocol
    data: Any = None
    error: Exception | None = None

    def __reduce__(self) -> tuple[type[Dataset], tuple[types.Protocol]]:
        return Dataset, (self.protocol,)


class Job(NamedTuple):
    """A model and the data sets that are measured in one pass over their images.

    It holds all that decides the results, and can be sent to another process. `output` None stores
    none. Paths are relative to `folder`, which all processes must have.
    """

    spec: types.ModelSpec
    datasets: tuple[Dataset, ...]
    options: types.RunOptions
    output: Path | None
    command: str
    folder: str

    def failed(self, error: Exception, done: int = 0) -> list[Result]:
        """Return results with an error, for all data sets but the first `done`."""
        missing = self.datasets[done:]
        return [Result(pair_of(self.spec, one.protocol), error=error) for one in missing]


def make_plan(
    *,
    suite: str | None = None,
    task: str = "all",
    datasets: Sequence[str] = (),
    families: Sequence[str] = (),
    models: Sequence[str] = (),
    names: Sequence[str | None] = (),
    arch: str | None = None,
    weights: types.Weights = "teacher",
    trainings: Path | None = None,
    options: types.RunOptions | None = None,
) -> Plan:
    """Make a plan from names as they are typed; without names, the bundled models and data sets.

    Every data set is measured by its protocol of every family, without families by its usual one.
    `suite` names data sets instead, and models where `models` does not. `names` are what results
    call the models, one each. `trainings` is a file that states how models were trained. Raises
    UsageError for unknown names, repetitions, a data set of another task, and options that
    contradict each other.
    """
    options = options or types.RunOptions()
    if options.overlays and options.save_predictions is None:
        raise types.UsageError("--overlays needs --save-predictions DIR: where the pictures go")
    if suite is None:
        protocols = _choose_protocols(task, datasets, families)
    elif task != "all" or datasets or families:
        raise types.UsageError(
            "--suite names data sets: leave --task, --dataset and --protocol out"
        )
    else:
        named = read_suite(suite, with_models=not models)
        if not models:
            models, names = named.models, names or named.names
        protocols = named.protocols
        if not models:
            raise types.UsageError(f"suite {suite} names no models: name one with --model SPEC")
    specs = model_specs(models or BUNDLED, names, arch, weights, trainings)
    if options.auxiliary is not None:
        _require_guidable(options.auxiliary, protocols)
    refuse_repeated([f"{protocol.dataset} ({protocol.family})" for protocol in protocols])
    streamed = [protocol.family for protocol in protocols if options.streams(protocol)]
    if options.stream and not streamed:
        raise types.UsageError("--stream is for archives of the hub (wds/NAME), and none is named")
    for family in (name for name in streamed if name != types.base_family(name)):
        raise types.UsageError(f"{family} needs images twice: --stream cannot do that")
    return Plan(specs=specs, protocols=protocols, options=options)


def model_specs(
    models: Sequence[str],
    names: Sequence[str | None] = (),
    arch: str | None = None,
    weights: types.Weights = "teacher",
    trainings: Path | None = None,
) -> list[types.ModelSpec]:
    """Return models as `make_plan` names them. Raises UsageError for unknown or repeated ones."""
    specs = [parse_model_spec(text, arch=arch, weights=weights) for text in models]
    refuse_repeated([spec.text for spec in specs])
    specs = labelled(specs, names)
    refuse_repeated([spec.called for spec in specs])
    return specs if trainings is None else state_trainings(trainings, specs)


def _require_guidable(auxiliary: str, protocols: Sequence[types.Protocol]) -> None:
    parse_auxiliary(auxiliary)
    for protocol in protocols:
        if task_for(protocol).attention(protocol) is None:
            raise types.UsageError(
                f"--auxiliary guides segmentation and localisation alone, and {protocol.dataset} "
                f"is of task {protocol.task}: add --task seg, or name data sets"
            )


def _choose_protocols(
    task: str, datasets: Sequence[str], families: Sequence[str]
) -> Sequence[types.Protocol]:
    if task != "all":
        task_named(task)
    if families and not datasets:
        raise types.UsageError("--protocol needs --dataset: the data sets to be measured by it")
    if not datasets:
        known = embedded_protocols(on_request=task != "all")
        embedded = [protocol for protocol in known if task in ("all", protocol.task)]
        if not embedded:
            message = f"no embedded data set is of task {task}: name one with --dataset"
            raise types.UsageError(message)
        return embedded
    wanted: Sequence[str | None] = families or [None]
    protocols = [find_protocol(name, family) for name in datasets for family in wanted]
    for protocol in protocols:
        if task not in ("all", protocol.task):
            raise types.UsageError(
                f"{protocol.dataset} is a data set of task {protocol.task}, not {task}: "
                "leave --task out"
            )
    return protocols


def require_data_root(protocol: types.Protocol, options: types.RunOptions) -> None:
    """Raise UsageError where a data set needs a data root that is not named or does not exist."""
    name, root = protocol.dataset, options.data_root
    if protocol.root is not None or protocol.repository is not None:
        return
    if root is None:
        raise types.UsageError(f"{name} is not embedded: name its folder with --data-root DIR")
    if not Path(root).is_dir():
        raise types.UsageError(f"{name}: no folder {root}, see --data-root")


def require_outputs(options: types.RunOptions, output: Path | None) -> None:
    """Raise UsageError where results, predictions or the cache could not be written."""
    for name, folder in (
        ("--output", None if output is None else str(output)),
        ("--save-predictions", options.save_predictions),
        ("COSMOS_EVAL_CACHE (--no-cache does without)", options.cache),
    ):
        try:
            if folder is not None:
                require_writable(Path(folder))
        except ValueError as error:
            raise types.UsageError(f"{error}; choose another folder by {name}") from error


def open_datasets(plan: Plan, watch: Watch = unwatched, *, raising: bool = True) -> list[Dataset]:
    """Check and open every data set of a plan; without `raising`, return errors in their place.

    Raises UsageError for a data set whose folder is not named or does not exist.
    """
    datasets, count = [], len(plan.protocols)
    for protocol in plan.protocols:
        require_data_root(protocol, plan.options)
    for done, protocol in enumerate(plan.protocols):
        watch("data", types.Progress("check", done, count))
        try:
            datasets.append(open_dataset(protocol, plan.options))
        except Exception as error:
            if raising:
                raise
            datasets.append(Dataset(protocol, error=error))
    watch("data", types.Progress("check", count, count))
    return datasets


def open_dataset(
    protocol: types.Protocol, options: types.RunOptions, *, check: bool = True
) -> Dataset:
    """Make or download what is missing in the main process, then open it in all, and check that
    its task can be measured on it."""
    task, processes = task_for(protocol), options.distributed
    processes.main_process_first(partial(prepare, protocol))
    streamed = options.streams(protocol)
    if options.download and not streamed:
        processes.main_process_first(partial(task.fetch, protocol, options))
    if protocol.repository is not None:
        from cosmos_eval.data import hub  # which imports the hub's client

        folder = hub.fetch_texts if streamed else hub.dataset_folder
        protocol = processes.synchronized(partial(hub.pinned, protocol, folder))
    if streamed:
        return Dataset(protocol)  # opened while it is measured
    data = processes.synchronized(partial(task.open_data, protocol, options))
    if check:
        processes.synchronized(partial(task.check, protocol, options, data))
    return Dataset(protocol, data)


def jobs_of(
    plan: Plan, datasets: Sequence[Dataset], skip: Container[Pair] = (), output: Path | None = None
) -> list[Job]:
    """Return the jobs of a plan without the pairs to be skipped, models outermost.

    Data sets that are measured in one pass take the place of the first of them.
    """
    common = plan.options, output, environment.command_line(), os.getcwd()
    jobs = []
    for spec in plan.specs:
        groups: dict[Hashable, list[Dataset]] = defaultdict(list)
        for dataset in datasets:
            protocol = dataset.protocol
            if pair_of(spec, protocol) not in skip:
                image_pass = task_for(protocol).image_pass(protocol, plan.options, dataset.data)
                groups[protocol.task, image_pass].append(dataset)
        jobs += [Job(spec, tuple(group), *common) for group in groups.values()]
    return jobs
