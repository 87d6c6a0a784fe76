"""Names that distinguish results of the same model, data set and protocol."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_core.utils.files import json_sha256
from cosmos_eval.models.specs import argument_hashes
from cosmos_eval.results.record import ResultRow
from cosmos_eval.types import UsageError

_FILES = 5  # of edited results that a warning names
_HASH = 8  # characters of a hash in a label
_LONGEST = 40  # characters of a name that is not shortened


class Stored(NamedTuple):
    """A result and the file that it was read from. `unchanged` is whether the record is what was
    written, by the hash that it holds of itself; None where that is unknown. `distinguish` sets
    `names`, if results call the model by several, of which the first is shown, and `notes`. `aside`
    is the file to which storing this result moved that of another model of its name."""

    path: Path
    row: ResultRow
    unchanged: bool | None = None
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    aside: Path | None = None

    @property
    def is_edited(self) -> bool:
        return self.unchanged is False

    @property
    def model(self) -> str:
        """The label of the model where models are compared: the same for all its results."""
        return _label(self, *variants(self.row), *self.notes)

    @property
    def called(self) -> str:
        """The model's name with the notes of `distinguish`, without what differs from defaults."""
        return _label(self, *self.notes)

    @property
    def label(self) -> str:
        """The label of the model's row in tables: also with the kind of map, if the protocol
        leaves it open."""
        record = self.row.provenance
        kind = () if record.get("map") == record.get("protocol_map") else (record["map"],)
        return _label(self, *kind, *variants(self.row), *self.notes)

    @property
    def measured(self) -> tuple[str, str, str]:
        """What a table has one result of: the row's label, the data set and the protocol."""
        return self.label, self.row.dataset, self.row.protocol


_PARTS = ("weights", "code", "arguments", "architecture", "auxiliary")


def _state(row: ResultRow) -> tuple[str | None, ...]:
    """Return hashes of the parts of a model, None where there is none."""
    model, auxiliary = row.model, row.provenance.get("auxiliary")
    architecture = hashlib.sha256(model["architecture"].encode(errors="replace")).hexdigest()
    arguments = argument_hashes(model.get("arguments"))
    return (
        model["weights_sha256"],
        model.get("code_sha256"),
        json_sha256(arguments) if arguments else None,
        architecture,
        json_sha256(auxiliary) if auxiliary else None,
    )


def model_sha256(row: ResultRow) -> str:
    """Return the hash of all that makes a model the same, whatever its path or name: weights and
    which of them, code and arguments of a Python file, architecture, auxiliary encoder. Random
    weights, which have no hash, are those of their specification."""
    model = row.model
    return json_sha256([*_state(row), model["weights"], model["random"] and model["spec"]])


def name_of(row: ResultRow) -> str:
    """Return what a result calls its model: the name that was given, else the specification."""
    return str(row.model.get("name") or row.model["spec"])


def _models(results: Iterable[Stored]) -> list[list[Stored]]:
    """Group the results that are not edited by their models."""
    models: dict[str, list[Stored]] = {}
    for one in (one for one in results if not one.is_edited):
        models.setdefault(model_sha256(one.row), []).append(one)
    return list(models.values())


def _names(results: Iterable[Stored]) -> tuple[str, ...]:
    """Return the names of a model, those that were given first, then the shortest first."""
    keys = {("name" not in one.row.model, len(n := name_of(one.row)), n) for one in results}
    return tuple(name for *_, name in sorted(keys))


def _agree(results: Iterable[Stored]) -> bool:
    """Return whether the results of a model, also under several names, contradict each other."""
    seen: dict[tuple[str, ...], ResultRow] = {}
    alike = (one._replace(names=("-",), notes=()) for one in results)
    return all(_same(seen.setdefault(one.measured, one.row), one.row) for one in alike)


def _same(a: ResultRow, b: ResultRow) -> bool:
    keys = ((row.metrics, row.n_samples, row.provenance["hashes"]) for row in (a, b))
    return next(keys) == next(keys)


def _differing(results: Iterable[Stored]) -> dict[str, tuple[int, list[int]]]:
    """Count the models per label of records that are not edited; index the parts that differ."""
    states: dict[str, set[tuple[str | None, ...]]] = {}
    for one in results:
        if not one.is_edited:
            states.setdefault(one._replace(notes=()).model, set()).add(_state(one.row))
    return {
        label: (len(of), [i for i in range(len(_PARTS)) if len({state[i] for state in of}) > 1])
        for label, of in states.items()
    }


def distinguish(results: Iterable[Stored]) -> list[Stored]:
    """Return the same results with names and notes by which a label is one model, and a model has
    one label. A model of several names has the first of them, unless its results contradict each
    other. Where weights, code, arguments or architecture of one name differ, the note is the hash
    of what differs."""
    listed = list(results)
    several = {
        model_sha256(some[0].row): names
        for some in _models(listed)
        if len(names := _names(some)) > 1 and _agree(some)
    }
    named = [
        one._replace(names=() if one.is_edited else several.get(model_sha256(one.row), ()))
        for one in listed
    ]
    differing = _differing(named)

    def notes(one: Stored) -> tuple[str, ...]:
        if one.is_edited:
            return ("edited record",)
        _, parts = differing[one._replace(notes=()).model]
        state = _state(one.row) if parts else ()
        return tuple(f"{_PARTS[i]} {(state[i] or 'none')[:_HASH]}" for i in parts)

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
    """Return a line per name of several models, per model of several names, and for all edited
    records."""
    listed = list(results)
    lines = [
        f"{count} models are called {label}: their {' and '.join(_PARTS[i] for i in parts)} "
        "differ, and each has a row of its own"
        for label, (count, parts) in sorted(_differing(o for o in listed if o.notes).items())
        if count > 1
    ]
    lines += [
        f"{' and '.join(names)} are one model, called {names[0]}"
        for names in sorted({one.names for one in listed if one.names})
    ]
    lines += [
        f"{' and '.join(_names(some))} are one model, but their results differ: each has a row of "
        "its own"
        for some in _models(one for one in listed if not one.names)
        if len(_names(some)) > 1
    ]
    edited = list(dict.fromkeys(one.path.name for one in listed if one.is_edited))
    if edited:
        more = f" and {len(edited) - _FILES} more" if len(edited) > _FILES else ""
        lines.append(
            "not ranked and not compared, since the file was edited after it was written: "
            f"{', '.join(edited[:_FILES])}{more}"
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


def files_aside(path: Path) -> list[Path]:
    """List the files of results that were moved from `path`."""
    return sorted(path.parent.glob(f"{path.stem}__{'[0-9a-f]' * _HASH}.json"))


def samples_name(row: ResultRow, digest: str) -> str:
    """Return the file name of a result's samples, whose SHA-256 is `digest`."""
    return f"{file_stem(row)}.{digest[:8]}.npz"


def shortened(names: Iterable[str], longest: int = _LONGEST) -> dict[str, str]:
    """Return short forms of names, by name: `cosmos:/data/runs/a/last.pt` -> `cosmos:…/a/last.pt`.
    Long paths lose as many first folders as possible, so that no two names become the same; what
    follows a path in brackets stays."""
    ends: dict[str, list[str]] = {}  # the kind of model with ends of its path, shortest first
    for name in names:
        spec, bracket, rest = name.partition(" (")
        kind, colon, path = spec.partition(":")
        parts = path.split("/")
        ends_of = ("/".join(parts[-n:]) for n in range(1, len(parts)))
        found = (f"{kind}{colon}…/{end}{bracket}{rest}" for end in ends_of)
        ends[name] = [end for end in found if len(end) < len(name)]
    times = Counter(end for found in ends.values() for end in found)
    return {
        name: name if len(name) <= longest else next((e for e in found if times[e] == 1), name)
        for name, found in ends.items()
    }
