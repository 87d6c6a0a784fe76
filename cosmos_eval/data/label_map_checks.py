"""Whether a protocol's constants, images and label maps fit together, and all that does not."""

import itertools
import math
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

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

_MOST_CLASSES = 2**15 - 1  # of predicted label maps, which a device holds in int16
_REDUCED_ZERO = 255  # what MMSegmentation turns zero into where it reduces labels


def is_there(protocol: LabelMapProtocol, root: Path) -> bool:
    """Return whether the folders of a set are below a root."""
    try:
        return bool(find_root(protocol, str(root)))
    except UsageError:
        return False


def check(protocol: LabelMapProtocol, options: RunOptions, data: LabelMaps | None = None) -> None:
    """Raise UsageError where data are missing or inconsistent, before any model is loaded."""
    check_constants(protocol)
    data = data or label_maps.open_data(protocol, options)
    # Every label map, because an undeclared class would otherwise show after hours.
    read = partial(_read, protocol=protocol)
    for _, faults in prefetch(data.samples, read, workers=options.workers):
        for fault in faults.values():
            raise UsageError(fault)


def survey(protocol: LabelMapProtocol, options: RunOptions, progress: OnProgress) -> Survey:
    """Check every file, the headers of images and every pixel of label maps."""
    try:
        check_constants(protocol)
        root = find_root(protocol, options.data_root)
        samples = label_maps.list_data(protocol, options).samples
    except UsageError as error:
        return Survey(faults=(str(error),), remedy=_remedy(protocol, options, ()))
    expected = len(samples) if protocol.n_images is None else protocol.n_images
    both = [sample for sample in samples if sample.image.is_file() and sample.mask.is_file()]
    present = np.zeros(label_maps.VALUES, np.bool_)
    texts = defaultdict[str, list[str]](list)
    if text := _missing_images(samples, protocol, root, expected):
        texts["images"] = [text]
    if text := _missing_masks(samples, protocol):
        texts["label maps"] = [text]
    contents = prefetch(both, partial(_read, protocol=protocol), workers=options.workers)
    for done, (values, found) in enumerate(contents, start=1):
        present |= values
        for kind, text in found.items():
            texts[kind].append(text)
        progress(Progress("look", done, len(both)))
    first = int(protocol.reduce_zero_label)
    present[protocol.ignore_index] = False
    labels = (np.flatnonzero(present) + first).tolist()
    return Survey(
        faults=tuple(
            f"{text} (and {len(others)} more)" if others else text
            for text, *others in texts.values()
        ),
        remedy=_remedy(protocol, options, texts) if texts else None,
        folder=str(root),
        expected=expected,
        images=sum(sample.image.is_file() for sample in samples),
        label_maps=sum(sample.mask.is_file() for sample in samples),
        mask_suffix=protocol.mask_suffix,
        labels=(labels[0], labels[-1]) if labels else None,
        classes=(first, first + len(protocol.class_names) - 1),
        n_classes=len(protocol.class_names),
    )


def _remedy(protocol: LabelMapProtocol, options: RunOptions, kinds: Iterable[str]) -> str | None:
    name = protocol.preparation
    # These are mended by making the label maps again.
    made_here = set(kinds) <= {"label maps", "unreadable", "labels"}
    if name and made_here and can_prepare(name, options.data_root):
        return f"cosmos-eval data prepare {name} --data-root {shlex.quote(str(options.data_root))}"
    return protocol.download


def _read(
    sample: Sample, protocol: LabelMapProtocol
) -> tuple[NDArray[np.bool_], Mapping[str, str]]:
    """Return which values a label map holds, as loaded, and its faults by kind."""
    try:
        label = label_maps.load_label(sample, protocol)
    except UsageError as error:
        return np.zeros(label_maps.VALUES, np.bool_), {"unreadable": str(error)}
    faults = {}
    try:
        label_maps.require_declared(label, sample, protocol)
    except UsageError as error:
        faults["labels"] = str(error)
    try:
        label_maps.require_same_size(sample, label_maps.displayed_size(sample.image), label)
    except UsageError as error:
        faults["sizes"] = str(error)
    return label_maps.values_of(label), faults


def _missing_images(
    samples: Sequence[Sample], protocol: LabelMapProtocol, root: Path, expected: int
) -> str:
    missing = [sample.image for sample in samples if not sample.image.is_file()]
    found = len(samples) - len(missing)
    images, masks, suffix = root / protocol.images, root / protocol.masks, protocol.mask_suffix
    if protocol.split is None and len(samples) < expected:  # label maps may name the others
        spare = sorted({*masks.rglob(f"*{suffix}")} - {sample.mask for sample in samples})
        names = (str(path.relative_to(masks)).removesuffix(suffix) for path in spare)
        missing += [images / f"{name}{protocol.image_suffix}" for name in names]
    if missing or found < expected:
        n = max(expected - found, len(missing))
        first = f", first: {missing[0]}" if missing else f" from {images}"
        labelled = f" with label maps in {masks}" if protocol.only_labelled else ""
        return f"{n} of {expected} images{labelled} missing{first}"
    return f"{found} images, {expected} expected, in {images}" if found > expected else ""


def _missing_masks(samples: Sequence[Sample], protocol: LabelMapProtocol) -> str:
    missing = [sample.mask for sample in samples if not sample.mask.is_file()]
    if not missing:
        return ""
    text = f"{len(missing)} of {len(samples)} label maps missing, first: {missing[0]}"
    if len(missing) < len(samples):
        return text
    others = [path for path in missing[0].parent.glob("[!.]*") if path.is_file()]
    instead = f", there is {min(others).name}" if others else ""
    return f"{text}; none ends in {protocol.mask_suffix}{instead}"


def check_constants(protocol: LabelMapProtocol) -> None:
    """Raise UsageError, naming the data set, for constants that contradict each other."""
    own = protocol.faults()
    templates = template_faults(protocol.templates)
    for fault in itertools.chain(_class_faults(protocol), _label_faults(protocol), templates, own):
        raise UsageError(f"{protocol.dataset}: {fault}")


def _class_faults(protocol: LabelMapProtocol) -> Iterator[str]:
    names, queries = protocol.class_names, protocol.queries
    if not 0 < len(names) <= _MOST_CLASSES:
        yield f"{len(names)} classes; label maps hold 1 to {_MOST_CLASSES}"
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
    n_classes, ignored = len(protocol.class_names), protocol.ignore_index
    highest = label_maps.VALUES - 1
    if not n_classes <= ignored <= highest:
        above = f"above the {n_classes} class indices, at most {highest}"
        yield f"ignore_index {ignored} must be {above}"
    if protocol.reduce_zero_label and ignored != _REDUCED_ZERO:
        yield f"reduce_zero_label turns 0 into {_REDUCED_ZERO}, so ignore_index must be that too"
    if not 0 < protocol.scale < math.inf:
        yield "scale must be a finite number above 0"
