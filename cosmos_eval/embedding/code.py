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

# Modules that decide an embedding: what was kept by another version of them is not used.
EMBEDDING = (
    *("cosmos_core.model", "cosmos_core.data.pixels", "cosmos_eval.models"),
    *("cosmos_eval.embedding.embed", "cosmos_eval.data.sources", "cosmos_eval.tasks.prompts"),
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
    """Source files of a module or of all modules of a package; nothing is imported.

    Looking for a module below a package the usual way would import the package.
    """
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        place = Path(folder, *rest)
        if place.is_dir():
            yield from sorted(place.rglob("*.py"))
            return
        if place.with_suffix(".py").is_file():
            yield place.with_suffix(".py")
            return
    raise ModuleNotFoundError(f"{module} is missing: install cosmos-eval again")
