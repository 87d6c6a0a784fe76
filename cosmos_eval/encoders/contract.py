"""Whether an object is an encoder: its members, what it says of itself, what it returns."""

from __future__ import annotations

import json
import re
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from cosmos_eval.encoder import Encoder
from cosmos_eval.types import EncoderInfo, UsageError

_MEMBERS = (
    *Encoder.__annotations__,
    *(name for name in vars(Encoder) if not name.startswith("_")),
)
_TEXTS = ("a red ball", "a photograph of two small blue boats on a lake, with a house behind them")


def require_encoder(model: Any, where: str) -> None:
    """Raise UsageError, one line, for what is no encoder or returns what encoders do not.

    A picture and two texts are encoded: features of another shape, type or length would otherwise
    show as an error far from their cause, or as a wrong number.
    """
    try:
        missing = [name for name in _MEMBERS if not hasattr(model, name)]
        if missing:
            lacks = ", ".join(missing)
            raise UsageError(f"{where} is no cosmos_eval.encoder.Encoder: it has no {lacks}")
        faults = [*_faults_of_info(model.info), *_faults_of_features(model)]
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{where} cannot encode a picture and texts: {type(error).__name__}: {error} "
            "(--debug shows where)"
        ) from error
    if faults:
        raise UsageError(f"{where} is not what an Encoder is to be: {'; '.join(faults)}")


def _faults_of_info(info: Any) -> list[str]:
    if not isinstance(info, EncoderInfo):
        return [f"`info` is {type(info).__name__}, not cosmos_eval.types.EncoderInfo"]
    found = []
    if not (isinstance(info.architecture, str) and info.architecture):
        found.append("`info.architecture` must be a text that names it")
    digest = info.weights_sha256
    if digest is not None and not re.fullmatch("[0-9a-f]{64}", str(digest)):
        found.append("`info.weights_sha256` must be the 64 hexadecimal digits of a SHA-256")
    if digest is None and not info.random:
        found.append("`info.weights_sha256` is missing, and `info.random` is false")
    return found


def _faults_of_features(model: Encoder) -> list[str]:
    for name in ("preprocessing", "tokenizer"):
        json.dumps(dict(getattr(model, name)))
    pixels = model.transform(PIL.Image.new("RGB", (64, 48), (200, 120, 40)))
    image = model.encode_image(torch.stack([pixels, pixels]))
    text = model.encode_text(model.tokenize(_TEXTS))
    found = [
        *_faults_of(image, "encode_image"),
        *_faults_of(text, "encode_text"),
    ]
    if not found and image.shape != text.shape:
        found.append(f"images have {image.shape[1]} dimensions and texts {text.shape[1]}")
    if tuple(model.overlong(_TEXTS).shape) != (len(_TEXTS),):
        found.append("`overlong` must say one thing a text, (B,)")
    return found


def _faults_of(features: Any, method: str) -> list[str]:
    """What is wrong with the features of two inputs."""
    if not isinstance(features, Tensor):
        return [f"`{method}` returns {type(features).__name__}, not a tensor"]
    if features.ndim != 2 or len(features) != 2:
        return [f"`{method}` returns {tuple(features.shape)} for two inputs, not (2, D)"]
    if features.dtype != torch.float32 or features.device.type != "cpu":
        return [f"`{method}` returns {features.dtype} on {features.device}, not float32 on the CPU"]
    if features.requires_grad:
        return [f"`{method}` returns features with a gradient: use torch.inference_mode()"]
    if not torch.isfinite(features).all():
        return [f"`{method}` returns features that are not finite (NaN or infinity)"]
    norms = features.norm(dim=1)
    if not torch.allclose(norms, torch.ones(2), atol=1e-3):
        return [f"`{method}` returns features of length {norms[0]:.3g}, not 1: normalise them"]
    return []
