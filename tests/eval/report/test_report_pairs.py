"""Comparisons of every two models: the tests of `cosmos-eval compare`, and what prevents them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support.models import make_result
from support.report_pages import TASKS, MadeUpResults, made_up_results

from cosmos_eval.reporting.content import compare_set, pair_models, result_sets
from cosmos_eval.reporting.page import to_page
from cosmos_eval.reporting.tables import page_data
from cosmos_eval.results.compare import compare, pair_results
from cosmos_eval.types import UsageError


def pairs_by_models(made_up: MadeUpResults):
    """Return the comparison of every two models, by the names of both."""
    comparisons = []
    for result_set in result_sets(made_up.results, made_up.read):
        comparisons += compare_set(result_set)
    return {pair.models: pair for pair in pair_models(comparisons)}


def results_of_model(made_up: MadeUpResults, model: str):
    return [stored for stored in made_up.results if stored.row.model["spec"] == model]


def test_pairs_have_the_tests_of_compare():
    made_up = made_up_results(["a", "b", "c"])
    pairs = pairs_by_models(made_up)
    assert list(pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    for (first, second), pair in pairs.items():
        paired_results, *_ = pair_results(
            results_of_model(made_up, first), results_of_model(made_up, second)
        )
        expected = {
            (test.dataset, test.metric): test
            for test in compare(paired_results, made_up.read).tests
        }
        tests = {(test.dataset, test.metric): test for test in pair.tests}
        assert tests == {key: expected[key] for key in tests}
        # Only primary metrics have an adjusted p-value.
        primary_metrics = {key for key, test in expected.items() if test.adjusted is not None}
        assert primary_metrics <= tests.keys()
        assert not pair.obstacles


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hashes": {"templates": "f" * 64}}, "hashes.templates is bbbbbbbbbbbb and ffffffffffff"),
        ({"provenance": {"limit": 50}}, "limit is none and 50"),
    ],
)
def test_the_setting_that_differs_is_an_obstacle(changes, reason):
    made_up = MadeUpResults()
    made_up.add(*make_result("cls", model={"spec": "a"}))
    made_up.add(*make_result("cls", model={"spec": "b"}, **changes))
    (pair,) = pairs_by_models(made_up).values()
    assert pair.tests == ()
    assert pair.obstacles == (f"scenes-cls (scenes): {reason}",)


def test_comparable_results_are_compared_beside_one_of_another_setting():
    made_up = made_up_results(["a", "c"], ["seg"])
    made_up.add(*make_result("seg", model={"spec": "b"}, hashes={"queries": "1" * 64}))
    counts = {
        models: (len(pair.tests), len(pair.obstacles))
        for models, pair in pairs_by_models(made_up).items()
    }
    assert counts == {("a", "b"): (0, 1), ("a", "c"): (2, 0), ("b", "c"): (0, 1)}


@pytest.mark.parametrize("task", TASKS)
def test_other_labels_under_the_same_hashes_are_an_obstacle(task):
    made_up = made_up_results(["a", "b"], [task])
    row, samples = make_result(task, model={"spec": "c"})
    array_name = {
        "cls": "labels",
        "retrieval": "image_of_text",
        "seg": "name",
        "select": "cluster",
    }[task]
    made_up.add(row, {**samples, array_name: samples[array_name][::-1]})
    for models, pair in pairs_by_models(made_up).items():
        if "c" in models:
            assert f"`{array_name}` of the samples differs" in pair.obstacles[0]
        else:
            assert pair.tests


def test_a_metric_that_contradicts_its_samples_is_an_obstacle():
    made_up = made_up_results(["a", "b"], ["retrieval"])
    row, samples = make_result("retrieval", model={"spec": "c"})
    metrics = {**row.metrics, "text_to_image_R@1": 0.99}
    made_up.add(dataclasses.replace(row, metrics=metrics), samples)
    pairs = pairs_by_models(made_up)
    assert pairs["a", "b"].tests
    assert "c: text_to_image_R@1 is 0.99, but its samples give" in pairs["a", "c"].obstacles[0]


def test_samples_that_are_incomplete_or_missing_are_an_obstacle():
    made_up = made_up_results(["a", "b"], ["cls"])
    row, samples = make_result("cls", model={"spec": "c"})
    made_up.add(row, {"labels": samples["labels"]})
    pairs = pairs_by_models(made_up)
    assert pairs["a", "b"].tests
    for models in (("a", "c"), ("b", "c")):
        assert "samples that lack 'top5' are not of this task" in pairs[models].obstacles[0]
    # A model without a comparison has no row in the table of all models.
    page = to_page(made_up.content()).content.decode()
    table = page.partition('<table class="wins"')[2].partition("</table>")[0]
    assert table.count('<th scope="row">') == 2

    def read_missing_samples(path):
        raise UsageError(f"{path}: missing")

    (result_set,) = result_sets(made_up.results[:1], read_missing_samples)
    assert result_set.results == ()
    assert result_set.notes == ("not compared with others: result-0.json: missing",)


def test_a_task_that_is_not_installed_is_an_obstacle():
    made_up = MadeUpResults()
    for model in "ab":
        row, samples = make_result("cls", model={"spec": model})
        made_up.add(dataclasses.replace(row, task="caption"), samples)
    (pair,) = pairs_by_models(made_up).values()
    assert "unknown task 'caption'" in pair.obstacles[0]
    assert made_up.content().boards


def test_wins_by_hand():
    """Models `a` and `b` are right on the same 60 of 120 images, and `c` on all of them."""
    made_up = MadeUpResults()
    right_on_half, right_on_all = np.arange(120) % 2 == 0, np.ones(120, bool)
    for model, is_right in (("a", right_on_half), ("b", right_on_half), ("c", right_on_all)):
        labels = np.zeros(120, int)
        predictions = np.where(is_right, 0, 1)[:, None]
        samples = {"labels": labels, "top5": predictions, "classes": np.array(["x", "y"])}
        made_up.add(*make_result("cls", samples=samples, model={"spec": model}))
    pairs = pairs_by_models(made_up)
    # The wins of the first model, those of the second, and the number of tests that decide.
    wins = {
        (first, second): (pair.wins(first), pair.wins(second), pair.decisive)
        for (first, second), pair in pairs.items()
    }
    assert wins == {("a", "b"): (0, 0, 1), ("a", "c"): (0, 1, 1), ("b", "c"): (0, 1, 1)}
    (test,) = pairs["a", "c"].tests
    assert test.difference.changed == (0, 60)


def test_queries_that_only_one_model_has_right_by_hand():
    """Of two images with three captions each, only A ranks one image and three captions first, and
    only B ranks one caption first."""
    made_up = MadeUpResults()
    for model, image_ranks, text_ranks in (
        ("a", [1, 2], [1, 1, 1, 2, 1, 2]),
        ("b", [3, 2], [2, 1, 2, 1, 2, 2]),
    ):
        samples = {
            "image_to_text_rank": np.array(image_ranks),
            "text_to_image_rank": np.array(text_ranks),
            "image_of_text": np.repeat([0, 1], 3),
        }
        made_up.add(*make_result("retrieval", samples=samples, model={"spec": model}))
    content = made_up.content()
    (pair,) = content.pairs
    changed = {test.metric: test.difference.changed for test in pair.tests}
    assert changed == {"image_to_text_R@1": (1, 0), "text_to_image_R@1": (3, 1)}
    (record,) = page_data(content, [])["pairs"]
    assert [(test["onlyA"], test["onlyB"]) for test in record["tests"]] == [(1, 0), (3, 1)]
