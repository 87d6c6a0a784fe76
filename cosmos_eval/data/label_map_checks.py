"""Check that a protocol's constants, its images and its label maps fit together."""

import itertools
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import label_maps
from cosmos_eval.data.class_names import template_faults
from cosmos_eval.data.folders import Survey, find_root
from cosmos_eval.data.label_maps import LabelMaps, Sample
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.prepare import can_prepare
from cosmos_eval.types import LabelMapProtocol, OnProgress, Progress, RunOptions, UsageError

CHECKED = "every file, the size of every image, every pixel of every label map"

_MAX_CLASSES = 2**15 - 1  # of predicted label maps, which a device holds in int16
_REDUCED_ZERO = 255  # the value that MMSegmentation turns zero into if it reduces labels

# Faults that are mended by making the label maps again, by their kind.
_MISSING_MASKS, _UNREADABLE, _UNDECLARED = "label maps", "unreadable", "labels"
_PREPARED_KINDS = frozenset({_MISSING_MASKS, _UNREADABLE, _UNDECLARED})
_MISSING_IMAGES, _OTHER_SIZE = "images", "sizes"


def is_there(protocol: LabelMapProtocol, root: Path) -> bool:
    """Return whether the folders of a set are below a root."""
    try:
        find_root(protocol, str(root))
    except UsageError:
        return False
    return True


def check(protocol: LabelMapProtocol, options: RunOptions, data: LabelMaps | None = None) -> None:
    """Raise UsageError if data are missing or inconsistent, before any model is loaded.

    Every label map is read, because a class that the protocol does not declare would otherwise show
    after hours.
    """
    check_constants(protocol)
    data = data or label_maps.open_data(protocol, options)
    check_sample = partial(_check_sample, protocol=protocol)
    for sample_check in prefetch(data.samples, check_sample, workers=options.workers):
        for fault in sample_check.faults.values():
            raise UsageError(fault)


def survey(protocol: LabelMapProtocol, options: RunOptions, progress: OnProgress) -> Survey:
    """Check every file, the headers of images and every pixel of label maps."""
    try:
        check_constants(protocol)
        root = find_root(protocol, options.data_root)
        samples = label_maps.list_data(protocol, options).samples
    except UsageError as error:
        return Survey(faults=(str(error),), remedy=_remedy(protocol, options, ()))
    n_expected = len(samples) if protocol.n_images is None else protocol.n_images
    # Messages by kind of fault.
    faults: dict[str, list[str]] = {}
    if fault := _missing_images_fault(samples, protocol, root, n_expected):
        faults[_MISSING_IMAGES] = [fault]
    if fault := _missing_masks_fault(samples, protocol):
        faults[_MISSING_MASKS] = [fault]
    has_value = np.zeros(label_maps.VALUES, np.bool_)
    for sample_check in _check_complete_samples(samples, protocol, options, progress):
        has_value |= sample_check.has_value
        for kind, fault in sample_check.faults.items():
            faults.setdefault(kind, []).append(fault)
    has_value[protocol.ignore_index] = False
    # The survey reports values as the files have them. Loading subtracted 1 from all values if the
    # protocol reduces labels, so that class 0 is value 1 of the files.
    value_of_class_0 = int(protocol.reduce_zero_label)
    file_values = (np.flatnonzero(has_value) + value_of_class_0).tolist()
    return Survey(
        faults=tuple(_summarise(messages) for messages in faults.values()),
        remedy=_remedy(protocol, options, faults) if faults else None,
        folder=str(root),
        expected=n_expected,
        images=sum(sample.image.is_file() for sample in samples),
        label_maps=sum(sample.mask.is_file() for sample in samples),
        mask_suffix=protocol.mask_suffix,
        labels=(file_values[0], file_values[-1]) if file_values else None,
        classes=(value_of_class_0, value_of_class_0 + len(protocol.class_names) - 1),
        n_classes=len(protocol.class_names),
    )


def _summarise(messages: Sequence[str]) -> str:
    """Return the first message, followed by the number of the others: `MESSAGE (and 3 more)`."""
    n_more = len(messages) - 1
    return f"{messages[0]} (and {n_more} more)" if n_more else messages[0]


def _remedy(protocol: LabelMapProtocol, options: RunOptions, kinds: Iterable[str]) -> str | None:
    """Return the command that makes the label maps, if making them mends all kinds of faults.

    Return the download page of the data set otherwise.
    """
    name = protocol.preparation
    if name and _PREPARED_KINDS.issuperset(kinds) and can_prepare(name, options.data_root):
        return f"cosmos-eval data prepare {name} --data-root {shlex.quote(str(options.data_root))}"
    return protocol.download


class _SampleCheck(NamedTuple):
    """The values in a sample's label map, and the faults of the sample."""

    # (VALUES,) whether the label map, as loaded, holds each value.
    has_value: NDArray[np.bool_]
    # Messages by kind of fault.
    faults: Mapping[str, str]


def _check_complete_samples(
    samples: Sequence[Sample],
    protocol: LabelMapProtocol,
    options: RunOptions,
    progress: OnProgress,
) -> Iterator[_SampleCheck]:
    """Yield the checks of all samples whose image and label map exist, made in threads.

    `progress` is called after each.
    """
    complete = [sample for sample in samples if sample.image.is_file() and sample.mask.is_file()]
    check_sample = partial(_check_sample, protocol=protocol)
    checks = prefetch(complete, check_sample, workers=options.workers)
    for done, sample_check in enumerate(checks, start=1):
        yield sample_check
        progress(Progress("look", done, len(complete)))


def _check_sample(sample: Sample, protocol: LabelMapProtocol) -> _SampleCheck:
    """Read a label map and check its classes and its size."""
    try:
        label = label_maps.load_label(sample, protocol)
    except UsageError as error:
        return _SampleCheck(np.zeros(label_maps.VALUES, np.bool_), {_UNREADABLE: str(error)})
    faults = {}
    try:
        label_maps.require_declared(label, sample, protocol)
    except UsageError as error:
        faults[_UNDECLARED] = str(error)
    try:
        label_maps.require_same_size(sample, label_maps.displayed_size(sample.image), label)
    except UsageError as error:
        faults[_OTHER_SIZE] = str(error)
    return _SampleCheck(label_maps.values_of(label), faults)


def _missing_images_fault(
    samples: Sequence[Sample], protocol: LabelMapProtocol, root: Path, n_expected: int
) -> str:
    """Return a message if images are missing, or if there are too many, or else an empty text.

    If the set has no list of images, images whose label maps exist count as missing.
    """
    missing = [sample.image for sample in samples if not sample.image.is_file()]
    n_present = len(samples) - len(missing)
    image_folder = root / protocol.images
    if protocol.split is None and len(samples) < n_expected:
        missing.extend(_images_of_unused_masks(samples, protocol, root))
    if missing or n_present < n_expected:
        n_missing = max(n_expected - n_present, len(missing))
        example = f", first: {missing[0]}" if missing else f" from {image_folder}"
        labelled = ""
        if protocol.only_labelled:
            labelled = f" with label maps in {root / protocol.masks}"
        return f"{n_missing} of {n_expected} images{labelled} missing{example}"
    if n_present > n_expected:
        return f"{n_present} images, {n_expected} expected, in {image_folder}"
    return ""


def _images_of_unused_masks(
    samples: Sequence[Sample], protocol: LabelMapProtocol, root: Path
) -> list[Path]:
    """Return the paths of images that are missing although their label maps are there."""
    mask_folder = root / protocol.masks
    used_masks = {sample.mask for sample in samples}
    images = []
    for mask in sorted({*mask_folder.rglob(f"*{protocol.mask_suffix}")} - used_masks):
        name = str(mask.relative_to(mask_folder)).removesuffix(protocol.mask_suffix)
        images.append(root / protocol.images / f"{name}{protocol.image_suffix}")
    return images


def _missing_masks_fault(samples: Sequence[Sample], protocol: LabelMapProtocol) -> str:
    """Return a message if label maps are missing, or else an empty text."""
    missing = [sample.mask for sample in samples if not sample.mask.is_file()]
    if not missing:
        return ""
    fault = f"{len(missing)} of {len(samples)} label maps missing, first: {missing[0]}"
    if len(missing) == len(samples):
        # The label maps may only have another suffix: name a file that is there.
        fault += f"; none ends in {protocol.mask_suffix}"
        files = [path for path in missing[0].parent.glob("[!.]*") if path.is_file()]
        if files:
            fault += f", there is {min(files).name}"
    return fault


def check_constants(protocol: LabelMapProtocol) -> None:
    """Raise UsageError, naming the data set, for constants that contradict each other."""
    faults = itertools.chain(
        _class_faults(protocol),
        _label_faults(protocol),
        template_faults(protocol.templates),
        protocol.faults(),
    )
    for fault in faults:
        raise UsageError(f"{protocol.dataset}: {fault}")


def _class_faults(protocol: LabelMapProtocol) -> Iterator[str]:
    """Yield the faults of the names and prompts of the classes."""
    names, queries = protocol.class_names, protocol.queries
    if not 0 < len(names) <= _MAX_CLASSES:
        yield f"{len(names)} classes; label maps hold 1 to {_MAX_CLASSES}"
    if len(set(names)) < len(names):
        yield "two classes have the same name"
    if not all(name.strip() for name in [*names, *itertools.chain.from_iterable(queries)]):
        yield "a class or a prompt has a blank name"
    if len(queries) != len(names):
        yield f"{len(names)} class names but prompts for {len(queries)} classes"
    for name, prompts in zip(names, queries, strict=True):
        if not prompts:
            yield f"class '{name}' has no prompt name"


def _label_faults(protocol: LabelMapProtocol) -> Iterator[str]:
    """Yield the faults of the constants about values of label maps, and of `scale`."""
    n_classes, ignore_index = len(protocol.class_names), protocol.ignore_index
    highest = label_maps.VALUES - 1
    if not n_classes <= ignore_index <= highest:
        yield (
            f"ignore_index {ignore_index} must be above the {n_classes} class indices, at most "
            f"{highest}"
        )
    if protocol.reduce_zero_label and ignore_index != _REDUCED_ZERO:
        yield f"reduce_zero_label turns 0 into {_REDUCED_ZERO}, so ignore_index must be that too"
    if not 0 < protocol.scale < math.inf:
        yield "scale must be a finite number above 0"
