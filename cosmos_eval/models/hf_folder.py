"""Folders of models as transformers (5) saves them: what they must hold, and how they are loaded.

Code of a repository is never run, and pickles are never opened. transformers makes up weights that
the files lack, and a tokenizer if there is none: both are refused here. A configuration may
describe a model of any size, so it is compared with the headers of the weights before anything is
built."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import transformers
from huggingface_hub import snapshot_download
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from cosmos_core.utils.hub import limit_waiting
from cosmos_core.utils.text import first_of
from cosmos_eval.data.readers import read_json
from cosmos_eval.models import audit
from cosmos_eval.models.specs import DESCRIPTION, HUB, saved_weights
from cosmos_eval.models.weight_files import count_values, tensor_shapes
from cosmos_eval.types import UsageError

IMAGE_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
DESCRIBED = ("*.json", "*.txt", "*.model")  # files of processors, tokenizers, configurations
OFFLINE = {"local_files_only": True, "trust_remote_code": False}

# Files that may ask to run code, and their keys of what transformers may have itself.
_STATED = {
    "config.json": "model_type",
    "preprocessor_config.json": "image_processor_type",
    "processor_config.json": "processor_class",
    "tokenizer_config.json": "tokenizer_class",
}
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
_INDEX = "model.safetensors.index.json"  # of weights in several files
_ADAPTER = "adapter_config.json"  # as peft saves LoRA
_LARGEST_CONFIG = 16 << 20  # bytes of a file of _STATED
# How much larger a model may be than its files, before it is built: some tensors are tied or split.
_MOST_TIMES = 4


class LoadedModel(NamedTuple):
    """A model with its weights, and notes on what else its files hold."""

    model: Any
    notes: Sequence[str]


def require(holds: object, fault: str) -> None:
    """Raise UsageError for a fault, unless the condition holds."""
    if not holds:
        raise UsageError(fault)


def snapshot(name: str) -> tuple[Path, str | None]:
    """Return the folder of a model, and the commit of a repository, which is fetched."""
    if Path(name).is_dir():
        return Path(name), None
    repository, _, revision = name.partition("@")
    patterns = [*DESCRIBED, "README.md", "model*.safetensors"]
    options: Any = {"allow_patterns": patterns, "ignore_patterns": "*/*"}
    limit_waiting()
    folder = snapshot_download(repository, revision=revision or None, **options)
    return Path(folder), Path(folder).name  # snapshots/COMMIT in the client's cache


def read_config(folder: Path, name: str) -> Any:
    """Read the configuration of a model with two towers, and check for its other files."""
    require((folder / "config.json").is_file(), _without_config(folder, name))
    for file, key in _STATED.items():
        _require_no_code(folder / file, key)
    for kind, names in {"image processor": IMAGE_FILES[1:], "tokenizer": _VOCABULARIES}.items():
        exists = any(any(folder.glob(name)) for name in names)
        require(exists, f"no {kind} ({names[0]}); save it with save_pretrained beside the weights")
    adapter = f"{_merged(folder)}, or " if (folder / _ADAPTER).is_file() else ""
    remedy = f"{adapter}name a revision with them (ORG/NAME@refs/pr/N), or convert them"
    require(saved_weights(folder), f"no model.safetensors (pickles are never opened): {remedy}")
    config = transformers.AutoConfig.from_pretrained(folder, **OFFLINE)
    model_class: Any = transformers.MODEL_MAPPING.get(type(config), None)
    towers = all(hasattr(model_class, f"get_{tower}_features") for tower in ("image", "text"))
    require(towers, f"{type(config).__name__} has not an image and a text tower; take e.g. CLIP")
    return config


def load_model(folder: Path, config: Any, **more: Any) -> LoadedModel:
    """Load the weights as float32. Raises UsageError if they do not fit the configuration."""
    _require_all_parts(folder)
    _require_size(config, tensor_shapes(saved_weights(folder)))
    options: Any = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    options |= {"config": config, "ignore_mismatched_sizes": True, **OFFLINE, **more}  # named below
    model, report = transformers.AutoModel.from_pretrained(folder, **options)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UsageError(f"peft is installed and would apply an adapter: {_merged(folder)}")
    missing = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    unexpected = sorted(report["unexpected_keys"])
    # Heads of a training may be left over, layers may not.
    layers = [key for key in unexpected if any(map(str.isdigit, key.split(".")))]
    if missing:
        prefix = _prefix(missing, unexpected)
        _refuse(model, config, f"its weights lack or misshape {first_of(missing)}", prefix)
    if layers:
        _refuse(model, config, f"its weights have, unlike config.json, {first_of(layers)}")
    audit.require_finite(model.state_dict(), str(folder))
    return LoadedModel(model, [*_notes(folder, unexpected)])


def _without_config(folder: Path, name: str) -> str:
    if (folder / _ADAPTER).is_file():
        return f"no config.json: it holds an adapter alone; {_merged(folder)}"
    if (folder / DESCRIPTION).is_file():
        openclip = name if Path(name).is_dir() else f"{HUB}{name.partition('@')[0]}"
        return f"no config.json: use openclip:{openclip}"
    return "no config.json: name what save_pretrained wrote"


def _merged(folder: Path) -> str:
    """Say what to do about an adapter of LoRA."""
    stated = read_json(folder / _ADAPTER)
    base = stated.get("base_model_name_or_path") if isinstance(stated, dict) else None
    of_base = f" of {base}" if base else ""
    return (
        f"merge the LoRA adapter into the weights{of_base} (peft's model.merge_and_unload()) and "
        "save the result with save_pretrained"
    )


def _require_no_code(file: Path, key: str) -> None:
    if not file.is_file():
        return
    size = file.stat().st_size
    require(size <= _LARGEST_CONFIG, f"{file.name} has {size} bytes, at most {_LARGEST_CONFIG}")
    needs_code = b'"auto_map"' in file.read_bytes() and not _is_known(read_json(file), key)
    require(not needs_code, f"{file.name} asks to run code (auto_map): refused; use python:FILE.py")


def _is_known(stated: Any, key: str) -> bool:
    """Whether transformers has itself what a file names beside the code of its repository."""
    name = str(stated.get(key))
    is_known = name in transformers.CONFIG_MAPPING or hasattr(transformers, name)
    return "auto_map" in stated and is_known


def _require_all_parts(folder: Path) -> None:
    """Raise FileNotFoundError if a part of the weights is missing, or the index of the parts."""
    parts = {"model.safetensors"}
    if not (folder / "model.safetensors").is_file():
        index = read_json(folder / _INDEX) if (folder / _INDEX).is_file() else None
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        parts = {_INDEX, *map(str, weight_map.values() if isinstance(weight_map, dict) else ())}
    missing = sorted(name for name in parts if not (folder / name).is_file())
    if missing:
        raise FileNotFoundError(f"its weights lack {first_of(missing)}")


def _require_size(config: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise UsageError if a configuration describes a far larger model than its weights, which
    would take minutes and all memory to build. It is built without memory, and not to its end."""
    most, stored = _MOST_TIMES * (len(shapes) + 25), count_values(shapes)
    with _at_most_parameters(most), torch.device("meta"):
        model = transformers.AutoModel.from_config(copy.deepcopy(config), trust_remote_code=False)
    described = sum(parameter.numel() for parameter in model.parameters())
    require(
        described <= _MOST_TIMES * stored,
        f"config.json describes a model of {described:,} parameters, its weights hold {stored:,}: "
        "they are not of one model",
    )


@contextmanager
def _at_most_parameters(most: int) -> Iterator[None]:
    """Raise UsageError as soon as modules that are built have more parameter tensors."""
    count = 0

    def add_parameter(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        count += 1
        fault = f"config.json describes a model with more than {most:,} tensors"
        require(count <= most, f"{fault}, far more than its weights: they are not of one model")

    hook = register_module_parameter_registration_hook(add_parameter)
    try:
        yield
    finally:
        hook.remove()


def _prefix(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """Return what names of the files begin with, if they are otherwise those of the model."""
    for key in missing:
        for name in unexpected:
            if name.endswith(f".{key}"):
                return name.removesuffix(key)
    return ""


def _refuse(model: nn.Module, config: Any, fault: str, prefix: str = "") -> NoReturn:
    """Raise UsageError for weights that do not fit, with what to do if another class saved them."""
    loaded_class = type(model).__name__
    saved_class = next(iter(getattr(config, "architectures", None) or ()), loaded_class)
    if saved_class != loaded_class:
        raise UsageError(
            f"it is a {saved_class}, which is not a two-tower model, and {fault}: take a "
            f"checkpoint of {loaded_class}, such as its inner model if it has one, saved with "
            f"save_pretrained, or write a python:FILE.py around {saved_class}"
        )
    if prefix:
        raise UsageError(
            f"{fault}: all names begin with {prefix}, of a module around the model: save the inner "
            "model with save_pretrained"
        )
    raise UsageError(f"{fault}; fetch weights and config.json again")


def _notes(folder: Path, unexpected: Sequence[str]) -> Iterator[str]:
    if unexpected:
        yield f"tensors of the weights that the model does not use: {first_of(unexpected)}"
    if (folder / _ADAPTER).is_file():
        yield f"the adapter of {_ADAPTER} is not applied: {_merged(folder)} to measure it"
