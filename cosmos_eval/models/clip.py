"""The encoder shared by every model of OpenCLIP's shape: model, transform, tokenizer, identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

from cosmos_eval.models.attention import project_in_one_piece
from cosmos_eval.models.dense import encode_patches
from cosmos_eval.models.inputs import (
    Tokenizer,
    describe_preprocessing,
    describe_tokenizer,
    positions_needed,
)
from cosmos_eval.types import Attention, EncoderInfo, Precision

# None is PyTorch's usual type of the device, as in CLIP Benchmark's `torch.autocast(device)`.
_AUTOCAST: dict[Precision, torch.dtype | None] = {
    "amp": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class ClipParts(NamedTuple):
    """What a loader hands over: a model with `encode_image`, `encode_text` and `visual`.

    `preprocessing` is OpenCLIP's description of the transform, which is made from it.
    """

    model: Any
    preprocessing: PreprocessCfg
    tokenizer: Tokenizer


class ClipEncoder:
    """A DenseEncoder around an OpenCLIP-like model, in evaluation mode, on its device.

    `patch_size` is 0 where the image tower is no ViT; `encode_patches` then raises UsageError.
    """

    def __init__(self, parts: ClipParts, info: EncoderInfo) -> None:
        self.info = info
        self.model = parts.model.eval().to(info.device)
        # Faster on a CPU, but rounded otherwise than OpenCLIP's forward, which `amp` is.
        if info.precision in ("bf16", "fp16"):
            project_in_one_piece(self.model)
        self.transform = image_transform_v2(parts.preprocessing, is_train=False)
        self.preprocessing: Mapping[str, Any] = describe_preprocessing(parts.preprocessing)
        self.image_mean = tuple(parts.preprocessing.mean)
        self.image_std = tuple(parts.preprocessing.std)
        self._tokenizer = parts.tokenizer
        self._trims_text = _text_can_be_trimmed(parts)
        trimmed = _TrimmedText(self.model).encode
        self._encode_tokens = trimmed if self._trims_text else self.model.encode_text
        visual = self.model.visual
        self.patch_size = visual.patch_size[0] if isinstance(visual, VisionTransformer) else 0

    @cached_property
    def tokenizer(self) -> Mapping[str, Any]:
        """Everything that decides the ids of a text, as JSON has it."""
        return describe_tokenizer(self._tokenizer)

    @property
    def trims_text(self) -> bool:
        """True where positions after the end of text cannot change the feature."""
        return self._trims_text

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (B, context_length) int64, cut to the context as OpenCLIP does."""
        return self._tokenizer(list(texts))

    def overlong(self, texts: Sequence[str]) -> Tensor:
        """(B,) bool: a text needs more positions than the context has."""
        needed = positions_needed(self._tokenizer, texts)
        return torch.tensor(needed) > self._tokenizer.context_length

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D) float32 on the CPU, L2-normalised."""
        with self._autocast():
            features = self.model.encode_image(images.to(self.info.device))
        return F.normalize(features.float(), dim=-1).cpu()

    @torch.inference_mode()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, D) float32 on the CPU, L2-normalised; L < context where trims_text."""
        tokens = tokens.to(self.info.device)
        with self._autocast():
            features = self._encode_tokens(tokens)
        return F.normalize(features.float(), dim=-1).cpu()

    @torch.inference_mode()
    def encode_patches(self, images: Tensor, attention: Attention) -> Tensor:
        """(B, 3, H, W) -> (B, H // patch, W // patch, D) float32, L2-normalised, same device."""
        with self._autocast():
            return encode_patches(self.model.visual, images, attention).float()

    def _autocast(self) -> AbstractContextManager[Any]:
        precision = self.info.precision
        device = torch.device(self.info.device).type
        return torch.autocast(
            device, dtype=_AUTOCAST.get(precision), enabled=precision in _AUTOCAST
        )


class _TrimmedText(nn.Module):
    """`encode_text` of an OpenCLIP model for texts shorter than the context.

    The two tensors of the text tower that have the context's length are swapped for their
    beginnings while it runs; the mask is causal, so nothing else changes.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._path = "model" if isinstance(model, open_clip.CLIP) else "model.text"

    def encode(self, tokens: Tensor) -> Tensor:
        """(B, L) tokens, L at most the context length -> (B, D), not normalised."""
        length = tokens.shape[1]
        tower: Any = self.get_submodule(self._path)
        swapped = {
            f"{self._path}.positional_embedding": tower.positional_embedding[:length],
            f"{self._path}.attn_mask": tower.attn_mask[:length, :length],
        }
        return torch.func.functional_call(self, swapped, (tokens,))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def _text_can_be_trimmed(parts: ClipParts) -> bool:
    """Causal attention, feature read at the end-of-text token, zero padding after it.

    Not CoCa's tower, whose feature is that of a class token behind the padding.
    """
    model, tokenizer = parts.model, parts.tokenizer
    if not isinstance(tokenizer, SimpleTokenizer) or tokenizer.reduction_fn is not None:
        return False
    if isinstance(model, open_clip.CLIP):
        mask, pool, end = model.attn_mask, model.text_pool_type, model.text_eos_id
    elif isinstance(model, open_clip.CustomTextCLIP) and _is_plain(model.text):
        mask, pool, end = model.text.attn_mask, model.text.pool_type, model.text.eos_id
    else:
        return False
    causal = mask is not None and torch.equal(mask, torch.full_like(mask, -torch.inf).triu(1))
    # "eos" reads at the first such token: at padding, if another token were meant.
    return causal and (pool == "argmax" or (pool == "eos" and end == tokenizer.eot_token_id))


def _is_plain(tower: nn.Module) -> bool:
    """OpenCLIP's own transformer, without a class token."""
    return isinstance(tower, TextTransformer) and tower.cls_emb is None
