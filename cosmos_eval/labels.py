"""How a result is told from others of the same model, data set and protocol."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from cosmos_eval.types import ResultRow


def variants(row: ResultRow) -> tuple[str, ...]:
    """What of a result departs from the defaults, as short words; empty for a plain result.

    A result of the student's weights, of another attention or precision, of the first N samples
    only or of a data set that is not complete must never pass for, nor overwrite, the plain one.
    """
    record = row.provenance
    return departures(
        student=row.model["weights"] == "student",
        attention=record["attention"],
        usual_attention=record.get("protocol_attention", "csa"),
        precision=record["precision"],
        limit=record["limit"],
        partial=record.get("partial"),
    )


def departures(
    *,
    student: bool,
    attention: str | None,
    usual_attention: str | None,
    precision: str,
    limit: int | None,
    partial: str | None,
) -> tuple[str, ...]:
    """The words for what departs from the defaults, of a result or of one that is planned.

    `partial` is the number of samples of a data set that is not complete, as in provenance.
    """
    words = {
        "student": student,
        str(attention): attention not in (None, usual_attention),
        precision: precision != "fp32",
        f"first {limit} only": limit is not None,
        f"partial ({partial})": partial is not None,
    }
    return tuple(word for word, departs in words.items() if departs)


def stem_of(model: str, dataset: str, family: str, words: tuple[str, ...]) -> str:
    """A file name without suffix that is readable, safe everywhere, and the result's own."""
    plain = [word.replace("(", "").replace(")", "") for word in words]
    return "__".join(safe_name(part) for part in (model, dataset, family, *plain))


def predictions_of(folder: Path, model: str) -> Path:
    """The folder of a model's saved predictions, all data sets', below that of all models'."""
    return folder / safe_name(model)


def is_partial(row: ResultRow) -> bool:
    """Whether a result is of a part of a data set only: the first samples, or those found."""
    return row.provenance["limit"] is not None or "partial" in row.provenance


def model_label(row: ResultRow) -> str:
    """The model's spec, then what departs from the defaults in brackets."""
    return _with_notes(row, variants(row))


def table_label(row: ResultRow) -> str:
    """The model as tables show it: also with the kind of its maps, where a protocol leaves it."""
    record = row.provenance
    own_map = record.get("map") != record.get("protocol_map")
    return _with_notes(row, ((record["map"],) if own_map else ()) + variants(row))


def _with_notes(row: ResultRow, departing: tuple[str, ...]) -> str:
    notes = (("random weights",) if row.model["random"] else ()) + departing
    return f"{row.model['spec']} ({', '.join(notes)})" if notes else str(row.model["spec"])


def safe_name(text: str) -> str:
    """A part of a file name, of letters, digits and `._-`; a changed one gets a hash of itself."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-_")[-60:].lstrip(".-_")
    if kept == text.replace(" ", "-"):
        return kept
    return f"{kept}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
