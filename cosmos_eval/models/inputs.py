"""A model's inputs: what a tokenizer needs, and what decides them, as plain JSON.

Equal descriptions mean equal pixels and equal token ids, in every process; anything that changes
one of them changes its description. No name of a file and no address in memory is part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from open_clip.tokenizer import (
    HFTokenizer,
    SigLipTokenizer,
    SimpleTokenizer,
    basic_clean,
    canonicalize_text,
)
from open_clip.transform import PreprocessCfg

Tokenizer: TypeAlias = SimpleTokenizer | HFTokenizer | SigLipTokenizer
"""The tokenizers that open_clip.get_tokenizer (3.3) returns."""


def positions_needed(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """How many positions of the context each text takes with its special tokens, uncut.

    What a tokenizer returns does not always tell: an end of text may look like padding (SigLIP) or
    be replaced by it (CLIPA), and a class token may stand behind the padding.
    """
    if isinstance(tokenizer, SimpleTokenizer):
        return [len(tokenizer.encode(text)) + 2 for text in texts]  # start and end of text
    if isinstance(tokenizer, SigLipTokenizer):
        cleaned = [canonicalize_text(basic_clean(text)) for text in texts]
        return _lengths(tokenizer, cleaned)
    cleaned = [tokenizer.clean_fn(text) for text in texts]
    if tokenizer.tokenizer_mode == "clips":  # start, end and the class token at the end
        return [length + 3 for length in _lengths(tokenizer, cleaned, add_special_tokens=False)]
    return _lengths(tokenizer, cleaned)


def _lengths(tokenizer: Tokenizer, texts: list[str], **options: bool) -> list[int]:
    encoded = tokenizer.tokenizer(texts, padding=False, truncation=False, verbose=False, **options)
    return [len(ids) for ids in encoded.input_ids]


def describe_preprocessing(config: PreprocessCfg) -> dict[str, Any]:
    """OpenCLIP's configuration of a transform, in the types that JSON has."""
    return json.loads(json.dumps(asdict(config)))


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Class, context length, vocabulary and everything else that decides the ids of a text."""
    if isinstance(tokenizer, SimpleTokenizer):
        own = _simple(tokenizer)
    else:
        own = {
            "mode": getattr(tokenizer, "tokenizer_mode", ""),
            "strip_sep_token": getattr(tokenizer, "strip_sep_token", False),
            **_hugging_face(tokenizer.tokenizer),
        }
    return {
        "class": type(tokenizer).__name__,
        "context_length": tokenizer.context_length,
        "clean": _name(getattr(tokenizer, "clean_fn", None)),
        **own,
    }


def _simple(tokenizer: SimpleTokenizer) -> dict[str, Any]:
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    return {
        "vocabulary_sha256": _sha256(tokenizer.encoder),
        "merges_sha256": _sha256(merges),
        "special_ids": tokenizer.all_special_ids,
        "pattern": tokenizer.pat.pattern,
        "reduction": _name(tokenizer.reduction_fn),
    }


def _hugging_face(tokenizer: Any) -> dict[str, Any]:
    """Of a tokenizer of transformers."""
    return {
        "backend": type(tokenizer).__name__,
        "vocabulary_sha256": _sha256(tokenizer.get_vocab()),
        "rules_sha256": _sha256(_rules(tokenizer)),
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "special_ids": {
            name: getattr(tokenizer, f"{name}_token_id")
            for name in ("bos", "eos", "unk", "sep", "pad", "cls")
        },
    }


def _rules(tokenizer: Any) -> dict[str, Any]:
    """How a text becomes tokens: a fast tokenizer's whole definition, else its files."""
    if tokenizer.is_fast:
        definition = json.loads(tokenizer.backend_tokenizer.to_str())
        # These two are set anew by every call.
        return {key: definition[key] for key in definition.keys() - {"truncation", "padding"}}
    with TemporaryDirectory() as folder:
        files = [Path(file) for file in tokenizer.save_vocabulary(folder, "own")]
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _name(function: Callable[..., Any] | None) -> str | None:
    """Of a module's function, with the options that are bound to it."""
    if isinstance(function, partial):
        return f"{_name(function.func)}({json.dumps(function.keywords, sort_keys=True)})"
    return None if function is None else function.__name__


def _sha256(value: Any) -> str:
    content = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()
