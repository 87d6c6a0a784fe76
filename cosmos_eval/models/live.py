"""Measure a model that its owner goes on to train, and leave no trace in it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from cosmos_eval.models.user import TwoTower, referred_weights


@contextmanager
def evaluation_mode(encoder: Any) -> Iterator[None]:
    """Put a model that is being trained into evaluation mode, within the context.

    The encoder records the model's weights and device as they are now. Afterwards, also after an
    error, every submodule has its former mode, and the random generators and the recording of
    gradients have their former states.
    """
    weights = [*referred_weights([getattr(encoder, "__dict__", {})], set())]
    modules = [module for module in weights if isinstance(module, nn.Module)]

    # Keep the former states. A model may use the random generators of the GPUs that it is on.
    former_modes = []
    gpu_indices = set()
    for module in modules:
        for submodule in module.modules():
            former_modes.append((submodule, submodule.training))
        for parameter in module.parameters():
            if parameter.device.type == "cuda":
                gpu_indices.add(parameter.device.index)
    was_grad_enabled = torch.is_grad_enabled()
    python_state, numpy_state = random.getstate(), np.random.get_state()

    try:
        with torch.random.fork_rng(devices=sorted(gpu_indices)):
            for module in modules:
                module.eval()
            if isinstance(encoder, TwoTower):
                encoder.refresh_info()
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_grad_enabled(was_grad_enabled)
        for submodule, was_training in former_modes:
            submodule.training = was_training  # `train()` would change its submodules as well
