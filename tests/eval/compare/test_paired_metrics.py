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

from cosmos_eval.stats.estimates import FunctionOfSums, GroupMean, Mean, Median, Proportion
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
SPEC = importlib.util.spec_from_file_location("coverage_benchmark", SCRIPT)
coverage = importlib.util.module_from_spec(SPEC)
# The benchmark imports modules beside it. Its folder does not stay on the path, since numba would
# take coverage.py there for the package of this name.
sys.path.append(str(SCRIPT.parent))
SPEC.loader.exec_module(coverage)
sys.path.remove(str(SCRIPT.parent))


def difference_of(a, b, **options: int) -> PairedDifference:
    """The difference of two estimates."""
    return differences([{"it": a}, {"it": b}], **options)(0, 1)["it"]


@pytest.mark.parametrize(("b", "c"), [(0, 0), (5, 0), (1, 1), (12, 5), (121, 59), (1000, 1100)])
def test_mcnemar_equals_scipy(b: int, c: int) -> None:
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert matched_shares(0, b, c, 3000).p_value == pytest.approx(expected, rel=1e-12)
    assert matched_shares(0, c, b, 3000).p_value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("b", "c", "p_value"),
    # mcnemar([[50, b], [c, 7]], exact=True).pvalue of statsmodels 0.15.0
    [
        (5, 0, 0.0625),
        (12, 5, 0.143463134765625),
        (121, 59, 4.4344492637551645e-06),
        (1000, 1100, 0.03072070786424249),
    ],
)
def test_mcnemar_equals_statsmodels(b: int, c: int, p_value: float) -> None:
    assert matched_shares(0, b, c, b + c + 57).p_value == pytest.approx(p_value, rel=1e-12)


def test_mcnemar_by_hand() -> None:
    a = np.array([1, 1, 1, 0, 1, 0], bool)
    b = np.array([1, 0, 0, 0, 0, 1], bool)
    found = mcnemar(a, b)
    # Three right by A alone, one by B alone: 2 (1 + 4) / 16.
    assert found.p_value == pytest.approx(0.625)
    assert found.difference == pytest.approx(2 / 6)
    # Half a sample more a cell: 3.5 and 1.5 of 8.
    error = math.sqrt((5 / 8 - (2 / 8) ** 2) / 8)
    low, high = found.interval()[:2]
    assert (low, high) == pytest.approx((0.25 - 1.959964 * error, 0.25 + 1.959964 * error))
    assert found.interval().method == "Agresti and Min"
    assert mcnemar(b, a).flipped() == found


def test_the_interval_of_matched_shares_covers() -> None:
    rng = np.random.default_rng(0)
    for only_a, only_b in ((0.1, 0.1), (0.08, 0.02), (0.01, 0.01)):
        counts = rng.multinomial(400, [only_a, only_b, 1 - only_a - only_b], size=2000)
        inside = 0
        for b, c, _ in counts:
            low, high = matched_shares(0, b, c, 400).interval()[:2]
            inside += low <= only_a - only_b <= high
        assert 0.93 <= inside / 2000 <= 0.98


def test_dependent_samples_that_only_one_model_has_right_by_hand() -> None:
    """Only A has the first two of five captions right, only B the last; ranks are not right."""
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
    own = np.arange(60)
    found = difference_of(Mean(a, own), Mean(b, own), resamples=20_000)
    exact = ttest_1samp(a - b, 0)
    assert found.p_value == pytest.approx(exact.pvalue, rel=0.05)
    expected = exact.confidence_interval(0.95)
    assert found.interval()[:2] == pytest.approx((expected.low, expected.high), abs=0.005)
    assert (found.dof, found.units, found.method) == (59, 60, "paired cluster bootstrap")


def test_the_standard_error_of_few_clusters_is_not_too_small() -> None:
    """Of five clusters: the sample's standard deviation, which divides by n - 1, over sqrt(n)."""
    a = np.array([0.1, 0.9, 0.4, 0.8, 0.2])
    none = np.zeros(5)
    found = difference_of(Mean(a, np.arange(5)), Mean(none, np.arange(5)), resamples=20_000)
    assert found.error == pytest.approx(a.std(ddof=1) / math.sqrt(5), rel=0.015)


def test_a_clustered_share_by_hand() -> None:
    mean = Mean(np.array([1, 0, 1, 1]), np.array([0, 0, 1, 2]))
    weights = np.array([[1.0, 1, 1], [2, 0, 1], [0, 3, 0]])
    assert statistic_of({"share": mean})(weights)["share"].tolist() == [0.75, 0.6, 1.0]


def _ranks(direction: str, ranks: np.ndarray, image: np.ndarray) -> dict[str, Mean | Median]:
    estimates = {f"{direction}_R@{k}": Mean(ranks <= k, image) for k in (1, 5, 10)}
    estimates[f"{direction}_mean_rank"] = Mean(ranks, image)
    return {**estimates, f"{direction}_median_rank": Median(ranks, image)}


def _areas(areas: Areas, **groups: np.ndarray) -> dict[str, FunctionOfSums]:
    functions = {"mIoU": mean_iou, "mAcc": mean_accuracy, "aAcc": pixel_accuracy}
    for name, members in groups.items():
        functions[name] = partial(mean_iou, members=members)
    return {name: FunctionOfSums(areas, one) for name, one in functions.items()}


def test_ranks_are_those_of_the_samples_drawn() -> None:
    rng = np.random.default_rng(4)
    image = rng.permutation(np.repeat(np.arange(9), 3))
    ranks = RetrievalRanks(rng.integers(1, 20, 9), rng.integers(1, 20, 27))
    queries = (
        ("image_to_text", ranks.image_to_text, np.arange(9)),
        ("text_to_image", ranks.text_to_image, image),
    )
    statistics = [statistic_of(_ranks(*query)) for query in queries]
    weights = rng.multinomial(9, np.full(9, 1 / 9), 20)
    found = {n: v for one in statistics for n, v in one(weights.astype(float)).items()}
    for row, drawn in enumerate(weights):
        images = np.repeat(ranks.image_to_text, drawn)
        texts = np.repeat(ranks.text_to_image, drawn[image])
        expected = retrieval_metrics(RetrievalRanks(images, texts))
        assert {name: values[row] for name, values in found.items()} == pytest.approx(expected)


def test_the_lowest_recall_over_kinds_is_that_over_images() -> None:
    rng = np.random.default_rng(5)
    labels = rng.choice([1, 4, 7], 90, p=[0.2, 0.3, 0.5])
    a, b = rng.random((2, 90)) < 0.6
    own = np.arange(90)
    both = (GroupMean(hits, labels, own, lowest=True) for hits in (a, b))
    plain = difference_of(*both, seed=1, resamples=8000)
    of_kinds = (GroupMean(hits, labels, lowest=True) for hits in (a, b))
    found = difference_of(*of_kinds, resamples=8000)
    assert found.difference == pytest.approx(plain.difference)
    assert found.error == pytest.approx(plain.error, rel=0.04)


def test_recall_per_class_by_hand() -> None:
    """Classes of one and of two samples, whose weights are 1/2 and 1/4; only A gets the first and
    the second right, so that the difference is 3/4."""
    a, b = np.array([[1, 1, 0], [0, 0, 0]], bool)
    found = difference_of(*(GroupMean(hits, np.array([4, 7, 7])) for hits in (a, b)))
    assert (found.difference, found.units, found.method) == (0.75, 3, "paired t by class")
    squares = np.array([1 / 2 * 1 / 4, 1 / 4 * 1 / 4, 1 / 4 * -3 / 4]) ** 2
    variance = squares.sum() + (1 / 4 + 1 / 16 + 1 / 16) / 3
    dof = variance**2 / (squares**2).sum()
    half = t.ppf(0.975, dof) * math.sqrt(variance)
    assert found.interval()[:2] == pytest.approx((0.75 - half, 0.75 + half))
    same = difference_of(*(GroupMean(a, np.array([4, 7, 7])) for _ in range(2)))
    assert (same.difference, same.p_value) == (0, 1)
    assert same.interval().low < -0.3 < 0.3 < same.interval().high


def test_recall_of_one_class_is_about_as_cautious_as_mcnemars_test() -> None:
    for only_a, only_b in ((5, 0), (8, 1), (12, 5), (60, 40)):
        a, b = np.zeros((2, 500), bool)
        a[:only_a], b[only_a : only_a + only_b] = True, True
        found = difference_of(*(GroupMean(hits, np.zeros(500, int)) for hits in (a, b)))
        exact = matched_shares(0, only_a, only_b, 500).p_value
        assert found.p_value == pytest.approx(exact, rel=0.4)


def test_the_jackknife_of_a_difference_is_a_plain_loop() -> None:
    """Of the differences without each image; one class is in one image alone."""
    rng = np.random.default_rng(9)
    labelled = rng.integers(0, 60, (12, 4)) * (np.arange(12)[:, None] != 0)
    labelled[:, 3] = 9 * (np.arange(12) == 5)
    models = [Areas(rng.binomial(labelled, 0.7), labelled, labelled + 5) for _ in range(2)]
    found = difference_of(*(FunctionOfSums(m, mean_iou, jackknife=True) for m in models))
    changes = []
    for image in range(12):
        kept = np.arange(12) != image
        sums = [Areas(*(part[kept].sum(axis=0) for part in areas)) for areas in models]
        changes.append(float(mean_iou(sums[0]) - mean_iou(sums[1])))
    assert found.error == pytest.approx(math.sqrt(11**2 / 12 * np.var(changes, ddof=1)))
    assert (found.dof, found.units, found.method) == (11, 12, "paired jackknife")
    alone = FunctionOfSums(Areas(*(part[:1] for part in models[0])), mean_iou, jackknife=True)
    with pytest.raises(ValueError, match="two images"):
        difference_of(alone, alone)


def test_rare_classes_do_not_tell_equal_models_apart() -> None:
    """Two equally good models on 30 images; the rarest of 20 classes is in one of these: 5% of
    500 studies and two errors."""
    label_maps = coverage.LabelMaps("", 30, 20, 0.5, 1 / 30)
    studies = []
    for seed in range(500):
        models = coverage.draw_models(np.random.default_rng(seed), label_maps, 2)
        both = (FunctionOfSums(areas, mean_iou, jackknife=True) for areas in models)
        studies.append(difference_of(*both).p_value <= 0.05)
    assert np.mean(studies) <= 0.07


@pytest.mark.parametrize("recall", [0.5, 0.95])
def test_classes_of_few_images_do_not_tell_equal_models_apart(recall: float) -> None:
    """Of 1 and 2 images, and of 100 to 2; by the p-value and by that of `check`, to one side."""
    rng = np.random.default_rng(10)
    for sizes in (np.tile([1, 2], 50), np.geomspace(100, 2, 20).astype(int)):
        classes = np.repeat(np.arange(len(sizes)), sizes)
        studies = []
        for _ in range(500):
            chance = rng.beta(2 * recall, 2 * (1 - recall), len(classes))
            hits = rng.random((2, len(classes))) < chance
            found = difference_of(*(GroupMean(model, classes) for model in hits))
            studies.append((found.p_value <= 0.05, found.p_below(0) <= 0.025))
        two_sided, one_sided = np.mean(studies, axis=0)
        assert two_sided <= 0.07
        assert one_sided <= 0.039


def test_areas_drawn_twice_count_twice() -> None:
    rng = np.random.default_rng(6)
    areas = Areas(*(rng.integers(0, 9, (4, 3)) for _ in range(3)))
    (drawn,) = np.array([[2, 0, 1, 1]])
    total = Areas(*(np.repeat(part, drawn, axis=0).sum(0) for part in areas))
    found = statistic_of(_areas(areas, some=np.array([0, 2])))(drawn[None].astype(float))
    expected = {
        "mIoU": float(mean_iou(total)),
        "mAcc": float(mean_accuracy(total)),
        "aAcc": float(pixel_accuracy(total)),
        "some": float(mean_iou(total, np.array([0, 2]))),
    }
    assert {k: v[0] for k, v in found.items()} == pytest.approx(expected)


def test_models_that_differ_nowhere() -> None:
    same = Mean(np.array([1, 0, 1]), np.arange(3))
    found = difference_of(same, same)
    assert (found.difference, found.p_value, found.detectable()) == (0, 1, None)
    assert found.interval()[:2] == (0, 0)
    assert found.p_below(0) == 1


def test_a_difference_that_is_the_same_in_every_sample_is_no_certainty() -> None:
    always, never = (Mean(np.full(4, v), np.arange(4)) for v in (1, 0))
    found = difference_of(never, always)
    # Of four signs all point the same way.
    assert (found.difference, found.p_value, found.p_below(0)) == (-1, 2 / 16, 1 / 16)


def test_too_few_clusters() -> None:
    one = Mean(np.array([1]), np.array([0]))
    with pytest.raises(ValueError, match="two images"):
        difference_of(one, one)


def test_the_bootstrap_is_fixed_by_its_seed() -> None:
    a, b = (Mean(v, np.arange(50)) for v in np.random.default_rng(1).random((2, 50)))
    again = [difference_of(a, b, seed=seed) for seed in (3, 3, 4)]
    assert again[0] == again[1] != again[2]


def test_independent_results_by_hand() -> None:
    found = independent_difference(0.7, 0.6, 0.05, 40)
    # Two standard errors.
    assert found.p_value == pytest.approx(0.0455, abs=1e-4)
    assert found.interval()[:2] == pytest.approx((0.1 - 0.098, 0.1 + 0.098), abs=1e-4)
    assert (found.units, found.method) == (40, "independent intervals")
    assert independent_difference(0.7, 0.6, 0.0, 40).p_value == 1.0


def test_one_sided_p_values_agree_with_the_interval() -> None:
    found = matched_shares(9, 4, 20, 300)
    low, high = found.interval(0.95)[:2]
    assert found.p_below(high) == pytest.approx(0.025)
    assert found.p_below(low) == pytest.approx(0.975)


def test_the_detectable_difference_is_found_with_the_power_stated() -> None:
    rng = np.random.default_rng(7)
    n, discordant = 1000, 0.1
    mean_of = matched_shares(0, 50, 50, n).detectable()
    assert mean_of == pytest.approx((1.959964 + 0.841621) * math.sqrt(discordant / n), rel=0.02)
    only_a = (discordant + mean_of) / 2
    shares = [only_a, discordant - only_a, 1 - discordant]
    tests = [matched_shares(0, b, c, n).p_value for b, c, _ in rng.multinomial(n, shares, 1000)]
    assert 0.74 <= np.mean(np.array(tests) < 0.05) <= 0.86


def _equal_models(rng: np.random.Generator) -> dict[str, PairedDifference]:
    """Two models as good as each other on 150 images of three captions each, and as areas."""
    image = np.repeat(np.arange(150), 3)
    hard = rng.random(150)
    ranks = [rng.geometric(0.2 + 0.6 * hard[image]) for _ in range(2)]
    labelled = rng.integers(0, 60, (150, 4))
    areas = []
    for _ in range(2):
        right = rng.binomial(labelled, (0.3 + 0.6 * hard)[:, None])
        wrong = np.roll(labelled - right, 1, axis=1)
        areas.append(Areas(right, labelled, right + wrong))
    labels = rng.integers(0, 5, 150)
    hits = [rng.random(150) < 0.3 + 0.5 * hard for _ in range(2)]
    options = {"seed": int(rng.integers(1 << 30)), "resamples": 200}
    one, two = (
        {
            **_ranks("t", rank, image),
            **_areas(area, half=np.array([0, 1])),
            "recall": GroupMean(hit, labels),
        }
        for rank, area, hit in zip(ranks, areas, hits, strict=True)
    )
    return dict(differences([one, two], **options)(0, 1))


def test_equal_models_are_told_apart_as_rarely_as_stated() -> None:
    rng = np.random.default_rng(8)
    studies = [_equal_models(rng) for _ in range(200)]
    for name in studies[0]:
        if name.endswith("median_rank"):
            continue
        p_values = np.array([study[name].p_value for study in studies])
        for level in (0.05, 0.2, 0.5):
            spread = 3.3 * math.sqrt(level * (1 - level) / len(studies))
            assert abs((p_values < level).mean() - level) <= spread, (name, level)


def test_models_are_resampled_alike() -> None:
    weights: list[np.ndarray] = []

    def statistic(drawn: np.ndarray) -> dict[str, np.ndarray]:
        weights.append(drawn)
        return {"m": drawn[:, 0]}

    a, b = resample([statistic, statistic], np.ones(3, int), resamples=250)
    assert [len(some) for some in weights] == [200, 200, 50, 50]
    assert len(a["m"]) == len(b["m"]) == 250
    np.testing.assert_array_equal(a["m"], b["m"])
    assert all((some.sum(axis=1) == 3).all() for some in weights)


def test_kinds_are_drawn_by_their_counts() -> None:
    (found,) = resample([lambda w: {"n": w[:, 0]}], np.array([6, 2]), resamples=4000)
    assert found["n"].mean() == pytest.approx(6, abs=0.1)
    assert found["n"].var() == pytest.approx(8 * 0.75 * 0.25, rel=0.1)


def test_shares_and_detectable_difference_of_equal_models() -> None:
    hits = np.arange(100) < 30
    found = mcnemar(hits, hits)
    assert (found.a, found.b, found.units, found.changed) == (0.3, 0.3, 100, (0, 0))
    # (1.96 + 0.84)^2 / n, since the models differ nowhere.
    assert found.detectable() == pytest.approx((1.959964 + 0.841621) ** 2 / 100, rel=1e-5)


def test_one_sample_is_enough_for_mcnemar() -> None:
    assert matched_shares(1, 0, 0, 1).p_value == 1.0
    with pytest.raises(ValueError, match="no samples"):
        matched_shares(0, 0, 0, 0)


def test_slow_estimates_can_be_left_out() -> None:
    values, groups = np.array([1, 0, 1, 1]), np.array([0, 0, 1, 1])
    hits, own = values.astype(bool), np.arange(4)
    model = {
        "mean": Mean(values, own),
        "median": Median(values, own),
        "of groups": GroupMean(hits, groups),
        "lowest group": GroupMean(hits, groups, lowest=True),
        "of groups of clusters": GroupMean(hits, groups, own),
        "proportion": Proportion(hits),
    }
    assert list(differences([model, model])(0, 1)) == list(model)
    quick = differences([model, model], without_slow=True)(0, 1)
    assert list(quick) == ["mean", "of groups", "of groups of clusters", "proportion"]
    # What only one of both has is left out.
    assert list(differences([model, {"median": model["median"]}])(0, 1)) == ["median"]


def test_the_bootstrap_by_hand() -> None:
    """Two clusters are enough; error and p-value follow from the drawn differences."""
    a, b = Mean(np.array([0.5, 1.0]), np.arange(2)), Mean(np.array([0.25, 0.0]), np.arange(2))
    found = difference_of(a, b, resamples=3)
    assert found == difference_of(a, b, resamples=3, seed=0)
    drawn = np.random.default_rng(0).integers(2, size=(3, 2))
    changes = np.array([0.25, 1.0])[drawn].mean(axis=1)
    assert found.error == pytest.approx(changes.std(ddof=1) * math.sqrt(2))
    assert found.p_value == pytest.approx(2 * t.sf(0.625 / found.error, 1))
    assert (found.difference, found.dof, found.units) == (0.625, 1, 2)
    assert found.interval(0.9)[:2] == pytest.approx(t.interval(0.9, 1, 0.625, found.error))
    # One resample shows no spread.
    assert differences([{"it": a}, {"it": b}], resamples=1)(0, 1) == {}
    assert "it" in differences([{"it": a}, {"it": b}], resamples=2)(0, 1)


def test_resamples_without_a_value_do_not_count() -> None:
    """Values that are missing where the first of two samples is not drawn."""

    def missing(sums: Areas) -> np.ndarray:
        return np.where(sums.labelled > 0, sums.intersection, np.nan)

    first, second = np.array([1, 0]), np.array([2, 0])
    a, b = (FunctionOfSums(Areas(one, np.array([1, 0]), one), missing) for one in (first, second))
    found = difference_of(a, b, seed=1, resamples=400)
    weights = np.random.default_rng(1).integers(2, size=(400, 2))
    changes = -(weights == 0).sum(axis=1)
    assert found.error == pytest.approx(changes[changes < 0].std(ddof=1) * math.sqrt(2))
    nowhere = FunctionOfSums(Areas(first, np.array([0, 0]), first), missing)
    assert differences([{"it": a}, {"it": nowhere}])(0, 1) == {}
    assert differences([{"it": nowhere}, {"it": a}])(0, 1) == {}


def test_the_usual_bootstrap_is_2000_resamples_of_seed_0() -> None:
    counts = np.ones(3, int)
    (usual,) = resample([lambda weights: {"m": weights[:, 1]}], counts)
    (stated,) = resample([lambda weights: {"m": weights[:, 1]}], counts, seed=0, resamples=2000)
    np.testing.assert_array_equal(usual["m"], stated["m"])
    assert len(usual["m"]) == 2000


def test_the_median_of_an_even_number_is_the_mean_of_two() -> None:
    statistic = statistic_of({"m": Median(np.array([1, 4, 9]), np.arange(3))})
    weights = np.array([[1.0, 1, 0], [2, 1, 1], [1, 1, 1], [0, 0, 2]])
    assert statistic(weights)["m"].tolist() == [2.5, 2.5, 4.0, 9.0]
