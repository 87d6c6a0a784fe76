"""Image-text retrieval on images with captions in any of the forms of docs/data.md."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cosmos_eval import types
from cosmos_eval.data.folders import exist_in, several
from cosmos_eval.data.retrieval import RetrievalData, list_data, open_data, sample_list_hash
from cosmos_eval.stats.estimates import Mean, Median
from cosmos_eval.stats.retrieval import retrieval_ranks
from cosmos_eval.tasks.task import Derived, Metric, Task

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import Features
    from cosmos_eval.models.encoder import Encoder

IMAGE_RANK = "image_to_text_rank"  # (N,) rank of every image's best caption, from 1
TEXT_RANK = "text_to_image_rank"  # (M,) rank of every caption's image, from 1
IMAGE_OF_TEXT = "image_of_text"  # (M,) index of every caption's image
_IMAGE = "image"  # (N,) derived: index of every image


def measure(
    encoder: Encoder,
    protocol: types.RetrievalProtocol,
    options: types.RunOptions,
    progress: types.OnProgress = types.no_progress,
    data: RetrievalData | None = None,
) -> types.Measurement:
    """Measure recall and ranks in both directions; `options.limit` keeps the first images."""
    found = data or open_data(protocol, options)

    def score(images: Features, texts: Features) -> types.Samples:
        ranks = retrieval_ranks(images, texts, found.image_of_text)
        queries = {IMAGE_RANK: ranks.image_to_text, TEXT_RANK: ranks.text_to_image}
        return {**queries, IMAGE_OF_TEXT: found.image_of_text}

    hashes = {"sample_list": sample_list_hash(found)}
    return TASK.measure_captions(encoder, found, options, progress, score, hashes=hashes)


def _metrics(direction: str, ranks: str, image: str) -> Iterator[Metric]:
    """Metrics of ranks; an image is resampled with all its captions, which are not independent."""

    def recall(k: int, samples: Derived) -> Mean:
        return Mean(samples[ranks] <= k, samples[image])

    for k in (1, 5, 10):
        name = f"{direction}_R@{k}"
        yield Metric(name, partial(recall, k), label=name.replace("_", " "), primary=k == 1)
    rank = partial(Metric, unit="rank", higher_is_better=False)
    yield rank(f"{direction}_mean_rank", lambda s: Mean(s[ranks], s[image]))
    yield rank(f"{direction}_median_rank", lambda s: Median(s[ranks], s[image]))


def _is_there(protocol: types.RetrievalProtocol, root: Path) -> bool:
    if protocol.archives:
        return any(any(root.glob(pattern)) for pattern in several(protocol.archives))
    return exist_in(root, protocol.annotations, protocol.images)


TASK = Task(
    protocol=types.RetrievalProtocol,
    metrics=(
        *_metrics("image_to_text", IMAGE_RANK, _IMAGE),
        *_metrics("text_to_image", TEXT_RANK, IMAGE_OF_TEXT),
    ),
    per_sample=IMAGE_RANK,
    truth=(IMAGE_OF_TEXT,),
    open_data=open_data,
    checked="captions and their number, and that every image is there; none is decoded",
    measure=measure,
    derive=lambda samples: {**samples, _IMAGE: np.arange(len(samples[IMAGE_RANK]))},
    survey=lambda protocol, options, _: list_data(protocol, options).surveyed(protocol, options),
    is_there=_is_there,
    n_samples=lambda protocol: protocol.n_images,
)
