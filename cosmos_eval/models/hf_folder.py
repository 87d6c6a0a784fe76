"""Folders of models as transformers (5) saves them: checks of their files, and how they are loaded.

Code of a repository is never run, and pickles are never opened. transformers would make up weights
that are missing in the files, and a missing tokenizer: both are refused here. A configuration may
describe a model of any size. Therefore, it is compared with the headers of the weights before
anything is built."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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

# Files that may ask to run code, and the key of the class that transformers may have itself.
_CLASS_KEYS = {
    "config.json": "model_type",
    "preprocessor_config.json": "image_processor_type",
    "processor_config.json": "processor_class",
    "tokenizer_config.json": "tokenizer_class",
}
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
_INDEX = "model.safetensors.index.json"  # of weights in several files
_ADAPTER = "adapter_config.json"  # as peft saves LoRA
_LARGEST_CONFIG = 16 << 20  # bytes of a file of _CLASS_KEYS
# A model may be so many times as large as its files, because some tensors are tied or split.
_LARGEST_RATIO = 4
_MORE_TENSORS = 25  # tensors that a small model may have beside the tensors in its files


class LoadedModel(NamedTuple):
    """A model with its weights."""

    model: Any
    # Notes on files and tensors that the model does not use.
    notes: Sequence[str]


def require(condition: object, fault: str) -> None:
    """Raise UsageError with this fault unless the condition holds."""
    if not condition:
        raise UsageError(fault)


def snapshot(name: str) -> tuple[Path, str | None]:
    """Return the folder of a model, and its commit.

    A repository of the hub is fetched. The commit is None for a folder of this machine.
    """
    if Path(name).is_dir():
        return Path(name), None
    repository, _, revision = name.partition("@")
    limit_waiting()
    folder = snapshot_download(
        repository,
        revision=revision or None,
        allow_patterns=[*DESCRIBED, "README.md", "model*.safetensors"],
        ignore_patterns="*/*",
    )
    return Path(folder), Path(folder).name  # snapshots/COMMIT in the client's cache


def read_config(folder: Path, name: str) -> Any:
    """Return the configuration of a model with two towers.

    Raises UsageError if a file is missing or asks to run code, and for a model without two towers.
    `name` is the name of the folder or repository that the user typed.
    """
    require((folder / "config.json").is_file(), _missing_config(folder, name))
    for file_name, key in _CLASS_KEYS.items():
        _require_no_code(folder / file_name, key)
    _require_any(folder, "image processor", IMAGE_FILES[1:])
    _require_any(folder, "tokenizer", _VOCABULARIES)
    remedy = "name a revision with them (ORG/NAME@refs/pr/N), or convert them"
    if (folder / _ADAPTER).is_file():
        remedy = f"{_merge_advice(folder)}, or {remedy}"
    require(saved_weights(folder), f"no model.safetensors (pickles are never opened): {remedy}")
    config = transformers.AutoConfig.from_pretrained(folder, **OFFLINE)
    model_class: Any = transformers.MODEL_MAPPING.get(type(config), None)
    has_image_tower = hasattr(model_class, "get_image_features")
    has_text_tower = hasattr(model_class, "get_text_features")
    require(
        has_image_tower and has_text_tower,
        f"{type(config).__name__} has not an image and a text tower; take e.g. CLIP",
    )
    return config


def _require_any(folder: Path, kind: str, patterns: Sequence[str]) -> None:
    """Raise UsageError unless a folder has a file with any of these names."""
    exists = any(any(folder.glob(pattern)) for pattern in patterns)
    require(exists, f"no {kind} ({patterns[0]}); save it with save_pretrained beside the weights")


def load_model(folder: Path, config: Any, **options: Any) -> LoadedModel:
    """Load a model with float32 weights, and notes on tensors that it does not use.

    `options` are passed to `from_pretrained`. Raises UsageError if the weights do not fit the
    configuration.
    """
    _require_all_parts(folder)
    _require_size(config, tensor_shapes(saved_weights(folder)))
    model, report = transformers.AutoModel.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # these are reported, and refused below
        **OFFLINE,
        **options,
    )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UsageError(f"peft is installed and would apply an adapter: {_merge_advice(folder)}")
    mismatched = [key for key, *_ in report["mismatched_keys"]]
    missing = sorted([*report["missing_keys"], *mismatched])
    unexpected = sorted(report["unexpected_keys"])
    if missing:
        prefix = _common_prefix(missing, unexpected)
        raise _unfit(model, config, f"its weights lack or misshape {first_of(missing)}", prefix)
    # Weights may hold heads of a training that the model lacks, but not layers, whose names have
    # numbers.
    layers = [key for key in unexpected if any(name.isdigit() for name in key.split("."))]
    if layers:
        raise _unfit(model, config, f"its weights have, unlike config.json, {first_of(layers)}")
    audit.require_finite(model.state_dict(), str(folder))
    return LoadedModel(model, [*_notes(folder, unexpected)])


def _missing_config(folder: Path, name: str) -> str:
    """Return the error message for a folder without config.json, with advice."""
    if (folder / _ADAPTER).is_file():
        return f"no config.json: it holds only an adapter; {_merge_advice(folder)}"
    if (folder / DESCRIPTION).is_file():
        openclip = name if Path(name).is_dir() else f"{HUB}{name.partition('@')[0]}"
        return f"no config.json: use openclip:{openclip}"
    return "no config.json: name what save_pretrained wrote"


def _merge_advice(folder: Path) -> str:
    """Return the advice on how to merge a LoRA adapter into its weights."""
    adapter = read_json(folder / _ADAPTER)
    base = adapter.get("base_model_name_or_path") if isinstance(adapter, dict) else None
    weights = f"the weights of {base}" if base else "the weights"
    return (
        f"merge the LoRA adapter into {weights} (peft's model.merge_and_unload()) and "
        "save the result with save_pretrained"
    )


def _require_no_code(file: Path, key: str) -> None:
    """Raise UsageError if a file asks to run code.

    Such a file is allowed if transformers has the class that the file names under `key`: then the
    code is not run.
    """
    if not file.is_file():
        return
    size = file.stat().st_size
    require(size <= _LARGEST_CONFIG, f"{file.name} has {size} bytes, at most {_LARGEST_CONFIG}")
    needs_code = b'"auto_map"' in file.read_bytes() and not _has_class(read_json(file), key)
    require(not needs_code, f"{file.name} asks to run code (auto_map): refused; use python:FILE.py")


def _has_class(content: Any, key: str) -> bool:
    """Return whether transformers has the class that a file names beside the code to run."""
    name = str(content.get(key))
    is_in_transformers = name in transformers.CONFIG_MAPPING or hasattr(transformers, name)
    return "auto_map" in content and is_in_transformers


def _require_all_parts(folder: Path) -> None:
    """Raise FileNotFoundError if a file of the weights, or the index of the files, is missing."""
    if (folder / "model.safetensors").is_file():
        return
    file_names = {_INDEX}
    index = read_json(folder / _INDEX) if (folder / _INDEX).is_file() else None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if isinstance(weight_map, dict):
        file_names.update(str(name) for name in weight_map.values())
    missing = sorted(name for name in file_names if not (folder / name).is_file())
    if missing:
        raise FileNotFoundError(f"its weights lack {first_of(missing)}")


def _require_size(config: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise UsageError if a configuration describes a far larger model than its weights hold.

    Such a model would take minutes and all memory to build. Here, it is built without memory, and
    given up as soon as it has too many tensors. `shapes` holds the shapes of the weights.
    """
    most_tensors = _LARGEST_RATIO * (len(shapes) + _MORE_TENSORS)
    n_stored = count_values(shapes)
    with _at_most_parameters(most_tensors), torch.device("meta"):
        model = transformers.AutoModel.from_config(copy.deepcopy(config), trust_remote_code=False)
    n_described = sum(parameter.numel() for parameter in model.parameters())
    require(
        n_described <= _LARGEST_RATIO * n_stored,
        f"config.json describes a model of {n_described:,} parameters, its weights hold "
        f"{n_stored:,}: they belong to different models",
    )


@contextmanager
def _at_most_parameters(most: int) -> Iterator[None]:
    """Raise UsageError within the context as soon as modules have more than `most` parameters."""
    n_parameters = 0

    def count_parameter(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal n_parameters
        n_parameters += 1
        require(
            n_parameters <= most,
            f"config.json describes a model with more than {most:,} tensors, far more than its "
            "weights: they belong to different models",
        )

    hook = register_module_parameter_registration_hook(count_parameter)
    try:
        yield
    finally:
        hook.remove()


def _common_prefix(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """Return the prefix that names in the files have before the names of the model.

    For example, "clip." if the file has clip.logit_scale instead of logit_scale. Return "" if there
    is no such prefix.
    """
    for key in missing:
        for name in unexpected:
            if name.endswith(f".{key}"):
                return name.removesuffix(key)
    return ""


def _unfit(model: nn.Module, config: Any, fault: str, prefix: str = "") -> UsageError:
    """Return the error for weights that do not fit a model, with advice.

    `prefix` is the prefix of all names in the files, if another module was saved around the model.
    """
    loaded_class = type(model).__name__
    architectures = getattr(config, "architectures", None)
    saved_class = architectures[0] if architectures else loaded_class
    if saved_class != loaded_class:
        return UsageError(
            f"it is a {saved_class}, which is not a two-tower model, and {fault}: take a "
            f"checkpoint of {loaded_class}, such as its inner model if it has one, saved with "
            f"save_pretrained, or write a python:FILE.py around {saved_class}"
        )
    if prefix:
        return UsageError(
            f"{fault}: all names begin with {prefix}, of a module around the model: save the inner "
            "model with save_pretrained"
        )
    return UsageError(f"{fault}; fetch weights and config.json again")


def _notes(folder: Path, unexpected: Sequence[str]) -> Iterator[str]:
    """Yield notes on tensors and adapters that the model does not use."""
    if unexpected:
        yield f"tensors of the weights that the model does not use: {first_of(unexpected)}"
    if (folder / _ADAPTER).is_file():
        yield f"the adapter of {_ADAPTER} is not applied: {_merge_advice(folder)} to measure it"
