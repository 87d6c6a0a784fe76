"""The page of the leaderboard in a browser. Its tables are sorted and copied as in a report."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from support.report_pages import describe_violations
from support.rows import make_row

from cosmos_eval.results.leaderboard.entries import entries_of_rows
from cosmos_eval.results.leaderboard.writers import Leaderboard, to_html

ACCURACIES = {"a_1": 0.5, "b": 0.75, "c": 0.25}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rows = [
        make_row(model={"spec": model}, dataset="x", metrics={"acc1": accuracy}, intervals={})
        for model, accuracy in ACCURACIES.items()
    ]
    rows.append(make_row(model={"spec": "b"}, dataset="y", metrics={"acc1": 0.125}, intervals={}))
    path = tmp_path_factory.mktemp("page") / "leaderboard.html"
    path.write_text(to_html(Leaderboard(entries_of_rows(rows))), "utf-8")
    return path


def models(page):
    return page.locator("tbody th").all_inner_texts()


def test_a_column_below_the_name_of_its_data_set_sorts(open_page, file):
    page = open_page(file)
    columns = page.get_by_role("button", name="acc1")
    columns.first.click()
    assert models(page) == ["b", "a_1", "c"]
    columns.first.click()
    assert models(page) == ["c", "a_1", "b"]
    columns.last.click()
    assert models(page)[0] == "b"  # models without a number come last
    other = open_page(file)
    page.get_by_role("button", name="model").click()
    expect(page.locator("th[aria-sort=ascending]")).to_have_count(1)
    page.wait_for_url("**#sort=*")
    other.evaluate("address => { location.hash = address; }", page.url.partition("#")[2])
    assert models(other) == ["a_1", "b", "c"]


def test_a_table_is_copied_with_the_names_above_its_titles(open_page, file):
    page = open_page(file)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy LaTeX").click()
    expect(page.locator("#told")).to_contain_text("Copied as LaTeX")
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[3] == r"model & x acc1 & y acc1 \\"
    (best,) = (line for line in lines if line.startswith("b "))
    assert best.startswith(r"b & \textbf{75.0")
    assert r"a\_1 & 50.0 &" in "\n".join(lines)


def test_a_wide_table_is_printed_within_the_page_and_without_controls(open_page, tmp_path):
    rows = [
        make_row(model={"spec": "a/very-long-name-of_a_model_" * 3}, dataset=f"data-set-{number}")
        for number in range(16)
    ]
    path = tmp_path / "leaderboard.html"
    path.write_text(to_html(Leaderboard(entries_of_rows(rows))), "utf-8")
    # A4 landscape has 297 mm, of which margins take 24, at 96 pixels per 25.4 mm.
    page = open_page(path, viewport={"width": 1031, "height": 700})
    copy_button = page.get_by_role("button", name="Copy LaTeX")
    assert page.evaluate("document.querySelector('table').scrollWidth") > 1031
    assert copy_button.is_visible()
    page.emulate_media(media="print")
    assert page.evaluate("document.querySelector('table').scrollWidth") <= 1031
    assert not copy_button.is_visible()


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 360)])
def test_axe_finds_no_violation(open_page, file, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(file, color_scheme=scheme, viewport={"width": width, "height": 800})
    assert describe_violations(Axe().run(page).response["violations"]) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
