"""Segmentation sets that YAML files of this package describe, each read when it is named.

NAME.yaml holds fields of `SegmentationProtocol`; `like` names a published set whose other fields it
has. `classes` are names, or names by their ids in the release, and the parts of a name with commas
are prompts. mess/ has the sets of MESS (arXiv:2306.15521) in the form that its scripts
mess/prepare_datasets/prepare_*.py write; class names are those that it evaluates.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from cosmos_eval.protocols.declared import read_yaml
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.types import SegmentationProtocol

_FOLDER = Path(str(files(__name__)))


@cache
def set_names() -> tuple[str, ...]:
    """Return the names of all described sets; no file is read."""
    paths = (path.relative_to(_FOLDER).with_suffix("") for path in _FOLDER.rglob("*.yaml"))
    return tuple(sorted(path.as_posix() for path in paths))


@cache
def read_set(name: str) -> SegmentationProtocol:
    """Return the protocol of a described set."""
    fields = {**read_yaml(f"sets/{name}")}
    if classes := fields.pop("classes", None):
        names = tuple(classes.values() if isinstance(classes, dict) else classes)
        fields |= {"class_names": names, "queries": _prompts(names)}
    if like := fields.pop("like", None):
        return replace(SEGMENTATION[like], dataset=name, **fields)
    return SegmentationProtocol(dataset=name, **fields)


def class_ids(name: str) -> Sequence[int]:
    """Return the ids that the classes of a described set have in its release, in their order."""
    return list(read_yaml(f"sets/{name}")["classes"])


def _prompts(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Split names at commas; what several have is a prompt of the one with the fewest parts, of
    equal ones the first, as no class can win with a prompt of an earlier one."""
    parts = [[part.strip() for part in name.split(",")] for name in names]
    owner: dict[str, int] = {}
    for index in sorted(range(len(parts)), key=lambda index: len(parts[index])):
        owner |= {part: index for part in parts[index] if part not in owner}
    return tuple(
        tuple(part for part in own if owner[part] == index) for index, own in enumerate(parts)
    )
