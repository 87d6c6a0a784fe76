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
"""The files and pixels that `survey` has looked at, for the report of the doctor."""

_MAX_CLASSES = 2**15 - 1  # predicted label maps are int16 on a device
_REDUCED_ZERO = 255  # the value that MMSegmentation turns zero into if it reduces labels

# Kinds of faults. The first three are repaired by making the label maps again.
_MISSING_MASKS, _UNREADABLE, _UNDECLARED = "label maps", "unreadable", "labels"
_PREPARED_KINDS = frozenset({_MISSING_MASKS, _UNREADABLE, _UNDECLARED})
_MISSING_IMAGES, _OTHER_SIZE = "images", "sizes"


def is_there(protocol: LabelMapProtocol, root: Path) -> bool:
    """Return whether the images and label maps of a data set are below `root`."""
    try:
        find_root(protocol, str(root))
    except UsageError:
        return False
    return True


def check(protocol: LabelMapProtocol, options: RunOptions, data: LabelMaps | None = None) -> None:
    """Raise UsageError if a data set is missing or inconsistent.

    Every label map is read in threads, before any model is loaded: a class that the protocol does
    not declare would otherwise stop a run after hours.

    Args:
        protocol: The data set and how it is measured.
        options: The options of the run, such as the number of threads (`workers`).
        data: The opened data set. By default, it is opened here.
    """
    check_constants(protocol)
    data = data or label_maps.open_data(protocol, options)
    check_sample = partial(_check_sample, protocol=protocol)
    for sample_check in prefetch(data.samples, check_sample, workers=options.workers):
        if sample_check.fault_by_kind:
            first_fault = next(iter(sample_check.fault_by_kind.values()))
            raise UsageError(first_fault)


def survey(protocol: LabelMapProtocol, options: RunOptions, progress: OnProgress) -> Survey:
    """Return everything that is wrong with the images and label maps of a data set.

    Check every file, the size of every image, and every pixel of every label map.

    Args:
        protocol: The data set and how it is measured.
        options: The options of the command, such as --data-root and the number of threads.
        progress: Called after each sample.
    """
    try:
        check_constants(protocol)
        root = find_root(protocol, options.data_root)
        samples = label_maps.list_data(protocol, options).samples
    except UsageError as error:
        return Survey(faults=(str(error),), remedy=_find_remedy(protocol, options, ()))
    n_expected = len(samples) if protocol.n_images is None else protocol.n_images
    # Kinds of faults are "images", "label maps", "unreadable", "labels" and "sizes".
    faults_by_kind = _missing_file_faults(samples, protocol, root, n_expected)

    # Check the samples that are there, and collect the values in all label maps.
    has_value = np.zeros(label_maps.VALUES, np.bool_)
    for sample_check in _check_complete_samples(samples, protocol, options, progress):
        has_value |= sample_check.has_value
        for kind, fault in sample_check.fault_by_kind.items():
            faults_by_kind.setdefault(kind, []).append(fault)
    has_value[protocol.ignore_index] = False

    # The survey reports values as the files have them. Loading subtracted 1 from all values if the
    # protocol reduces labels, so that class 0 is value 1 of the files.
    value_of_class_0 = int(protocol.reduce_zero_label)
    file_values = (np.flatnonzero(has_value) + value_of_class_0).tolist()
    return Survey(
        faults=tuple(_summarise(faults) for faults in faults_by_kind.values()),
        remedy=_find_remedy(protocol, options, faults_by_kind) if faults_by_kind else None,
        folder=str(root),
        expected=n_expected,
        images=sum(sample.image.is_file() for sample in samples),
        label_maps=sum(sample.mask.is_file() for sample in samples),
        mask_suffix=protocol.mask_suffix,
        labels=(file_values[0], file_values[-1]) if file_values else None,
        classes=(value_of_class_0, value_of_class_0 + len(protocol.class_names) - 1),
        n_classes=len(protocol.class_names),
    )


def _missing_file_faults(
    samples: Sequence[Sample], protocol: LabelMapProtocol, root: Path, n_expected: int
) -> dict[str, list[str]]:
    """Return the faults about missing images and label maps, by their kinds.

    Args:
        samples: The listed samples, whose files may be missing.
        protocol: The data set.
        root: The folder that the paths of the protocol are relative to.
        n_expected: The number of images in the complete data set.

    Returns:
        Faults by the kinds "images" and "label maps", which are left out if nothing is missing.
    """
    faults_by_kind: dict[str, list[str]] = {}
    images_fault = _missing_images_fault(samples, protocol, root, n_expected)
    if images_fault:
        faults_by_kind[_MISSING_IMAGES] = [images_fault]
    masks_fault = _missing_masks_fault(samples, protocol)
    if masks_fault:
        faults_by_kind[_MISSING_MASKS] = [masks_fault]
    return faults_by_kind


def _summarise(faults: Sequence[str]) -> str:
    """Return one line for one or more faults of a kind.

    Example:
        `["1.png is damaged", "2.png is damaged"]` gives "1.png is damaged (and 1 more)".
    """
    n_more = len(faults) - 1
    return f"{faults[0]} (and {n_more} more)" if n_more else faults[0]


def _find_remedy(
    protocol: LabelMapProtocol, options: RunOptions, kinds: Iterable[str]
) -> str | None:
    """Return the command that repairs a data set, or the page that its files come from.

    The command makes the label maps again from the originals on the disk. It is returned if these
    originals exist, and if all faults are repaired by it.

    Args:
        protocol: The data set.
        options: The options of the command, such as --data-root.
        kinds: The kinds of faults that the data set has, such as "unreadable".

    Example:
        `cosmos-eval data prepare coco_stuff --data-root data`
    """
    preparation = protocol.preparation
    are_all_repaired = _PREPARED_KINDS.issuperset(kinds)
    if preparation and are_all_repaired and can_prepare(preparation, options.data_root):
        data_root = shlex.quote(str(options.data_root))
        return f"cosmos-eval data prepare {preparation} --data-root {data_root}"
    return protocol.download


class _SampleCheck(NamedTuple):
    """The values in a sample's label map, and everything that is wrong with the sample."""

    # (VALUES,) which of the values 0 to 65535 occur in the label map after it is loaded.
    has_value: NDArray[np.bool_]
    # A message for each kind of fault that the sample has.
    fault_by_kind: Mapping[str, str]


def _check_complete_samples(
    samples: Sequence[Sample],
    protocol: LabelMapProtocol,
    options: RunOptions,
    progress: OnProgress,
) -> Iterator[_SampleCheck]:
    """Check all samples whose image and label map exist, in threads, and yield the results.

    Args:
        samples: The listed samples, whose files may be missing.
        protocol: Declares the classes of label maps.
        options: States the number of threads (`workers`).
        progress: Called after each sample.
    """
    complete_samples = []
    for sample in samples:
        if sample.image.is_file() and sample.mask.is_file():
            complete_samples.append(sample)
    check_sample = partial(_check_sample, protocol=protocol)
    sample_checks = prefetch(complete_samples, check_sample, workers=options.workers)
    for n_checked, sample_check in enumerate(sample_checks, start=1):
        yield sample_check
        progress(Progress("look", n_checked, len(complete_samples)))


def _check_sample(sample: Sample, protocol: LabelMapProtocol) -> _SampleCheck:
    """Read the label map of a sample, and check its classes and its size.

    A sample may have several faults. If its label map cannot be read, nothing else is checked.
    """
    try:
        label = label_maps.load_label(sample, protocol)
    except UsageError as error:
        no_values = np.zeros(label_maps.VALUES, np.bool_)
        return _SampleCheck(no_values, {_UNREADABLE: str(error)})

    fault_by_kind = {}
    try:
        label_maps.require_declared(label, sample, protocol)
    except UsageError as error:
        fault_by_kind[_UNDECLARED] = str(error)

    try:
        label_maps.require_same_size(sample, label_maps.displayed_size(sample.image), label)
    except UsageError as error:
        fault_by_kind[_OTHER_SIZE] = str(error)
    has_value = np.bincount(label.ravel(), minlength=label_maps.VALUES) > 0
    return _SampleCheck(has_value, fault_by_kind)


def _missing_images_fault(
    samples: Sequence[Sample], protocol: LabelMapProtocol, root: Path, n_expected: int
) -> str:
    """Return a message if images are missing or if there are too many; otherwise an empty text.

    Args:
        samples: The listed samples, whose files may be missing.
        protocol: The data set. If it has no list of images (`split`), a label map without an image
            shows which image is missing.
        root: The folder that the paths of the protocol are relative to.
        n_expected: The number of images in the complete data set.
    """
    missing_images = [sample.image for sample in samples if not sample.image.is_file()]
    n_present = len(samples) - len(missing_images)
    image_folder = root / protocol.images
    has_image_list = protocol.split is not None
    if not has_image_list and len(samples) < n_expected:
        missing_images.extend(_images_of_unused_masks(samples, protocol, root))

    if missing_images or n_present < n_expected:
        n_missing = max(n_expected - n_present, len(missing_images))
        labelled = f" with label maps in {root / protocol.masks}" if protocol.only_labelled else ""
        fault = f"{n_missing} of {n_expected} images{labelled} missing"
        if missing_images:
            return f"{fault}, first: {missing_images[0]}"
        return f"{fault} from {image_folder}"
    if n_present > n_expected:
        return f"{n_present} images, {n_expected} expected, in {image_folder}"
    return ""


def _images_of_unused_masks(
    samples: Sequence[Sample], protocol: LabelMapProtocol, root: Path
) -> list[Path]:
    """Return the expected paths of images whose label maps exist but belong to no sample.

    Args:
        samples: The listed samples.
        protocol: The data set, which states the folders and suffixes of images and label maps.
        root: The folder that the paths of the protocol are relative to.

    Example:
        For the label map `masks/a/1.png`, the expected path is `images/a/1.jpg`.
    """
    mask_folder = root / protocol.masks
    all_masks = set(mask_folder.rglob(f"*{protocol.mask_suffix}"))
    unused_masks = all_masks - {sample.mask for sample in samples}
    images = []
    for mask in sorted(unused_masks):
        name = str(mask.relative_to(mask_folder)).removesuffix(protocol.mask_suffix)
        images.append(root / protocol.images / f"{name}{protocol.image_suffix}")
    return images


def _missing_masks_fault(samples: Sequence[Sample], protocol: LabelMapProtocol) -> str:
    """Return a message if label maps are missing; otherwise an empty text.

    If all of them are missing, the message names a file in their folder, which may have another
    suffix.
    """
    missing_masks = [sample.mask for sample in samples if not sample.mask.is_file()]
    if not missing_masks:
        return ""
    first_missing = missing_masks[0]
    fault = f"{len(missing_masks)} of {len(samples)} label maps missing, first: {first_missing}"
    are_all_missing = len(missing_masks) == len(samples)
    if are_all_missing:
        fault += f"; none ends in {protocol.mask_suffix}"
        mask_folder = first_missing.parent
        present_files = [path for path in mask_folder.glob("[!.]*") if path.is_file()]
        if present_files:
            fault += f", there is {min(present_files).name}"
    return fault


def check_constants(protocol: LabelMapProtocol) -> None:
    """Raise UsageError if constants of a protocol are wrong or contradict each other.

    Constants are, for example, the names of the classes, the prompts and `ignore_index`. The
    message is about the first fault, and nothing after it is checked.
    """
    faults = itertools.chain(
        _class_and_label_faults(protocol),
        template_faults(protocol.templates),
        protocol.faults(),
    )
    for fault in faults:
        raise UsageError(f"{protocol.dataset}: {fault}")


def _class_and_label_faults(protocol: LabelMapProtocol) -> Iterator[str]:
    """Yield everything that is wrong with a protocol's classes, prompts and values of label maps.

    A caller must stop after a wrong number of prompts, because the next check needs the right one.
    """
    # Check the names of the classes, and the prompts that are made of each class.
    class_names = protocol.class_names
    n_classes = len(class_names)
    prompts_by_class = protocol.queries
    if not 0 < n_classes <= _MAX_CLASSES:
        yield f"{n_classes} classes; label maps hold 1 to {_MAX_CLASSES}"
    if len(set(class_names)) < n_classes:
        yield "two classes have the same name"
    all_names = [*class_names, *itertools.chain.from_iterable(prompts_by_class)]
    if not all(name.strip() for name in all_names):
        yield "a class or a prompt has a blank name"
    if len(prompts_by_class) != n_classes:
        yield f"{n_classes} class names but prompts for {len(prompts_by_class)} classes"
    for class_name, prompts in zip(class_names, prompts_by_class, strict=True):
        if not prompts:
            yield f"class '{class_name}' has no prompt name"

    # Check the values of label maps, and the scale of the logits.
    ignore_index = protocol.ignore_index
    highest_value = label_maps.VALUES - 1
    if not n_classes <= ignore_index <= highest_value:
        yield (
            f"ignore_index {ignore_index} must be above the {n_classes} class indices, at most "
            f"{highest_value}"
        )
    if protocol.reduce_zero_label and ignore_index != _REDUCED_ZERO:
        yield f"reduce_zero_label turns 0 into {_REDUCED_ZERO}, so ignore_index must be that too"
    if not 0 < protocol.scale < math.inf:
        yield "scale must be a finite number above 0"
