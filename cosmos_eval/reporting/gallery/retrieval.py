"""Choose queries of retrieval results that failed and that succeeded. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.retrieval import RetrievalData, open_data, sample_list_hash
from cosmos_eval.data.sources import decode_source
from cosmos_eval.reporting.content import SampledResult
from cosmos_eval.reporting.gallery.pictures import Candidate, Canvas
from cosmos_eval.reporting.gallery.records import Picture, RetrievalExample
from cosmos_eval.reporting.gallery.samples import (
    CaptionedImageJudgement,
    CaptionJudgement,
    Judgement,
)
from cosmos_eval.reporting.gallery.source import (
    ImageWithText,
    OpenedResult,
    Request,
    ResultGroup,
    ResultSource,
    listed,
    spread_indices,
)
from cosmos_eval.stats.retrieval import Candidates
from cosmos_eval.tasks.retrieval import IMAGE_RANK, TEXT_RANK, score_candidates, select_candidates
from cosmos_eval.types import (
    OnProgress,
    Protocol,
    RetrievalProtocol,
    RunOptions,
    Samples,
    UsageError,
)

if TYPE_CHECKING:
    from cosmos_eval.embedding.pairs import PairScores
    from cosmos_eval.models.encoder import Encoder

Direction = Literal["image_to_text", "text_to_image"]
Features = NDArray[np.float32]
_RANK_NAMES: Mapping[Direction, str] = {"image_to_text": IMAGE_RANK, "text_to_image": TEXT_RANK}

_KIND = "lists of what was found"
_FAILURES, _SUCCESSES = 3, 2  # the most queries of a result in one direction
_SHOWN_ITEMS = 3
# The relative error of a low rank: another machine rounds scores in another way.
_RANK_TOLERANCE = 0.05
# The most that are embedded for a report; cached embeddings do not count.
_MOST_IMAGES, _MOST_CAPTIONS = 1000, 5000
_MOST_PAIRS = 250_000


class Query(NamedTuple):
    """An image or a caption that items are ranked for."""

    direction: Direction
    # The index of the image or caption.
    query_index: int
    # The measured rank of the first item that belongs to the query, from 1.
    rank: int


class RankedItems(NamedTuple):
    """The items that a model ranked highest for a query, by their indices."""

    # The highest ranked item that belongs to the query.
    best_match: int
    # The highest ranked items, the best first.
    top: tuple[int, ...]


class RetrievalSource(ResultSource):
    """Queries of a retrieval set, with the items that each model of a group found for them.

    Also a few captions, and a few images, with the outcomes of all models.
    """

    def __init__(self, group: ResultGroup, options: RunOptions) -> None:
        """Open the data, and request the ranked items of each result's queries.

        Args:
            group: The results on a data set by one protocol.
            options: How data are opened and models are run.
        """
        super().__init__(group, options)
        # How many items of each query the model ranks a second time, or None if it does not.
        self._candidates_per_query = cast(RetrievalProtocol, group.protocol).pairs
        # By model and query; None if the query's rank differs from the measured one.
        self._ranked_items: dict[str, dict[Query, RankedItems | None]] = {}
        self._opened_results = self.open_results()
        for opened_result in self._opened_results:
            self.requests.append(
                _RankingRequest(
                    row=opened_result.result.row,
                    label=opened_result.result.model,
                    kind=_KIND,
                    dataset=group.name,
                    source=self,
                    opened_result=opened_result,
                )
            )
        if self._opened_results:
            data = self._opened_results[0].data
            self.images_with_texts += captioned_images(group.protocol, data)

    def open_data(self, options: RunOptions) -> RetrievalData:
        """Open the images and captions of the data set."""
        return open_data(self.protocol, options)

    def has_measured_names(self, result: SampledResult, data: RetrievalData) -> bool:
        """Return whether a result has the same images and captions as the data."""
        return sample_list_hash(data) == result.row.provenance["hashes"].get("sample_list")

    def judge(self, data: Any, samples: Sequence[Samples]) -> list[Judgement]:
        """Return which models are right on which captions, and on which images.

        `data` are the opened data, and `samples` the stored arrays of each model's result.
        """
        return [CaptionJudgement(data, samples), CaptionedImageJudgement(data, samples)]

    def rank_queries(
        self, opened_result: OpenedResult, encoder: Encoder, progress: OnProgress
    ) -> None:
        """Rank and keep items for the chosen queries of a result.

        If a query does not get the rank that was measured, None is kept instead of its items.

        Args:
            opened_result: A result of the group, and the data that it was measured on.
            encoder: The loaded model of the result.
            progress: Called with the number of images, captions or pairs that were embedded.

        Raises:
            UsageError: More images, captions or pairs are missing in the cache than a report should
                embed.
        """
        from cosmos_eval.embedding.embed import TooManyError, embed_images, embed_texts

        result, data = opened_result
        options = self.options
        pair_scores = None
        try:
            images = embed_images(encoder, data.images, options, progress, max_missing=_MOST_IMAGES)
            texts = embed_texts(
                encoder,
                data.captions,
                options,
                progress,
                phase="captions",
                max_missing=_MOST_CAPTIONS,
            )
            # Under some protocols, the model scores pairs of each query and its best items, the
            # candidates, from image and text together.
            if self._candidates_per_query is not None:
                candidates = select_candidates(
                    self._candidates_per_query, images.features, texts.features
                )
                scores = score_candidates(
                    encoder, candidates, data, options, progress, most=_MOST_PAIRS
                )
                pair_scores = _PairRescoring(candidates, scores)
        except TooManyError as error:
            raise UsageError(f"{error}, so measure again without --no-cache") from error
        ranked_items = {}
        for query in choose_queries(result.samples):
            ranked_items[query] = rank_items(
                query, images.features, texts.features, data.image_of_text, pair_scores
            )
        self._ranked_items[result.model] = ranked_items

    def candidates(self) -> Iterator[Candidate]:
        """Yield the chosen samples of all results, then the chosen queries of every result.

        A note names the models whose ranks are not the measured ones.
        """
        yield from self.sample_candidates(self._opened_results)
        models_that_differ: list[str] = []
        for result, data in self._opened_results:
            ranked_items = self._ranked_items.get(result.model, {})
            # The first query of each direction is in round 0, the second one in round 1.
            next_round: dict[Direction, int] = {"image_to_text": 0, "text_to_image": 0}
            for query in choose_queries(result.samples):
                drawing = _QueryDrawing(result, data, query, ranked_items.get(query))
                yield Candidate(round=next_round[query.direction], draw=drawing.draw)
                next_round[query.direction] += 1
            for items in ranked_items.values():
                if items is None:
                    models_that_differ.append(result.model)
        if models_that_differ:
            models = list(dict.fromkeys(models_that_differ))
            self.notes.append(
                f"{self.group.name}: what {listed(models)} found is not shown for "
                f"{len(models_that_differ)} queries, whose ranks differ from those measured"
            )


@dataclass(frozen=True, kw_only=True)
class _RankingRequest(Request):
    """A request for the ranked items of a result's chosen queries."""

    source: RetrievalSource
    opened_result: OpenedResult

    def run(self, encoder: Encoder, progress: OnProgress) -> None:
        """Rank the items. Raises UsageError if too much would have to be embedded."""
        self.source.rank_queries(self.opened_result, encoder, progress)


def captioned_images(protocol: Protocol, data: RetrievalData) -> Iterator[ImageWithText]:
    """Yield a few images of a retrieval set, each with its first caption.

    The images are spread evenly over the set, see `spread_indices`. `protocol` names the data set,
    and `data` holds its images and captions.
    """
    for image_index in spread_indices(len(data.images)):
        # `argmax` returns the first caption that belongs to the image.
        first_caption = int(np.argmax(data.image_of_text == image_index))
        yield ImageWithText(
            dataset=protocol.dataset,
            name=data.names[image_index],
            read_image=partial(decode_source, data.images[image_index]),
            text=data.captions[first_caption],
        )


def choose_queries(samples: Samples) -> list[Query]:
    """Choose a few queries of both directions, in which failures and successes are mixed.

    A query succeeds if the first item that belongs to it has rank 1. The order within a direction
    is: the failure with the worst rank, a success, then other failures and successes.

    Args:
        samples: The stored arrays of a result, among them the ranks of its queries.
    """
    queries: list[Query] = []
    for direction, rank_name in _RANK_NAMES.items():
        ranks = samples[rank_name]
        by_rank = np.argsort(ranks, kind="stable")  # the best first
        n_successes = np.count_nonzero(ranks == 1)
        all_successes = by_rank[:n_successes]
        all_failures = by_rank[n_successes:]
        chosen_successes = spread_indices(len(all_successes), _SUCCESSES)
        successes = all_successes[chosen_successes].tolist()
        chosen_failures = _spread_over_ranks(ranks[all_failures])
        failures = all_failures[chosen_failures].tolist()
        for index in (*failures[:1], *successes[:1], *failures[1:], *successes[1:]):
            queries.append(Query(direction, index, int(ranks[index])))
    return queries


def _spread_over_ranks(ranks: NDArray[np.integer]) -> list[int]:
    """Return up to three indices into ascending ranks: the worst, the best, and one between them.

    The rank between them is the one that is nearest to the geometric mean of the worst and the
    best. For example, the ranks [2, 5, 9, 50] give the indices [3, 0, 2], because 9 is nearest to
    sqrt(2 * 50) = 10.
    """
    if not len(ranks):
        return []
    logarithms = np.log(ranks)
    middle = (logarithms[0] + logarithms[-1]) / 2
    index_of_middle = int(np.abs(logarithms - middle).argmin())
    # The last index is for ranks that are all equal.
    indices = [len(ranks) - 1, 0, index_of_middle, len(ranks) // 2]
    distinct_indices = list(dict.fromkeys(indices))
    return distinct_indices[:_FAILURES]


class _PairRescoring:
    """Scores of pairs of an image and a text, which a model computes from both together.

    They replace the products of features for the candidates of a query: the items that rank highest
    by the products.
    """

    def __init__(self, candidates: Candidates, scores: PairScores) -> None:
        """Keep the candidates of all queries, and the function that scores pairs."""
        self._candidates = candidates
        self._scores = scores

    def rescore(self, query: Query, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Replace the scores of a query's candidates by scores of pairs, and return all scores.

        The scores of candidates are shifted so that they rank above all other items.

        Args:
            query: The image or caption.
            scores: For each item, the product of its features with the features of the query. The
                array is changed in place.
        """
        if query.direction == "image_to_text":
            items = self._candidates.texts[query.query_index]
            pair_scores = self._scores(np.full_like(items, query.query_index), items)
        else:
            items = self._candidates.images[query.query_index]
            pair_scores = self._scores(items, np.full_like(items, query.query_index))
        # The lowest becomes 2. The other scores are cosines, which are at most 1.
        scores[items] = 2 + (pair_scores - pair_scores.min())
        return scores


def rank_items(
    query: Query,
    images: Features,
    texts: Features,
    image_of_text: NDArray[np.int64],
    pair_scores: _PairRescoring | None = None,
) -> RankedItems | None:
    """Rank all images for a text, or all texts for an image, by the product of features.

    Among items with equal scores, the ones that belong to the query come last, as in the measured
    ranks.

    Args:
        query: The image or caption, with the rank that was measured.
        images: (N, D), the features of all images.
        texts: (M, D), the features of all texts.
        image_of_text: (M,), the index of each text's image.
        pair_scores: The scores of pairs by which candidates are ranked instead, if any.

    Returns:
        The items with the highest ranks, or None if the query does not get the rank that was
        measured.
    """
    if query.direction == "image_to_text":
        query_feature = images[query.query_index]
        item_features = texts
    else:
        query_feature = texts[query.query_index]
        item_features = images
    # Sums are exact before they are rounded to float32, so that equal features score the same.
    scores = item_features.astype(np.float64) @ query_feature.astype(np.float64)
    if pair_scores is not None:
        scores = pair_scores.rescore(query, scores)
    is_matching = _matching_items(query, image_of_text, len(images))
    # Sort by score, then by whether the item matches: lexsort begins with the last key.
    order = np.lexsort((is_matching, -scores.astype(np.float32)))
    rank = 1 + int(np.argmax(is_matching[order]))
    # Ranks of items that are shown must be equal. Lower ranks may differ by rounding.
    is_shown = min(rank, query.rank) <= _SHOWN_ITEMS
    if is_shown:
        is_measured_rank = rank == query.rank
    else:
        is_measured_rank = abs(rank - query.rank) <= max(1, _RANK_TOLERANCE * query.rank)
    if not is_measured_rank:
        return None
    return RankedItems(best_match=int(order[rank - 1]), top=tuple(order[:_SHOWN_ITEMS].tolist()))


def _matching_items(
    query: Query, image_of_text: NDArray[np.int64], n_images: int
) -> NDArray[np.bool_]:
    """Return whether each item belongs to the query, (M,) for texts or (N,) for images.

    Args:
        query: An image, whose items are all texts, or a text, whose items are all images.
        image_of_text: (M,), the index of each text's image.
        n_images: The number N of images.

    Example:
        If `image_of_text` is [0, 0, 1], the image 0 has the texts [True, True, False], and the text
        2 has the image [False, True].
    """
    if query.direction == "image_to_text":
        return image_of_text == query.query_index
    return np.arange(n_images) == image_of_text[query.query_index]


class _QueryDrawing(NamedTuple):
    """A query that can be drawn, with the items that were found for it."""

    result: SampledResult
    # The images and captions that the result was measured on.
    data: RetrievalData
    query: Query
    # None if the model's features could not be computed.
    ranked_items: RankedItems | None

    def draw(self, canvas: Canvas) -> RetrievalExample:
        """Draw the query, an item that belongs to it, and the items that the model found.

        Without ranked items, no items are shown as found. `canvas` encodes the pictures. Raises
        UsageError if an image cannot be used.
        """
        query = self.query
        is_matching = _matching_items(query, self.data.image_of_text, len(self.data.images))
        items = self.ranked_items
        if items is None:
            first_match = int(np.argmax(is_matching))
            items = RankedItems(best_match=first_match, top=())
        query_is_image = query.direction == "image_to_text"
        query_item = self._draw_item(canvas, query.query_index, is_image=query_is_image)
        expected_item = self._draw_item(canvas, items.best_match, is_image=not query_is_image)
        retrieved = []
        for index in items.top:
            retrieved.append(self._draw_item(canvas, index, is_image=not query_is_image))
        row = self.result.row
        return RetrievalExample(
            model=self.result.model,
            dataset=row.dataset,
            protocol=row.protocol,
            direction=query.direction,
            rank=query.rank,
            query=query_item,
            expected=expected_item,
            retrieved=retrieved,
            right=is_matching[list(items.top)].tolist(),
        )

    def _draw_item(self, canvas: Canvas, index: int, *, is_image: bool) -> Picture | str:
        """Return the image with an index as a picture, or the caption with this index as text.

        `is_image` says which of both it is. `canvas` encodes the picture.
        """
        if is_image:
            picture = canvas.thumbnail(self.data.images[index])
            return picture._replace(file=self.data.names[index])
        return self.data.captions[index]
