"""The page in a browser: what a reader does with it by mouse and by keyboard."""

from __future__ import annotations

import re

import numpy as np
import pytest
from playwright.sync_api import expect
from support.models import make_result
from support.report_pages import (
    ODD,
    OPEN_ALL,
    PUBLISHED,
    MadeUpResults,
    gallery_of,
    made_up_results,
    odd_results,
)

from cosmos_eval.reporting.page import to_page

ROWS = ".leaderboard tbody tr:visible"
MODELS = ["alpha", "beta", "gamma"]


@pytest.fixture(scope="module")
def made_up():
    return made_up_results(MODELS)


@pytest.fixture(scope="module")
def file(made_up, tmp_path_factory):
    """Write a page of three models on four data sets, two published numbers, and an example of
    every kind."""
    published_entries = [
        PUBLISHED._replace(model="beta"),
        PUBLISHED._replace(model="delta", dataset="scenes-seg", task="seg", metrics={"mIoU": 0.4}),
    ]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(to_page(made_up.content(published_entries), gallery_of(MODELS)).content)
    return path


@pytest.fixture
def page(open_page, file):
    """A page of the test's own, to be changed."""
    return open_page(file)


@pytest.fixture(scope="module")
def shared_page(open_shared_page, file):
    """A page with every part opened, which tests leave as it was."""
    page = open_shared_page(file)
    page.evaluate(OPEN_ALL)
    return page


@pytest.fixture
def filtered_page(shared_page):
    """The shared page, whose filters the test may use."""
    yield shared_page
    shared_page.get_by_role("button", name="Show all", exact=True).click()
    expect(shared_page.locator(ROWS)).to_have_count(5)


def texts(page, selector):
    return [text.strip() for text in page.locator(selector).all_inner_texts()]


def visible_models(page):
    return texts(page, ".leaderboard tbody tr:visible .name")


def title(page, name):
    """The button of a column of the leaderboard."""
    return page.locator(".leaderboard thead button", has_text=name)


def test_it_opens_and_draws_everything_without_a_complaint(shared_page):
    for chart in shared_page.locator(".chart").all():
        chart.scroll_into_view_if_needed()
        chart.locator("svg").wait_for()
    assert shared_page.locator("img").count() > 5
    shared_page.evaluate("""Promise.all(Array.from(document.images, (one) => {
        one.loading = "eager";
        return one.decode();
    }))""")


def test_sorting_by_mouse_and_by_keyboard(shared_page, made_up):
    """At the end the rows are in the order that they began with."""
    page = shared_page
    acc1 = {model: row.metrics["acc1"] for model, row in made_up.rows_by_model("cls").items()}
    column = title(page, "scenes-cls")
    column.click()
    best_first = visible_models(page)
    # Of the two rows of beta one is published, at 90%; delta has no number and comes last.
    numbers_and_models = [*((number, model) for model, number in acc1.items()), (0.9, "beta")]
    expected = [model for _, model in sorted(numbers_and_models, reverse=True)]
    assert best_first == [*expected, "delta"]
    header = column.locator("xpath=..")
    assert header.get_attribute("aria-sort") == "descending"
    column.focus()
    page.keyboard.press("Enter")
    assert visible_models(page) == [*reversed(expected), "delta"]
    assert header.get_attribute("aria-sort") == "ascending"
    title(page, "Model").focus()
    page.keyboard.press("Space")
    assert visible_models(page) == ["alpha", "beta", "beta", "delta", "gamma"]
    assert header.get_attribute("aria-sort") is None


def test_filters_by_model_source_task_and_data_set(filtered_page):
    page = filtered_page
    summary = page.locator("#filters-found")
    page.get_by_label("Model", exact=True).fill("ALPH")
    assert visible_models(page) == ["alpha"]
    assert summary.inner_text() == "1 of 5 rows, 8 columns"
    page.get_by_role("button", name="Show all", exact=True).click()
    expect(page.locator(ROWS)).to_have_count(5)
    page.locator("#filters [name=source]").select_option("published")
    assert visible_models(page) == ["beta", "delta"]
    page.locator("#filters [name=task]").select_option("Segmentation")
    assert visible_models(page) == ["delta"]
    heads = [re.sub(r"\s+", " ", head) for head in texts(page, ".leaderboard thead th:visible")]
    assert heads == ["Model", "Source", "scenes-seg mIoU", "scenes-seg mIoU things"]
    page.get_by_role("button", name="Show all", exact=True).click()
    expect(page.locator(ROWS)).to_have_count(5)
    page.locator("#filters [name=dataset]").select_option("scenes-cls")
    assert visible_models(page) == ["alpha", "beta", "beta", "gamma"]
    assert summary.inner_text() == "4 of 5 rows, 1 columns"
    page.get_by_label("Model", exact=True).fill("nobody")
    assert page.locator(".board:visible").count() == 0


def test_a_chart_follows_the_column_and_the_filter(filtered_page):
    page = filtered_page
    chart = page.locator(".chart[data-chart=intervals]")
    chart.scroll_into_view_if_needed()
    points = chart.locator("path[aria-roledescription=point]")
    expect(points).to_have_count(3)
    chart.locator("select").select_option(label="scenes-cls: acc1")
    expect(points).to_have_count(4)
    names = chart.locator(".role-axis-label text").all_text_contents()
    shown = [name for name in names if not name.isdigit()][-4:]
    assert shown == ["beta (published)", "gamma", "beta", "alpha"]
    page.locator("#filters [name=source]").select_option("measured")
    expect(points).to_have_count(3)
    points.first.hover()
    reported = page.locator("#vg-tooltip-element")
    assert re.search(r"gamma, measured: \d+\.\d \[\d+\.\d, \d+\.\d\]", reported.inner_text())


def test_provenance_opens_and_closes_by_keyboard(shared_page, made_up):
    page = shared_page
    link = page.locator(".leaderboard a.number").first
    dialog = page.get_by_role("dialog")
    assert not dialog.is_visible()
    link.focus()
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    heading = dialog.get_by_role("heading", level=2).inner_text()
    assert heading == "alpha on scenes-retrieval, protocol scenes"
    row = made_up.rows_by_model("retrieval")["alpha"]
    body, digest = dialog.inner_text(), row.provenance["hashes"]["sample_list"]
    for reported in (digest, "1" * 40, "cosmos-eval run", "result-1.json"):
        assert reported in body
    assert dialog.locator("tr.chosen th").inner_text() == "image_to_text_R@1"
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert link.evaluate("one => one === document.activeElement")
    link.click()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_provenance_of_a_published_number_is_its_address(shared_page):
    shared_page.locator("tr[data-source=published] a.number").first.click()
    link = shared_page.get_by_role("dialog").get_by_role("link")
    assert link.get_attribute("href") == PUBLISHED.url
    shared_page.keyboard.press("Escape")


def clip_of(page, name):
    """Return from where to where a layer is visible, in percent from the left; None if it is not
    visible at all."""
    layer = page.locator(f"figure.segmentation [data-layer='{name}']")
    if not layer.is_visible():
        return None
    clip = layer.evaluate("layer => getComputedStyle(layer).clipPath")
    sides = re.fullmatch(r"inset\((.*)\)", clip)[1].split()
    # Top, right, bottom and left. CSS leaves out the last ones if they equal the opposite sides.
    right = sides[min(1, len(sides) - 1)]
    left = sides[3] if len(sides) == 4 else right
    return float(left.rstrip("px%")), 100 - float(right.rstrip("px%"))


def test_the_slider_moves_by_keyboard(shared_page):
    page = shared_page
    slider = page.get_by_role("slider")
    slider.focus()
    assert slider.get_attribute("aria-valuetext") == "truth"
    assert clip_of(page, "truth") == (0, 100)
    assert clip_of(page, "gamma") is None
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "image"
    assert (clip_of(page, "truth"), clip_of(page, "gamma")) == (None, None)
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "B, beta"
    assert (clip_of(page, "gamma"), clip_of(page, "beta")) == (None, (0, 100))
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "truth, and A, gamma from the left up to 50%"
    assert (clip_of(page, "gamma"), clip_of(page, "truth")) == ((0, 50), (50, 100))
    page.get_by_role("button", name="truth", exact=True).click()


def test_the_slider_shows_the_chosen_models(page):
    page.evaluate(OPEN_ALL)
    figure = page.locator("figure.segmentation")
    figure.locator("select").nth(0).select_option("alpha")
    stop = figure.get_by_role("button", name="A", exact=True)
    stop.click()
    assert stop.get_attribute("aria-pressed") == "true"
    assert (clip_of(page, "alpha"), clip_of(page, "gamma")) == ((0, 100), None)
    figure.locator("select").nth(1).select_option("alpha")
    figure.get_by_role("button", name="B", exact=True).click()
    assert clip_of(page, "alpha") == (0, 100)


def number(text):
    return float(text.replace("\u2212", "-"))


def compared(page):
    """Rows of the comparison by data set and metric: A, B, difference, better."""
    script = "rows => rows.map(row => Array.from(row.cells, cell => cell.innerText))"
    rows = {}
    for cells in page.locator("#pair-table tbody tr").evaluate_all(script):
        key = (cells[0].split()[0], cells[1])
        rows[key] = (number(cells[2]), number(cells[3]), number(cells[4].split()[0]), cells[8])
    return rows


def test_two_models_are_compared(page, made_up):
    page.evaluate(OPEN_ALL)
    chosen = page.locator("#model-a option:checked, #model-b option:checked").all_inner_texts()
    assert chosen == ["gamma", "beta"]  # which won most tests
    page.get_by_label("B", exact=True).first.select_option("alpha")
    rows = compared(page)
    acc1 = {model: 100 * row.metrics["acc1"] for model, row in made_up.rows_by_model("cls").items()}
    a, b, difference, better = rows["scenes-cls", "acc1"]
    assert (a, b) == pytest.approx((acc1["gamma"], acc1["alpha"]), abs=0.051)
    assert difference == pytest.approx(acc1["gamma"] - acc1["alpha"], abs=0.011)
    assert better == "A"
    assert "A better in 5, B in 0 of 5 tests" in page.locator("#pair-found").inner_text()
    page.get_by_role("button", name="Swap").click()
    swapped = compared(page)
    assert swapped.keys() == rows.keys()
    for key, (a, b, difference, better) in swapped.items():
        assert rows[key] == (b, a, -difference or 0.0, {"A": "B", "B": "A", "": ""}[better])
    page.get_by_label("B", exact=True).first.select_option("alpha")
    assert page.locator("#pair-found").inner_text() == "Choose two different models."


def test_a_number_is_rounded_alike_everywhere(open_page, tmp_path):
    """The accuracies 78.35 and 67.05 are 78.4 and 67.1. As floats, both are a little less."""
    made_up = MadeUpResults()
    labels = np.repeat([0, 1], [200, 1800])
    for model, n_hits in (("a", 1567), ("b", 1341)):
        first_prediction = np.where(np.arange(2000) < n_hits, labels, 1 - labels)
        samples = {
            "labels": labels,
            "top5": np.stack([first_prediction, 1 - first_prediction, *3 * [np.full(2000, -1)]], 1),
            "confidence": np.full(2000, 0.5, np.float32),
            "classes": np.array(["c", "d"]),
        }
        row, _ = make_result("cls", samples=samples, model={"spec": model}, n_samples=2000)
        row.per_class["d"]["recall"] = row.metrics["acc1"]
        made_up.add(row, samples)
    path = tmp_path / "report.html"
    path.write_bytes(to_page(made_up.content()).content)
    page = open_page(path)
    page.evaluate(OPEN_ALL)
    page.get_by_label("A", exact=True).first.select_option("a")

    assert texts(page, ".leaderboard tbody tr td:nth-child(2) a.number") == ["78.4", "67.1"]
    assert texts(page, "#overview .number") == ["78.4", "67.1"]
    assert texts(page, "#pair-table tbody td:nth-child(3)") == ["78.4"]
    assert texts(page, "#pair-table tbody td:nth-child(4)") == ["67.1"]
    assert texts(page, "#pair-table tbody td:nth-child(5)")[0].startswith("+11.30")
    assert texts(page, "#class-pair tbody tr:nth-child(1)")[0].split()[:4] == [
        "d", "78.4", "67.1", "+11.3",
    ]  # fmt: skip
    assert texts(page, "table.heat tbody tr:nth-child(2) td")[-2:] == ["78.4", "67.1"]
    page.locator(".chart[data-chart=classes]").scroll_into_view_if_needed()
    circles = page.locator(".chart[data-chart=classes] path[aria-roledescription=circle]")
    circles.first.hover()
    expect(page.locator("#vg-tooltip-element")).to_have_text("d: A 78.4, B 67.1")


def test_a_cell_of_the_matrix_chooses_its_models(shared_page):
    page = shared_page
    page.get_by_role("button", name="Compare gamma with beta").click()
    assert page.locator("#model-a option:checked").inner_text() == "gamma"
    assert page.locator("#model-b option:checked").inner_text() == "beta"
    assert page.locator("#model-a").evaluate("one => one === document.activeElement")


def test_classes_of_two_models(shared_page, made_up):
    page = shared_page
    page.get_by_label("Data set and figure").select_option(label="scenes-seg (scenes): IoU")
    results = made_up.rows_by_model("seg")
    rows = texts(page, "#class-pair tbody tr")
    assert {row.split()[0] for row in rows} == set("abcd")
    for row in rows:
        name, a, b, difference = row.split()[:4]
        expected = [100 * results[model].per_class[name]["IoU"] for model in ("gamma", "beta")]
        assert (float(a), float(b)) == pytest.approx(expected, abs=0.051)
        assert number(difference) == pytest.approx(expected[0] - expected[1], abs=0.051)


# tests/eval/report/test_report_page.py has all odd texts.
@pytest.mark.parametrize(
    "odd",
    [pytest.param("".join(text for text in ODD[::-1] if "__pwned" in text), id="run"), "w" * 400],
)
def test_texts_from_data_are_shown_and_not_run(open_page, tmp_path, odd):
    published = PUBLISHED._replace(dataset=odd, protocol=odd, model=odd, url=f"https://x/{odd}")
    path = tmp_path / "report.html"
    content = odd_results(odd).content([published])
    path.write_bytes(to_page(content, gallery_of([odd, "b"], odd, odd)).content)
    page = open_page(path, viewport={"width": 1000, "height": 700})
    page.evaluate(OPEN_ALL)
    chart = page.locator(".chart[data-chart=intervals]")
    chart.scroll_into_view_if_needed()
    chart.locator("path[aria-roledescription=point]").first.hover()
    page.locator("a.number").first.click()
    assert odd in page.get_by_role("dialog").text_content()
    page.keyboard.press("Escape")
    page.get_by_role("slider").press("End")
    shown = page.locator("body").text_content()
    assert shown.count(odd) > 20
    assert odd in page.locator("#model-a option").first.text_content()
    assert odd in page.locator("#class-pair").text_content()
    assert page.evaluate("window.__pwned") is None
    assert page.locator("img[src=x], main script, main b:text-is('bold')").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 23, 27)"


def test_it_is_light_or_dark_as_the_system_or_the_reader_says(open_page, file):
    page = open_page(file, color_scheme="dark")
    assert background(page) == DARK
    page.get_by_label("Colours").select_option("light")
    assert background(page) == LIGHT
    page.reload()
    assert background(page) == LIGHT
    page.get_by_label("Colours").select_option("as the system")
    page.emulate_media(color_scheme="light")
    assert background(page) == LIGHT
    page.get_by_label("Colours").select_option("dark")
    assert background(page) == DARK


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_itself_does_not_scroll_sideways(open_page, shared_page, file, width):
    page = shared_page
    if width == 360:
        page = open_page(file, viewport={"width": width, "height": 700})
        page.evaluate(OPEN_ALL)
    assert page.evaluate("innerWidth") == width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.locator(".wide").first
    name = wide.locator("tbody th").first
    before = name.bounding_box()["x"]
    wide.evaluate("one => { one.scrollLeft = 300; }")
    assert name.bounding_box()["x"] == before  # the model stays in sight


def test_it_is_printed_with_its_tables_and_without_controls(page):
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for selector in (".leaderboard", "table.wins", "#pair-table", "table.heat"):
        assert page.locator(selector).first.is_visible()
    assert page.locator("table.heat:visible").count() == page.locator("table.heat").count()
    controls = page.locator("nav, .controls:not(.chart *), input, .slider, dialog")
    assert controls.count() > 5
    assert controls.locator("visible=true").count() == 0
    # Chromium repeats no table's head on the next page that has a button in it.
    for button in page.locator("th button").all()[:3]:
        assert button.evaluate("one => getComputedStyle(one).display") == "contents"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 2


def test_it_can_be_read_without_scripts(open_page, file):
    page = open_page(file, java_script_enabled=False)
    for section in ("Leaderboards", "Two models", "Examples"):
        page.locator("summary", has=page.get_by_role("heading", name=section, level=2)).click()
    assert visible_models(page) == ["alpha", "beta", "beta", "delta", "gamma"]
    assert page.locator("table.wins").is_visible()
    assert page.get_by_text("two models are compared by").is_visible()
    assert not page.locator(".scripted:visible").count()
    assert page.locator("figure.segmentation img:visible").count() == 5  # beside each other
    page.locator(".leaderboard a.number").first.click()
    assert page.locator("#origins article:visible").first.is_visible()
