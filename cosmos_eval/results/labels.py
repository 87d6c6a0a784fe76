"""Names that distinguish results of the same model, data set and protocol."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_core.utils.files import json_sha256
from cosmos_eval.results.record import ResultRow

_FILES = 5  # of edited results that a warning names
_HASH = 8  # characters of a hash in a label
_LONGEST = 40  # characters of a name that is not shortened


class Stored(NamedTuple):
    """A result and the file that it was read from. `unchanged` is whether the record is what was
    written, by the hash that it holds of itself; None where that is unknown. `notes` are what
    `distinguish` adds to the model's name."""

    path: Path
    row: ResultRow
    unchanged: bool | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_edited(self) -> bool:
        return self.unchanged is False

    @property
    def model(self) -> str:
        """The name of the model where models are compared."""
        return model_label(self.row, self.notes)


_PARTS = ("weights", "code", "architecture", "auxiliary")


def _state(row: ResultRow) -> tuple[str | None, ...]:
    """Return hashes of the parts of a model, None where there is none."""
    architecture = hashlib.sha256(row.model["architecture"].encode(errors="replace")).hexdigest()
    auxiliary = row.provenance.get("auxiliary")
    code, digest = row.model.get("code_sha256"), auxiliary and json_sha256(auxiliary)
    return row.model["weights_sha256"], code, architecture, digest


def _differing(results: Iterable[Stored]) -> dict[str, tuple[int, list[int]]]:
    """Count the models per label of records that are not edited; index the parts that differ."""
    states: dict[str, set[tuple[str | None, ...]]] = {}
    for one in results:
        if not one.is_edited:
            states.setdefault(model_label(one.row), set()).add(_state(one.row))
    return {
        label: (len(of), [i for i in range(len(_PARTS)) if len({state[i] for state in of}) > 1])
        for label, of in states.items()
    }


def distinguish(results: Iterable[Stored]) -> list[Stored]:
    """Return the same results, with notes where a name does not identify one model. Where weights,
    code or architecture of one name differ, the note is the hash of what differs."""
    listed = list(results)
    differing = _differing(listed)

    def notes(one: Stored) -> tuple[str, ...]:
        if one.is_edited:
            return ("edited record",)
        _, parts = differing[model_label(one.row)]
        state = _state(one.row) if parts else ()
        return tuple(f"{_PARTS[i]} {(state[i] or 'none')[:_HASH]}" for i in parts)

    return [one._replace(notes=notes(one)) for one in listed]


def warnings_of(results: Iterable[Stored]) -> list[str]:
    """Return a line per name of several models, and one for all edited records."""
    noted = [one for one in results if one.notes]
    lines = [
        f"{count} models are called {label}: their {' and '.join(_PARTS[i] for i in parts)} "
        "differ, and each has a row of its own"
        for label, (count, parts) in sorted(_differing(noted).items())
        if count > 1
    ]
    edited = list(dict.fromkeys(one.path.name for one in noted if one.is_edited))
    if edited:
        more = f" and {len(edited) - _FILES} more" if len(edited) > _FILES else ""
        lines.append(
            "not ranked and not compared, since the file was edited after it was written: "
            f"{', '.join(edited[:_FILES])}{more}"
        )
    return lines


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


def model_label(row: ResultRow, notes: tuple[str, ...] = ()) -> str:
    """Return the model's spec, then in brackets what differs from the defaults, and `notes`."""
    return _label(row, *variants(row), *notes)


def table_label(row: ResultRow, notes: tuple[str, ...] = ()) -> str:
    """Return the label in tables: also with the kind of map, if the protocol leaves it open."""
    record = row.provenance
    kind = () if record.get("map") == record.get("protocol_map") else (record["map"],)
    return _label(row, *kind, *variants(row), *notes)


def _label(row: ResultRow, *words: str) -> str:
    listed = ", ".join(("random weights", *words) if row.model["random"] else words)
    return f"{row.model['spec']} ({listed})" if listed else str(row.model["spec"])


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


def predictions_name(spec: str, auxiliary: str | None) -> str:
    """Return the name of the folder of a model's saved label maps."""
    return safe_name(spec if auxiliary is None else f"{spec} {auxiliary}")


def stem_of(model: str, dataset: str, family: str, words: tuple[str, ...]) -> str:
    """Return the file name of a result without suffix: readable, safe everywhere, its own."""
    plain = [word.replace("(", "").replace(")", "") for word in words]
    return "__".join(safe_name(part) for part in (model, dataset, family, *plain))


def file_stem(row: ResultRow) -> str:
    """Return the file name of a result without suffix."""
    return stem_of(row.model["spec"], row.dataset, row.protocol, variants(row))


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
