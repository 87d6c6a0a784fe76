"""Queries of retrieval results: some that failed, some that succeeded. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.data.retrieval import RetrievalData, open_data, sample_list_hash
from cosmos_eval.data.sources import ImageSource
from cosmos_eval.report.content import Sampled
from cosmos_eval.report.gallery.pictures import Candidate, Canvas
from cosmos_eval.report.gallery.records import Picture, RetrievalExample
from cosmos_eval.report.gallery.source import Group, Outputs, Pair, Request, Source, listed, spread
from cosmos_eval.tasks.retrieval import IMAGE_RANK, TEXT_RANK
from cosmos_eval.types import OnProgress, Protocol, RunOptions, Samples, UsageError

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

Direction = Literal["image_to_text", "text_to_image"]

_KIND = "lists of what was found"
_FAILURES, _SUCCESSES = 3, 2  # at most, of a result in a direction
_FIRST = 3  # items that are shown of those found
# Low ranks may differ a little, since another machine rounds in another way.
_ROUNDING = 0.05
# Embedded for a report at most, unless the cache has more.
_MOST_IMAGES, _MOST_CAPTIONS = 1000, 5000


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
        self._group, self._options = group, options
        self._results = self.open_results(group, options, open_data, _is_of)
        for _, data in self._results[:1]:
            self.pairs += captioned_images(group.protocol, data)

    def requests(self) -> Iterator[Request]:
        """Return, for every result, what its model finds."""
        for result, data in self._results:
            queries = choose_queries(result.samples)
            run = partial(_embed_and_find, data, queries, self._options)
            yield Request(result.row, result.model, _KIND, self._group.name, run)

    def candidates(self, outputs: Outputs) -> Iterator[Candidate]:
        """Return the chosen queries of every result."""
        differing: list[str] = []
        for result, data in self._results:
            found = outputs.get((_KIND, self._group.name, result.model))
            rounds = {"image_to_text": 0, "text_to_image": 0}
            for query in choose_queries(result.samples):
                items = (found or {}).get(query)
                draw = partial(_draw, result, data, query, items)
                yield Candidate(rounds[query.direction], draw)
                rounds[query.direction] += 1
                if found is not None and items is None:
                    differing.append(result.model)
        if differing:
            self.notes.append(
                f"{self._group.name}: what {listed([*dict.fromkeys(differing)])} found is not "
                f"shown for {len(differing)} queries, whose ranks differ from those measured"
            )


def _is_of(data: RetrievalData, result: Sampled) -> bool:
    return sample_list_hash(data) == result.row.provenance["hashes"].get("sample_list")


def captioned_images(protocol: Protocol, data: RetrievalData) -> Iterator[Pair]:
    """Yield a few images, each with its first caption."""
    for index in spread(len(data.images)):
        text = data.captions[int(np.argmax(data.image_of_text == index))]
        yield Pair(protocol.dataset, data.names[index], partial(_image, data.images[index]), text)


def _image(source: ImageSource) -> Image.Image:
    return source.decode(source.read())


def choose_queries(samples: Samples) -> list[Query]:
    """Choose queries of both directions: the worst, a success, a near miss, one between, ..."""
    of_images = _queries("image_to_text", samples[IMAGE_RANK])
    return [*of_images, *_queries("text_to_image", samples[TEXT_RANK])]


def _queries(direction: Direction, ranks: NDArray[np.integer]) -> list[Query]:
    by_rank = np.argsort(ranks, kind="stable")
    successes, failures = np.split(by_rank, [np.count_nonzero(ranks == 1)])
    wrong = [failures[place] for place in _spread_over_ranks(ranks[failures])]
    right = [successes[place] for place in spread(len(successes), _SUCCESSES)]
    indices = [*wrong[:1], *right[:1], *wrong[1:], *right[1:]]
    return [Query(direction, int(index), int(ranks[index])) for index in indices]


def _spread_over_ranks(ranks: NDArray[np.integer]) -> list[int]:
    """Return indices into sorted ranks: the worst, the best, and their geometric middle."""
    if not len(ranks):
        return []
    logarithms = np.log(ranks)
    half_way = int(np.abs(logarithms - logarithms[[0, -1]].mean()).argmin())
    indices = [len(ranks) - 1, 0, half_way, len(ranks) // 2]  # the last for many equal ranks
    return list(dict.fromkeys(indices))[:_FAILURES]


def _embed_and_find(
    data: RetrievalData,
    queries: Sequence[Query],
    options: RunOptions,
    encoder: Encoder,
    progress: OnProgress,
) -> dict[Query, Found]:
    """Find the model's first items for each query whose rank comes out as it was measured."""
    from cosmos_eval.embedding.embed import TooManyError, embed_images, embed_texts

    try:
        images = embed_images(encoder, data.images, options, progress, most=_MOST_IMAGES)
        texts = embed_texts(
            encoder, data.captions, options, progress, phase="captions", most=_MOST_CAPTIONS
        )
    except TooManyError as error:
        raise UsageError(f"{error}, so measure again without --no-cache") from error
    found = {q: find(q, images.features, texts.features, data.image_of_text) for q in queries}
    return {query: items for query, items in found.items() if items is not None}


def find(
    query: Query,
    images: NDArray[np.float32],
    texts: NDArray[np.float32],
    image_of_text: NDArray[np.int64],
) -> Found | None:
    """Rank (N, D) images or (M, D) texts for a query; None where its rank differs.

    Of items with equal scores the right ones come last, as in the measured ranks.
    """
    if query.direction == "image_to_text":
        one, candidates, right = images[query.number], texts, image_of_text == query.number
    else:
        one, candidates = texts[query.number], images
        right = np.arange(len(images)) == image_of_text[query.number]
    # Equal features score the same only where sums are exact before they are rounded.
    scores = (candidates.astype(np.float64) @ one.astype(np.float64)).astype(np.float32)
    order = np.lexsort((right, -scores))
    rank = 1 + int(np.argmax(right[order]))
    if not _is_same_rank(rank, query.rank):
        return None
    return Found(int(order[rank - 1]), tuple(order[:_FIRST].tolist()))


def _is_same_rank(rank: int, measured: int) -> bool:
    if min(rank, measured) <= _FIRST:
        return rank == measured
    return abs(rank - measured) <= max(1, _ROUNDING * measured)


def _draw(
    result: Sampled, data: RetrievalData, query: Query, found: Found | None, canvas: Canvas
) -> RetrievalExample:
    def image(index: int) -> Picture | str:
        return canvas.thumbnail(data.images[index])

    def caption(index: int) -> Picture | str:
        return data.captions[index]

    owner = data.image_of_text
    if query.direction == "image_to_text":
        right, own, other = owner == query.number, image, caption
    else:
        right = np.arange(len(data.images)) == owner[query.number]
        own, other = caption, image
    best, first = found or Found(int(np.argmax(right)), ())
    items: Any = [other(index) for index in first]
    return RetrievalExample(
        model=result.model,
        dataset=result.row.dataset,
        protocol=result.row.protocol,
        direction=query.direction,
        rank=query.rank,
        query=own(query.number),
        expected=other(best),
        found=items,
        right=right[list(first)].tolist(),
    )
