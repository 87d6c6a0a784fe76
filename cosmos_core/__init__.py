"""COSMOS: cross-modality self-distillation for vision-language pre-training (arXiv 2412.01814)."""

from cosmos_core import losses
from cosmos_core.bundled import BundledModel, bundled_models
from cosmos_core.engine.optim import param_groups
from cosmos_core.model.build import create_model
from cosmos_core.model.checkpoint import Checkpoint, CheckpointError, load_model, read_checkpoint
from cosmos_core.model.cosmos import Cosmos, clamp_logit_scales
from cosmos_core.model.teacher import create_teacher, update_teacher
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
