"""Checks of files of weights before a library opens them: their kind, and the size of a header."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open

from cosmos_eval.types import UsageError

LARGEST_HEADER = 16 << 20
"""The largest header of a safetensors file that is read, in bytes: about 100,000 tensors."""

_FIRST_BYTES = 4096
_LFS = b"version https://git-lfs.github.com/spec"
_HTML = (b"<!doctype html", b"<html")
_ZIP = b"PK\x03\x04"  # how torch.save begins a file
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def require_weights(path: Path) -> None:
    """Raise UsageError for a file that does not hold weights. The message names its content."""
    if path.suffix in (".npz", ".npy"):
        return
    with path.open("rb") as file:
        start = file.read(_FIRST_BYTES)
    size = path.stat().st_size
    fault = _other_content(start)
    if fault is None and path.suffix == ".safetensors":
        fault = _safetensors_fault(start, size)
    elif fault is None and _is_safetensors(start, size):
        fault = "is a safetensors file: rename it so that it ends with .safetensors"
    if fault is not None:
        raise UsageError(f"{path} {fault}")


def tensor_shapes(files: Sequence[Path]) -> Mapping[str, Sequence[int]]:
    """Return the shapes of the tensors of safetensors files by their names.

    Only the headers are read. Raises UsageError for a file that does not hold weights.
    """
    shapes: dict[str, Sequence[int]] = {}
    for path in files:
        require_weights(path)
        with safe_open(path, "numpy") as opened:
            names = opened.keys()
            for name in names:
                shapes[name] = opened.get_slice(name).get_shape()
    return shapes


def count_values(shapes: Mapping[str, Sequence[int]]) -> int:
    """Return the number of values of all tensors with these shapes."""
    return sum(math.prod(shape) for shape in shapes.values())


def _other_content(start: bytes) -> str | None:
    """Return the fault of a file that cannot hold weights by its first bytes, or None."""
    if not start:
        return "is empty: fetch it again"
    if start.startswith(_LFS):
        return "is a pointer of Git LFS, not the weights: fetch them with `git lfs pull`"
    if start.lstrip().lower().startswith(_HTML):
        return "is an HTML page, such as a login or an error, not weights: fetch the file itself"
    try:
        text = start.decode()
    except UnicodeDecodeError:
        return None
    if all(character.isprintable() or character.isspace() for character in text):
        return f"is a text, not weights, and begins with {text[:40]!r}"
    return None


def _safetensors_fault(start: bytes, size: int) -> str | None:
    """Return the fault of a .safetensors file by its first bytes and its size, or None."""
    if _is_safetensors(start, size):
        header_size = _header_size(start)
        if header_size <= LARGEST_HEADER:
            return None
        return f"has a header of {header_size:,} bytes; at most {LARGEST_HEADER:,} are read"
    if start.startswith((_ZIP, *_PICKLES)):
        return (
            "is a pickle, as torch.save writes it, and not the safetensors file that its name "
            "says: save it with safetensors.torch.save_file"
        )
    return "is damaged: it does not begin with the header of a safetensors file; fetch it again"


def _is_safetensors(start: bytes, size: int) -> bool:
    """Return whether a file begins like a safetensors file.

    It begins with the size of its header in 8 bytes, which must fit into the file, and with JSON.
    """
    return start[8:9] == b"{" and _header_size(start) <= size - 8


def _header_size(start: bytes) -> int:
    """Return the size of the header that a safetensors file states."""
    return int.from_bytes(start[:8], "little")
