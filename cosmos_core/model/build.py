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
    "cosmos": Cosmos,
    "flair": Flair,
    "clip": MultiViewCLIP,  # comes last, since the other kinds are subclasses of it
}
# The keys of a configuration that `open_clip.CLIP` takes, and the key of the evaluation transform.
MODEL_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
OTHER_KEYS = {"preprocess"}
# Keys of towers that OpenCLIP builds from files that it downloads from the Hugging Face Hub.
OTHER_TOWERS = ("hf_model_name", "timm_model_name")
# Errors that OpenCLIP and PyTorch raise for unknown keys, values of another type, widths that do
# not divide, and sizes that are negative or too large.
_BUILD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
)
MAX_LAYERS = 1000
MAX_SIZE = 10_000_000


def model_config(architecture: Architecture) -> dict[str, Any]:
    """Return the OpenCLIP configuration of an architecture, after checking it.

    Args:
        architecture: A name of OpenCLIP such as "ViT-B-16", the path of a JSON file, or a
            configuration.

    Returns:
        A dictionary with the keys "embed_dim", "vision_cfg" and "text_cfg". It may also have
        "quick_gelu" and "preprocess", which is the evaluation transform.

    Raises:
        ValueError: If the architecture does not exist, or if no model can be built on it.
    """
    # Find the configuration. `source` names it in error messages.
    if isinstance(architecture, Mapping):
        source = "architecture"
        config = dict(architecture)
    elif Path(architecture).suffix == ".json":
        source = str(Path(architecture))
        config = _read_json(Path(architecture))
    else:
        source = str(architecture)
        config = open_clip.get_model_config(source)
        if config is None:
            matches = difflib.get_close_matches(source, open_clip.list_models(), n=3, cutoff=0.3)
            raise ValueError(f"unknown architecture {source!r}; nearest: {', '.join(matches)}")

    # Check its keys and values.
    unknown_keys = sorted(set(config) - MODEL_KEYS - OTHER_KEYS)
    if unknown_keys:
        raise ValueError(f"{source}: COSMOS cannot be built on {', '.join(unknown_keys)}")
    missing_keys = sorted({"embed_dim", "vision_cfg", "text_cfg"} - set(config))
    if missing_keys:
        raise ValueError(f"{source}: an architecture needs {', '.join(missing_keys)}")
    _require_size(config["embed_dim"], f"{source}: embed_dim")
    for tower in ("vision_cfg", "text_cfg"):
        _require_tower(config[tower], f"{source}: {tower}")
    _require_preprocess(config.get("preprocess", {}), f"{source}: preprocess")
    return config


def _require_tower(tower_config: Any, name: str) -> None:
    """Check that the configuration of a tower describes one of OpenCLIP's own towers.

    Args:
        tower_config: The value of "vision_cfg" or "text_cfg" in a configuration.
        name: The name of the value in error messages, such as "ViT-B-16: vision_cfg".

    Raises:
        ValueError: If it is not a mapping, if OpenCLIP would download the tower from elsewhere, or
            if a size is impossible.
    """
    if not isinstance(tower_config, Mapping):
        raise ValueError(f"{name} must be an object, not {tower_config!r:.60}")
    keys_of_other_towers = [key for key in OTHER_TOWERS if tower_config.get(key) is not None]
    if keys_of_other_towers:
        raise ValueError(f"{name}: COSMOS cannot be built on {', '.join(keys_of_other_towers)}")
    for key, value in tower_config.items():
        _require_size(value, f"{name}.{key}")
    layers = tower_config.get("layers")
    if isinstance(layers, int) and not 0 < layers <= MAX_LAYERS:
        raise ValueError(f"{name}: layers must be from 1 to {MAX_LAYERS}, not {layers}")


def _require_size(value: Any, name: str) -> None:
    """Check that a value is not an integer that is negative or larger than MAX_SIZE.

    Args:
        value: The value of an option. Values of other types than int pass.
        name: The name of the option in error messages, such as "ViT-B-16: embed_dim".

    Raises:
        ValueError: If it is such an integer.
    """
    if isinstance(value, int) and not 0 <= value <= MAX_SIZE:
        raise ValueError(f"{name} must be from 0 to {MAX_SIZE}, not {value}"[:200])


def _require_preprocess(preprocess: Any, name: str) -> None:
    """Check the mean and the standard deviation of the evaluation transform.

    Args:
        preprocess: The value of "preprocess" in a configuration. Its keys "mean" and "std" may be
            missing or empty.
        name: The name of the value in error messages, such as "ViT-B-16: preprocess".

    Raises:
        ValueError: If "mean" or "std" are not three finite numbers, or if "std" is not positive.
    """
    if not isinstance(preprocess, Mapping):
        raise ValueError(f"{name} must be an object, not {preprocess!r:.60}")
    for key in ("mean", "std"):
        values = preprocess.get(key)
        if not values:
            continue
        # Each check is only possible if the one before it has passed.
        is_valid = isinstance(values, list | tuple) and len(values) == 3
        if is_valid:
            # A boolean is an instance of int, but not a number here.
            is_valid = all(type(value) in (int, float) and math.isfinite(value) for value in values)
        if is_valid and key == "std":
            is_valid = min(values) > 0
        if not is_valid:
            raise ValueError(f"{name}.{key} must be three numbers, not {values!r:.60}")


def create_model(architecture: Architecture, kind: ModelKind = "cosmos") -> MultiViewCLIP:
    """Create a model with random weights.

    Args:
        architecture: A name of OpenCLIP such as "ViT-B-16", the path of a JSON file, or a
            configuration.
        kind: "clip" is OpenCLIP's CLIP. "cosmos" and "flair" add the modules of these methods.

    Raises:
        ValueError: If the architecture is unknown, or if no model can be built on it.
    """
    config = model_config(architecture)
    model_options = {key: value for key, value in config.items() if key in MODEL_KEYS}
    try:
        model = MODELS[kind](**model_options)
    except _BUILD_ERRORS as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"a model of this architecture cannot be built: {reason}") from error
    # Remember these keys, because a training method may add others.
    model.architecture_keys = frozenset(model.state_dict())
    return model


def _read_json(path: Path) -> dict[str, Any]:
    """Read the configuration of an architecture from a JSON file.

    Raises:
        ValueError: If it is not a readable file that holds one JSON object.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")
        config = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot read the architecture ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON architecture ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: an architecture is a JSON object")
    return config
