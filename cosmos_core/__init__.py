"""COSMOS: cross-modality self-distillation for vision-language pre-training (arXiv 2412.01814).

`import cosmos_core` is light; what it offers is imported when it is used.
"""

from __future__ import annotations

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

__all__ = [
    "BundledModel",
    "Checkpoint",
    "CheckpointError",
    "Cosmos",
    "Features",
    "LossTerms",
    "Views",
    "bundled_models",
    "clamp_logit_scales",
    "create_model",
    "create_teacher",
    "load_model",
    "losses",
    "param_groups",
    "read_checkpoint",
    "update_teacher",
]

_HOMES = {
    "BundledModel": "bundled",
    "Checkpoint": "model.checkpoint",
    "CheckpointError": "model.checkpoint",
    "Cosmos": "model.cosmos",
    "Features": "types",
    "LossTerms": "types",
    "Views": "types",
    "bundled_models": "bundled",
    "clamp_logit_scales": "model.cosmos",
    "create_model": "model.build",
    "create_teacher": "model.cosmos",
    "load_model": "model.checkpoint",
    "param_groups": "engine.build",
    "read_checkpoint": "model.checkpoint",
    "update_teacher": "model.cosmos",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "losses":
        return import_module("cosmos_core.losses")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"cosmos_core.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
