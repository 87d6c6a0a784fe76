"""What defines a segmentation number, and what of it a reader must know."""

from __future__ import annotations

from typing import Any

from cosmos_eval.types import Attention, SegmentationProtocol

# Constants of a protocol that change the number, beside names, prompts and templates.
_CONSTANTS = (
    *("short_side", "long_side", "window", "stride", "scale", "prob_thd", "area_thd"),
    *("reduce_zero_label", "ignore_index", "mean", "std"),
)


def constants(protocol: SegmentationProtocol, attention: Attention) -> dict[str, Any]:
    """All of them by name, with the form of attention."""
    found = {name: getattr(protocol, name) for name in _CONSTANTS}
    if protocol.window is None:
        found["stride"] = None  # it has no effect, so that its value must not change the hash
    if protocol.refinement is not None:  # else left out, so that older results keep their hash
        found["refinement"] = protocol.refinement
    return {**found, "attention": attention}


def shared_prompts(protocol: SegmentationProtocol) -> tuple[str, ...]:
    """A line a prompt that several classes have: the first of them wins wherever it is best."""
    owners: dict[str, list[str]] = {}
    for name, prompts in zip(protocol.class_names, protocol.queries, strict=True):
        for prompt in dict.fromkeys(prompts):
            owners.setdefault(prompt, []).append(name)
    return tuple(
        f"prompt '{prompt}' belongs to {' and '.join(names)}: {names[0]} always wins with it"
        for prompt, names in owners.items()
        if len(names) > 1
    )
