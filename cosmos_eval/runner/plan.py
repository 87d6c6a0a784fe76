"""The plan of a run, the jobs that it consists of, and their results. Imports no torch."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_core.utils import environment
from cosmos_core.utils.distributed import own_device
from cosmos_core.utils.files import require_writable
from cosmos_eval import types
from cosmos_eval.data.wordings import Declared, reworded_data, with_wordings
from cosmos_eval.models import require_device
from cosmos_eval.models.specs import BUNDLED, parse_auxiliary, parse_model_spec, with_labels
from cosmos_eval.models.training import state_trainings
from cosmos_eval.protocols import embedded_protocols, prepare
from cosmos_eval.protocols.languages import with_all_languages
from cosmos_eval.results.filenames import make_file_stem
from cosmos_eval.results.record import ResultRow
from cosmos_eval.runner.suites import read_suite, refuse_repeated
from cosmos_eval.tasks import find_protocol, known_tasks, task_for, task_named

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

    def __str__(self) -> str:
        return f"{self.model} on {self.dataset} ({self.protocol})"


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
    # Whether the error is that the model cannot be loaded, so that no result of it can be measured.
    is_load_error: bool = False
    # The file to which the former result of this pair was moved, if it was of another model with
    # the same name.
    former_result: Path | None = None


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

    def failed(
        self, error: Exception, n_done: int = 0, *, is_load_error: bool = False
    ) -> list[Result]:
        """Return a result with this error for each data set except the first `n_done` ones."""
        results = []
        for dataset in self.datasets[n_done:]:
            pair = pair_of(self.spec, dataset.protocol)
            results.append(Result(pair, error=error, is_load_error=is_load_error))
        return results


def make_plan(
    *,
    suite: str | None = None,
    task: str = "all",
    datasets: Sequence[str | os.PathLike[str] | Mapping[str, Any] | types.Protocol] = (),
    protocol_names: Sequence[str] = (),
    models: Sequence[str] = (),
    names: Sequence[str | None] = (),
    arch: str | None = None,
    weights: types.Weights = types.ModelSpec.weights,
    trainings: Path | None = None,
    tuned: Path | None = None,
    transfer: bool = False,
    wordings: Declared | None = None,
    options: types.RunOptions | None = None,
) -> Plan:
    """Return the plan to measure models on data sets, both named as on the command line.

    Args:
        suite: The name or YAML file of a suite. It names the data sets in place of `task`,
            `datasets` and `protocol_names`, and the models if `models` is empty.
        task: The task that all data sets belong to, such as `seg` or `segmentation`; `all`: any.
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
        transfer: True if `tuned` may have been tuned for another model.
        wordings: With which other wordings every data set is measured too: how many, or a file.
        options: How the models are run on the data sets; None: the default options.

    Raises:
        UsageError: For unknown or repeated names, for a data set of another task, and for arguments
            and options that contradict each other.
    """
    options = options or types.RunOptions()
    task = types.short_task_name(task, known_tasks())
    if tuned is not None:
        if suite or protocol_names or task not in ("all", "seg"):
            raise types.UsageError("--tuned is for --task seg, without --suite and --protocol")
        if wordings is not None:
            raise types.UsageError("--tuned chose its values for one wording: leave --wordings out")

        from cosmos_eval.runner.tune import tuned_plan

        specs = model_specs(models, names, arch, weights, trainings)
        return tuned_plan(tuned, datasets, specs, options, transfer=transfer)
    if transfer:
        raise types.UsageError("--transfer changes nothing without --tuned FILE: name the file")

    if suite is None:
        protocols = _choose_protocols(task, datasets, protocol_names)
    else:
        if task != "all" or datasets or protocol_names:
            raise types.UsageError(
                "--suite names data sets: leave --task, --dataset and --protocol out"
            )
        protocols, models, names = _choose_from_suite(suite, models, names)
    if wordings is not None:
        if options.stream:
            raise types.UsageError("--wordings needs images again: download instead of --stream")
        protocols = with_wordings(protocols, wordings)

    specs = model_specs(models or BUNDLED, names, arch, weights, trainings)
    _require_fitting_options(protocols, options)
    plan = Plan(specs=specs, protocols=protocols, options=options)
    _require_distinct_files(plan.pairs)
    return plan


def _choose_from_suite(
    suite: str, models: Sequence[str], names: Sequence[str | None]
) -> tuple[Sequence[types.Protocol], Sequence[str], Sequence[str | None]]:
    """Return the protocols of a suite, the models that it is measured with, and their names.

    Args:
        suite: The name or YAML file of the suite.
        models: The models in place of the suite's own. Empty: the suite's.
        names: The names of the models in place of the suite's. Empty: the suite's.

    Raises:
        UsageError: If there are no models, and as `read_suite` does.
    """
    contents = read_suite(suite, with_models=not models)
    if models:
        return contents.protocols, models, names
    if not contents.models:
        raise types.UsageError(f"suite {suite} names no models: name one with --model SPEC")
    return contents.protocols, contents.models, names or contents.names


def _require_distinct_files(pairs: Sequence[Pair]) -> None:
    """Raise UsageError if the results of two pairs would have one file.

    File names have other characters in place of some: `my set` and `my-set` are the same there.
    """
    pair_by_stem: dict[str, Pair] = {}
    for pair in pairs:
        other_pair = pair_by_stem.setdefault(make_file_stem(*pair, ()), pair)
        if other_pair != pair:
            raise types.UsageError(
                f"{other_pair} and {pair} would have the same result file: give the data set or "
                "the model another name"
            )


def _require_fitting_options(
    protocols: Sequence[types.Protocol], options: types.RunOptions
) -> None:
    """Raise UsageError for repeated data sets, and for options that do not fit the data sets."""
    if options.auxiliary is not None:
        _require_guidable(options.auxiliary, protocols)
    refuse_repeated([f"{protocol.dataset} ({protocol.protocol_name})" for protocol in protocols])
    if options.stream:
        _require_streamable(protocols, options)


def _require_streamable(protocols: Sequence[types.Protocol], options: types.RunOptions) -> None:
    """Raise UsageError if no data set can be streamed, or if a streamed one needs images twice.

    A streamed data set is measured while it is downloaded, so each image is seen once. Protocols
    such as `cosmos-pairs100`, which score pairs after all embeddings are known, need images twice.
    """
    streamed = [protocol for protocol in protocols if options.streams(protocol)]
    if not streamed:
        raise types.UsageError("--stream is for archives of the hub (wds/NAME), and none is named")
    for protocol in streamed:
        name = protocol.protocol_name
        scores_pairs = name != types.base_protocol_name(name)
        if scores_pairs:
            raise types.UsageError(f"{name} needs images twice: --stream cannot do that")
        if isinstance(protocol, types.ClassificationProtocol) and protocol.alters_images:
            raise types.UsageError(
                f"{protocol.dataset} alters images: --stream cannot do that; use --download"
            )


def model_specs(
    models: Sequence[str],
    names: Sequence[str | None] = (),
    arch: str | None = None,
    weights: types.Weights = types.ModelSpec.weights,
    trainings: Path | None = None,
) -> list[types.ModelSpec]:
    """Return the parsed specifications of models.

    Args:
        models: Specifications such as `openclip:ViT-B-32/openai`.
        names: The names of the models in results, one for each model; None: its specification.
            Empty: no model has another name.
        arch: The OpenCLIP architecture of checkpoints that do not state theirs.
        weights: The weights that are measured of checkpoints with two sets.
        trainings: A file that states how the models were trained.

    Raises:
        UsageError: For unknown models, and for models or names that are given twice.
    """
    specs = [parse_model_spec(text, arch=arch, weights=weights) for text in models]
    refuse_repeated([spec.text for spec in specs])
    specs = with_labels(specs, names)
    refuse_repeated([spec.called for spec in specs])
    if trainings is None:
        return specs
    return state_trainings(trainings, specs)


def _require_guidable(auxiliary: str, protocols: Sequence[types.Protocol]) -> None:
    """Raise UsageError for an unknown auxiliary encoder, and for tasks that use none.

    An auxiliary encoder guides the attention of a model's last block. Only segmentation and
    localisation choose the form of this attention.
    """
    parse_auxiliary(auxiliary)
    for protocol in protocols:
        has_attention = task_for(protocol).attention(protocol) is not None
        if not has_attention:
            raise types.UsageError(
                f"--auxiliary guides only segmentation and localisation, and {protocol.dataset} "
                f"is a data set of task {protocol.task}: add --task seg, or name data sets"
            )


def _choose_protocols(
    task: str,
    datasets: Sequence[str | os.PathLike[str] | Mapping[str, Any] | types.Protocol],
    protocol_names: Sequence[str],
) -> Sequence[types.Protocol]:
    """Return the protocols of data sets, or of the embedded data sets if none is named.

    Args:
        task: The task that all data sets belong to, such as `seg`; `all`: any.
        datasets: Names, YAML files or their contents, or protocols.
        protocol_names: Every data set gets each of these protocols. Empty: its usual one.

    Raises:
        UsageError: For unknown names, for data sets of another task, and if no data set is named
            and the task has no embedded one.
    """
    if task != "all":
        task_named(task)  # raises UsageError for an unknown task
    if protocol_names and not datasets:
        raise types.UsageError("--protocol needs --dataset: the data sets to be measured by it")

    if not datasets:
        # Some embedded data sets are only measured if their task is named.
        embedded = embedded_protocols(on_request=task != "all")
        protocols = [protocol for protocol in embedded if task in ("all", protocol.task)]
        if not protocols:
            raise types.UsageError(
                f"task {task} has no embedded data set: name a data set with --dataset"
            )
        return protocols

    usual_protocol: list[str | None] = [None]
    protocols = []
    for dataset in with_all_languages(datasets):
        for protocol_name in protocol_names or usual_protocol:
            protocols.append(find_protocol(dataset, protocol_name))
    for protocol in protocols:
        if task not in ("all", protocol.task):
            raise types.UsageError(
                f"{protocol.dataset} is a data set of task {protocol.task}, not {task}: "
                "leave --task out"
            )
    return protocols


def require_data_root(protocol: types.Protocol, options: types.RunOptions) -> None:
    """Raise UsageError if a data set needs a data root that is not named or does not exist.

    The data root (`--data-root`) is the folder of all data sets that are neither embedded nor on
    the Hugging Face hub, and whose YAML file names no other folder.
    """
    needs_data_root = protocol.root is None and protocol.repository is None
    if not needs_data_root:
        return
    if options.data_root is None:
        raise types.UsageError(
            f"{protocol.dataset} is not embedded: name its folder with --data-root DIR, or "
            "data_root= in Python"
        )
    if not Path(options.data_root).is_dir():
        raise types.UsageError(
            f"{protocol.dataset}: no folder {options.data_root}, see --data-root"
        )


def require_outputs(options: types.RunOptions, output: Path | None) -> None:
    """Raise UsageError if results, predictions or the cache could not be written.

    Args:
        options: They have the folders of predictions and of the cache.
        output: The folder of the results; None: they are not stored.
    """
    folder_by_option = {
        "--output (in Python, output=)": output,
        "--save-predictions (in Python, save_predictions=)": options.save_predictions,
        "COSMOS_EVAL_CACHE (--no-cache does without)": options.cache,
    }
    for option, folder in folder_by_option.items():
        if folder is None:
            continue
        try:
            require_writable(Path(folder))
        except ValueError as error:
            raise types.UsageError(f"{error}; choose another folder by {option}") from error


def require_usable_device(options: types.RunOptions) -> None:
    """Raise UsageError in all processes if one of them cannot use the device of the options."""
    device = own_device(options.device)
    options.distributed.synchronized(require_device, device)


def open_datasets(
    plan: Plan, show_progress: ShowProgress = show_no_progress, *, raising: bool = True
) -> list[Dataset]:
    """Check and open every data set of a plan, in the order of its protocols.

    Args:
        plan: Its protocols say where the data are.
        show_progress: Shows how many data sets are open.
        raising: True if the first error ends the function. If not, a data set that cannot be opened
            is returned with its error.

    Raises:
        UsageError: In either case, if the folder of a data set is not named or does not exist.
    """
    for protocol in plan.protocols:
        require_data_root(protocol, plan.options)
    datasets: list[Dataset] = []
    # The last data set with its own wording. Its other wordings follow it, and share its data.
    published: Dataset | None = None
    n_datasets = len(plan.protocols)
    for n_done, protocol in enumerate(plan.protocols):
        show_progress("data", types.Progress("check", n_done, n_datasets))
        try:
            if protocol.wording is not None and published is not None:
                datasets.append(_reword(published, protocol, plan.options))
            else:
                published = None
                published = open_dataset(protocol, plan.options)
                datasets.append(published)
        except Exception as error:
            if raising:
                raise
            datasets.append(Dataset(protocol, error=error))
    show_progress("data", types.Progress("check", n_datasets, n_datasets))
    return datasets


def open_dataset(
    protocol: types.Protocol, options: types.RunOptions, *, check: bool = True
) -> Dataset:
    """Return an opened data set.

    The main process makes or downloads missing files before all processes open the data. A streamed
    data set is returned without data, since it is opened while it is measured.

    Args:
        protocol: It says where the data are, and how they are measured.
        options: They say whether missing files are downloaded or streamed, and which processes
            open the data.
        check: True if it is checked that the data can be measured.
    """
    task = task_for(protocol)
    processes = options.distributed
    is_streamed = options.streams(protocol)

    processes.main_process_first(prepare, protocol)
    if options.download and not is_streamed:
        processes.main_process_first(task.fetch, protocol, options)
    if protocol.repository is not None:
        from cosmos_eval.data import hub  # which imports the hub's client

        # Results record the commit of the repository that was measured.
        find_folder = hub.fetch_texts if is_streamed else hub.dataset_folder
        protocol = processes.synchronized(hub.pin_revision, protocol, find_folder)
    if is_streamed:
        return Dataset(protocol)

    data = processes.synchronized(task.open_data, protocol, options)
    data = processes.synchronized(reworded_data, protocol, data)
    if check:
        processes.synchronized(task.check, protocol, options, data)
    return Dataset(protocol, data)


def _reword(published: Dataset, protocol: types.Protocol, options: types.RunOptions) -> Dataset:
    """Return an opened data set with other texts. It shares the images of the published wording.

    Args:
        published: The opened data set with its published wording.
        protocol: The same data set with another wording.
        options: They say which processes open the data.
    """
    processes = options.distributed
    protocol = replace(protocol, revision=published.protocol.revision)
    data = processes.synchronized(reworded_data, protocol, published.data)
    processes.synchronized(task_for(protocol).check, protocol, options, data)
    return Dataset(protocol, data)


def jobs_of(
    plan: Plan, datasets: Sequence[Dataset], skip: Container[Pair] = (), output: Path | None = None
) -> list[Job]:
    """Return the jobs of a plan, model by model.

    Data sets that are measured in one pass over their images are one job, which takes the place of
    the first of them.

    Args:
        plan: The models, and the options of all jobs.
        datasets: The opened data sets of the plan.
        skip: Pairs of a model and a data set that are not measured.
        output: The folder of the results; None: they are not stored.

    Example:
        For one model and the data sets `a-seg`, `a-cls` and `a-seg` under another protocol with the
        same images, there are two jobs: both protocols of `a-seg`, and then `a-cls`.
    """
    jobs = []
    for spec in plan.specs:
        # By the task and by what identifies the pass over the images; in the order of first use.
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
