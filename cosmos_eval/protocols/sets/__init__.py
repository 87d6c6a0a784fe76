"""Segmentation sets that YAML files of this package describe; a file is read when it is named.

NAME.yaml holds fields of `SegmentationProtocol`. `like` names a published set, from which all other
fields are taken. `classes` are names, or names by their ids in the release; a name with commas is a
list of prompts. mess/ has the sets of MESS (arXiv:2306.15521), in the form that its scripts
mess/prepare_datasets/prepare_*.py write and with the class names that it evaluates.
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
    """Return the names of all described sets, without reading their files."""
    paths = (path.relative_to(_FOLDER).with_suffix("") for path in _FOLDER.rglob("*.yaml"))
    return tuple(sorted(path.as_posix() for path in paths))


@cache
def read_set(name: str) -> SegmentationProtocol:
    """Return the protocol of a described set."""
    fields = dict(read_yaml(f"sets/{name}"))
    classes = fields.pop("classes", None)
    if classes:
        names = tuple(classes.values() if isinstance(classes, dict) else classes)
        fields["class_names"] = names
        fields["queries"] = _split_prompts(names)
    published_set = fields.pop("like", None)
    if published_set:
        return replace(SEGMENTATION[published_set], dataset=name, **fields)
    return SegmentationProtocol(dataset=name, **fields)


def class_ids(name: str) -> Sequence[int]:
    """Return the ids of the classes in the release of a described set, in the order of classes."""
    return list(read_yaml(f"sets/{name}")["classes"])


def _split_prompts(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the prompts of each class: its name, split at commas.

    Every prompt belongs to one class only. A prompt that several classes share stays with the class
    that has the fewest prompts, or the first of these. Otherwise the first class would always win
    with it. `["sea, water", "water"]` gives `(("sea",), ("water",))`.
    """
    prompts_of_classes = [[prompt.strip() for prompt in name.split(",")] for name in names]
    classes_by_n_prompts = sorted(
        range(len(names)), key=lambda index: len(prompts_of_classes[index])
    )
    class_by_prompt: dict[str, int] = {}
    for index in classes_by_n_prompts:
        for prompt in prompts_of_classes[index]:
            class_by_prompt.setdefault(prompt, index)
    queries = []
    for index, prompts in enumerate(prompts_of_classes):
        queries.append(tuple(prompt for prompt in prompts if class_by_prompt[prompt] == index))
    return tuple(queries)
