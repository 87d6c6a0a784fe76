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

    The name has only letters, digits, dots, hyphens and underscores. Other characters become
    hyphens, and only the last 60 characters of a long text are kept. If anything but spaces is
    lost, the name ends with a hash of the text, so that different texts have different names.

    Example:
        safe_name("ViT B") -> "ViT-B"
        safe_name("a/b") -> "a-b-c14cdd"
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text)
    name = name.strip(".-_")
    name = name[-_MOST_CHARACTERS:]
    name = name.lstrip(".-_")
    is_complete = name == text.replace(" ", "-")
    if is_complete:
        return name
    text_hash = hashlib.sha256(text.encode()).hexdigest()
    return f"{name}-{text_hash[:6]}"


def predictions_name(model: str, auxiliary: str | None) -> str:
    """Return the name of the folder in which the label maps that a model predicts are saved.

    Args:
        model: The label of the model.
        auxiliary: The specification of the encoder that guides the model's attention, or None.
    """
    if auxiliary is None:
        return safe_name(model)
    return safe_name(f"{model} {auxiliary}")


def make_file_stem(model: str, dataset: str, protocol: str, variants: tuple[str, ...]) -> str:
    """Return the file name of a result without its suffix. The name is valid on every system.

    Args:
        model: The name of the model.
        dataset: The name of the data set.
        protocol: The name of the protocol, that is, of the settings of the measurement.
        variants: Words for the settings that differ from the defaults.

    Example:
        make_file_stem("clip", "coco", "karpathy", ("bf16",)) -> "clip__coco__karpathy__bf16"
    """
    components = [model, dataset, protocol]
    for word in variants:
        components.append(word.replace("(", "").replace(")", ""))
    return "__".join(safe_name(component) for component in components)


def file_stem(row: ResultRow) -> str:
    """Return the file name of a measured result without its suffix, see `make_file_stem`."""
    identity = model_identity(row)
    return make_file_stem(identity.name, row.dataset, row.protocol, identity.variants)


def renamed_result_path(path: Path, row: ResultRow) -> Path:
    """Return the path to which a result is renamed to make room for the result of another model.

    This happens if two models with the same name are measured. The new file name ends with the hash
    of the model: "clip__coco__karpathy__1a2b3c4d.json".

    Args:
        path: The JSON file of the result, such as "clip__coco__karpathy.json".
        row: The result.
    """
    model_hash = model_identity(row).sha256[:_HASH_LENGTH]
    return path.with_name(f"{file_stem(row)}__{model_hash}.json")


def samples_name(row: ResultRow, samples_sha256: str) -> str:
    """Return the name of the file for the samples of a result.

    Args:
        row: The result.
        samples_sha256: The SHA-256 of the content of the file, in hexadecimal.

    Example:
        "clip__coco__karpathy.1a2b3c4d.npz" if the hash begins with 1a2b3c4d.
    """
    return f"{file_stem(row)}.{samples_sha256[:_HASH_LENGTH]}.npz"
