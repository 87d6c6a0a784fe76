"""What defines a segmentation number, as hashes, and what of it a reader must know."""

from __future__ import annotations

import hashlib
import json

from cosmos_eval.tasks.prompts import resolve_templates
from cosmos_eval.tasks.segmentation._samples import NAME
from cosmos_eval.types import Attention, Samples, SegmentationProtocol

# Constants of a protocol that change the number, beside names, prompts and templates.
_CONSTANTS = (
    *("short_side", "long_side", "window", "stride", "scale", "prob_thd", "area_thd"),
    *("reduce_zero_label", "ignore_index", "mean", "std"),
)


def fingerprints(
    samples: Samples, protocol: SegmentationProtocol, attention: Attention
) -> dict[str, str]:
    """SHA-256 of everything that defines the number."""
    constants = {name: getattr(protocol, name) for name in _CONSTANTS}
    if protocol.refinement is not None:  # else left out, so that older results keep their hash
        constants["refinement"] = protocol.refinement
    described = {
        "class_names": protocol.class_names,
        "queries": protocol.queries,
        "templates": resolve_templates(protocol.templates),
        "constants": {**constants, "attention": attention},
        "samples": samples[NAME].tolist(),
    }
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        for name, value in described.items()
    }


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
