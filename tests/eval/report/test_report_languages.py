"""Languages on the page: a heat map in its chart and in the table under it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect
from support.models import make_result
from support.report_pages import OPEN_ALL, PUBLISHED, MadeUpResults, made_up_results

from cosmos_eval.reporting.page import to_page

LANGUAGES = ["xtd10-de", "xtd10-en", "xtd10-zh"]
MODELS = ["alpha", "beta"]
RECALLS = ("image_to_text_R@1", "text_to_image_R@1")


@pytest.fixture(scope="module")
def made_up() -> MadeUpResults:
    made_up = MadeUpResults()
    for number, dataset in enumerate(LANGUAGES):
        for model in MODELS:
            quality = 0.2 + 0.2 * number
            made_up.add(
                *make_result(
                    "retrieval",
                    quality,
                    9,
                    model={"spec": model},
                    dataset=dataset,
                    protocol="clip-benchmark",
                )
            )
    return made_up


def published(model: str, recall: float):
    return PUBLISHED._replace(
        model=model,
        task="retrieval",
        dataset="xtd10-en",
        protocol="clip-benchmark",
        metrics=dict.fromkeys(RECALLS, recall),
    )


def test_the_heat_map_and_its_table_have_the_mean_recalls(made_up, open_page, tmp_path: Path):
    published_entries = [published("low", 0.1), published("high", 0.9)]
    path = tmp_path / "report.html"
    path.write_bytes(to_page(made_up.content(published_entries)).content)
    page = open_page(path)
    page.evaluate(OPEN_ALL)
    section = page.locator("#languages")
    titles = section.locator("thead th").all_inner_texts()
    # Measured models come first, then the published one with the highest mean.
    names = ["Language", "alpha", "beta", "high (published)", "low (published)"]
    assert ["".join(title.split()) for title in titles] == ["".join(n.split()) for n in names]
    languages = section.locator("tbody th").all_inner_texts()
    assert sorted(languages) == ["de", "en", "zh"]

    cells = {}
    for stored in made_up.results:
        recalls = [stored.row.metrics[name] for name in RECALLS]
        cells[stored.row.dataset.removeprefix("xtd10-"), stored.model] = np.mean(recalls)
    for language, row in zip(languages, section.locator("tbody tr").all(), strict=True):
        shown = row.locator("td").all_inner_texts()
        expected = [f"{100 * cells[language, model]:.1f}" for model in MODELS]
        assert shown[:2] == expected
        assert shown[2:] == (["90.0", "10.0"] if language == "en" else ["-", "-"])
        share = round(100 * cells[language, "alpha"])
        assert row.locator("td").first.get_attribute("class") == f"w{share}"

    # The chart has a rectangle for every number: two models in three languages, and two more.
    section.scroll_into_view_if_needed()
    marks = section.locator(".plot .mark-rect.role-mark path")
    expect(marks).to_have_count(8)


def test_a_page_without_languages_has_no_section(made_up):
    text = to_page(made_up_results(MODELS, ["cls"]).content()).content.decode()
    assert 'id="languages"' not in text
