"""What must hold of loaded weights before they are measured; every failure is one line. OpenCLIP
(3.3) at most warns of other positions (it interpolates them), activations or preprocessing than
those of the training, and checks no values: the numbers would look like a model's."""

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

from cosmos_core.utils.text import first_of
from cosmos_eval.data.readers import read_json
from cosmos_eval.models.clip import Tokenizer
from cosmos_eval.models.weight_files import require_weights
from cosmos_eval.types import UsageError

_TRAINING = {  # keys of a configuration that are about training alone
    *("hf_model_pretrained", "patch_dropout", "timm_drop", "timm_drop_path"),
    "timm_model_pretrained",
}
_PARTS = {"vision_cfg": CLIPVisionCfg, "text_cfg": CLIPTextCfg, "multimodal_cfg": MultimodalCfg}
# What may be stated of weights: keys of their transform, and their activation.
_STATED = ("size", "mean", "std", "interpolation", "resize_mode", "fill_color", "quick_gelu")

# Prefixes of the names that OpenCLIP loads, and who writes others.
_READ_PLACES = {"", "module.", "state_dict.", "state_dict.module."}
_ORIGINS = {
    "_orig_mod.": "torch.compile",
    "ema": "a moving average of the weights",
    "module.": "DistributedDataParallel",
}


def read_description(path: Path) -> dict[str, Any]:
    """Read open_clip_config.json: `model_cfg`, maybe `preprocess_cfg`. Raises UsageError."""
    try:
        config = read_json(path)
        _filled(config["model_cfg"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} does not describe an OpenCLIP model ({error!r})") from error
    return config


def published(arch: str) -> dict[str, Any]:
    """Return what all published weights of an architecture agree on."""
    names = open_clip.list_pretrained_tags_by_model(arch)
    first, *others = [open_clip.get_pretrained_cfg(arch, name) for name in names] or [{}]
    agreed = (key for key in _STATED if all(tag.get(key) == first.get(key) for tag in others))
    return {key: first[key] for key in agreed if first.get(key) is not None}


def config_differences(stated: Mapping[str, Any], built: Mapping[str, Any]) -> str:
    """Name what two OpenCLIP configurations disagree on, with defaults filled in."""
    return _differences(_filled(stated), _filled(built))


def stated_differences(stated: Mapping[str, Any], built: Mapping[str, Any]) -> str:
    """Name differences between what is stated of weights and what was built."""
    keys = [key for key in _STATED if stated.get(key) is not None]
    return _differences(*({key: _plain(key, one[key]) for key in keys} for one in (stated, built)))


def stored_tensors(path: Path) -> dict[str, Tensor]:
    """Map a file's tensors by name, dots between nested names; empty for NumPy's formats. They are
    read when they are used. Raises UsageError for files of another kind, for pickles of other
    objects, and for weights where OpenCLIP does not look."""
    if path.suffix in (".npz", ".npy"):
        return {}
    require_weights(path)
    if path.suffix == ".safetensors":
        tensors = safetensors.torch.load_file(path)
    else:
        mapped = zipfile.is_zipfile(path)  # files of torch < 1.6 are none and cannot be mapped
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            raise UsageError(
                f"{path} is a pickle of other objects than tensors, which may run code and is not "
                "opened: save the model's state_dict() with torch.save"
            ) from error
        tensors = dict(_flat(content))
    heads = {name.partition(".")[0] for name in tensors}
    if heads & {"student", "teacher"}:
        raise UsageError(f"{path} is a COSMOS checkpoint: name it as cosmos:{path}")
    _require_place(path, tensors)
    return tensors


def _require_place(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UsageError if the weights are where OpenCLIP does not look, or are not merged."""
    if adapters := [name for name in tensors if "lora_" in name]:
        raise UsageError(
            f"{path} holds adapters of LoRA ({first_of(adapters)}): merge them into the weights, "
            "model.merge_and_unload() of peft, and save these"
        )
    places = _places(tensors)
    if places and not places & _READ_PLACES:
        place = min(places)
        origins = (origin for name, origin in _ORIGINS.items() if name in place)
        origin = next(origins, "a training's checkpoint or a module around the model")
        raise UsageError(
            f"{path} holds its weights under '{place.rstrip('.')}', where OpenCLIP does not look: "
            f"save its content as a file of its own, with names that do not begin with {place} "
            f"(which comes from {origin})"
        )


def unused_weights(path: Path, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return notes on further weights of a file that OpenCLIP does not load."""
    unread = sorted(place.rstrip(".") for place in _places(tensors) - _READ_PLACES)
    return [f"{path} also has weights under '{place}', which are not measured" for place in unread]


def has_logit_bias(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the weights that OpenCLIP loads have the bias of SigLIP's loss."""
    return any(f"{place}logit_bias" in tensors for place in _READ_PLACES)


def _places(tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the prefixes of all sets of weights in a file, each of which has a logit scale."""
    scale = "logit_scale"
    return {name.removesuffix(scale) for name in tensors if f".{name}".endswith(f".{scale}")}


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        else:
            yield from _flat(value, f"{prefix}{key}.")


def require_fit(stored: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Raise UsageError where strict loading would interpolate positions or make up a logit bias."""
    prefixes = re.compile(r"^(state_dict\.)?(module\.)?")
    shapes = {prefixes.sub("", name): tuple(tensor.shape) for name, tensor in stored.items()}
    unfit = [
        f"{name} is {shapes[name]}, not {tuple(own[name].shape)}"
        for name in sorted(shapes.keys() & own.keys())
        if shapes[name] != own[name].shape and own[name].numel() > 1
    ]
    if "logit_scale" in shapes and "logit_bias" in own and "logit_bias" not in shapes:
        unfit.append("logit_bias is missing")
    if unfit:
        raise UsageError(f"{source} does not fit the architecture: {first_of(unfit)}")


def require_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise UsageError for weights that are NaN or infinite."""
    if bad := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise UsageError(
            f"{source} has NaN or infinite weights: {first_of(bad)}; fetch or train anew"
        )


def require_vocabulary(vocab_size: int, tokenizer: Tokenizer, source: str) -> None:
    """Raise UsageError where OpenCLIP's own tokenizer has ids that a model does not know."""
    if isinstance(tokenizer, open_clip.SimpleTokenizer) and tokenizer.vocab_size > vocab_size:
        raise UsageError(
            f"{source} knows {vocab_size} tokens, OpenCLIP's tokenizer has {tokenizer.vocab_size}: "
            "it was trained with another one, which is not here; use the COSMOS checkpoint itself "
            "(cosmos:PATH), or say hf_tokenizer_name in its description"
        )


def _filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a configuration with OpenCLIP's defaults. Raises ValueError for anything else."""
    flat: dict[str, Any] = {}
    try:
        for part, known in _PARTS.items():
            if part in config or part != "multimodal_cfg":  # CoCa's alone
                values = asdict(known(**config[part]))
                keys = sorted(values.keys() - _TRAINING)
                flat |= {f"{part}.{key}": _plain(key, values[key]) for key in keys}
    except TypeError as error:
        raise ValueError(f"not an OpenCLIP configuration: {error}") from error
    preprocessing = {**asdict(PreprocessCfg()), **config.get("preprocess", {})}
    flat |= {f"preprocess.{key}": _plain(key, preprocessing[key]) for key in ("mean", "std")}
    return {**flat, "embed_dim": config["embed_dim"], "quick_gelu": bool(config.get("quick_gelu"))}


def _differences(stated: Mapping[str, Any], built: Mapping[str, Any]) -> str:
    keys = [key for key in {**stated, **built} if stated.get(key) != built.get(key)]
    return first_of([f"{key} is {stated.get(key)}, not {built.get(key)}" for key in keys])


def _plain(key: str, value: Any) -> Any:
    """Return a value as JSON has it; one side of a square stands for both."""
    square = key in ("size", "image_size") and not isinstance(value, Sequence)
    return [value, value] if square else json.loads(json.dumps(value))
