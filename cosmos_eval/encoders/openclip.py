"""`openclip:ARCH/TAG` and `openclip:ARCH/PATH`: any OpenCLIP model as OpenCLIP itself runs it."""

from __future__ import annotations

import hashlib
import logging
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg
from torch import nn

from cosmos_eval.encoders.clip import ClipEncoder, ClipParts, file_sha256
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, UsageError, nearest

RANDOM = "random"
_RANDOM_SEED = 0  # random weights are the same in every run


def load(spec: ModelSpec, device: str, precision: Precision) -> ClipEncoder:
    """Raises UsageError for an unknown architecture or tag and for weights that do not load."""
    arch, source = str(spec.arch), spec.name
    _require_known(arch, source)
    try:
        with _quiet():
            parts = _build(arch, source)
    except Exception as error:
        # OpenCLIP downloads, unpickles and fills models it was not asked for by us: whatever goes
        # wrong there is a matter of the named weights.
        reason = textwrap.shorten(str(error) or type(error).__name__, 300)
        raise UsageError(f"'{spec.text}' cannot be loaded: {reason}") from error
    info = EncoderInfo(
        spec=spec.text,
        architecture=arch,
        weights=None,
        weights_sha256=_weights_sha256(parts.model, arch, source),
        random=source == RANDOM,
        precision=precision,
        device=device,
    )
    return ClipEncoder(parts, info)


def _require_known(arch: str, source: str) -> None:
    architectures = open_clip.list_models()
    if arch not in architectures:
        raise UsageError(
            f"unknown OpenCLIP architecture '{arch}'; nearest: {nearest(arch, architectures)}"
        )
    if source == RANDOM or open_clip.is_pretrained_cfg(arch, source) or Path(source).is_file():
        return
    tags = [*open_clip.list_pretrained_tags_by_model(arch), RANDOM]
    raise UsageError(
        f"'{source}' is neither a file nor pretrained weights of {arch}; "
        f"nearest: {nearest(source, tags)}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep OpenCLIP from the root logger: it repeats there what it raises, and sets it up."""
    before, handler = logging.root.manager.disable, logging.NullHandler()
    logging.disable(logging.ERROR)
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
        logging.disable(before)


def _build(arch: str, source: str) -> ClipParts:
    create = _random if source == RANDOM else _pretrained
    model: Any = create(arch, source)
    preprocessing = PreprocessCfg(**model.visual.preprocess_cfg)
    return ClipParts(model, preprocessing, open_clip.get_tokenizer(arch))


def _random(arch: str, source: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        # Text towers from the Hugging Face hub would otherwise fetch weights of their own.
        return open_clip.create_model(arch, pretrained_text=False)


def _pretrained(arch: str, source: str) -> nn.Module:
    """Checkpoints are opened with weights_only and loaded strictly: OpenCLIP's defaults."""
    # A tag says which activation its weights were trained with; OpenCLIP would only warn.
    tag = open_clip.get_pretrained_cfg(arch, source)
    return open_clip.create_model_from_pretrained(
        arch,
        pretrained=source,
        force_quick_gelu=bool(tag.get("quick_gelu", False)),
        return_transform=False,
    )


def _weights_sha256(model: nn.Module, arch: str, source: str) -> str | None:
    """Of the file's bytes, or of downloaded tensors' bytes in the order of their sorted keys."""
    if source == RANDOM:
        return None
    if not open_clip.is_pretrained_cfg(arch, source):
        return file_sha256(Path(source))
    digest = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
