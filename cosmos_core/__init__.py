"""COSMOS: cross-modality self-distillation for vision-language pre-training (arXiv 2412.01814).

`import cosmos_core` is fast: its names are imported when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosmos_core import losses
    from cosmos_core.bundled import BundledModel, bundled_models
    from cosmos_core.engine.build import param_groups
    from cosmos_core.model.build import create_model
    from cosmos_core.model.checkpoint import (
        Checkpoint,
        CheckpointError,
        load_model,
        read_checkpoint,
    )
    from cosmos_core.model.cosmos import Cosmos, clamp_logit_scales, create_teacher, update_teacher
    from cosmos_core.types import Features, LossTerms, Views

__all__ = ["BundledModel", "bundled_models", "create_model", "losses", "param_groups"]
__all__ += ["Checkpoint", "CheckpointError", "load_model", "read_checkpoint"]
__all__ += ["Cosmos", "clamp_logit_scales", "create_teacher", "update_teacher"]
__all__ += ["Features", "LossTerms", "Views"]

# The public names that each module of cosmos_core defines.
_NAMES_BY_MODULE = {
    "bundled": ("BundledModel", "bundled_models"),
    "engine.build": ("param_groups",),
    "model.build": ("create_model",),
    "model.checkpoint": ("Checkpoint", "CheckpointError", "load_model", "read_checkpoint"),
    "model.cosmos": ("Cosmos", "clamp_logit_scales", "create_teacher", "update_teacher"),
    "types": ("Features", "LossTerms", "Views"),
}


def __getattr__(name: str) -> Any:
    """Import the module that defines a public name, when the name is first used.

    Python calls this for names that this module does not have yet, as in `cosmos_core.load_model`.
    """
    if name == "losses":
        return import_module("cosmos_core.losses")
    for module_name, names in _NAMES_BY_MODULE.items():
        if name in names:
            module = import_module(f"cosmos_core.{module_name}")
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, which are not attributes of this module before they are used."""
    return sorted(__all__)
