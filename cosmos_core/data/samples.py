"""From the files of a sample to its views, and from samples to a batch."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageFile
import torch
from torch import Tensor

from cosmos_core.config import TrainConfig
from cosmos_core.data.captions import caption_sentences
from cosmos_core.data.pixels import to_rgb
from cosmos_core.data.problems import BadSampleError, Problem
from cosmos_core.types import Views
from cosmos_core.views.image import ImageViews, MultiCrop
from cosmos_core.views.text import caption_views

Tokenizer = Callable[[list[str]], Tensor]
"""Texts -> token ids (N, S)."""


class Batch(NamedTuple):
    """The uint8 views of B good samples, and the bad samples met on the way to them."""

    views: Views
    problems: tuple[Problem, ...]


class Failure(NamedTuple):
    """Why a worker cannot go on; as an exception it would come back with a traceback."""

    reason: str


class RawSample(NamedTuple):
    """The files of a sample; None where there is none."""

    image: bytes | None
    record: bytes | None


class Sample(NamedTuple):
    """A decoded sample: an RGB image and at least one caption sentence."""

    image: PIL.Image.Image
    sentences: list[str]


class SampleViews(NamedTuple):
    """The views of one sample: uint8 images and T captions."""

    images: ImageViews
    captions: list[str]


def decode_sample(raw: RawSample) -> Sample:
    """Decode both files of a sample. Raises BadSampleError and nothing else, whatever they hold."""
    sentences = caption_sentences(_decode_record(raw.record))
    return Sample(_decode_image(raw.image), sentences)


def _decode_record(data: bytes | None) -> dict[str, Any]:
    if data is None:
        raise BadSampleError("record_missing", "no json")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadSampleError("record_broken", f"invalid JSON ({error})") from error
    if not isinstance(record, dict):
        raise BadSampleError(
            "record_broken", f"JSON holds a {type(record).__name__}, not an object"
        )
    return record


def _decode_image(data: bytes | None) -> PIL.Image.Image:
    if data is None:
        raise BadSampleError("image_missing", "no jpg, jpeg, png or webp")
    # Code that was imported beside may have allowed it: half an image is another image.
    PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow tells of harmless oddities in metadata
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        try:
            return to_rgb(PIL.Image.open(io.BytesIO(data)))
        except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError) as error:
            raise BadSampleError("image_too_large", str(error)) from error
        except PIL.UnidentifiedImageError as error:  # its message holds an address in memory
            raise BadSampleError("image_broken", f"{len(data)} bytes of no known format") from error
        except Exception as error:  # what Pillow's decoders raise on broken files is not documented
            reason = str(error) or type(error).__name__
            raise BadSampleError("image_broken", f"{len(data)} bytes, {reason}") from error


class ViewMaker:
    """Makes decoded samples into views, and views into batches."""

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer) -> None:
        self._texts, self._counts = config.text, config.method.counts
        self._crops = MultiCrop(config.image, self._counts)
        self._tokenizer = tokenizer

    def views(self, sample: Sample, seed: Sequence[int]) -> SampleViews:
        """The views that a seed, a few whole numbers >= 0, decides."""
        rng = np.random.default_rng(seed)
        captions = caption_views(sample.sentences, self._texts, rng, self._counts)
        return SampleViews(self._crops(sample.image, rng), captions)

    def batch(self, samples: Sequence[SampleViews], problems: Sequence[Problem]) -> Batch:
        """Views of B samples, view-major: images (G, B, 3, H, W), (L, B, 3, h, w), texts (T, B, S).

        All captions are tokenized at once.
        """
        tokens = self._tokenizer([text for sample in samples for text in sample.captions])
        views = Views(
            torch.stack([sample.images.global_images for sample in samples], dim=1),
            torch.stack([sample.images.local_images for sample in samples], dim=1),
            tokens.unflatten(0, (len(samples), -1)).transpose(0, 1).contiguous(),
        )
        return Batch(views, tuple(problems))
