"""Image-text retrieval on images with captions, in all forms of docs/data.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data import retrieval as retrieval_data
from cosmos_eval.data.folders import Survey, exist_in, fetch_repository, several
from cosmos_eval.data.retrieval import RetrievalData
from cosmos_eval.models.encoder import Encoder, describe_pair_scores, require_pair_scorer
from cosmos_eval.stats.estimates import Mean, MeanRank, Median
from cosmos_eval.stats.lengths import LengthBin, length_bins
from cosmos_eval.stats.random_ties import decide_any, random_ties
from cosmos_eval.stats.retrieval import (
    Candidates,
    RetrievalRanks,
    best_candidates,
    ranks_of_pairs,
    retrieval_ranks,
)
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.task import NAME, Task

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import Embeddings, Features
    from cosmos_eval.embedding.pairs import PairScores

# Stored arrays of N images and M captions.
IMAGE_RANK = "image_to_text_rank"  # (N,) rank of every image's best caption, from 1
TEXT_RANK = "text_to_image_rank"  # (M,) rank of every caption's image, from 1
IMAGE_OF_TEXT = "image_of_text"  # (M,) index of every caption's image
# The probability that an image (N,), or a caption (M,), ranks a correct item first if items with
# equal features are in random order. They are stored only if this order decides any query.
IMAGE_TIES = "image_to_text_random_ties"
TEXT_TIES = "text_to_image_random_ties"
# Results of older versions lack the next two.
WORDS = "words"  # (M,) number of every caption's words
CUT = "cut"  # (M,) whether a caption did not fit the model's context
# (1,) True if the protocol takes the lower one of two middle ranks; older results lack it.
FLOOR_MEDIAN = "floor_median"
ARRAYS = (
    SampleArray(IMAGE_RANK, "whole number", ("images",), least=1, most="texts"),
    SampleArray(TEXT_RANK, "whole number", ("texts",), least=1, most="images"),
    SampleArray(IMAGE_OF_TEXT, "whole number", ("texts",), least=0, below="images"),
    SampleArray(IMAGE_TIES, "number", ("images",), least=0, most=1, optional=True),
    SampleArray(TEXT_TIES, "number", ("texts",), least=0, most=1, optional=True),
    SampleArray(WORDS, "whole number", ("texts",), least=0, optional=True),
    SampleArray(CUT, "truth value", ("texts",), optional=True),
    SampleArray(FLOOR_MEDIAN, "truth value", (1,), optional=True),
    SampleArray(NAME, "text", ("images",), optional=True),
)
_IMAGE = "image"  # (N,) derived: index of every image
_TEXT_R1, _CUT_FRACTION = "text_to_image_R@1", "captions_cut"  # metrics


class Direction:
    """The metrics of one direction of retrieval.

    An image and its captions are not independent. Intervals therefore resample images, each with
    all its captions.
    """

    def __init__(self, name: str, rank_array: str, image_array: str) -> None:
        self._name = name
        # Names of arrays with an entry per query: its rank, its image, and the probability that a
        # correct item ranks first if ties are broken at random.
        self._rank_array = rank_array
        self._image_array = image_array
        self._tie_array = f"{name}_random_ties"

    def recall(self, k: int, samples: Derived) -> Mean:
        """Return R@k: the fraction of queries with a rank of at most k."""
        return Mean(samples[self._rank_array] <= k, samples[self._image_array])

    def recall_of_random_ties(self, samples: Derived) -> Mean | None:
        """Return the expected R@1 if items with equal features are in random order."""
        if self._tie_array not in samples:
            return None
        return Mean(samples[self._tie_array], samples[self._image_array])

    def mean_rank(self, samples: Derived) -> MeanRank:
        return MeanRank(samples[self._rank_array], samples[self._image_array])

    def median_rank(self, samples: Derived) -> Median:
        ranks, images = samples[self._rank_array], samples[self._image_array]
        return Median(ranks, images, FLOOR_MEDIAN in samples)

    def metrics(self) -> Iterator[Metric]:
        """Yield recall and ranks in the order of tables."""
        label = self._name.replace("_", " ")
        for k in (1, 5, 10):
            yield Metric(
                f"{self._name}_R@{k}",
                partial(self.recall, k),
                label=f"{label} R@{k}",
                primary=k == 1,
            )
        yield Metric(
            f"{self._name}_R@1_random_ties",
            self.recall_of_random_ties,
            label=f"{label} R@1, random ties",
            headline=True,
            reference=True,
        )
        yield Metric(f"{self._name}_mean_rank", self.mean_rank, unit="rank", higher_is_better=False)
        yield Metric(
            f"{self._name}_median_rank", self.median_rank, unit="rank", higher_is_better=False
        )


def _captions_cut(samples: Derived) -> Mean | None:
    """Return the fraction of captions that were cut; None for older results, which lack it."""
    if CUT not in samples:
        return None
    return Mean(samples[CUT], samples[IMAGE_OF_TEXT])


class Retrieval(Task):
    """Retrieval of captions by images, and of images by captions."""

    protocol = types.RetrievalProtocol
    metrics = (
        *Direction("image_to_text", IMAGE_RANK, _IMAGE).metrics(),
        *Direction("text_to_image", TEXT_RANK, IMAGE_OF_TEXT).metrics(),
        Metric(_CUT_FRACTION, _captions_cut, label="captions cut", headline=True, reference=True),
    )
    truth = (IMAGE_OF_TEXT,)
    per_sample = IMAGE_RANK
    by_image = True
    groups_by_length = True
    checked = "captions and their number, and that every image is there"
    arrays = ARRAYS

    def open_data(
        self, protocol: types.RetrievalProtocol, options: types.RunOptions
    ) -> RetrievalData:
        return retrieval_data.open_data(protocol, options)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.RetrievalProtocol],
        data: Sequence[RetrievalData],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Yield recall and ranks of every protocol; `options.limit` keeps the first images."""
        for protocol, captioned in zip(protocols, data, strict=True):
            yield self.measure_captions(
                encoder,
                captioned,
                options,
                progress,
                partial(_rank_queries, encoder, protocol, captioned, options, progress),
                names=captioned.names,
                hashes={"sample_list": retrieval_data.sample_list_hash(captioned)},
                settings=describe_pair_scores(encoder, protocol.pairs),
            )

    def derive(self, samples: types.Samples) -> Derived:
        return {**samples, _IMAGE: np.arange(len(samples[IMAGE_RANK]))}

    def require_consistent(self, samples: types.Samples) -> None:
        """Raise ValueError for an image without a caption."""
        n_captions = np.bincount(samples[IMAGE_OF_TEXT], minlength=len(samples[IMAGE_RANK]))
        if not n_captions.all():
            raise ValueError(f"image {n_captions.argmin()} has no text in `{IMAGE_OF_TEXT}`")

    def lengths(self, samples: types.Samples) -> Sequence[LengthBin]:
        """Return text to image R@1 by the number of words; empty for results of older versions."""
        if WORDS not in samples:
            return []
        return length_bins(
            samples[WORDS], samples[CUT], samples[TEXT_RANK] <= 1, samples[IMAGE_OF_TEXT]
        )

    def per_class(self, samples: types.Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return metrics by the length of captions.

        They are text to image R@1, the fraction of captions that were cut, and their number.
        """
        return {
            length_bin.name: {
                _TEXT_R1: length_bin.recall.value,
                _CUT_FRACTION: length_bin.cut,
                "captions": length_bin.captions,
            }
            for length_bin in self.lengths(samples)
        }

    def columns(self, samples: types.Samples) -> Mapping[str, Any]:
        """Return one row per query: all images, then all captions.

        `caption` numbers the captions of each image, from 0. It is NaN for images.
        """
        image_of_text, n_images = samples[IMAGE_OF_TEXT], len(samples[IMAGE_RANK])
        n_captions = len(image_of_text)
        # The captions of an image follow each other, and images are in order: searching an image
        # finds its first caption.
        first_caption_of_image = np.searchsorted(image_of_text, image_of_text)
        caption_number = np.arange(n_captions) - first_caption_of_image
        columns: dict[str, Any] = {}
        if NAME in samples:
            image_of_query = np.concatenate([np.arange(n_images), image_of_text])
            columns["image"] = samples[NAME][image_of_query]
        columns["query"] = np.repeat(["image", "caption"], [n_images, n_captions])
        columns["caption"] = np.concatenate([np.full(n_images, np.nan), caption_number])
        columns["rank"] = np.concatenate([samples[IMAGE_RANK], samples[TEXT_RANK]])
        return columns

    def survey(
        self,
        protocol: types.RetrievalProtocol,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Survey:
        return retrieval_data.list_data(protocol, options).surveyed(protocol, options)

    def is_there(self, protocol: types.RetrievalProtocol, root: Path) -> bool:
        if protocol.archives:
            return any(any(root.glob(pattern)) for pattern in several(protocol.archives))
        return exist_in(root, protocol.annotations, protocol.images)

    def n_samples(self, protocol: types.RetrievalProtocol) -> int | None:
        return protocol.n_images

    def fetch(self, protocol: types.RetrievalProtocol, options: types.RunOptions) -> None:
        fetch_repository(protocol, options)


def _rank_queries(
    encoder: Encoder,
    protocol: types.RetrievalProtocol,
    data: RetrievalData,
    options: types.RunOptions,
    progress: types.OnProgress,
    image_features: Features,
    captions: Embeddings,
) -> types.Samples:
    """Return the arrays to store, from image features (N, D) and embedded captions (M, D).

    If the protocol scores pairs, the best candidates by embeddings are ranked again by the scores
    that the model gives to an image and a caption together.
    """
    image_of_text = data.image_of_text
    ranks = retrieval_ranks(image_features, captions.features, image_of_text)
    samples: dict[str, NDArray[Any]] = {}
    if protocol.pairs is None:
        samples |= _tie_probabilities(ranks, image_features, captions.features, image_of_text)
    else:
        candidates = candidates_of(protocol.pairs, image_features, captions.features)
        scores = scores_of(encoder, candidates, data, options, progress)
        ranks = ranks_of_pairs(candidates, scores, image_of_text, ranks)
    samples[IMAGE_RANK] = ranks.image_to_text
    samples[TEXT_RANK] = ranks.text_to_image
    if protocol.floor_median:
        samples[FLOOR_MEDIAN] = np.array([True])
    samples[IMAGE_OF_TEXT] = image_of_text
    samples[WORDS] = np.array([len(caption.split()) for caption in data.captions])
    samples[CUT] = captions.cut
    return samples


def _tie_probabilities(
    ranks: RetrievalRanks,
    image_features: Features,
    text_features: Features,
    image_of_text: NDArray[np.int64],
) -> dict[str, NDArray[Any]]:
    """Return the arrays IMAGE_TIES (N,) and TEXT_TIES (M,).

    An array is left out if the order of items with equal features does not decide any query.
    """
    samples = {}
    ties = random_ties(ranks, image_features, text_features, image_of_text)
    if decide_any(ties.image_to_text):
        samples[IMAGE_TIES] = ties.image_to_text
    if decide_any(ties.text_to_image):
        samples[TEXT_TIES] = ties.text_to_image
    return samples


def candidates_of(
    pairs: int | str, image_features: Features, text_features: Features
) -> Candidates:
    """Return the items that are scored with each query, from features (N, D) and (M, D).

    `pairs` is the number of the best items to score, or `all`.
    """
    if isinstance(pairs, int):
        return best_candidates(image_features, text_features, pairs)
    n_images, n_texts = len(image_features), len(text_features)
    return Candidates(
        texts=np.broadcast_to(np.arange(n_texts), (n_images, n_texts)),
        images=np.broadcast_to(np.arange(n_images), (n_texts, n_images)),
    )


def scores_of(
    encoder: Encoder,
    candidates: Candidates,
    data: RetrievalData,
    options: types.RunOptions,
    progress: types.OnProgress,
    most: int | None = None,
) -> PairScores:
    """Return the scores of every query, image or text, with its candidates.

    Raises TooManyError if more than `most` pairs are not cached.
    """
    from cosmos_eval.embedding.pairs import score_pairs

    # The images that each text is scored with: its own candidates, and the images that have the
    # text as a candidate.
    images_of_text = [*candidates.images]
    has_all_pairs = candidates.images.shape[1] == len(data.images)
    if not has_all_pairs:
        querying_images_of_text = _images_by_candidate_text(candidates, len(data.images))
        images_of_text = [
            np.concatenate([candidate_images, querying_images])
            for candidate_images, querying_images in zip(
                images_of_text, querying_images_of_text, strict=True
            )
        ]
    return score_pairs(
        require_pair_scorer(encoder),
        data.images,
        data.captions,
        images_of_text,
        options,
        progress,
        most,
    )


def _images_by_candidate_text(candidates: Candidates, n_images: int) -> list[NDArray[np.int64]]:
    """Return, for each text, the images that have it among their candidates.

    If image 0 has the candidates [2, 0] and image 1 has [2, 1], texts 0, 1 and 2 have the images
    [0], [1] and [0, 1].
    """
    # Row i of `candidates.texts` holds the texts of image i. The pairs (image, text) are sorted by
    # text, and cut where the next text begins.
    text_of_pair = candidates.texts.ravel()
    n_candidates = candidates.texts.shape[1]
    image_of_pair = np.repeat(np.arange(n_images), n_candidates)
    order_by_text = np.argsort(text_of_pair, kind="stable")
    n_images_of_text = np.bincount(text_of_pair, minlength=len(candidates.images))
    first_pair_of_next_texts = np.cumsum(n_images_of_text)[:-1]
    return np.split(image_of_pair[order_by_text], first_pair_of_next_texts)


TASK = Retrieval()
