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
    """Return the sorted names of all data sets that have a YAML file here.

    A name is the path of the file without `.yaml`, such as `mess/uavid`. The files are not read.
    """
    names = []
    for path in _FOLDER.rglob("*.yaml"):
        names.append(path.relative_to(_FOLDER).with_suffix("").as_posix())
    return tuple(sorted(names))


@cache
def read_set(name: str) -> SegmentationProtocol:
    """Return the protocol that the YAML file of a data set describes.

    The file has fields of the protocol, and two other keys: `classes` holds the class names with
    their prompts, and `like` names a data set from which all other fields are taken.
    """
    fields = dict(read_yaml(f"sets/{name}"))
    classes = fields.pop("classes", None)
    if classes:
        # The keys of a mapping are the ids of the classes in the release (`class_ids`).
        names = tuple(classes.values() if isinstance(classes, dict) else classes)
        fields["class_names"] = names
        fields["queries"] = _split_prompts(names)
    published_set = fields.pop("like", None)
    if published_set:
        return replace(SEGMENTATION[published_set], dataset=name, **fields)
    return SegmentationProtocol(dataset=name, **fields)


def class_ids(name: str) -> Sequence[int]:
    """Return the ids that the release of a data set gives its classes, in the order of classes.

    They are the keys under `classes` in the YAML file of the data set.
    """
    return list(read_yaml(f"sets/{name}")["classes"])


def _split_prompts(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the prompts of each class, which are the names in its name, separated by commas.

    Every prompt belongs to one class only. If several classes share a prompt, the class with the
    fewest prompts keeps it, or the first of these: `["sea, water", "water"]` gives
    `(("sea",), ("water",))`. Otherwise the first class would win every pixel of the shared prompt.
    """
    prompts_of_classes = []
    for name in names:
        prompts_of_classes.append([prompt.strip() for prompt in name.split(",")])

    # Classes with few prompts choose first.
    indices_by_n_prompts = sorted(
        range(len(names)), key=lambda index: len(prompts_of_classes[index])
    )
    owner_by_prompt: dict[str, int] = {}
    for index in indices_by_n_prompts:
        for prompt in prompts_of_classes[index]:
            owner_by_prompt.setdefault(prompt, index)

    distinct_prompts = []
    for index, prompts in enumerate(prompts_of_classes):
        kept_prompts = [prompt for prompt in prompts if owner_by_prompt[prompt] == index]
        distinct_prompts.append(tuple(kept_prompts))
    return tuple(distinct_prompts)
