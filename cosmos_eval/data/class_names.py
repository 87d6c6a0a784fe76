"""Names of classes in prompts, and the templates around them. Imports no torch."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_core.utils.text import first_of
from cosmos_eval.data.sources import ImageSource
from cosmos_eval.protocols.classification import CLASS_LISTS
from cosmos_eval.types import ClassificationProtocol, Part, UsageError, nearest

OPENAI = "openai-imagenet"
CLIP_BENCHMARK = "clip-benchmark/"
"""Begins the name of the templates of a data set in CLIP Benchmark."""
_NAMED = 5  # classes that an error message names
WORDNET_ID = re.compile(r"n\d{8}")


class ClassData(NamedTuple):
    """Classes as the data call them, and images."""

    classes: tuple[str, ...]
    names: tuple[str, ...]  # paths below the set's folder, or names in an archive or array
    images: tuple[ImageSource, ...]
    labels: NDArray[Any]  # (N,) indices of classes; (N, C) whether each is one; (N, 4) of faces
    prompts: tuple[str, ...] | None = None  # what the data say that prompts call the classes
    templates: tuple[str, ...] | None = None  # the data's prompts, with one `{}` each
    part: Part | None = None  # how many there are of an incomplete known set
    groups: tuple[str, ...] = ()  # names of groups of images, where there are any
    group: NDArray[np.int64] | None = None  # (N,) indices of groups

    def select(self, indices: Sequence[int]) -> ClassData:
        """Return the data of some images."""
        return self._replace(
            names=tuple(self.names[i] for i in indices),
            images=tuple(self.images[i] for i in indices),
            labels=self.labels[indices],
            group=None if self.group is None else self.group[indices],
        )

    def grouped(self, groups: Sequence[str]) -> ClassData:
        """Return the data with the group of each image."""
        names, group = np.unique(groups, return_inverse=True)
        return self._replace(groups=tuple(names.tolist()), group=group)


def make_data(classes: Sequence[str], samples: Iterable[tuple[str, ImageSource, Any]]) -> ClassData:
    """Make data of names, images and labels. Raises UsageError for a class that is no text."""
    for name in (name for name in classes if name != name.encode(errors="ignore").decode()):
        raise UsageError(f"class folder {name!r}: its name is not UTF-8; rename it")
    listed = list(samples)
    names, images, labels = zip(*listed, strict=True) if listed else ((), (), ())
    found = np.array(labels)
    found = found if found.ndim == 2 else found.astype(np.int64)
    return ClassData(tuple(classes), names, images, found)


def class_names(protocol: ClassificationProtocol, data: ClassData) -> tuple[str, ...]:
    """Return what the prompts call the classes, in the order of the classes."""
    if protocol.class_list is not None:
        names, ids = list_names(protocol.class_list), listed_classes(protocol.class_list)
        if {*data.classes} <= {*ids}:  # a subset of them has the names of its own classes
            name_of = dict(zip(ids, names, strict=True))
            return tuple(name_of[wordnet_id] for wordnet_id in data.classes)
        return names
    if data.prompts is not None and not protocol.class_names:
        return data.prompts
    spaces = str.maketrans(dict.fromkeys(protocol.separators, " "))
    return tuple(protocol.class_names.get(name, name.translate(spaces)) for name in data.classes)


def shown_names(protocol: ClassificationProtocol, data: ClassData) -> list[str]:
    """Return the names of classes for people: those in prompts, of which each that several classes
    share also has the data's own name."""
    named = class_names(protocol, data)
    counts = Counter(named)
    both = (
        own if own.startswith(n) else f"{n} ({own})"
        for n, own in zip(named, data.classes, strict=True)
    )
    return [n if counts[n] == 1 else one for n, one in zip(named, both, strict=True)]


def templates_of(protocol: ClassificationProtocol, data: ClassData) -> tuple[str, ...] | str:
    """Return the protocol's templates, else those that the data bring, else the usual ones."""
    return protocol.templates or data.templates or OPENAI


def template_faults(templates: tuple[str, ...] | str) -> Iterator[str]:
    """Yield what is wrong with templates, or with the name of a set of them."""
    if isinstance(templates, tuple):
        if not templates:
            yield "no prompt templates: give at least one, such as 'a photo of a {}.'"
        for template in (one for one in templates if one.count("{}") != 1):
            yield f"prompt template '{template}' must hold '{{}}' exactly once, for the class name"
    elif templates.startswith(CLIP_BENCHMARK):
        try:
            clip_benchmark_templates(templates.removeprefix(CLIP_BENCHMARK))
        except UsageError as error:
            yield str(error)
    elif "{}" in templates:
        yield f"`templates` must be a list, such as ['{templates}']"
    elif templates != OPENAI:
        known = f"{OPENAI}, and {CLIP_BENCHMARK}NAME, such as {CLIP_BENCHMARK}food101"
        yield f"unknown template set '{templates}'; known: {known}"


def clip_benchmark_templates(key: str) -> tuple[str, ...]:
    """Return CLIP Benchmark's templates of a key, with one `{}` each. Raises UsageError."""
    known = _clip_benchmark("en_zeroshot_classification_templates.json")
    if key not in known:
        names = nearest(key, list(known))
        raise UsageError(f"CLIP Benchmark has no templates of {key!r}; nearest: {names}")
    if not isinstance(known[key], list):
        raise UsageError(f"CLIP Benchmark's templates of {key!r} differ from class to class")
    return tuple(template.replace("{c}", "{}") for template in known[key])


def list_names(class_list: str) -> tuple[str, ...]:
    """Return the prompt names of a known class list. Raises KeyError for an unknown one."""
    known = CLASS_LISTS[class_list]
    names = tuple(_clip_benchmark("en_classnames.json")[known.names])[known.skipped :]
    if known.n_classes == len(names):
        return names
    name_of = dict(zip(listed_classes(known.names), names, strict=True))
    return tuple(name_of[wordnet_id] for wordnet_id in listed_classes(class_list))


def listed_classes(class_list: str) -> Sequence[str]:
    """Return what a known list's classes are called on the disk; empty if no package lists them."""
    known = CLASS_LISTS[class_list]
    if known.numeric:
        return list(map(str, range(known.n_classes)))
    # Ids are read from timm's files without importing timm and torch.
    package = find_spec("timm") if known.ids else None
    folders = (package and package.submodule_search_locations) or ()
    paths = (Path(folder, "data", "_info", known.ids) for folder in folders)
    return next((sorted(p.read_text("utf-8").split()) for p in paths if p.is_file()), [])


def unnamed_classes(protocol: ClassificationProtocol, data: ClassData) -> Iterator[str]:
    """Yield what is wrong with prompts that would repeat ids or numbers instead of names."""
    prompted = zip(data.classes, class_names(protocol, data), strict=True)
    ids = [name for name, prompt in prompted if name == prompt and WORDNET_ID.fullmatch(name)]
    has_names = protocol.class_names or protocol.class_list or data.prompts
    if not ids and not has_names and all(map(str.isdecimal, data.classes)):
        ids = list(data.classes)
    if not ids:
        return
    kind, class_list = "numbers", "imagenet1k-numbers"
    if WORDNET_ID.fullmatch(ids[0]):
        kind, class_list = "WordNet ids", "imagenet1k"
    remedy = f"name them by `class_names: {{{ids[0]!r}: NAME, ...}}`"
    if {*data.classes} <= {*listed_classes(class_list)}:
        remedy += f", or if they are ImageNet's by `class_list: {class_list}`"
    yield f"{len(ids)} classes are called by {kind}, such as {ids[0]}, in prompts too: {remedy}"


def class_differences(protocol: ClassificationProtocol, found: Sequence[str]) -> str:
    """Return the end of a message: which classes of a known set are missing, which are others."""
    known = _known_classes(protocol)
    missing = [name for name in known if name not in found]
    others = [name for name in found if name not in known] if known else []
    text = ""
    for what, names in (("missing", missing), ("not of this set", others)):
        text += f"; {what}: {first_of(names, _NAMED)}" if names else ""
    return text


def _known_classes(protocol: ClassificationProtocol) -> Sequence[str]:
    """Return the classes of a known set as data name them; empty where no package lists them."""
    if protocol.torchvision == "oxford_pets":
        return list(_clip_benchmark("en_classnames.json")["pets"])
    return () if protocol.class_list is None else listed_classes(protocol.class_list)


@cache
def _clip_benchmark(name: str) -> dict[str, Any]:
    return dict(json.loads(files("clip_benchmark").joinpath("datasets", name).read_text("utf-8")))
