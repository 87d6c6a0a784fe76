"""Paired statistics: against SciPy and statsmodels, solved by hand, and in simulated studies."""

import importlib.util
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, t, ttest_1samp
from support.results import retrieval_metrics

from cosmos_eval.stats.estimates import (
    Estimate,
    FunctionOfSums,
    GroupMean,
    Mean,
    Median,
    Proportion,
)
from cosmos_eval.stats.intervals import resample, statistic_of
from cosmos_eval.stats.paired import (
    PairedDifference,
    differences,
    holm,
    independent_difference,
    matched_shares,
    mcnemar,
)
from cosmos_eval.stats.retrieval import RetrievalRanks
from cosmos_eval.stats.segmentation import Areas, mean_accuracy, mean_iou, pixel_accuracy

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "coverage.py"
MODULE_SPEC = importlib.util.spec_from_file_location("coverage_benchmark", SCRIPT)
coverage = importlib.util.module_from_spec(MODULE_SPEC)
# The benchmark imports modules beside it. Its folder does not stay on the path, since numba would
# take coverage.py there for the package of this name.
sys.path.append(str(SCRIPT.parent))
MODULE_SPEC.loader.exec_module(coverage)
sys.path.remove(str(SCRIPT.parent))


# Standard normal quantiles: of a two-sided test at 5%, and of a power of 80%.
NORMAL_975 = 1.959964
NORMAL_800 = 0.841621


def difference_of(a: Estimate, b: Estimate, **options: int) -> PairedDifference:
    """Return the difference of two estimates, a minus b."""
    return differences([{"metric": a}, {"metric": b}], **options)(0, 1)["metric"]


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 0), (5, 0), (1, 1), (12, 5), (121, 59), (1000, 1100)]
)
def test_mcnemar_equals_scipy(only_a: int, only_b: int) -> None:
    discordant = only_a + only_b
    expected = binomtest(only_a, discordant).pvalue if discordant else 1.0
    assert matched_shares(0, only_a, only_b, 3000).p_value == pytest.approx(expected, rel=1e-12)
    assert matched_shares(0, only_b, only_a, 3000).p_value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    # mcnemar([[50, only_a], [only_b, 7]], exact=True).pvalue of statsmodels 0.15.0
    [
        (5, 0, 0.0625),
        (12, 5, 0.143463134765625),
        (121, 59, 4.4344492637551645e-06),
        (1000, 1100, 0.03072070786424249),
    ],
)
def test_mcnemar_equals_statsmodels(only_a: int, only_b: int, p_value: float) -> None:
    n_samples = only_a + only_b + 57
    difference = matched_shares(0, only_a, only_b, n_samples)
    assert difference.p_value == pytest.approx(p_value, rel=1e-12)


def test_mcnemar_by_hand() -> None:
    a = np.array([1, 1, 1, 0, 1, 0], bool)
    b = np.array([1, 0, 0, 0, 0, 1], bool)
    difference = mcnemar(a, b)
    # Three right by A alone, one by B alone: 2 (1 + 4) / 16.
    assert difference.p_value == pytest.approx(0.625)
    assert difference.difference == pytest.approx(2 / 6)
    # Half a sample more in each cell of the 2x2 table: 3.5 and 1.5 of 8.
    half_width = NORMAL_975 * math.sqrt((5 / 8 - (2 / 8) ** 2) / 8)
    low, high = difference.interval()[:2]
    assert (low, high) == pytest.approx((0.25 - half_width, 0.25 + half_width))
    assert difference.interval().method == "Agresti and Min"
    assert mcnemar(b, a).flipped() == difference


def test_the_interval_of_matched_shares_covers_the_true_difference() -> None:
    """In 93 to 98% of 2000 simulated studies of 400 samples, at a level of 95%."""
    rng = np.random.default_rng(0)
    for share_only_a, share_only_b in ((0.1, 0.1), (0.08, 0.02), (0.01, 0.01)):
        shares = [share_only_a, share_only_b, 1 - share_only_a - share_only_b]
        covered = 0
        for only_a, only_b, _ in rng.multinomial(400, shares, size=2000):
            low, high = matched_shares(0, only_a, only_b, 400).interval()[:2]
            covered += low <= share_only_a - share_only_b <= high
        assert 0.93 <= covered / 2000 <= 0.98


def test_samples_that_only_one_model_has_right_are_counted_in_clusters_too() -> None:
    """Only A has the first two of five captions right, only B the last.

    Values that are not true or false, such as ranks, are never counted as right.
    """
    clusters = np.array([0, 0, 1, 1, 2])
    a = np.array([True, True, True, False, False])
    b = np.array([False, False, True, False, True])
    difference = difference_of(Mean(a, clusters), Mean(b, clusters))
    assert difference.changed == (2, 1)
    assert difference.flipped().changed == (1, 2)
    assert difference.difference == pytest.approx(1 / 5)
    assert difference_of(Mean(a * 2, clusters), Mean(b * 3, clusters)).changed is None


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    # multipletests(p_values, method="holm")[1] of statsmodels 0.15.0
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.2, 0.001, 0.001, 0.9, 0.03, 0.03], [0.4, 0.006, 0.006, 0.9, 0.12, 0.12]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.5], [0.5]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm_equals_statsmodels(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


def test_the_bootstrap_of_a_mean_is_a_paired_t_test() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 60))
    one_image_each = np.arange(60)
    difference = difference_of(Mean(a, one_image_each), Mean(b, one_image_each), resamples=20_000)
    t_test = ttest_1samp(a - b, 0)
    assert difference.p_value == pytest.approx(t_test.pvalue, rel=0.05)
    expected = t_test.confidence_interval(0.95)
    assert difference.interval()[:2] == pytest.approx((expected.low, expected.high), abs=0.005)
    assert (difference.dof, difference.units) == (59, 60)
    assert difference.method == "paired cluster bootstrap"


def test_the_standard_error_of_few_clusters_is_not_too_small() -> None:
    """The error of five clusters is their standard deviation, which divides by 5 - 1, over
    sqrt(5)."""
    a = np.array([0.1, 0.9, 0.4, 0.8, 0.2])
    zeros = np.zeros(5)
    clusters = np.arange(5)
    difference = difference_of(Mean(a, clusters), Mean(zeros, clusters), resamples=20_000)
    assert difference.error == pytest.approx(a.std(ddof=1) / math.sqrt(5), rel=0.015)


def test_a_clustered_share_by_hand() -> None:
    """Cluster 0 has one of two samples right, clusters 1 and 2 have one sample, which is right."""
    mean = Mean(np.array([1, 0, 1, 1]), np.array([0, 0, 1, 2]))
    times_drawn = np.array([[1.0, 1, 1], [2, 0, 1], [0, 3, 0]])
    assert statistic_of({"share": mean})(times_drawn)["share"].tolist() == [0.75, 0.6, 1.0]


def rank_estimates(direction: str, ranks: np.ndarray, image: np.ndarray) -> dict[str, Estimate]:
    """Return recall at 1, 5 and 10 and mean and median rank of one direction of retrieval.

    Shapes: `ranks` (N,), from 1; `image` (N,), the image that each query belongs to.
    """
    estimates: dict[str, Estimate] = {}
    for k in (1, 5, 10):
        estimates[f"{direction}_R@{k}"] = Mean(ranks <= k, image)
    estimates[f"{direction}_mean_rank"] = Mean(ranks, image)
    estimates[f"{direction}_median_rank"] = Median(ranks, image)
    return estimates


def area_estimates(areas: Areas, **class_groups: np.ndarray) -> dict[str, Estimate]:
    """Return the metrics of segmentation, and mIoU over each named group of classes."""
    functions = {"mIoU": mean_iou, "mAcc": mean_accuracy, "aAcc": pixel_accuracy}
    for name, members in class_groups.items():
        functions[name] = partial(mean_iou, members=members)
    return {name: FunctionOfSums(areas, function) for name, function in functions.items()}


def test_metrics_of_ranks_are_those_of_the_samples_drawn() -> None:
    """Weights of images give what the images and captions give that are repeated as often."""
    rng = np.random.default_rng(4)
    image = rng.permutation(np.repeat(np.arange(9), 3))
    ranks = RetrievalRanks(rng.integers(1, 20, 9), rng.integers(1, 20, 27))
    image_queries = rank_estimates("image_to_text", ranks.image_to_text, np.arange(9))
    text_queries = rank_estimates("text_to_image", ranks.text_to_image, image)
    weights = rng.multinomial(9, np.full(9, 1 / 9), 20)
    resampled: dict[str, np.ndarray] = {}
    for estimates in (image_queries, text_queries):
        resampled |= statistic_of(estimates)(weights.astype(float))
    for row, times_drawn in enumerate(weights):
        image_ranks = np.repeat(ranks.image_to_text, times_drawn)
        text_ranks = np.repeat(ranks.text_to_image, times_drawn[image])
        expected = retrieval_metrics(RetrievalRanks(image_ranks, text_ranks))
        assert {name: values[row] for name, values in resampled.items()} == pytest.approx(expected)


def test_the_lowest_recall_is_resampled_alike_with_and_without_clusters() -> None:
    """Without clusters, equal samples are drawn together as one kind; with a cluster for each
    sample, every sample is drawn by itself."""
    rng = np.random.default_rng(5)
    labels = rng.choice([1, 4, 7], 90, p=[0.2, 0.3, 0.5])
    a_hits, b_hits = rng.random((2, 90)) < 0.6
    one_image_each = np.arange(90)
    by_image = difference_of(
        GroupMean(a_hits, labels, one_image_each, lowest=True),
        GroupMean(b_hits, labels, one_image_each, lowest=True),
        seed=1,
        resamples=8000,
    )
    by_kind = difference_of(
        GroupMean(a_hits, labels, lowest=True),
        GroupMean(b_hits, labels, lowest=True),
        resamples=8000,
    )
    assert by_kind.difference == pytest.approx(by_image.difference)
    assert by_kind.error == pytest.approx(by_image.error, rel=0.04)


def test_recall_per_class_by_hand() -> None:
    """A class of one sample and a class of two, whose samples have the weights 1/2 and 1/4.

    Only A gets the first and the second sample right, so that the difference is 3/4.
    """
    labels = np.array([4, 7, 7])
    a_hits, b_hits = np.array([[1, 1, 0], [0, 0, 0]], bool)
    difference = difference_of(GroupMean(a_hits, labels), GroupMean(b_hits, labels))
    assert (difference.difference, difference.units) == (0.75, 3)
    assert difference.method == "paired t by class"
    squares = np.array([1 / 2 * 1 / 4, 1 / 4 * 1 / 4, 1 / 4 * -3 / 4]) ** 2
    variance = squares.sum() + (1 / 4 + 1 / 16 + 1 / 16) / 3
    dof = variance**2 / (squares**2).sum()
    half_width = t.ppf(0.975, dof) * math.sqrt(variance)
    assert difference.interval()[:2] == pytest.approx((0.75 - half_width, 0.75 + half_width))
    no_difference = difference_of(GroupMean(a_hits, labels), GroupMean(a_hits, labels))
    assert (no_difference.difference, no_difference.p_value) == (0, 1)
    assert no_difference.interval().low < -0.3 < 0.3 < no_difference.interval().high


def test_recall_of_one_class_is_about_as_cautious_as_mcnemars_test() -> None:
    labels = np.zeros(500, int)
    for only_a, only_b in ((5, 0), (8, 1), (12, 5), (60, 40)):
        a_hits, b_hits = np.zeros((2, 500), bool)
        a_hits[:only_a] = True
        b_hits[only_a : only_a + only_b] = True
        difference = difference_of(GroupMean(a_hits, labels), GroupMean(b_hits, labels))
        exact = matched_shares(0, only_a, only_b, 500).p_value
        assert difference.p_value == pytest.approx(exact, rel=0.4)


def test_the_jackknife_of_a_difference_equals_a_plain_loop_over_images() -> None:
    """The first image has no labelled pixels, and the last class is in image 5 alone."""
    rng = np.random.default_rng(9)
    labelled = rng.integers(0, 60, (12, 4)) * (np.arange(12)[:, None] != 0)
    labelled[:, 3] = 9 * (np.arange(12) == 5)
    models = [Areas(rng.binomial(labelled, 0.7), labelled, labelled + 5) for _ in range(2)]
    a, b = (FunctionOfSums(areas, mean_iou, jackknife=True) for areas in models)
    difference = difference_of(a, b)
    differences_without_an_image = []
    for image in range(12):
        other_images = np.arange(12) != image
        a_sums, b_sums = (Areas(*(array[other_images].sum(axis=0) for array in m)) for m in models)
        differences_without_an_image.append(float(mean_iou(a_sums) - mean_iou(b_sums)))
    variance = 11**2 / 12 * np.var(differences_without_an_image, ddof=1)
    assert difference.error == pytest.approx(math.sqrt(variance))
    assert (difference.dof, difference.units) == (11, 12)
    assert difference.method == "paired jackknife"
    first_image = Areas(*(array[:1] for array in models[0]))
    single_image = FunctionOfSums(first_image, mean_iou, jackknife=True)
    with pytest.raises(ValueError, match="two images"):
        difference_of(single_image, single_image)


def test_rare_classes_do_not_tell_equal_models_apart() -> None:
    """Two equally good models on 30 images; the rarest of 20 classes is in one of the images.

    At most 7% false alarms: 5% and two standard errors of 500 studies.
    """
    label_maps = coverage.LabelMaps("", 30, 20, 0.5, 1 / 30)
    false_alarms = []
    for seed in range(500):
        models = coverage.draw_models(np.random.default_rng(seed), label_maps, 2)
        a, b = (FunctionOfSums(areas, mean_iou, jackknife=True) for areas in models)
        false_alarms.append(difference_of(a, b).p_value <= 0.05)
    assert np.mean(false_alarms) <= 0.07


@pytest.mark.parametrize("recall", [0.5, 0.95])
def test_classes_of_few_images_do_not_tell_equal_models_apart(recall: float) -> None:
    """Neither by the two-sided p-value nor by the one-sided one, which `check` uses.

    Classes of 1 and 2 images, and classes whose sizes go from 100 images to 2. At most 7% and
    3.9% false alarms: 5% and 2.5%, and two standard errors of 500 studies.
    """
    rng = np.random.default_rng(10)
    for class_sizes in (np.tile([1, 2], 50), np.geomspace(100, 2, 20).astype(int)):
        labels = np.repeat(np.arange(len(class_sizes)), class_sizes)
        false_alarms = []
        for _ in range(500):
            hit_probability = rng.beta(2 * recall, 2 * (1 - recall), len(labels))
            a_hits, b_hits = rng.random((2, len(labels))) < hit_probability
            difference = difference_of(GroupMean(a_hits, labels), GroupMean(b_hits, labels))
            false_alarms.append((difference.p_value <= 0.05, difference.p_below(0) <= 0.025))
        two_sided, one_sided = np.mean(false_alarms, axis=0)
        assert two_sided <= 0.07
        assert one_sided <= 0.039


def test_areas_drawn_twice_count_twice() -> None:
    rng = np.random.default_rng(6)
    areas = Areas(*(rng.integers(0, 9, (4, 3)) for _ in range(3)))
    times_drawn = np.array([2, 0, 1, 1])
    sums = Areas(*(np.repeat(array, times_drawn, axis=0).sum(0) for array in areas))
    estimates = area_estimates(areas, outer_classes=np.array([0, 2]))
    resampled = statistic_of(estimates)(times_drawn[None].astype(float))
    expected = {
        "mIoU": float(mean_iou(sums)),
        "mAcc": float(mean_accuracy(sums)),
        "aAcc": float(pixel_accuracy(sums)),
        "outer_classes": float(mean_iou(sums, np.array([0, 2]))),
    }
    assert {name: values[0] for name, values in resampled.items()} == pytest.approx(expected)


def test_models_that_differ_nowhere() -> None:
    same = Mean(np.array([1, 0, 1]), np.arange(3))
    difference = difference_of(same, same)
    assert (difference.difference, difference.p_value) == (0, 1)
    assert difference.detectable() is None
    assert difference.interval()[:2] == (0, 0)
    assert difference.p_below(0) == 1


def test_a_difference_that_is_the_same_in_every_sample_is_not_certain() -> None:
    always_right = Mean(np.full(4, 1), np.arange(4))
    always_wrong = Mean(np.full(4, 0), np.arange(4))
    difference = difference_of(always_wrong, always_right)
    # All of four signs point the same way: one of 16 cases, or two of 16 for either way.
    assert (difference.difference, difference.p_value) == (-1, 2 / 16)
    assert difference.p_below(0) == 1 / 16


def test_one_cluster_is_too_few() -> None:
    single_image = Mean(np.array([1]), np.array([0]))
    with pytest.raises(ValueError, match="two images"):
        difference_of(single_image, single_image)


def test_the_bootstrap_is_fixed_by_its_seed() -> None:
    a_values, b_values = np.random.default_rng(1).random((2, 50))
    a, b = Mean(a_values, np.arange(50)), Mean(b_values, np.arange(50))
    first, second, other_seed = (difference_of(a, b, seed=seed) for seed in (3, 3, 4))
    assert first == second != other_seed


def test_independent_results_by_hand() -> None:
    difference = independent_difference(0.7, 0.6, 0.05, 40)
    # The difference of 0.1 is two standard errors; the interval reaches 1.96 of them.
    assert difference.p_value == pytest.approx(0.0455, abs=1e-4)
    assert difference.interval()[:2] == pytest.approx((0.1 - 0.098, 0.1 + 0.098), abs=1e-4)
    assert (difference.units, difference.method) == (40, "independent intervals")
    assert independent_difference(0.7, 0.6, 0.0, 40).p_value == 1.0


def test_one_sided_p_values_agree_with_the_interval() -> None:
    difference = matched_shares(9, 4, 20, 300)
    low, high = difference.interval(0.95)[:2]
    assert difference.p_below(high) == pytest.approx(0.025)
    assert difference.p_below(low) == pytest.approx(0.975)


def test_the_detectable_difference_is_detected_with_the_power_stated() -> None:
    """In about 80% of 1000 simulated studies of 1000 samples, of which 10% are discordant."""
    rng = np.random.default_rng(7)
    n, discordant = 1000, 0.1
    detectable = matched_shares(0, 50, 50, n).detectable()
    expected = (NORMAL_975 + NORMAL_800) * math.sqrt(discordant / n)
    assert detectable == pytest.approx(expected, rel=0.02)
    share_only_a = (discordant + detectable) / 2
    shares = [share_only_a, discordant - share_only_a, 1 - discordant]
    p_values = [
        matched_shares(0, only_a, only_b, n).p_value
        for only_a, only_b, _ in rng.multinomial(n, shares, 1000)
    ]
    assert 0.74 <= np.mean(np.array(p_values) < 0.05) <= 0.86


def compare_equal_models(rng: np.random.Generator) -> dict[str, PairedDifference]:
    """Return the difference in every metric of two made-up models that are equally good.

    On 150 images: with three captions each (ranks), with four classes of pixels (areas) and with
    one of five labels (recall). How easy an image is counts for both models and all metrics.
    """
    image = np.repeat(np.arange(150), 3)
    ease = rng.random(150)
    ranks = [rng.geometric(0.2 + 0.6 * ease[image]) for _ in range(2)]
    labelled = rng.integers(0, 60, (150, 4))
    areas = []
    for _ in range(2):
        right = rng.binomial(labelled, (0.3 + 0.6 * ease)[:, None])
        wrong = np.roll(labelled - right, 1, axis=1)
        areas.append(Areas(right, labelled, right + wrong))
    labels = rng.integers(0, 5, 150)
    hits = [rng.random(150) < 0.3 + 0.5 * ease for _ in range(2)]
    seed = int(rng.integers(1 << 30))
    models = []
    for model in range(2):
        estimates = rank_estimates("t", ranks[model], image)
        estimates |= area_estimates(areas[model], first_two_classes=np.array([0, 1]))
        estimates["recall"] = GroupMean(hits[model], labels)
        models.append(estimates)
    return dict(differences(models, seed=seed, resamples=200)(0, 1))


def test_equal_models_are_told_apart_as_rarely_as_stated() -> None:
    """The share of p-values below a level is the level, up to 3.3 standard errors.

    Median ranks are left out.
    """
    rng = np.random.default_rng(8)
    studies = [compare_equal_models(rng) for _ in range(200)]
    for name in studies[0]:
        if name.endswith("median_rank"):
            continue
        p_values = np.array([study[name].p_value for study in studies])
        for level in (0.05, 0.2, 0.5):
            tolerance = 3.3 * math.sqrt(level * (1 - level) / len(studies))
            assert abs((p_values < level).mean() - level) <= tolerance, (name, level)


def test_both_models_are_resampled_with_the_same_weights() -> None:
    """250 resamples are drawn in a block of 200 and a block of 50, each once for both models."""
    blocks: list[np.ndarray] = []

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        blocks.append(weights)
        return {"first_weight": weights[:, 0]}

    a, b = resample([statistic, statistic], np.ones(3, int), resamples=250)
    assert [len(weights) for weights in blocks] == [200, 200, 50, 50]
    assert len(a["first_weight"]) == len(b["first_weight"]) == 250
    np.testing.assert_array_equal(a["first_weight"], b["first_weight"])
    assert all((weights.sum(axis=1) == 3).all() for weights in blocks)


def test_kinds_of_samples_are_drawn_by_their_counts() -> None:
    """Six of eight samples are of the first kind: a binomial variance of 8 x 3/4 x 1/4."""

    def times_first_kind_was_drawn(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"times": weights[:, 0]}

    (resampled,) = resample([times_first_kind_was_drawn], np.array([6, 2]), resamples=4000)
    assert resampled["times"].mean() == pytest.approx(6, abs=0.1)
    assert resampled["times"].var() == pytest.approx(8 * 0.75 * 0.25, rel=0.1)


def test_shares_and_detectable_difference_of_equal_models() -> None:
    hits = np.arange(100) < 30
    difference = mcnemar(hits, hits)
    assert (difference.a, difference.b, difference.units) == (0.3, 0.3, 100)
    assert difference.changed == (0, 0)
    # (1.96 + 0.84)^2 / n, since the models differ nowhere.
    expected = (NORMAL_975 + NORMAL_800) ** 2 / 100
    assert difference.detectable() == pytest.approx(expected, rel=1e-5)


def test_one_sample_is_enough_for_mcnemar() -> None:
    assert matched_shares(1, 0, 0, 1).p_value == 1.0
    with pytest.raises(ValueError, match="no samples"):
        matched_shares(0, 0, 0, 0)


def test_slow_estimates_and_metrics_of_one_model_only_can_be_left_out() -> None:
    values, groups = np.array([1, 0, 1, 1]), np.array([0, 0, 1, 1])
    hits, one_image_each = values.astype(bool), np.arange(4)
    estimates = {
        "mean": Mean(values, one_image_each),
        "median": Median(values, one_image_each),
        "mean of groups": GroupMean(hits, groups),
        "lowest group": GroupMean(hits, groups, lowest=True),
        "mean of groups of clusters": GroupMean(hits, groups, one_image_each),
        "proportion": Proportion(hits),
    }
    assert list(differences([estimates, estimates])(0, 1)) == list(estimates)
    quick = differences([estimates, estimates], without_slow=True)(0, 1)
    assert list(quick) == ["mean", "mean of groups", "mean of groups of clusters", "proportion"]
    # A metric that only one of the two models has is left out, too.
    median_alone = {"median": estimates["median"]}
    assert list(differences([estimates, median_alone])(0, 1)) == ["median"]


def test_the_bootstrap_by_hand() -> None:
    """Two clusters are enough; error and p-value follow from the drawn differences."""
    a, b = Mean(np.array([0.5, 1.0]), np.arange(2)), Mean(np.array([0.25, 0.0]), np.arange(2))
    difference = difference_of(a, b, resamples=3)
    assert difference == difference_of(a, b, resamples=3, seed=0)
    drawn_clusters = np.random.default_rng(0).integers(2, size=(3, 2))
    resampled = np.array([0.25, 1.0])[drawn_clusters].mean(axis=1)
    error = difference.error
    assert error == pytest.approx(resampled.std(ddof=1) * math.sqrt(2))
    assert difference.p_value == pytest.approx(2 * t.sf(0.625 / error, 1))
    assert (difference.difference, difference.dof, difference.units) == (0.625, 1, 2)
    assert difference.interval(0.9)[:2] == pytest.approx(t.interval(0.9, 1, 0.625, error))
    # A single resample has no spread.
    assert differences([{"metric": a}, {"metric": b}], resamples=1)(0, 1) == {}
    assert "metric" in differences([{"metric": a}, {"metric": b}], resamples=2)(0, 1)


def test_resamples_without_a_value_do_not_count() -> None:
    """A resample has no value if the first of two samples, the labelled one, is not drawn."""

    def intersection_if_labelled(sums: Areas) -> np.ndarray:
        return np.where(sums.labelled > 0, sums.intersection, np.nan)

    labelled = np.array([1, 0])
    a_pixels, b_pixels = np.array([1, 0]), np.array([2, 0])
    a = FunctionOfSums(Areas(a_pixels, labelled, a_pixels), intersection_if_labelled)
    b = FunctionOfSums(Areas(b_pixels, labelled, b_pixels), intersection_if_labelled)
    difference = difference_of(a, b, seed=1, resamples=400)
    drawn_samples = np.random.default_rng(1).integers(2, size=(400, 2))
    resampled = -(drawn_samples == 0).sum(axis=1)
    with_value = resampled[resampled < 0]
    assert difference.error == pytest.approx(with_value.std(ddof=1) * math.sqrt(2))
    nothing_labelled = Areas(a_pixels, np.array([0, 0]), a_pixels)
    without_value = FunctionOfSums(nothing_labelled, intersection_if_labelled)
    assert differences([{"metric": a}, {"metric": without_value}])(0, 1) == {}
    assert differences([{"metric": without_value}, {"metric": a}])(0, 1) == {}


def test_the_usual_bootstrap_is_2000_resamples_of_seed_0() -> None:
    def second_weight(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"weight": weights[:, 1]}

    counts = np.ones(3, int)
    (by_default,) = resample([second_weight], counts)
    (explicit,) = resample([second_weight], counts, seed=0, resamples=2000)
    np.testing.assert_array_equal(by_default["weight"], explicit["weight"])
    assert len(by_default["weight"]) == 2000


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    statistic = statistic_of({"median": Median(np.array([1, 4, 9]), np.arange(3))})
    times_drawn = np.array([[1.0, 1, 0], [2, 1, 1], [1, 1, 1], [0, 0, 2]])
    assert statistic(times_drawn)["median"].tolist() == [2.5, 2.5, 4.0, 9.0]
