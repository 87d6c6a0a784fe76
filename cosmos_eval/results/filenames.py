"""Names of the files that results, their samples and saved label maps are stored in."""

import hashlib
import re
from pathlib import Path

from cosmos_eval.results.identity import model_identity
from cosmos_eval.results.record import ResultRow

_MOST_CHARACTERS = 60  # of each component of a file name
_HASH_LENGTH = 8  # characters of a hash in a file name


def safe_name(text: str) -> str:
    """Return a text as a component of a file name that is valid on every system.

    The name has only letters, digits, dots, hyphens and underscores, and the last 60 of them if the
    text is longer. Spaces become hyphens. If anything else is lost, the name ends with a hash of
    the text, so that two texts have different names: "ViT B" -> "ViT-B", "a/b" -> "a-b-c14cdd".
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-_")
    name = name[-_MOST_CHARACTERS:].lstrip(".-_")
    if name == text.replace(" ", "-"):
        return name
    text_hash = hashlib.sha256(text.encode()).hexdigest()
    return f"{name}-{text_hash[:6]}"


def predictions_name(model: str, auxiliary: str | None) -> str:
    """Return the name of the folder in which the label maps that a model predicts are saved.

    `auxiliary` is the specification of the encoder that guides the model's attention, or None.
    """
    return safe_name(model if auxiliary is None else f"{model} {auxiliary}")


def make_file_stem(model: str, dataset: str, protocol: str, variants: tuple[str, ...]) -> str:
    """Return the file name of a result without its suffix.

    `variants` are words for the settings that differ from the defaults. The name is valid on every
    system. Example: "clip", "coco", "karpathy", ("bf16",) -> "clip__coco__karpathy__bf16".
    """
    without_brackets = [word.replace("(", "").replace(")", "") for word in variants]
    return "__".join(safe_name(text) for text in (model, dataset, protocol, *without_brackets))


def file_stem(row: ResultRow) -> str:
    """Return the file name of a measured result without its suffix, see `make_file_stem`."""
    identity = model_identity(row)
    return make_file_stem(identity.name, row.dataset, row.protocol, identity.variants)


def renamed_result_path(path: Path, row: ResultRow) -> Path:
    """Return the path to which the result `row` in the file `path` is renamed to make room.

    This happens when another model with the same name is measured. The new file name ends with the
    hash of the model: "clip__coco__karpathy__1a2b3c4d.json".
    """
    model_hash = model_identity(row).sha256[:_HASH_LENGTH]
    return path.with_name(f"{file_stem(row)}__{model_hash}.json")


def samples_name(row: ResultRow, digest: str) -> str:
    """Return the name of the file for a result's samples, whose SHA-256 is `digest`.

    Example: "clip__coco__karpathy.1a2b3c4d.npz".
    """
    return f"{file_stem(row)}.{digest[:_HASH_LENGTH]}.npz"
