"""The plan of a run, the jobs that it consists of, and their results. Imports no torch."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_core.utils import environment
from cosmos_core.utils.files import require_writable
from cosmos_eval import types
from cosmos_eval.models.specs import BUNDLED, parse_auxiliary, parse_model_spec, with_labels
from cosmos_eval.models.training import state_trainings
from cosmos_eval.protocols import embedded_protocols, prepare
from cosmos_eval.results.record import ResultRow
from cosmos_eval.runner.suites import read_suite, refuse_repeated
from cosmos_eval.tasks import find_protocol, task_for, task_named

ShowProgress = Callable[[str, types.Progress], None]
"""A function that shows progress. It is called with a title, such as `scenes-cosmos on scenes-cls`,
and with how far the work under this title is."""


def show_no_progress(title: str, progress: types.Progress) -> None:
    """Do nothing: the default of all functions that take a `show_progress`."""


class Pair(NamedTuple):
    """The key of one result: the names of a model, a data set and its protocol."""

    model: str
    dataset: str
    protocol: str


def pair_of(spec: types.ModelSpec, protocol: types.Protocol) -> Pair:
    """Return the key of the result of a model on a data set."""
    return Pair(spec.called, protocol.dataset, protocol.protocol_name)


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
    """The result of one model on one data set, or the error that prevented it."""

    pair: Pair
    row: ResultRow | None = None
    # The samples that the metrics follow from; None once they are stored beside `path`.
    samples: types.Samples | None = None
    path: Path | None = None
    error: Exception | None = None
    # The file to which a former result was moved, if another model had the same name.
    aside: Path | None = None


class Dataset(NamedTuple):
    """A data set of a plan: its protocol and its opened data, or the error that opening raised.

    It is pickled without its data, which another process opens itself.
    """

    protocol: types.Protocol
    data: Any = None
    error: Exception | None = None

    def __reduce__(self) -> tuple[type[Dataset], tuple[types.Protocol]]:
        return Dataset, (self.protocol,)


class Job(NamedTuple):
    """A model and the data sets that are measured in one pass over their images.

    It holds everything that decides the results, and can be sent to another process.
    """

    spec: types.ModelSpec
    datasets: tuple[Dataset, ...]
    options: types.RunOptions
    # The folder of the results; None: they are not stored.
    output: Path | None
    # The command line, for provenance.
    command: str
    # The folder that paths are relative to, which all processes must have.
    folder: str

    def failed(self, error: Exception, done: int = 0) -> list[Result]:
        """Return a result with an error for each data set except the first `done` ones."""
        return [
            Result(pair_of(self.spec, dataset.protocol), error=error)
            for dataset in self.datasets[done:]
        ]


def make_plan(
    *,
    suite: str | None = None,
    task: str = "all",
    datasets: Sequence[str | Mapping[str, Any] | types.Protocol] = (),
    protocol_names: Sequence[str] = (),
    models: Sequence[str] = (),
    names: Sequence[str | None] = (),
    arch: str | None = None,
    weights: types.Weights = types.ModelSpec.weights,
    trainings: Path | None = None,
    tuned: Path | None = None,
    transfer: bool = False,
    options: types.RunOptions | None = None,
) -> Plan:
    """Return the plan to measure models on data sets, both named as on the command line.

    Args:
        suite: The name or YAML file of a suite. It names the data sets in place of `task`,
            `datasets` and `protocol_names`, and the models if `models` is empty.
        task: The task that all data sets belong to; `all`: any.
        datasets: Names, YAML files or their contents, or protocols. Empty: the embedded data sets
            of the task.
        protocol_names: Every data set is measured by each of these protocols. Empty: by its usual
            protocol.
        models: Specifications such as `openclip:ViT-B-32/openai`. Empty: the bundled models.
        names: The names of the models in results, one for each model. Empty: the specifications.
        arch: The OpenCLIP architecture of checkpoints that do not state theirs.
        weights: The weights that are measured of checkpoints with two sets.
        trainings: A file that states how the models were trained.
        tuned: A file of settings by `cosmos-eval tune`, by which one model is measured on one
            segmentation data set. The file names both if `models` and `datasets` are empty.
        transfer: Whether `tuned` may have been tuned for another model.
        options: How the models are run on the data sets; None: the default options.

    Raises:
        UsageError: For unknown or repeated names, for a data set of another task, and for arguments
            and options that contradict each other.
    """
    options = options or types.RunOptions()
    if tuned is not None:
        if suite or protocol_names or task not in ("all", "seg"):
            raise types.UsageError("--tuned is for --task seg, without --suite and --protocol")
        from cosmos_eval.runner.tune import tuned_plan

        specs = model_specs(models, names, arch, weights, trainings)
        return tuned_plan(tuned, datasets, specs, options, transfer=transfer)
    protocols: Sequence[types.Protocol]
    if suite is None:
        protocols = _choose_protocols(task, datasets, protocol_names)
    elif task != "all" or datasets or protocol_names:
        raise types.UsageError(
            "--suite names data sets: leave --task, --dataset and --protocol out"
        )
    else:
        contents = read_suite(suite, with_models=not models)
        protocols = contents.protocols
        if not models:
            models, names = contents.models, names or contents.names
        if not models:
            raise types.UsageError(f"suite {suite} names no models: name one with --model SPEC")
    specs = model_specs(models or BUNDLED, names, arch, weights, trainings)
    _check_protocols(protocols, options)
    return Plan(specs=specs, protocols=protocols, options=options)


def _check_protocols(protocols: Sequence[types.Protocol], options: types.RunOptions) -> None:
    """Raise UsageError for repeated protocols, and for protocols that do not fit the options."""
    if options.auxiliary is not None:
        _require_guidable(options.auxiliary, protocols)
    refuse_repeated([f"{protocol.dataset} ({protocol.protocol_name})" for protocol in protocols])
    if options.stream:
        _require_streamable(protocols, options)


def _require_streamable(protocols: Sequence[types.Protocol], options: types.RunOptions) -> None:
    """Raise UsageError if no protocol can be streamed, or if a streamed one needs images twice."""
    streamed = [protocol for protocol in protocols if options.streams(protocol)]
    if not streamed:
        raise types.UsageError("--stream is for archives of the hub (wds/NAME), and none is named")
    for protocol in streamed:
        if protocol.protocol_name != types.base_protocol_name(protocol.protocol_name):
            raise types.UsageError(
                f"{protocol.protocol_name} needs images twice: --stream cannot do that"
            )


def model_specs(
    models: Sequence[str],
    names: Sequence[str | None] = (),
    arch: str | None = None,
    weights: types.Weights = types.ModelSpec.weights,
    trainings: Path | None = None,
) -> list[types.ModelSpec]:
    """Return the specifications of models, as `make_plan` takes them.

    Raises UsageError for unknown and for repeated models.
    """
    specs = [parse_model_spec(text, arch=arch, weights=weights) for text in models]
    refuse_repeated([spec.text for spec in specs])
    specs = with_labels(specs, names)
    refuse_repeated([spec.called for spec in specs])
    return specs if trainings is None else state_trainings(trainings, specs)


def _require_guidable(auxiliary: str, protocols: Sequence[types.Protocol]) -> None:
    """Raise UsageError for an unknown auxiliary encoder, and for tasks without attention."""
    parse_auxiliary(auxiliary)
    for protocol in protocols:
        if task_for(protocol).attention(protocol) is None:
            raise types.UsageError(
                f"--auxiliary guides only segmentation and localisation, and {protocol.dataset} "
                f"is a data set of task {protocol.task}: add --task seg, or name data sets"
            )


def _choose_protocols(
    task: str,
    datasets: Sequence[str | Mapping[str, Any] | types.Protocol],
    protocol_names: Sequence[str],
) -> Sequence[types.Protocol]:
    """Return the protocols of data sets, or of the embedded data sets if none is named.

    Raises UsageError for unknown names, and for data sets of another task.
    """
    if task != "all":
        task_named(task)  # raises UsageError for an unknown task
    if protocol_names and not datasets:
        raise types.UsageError("--protocol needs --dataset: the data sets to be measured by it")
    if not datasets:
        return _embedded_protocols_of(task)
    usual_protocol: list[str | None] = [None]
    protocols = []
    for dataset in datasets:
        for protocol_name in protocol_names or usual_protocol:
            protocols.append(find_protocol(dataset, protocol_name))
    for protocol in protocols:
        if task not in ("all", protocol.task):
            raise types.UsageError(
                f"{protocol.dataset} is a data set of task {protocol.task}, not {task}: "
                "leave --task out"
            )
    return protocols


def _embedded_protocols_of(task: str) -> list[types.Protocol]:
    """Return the protocols of the embedded data sets of a task, or of the default ones for `all`.

    Raises UsageError if the task has no embedded data set.
    """
    if task == "all":
        return list(embedded_protocols())
    protocols = [
        protocol for protocol in embedded_protocols(on_request=True) if protocol.task == task
    ]
    if not protocols:
        raise types.UsageError(
            f"task {task} has no embedded data set: name a data set with --dataset"
        )
    return protocols


def require_data_root(protocol: types.Protocol, options: types.RunOptions) -> None:
    """Raise UsageError if a data set needs a data root that is not named or does not exist."""
    name, root = protocol.dataset, options.data_root
    if protocol.root is not None or protocol.repository is not None:
        return
    if root is None:
        raise types.UsageError(f"{name} is not embedded: name its folder with --data-root DIR")
    if not Path(root).is_dir():
        raise types.UsageError(f"{name}: no folder {root}, see --data-root")


def require_outputs(options: types.RunOptions, output: Path | None) -> None:
    """Raise UsageError if results, predictions or the cache could not be written."""
    folder_of_option = {
        "--output": output,
        "--save-predictions": options.save_predictions,
        "COSMOS_EVAL_CACHE (--no-cache does without)": options.cache,
    }
    for option, folder in folder_of_option.items():
        if folder is None:
            continue
        try:
            require_writable(Path(folder))
        except ValueError as error:
            raise types.UsageError(f"{error}; choose another folder by {option}") from error


def open_datasets(
    plan: Plan, show_progress: ShowProgress = show_no_progress, *, raising: bool = True
) -> list[Dataset]:
    """Check and open every data set of a plan, in the order of its protocols.

    If `raising` is False, a data set that cannot be opened is returned with its error. Raises
    UsageError, in either case, if the folder of a data set is not named or does not exist.
    """
    for protocol in plan.protocols:
        require_data_root(protocol, plan.options)
    datasets = []
    n_datasets = len(plan.protocols)
    for n_done, protocol in enumerate(plan.protocols):
        show_progress("data", types.Progress("check", n_done, n_datasets))
        try:
            datasets.append(open_dataset(protocol, plan.options))
        except Exception as error:
            if raising:
                raise
            datasets.append(Dataset(protocol, error=error))
    show_progress("data", types.Progress("check", n_datasets, n_datasets))
    return datasets


def open_dataset(
    protocol: types.Protocol, options: types.RunOptions, *, check: bool = True
) -> Dataset:
    """Return an opened data set, after checking that it can be measured if `check` is True.

    The main process makes or downloads missing files before all processes open the data. A streamed
    data set is returned without data, since it is opened while it is measured.
    """
    task = task_for(protocol)
    processes = options.distributed
    processes.main_process_first(partial(prepare, protocol))
    streamed = options.streams(protocol)
    if options.download and not streamed:
        processes.main_process_first(partial(task.fetch, protocol, options))
    if protocol.repository is not None:
        from cosmos_eval.data import hub  # which imports the hub's client

        find_folder = hub.fetch_texts if streamed else hub.dataset_folder
        protocol = processes.synchronized(partial(hub.pin_revision, protocol, find_folder))
    if streamed:
        return Dataset(protocol)
    data = processes.synchronized(partial(task.open_data, protocol, options))
    if check:
        processes.synchronized(partial(task.check, protocol, options, data))
    return Dataset(protocol, data)


def jobs_of(
    plan: Plan, datasets: Sequence[Dataset], skip: Container[Pair] = (), output: Path | None = None
) -> list[Job]:
    """Return the jobs of a plan, model by model. Pairs of a model and a data set may be skipped.

    Data sets that are measured in one pass over their images are one job, which takes the place of
    the first of them.
    """
    jobs = []
    for spec in plan.specs:
        datasets_of_pass: dict[Hashable, list[Dataset]] = defaultdict(list)
        for dataset in datasets:
            protocol = dataset.protocol
            if pair_of(spec, protocol) not in skip:
                image_pass = task_for(protocol).image_pass(protocol, plan.options, dataset.data)
                datasets_of_pass[protocol.task, image_pass].append(dataset)
        for datasets_of_job in datasets_of_pass.values():
            job = Job(
                spec=spec,
                datasets=tuple(datasets_of_job),
                options=plan.options,
                output=output,
                command=environment.command_line(),
                folder=os.getcwd(),
            )
            jobs.append(job)
    return jobs
