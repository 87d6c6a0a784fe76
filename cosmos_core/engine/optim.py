"""The optimizer's parameter groups and the learning-rate schedule (github.com/ExplainableML/cosmos,
after OpenCLIP)."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

NO_DECAY_NAMES = ("bn", "ln", "bias", "logit_scale")


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for `torch.optim.AdamW`: without and with weight decay.

    No decay where a parameter has fewer than two dimensions or its name contains `bn`, `ln`,
    `bias` or `logit_scale`; position embeddings do decay.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    exempt = [p for name, p in named if is_exempt(name, p)]
    decayed = [p for name, p in named if not is_exempt(name, p)]
    return [
        {"params": exempt, "weight_decay": 0.0},
        {"params": decayed, "weight_decay": weight_decay},
    ]


def is_exempt(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is spared weight decay."""
    return parameter.ndim < 2 or any(part in name for part in NO_DECAY_NAMES)


def learning_rate(step: int, *, peak: float, warmup_steps: int, steps: int) -> float:
    """Linear warm-up to `peak`, then a half cosine to zero; `step` counts from 0."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done)) * peak


def teacher_momentum(step: int, *, momentum: float, steps: int, ramp: bool) -> float:
    """The teacher's momentum: fixed, or raised to 1 by a half cosine over the run."""
    if not ramp:
        return momentum
    return 1 - (1 - momentum) * 0.5 * (1 + math.cos(math.pi * step / steps))
