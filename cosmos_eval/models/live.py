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
    """Put a live model into evaluation mode, and record its weights and device as they are now.

    Afterwards, also after an error, every submodule has its former mode, and the random generators
    and the recording of gradients their former state.
    """
    weights = [*referred_weights([getattr(encoder, "__dict__", {})], set())]
    modules = [module for module in weights if isinstance(module, nn.Module)]
    former_modes = []
    for module in modules:
        for submodule in module.modules():
            former_modes.append((submodule, submodule.training))
    records_gradients = torch.is_grad_enabled()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=_gpus(modules)):
            for module in modules:
                module.eval()
            if isinstance(encoder, TwoTower):
                encoder.refresh_info()
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_grad_enabled(records_gradients)
        for submodule, was_training in former_modes:
            submodule.training = was_training  # `train()` would change its submodules as well


def _gpus(modules: list[nn.Module]) -> list[int]:
    """Return the indices of the CUDA devices that hold parameters of modules.

    A model may use the random generators of these devices.
    """
    devices = {parameter.device for module in modules for parameter in module.parameters()}
    return sorted(device.index for device in devices if device.type == "cuda")
