"""What an accuracy is read beside: the chance level, and what needs no image.

Chance levels are compared with all orders of the scores, each of which is as probable.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.results import metrics_of, store_result

from cosmos_eval.stats.choices import expected_hits, pair_hits, single_hits, text_hits
from cosmos_eval.tasks import selection
from cosmos_eval.types import Measurement, RunOptions

Orders = Sequence[tuple[int, ...]]


def share_of_orders(n: int, is_right: Callable[[np.ndarray[Any, Any]], bool]) -> float:
    """Return the share of all orders of n scores in which an item is right."""
    return float(np.mean([is_right(np.array(order)) for order in permutations(range(n))]))


@pytest.mark.parametrize(("n", "right"), [(2, 1), (4, 1), (3, 2), (5, 2), (5, 3)])
def test_chance_of_single_items_by_all_orders(n, right):
    """The first `right` of n answers are the right ones."""
    items, n_right = [np.arange(n)], np.array([right])

    def is_right(order: np.ndarray[Any, Any]) -> bool:
        def score(rows: Any, columns: Any) -> np.ndarray[Any, Any]:
            return order[columns].astype(np.float32)

        return bool(single_hits(score, np.array([0]), items, n_right)[0])

    chance = expected_hits(np.zeros(n), items, n_right)
    assert chance[0] == pytest.approx(share_of_orders(n, is_right))


@pytest.mark.parametrize(("n", "right"), [(2, 1), (4, 1), (3, 2), (5, 3)])
def test_chance_if_one_of_the_right_answers_is_enough(n, right):
    items, n_right = [np.arange(n)], np.array([right])

    def is_right(order: np.ndarray[Any, Any]) -> bool:
        def score(rows: Any, columns: Any) -> np.ndarray[Any, Any]:
            return order[columns].astype(np.float32)

        (hit,) = single_hits(score, np.array([0]), items, n_right, is_one_enough=True)
        assert hit == (order.argmax() < right)
        return bool(hit)

    chance = expected_hits(np.zeros(n), items, n_right, is_one_enough=True)
    assert chance[0] == pytest.approx(share_of_orders(n, is_right))
    assert chance[0] == pytest.approx(right / n)


@pytest.mark.parametrize("array", ["text_correct", "image_correct", "group_correct"])
def test_chance_of_pairs_by_all_orders(array):
    """The four scores are those of two images and two captions."""

    def is_right(order: np.ndarray[Any, Any]) -> bool:
        def score(rows: Any, columns: Any) -> np.ndarray[Any, Any]:
            return order[2 * rows + columns].astype(np.float32)

        hits = pair_hits(score, np.array([[0, 1]]), np.array([[0, 1]]))
        samples = {"text_correct": hits.text, "image_correct": hits.image}
        return bool(selection.TASK.derive({**samples})[array][0])

    hits = np.array([True])
    samples = {"text_correct": hits, "image_correct": hits, "chance": np.array([1 / 6])}
    chance = selection.TASK.derive(samples)[f"{array}_chance"]
    assert chance[0] == pytest.approx(share_of_orders(4, is_right))


@pytest.mark.parametrize(("n", "right"), [(3, 2), (4, 2), (4, 3)])
def test_chance_of_text_to_text_by_all_orders(make_set, colour_encoder, n, right):
    """Pairs of captions with a right one are scored; pairs of two right ones must be highest."""
    pairs = [pair for pair in combinations(range(n), 2) if pair[0] < right]
    both_are_right = np.array([pair[1] < right for pair in pairs])
    texts = [f"text {i}" for i in range(n)]
    record = {"image": "a.png", "caption": texts[0], "positive": texts[1:right]}
    protocol = make_set(IMAGES, [{**record, "negative": texts[right:]}])
    metrics = selection.TASK.measure_one(colour_encoder, protocol, RunOptions()).metrics

    def is_right(order: np.ndarray[Any, Any]) -> bool:
        return bool(order[both_are_right].min() > order[~both_are_right].max())

    expected = share_of_orders(len(pairs), is_right)
    assert metrics["text_to_text_chance"] == pytest.approx(expected)


def test_equal_values_are_in_random_order_and_repeated_answers_count_once():
    values = np.array([0.0, 1.0, 1.0, 2.0])
    items = [[3, 0, 1], [1, 2, 0], [0, 3], [1, 2, 2], [1, 1, 2], [1, 1], [1, 2, 0]]
    n_right = np.array([1, 1, 1, 1, 2, 1, 2])
    hits = expected_hits(values, [np.array(answers) for answers in items], n_right)
    assert hits.tolist() == [1, 0.5, 0, 0.5, 0.5, 0, 1]


def item(image: str, caption: str, *negatives: str, **fields: Any) -> dict[str, Any]:
    return {"image": image, "caption": caption, "negatives": list(negatives), **fields}


IMAGES = {"a.png": "red", "b.png": "red", "c.png": "green"}
ITEMS = [
    # Captions are chosen blind by the mean of the images: two parts of red and one of green.
    item("a.png", "a red thing", "green", subset="one"),  # blind right; the right one is longer
    item("c.png", "green", "a red thing", "two blue things", subset="two"),  # blind wrong
    item("a.png", "red thing", "blue thing", subset="two"),  # blind right; both have two words
    item("b.png", "the red", "red", subset="two"),  # both captions score the same
]


@pytest.fixture
def result(make_set, colour_encoder) -> Measurement:
    return selection.TASK.measure_one(colour_encoder, make_set(IMAGES, ITEMS), RunOptions())


def test_baselines_solved_by_hand(result):
    assert result.samples["correct"].tolist() == [True, True, True, False]
    assert result.samples["blind"].tolist() == [True, False, True, False]
    assert result.samples["shorter"].tolist() == [0, 1, 0.5, 0]
    assert result.samples["chance"].tolist() == [0.5, pytest.approx(1 / 3), 0.5, 0.5]
    chance = (0.5 + 1 / 3 + 0.5 + 0.5) / 4
    assert result.metrics["chance"] == pytest.approx(chance)
    assert result.metrics["blind_accuracy"] == 0.5
    assert result.metrics["shorter_accuracy"] == pytest.approx(1.5 / 4)
    assert result.metrics["mean_subset_accuracy_chance"] == pytest.approx((0.5 + 4 / 9) / 2)
    assert result.metrics["mean_subset_accuracy_blind"] == pytest.approx((1 + 1 / 3) / 2)
    assert result.per_class["two"]["blind_accuracy"] == pytest.approx(1 / 3)
    assert set(result.intervals) == {"accuracy", "mean_subset_accuracy"}


def test_metrics_are_those_of_stored_samples(result):
    assert metrics_of("select", result.samples) == result.metrics
    assert set(metrics_of("select", older_samples(result.samples))) == COMPARED


COMPARED = {"accuracy", "mean_subset_accuracy"}


def older_samples(samples: dict[str, Any]) -> dict[str, Any]:
    """Return samples as results of older versions have them, which lack the baselines."""
    return {n: a for n, a in samples.items() if n not in ("blind", "shorter", "chance")}


@pytest.fixture
def stored(result, tmp_path) -> Path:
    """Store the results of two models and, as older versions have it, of a third."""
    all_correct = {**result.samples, "correct": np.ones(4, bool)}
    samples_of_models = {
        "one": result.samples,
        "two": all_correct,
        "old": older_samples(all_correct),
    }
    for name, samples in samples_of_models.items():
        fields = {"model": {"spec": name}, "provenance": {"hashes": {"sample_list": "0" * 64}}}
        store_result(tmp_path / "runs/eval", "select", samples, **fields)
    return tmp_path / "runs/eval"


def test_references_are_shown_and_not_ranked(command, stored):
    assert command("verify").status == 0
    lines = command("leaderboard", "--format", "md").out.splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("|")]
    cells = {row[0].removeprefix("| "): row for row in rows}
    titles = [title.removeprefix("scenes-cls ").rstrip(" |") for title in cells["model"]]
    assert titles[1:4] == ["accuracy", "chance", "no image"]
    assert cells["one"][2:4] == ["45.8", "50.0"]
    assert not cells["old"][2].strip()
    entries = json.loads(command("leaderboard", "--format", "json").out)
    assert {name for entry in entries for name in entry["standings"]} == COMPARED


def test_references_are_not_compared(command, stored):
    """The second result has them; the third one lacks them."""
    for other in ("two", "old"):
        arguments = ("compare", stored, stored, "--model", "one", "--model", other, "--json")
        status, out, err = command(*arguments)
        tests = {test["metric"] for test in json.loads(out)["tests"]}
        assert (status, tests, err) == (0, COMPARED, "")
    update = ("--update", "--reason", "first")
    assert command("check", stored, "--baseline", "b.json", *update).status == 0
    checked = command("check", stored, "--baseline", "b.json")
    assert checked.status == 0
    assert "chance" not in checked.out + checked.err


def test_pairs_have_a_chance_and_no_blind_choice(make_set, colour_encoder):
    pairs = [{"image_0": "a.png", "image_1": "c.png", "caption_0": "red", "caption_1": "green"}]
    protocol = make_set(IMAGES, pairs, layout="pairs")
    metrics = selection.TASK.measure_one(colour_encoder, protocol, RunOptions()).metrics
    assert metrics["chance"] == metrics["group_score_chance"] == pytest.approx(1 / 6)
    assert metrics["text_score_chance"] == metrics["image_score_chance"] == 1 / 4
    assert "blind_accuracy" not in metrics
    protocol = make_set(IMAGES, pairs, "i.json", layout="pairs", pair_accuracy="image")
    metrics = selection.TASK.measure_one(colour_encoder, protocol, RunOptions()).metrics
    assert metrics["chance"] == 1 / 4


def test_a_pair_of_one_image_cannot_be_solved(make_set, colour_encoder):
    pairs = [{"image_0": "a.png", "image_1": "a.png", "caption_0": "red", "caption_1": "green"}]
    protocol = make_set(IMAGES, pairs, layout="pairs", n_items=1)
    metrics = selection.TASK.measure_one(colour_encoder, protocol, RunOptions()).metrics
    assert metrics["chance"] == metrics["text_score_chance"] == 0


def test_images_are_chosen_blind_by_the_mean_of_captions(make_set, colour_encoder):
    records = [
        {"caption": "red", "image": "a.png", "negative_image": "c.png"},
        {"caption": "green", "image": "c.png", "negative_image": ["a.png"]},
        {"caption": "red it is", "image": "b.png", "negative_image": "c.png"},
    ]
    result = selection.TASK.measure_one(colour_encoder, make_set(IMAGES, records), RunOptions())
    assert result.samples["correct"].all()
    assert result.samples["blind"].tolist() == [True, False, True]
    assert result.metrics["chance"] == 0.5
    assert "shorter_accuracy" not in result.metrics


def test_one_image_leaves_no_mean_to_choose_blind_by(make_set, colour_encoder):
    result = selection.TASK.measure_one(colour_encoder, make_set(IMAGES, ITEMS[:1]), RunOptions())
    assert "blind_accuracy" not in result.metrics
    assert result.metrics["chance"] == 0.5


def test_pairs_and_sets_multiply_chances(make_set, colour_encoder):
    pair_ids = ("p", "p", "q", "q")
    items = [{**i, "pair_id": pair_id} for i, pair_id in zip(ITEMS, pair_ids, strict=True)]
    protocol = make_set(IMAGES, items)
    metrics = selection.TASK.measure_one(colour_encoder, protocol, RunOptions()).metrics
    assert metrics["accuracy_of_pairs"] == 0.5
    assert metrics["accuracy_of_pairs_chance"] == pytest.approx((0.5 / 3 + 0.25) / 2)
    assert metrics["accuracy_of_pairs_blind"] == 0


def test_text_to_text_by_hand(make_set, colour_encoder):
    texts = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
    items = [[0, 1, 3], [0, 1, 2], [0, 3, 1]]  # 0.8 > 0.6; 0.8 < 0.96; 0 < 0.6
    hits = text_hits(texts, [np.array(captions) for captions in items], np.array([2, 2, 2]))
    assert hits == [True, False, False]
    records = [{"image": "a.png", "caption": "red", "positive": "red one", "negative": "blue"}]
    protocol = make_set(IMAGES, records)
    metrics = selection.TASK.measure_one(colour_encoder, protocol, RunOptions()).metrics
    assert metrics["text_to_text"] == 1
    assert metrics["text_to_text_chance"] == metrics["chance"] == pytest.approx(1 / 3)
