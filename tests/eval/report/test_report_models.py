"""Facts of models on a page, and metrics against GFLOPs, solved by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.html import Page
from support.report_pages import OPEN_ALL, PUBLISHED, MadeUpResults, made_up_results
from support.rows import make_row

from cosmos_eval.reporting.models import cost_rows
from cosmos_eval.reporting.page import to_page
from cosmos_eval.results.leaderboard.board import make_boards
from cosmos_eval.results.leaderboard.entries import entries_of_rows
from cosmos_eval.results.record import ResultRow

NAMES = (
    *("parameters", "image_parameters", "text_parameters", "image_gflops", "text_gflops"),
    *("image_size", "patch_size", "embedding_size", "context_length"),
    *("training_data", "samples_seen"),
)


OF_PROFILE = ("151.3", "8.82", "5.96", "224", "512")


def result(model: str, gflops: float | None, acc1: float, **more: Any) -> ResultRow:
    facts = {**dict.fromkeys(NAMES), "image_gflops": gflops, "image_size": [224, 224]}
    metrics = {"acc1": acc1}
    return make_row(model={"spec": model, "facts": facts}, metrics=metrics, intervals={}, **more)


def tables(*rows: ResultRow) -> dict[str, dict[str, list[tuple[str, bool] | None]]]:
    """Return the cells of every model in the table of every protocol.

    A cell is a number and whether it is on the front of its column, or None if it is empty.
    """
    tables_by_name = {}
    for board in make_boards(entries_of_rows(rows)):
        cells_by_model = {}
        for index, _, columns_on_front in cost_rows(board):
            row = board.rows[index]
            cells_by_model[row.model] = [
                (cell.value, column in columns_on_front) if cell.value else None
                for column, cell in enumerate(row.cells)
            ]
        if cells_by_model:
            tables_by_name[board.name] = cells_by_model
    return tables_by_name


def test_models_that_no_cheaper_one_beats_are_on_the_front_of_a_column():
    retrieval_of_small = make_row(
        model={"spec": "small", "facts": result("small", 1.0, 0).model["facts"]},
        task="retrieval",
        dataset="scenes-retrieval",
        metrics={"image_to_text_R@1": 0.5},
        intervals={},
    )
    shown = tables(
        result("small", 1.0, 0.5),
        result("large", 4.0, 0.75),
        result("worse", 4.0, 0.6),
        result("dear", 8.0, 0.75),
        result("unknown", None, 0.9),
        retrieval_of_small,
    )
    assert shown == {
        "scenes": {
            "small": [("50.0", True), ("50.0", True)],
            "large": [None, ("75.0", True)],
            "worse": [None, ("60.0", False)],
            "dear": [None, ("75.0", False)],
        }
    }


def test_each_protocol_has_its_front_and_unranked_results_are_not_on_it():
    shown = tables(
        result("a", 1.0, 0.5),
        result("a", 1.0, 0.9, provenance={"limit": 10}),
        result("b", 2.0, 0.4, dataset="imagenet1k", protocol="cosmos"),
        result("c", 3.0, 0.3),
    )
    assert shown == {
        "cosmos": {"b": [("40.0", True)]},
        "scenes": {"a": [("50.0", True)], "c": [("30.0", False)]},
        "scenes, other settings": {"a (first 10 only)": [("90.0", False)]},
    }


def test_models_without_known_costs_have_no_section():
    text = to_page(made_up_results(["a"], ["cls"]).content()).content.decode()
    Page(text)
    assert 'id="models"' not in text


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Three models of rising cost, of which the second is no better, and a published number."""
    made_up = MadeUpResults()
    for model, gflops, acc1 in (("small", 1.0, 0.5), ("middle", 3.0, 0.4), ("large", 9.0, 0.6)):
        made_up.add(result(model, gflops, acc1), {})
    published = PUBLISHED._replace(
        model="openclip:ViT-B-32/openai", metrics={"acc1": 0.7, "acc5": 0.9}
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(to_page(made_up.content([published])).content)
    return path


def test_the_chart_of_a_page(open_page, file):
    page = open_page(file)
    page.evaluate(OPEN_ALL)
    chart = page.locator(".chart[data-chart=costs]")
    chart.scroll_into_view_if_needed()
    points = chart.locator("path[aria-roledescription=point]")
    points.first.wait_for()
    assert points.count() == 4
    named = chart.locator(".mark-text.role-mark text").all_text_contents()
    assert sorted(named) == ["openclip:ViT-B-32/openai", "small"]  # with fewer GFLOPs than large
    (line,) = chart.locator(".mark-line path").all()
    # A step: two points and the corner between them.
    assert len(re.findall(r"[MLHV]", line.get_attribute("d"))) == 3
    points.nth(2).hover()
    reported = page.locator("#vg-tooltip-element").inner_text()
    assert "openclip:ViT-B-32/openai, published: 70.0 with 8.82 GFLOPs per image" in reported
    facts = page.locator("#models table").first.locator("tbody tr").all_inner_texts()
    assert [row.split() for row in facts] == [
        ["large", "measured", "9.00", "224"],
        ["middle", "measured", "3.00", "224"],
        [
            "openclip:ViT-B-32/openai",
            *["published", "WIT", "12.8B", "151.3", "8.82", "5.96", "224", "512"],
        ],
        ["small", "measured", "1.00", "224"],
    ]
    rows = page.locator("#models table").last.locator("tbody tr").all_inner_texts()
    assert [("◆" in row, "on the Pareto front" in row) for row in rows] == [
        *((False, False), (False, False), (True, True), (True, True)),
    ]


def test_a_narrow_chart_has_no_names(open_page, file):
    page = open_page(file, viewport={"width": 390, "height": 800})
    page.evaluate(OPEN_ALL)
    chart = page.locator(".chart[data-chart=costs]")
    chart.scroll_into_view_if_needed()
    chart.locator(".mark-line path").wait_for()
    assert chart.locator(".mark-text.role-mark text").count() == 0
