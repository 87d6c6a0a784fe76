"""Which queries of a retrieval result are shown, and what was found for them. Imports no torch."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.report.gallery.parts import spread
from cosmos_eval.tasks.retrieval import IMAGE_RANK, TEXT_RANK
from cosmos_eval.types import Samples

Direction = Literal["image_to_text", "text_to_image"]

_FAILURES, _SUCCESSES = 3, 2  # at most, of a result in a direction
_FIRST = 3  # of what a model found
# Ranks far down may be a little off: another machine rounds in another way.
_ROUNDING = 0.05


class Query(NamedTuple):
    """An image or a caption by its number, and the rank of its best counterpart, from 1."""

    direction: Direction
    number: int
    rank: int


class Found(NamedTuple):
    """Numbers of the best right one and of the first ones, the best first."""

    best: int
    first: tuple[int, ...]


def chosen(samples: Samples) -> list[list[Query]]:
    """Queries of both directions: the worst, a success, a near miss, one between, a success."""
    ranks: dict[Direction, NDArray[np.integer]] = {
        "image_to_text": samples[IMAGE_RANK],
        "text_to_image": samples[TEXT_RANK],
    }
    return [_queries(direction, values) for direction, values in ranks.items()]


def _queries(direction: Direction, ranks: NDArray[np.integer]) -> list[Query]:
    by_rank = np.argsort(ranks, kind="stable")
    successes, failures = np.split(by_rank, [np.count_nonzero(ranks == 1)])
    wrong = [failures[place] for place in _places_by_rank(ranks[failures])]
    right = [successes[place] for place in spread(len(successes), _SUCCESSES)]
    numbers = [*wrong[:1], *right[:1], *wrong[1:], *right[1:]]
    return [Query(direction, int(number), int(ranks[number])) for number in numbers]


def _places_by_rank(ranks: NDArray[np.integer]) -> list[int]:
    """A few places of sorted ranks: of the worst, the best, and half-way as ranks multiply."""
    if not len(ranks):
        return []
    logarithms = np.log(ranks)
    half_way = int(np.abs(logarithms - logarithms[[0, -1]].mean()).argmin())
    places = [len(ranks) - 1, 0, half_way, len(ranks) // 2]  # the last where many ranks are equal
    return list(dict.fromkeys(places))[:_FAILURES]


def find(
    query: Query,
    images: NDArray[np.float32],
    texts: NDArray[np.float32],
    image_of_text: NDArray[np.int64],
) -> Found | None:
    """What (N, D) images and (M, D) texts put first, None where the query's rank is another.

    Of items that score the same, right ones come last, as ranks have it.
    """
    if query.direction == "image_to_text":
        one, candidates, right = images[query.number], texts, image_of_text == query.number
    else:
        one, candidates = texts[query.number], images
        right = np.arange(len(images)) == image_of_text[query.number]
    # Equal features score the same only where sums are exact before they are rounded.
    scores = (candidates.astype(np.float64) @ one.astype(np.float64)).astype(np.float32)
    order = np.lexsort((right, -scores))
    place = int(np.argmax(right[order]))
    if not _is_same_rank(place + 1, query.rank):
        return None
    return Found(int(order[place]), tuple(order[:_FIRST].tolist()))


def _is_same_rank(rank: int, measured: int) -> bool:
    if min(rank, measured) <= _FIRST:
        return rank == measured
    return abs(rank - measured) <= max(1, _ROUNDING * measured)
