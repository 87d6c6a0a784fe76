"""Image-text retrieval on images with captions, in all forms of docs/data.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data import retrieval as retrieval_data
from cosmos_eval.data.folders import Survey, all_exist, as_tuple, content_hash, fetch_repository
from cosmos_eval.data.retrieval import RetrievalData
from cosmos_eval.models.encoder import Encoder, describe_pair_scores, require_pair_scorer
from cosmos_eval.stats.estimates import Ints, Mean, MeanRank, Median
from cosmos_eval.stats.lengths import LengthBin, length_bins
from cosmos_eval.stats.random_ties import RandomTies, count_decided, random_ties
from cosmos_eval.stats.retrieval import (
    Candidates,
    best_candidates,
    first_wrong_items,
    ranks_of_images,
    ranks_of_pairs,
    retrieval_ranks,
)
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.ordered import EmbeddedMeasurement, require_no_pairs
from cosmos_eval.tasks.task import LEAST_NOTED_FRACTION, NAME, ScoredSamples, Task

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
# The index of the wrong text that an image (N,) ranks first, and of the wrong image that a text
# (M,) ranks first; -1 if the query is right. Older results, and scores of pairs, lack them.
IMAGE_FIRST = "image_to_text_first"
TEXT_FIRST = "text_to_image_first"
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
    SampleArray(IMAGE_FIRST, "whole number", ("images",), least=-1, below="texts", optional=True),
    SampleArray(TEXT_FIRST, "whole number", ("texts",), least=-1, below="images", optional=True),
    SampleArray(WORDS, "whole number", ("texts",), least=0, optional=True),
    SampleArray(CUT, "truth value", ("texts",), optional=True),
    SampleArray(FLOOR_MEDIAN, "truth value", (1,), optional=True),
    SampleArray(NAME, "text", ("images",), optional=True),
)
_IMAGE = "image"  # (N,) derived: index of every image
_TEXT_R1, _CUT_FRACTION = "text_to_image_R@1", "captions_cut"  # metrics


class Direction:
    """The metrics of one direction of retrieval: images as queries, or captions as queries.

    An image and its captions are not independent. Intervals therefore resample images, each with
    all its captions.
    """

    def __init__(self, name: str, rank_array: str, image_array: str) -> None:
        """Name the direction, and the arrays that hold its ranks.

        Args:
            name: The name of the direction, such as `image_to_text`. The names of its metrics begin
                with it.
            rank_array: The name of the array with the rank of each query's best correct item, from
                1.
            image_array: The name of the array with the index of each query's image.
        """
        self._name = name
        self._rank_array = rank_array
        self._image_array = image_array
        # The name of the array with the probability that a correct item ranks first if items with
        # equal features are in random order.
        self._tie_array = f"{name}_random_ties"

    def recall(self, k: int, samples: Derived) -> Mean:
        """Return R@k: the fraction of queries whose best correct item has a rank of at most k."""
        return Mean(samples[self._rank_array] <= k, samples[self._image_array])

    def recall_of_random_ties(self, samples: Derived) -> Mean | None:
        """Return the expected R@1 if items with equal features are in random order.

        Return None if no query depends on this order. The samples then do not have the array.
        """
        if self._tie_array not in samples:
            return None
        return Mean(samples[self._tie_array], samples[self._image_array])

    def mean_rank(self, samples: Derived) -> MeanRank:
        """Return the mean over all queries of the rank of the best correct item, from 1."""
        return MeanRank(samples[self._rank_array], samples[self._image_array])

    def median_rank(self, samples: Derived) -> Median:
        """Return the median over all queries of the rank of the best correct item.

        An even number of queries has two middle ranks. Their mean is returned, or the lower one if
        the protocol asks for it.
        """
        takes_lower_rank = FLOOR_MEDIAN in samples
        return Median(samples[self._rank_array], samples[self._image_array], takes_lower_rank)

    def metrics(self) -> Iterator[Metric]:
        """Yield the metrics of this direction, in the order of tables.

        They are R@1, R@5, R@10, R@1 with ties in random order, mean rank and median rank.
        """
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


def _cut_fraction(samples: Derived) -> Mean | None:
    """Return the fraction of captions that did not fit the model's context and were cut.

    Return None for older results, which do not store it.
    """
    if CUT not in samples:
        return None
    return Mean(samples[CUT], samples[IMAGE_OF_TEXT])


class Retrieval(Task):
    """Retrieval of captions by images, and of images by captions."""

    protocol = types.RetrievalProtocol
    metrics = (
        *Direction("image_to_text", IMAGE_RANK, _IMAGE).metrics(),
        *Direction("text_to_image", TEXT_RANK, IMAGE_OF_TEXT).metrics(),
        Metric(_CUT_FRACTION, _cut_fraction, label="captions cut", headline=True, reference=True),
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
        """List the images of a data set and their captions."""
        return retrieval_data.open_data(protocol, options)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.RetrievalProtocol],
        data: Sequence[RetrievalData],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Measure a model, and yield a measurement for each protocol, in their order.

        A measurement holds the recall and the ranks of retrieval in both directions.

        Args:
            encoder: The model.
            protocols: The protocols. Each is a data set, and how it is measured.
            data: The images and captions of each protocol, from `open_data`.
            options: The options of the run. If their `limit` is set, only the first images and
                their captions are measured.
            progress: Called with the progress.
        """
        from cosmos_eval.embedding.embed import ImageEmbedder

        embedder = ImageEmbedder(encoder, options, progress)
        for protocol, captioned_images in zip(protocols, data, strict=True):
            rank_queries = partial(
                _rank_queries, encoder, protocol, captioned_images, options, progress
            )
            notes = []
            shared_captions = retrieval_data.describe_shared_captions(
                captioned_images, LEAST_NOTED_FRACTION
            )
            if shared_captions:
                notes.append(shared_captions)
            yield self.measure_captions(
                encoder,
                captioned_images,
                options,
                progress,
                rank_queries,
                embedder=embedder,
                names=captioned_images.names,
                hashes={"sample_list": retrieval_data.sample_list_hash(captioned_images)},
                settings=describe_pair_scores(encoder, protocol.pairs),
                notes=notes,
            )

    def data_hashes(
        self, protocol: types.RetrievalProtocol, data: RetrievalData, options: types.RunOptions
    ) -> Mapping[str, str]:
        """Return the hashes of the images' files, and of their names and captions."""
        from cosmos_eval.embedding.hashing import hash_images

        content = content_hash(hash_images(data.images, options))
        return {"sample_list": retrieval_data.sample_list_hash(data), "content": content}

    def in_order(
        self,
        encoder: Encoder,
        protocol: types.RetrievalProtocol,
        data: RetrievalData,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> EmbeddedMeasurement:
        """Return a measurement that takes the images in any order, as queries for all captions.

        All captions are embedded before the first image. Captions as queries would need all images.

        Raises UsageError for a protocol that scores pairs.
        """
        require_no_pairs(protocol)
        return _OrderedQueries(self, encoder, protocol, data, options, progress)

    def take(self, samples: types.Samples, indices: Ints) -> types.Samples:
        """Return the arrays of some images, without arrays of captions, which need all images."""
        arrays_of_texts = {array.name for array in ARRAYS if array.axes == ("texts",)}
        arrays_of_images = {
            name: array for name, array in samples.items() if name not in arrays_of_texts
        }
        return super().take(arrays_of_images, indices)

    def derive(self, samples: types.Samples) -> Derived:
        """Add the index of every image, (N,), so that both directions have an array of images."""
        n_images = len(samples[IMAGE_RANK])
        return {**samples, _IMAGE: np.arange(n_images)}

    def require_consistent(self, samples: types.Samples) -> None:
        """Raise ValueError for an image without a caption."""
        n_captions = np.bincount(samples[IMAGE_OF_TEXT], minlength=len(samples[IMAGE_RANK]))
        if not n_captions.all():
            raise ValueError(f"image {n_captions.argmin()} has no text in `{IMAGE_OF_TEXT}`")

    def lengths(self, samples: types.Samples) -> Sequence[LengthBin]:
        """Return text to image R@1 for captions of similar length, counted in words.

        The list is empty for results of older versions, which do not store the numbers of words.
        """
        if WORDS not in samples:
            return []
        image_is_first = samples[TEXT_RANK] <= 1
        return length_bins(samples[WORDS], samples[CUT], image_is_first, samples[IMAGE_OF_TEXT])

    def per_class(self, samples: types.Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return metrics by the length of captions, under names such as `25-49 words`.

        They are text to image R@1, the fraction of captions that were cut, and the number of
        captions.
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
        """Return a table with one row per query: all images, then all captions.

        Returns:
            The columns by name. `image` holds the name of the query's image, and `query` its kind.
            `caption` numbers the captions of each image, from 0, and is NaN for images. `rank` is
            the rank of the best correct item, from 1.

        Example:
            If image a has two captions and image b has one, the rows are

            image  query    caption  rank
            a      image    NaN      1
            b      image    NaN      3
            a      caption  0        1
            a      caption  1        2
            b      caption  0        1
        """
        # `image_of_text` is sorted: the captions of an image follow each other. In the example:
        image_of_text = samples[IMAGE_OF_TEXT]  # [0, 0, 1]
        n_images, n_captions = len(samples[IMAGE_RANK]), len(image_of_text)
        first_caption_of_image = np.searchsorted(image_of_text, image_of_text)  # [0, 0, 2]
        caption_number = np.arange(n_captions) - first_caption_of_image  # [0, 1, 0]

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
        """Count the images that the captions belong to, and report missing ones."""
        return retrieval_data.list_data(protocol, options).complete_survey(protocol, options)

    def is_there(self, protocol: types.RetrievalProtocol, root: Path) -> bool:
        """Return whether the folder `root` holds the archives, or the captions and images."""
        if protocol.archives:
            return any(any(root.glob(pattern)) for pattern in as_tuple(protocol.archives))
        return all_exist(root, protocol.annotations, protocol.images)

    def n_samples(self, protocol: types.RetrievalProtocol) -> int | None:
        """Return the number of images of the complete data set, or None if it is unknown."""
        return protocol.n_images

    def fetch(self, protocol: types.RetrievalProtocol, options: types.RunOptions) -> None:
        """Download the data set if `options` ask for it and it is known where from."""
        fetch_repository(protocol, options)


class _OrderedQueries(EmbeddedMeasurement):
    """Ranks all captions for images in any order."""

    def hashes_of_names(self) -> Mapping[str, str]:
        """Return the hash of the images' names, the captions and their pairs."""
        return {"sample_list": retrieval_data.sample_list_hash(self.data)}

    def images_of(self, sample: int) -> Sequence[int]:
        """Return the index of the image, which is the sample itself."""
        return (sample,)

    @cached_property
    def text_features(self) -> Features:
        """The features (M, D) of all captions."""
        from cosmos_eval.embedding.embed import embed_texts

        captions = embed_texts(
            self.encoder, self.data.captions, self.options, self.progress, phase="captions"
        )
        return captions.features

    def score(self, samples: Ints) -> types.Samples:
        """Return the rank of the best caption of images (n,)."""
        image_features = self.embeddings(samples.tolist()).features
        ranks = ranks_of_images(
            image_features, self.text_features, self.data.image_of_text, samples
        )
        return {IMAGE_RANK: ranks}


def _rank_queries(
    encoder: Encoder,
    protocol: types.RetrievalProtocol,
    data: RetrievalData,
    options: types.RunOptions,
    progress: types.OnProgress,
    image_features: Features,
    captions: Embeddings,
) -> ScoredSamples:
    """Rank the captions for every image, and the images for every caption.

    Items are ranked by the products of features. If the protocol asks for scores of pairs, the best
    items of each query are ranked again, by the scores that the model gives to an image and a
    caption together.

    Args:
        encoder: The model.
        protocol: The protocol, which says whether pairs are scored.
        data: N images and M captions, and the index of every caption's image.
        options: The options of the run.
        progress: Called with the number of pairs that are scored.
        image_features: The features (N, D) of the images.
        captions: The embeddings (M, D) of the captions.

    Returns:
        The arrays to store by name, and notes on ties.
    """
    text_features, image_of_text = captions.features, data.image_of_text
    notes: list[str] = []
    ranks = retrieval_ranks(image_features, text_features, image_of_text)
    samples: dict[str, NDArray[Any]] = {}
    if protocol.pairs is not None:
        candidates = select_candidates(protocol.pairs, image_features, text_features)
        pair_scores = score_candidates(encoder, candidates, data, options, progress)
        ranks = ranks_of_pairs(candidates, pair_scores, image_of_text, ranks)
    else:
        # The probabilities of ranking first are stored only if equal features decide any query.
        ties = random_ties(ranks, image_features, text_features, image_of_text)
        if count_decided(ties.image_to_text):
            samples[IMAGE_TIES] = ties.image_to_text
        if count_decided(ties.text_to_image):
            samples[TEXT_TIES] = ties.text_to_image
        notes = _tie_notes(ties)
        samples[IMAGE_FIRST] = first_wrong_items(image_features, text_features, ranks.image_to_text)
        samples[TEXT_FIRST] = first_wrong_items(text_features, image_features, ranks.text_to_image)
    samples[IMAGE_RANK] = ranks.image_to_text
    samples[TEXT_RANK] = ranks.text_to_image
    if protocol.floor_median:
        samples[FLOOR_MEDIAN] = np.array([True])
    samples[IMAGE_OF_TEXT] = image_of_text
    samples[WORDS] = np.array([len(caption.split()) for caption in data.captions])
    samples[CUT] = captions.cut
    return ScoredSamples(samples, notes)


def _tie_notes(ties: RandomTies) -> list[str]:
    """Return a note for each direction in which ties decide over 1% of the queries.

    Example:
        "12 of 500 images miss R@1 only because a wrong caption has the features of the right one"
    """
    directions = (
        ("images", "caption", ties.image_to_text),
        ("captions", "image", ties.text_to_image),
    )
    notes = []
    for queries, item, chances in directions:
        n_tied = count_decided(chances)
        if n_tied > LEAST_NOTED_FRACTION * len(chances):
            notes.append(
                f"{n_tied} of {len(chances)} {queries} miss R@1 only because a wrong {item} has "
                "the features of the right one"
            )
    return notes


def select_candidates(
    pairs: int | str, image_features: Features, text_features: Features
) -> Candidates:
    """Return the candidates of every query, which a model is to score together with the query.

    Args:
        pairs: The number k of candidates of a query, which are the items with the highest products
            of features; or `all`, for all items.
        image_features: The features (N, D) of the images.
        text_features: The features (M, D) of the texts.

    Returns:
        The indices of the candidate texts (N, k) of each image, and of the candidate images (M, k)
        of each text. For `all`, they are (N, M) and (M, N).
    """
    if isinstance(pairs, int):
        return best_candidates(image_features, text_features, pairs)
    n_images, n_texts = len(image_features), len(text_features)
    all_texts, all_images = np.arange(n_texts), np.arange(n_images)
    return Candidates(
        texts=np.broadcast_to(all_texts, (n_images, n_texts)),
        images=np.broadcast_to(all_images, (n_texts, n_images)),
    )


def score_candidates(
    encoder: Encoder,
    candidates: Candidates,
    data: RetrievalData,
    options: types.RunOptions,
    progress: types.OnProgress,
    most: int | None = None,
) -> PairScores:
    """Let the model score every query, image or text, together with its candidates.

    Args:
        encoder: The model, which must be able to score pairs.
        candidates: The indices of the candidate texts of each image, and of the candidate images
            of each text.
        data: The images and captions.
        options: The options of the run. Scores are cached.
        progress: Called with the number of pairs that are scored.
        most: The largest number of pairs that may have to be scored because they are not cached;
            None for any number.

    Returns:
        An object that maps indices of images and texts to the scores of these pairs.

    Raises UsageError if the model cannot score pairs, and TooManyError if more than `most` pairs
    are not cached.
    """
    from cosmos_eval.embedding.pairs import score_pairs

    # A text is scored with its own candidates, and with the images that have it as a candidate.
    images_of_text = [*candidates.images]
    has_all_pairs = candidates.images.shape[1] == len(data.images)
    if not has_all_pairs:
        querying_images_of_text = _images_by_candidate_text(candidates, len(data.images))
        for text, querying_images in enumerate(querying_images_of_text):
            images_of_text[text] = np.concatenate([images_of_text[text], querying_images])
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
    """Return, for each text, the indices of the images that have it among their candidates.

    Args:
        candidates: The candidates, of which only the candidate texts (N, k) of the images are used.
        n_images: The number N of images.

    Example:
        If image 0 has the candidate texts [2, 0] and image 1 has [2, 1], then texts 0, 1 and 2
        have the images [0], [1] and [0, 1].
    """
    # All pairs of an image and one of its candidate texts. In the example:
    text_of_pair = candidates.texts.ravel()  # [2, 0, 2, 1]
    n_candidates = candidates.texts.shape[1]
    image_of_pair = np.repeat(np.arange(n_images), n_candidates)  # [0, 0, 1, 1]

    # Sort the pairs by text, and split them where the next text begins.
    order_by_text = np.argsort(text_of_pair, kind="stable")
    images_sorted_by_text = image_of_pair[order_by_text]  # [0, 1, 0, 1]
    n_images_of_text = np.bincount(text_of_pair, minlength=len(candidates.images))  # [1, 1, 2]
    ends = np.cumsum(n_images_of_text)  # [1, 2, 4]
    return np.split(images_sorted_by_text, ends[:-1])


TASK = Retrieval()
