"""Names that distinguish results of the same model, data set and protocol."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_eval.results.record import ResultRow

_FILES = 5  # of edited results that a warning names
_HASH = 8  # characters of a hash in a label
_LONGEST = 40  # characters of a name that is not shortened


class Stored(NamedTuple):
    """A result and the file that it was read from.

    `unchanged` is whether the record is the one that was written, by the hash that it holds of
    itself; None where it holds none or was not read from a file. `notes` are what `distinguish`
    adds to the model's name.
    """

    path: Path
    row: ResultRow
    unchanged: bool | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_edited(self) -> bool:
        """Whether the record is known not to be the one that was written."""
        return self.unchanged is False

    @property
    def model(self) -> str:
        """The name of the model where models are compared."""
        return model_label(self.row, self.notes)

    @property
    def table_model(self) -> str:
        """The name of the model in tables."""
        return table_label(self.row, self.notes)


_PARTS = ("weights", "code", "architecture")


def _state(row: ResultRow) -> tuple[str | None, ...]:
    """Return hashes of the parts of a model, None where there is none."""
    architecture = hashlib.sha256(row.model["architecture"].encode(errors="replace")).hexdigest()
    return row.model["weights_sha256"], row.model.get("code_sha256"), architecture


def _differing(results: Iterable[Stored]) -> dict[str, tuple[int, list[int]]]:
    """By label, how many models have it, and the indices of the parts in which they differ.

    What an edited record holds of its model changes no other name.
    """
    states: dict[str, set[tuple[str | None, ...]]] = {}
    for one in results:
        if not one.is_edited:
            states.setdefault(model_label(one.row), set()).add(_state(one.row))
    return {
        label: (len(of), [i for i in range(len(_PARTS)) if len({state[i] for state in of}) > 1])
        for label, of in states.items()
    }


def distinguish(results: Iterable[Stored]) -> list[Stored]:
    """Return the same results, with notes where a name does not identify one model.

    Results of one name whose weights, code or architecture differ are of different models: each
    gets the first digits of the hash of whatever differs. An edited record is marked as such.
    """
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
    """Return one line for each name of several models, and one for all edited records.

    The results are those of `distinguish`.
    """
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


def variants(row: ResultRow) -> tuple[str, ...]:
    """Return `overrides_of` a result."""
    return overrides_of(row.provenance, student=row.model["weights"] == "student")


def overrides_of(settings: Mapping[str, Any], *, student: bool) -> tuple[str, ...]:
    """Return what differs from the defaults in short words; empty for a plain result.

    `settings` are those in a provenance, or of a planned result. A result of the student's weights,
    of another attention or precision, of the first N samples only or of a data set that is not
    complete must never pass for, nor overwrite, the plain one.
    """
    attention, precision = settings["attention"], settings["precision"]
    limit, partial = settings["limit"], settings.get("partial")
    words = {
        "student": student,
        str(attention): attention not in (None, settings.get("protocol_attention", "csa")),
        precision: precision != "fp32",
        f"first {limit} only": limit is not None,
        f"partial ({partial})": partial is not None,
    }
    return tuple(word for word, differs in words.items() if differs)


def is_partial(row: ResultRow) -> bool:
    """Return whether a result is of a part of a data set: the first samples, or those found."""
    return row.provenance["limit"] is not None or "partial" in row.provenance


def model_label(row: ResultRow, notes: tuple[str, ...] = ()) -> str:
    """Return the model's spec, then in brackets what differs from the defaults, and `notes`."""
    random = ("random weights",) if row.model["random"] else ()
    words = ", ".join((*random, *variants(row), *notes))
    return f"{row.model['spec']} ({words})" if words else str(row.model["spec"])


def table_label(row: ResultRow, notes: tuple[str, ...] = ()) -> str:
    """Return the label in tables: also with the kind of map, if the protocol leaves it open."""
    record = row.provenance
    if record.get("map") == record.get("protocol_map"):
        return model_label(row, notes)
    random = ("random weights",) if row.model["random"] else ()
    words = ", ".join((*random, record["map"], *variants(row), *notes))
    return f"{row.model['spec']} ({words})"


def safe_name(text: str) -> str:
    """Return a part of a file name: letters, digits, `._-`; a changed one gets a hash of itself."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-_")[-60:].lstrip(".-_")
    if kept == text.replace(" ", "-"):
        return kept
    return f"{kept}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def stem_of(model: str, dataset: str, family: str, words: tuple[str, ...]) -> str:
    """Return the file name of a result without suffix, from its model, data set and overrides.

    It is readable, safe everywhere, and the result's own.
    """
    plain = [word.replace("(", "").replace(")", "") for word in words]
    return "__".join(safe_name(part) for part in (model, dataset, family, *plain))


def file_stem(row: ResultRow) -> str:
    """Return the file name of a result without suffix."""
    return stem_of(row.model["spec"], row.dataset, row.protocol, variants(row))


def samples_name(row: ResultRow, digest: str) -> str:
    """Return the file name of a result's samples, whose SHA-256 is `digest`."""
    return f"{file_stem(row)}.{digest[:8]}.npz"


def predictions_of(folder: Path, model: str) -> Path:
    """Return the folder of a model's saved predictions below that of all models'."""
    return folder / safe_name(model)


def shortened(names: Iterable[str], longest: int = _LONGEST) -> dict[str, str]:
    """Return a short form of every name: long paths lose as many first folders as possible.

    `cosmos:/data/runs/a/last.pt (bf16)` becomes `cosmos:…/a/last.pt (bf16)`. No two names become
    the same. A name without folders stays as it is.
    """
    ends = {name: _ends(name) for name in dict.fromkeys(names)}
    times = Counter(end for found in ends.values() for end in found)
    return {
        name: name if len(name) <= longest else next((e for e in found if times[e] == 1), name)
        for name, found in ends.items()
    }


def _ends(name: str) -> list[str]:
    """Return the kind of model with every end of its path, shortest first, if that is shorter."""
    kind, colon, path = name.partition(":")
    starts = [index + 1 for index, character in enumerate(path) if character == "/"]
    ends = (f"{kind}{colon}…/{path[start:]}" for start in reversed(starts))
    return [end for end in ends if len(end) < len(name)]
