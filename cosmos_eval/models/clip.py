"""The encoder shared by every model of OpenCLIP's shape: model, transform, tokenizer, identity."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import open_clip
import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, basic_clean, canonicalize_text
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from cosmos_core.utils.files import file_sha256, json_sha256
from cosmos_eval.models.attention import project_in_one_piece
from cosmos_eval.models.dense import encode_patches, patch_size
from cosmos_eval.models.encoder import run
from cosmos_eval.types import Attention, EncoderInfo

Tokenizer: TypeAlias = SimpleTokenizer | HFTokenizer | SigLipTokenizer
"""The tokenizers that open_clip.get_tokenizer (3.3) returns."""


class ClipEncoder:
    """A DenseEncoder around a model with OpenCLIP's `encode_image`, `encode_text` and `visual`.
    `patch_size` is 0 where the tower has no patches; `encode_patches` then raises UsageError.
    `guide` maps images, their mean and std to features that guide attention `proxy`, if any."""

    guide: Callable[..., Tensor] | None = None
    notes: Sequence[str] = ()  # on files, for results

    def __init__(
        self, model: Any, preprocessing: PreprocessCfg, tokenizer: Tokenizer, info: EncoderInfo
    ) -> None:
        self.info = info
        self.model = model.eval().to(info.device)
        # Faster on a CPU, but rounded otherwise than OpenCLIP's forward, which `amp` is.
        if info.precision in ("bf16", "fp16"):
            project_in_one_piece(self.model)
        self.transform = image_transform_v2(preprocessing, is_train=False)
        self.preprocessing: Mapping[str, Any] = json.loads(json.dumps(asdict(preprocessing)))
        self.image_mean, self.image_std = tuple(preprocessing.mean), tuple(preprocessing.std)
        self.openclip_tokenizer = tokenizer
        self.trims_text = _text_can_be_trimmed(model, tokenizer)
        self._encode_tokens = _TrimmedText(model).encode if self.trims_text else model.encode_text
        self.patch_size = patch_size(model.visual)

    @cached_property
    def tokenizer(self) -> Mapping[str, Any]:
        return describe_tokenizer(self.openclip_tokenizer)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return self.openclip_tokenizer(list(texts))

    def overlong(self, texts: Sequence[str]) -> Tensor:
        needed = positions_needed(self.openclip_tokenizer, texts)
        return torch.tensor(needed) > self.openclip_tokenizer.context_length

    def encode_image(self, images: Tensor) -> Tensor:
        return F.normalize(run(self.info, self.model.encode_image, images), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return F.normalize(run(self.info, self._encode_tokens, tokens), dim=-1)

    def encode_patches(self, images: Tensor, attention: Attention) -> Tensor:
        guide = self.guide and partial(self.guide, mean=self.image_mean, std=self.image_std)
        encode = partial(encode_patches, self.model.visual, attention=attention, guide=guide)
        return run(self.info, encode, images)


class _TrimmedText(nn.Module):
    """`encode_text` of an OpenCLIP model with a causal mask for texts shorter than the context."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._path = "model" if isinstance(model, open_clip.CLIP) else "model.text"

    def encode(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        tower: Any = self.get_submodule(self._path)
        swapped = {  # the two tensors that have the context's length
            f"{self._path}.positional_embedding": tower.positional_embedding[:length],
            f"{self._path}.attn_mask": tower.attn_mask[:length, :length],
        }
        return torch.func.functional_call(self, swapped, (tokens,))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def _text_can_be_trimmed(model: Any, tokenizer: Tokenizer) -> bool:
    """Check for causal attention, a feature at the end of text, and zero padding after it."""
    if not isinstance(tokenizer, SimpleTokenizer) or tokenizer.reduction_fn is not None:
        return False
    text = model.text if isinstance(model, open_clip.CustomTextCLIP) else None
    if isinstance(model, open_clip.CLIP):
        mask, pool, end = model.attn_mask, model.text_pool_type, model.text_eos_id
    elif isinstance(text, TextTransformer) and text.cls_emb is None:
        mask, pool, end = text.attn_mask, text.pool_type, text.eos_id
    else:
        return False
    causal = mask is not None and torch.equal(mask, torch.full_like(mask, -torch.inf).triu(1))
    # "eos" reads at the first such token: at padding, if another token were meant.
    return causal and (pool == "argmax" or (pool == "eos" and end == tokenizer.eot_token_id))


def positions_needed(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Count the positions of the context that each text takes with its special tokens, uncut. The
    ids that a tokenizer returns do not always show it: an end of text may look like padding
    (SigLIP) or be replaced by it (CLIPA), and a class token may stand behind the padding."""
    if isinstance(tokenizer, SimpleTokenizer):
        return [len(tokenizer.encode(text)) + 2 for text in texts]  # start and end of text
    siglip = isinstance(tokenizer, SigLipTokenizer)
    clean = (lambda text: canonicalize_text(basic_clean(text))) if siglip else tokenizer.clean_fn
    # Start, end and the class token at the end.
    added = 3 if getattr(tokenizer, "tokenizer_mode", "") == "clips" else 0
    options = {"padding": False, "truncation": False, "add_special_tokens": not added}
    encoded = tokenizer.tokenizer([clean(text) for text in texts], verbose=False, **options)
    return [len(ids) + added for ids in encoded.input_ids]


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return everything that decides the ids of a text, as it is equal in every process."""
    own = _simple(tokenizer) if isinstance(tokenizer, SimpleTokenizer) else _hugging_face(tokenizer)
    return {
        "class": type(tokenizer).__name__,
        "context_length": tokenizer.context_length,
        "clean": _name(getattr(tokenizer, "clean_fn", None)),
        **own,
    }


def _simple(tokenizer: SimpleTokenizer) -> dict[str, Any]:
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    return {
        "vocabulary_sha256": json_sha256(tokenizer.encoder),
        "merges_sha256": json_sha256(merges),
        "special_ids": tokenizer.all_special_ids,
        "pattern": tokenizer.pat.pattern,
        "reduction": _name(tokenizer.reduction_fn),
    }


def _hugging_face(tokenizer: HFTokenizer | SigLipTokenizer) -> dict[str, Any]:
    inner = tokenizer.tokenizer  # of transformers
    special = ("bos", "eos", "unk", "sep", "pad", "cls")
    return {
        "mode": getattr(tokenizer, "tokenizer_mode", ""),
        "strip_sep_token": getattr(tokenizer, "strip_sep_token", False),
        "backend": type(inner).__name__,
        "vocabulary_sha256": json_sha256(inner.get_vocab()),
        "rules_sha256": json_sha256(_rules(inner)),
        "padding_side": inner.padding_side,
        "truncation_side": inner.truncation_side,
        "special_ids": {name: getattr(inner, f"{name}_token_id") for name in special},
    }


def _rules(tokenizer: Any) -> dict[str, Any]:
    """Return a fast tokenizer's whole definition, else the hashes of its files."""
    if tokenizer.is_fast:
        definition = json.loads(tokenizer.backend_tokenizer.to_str())
        # Every call sets these two.
        return {key: definition[key] for key in definition.keys() - {"truncation", "padding"}}
    with TemporaryDirectory() as folder:
        files = [Path(file) for file in tokenizer.save_vocabulary(folder, "own")]
        return {file.name: file_sha256(file) for file in files}


def _name(function: Callable[..., Any] | None) -> str | None:
    """Name a module's function, with the options that are bound to it."""
    if isinstance(function, partial):
        return f"{_name(function.func)}({json.dumps(function.keywords, sort_keys=True)})"
    return None if function is None else function.__name__
