"""Comparing stored results: by hand, against the metrics' own bootstrap, and what is refused."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from support.models import make_result, seg_samples, select_samples, store
from support.results import store_result

from cosmos_eval.results.compare import (
    Comparison,
    MetricTest,
    adjust_p_values,
    all_differences,
    paired_differences,
    to_cells,
)
from cosmos_eval.results.text import p_value_text
from cosmos_eval.stats.paired import PairedDifference
from cosmos_eval.types import UsageError

TASKS = (
    *("cls", "retrieval", "multilabel", "faces", "seg", "select", "loc", "assoc", "probe"),
    *("ood", "seg-probe", "depth-probe", "ratings", "boxes", "ranking"),
)
OTHER_MODEL = {"model": {"spec": "scenes-clip"}}
SAME_SAMPLES = {"hashes": {"sample_list": "1" * 64}}


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_is_compared(task):
    a_row, a_samples = make_result(task, 0.7, 1)
    b_row, b_samples = make_result(task, 0.5, 2)
    a_minus_b = paired_differences(a_row, a_samples, b_row, b_samples)
    assert set(a_minus_b) == set(a_row.metrics) - {"captions_cut"}
    for name, difference in a_minus_b.items():
        expected = a_row.metrics[name] - b_row.metrics[name]
        assert difference.difference == pytest.approx(expected)
        interval = difference.interval()
        assert interval.low <= expected <= interval.high
    b_minus_a = paired_differences(b_row, b_samples, a_row, a_samples)
    for name, difference in b_minus_a.items():
        assert difference.difference == pytest.approx(-a_minus_b[name].difference)
        assert difference.error == pytest.approx(a_minus_b[name].error, rel=0.05)


@pytest.mark.parametrize("task", TASKS)
def test_many_results_are_compared_as_two_are(task):
    results = [make_result(task, skill, seed) for seed, skill in enumerate((0.4, 0.5, 0.8))]
    samples_of_results = [samples for _, samples in results]
    by_pair = all_differences(task, samples_of_results)
    assert list(by_pair) == [(0, 1), (0, 2), (1, 2)]
    for (a, b), differences in by_pair.items():
        assert differences == paired_differences(*results[a], *results[b])
    quick_by_pair = all_differences(task, samples_of_results, without_slow=True)
    slow_metrics = {name for name in by_pair[0, 1] if "median" in name}
    assert set(by_pair[0, 1]) - set(quick_by_pair[0, 1]) == slow_metrics
    for pair, differences in by_pair.items():
        quick_differences = quick_by_pair[pair]
        assert quick_differences == {name: differences[name] for name in quick_differences}


@pytest.mark.parametrize(
    ("metric", "detectable", "cell"),
    [("acc1", 0.2, "20.00"), ("acc1", 4.2, "> 100"), ("image_to_text_mean_rank", 4.2, "4.20")],
)
def test_a_detectable_difference_above_100_points_is_not_spelt_out(metric, detectable, cell):
    """Fractions cannot differ by more than 100 points; ranks can."""
    task = "cls" if metric == "acc1" else "retrieval"
    a, b = make_result(task, 0.7, 1), make_result(task, 0.5, 2)
    difference = paired_differences(*a, *b)[metric]
    metric_test = MetricTest("d", "p", task, metric, difference, detectable=detectable)
    assert to_cells(metric_test)["detectable"] == cell


@pytest.mark.parametrize("task", TASKS)
def test_a_result_and_itself_do_not_differ(task):
    row, samples = make_result(task)
    for difference in paired_differences(row, samples, row, samples).values():
        assert (difference.difference, difference.p_value) == (0, 1)


def test_items_that_share_an_image_are_not_independent_samples():
    """120 items of 30 images are 30 clusters; of 120 images, they are independent."""

    def make_result_of_shared_images(skill: float, seed: int):
        samples = select_samples(skill, np.random.default_rng(seed), shared=4)
        return make_result("select", samples=samples)

    a, b = make_result_of_shared_images(0.6, 0), make_result_of_shared_images(0.7, 1)
    difference = paired_differences(*a, *b)["accuracy"]
    assert (difference.method, difference.units) == ("paired cluster bootstrap", 30)
    a, b = make_result("select", 0.6, 0), make_result("select", 0.7, 1)
    difference = paired_differences(*a, *b)["accuracy"]
    assert (difference.method, difference.units) == ("exact McNemar", 120)


def test_pairs_of_images_and_captions_are_compared_by_score():
    rng = np.random.default_rng(3)
    results = []
    for _ in range(2):
        text_correct, image_correct = rng.random((2, 120)) < 0.7
        samples = select_samples(0.5, rng)
        samples["correct"] = text_correct & image_correct
        samples["text_correct"] = text_correct
        samples["image_correct"] = image_correct
        results.append(make_result("select", samples=samples))
    differences = paired_differences(*results[0], *results[1])
    scores = {"accuracy", "text_score", "image_score", "group_score", "mean_subset_accuracy"}
    assert set(differences) == scores
    assert differences["group_score"] == differences["accuracy"]


@pytest.mark.parametrize(
    ("task", "array"),
    [
        ("cls", "labels"),
        ("retrieval", "image_of_text"),
        ("select", "cluster"),
        ("seg", "name"),
        ("seg", "members"),
        ("loc", "class"),
        ("loc", "thing_pixels"),
        ("probe", "shots"),
        ("seg-probe", "name"),
        ("depth-probe", "pixels"),
        ("ranking", "query"),
    ],
)
def test_samples_of_other_images_are_refused(task, array):
    row, samples = make_result(task)
    other = {**samples, array: np.roll(samples[array], 1, axis=-1)}
    with pytest.raises(UsageError, match=f"`{array}` of the samples differs"):
        paired_differences(row, samples, row, other)


def test_other_label_maps_are_refused():
    row, samples = make_result("seg")
    other = {**samples, "pixels": samples["pixels"] + 1}
    with pytest.raises(UsageError, match="label maps` of the samples differ"):
        paired_differences(row, samples, row, other)


def test_samples_that_lack_an_array_are_named():
    row, samples = make_result("seg")
    without_members = {name: array for name, array in samples.items() if name != "members"}
    with pytest.raises(UsageError, match="lack 'members' are not of this task"):
        paired_differences(row, samples, row, without_members)


@pytest.mark.parametrize("task", TASKS)
def test_metrics_must_be_those_of_the_samples(task):
    row, samples = make_result(task)
    name = next(iter(row.metrics))
    for value in (row.metrics[name] + 1e-6, float("nan")):
        edited = dataclasses.replace(row, metrics={**row.metrics, name: value})
        with pytest.raises(UsageError, match=f"{name} is .*, but its samples give"):
            paired_differences(row, samples, edited, samples)
    with_unknown_metric = dataclasses.replace(row, metrics={"odd": 0.5})
    with pytest.raises(UsageError, match="do not give odd"):
        paired_differences(with_unknown_metric, samples, row, samples)


def test_two_files(command, tmp_path):
    a = store(tmp_path / "a", skill=0.9)
    b = store(tmp_path / "b", skill=0.5, seed=2, **OTHER_MODEL)
    ended = command("compare", a, b)
    assert ended.status == 0
    verdict = "A better in 1, B in 0 of 1 test (Holm)"
    assert ended.out.splitlines()[:3] == [verdict, "A: scenes-cosmos", "B: scenes-clip"]
    assert "exact McNemar, n = 120" in ended.out
    assert ended.err == "note: other metrics not shown: 3 (--all-metrics shows them)\n"
    headline, *other_tests = json.loads(command("compare", a, b, "--json").out)["tests"]
    assert (headline["metric"], headline["better"]) == ("acc1", "A")
    assert headline["difference"] == pytest.approx(headline["a"] - headline["b"])
    assert headline["p_value_holm"] == headline["p_value"] < 0.001
    assert {test["metric"]: test["p_value_holm"] for test in other_tests} == {
        "acc5": None, "mean_per_class_recall": None, "ece": None,
    }  # fmt: skip
    assert json.loads(command("compare", b, a, "--json").out)["tests"][0]["better"] == "B"


def test_headline_metrics_are_shown_first(command, tmp_path):
    for task in ("cls", "retrieval"):
        store(tmp_path / "a", task, 0.9)
        store(tmp_path / "b", task, 0.1, seed=2, **OTHER_MODEL)
    headlines = {"acc1", "image_to_text_R@1", "text_to_image_R@1"}
    shown = command("compare", "a", "b")
    assert shown.out.startswith("A better in 3, B in 0 of 3 tests (Holm)\n")
    assert metric_names(shown.out) == headlines
    everything = command("compare", "a", "b", "--all-metrics")
    assert metric_names(everything.out) > headlines | {"acc5", "ece", "image_to_text_mean_rank"}
    hidden = len(metric_names(everything.out) - headlines)
    note = f"note: other metrics not shown: {hidden} (--all-metrics shows them)\n"
    assert (shown.err, everything.err) == (note, "")
    named = command("compare", "a", "b", "--metrics", "acc5,ece")
    assert metric_names(named.out) == {"acc5", "ece"}
    assert named.out.startswith("A better in 3, B in 0 of 3 tests (Holm)\n")
    assert command("compare", "b", "a").out.startswith("A better in 0, B in 3 of 3 tests (Holm)\n")


def metric_names(text: str) -> set[str]:
    """Return the metrics of a table of tests, whose rows are indented."""
    return set(re.findall(r"^  (\S+)  ", text, re.M))


def test_verdicts():
    """Three tests with p = 0.01, 0.02 and 0.6: Holm's values are 0.03, 0.04 and 0.6."""

    def metric_test(name: str, gain: float, p_value: float) -> MetricTest:
        change = PairedDifference(0.5 + gain, 0.5, gain, 0.01, math.inf, p_value, 100, "a test")
        return MetricTest("set", "protocol", "retrieval", name, change)

    tests = adjust_p_values(
        [
            metric_test("image_to_text_R@1", 0.2, 0.01),
            metric_test("text_to_image_R@1", -0.2, 0.02),
            metric_test("image_to_text_R@1", 0.2, 0.6),
            metric_test("image_to_text_R@5", 0.2, 0.001),
        ]
    )
    comparison = Comparison("a", "b", tests, ())
    assert comparison.verdict == "A better in 1, B in 1 of 3 tests (Holm)"
    assert comparison.headline_tests == tests[:3]
    only_other_metrics = comparison._replace(tests=tests[3:])
    assert only_other_metrics.headline_tests == tests[3:]
    assert only_other_metrics.verdict == "no verdict: no headline metric was tested"


def test_a_metric_that_only_one_result_has_is_left_out(command, tmp_path):
    a_row, a_samples = make_result("cls", 0.9, 1)
    b_row, b_samples = make_result("cls", 0.5, 2)
    b_samples = {name: array for name, array in b_samples.items() if name != "confidence"}
    a = store_result(tmp_path / "a", "cls", a_samples, provenance=SAME_SAMPLES)
    b = store_result(tmp_path / "b", "cls", b_samples, provenance=SAME_SAMPLES, **OTHER_MODEL)
    ended = command("compare", a, b)
    assert (ended.status, ended.out.count("ece")) == (0, 0)
    assert "not compared, since only one of both has it: ece" in ended.err
    edited_row = dataclasses.replace(a_row, metrics={**a_row.metrics, "ece": 0.5})
    with pytest.raises(UsageError, match=r"ece is 0\.5, but its samples give"):
        paired_differences(edited_row, a_samples, b_row, b_samples)


def test_two_folders_with_holm_over_all_headlines(command, tmp_path):
    for task in TASKS:
        store(tmp_path / "a", task, 0.65)
        store(tmp_path / "b", task, 0.6, seed=2, **OTHER_MODEL)
    store(tmp_path / "a", dataset="only-here")
    ended = command("compare", "a", "b", "--json")
    comparison = json.loads(ended.out)
    assert comparison["notes"] == ["not compared: only A has only-here (scenes)"]
    headlines = [test for test in comparison["tests"] if test["p_value_holm"] is not None]
    assert sorted((test["dataset"], test["metric"]) for test in headlines) == [
        ("scenes-assoc", "jaccard"),
        ("scenes-boxes", "mean_per_class_recall"),
        ("scenes-cls", "acc1"),
        ("scenes-depth-probe", "rmse"),
        *(("scenes-faces", f"acc_{name}") for name in ("age", "gender", "race")),
        ("scenes-loc", "AUC"),
        ("scenes-loc", "attention_mass"),
        ("scenes-multilabel", "mAP"),
        ("scenes-ood", "auroc"),
        ("scenes-probe", "linear_acc1"),
        ("scenes-ranking", "text_to_image_R@1"),
        ("scenes-ranking", "text_to_image_mAP@R"),
        ("scenes-ratings", "kendall_tau_c"),
        ("scenes-retrieval", "image_to_text_R@1"),
        ("scenes-retrieval", "text_to_image_R@1"),
        ("scenes-seg", "mIoU"),
        ("scenes-seg-probe", "mIoU"),
        ("scenes-select", "accuracy"),
    ]
    smallest = min(headlines, key=lambda test: test["p_value"])
    expected = min(1, len(headlines) * smallest["p_value"])
    assert smallest["p_value_holm"] == pytest.approx(expected)


def test_one_folder_with_two_models(command, tmp_path):
    store(tmp_path / "all")
    store(tmp_path / "all", skill=0.5, **OTHER_MODEL)
    store(tmp_path / "all", provenance={"precision": "bf16"})
    ended = command("compare", "all", "all")
    assert ended.status == 2
    names = "scenes-clip, scenes-cosmos, scenes-cosmos (bf16)"
    assert f"has several models ({names}): choose" in ended.err
    ended = command("compare", "all", "all", "--model", "scenes-cosmos", "--model", "scenes-clip")
    assert ended.status == 0
    assert "B: scenes-clip" in ended.out
    models = ["--model", "scenes-cosmos", "--model", "scenes-cosmos (bf16)"]
    ended = command("compare", "all", "all", *models)
    assert ended.err.splitlines() == [
        "note: A and B are one model, of weights 000000000000",
        "note: scenes-cls: precision is fp32 and bf16",
        "note: other metrics not shown: 3 (--all-metrics shows them)",
    ]


def test_the_model_of_lower_ranks_is_better(command, tmp_path):
    a = store(tmp_path / "a", "retrieval", 0.9)
    b = store(tmp_path / "b", "retrieval", 0.4, seed=2)
    comparison = json.loads(command("compare", a, b, "--json").out)
    tests = {test["metric"]: test for test in comparison["tests"]}
    assert tests["image_to_text_mean_rank"]["difference"] < 0
    assert tests["image_to_text_R@1"]["better"] == "A"


FEWER_LABEL_MAPS = {"samples": seg_samples(0.6, np.random.default_rng(1), images=20)}


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("cls", {"dataset": "other"}, "dataset is scenes-cls and other"),
        ("cls", {"protocol": "cosmos"}, "protocol is scenes and cosmos"),
        ("cls", {"hashes": {"sample_list": "d" * 64}}, "hashes.sample_list is cccccccccccc and"),
        ("cls", {"hashes": {"extra": "d" * 64}}, "hashes.extra is missing and dddddddddddd"),
        ("cls", {"provenance": {"limit": 120}}, "limit is none and 120"),
        ("cls", {"n_samples": 7}, "n_samples is 120 and 7"),
        ("seg", {"provenance": {"attention": "vanilla"}}, "attention is csa and vanilla"),
        ("seg", FEWER_LABEL_MAPS, "n_samples is 30 and 20"),
        ("cls", {"task": "seg"}, "task is cls and seg"),
    ],
)  # fmt: skip
def test_results_that_differ_in_more_than_the_model_are_refused(
    command, tmp_path, task, changes, message
):
    a = store(tmp_path / "a", task)
    b = store(tmp_path / "b", **{"task": task, **changes})
    ended = command("compare", a, b)
    assert ended.status == 2
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1
    assert f"cannot be compared: {message}" in ended.err or f"; {message}" in ended.err


def test_results_without_a_hash_of_their_samples_are_refused(command, tmp_path):
    without_hashes = {"provenance": {"hashes": {}}}
    a = store(tmp_path / "a", **without_hashes)
    b = store(tmp_path / "b", **without_hashes)
    ended = command("compare", a, b)
    assert ended.status == 2
    assert "hashes.sample_list is not recorded" in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "Missing argument 'B'"),
        (["a", "empty"], "no results .* in empty"),
        (["a", "a/broken.txt"], "broken.txt: cannot be read"),
        (["a", "a", "--model", "x", "--model", "y", "--model", "z"], "at most twice"),
        (["a", "a", "--model", "scenes-clop"], "model 'scenes-clop'; nearest: scenes-cosmos$"),
        (["two", "a"], "two has several models"),
        (["a", "--group", "x", "--group", "y"], "is called 'x'; nearest: scenes-cosmos$"),
    ],
)
def test_usage_errors(command, tmp_path, arguments, message):
    store(tmp_path / "a")
    (tmp_path / "a" / "broken.txt").write_text("{")
    (tmp_path / "empty").mkdir()
    store(tmp_path / "two", model={"weights": "student"})
    store(tmp_path / "two", model={"weights": "student"}, dataset="x", provenance={"limit": 5})
    ended = command("compare", *arguments)
    assert ended.status == 2
    assert re.search(message, ended.err, re.MULTILINE)


def test_folders_without_a_common_data_set_are_refused(command, tmp_path):
    for folder, names in (("a", ("p", "q")), ("b", ("r", "s"))):
        for name in names:
            store(tmp_path / folder, dataset=name)
    ended = command("compare", "a", "b")
    assert ended.status == 2
    assert "A has p (scenes), q (scenes), B r (scenes), s (scenes)" in ended.err


def test_edited_samples_are_refused(command, tmp_path):
    a, b = store(tmp_path / "a"), store(tmp_path / "b")
    (samples,) = (tmp_path / "b").glob("*.npz")
    samples.write_bytes(samples.read_bytes() + b" ")
    ended = command("compare", a, b)
    assert ended.status == 2
    assert "is not what was stored" in ended.err


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "<1e-06"), (3e-307, "<1e-06"), (1e-6, "1e-06"), (0.0423, "0.042"), (1.0, "1")],
)
def test_tiny_p_values_are_not_spelt_out(value, text):
    assert p_value_text(value) == text
