"""Bundled models: their identity is known without building them. Imports no torch.

A run whose embeddings are cached never builds the model, which would take most of its time.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

from safetensors import safe_open

from cosmos_core.utils.files import file_sha256
from cosmos_eval.models.encoder import CrossAttentionEncoder, DenseEncoder, Encoder
from cosmos_eval.models.specs import BUNDLED, local_file
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, UsageError, nearest


def load(spec: ModelSpec, device: str, precision: Precision) -> Encoder:
    """Return an encoder that builds its model when it is first used."""
    path = local_file(spec)
    if path is None:
        known = nearest(spec.name, BUNDLED)
        raise UsageError(f"'{spec.name}' is not part of this installation; bundled: {known}")
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    config = json.loads(metadata["architecture"])
    info = EncoderInfo(
        spec=spec.text,
        architecture=json.dumps(config, sort_keys=True),
        weights=spec.weights,
        weights_sha256=file_sha256(path),
        random=False,
        precision=precision,
        device=device,
    )
    kind = _DeferredCosmos if metadata["model"] == "cosmos" else _DeferredClip
    encoder = kind()
    encoder.spec, encoder.info = spec, info
    # All else that decides the inputs is code, which embeddings are cached by as well.
    encoder.preprocessing = {
        "image_size": config["vision_cfg"]["image_size"],
        **config.get("preprocess", {}),
    }
    encoder.tokenizer = {
        "merges_sha256": file_sha256(path.with_name("scenes_merges.txt.gz")),
        "context_length": config["text_cfg"]["context_length"],
    }
    return encoder


class _Deferred:
    """An attribute of the encoder that is built when the attribute is first read."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, encoder: Any, owner: type) -> Any:
        return self if encoder is None else getattr(encoder.built, self.name)


class _DeferredClip:
    spec: ModelSpec
    info: EncoderInfo
    preprocessing: dict[str, Any]
    tokenizer: dict[str, Any]

    transform: Any = _Deferred()
    tokenize: Any = _Deferred()
    overlong: Any = _Deferred()
    encode_image: Any = _Deferred()
    encode_text: Any = _Deferred()
    trims_text: Any = _Deferred()
    patch_size: Any = _Deferred()
    image_mean: Any = _Deferred()
    image_std: Any = _Deferred()
    encode_patches: Any = _Deferred()

    @cached_property
    def built(self) -> DenseEncoder | CrossAttentionEncoder:
        from cosmos_eval.models import cosmos

        return cosmos.load(self.spec, self.info.device, self.info.precision)


class _DeferredCosmos(_DeferredClip):
    words: Any = _Deferred()
    image_queries: Any = _Deferred()
    text_queries: Any = _Deferred()
    patch_attention: Any = _Deferred()
    token_attention: Any = _Deferred()
