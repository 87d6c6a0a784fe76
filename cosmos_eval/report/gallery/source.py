"""What all examples share: results, their data, requests to models. Imports torch to load one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from cosmos_core.utils.distributed import own_device
from cosmos_eval.data.user_yaml import FAMILY as USER
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols import prepare
from cosmos_eval.report.content import Sampled
from cosmos_eval.report.gallery.pictures import Candidate
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.identity import auxiliary_of
from cosmos_eval.results.labels import distinct
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import read_files, samples_of
from cosmos_eval.runner.plan import Watch
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import (
    OnProgress,
    Progress,
    Protocol,
    RunOptions,
    UsageError,
    Weights,
)

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

MAPS = "label maps"
"""The kind of request whose outputs runs can save."""
_REMEDY = "; `cosmos-eval run --save-predictions DIR` keeps label maps for --predictions DIR"

PAIRS = 3
"""Images with a text, at most, of a data set."""

_IDENTITY = ("spec", "architecture", "weights", "weights_sha256", "random")
_TASKS = ("retrieval", "cls", "seg")  # with examples: their samples tell which images to show
_Name = tuple[str, str, str]  # task, data set and family: what the results of a group share
_name: Callable[[ResultRow], _Name] = attrgetter("task", "dataset", "protocol")


def _data_name(row: ResultRow) -> _Name:
    """Return the name of the protocol that describes the data: chosen settings change no data."""
    tuned = row.provenance.get("tuned")
    return (row.task, row.dataset, tuned["search"]["protocol"] if tuned else row.protocol)


# Indices that `spread` takes, as fractions: both ends, the middle, the quarters.
_SPREAD = (1.0, 0.0, 0.5, 0.75, 0.25)


class Group(NamedTuple):
    """All results by one protocol, which share their images; `name` is for notes. Of settings that
    were chosen for each model, `protocol` is what they change, and each result holds its own."""

    task: str
    protocol: Protocol
    results: tuple[Sampled, ...]

    @property
    def family(self) -> str:
        return self.results[0].row.protocol

    @property
    def name(self) -> str:
        return f"{self.protocol.dataset} ({self.family})"

    def without_data(self, error: UsageError) -> str:
        """Return the note on data that cannot be opened."""
        dataset, is_users = self.protocol.dataset, self.protocol.family.partition("-")[0] == USER
        hint = "" if is_users else f" (see `cosmos-eval data doctor {dataset}`)"
        return f"{self.name}: no pictures: {str(error).removeprefix(f'{dataset}: ')}{hint}"


def group_results(
    paths: Sequence[Path], user_files: Sequence[str]
) -> tuple[list[Group], list[str]]:
    """Group results by protocol; returns also notes on results without pictures. `user_files`
    describe users' data sets. Raises UsageError for files of no result."""
    by_name: dict[_Name, list[Sampled]] = {}
    notes = []
    stored = read_checked(paths)
    known = _user_protocols(user_files, (one.row for one in stored))
    # Users may call sets of two tasks the same.
    by_task = [[one for one in stored if one.row.task == task] for task in _TASKS]
    shown = [one for some in by_task for one in distinct(some) if not one.is_edited]
    for one in shown:
        try:
            files = read_files(one.path)
            sampled = Sampled(replace(one, row=files.row), samples_of(one.path, files))
            by_name.setdefault(_name(files.row), []).append(sampled)
        except UsageError as error:
            notes.append(f"{one.model} on {one.row.dataset}: no pictures: {error}")
    groups = []
    for name in sorted(by_name, key=lambda name: (_TASKS.index(name[0]), name)):
        results = sorted(by_name[name], key=attrgetter("model"))
        of_data = task, dataset, family = _data_name(results[0].row)
        try:
            is_users = family.partition("-")[0] == USER
            if is_users and of_data not in known:
                raise UsageError("name the YAML file that describes it with --dataset FILE")
            protocol = known[of_data] if is_users else find_protocol(dataset, family)
            prepare(protocol)
            groups.append(Group(task, protocol, tuple(results)))
        except UsageError as error:
            notes.append(f"{dataset}: no pictures: {error}")
    return groups, notes


def require_inputs(
    rows: Iterable[ResultRow],
    data_root: str | None,
    datasets: Sequence[str],
    predictions: Path | None,
) -> None:
    """Raise UsageError for a folder that does not exist and a YAML file of no result."""
    for folder, option in ((data_root, "--data-root"), (predictions, "--predictions")):
        if folder is not None and not Path(folder).is_dir():
            raise UsageError(f"no folder {folder}, see {option}")
    _user_protocols(datasets, rows)


def _user_protocols(files: Sequence[str], rows: Iterable[ResultRow]) -> dict[_Name, Protocol]:
    """Read the protocols of users' files. Raises UsageError for one of no result."""
    measured = set(map(_data_name, rows)) if files else set()
    known = {(p.task, p.dataset, p.family): p for p in map(find_protocol, files)}
    for name in known:
        if name not in measured:
            raise UsageError(f"no result is of your data set {name[1]}: leave its file out")
    return known


class Request(NamedTuple):
    """A computation of `kind` by the model of a result, `label`, on the data set `where`."""

    row: ResultRow
    label: str
    kind: str
    where: str
    run: Callable[[Encoder, OnProgress], None]  # raises UsageError where that is impossible


class Pair(NamedTuple):
    """An image of a data set and a text about it."""

    dataset: str
    name: str
    image: Callable[[], Image.Image]  # returns RGB; raises UsageError where it cannot be used
    text: str


class Source:
    """The examples of a group of results: read data, request outputs of models, then draw.

    `requests` are what models have to compute before the candidates are known. `notes` has one line
    for each thing that cannot be shown; `pairs` are a few of the images with texts, for attention
    maps.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.notes: list[str] = []
        self.pairs: list[Pair] = []

    def candidates(self) -> Iterable[Candidate]:
        """Return the examples, once the requests have run."""
        raise NotImplementedError

    def open_results(
        self,
        group: Group,
        options: RunOptions,
        open_data: Callable[[Any, RunOptions], Any],
        is_of: Callable[[Any, Sampled], bool],
        *,
        whole: bool = False,
    ) -> list[tuple[Sampled, Any]]:
        """Open the data of every result of a group: all, or as many as it was limited to. `is_of`
        tells whether a result was measured on the opened data; others are noted."""
        limits = [None if whole else one.row.provenance["limit"] for one in group.results]
        opened: dict[int | None, Any] = {}
        for limit in dict.fromkeys(limits):
            try:
                own = replace(options, limit=limit, allow_partial=limit is None)
                opened[limit] = open_data(group.protocol, own)
            except UsageError as error:
                self.notes.append(group.without_data(error))
        found: list[tuple[Sampled, Any]] = []
        foreign: list[str] = []
        for result, limit in zip(group.results, limits, strict=True):
            if limit in opened and is_of(opened[limit], result):
                found.append((result, opened[limit]))
            elif limit in opened:
                foreign.append(result.model)
        if foreign:
            self.notes.append(
                f"{group.name}: no pictures of {listed(foreign)}: measured on other images, "
                "captions or classes than are there now"
            )
        return found


def label_of(result: Sampled) -> str:
    """Return the label of a model in tables, without what concerns the measurement alone."""
    rest = {name: value for name, value in result.row.provenance.items() if name != "partial"}
    row = replace(result.row, provenance={**rest, "limit": None, "attention": None})
    return replace(result.stored, row=row).model


def spread(n: int, most: int = PAIRS) -> list[int]:
    """Return a few of n indices: the last, the first, the middle, the quarters."""
    indices = (round(fraction * (n - 1)) for fraction in _SPREAD)
    return list(dict.fromkeys(indices))[:most] if n else []


def run_requests(requests: Iterable[Request], device: str, watch: Watch) -> list[str]:
    """Load every model once, one after the other, and run all requests for it. Returns one line for
    each that could not be computed. Models are not fetched."""
    by_model: dict[tuple[Any, ...], list[Request]] = {}
    for request in requests:
        how = request.row.provenance
        identity = *map(request.row.model.get, _IDENTITY), how["precision"], auxiliary_of(how)
        by_model.setdefault(identity, []).append(request)
    refusals: list[tuple[Request, str]] = []
    for own in by_model.values():
        spec = own[0].row.model["spec"]
        watch(spec, Progress("load", 0, 1))
        try:
            encoder = _load(own[0].row, device)
        except UsageError as error:
            refusals += [(request, str(error)) for request in own]
            continue
        watch(spec, Progress("load", 1, 1))
        for request in own:
            what = f"{request.label} on {request.where}"
            try:
                request.run(encoder, partial(_report_warnings, watch, what))
            except UsageError as error:
                refusals.append((request, str(error)))
    return _lines(refusals)


def _report_warnings(watch: Watch, what: str, step: Progress) -> None:
    """Drop the notes of a measurement, such as how much was cached, but its warnings."""
    watch(what, step if step.note.startswith("warning: ") else step._replace(note=""))


def _load(row: ResultRow, device: str) -> Encoder:
    """Load a model with the weights that were measured. Raises UsageError without them."""
    from cosmos_eval.data.hub import was_not_fetched
    from cosmos_eval.models import load_encoder
    from cosmos_eval.models.hub import offline

    model, precision = row.model, row.provenance["precision"]
    # The architecture is for files that do not state their own.
    weights: Weights = model["weights"] or "teacher"
    spec = parse_model_spec(model["spec"], arch=model["architecture"], weights=weights)
    load = partial(load_encoder, spec, device=own_device(device), precision=precision)
    try:
        with offline():
            encoder = load(auxiliary=auxiliary_of(row.provenance))
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


def _lines(refusals: Sequence[tuple[Request, str]]) -> list[str]:
    """State what is not shown and why, in one line for all models with the same reason."""
    missing: dict[tuple[str, str], dict[str, list[str]]] = {}
    for request, why in refusals:
        # The nearest names to one that is gone are of no help here.
        own = missing.setdefault((request.label, why.partition("; nearest")[0]), {})
        own.setdefault(request.kind, []).append(request.where)
    labels: dict[tuple[str, str], list[str]] = {}
    for (label, why), kinds in missing.items():
        lost = [f"no {kind} on {listed([*dict.fromkeys(kinds[kind])])}" for kind in kinds]
        remedy = _REMEDY if MAPS in kinds else ""
        labels.setdefault((", ".join(lost), f"{why}{remedy}"), []).append(label)
    return [f"{listed(own)}: {lost}: {why}" for (lost, why), own in labels.items()]


def listed(names: Sequence[str]) -> str:
    """Name a few, and how many more there are."""
    first = ", ".join(names[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
