"""Every two models: as `cosmos-eval compare` has them, and what stands in the way."""

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


def pairs_of(made_up: MadeUpResults):
    sets = result_sets(made_up.results, made_up.read)
    return pair_models([found for one in sets for found in compare_set(one)])


def test_pairs_are_those_of_compare():
    made_up = made_up_results(["a", "b", "c"])
    found = {one.models: one for one in pairs_of(made_up)}
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    for (first, second), one in found.items():
        own, others = (
            [stored for stored in made_up.results if stored.row.model["spec"] == model]
            for model in (first, second)
        )
        expected = compare(pair_results(own, others)[0], made_up.read).tests
        reported = {(test.dataset, test.metric): test for test in expected}
        assert {(t.dataset, t.metric): t for t in one.tests} == {
            key: reported[key] for key in ((t.dataset, t.metric) for t in one.tests)
        }
        headlines = {key for key, test in reported.items() if test.adjusted is not None}
        assert headlines <= {(t.dataset, t.metric) for t in one.tests}
        assert not one.obstacles


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hashes": {"templates": "f" * 64}}, "hashes.templates is bbbbbbbbbbbb and ffffffffffff"),
        ({"provenance": {"limit": 50}}, "limit is none and 50"),
    ],
)
def test_what_differs_is_told(changes, reason):
    made_up = MadeUpResults()
    made_up.add(*make_result("cls", model={"spec": "a"}))
    made_up.add(*make_result("cls", model={"spec": "b"}, **changes))
    (one,) = pairs_of(made_up)
    assert one.tests == ()
    assert one.obstacles == (f"scenes-cls (scenes): {reason}",)


def test_results_of_one_setting_are_compared_whatever_a_third_one_is():
    made_up = made_up_results(["a", "c"], ["seg"])
    made_up.add(*make_result("seg", model={"spec": "b"}, hashes={"queries": "1" * 64}))
    reported = {one.models: (len(one.tests), len(one.obstacles)) for one in pairs_of(made_up)}
    assert reported == {("a", "b"): (0, 1), ("a", "c"): (2, 0), ("b", "c"): (0, 1)}


@pytest.mark.parametrize("task", TASKS)
def test_other_labels_under_the_same_hashes_are_told(task):
    made_up = made_up_results(["a", "b"], [task])
    row, samples = make_result(task, model={"spec": "c"})
    name = {"cls": "labels", "retrieval": "image_of_text", "seg": "name", "select": "cluster"}[task]
    made_up.add(row, {**samples, name: samples[name][::-1]})
    for one in pairs_of(made_up):
        if "c" in one.models:
            assert f"`{name}` of the samples differs" in one.obstacles[0]
        else:
            assert one.tests


def test_a_metric_that_is_not_of_its_samples_is_told():
    made_up = made_up_results(["a", "b"], ["retrieval"])
    row, samples = make_result("retrieval", model={"spec": "c"})
    metrics = {**row.metrics, "text_to_image_R@1": 0.99}
    made_up.add(dataclasses.replace(row, metrics=metrics), samples)
    reported = {one.models: one for one in pairs_of(made_up)}
    assert reported["a", "b"].tests
    assert "c: text_to_image_R@1 is 0.99, but its samples give" in reported["a", "c"].obstacles[0]


def test_samples_that_cannot_be_read_or_are_foreign_are_told():
    made_up = made_up_results(["a", "b"], ["cls"])
    row, samples = make_result("cls", model={"spec": "c"})
    made_up.add(row, {"labels": samples["labels"]})
    reported = {one.models: one for one in pairs_of(made_up)}
    assert reported["a", "b"].tests
    for models in (("a", "c"), ("b", "c")):
        assert "samples that lack 'top5' are not of this task" in reported[models].obstacles[0]
    # A model without a comparison has no row in the table of all models.
    page = to_page(made_up.content()).content.decode()
    table = page.partition('<table class="wins"')[2].partition("</table>")[0]
    assert table.count('<th scope="row">') == 2

    def unreadable(path):
        raise UsageError(f"{path}: missing")

    (one,) = result_sets(made_up.results[:1], unreadable)
    assert (one.results, one.notes) == ((), ("not compared with others: result-0.json: missing",))


def test_a_task_that_is_not_installed_is_told():
    made_up = MadeUpResults()
    for model in "ab":
        row, samples = make_result("cls", model={"spec": model})
        made_up.add(dataclasses.replace(row, task="caption"), samples)
    (one,) = pairs_of(made_up)
    assert "unknown task 'caption'" in one.obstacles[0]
    assert made_up.content().boards


def test_wins_by_hand():
    """Of 120 images, `a` and `b` get the same right, `c` all: two tests are won, none is tied."""
    made_up = MadeUpResults()
    half, whole = np.arange(120) % 2 == 0, np.ones(120, bool)
    for model, right in (("a", half), ("b", half), ("c", whole)):
        truth = np.zeros(120, int)
        top = np.where(right, 0, 1)[:, None]
        samples = {"labels": truth, "top5": top, "classes": np.array(["x", "y"])}
        made_up.add(*make_result("cls", samples=samples, model={"spec": model}))
    found = {one.models: one for one in pairs_of(made_up)}
    won = {models: (*map(one.wins, models), one.decisive) for models, one in found.items()}
    assert won == {("a", "b"): (0, 0, 1), ("a", "c"): (0, 1, 1), ("b", "c"): (0, 1, 1)}
    (test,) = found["a", "c"].tests
    assert test.difference.changed == (0, 60)


def test_queries_that_only_one_model_has_right_by_hand():
    """Of two images with three captions each, A ranks more first: 1 : 0 images, 3 : 1 captions."""
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
