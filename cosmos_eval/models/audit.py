"""Checks of loaded weights before a model is measured.

If weights were trained with other positions (which it interpolates), another activation or another
preprocessing, OpenCLIP (3.3) warns at most, and it does not check the values of weights. The
results would look valid."""

import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from open_clip.coca_model import MultimodalCfg
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transform import PreprocessCfg
from torch import Tensor

from cosmos_core.utils.files import json_sha256
from cosmos_core.utils.text import first_of
from cosmos_eval.data.readers import read_json
from cosmos_eval.models.clip import Tokenizer
from cosmos_eval.models.weight_files import require_weights
from cosmos_eval.types import UsageError

# Keys of a configuration that matter for training only.
_TRAINING_KEYS = {
    "hf_model_pretrained",
    "patch_dropout",
    "timm_drop",
    "timm_drop_path",
    "timm_model_pretrained",
}
_SECTIONS = {"vision_cfg": CLIPVisionCfg, "text_cfg": CLIPTextCfg, "multimodal_cfg": MultimodalCfg}
# Keys that a description of weights may state: of their transform, and their activation.
_STATED_KEYS = ("size", "mean", "std", "interpolation", "resize_mode", "fill_color", "quick_gelu")

# Prefixes of names of tensors that OpenCLIP loads.
_READ_PREFIXES = {"", "module.", "state_dict.", "state_dict.module."}
# Texts that occur in other prefixes, and what writes them.
_WRITERS = {
    "_orig_mod.": "torch.compile",
    "ema": "a moving average of the weights",
    "module.": "DistributedDataParallel",
}


def read_description(path: Path) -> dict[str, Any]:
    """Return the content of an open_clip_config.json, the description of an OpenCLIP model.

    It has a `model_cfg`, and may have a `preprocess_cfg`. Raises UsageError for other content.
    """
    try:
        config = read_json(path)
        _flatten_config(config["model_cfg"])  # raises an error for other content
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} does not describe an OpenCLIP model ({error!r})") from error
    return config


def published_preprocessing(arch: str) -> dict[str, Any]:
    """Return the preprocessing and the activation that all published weights of `arch` agree on.

    A key is left out if the values of two weights differ, or if no weights state it.

    Example:
        {"mean": [0.5, 0.5, 0.5], "quick_gelu": True}
    """
    tags = open_clip.list_pretrained_tags_by_model(arch)
    tag_configs = [open_clip.get_pretrained_cfg(arch, tag) for tag in tags]
    agreed_values = {}
    for key in _STATED_KEYS:
        values = [config.get(key) for config in tag_configs]
        if not values or values[0] is None:
            continue
        are_all_equal = all(value == values[0] for value in values)
        if are_all_equal:
            agreed_values[key] = values[0]
    return agreed_values


def describe_config_differences(stated: Mapping[str, Any], built: Mapping[str, Any]) -> str:
    """Return how two OpenCLIP configurations of models differ, in words for an error message.

    Keys that are left out have OpenCLIP's defaults. Return "" if nothing differs.

    Args:
        stated: The configuration that a description of weights states.
        built: The configuration of the model that is built.

    Example:
        "vision_cfg.layers is 12, not 24" if 12 is stated and 24 is built.
    """
    return _describe_differences(_flatten_config(stated), _flatten_config(built))


def loaded_sha256(tensors_hash: str, config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an OpenCLIP model's tensors and configuration, as 64 digits.

    It does not depend on the files that held the model: weights of a tag, a file or a repository.
    Values of the configuration that are OpenCLIP's defaults do not count, stated or not.

    Args:
        tensors_hash: The SHA-256 of the model's tensors.
        config: Its configuration, in the form of `open_clip.get_model_config`.
    """
    default_values = _flatten_config({"vision_cfg": {}, "text_cfg": {}, "embed_dim": None})
    values = _flatten_config(config)
    other_values = {}
    for key, value in values.items():
        if key not in default_values or value != default_values[key]:
            other_values[key] = value
    return json_sha256([tensors_hash, other_values])


def describe_stated_differences(stated: Mapping[str, Any], built: Mapping[str, Any]) -> str:
    """Return how a built model differs from the description of its weights, in words.

    Keys that are not stated do not count. Return "" if nothing differs.

    Args:
        stated: The preprocessing and the activation that the description states, such as
            {"size": 224, "quick_gelu": True}.
        built: The preprocessing and the activation of the built model.

    Example:
        "size is 224, not 336" if 224 is stated and 336 is built.
    """
    stated_keys = [key for key in _STATED_KEYS if stated.get(key) is not None]
    stated_values = {key: _json_value(key, stated[key]) for key in stated_keys}
    built_values = {key: _json_value(key, built[key]) for key in stated_keys}
    return _describe_differences(stated_values, built_values)


def read_stored_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of weights by their names.

    Names of nested mappings are joined by dots. The result is empty for NumPy's formats, .npz and
    .npy.

    Raises:
        UsageError: If the file does not hold weights, if it is a pickle of other objects, if it is
            a COSMOS checkpoint, and if OpenCLIP does not read weights of these names.
    """
    if path.suffix in (".npz", ".npy"):
        return {}

    require_weights(path)
    if path.suffix == ".safetensors":
        tensors = safetensors.torch.load_file(path)
    else:
        can_be_mapped = zipfile.is_zipfile(path)  # files of torch < 1.6 are not zip files
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=can_be_mapped)
        except pickle.UnpicklingError as error:
            raise UsageError(
                f"{path} is a pickle of other objects than tensors, which may run code and is not "
                "opened: save the model's state_dict() with torch.save"
            ) from error
        tensors = dict(_flatten_tensors(content))

    # A COSMOS checkpoint has two sets of weights, such as "student.logit_scale".
    first_parts_of_names = {name.partition(".")[0] for name in tensors}
    if first_parts_of_names & {"student", "teacher"}:
        raise UsageError(f"{path} is a COSMOS checkpoint: name it as cosmos:{path}")
    _require_readable_names(path, tensors)
    return tensors


def _require_readable_names(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UsageError if OpenCLIP would not find the weights of a file by their names.

    OpenCLIP reads names such as "logit_scale" and "module.logit_scale", but not, for example,
    "ema.logit_scale". Adapters of LoRA are refused too.

    Args:
        path: The path of the file, for the error message.
        tensors: The tensors in the file, by name.
    """
    adapters = [name for name in tensors if "lora_" in name]
    if adapters:
        raise UsageError(
            f"{path} holds adapters of LoRA ({first_of(adapters)}): merge them into the weights, "
            "model.merge_and_unload() of peft, and save these"
        )

    prefixes = _find_prefixes(tensors)
    has_readable_weights = bool(prefixes & _READ_PREFIXES)
    if not prefixes or has_readable_weights:
        return

    # Say which prefix the weights have, and what may have written it.
    prefix = min(prefixes)
    origin = "a training's checkpoint or a module around the model"
    for text, writer in _WRITERS.items():
        if text in prefix:
            origin = writer
            break
    raise UsageError(
        f"{path} holds its weights under '{prefix.rstrip('.')}', where OpenCLIP does not look: "
        f"save its content as a file of its own, with names that do not begin with {prefix} "
        f"(which comes from {origin})"
    )


def notes_on_unused_weights(path: Path, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return notes on weights of a file that OpenCLIP does not load, such as a moving average.

    A file may hold several sets of weights, each with a prefix before the names of its tensors.
    There is one note per set that is not loaded.

    Args:
        path: The path of the file, for the notes.
        tensors: The tensors in the file, by name.
    """
    notes = []
    for prefix in sorted(_find_prefixes(tensors) - _READ_PREFIXES):
        set_name = prefix.rstrip(".")
        notes.append(f"{path} also has weights under '{set_name}', which are not measured")
    return notes


def has_logit_bias(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the weights that OpenCLIP loads have the bias of SigLIP's loss."""
    return any(f"{prefix}logit_bias" in tensors for prefix in _READ_PREFIXES)


def _find_prefixes(tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the prefixes of all sets of weights in a file.

    Each set of weights has a tensor called `logit_scale`, with the set's prefix before that name.

    Example:
        {"logit_scale": ..., "ema.logit_scale": ...} gives {"", "ema."}.
    """
    prefixes = set()
    for name in tensors:
        if name == "logit_scale" or name.endswith(".logit_scale"):
            prefixes.add(name.removesuffix("logit_scale"))
    return prefixes


def _flatten_tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of nested mappings.

    Names are joined by dots. Values that are neither tensors nor mappings are left out.

    Args:
        content: A mapping of tensors and further mappings, or any other value.
        prefix: The beginning of all names, such as "a.".

    Example:
        {"a": {"b": tensor}} gives ("a.b", tensor).
    """
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        else:
            yield from _flatten_tensors(value, f"{prefix}{key}.")


def require_fit(
    stored_tensors: Mapping[str, Tensor], model_state: Mapping[str, Tensor], source: str
) -> None:
    """Raise UsageError if loading would interpolate positions or make up a logit bias.

    Args:
        stored_tensors: The tensors in a file of weights, by name.
        model_state: The state dict of the model that loads the file.
        source: The name of the file in the error message.
    """
    # OpenCLIP drops these prefixes: "state_dict.module.visual.proj" is loaded as "visual.proj".
    dropped_prefixes = re.compile(r"^(state_dict\.)?(module\.)?")
    stored_shapes = {}
    for name, tensor in stored_tensors.items():
        stored_shapes[dropped_prefixes.sub("", name)] = tuple(tensor.shape)

    # Shapes of single values may differ: a scale is () or (1,).
    faults = []
    for name in sorted(stored_shapes.keys() & model_state.keys()):
        model_tensor = model_state[name]
        has_other_shape = stored_shapes[name] != model_tensor.shape
        if has_other_shape and model_tensor.numel() > 1:
            faults.append(f"{name} is {stored_shapes[name]}, not {tuple(model_tensor.shape)}")

    holds_clip = "logit_scale" in stored_shapes
    lacks_bias = "logit_bias" in model_state and "logit_bias" not in stored_shapes
    if holds_clip and lacks_bias:
        faults.append("logit_bias is missing")
    if faults:
        raise UsageError(f"{source} does not fit the architecture: {first_of(faults)}")


def require_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise UsageError if a state dict has weights that are NaN or infinite.

    Args:
        state: The state dict of a model.
        source: The name of the file or the tag of the weights in the error message.
    """
    faulty_names = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if faulty_names:
        raise UsageError(
            f"{source} has NaN or infinite weights: {first_of(faulty_names)}; fetch or train it "
            "again"
        )


def require_vocabulary(vocab_size: int, tokenizer: Tokenizer, source: str) -> None:
    """Raise UsageError if a tokenizer returns ids that a model does not know.

    Args:
        vocab_size: The number of tokens that the model knows.
        tokenizer: Its tokenizer. Only OpenCLIP's own tokenizer is checked.
        source: The name of the model in the error message.
    """
    if isinstance(tokenizer, open_clip.SimpleTokenizer) and tokenizer.vocab_size > vocab_size:
        raise UsageError(
            f"{source} knows {vocab_size} tokens, OpenCLIP's tokenizer has {tokenizer.vocab_size}: "
            "it was trained with another tokenizer, which is not here; use the COSMOS checkpoint "
            "itself (cosmos:PATH), or set hf_tokenizer_name in its description"
        )


def _flatten_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all values of an OpenCLIP configuration as a flat mapping.

    Keys that are left out get OpenCLIP's defaults. Keys that matter for training only are dropped.
    Raises ValueError for anything that is not an OpenCLIP configuration.

    Example:
        {"embed_dim": 512, "vision_cfg": {"layers": 12}, "text_cfg": {}} gives
        {"vision_cfg.layers": 12, "vision_cfg.width": 768, ..., "embed_dim": 512, ...}.
    """
    values: dict[str, Any] = {}
    try:
        for section, config_class in _SECTIONS.items():
            if section == "multimodal_cfg" and section not in config:  # only CoCa has it
                continue
            section_values = asdict(config_class(**config[section]))
            for key in sorted(section_values.keys() - _TRAINING_KEYS):
                values[f"{section}.{key}"] = _json_value(key, section_values[key])
    except TypeError as error:
        raise ValueError(f"not an OpenCLIP configuration: {error}") from error

    preprocessing = asdict(PreprocessCfg()) | dict(config.get("preprocess", {}))
    for key in ("mean", "std"):
        values[f"preprocess.{key}"] = _json_value(key, preprocessing[key])
    values["embed_dim"] = config["embed_dim"]
    values["quick_gelu"] = bool(config.get("quick_gelu"))
    return values


def _describe_differences(stated: Mapping[str, Any], built: Mapping[str, Any]) -> str:
    """Return the first values that differ between two mappings, in words for an error message.

    Return "" if no value differs.

    Example:
        {"size": 224} and {"size": 336} give "size is 224, not 336".
    """
    differences = []
    for key in dict.fromkeys([*stated, *built]):
        if stated.get(key) != built.get(key):
            differences.append(f"{key} is {stated.get(key)}, not {built.get(key)}")
    return first_of(differences)


def _json_value(key: str, value: Any) -> Any:
    """Return the value of a key in JSON's types, so that equal values compare as equal.

    A size of one number becomes two sides, and a tuple becomes a list.

    Example:
        The key "size" with the value 224 gives [224, 224]. The key "mean" with the value
        (0.5, 0.5, 0.5) gives [0.5, 0.5, 0.5].
    """
    if key in ("size", "image_size") and not isinstance(value, Sequence):
        return [value, value]
    return json.loads(json.dumps(value))
