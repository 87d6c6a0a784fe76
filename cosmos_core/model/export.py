"""Folders that stock OpenCLIP loads and the Hugging Face Hub takes as they are.

OUTPUT/open_clip_config.json and OUTPUT/open_clip_model.safetensors are the CLIP subset, as
`open_clip.push_to_hf_hub` (3.3) lays it out; cosmos.safetensors holds all weights in our layout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from open_clip.constants import (
    HF_CONFIG_NAME,
    HF_SAFE_WEIGHTS_NAME,
    OPENAI_DATASET_MEAN,
    OPENAI_DATASET_STD,
)

from cosmos_core.model.build import Architecture, model_config, openclip_config
from cosmos_core.model.checkpoint import (
    Weights,
    build_model,
    read_checkpoint,
    save_checkpoint,
)
from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.model.modelcard import CARD_NAME, model_card
from cosmos_core.utils.files import appearing, require_writable, write_atomically

ALL_WEIGHTS_NAME = "cosmos.safetensors"


def export(
    checkpoint: Path,
    output: Path,
    *,
    weights: Weights = "teacher",
    architecture: Architecture | None = None,
) -> list[Path]:
    """Write a checkpoint of either layout as a folder; returns its files.

    `weights` are those that OpenCLIP loads. `architecture` may be left out where the file states
    its own. The folder appears whole or not at all. Raises ValueError where it holds something
    already, and for a checkpoint or an architecture that cannot be used.
    """
    output = output.resolve()
    _refuse_contents(output)
    require_writable(output.parent)
    read = read_checkpoint(checkpoint)
    names = dict.fromkeys([weights, *read.weights])
    models = {name: build_model(read, name, architecture, str(checkpoint)) for name in names}
    architecture = architecture or read.architecture
    assert architecture is not None  # else no model could be built
    config = {
        "model_cfg": openclip_config(architecture),
        "preprocess_cfg": preprocess_config(architecture),
    }
    with appearing(output) as folder:
        _write_openclip(folder, models[weights], config)
        save_checkpoint(
            folder / ALL_WEIGHTS_NAME,
            models,
            read.method,
            model_config(architecture),
            read.training,
        )
        card = model_card(output.name, read, config["model_cfg"], weights)
        write_atomically(folder / CARD_NAME, card.encode())
    return sorted(output.iterdir())


def preprocess_config(architecture: Architecture) -> dict[str, Any]:
    """How images are prepared, in OpenCLIP's words; their size is the model's."""
    stated = model_config(architecture).get("preprocess", {})
    return {
        "mean": list(stated.get("mean") or OPENAI_DATASET_MEAN),
        "std": list(stated.get("std") or OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }


def _write_openclip(folder: Path, model: MultiViewCLIP, config: Mapping[str, Any]) -> None:
    """The tensors of the model that OpenCLIP builds from the configuration, and no others."""
    with torch.device("meta"):
        keys = open_clip.CLIP(**config["model_cfg"]).state_dict().keys()
    state = model.state_dict()
    tensors = {key: state[key].contiguous() for key in keys}
    content = safetensors.torch.save(tensors, {"format": "pt"})
    write_atomically(folder / HF_SAFE_WEIGHTS_NAME, content)
    write_atomically(folder / HF_CONFIG_NAME, (json.dumps(config, indent=2) + "\n").encode())


def _refuse_contents(output: Path) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"{output} is there already; choose another folder")
