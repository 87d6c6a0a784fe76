"""Recall by the length of captions on the page: its numbers and its chart."""

from __future__ import annotations

import numpy as np
import pytest
from support.models import make_result
from support.report_pages import OPEN_ALL, MadeUpResults, made_up_results

from cosmos_eval.reporting.page import to_page
from cosmos_eval.reporting.tables import class_tables
from cosmos_eval.stats.intervals import intervals
from cosmos_eval.tasks import retrieval

MODELS = ["alpha", "beta"]


@pytest.fixture(scope="module")
def made_up() -> MadeUpResults:
    """Two models, and the result of an older version that has no lengths."""
    made_up = made_up_results(MODELS, ["retrieval", "cls"])
    row, samples = make_result("retrieval", 0.5, 9, model={"spec": "older"})
    older = {name: array for name, array in samples.items() if name not in ("words", "cut")}
    figures = retrieval.TASK.figures(older, seed=0)
    made_up.add(*make_result("retrieval", samples=older, model={"spec": "older"}))
    assert figures.per_class == {} != row.per_class
    return made_up


def test_cells_are_the_recalls_of_the_samples_with_intervals(made_up):
    (table,) = made_up.content().lengths
    assert (table.protocol, table.models) == ("scenes", ("alpha", "beta"))
    assert [row[:2] for row in table.rows] == [("8 words", 120), ("90 words", 120)]
    results = {
        stored.row.model["spec"]: stored
        for stored in made_up.results
        if stored.row.task == "retrieval"
    }
    for column, model in enumerate(table.models):
        path, row = results[model].path, results[model].row
        length_bins = retrieval.TASK.lengths(made_up.read(path))
        estimates = {length_bin.name: length_bin.recall for length_bin in length_bins}
        interval_of_bin = intervals(estimates, seed=row.provenance["seed"])
        for name, _, cells in table.rows:
            figures = row.per_class[name]
            expected = [
                figures["text_to_image_R@1"],
                interval_of_bin[name].low,
                interval_of_bin[name].high,
                figures["captions_cut"],
            ]
            numbers = [float(text) / 100 for text in cells[column]]
            assert np.allclose(numbers, expected, atol=5e-4)
    assert [cells[0][-1] for *_, cells in table.rows] == ["0.0", "75.0"]


def test_lengths_are_not_shown_as_classes(made_up):
    content = made_up.content()
    assert {table.figure for table in class_tables(content.results)} == {"recall"}


def test_models_of_other_captions_have_a_table_of_their_own(made_up):
    more = MadeUpResults()
    for stored in made_up.results:
        more.add(stored.row, made_up.read(stored.path))
    _, samples = make_result("retrieval", 0.5, 9)
    words = np.where(samples["words"] > 50, 70, 8)
    more.add(*make_result("retrieval", samples={**samples, "words": words}, model={"spec": "x"}))
    assert [table.models for table in more.content().lengths] == [("alpha", "beta"), ("x",)]


def test_samples_of_another_task_are_noted(made_up):
    broken = MadeUpResults()
    stored = next(stored for stored in made_up.results if stored.row.task == "retrieval")
    samples = made_up.read(stored.path)
    broken.add(stored.row, {**samples, "cut": samples["cut"][:5]})
    content = broken.content()
    assert content.lengths == ()
    assert any("no lengths of captions are shown" in note for note in content.notes)


def test_a_page_without_lengths_has_no_section(made_up):
    text = to_page(made_up_results(MODELS, ["cls"]).content()).content.decode()
    assert 'id="lengths"' not in text
    assert 'id="lengths"' in to_page(made_up.content()).content.decode()


def test_the_chart_has_an_interval_and_two_points_per_model_and_length(
    made_up, open_page, tmp_path
):
    path = tmp_path / "report.html"
    path.write_bytes(to_page(made_up.content()).content)
    page = open_page(path)
    page.evaluate(OPEN_ALL)
    chart = page.locator("#lengths .chart")
    chart.scroll_into_view_if_needed()
    chart.locator("svg").wait_for()
    assert {"8", "90", *MODELS} <= set(chart.locator("svg text").all_text_contents())
    # An interval and two points, of which one is filled, per model and length.
    assert chart.locator("svg .mark-rule.role-mark.layer_1_marks line").count() == 4
    filled = chart.locator("svg .layer_3_marks path")
    opacity = [float(mark.get_attribute("opacity")) for mark in filled.all()]
    assert sorted(opacity) == pytest.approx([0.25, 0.25, 1, 1])
