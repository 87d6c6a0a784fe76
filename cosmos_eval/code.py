"""Which code makes a number, as a hash: what is kept of a run must not outlive it.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Distributions that decode, resize, tokenise and encode.
_LIBRARIES = (
    *("torch", "torchvision", "open_clip_torch", "timm", "transformers", "tokenizers"),
    *("pillow", "opencv-python", "numpy"),
)


@cache
def fingerprint(*modules: str) -> str:
    """SHA-256 of the source of modules, packages whole, and of the versions of what they use."""
    digest = hashlib.sha256()
    for name in _LIBRARIES:
        digest.update(f"{name} {_version(name)}\n".encode())
    for module in modules:
        for path in _sources(module):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _sources(module: str) -> Iterator[Path]:
    """Source files of a module or of all modules of a package, found without importing them."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{module} is missing: install cosmos-eval again")
    folders = spec.submodule_search_locations
    if folders is None:
        yield Path(spec.origin)
    for folder in folders or ():
        yield from sorted(Path(folder).rglob("*.py"))
