"""Sections that open, counts that lead to samples, larger pictures, copied tables, saved charts."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from support.report_pages import OPEN_ALL, PUBLISHED, gallery_of, made_up_results, plain_picture

from cosmos_eval.reporting.contents import SectionLink, section_links
from cosmos_eval.reporting.gallery.records import Gallery, Outcome, SampleExample
from cosmos_eval.reporting.page import to_page
from cosmos_eval.reporting.tables import class_tables, summary_of
from cosmos_eval.results.labels import count_models, label_results
from cosmos_eval.results.leaderboard.task_tables import capitalized_title

MODELS = ["al_pha", "beta & 5%", "gamma"]
FIRST_MODELS = ("gamma", "beta & 5%")  # which won most tests


def is_right(made_up, model):
    """Return whether a model has each image of the classification set right, (N,)."""
    (path,) = [
        stored.path
        for stored in made_up.results
        if (stored.row.task, stored.row.model["spec"]) == ("cls", model)
    ]
    samples = made_up.read(path)
    return samples["top5"][:, 0] == samples["labels"]


def every_image(made_up):
    """A sample of each image of the classification set, with its outcomes."""
    right = {model: is_right(made_up, model) for model in MODELS}
    picture = plain_picture((0, 0, 255))
    return [
        SampleExample(
            dataset="scenes-cls",
            protocol="scenes",
            metric="acc1",
            image=picture._replace(file=f"images/{number}.png"),
            text=f"class {number % 4}",
            group=f"class {number % 4}",
            outcomes={
                model: Outcome("yes" if right[model][number] else "no", bool(right[model][number]))
                for model in MODELS
            },
        )
        for number in range(len(right["gamma"]))
    ]


@pytest.fixture(scope="module")
def made_up():
    return made_up_results(MODELS)


@pytest.fixture(scope="module")
def gallery(made_up):
    examples = gallery_of(MODELS)
    return Gallery(
        samples=[*every_image(made_up), *examples.samples],
        segmentation=examples.segmentation,
        retrieval=examples.retrieval,
    )


@pytest.fixture(scope="module")
def file(made_up, gallery, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    content = made_up.content([PUBLISHED._replace(model="beta & 5%")])
    path.write_bytes(to_page(content, gallery).content)
    return path


@pytest.fixture
def page(open_page, file):
    """A page of the test's own, to be changed."""
    return open_page(file)


@pytest.fixture
def opened_page(page):
    """A page of the test's own with every part opened."""
    page.evaluate(OPEN_ALL)
    return page


def open_sections(page):
    return page.locator("main > section:has(> details[open])").evaluate_all(
        "sections => sections.map(section => section.id)"
    )


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_a_page_begins_short_with_the_ranking_and_a_list_of_its_sections(open_page, file, width):
    page = open_page(file, viewport={"width": width, "height": 800})
    assert open_sections(page) == ["overview"]
    height = "document.documentElement.scrollHeight"
    assert page.evaluate(height) < 2500
    page.get_by_role("button", name="Open all sections").click()
    expect(page.get_by_role("button", name="Close all sections")).to_be_visible()
    assert len(open_sections(page)) == page.locator("main > section").count()
    assert page.evaluate(height) > 3500
    page.get_by_role("button", name="Close all sections").click()
    assert open_sections(page) == []


def test_a_page_without_a_ranking_begins_with_its_leaderboard(open_page, tmp_path):
    path = tmp_path / "report.html"
    path.write_bytes(to_page(made_up_results(["a"], ["cls"]).content()).content)
    page = open_page(path)
    assert open_sections(page) == ["leaderboards"]


def test_links_and_addresses_open_what_they_lead_to(page, open_page, file):
    page.get_by_role("navigation", name="Contents").get_by_role("link", name="Classes").click()
    assert open_sections(page) == ["overview", "classes"]
    by_task = page.get_by_role("navigation", name="Sections by task")
    by_task.locator("div", has_text="Segmentation").get_by_role("link", name="Examples").click()
    assert open_sections(page) == ["overview", "classes", "examples"]
    expect(page.locator("#segmentation-1")).to_have_attribute("open", "")
    expect(page.locator("#segmentation-1")).to_be_in_viewport()
    other = open_page(file)
    other.goto(f"{file.as_uri()}#mistakes-1")
    assert open_sections(other) == ["overview", "mistakes"]


def test_sections_are_listed_under_the_titles_of_tasks(page):
    """A task of another package, whose title is unknown, would be listed under its name."""
    terms = page.get_by_role("navigation", name="Sections by task").locator("dt")
    assert terms.all_inner_texts() == [
        "Retrieval",
        "Classification",
        "Segmentation",
        "Caption selection",
    ]
    assert capitalized_title(["my-task"]) == "My-task"


def test_sections_by_task(made_up, gallery):
    content = made_up.content()
    links = section_links(content, class_tables(content.results), gallery)
    # The classes of `scenes-seg` have two metrics, `scenes-cls` one.
    assert [link for link in links if link.task in ("retrieval", "cls", "seg")] == [
        SectionLink("retrieval", "Leaderboards", "leaderboards-1", 1),
        SectionLink("retrieval", "Caption length", "lengths-1", 1),
        SectionLink("retrieval", "Examples", "retrieval-1", 1),
        SectionLink("cls", "Leaderboards", "leaderboards-1", 1),
        SectionLink("cls", "Classes", "classes-1", 1),
        SectionLink("cls", "Mistakes", "mistakes-1", 1),
        SectionLink("cls", "Samples", "samples-1", 1),
        SectionLink("seg", "Leaderboards", "leaderboards-1", 1),
        SectionLink("seg", "Classes", "classes-2", 2),
        SectionLink("seg", "Mistakes", "mistakes-2", 1),
        SectionLink("seg", "Examples", "segmentation-1", 1),
    ]


def shown_files(page):
    """The files of the visible samples."""
    images = page.locator("figure.sample:visible img")
    return set(images.evaluate_all("images => images.map(image => image.dataset.file)"))


@pytest.mark.parametrize("side", ["A", "B"])
def test_a_count_leads_to_its_samples(page, made_up, side):
    a, b = (is_right(made_up, model) for model in FIRST_MODELS)
    expected = {f"images/{n}.png" for n in np.flatnonzero(a & ~b if side == "A" else b & ~a)}
    assert expected
    page.get_by_role("link", name="Two models").click()
    label = f"{len(expected)}: show samples of scenes-cls scenes that only {side} has right"
    page.get_by_role("button", name=label).click()
    assert shown_files(page) == expected
    expect(page.locator("#sample-filters [name=outcome]")).to_be_focused()
    status = page.locator("#samples-found").inner_text()
    assert status.startswith(f"{len(expected)} of ")


def test_counts_without_samples_on_the_page_are_plain(open_page, made_up, tmp_path):
    path = tmp_path / "report.html"
    path.write_bytes(to_page(made_up.content()).content)
    page = open_page(path)
    page.evaluate(OPEN_ALL)
    assert page.locator("#pair-table tbody tr").count() > 0
    assert page.locator("#pair-table tbody button").count() == 0


def test_samples_are_searched_by_caption_answer_and_file(opened_page):
    page = opened_page
    search = page.locator("#sample-filters [name=text]")
    search.fill("ON GRASS")
    assert page.locator("figure.sample:visible").count() == 1
    search.fill("images/17.png")
    assert shown_files(page) == {"images/17.png"}
    # The answer of al_pha, which is not one of the two shown models, until it is chosen.
    search.fill("disc")
    assert shown_files(page) == set()
    page.locator("#model-b").select_option("al_pha")
    assert shown_files(page) == {"a red square.png"}
    search.fill("")
    page.locator("#sample-filters [name=dataset]").select_option("scenes-cls (scenes)")
    assert len(shown_files(page)) == page.locator("#samples-1 figure.sample").count()


def test_a_sample_is_enlarged_with_its_file_name(opened_page):
    page = opened_page
    button = page.get_by_role("button", name="Enlarge: class 3").first
    width = button.locator("img").bounding_box()["width"]
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("heading").inner_text() == "class 3"
    assert dialog.locator("img").bounding_box()["width"] > 2 * width
    expect(dialog.locator(".file")).to_have_text("images/3.png")
    assert dialog.locator("img").evaluate("image => image.naturalWidth") == 40
    page.keyboard.press("Escape")
    expect(button).to_be_focused()


def test_all_maps_of_an_image_are_enlarged_beside_each_other(opened_page):
    page = opened_page
    page.locator("figure.segmentation > .enlarge").click()
    dialog = page.get_by_role("dialog")
    assert dialog.locator("img:visible").count() == 2 + len(MODELS)
    assert dialog.locator(".file").all_inner_texts() == ["a red square.png"]
    assert dialog.get_by_role("slider").count() == 0
    boxes = [image.bounding_box() for image in dialog.locator("img").all()]
    assert len({(box["x"], box["y"]) for box in boxes}) == len(boxes)


def copied(page, name):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name=name).click()
    expect(page.locator("#told")).to_contain_text("Copied as")
    return page.evaluate("navigator.clipboard.readText()")


def test_a_table_is_copied_as_latex(opened_page, made_up):
    page = opened_page
    page.locator("#filters [name=task]").select_option("Classification")
    page.locator("#filters [name=source]").select_option("measured")
    page.locator(".leaderboard thead button", has_text="scenes-cls").click()  # the best first
    text = copied(page, "Copy LaTeX: Results by protocol scenes")
    rows = made_up.rows_by_model("cls")
    lines = []
    for model, name in (("gamma", "gamma"), ("beta & 5%", r"beta \& 5\%"), ("al_pha", r"al\_pha")):
        interval = rows[model].intervals["acc1"]
        ends = ", ".join(f"{100 * interval[end]:.1f}" for end in ("low", "high"))
        number = f"{100 * rows[model].metrics['acc1']:.1f}"
        lines.append((rf"{name} & measured & ", number, rf" {{\footnotesize {{[}}{ends}{{]}}}}"))
    head, body = text.split("\\midrule\n")
    assert head.splitlines() == [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{@{}llr@{}}",
        r"\toprule",
        r"Model & Source & scenes-cls acc1 \\",
    ]
    for line, (start, number, ends) in zip(body.splitlines(), lines, strict=False):
        assert line.startswith(start)
        assert re.search(rf"{re.escape(number)}\S*{re.escape(ends)}", line)
        assert line.endswith(r"\\")
    assert body.splitlines()[3:] == [r"\bottomrule", r"\end{tabular}"]


def test_a_table_is_copied_as_the_csv_that_is_downloaded(opened_page):
    page = opened_page
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV: Ranking").click()
    downloaded_text = download.value.path().read_bytes().decode()
    text = copied(page, "Copy CSV: Ranking")
    assert text.splitlines() == downloaded_text.splitlines()
    assert len(text.splitlines()) == 1 + len(MODELS)


def saved(page, chart, form):
    with page.expect_download() as download:
        chart.get_by_role("button", name=f"Save {form}").click()
    return download.value


def test_a_chart_is_saved_in_the_colours_of_paper(open_page, file):
    page = open_page(file, color_scheme="dark")
    page.evaluate(OPEN_ALL)
    chart = page.locator(".chart[data-chart=intervals]")
    chart.scroll_into_view_if_needed()
    chart.locator(".plot svg").wait_for()
    download = saved(page, chart, "SVG")
    assert re.fullmatch(r"intervals-.*\.svg", download.suggested_filename)
    text = download.path().read_text()
    assert "var(" not in text
    picture = ElementTree.fromstring(text)
    colours = {element.get("fill") for element in picture.iter()}
    assert "rgb(27, 31, 36)" in colours  # --text in light colours
    with Image.open(io.BytesIO(saved(page, chart, "PNG").path().read_bytes())) as image:
        assert image.format == "PNG"
        assert image.width == pytest.approx(3 * float(picture.get("width")), abs=3)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def points(chart):
    """The texts of the points of a chart, as they are read to readers who do not see them."""
    chart.scroll_into_view_if_needed()
    marks = chart.locator("[aria-roledescription=point], [aria-roledescription=circle]")
    marks.first.wait_for()
    return marks.evaluate_all("marks => marks.map(mark => mark.ariaLabel)")


def test_two_metrics_of_all_models(opened_page, made_up):
    """A point has the numbers of both columns; a published model has none in the second one."""
    chart = opened_page.locator(".chart[data-chart=metrics]")
    chart.locator("label", has_text="Across").locator("select").select_option("scenes-cls: acc1")
    chart.locator("label", has_text="Up").locator("select").select_option("scenes-seg: mIoU")
    expect(chart.locator(".plot svg")).to_contain_text("scenes-seg: mIoU")
    labels = points(chart)
    assert len(labels) == len(MODELS)
    classifications, segmentations = made_up.rows_by_model("cls"), made_up.rows_by_model("seg")
    for model in MODELS:
        (label,) = (label for label in labels if f"{model}, measured" in label)
        across = classifications[model].metrics["acc1"]
        up = segmentations[model].metrics["mIoU"]
        assert re.search(rf"{100 * across:.1f} .* across, {100 * up:.1f} ", label)


def test_shares_of_two_models(opened_page, made_up):
    chart = opened_page.locator(".chart[data-chart=shares]")
    labels = points(chart)
    assert len(labels) == opened_page.locator("#pair-table tbody tr").count()
    a, b = (100 * is_right(made_up, model).mean() for model in FIRST_MODELS)
    assert any(f"scenes-cls (scenes), acc1: A {a:.1f}, B {b:.1f}" in label for label in labels)
    expect(chart.locator(".plot svg")).to_contain_text("A: gamma, %")


def result_of(model, **provenance):
    (result,) = made_up_results([model], ["cls"], provenance=provenance).results
    return result


def test_variants_of_a_model_are_no_models():
    variants = [result_of("a"), result_of("a", precision="bf16"), result_of("a", limit=10)]
    results = label_results([*variants, result_of("b")])
    assert len({result.model for result in results}) == 4
    assert count_models(results) == 2
    summary = summary_of(results)
    assert (summary["Models"], summary["Models and their variants"]) == ("2", "4")
    assert "Models and their variants" not in summary_of(results[:1])
