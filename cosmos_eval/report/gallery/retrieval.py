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
from cosmos_eval.report.content import SampledResult
from cosmos_eval.report.gallery.pictures import Candidate, Canvas
from cosmos_eval.report.gallery.records import Picture, RetrievalExample
from cosmos_eval.report.gallery.samples import CaptionJudgement
from cosmos_eval.report.gallery.source import (
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
    """Queries of every result of a group, and captions with the outcomes of all results."""

    def __init__(self, group: ResultGroup, options: RunOptions) -> None:
        super().__init__(group, options)
        self._candidates_per_query = cast(RetrievalProtocol, group.protocol).pairs
        # By model and query; None if the query's rank differs from the measured one.
        self._ranked_items: dict[str, dict[Query, RankedItems | None]] = {}
        self._opened = self.open_results()
        for opened in self._opened:
            self.requests.append(
                _RankingRequest(
                    row=opened.result.row,
                    label=opened.result.model,
                    kind=_KIND,
                    dataset=group.name,
                    source=self,
                    opened=opened,
                )
            )
        if self._opened:
            self.images_with_texts += captioned_images(group.protocol, self._opened[0].data)

    def open_data(self, options: RunOptions) -> RetrievalData:
        return open_data(self.protocol, options)

    def was_measured_on(self, result: SampledResult, data: RetrievalData) -> bool:
        return sample_list_hash(data) == result.row.provenance["hashes"].get("sample_list")

    def judge(self, data: Any, samples: Sequence[Samples]) -> CaptionJudgement:
        return CaptionJudgement(data, samples)

    def rank_queries(self, opened: OpenedResult, encoder: Encoder, progress: OnProgress) -> None:
        """Rank items for the chosen queries of a result.

        Items are kept as None if the rank of their query does not come out as measured. Raises
        UsageError if too much would have to be embedded.
        """
        from cosmos_eval.embedding.embed import TooManyError

        try:
            images, texts = self._embed(opened.data, encoder, progress)
            pair_scores = self._score_pairs(images, texts, opened.data, encoder, progress)
        except TooManyError as error:
            raise UsageError(f"{error}, so measure again without --no-cache") from error
        image_of_text = opened.data.image_of_text
        ranked_items = {}
        for query in choose_queries(opened.result.samples):
            ranked_items[query] = rank_items(query, images, texts, image_of_text, pair_scores)
        self._ranked_items[opened.result.model] = ranked_items

    def _embed(
        self, data: RetrievalData, encoder: Encoder, progress: OnProgress
    ) -> tuple[Features, Features]:
        """Return features of all images (N, D) and captions (M, D).

        Raises TooManyError if more are not cached than a report should embed.
        """
        from cosmos_eval.embedding.embed import embed_images, embed_texts

        options = self.options
        images = embed_images(encoder, data.images, options, progress, max_missing=_MOST_IMAGES)
        texts = embed_texts(
            encoder, data.captions, options, progress, phase="captions", max_missing=_MOST_CAPTIONS
        )
        return images.features, texts.features

    def _score_pairs(
        self,
        images: Features,
        texts: Features,
        data: RetrievalData,
        encoder: Encoder,
        progress: OnProgress,
    ) -> _PairRescoring | None:
        """Score pairs of images and texts, if the protocol ranks by them; None if it does not.

        Raises TooManyError if more are not cached than a report should score.
        """
        if self._candidates_per_query is None:
            return None
        candidates = select_candidates(self._candidates_per_query, images, texts)
        scores = score_candidates(
            encoder, candidates, data, self.options, progress, most=_MOST_PAIRS
        )
        return _PairRescoring(candidates, scores)

    def candidates(self) -> Iterator[Candidate]:
        """Yield the chosen captions of all results, then the chosen queries of every result."""
        yield from self.sample_candidates(self._opened)
        models_that_differ: list[str] = []
        for result, data in self._opened:
            ranked_items = self._ranked_items.get(result.model, {})
            turns: dict[Direction, int] = {"image_to_text": 0, "text_to_image": 0}
            for query in choose_queries(result.samples):
                drawing = _QueryDrawing(result, data, query, ranked_items.get(query))
                yield Candidate(turns[query.direction], drawing.draw)
                turns[query.direction] += 1
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
    """The ranked items of a result's chosen queries."""

    source: RetrievalSource
    opened: OpenedResult

    def run(self, encoder: Encoder, progress: OnProgress) -> None:
        self.source.rank_queries(self.opened, encoder, progress)


def captioned_images(protocol: Protocol, data: RetrievalData) -> Iterator[ImageWithText]:
    """Yield a few images, each with its first caption."""
    for index in spread_indices(len(data.images)):
        first_caption = int(np.argmax(data.image_of_text == index))
        yield ImageWithText(
            dataset=protocol.dataset,
            name=data.names[index],
            read_image=partial(decode_source, data.images[index]),
            text=data.captions[first_caption],
        )


def choose_queries(samples: Samples) -> list[Query]:
    """Choose a few queries of both directions, in which failures and successes are mixed.

    The order within a direction is: the failure with the worst rank, a success, then other failures
    and successes. A query succeeds if the first item that belongs to it has rank 1.
    """
    queries: list[Query] = []
    for direction, rank_name in _RANK_NAMES.items():
        ranks = samples[rank_name]
        by_rank = np.argsort(ranks, kind="stable")
        n_successes = np.count_nonzero(ranks == 1)
        all_successes, all_failures = by_rank[:n_successes], by_rank[n_successes:]
        successes = all_successes[spread_indices(len(all_successes), _SUCCESSES)].tolist()
        failures = all_failures[_spread_over_ranks(ranks[all_failures])].tolist()
        for index in (*failures[:1], *successes[:1], *failures[1:], *successes[1:]):
            queries.append(Query(direction, index, int(ranks[index])))
    return queries


def _spread_over_ranks(ranks: NDArray[np.integer]) -> list[int]:
    """Return indices into ascending ranks: of the worst, the best, and the one between them.

    The rank between them is the nearest to their geometric mean: of [2, 5, 9, 50] it is 9.
    """
    if not len(ranks):
        return []
    logarithms = np.log(ranks)
    middle = (logarithms[0] + logarithms[-1]) / 2
    geometric_middle = int(np.abs(logarithms - middle).argmin())
    # The last index is for ranks that are all equal.
    indices = [len(ranks) - 1, 0, geometric_middle, len(ranks) // 2]
    return list(dict.fromkeys(indices))[:_FAILURES]


class _PairRescoring:
    """Scores that a model computes for pairs of an image and a text instead of by a product."""

    def __init__(self, candidates: Candidates, scores: PairScores) -> None:
        self._candidates = candidates
        self._scores = scores

    def rescore(self, query: Query, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Replace the scores of a query's candidates, and rank them above all other items."""
        if query.direction == "image_to_text":
            items = self._candidates.texts[query.query_index]
            pair_scores = self._scores(np.full_like(items, query.query_index), items)
        else:
            items = self._candidates.images[query.query_index]
            pair_scores = self._scores(items, np.full_like(items, query.query_index))
        # The other scores are cosines, which are at most 1.
        scores[items] = 2 + (pair_scores - pair_scores.min())
        return scores


def rank_items(
    query: Query,
    images: Features,
    texts: Features,
    image_of_text: NDArray[np.int64],
    pair_scores: _PairRescoring | None = None,
) -> RankedItems | None:
    """Rank images (N, D) for a text, or texts (M, D) for an image, by the product of features.

    With `pair_scores`, candidates are ranked by scores of pairs instead. Among items with equal
    scores, the matching ones come last, as in the measured ranks. Returns None if the query does
    not get the rank that was measured.
    """
    if query.direction == "image_to_text":
        query_feature, items = images[query.query_index], texts
    else:
        query_feature, items = texts[query.query_index], images
    # Sums are exact before they are rounded to float32, so that equal features score the same.
    scores = items.astype(np.float64) @ query_feature.astype(np.float64)
    if pair_scores is not None:
        scores = pair_scores.rescore(query, scores)
    is_matching = _matching_items(query, image_of_text, len(images))
    # The last key of lexsort is the first one to sort by.
    order = np.lexsort((is_matching, -scores.astype(np.float32)))
    rank = 1 + int(np.argmax(is_matching[order]))
    if not _is_measured_rank(rank, query.rank):
        return None
    return RankedItems(int(order[rank - 1]), tuple(order[:_SHOWN_ITEMS].tolist()))


def _is_measured_rank(rank: int, measured_rank: int) -> bool:
    """Return whether a rank agrees with the measured one.

    Low ranks may differ by rounding. Ranks of items that are shown must be equal.
    """
    if min(rank, measured_rank) <= _SHOWN_ITEMS:
        return rank == measured_rank
    return abs(rank - measured_rank) <= max(1, _RANK_TOLERANCE * measured_rank)


def _matching_items(
    query: Query, image_of_text: NDArray[np.int64], n_images: int
) -> NDArray[np.bool_]:
    """Return whether each item belongs to the query: each text, or each image."""
    if query.direction == "image_to_text":
        return image_of_text == query.query_index
    return np.arange(n_images) == image_of_text[query.query_index]


class _QueryDrawing(NamedTuple):
    """A query that can be drawn; `ranked_items` is None if they are not known."""

    result: SampledResult
    data: RetrievalData
    query: Query
    ranked_items: RankedItems | None

    def draw(self, canvas: Canvas) -> RetrievalExample:
        """Draw the query and its items. Raises UsageError if an image cannot be used."""
        query = self.query
        is_matching = _matching_items(query, self.data.image_of_text, len(self.data.images))
        items = self.ranked_items or RankedItems(int(np.argmax(is_matching)), ())
        query_is_image = query.direction == "image_to_text"
        row = self.result.row
        return RetrievalExample(
            model=self.result.model,
            dataset=row.dataset,
            protocol=row.protocol,
            direction=query.direction,
            rank=query.rank,
            query=self._draw_item(canvas, query.query_index, is_image=query_is_image),
            expected=self._draw_item(canvas, items.best_match, is_image=not query_is_image),
            retrieved=[
                self._draw_item(canvas, index, is_image=not query_is_image) for index in items.top
            ],
            right=is_matching[list(items.top)].tolist(),
        )

    def _draw_item(self, canvas: Canvas, index: int, *, is_image: bool) -> Picture | str:
        """Return an image of the data set as a picture, or a caption."""
        if is_image:
            return canvas.thumbnail(self.data.images[index])
        return self.data.captions[index]
