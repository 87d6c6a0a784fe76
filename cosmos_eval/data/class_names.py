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
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cosmos_core.utils.text import first_of
from cosmos_eval.data.sources import ImageSource
from cosmos_eval.protocols.classification import CLASS_LISTS
from cosmos_eval.types import ClassificationProtocol, FoundSamples, UsageError, nearest

OPENAI = "openai-imagenet"
"""The name of OpenAI's templates for ImageNet."""
CLIP_BENCHMARK = "clip-benchmark/"
"""The prefix of names of CLIP Benchmark's templates, such as `clip-benchmark/food101`."""
WORDNET_ID = re.compile(r"n\d{8}")
"""The form of names of ImageNet's class folders, such as `n02012849`."""
_Number = TypeVar("_Number", bound=np.generic)
_MAX_LISTED = 5  # classes that an error message lists


class ClassData(NamedTuple):
    """N images and their labels among C classes."""

    # Names of the C classes in the data, for example of folders.
    classes: tuple[str, ...]
    # Paths of the N images below the set's folder, or their names in an archive or array.
    names: tuple[str, ...]
    # The N images.
    images: tuple[ImageSource, ...]
    # In one of three forms:
    # - (N,) the index of each image's class,
    # - (N, C) whether each image shows each class, if images have several labels,
    # - (N, 4) for faces: the indices of age, gender and race, and 0 for white or 1 for any other.
    labels: NDArray[Any]
    # Names of the C classes in prompts, if the data state them.
    prompts: tuple[str, ...] | None = None
    # Prompt templates with one `{}` each, if the data state them.
    templates: tuple[str, ...] | None = None
    # How many images are on the disk, if the complete data set has more.
    found_samples: FoundSamples | None = None
    # Names of groups of images, such as regions, if there are any.
    group_names: tuple[str, ...] = ()
    # (N,) the index of each image's group; None without groups.
    group_of_image: NDArray[np.int64] | None = None
    # (N,) the index of the class that is written on each image; None if nothing is written.
    written_classes: NDArray[np.int64] | None = None
    # (N,) a number for each image that versions of the same image share, such as the severities of
    # a corruption; None if no image has several versions.
    origins: NDArray[np.int64] | None = None
    # If the images are boxes of other images: (N,) the number of each box's image, from 0 in the
    # order of their first boxes, and (N,) the fraction of the image that the box covers.
    image_of_box: NDArray[np.int64] | None = None
    area_of_box: NDArray[np.float64] | None = None
    # Names of files in class folders that are not read, since their suffix is not one of an image.
    skipped_files: tuple[str, ...] = ()

    def select(self, indices: Sequence[int]) -> ClassData:
        """Return the data with only the images at these indices. The classes stay the same."""
        return self._replace(
            names=tuple(self.names[i] for i in indices),
            images=tuple(self.images[i] for i in indices),
            labels=self.labels[indices],
            group_of_image=_take(self.group_of_image, indices),
            written_classes=_take(self.written_classes, indices),
            origins=_take(self.origins, indices),
            image_of_box=_take(self.image_of_box, indices),
            area_of_box=_take(self.area_of_box, indices),
        )

    def with_groups(self, groups: Sequence[str]) -> ClassData:
        """Return the data with the group of each image.

        Args:
            groups: The name of the group of each of the N images.

        Example:
            `["asia", "africa", "asia"]` sets the names `("africa", "asia")` and the indices
            `[1, 0, 1]`.
        """
        distinct_names, group_indices = np.unique(groups, return_inverse=True)
        return self._replace(
            group_names=tuple(distinct_names.tolist()), group_of_image=group_indices
        )


def _take(values: NDArray[_Number] | None, indices: Sequence[int]) -> NDArray[_Number] | None:
    """Return the values at these indices, or None if there are no values."""
    return None if values is None else values[indices]


def make_data(classes: Sequence[str], samples: Iterable[tuple[str, ImageSource, Any]]) -> ClassData:
    """Return classes and labelled images as one object.

    Args:
        classes: The names of the C classes.
        samples: For each image, a tuple (name, image, label). A label is the index of a class, or
            an array with one entry per class or question.

    Raises:
        UsageError: If the name of a class is not UTF-8 text, as for some names of folders.
    """
    for class_name in classes:
        # Names of folders that are not UTF-8 have surrogates, which cannot be encoded.
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
    if label_array.ndim != 2:  # indices of classes, or no samples at all
        label_array = label_array.astype(np.int64)
    return ClassData(tuple(classes), tuple(names), tuple(images), label_array)


def class_names(protocol: ClassificationProtocol, data: ClassData) -> tuple[str, ...]:
    """Return the names by which prompts call the classes, in the order of the classes.

    The first source that exists gives the names:

    1. the class list that the protocol names, such as `imagenet1k`,
    2. the protocol's `class_names`. A class without an entry there is called as in the data, with
       separators replaced by spaces: `great_white_shark` becomes `great white shark`,
    3. the names in prompts that the data state,
    4. the names in the data, with separators replaced by spaces.
    """
    # The class list that the protocol names. Of translated classes, the data state the names.
    if protocol.class_list is not None and protocol.translation is None:
        prompt_names = read_prompt_names(protocol.class_list)
        list_classes = read_folder_names(protocol.class_list)
        if set(data.classes) <= set(list_classes):
            # The data may have only some of the listed classes.
            prompt_name_by_class = dict(zip(list_classes, prompt_names, strict=True))
            return tuple(prompt_name_by_class[class_name] for class_name in data.classes)
        return prompt_names

    # The names in prompts that the data state.
    if data.prompts is not None and not protocol.class_names:
        return data.prompts

    # The protocol's `class_names`, or the names in the data.
    separators_to_spaces = str.maketrans(dict.fromkeys(protocol.separators, " "))
    names: list[str] = []
    for name in data.classes:
        names.append(protocol.class_names.get(name, name.translate(separators_to_spaces)))
    return tuple(names)


def displayed_class_names(protocol: ClassificationProtocol, data: ClassData) -> list[str]:
    """Return the names of the classes for display, which are all different.

    They are the names in prompts. If several classes share a name, the name of each class in the
    data is added.

    Example:
        `crane (n02012849)` and `crane (n03126707)`, for two classes that prompts call `crane`.
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
    """Return the prompt templates of a data set, or the name of a known set of templates.

    They come from the protocol, or else from the data, or else they are OpenAI's for ImageNet.
    """
    return protocol.templates or data.templates or OPENAI


def template_faults(templates: tuple[str, ...] | str) -> Iterator[str]:
    """Yield everything that is wrong with prompt templates.

    Args:
        templates: Templates such as `a photo of a {}.`, or the name of a known set of templates:
            `openai-imagenet`, or `clip-benchmark/NAME`.
    """
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
        # The name of a set of CLIP Benchmark's templates.
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


def resolve_templates(templates: tuple[str, ...] | str) -> tuple[str, ...]:
    """Return the prompt templates that a protocol names or lists.

    Args:
        templates: The templates themselves, such as `("a photo of a {}.",)`, or the name of a known
            set: `openai-imagenet`, or `clip-benchmark/NAME`.

    Returns:
        Texts with one `{}` each, which stands for the name of a class.

    Raises UsageError for an unknown name, and for templates without exactly one `{}`.
    """
    for fault in template_faults(templates):  # the first fault, if there is any
        raise UsageError(fault)
    if isinstance(templates, tuple):
        return templates
    if templates.startswith(CLIP_BENCHMARK):
        return clip_benchmark_templates(templates.removeprefix(CLIP_BENCHMARK))
    import open_clip  # which imports torch

    return tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)


def clip_benchmark_templates(key: str) -> tuple[str, ...]:
    """Return CLIP Benchmark's prompt templates of a data set, such as `a photo of a {}.`.

    Args:
        key: CLIP Benchmark's name of the data set, such as `food101`.

    Raises:
        UsageError: If the name is unknown, and if the templates differ from class to class.
    """
    templates_by_set = _read_clip_benchmark("en_zeroshot_classification_templates.json")
    if key not in templates_by_set:
        names = nearest(key, list(templates_by_set))
        raise UsageError(f"CLIP Benchmark has no templates of {key!r}; nearest: {names}")
    templates = templates_by_set[key]
    if not isinstance(templates, list):
        raise UsageError(f"CLIP Benchmark's templates of {key!r} differ from class to class")
    return tuple(template.replace("{c}", "{}") for template in templates)


def read_prompt_names(class_list: str) -> tuple[str, ...]:
    """Return the names in prompts of the classes of a class list, in the order of the list.

    The names come from CLIP Benchmark, which names the classes of whole lists such as ImageNet-1k.
    A list with fewer classes, such as ImageNet-A, is a subset of a whole list. Its names are then
    looked up by WordNet ids.

    Args:
        class_list: The name of the list, such as `imagenet1k`. Raise KeyError if it is unknown.
    """
    record = CLASS_LISTS[class_list]
    all_names = tuple(_read_clip_benchmark("en_classnames.json")[record.names])
    names = all_names[record.skipped :]
    if record.n_classes == len(names):
        return names

    # The list is a subset of a whole list.
    name_by_wordnet_id = dict(zip(read_folder_names(record.names), names, strict=True))
    return tuple(name_by_wordnet_id[wordnet_id] for wordnet_id in read_folder_names(class_list))


def read_folder_names(class_list: str) -> Sequence[str]:
    """Return the names of the folders of a class list's classes: WordNet ids, or 0, 1, 2...

    WordNet ids are read from the files of timm. Return an empty list if timm is not installed or
    does not have them.

    Example:
        `imagenet1k` gives `["n01440764", "n01443537", ...]`.
    """
    record = CLASS_LISTS[class_list]
    if record.numeric:
        return [str(number) for number in range(record.n_classes)]

    # Find timm's files without importing timm, which would import torch.
    package = find_spec("timm") if record.ids else None
    if package is None:
        return []
    for folder in package.submodule_search_locations or ():
        path = Path(folder, "data", "_info", record.ids)
        if path.is_file():
            return sorted(path.read_text("utf-8").split())
    return []


def unnamed_class_faults(protocol: ClassificationProtocol, data: ClassData) -> Iterator[str]:
    """Yield a fault if prompts would call classes by WordNet ids or numbers instead of names.

    The fault says how to name them.
    """
    # Find classes that are called by a WordNet id.
    unnamed_classes = []
    prompt_names = class_names(protocol, data)
    for data_name, prompt_name in zip(data.classes, prompt_names, strict=True):
        if data_name == prompt_name and WORDNET_ID.fullmatch(data_name):
            unnamed_classes.append(data_name)
    kind, imagenet_list = "WordNet ids", "imagenet1k"

    # Find classes that are called by numbers. If names are stated, a number may be a name.
    has_stated_names = bool(protocol.class_names or protocol.class_list or data.prompts)
    are_all_numbers = all(map(str.isdecimal, data.classes))
    if not unnamed_classes and not has_stated_names and are_all_numbers:
        unnamed_classes = list(data.classes)
        kind, imagenet_list = "numbers", "imagenet1k-numbers"

    # Say how to name them.
    if not unnamed_classes:
        return
    advice = f"name them by `class_names: {{{unnamed_classes[0]!r}: NAME, ...}}`"
    if set(data.classes) <= set(read_folder_names(imagenet_list)):
        advice += f", or if they are ImageNet's by `class_list: {imagenet_list}`"
    yield (
        f"{len(unnamed_classes)} classes are called by {kind}, such as {unnamed_classes[0]}, in "
        f"prompts too: {advice}"
    )


def describe_class_differences(
    protocol: ClassificationProtocol, data_classes: Sequence[str]
) -> str:
    """Return the end of a message about wrong classes, which lists how they differ.

    Only the first classes are listed. Return an empty text if no installed package lists the
    classes of the data set.

    Args:
        protocol: The data set.
        data_classes: The classes of its data on the disk.

    Example:
        "; missing: beagle, boxer; not of this set: tiger"
    """
    expected_classes: Sequence[str] = ()
    if protocol.torchvision == "oxford_pets":
        expected_classes = _read_clip_benchmark("en_classnames.json")["pets"]
    elif protocol.class_list is not None:
        expected_classes = read_folder_names(protocol.class_list)
    if not expected_classes:
        return ""

    missing_names = [name for name in expected_classes if name not in data_classes]
    unexpected_names = [name for name in data_classes if name not in expected_classes]
    differences = ""
    if missing_names:
        differences += f"; missing: {first_of(missing_names, _MAX_LISTED)}"
    if unexpected_names:
        differences += f"; not of this set: {first_of(unexpected_names, _MAX_LISTED)}"
    return differences


@cache
def _read_clip_benchmark(name: str) -> dict[str, Any]:
    """Return the content of a JSON file in the folder `datasets` of the package clip_benchmark."""
    path = files("clip_benchmark").joinpath("datasets", name)
    return dict(json.loads(path.read_text("utf-8")))
