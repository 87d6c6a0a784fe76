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
from cosmos_eval.types import ClassificationProtocol, FoundSamples, UsageError, nearest

OPENAI = "openai-imagenet"
"""The name of OpenAI's templates for ImageNet."""
CLIP_BENCHMARK = "clip-benchmark/"
"""The beginning of the name of the templates of a data set in CLIP Benchmark."""
WORDNET_ID = re.compile(r"n\d{8}")
_MAX_LISTED = 5  # classes that an error message lists


class ClassData(NamedTuple):
    """N images and their labels among C classes."""

    # Names of the C classes in the data, for example of folders.
    classes: tuple[str, ...]
    # Paths of the N images below the set's folder, or their names in an archive or array.
    names: tuple[str, ...]
    # The N images.
    images: tuple[ImageSource, ...]
    # (N,) the index of each image's class; (N, C) whether an image shows each of the classes; or
    # (N, 4) the indices of a face's age, gender and race, and 0 for white or 1.
    labels: NDArray[Any]
    # Names of the C classes in prompts, if the data state them.
    prompts: tuple[str, ...] | None = None
    # Prompt templates with one `{}` each, if the data state them.
    templates: tuple[str, ...] | None = None
    # How many images there are, if a known set is incomplete.
    found_samples: FoundSamples | None = None
    # Names of the groups of images, if there are any.
    groups: tuple[str, ...] = ()
    # (N,) the index of each image's group.
    group: NDArray[np.int64] | None = None

    def select(self, indices: Sequence[int]) -> ClassData:
        """Return the data of the images with these indices."""
        return self._replace(
            names=tuple(self.names[i] for i in indices),
            images=tuple(self.images[i] for i in indices),
            labels=self.labels[indices],
            group=None if self.group is None else self.group[indices],
        )

    def grouped(self, groups: Sequence[str]) -> ClassData:
        """Return the data with the name of each image's group."""
        names, group = np.unique(groups, return_inverse=True)
        return self._replace(groups=tuple(names.tolist()), group=group)


def make_data(classes: Sequence[str], samples: Iterable[tuple[str, ImageSource, Any]]) -> ClassData:
    """Make data of samples (name, image, label). Raise UsageError if a class is not UTF-8 text."""
    for class_name in classes:
        if class_name != class_name.encode(errors="ignore").decode():
            raise UsageError(f"class folder {class_name!r}: its name is not UTF-8; rename it")
    names: list[str] = []
    images: list[ImageSource] = []
    labels: list[Any] = []
    for name, image, label in samples:
        names.append(name)
        images.append(image)
        labels.append(label)
    label_array = np.array(labels)
    if label_array.ndim != 2:
        label_array = label_array.astype(np.int64)
    return ClassData(tuple(classes), tuple(names), tuple(images), label_array)


def class_names(protocol: ClassificationProtocol, data: ClassData) -> tuple[str, ...]:
    """Return the names of the classes in prompts, in the order of the classes.

    They come from the protocol's class list, or else from its `class_names`, or else from the
    prompts that the data state. A class without any of these is called as in the data, with the
    protocol's separators replaced by spaces: `great_white_shark` becomes `great white shark`.
    """
    if protocol.class_list is not None:
        prompt_names = list_names(protocol.class_list)
        list_classes = listed_classes(protocol.class_list)
        if {*data.classes} <= {*list_classes}:  # the data may have a subset of the listed classes
            prompt_name_by_class = dict(zip(list_classes, prompt_names, strict=True))
            return tuple(prompt_name_by_class[class_name] for class_name in data.classes)
        return prompt_names
    if data.prompts is not None and not protocol.class_names:
        return data.prompts
    separators_to_spaces = str.maketrans(dict.fromkeys(protocol.separators, " "))
    names: list[str] = []
    for name in data.classes:
        names.append(protocol.class_names.get(name, name.translate(separators_to_spaces)))
    return tuple(names)


def shown_names(protocol: ClassificationProtocol, data: ClassData) -> list[str]:
    """Return the displayed names of classes, all of which differ.

    They are the names in prompts. If several classes share one, the name of the class in the data
    is added: `crane (n02012849)`.
    """
    prompt_names = class_names(protocol, data)
    n_classes_by_name = Counter(prompt_names)
    displayed_names = []
    for prompt_name, data_name in zip(prompt_names, data.classes, strict=True):
        if n_classes_by_name[prompt_name] == 1:
            displayed_names.append(prompt_name)
        elif data_name.startswith(prompt_name):
            displayed_names.append(data_name)
        else:
            displayed_names.append(f"{prompt_name} ({data_name})")
    return displayed_names


def templates_of(protocol: ClassificationProtocol, data: ClassData) -> tuple[str, ...] | str:
    """Return the protocol's templates, or else the data's, or else the name of OpenAI's."""
    return protocol.templates or data.templates or OPENAI


def template_faults(templates: tuple[str, ...] | str) -> Iterator[str]:
    """Yield the faults of templates, or of the name of a set of templates."""
    if isinstance(templates, tuple):
        if not templates:
            yield "no prompt templates: give at least one, such as 'a photo of a {}.'"
        for template in templates:
            if template.count("{}") != 1:
                yield (
                    f"prompt template '{template}' must hold '{{}}' exactly once, for the class "
                    "name"
                )
    elif templates.startswith(CLIP_BENCHMARK):
        try:
            clip_benchmark_templates(templates.removeprefix(CLIP_BENCHMARK))
        except UsageError as error:
            yield str(error)
    elif "{}" in templates:
        yield f"`templates` must be a list, such as ['{templates}']"
    elif templates != OPENAI:
        yield (
            f"unknown template set '{templates}'; known: {OPENAI}, and {CLIP_BENCHMARK}NAME, such "
            f"as {CLIP_BENCHMARK}food101"
        )


def clip_benchmark_templates(key: str) -> tuple[str, ...]:
    """Return CLIP Benchmark's templates of a data set, with one `{}` each.

    Raise UsageError for an unknown data set, and for templates that differ between classes.
    """
    templates_by_set = _read_clip_benchmark("en_zeroshot_classification_templates.json")
    if key not in templates_by_set:
        names = nearest(key, list(templates_by_set))
        raise UsageError(f"CLIP Benchmark has no templates of {key!r}; nearest: {names}")
    templates = templates_by_set[key]
    if not isinstance(templates, list):
        raise UsageError(f"CLIP Benchmark's templates of {key!r} differ from class to class")
    return tuple(template.replace("{c}", "{}") for template in templates)


def list_names(class_list: str) -> tuple[str, ...]:
    """Return the prompt names of a class list. Raise KeyError for an unknown list.

    CLIP Benchmark names the classes of whole lists, in their order. A class list with fewer classes
    is a subset of the list `names` of its record, and has the names of its classes there.
    """
    record = CLASS_LISTS[class_list]
    names = tuple(_read_clip_benchmark("en_classnames.json")[record.names])[record.skipped :]
    if record.n_classes == len(names):
        return names
    name_by_wordnet_id = dict(zip(listed_classes(record.names), names, strict=True))
    return tuple(name_by_wordnet_id[wordnet_id] for wordnet_id in listed_classes(class_list))


def listed_classes(class_list: str) -> Sequence[str]:
    """Return the names that the classes of a list have on the disk, such as WordNet ids.

    Return an empty list if no installed package lists them.
    """
    record = CLASS_LISTS[class_list]
    if record.numeric:
        return [str(number) for number in range(record.n_classes)]
    # The ids are read from timm's files, without importing timm and torch.
    package = find_spec("timm") if record.ids else None
    if package is None:
        return []
    for folder in package.submodule_search_locations or ():
        path = Path(folder, "data", "_info", record.ids)
        if path.is_file():
            return sorted(path.read_text("utf-8").split())
    return []


def unnamed_classes(protocol: ClassificationProtocol, data: ClassData) -> Iterator[str]:
    """Yield a fault if prompts would hold WordNet ids or numbers instead of names."""
    prompt_names = class_names(protocol, data)
    classes_without_name = []
    for data_name, prompt_name in zip(data.classes, prompt_names, strict=True):
        if data_name == prompt_name and WORDNET_ID.fullmatch(data_name):
            classes_without_name.append(data_name)
    has_names = protocol.class_names or protocol.class_list or data.prompts
    if not classes_without_name and not has_names and all(map(str.isdecimal, data.classes)):
        classes_without_name = list(data.classes)
    if not classes_without_name:
        return
    first = classes_without_name[0]
    if WORDNET_ID.fullmatch(first):
        kind, class_list = "WordNet ids", "imagenet1k"
    else:
        kind, class_list = "numbers", "imagenet1k-numbers"
    remedy = f"name them by `class_names: {{{first!r}: NAME, ...}}`"
    if {*data.classes} <= {*listed_classes(class_list)}:
        remedy += f", or if they are ImageNet's by `class_list: {class_list}`"
    yield (
        f"{len(classes_without_name)} classes are called by {kind}, such as {first}, in "
        f"prompts too: {remedy}"
    )


def class_differences(protocol: ClassificationProtocol, data_classes: Sequence[str]) -> str:
    """Return the end of a message that lists missing and unexpected classes of a known set."""
    expected = _expected_classes(protocol)
    missing_names = [name for name in expected if name not in data_classes]
    unexpected_names = [name for name in data_classes if expected and name not in expected]
    text = ""
    if missing_names:
        text += f"; missing: {first_of(missing_names, _MAX_LISTED)}"
    if unexpected_names:
        text += f"; not of this set: {first_of(unexpected_names, _MAX_LISTED)}"
    return text


def _expected_classes(protocol: ClassificationProtocol) -> Sequence[str]:
    """Return the classes of a known set as data name them; none if no package lists them."""
    if protocol.torchvision == "oxford_pets":
        return list(_read_clip_benchmark("en_classnames.json")["pets"])
    return () if protocol.class_list is None else listed_classes(protocol.class_list)


@cache
def _read_clip_benchmark(name: str) -> dict[str, Any]:
    """Return the content of a JSON file of CLIP Benchmark's data sets."""
    return dict(json.loads(files("clip_benchmark").joinpath("datasets", name).read_text("utf-8")))
