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

    If the image tower has no patches, `patch_size` is 0 and `encode_patches` raises UsageError.
    """

    # The function that guides attention `proxy`. It maps images, and the mean and std that
    # normalised them, to features.
    guide: Callable[..., Tensor] | None = None
    # Notes on files, for results.
    notes: Sequence[str] = ()

    def __init__(
        self, model: Any, preprocessing: PreprocessCfg, tokenizer: Tokenizer, info: EncoderInfo
    ) -> None:
        self.info = info
        self.model = model.eval().to(info.device)
        # This is faster on a CPU, but rounds differently from OpenCLIP's own forward, which `amp`
        # has to equal.
        if info.precision in ("bf16", "fp16"):
            project_in_one_piece(self.model)
        self.transform = image_transform_v2(preprocessing, is_train=False)
        self.preprocessing: Mapping[str, Any] = json.loads(json.dumps(asdict(preprocessing)))
        self.image_mean = tuple(preprocessing.mean)
        self.image_std = tuple(preprocessing.std)
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
        n_positions = torch.tensor(positions_needed(self.openclip_tokenizer, texts))
        return n_positions > self.openclip_tokenizer.context_length

    def encode_image(self, images: Tensor) -> Tensor:
        return F.normalize(run(self.info, self.model.encode_image, images), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return F.normalize(run(self.info, self._encode_tokens, tokens), dim=-1)

    def encode_patches(self, images: Tensor, attention: Attention) -> Tensor:
        guide = None
        if self.guide is not None:
            guide = partial(self.guide, mean=self.image_mean, std=self.image_std)
        encode = partial(encode_patches, self.model.visual, attention=attention, guide=guide)
        return run(self.info, encode, images)


class _TrimmedText(nn.Module):
    """Encodes texts that are shorter than the context by a model of OpenCLIP with a causal mask."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        # The path of the text tower's module.
        self._path = "model" if isinstance(model, open_clip.CLIP) else "model.text"

    def encode(self, tokens: Tensor) -> Tensor:
        """Return the features (B, D) of tokens (B, L); L may be less than the context."""
        length = tokens.shape[1]
        tower: Any = self.get_submodule(self._path)
        # The two tensors that have the length of the context are trimmed as well.
        trimmed_tensors = {
            f"{self._path}.positional_embedding": tower.positional_embedding[:length],
            f"{self._path}.attn_mask": tower.attn_mask[:length, :length],
        }
        return torch.func.functional_call(self, trimmed_tensors, (tokens,))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def _text_can_be_trimmed(model: Any, tokenizer: Tokenizer) -> bool:
    """Return whether the padding of a text can be cut off without changing the text's feature.

    It can if attention is causal, the feature is read at the end of text, and texts are padded by
    0. Return False for models and tokenizers whose code is not known here.
    """
    if not isinstance(tokenizer, SimpleTokenizer) or tokenizer.reduction_fn is not None:
        return False
    text = model.text if isinstance(model, open_clip.CustomTextCLIP) else None
    if isinstance(model, open_clip.CLIP):
        mask, pool_type, end_id = model.attn_mask, model.text_pool_type, model.text_eos_id
    elif isinstance(text, TextTransformer) and text.cls_emb is None:
        mask, pool_type, end_id = text.attn_mask, text.pool_type, text.eos_id
    else:
        return False
    if mask is None or not torch.equal(mask, torch.full_like(mask, -torch.inf).triu(1)):
        return False  # attention is not causal
    if pool_type == "eos":
        # The feature is read at the first token with this id, which might be the padding's.
        return end_id == tokenizer.eot_token_id
    return pool_type == "argmax"


def positions_needed(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text before it is cut, with its special tokens.

    The ids that a tokenizer returns do not always show this number. An end of text may look like
    padding (SigLIP) or be replaced by padding (CLIPA), and a class token may come after padding.
    """
    if isinstance(tokenizer, SimpleTokenizer):
        return [len(tokenizer.encode(text)) + 2 for text in texts]  # start and end of text
    if isinstance(tokenizer, SigLipTokenizer):
        cleaned_texts = [canonicalize_text(basic_clean(text)) for text in texts]
    else:
        cleaned_texts = [tokenizer.clean_fn(text) for text in texts]
    # In this mode, OpenCLIP adds three tokens itself: start, end, and a class token at the end.
    added_tokens = 3 if getattr(tokenizer, "tokenizer_mode", "") == "clips" else 0
    encoded = tokenizer.tokenizer(
        cleaned_texts,
        padding=False,
        truncation=False,
        add_special_tokens=added_tokens == 0,
        verbose=False,
    )
    return [len(ids) + added_tokens for ids in encoded.input_ids]


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return everything that decides the ids of a text. It is the same in every process."""
    description = {
        "class": type(tokenizer).__name__,
        "context_length": tokenizer.context_length,
        "clean": _function_name(getattr(tokenizer, "clean_fn", None)),
    }
    if isinstance(tokenizer, SimpleTokenizer):
        return description | _describe_simple_tokenizer(tokenizer)
    return description | _describe_hf_tokenizer(tokenizer)


def _describe_simple_tokenizer(tokenizer: SimpleTokenizer) -> dict[str, Any]:
    """Return everything that decides the ids of OpenCLIP's own tokenizer."""
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    return {
        "vocabulary_sha256": json_sha256(tokenizer.encoder),
        "merges_sha256": json_sha256(merges),
        "special_ids": tokenizer.all_special_ids,
        "pattern": tokenizer.pat.pattern,
        "reduction": _function_name(tokenizer.reduction_fn),
    }


def _describe_hf_tokenizer(tokenizer: HFTokenizer | SigLipTokenizer) -> dict[str, Any]:
    """Return everything that decides the ids of a tokenizer of transformers."""
    inner = tokenizer.tokenizer  # of transformers
    special_tokens = ("bos", "eos", "unk", "sep", "pad", "cls")
    return {
        "mode": getattr(tokenizer, "tokenizer_mode", ""),
        "strip_sep_token": getattr(tokenizer, "strip_sep_token", False),
        "backend": type(inner).__name__,
        "vocabulary_sha256": json_sha256(inner.get_vocab()),
        "rules_sha256": json_sha256(_rules(inner)),
        "padding_side": inner.padding_side,
        "truncation_side": inner.truncation_side,
        "special_ids": {name: getattr(inner, f"{name}_token_id") for name in special_tokens},
    }


def _rules(tokenizer: Any) -> dict[str, Any]:
    """Return the definition of a fast tokenizer of transformers.

    For a slow tokenizer, return the SHA-256s of its files by their names.
    """
    if tokenizer.is_fast:
        definition = json.loads(tokenizer.backend_tokenizer.to_str())
        # Each call of the tokenizer sets these two.
        return {key: definition[key] for key in definition.keys() - {"truncation", "padding"}}
    with TemporaryDirectory() as folder:
        files = [Path(file) for file in tokenizer.save_vocabulary(folder, "own")]
        return {file.name: file_sha256(file) for file in files}


def _function_name(function: Callable[..., Any] | None) -> str | None:
    """Return the name of a function, such as `strip`.

    For a partial, append the arguments that are bound to it, such as `clean({"lower": true})`.
    """
    if function is None:
        return None
    if isinstance(function, partial):
        name = _function_name(function.func)
        return f"{name}({json.dumps(function.keywords, sort_keys=True)})"
    return function.__name__
