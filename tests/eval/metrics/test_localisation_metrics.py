"""How much of a map falls on a thing: solved by hand, by plain loops, and resampled one by one."""

from __future__ import annotations

import itertools

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

IGNORED = 9


def test_what_lies_under_patches_by_hand() -> None:
    label = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [9, 9, 2, 2], [9, 0, 2, 2]])
    under = cover(label, [1, 2], (2, 2), IGNORED)
    assert under.things.tolist() == [[[3, 0], [0, 0]], [[0, 0], [0, 4]]]
    assert under.labelled.tolist() == [[4, 4], [1, 4]]
    # The middles are at rows and columns 1 and 3.
    assert under.thing_middles.tolist() == [[[False, False]] * 2, [[False, False], [False, True]]]
    assert under.labelled_middles.tolist() == [[True, True], [True, True]]


def test_patches_that_end_inside_pixels_share_them() -> None:
    under = cover(np.array([[1, 0, 1]]), [1], (1, 2), IGNORED)
    assert under.things.tolist() == [[[1, 1]]]  # half of the pixel in the middle is the other's
    assert under.labelled.tolist() == [[1.5, 1.5]]
    finer = cover(np.array([[1, 0]]), [1], (2, 4), IGNORED)
    assert finer.things.tolist() == [[[0.25, 0.25, 0, 0]] * 2]


@pytest.mark.parametrize("size", [(32, 48), (37, 50), (5, 3)])
def test_an_even_map_is_chance(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    label = rng.choice([0, 1, 2, IGNORED], size, p=[0.5, 0.2, 0.2, 0.1])
    label.ravel()[:1] = 1
    present = [number for number in (0, 1, 2) if (label == number).any()]
    maps = np.full((len(present), 4, 6), 1 / 24)
    found = score_maps(maps, cover(label, present, (4, 6), IGNORED))
    labelled = (label != IGNORED).sum()
    areas = [(label == number).sum() / labelled for number in present]
    np.testing.assert_allclose(found.mass, areas, rtol=1e-12)
    np.testing.assert_allclose(found.auc, 0.5, rtol=1e-12)
    np.testing.assert_allclose(found.other_names, areas, rtol=1e-12)


def test_all_of_a_map_on_its_thing_is_one() -> None:
    label = np.zeros((8, 8), int)
    label[:4, 4:] = 1
    one, other = np.zeros((2, 2)), np.ones((2, 2))
    one[0, 1], other[0, 1] = 1, 0
    found = score_maps(np.stack([other, one]), cover(label, [0, 1], (2, 2), IGNORED))
    for scores in (found.mass, found.hit, found.auc):
        assert scores.tolist() == [1, 1]
    assert found.other_names.tolist() == [0, 0]


def test_pixels_without_a_label_count_nowhere() -> None:
    label = np.full((2, 6), IGNORED)
    label[:, 2:4], label[0, 4:], label[1, 4] = 1, 2, 2
    maps = np.array([[[0.6, 0.3, 0.1]], [[0.6, 0.3, 0.1]]])
    found = score_maps(maps, cover(label, [1, 2], (1, 3), IGNORED))
    # 0.3 on four pixels of class 1, 0.1 on three of four pixels, of class 2.
    np.testing.assert_allclose(found.mass, [0.3 / 0.375, 0.075 / 0.375])
    # The highest patch has no label in its middle; the next one is the first thing's.
    assert found.hit.tolist() == [1, 0]
    assert found.auc.tolist() == [1, 0]


def test_a_map_that_is_all_on_unlabelled_pixels_has_no_mass() -> None:
    label = np.array([[IGNORED, IGNORED, 1, 2]])
    found = score_maps(np.array([[[1.0, 0.0]]] * 2), cover(label, [1, 2], (1, 2), IGNORED))
    assert found.mass.tolist() == [0, 0]
    assert found.auc.tolist() == [0.5, 0.5]


def test_auc_by_hand_with_ties() -> None:
    values = np.array([0.1, 0.2, 0.2, 0.7])
    inside, outside = np.array([1, 1, 0, 2]), np.array([2, 0, 3, 1])
    # Of 4 x 6 pairs: the first beats none and ties with 2, the second beats 2 and ties with 3, each
    # of the last two beats 5 and ties with 1.
    assert auc(values, inside, outside) == (1 + 3.5 + 2 * 5.5) / 24
    assert auc(-values, inside, outside) == pytest.approx(1 - 15.5 / 24)


def test_pointing_by_hand() -> None:
    here = np.array([[True, False], [False, False]])
    everywhere = np.ones((2, 2), bool)
    assert pointing(np.array([[0.4, 0.3], [0.2, 0.1]]), here, everywhere) == 1
    assert pointing(np.array([[0.3, 0.4], [0.2, 0.1]]), here, everywhere) == 0
    assert pointing(np.array([[0.4, 0.4], [0.2, 0.0]]), here, everywhere) == 0.5
    assert pointing(np.full((2, 2), 0.25), here, everywhere) == 0.25
    assert pointing(np.array([[0.3, 0.4], [0.2, 0.1]]), here, np.array([[True, False]] * 2)) == 1
    assert pointing(np.array([[0.3, 0.4], [0.2, 0.1]]), here, ~everywhere) == 0


@pytest.mark.parametrize(
    ("size", "grid"), [((12, 18), (3, 6)), ((7, 10), (3, 4)), ((2, 3), (4, 5))]
)
def test_scores_equal_those_of_pixels(size: tuple[int, int], grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    label = rng.choice([0, 1, 2, IGNORED], size)
    label.ravel()[:3] = 0, 1, 2
    maps = rng.integers(0, 5, (3, *grid)) / 10 + 0.01  # with ties
    found = score_maps(maps, cover(label, [0, 1, 2], grid, IGNORED))
    # Pixels so small that every patch is whole pixels.
    fine = label.repeat(grid[0], 0).repeat(grid[1], 1)
    for number, one in enumerate(maps):
        weights = one.repeat(size[0], 0).repeat(size[1], 1)
        thing, labelled = fine == number, fine != IGNORED
        assert found.mass[number] == pytest.approx(weights[thing].sum() / weights[labelled].sum())
        beats = mannwhitneyu(weights[thing], weights[labelled & ~thing]).statistic
        pairs = thing.sum() * (labelled & ~thing).sum()
        assert found.auc[number] == pytest.approx(beats / pairs)
        others = np.delete(maps, number, 0).repeat(size[0], 1).repeat(size[1], 2)
        mean = np.mean([some[thing].sum() / some[labelled].sum() for some in others])
        assert found.other_names[number] == pytest.approx(mean)
        hits = []
        for row, column in itertools.product(*map(range, grid)):
            middle = label[
                (2 * row + 1) * size[0] // (2 * grid[0]),
                (2 * column + 1) * size[1] // (2 * grid[1]),
            ]
            if middle != IGNORED:
                hits.append((one[row, column], middle == number))
        best = max(value for value, _ in hits)
        assert found.hit[number] == pytest.approx(np.mean([hit for v, hit in hits if v == best]))


def made_up(n_images: int, seed: int) -> tuple[Pairs, int]:
    """Pairs of images, some of which have none; a pair alone in its image has no other names."""
    rng = np.random.default_rng(seed)
    image = np.sort(rng.choice(n_images, 3 * n_images))
    p = len(image)
    alone = np.bincount(image)[image] == 1
    scores = MapScores(
        rng.random(p), rng.integers(0, 2, p) * 1.0, rng.random(p), rng.random(p) + 0.1
    )
    scores.other_names[alone] = np.nan
    return Pairs(image, rng.integers(0, 3, p), rng.random(p), scores), n_images


def plain(pairs: Pairs, drawn: list[int]) -> dict[str, float]:
    """The metrics of images drawn one by one, by loops over pairs."""
    rows: dict[str, list[list[float]]] = {"": [], "_small": [], "_medium": [], "_large": []}
    for image in drawn:
        for k in np.flatnonzero(pairs.image == image):
            mass, hit, rank, other = (float(part[k]) for part in pairs.scores)
            row = [mass, float(pairs.area[k]), hit, rank, other]
            rows[""].append(row)
            rows[["_small", "_medium", "_large"][pairs.size[k]]].append(row)
    found = {}
    for size, some in rows.items():
        if not some:
            continue
        mass, area, hit, rank, _ = np.mean(some, axis=0)
        found |= {
            f"attention_mass{size}": mass,
            f"area{size}": area,
            f"mass_over_area{size}": mass / area,
            f"pointing_game{size}": hit,
            f"AUC{size}": rank,
        }
        beside = [row for row in some if not np.isnan(row[4])]
        if beside:
            own, *_, other = np.mean(beside, axis=0)
            found[f"mass_over_other_names{size}"] = own / other
    return found


def estimates_of(sums: Sums) -> dict[str, FunctionOfSums]:
    def of(function, size) -> FunctionOfSums:
        return FunctionOfSums(sums, lambda some: function(of_size(size, some)))

    sizes = {"": None, **{f"_{name}": number for number, name in enumerate(SIZES)}}
    return {
        name + suffix: of(function, size)
        for suffix, size in sizes.items()
        for name, function in METRICS.items()
    }


def test_metrics_equal_plain_means() -> None:
    pairs, n_images = made_up(40, seed=2)
    estimates = estimates_of(sums_of_images(pairs, n_images))
    found = {name: one.value for name, one in estimates.items()}
    expected = plain(pairs, list(range(n_images)))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value)


def test_intervals_equal_those_of_images_drawn_one_by_one() -> None:
    pairs, n_images = made_up(25, seed=3)
    estimates = estimates_of(sums_of_images(pairs, n_images))
    found = intervals(estimates, seed=5, resamples=150)
    draws = np.random.default_rng(5).multinomial(n_images, np.full(n_images, 1 / n_images), 150)
    each = [plain(pairs, np.repeat(np.arange(n_images), counts).tolist()) for counts in draws]
    for name, interval in found.items():
        values = [metrics[name] for metrics in each if name in metrics]
        assert (interval.low, interval.high) == pytest.approx(np.quantile(values, [0.025, 0.975]))


def test_a_size_without_things_has_no_metrics() -> None:
    pairs, n_images = made_up(10, seed=4)
    pairs = pairs._replace(size=np.zeros(len(pairs.image), int))
    estimates = estimates_of(sums_of_images(pairs, n_images))
    found = {name: one.value for name, one in estimates.items()}
    assert {name for name, value in found.items() if np.isnan(value)} == {
        name for name in found if name.endswith(("medium", "large"))
    }


def test_a_thing_alone_has_no_other_names() -> None:
    label = np.array([[1, 0], [0, 0]])
    scores = score_maps(np.full((1, 2, 2), 0.25), cover(label, [1], (2, 2), 255))
    assert scores.mass.tolist() == [0.25]
    assert np.isnan(scores.other_names).all()
    both = score_maps(np.full((2, 2, 2), 0.25), cover(label, [0, 1], (2, 2), 255))
    assert both.mass.tolist() == [0.75, 0.25]
    assert both.other_names.tolist() == [0.75, 0.25]


def test_the_pointing_game_by_class_is_the_mean_over_classes() -> None:
    """Three of four things of class 0 are hit, none of class 3."""
    samples = {
        "hit": np.array([1, 1, 0, 1, 0], np.float32),
        "class": np.array([0, 0, 0, 0, 3]),
        "image": np.array([0, 0, 1, 2, 2]),
    }
    found = TASK.metric("pointing_game_by_class").estimate(samples)
    assert found is not None
    assert found.value == 0.375
