"""A baseline on disk: one JSON file, and per-sample arrays in the folder of its name.

Version 2 added a hash of the file's own content, and names of samples that no result has.
`baseline.schema.json` is `record.json_schema(Baseline)`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import NotRequired, TypedDict

from cosmos_core.utils import files
from cosmos_core.utils.environment import user_name, utc_now
from cosmos_eval._version import __version__
from cosmos_eval.data import readers
from cosmos_eval.results import record
from cosmos_eval.results.filenames import file_stem, safe_name
from cosmos_eval.results.groups import require_distinct
from cosmos_eval.results.identity import (
    STOPPED_EARLY,
    group_label,
    is_stopped,
    model_identity,
    training_of,
)
from cosmos_eval.results.labels import StoredResult, label_results
from cosmos_eval.results.settings import CONDITIONS, setting_of_result
from cosmos_eval.results.verify import VerifiedResult
from cosmos_eval.tasks import known_tasks, metric_of
from cosmos_eval.types import Precision, Samples, UsageError, Weights

SCHEMA_VERSION = 2

_LARGEST_VALUE = 1e12  # of a rank or ratio, or of an end of their intervals
# Names of samples files as baselines have them since version 2, and no result has them.
_BASELINE_SAMPLES = re.compile(r".+\.[0-9a-f]{8}\.baseline\.npz")


class Key(NamedTuple):
    """The fields by which a result is matched with the entry of a baseline."""

    # The label of the model in tables, or the name of a group of trainings.
    model: str
    dataset: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.model} on {self.dataset} ({self.protocol})"


def _require_hashes(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a setting unchanged, as a validator of pydantic has to.

    Raises an error if a field that `Setting` does not name is not a hash, such as
    "hashes.templates".
    """
    unnamed_fields = fields.keys() - Setting.__annotations__.keys()
    for name in unnamed_fields:
        value = fields[name]
        is_hash = name.startswith("hashes.") and isinstance(value, str) and value != ""
        if not is_hash:
            raise record.field_error(name, "neither a field of a setting nor a hash")
    return fields


_HASHES: Any = {
    "patternProperties": {r"^hashes\.": {"type": "string", "minLength": 1}},
    "additionalProperties": False,
}


_SETTING = record.STRICT | ConfigDict(extra="allow", json_schema_extra=_HASHES)


@with_config(_SETTING)
class Setting(TypedDict):
    """The fields and hashes that decide which number is measured; results must agree in them."""

    task: record.TaskName
    dataset: record.Name
    protocol: record.Name
    attention: str | None
    limit: int | None
    partial: NotRequired[str]
    repository: NotRequired[record.Name]
    revision: NotRequired[record.Name]
    n_samples: record.Count


_End = Annotated[float, Field(ge=-1, le=_LARGEST_VALUE)]


@with_config(record.STRICT)
class _Interval(TypedDict):
    """A confidence interval of a metric."""

    low: _End
    high: _End
    method: record.Name
    level: record.Level


@with_config(record.STRICT)
class SamplesRecord(TypedDict):
    """The file with the per-sample arrays of an entry, in the folder of the baseline's name."""

    file: record.SamplesFile
    sha256: record.Sha256


@with_config(record.STRICT)
class ConditionsRecord(TypedDict):
    """How an entry was measured: with the weights of which model, and `settings.CONDITIONS`."""

    weights: Weights | None
    precision: Precision
    device: record.Name
    version: record.Name
    dirty: bool | None
    map: NotRequired[record.Name]
    pair_score: NotRequired[record.Name]
    composition: NotRequired[record.Name]


@with_config(record.STRICT)
class TrainingRecord(TypedDict):
    """The group of a training, with what differs from the defaults, the seed, and its length."""

    group: record.Name
    seed: int | None
    # The samples that it saw. They are absent if unknown, and in older baselines.
    samples: NotRequired[record.Count]


@with_config(record.STRICT)
class Written(TypedDict):
    """Who wrote a baseline, when, why, and with which version."""

    by: record.Name
    utc: record.Name
    reason: record.Name
    version: str


_CONDITIONS = Field(description="Absent in older baselines.")
_TRAINING = Field(description="Absent if unknown. Several trainings of a group are gated together.")


@with_config(record.STRICT)
@dataclass(frozen=True)
class Entry:
    """A result of a baseline. If it has no samples, its intervals decide."""

    model: Annotated[record.Name, Field(description="The label of the model in tables.")]
    weights_sha256: record.Sha256
    setting: Annotated[
        Mapping[str, Any], record.validated_as(Annotated[Setting, AfterValidator(_require_hashes)])
    ]
    metrics: Annotated[Mapping[str, float], record.metrics_type(_LARGEST_VALUE)]
    intervals: Annotated[Mapping[str, Mapping[str, Any]], record.validated_as(dict[str, _Interval])]
    samples: Annotated[Mapping[str, str] | None, record.validated_as(SamplesRecord | None)]
    commit: str | None
    utc: str
    model_sha256: Annotated[
        record.Sha256 | None, Field(description="Hash of everything that makes a model the same.")
    ] = None
    training: Annotated[
        Mapping[str, Any] | None, record.validated_as(Annotated[TrainingRecord | None, _TRAINING])
    ] = None
    loaded_model_sha256: Annotated[
        record.Sha256 | None, Field(description="The same for a model read from any files.")
    ] = None
    conditions: Annotated[
        Mapping[str, Any] | None,
        record.validated_as(Annotated[ConditionsRecord | None, _CONDITIONS]),
    ] = None

    @property
    def model_hashes(self) -> set[str]:
        """The known hashes of the model. Results of the same model have one of them."""
        hashes = {self.model_sha256, self.loaded_model_sha256}
        return {sha256 for sha256 in hashes if sha256 is not None}

    @property
    def key(self) -> Key:
        """The model, data set and protocol by which new results are matched with the entry."""
        return Key(self.model, self.setting["dataset"], self.setting["protocol"])


_TITLE = "Results that later ones must not fall behind"
_HEADER: Any = {"$id": f"urn:cosmos-eval:baseline:{SCHEMA_VERSION}"}
_VERSION = Field(ge=1, le=SCHEMA_VERSION, description="Version 2 added baseline_sha256.")
_GATED = "The metrics that can fail a check: the ones that decide comparisons, or all."
_LOSS = "Tolerated loss of a metric: absolute for fractions, relative for ranks and ratios."


@with_config(ConfigDict(**record.STRICT, title=_TITLE, json_schema_extra=_HEADER))
@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Results that new ones are checked against; the fields are the same as in the file."""

    schema_version: Annotated[int, _VERSION]
    written: Annotated[Mapping[str, str], record.validated_as(Written)]
    tolerance: Annotated[float, Field(ge=0, le=0.5, description=_LOSS)]
    results: Annotated[list[Entry], Field(min_length=1)]
    gated: Annotated[Literal["headline", "all"], Field(description=_GATED)] = "headline"
    baseline_sha256: Annotated[record.Sha256, record.OWN_HASH] = ""

    def gated_metrics(self, entry: Entry) -> set[str]:
        """Return the names of the metrics of an entry that can fail a check.

        If `gated` is "all", these are all its metrics. Otherwise they are its primary metrics, or
        if it has none, the metrics that tables show, or if there are none either, all its metrics.
        Reference metrics, which only help to read the others, never count.
        """
        metrics = []
        for name in entry.metrics:
            metric = metric_of(entry.setting["task"], name)
            if not metric.reference:
                metrics.append(metric)
        if self.gated == "headline":
            primary_metrics = [metric for metric in metrics if metric.primary]
            headline_metrics = [metric for metric in metrics if metric.headline]
            metrics = primary_metrics or headline_metrics or metrics
        return {metric.name for metric in metrics}


def baseline_samples(path: Path, entry: Entry) -> Samples | None:
    """Return the per-sample arrays of an entry of a baseline, or None if it has none.

    Args:
        path: The JSON file of the baseline.
        entry: A result of the baseline.

    Raises:
        ValueError: If the arrays cannot be read, or are not the ones that the baseline was written
            with.
    """
    if entry.samples is None:
        return None
    file = path.with_suffix("") / entry.samples["file"]
    task = entry.setting["task"]
    try:
        content = readers.read_bytes(file)
        content_hash = hashlib.sha256(content).hexdigest()
        if content_hash != entry.samples["sha256"]:
            raise ValueError("not what the baseline was written with")
        samples = files.unpack_arrays(content)
        # Samples of a task that is not installed cannot be checked.
        tasks = known_tasks()
        if task in tasks:
            tasks[task].require_valid(samples, {})
        return samples
    except ValueError as error:  # FileError is one
        raise ValueError(f"the baseline's samples {file.name}: {error}") from error


def result_key(row: record.ResultRow) -> Key:
    """Return the model, data set and protocol by which a result is matched with a baseline."""
    return Key(model_identity(row).label, row.dataset, row.protocol)


class Problem(NamedTuple):
    """Why something could not be decided."""

    # The file, or the key of the result.
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def result_problems(results: Sequence[VerifiedResult], *, strict: bool) -> Iterator[Problem]:
    """Yield a problem for each reason why a result cannot be trusted.

    The reasons are random weights, a run that stopped early, and a name that several models share.

    Args:
        results: The results.
        strict: True if results must also state the commit of their code, which must not have been
            edited.
    """
    # Results of models that share a name have notes, which tell the models apart.
    labelled_results = label_results(result.stored for result in results)
    for labelled_result in labelled_results:
        if labelled_result.notes:
            label = labelled_result.identity.label
            message = (
                f"has {', '.join(labelled_result.notes)}, and other results of {label} have not: "
                "give the results of one model"
            )
            yield Problem(str(labelled_result.path), message)

    for result in results:
        yield from _provenance_problems(result, strict=strict)


def _provenance_problems(result: VerifiedResult, *, strict: bool) -> Iterator[Problem]:
    """Yield a problem for a run that stopped early, and for random weights.

    With `strict`, there is also one for code that is unknown or edited.

    Args:
        result: The result.
        strict: True if the result must state the commit of its code, which must not have been
            edited.
    """
    path = str(result.path)
    provenance = result.row.provenance
    if is_stopped(result.row):
        yield Problem(path, f"{STOPPED_EARLY}, or judge it by `check --sequential`")
    if result.row.model["random"]:
        yield Problem(path, "has random weights, which measure nothing")
    if not strict:
        return
    if "record_sha256" not in provenance:
        message = "has version 1, without a hash by which --strict could trust its commit"
        yield Problem(path, message)
    elif provenance["commit"] is None:
        yield Problem(path, "does not state its commit, which --strict requires")
    elif provenance["dirty"] is not False:
        yield Problem(path, "was measured with edited code (dirty), which --strict refuses")


def drop_renamed_results(
    results: Sequence[VerifiedResult],
) -> tuple[list[VerifiedResult], list[str]]:
    """Leave out results that were renamed to make room for a later result, and note each of them.

    When another model with the same name is measured, the file of the former result is renamed. The
    former result is left out only if the later one is among the results as well.

    Args:
        results: The results.

    Returns:
        The other results, and one note for each result that is left out.
    """
    paths = {result.path for result in results}
    latest_results, notes = [], []
    for result in results:
        usual_path = result.path.with_name(f"{file_stem(result.row)}.json")
        was_renamed = result.path != usual_path
        if was_renamed and usual_path in paths:
            notes.append(f"left out: {result.path}, of another model than {usual_path}")
        else:
            latest_results.append(result)
    return latest_results, notes


def drop_superseded_results(
    results: Sequence[VerifiedResult],
) -> tuple[list[VerifiedResult], list[str]]:
    """Leave out runs that stopped early if there is a whole result of the same model and data set.

    Args:
        results: The results.

    Returns:
        The other results, and one note for each result that is left out.
    """
    whole_results = {}
    for result in results:
        if not is_stopped(result.row):
            whole_results[_measured_key(result)] = result
    kept_results, notes = [], []
    for result in results:
        whole_result = whole_results.get(_measured_key(result))
        if is_stopped(result.row) and whole_result is not None:
            notes.append(f"left out: {result.path}, since {whole_result.path} is whole")
        else:
            kept_results.append(result)
    return kept_results, notes


def _measured_key(result: VerifiedResult) -> tuple[str, str, str]:
    """Return the hash of the model, the data set and the protocol of a result."""
    return result.stored.identity.sha256, result.row.dataset, result.row.protocol


def read_baseline(path: Path) -> Baseline:
    """Read a baseline from its JSON file, without its samples.

    Raises UsageError if the file is missing, is not a baseline or was edited.
    """
    try:
        content = readers.read_bytes(path)
        document = readers.parse_json(content)
    except readers.MissingFileError as error:
        raise UsageError(f"no baseline {path}: write it with --update --reason TEXT") from error
    except readers.FileError as error:
        raise UsageError(f"{path}: cannot be read as a baseline: it {error}") from error
    baseline = record.validate(Baseline, content, str(path))
    _require_unchanged(baseline, document, path)
    repeated_keys = readers.first_repeated(entry.key for entry in baseline.results)
    if repeated_keys:
        raise UsageError(f"{path}: two results of {repeated_keys[0]}")
    return baseline


def replace_baseline(
    path: Path,
    results: Sequence[VerifiedResult],
    problems: Sequence[Problem],
    *,
    strict: bool = False,
    reason: str,
    tolerance: float = 0.0,
    keep_samples: bool = True,
    all_gated: bool = False,
) -> tuple[list[dict[str, str]], list[str]]:
    """Write results as a baseline, in place of a former baseline in the file `path`.

    Args:
        path: The JSON file, whose name ends with .json.
        results: The results, which become the entries of the baseline.
        problems: The problems that arose when the results were read; there must be none.
        strict: True if results must state their commit, and be measured with unedited code.
        reason: Why the baseline is written, in words for its readers.
        tolerance: The loss that a check tolerates, see `Baseline.tolerance`.
        keep_samples: True if the per-sample arrays are written too. If not, only metrics that have
            an interval are written, since a check could not decide on the others.
        all_gated: True if all metrics can fail a check, not only the primary ones.

    Returns:
        A record of what changed for each result, and notes on results that were left out.

    Raises:
        UsageError: For results that a check could not use, for two results of one model or training
            on one data set, and if the file cannot be written or holds something else.
    """
    # Check the results.
    results, notes = drop_renamed_results(results)
    results, notes_on_stopped = drop_superseded_results(results)
    notes += notes_on_stopped
    _require_usable(results, [*problems, *result_problems(results, strict=strict)])
    if path.suffix != ".json":
        raise UsageError(f"cannot write {path}: the name of a baseline ends with .json")
    repeated_keys = readers.first_repeated(result_key(result.row) for result in results)
    if repeated_keys:
        raise UsageError(f"two results of {repeated_keys[0]}: give one of the files")
    _require_distinct_trainings(results)

    # Make the entries, and the files of their samples.
    entries: list[Entry] = []
    archives: dict[str, bytes] = {}
    for result in results:
        archive = files.pack_arrays(result.samples) if keep_samples else None
        entry = _make_entry(result.row, archive)
        entries.append(entry)
        if entry.samples is not None and archive is not None:
            archives[entry.samples["file"]] = archive

    # Make the document, check it as it will be read, and write it.
    gate_options: dict[str, Any] = {"tolerance": tolerance}
    if all_gated:
        gate_options["gated"] = "all"
    sorted_entries = sorted(entries, key=lambda entry: entry.key)
    document = _make_document(sorted_entries, reason, gate_options)
    record.validate(Baseline, json.dumps(document), str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        former_keys = _write_files(path, document, archives)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    return _change_records(former_keys, {entry.key for entry in entries}), notes


def _require_usable(results: Sequence[VerifiedResult], problems: Sequence[Problem]) -> None:
    """Raise UsageError if there are problems, or if results are missing."""
    if problems or not results:
        problem_texts = "; ".join(str(problem) for problem in problems)
        raise UsageError(f"no baseline of such results: {problem_texts}")


def _change_records(former_keys: set[Key], new_keys: set[Key]) -> list[dict[str, str]]:
    """Return one record for each result, sorted, with how the baseline has changed.

    Args:
        former_keys: The model, data set and protocol of each result of the former baseline.
        new_keys: The same of each result of the new baseline.

    Example:
        {"result": "clip on coco (karpathy)", "change": "added"}. The other changes are "replaced"
        and "removed".
    """
    changes = []
    for key in sorted(former_keys | new_keys):
        if key not in new_keys:
            change = "removed"
        elif key in former_keys:
            change = "replaced"
        else:
            change = "added"
        changes.append({"result": str(key), "change": change})
    return changes


def _require_distinct_trainings(results: Iterable[VerifiedResult]) -> None:
    """Raise UsageError if one training of a group has two results on one data set."""
    results_by_group: dict[tuple[str, str, str], list[StoredResult]] = {}
    for result in results:
        group = group_label(result.row)
        if group:
            key = (group, result.row.dataset, result.row.protocol)
            results_by_group.setdefault(key, []).append(result.stored)
    for group_results in results_by_group.values():
        require_distinct(group_results)


def _make_document(
    entries: Sequence[Entry], reason: str, gate_options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of a baseline's JSON file, with a hash of everything else in it.

    Args:
        entries: The results of the baseline.
        reason: Why the baseline is written.
        gate_options: The fields `tolerance` and `gated`. The latter may be missing.
    """
    records = []
    for entry in entries:
        entry_record = dict(vars(entry))
        if not entry.training:
            del entry_record["training"]
        if entry.loaded_model_sha256 is None:
            del entry_record["loaded_model_sha256"]
        records.append(entry_record)
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "written": {"by": user_name(), "utc": utc_now(), "reason": reason, "version": __version__},
    }
    document.update(gate_options)
    document["results"] = records
    document["baseline_sha256"] = files.json_sha256(document)
    return document


def _make_entry(row: record.ResultRow, archive: bytes | None) -> Entry:
    """Return the entry of a baseline for a result.

    Args:
        row: The result.
        archive: The packed per-sample arrays. If it is None, the entry has no samples, and only the
            metrics that have an interval.
    """
    if archive is None:
        samples = None
        metrics = {name: value for name, value in row.metrics.items() if name in row.intervals}
    else:
        archive_hash = hashlib.sha256(archive).hexdigest()
        # The name of the file, such as "clip__coco__karpathy.1a2b3c4d.baseline.npz".
        stem = "__".join(safe_name(text) for text in result_key(row))
        samples = {"file": f"{stem}.{archive_hash[:8]}.baseline.npz", "sha256": archive_hash}
        metrics = dict(row.metrics)

    training = None
    group = group_label(row)
    if group:
        training = {"group": group, "seed": training_of(row).get("seed")}
        if training_of(row).get("samples"):
            training["samples"] = training_of(row)["samples"]

    conditions: dict[str, Any] = {"weights": row.model["weights"]}
    for name in CONDITIONS:
        if name in row.provenance:
            conditions[name] = row.provenance[name]

    identity = model_identity(row)
    return Entry(
        model=identity.label,
        weights_sha256=row.model["weights_sha256"],
        setting=setting_of_result(row),
        metrics=metrics,
        intervals=dict(row.intervals),
        samples=samples,
        commit=row.provenance["commit"],
        utc=row.provenance["utc"],
        model_sha256=identity.sha256,
        training=training,
        loaded_model_sha256=identity.loaded_sha256,
        conditions=conditions,
    )


def _write_files(
    path: Path, document: Mapping[str, Any], archives: Mapping[str, bytes]
) -> set[Key]:
    """Write the samples and then the JSON file of a baseline, in place of a former baseline.

    Samples that only the former baseline needs are removed.

    Args:
        path: The JSON file.
        document: The content of the JSON file.
        archives: The contents of the samples files by name.

    Returns:
        The keys of the former baseline's results, which are none if there was no baseline.
    """
    samples_folder = path.with_suffix("")
    with files.folder_lock(path.parent) as is_locked:
        former_entries = read_baseline(path).results if path.exists() else []
        for name, content in archives.items():
            files.write_atomically(samples_folder / name, content)
        text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"
        files.write_atomically(path, text.encode())

        # Remove samples that are needed no longer.
        former_names = {entry.samples["file"] for entry in former_entries if entry.samples}
        unused_names = former_names - archives.keys()
        for name in unused_names:
            # In version 1, a baseline and a result could name the same samples file, so files with
            # old names are kept.
            if is_locked and _BASELINE_SAMPLES.fullmatch(name):
                (samples_folder / name).unlink(missing_ok=True)
    return {entry.key for entry in former_entries}


def _require_unchanged(baseline: Baseline, document: Mapping[str, Any], path: Path) -> None:
    """Raise UsageError if a baseline was edited after it was written.

    Since version 2, a baseline has a hash of itself. A baseline that says version 1, which has no
    hash, must not have anything that came with version 2.

    Args:
        baseline: The baseline.
        document: The content of its JSON file.
        path: The file, for messages.
    """
    if baseline.schema_version == SCHEMA_VERSION:
        content = {name: value for name, value in document.items() if name != "baseline_sha256"}
        if baseline.baseline_sha256 != files.json_sha256(content):
            raise UsageError(
                f"{path} was edited: it has another content than baseline_sha256 says; restore it, "
                "or remove it and write it with --update"
            )
        return

    # The baseline says version 1.
    has_new_field = baseline.baseline_sha256 != ""
    for entry in baseline.results:
        has_new_name = entry.samples and _BASELINE_SAMPLES.fullmatch(entry.samples["file"])
        if has_new_field or has_new_name:
            raise UsageError(
                f"{path} was edited: it says version 1, but has what version 2 brought"
            )
    for entry in baseline.results:
        if entry.samples is None:
            raise UsageError(
                f"{path}: a result without samples, in a baseline of version 1, whose metrics "
                "nothing vouches for: remove it and write it with --update"
            )
