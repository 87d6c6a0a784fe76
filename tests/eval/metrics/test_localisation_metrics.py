"""How much of a map falls on a thing: solved by hand, by plain loops, and resampled one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from cosmos_eval.stats.estimates import FunctionOfSums
from cosmos_eval.stats.intervals import intervals
from cosmos_eval.stats.localisation import (
    METRICS,
    SIZES,
    MapScores,
    Pairs,
    Sums,
    auc,
    cover,
    of_size,
    pointing,
    score_maps,
    sums_of_images,
)
from cosmos_eval.tasks.localisation import TASK

# The label of pixels that do not count.
IGNORED = 9


def test_pixels_under_patches_by_hand() -> None:
    label = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [9, 9, 2, 2], [9, 0, 2, 2]])
    under = cover(label, [1, 2], (2, 2), IGNORED)
    assert under.things.tolist() == [[[3, 0], [0, 0]], [[0, 0], [0, 4]]]
    assert under.labelled.tolist() == [[4, 4], [1, 4]]
    # The middles are at rows and columns 1 and 3.
    assert under.thing_middles.tolist() == [[[False, False]] * 2, [[False, False], [False, True]]]
    assert under.labelled_middles.tolist() == [[True, True], [True, True]]


def test_patches_that_end_inside_pixels_share_them() -> None:
    under = cover(np.array([[1, 0, 1]]), [1], (1, 2), IGNORED)
    # Half of the pixel in the middle lies under each of the two patches.
    assert under.things.tolist() == [[[1, 1]]]
    assert under.labelled.tolist() == [[1.5, 1.5]]
    finer = cover(np.array([[1, 0]]), [1], (2, 4), IGNORED)
    assert finer.things.tolist() == [[[0.25, 0.25, 0, 0]] * 2]


@pytest.mark.parametrize("size", [(32, 48), (37, 50), (5, 3)])
def test_an_even_map_scores_as_chance(size: tuple[int, int]) -> None:
    """Its mass is the area of the thing, and its AUC is 1/2."""
    rng = np.random.default_rng(0)
    label = rng.choice([0, 1, 2, IGNORED], size, p=[0.5, 0.2, 0.2, 0.1])
    label.ravel()[:1] = 1
    present = [number for number in (0, 1, 2) if (label == number).any()]
    maps = np.full((len(present), 4, 6), 1 / 24)
    scores = score_maps(maps, cover(label, present, (4, 6), IGNORED))
    n_labelled = (label != IGNORED).sum()
    areas = [(label == number).sum() / n_labelled for number in present]
    np.testing.assert_allclose(scores.mass, areas, rtol=1e-12)
    np.testing.assert_allclose(scores.auc, 0.5, rtol=1e-12)
    np.testing.assert_allclose(scores.other_names, areas, rtol=1e-12)


def test_a_map_that_falls_only_on_its_thing_scores_one() -> None:
    """Class 1 fills one of four patches, class 0 the other three."""
    label = np.zeros((8, 8), int)
    label[:4, 4:] = 1
    map_of_1 = np.array([[0.0, 1.0], [0.0, 0.0]])
    map_of_0 = 1 - map_of_1
    scores = score_maps(np.stack([map_of_0, map_of_1]), cover(label, [0, 1], (2, 2), IGNORED))
    for values in (scores.mass, scores.hit, scores.auc):
        assert values.tolist() == [1, 1]
    assert scores.other_names.tolist() == [0, 0]


def test_pixels_without_a_label_count_nowhere() -> None:
    label = np.array([[IGNORED, IGNORED, 1, 1, 2, 2], [IGNORED, IGNORED, 1, 1, 2, IGNORED]])
    maps = np.array([[[0.6, 0.3, 0.1]], [[0.6, 0.3, 0.1]]])
    scores = score_maps(maps, cover(label, [1, 2], (1, 3), IGNORED))
    # 0.3 falls on four pixels of class 1, and 0.1 on four pixels, three of them of class 2.
    np.testing.assert_allclose(scores.mass, [0.3 / 0.375, 0.075 / 0.375])
    # The highest patch has no label in its middle. The next one is on the first thing.
    assert scores.hit.tolist() == [1, 0]
    assert scores.auc.tolist() == [1, 0]


def test_a_map_that_falls_only_on_unlabelled_pixels_has_no_mass() -> None:
    label = np.array([[IGNORED, IGNORED, 1, 2]])
    scores = score_maps(np.array([[[1.0, 0.0]]] * 2), cover(label, [1, 2], (1, 2), IGNORED))
    assert scores.mass.tolist() == [0, 0]
    assert scores.auc.tolist() == [0.5, 0.5]


def test_auc_by_hand_with_ties() -> None:
    """Each of four values of a map lies on some pixels inside and some outside of a thing."""
    values = np.array([0.1, 0.2, 0.2, 0.7])
    inside, outside = np.array([1, 1, 0, 2]), np.array([2, 0, 3, 1])
    # Of 4 x 6 pairs of pixels: the first pixel inside is higher than none outside and ties with 2,
    # the second is higher than 2 and ties with 3, each of the last two is higher than 5 and ties
    # with 1.
    assert auc(values, inside, outside) == (1 + 3.5 + 2 * 5.5) / 24
    assert auc(-values, inside, outside) == pytest.approx(1 - 15.5 / 24)


def test_pointing_by_hand() -> None:
    """The thing lies under the first of four patches; ties for the highest patch share the hit."""
    thing = np.array([[True, False], [False, False]])
    all_labelled = np.ones((2, 2), bool)
    left_labelled = np.array([[True, False], [True, False]])
    highest_on_thing = np.array([[0.4, 0.3], [0.2, 0.1]])
    highest_beside_thing = np.array([[0.3, 0.4], [0.2, 0.1]])
    tie_of_two = np.array([[0.4, 0.4], [0.2, 0.0]])
    tie_of_all = np.full((2, 2), 0.25)
    assert pointing(highest_on_thing, thing, all_labelled) == 1
    assert pointing(highest_beside_thing, thing, all_labelled) == 0
    assert pointing(tie_of_two, thing, all_labelled) == 0.5
    assert pointing(tie_of_all, thing, all_labelled) == 0.25
    assert pointing(highest_beside_thing, thing, left_labelled) == 1
    assert pointing(highest_beside_thing, thing, ~all_labelled) == 0


@pytest.mark.parametrize(
    ("size", "grid"), [((12, 18), (3, 6)), ((7, 10), (3, 4)), ((2, 3), (4, 5))]
)
def test_scores_equal_those_of_maps_over_small_pixels(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    """Maps and labels are enlarged to pixels so small that every patch is a number of pixels."""
    rng = np.random.default_rng(1)
    label = rng.choice([0, 1, 2, IGNORED], size)
    label.ravel()[:3] = 0, 1, 2
    maps = rng.integers(0, 5, (3, *grid)) / 10 + 0.01  # with ties
    scores = score_maps(maps, cover(label, [0, 1, 2], grid, IGNORED))
    fine_label = label.repeat(grid[0], 0).repeat(grid[1], 1)
    fine_maps = maps.repeat(size[0], 1).repeat(size[1], 2)
    is_labelled = fine_label != IGNORED
    for number, weights in enumerate(fine_maps):
        is_thing = fine_label == number
        is_elsewhere = is_labelled & ~is_thing
        expected_mass = weights[is_thing].sum() / weights[is_labelled].sum()
        assert scores.mass[number] == pytest.approx(expected_mass)
        higher_pairs = mannwhitneyu(weights[is_thing], weights[is_elsewhere]).statistic
        n_pairs = is_thing.sum() * is_elsewhere.sum()
        assert scores.auc[number] == pytest.approx(higher_pairs / n_pairs)
        masses_of_other_names = [
            other_map[is_thing].sum() / other_map[is_labelled].sum()
            for other_map in np.delete(fine_maps, number, 0)
        ]
        assert scores.other_names[number] == pytest.approx(np.mean(masses_of_other_names))
        expected_hit = plain_pointing(maps[number], label, number)
        assert scores.hit[number] == pytest.approx(expected_hit)


def plain_pointing(weights: np.ndarray, label: np.ndarray, thing: int) -> float:
    """Return the share of the highest patches whose middle pixel belongs to a thing.

    Patches without a label in their middle do not count. Shapes: `weights` (h, w), `label` (H, W).
    """
    (n_rows, n_columns), (height, width) = weights.shape, label.shape
    weights_and_labels = []
    for row, column in itertools.product(range(n_rows), range(n_columns)):
        middle_row = (2 * row + 1) * height // (2 * n_rows)
        middle_column = (2 * column + 1) * width // (2 * n_columns)
        middle_label = label[middle_row, middle_column]
        if middle_label != IGNORED:
            weights_and_labels.append((weights[row, column], middle_label))
    highest = max(weight for weight, _ in weights_and_labels)
    hits = [number == thing for weight, number in weights_and_labels if weight == highest]
    return float(np.mean(hits))


def make_pairs(n_images: int, seed: int) -> Pairs:
    """Return random pairs of an image and a thing in it.

    Some images have no pair. A pair that is the only one of its image has no other names.
    """
    rng = np.random.default_rng(seed)
    image = np.sort(rng.choice(n_images, 3 * n_images))
    n_pairs = len(image)
    is_only_pair = np.bincount(image)[image] == 1
    scores = MapScores(
        mass=rng.random(n_pairs),
        hit=rng.integers(0, 2, n_pairs) * 1.0,
        auc=rng.random(n_pairs),
        other_names=rng.random(n_pairs) + 0.1,
    )
    scores.other_names[is_only_pair] = np.nan
    return Pairs(
        image=image, size=rng.integers(0, 3, n_pairs), area=rng.random(n_pairs), scores=scores
    )


class PairRow(NamedTuple):
    """The scores of one pair."""

    mass: float
    area: float
    hit: float
    auc: float
    other_names: float


def plain_metrics(pairs: Pairs, drawn_images: list[int]) -> dict[str, float]:
    """Return the metrics of images drawn one by one, by loops over their pairs."""
    rows_by_size: dict[str, list[PairRow]] = {"": [], "_small": [], "_medium": [], "_large": []}
    for image in drawn_images:
        for pair in np.flatnonzero(pairs.image == image):
            mass, hit, auc_of_pair, other_names = (float(score[pair]) for score in pairs.scores)
            row = PairRow(mass, float(pairs.area[pair]), hit, auc_of_pair, other_names)
            rows_by_size[""].append(row)
            rows_by_size[["_small", "_medium", "_large"][pairs.size[pair]]].append(row)
    metrics = {}
    for size, rows in rows_by_size.items():
        if not rows:
            continue
        mean = PairRow(*np.mean(rows, axis=0))
        metrics[f"attention_mass{size}"] = mean.mass
        metrics[f"area{size}"] = mean.area
        metrics[f"mass_over_area{size}"] = mean.mass / mean.area
        metrics[f"pointing_game{size}"] = mean.hit
        metrics[f"AUC{size}"] = mean.auc
        rows_with_other_names = [row for row in rows if not np.isnan(row.other_names)]
        if rows_with_other_names:
            mean = PairRow(*np.mean(rows_with_other_names, axis=0))
            metrics[f"mass_over_other_names{size}"] = mean.mass / mean.other_names
    return metrics


def estimates_of(sums: Sums) -> dict[str, FunctionOfSums]:
    """Return the estimates of all metrics, over things of all sizes and over those of each size."""

    def estimate(metric: Callable[[Sums], np.ndarray], size: int | None) -> FunctionOfSums:
        return FunctionOfSums(sums, lambda total: metric(of_size(size, total)))

    estimates = {name: estimate(metric, None) for name, metric in METRICS.items()}
    for size, size_name in enumerate(SIZES):
        for name, metric in METRICS.items():
            estimates[f"{name}_{size_name}"] = estimate(metric, size)
    return estimates


def test_metrics_equal_plain_means() -> None:
    pairs = make_pairs(n_images=40, seed=2)
    estimates = estimates_of(sums_of_images(pairs, 40))
    metrics = {name: estimate.value for name, estimate in estimates.items()}
    expected = plain_metrics(pairs, list(range(40)))
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value)


def test_intervals_equal_those_of_images_drawn_one_by_one() -> None:
    n_images = 25
    pairs = make_pairs(n_images, seed=3)
    estimates = estimates_of(sums_of_images(pairs, n_images))
    intervals_by_name = intervals(estimates, seed=5, resamples=150)
    rng = np.random.default_rng(5)
    resampled_metrics = []
    for times_drawn in rng.multinomial(n_images, np.full(n_images, 1 / n_images), 150):
        drawn_images = np.repeat(np.arange(n_images), times_drawn).tolist()
        resampled_metrics.append(plain_metrics(pairs, drawn_images))
    for name, interval in intervals_by_name.items():
        values = [metrics[name] for metrics in resampled_metrics if name in metrics]
        assert (interval.low, interval.high) == pytest.approx(np.quantile(values, [0.025, 0.975]))


def test_a_size_without_things_has_no_metrics() -> None:
    pairs = make_pairs(n_images=10, seed=4)
    all_small = pairs._replace(size=np.zeros(len(pairs.image), int))
    estimates = estimates_of(sums_of_images(all_small, 10))
    names_without_value = {name for name, estimate in estimates.items() if np.isnan(estimate.value)}
    assert names_without_value == {name for name in estimates if name.endswith(("medium", "large"))}


def test_the_only_thing_of_an_image_has_no_other_names() -> None:
    label = np.array([[1, 0], [0, 0]])
    one_thing = score_maps(np.full((1, 2, 2), 0.25), cover(label, [1], (2, 2), 255))
    assert one_thing.mass.tolist() == [0.25]
    assert np.isnan(one_thing.other_names).all()
    two_things = score_maps(np.full((2, 2, 2), 0.25), cover(label, [0, 1], (2, 2), 255))
    assert two_things.mass.tolist() == [0.75, 0.25]
    assert two_things.other_names.tolist() == [0.75, 0.25]


def test_the_pointing_game_by_class_is_the_mean_over_classes() -> None:
    """Three of four things of class 0 are hit, none of class 3."""
    samples = {
        "hit": np.array([1, 1, 0, 1, 0], np.float32),
        "class": np.array([0, 0, 0, 0, 3]),
        "image": np.array([0, 0, 1, 2, 2]),
    }
    estimate = TASK.metric("pointing_game_by_class").estimate(samples)
    assert estimate is not None
    assert estimate.value == 0.375
