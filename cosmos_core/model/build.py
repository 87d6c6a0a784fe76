"""Models from a description: an OpenCLIP architecture name, a dict, or a JSON file."""

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import open_clip

from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.model.cosmos import Cosmos
from cosmos_core.model.flair import Flair
from cosmos_core.utils.text import parse_json

Architecture = str | Path | Mapping[str, Any]
ModelKind = Literal["cosmos", "flair", "clip"]
MODELS: dict[ModelKind, type[MultiViewCLIP]] = {
    **{"cosmos": Cosmos, "flair": Flair},
    "clip": MultiViewCLIP,  # of the others too: it comes last
}
# What open_clip.CLIP takes of a configuration; `preprocess` is the evaluation transform's.
MODEL_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
OTHER_KEYS = {"preprocess"}
# Keys of towers that OpenCLIP builds from what it downloads from the Hugging Face Hub.
OTHER_TOWERS = ("hf_model_name", "timm_model_name")
# What OpenCLIP and PyTorch raise for unknown keys, values of another type, widths that do not
# divide, and sizes that are negative or too large.
_BUILD_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError),
    *(RuntimeError, TypeError),
)
MOST_LAYERS = 1000
LARGEST_SIZE = 10_000_000


def model_config(architecture: Architecture) -> dict[str, Any]:
    """Return the OpenCLIP configuration of an architecture. Raises ValueError if there is none."""
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
    _require_size(config["embed_dim"], f"{source}: embed_dim")
    for tower in ("vision_cfg", "text_cfg"):
        _require_tower(config[tower], f"{source}: {tower}")
    _require_preprocess(config.get("preprocess", {}), f"{source}: preprocess")
    return config


def _require_tower(tower: Any, where: str) -> None:
    """Refuse towers that OpenCLIP would download, and impossible numbers of layers."""
    if not isinstance(tower, Mapping):
        raise ValueError(f"{where} must be an object, not {tower!r:.60}")
    if other := [key for key in OTHER_TOWERS if tower.get(key) is not None]:
        raise ValueError(f"{where}: COSMOS cannot be built on {', '.join(other)}")
    for key, value in tower.items():
        _require_size(value, f"{where}.{key}")
    layers = tower.get("layers")
    if isinstance(layers, int) and not 0 < layers <= MOST_LAYERS:
        raise ValueError(f"{where}: layers must be from 1 to {MOST_LAYERS}, not {layers}")


def _require_size(value: Any, where: str) -> None:
    if isinstance(value, int) and not 0 <= value <= LARGEST_SIZE:
        raise ValueError(f"{where} must be from 0 to {LARGEST_SIZE}, not {value}"[:200])


def _require_preprocess(stated: Any, where: str) -> None:
    if not isinstance(stated, Mapping):
        raise ValueError(f"{where} must be an object, not {stated!r:.60}")
    for key in ("mean", "std"):
        values = stated.get(key) or (1.0, 1.0, 1.0)
        numbers = isinstance(values, list | tuple) and all(
            type(value) in (int, float) and math.isfinite(value) for value in values
        )
        if not numbers or len(values) != 3 or (key == "std" and min(values) <= 0):
            raise ValueError(f"{where}.{key} must be three numbers, not {values!r:.60}")


def create_model(architecture: Architecture, kind: ModelKind = "cosmos") -> MultiViewCLIP:
    """Return a model with random weights: a `Cosmos`, or its towers. Raises ValueError if unfit."""
    config = openclip_config(architecture)
    try:
        model = MODELS[kind](**config)
    except _BUILD_ERRORS as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"a model of this architecture cannot be built: {reason}") from error
    model.own_keys = frozenset(model.state_dict())
    return model


def openclip_config(architecture: Architecture) -> dict[str, Any]:
    """Return the arguments of `open_clip.CLIP` in an architecture's configuration."""
    config = model_config(architecture)
    return {key: config[key] for key in config if key in MODEL_KEYS}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        config = parse_json(path.read_text(encoding="utf-8"))
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
