"""A baseline on the disk: one JSON file, and per-sample arrays in the folder of its name. Version 2
added a hash of the file's own content, and names of samples that no result has.
`baseline.schema.json` is `record.json_schema(Baseline)`."""

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
from cosmos_eval.results.compare import setting
from cosmos_eval.results.filenames import file_stem, safe_name
from cosmos_eval.results.groups import require_distinct
from cosmos_eval.results.identity import group_label, model_label, model_sha256, training_of
from cosmos_eval.results.labels import Stored, distinguish
from cosmos_eval.results.verify import Verified
from cosmos_eval.tasks import known_tasks, metric_of
from cosmos_eval.types import Samples, UsageError

SCHEMA_VERSION = 2

_LARGEST = 1e12  # of a rank, a ratio, and the ends of their intervals
# Names of samples that only a baseline of this version has.
_OWN_SAMPLES = re.compile(r".+\.[0-9a-f]{8}\.baseline\.npz")


class Key(NamedTuple):
    """What a result and an entry of a baseline have in common; the model as tables call it."""

    model: str
    dataset: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.model} on {self.dataset} ({self.protocol})"


def _only_hashes(fields: dict[str, Any]) -> dict[str, Any]:
    for name in fields.keys() - Setting.__annotations__.keys():
        value = fields[name]
        if not (name.startswith("hashes.") and isinstance(value, str) and value):
            raise record.out_of_place(name, "neither a field of a setting nor a hash")
    return fields


_HASHES: Any = {
    "patternProperties": {r"^hashes\.": {"type": "string", "minLength": 1}},
    "additionalProperties": False,
}


@with_config(ConfigDict(**{**record.STRICT, "extra": "allow", "json_schema_extra": _HASHES}))
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


_End = Annotated[float, Field(ge=-1, le=_LARGEST)]


@with_config(record.STRICT)
class _Interval(TypedDict):
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
class TrainingRecord(TypedDict):
    """Of which group, with what differs from the defaults, and of which seed a training is."""

    group: record.Name
    seed: int | None


@with_config(record.STRICT)
class Written(TypedDict):
    """Who wrote a baseline, when, why, and with which version."""

    by: record.Name
    utc: record.Name
    reason: record.Name
    version: str


_TRAINING = Field(description="Absent where unknown. Several of a group are gated together.")


@with_config(record.STRICT)
@dataclass(frozen=True)
class Entry:
    """One result of a baseline; without samples, intervals decide."""

    model: Annotated[record.Name, Field(description="As tables call it.")]
    weights_sha256: record.Sha256
    setting: Annotated[
        Mapping[str, Any], record.as_type(Annotated[Setting, AfterValidator(_only_hashes)])
    ]
    metrics: Annotated[Mapping[str, float], record.metrics_type(_LARGEST)]
    intervals: Annotated[Mapping[str, Mapping[str, Any]], record.as_type(dict[str, _Interval])]
    samples: Annotated[Mapping[str, str] | None, record.as_type(SamplesRecord | None)]
    commit: str | None
    utc: str
    model_sha256: Annotated[
        record.Sha256 | None, Field(description="Of all that makes a model the same.")
    ] = None
    training: Annotated[
        Mapping[str, Any] | None, record.as_type(Annotated[TrainingRecord | None, _TRAINING])
    ] = None

    @property
    def key(self) -> Key:
        """The key of the results that are checked against it."""
        return Key(self.model, self.setting["dataset"], self.setting["protocol"])


_TITLE = "Results that later ones must not fall behind"
_HEADER: Any = {"$id": f"urn:cosmos-eval:baseline:{SCHEMA_VERSION}"}
_VERSION = Field(ge=1, le=SCHEMA_VERSION, description="Version 2 added baseline_sha256.")
_GATED = "Which metrics can fail a check: those that decide comparisons, or all."
_LOSS = "Tolerated loss of a metric: absolute for fractions, relative for ranks and ratios."


@with_config(ConfigDict(**record.STRICT, title=_TITLE, json_schema_extra=_HEADER))
@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Results that new ones are checked against; the fields are those of the file."""

    schema_version: Annotated[int, _VERSION]
    written: Annotated[Mapping[str, str], record.as_type(Written)]
    tolerance: Annotated[float, Field(ge=0, le=0.5, description=_LOSS)]
    results: Annotated[list[Entry], Field(min_length=1)]
    gated: Annotated[Literal["headline", "all"], Field(description=_GATED)] = "headline"
    baseline_sha256: Annotated[record.Sha256, record.OWN_HASH] = ""

    def gated_metrics(self, entry: Entry) -> set[str]:
        """Return the metrics of an entry that can fail a check: of its primary ones, else of those
        that tables show, else of all, the first that it has."""
        records = [metric_of(entry.setting["task"], name) for name in entry.metrics]
        tested = [metric for metric in records if not metric.reference]
        primary = [metric for metric in tested if metric.primary]
        shown = [metric for metric in tested if metric.headline]
        chosen = tested if self.gated == "all" else primary or shown or tested
        return {metric.name for metric in chosen}


def baseline_samples(path: Path, entry: Entry) -> Samples | None:
    """Return the per-sample arrays of an entry, if any. Raises ValueError for changed ones."""
    if entry.samples is None:
        return None
    file = path.with_suffix("") / entry.samples["file"]
    try:
        content = readers.read_bytes(file)
        if hashlib.sha256(content).hexdigest() != entry.samples["sha256"]:
            raise ValueError("not what the baseline was written with")
        samples = files.unpack_arrays(content)
        if (name := entry.setting["task"]) in known_tasks():
            known_tasks()[name].require_valid(samples, {})
        return samples
    except ValueError as error:  # FileError is one
        raise ValueError(f"the baseline's samples {file.name}: {error}") from error


def result_key(row: record.ResultRow) -> Key:
    """Return the key of a result."""
    return Key(model_label(row), row.dataset, row.protocol)


class Problem(NamedTuple):
    """Why something could not be decided."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def faults_of(results: Iterable[Verified], *, strict: bool) -> Iterator[Problem]:
    """Yield what keeps results from being trusted; `strict` also asks for their exact code."""
    results = list(results)
    yield from _several_models(results)
    for result in results:
        row, path = result.row, str(result.path)
        if row.model["random"]:
            yield Problem(path, "is of random weights, which measure nothing")
        if strict and "record_sha256" not in row.provenance:
            message = "is of version 1, without a hash that --strict could trust its commit by"
            yield Problem(path, message)
        elif strict and row.provenance["commit"] is None:
            yield Problem(path, "does not state its commit, which --strict requires")
        elif strict and row.provenance["dirty"] is not False:
            yield Problem(path, "is of edited code (dirty), which --strict refuses")


def _several_models(results: Iterable[Verified]) -> Iterator[Problem]:
    for one in distinguish(Stored(result.path, result.row) for result in results):
        if one.notes:
            others = f"other results of {model_label(one.row)} are not: give those of one model"
            yield Problem(str(one.path), f"is of {', '.join(one.notes)}, and {others}")


def without_former(results: Sequence[Verified]) -> tuple[list[Verified], list[str]]:
    """Return results without those that were moved aside when another model of their name was
    measured, where the later ones are among them; and a note on each."""
    paths, kept, notes = {one.path for one in results}, [], []
    for one in results:
        latest = one.path.with_name(f"{file_stem(one.row)}.json")
        if latest == one.path or latest not in paths:
            kept.append(one)
        else:
            notes.append(f"left out: {one.path}, of another model than {latest}")
    return kept, notes


def read_baseline(path: Path) -> Baseline:
    """Read a baseline. Raises UsageError, naming the file, where it is not one or was edited."""
    try:
        content = readers.read_bytes(path)
        document = readers.parse_json(content)
    except readers.MissingFileError as error:
        raise UsageError(f"no baseline {path}: write it with --update --reason TEXT") from error
    except readers.FileError as error:
        raise UsageError(f"{path}: cannot be read as a baseline: it {error}") from error
    baseline = record.validate(Baseline, content, str(path))
    _require_unchanged(baseline, document, path)
    for twice in readers.first_repeated(entry.key for entry in baseline.results):
        raise UsageError(f"{path}: two results of {twice}")
    return baseline


def replace_baseline(
    path: Path,
    results: Sequence[Verified],
    problems: Sequence[Problem],
    *,
    strict: bool = False,
    reason: str,
    tolerance: float = 0.0,
    keep_samples: bool = True,
    all_gated: bool = False,
) -> tuple[list[dict[str, str]], list[str]]:
    """Make results the whole baseline in a file; return what changed, and notes. Without samples
    only metrics that have an interval are kept, since nothing could be decided of the others.
    Raises UsageError for results that a check could not use, for two of one model, or training, and
    data set, for a file that is not called *.json, and where it is none or cannot be written."""
    results, left_out = without_former(results)
    wrong = [*map(str, problems), *map(str, faults_of(results, strict=strict))]
    if wrong or not results:
        raise UsageError(f"no baseline of such results: {'; '.join(wrong)}")
    if path.suffix != ".json":
        raise UsageError(f"cannot write {path}: the name of a baseline ends with .json")
    for twice in readers.first_repeated(result_key(one.row) for one in results):
        raise UsageError(f"two results of {twice}: give one of the files")
    _require_replicates(results)
    archives = [files.pack_arrays(one.samples) if keep_samples else None for one in results]
    entries = [_entry(one.row, own) for one, own in zip(results, archives, strict=True)]
    settings = {"tolerance": tolerance, **({"gated": "all"} if all_gated else {})}
    document = _document(sorted(entries, key=lambda entry: entry.key), reason, settings)
    record.validate(Baseline, json.dumps(document), str(path))
    kept = {e.samples["file"]: a for e, a in zip(entries, archives, strict=True) if e.samples and a}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _replace(path, document, kept)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    after = {entry.key for entry in entries}
    changes = {(True, True): "replaced", (True, False): "removed", (False, True): "added"}
    return [
        {"result": str(key), "change": changes[key in before, key in after]}
        for key in sorted(before | after)
    ], left_out


def _require_replicates(results: Iterable[Verified]) -> None:
    groups: dict[tuple[str, ...], list[Stored]] = {}
    for one in results:
        if group := group_label(one.row):
            key = (group, *result_key(one.row)[1:])
            groups.setdefault(key, []).append(Stored(one.path, one.row))
    for stored in groups.values():
        require_distinct(stored)


def _document(entries: Sequence[Entry], reason: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    document = {
        "schema_version": SCHEMA_VERSION,
        "written": {"by": user_name(), "utc": utc_now(), "reason": reason, "version": __version__},
        **settings,
        "results": [
            {name: value for name, value in vars(entry).items() if name != "training" or value}
            for entry in entries
        ],
    }
    return {**document, "baseline_sha256": files.json_sha256(document)}


def _entry(row: record.ResultRow, archive: bytes | None) -> Entry:
    stored, usable, group = None, row.intervals.keys(), group_label(row)
    if archive is not None:
        digest, usable = hashlib.sha256(archive).hexdigest(), row.metrics.keys()
        name = "__".join(map(safe_name, result_key(row)))
        stored = {"file": f"{name}.{digest[:8]}.baseline.npz", "sha256": digest}
    return Entry(
        model=model_label(row),
        weights_sha256=row.model["weights_sha256"],
        setting=setting(row),
        metrics={name: value for name, value in row.metrics.items() if name in usable},
        intervals=dict(row.intervals),
        samples=stored,
        commit=row.provenance["commit"],
        utc=row.provenance["utc"],
        model_sha256=model_sha256(row),
        training={"group": group, "seed": training_of(row).get("seed")} if group else None,
    )


def _replace(path: Path, document: Mapping[str, Any], archives: Mapping[str, bytes]) -> set[Key]:
    """Write samples, then the file; remove those that only the former named; return its keys."""
    folder = path.with_suffix("")
    with files.exclusive(path.parent) as alone:
        former = read_baseline(path).results if path.exists() else []
        for name, content in archives.items():
            files.write_atomically(folder / name, content)
        text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"
        files.write_atomically(path, text.encode())
        for name in {entry.samples["file"] for entry in former if entry.samples} - archives.keys():
            # Others may be those of a result: in version 1 they had the same names.
            if alone and _OWN_SAMPLES.fullmatch(name):
                (folder / name).unlink(missing_ok=True)
    return {entry.key for entry in former}


def _require_unchanged(file: Baseline, document: Mapping[str, Any], path: Path) -> None:
    if file.schema_version == SCHEMA_VERSION:
        others = {k: v for k, v in document.items() if k != "baseline_sha256"}
        if file.baseline_sha256 != files.json_sha256(others):
            raise UsageError(
                f"{path} was edited: it has another content than baseline_sha256 says; restore it, "
                "or remove it and write it with --update"
            )
        return
    samples = [entry.samples for entry in file.results]
    later = any(some and _OWN_SAMPLES.fullmatch(some["file"]) for some in samples)
    if file.baseline_sha256 or later:
        raise UsageError(f"{path} was edited: it says version 1, but has what version 2 brought")
    if None in samples:
        raise UsageError(
            f"{path}: a result without samples, in a baseline of version 1, whose metrics nothing "
            "vouches for: remove it and write it with --update"
        )
