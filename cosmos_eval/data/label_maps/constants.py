"""Whether a protocol's constants make sense together; needs no data."""

from __future__ import annotations

import itertools
import math

from cosmos_eval.types import (
    LabelMapProtocol,
    LocalisationProtocol,
    SegmentationProtocol,
    UsageError,
)

# Label maps are read as 8 bits, and one value must be left for pixels without a label.
_MOST_CLASSES = 255
# What MMSegmentation turns zero into where it reduces labels.
_REDUCED_ZERO = 255


def check_constants(protocol: LabelMapProtocol) -> None:
    """Raise UsageError, naming the data set, for constants that contradict each other."""
    fault = _class_fault(protocol) or _label_fault(protocol)
    if fault is None and isinstance(protocol, SegmentationProtocol):
        fault = _background_fault(protocol) or _inference_fault(protocol)
    if fault is None and isinstance(protocol, LocalisationProtocol):
        fault = _size_fault(protocol)
    if fault is not None:
        raise UsageError(f"{protocol.dataset}: {fault}")


def _class_fault(protocol: LabelMapProtocol) -> str | None:
    names, queries = protocol.class_names, protocol.queries
    if not 0 < len(names) <= _MOST_CLASSES:
        return f"{len(names)} classes; label maps of 8 bits hold 1 to {_MOST_CLASSES}"
    if len(set(names)) < len(names):
        return "two classes have the same name"
    if not all(name.strip() for name in [*names, *itertools.chain.from_iterable(queries)]):
        return "a class or a prompt has a blank name"
    if len(queries) != len(names):
        return f"{len(names)} class names but prompts for {len(queries)} classes"
    silent = [name for name, prompts in zip(names, queries, strict=True) if not prompts]
    return f"class '{silent[0]}' has no prompt name" if silent else None


def _label_fault(protocol: LabelMapProtocol) -> str | None:
    n_classes, ignored = len(protocol.class_names), protocol.ignore_index
    if not n_classes <= ignored <= 255:
        return f"ignore_index {ignored} must be above the {n_classes} class indices, at most 255"
    if protocol.reduce_zero_label and ignored != _REDUCED_ZERO:
        return f"reduce_zero_label turns 0 into {_REDUCED_ZERO}, so ignore_index must be that too"
    return None if 0 < protocol.scale < math.inf else "scale must be a finite number above 0"


def _background_fault(protocol: SegmentationProtocol) -> str | None:
    if protocol.reduce_zero_label and (protocol.prob_thd > 0 or protocol.area_thd is not None):
        return "prob_thd and area_thd need a background class 0, which reduce_zero_label removes"
    if (protocol.prob_thd > 0 or protocol.area_thd is not None) and not has_background(protocol):
        return (
            "prob_thd and area_thd turn pixels into class 0, and here that is "
            f"'{protocol.class_names[0]}': set them only where class 0 is named 'background'"
        )
    return None


def _size_fault(protocol: LocalisationProtocol) -> str | None:
    if not 0 < protocol.small < protocol.large < 1:
        return "small and large must be shares of the image, small below large"
    return None


def has_background(protocol: LabelMapProtocol) -> bool:
    """Whether class 0 is what no other class is."""
    return protocol.class_names[0].lower() == "background"


def _inference_fault(protocol: SegmentationProtocol) -> str | None:
    for name in ("short_side", "long_side", "window", "stride"):
        pixels = getattr(protocol, name)
        if pixels is not None and pixels <= 0:
            return f"{name} must be above 0"
    if protocol.mean is not None and not all(map(math.isfinite, protocol.mean)):
        return "mean must hold finite numbers"
    if protocol.std is not None and not all(0 < value < math.inf for value in protocol.std):
        return "std must be above 0 and finite"
    if protocol.window is not None and protocol.stride > protocol.window:
        return "stride must not exceed window: pixels between windows would have no prediction"
    if not 0 <= protocol.prob_thd < 1 or not 0 <= (protocol.area_thd or 0) < 1:
        return "prob_thd and area_thd must be in [0, 1)"
    return None
