"""Features of a user's own images or texts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_core.utils.distributed import own_device
from cosmos_eval import models, types
from cosmos_eval.data.class_folders import SUFFIXES
from cosmos_eval.data.sources import ImageFile, ImageSource, array_of
from cosmos_eval.embedding.cache import embeddings_folder
from cosmos_eval.models.encoder import Encoder, require_encoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.runner.bars import bars

Input: TypeAlias = "str | os.PathLike[str] | Image.Image"

_DEFAULTS = (None, "teacher", "auto", "fp32")  # arch, weights, device, precision


def embed(
    model: str | Encoder,
    images_or_texts: Input | Iterable[Input],
    *,
    arch: str | None = None,
    weights: types.Weights = "teacher",
    device: str = "auto",
    precision: types.Precision = "fp32",
    batch_size: int = types.RunOptions.batch_size,
    workers: int = types.RunOptions.workers,
    cache: bool = True,
    progress: bool = False,
) -> NDArray[np.float32]:
    """Return L2-normalised features of images or of texts, float32 (N, D), in their order.

    Images are `pathlib.Path`s, PIL images, and strings that name a file or end with an image's
    suffix, such as `photo.jpg`; all other strings are texts. A single image or text gives (1, D).
    Products of features of images and of texts are cosine similarities.

    `model` and the options are those of `evaluate`: a name, or an encoder, whose embeddings are not
    cached. Warns of texts that are cut to the model's context. Raises UsageError for unknown
    models, for images that are missing or cannot be decoded, for images and texts in one call, and
    for no input.
    """
    single = isinstance(images_or_texts, str | os.PathLike | Image.Image)
    inputs: list[Any] = [images_or_texts] if single else list(images_or_texts)  # type: ignore[arg-type]
    if not inputs:
        raise types.UsageError("no images or texts to embed: the list is empty")
    sources = [_source(one, f"input {i}") for i, one in enumerate(inputs)]
    images = [one for one in sources if not isinstance(one, str)]
    texts = [one for one in sources if isinstance(one, str)]
    if images and texts:
        raise types.UsageError(
            f"{len(images)} images and {len(texts)} texts, the first {texts[0][:60]!r}: "
            "embed them in two calls, and give images as pathlib.Path"
        )
    from cosmos_eval.embedding.embed import embed_images, embed_texts

    options = types.RunOptions(
        batch_size=batch_size,
        workers=workers,
        cache=str(embeddings_folder()) if cache and isinstance(model, str) else None,
    )
    if not isinstance(model, str) and (arch, weights, device, precision) != _DEFAULTS:
        raise types.UsageError("arch, weights, device and precision go with a named model")
    with _loaded(model, arch, weights, device, precision) as encoder, bars(shown=progress) as watch:
        report = partial(watch, encoder.info.spec)
        if images:
            return embed_images(encoder, images, options, report).features
        found = embed_texts(encoder, texts, options, report)
    if found.cut.any():
        cut = f"{found.cut.sum()} of {len(texts)} texts"
        warnings.warn(f"{cut} did not fit the model's context and were cut", stacklevel=2)
    return found.features


def _source(one: Any, name: str) -> ImageSource | str:
    """Return an image as a source, a text as it is."""
    if isinstance(one, Image.Image):
        return array_of(one, name)
    if isinstance(one, os.PathLike):
        return ImageFile(Path(one))
    if isinstance(one, str) and (one.lower().endswith(SUFFIXES) or os.path.isfile(one)):
        return ImageFile(Path(one))
    if not isinstance(one, str) or not one.strip():
        found = "blank text" if isinstance(one, str) else type(one).__name__
        raise types.UsageError(f"{name} must be a path, a PIL image or a text, not {found}")
    return one


@contextmanager
def _loaded(
    model: str | Encoder,
    arch: str | None,
    weights: types.Weights,
    device: str,
    precision: types.Precision,
) -> Iterator[Encoder]:
    """Load a named model; check one that is an object, and keep it in evaluation mode."""
    if isinstance(model, str):
        spec = parse_model_spec(model, arch=arch, weights=weights)
        yield models.load_encoder(spec, device=own_device(device), precision=precision)
        return
    from cosmos_eval.models.live import evaluation_mode  # which imports torch

    with evaluation_mode(model):
        require_encoder(model, type(model).__name__)
        yield model
