"""What prompts call the classes of a set, and the templates around them. Imports no torch."""

from __future__ import annotations

from cosmos_eval.protocols.classification import CLASS_LISTS
from cosmos_eval.tasks import clip_benchmark_lists
from cosmos_eval.tasks.classification._types import ClassData
from cosmos_eval.types import ClassificationProtocol

DEFAULT_TEMPLATES = "openai-imagenet"


def list_names(class_list: str) -> tuple[str, ...]:
    """The prompt names of a known class list. Raises KeyError for an unknown one."""
    known = CLASS_LISTS[class_list]
    return clip_benchmark_lists.class_names(known.names)[known.skipped :]


def class_names(protocol: ClassificationProtocol, data: ClassData) -> tuple[str, ...]:
    """What the prompts call the classes, in their order."""
    if protocol.class_list is not None:
        return list_names(protocol.class_list)
    if data.prompts is not None and not protocol.class_names:
        return data.prompts
    spaces = str.maketrans(dict.fromkeys(protocol.separators, " "))
    return tuple(protocol.class_names.get(name, name.translate(spaces)) for name in data.classes)


def templates_of(protocol: ClassificationProtocol, data: ClassData) -> tuple[str, ...] | str:
    """The protocol's templates, else those that the data bring, else the usual ones."""
    return protocol.templates or data.templates or DEFAULT_TEMPLATES
