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
from timm.data.naflex_dataset import NaFlexCollator
from torch import Tensor, nn

from cosmos_core.utils.files import file_sha256, json_sha256
from cosmos_eval.models.attention import project_in_one_piece
from cosmos_eval.models.dense import encode_patches, find_patch_size
from cosmos_eval.models.encoder import run_on_device
from cosmos_eval.types import Attention, EncoderInfo

Tokenizer: TypeAlias = SimpleTokenizer | HFTokenizer | SigLipTokenizer
"""The tokenizers that open_clip.get_tokenizer (3.3) returns."""


class ClipEncoder:
    """A DenseEncoder around a model with OpenCLIP's `encode_image`, `encode_text` and `visual`.

    If the image tower has no patches, `patch_size` is 0 and `encode_patches` raises UsageError.
    """

    # The function of another encoder, such as DINO, whose features decide the weights of attention
    # `proxy`. It is called as guide(images, mean=..., std=...), with the mean and the std that
    # normalised the images. None without such an encoder.
    guide: Callable[..., Tensor] | None = None
    # Notes on the files of the model, which results record.
    notes: Sequence[str] = ()

    def __init__(
        self, model: Any, preprocessing: PreprocessCfg, tokenizer: Tokenizer, info: EncoderInfo
    ) -> None:
        """Put a model of OpenCLIP into evaluation mode, and move it to its device.

        Args:
            model: The model, such as an open_clip.CLIP.
            preprocessing: OpenCLIP's settings of the transform: size, mean, std, interpolation.
            tokenizer: The tokenizer of the model.
            info: The facts that results record about the model, with its device and its precision.
        """
        self.info = info
        self.model = model.eval().to(info.device)
        # This is faster on a CPU, but rounds differently from OpenCLIP's own forward, which `amp`
        # has to equal.
        if info.precision in ("bf16", "fp16"):
            project_in_one_piece(self.model)
        self.transform = image_transform_v2(preprocessing, is_train=False)
        # The round trip through JSON turns tuples into lists.
        self.preprocessing: Mapping[str, Any] = json.loads(json.dumps(asdict(preprocessing)))
        self.image_mean = tuple(preprocessing.mean)
        self.image_std = tuple(preprocessing.std)
        self.openclip_tokenizer = tokenizer
        self.trims_text = _padding_can_be_cut(model, tokenizer)
        if self.trims_text:
            self._encode_tokens = _TrimmedTextEncoder(model).encode
        else:
            self._encode_tokens = model.encode_text
        self.patch_size = find_patch_size(model.visual)

    @cached_property
    def tokenizer(self) -> Mapping[str, Any]:
        """Return the description of the tokenizer by which embeddings are cached."""
        return describe_tokenizer(self.openclip_tokenizer)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return the token ids (B, context_length) of texts, int64."""
        return self.openclip_tokenizer(list(texts))

    def overlong(self, texts: Sequence[str]) -> Tensor:
        """Return whether each of B texts has more tokens than the context, (B,) bool."""
        n_tokens = torch.tensor(count_tokens(self.openclip_tokenizer, texts))
        return n_tokens > self.openclip_tokenizer.context_length

    def encode_image(self, images: Any) -> Tensor:
        """Return the L2-normalised features (B, D) of images (B, 3, H, W)."""
        features = run_on_device(self.info, self.model.encode_image, images)
        return F.normalize(features, dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return the L2-normalised features (B, D) of tokens (B, L)."""
        features = run_on_device(self.info, self._encode_tokens, tokens)
        return F.normalize(features, dim=-1)

    def encode_patches(self, images: Tensor, attention: Attention) -> Tensor:
        """Return the L2-normalised features of patches, (B, H // patch, W // patch, D).

        Args:
            images: Pixels (B, 3, H, W), as `transform` returns them.
            attention: The form of attention in the last block: "vanilla" as trained, or another
                form that keeps the features of patches apart.
        """
        guide = None
        if self.guide is not None:
            guide = partial(self.guide, mean=self.image_mean, std=self.image_std)
        encode = partial(encode_patches, self.model.visual, attention=attention, guide=guide)
        return run_on_device(self.info, encode, images)


class NaflexClipEncoder(ClipEncoder):
    """A model of OpenCLIP whose image tower takes images of any size, as patches (NaFlex).

    An image keeps its aspect, and has as many patches as fit. OpenCLIP 4 states their largest
    number N as `visual.image_seq_len`, and has the transform. Earlier versions have neither.
    """

    def __init__(
        self, model: Any, preprocessing: PreprocessCfg, tokenizer: Tokenizer, info: EncoderInfo
    ) -> None:
        """Use OpenCLIP's transform into patches. `ClipEncoder` explains the arguments."""
        super().__init__(model, preprocessing, tokenizer, info)
        visual = self.model.visual
        make_transform: Any = open_clip.transform.naflex_eval_transform_v2(preprocessing)
        self.transform = make_transform(
            max_seq_len=visual.image_seq_len, patch_size=visual.trunk.get_patch_size()
        )
        self.preprocessing = {**self.preprocessing, "naflex_patches": visual.image_seq_len}
        self._pad_patches = NaFlexCollator(visual.image_seq_len)

    def collate(self, images: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        """Return the patches of B images, (B, N, ...), with their places and a mask of padding."""
        # The collator of timm expects labels.
        labelled_images: list[tuple[dict[str, Tensor], int | Tensor]] = [
            (image, 0) for image in images
        ]
        batch, _ = self._pad_patches(labelled_images)
        return dict(batch)


def has_naflex_tower(model: Any) -> bool:
    """Return whether a model of OpenCLIP takes images of any size, as patches (NaFlex)."""
    visual = model.visual
    trunk = getattr(visual, "trunk", None)
    return getattr(visual, "image_seq_len", None) is not None and hasattr(trunk, "get_patch_size")


class _TrimmedTextEncoder(nn.Module):
    """Encodes tokens whose padding was cut off, with an OpenCLIP model that has a causal mask.

    OpenCLIP's own `encode_text` adds positional embeddings and a mask for all positions of the
    context, for example 77, and fails if there are fewer tokens. `encode` cuts both to the number
    of tokens.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        # The path of the text tower within this module. OpenCLIP's CLIP is its own text tower.
        self._tower_path = "model" if isinstance(model, open_clip.CLIP) else "model.text"

    def encode(self, tokens: Tensor) -> Tensor:
        """Return the features (B, D) of tokens (B, L), where L may be less than the context.

        The model encodes them as usual, but with the first L of its positional embeddings
        (context, C), and with the first L rows and columns of its mask (context, context).
        """
        length = tokens.shape[1]
        text_tower: Any = self.get_submodule(self._tower_path)
        cut_tensors = {
            f"{self._tower_path}.positional_embedding": text_tower.positional_embedding[:length],
            f"{self._tower_path}.attn_mask": text_tower.attn_mask[:length, :length],
        }

        # Call `forward` with these tensors in place of the model's own.
        return torch.func.functional_call(self, cut_tensors, (tokens,))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the features (B, D) of tokens (B, L). `encode` calls it with cut tensors."""
        return self.model.encode_text(tokens)


def _padding_can_be_cut(model: Any, tokenizer: Tokenizer) -> bool:
    """Return whether the padding of a text can be cut off without changing the text's feature.

    This holds if three conditions hold:

    - The tokenizer pads texts with 0, after the end of text.
    - Attention is causal, so that no token attends to the padding.
    - The feature of a text is read at the end of text.

    The answer is False for models and tokenizers whose code is not known here.

    Args:
        model: A model of OpenCLIP.
        tokenizer: Its tokenizer.
    """
    # OpenCLIP's own tokenizer pads with 0. A reduction function would select some of the tokens.
    if not isinstance(tokenizer, SimpleTokenizer) or tokenizer.reduction_fn is not None:
        return False

    # Find the mask of the text tower, where its feature is read, and its id of the end of text.
    text_tower = model.text if isinstance(model, open_clip.CustomTextCLIP) else None
    if isinstance(model, open_clip.CLIP):
        mask, pool_type, end_id = model.attn_mask, model.text_pool_type, model.text_eos_id
    elif isinstance(text_tower, TextTransformer) and text_tower.cls_emb is None:
        mask, pool_type, end_id = text_tower.attn_mask, text_tower.pool_type, text_tower.eos_id
    else:
        return False

    # Attention is causal if the mask is -inf above the diagonal, and 0 elsewhere.
    if mask is None:
        return False
    causal_mask = torch.full_like(mask, -torch.inf).triu(1)
    is_causal = torch.equal(mask, causal_mask)

    if pool_type == "eos":
        # The feature is read at the first token with the id `end_id`. If this were the id of the
        # padding, the feature would be read in the padding.
        reads_end_of_text = end_id == tokenizer.eot_token_id
    else:
        # "argmax" reads the token with the largest id, which is the end of text.
        reads_end_of_text = pool_type == "argmax"
    return is_causal and reads_end_of_text


def count_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text before it is cut to the context.

    Special tokens count too. The padded ids that a tokenizer returns do not always show this
    number: an end of text may look like padding (SigLIP) or be replaced by padding (CLIPA), and a
    class token may come after the padding.

    Args:
        tokenizer: A tokenizer of OpenCLIP.
        texts: The texts.

    Example:
        OpenAI's tokenizer adds a start and an end of text: `["a dog"]` gives `[4]`.
    """
    if isinstance(tokenizer, SimpleTokenizer):
        return [len(tokenizer.encode(text)) + 2 for text in texts]  # start and end of text

    # All other tokenizers are a tokenizer of transformers with a function that cleans texts first.
    if isinstance(tokenizer, SigLipTokenizer):
        cleaned_texts = [canonicalize_text(basic_clean(text)) for text in texts]
    else:
        cleaned_texts = [tokenizer.clean_fn(text) for text in texts]

    # In the mode "clips", OpenCLIP itself adds three special tokens: start, end, and a class token.
    # In all other modes, the tokenizer of transformers adds the special tokens.
    is_clips_mode = getattr(tokenizer, "tokenizer_mode", "") == "clips"
    encoded_texts = tokenizer.tokenizer(
        cleaned_texts,
        padding=False,
        truncation=False,
        add_special_tokens=not is_clips_mode,
        verbose=False,
    )
    n_added_tokens = 3 if is_clips_mode else 0
    return [len(token_ids) + n_added_tokens for token_ids in encoded_texts.input_ids]


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a description of a tokenizer: everything that decides the token ids of a text.

    The description has only values that JSON can hold. Two tokenizers with the same description
    return the same ids. The description of a tokenizer is the same in every process.

    Example:
        `{"class": "SimpleTokenizer", "context_length": 77, "clean": "_clean_lower", ...}`
    """
    description = {
        "class": type(tokenizer).__name__,
        "context_length": tokenizer.context_length,
        "clean": _describe_function(getattr(tokenizer, "clean_fn", None)),
    }
    if isinstance(tokenizer, SimpleTokenizer):
        return description | _describe_simple_tokenizer(tokenizer)
    return description | _describe_hf_tokenizer(tokenizer)


def _describe_simple_tokenizer(tokenizer: SimpleTokenizer) -> dict[str, Any]:
    """Return everything that decides the ids of OpenCLIP's own tokenizer, a byte-pair encoding.

    Its merges, such as ("d", "og"), are hashed in the order in which they are applied.
    """
    merges_by_rank = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    return {
        "vocabulary_sha256": json_sha256(tokenizer.encoder),
        "merges_sha256": json_sha256(merges_by_rank),
        "special_ids": tokenizer.all_special_ids,
        "pattern": tokenizer.pat.pattern,
        "reduction": _describe_function(tokenizer.reduction_fn),
    }


def _describe_hf_tokenizer(tokenizer: HFTokenizer | SigLipTokenizer) -> dict[str, Any]:
    """Return everything that decides the ids of OpenCLIP's wrapper of a transformers tokenizer.

    Vocabulary and rules are described by their SHA-256s.
    """
    wrapped_tokenizer = tokenizer.tokenizer

    # For example {"bos": 49406, "eos": 49407, "sep": None, ...}.
    special_ids = {}
    for token_name in ("bos", "eos", "unk", "sep", "pad", "cls"):
        special_ids[token_name] = getattr(wrapped_tokenizer, f"{token_name}_token_id")

    return {
        "mode": getattr(tokenizer, "tokenizer_mode", ""),
        "strip_sep_token": getattr(tokenizer, "strip_sep_token", False),
        "backend": type(wrapped_tokenizer).__name__,
        "vocabulary_sha256": json_sha256(wrapped_tokenizer.get_vocab()),
        "rules_sha256": json_sha256(_tokenizer_rules(wrapped_tokenizer)),
        "padding_side": wrapped_tokenizer.padding_side,
        "truncation_side": wrapped_tokenizer.truncation_side,
        "special_ids": special_ids,
    }


def _tokenizer_rules(tokenizer: Any) -> dict[str, Any]:
    """Return the rules by which a tokenizer of transformers splits a text into tokens.

    For a fast tokenizer, they are its definition, as in tokenizer.json. For a slow tokenizer, they
    are the SHA-256s of its vocabulary files, by the names of these files, such as
    `{"own-vocab.txt": "<SHA-256>"}`.
    """
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        # Each call of the tokenizer sets these two, so they are not rules of its own.
        rules.pop("truncation", None)
        rules.pop("padding", None)
        return rules

    with TemporaryDirectory() as folder:
        paths = [Path(name) for name in tokenizer.save_vocabulary(folder, "own")]
        return {path.name: file_sha256(path) for path in paths}


def _describe_function(function: Callable[..., Any] | None) -> str | None:
    """Return the name of a function, with the keyword arguments that a partial binds to it.

    Example:
        `str.strip` gives `"strip"`, `partial(clean, lower=True)` gives `'clean({"lower": true})'`,
        and None gives None.
    """
    if function is None:
        return None
    if isinstance(function, partial):
        arguments = json.dumps(function.keywords, sort_keys=True)
        return f"{_describe_function(function.func)}({arguments})"
    return function.__name__
