"""Models from a description: an OpenCLIP architecture name, a dict, or a JSON file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import open_clip
from torch import nn

from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.model.cosmos import Cosmos

Architecture = str | Path | Mapping[str, Any]
ModelKind = Literal["cosmos", "clip"]
MODELS: dict[str, type[MultiViewCLIP]] = {"cosmos": Cosmos, "clip": MultiViewCLIP}
# What open_clip.CLIP takes of a configuration; `preprocess` is the evaluation transform's.
MODEL_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
OTHER_KEYS = {"preprocess"}


def model_config(architecture: Architecture) -> dict[str, Any]:
    """The OpenCLIP configuration of an architecture; ValueError where there is none."""
    if isinstance(architecture, Mapping):
        config, source = dict(architecture), "architecture"
    elif (path := Path(architecture)).suffix == ".json":
        config, source = _read_json(path), str(path)
    else:
        config, source = _named_config(str(architecture)), str(architecture)
    if unknown := sorted(set(config) - MODEL_KEYS - OTHER_KEYS):
        raise ValueError(f"{source}: COSMOS cannot be built on {', '.join(unknown)}")
    if missing := sorted({"embed_dim", "vision_cfg", "text_cfg"} - set(config)):
        raise ValueError(f"{source}: an architecture needs {', '.join(missing)}")
    return config


def create_model(architecture: Architecture, kind: ModelKind = "cosmos") -> MultiViewCLIP:
    """A model with random weights, in training mode.

    `kind` "cosmos" gives a `Cosmos`, "clip" its towers alone. Raises ValueError for an unknown or
    unfit architecture.
    """
    config = openclip_config(architecture)
    try:
        return MODELS[kind](**config)
    except (AssertionError, KeyError, TypeError, ZeroDivisionError) as error:
        # What OpenCLIP and PyTorch say of keys they do not know and widths that do not divide.
        raise ValueError(f"a model of this architecture cannot be built: {error}") from error


def openclip_config(architecture: Architecture) -> dict[str, Any]:
    """What of an architecture's configuration describes the model, as `open_clip.CLIP` takes it."""
    config = model_config(architecture)
    return {key: config[key] for key in config if key in MODEL_KEYS}


def model_kind(model: nn.Module) -> ModelKind:
    """The kind of a model that `create_model` made."""
    return "cosmos" if isinstance(model, Cosmos) else "clip"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot read the architecture ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON architecture ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: an architecture is a JSON object")
    return config


def _named_config(name: str) -> dict[str, Any]:
    config = open_clip.get_model_config(name)
    if config is None:
        close = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.3)
        raise ValueError(f"unknown architecture {name!r}; nearest: {', '.join(close)}")
    return config
