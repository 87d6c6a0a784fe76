"""Names of the files that results, their samples and saved label maps are stored in."""

import hashlib
import re
from pathlib import Path

from cosmos_eval.results.identity import model_identity
from cosmos_eval.results.record import ResultRow

_MOST_CHARACTERS = 60  # of each component of a file name
_HASH = 8  # characters of a hash in a file name


def safe_name(text: str) -> str:
    """Return text as a component of a file name, which has only letters, digits and `._-`.

    Spaces become hyphens. If anything else is lost, the name ends with a hash of the text, so two
    texts never have the same name: "clip: b" -> "clip-b-" and six hexadecimal digits.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-_")[-_MOST_CHARACTERS:].lstrip(".-_")
    if name == text.replace(" ", "-"):
        return name
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def predictions_name(model: str, auxiliary: str | None) -> str:
    """Return the name of the folder that holds a model's saved label maps.

    `auxiliary` is the specification of the encoder that guides the model, if one does.
    """
    return safe_name(model if auxiliary is None else f"{model} {auxiliary}")


def stem_of(model: str, dataset: str, protocol: str, variants: tuple[str, ...]) -> str:
    """Return the file name of a result without its suffix: readable, and valid on every system."""
    without_brackets = [word.replace("(", "").replace(")", "") for word in variants]
    return "__".join(safe_name(text) for text in (model, dataset, protocol, *without_brackets))


def file_stem(row: ResultRow) -> str:
    """Return the file name of a measured result without its suffix."""
    identity = model_identity(row)
    return stem_of(identity.name, row.dataset, row.protocol, identity.variants)


def set_aside(path: Path, row: ResultRow) -> Path:
    """Return the file to which the result in `path` is moved to make room.

    This happens when another model of the same name is measured.
    """
    return path.with_name(f"{file_stem(row)}__{model_identity(row).sha256[:_HASH]}.json")


def samples_name(row: ResultRow, digest: str) -> str:
    """Return the file name of a result's samples, whose SHA-256 is `digest`."""
    return f"{file_stem(row)}.{digest[:_HASH]}.npz"
