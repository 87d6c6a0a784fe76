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
from cosmos_eval.models.specs import DESCRIPTION, HUB, find_saved_weights
from cosmos_eval.models.weight_files import count_values, tensor_shapes
from cosmos_eval.types import UsageError

IMAGE_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
DESCRIBED = ("*.json", "*.txt", "*.model")  # files of processors, tokenizers, configurations
OFFLINE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

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
    """Raise UsageError with the message `fault`, such as "no weights", unless a condition holds."""
    if not condition:
        raise UsageError(fault)


def fetch_folder(name: str) -> tuple[Path, str | None]:
    """Return the folder of a model, and the commit that it was fetched at.

    Args:
        name: A folder of this machine, or a repository of the hub, which is fetched: ORG/NAME or
            ORG/NAME@REVISION.

    Returns:
        The path of the folder, and the commit. The commit of a folder of this machine is None.
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
    # The folder is snapshots/COMMIT in the cache of the hub's client.
    commit = Path(folder).name
    return Path(folder), commit


def read_config(folder: Path, name: str) -> Any:
    """Return the configuration of a model with two towers, after checks of the files in its folder.

    Args:
        folder: The folder of the model.
        name: The folder or repository as the user typed it, for error messages.

    Raises:
        UsageError: If a file is missing or asks to run code, and if the model does not have two
            towers.
    """
    # Check the files.
    require((folder / "config.json").is_file(), _missing_config_message(folder, name))
    for file_name, class_key in _CLASS_KEYS.items():
        _require_no_code(folder / file_name, class_key)
    _require_any_file(folder, "image processor", IMAGE_FILES[1:])
    _require_any_file(folder, "tokenizer", _VOCABULARIES)
    advice = "name a revision with them (ORG/NAME@refs/pr/N), or convert them"
    if (folder / _ADAPTER).is_file():
        advice = f"{_merge_advice(folder)}, or {advice}"
    require(
        find_saved_weights(folder), f"no model.safetensors (pickles are never opened): {advice}"
    )

    # Check the class of the model.
    config = transformers.AutoConfig.from_pretrained(folder, **OFFLINE)
    model_class: Any = transformers.MODEL_MAPPING.get(type(config), None)
    has_image_tower = hasattr(model_class, "get_image_features")
    has_text_tower = hasattr(model_class, "get_text_features")
    require(
        has_image_tower and has_text_tower,
        f"{type(config).__name__} has not an image and a text tower; take e.g. CLIP",
    )
    return config


def _require_any_file(folder: Path, component: str, patterns: Sequence[str]) -> None:
    """Raise UsageError unless a folder has a file whose name matches one of the patterns.

    Args:
        folder: The folder of the model.
        component: The content of such files, for the error message, for example "tokenizer".
        patterns: Names of files, or patterns such as "vocab.*".
    """
    for pattern in patterns:
        if any(folder.glob(pattern)):
            return
    raise UsageError(
        f"no {component} ({patterns[0]}); save it with save_pretrained beside the weights"
    )


def load_model(folder: Path, config: Any, **options: Any) -> LoadedModel:
    """Load a model of transformers with float32 weights from a folder.

    Args:
        folder: The folder with the files of the model.
        config: The configuration of the model, which is an object of transformers.
        **options: Further arguments of `from_pretrained`.

    Returns:
        The model, and notes on tensors that it does not use.

    Raises:
        UsageError: If the weights do not fit the configuration.
    """
    _require_all_files(folder)
    _require_similar_size(config, tensor_shapes(find_saved_weights(folder)))
    model, loading_info = transformers.AutoModel.from_pretrained(
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

    # Check that all tensors of the model are stored with the right shapes.
    mismatched_names = [name for name, *_ in loading_info["mismatched_keys"]]
    missing_names = sorted([*loading_info["missing_keys"], *mismatched_names])
    unexpected_names = sorted(loading_info["unexpected_keys"])
    if missing_names:
        fault = f"its weights lack or misshape {first_of(missing_names)}"
        prefix = _find_prefix(missing_names, unexpected_names)
        raise _unfit_weights_error(model, config, fault, prefix)

    # Weights may hold heads of a training that the model lacks, but not layers. Names of tensors in
    # layers have a number, such as "encoder.layers.3.weight".
    layer_names = []
    for name in unexpected_names:
        has_number = any(segment.isdigit() for segment in name.split("."))
        if has_number:
            layer_names.append(name)
    if layer_names:
        fault = f"its weights have, unlike config.json, {first_of(layer_names)}"
        raise _unfit_weights_error(model, config, fault)

    audit.require_finite(model.state_dict(), str(folder))
    return LoadedModel(model, _notes_on_unused_files(folder, unexpected_names))


def _missing_config_message(folder: Path, name: str) -> str:
    """Return the error message for a folder without config.json, with advice.

    Args:
        folder: The folder.
        name: The folder or repository as the user typed it.

    Example:
        "no config.json: use openclip:hf-hub:ORG/NAME", if the folder has a model of OpenCLIP.
    """
    if (folder / _ADAPTER).is_file():
        return f"no config.json: it holds only an adapter; {_merge_advice(folder)}"
    if (folder / DESCRIPTION).is_file():
        openclip_name = name if Path(name).is_dir() else f"{HUB}{name.partition('@')[0]}"
        return f"no config.json: use openclip:{openclip_name}"
    return "no config.json: name what save_pretrained wrote"


def _merge_advice(folder: Path) -> str:
    """Return the advice on how to merge the LoRA adapter in a folder into its weights."""
    adapter_config = read_json(folder / _ADAPTER)
    base_model = None
    if isinstance(adapter_config, dict):
        base_model = adapter_config.get("base_model_name_or_path")
    weights = f"the weights of {base_model}" if base_model else "the weights"
    return (
        f"merge the LoRA adapter into {weights} (peft's model.merge_and_unload()) and "
        "save the result with save_pretrained"
    )


def _require_no_code(file: Path, class_key: str) -> None:
    """Raise UsageError if a JSON file asks to run code of its repository, by its key `auto_map`.

    Such a file is allowed if transformers itself has the class that the file names: then the code
    is not run. A missing file is allowed too.

    Args:
        file: The path of the file, such as config.json.
        class_key: The key of the class in the file, such as "model_type".
    """
    if not file.is_file():
        return
    size = file.stat().st_size
    require(size <= _LARGEST_CONFIG, f"{file.name} has {size} bytes, at most {_LARGEST_CONFIG}")
    if b'"auto_map"' not in file.read_bytes():
        return

    content: Any = read_json(file)
    class_name = str(content.get(class_key))
    is_known = class_name in transformers.CONFIG_MAPPING or hasattr(transformers, class_name)
    # If the key is nested elsewhere in the file, it is not known what it does.
    require(
        "auto_map" in content and is_known,
        f"{file.name} asks to run code (auto_map): refused; use python:FILE.py",
    )


def _require_all_files(folder: Path) -> None:
    """Raise FileNotFoundError if a file of the weights, or the index of the files, is missing.

    A single file model.safetensors has no index. If there are several files, their index is
    {"weight_map": {NAME OF TENSOR: NAME OF FILE, ...}}.
    """
    if (folder / "model.safetensors").is_file():
        return

    file_names = {_INDEX}
    index = read_json(folder / _INDEX) if (folder / _INDEX).is_file() else None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if isinstance(weight_map, dict):
        file_names.update(str(name) for name in weight_map.values())
    missing_files = sorted(name for name in file_names if not (folder / name).is_file())
    if missing_files:
        raise FileNotFoundError(f"its weights lack {first_of(missing_files)}")


def _require_similar_size(config: Any, stored_shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise UsageError if a configuration describes a far larger model than its weights hold.

    A far larger model would take minutes and all memory to build. Here, it is built without memory
    for its values, and given up as soon as it has too many tensors.

    Args:
        config: The configuration of the model, which is an object of transformers.
        stored_shapes: The shapes of the stored tensors, by name.
    """
    n_allowed_tensors = _LARGEST_RATIO * (len(stored_shapes) + _MORE_TENSORS)
    with _at_most_parameters(n_allowed_tensors), torch.device("meta"):
        model = transformers.AutoModel.from_config(copy.deepcopy(config), trust_remote_code=False)
    n_described = sum(parameter.numel() for parameter in model.parameters())
    n_stored = count_values(stored_shapes)
    require(
        n_described <= _LARGEST_RATIO * n_stored,
        f"config.json describes a model of {n_described:,} parameters, its weights hold "
        f"{n_stored:,}: they belong to different models",
    )


@contextmanager
def _at_most_parameters(limit: int) -> Iterator[None]:
    """Raise UsageError within the context as soon as too many parameters have been created.

    Args:
        limit: The largest number of parameters of all modules that are built within the context. A
            parameter is a tensor here, not a single value.
    """
    counter = _ParameterCounter(limit)
    hook = register_module_parameter_registration_hook(counter.count)
    try:
        yield
    finally:
        hook.remove()


class _ParameterCounter:
    """Counts parameters as they are registered, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.n_parameters = 0

    def count(self, module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        """Count a parameter. Raises UsageError if there are more of them than the limit allows.

        PyTorch calls this hook whenever a module gets a parameter.
        """
        self.n_parameters += 1
        require(
            self.n_parameters <= self.limit,
            f"config.json describes a model with more than {self.limit:,} tensors, far more than "
            "its weights: they belong to different models",
        )


def _find_prefix(missing_names: Sequence[str], unexpected_names: Sequence[str]) -> str:
    """Return the prefix that stored tensors have before the names that the model expects.

    Return "" if the names share no such prefix.

    Args:
        missing_names: The names of tensors of the model that are not stored.
        unexpected_names: The names of stored tensors that the model does not have.

    Example:
        If "logit_scale" is missing, and "clip.logit_scale" is unexpected, the prefix is "clip.".
    """
    for missing_name in missing_names:
        for unexpected_name in unexpected_names:
            if unexpected_name.endswith(f".{missing_name}"):
                return unexpected_name.removesuffix(missing_name)
    return ""


def _unfit_weights_error(model: nn.Module, config: Any, fault: str, prefix: str = "") -> UsageError:
    """Return the error for weights that do not fit a model, with advice.

    Args:
        model: The model that transformers has built.
        config: Its configuration, which may state the class of the model that was saved.
        fault: The problem, for example "its weights lack logit_scale".
        prefix: The prefix of all names of stored tensors, such as "clip.", if another module was
            saved around the model.
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


def _notes_on_unused_files(folder: Path, unexpected_names: Sequence[str]) -> list[str]:
    """Return notes on tensors and adapters in a folder that its model does not use.

    Args:
        folder: The folder of the model.
        unexpected_names: The names of stored tensors that the model does not have.
    """
    notes = []
    if unexpected_names:
        notes.append(
            f"tensors of the weights that the model does not use: {first_of(unexpected_names)}"
        )
    if (folder / _ADAPTER).is_file():
        advice = _merge_advice(folder)
        notes.append(f"the adapter of {_ADAPTER} is not applied: {advice} to measure it")
    return notes
