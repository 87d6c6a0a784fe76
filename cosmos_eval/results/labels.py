"""Names that distinguish results of the same model, data set and protocol."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_core.utils.files import json_sha256
from cosmos_core.utils.text import first_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.types import UsageError

_FILES = 5  # of edited results that a warning names
_HASH = 8  # characters of a hash in a label
_LONGEST = 40  # characters of a name that is not shortened

CONTENT = "content"
"""Name of the hash of what was measured; results of older versions lack it."""


EDITED_RECORD, EDITED_SAMPLES, EDITED_METRICS = "edited record", "edited samples", "edited metrics"
"""What `Stored.contradiction` and tables call results that are not what was measured."""

_REASONS = {
    EDITED_RECORD: "the file was edited after it was written",
    EDITED_SAMPLES: "the samples are not those that were stored with the record",
    EDITED_METRICS: "the samples give other metrics than the record",
}


class Stored(NamedTuple):
    """A result and the file that it was read from.

    `unchanged` is whether the record is what was written, by the hash that it holds of itself; None
    if that is unknown. `contradiction` is how its samples contradict it, if they do; `recomputed`
    is whether its metrics were compared with its samples, if there are any. `distinguish` sets
    `names`, if results call the model by several, of which the first is shown, `notes`, and
    `data_notes`, if results on one data set measured other data. `aside` is the file to which
    storing this result moved the result of another model of its name.
    """

    path: Path
    row: ResultRow
    unchanged: bool | None = None
    contradiction: str = ""
    recomputed: bool = True
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    data_notes: tuple[str, ...] = ()
    aside: Path | None = None

    @property
    def fault(self) -> str:
        """Why the result is neither ranked nor compared; empty if it is."""
        return EDITED_RECORD if self.unchanged is False else self.contradiction

    @property
    def is_edited(self) -> bool:
        return bool(self.fault)

    @property
    def model(self) -> str:
        """The label of the model where models are compared: the same for all its results."""
        return _label(self, *variants(self.row), *self.notes)

    @property
    def label(self) -> str:
        """The label of the model's row in tables: also with the kind of map, if the protocol
        leaves it open."""
        record = self.row.provenance
        kind = () if record.get("map") == record.get("protocol_map") else (record["map"],)
        return _label(self, *kind, *variants(self.row), *self.notes)

    def is_called(self, name: str) -> bool:
        """Return whether a user may mean the model by its label, name or specification."""
        return name in (self.model, name_of(self.row), self.row.model["spec"])

    @property
    def dataset(self) -> str:
        """The label of the data set's column in tables."""
        name, notes = self.row.dataset, ", ".join(self.data_notes)
        return f"{name} ({notes})" if notes else name

    @property
    def measured(self) -> tuple[str, str, str]:
        """What a table has one result of: the row's label, the data set and the protocol."""
        return self.label, self.dataset, self.row.protocol


def _state(row: ResultRow) -> dict[str, str]:
    """Return hashes of the parts of a model, `none` where there is none."""
    model, auxiliary = row.model, row.provenance.get("auxiliary")
    hashes = {
        "weights": model["weights_sha256"],
        "code": model.get("code_sha256"),
        "architecture": hashlib.sha256(model["architecture"].encode(errors="replace")).hexdigest(),
        "auxiliary": auxiliary and json_sha256(auxiliary),
    }
    return {part: digest or "none" for part, digest in hashes.items()}


def model_sha256(row: ResultRow) -> str:
    """Return the hash of all that makes a model the same, whatever its path or name: weights and
    which of them, a Python file with its arguments, architecture, auxiliary encoder. Random
    weights, which have no hash, are those of their specification."""
    model = row.model
    return json_sha256([_state(row), model["weights"], model["random"] and model["spec"]])


def name_of(row: ResultRow) -> str:
    """Return what a result calls its model: the name that was given, else the specification."""
    return str(row.model.get("name") or row.model["spec"])


def _grouped(results: Iterable[Stored], key: Callable[[Stored], str]) -> dict[str, list[Stored]]:
    """Group the results that are not edited."""
    groups: dict[str, list[Stored]] = {}
    for one in results:
        if not one.is_edited:
            groups.setdefault(key(one), []).append(one)
    return groups


def _by_model(results: Iterable[Stored]) -> dict[str, list[Stored]]:
    return _grouped(results, lambda one: model_sha256(one.row))


def _names(results: Iterable[Stored]) -> tuple[str, ...]:
    """Return the names of a model, those that were given first, then the shortest first."""
    keys = {("name" not in one.row.model, len(n := name_of(one.row)), n) for one in results}
    return tuple(name for *_, name in sorted(keys))


def _agree(results: Iterable[Stored]) -> bool:
    """Return whether the results of a model are the same wherever they are of the same."""
    seen: dict[tuple[str, ...], ResultRow] = {}
    alike = (one._replace(names=("-",), notes=()) for one in results)
    return all(_same(seen.setdefault(one.measured, one.row), one.row) for one in alike)


def _same(a: ResultRow, b: ResultRow) -> bool:
    if (a.metrics, a.n_samples) != (b.metrics, b.n_samples):
        return False
    first, second = dict(a.provenance["hashes"]), dict(b.provenance["hashes"])
    if not (first.get(CONTENT) and second.get(CONTENT)):  # an older version has no such hash
        first.pop(CONTENT, None)
        second.pop(CONTENT, None)
    return first == second


def data_state(row: ResultRow) -> dict[str, str]:
    """Return what identifies the files that were measured: the repository of the hub, its commit
    and the hash of their content; empty where a result does not record it."""
    provenance = row.provenance
    return {
        "repository": provenance.get("repository", ""),
        "revision": provenance.get("revision", ""),
        "content": provenance["hashes"].get(CONTENT, ""),
    }


def _with_data_notes(results: Iterable[Stored]) -> list[Stored]:
    """Return results with notes that tell data of one name apart: the fields of `data_state` that
    have several values among the results of a data set, protocol and number of samples."""
    listed = list(results)
    values: dict[tuple[Any, ...], set[str]] = {}
    for stored in listed:
        for name, value in data_state(stored.row).items():
            recorded = values.setdefault((*_samples_of(stored.row), name), set())
            if value and not stored.is_edited:
                recorded.add(value)
    labelled = []
    for stored in listed:
        notes = []
        for name, value in data_state(stored.row).items():
            if len(values[(*_samples_of(stored.row), name)]) > 1:
                short = value if name == "repository" else value[:_HASH]
                notes.append(f"{name} {short or 'not recorded'}")
        labelled.append(stored._replace(data_notes=tuple(notes)))
    return labelled


def _samples_of(row: ResultRow) -> tuple[Any, ...]:
    """Return what results must have in common to be of the same samples by their names."""
    limits = row.provenance["limit"], row.provenance.get("partial")
    return row.task, row.dataset, row.protocol, *limits


def _differing(results: Iterable[Stored]) -> dict[str, list[str]]:
    """Return the parts in which models of one label differ, by label."""
    states = {
        label: [_state(one.row) for one in some]
        for label, some in _grouped(results, lambda one: one._replace(notes=()).model).items()
    }
    return {
        label: [part for part in of[0] if len({state[part] for state in of}) > 1]
        for label, of in states.items()
    }


def distinguish(results: Iterable[Stored]) -> list[Stored]:
    """Return the same results with names and notes by which a label is one model, and a model has
    one label. A model of several names has the first of them, unless its results contradict each
    other. Where weights, code or architecture of one name differ, the note is the hash of what
    differs. The same holds for data sets: results on other files have another label."""
    listed = _with_data_notes(results)
    names = {sha: _names(some) if _agree(some) else () for sha, some in _by_model(listed).items()}
    named = []
    for one in listed:
        own = () if one.is_edited else names[model_sha256(one.row)]
        named.append(one._replace(names=own if len(own) > 1 else ()))
    differing = _differing(named)

    def notes(one: Stored) -> tuple[str, ...]:
        if one.is_edited:
            return (one.fault,)
        parts, state = differing[one._replace(notes=()).model], _state(one.row)
        return tuple(f"{part} {state[part][:_HASH]}" for part in parts)

    return [one._replace(notes=notes(one)) for one in named]


def distinct(results: Iterable[Stored]) -> list[Stored]:
    """Return results without those that repeat another one of the same model. Raises UsageError
    where two such results differ."""
    found: dict[tuple[str, str, str], Stored] = {}
    for one in results:
        other = found.setdefault(one.measured, one)
        if not _same(other.row, one.row):
            paths = other.path, one.path
            named = f" {' and '.join(map(str, paths))}" if all(p.name for p in paths) else ""
            where = f"{one.label} on {one.row.dataset} ({one.row.protocol})"
            raise UsageError(f"two results of {where}: keep one of the files{named}")
    return list(found.values())


def warnings_of(results: Iterable[Stored]) -> list[str]:
    """Return a line per name of several models, per model of several names, for all edited
    records, for results that their samples contradict, and for those that were not recomputed."""
    listed = list(results)
    lines = []
    for label, parts in sorted(_differing(one for one in listed if one.notes).items()):
        if parts:
            alike = (o for o in listed if not o.is_edited and o._replace(notes=()).model == label)
            lines.append(
                f"{len(_by_model(alike))} models are called {label}: their {' and '.join(parts)} "
                "differ, and each has a row of its own"
            )
    called = {one.names: f", and is called {one.names[0]}" for one in listed if one.names}
    apart = map(_names, _by_model(one for one in listed if not one.names).values())
    but = ", under which its results differ: each has a row of its own"
    called |= {names: but for names in apart if len(names) > 1}
    lines += [f"one model has the names {', '.join(n)}{how}" for n, how in sorted(called.items())]
    for fault, reason in _REASONS.items():
        edited = list(dict.fromkeys(one.path.name for one in listed if one.fault == fault))
        if edited:
            lines.append(f"not ranked and not compared, since {reason}: {first_of(edited, _FILES)}")
    if unchecked := sum(not one.recomputed for one in listed):
        lines.append(
            f"the metrics of {unchecked:,} of {len(listed):,} results, whose samples are large, "
            "were not recomputed: `cosmos-eval verify` does"
        )
    return lines


def repeats_of(results: Iterable[Stored]) -> list[str]:
    """Return a line, if there are any, on results that `distinct` leaves out."""
    listed = list(results)
    count = len(listed) - len({one.measured for one in listed})
    what = "results that repeat another one of the same model, data set and protocol"
    return [f"left out: {count} {what}"] if count else []


def training_of(row: ResultRow) -> Mapping[str, Any]:
    """Return what is known of the training of a result's model: its group and seed among others."""
    return row.model.get("training") or {}


def group_label(row: ResultRow) -> str | None:
    """Return the name of a result's group of trainings with what differs from the defaults, None
    of a model that states no group."""
    group, words = training_of(row).get("group"), ", ".join(variants(row))
    return f"{group} ({words})" if group and words else group


def variants(row: ResultRow) -> tuple[str, ...]:
    return overrides_of(row.provenance, student=row.model["weights"] == "student")


def overrides_of(settings: Mapping[str, Any], *, student: bool) -> tuple[str, ...]:
    """Return what differs from the defaults in short words; empty for a plain result. `settings`
    are those in a provenance, or of a planned result. A result that differs in one of them must
    never pass for, nor overwrite, the plain one."""
    attention, precision = settings["attention"], settings["precision"]
    limit, partial = settings["limit"], settings.get("partial")
    usual = settings.get("protocol_attention", "csa")
    if attention and auxiliary_of(settings):
        attention = f"{attention}: {auxiliary_of(settings)}"
    words = {
        "student": student,
        attention: attention and attention != usual,
        precision: precision != "fp32",
        f"first {limit} only": limit is not None,
        f"partial ({partial})": partial is not None,
    }
    return tuple(word for word, differs in words.items() if differs)


def is_partial(row: ResultRow) -> bool:
    return row.provenance["limit"] is not None or "partial" in row.provenance


def model_label(row: ResultRow) -> str:
    """Return the label of a model by one result alone: its name, then in brackets what differs from
    the defaults."""
    return Stored(Path(), row).model


def _label(one: Stored, *words: str) -> str:
    name = one.names[0] if one.names else name_of(one.row)
    listed = ", ".join(("random weights", *words) if one.row.model["random"] else words)
    return f"{name} ({listed})" if listed else name


def safe_name(text: str) -> str:
    """Return a part of a file name: letters, digits, `._-`; a changed one gets a hash of itself."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-_")[-60:].lstrip(".-_")
    if kept == text.replace(" ", "-"):
        return kept
    return f"{kept}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def auxiliary_of(settings: Mapping[str, Any]) -> str | None:
    """Return the name of the encoder that guides the model, if any."""
    record = settings.get("auxiliary")
    return None if record is None else str(record["spec"])


def predictions_name(model: str, auxiliary: str | None) -> str:
    """Return the name of the folder of saved label maps of a model, by its name."""
    return safe_name(model if auxiliary is None else f"{model} {auxiliary}")


def stem_of(model: str, dataset: str, family: str, words: tuple[str, ...]) -> str:
    """Return the file name of a result without suffix: readable, safe everywhere, its own."""
    plain = [word.replace("(", "").replace(")", "") for word in words]
    return "__".join(safe_name(part) for part in (model, dataset, family, *plain))


def file_stem(row: ResultRow) -> str:
    """Return the file name of a result without suffix."""
    return stem_of(name_of(row), row.dataset, row.protocol, variants(row))


def set_aside(path: Path, row: ResultRow) -> Path:
    """Return the file to which a result is moved when another model of its name is measured."""
    return path.with_name(f"{file_stem(row)}__{model_sha256(row)[:_HASH]}.json")


def samples_name(row: ResultRow, digest: str) -> str:
    """Return the file name of a result's samples, whose SHA-256 is `digest`."""
    return f"{file_stem(row)}.{digest[:8]}.npz"


def shortened(names: Iterable[str], longest: int = _LONGEST) -> dict[str, str]:
    """Return short forms of names, by name: `cosmos:/data/run/a/last.pt` -> `cosmos:.../a/last.pt`.
    Long paths lose as many first folders as possible, so that no two names become the same; what
    follows a path in brackets stays."""
    ends: dict[str, list[str]] = {}  # the kind of model with ends of its path, shortest first
    for name in names:
        spec, bracket, rest = name.partition(" (")
        kind, colon, path = spec.partition(":")
        parts = path.split("/")
        ends_of = ("/".join(parts[-n:]) for n in range(1, len(parts)))
        found = (f"{kind}{colon}.../{end}{bracket}{rest}" for end in ends_of)
        ends[name] = [end for end in found if len(end) < len(name)]
    times = Counter(end for found in ends.values() for end in found)
    return {
        name: name if len(name) <= longest else next((e for e in found if times[e] == 1), name)
        for name, found in ends.items()
    }
