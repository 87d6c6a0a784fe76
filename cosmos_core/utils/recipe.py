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
SHARDS = "data.shards"

# Options that may differ between a run and its continuation: they do not change the weights.
# `optim.max_skipped` decides whether a run ends, but not the weights of one that goes on.
FREE = (
    "data.workers",
    "data.cache_gb",
    "save",
    "watch",
    "compute.checkpointing",
    "compute.timeout",
    "optim.max_skipped",
    "parallel",
)

# Options that may also differ between a run and a branch of it, if all steps that the branch takes
# over have the same learning rate. The name of the recipe changes no weight.
BUDGET = ("optim.steps", "optim.schedule", "optim.cooldown_steps", "recipe")

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

# The full names of options that later versions have added, with the values that have the behaviour
# of earlier versions. With these values they are left out of configurations that are hashed or
# compared, so that groups and snapshots of earlier versions stay valid.
ADDED = {
    "method_sha256": "",
    "image.caption_scale": [],
    "image.first_size": 0,
    "image.first_steps": 0,
    "compute.tf32": True,
    "compute.cudnn_benchmark": True,
    "compute.timeout": 0.0,
    "model.init": "",
    "model.partial": False,
    "model.freeze": "",
    "model.unlocked_groups": 0,
    "model.freeze_steps": 0,
    "model.patch_dropout": 0.0,
    "optim.layer_decay": 1.0,
    "optim.optimizer": "adamw",
    "optim.schedule": "cosine",
    "optim.cooldown_steps": 0,
    "optim.max_skipped": 0,
    "optim.image_lr_factor": 1.0,
    "optim.text_lr_factor": 1.0,
    "optim.image_weight_decay_factor": 1.0,
    "optim.text_weight_decay_factor": 1.0,
    "data.keyed_order": False,
    "data.cache_gb": 0.0,
    "compute.gather_bf16": False,
    "parallel": "ddp",
    "method.bias": -10.0,
    "method.teacher_views": 2,
    "method.distill_images_only": False,
    "text.captions": [],
}


def asks_for_scenes(shards: str) -> bool:
    """Return whether the option `data.shards` asks for a number of embedded scenes.

    Example::

        "scenes:1000" or "scenes2:1000" -> True
        "scenes/00000.tar" -> False
    """
    return shards.startswith(("scenes:", "scenes2:"))


def training_identity(training: Any) -> dict[str, Any]:
    """Return which recipe, seed and data a training had, from the metadata of its checkpoint.

    Trainings of one recipe that differ only in their seeds have the same `group`. It is the name of
    the recipe and the beginning of the hash of its options. If a training has not done all of its
    steps, their number is added, as in "scenes_cosmos-1a2b3c4d at step 400".

    Args:
        training: The mapping under "training" in the metadata. Any version of cosmos-train may have
            written it, and it may be damaged.

    Returns:
        The values that IDENTITY names, which are None if they are unknown. The result is empty if
        `training` has no configuration.

    Example::

        {"group": "scenes_cosmos-1a2b3c4d", "seed": 0, "recipe_sha256": "1a2b3c4d...",
         "data_sha256": "5e6f...", "samples": 160000, "flops": 1.2e15}
    """
    config = training.get("config") if isinstance(training, Mapping) else None
    if not isinstance(config, Mapping) or not config:
        return {}

    # Hash the options of the recipe.
    data_sha256 = _sha256_or_none(training.get("data_sha256"))
    options = _recipe_options(config, data_sha256, training.get("processes"))
    init_sha256 = _sha256_or_none(training.get("init_sha256"))
    if "model.init" in options and init_sha256 is not None:
        # The initial weights are given by a path, or by a name whose weights may change. Their hash
        # says which weights they are.
        options["model.init"] = init_sha256
    recipe_sha256 = json_sha256(options)

    # Name the group.
    recipe_name = str(config.get("recipe") or "training").encode(errors="replace").decode()
    group = f"{recipe_name}-{recipe_sha256[:8]}"
    n_steps_done = _count_or_none(training.get("steps"))
    n_steps = dict(_flat_options(config)).get("optim.steps")
    if n_steps_done is not None and n_steps_done != n_steps:
        group += f" at step {n_steps_done}"

    flops = training.get("flops")
    has_flops = isinstance(flops, float) and 0 < flops < math.inf
    return {
        "group": group,
        "seed": _count_or_none(config.get("seed")),
        "recipe_sha256": recipe_sha256,
        "data_sha256": data_sha256,
        "samples": _count_or_none(training.get("samples_seen")) or None,
        "flops": flops if has_flops else None,
    }


def _recipe_options(
    config: Mapping[str, Any], data_sha256: str | None, n_processes: Any
) -> dict[str, Any]:
    """Return the options of a training that decide its weights, except the seed.

    An option that is off, zero or empty is left out, and one in ADDED that has the value stated
    there. So an option that a later version adds does not change the hash of a recipe.

    Args:
        config: The configuration of the training.
        data_sha256: The hash of the data, if it is known. It replaces the paths of the shards,
            which may differ between machines.
        n_processes: The number of processes, as the checkpoint states it.

    Returns:
        The values of the options by their full names, such as {"optim.lr": 0.1}.
    """
    ignored_prefixes = (*FREE, *_RUN_OPTIONS)
    options = {}
    for name, value in _flat_options(config):
        # Zero is off, except for an option such as a factor of 1, which has an effect if it is 0.
        default = ADDED.get(name)
        has_no_effect = value == default or (not value and not default)
        if not has_no_effect and not name.startswith(ignored_prefixes):
            options[name] = value

    if data_sha256 is not None and not asks_for_scenes(str(options.get(SHARDS))):
        options[SHARDS] = data_sha256
    if options.get("optim.gradient") == "published":
        # This gradient is divided by the number of processes.
        options["processes"] = n_processes
    return options


def remove_added_defaults(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a copy of a configuration without the new options that have no effect.

    These are the options in ADDED that have the value stated there. An earlier version did not know
    them. Without them, the configuration equals the one that an earlier version has stored.

    Args:
        config: The configuration, or one section of it.
        prefix: The full name of the section with a dot at the end, such as "model.", or "" for a
            whole configuration. The function calls itself for each section.

    Returns:
        The options that are left. A section that loses all its options is left out.

    Example::

        {"model": {"init": ""}, "optim": {"lr": 0.1, "layer_decay": 1.0}}
        -> {"optim": {"lr": 0.1}}
    """
    options: dict[str, Any] = {}
    for name, value in config.items():
        full_name = f"{prefix}{name}"
        if isinstance(value, Mapping):
            section = remove_added_defaults(value, f"{full_name}.")
            was_empty = not value
            if section or was_empty:
                options[name] = section
        else:
            is_added_default = full_name in ADDED and value == ADDED[full_name]
            if not is_added_default:
                options[name] = value
    return options


def _flat_options(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full name and the value of every option of a configuration.

    For example, `{"optim": {"lr": 0.1}, "seed": 1}` yields `("optim.lr", 0.1)` and `("seed", 1)`.

    Args:
        config: The configuration, or one section of it.
        prefix: The full name of the section with a dot at the end, such as "optim.", or "" for a
            whole configuration. The function calls itself for each section.
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
