"""Errors over wordings: solved by hand, by mean squares of a table, and in simulated studies."""

import math

import numpy as np
import pytest
from scipy.stats import t

from cosmos_eval.stats.estimates import (
    FunctionOfSums,
    GroupMean,
    Mean,
    MeanRank,
    Median,
    Proportion,
)
from cosmos_eval.stats.segmentation import Areas, mean_iou
from cosmos_eval.stats.wordings import (
    VarianceTerm,
    WordedMean,
    WordedValues,
    components,
    mean_over_wordings,
    worded_values,
)


def random_hits(seeds, wordings, images, seed=0):
    """Hits (S, W, C) with effects of all three factors."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal(images) + 0.4 * rng.standard_normal((wordings, 1))
    latent = latent + 0.3 * rng.standard_normal((seeds, 1, 1))
    return latent + 0.7 * rng.standard_normal((seeds, wordings, images)) > -0.8


def values_of(hits):
    """The worded values of hits (S, W, C)."""
    return worded_values([[Proportion(row) for row in rows] for rows in hits])


def mean_squares(table):
    """Mean squares of a table (S, W, C) without repetitions, by the names of their factors."""
    s, w, c = table.shape
    grand = table.mean()
    by = {axes: table.mean(axis=axes) for axes in ((1, 2), (0, 2), (0, 1), (2,), (1,), (0,))}
    seed, wording, image = by[1, 2] - grand, by[0, 2] - grand, by[0, 1] - grand
    sw = by[2,] - grand - seed[:, None] - wording
    sc = by[1,] - grand - seed[:, None] - image
    wc = by[0,] - grand - wording[:, None] - image
    residuals = table - grand - seed[:, None, None] - wording[:, None] - image
    residuals = residuals - sw[:, :, None] - sc[:, None] - wc
    squares = {
        "s": (w * c * (seed**2).sum(), s - 1),
        "w": (s * c * (wording**2).sum(), w - 1),
        "c": (s * w * (image**2).sum(), c - 1),
        "sw": (c * (sw**2).sum(), (s - 1) * (w - 1)),
        "sc": (w * (sc**2).sum(), (s - 1) * (c - 1)),
        "wc": (s * (wc**2).sum(), (w - 1) * (c - 1)),
        "swc": ((residuals**2).sum(), (s - 1) * (w - 1) * (c - 1)),
    }
    return {name: total / dof for name, (total, dof) in squares.items() if dof}


def test_components_by_mean_squares():
    """For means over images, the components are those of a crossed table."""
    hits = random_hits(4, 5, 60)
    squares = mean_squares(hits.astype(float))
    variances = components(values_of(hits))
    wording = (squares["w"] - squares["sw"] - squares["wc"] + squares["swc"]) / (4 * 60)
    seeds = (squares["s"] - squares["sw"] - squares["sc"] + squares["swc"]) / (5 * 60)
    images = (squares["c"] - squares["sc"] - squares["wc"] + squares["swc"]) / (4 * 5)
    assert variances.wording.variance == pytest.approx(wording)
    assert variances.seeds.variance == pytest.approx(seeds)
    assert variances.images.variance == pytest.approx(images / 60)


def test_components_of_one_training_by_mean_squares():
    hits = random_hits(1, 6, 50)
    table = hits[0].astype(float)
    grand = table.mean()
    by_wording, by_image = table.mean(axis=1) - grand, table.mean(axis=0) - grand
    residuals = table - grand - by_wording[:, None] - by_image
    residual_square = (residuals**2).sum() / (5 * 49)
    wording = (50 * (by_wording**2).sum() / 5 - residual_square) / 50
    images = (6 * (by_image**2).sum() / 49 - residual_square) / 6
    variances = components(values_of(hits))
    assert variances.wording.variance == pytest.approx(wording)
    assert variances.images.variance == pytest.approx(images / 50)
    assert variances.seeds is None


def test_interval_by_hand():
    """Three wordings have the values 1, 2 and 6, and images move all of them together.

    The variance of the mean is 7 / 3 by wordings, whose variance is 7, and 1 by images.
    """
    deviations = np.zeros((1, 3, 2))
    deviations[0, :, 0], deviations[0, :, 1] = math.sqrt(0.5), -math.sqrt(0.5)
    mean = mean_over_wordings(WordedValues(np.array([[1.0, 2, 6]]), deviations))
    assert mean.mean == 3
    assert mean.standard_error == pytest.approx(math.sqrt(7 / 3 + 1))
    weighted = (7 / 3 * t.ppf(0.975, 2) + t.ppf(0.975, 1)) / math.sqrt(7 / 3 + 1)
    by_images = t.ppf(0.975, 1)
    assert mean.interval().high - 3 == pytest.approx(max(weighted, by_images))


def test_variance_by_images_never_makes_an_interval_narrower():
    """The t quantile of three wordings is more than twice that of images."""
    widths = []
    for by_images in (0.0, 0.01, 0.1, 1.0, 10.0):
        images = VarianceTerm(by_images, 500)
        mean = WordedMean(0.0, (VarianceTerm(1.0, 2), images), images)
        widths.append(mean.interval().high)
    assert widths[0] == pytest.approx(t.ppf(0.975, 2))
    assert widths == sorted(widths)
    largest = (t.ppf(0.975, 2) + 10 * t.ppf(0.975, 500)) / math.sqrt(11)
    assert widths[-1] == pytest.approx(largest)


def test_equal_wordings_leave_the_interval_by_images():
    hits = np.repeat(random_hits(1, 1, 80), 4, axis=1)
    share = hits[0, 0].mean()
    mean = mean_over_wordings(values_of(hits))
    half = t.ppf(0.975, 79) * math.sqrt(share * (1 - share) / 79)
    assert mean.interval()[:2] == pytest.approx((share - half, share + half))


def test_all_right_has_an_error():
    low, high, *_ = mean_over_wordings(values_of(np.ones((1, 3, 100), bool))).interval()
    assert high - low > 0.03


def test_difference_is_paired():
    """What makes wordings and images hard for both models cancels out."""
    a = random_hits(1, 5, 200)
    b = a.copy()
    b[0, :, :10] = False
    paired = mean_over_wordings(values_of(a), values_of(b)).interval()
    alone = mean_over_wordings(values_of(a)).interval()
    assert paired.high - paired.low < 0.7 * (alone.high - alone.low)
    same = mean_over_wordings(values_of(a), values_of(a))
    assert (same.mean, same.interval().low) == (0, pytest.approx(-same.interval().high))


def test_seeds_widen_the_interval():
    hits = random_hits(3, 5, 200)
    all_seeds = mean_over_wordings(values_of(hits))
    assert len(all_seeds.terms) == 3
    merged = WordedValues(
        values_of(hits).values.mean(axis=0)[None], values_of(hits).deviations.mean(axis=0)[None]
    )
    assert all_seeds.standard_error > mean_over_wordings(merged).standard_error


def test_means_over_classes_and_unions():
    """Metrics that are not means over images use the jackknife: values without each image."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (3, 12, 4, 3))  # wordings, images, classes, areas
    labelled = counts[..., 0] + counts[0, :, :, 1]
    estimates = []
    for wording in range(3):
        areas = Areas(counts[wording, :, :, 0], labelled[wording], labelled[wording] + 1)
        estimates.append(FunctionOfSums(areas, mean_iou, jackknife=True))
    deviations = worded_values([estimates]).deviations
    for wording, estimate in enumerate(estimates):
        without_each = []
        for image in range(12):
            sums = [np.delete(term, image, axis=0).sum(0) for term in estimate.terms]
            without_each.append(float(mean_iou(Areas(*sums))))
        variance = 11 / 12 * ((np.array(without_each) - np.mean(without_each)) ** 2).sum()
        assert np.square(deviations[0, wording]).sum() == pytest.approx(variance)
    hits, groups = rng.random(12) > 0.3, np.arange(12) % 3
    assert worded_values([[GroupMean(hits, groups)] * 3]) is not None


def test_captions_of_an_image_count_together():
    clusters = np.repeat(np.arange(30), 2)
    hits = np.repeat(np.random.default_rng(0).random((4, 30)) > 0.4, 2, axis=1)
    by_caption = worded_values([[Mean(row, clusters) for row in hits]])
    by_image = worded_values([[Proportion(row[::2]) for row in hits]])
    assert by_caption.deviations.shape == (1, 4, 30)
    assert mean_over_wordings(by_caption).interval() == pytest.approx(
        mean_over_wordings(by_image).interval()[:2] + mean_over_wordings(by_image).interval()[2:]
    )


def test_metrics_without_a_jackknife():
    ranks, clusters = np.array([1, 2, 9]), np.arange(3)
    assert worded_values([[Median(ranks, clusters)] * 3]) is None
    assert worded_values([[MeanRank(ranks, clusters)] * 3]) is None


@pytest.mark.parametrize("wordings", [1, 2])
def test_few_wordings_are_refused(wordings):
    values = values_of(random_hits(1, wordings, 20))
    with pytest.raises(ValueError, match=f"{wordings} wordings? cannot show .* needs 3 or more"):
        mean_over_wordings(values)
    with pytest.raises(ValueError, match="needs 3 or more"):
        components(values)


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="other wordings or images"):
        mean_over_wordings(values_of(random_hits(1, 3, 20)), values_of(random_hits(1, 3, 21)))
    with pytest.raises(ValueError, match="two images or more"):
        worded_values([[Proportion(np.array([True]))] * 3])


@pytest.mark.parametrize(("seeds", "wordings"), [(1, 3), (3, 5)])
def test_simulated_coverage(seeds, wordings):
    """Normal effects with known variances; benchmarks/wordings.md has many more cells."""
    rng = np.random.default_rng(1)
    images, sds = 40, {"images": 0.2, "wording": 0.05, "seeds": 0.04 if seeds > 1 else 0}
    truth = {"images": 0.2**2 / images, "wording": 0.05**2, "seeds": 0.04**2}
    studies, held = 500, dict.fromkeys(("mean", *truth), 0)
    for _ in range(studies):
        table = sds["images"] * rng.standard_normal(images)
        table = table + sds["wording"] * rng.standard_normal((wordings, 1))
        table = table + sds["seeds"] * rng.standard_normal((seeds, 1, 1))
        table = table + 0.1 * rng.standard_normal((seeds, wordings, images))
        values = table.mean(axis=2)
        factor = math.sqrt(images * (images - 1))
        worded = WordedValues(values, (table - values[..., None]) / factor)
        low, high, *_ = mean_over_wordings(worded).interval()
        held["mean"] += low <= 0 <= high
        for name, component in components(worded)._asdict().items():
            if component is not None:
                held[name] += component.low <= truth[name] <= component.high
    # Below 91.6% is less than three standard errors below 94.5%.
    if seeds == 1:
        del held["seeds"]
    assert min(held.values()) / studies > 0.915, held
