"""The overview of a page: means, differences and ranks, by hand and by a second computation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.models import make_result
from support.report_pages import MadeUpResults, made_up_results
from support.rows import make_row

from cosmos_eval.reporting.content import content_of
from cosmos_eval.reporting.overview import choose_members, explain_exclusions
from cosmos_eval.reporting.page import to_page
from cosmos_eval.results.labels import StoredResult, label_results
from cosmos_eval.results.leaderboard.entries import entries_of, entries_of_rows
from cosmos_eval.types import Suite, SuiteMember, UsageError

RIGHT = {"a": 30, "b": 60, "c": 60, "d": 100}  # of 120 images


def classified(name, right):
    """A result of 120 images of which the first ones are right."""
    top = (np.arange(120) >= right).astype(int)[:, None]
    samples = {"labels": np.zeros(120, int), "top5": top, "classes": np.array(["x", "y"])}
    return make_result("cls", samples=samples, model={"spec": name})


@pytest.fixture(scope="module")
def overview():
    made_up = MadeUpResults()
    for name, right in RIGHT.items():
        made_up.add(*classified(name, right))
    return made_up.content().overview


def test_models_are_ranked_by_their_mean(overview):
    assert [row.model for row in overview.rows] == ["d", "b", "c", "a"]
    assert [overview.mean(row) for row in overview.rows] == ["83.3", "50.0", "50.0", "25.0"]
    assert [row.ranks for row in overview.rows] == [(1, 1), (2, 3), (2, 3), (4, 4)]
    assert overview.average_ranks == {"d": 1, "b": 2.5, "c": 2.5, "a": 4}
    assert overview.equals == []
    assert overview.scope == "protocol scenes"


def test_differences_are_paired(overview):
    """Models d and b differ on 40 of 120 images, with the standard error of a proportion. Equal
    models differ by 0."""
    difference, low, high = overview.difference("d", "b")
    standard_error = 100 * np.sqrt(1 / 3 * 2 / 3 / 119)
    assert difference == pytest.approx(100 / 3)
    # 1.98 is the 97.5% quantile of Student's t with 119 degrees of freedom.
    assert (high - low) / 2 == pytest.approx(1.98 * standard_error, rel=0.05)
    assert overview.difference("b", "d") == pytest.approx((-difference, -high, -low))
    assert overview.difference("b", "c") == (0, 0, 0)
    assert overview.difference("b", "e") is None


def test_models_that_are_not_told_apart_from_the_first():
    made_up = MadeUpResults()
    for name, right in {"a": 60, "b": 61, "c": 30}.items():
        made_up.add(*classified(name, right))
    assert made_up.content().overview.equals == ["a"]


def test_a_mean_over_tasks_counts_both_directions_of_retrieval_once():
    made_up = made_up_results(["a", "b"])
    overview = made_up.content().overview
    metrics = {
        stored.row.task: stored.row.metrics for stored in made_up.results if stored.model == "b"
    }
    recalls = metrics["retrieval"]["image_to_text_R@1"], metrics["retrieval"]["text_to_image_R@1"]
    members = [
        np.mean(recalls),
        metrics["cls"]["acc1"],
        metrics["seg"]["mIoU"],
        metrics["select"]["accuracy"],
    ]
    assert overview.rows[0].model == "b"
    assert overview.rows[0].mean.value == pytest.approx(np.mean(members))


def entries(**sets):
    rows = [
        make_row(model={"spec": model}, dataset=dataset, protocol="p")
        for dataset, models in sets.items()
        for model in models
    ]
    return entries_of_rows(rows)


@pytest.mark.parametrize(
    ("sets", "chosen"),
    [
        ({"x": "abc", "y": "abc"}, "xy"),
        ({"x": "abc", "y": "ab", "z": "c"}, "xy"),  # two models on two sets, not three on one
        ({"x": "abcd", "y": "a"}, "x"),  # four models on one, not one on two
        ({"x": "a", "y": "b"}, ""),
    ],
)
def test_data_sets_that_most_models_share(sets, chosen):
    members = choose_members(entries(**sets), "p")
    assert members == tuple(SuiteMember("cls", name, "p", ("acc1",)) for name in chosen)


def test_one_model_is_not_ranked_and_a_suite_ranks_by_its_members():
    assert made_up_results(["a"]).content().overview is None
    made_up = made_up_results(["a", "b"])
    member = SuiteMember("seg", "scenes-seg", "scenes", ("mIoU",))
    content = made_up.content(suite=Suite("mine", (), (), (), (member,), {}, ""))
    assert content.overview.scope == "suite mine"
    expected = made_up.rows_by_model("seg")["b"].metrics["mIoU"]
    assert content.overview.rows[0].mean.value == expected


def test_a_model_without_samples_is_not_ranked():
    made_up = made_up_results(["a", "b", "c"], ["cls"])

    def read(path):
        if path.name == "result-0.json":
            raise UsageError("missing")
        return made_up.read(path)

    content = content_of(made_up.results, read)
    assert [row.model for row in content.overview.rows] == ["c", "b"]


def test_the_reason_why_a_data_set_is_not_in_the_mean():
    """Three models on one set of protocol p, two on another, and sets that cannot be averaged."""
    rows = [
        *(make_row(model={"spec": m}, dataset="x", protocol="p") for m in "abc"),
        *(make_row(model={"spec": m}, dataset="y", protocol="p") for m in "ab"),
        make_row(model={"spec": "a"}, dataset="x", protocol="q"),
        make_row(model={"spec": "a"}, dataset="z", protocol="p", metrics={"acc5": 0.5}),
    ]
    stored = label_results([StoredResult(Path(f"{n}.json"), row) for n, row in enumerate(rows)])
    all_entries = entries_of(stored)
    mean = Suite("", (), (), (), (SuiteMember("cls", "x", "p", ("acc1",)),), {}, "")
    assert explain_exclusions(mean, all_entries) == (
        "x (q): another protocol than the mean",
        "y (p): measured for 2 of 3 models",
        "z (p): its main metrics are not shares of which more is better",
    )
    suite = mean._replace(name="mine")
    assert set(explain_exclusions(suite, all_entries)) == {
        f"{name}: not in suite mine" for name in ("x (q)", "y (p)", "z (p)")
    }


def test_the_ranking_says_which_data_sets_it_leaves_out():
    made_up = made_up_results(["a", "b"])
    made_up.add(*make_result("cls", model={"spec": "a"}, dataset="more"))
    content = made_up.content()
    assert content.overview.exclusions == ("more (scenes): measured for 1 of 2 models",)
    assert "Why 1 data set is not in the mean" in to_page(content).content.decode()


def test_a_report_does_not_import_scipy_stats():
    """It takes longer to import than the rest of SciPy, and no number of a report needs it."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, cosmos_eval.reporting.write; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = done.stdout.split()
    assert "cosmos_eval.reporting.overview" in modules
    assert "scipy.stats" not in modules
