"""Queries of retrieval results: some that failed, some that succeeded. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.retrieval import RetrievalData, open_data, sample_list_hash
from cosmos_eval.data.sources import decoded
from cosmos_eval.report.content import Sampled
from cosmos_eval.report.gallery.pictures import Candidate, Canvas
from cosmos_eval.report.gallery.records import Picture, RetrievalExample
from cosmos_eval.report.gallery.samples import judge_captions, sample_candidates
from cosmos_eval.report.gallery.source import Group, Pair, Request, Source, listed, spread
from cosmos_eval.stats.retrieval import Candidates
from cosmos_eval.tasks.retrieval import IMAGE_RANK, TEXT_RANK, candidates_of, scores_of
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

_KIND = "lists of what was found"
_FAILURES, _SUCCESSES = 3, 2  # at most, of a result in a direction
_FIRST = 3  # items that are shown of those found
# Low ranks may differ a little, since another machine rounds in another way.
_ROUNDING = 0.05
# Embedded for a report at most, unless the cache has more.
_MOST_IMAGES, _MOST_CAPTIONS = 1000, 5000
_MOST_PAIRS = 250_000


class Query(NamedTuple):
    """An image or a caption by its number, and the rank of its best counterpart, from 1."""

    direction: Direction
    number: int
    rank: int


class Found(NamedTuple):
    """Indices of the best right item and of the first items, best first."""

    best: int
    first: tuple[int, ...]


class RetrievalSource(Source):
    """Queries of every result of a group."""

    def __init__(self, group: Group, options: RunOptions) -> None:
        super().__init__()
        self._name, self._options = group.name, options
        self._pairs = cast(RetrievalProtocol, group.protocol).pairs
        self._found: dict[str, dict[Query, Found | None]] = {}  # by model
        self._results = self.open_results(group, options, open_data, _is_of)
        for result, data in self._results:
            run = partial(self._embed_and_find, result, data)
            self.requests.append(Request(result.row, result.model, _KIND, group.name, run))
        for _, data in self._results[:1]:
            self.pairs += captioned_images(group.protocol, data)

    def _embed_and_find(
        self, result: Sampled, data: RetrievalData, encoder: Encoder, progress: OnProgress
    ) -> None:
        """Find the model's first items for each query whose rank comes out as it was measured."""
        from cosmos_eval.embedding.embed import TooManyError, embed_images, embed_texts

        given = self._options, progress
        rescored = None
        try:
            images = embed_images(encoder, data.images, *given, most=_MOST_IMAGES).features
            texts = embed_texts(
                encoder, data.captions, *given, phase="captions", most=_MOST_CAPTIONS
            ).features
            if self._pairs is not None:
                candidates = candidates_of(self._pairs, images, texts)
                pairs = scores_of(encoder, candidates, data, *given, most=_MOST_PAIRS)
                rescored = partial(_rescored, candidates, pairs)
        except TooManyError as error:
            raise UsageError(f"{error}, so measure again without --no-cache") from error
        self._found[result.model] = {
            query: find(query, images, texts, data.image_of_text, rescored)
            for query in choose_queries(result.samples)
        }

    def candidates(self) -> Iterator[Candidate]:
        """Return the chosen captions of all results, and queries of every result."""
        yield from sample_candidates(self._results, judge_captions)
        differing: list[str] = []
        for result, data in self._results:
            found = self._found.get(result.model, {})
            for _, queries in groupby(choose_queries(result.samples), attrgetter("direction")):
                for turn, query in enumerate(queries):
                    yield Candidate(turn, partial(_draw, result, data, query, found.get(query)))
            differing += [result.model] * list(found.values()).count(None)
        if differing:
            self.notes.append(
                f"{self._name}: what {listed([*dict.fromkeys(differing)])} found is not "
                f"shown for {len(differing)} queries, whose ranks differ from those measured"
            )


def _is_of(data: RetrievalData, result: Sampled) -> bool:
    return sample_list_hash(data) == result.row.provenance["hashes"].get("sample_list")


def captioned_images(protocol: Protocol, data: RetrievalData) -> Iterator[Pair]:
    """Yield a few images, each with its first caption."""
    for index in spread(len(data.images)):
        text = data.captions[int(np.argmax(data.image_of_text == index))]
        yield Pair(protocol.dataset, data.names[index], partial(decoded, data.images[index]), text)


def choose_queries(samples: Samples) -> list[Query]:
    """Choose queries of both directions: the worst, a success, a near miss, one between, ..."""
    queries: list[Query] = []
    names: dict[Direction, str] = {"image_to_text": IMAGE_RANK, "text_to_image": TEXT_RANK}
    for direction, name in names.items():
        ranks = samples[name]
        by_rank = np.argsort(ranks, kind="stable")
        successes, failures = np.split(by_rank, [np.count_nonzero(ranks == 1)])
        wrong = failures[_spread_over_ranks(ranks[failures])].tolist()
        right = successes[spread(len(successes), _SUCCESSES)].tolist()
        indices = [*wrong[:1], *right[:1], *wrong[1:], *right[1:]]
        queries += [Query(direction, index, int(ranks[index])) for index in indices]
    return queries


def _spread_over_ranks(ranks: NDArray[np.integer]) -> list[int]:
    """Return indices into sorted ranks: the worst, the best, and their geometric middle."""
    if not len(ranks):
        return []
    logarithms = np.log(ranks)
    half_way = int(np.abs(logarithms - logarithms[[0, -1]].mean()).argmin())
    indices = [len(ranks) - 1, 0, half_way, len(ranks) // 2]  # the last for many equal ranks
    return list(dict.fromkeys(indices))[:_FAILURES]


def find(
    query: Query,
    images: NDArray[np.float32],
    texts: NDArray[np.float32],
    image_of_text: NDArray[np.int64],
    rescored: Callable[[Query, NDArray[np.float64]], NDArray[np.float64]] | None = None,
) -> Found | None:
    """Rank (N, D) images or (M, D) texts for a query; None where its rank differs. `rescored` are
    scores of pairs in place of products. Of items with equal scores the right ones come last, as in
    the measured ranks."""
    to_text = query.direction == "image_to_text"
    queries, candidates = (images, texts) if to_text else (texts, images)
    right = _right_items(query, image_of_text, len(images))
    # Equal features score the same only where sums are exact before they are rounded.
    exact = candidates.astype(np.float64) @ queries[query.number].astype(np.float64)
    scores = exact if rescored is None else rescored(query, exact)
    order = np.lexsort((right, -scores.astype(np.float32)))
    rank = 1 + int(np.argmax(right[order]))
    tolerance = 0 if min(rank, query.rank) <= _FIRST else max(1, _ROUNDING * query.rank)
    if abs(rank - query.rank) > tolerance:
        return None
    return Found(int(order[rank - 1]), tuple(order[:_FIRST].tolist()))


def _rescored(
    candidates: Candidates, pairs: PairScores, query: Query, scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the scores of all items, those of candidates by pairs and above all others."""
    to_text = query.direction == "image_to_text"
    items = (candidates.texts if to_text else candidates.images)[query.number]
    own = np.full_like(items, query.number)
    found = pairs(own, items) if to_text else pairs(items, own)
    scores[items] = 2 + (found - found.min())  # cosines are up to 1
    return scores


def _right_items(query: Query, image_of_text: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """Return whether each text, or each of the n images, belongs to the query."""
    if query.direction == "image_to_text":
        return image_of_text == query.number
    return np.arange(n) == image_of_text[query.number]


def _draw(
    result: Sampled, data: RetrievalData, query: Query, found: Found | None, canvas: Canvas
) -> RetrievalExample:
    def item(index: int, *, is_image: bool) -> Picture | str:
        return canvas.thumbnail(data.images[index]) if is_image else data.captions[index]

    of_image = query.direction == "image_to_text"
    right = _right_items(query, data.image_of_text, len(data.images))
    best, first = found or Found(int(np.argmax(right)), ())
    return RetrievalExample(
        model=result.model,
        dataset=result.row.dataset,
        protocol=result.row.protocol,
        direction=query.direction,
        rank=query.rank,
        query=item(query.number, is_image=of_image),
        expected=item(best, is_image=not of_image),
        found=[item(index, is_image=not of_image) for index in first],
        right=right[list(first)].tolist(),
    )
