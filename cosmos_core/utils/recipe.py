"""The identity of a training run: its recipe, data and cost. This module imports no torch.

Trainings of one recipe that differ only in their seeds have the same group name, and are compared
together.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cosmos_core.utils.files import json_sha256

# The values that `training_identity` returns.
IDENTITY = ("group", "seed", "recipe_sha256", "data_sha256", "samples", "flops")
SCENES = "scenes:"  # the prefix of `data.shards` that asks for a number of embedded scenes
SHARDS = "data.shards"

# Options that may differ between a run and its continuation: they do not change the weights.
FREE = ("data.workers", "save", "watch", "compute.checkpointing", "compute.timeout", "parallel")

# Other options in which trainings of one recipe may differ: names, and the rounding of weights.
_RUN_OPTIONS = (
    "seed",
    "recipe",
    "compute.device",
    "compute.accumulate",
    "compute.compile",
    "compute.tf32",
    "compute.cudnn_benchmark",
)

# Options that an earlier version lacks, with the values that have its behaviour. With these values
# they are left out of configurations that are hashed or compared, so that groups and snapshots of
# earlier versions stay valid.
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
    """Return the identity of a training from the metadata of its checkpoint.

    `training` is the mapping that any version of cosmos-train has written. The result is, for
    example::

        {"group": "scenes_cosmos-1a2b3c4d", "seed": 0, "recipe_sha256": "1a2b3c4d...",
         "data_sha256": "5e6f...", "samples": 160000, "flops": 1.2e15}

    Unknown values are None. Without a configuration the result is empty. Trainings with the same
    `group` differ only in their seeds: see `_group_name`.
    """
    config = training.get("config") if isinstance(training, Mapping) else None
    if not isinstance(config, Mapping) or not config:
        return {}
    data_sha256 = _sha256_or_none(training.get("data_sha256"))
    options = _recipe_options(config, data_sha256, training.get("processes"))
    init_sha256 = _sha256_or_none(training.get("init_sha256"))
    if "model.init" in options and init_sha256 is not None:
        # The initial weights are given by a path, or by a name whose weights may change. Their hash
        # says which weights they are.
        options["model.init"] = init_sha256
    recipe_sha256 = json_sha256(options)
    flops = training.get("flops")
    has_flops = isinstance(flops, float) and 0 < flops < math.inf
    return {
        "group": _group_name(config, recipe_sha256, _count_or_none(training.get("steps"))),
        "seed": _count_or_none(config.get("seed")),
        "recipe_sha256": recipe_sha256,
        "data_sha256": data_sha256,
        "samples": _count_or_none(training.get("samples_seen")) or None,
        "flops": flops if has_flops else None,
    }


def _group_name(config: Mapping[str, Any], recipe_sha256: str, steps: int | None) -> str:
    """Return the name that trainings of one recipe share, such as `cosmos-1a2b3c4d`.

    It is the name of the recipe and the beginning of its hash. If a training has not done all of
    its steps, the name has their number too, as in `cosmos-1a2b3c4d at step 400`.
    """
    recipe_name = str(config.get("recipe") or "training").encode(errors="replace").decode()
    all_steps = dict(_flat_options(config)).get("optim.steps")
    progress = ""
    if steps is not None and steps != all_steps:
        progress = f" at step {steps}"
    return f"{recipe_name}-{recipe_sha256[:8]}{progress}"


def _recipe_options(
    config: Mapping[str, Any], data_sha256: str | None, processes: Any
) -> dict[str, Any]:
    """Return the options of a training that decide its weights, except the seed, by full name.

    An option that is off, zero or empty is left out. So an option that a later version adds, and
    that is off, does not change the hash of a recipe. The paths of shards are replaced by the hash
    of the data, since their folder may differ. `processes` is the number of processes.
    """
    ignored_prefixes = (*FREE, *_RUN_OPTIONS)
    config_of_earlier_versions = without_added(config)
    options = {}
    for name, value in _flat_options(config_of_earlier_versions):
        if value and not name.startswith(ignored_prefixes):
            options[name] = value
    is_on_scenes = str(options.get(SHARDS)).startswith(SCENES)
    if data_sha256 is not None and not is_on_scenes:
        options[SHARDS] = data_sha256
    if options.get("optim.gradient") == "published":
        # This gradient is divided by the number of processes.
        options["processes"] = processes
    return options


def without_added(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration without added options that do nothing.

    These are the options of ADDED, which an earlier version lacks, if they have the value that is
    stated there: `{"model": {"init": ""}, "seed": 1}` -> `{"seed": 1}`. A section is left out with
    its last option. `prefix` is the full name of the section that `config` is, such as "model.", or
    "" for a whole configuration.
    """
    options: dict[str, Any] = {}
    for name, value in config.items():
        full_name = f"{prefix}{name}"
        if isinstance(value, Mapping):
            section = without_added(value, f"{full_name}.")
            if section or not value:
                options[name] = section
        elif full_name not in ADDED or value != ADDED[full_name]:
            options[name] = value
    return options


def _flat_options(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full name and the value of every option of a configuration.

    `{"optim": {"lr": 0.1}, "seed": 1}` -> `("optim.lr", 0.1), ("seed", 1)`. `prefix` is the full
    name of the section that `config` is, such as "optim.".
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat_options(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _count_or_none(value: Any) -> int | None:
    """Return a value if it is an integer >= 0 and not a boolean, else None."""
    return value if type(value) is int and value >= 0 else None


def _sha256_or_none(value: Any) -> str | None:
    """Return a value if it is a hexadecimal SHA-256, else None."""
    return value if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else None
