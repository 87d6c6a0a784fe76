"""COSMOS: cross-modality self-distillation for vision-language pre-training (arXiv 2412.01814).
`import cosmos_core` is light: its names are imported when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosmos_core import losses as losses
    from cosmos_core.bundled import BundledModel as BundledModel
    from cosmos_core.bundled import bundled_models as bundled_models
    from cosmos_core.engine.build import param_groups as param_groups
    from cosmos_core.model.build import create_model as create_model
    from cosmos_core.model.checkpoint import Checkpoint as Checkpoint
    from cosmos_core.model.checkpoint import CheckpointError as CheckpointError
    from cosmos_core.model.checkpoint import load_model as load_model
    from cosmos_core.model.checkpoint import read_checkpoint as read_checkpoint
    from cosmos_core.model.cosmos import Cosmos as Cosmos
    from cosmos_core.model.cosmos import clamp_logit_scales as clamp_logit_scales
    from cosmos_core.model.cosmos import create_teacher as create_teacher
    from cosmos_core.model.cosmos import update_teacher as update_teacher
    from cosmos_core.types import Features as Features
    from cosmos_core.types import LossTerms as LossTerms
    from cosmos_core.types import Views as Views

_MODULES = {
    "bundled": ("BundledModel", "bundled_models"),
    "engine.build": ("param_groups",),
    "model.build": ("create_model",),
    "model.checkpoint": ("Checkpoint", "CheckpointError", "load_model", "read_checkpoint"),
    "model.cosmos": ("Cosmos", "clamp_logit_scales", "create_teacher", "update_teacher"),
    "types": ("Features", "LossTerms", "Views"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted([*_HOMES, "losses"])


def __getattr__(name: str) -> Any:
    if name == "losses":
        return import_module("cosmos_core.losses")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"cosmos_core.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
