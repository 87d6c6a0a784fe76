"""COSMOS models: released ones, bundled ones, and checkpoint files of either layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg
from torch import Tensor

import cosmos_core
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.model.build import model_config
from cosmos_core.utils.files import file_sha256
from cosmos_eval.data.readers import parse_json
from cosmos_eval.models import audit
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.encoder import run
from cosmos_eval.models.hub import fetch
from cosmos_eval.models.maps import words_of
from cosmos_eval.models.specs import RELEASED, local_file
from cosmos_eval.types import CaptionWord, EncoderInfo, ModelSpec, Precision, UsageError


def load(spec: ModelSpec, device: str, precision: Precision) -> ClipEncoder:
    """Load a checkpoint. Raises UsageError where it is missing, unfit or cannot be fetched."""
    path = local_file(spec) or (fetch(spec.name) if spec.name in RELEASED else Path(spec.name))
    try:
        config = _config(path, spec.arch)
        model = cosmos_core.load_model(path, config, weights=spec.weights)
    except ValueError as error:
        raise UsageError(f"'{spec.text}': {error}") from error
    audit.require_finite(model.state_dict(), f"{spec.weights} of {path}")
    described, digest = _describe(spec, config), file_sha256(path)
    info = EncoderInfo(spec.text, described, spec.weights, digest, False, precision, device)
    kind = CosmosEncoder if isinstance(model, cosmos_core.Cosmos) else ClipEncoder
    tokenizer = _tokenizer(model.vocab_size, model.context_length)
    return kind(model, _preprocessing(model.visual.image_size, config), tokenizer, info)


class CosmosEncoder(ClipEncoder):
    """A CrossAttentionEncoder: a model with the cross-attention module of COSMOS."""

    _tokenizer: SimpleTokenizer

    def words(self, text: str) -> list[CaptionWord]:
        return words_of(self._tokenizer, text)

    def image_queries(self, images: Tensor) -> Tensor:
        return run(self.info, self.model.encode_image, images).cpu()

    def text_queries(self, tokens: Tensor) -> Tensor:
        return run(self.info, self._encode_tokens, tokens).cpu()

    def patch_attention(self, images: Tensor, queries: Tensor) -> Tensor:
        return run(self.info, self.model.patch_attention, images, queries).cpu()

    def token_attention(self, tokens: Tensor, queries: Tensor) -> Tensor:
        return run(self.info, self.model.token_attention, tokens, queries).cpu()


def _config(path: Path, arch: str | None) -> dict[str, Any]:
    """Return the architecture that the file states, else the one that the user names."""
    stated = cosmos_core.read_checkpoint(path).architecture
    if stated is None:
        if arch is None:
            raise UsageError(f"{path} does not state its architecture: name it with --arch")
        return _named_config(arch)
    if arch is not None and (differences := audit.config_differences(stated, _named_config(arch))):
        raise UsageError(
            f"{path} states another architecture than {arch}: {differences}; leave --arch out"
        )
    return model_config(stated)


def _named_config(arch: str) -> dict[str, Any]:
    """Read the configuration of a name, a JSON file, or JSON as `_describe` writes it."""
    return model_config(parse_json(arch) if arch.startswith("{") else arch)


def _describe(spec: ModelSpec, config: Mapping[str, Any]) -> str:
    """Return OpenCLIP's name, or the whole configuration: the name of a file says nothing."""
    if spec.arch is not None and spec.arch in open_clip.list_models():
        return spec.arch
    return json.dumps(config, sort_keys=True)


def _preprocessing(size: tuple[int, int], config: Mapping[str, Any]) -> PreprocessCfg:
    stated = config.get("preprocess", {})
    preprocessing = PreprocessCfg(
        size=size,
        mean=tuple(stated.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(stated.get("std") or open_clip.OPENAI_DATASET_STD),
        resize_mode="shortest",
        interpolation="bicubic",
    )
    if differences := audit.stated_differences(stated, asdict(preprocessing)):
        raise UsageError(
            f"'preprocess' of this architecture cannot be had: {differences}; images are made as "
            "COSMOS's are, mean and std can be chosen"
        )
    return preprocessing


def _tokenizer(vocab_size: int, context_length: int) -> SimpleTokenizer:
    """Return the tokenizer of the model's vocabulary: OpenCLIP's or the scenes'."""
    made = [make(context_length=context_length) for make in (SimpleTokenizer, scenes_tokenizer)]
    known = {tokenizer.vocab_size: tokenizer for tokenizer in made}
    if vocab_size in known:
        return known[vocab_size]
    sizes = " or ".join(map(str, known))
    raise UsageError(f"no tokenizer for a vocabulary of {vocab_size} tokens, only for {sizes}")
