"""Features of a user's own images or texts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_core.utils.distributed import own_device
from cosmos_eval import models, types
from cosmos_eval.data.class_folders import SUFFIXES
from cosmos_eval.data.sources import ImageFile, ImageSource, to_image_array
from cosmos_eval.models.encoder import Encoder, require_encoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.runner.bars import bars
from cosmos_eval.runner.options import make_run_options

Input: TypeAlias = "str | os.PathLike[str] | Image.Image"


def embed(
    model: str | Encoder,
    images_or_texts: Input | Iterable[Input],
    *,
    arch: str | None = None,
    weights: types.Weights = types.ModelSpec.weights,
    device: str = types.RunOptions.device,
    precision: types.Precision = types.RunOptions.precision,
    batch_size: int = types.RunOptions.batch_size,
    workers: int = types.RunOptions.workers,
    cache: bool = True,
    progress: bool = False,
) -> NDArray[np.float32]:
    """Return L2-normalised features of images or of texts.

    Products of features of images and of texts are cosine similarities. Warns of texts that are cut
    to the model's context.

    Args:
        model: A model as on the command line, such as `openclip:ViT-B-32/openai`, or an encoder,
            ready on its device. `arch`, `weights`, `device` and `precision` must not be given for
            an encoder, and its embeddings are not cached.
        images_or_texts: One or several. Images are `pathlib.Path`s, PIL images, and strings that
            name a file or end with an image's suffix, such as `photo.jpg`. All other strings are
            texts.
        arch: The OpenCLIP architecture of a checkpoint that does not state its own.
        weights: The weights that are used of a checkpoint with two sets.
        device: `cpu`, `cuda` or `cuda:N`; `auto`: a GPU if there is one.
        precision: `fp32`, `bf16`, `fp16` or `amp`.
        batch_size: How many images or texts are encoded at once.
        workers: How many threads read images.
        cache: True if embeddings are kept in the folder that `cosmos-eval cache info` shows.
        progress: True if a bar is shown, in terminals and notebooks.

    Returns:
        float32 (N, D), in the order of the N inputs. A single image or text gives (1, D).

    Raises:
        UsageError: For unknown models, for images that are missing or cannot be decoded, for images
            and texts in one call, and without any input.
    """
    if isinstance(images_or_texts, str | os.PathLike | Image.Image):
        inputs: list[Input] = [images_or_texts]
    elif isinstance(images_or_texts, Iterable):
        inputs = list(images_or_texts)
    else:
        raise types.UsageError(
            f"images or texts must be one or several, not {type(images_or_texts).__name__}"
        )
    images, texts = _split_inputs(inputs)
    is_named_model = isinstance(model, str)
    model_options = types.ModelOptions(device=device, precision=precision)
    has_default_model_options = (
        arch is None
        and weights == types.ModelSpec.weights
        and model_options == types.ModelOptions()
    )
    if not is_named_model and not has_default_model_options:
        raise types.UsageError("arch, weights, device and precision go with a named model")
    from cosmos_eval.embedding.embed import embed_images, embed_texts

    options = make_run_options(
        types.DataOptions(),
        model_options,
        batch_size=batch_size,
        workers=workers,
        use_cache=cache and is_named_model,
    )
    with (
        _loaded(model, arch, weights, options) as encoder,
        bars(shown=progress) as show_progress,
    ):

        def report(step: types.Progress) -> None:
            show_progress(encoder.info.spec, step)

        if images:
            return embed_images(encoder, images, options, report).features
        embeddings = embed_texts(encoder, texts, options, report)
    n_cut = embeddings.cut.sum()
    if n_cut:
        message = f"{n_cut} of {len(texts)} texts did not fit the model's context and were cut"
        warnings.warn(message, stacklevel=2)
    return embeddings.features


def _split_inputs(inputs: Sequence[Input]) -> tuple[list[ImageSource], list[str]]:
    """Return the images and the texts among inputs. One of both lists is empty.

    Raises UsageError without any input, and if there are both images and texts.
    """
    if not inputs:
        raise types.UsageError("no images or texts to embed: the list is empty")
    images, texts = [], []
    for index, value in enumerate(inputs):
        source = _image_or_text(value, f"input {index}")
        if isinstance(source, str):
            texts.append(source)
        else:
            images.append(source)
    if images and texts:
        raise types.UsageError(
            f"{len(images)} images and {len(texts)} texts, the first {texts[0][:60]!r}: "
            "embed them in two calls, and give images as pathlib.Path"
        )
    return images, texts


def _image_or_text(value: Input, name: str) -> ImageSource | str:
    """Return an image as a source that can be read, and a text as it is.

    A string is an image if it ends with an image's suffix, or if it is the path of a file.

    Args:
        value: The value that the user gave.
        name: Its name in messages, such as `input 3`.

    Raises:
        UsageError: For blank texts, and for values of other types.
    """
    if isinstance(value, Image.Image):
        return to_image_array(value, name)
    if isinstance(value, os.PathLike):
        return ImageFile(Path(value))
    if not isinstance(value, str):
        raise types.UsageError(
            f"{name} must be a path, a PIL image or a text, not {type(value).__name__}"
        )
    is_file_name = value.lower().endswith(SUFFIXES) or os.path.isfile(value)
    if is_file_name:
        return ImageFile(Path(value))
    if not value.strip():
        raise types.UsageError(f"{name} must be a path, a PIL image or a text, not blank text")
    return value


@contextmanager
def _loaded(
    model: str | Encoder, arch: str | None, weights: types.Weights, options: types.RunOptions
) -> Iterator[Encoder]:
    """Yield a loaded model, or a user's encoder, which is in evaluation mode meanwhile.

    Args:
        model: The specification of a model, or an encoder.
        arch: The OpenCLIP architecture of a checkpoint that does not state its own.
        weights: The weights that are loaded of a checkpoint with two sets.
        options: They have the device and the precision of a model that is loaded.
    """
    if isinstance(model, str):
        spec = parse_model_spec(model, arch=arch, weights=weights)
        device = own_device(options.device)
        yield models.load_encoder(spec, device=device, precision=options.precision)
        return
    from cosmos_eval.models.live import evaluation_mode  # which imports torch

    with evaluation_mode(model):
        require_encoder(model, type(model).__name__)
        yield model
