"""Choices of readers on a page: columns, samples and files, and the address that keeps them."""

from __future__ import annotations

import csv
import io
import re

import pytest
from playwright.sync_api import expect
from support.report_pages import OPEN_ALL, gallery_of, made_up_results

from cosmos_eval.reporting.page import to_page

MODELS = ["alpha", "=beta", "gamma"]


@pytest.fixture(scope="module")
def made_up():
    return made_up_results(MODELS)


@pytest.fixture(scope="module")
def file(made_up, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(to_page(made_up.content(), gallery_of(MODELS)).content)
    return path


@pytest.fixture
def page(open_page, file):
    """A page of the test's own, to be changed."""
    return open_page(file)


@pytest.fixture(scope="module")
def shared_page(open_shared_page, file):
    """A page with every part opened, whose filters the tests reset."""
    page = open_shared_page(file)
    page.evaluate(OPEN_ALL)
    return page


def heads(page):
    cells = page.locator(".leaderboard thead th:visible").all_inner_texts()
    return [" ".join(cell.split()) for cell in cells]


def downloaded(page, name):
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Download CSV: {name}").click()
    return list(csv.reader(io.StringIO(download.value.path().read_text("utf-8"))))


def test_columns_are_hidden_and_shown(shared_page):
    page = shared_page
    every = heads(page)
    page.get_by_label("scenes-cls acc1", exact=True).uncheck()
    assert heads(page) == [head for head in every if head != "scenes-cls acc1"]
    page.get_by_role("button", name="None", exact=True).click()
    assert heads(page) == ["Model"]
    page.get_by_role("button", name="All", exact=True).click()
    assert heads(page) == every


def test_a_csv_file_has_what_is_shown(shared_page, made_up):
    page = shared_page
    page.locator("#filters [name=task]").select_option("Classification")
    page.locator(".leaderboard thead button", has_text="scenes-cls").click()  # the best first
    head, *rows = downloaded(page, "Results by protocol scenes")
    page.get_by_role("button", name="Show all", exact=True).click()
    assert head == ["Model", *(f"scenes-cls acc1{end}" for end in ("", " low", " high"))]
    results = made_up.rows_by_model("cls")
    expected = []
    for model in reversed(MODELS):
        interval = results[model].intervals["acc1"]
        fractions = [results[model].metrics["acc1"], *(interval[end] for end in ENDS)]
        expected.append([100 * fraction for fraction in fractions])
    # What a spreadsheet would take for a formula is text.
    assert [row[0] for row in rows] == ["gamma", "'=beta", "alpha"]
    for row, numbers in zip(rows, expected, strict=True):
        assert [float(cell) for cell in row[1:]] == pytest.approx(numbers, abs=1e-4)


ENDS = ("low", "high")


def test_the_address_keeps_what_is_chosen(page, open_page, file):
    assert "#" not in page.url
    page.evaluate(OPEN_ALL)
    page.locator("#filters [name=task]").select_option("Classification")
    page.locator(".leaderboard thead button", has_text="scenes-cls").click()
    page.locator("#model-b").select_option("alpha")
    page.locator("#sample-filters [name=outcome]").select_option("A wrong, B right")
    page.get_by_role("link", name="Samples").click()
    page.wait_for_url(re.compile("#samples&"))
    assert len(page.url) < len(file.as_uri()) + 220
    address = page.url.partition("#")[2]
    other = open_page(file)
    other.evaluate("address => { location.hash = address; }", address)
    expect(other.locator("#model-b option:checked")).to_have_text("alpha")
    expect(other.locator("#leaderboards > details")).to_have_attribute("open", "")
    assert heads(other) == ["Model", "scenes-cls acc1"]
    sorted_by = other.locator(".leaderboard th[aria-sort=descending]")
    assert "scenes-cls" in sorted_by.inner_text()
    assert other.locator("#sample-filters option:checked").first.inner_text() == "A wrong, B right"


def samples(page):
    return page.locator("figure.sample:visible").all_inner_texts()


def test_samples_by_what_two_models_made_of_them(shared_page):
    """The first model has both wrong, the second both right, the third one of both."""
    page = shared_page
    page.locator("#model-a").select_option("alpha")
    page.locator("#model-b").select_option("=beta")
    form = page.locator("#sample-filters")
    assert len(samples(page)) == 2
    form.locator("[name=outcome]").select_option("A right, B wrong")
    assert samples(page) == []
    page.get_by_role("button", name="Swap").click()
    first, second = samples(page)
    assert " ".join(first.split()) == "a red square A: a red square B: disc (wrong)"
    assert "a red square on grass" in second
    form.locator("[name=group]").select_option("a red square")
    assert samples(page) == [first]
    form.locator("[name=size]").select_option("above 10%")
    assert samples(page) == []
    form.get_by_role("button").click()
    form.locator("[name=words]").select_option("8 to 15")
    expect(page.locator("figure.sample:visible")).to_have_count(1)
    assert "grass" in samples(page)[0]


def test_charts_are_drawn_for_paper_and_follow_its_colours(page):
    """Those that nobody has scrolled to as well, as soon as the browser has nothing to do."""
    charts = page.locator(".chart")
    expect(page.locator(".chart .plot svg")).to_have_count(charts.count())
    text = page.locator(".chart .role-axis-label text").first
    colour = "one => getComputedStyle(one).fill"
    page.get_by_label("Colours").select_option("dark")
    assert text.evaluate(colour) == "rgb(231, 234, 238)"
    page.emulate_media(media="print")
    assert text.evaluate(colour) == "rgb(0, 0, 0)"
    assert charts.count() > 0
