"""Whether an object is an encoder: its members, what it says of itself, what it returns."""

from __future__ import annotations

import json
import re
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from cosmos_eval.models.encoder import Encoder
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
            raise UsageError(f"{where} is no cosmos_eval.models.encoder.Encoder: it has no {lacks}")
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


def require_output(method: str, given: Any, output: Any, widths: set[int], where: str) -> None:
    """Raise UsageError where a method of an encoder returns what it must not, in any call.

    `widths` collects the dimensions of features, of which a model has one number.
    """
    faults = []
    if method in ("encode_image", "encode_text"):
        faults = _faults_of(output, method, len(given))
        widths |= set() if faults else {output.shape[1]}
        if len(widths) > 1:
            faults = [f"`{method}` returns features of other dimensions: {sorted(widths)}"]
    elif method in ("transform", "tokenize", "overlong"):
        ndim = {"transform": 3, "tokenize": 2, "overlong": 1}[method]
        rows = 3 if method == "transform" else len(given)
        if not isinstance(output, Tensor) or output.ndim != ndim or len(output) != rows:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            faults = [f"`{method}` returns {shape}"]
    if faults:
        raise UsageError(f"{where}: {'; '.join(faults)}")


def _faults_of(features: Any, method: str, inputs: int = 2) -> list[str]:
    """What is wrong with the features of some inputs."""
    if not isinstance(features, Tensor):
        return [f"`{method}` returns {type(features).__name__}, not a tensor"]
    if features.ndim != 2 or len(features) != inputs:
        shape = tuple(features.shape)
        return [f"`{method}` returns {shape} for {inputs} inputs, not ({inputs}, D)"]
    if features.dtype != torch.float32 or features.device.type != "cpu":
        return [f"`{method}` returns {features.dtype} on {features.device}, not float32 on the CPU"]
    if features.requires_grad:
        return [f"`{method}` returns features with a gradient: use torch.inference_mode()"]
    if not torch.isfinite(features).all():
        return [f"`{method}` returns features that are not finite (NaN or infinity)"]
    norms = features.norm(dim=1)
    wrong = ~torch.isclose(norms, torch.ones(()), atol=1e-3)
    if wrong.any():
        length = norms[wrong][0]
        return [f"`{method}` returns features of length {length:.3g}, not 1: normalise them"]
    return []
