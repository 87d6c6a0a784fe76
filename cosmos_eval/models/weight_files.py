"""Checks of files of weights before a library opens them: their kind, and the size of a header."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open

from cosmos_eval.types import UsageError

LARGEST_HEADER = 16 << 20
"""The largest header of a safetensors file that is read, in bytes: about 100,000 tensors."""

_N_FIRST_BYTES = 4096  # of a file, from which its kind is recognised
# The first bytes of files of other kinds.
_LFS_START = b"version https://git-lfs.github.com/spec"
_HTML_STARTS = (b"<!doctype html", b"<html")
_ZIP_START = b"PK\x03\x04"  # as torch.save writes files
_PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def require_weights(path: Path) -> None:
    """Raise UsageError for a file that does not hold weights. The message says what it holds.

    The kind of a file is recognised by its first bytes. Files of NumPy are not checked.
    """
    if path.suffix in (".npz", ".npy"):
        return
    with path.open("rb") as file:
        first_bytes = file.read(_N_FIRST_BYTES)
    fault = _find_other_content(first_bytes) or _find_safetensors_fault(path, first_bytes)
    if fault is not None:
        raise UsageError(f"{path} {fault}")


def tensor_shapes(files: Sequence[Path]) -> Mapping[str, Sequence[int]]:
    """Return the shapes of the tensors in safetensors files, by the names of the tensors.

    Only the headers are read. Raises UsageError for a file that does not hold weights.
    """
    shapes: dict[str, Sequence[int]] = {}
    for path in files:
        require_weights(path)
        with safe_open(path, "numpy") as file:
            tensor_names = file.keys()
            for name in tensor_names:
                shapes[name] = file.get_slice(name).get_shape()
    return shapes


def count_values(shapes: Mapping[str, Sequence[int]]) -> int:
    """Return the number of values of all tensors with these shapes.

    Example:
        {"a": [2, 3], "b": [4]} gives 10, and {"a": []} gives 1.
    """
    return sum(math.prod(shape) for shape in shapes.values())


def _find_other_content(first_bytes: bytes) -> str | None:
    """Describe the content of a file that does not hold weights, such as "is empty".

    The description follows the path of the file in an error message. Return None if the first bytes
    of the file may belong to weights.
    """
    if not first_bytes:
        return "is empty: fetch it again"
    if first_bytes.startswith(_LFS_START):
        return "is a pointer of Git LFS, not the weights: fetch them with `git lfs pull`"
    if first_bytes.lstrip().lower().startswith(_HTML_STARTS):
        return "is an HTML page, such as a login or an error, not weights: fetch the file itself"

    # Weights have bytes that are not valid or not printable as text.
    try:
        text = first_bytes.decode()
    except UnicodeDecodeError:
        return None
    if all(character.isprintable() or character.isspace() for character in text):
        return f"is a text, not weights, and begins with {text[:40]!r}"
    return None


def _find_safetensors_fault(path: Path, first_bytes: bytes) -> str | None:
    """Describe the fault of a file if its name and its content do not agree about safetensors.

    A safetensors file begins with 8 bytes that state the size of its header. The header is JSON,
    which begins with "{" and must fit into the file.

    Args:
        path: The path of the file.
        first_bytes: The first bytes of the file, at least 9 if it has as many.

    Returns:
        The fault, to follow the path in an error message. None if the file ends with .safetensors
        and begins like one, or if neither is the case.
    """
    header_size = int.from_bytes(first_bytes[:8], "little")
    begins_with_json = first_bytes[8:9] == b"{"
    is_safetensors = begins_with_json and header_size <= path.stat().st_size - 8
    if path.suffix != ".safetensors":
        if is_safetensors:
            return "is a safetensors file: rename it so that it ends with .safetensors"
        return None

    if is_safetensors:
        if header_size > LARGEST_HEADER:
            return f"has a header of {header_size:,} bytes; at most {LARGEST_HEADER:,} are read"
        return None
    if first_bytes.startswith((_ZIP_START, *_PICKLE_STARTS)):
        return (
            "is a pickle, as torch.save writes it, and not the safetensors file that its name "
            "says: save it with safetensors.torch.save_file"
        )
    return "is damaged: it does not begin with the header of a safetensors file; fetch it again"
