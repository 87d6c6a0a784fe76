"""What prompts call the classes of a set, and the templates around them. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cosmos_eval.data import clip_benchmark_lists
from cosmos_eval.data.classification.types import ClassData
from cosmos_eval.protocols.classification import CLASS_LISTS
from cosmos_eval.types import ClassificationProtocol

DEFAULT_TEMPLATES = "openai-imagenet"
_NAMED = 5  # classes that an error message names


def list_names(class_list: str) -> tuple[str, ...]:
    """The prompt names of a known class list. Raises KeyError for an unknown one."""
    known = CLASS_LISTS[class_list]
    return clip_benchmark_lists.class_names(known.names)[known.skipped :]


def known_classes(protocol: ClassificationProtocol) -> tuple[str, ...]:
    """Return the classes of a known set as data name them; empty where no package lists them.

    For error messages: the number of classes is the protocol's, and the list of ImageNet's folders
    is compared by its hash.
    """
    if protocol.torchvision == "oxford_pets":
        return clip_benchmark_lists.class_names("pets")
    if protocol.class_list == "imagenet1k-numbers":
        return tuple(map(str, range(1000)))
    return _wordnet_ids() if protocol.class_list == "imagenet1k" else ()


def class_differences(protocol: ClassificationProtocol, found: Sequence[str]) -> str:
    """Return the end of a message: which classes of a known set are missing, which are others."""
    known = known_classes(protocol)
    missing = [name for name in known if name not in found]
    others = [name for name in found if name not in known] if known else []
    lists = {"missing": missing, "not of this set": others}
    return "".join(f"; {what}: {_first_few(names)}" for what, names in lists.items() if names)


def _first_few(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _wordnet_ids() -> tuple[str, ...]:
    """Read ImageNet's WordNet ids, sorted, from timm's copy without importing timm and torch."""
    package = find_spec("timm")
    folders = (package and package.submodule_search_locations) or ()
    files = (Path(folder, "data", "_info", "imagenet_synsets.txt") for folder in folders)
    return next((tuple(sorted(f.read_text("utf-8").split())) for f in files if f.is_file()), ())


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
