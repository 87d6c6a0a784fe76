"""Tiny checkpoints, and loading and refusing models by what a user types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cosmos_core
from cosmos_core.model.checkpoint import save_checkpoint
from cosmos_eval.models import load_encoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.types import UsageError

PARITY = Path(__file__).parents[1] / "parity"
CHECKPOINT, CONFIG = PARITY / "checkpoint.pt", PARITY / "model_config.json"
TINY: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def save_cosmos(path: Path, **changes: Any) -> dict[str, Any]:
    """Write a file in our own layout, which states its architecture: TINY with changes."""
    config = {**TINY, **changes}
    save_checkpoint(path, {"teacher": cosmos_core.create_model(config)}, "cosmos", config, {})
    return config


def load(spec: str, arch: object = None, weights: Any = "teacher", **options: Any) -> Any:
    arch = None if arch is None else str(arch)
    return load_encoder(parse_model_spec(spec, arch=arch, weights=weights), **options)


def refusal(spec: str, arch: object = None, weights: Any = "teacher") -> str:
    """The one line that says why a model is not loaded."""
    with pytest.raises(UsageError) as raised:
        load(spec, arch, weights)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)
