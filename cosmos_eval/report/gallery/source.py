"""Group results, open their data, and run the models that examples need.

Imports torch only to load a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from cosmos_core.utils.distributed import own_device
from cosmos_eval.data.user_yaml import PROTOCOL_NAME as USER
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols import prepare
from cosmos_eval.report.content import SampledResult
from cosmos_eval.report.gallery.pictures import Candidate
from cosmos_eval.report.gallery.records import SampleExample
from cosmos_eval.report.gallery.samples import Judgement, SampleDrawing, choose_samples
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.identity import auxiliary_of
from cosmos_eval.results.labels import StoredResult, distinct_results
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import read_files, samples_of
from cosmos_eval.runner.plan import ShowProgress
from cosmos_eval.tasks import find_protocol
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
    """The name of a data set under a protocol. Data sets of two tasks may have the same name."""

    task: str
    dataset: str
    protocol: str


def _is_user_protocol(protocol_name: str) -> bool:
    """Return whether data sets of a protocol are described by users' YAML files."""
    return protocol_name.partition("-")[0] == USER


def _measured_set(row: ResultRow) -> _SetName:
    """Return the protocol that a result was measured by."""
    return _SetName(row.task, row.dataset, row.protocol)


def _described_set(row: ResultRow) -> _SetName:
    """Return the protocol that describes the data of a result.

    Settings that were tuned for a model have a protocol of their own, but do not change the data.
    """
    tuned = row.provenance.get("tuned")
    protocol_name = tuned["search"]["protocol"] if tuned else row.protocol
    return _SetName(row.task, row.dataset, protocol_name)


class ResultGroup(NamedTuple):
    """All results by one protocol, which share their images."""

    task: str
    # If settings were tuned for each model, the protocol that they change.
    protocol: Protocol
    # Sorted by model.
    results: tuple[SampledResult, ...]

    @property
    def protocol_name(self) -> str:
        return self.results[0].row.protocol

    @property
    def name(self) -> str:
        """The name in notes."""
        return f"{self.protocol.dataset} ({self.protocol_name})"

    def missing_data_note(self, error: UsageError) -> str:
        """Return a note which says that the data cannot be opened."""
        dataset = self.protocol.dataset
        reason = str(error).removeprefix(f"{dataset}: ")
        hint = ""
        if not _is_user_protocol(self.protocol.protocol_name):
            hint = f" (see `cosmos-eval data doctor {dataset}`)"
        return f"{self.name}: no pictures: {reason}{hint}"


def group_results(
    paths: Sequence[Path], user_files: Sequence[str]
) -> tuple[list[ResultGroup], list[str]]:
    """Read results and group them by protocol, and return also notes on results without pictures.

    `user_files` describe users' data sets. Raises UsageError for a file that describes a data set
    without a result.
    """
    stored_results = read_checked(paths)
    user_protocols = _user_protocols(user_files, (stored.row for stored in stored_results))
    results_by_set: dict[_SetName, list[SampledResult]] = {}
    notes = []
    for stored in _usable_results(stored_results):
        try:
            files = read_files(stored.path)
            samples = samples_of(stored.path, files)
        except UsageError as error:
            notes.append(f"{stored.model} on {stored.row.dataset}: no pictures: {error}")
            continue
        result = SampledResult(replace(stored, row=files.row), samples)
        results_by_set.setdefault(_measured_set(files.row), []).append(result)

    groups = []
    for set_name in sorted(results_by_set, key=_sort_key):
        results = sorted(results_by_set[set_name], key=attrgetter("model"))
        try:
            protocol = _find_protocol(_described_set(results[0].row), user_protocols)
            groups.append(ResultGroup(set_name.task, protocol, tuple(results)))
        except UsageError as error:
            notes.append(f"{set_name.dataset}: no pictures: {error}")
    return groups, notes


def _sort_key(set_name: _SetName) -> tuple[int, _SetName]:
    """Return what data sets are sorted by: the order of tasks, then their names."""
    return _TASKS.index(set_name.task), set_name


def _usable_results(stored_results: Sequence[StoredResult]) -> list[StoredResult]:
    """Return the results of tasks with examples that were not edited, without repeated ones."""
    usable_results: list[StoredResult] = []
    for task in _TASKS:
        # Each task by itself: data sets of two tasks may have the same name.
        task_results = distinct_results(
            stored for stored in stored_results if stored.row.task == task
        )
        usable_results += [stored for stored in task_results if not stored.is_edited]
    return usable_results


def _find_protocol(set_name: _SetName, user_protocols: Mapping[_SetName, Protocol]) -> Protocol:
    """Return a protocol that is ready to be used. Raises UsageError if it is not known."""
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
    """Raise UsageError for a folder that does not exist and a YAML file without a result."""
    for folder, option in ((data_root, "--data-root"), (predictions, "--predictions")):
        if folder is not None and not Path(folder).is_dir():
            raise UsageError(f"no folder {folder}, see {option}")
    _user_protocols(datasets, rows)


def _user_protocols(files: Sequence[str], rows: Iterable[ResultRow]) -> dict[_SetName, Protocol]:
    """Read users' YAML files. Raises UsageError for a data set without a result."""
    if not files:
        return {}
    measured_sets = {_described_set(row) for row in rows}
    protocols = {}
    for file in files:
        protocol = find_protocol(file)
        set_name = _SetName(protocol.task, protocol.dataset, protocol.protocol_name)
        protocols[set_name] = protocol
    for set_name in protocols:
        if set_name not in measured_sets:
            raise UsageError(
                f"no result was measured on your data set {set_name.dataset}: leave its file out"
            )
    return protocols


@dataclass(frozen=True, kw_only=True)
class Request(ABC):
    """Outputs that a model has to compute before examples can be drawn."""

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
        """Compute the outputs. Raises UsageError if that is impossible."""


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
    """A source of examples of a group of results; each task has a subclass."""

    def __init__(self, group: ResultGroup, options: RunOptions) -> None:
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
    def was_measured_on(self, result: SampledResult, data: Any) -> bool:
        """Return whether a result was measured on the opened data."""

    @abstractmethod
    def judge(self, data: Any, samples: Sequence[Samples]) -> Judgement:
        """Judge the samples of several results on the same data."""

    def open_results(self, *, whole: bool = False) -> list[OpenedResult]:
        """Return the results of the group with the data that they were measured on.

        The data are limited as the result was, or complete with `whole`. Results that were measured
        on other data are left out and noted. So are results whose data cannot be opened.
        """
        limits: list[int | None] = []
        for result in self.group.results:
            limits.append(None if whole else result.row.provenance["limit"])
        data_by_limit: dict[int | None, Any] = {}
        for limit in dict.fromkeys(limits):
            options = replace(self.options, limit=limit, allow_partial=limit is None)
            try:
                data_by_limit[limit] = self.open_data(options)
            except UsageError as error:
                self.notes.append(self.group.missing_data_note(error))
        opened_results = []
        models_on_other_data = []
        for result, limit in zip(self.group.results, limits, strict=True):
            if limit not in data_by_limit:
                continue
            data = data_by_limit[limit]
            if self.was_measured_on(result, data):
                opened_results.append(OpenedResult(result, data))
            else:
                models_on_other_data.append(result.model)
        if models_on_other_data:
            self.notes.append(
                f"{self.group.name}: no pictures of {listed(models_on_other_data)}: measured on "
                "other images, captions or classes than are there now"
            )
        return opened_results

    def sample_candidates(self, opened_results: Sequence[OpenedResult]) -> list[Candidate]:
        """Return the chosen samples; results on the same data are shown together."""
        # Results of the same limit share one object.
        opened_by_data: dict[int, list[OpenedResult]] = {}
        for opened in opened_results:
            opened_by_data.setdefault(id(opened.data), []).append(opened)
        candidates = []
        for same_data in opened_by_data.values():
            results = [opened.result for opened in same_data]
            judgement = self.judge(same_data[0].data, [result.samples for result in results])
            samples = choose_samples(judgement.right, judgement.kind)
            for turn, sample in enumerate(samples):
                drawing = SampleDrawing(results, judgement, sample)
                candidates.append(Candidate(turn // SampleExample.per_round, drawing.draw))
        return candidates


def label_of(result: SampledResult) -> str:
    """Return the label of a result's model, without the words for a limit or a form of attention.

    Attention maps do not depend on these settings.
    """
    provenance = dict(result.row.provenance)
    provenance.pop("partial", None)
    provenance["limit"] = None
    provenance["attention"] = None
    row = replace(result.row, provenance=provenance)
    return replace(result.stored, row=row).model


def spread_indices(n: int, most: int = IMAGES_WITH_TEXTS) -> list[int]:
    """Return at most `most` of n indices: the last, the first, the middle, then the quarters.

    Example: n = 9 -> [8, 0, 4], and with `most` of 5 -> [8, 0, 4, 6, 2].
    """
    if n == 0:
        return []
    indices = [round(fraction * (n - 1)) for fraction in _SPREAD]
    return list(dict.fromkeys(indices))[:most]


def run_requests(
    requests: Iterable[Request], device: str, show_progress: ShowProgress
) -> list[str]:
    """Run all requests, loading one model after the other and each only once.

    Models are not downloaded. Returns one line for each thing that could not be computed.
    """
    requests_by_model: dict[tuple[Any, ...], list[Request]] = {}
    for request in requests:
        requests_by_model.setdefault(_model_identity(request.row), []).append(request)
    refusals: list[_Refusal] = []
    for model_requests in requests_by_model.values():
        row = model_requests[0].row
        model_spec = row.model["spec"]
        show_progress(model_spec, Progress("load", 0, 1))
        try:
            encoder = _load_measured_model(row, device)
        except UsageError as error:
            refusals += [_Refusal(request, str(error)) for request in model_requests]
            continue
        show_progress(model_spec, Progress("load", 1, 1))
        for request in model_requests:
            progress = partial(
                _report_warnings, show_progress, f"{request.label} on {request.dataset}"
            )
            try:
                request.run(encoder, progress)
            except UsageError as error:
                refusals.append(_Refusal(request, str(error)))
    return _refusal_lines(refusals)


def _model_identity(row: ResultRow) -> tuple[Any, ...]:
    """Return a key that is equal for results whose models compute the same outputs."""
    fields = [row.model.get(name) for name in _MODEL_FIELDS]
    return (*fields, row.provenance["precision"], auxiliary_of(row.provenance))


def _report_warnings(show_progress: ShowProgress, name: str, step: Progress) -> None:
    """Pass progress on to `show_progress`, without its notes unless they are warnings."""
    is_warning = step.note.startswith("warning: ")
    show_progress(name, step if is_warning else step._replace(note=""))


def _load_measured_model(row: ResultRow, device: str) -> Encoder:
    """Load the model of a result.

    Raises UsageError if its weights are not on this machine, or are not the measured ones.
    """
    from cosmos_eval.data.hub import was_not_fetched
    from cosmos_eval.models import load_encoder
    from cosmos_eval.models.hub import offline

    model = row.model
    # The architecture is for files that do not state their own.
    weights: Weights = model["weights"] or "teacher"
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
    if (info.weights_sha256, info.random) != (model["weights_sha256"], model["random"]):
        raise UsageError("its weights are not those that were measured any more")
    if info.auxiliary != row.provenance.get("auxiliary"):
        raise UsageError("the encoder that guides it is not the one that was measured any more")
    return encoder


class _Refusal(NamedTuple):
    """A request that could not be computed, and the reason."""

    request: Request
    reason: str


def _refusal_lines(refusals: Sequence[_Refusal]) -> list[str]:
    """Return one line for each reason, with all models that lack the same outputs for it."""
    # Data sets by kind of output, by model and reason.
    missing: dict[tuple[str, str], dict[str, list[str]]] = {}
    for request, reason in refusals:
        # The message for an unknown model lists similar names, which do not help here.
        short_reason = reason.partition("; nearest")[0]
        sets_by_kind = missing.setdefault((request.label, short_reason), {})
        sets_by_kind.setdefault(request.kind, []).append(request.dataset)
    models_by_message: dict[tuple[str, str], list[str]] = {}
    for (model, reason), sets_by_kind in missing.items():
        outputs = []
        for kind, datasets in sets_by_kind.items():
            outputs.append(f"no {kind} on {listed(list(dict.fromkeys(datasets)))}")
        advice = _SAVE_MAPS if MAPS in sets_by_kind else ""
        message = (", ".join(outputs), f"{reason}{advice}")
        models_by_message.setdefault(message, []).append(model)
    return [
        f"{listed(models)}: {outputs}: {reason}"
        for (outputs, reason), models in models_by_message.items()
    ]


def listed(names: Sequence[str]) -> str:
    """Return at most three names as text, and the number of others: "a, b, c and 2 more"."""
    text = ", ".join(names[:3])
    if len(names) > 3:
        text += f" and {len(names) - 3} more"
    return text
