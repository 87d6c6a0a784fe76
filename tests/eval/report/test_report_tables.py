"""Tables of a page, solved by hand."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.models import make_result
from support.report_pages import PUBLISHED, MadeUpResults, made_up_results
from support.results import SAMPLES
from support.rows import make_row

from cosmos_eval.reporting.content import mistakes_of, result_sets
from cosmos_eval.reporting.page import to_page
from cosmos_eval.reporting.tables import bars_of, class_tables, figures_of, page_data, summary_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.leaderboard.board import make_boards
from cosmos_eval.results.leaderboard.entries import entries_of_rows
from cosmos_eval.results.text import script_json
from cosmos_eval.types import UsageError


def board_of(*rows):
    (board,) = make_boards(entries_of_rows(rows))
    return board


def test_bars_are_on_the_scale_of_their_column():
    """From 20 to 60 percent and a margin of 6% of that: 17.6 to 62.4."""
    intervals = {"acc1": {"low": 0.2, "high": 0.4, "method": "wilson", "level": 0.95}}
    board = board_of(
        make_row(metrics={"acc1": 0.3}, intervals=intervals),
        make_row(model={"spec": "b"}, metrics={"acc1": 0.6}, intervals={}),
    )
    rows = zip(board.rows, bars_of(board), strict=True)
    by_model = {row.model: bar for row, (bar,) in rows}
    place = {value: round(100 * (value - 17.6) / 44.8, 2) for value in (20, 30, 40, 60)}
    assert by_model["scenes-cosmos"][:3] == pytest.approx((place[30], place[20], place[40]))
    assert by_model["b"][:3] == pytest.approx([place[60]] * 3)
    assert by_model["b"].exact == ("60", "60", "60")


def test_a_column_of_one_number_has_a_scale():
    ((bar,),) = bars_of(board_of(make_row(metrics={"acc1": 0.3}, intervals={})))
    assert bar == (50, 50, 50, ("30", "30", "30"))


def test_ratios_are_no_percentages():
    metrics = {"mass_over_area": 1.914, "pointing_game": 0.5}
    interval = {"low": 1.5, "high": 2.25, "method": "bootstrap", "level": 0.95}
    of = {"metrics": metrics, "intervals": {"mass_over_area": interval}, "per_class": {}}
    row = make_row(task="loc", **of)
    board = board_of(row)
    assert [column.metric for column in board.columns] == ["mass_over_area", "pointing_game"]
    ratio, share = board.rows[0].cells
    assert (ratio.value, ratio.interval, share.value) == ("1.91x", "[1.50, 2.25]", "50.0")
    exact = [bar.exact for bar in bars_of(board)[0]]
    assert exact == [("1.914", "1.5", "2.25"), ("50", "50", "50")]
    figures = {name: texts for name, *texts in figures_of(*entries_of_rows([row]))}
    assert figures["mass_over_area"][:2] == ["1.91", "[1.50, 2.25]"]
    assert figures["pointing_game"][0] == "50.0 %"


def test_a_task_that_is_not_installed_has_columns():
    """Such as one that another package brings, where the results were measured."""
    row = make_row(task="elsewhere", metrics={"hits": 0.5}, intervals={})
    assert board_of(row).columns[0].title == "hits"
    assert [texts[1] for texts in figures_of(*entries_of_rows([row]))] == ["0.5"]
    made_up = MadeUpResults()
    made_up.add(row, {})
    assert 'data-task="Other" data-metric="hits"' in to_page(made_up.content()).content.decode()


def stored(*rows):
    return [StoredResult(Path(path), row) for path, row in zip("abcdefgh", rows, strict=False)]


def test_figures_a_class_side_by_side():
    per_class = {"sky": {"IoU": 0.5, "Acc": 0.75}, "cow": {"IoU": None, "Acc": 0.25}}
    seg = {"task": "seg", "dataset": "d", "per_class": per_class}
    rows = [
        make_row(**seg),
        make_row(model={"spec": "b"}, **{**seg, "per_class": {"sky": {"IoU": 0.123456}}}),
        make_row(per_class={}),
    ]
    iou, acc = class_tables(stored(*rows))
    assert (iou.figure, iou.models, iou.counted) == ("IoU", ("b", "scenes-cosmos"), "")
    assert iou.rows == (("sky", None, (12.3456, 50.0)), ("cow", None, (None, None)))
    assert acc.rows[1] == ("cow", None, (None, 25.0))


def test_counts_of_classes_are_not_shown_as_shares():
    per_class = {"pear": {"recall": 1.0, "images": 3}, "fig": {"recall": None, "images": 0}}
    (table,) = class_tables(stored(make_row(per_class=per_class)))
    assert (table.figure, table.counted) == ("recall", "images")
    assert table.rows == (("pear", 3, (100.0,)), ("fig", 0, (None,)))


@pytest.mark.parametrize(
    ("task", "unit", "rows"),
    [
        # Of three pears two were taken for apples; nothing else went wrong.
        ("cls", "images", (("pear", "apple", (2 / 3, 2 / 3)),)),
        # Of seven pixels of sky two were taken for a cow.
        ("seg", "pixels", (("sky", "cow", (2 / 7, 2 / 7)),)),
    ],
)
def test_mistakes_by_hand(task, unit, rows):
    made_up = MadeUpResults()
    for model in "ab":
        made_up.add(*make_result(task, samples=SAMPLES[task], model={"spec": model}))
    (result_set,) = result_sets(made_up.results, made_up.read)
    mistakes = mistakes_of(result_set)
    assert (mistakes.unit, mistakes.models, mistakes.rows) == (unit, ("a", "b"), rows)


def test_the_most_frequent_mistakes_of_any_model_are_shown_first():
    """Model `a` makes nine mistakes, once to nine times. The eight most frequent are shown."""
    labels = np.repeat(np.arange(10), 10)
    made_up = MadeUpResults()
    for model, n_mistakes in (("a", 9), ("b", 0)):
        predictions = labels.copy()
        for number in range(1, n_mistakes + 1):
            predictions[10 * number : 11 * number] = 0
        samples = {
            "labels": labels,
            "top5": predictions[:, None],
            "classes": np.array(list("abcdefghij")),
        }
        made_up.add(*make_result("cls", samples=samples, model={"spec": model}))
    (result_set,) = result_sets(made_up.results, made_up.read)
    rows = mistakes_of(result_set).rows
    assert list(rows) == [
        (name, "a", (number / 10, 0.0))
        for name, number in zip("jihgfedc", range(9, 1, -1), strict=True)
    ]


def test_tasks_without_mistakes_have_none():
    made_up = made_up_results(["a"], ["retrieval", "select"])
    sets = result_sets(made_up.results, made_up.read)
    assert [mistakes_of(result_set) for result_set in sets] == [None, None]


def test_provenance_holds_what_the_result_says():
    reported = {"commit": "c" * 40, "dirty": True, "notes": ["first note"], "limit": 5}
    reported["hashes"] = {"templates": "f" * 64}
    interval = {"low": 0.125, "high": 0.5, "method": "wilson", "level": 0.95}
    first_found = "image_to_text_R@1"
    row = make_row(
        reported,
        task="retrieval",
        metrics={"image_to_text_R@5": 0.5, first_found: 0.25, "image_to_text_mean_rank": 3.25},
        intervals={first_found: interval},
    )
    made_up = MadeUpResults()
    made_up.add(row, {})
    text = to_page(made_up.content()).content.decode()
    origins = text[text.index('<section id="origins"') :]
    facts = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", origins))
    assert "<li>first note</li>" in origins
    assert facts["templates"] == "f" * 64
    assert (facts["commit"], facts["code edited since"]) == ("c" * 40, "yes")
    assert (facts["samples"], facts["limit"], facts["seconds"]) == ("4", "5", "total 1.5")
    assert facts["SHA-256 of the weights"] == "0" * 64
    assert facts["result"] == "result-0.json"
    assert "attention" not in facts
    (entry,) = entries_of_rows([row])
    entry = entry._replace(published={first_found: 0.2})
    first, second, third = figures_of(entry)
    assert first == (first_found, "25.0 %", "[12.5, 50.0]", "wilson, 95%", "20.0 (+5.0)")
    assert second[:2] == ("image_to_text_R@5", "50.0 %")
    assert third[1:3] == ("3.25", "")


def test_the_summary_counts():
    later = make_row({"utc": "2026-01-02T03:04:05+00:00", "limit": 9})
    record = {"utc": "2025-01-02T03:04:05+00:00", "dirty": True}
    reported = summary_of(stored(later, make_row(record, {"spec": "b", "random": True})))
    assert reported["Measured (UTC)"] == "2025-01-02 03:04 to 2026-01-02 03:04"
    assert (reported["Results"], reported["Models"], reported["Data sets"]) == ("2", "2", "1")
    assert reported["With edited code"] == reported["With random weights"] == "1 results"
    assert reported["On some of the samples"] == "1 results"


def test_published_numbers_stand_beside_what_was_measured_only():
    made_up = made_up_results(["a", "b"], ["cls"])
    on_unmeasured_dataset = PUBLISHED._replace(dataset="other")
    entries = made_up.content([PUBLISHED, on_unmeasured_dataset]).entries
    models_and_sources = [(entry.model, entry.source) for entry in entries]
    assert models_and_sources == [("a", "measured"), ("b", "measured"), ("b", "published")]


def test_data_of_the_page():
    made_up = made_up_results(["a", "b"], ["cls"])
    content = made_up.content()
    reported = page_data(content, class_tables(content.results))
    assert (reported["models"], reported["first"]) == (["a", "b"], [1, 0])
    assert reported["metrics"] == [
        {
            "protocol": "scenes",
            "dataset": "scenes-cls",
            "name": "acc1",
            "title": "acc1",
            "share": True,
        }
    ]
    ((pair,), (table,)) = reported["pairs"], reported["classes"]
    rows = made_up.rows_by_model("cls")
    (test,) = pair["tests"]
    assert (test["metric"], pair["a"], pair["b"], pair["obstacles"]) == (0, 0, 1, [])
    for model in "ab":
        assert test[model] == pytest.approx(100 * rows[model].metrics["acc1"], abs=1e-3)
    assert test["low"] < test["difference"] < test["high"]
    assert test["difference"] == pytest.approx(test["a"] - test["b"], abs=2e-3)
    changed = test["onlyA"] - test["onlyB"]
    assert changed == round((test["a"] - test["b"]) * 1.2)  # of 120 images
    first, second = table["columns"]
    assert (first["model"], second["model"]) == (0, 1)
    recalls = [rows["a"].per_class[name]["recall"] for name in table["names"]]
    assert first["values"] == pytest.approx([100 * recall for recall in recalls], abs=1e-9)


def test_json_in_a_script_cannot_end_it():
    odd = '</script><!--<script>&amp;\u2028\u2029"é'
    text = script_json({odd: [odd, 0.5, None]})
    assert not set("<>&\u2028\u2029") & set(text)
    assert "é" in text
    assert json.loads(text) == {odd: [odd, 0.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        script_json(float("nan"))


def test_two_results_of_the_same_are_refused():
    made_up = made_up_results(["a"], ["cls"])
    made_up.add(dataclasses.replace(made_up.results[0].row, n_samples=7), {})
    with pytest.raises(UsageError, match="two results of a on scenes-cls"):
        made_up.content()


def test_samples_of_which_no_mistakes_can_be_made_are_told():
    row, samples = make_result("cls", model={"spec": "a"})
    made_up = MadeUpResults()
    made_up.add(row, {name: values for name, values in samples.items() if name != "labels"})
    content = made_up.content()
    assert content.mistakes == ()
    assert content.notes == ("scenes-cls (scenes): no mistakes are shown: 'labels'",)
