"""Group results, open their data, and run the models that examples need.

Imports torch only to load a model.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from cosmos_core.utils.distributed import own_device
from cosmos_eval.data.readers import FileError
from cosmos_eval.data.user_yaml import PROTOCOL_NAME as USER
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols import prepare
from cosmos_eval.reporting.content import SampledResult
from cosmos_eval.reporting.gallery.pictures import Candidate
from cosmos_eval.reporting.gallery.records import SampleExample
from cosmos_eval.reporting.gallery.samples import Judgement, SampleDrawing, choose_samples
from cosmos_eval.results.identity import CONTENT, auxiliary_of, is_stopped
from cosmos_eval.results.labels import StoredResult, distinct_results, label_results
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import read_files, samples_of
from cosmos_eval.runner.plan import ShowProgress
from cosmos_eval.tasks import find_protocol, task_for
from cosmos_eval.types import (
    OnProgress,
    Progress,
    Protocol,
    RunOptions,
    Samples,
    UsageError,
    Weights,
)

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

MAPS = "label maps"
"""The kind of request whose outputs runs can save."""
_SAVE_MAPS = "; `cosmos-eval run --save-predictions DIR` keeps label maps for --predictions DIR"

IMAGES_WITH_TEXTS = 3
"""The most images with a text of a data set."""

_TASKS = ("retrieval", "cls", "seg")  # the tasks that have examples
# The fields of a result's model that decide what it computes.
_MODEL_FIELDS = ("spec", "architecture", "weights", "weights_sha256", "random")
# The positions that `spread_indices` chooses, as fractions of the length of a list.
_SPREAD = (1.0, 0.0, 0.5, 0.75, 0.25)


class _SetName(NamedTuple):
    """The names of a task, a data set and a protocol, which together identify a protocol's record.

    Data sets of two tasks may have the same name.
    """

    task: str
    dataset: str
    protocol: str


def _is_user_protocol(protocol_name: str) -> bool:
    """Return whether data sets of a protocol are described by users' YAML files."""
    return protocol_name.partition("-")[0] == USER


def _described_set(row: ResultRow) -> _SetName:
    """Return the names of the protocol that describes the data of a result.

    Constants that were tuned for a model have a protocol of their own, but do not change the data:
    the data are described by the protocol that the search began with.
    """
    tuned = row.provenance.get("tuned")
    protocol_name = tuned["search"]["protocol"] if tuned else row.protocol
    return _SetName(row.task, row.dataset, protocol_name)


class ResultGroup(NamedTuple):
    """All results on one data set by one protocol, which share their images."""

    task: str
    # If constants were tuned for each model, the protocol that they change.
    protocol: Protocol
    # Sorted by model.
    results: tuple[StoredResult, ...]

    @property
    def protocol_name(self) -> str:
        """The name of the protocol in the results."""
        return self.results[0].row.protocol

    @property
    def name(self) -> str:
        """The name of the data set and the protocol in notes."""
        return f"{self.protocol.dataset} ({self.protocol_name})"


def group_results(
    results: Iterable[StoredResult], user_files: Sequence[str]
) -> tuple[list[ResultGroup], list[str]]:
    """Group results by data set and protocol, without their samples.

    Args:
        results: The results, as `read_checked` returns them.
        user_files: YAML files that describe users' data sets.

    Returns:
        The groups, sorted by task and name, and notes on results that cannot have pictures.

    Raises:
        UsageError: A YAML file describes a data set without a result.
    """
    stored_results = label_results(results)
    user_protocols = _read_user_protocols(user_files, (stored.row for stored in stored_results))

    # Results without samples have no pictures. The samples of the others are unpacked once their
    # data are opened, since that takes long, and data of few results are on most machines.
    results_by_set: dict[_SetName, list[StoredResult]] = {}
    notes = []
    for stored in _usable_results(stored_results):
        samples_file = read_files(stored.path).archive
        if isinstance(samples_file, FileError):
            notes.append(
                f"{stored.model} on {stored.row.dataset}: no pictures: {stored.path}: its samples "
                f"{stored.row.samples} cannot be read: {samples_file}"
            )
            continue
        set_name = _SetName(stored.row.task, stored.row.dataset, stored.row.protocol)
        results_by_set.setdefault(set_name, []).append(stored)

    # Find the protocol of each group.
    groups = []
    for set_name in sorted(results_by_set, key=lambda name: (_TASKS.index(name.task), name)):
        results = sorted(results_by_set[set_name], key=attrgetter("model"))
        try:
            protocol = _find_ready_protocol(_described_set(results[0].row), user_protocols)
            groups.append(ResultGroup(set_name.task, protocol, tuple(results)))
        except UsageError as error:
            notes.append(f"{set_name.dataset}: no pictures: {error}")
    return groups, notes


def _usable_results(stored_results: Sequence[StoredResult]) -> list[StoredResult]:
    """Return the results that can have examples, in the order of the tasks.

    Only some tasks have examples. One of several results that are copies is returned. Results whose
    files were edited by hand, and results of runs that stopped early, are left out.
    """
    usable_results: list[StoredResult] = []
    for task in _TASKS:
        # Each task has a call of its own: data sets of two tasks may have the same name.
        task_results = distinct_results(
            stored for stored in stored_results if stored.row.task == task
        )
        for stored in task_results:
            if not stored.is_edited and not is_stopped(stored.row):
                usable_results.append(stored)
    return usable_results


def _find_ready_protocol(
    set_name: _SetName, user_protocols: Mapping[_SetName, Protocol]
) -> Protocol:
    """Return the protocol with these names, and prepare the data that it needs.

    A protocol holds the fixed settings of a measurement. Some protocols need data to be prepared,
    such as scenes to be rendered.

    Args:
        set_name: The names of the task, the data set and the protocol.
        user_protocols: The protocols from users' YAML files, by their names.

    Raises:
        UsageError: The protocol is not known.
    """
    if not _is_user_protocol(set_name.protocol):
        protocol = find_protocol(set_name.dataset, set_name.protocol)
    elif set_name in user_protocols:
        protocol = user_protocols[set_name]
    else:
        raise UsageError("name the YAML file that describes it with --dataset FILE")
    prepare(protocol)
    return protocol


def require_inputs(
    rows: Iterable[ResultRow],
    data_root: str | None,
    datasets: Sequence[str],
    predictions: Path | None,
) -> None:
    """Check the inputs of a report with pictures before anything is computed.

    Args:
        rows: The records of all results.
        data_root: The folder of data sets, or None for the usual one.
        datasets: YAML files that describe users' data sets.
        predictions: The folder of saved label maps, or None.

    Raises:
        UsageError: A folder does not exist, or a YAML file describes a data set without a result.
    """
    for folder, option in ((data_root, "--data-root"), (predictions, "--predictions")):
        if folder is not None and not Path(folder).is_dir():
            raise UsageError(f"no folder {folder}, see {option}")
    _read_user_protocols(datasets, rows)


def _read_user_protocols(
    files: Sequence[str], rows: Iterable[ResultRow]
) -> dict[_SetName, Protocol]:
    """Read the protocols in users' YAML files, by their names.

    Args:
        files: The YAML files, which describe users' data sets.
        rows: The records of all results.

    Raises:
        UsageError: None of the results was measured on one of the data sets.
    """
    if not files:
        return {}
    protocols = {}
    for file in files:
        protocol = find_protocol(file)
        set_name = _SetName(protocol.task, protocol.dataset, protocol.protocol_name)
        protocols[set_name] = protocol
    measured_sets = {_described_set(row) for row in rows}
    for set_name in protocols:
        if set_name not in measured_sets:
            raise UsageError(
                f"no result was measured on your data set {set_name.dataset}: leave its file out"
            )
    return protocols


@dataclass(frozen=True, kw_only=True)
class Request(ABC):
    """A request for outputs of a model that are needed before examples can be drawn."""

    # A result of the model.
    row: ResultRow
    # The name of the model in notes.
    label: str
    # What is computed, such as MAPS, in notes.
    kind: str
    # The data set in notes.
    dataset: str

    @abstractmethod
    def run(self, encoder: Encoder, progress: OnProgress) -> None:
        """Compute the outputs by the loaded model, and keep them in the source of the request.

        Raises UsageError if they cannot be computed.
        """


class ImageWithText(NamedTuple):
    """An image of a data set and a text about it."""

    dataset: str
    name: str
    # Returns an RGB image; raises UsageError if the image cannot be used.
    read_image: Callable[[], Image.Image]
    text: str


class Source(ABC):
    """A source of examples: it requests outputs of models, then returns what can be drawn."""

    def __init__(self) -> None:
        """Start without requests and notes."""
        # The outputs that models have to compute before the candidates are known.
        self.requests: list[Request] = []
        # One line for each thing that cannot be shown.
        self.notes: list[str] = []

    @abstractmethod
    def candidates(self) -> Iterable[Candidate]:
        """Return the examples that can be drawn, once all requests have run."""


class OpenedResult(NamedTuple):
    """A result and the data that it was measured on, as its task opens them."""

    result: SampledResult
    data: Any


class ResultSource(Source):
    """A source of examples of a group of results. Each task has a subclass."""

    def __init__(self, group: ResultGroup, options: RunOptions) -> None:
        """Keep the group of results, and the options by which data are opened and models run."""
        super().__init__()
        self.group = group
        self.task = group.task
        self.protocol: Any = group.protocol
        self.options = options
        # A few images with texts, for attention maps.
        self.images_with_texts: list[ImageWithText] = []

    @abstractmethod
    def open_data(self, options: RunOptions) -> Any:
        """Open the data of the group's protocol. Raises UsageError if they cannot be opened."""

    @abstractmethod
    def has_measured_names(self, result: SampledResult, data: Any) -> bool:
        """Return whether a result has the names of the images, captions and classes of the data."""

    def measured_part(self, result: SampledResult, data: Any) -> Any:
        """Return the part of the opened data that a result was measured on: by default, all."""
        return data

    @abstractmethod
    def judge(self, data: Any, samples: Sequence[Samples]) -> list[Judgement]:
        """Return which models are right on which samples of the data, by kind of sample.

        `data` are the opened data, and `samples` the stored arrays of several results on them.
        """

    def open_results(self, *, whole: bool = False) -> list[OpenedResult]:
        """Return the results of the group with their samples and the data they were measured on.

        Results that were measured on other data, or whose data or samples cannot be read, are left
        out. A note names them.

        Args:
            whole: True if all results get the whole data set. By default, a result with a `--limit`
                gets the first samples only.
        """
        # Open the data once for each limit.
        limits: list[int | None] = []
        for result in self.group.results:
            limits.append(None if whole else result.row.provenance["limit"])
        data_by_limit: dict[int | None, Any] = {}
        for limit in dict.fromkeys(limits):
            options = replace(self.options, limit=limit, allow_partial=limit is None)
            try:
                data_by_limit[limit] = self.open_data(options)
            except UsageError as error:
                self._note_missing_data(error)

        # Leave out results that were measured on other data.
        content_check = _ContentCheck(self)
        opened_results = []
        models_on_other_data = []
        for stored, limit in zip(self.group.results, limits, strict=True):
            if limit not in data_by_limit:
                continue
            data = data_by_limit[limit]
            try:
                sampled_result = _read_sampled(stored)
                has_equal_data = self.has_measured_names(sampled_result, data)
                if has_equal_data:  # reading all files takes longer
                    has_equal_data = content_check.is_measured(sampled_result, data)
            except UsageError as error:
                self.notes.append(f"{stored.model} on {stored.row.dataset}: no pictures: {error}")
                continue
            if has_equal_data:
                opened_results.append(OpenedResult(sampled_result, data))
            else:
                models_on_other_data.append(stored.model)
        if models_on_other_data:
            self.notes.append(
                f"{self.group.name}: no pictures of {listed(models_on_other_data)}: measured on "
                "other images, labels, captions or classes than are there now"
            )
        return opened_results

    def _note_missing_data(self, error: UsageError) -> None:
        """Add a note which says that the data of the group cannot be opened, and why."""
        dataset = self.group.protocol.dataset
        reason = str(error).removeprefix(f"{dataset}: ")
        hint = ""
        if not _is_user_protocol(self.group.protocol.protocol_name):
            hint = f" (see `cosmos-eval data doctor {dataset}`)"
        self.notes.append(f"{self.group.name}: no pictures: {reason}{hint}")

    def sample_candidates(self, opened_results: Sequence[OpenedResult]) -> list[Candidate]:
        """Return a few samples to be drawn as small pictures, each with the answers of all models.

        Results on the same data are shown together. The samples are chosen by `choose_samples`.
        `opened_results` are the results, each with the data that it was measured on.
        """
        # Results with the same limit share the object that holds their data.
        opened_by_data_id: dict[int, list[OpenedResult]] = {}
        for opened_result in opened_results:
            opened_by_data_id.setdefault(id(opened_result.data), []).append(opened_result)
        candidates = []
        for opened_of_data in opened_by_data_id.values():
            results = [opened_result.result for opened_result in opened_of_data]
            samples_of_results = [result.samples for result in results]
            for judgement in self.judge(opened_of_data[0].data, samples_of_results):
                sample_indices = choose_samples(judgement.right, judgement.kind)
                for turn, sample_index in enumerate(sample_indices):
                    drawing = SampleDrawing(results, judgement, sample_index)
                    # A round adds six samples: the first six in round 0, the next six in round 1.
                    round_number = turn // SampleExample.per_round
                    candidates.append(Candidate(round_number, drawing.draw))
        return candidates


class _ContentCheck:
    """Compares the files of a data set with those that results were measured on.

    Files are read once for results with the same recorded hash.
    """

    def __init__(self, source: ResultSource) -> None:
        """Remember the source whose results are checked."""
        self._source = source
        # By the recorded hash of the files' contents: whether they are as they were.
        self._is_measured: dict[str, bool] = {}

    def is_measured(self, result: SampledResult, data: Any) -> bool:
        """Return whether the files of the data are those that a result was measured on.

        True for an older result that records no hash of the files. Raises UsageError for a file
        that cannot be read.
        """
        recorded_sha256 = result.row.provenance["hashes"].get(CONTENT)
        if not recorded_sha256:
            return True
        if recorded_sha256 not in self._is_measured:
            source = self._source
            hashes = task_for(source.protocol).data_hashes(
                source.protocol, source.measured_part(result, data), source.options
            )
            self._is_measured[recorded_sha256] = hashes[CONTENT] == recorded_sha256
        return self._is_measured[recorded_sha256]


def _read_sampled(stored: StoredResult) -> SampledResult:
    """Return a result with its samples. Raises UsageError if they cannot be read."""
    files = read_files(stored.path)
    samples = samples_of(stored.path, files)
    return SampledResult(replace(stored, row=files.row), samples)


def label_of(result: StoredResult) -> str:
    """Return the label of a result's model, as if it was measured without options.

    The label does not name a limit, such as "first 10 only", or a form of attention, because
    attention maps do not depend on them.
    """
    provenance = dict(result.row.provenance)
    provenance.pop("partial", None)
    provenance["limit"] = None
    provenance["attention"] = None
    row = replace(result.row, provenance=provenance)
    return replace(result, row=row).model


def spread_indices(n: int, most: int = IMAGES_WITH_TEXTS) -> list[int]:
    """Return at most `most` of the indices 0 to n - 1, spread evenly over a list of n items.

    They are the last, the first, the middle, then the quarters. For example, n = 9 gives [8, 0, 4],
    and with `most` of 5 it gives [8, 0, 4, 6, 2].
    """
    if n == 0:
        return []
    indices = [round(fraction * (n - 1)) for fraction in _SPREAD]
    return list(dict.fromkeys(indices))[:most]


def run_requests(
    requests: Iterable[Request], device: str, show_progress: ShowProgress
) -> list[str]:
    """Run all requests for outputs of models, such as attention maps.

    One model is loaded after the other, and each only once. Models are not downloaded.

    Args:
        requests: The requests, in any order of models.
        device: The device that models run on, such as "cuda", or "auto".
        show_progress: Called with the name of the current step and its progress.

    Returns:
        One line for each thing that could not be computed.
    """
    requests_by_model = _group_by_model(requests)
    refusals: list[_Refusal] = []
    n_requests = sum(map(len, requests_by_model))
    n_done = 0
    for requests_of_model in requests_by_model:
        show_progress("pictures", Progress("outputs of models", n_done, n_requests))
        row = requests_of_model[0].row
        model_spec = row.model["spec"]
        show_progress(model_spec, Progress("load", 0, 1))
        try:
            encoder = _load_measured_model(row, device)
        except UsageError as error:
            refusals += [_Refusal(request, str(error)) for request in requests_of_model]
            n_done += len(requests_of_model)
            continue
        show_progress(model_spec, Progress("load", 1, 1))
        for request in requests_of_model:
            name = f"{request.label} on {request.dataset}"
            progress = partial(_pass_on_progress, show_progress, name)
            try:
                request.run(encoder, progress)
            except UsageError as error:
                refusals.append(_Refusal(request, str(error)))
            n_done += 1
            show_progress("pictures", Progress("outputs of models", n_done, n_requests))
    return _refusal_lines(refusals)


def _group_by_model(requests: Iterable[Request]) -> list[list[Request]]:
    """Return a list of requests for each model. Models with the same outputs count as one."""
    requests_by_model: dict[tuple[Any, ...], list[Request]] = {}
    for request in requests:
        row = request.row
        fields = [row.model.get(name) for name in _MODEL_FIELDS]
        key = (*fields, row.provenance["precision"], auxiliary_of(row.provenance))
        requests_by_model.setdefault(key, []).append(request)
    return list(requests_by_model.values())


def _pass_on_progress(show_progress: ShowProgress, name: str, step: Progress) -> None:
    """Show the progress of a request, without its notes unless they are warnings.

    Args:
        show_progress: Called with the name and the progress.
        name: The name of the request, such as "model-a on coco".
        step: The progress, with a note such as "warning: ...".
    """
    is_warning = step.note.startswith("warning: ")
    show_progress(name, step if is_warning else step._replace(note=""))


def _load_measured_model(row: ResultRow, device: str) -> Encoder:
    """Load the model that a result was measured with, without downloads.

    Args:
        row: The record of the result, which names the model and the hash of its weights.
        device: The device that the model runs on, or "auto".

    Raises:
        UsageError: The weights of the model, or of the encoder that guides it, are not on this
            machine or have changed since the measurement.
    """
    from cosmos_eval.data.hub import was_not_fetched
    from cosmos_eval.models import load_encoder
    from cosmos_eval.models.hub import offline

    model = row.model
    weights: Weights = model["weights"] or "teacher"
    # The architecture is for files that do not state their own.
    spec = parse_model_spec(model["spec"], arch=model["architecture"], weights=weights)
    try:
        with offline():
            encoder = load_encoder(
                spec,
                device=own_device(device),
                precision=row.provenance["precision"],
                auxiliary=auxiliary_of(row.provenance),
            )
    except UsageError as error:
        if was_not_fetched(error):
            raise UsageError("its weights are not on this machine") from error
        raise
    info = encoder.info
    has_same_weights = info.weights_sha256 == model["weights_sha256"]
    if not has_same_weights or info.random != model["random"]:
        raise UsageError("its weights are not those that were measured any more")
    if info.auxiliary != row.provenance.get("auxiliary"):
        raise UsageError("the encoder that guides it is not the one that was measured any more")
    return encoder


class _Refusal(NamedTuple):
    """A request that could not be computed, and the reason."""

    request: Request
    reason: str


def _refusal_lines(refusals: Sequence[_Refusal]) -> list[str]:
    """Return lines that say which models lack which outputs, and why.

    Models that lack the same outputs for the same reason share a line. For example, "model-a,
    model-b: no attention maps on coco: its weights are not on this machine". `refusals` are the
    requests that could not be computed.
    """
    # For each model and reason: the data sets by the kind of the missing outputs. For example,
    # missing_outputs["model-a", "out of memory"] is {"attention maps": ["coco", "flickr30k"]}.
    missing_outputs: dict[tuple[str, str], dict[str, list[str]]] = {}
    for request, reason in refusals:
        # The message for an unknown model lists similar names, which do not help here.
        short_reason = re.split("; nearest|; did you mean", reason)[0]
        datasets_by_kind = missing_outputs.setdefault((request.label, short_reason), {})
        datasets_by_kind.setdefault(request.kind, []).append(request.dataset)

    # Write the line of each model without its name, and collect the models that have the same line.
    models_by_message: dict[str, list[str]] = {}
    for (model, reason), datasets_by_kind in missing_outputs.items():
        outputs = []
        for kind, datasets in datasets_by_kind.items():
            distinct_datasets = list(dict.fromkeys(datasets))
            outputs.append(f"no {kind} on {listed(distinct_datasets)}")
        advice = _SAVE_MAPS if MAPS in datasets_by_kind else ""
        message = f"{', '.join(outputs)}: {reason}{advice}"
        models_by_message.setdefault(message, []).append(model)
    return [f"{listed(models)}: {message}" for message, models in models_by_message.items()]


def listed(names: Sequence[str]) -> str:
    """Return names as text: the first three, and the number of others: "a, b, c and 2 more"."""
    text = ", ".join(names[:3])
    n_more = len(names) - 3
    if n_more > 0:
        text += f" and {n_more} more"
    return text
