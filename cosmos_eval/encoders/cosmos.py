"""COSMOS models: released ones, bundled ones, and checkpoint files of either layout.

The only module of cosmos_eval, besides the embedded data's protocols, that knows cosmos_core.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import open_clip
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg

import cosmos_core
from cosmos_core.data.scenes import scenes_tokenizer
from cosmos_core.model.build import model_config
from cosmos_eval.encoders.clip import ClipEncoder, ClipParts, file_sha256
from cosmos_eval.encoders.specs import RELEASED
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, UsageError, nearest

RELEASED_REPOSITORY = "sankim2/cosmos"


def load(spec: ModelSpec, device: str, precision: Precision) -> ClipEncoder:
    """Raises UsageError where the file is missing, does not fit or cannot be fetched."""
    path = _weights_path(spec)
    try:
        # What a file in our layout says of itself, unless the user names an architecture.
        config = model_config(spec.arch or _stated_architecture(path))
        model = cosmos_core.load_model(path, config, weights=spec.weights)
    except ValueError as error:
        raise UsageError(f"'{spec.text}': {error}") from error
    info = EncoderInfo(
        spec=spec.text,
        architecture=_describe(spec, config),
        weights=spec.weights,
        weights_sha256=file_sha256(path),
        random=False,
        precision=precision,
        device=device,
    )
    return ClipEncoder(_parts(model, config), info)


def _weights_path(spec: ModelSpec) -> Path:
    if spec.kind == "bundled":
        return _bundled_path(spec.name)
    if spec.name in RELEASED:
        return _fetch(spec.name)
    return Path(spec.name)


def _bundled_path(name: str) -> Path:
    bundled = cosmos_core.bundled_models()
    if name not in bundled:
        known = nearest(name, sorted(bundled)) or "none"
        raise UsageError(f"'{name}' is not part of this installation; bundled: {known}")
    return Path(bundled[name].weights_path)


def _fetch(name: str) -> Path:
    """From huggingface_hub's cache or its network; its own switches and HF_ENDPOINT apply."""
    filename = f"cosmos_{name}.pt"
    try:
        return Path(huggingface_hub.hf_hub_download(RELEASED_REPOSITORY, filename))
    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"cannot fetch {filename} of {RELEASED_REPOSITORY} on the Hugging Face hub ({reason}); "
            f"download it elsewhere and use cosmos:PATH --arch {RELEASED[name]}"
        ) from error


def _stated_architecture(path: Path) -> Mapping[str, Any]:
    stated = cosmos_core.read_checkpoint(path).architecture
    if stated is None:
        raise UsageError(f"{path} does not state its architecture: name it with --arch")
    return stated


def _describe(spec: ModelSpec, config: Mapping[str, Any]) -> str:
    """OpenCLIP's name, or the whole configuration: a file's name would say nothing."""
    if spec.arch is not None and spec.arch in open_clip.list_models():
        return spec.arch
    return json.dumps(config, sort_keys=True)


def _parts(model: open_clip.CLIP, config: Mapping[str, Any]) -> ClipParts:
    stated = config.get("preprocess", {})
    preprocessing = PreprocessCfg(
        size=model.visual.image_size,
        mean=tuple(stated.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(stated.get("std") or open_clip.OPENAI_DATASET_STD),
        resize_mode="shortest",
        interpolation="bicubic",
    )
    return ClipParts(model, preprocessing, _tokenizer(model.vocab_size, model.context_length))


def _tokenizer(vocab_size: int, context_length: int) -> SimpleTokenizer:
    """The tokenizer whose vocabulary the model was built for: OpenCLIP's or the scenes'."""
    known = [make(context_length=context_length) for make in (SimpleTokenizer, scenes_tokenizer)]
    for tokenizer in known:
        if tokenizer.vocab_size == vocab_size:
            return tokenizer
    sizes = " or ".join(str(tokenizer.vocab_size) for tokenizer in known)
    raise UsageError(f"no tokenizer for a vocabulary of {vocab_size} tokens, only for {sizes}")
