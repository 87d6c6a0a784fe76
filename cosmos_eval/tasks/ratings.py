"""Ratings: how far CLIPScore agrees with people about captions of images.

Hessel et al. 2021, arXiv 2104.08718; github.com/jmhessel/clipscore, commit 1036465: clipscore.py,
flickr8k_example/compute_metrics.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cosmos_eval import types
from cosmos_eval.data import ratings as ratings_data
from cosmos_eval.data.folders import Survey, all_exist, content_hash, fingerprint
from cosmos_eval.data.ratings import MOST_CELLS, RatedData
from cosmos_eval.stats.estimates import FunctionOfSums
from cosmos_eval.stats.kendall import tau_b, tau_c
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.task import ScoredSamples, Task

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import Embeddings, Features
    from cosmos_eval.models.encoder import Encoder

# Stored arrays of N ratings.
SCORE = "clip_score"  # (N,) CLIPScore of the image and the caption
RATING = "rating"  # (N,) the judgement of people
IMAGE = "image"  # (N,) index of the image
VARIANT = "variant"  # (1,) the variant of Kendall's tau, `b` or `c`
ARRAYS = (
    SampleArray(SCORE, "number", ("ratings",), least=0, most=2.5),
    SampleArray(RATING, "number", ("ratings",)),
    SampleArray(IMAGE, "whole number", ("ratings",), least=0),
    SampleArray(VARIANT, "text", (1,)),
)
_WEIGHT = 2.5  # `w` of get_clip_score in clipscore.py


def _kendall_tau_b(samples: Derived) -> FunctionOfSums | None:
    """Return Kendall's tau-b, or None if the protocol asks for tau-c."""
    if samples[VARIANT][0] != "b":
        return None
    return tau_b(samples[SCORE], samples[RATING], samples[IMAGE])


def _kendall_tau_c(samples: Derived) -> FunctionOfSums | None:
    """Return Kendall's tau-c, or None if the protocol asks for tau-b."""
    if samples[VARIANT][0] != "c":
        return None
    return tau_c(samples[SCORE], samples[RATING], samples[IMAGE])


class Ratings(Task):
    """The rank correlation of CLIPScore with ratings of captions by people."""

    protocol = types.RatingsProtocol
    metrics = (
        Metric("kendall_tau_b", _kendall_tau_b, unit="difference", label="tau-b", primary=True),
        Metric("kendall_tau_c", _kendall_tau_c, unit="difference", label="tau-c", primary=True),
    )
    truth = (RATING, IMAGE)
    per_sample = RATING
    checked = "ratings and their number, and that every image is there"
    arrays = ARRAYS

    def open_data(self, protocol: types.RatingsProtocol, options: types.RunOptions) -> RatedData:
        """List the rated captions of a data set, and their images."""
        return ratings_data.open_data(protocol, options)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.RatingsProtocol],
        data: Sequence[RatedData],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Measure a model, and yield a measurement for each protocol, in their order.

        A measurement holds the CLIPScore of each rated caption.

        Args:
            encoder: The model.
            protocols: The protocols. Each is a data set, and how it is measured.
            data: The rated captions of each protocol, from `open_data`.
            options: The options of the run. If their `limit` is set, only the first ratings are
                measured.
            progress: Called with the progress.
        """
        for protocol, rated_data in zip(protocols, data, strict=True):
            yield self.measure_captions(
                encoder,
                rated_data,
                options,
                progress,
                partial(_score_ratings, protocol, rated_data),
                hashes={"sample_list": _hash_sample_list(rated_data)},
                unit="ratings",
            )

    def data_hashes(
        self, protocol: types.RatingsProtocol, data: RatedData, options: types.RunOptions
    ) -> Mapping[str, str]:
        """Return the hashes of the images' files, and of the rated captions."""
        from cosmos_eval.embedding.hashing import hash_images

        content = content_hash(hash_images(data.images, options))
        return {"sample_list": _hash_sample_list(data), "content": content}

    def require_consistent(self, samples: types.Samples) -> None:
        """Raise ValueError for an unknown variant of Kendall's tau, and for too many ratings."""
        if samples[VARIANT][0] not in ("b", "c"):
            raise ValueError(f"`{VARIANT}` must be b or c")
        if not np.isfinite(samples[RATING]).all():
            raise ValueError(f"`{RATING}` holds a value that is not finite")
        if len(np.unique(samples[RATING])) * len(samples[RATING]) > MOST_CELLS:
            raise ValueError(f"`{RATING}` holds too many different values")

    def survey(
        self,
        protocol: types.RatingsProtocol,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Survey:
        """Count the images that the ratings refer to, and report missing ones."""
        return ratings_data.list_data(protocol, options).complete_survey(protocol, options)

    def is_there(self, protocol: types.RatingsProtocol, root: Path) -> bool:
        """Return whether the folder `root` holds the ratings and the image folder."""
        return all_exist(root, protocol.annotations, protocol.images)

    def n_samples(self, protocol: types.RatingsProtocol) -> int | None:
        """Return the number of ratings of the complete data set, or None if it is unknown."""
        return protocol.n_items


def _hash_sample_list(data: RatedData) -> str:
    """Return a SHA-256 that identifies the images, the captions and the ratings."""
    pairs = zip(data.image_of_rating, data.caption_of_rating, data.ratings, strict=True)
    ratings = [[int(image), int(caption), float(rating)] for image, caption, rating in pairs]
    return fingerprint([data.names, data.captions, ratings])


def _score_ratings(
    protocol: types.RatingsProtocol, data: RatedData, image_features: Features, captions: Embeddings
) -> ScoredSamples:
    """Return the arrays to store: CLIPScore = 2.5 * max(cosine, 0), ratings and images.

    Args:
        protocol: The protocol that is measured.
        data: N ratings of captions.
        image_features: The features (I, D) of all images.
        captions: The embeddings (T, D) of all captions.
    """
    images = image_features[data.image_of_rating]
    texts = captions.features[data.caption_of_rating]
    cosines = np.einsum("nd,nd->n", images, texts)
    samples = {
        SCORE: _WEIGHT * np.maximum(cosines, 0),
        RATING: data.ratings,
        IMAGE: data.image_of_rating,
        VARIANT: np.array([protocol.tau]),
    }
    return ScoredSamples(samples)


TASK = Ratings()
