"""The choice of samples that are shown, solved by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cosmos_eval.reporting.gallery.retrieval import Query, RankedItems, choose_queries, rank_items
from cosmos_eval.reporting.gallery.samples import (
    CaptionedImageJudgement,
    LabelMapJudgement,
    choose_samples,
)
from cosmos_eval.reporting.gallery.segmentation import choose_images
from cosmos_eval.reporting.gallery.source import spread_indices
from cosmos_eval.stats.segmentation import pack
from cosmos_eval.tasks import find_protocol

NOTHING = np.array([], int)


@pytest.mark.parametrize(
    ("n", "most", "places"),
    [
        (0, 3, []),
        (1, 3, [0]),
        (2, 3, [1, 0]),
        (5, 3, [4, 0, 2]),
        (9, 5, [8, 0, 4, 6, 2]),
        (9, 1, [8]),
    ],
)
def test_places_are_spread(n: int, most: int, places: list[int]) -> None:
    assert spread_indices(n, most) == places


def test_queries_are_failures_and_successes_of_all_ranks() -> None:
    """Worst, a success, the nearest miss, one between, a second success."""
    samples = {
        "image_to_text_rank": np.array([1, 9, 2, 1, 41, 3]),
        "text_to_image_rank": np.array([1, 1]),
    }
    assert choose_queries(samples) == [
        Query("image_to_text", 4, 41),
        Query("image_to_text", 3, 1),
        Query("image_to_text", 2, 2),
        Query("image_to_text", 1, 9),  # half-way from 2 to 41: 2 x 4.5 = 41 / 4.5
        Query("image_to_text", 0, 1),
        Query("text_to_image", 1, 1),
        Query("text_to_image", 0, 1),
    ]


@pytest.mark.parametrize(
    ("ranks", "shown"),
    [
        ([2, 2, 2, 2, 3, 5, 18], [18, 2, 5]),  # 6 is half-way
        ([7, 7, 7], [7, 7, 7]),
        ([5, 2], [5, 2]),
    ],
)
def test_failures_are_spread_over_ranks(ranks: list[int], shown: list[int]) -> None:
    samples = {"image_to_text_rank": np.array(ranks), "text_to_image_rank": NOTHING}
    queries = choose_queries(samples)
    assert [query.rank for query in queries] == shown
    assert len({query.query_index for query in queries}) == len(queries)
    assert {query.direction for query in queries} == {"image_to_text"}


IMAGES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)  # red, green, blue
TEXTS = np.array([[1, 0, 0], [0, 0.8, 0.6], [0, 0.6, 0.8], [0, 1, 0]], np.float32)
OWNER = np.array([0, 2, 1, 2])


@pytest.mark.parametrize(
    ("query", "ranked"),
    [
        # The green image scores 0, .8, .6, 1: its own is the third text.
        (Query("image_to_text", 1, 3), RankedItems(2, (3, 1, 2))),
        # The blue image scores 0, .6, .8, 0: its own are the second and the last.
        (Query("image_to_text", 2, 2), RankedItems(1, (2, 1, 0))),
        # A text finds green at .8 before its own blue at .6.
        (Query("text_to_image", 1, 2), RankedItems(2, (1, 2, 0))),
        # "red" is right, and what scores 0 comes in the order of numbers.
        (Query("text_to_image", 0, 1), RankedItems(0, (0, 1, 2))),
        # The last text's own image ties with the red one, and comes after it.
        (Query("text_to_image", 3, 3), RankedItems(2, (1, 0, 2))),
        # Not the rank that was measured.
        (Query("text_to_image", 3, 2), None),
    ],
)
def test_ranked_items_by_hand(query: Query, ranked: RankedItems | None) -> None:
    assert rank_items(query, IMAGES, TEXTS, OWNER) == ranked


def test_a_rank_far_down_may_be_a_little_off() -> None:
    images = np.eye(200, dtype=np.float32)
    text = np.linspace(1, 0, 200, dtype=np.float32)[None]
    owner = np.array([99])  # the hundredth best
    for rank, agrees in {100: True, 104: True, 96: True, 110: False, 90: False, 1: False}.items():
        ranked = rank_items(Query("text_to_image", 0, rank), images, text, owner)
        assert (ranked is not None) == agrees


def test_samples_differ_in_which_models_are_right() -> None:
    """Two models differ on samples 2 and 5. Of the others, both have some right or both wrong."""
    right = np.array([[1, 1, 1, 0, 0, 0, 1, 1], [1, 1, 0, 0, 0, 1, 1, 1]], bool)
    kind = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    chosen = choose_samples(right, kind)
    assert sorted(chosen) == list(range(8))
    assert set(chosen[:2]) == {2, 5}
    first_alike, second_alike = chosen[2:4]
    assert right[0, first_alike] != right[0, second_alike]
    # Of the samples that both have right, each kind comes once before one comes again.
    right_for_both = [index for index in chosen if right[:, index].all()]
    assert sorted(kind[right_for_both[:3]]) == [0, 1, 2]
    assert choose_samples(right, kind, most=3) == chosen[:3]
    assert choose_samples(np.zeros((2, 0), bool), np.zeros(0, int)) == []


def test_classes_of_images_by_their_size_and_iou() -> None:
    """Of the first image, 60 pixels are a and 40 are b. Of those of a, 12 are taken for b."""
    confusions = [np.array([[48, 12], [0, 40]]), np.array([[0, 0], [9, 0]])]
    samples = {
        "name": np.array(["one", "two"]),
        "classes": np.array(["a", "b"]),
        **pack(confusions)._asdict(),
    }
    protocol = replace(find_protocol("scenes-seg"), class_names=("a", "b"))
    judged = LabelMapJudgement(protocol, None, [samples])
    described = [{**judged.description(n), "answer": judged.answer(0, n)} for n in range(3)]
    assert described == [
        {"text": "a", "group": "a", "size": 0.6, "answer": "IoU 80%"},  # 48 / 60
        {"text": "b", "group": "b", "size": 0.4, "answer": "IoU 77%"},  # 40 / 52
        {"text": "b", "group": "b", "size": 1.0, "answer": "IoU 0%, a"},
    ]
    assert judged.right.tolist() == [[True, True, False]]
    assert [judged.taken_for(0, n) for n in range(3)] == ["", "", "a"]


def test_a_class_is_taken_for_the_one_that_most_of_its_pixels_get() -> None:
    """In the first image a gets 2, 5 and 3 pixels as a, b and c, in the second one 1, 0 and 4."""
    first = np.array([[2, 5, 3], [0, 9, 1], [0, 0, 0]])
    second = np.array([[1, 0, 4], [0, 0, 0], [2, 2, 3]])
    samples = {
        "name": np.array(["one", "two"]),
        "classes": np.array(["a", "b", "c"]),
        **pack([first, second])._asdict(),
    }
    protocol = replace(find_protocol("scenes-seg"), class_names=("a", "b", "c"))
    judged = LabelMapJudgement(protocol, None, [samples])
    taken_for = {
        (judged.file(n), judged.description(n)["text"]): judged.taken_for(0, n) for n in range(4)
    }
    assert taken_for == {
        ("one", "a"): "b",
        ("one", "b"): "",
        ("two", "a"): "c",
        ("two", "c"): "",
    }


def test_images_with_captions_by_the_rank_of_their_best_caption() -> None:
    """Of three images the first model ranks a caption of the last two first, the second of none."""
    captions = ["red", "a red one", "green", "blue"]
    data = SimpleNamespace(
        names=["r.png", "g.png", "b.png"], captions=captions, image_of_text=np.array([0, 0, 1, 2])
    )
    samples = [{"image_to_text_rank": np.array(ranks)} for ranks in ([3, 1, 1], [2, 4, 2])]
    judged = CaptionedImageJudgement(data, samples)
    assert judged.metric == "image_to_text_R@1"
    assert judged.right.tolist() == [[False, True, True], [False, False, False]]
    described = [(judged.file(n), judged.description(n)["text"]) for n in range(3)]
    assert described == [("r.png", "red"), ("g.png", "green"), ("b.png", "blue")]
    assert [judged.answer(0, n) for n in range(3)] == ["rank 3", "rank 1", "rank 1"]
    assert [judged.taken_for(0, n) for n in range(3)] == ["", "", ""]


def segmented(*shares: float) -> dict[str, np.ndarray]:
    """Samples of images with 100 labelled pixels, of which a share is right; NaN has none."""
    confusions = []
    for share in shares:
        right = 0 if np.isnan(share) else round(100 * share)
        wrong = 0 if np.isnan(share) else 100 - right
        confusions.append(np.array([[right, wrong], [0, 0]]))
    return {
        "name": np.array([str(n) for n in range(len(shares))]),
        "classes": np.array(["a", "b"]),
        **pack(confusions)._asdict(),
    }


@pytest.mark.parametrize(
    ("models", "chosen"),
    [
        ([np.linspace(1, 0.5, 11)], [5, 9, 1]),  # typical, poor, good
        # They differ on the fourth alone; the means of the others are .9, .8, .5 and .2.
        ([(0.9, 0.8, 0.5, 0.9, 0.2), (0.9, 0.8, 0.5, 0.1, 0.2)], [3, 1, 4]),
        ([(0.9, np.nan, 0.5), (0.4, np.nan)], [0]),  # images that all have and that have labels
        ([(np.nan,)], []),
    ],
)
def test_images_of_segmentation(models: list[tuple[float, ...]], chosen: list[int]) -> None:
    assert choose_images([segmented(*shares) for shares in models]) == chosen
