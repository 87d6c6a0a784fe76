"""What identifies a training: its recipe, by which trainings of several seeds form a group, its
data and its cost. Imports no torch."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cosmos_core.utils.files import json_sha256

IDENTITY = ("group", "seed", "recipe_sha256", "data_sha256", "samples", "flops")
SCENES = "scenes:"  # of a shard specification that requests a number of embedded scenes

# What may differ between a run and its continuation: it does not change the weights.
FREE = (
    *("data.workers", "save", "watch"),
    *("compute.checkpointing", "compute.timeout", "parallel"),
)

# What trainings of one recipe may differ in besides: it changes names, or the rounding of weights.
_OF_A_RUN = (
    *("seed", "recipe", "compute.device", "compute.accumulate", "compute.compile"),
    *("compute.tf32", "compute.cudnn_benchmark"),
)
SHARDS = "data.shards"

# Options that an earlier version lacks, with the values that do what it did. These are left out
# where configurations are hashed or compared: groups and snapshots of earlier versions stay valid.
ADDED = {
    "method_sha256": "",
    "image.caption_scale": [],
    "compute.tf32": True,
    "compute.cudnn_benchmark": True,
    "compute.timeout": 0.0,
    "model.init": "",
    "model.partial": False,
    "model.freeze": "",
    "optim.layer_decay": 1.0,
    "data.keyed_order": False,
    "compute.gather_bf16": False,
    "parallel": "ddp",
    "method.bias": -10.0,
}


def training_identity(training: Any) -> dict[str, Any]:
    """Return IDENTITY of a training from the metadata that cosmos-train writes, of any version;
    None where unknown, and nothing without a configuration. Trainings of a group differ in their
    seeds alone: `group` is the name of the recipe and the start of its hash, with the steps of a
    training that is not whole."""
    config = training.get("config") if isinstance(training, Mapping) else None
    if not (isinstance(config, Mapping) and config):
        return {}
    data, steps = _sha256(training.get("data_sha256")), _count(training.get("steps"))
    options = _recipe(config, data, training.get("processes"))
    if "model.init" in options:  # a path, or a name whose weights may change
        options["model.init"] = _sha256(training.get("init_sha256")) or options["model.init"]
    recipe = json_sha256(options)
    name = str(config.get("recipe") or "training").encode(errors="replace").decode()
    whole = dict(_options(config)).get("optim.steps")
    part = f" at step {steps}" if steps is not None and steps != whole else ""
    flops = training.get("flops")
    known = isinstance(flops, float) and 0 < flops < math.inf
    group, seed = f"{name}-{recipe[:8]}{part}", _count(config.get("seed"))
    samples = _count(training.get("samples_seen")) or None
    values = (group, seed, recipe, data, samples, flops if known else None)
    return dict(zip(IDENTITY, values, strict=True))


def _recipe(config: Mapping[str, Any], data: str | None, processes: Any) -> dict[str, Any]:
    """Return the options that decide the weights, but for the seed. One that is off or empty is
    left out, so that an option of a later version, which is off, changes no group. Shards count by
    their fingerprint, since their folder may differ."""
    options = {
        name: value
        for name, value in _options(without_added(config))
        if value and not name.startswith((*FREE, *_OF_A_RUN))
    }
    if data is not None and not str(options.get(SHARDS)).startswith(SCENES):
        options[SHARDS] = data
    if options.get("optim.gradient") == "published":  # divided by their number
        options["processes"] = processes
    return options


def without_added(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration without the options of ADDED that have the value given there, nor
    groups of such options alone."""
    kept: dict[str, Any] = {}
    for name, value in config.items():
        full = f"{prefix}{name}"
        if isinstance(value, Mapping):
            inner = without_added(value, f"{full}.")
            kept |= {name: inner} if inner or not value else {}
        elif full not in ADDED or value != ADDED[full]:
            kept[name] = value
    return kept


def _options(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _options(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _sha256(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else None
