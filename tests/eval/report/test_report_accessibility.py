"""Accessibility of the page for readers who do not see it, or use no mouse."""

from __future__ import annotations

import itertools

import pytest
from playwright.sync_api import expect
from support.colours import contrast
from support.report_pages import (
    OPEN_ALL,
    PUBLISHED,
    describe_violations,
    gallery_of,
    made_up_results,
)

from cosmos_eval.reporting.page import to_page

MODELS = ["alpha", "beta", "gamma"]

# A name as browsers compute it, for the kinds of elements on this page.
NAME = """(one) => {
    const labelled = (one.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean);
    const texts = labelled.map((id) => document.getElementById(id).textContent);
    const labels = Array.from(one.labels ?? [], (label) => label.textContent);
    const given = [one.getAttribute("aria-label"), ...texts, ...labels, one.alt, one.textContent];
    return given.filter(Boolean).map((text) => text.trim()).find(Boolean) ?? "";
}"""


# A colour of the style sheet as it is used.
HEX = """(name) => {
    document.body.style.setProperty("outline-color", `var(--${name})`);
    const [...parts] = getComputedStyle(document.body).outlineColor.match(/\\d+/g);
    return "#" + parts.map((part) => Number(part).toString(16).padStart(2, "0")).join("");
}"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    # A model of which facts are known.
    published = PUBLISHED._replace(model="openclip:ViT-B-32/openai")
    content = made_up_results(MODELS).content([published])
    path.write_bytes(to_page(content, gallery_of(MODELS)).content)
    return path


@pytest.fixture(scope="module")
def shared_page(open_shared_page, file):
    """A page with every part opened, which tests leave as it was."""
    page = open_shared_page(file)
    page.evaluate(OPEN_ALL)
    return page


def names(page, selector):
    return page.locator(selector).evaluate_all(f"(elements) => elements.map({NAME})")


@pytest.mark.parametrize(
    "selector",
    [
        "button",
        "select",
        "input",
        "a[href]",
        "[role=region]:visible",
        "[role=img], [role=graphics-document]",
        "dialog",
    ],
)
def test_every_control_and_region_has_a_name(shared_page, selector):
    accessible_names = names(shared_page, selector)
    assert accessible_names
    assert "" not in accessible_names


def test_regions_have_different_names(shared_page):
    region_names = names(shared_page, "section[aria-labelledby], [role=region]:not(dialog *)")
    assert len(set(region_names)) == len(region_names)


def levels(page, within):
    headings = page.locator(f"{within} :is(h1, h2, h3, h4, h5)")
    return headings.evaluate_all("(elements) => elements.map((one) => Number(one.tagName[1]))")


def test_headings_are_in_order(shared_page):
    page = shared_page
    page_levels = levels(page, "body > :not(dialog)")
    assert page_levels[0] == 1
    assert page_levels.count(1) == 1
    for level, next_level in itertools.pairwise(page_levels):
        assert next_level - level <= 1
    page.locator("a.number").first.click()
    assert set(levels(page, "dialog")) == {2, 3}
    page.keyboard.press("Escape")


def test_tables_say_what_their_cells_are(shared_page):
    name = "one => one.caption?.textContent || one.getAttribute('aria-labelledby')"
    assert all(shared_page.locator("table").evaluate_all(f"tables => tables.map({name})"))
    heads = shared_page.locator("th")
    assert set(heads.evaluate_all("all => all.map(one => one.scope)")) == {"col", "row"}


def test_pictures_have_texts(shared_page):
    assert shared_page.locator("img:not([alt])").count() == 0
    reported = shared_page.locator("img").evaluate_all("all => all.map(one => one.alt)")
    texts = {"image a red square", "true classes of a red square", "query: a red square"}
    assert texts <= set(reported)
    decorative = shared_page.locator("img[alt='']")
    assert (
        decorative.count() == shared_page.locator(".over").count()
    )  # the picture before has the text


def test_landmarks_language_and_the_way_past_the_contents(open_page, file):
    page = open_page(file)
    assert page.locator("html").get_attribute("lang") == "en"
    for landmark in ("banner", "main", "contentinfo"):
        assert page.get_by_role(landmark).count() == 1
    assert names(page, "nav") == ["Contents", "Sections by task"]
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.inner_text() == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.locator("main").evaluate("one => one === document.activeElement")


def test_changes_are_announced(shared_page):
    page = shared_page
    statuses = page.get_by_role("status")
    assert statuses.count() == 4
    page.locator("#filters [name=model]").fill("alpha")
    assert "1 of 4 rows" in statuses.nth(1).inner_text()
    page.locator("#sample-filters [name=outcome]").select_option("A wrong, B right")
    assert statuses.nth(2).inner_text() == "1 of 2 samples on this page"
    page.get_by_role("button", name="Copy LaTeX: Ranking of the models").click()
    expect(statuses.nth(3)).to_contain_text("Ranking of the models")
    for form in ("#filters", "#sample-filters"):
        page.locator(form).get_by_role("button").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_the_page(shared_page, scheme):
    """WCAG 2.2, 1.4.3: a contrast of 4.5 at least."""
    shared_page.emulate_media(color_scheme=scheme)
    ground = shared_page.evaluate(HEX, "page")
    for colour in ("text", "soft", "accent", "a", "b", "good", "bad", "best"):
        assert contrast(shared_page.evaluate(HEX, colour), ground) >= 4.5, colour


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1440), ("dark", 360), ("light", 768), ("dark", 1440)]
)
def test_axe_finds_no_violation(open_page, file, scheme, width):
    """Check a page with everything opened and charts drawn, and the dialogs of a number and of
    pictures."""
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(file, color_scheme=scheme, viewport={"width": width, "height": 800})
    page.evaluate(OPEN_ALL)
    page.locator("[role=graphics-document] svg").first.wait_for()
    violations = []
    for opener in ("a.number", "figure.sample .enlarge", "figure.segmentation > .enlarge"):
        page.locator(opener).first.click()
        violations += Axe().run(page).response["violations"]
        page.keyboard.press("Escape")
    violations += Axe().run(page).response["violations"]
    assert describe_violations(violations) == []
