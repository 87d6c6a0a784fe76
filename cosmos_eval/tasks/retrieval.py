"""Image-text retrieval on images with captions in any of the forms of docs/data.md."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from cosmos_eval.data.folders import exist_in, several, truncation_notes
from cosmos_eval.data.retrieval import RetrievalData, open_data, sample_list_hash, survey
from cosmos_eval.stats.estimates import Mean, Median
from cosmos_eval.stats.retrieval import retrieval_ranks
from cosmos_eval.tasks.task import Derived, Metric, Task
from cosmos_eval.types import (
    Measurement,
    OnProgress,
    RetrievalProtocol,
    RunOptions,
    Samples,
    no_progress,
)

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

IMAGE_RANK = "image_to_text_rank"  # (N,) rank of every image's best caption, from 1
TEXT_RANK = "text_to_image_rank"  # (M,) rank of every caption's image, from 1
IMAGE_OF_TEXT = "image_of_text"  # (M,) index of every caption's image
_IMAGE = "image"  # (N,) derived: index of every image

# The ranks of the queries of a direction, and the image that each query belongs to. Captions of
# one image are not independent, so that images are resampled with all their captions.
_QUERIES = {"image_to_text": (IMAGE_RANK, _IMAGE), "text_to_image": (TEXT_RANK, IMAGE_OF_TEXT)}


def measure(
    encoder: Encoder,
    protocol: RetrievalProtocol,
    options: RunOptions,
    progress: OnProgress = no_progress,
    data: RetrievalData | None = None,
) -> Measurement:
    """Measure recall and ranks in both directions; `options.limit` keeps the first images."""
    from cosmos_eval.embedding.embed import embed_images, embed_texts

    data = data or open_data(protocol, options)
    started = perf_counter()
    images = embed_images(encoder, data.images, options, progress)
    imaged = perf_counter()
    texts = embed_texts(encoder, data.captions, options, progress, phase="captions")
    captioned = perf_counter()
    ranks = retrieval_ranks(images.features, texts.features, data.image_of_text)
    samples = {
        IMAGE_RANK: ranks.image_to_text,
        TEXT_RANK: ranks.text_to_image,
        IMAGE_OF_TEXT: data.image_of_text,
    }
    return TASK.measurement(
        samples,
        options,
        hashes={"sample_list": sample_list_hash(data)},
        seconds={
            "images": imaged - started,
            "captions": captioned - imaged,
            "metrics": perf_counter() - captioned,
        },
        notes=truncation_notes(texts.truncated, len(data.captions)),
    )


def _derive(samples: Samples) -> Derived:
    return {**samples, _IMAGE: np.arange(len(samples[IMAGE_RANK]))}


def _recall(direction: str, k: int, samples: Derived) -> Mean:
    ranks, image = _QUERIES[direction]
    return Mean(samples[ranks] <= k, samples[image])


def _rank(direction: str, kind: type[Mean | Median], samples: Derived) -> Mean | Median:
    ranks, image = _QUERIES[direction]
    return kind(samples[ranks], samples[image])


def _metrics(direction: str) -> Iterator[Metric]:
    for k in (1, 5, 10):
        name = f"{direction}_R@{k}"
        label = name.replace("_", " ")
        yield Metric(name, partial(_recall, direction, k), label=label, primary=k == 1)
    for name, kind in (("mean_rank", Mean), ("median_rank", Median)):
        estimate = partial(_rank, direction, kind)
        yield Metric(f"{direction}_{name}", estimate, "rank", higher_is_better=False)


def _is_there(protocol: RetrievalProtocol, root: Path) -> bool:
    if protocol.archives:
        return any(any(root.glob(pattern)) for pattern in several(protocol.archives))
    return exist_in(root, protocol.annotations, protocol.images)


TASK = Task(
    protocol=RetrievalProtocol,
    metrics=(*_metrics("image_to_text"), *_metrics("text_to_image")),
    per_sample=IMAGE_RANK,
    truth=(IMAGE_OF_TEXT,),
    open_data=open_data,
    checked="captions and their number, and that every image is there; none is decoded",
    measure=measure,
    derive=_derive,
    survey=survey,
    is_there=_is_there,
    n_samples=lambda protocol: protocol.n_images,
)
