"""How a result is told from others of the same model, data set and protocol."""

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


def distinguish(results: Iterable[Stored]) -> list[Stored]:
    """The same results, with notes where the name of a model does not say which one it is.

    Results of one name whose weights, code or architecture differ are of different models: each
    gets the first digits of the hash of whatever differs. An edited record is marked as such; what
    it says of its model changes no other name.
    """
    named = [(one, model_label(one.row), _state(one.row)) for one in results]
    states: dict[str, set[_State]] = {}
    for one, label, state in named:
        if not one.is_edited:
            states.setdefault(label, set()).add(state)
    return [
        one._replace(
            notes=("edited record",) if one.is_edited else _differing(state, states[label])
        )
        for one, label, state in named
    ]


def warnings_of(results: Iterable[Stored]) -> list[str]:
    """One line for each name of several models, and one for all edited records.

    The results are those of `distinguish`.
    """
    noted = [one for one in results if one.notes]
    states: dict[str, set[_State]] = {}
    for one in noted:
        if not one.is_edited:
            states.setdefault(model_label(one.row), set()).add(_state(one.row))
    lines = [
        f"{len(of)} models are called {label}: their {' and '.join(_parts(of))} differ, "
        "and each has a row of its own"
        for label, of in sorted(states.items())
        if len(of) > 1
    ]
    edited = list(dict.fromkeys(one.path.name for one in noted if one.is_edited))
    if edited:
        named = ", ".join(edited[:_FILES])
        more = f" and {len(edited) - _FILES} more" if len(edited) > _FILES else ""
        lines.append(
            f"not ranked and not compared, since the file was edited after it was written: "
            f"{named}{more}"
        )
    return lines


class _State(NamedTuple):
    """What a model is, whatever it is called: hashes, None where there is none."""

    weights: str | None
    code: str | None
    architecture: str


def _state(row: ResultRow) -> _State:
    architecture = hashlib.sha256(row.model["architecture"].encode(errors="replace")).hexdigest()
    return _State(row.model["weights_sha256"], row.model.get("code_sha256"), architecture)


def _parts(states: set[_State]) -> list[str]:
    """The parts in which states differ."""
    if len(states) == 1:
        return []
    columns = zip(*states, strict=True)
    return [name for name, of in zip(_State._fields, columns, strict=True) if len(set(of)) > 1]


def _differing(state: _State, states: set[_State]) -> tuple[str, ...]:
    return tuple(f"{name} {(getattr(state, name) or 'none')[:_HASH]}" for name in _parts(states))


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


def stem_of(model: str, dataset: str, family: str, words: tuple[str, ...]) -> str:
    """Return the file name of a result without suffix, from its model, data set and overrides.

    It is readable, safe everywhere, and the result's own.
    """
    plain = [word.replace("(", "").replace(")", "") for word in words]
    return "__".join(safe_name(part) for part in (model, dataset, family, *plain))


def predictions_of(folder: Path, model: str) -> Path:
    """The folder of a model's saved predictions, all data sets', below that of all models'."""
    return folder / safe_name(model)


def is_partial(row: ResultRow) -> bool:
    """Whether a result is of a part of a data set only: the first samples, or those found."""
    return row.provenance["limit"] is not None or "partial" in row.provenance


def model_label(row: ResultRow, notes: tuple[str, ...] = ()) -> str:
    """The model's spec, then what departs from the defaults in brackets, and `notes`."""
    return _with_notes(row, variants(row) + notes)


def table_label(row: ResultRow, notes: tuple[str, ...] = ()) -> str:
    """The model as tables show it: also with the kind of its maps, where a protocol leaves it."""
    record = row.provenance
    own_map = record.get("map") != record.get("protocol_map")
    return _with_notes(row, ((record["map"],) if own_map else ()) + variants(row) + notes)


def _with_notes(row: ResultRow, departing: tuple[str, ...]) -> str:
    notes = (("random weights",) if row.model["random"] else ()) + departing
    return f"{row.model['spec']} ({', '.join(notes)})" if notes else str(row.model["spec"])


def safe_name(text: str) -> str:
    """A part of a file name, of letters, digits and `._-`; a changed one gets a hash of itself."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-_")[-60:].lstrip(".-_")
    if kept == text.replace(" ", "-"):
        return kept
    return f"{kept}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


_LONGEST = 40
_CUT = "…/"


def shortened(names: Iterable[str], longest: int = _LONGEST) -> dict[str, str]:
    """What to show for every name: long paths lose their first folders, as many as may go.

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
    """The kind of model and every end of its path, shortest first, as far as that is shorter."""
    kind, colon, path = name.partition(":")
    starts = [place + 1 for place, character in enumerate(path) if character == "/"]
    ends = (f"{kind}{colon}{_CUT}{path[start:]}" for start in reversed(starts))
    return [end for end in ends if len(end) < len(name)]


def file_stem(row: ResultRow) -> str:
    """Return the file name of a result without suffix."""
    return stem_of(row.model["spec"], row.dataset, row.protocol, variants(row))


def samples_name(row: ResultRow, digest: str) -> str:
    """The name of the file of a result's samples, whose SHA-256 is `digest`."""
    return f"{file_stem(row)}.{digest[:8]}.npz"
