"""Curves of trainings on a page, from logs beside checkpoints."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect
from support.models import make_result
from support.report_pages import OPEN_ALL, MadeUpResults

from cosmos_eval.reporting.page import to_page


def write_run(folder, losses):
    """A checkpoint and its log, as cosmos-train leaves them."""
    folder.mkdir()
    (folder / "checkpoint.safetensors").touch()
    lines = [
        {
            "step": 10 * n,
            "clip": loss,
            "total": loss,
            "lr": 0.1,
            "timing": {"memory_bytes": (2 + n) * 1e9},
        }
        for n, loss in enumerate(losses)
    ]
    measured = {"step": 10, "evaluation": {"scenes-cls/student/acc1": 0.25}}
    text = "".join(f"{json.dumps(line)}\n" for line in (*lines, measured))
    (folder / "log.jsonl").write_text(text)
    return f"cosmos:{folder}/checkpoint.safetensors"


@pytest.fixture
def content(tmp_path):
    made_up = MadeUpResults()
    first_run = write_run(tmp_path / "one", [3.0, 2.0])
    second_run = write_run(tmp_path / "two", [4.0, float("nan"), 1.23456])
    for spec in (first_run, second_run, "scenes-clip"):
        made_up.add(*make_result("cls", model={"spec": spec}))
    return made_up.content()


def test_curves_are_read_from_all_logs(content, tmp_path):
    curves = {(curve.model[7:], curve.panel): curve for curve in content.curves}
    first, second = (f"{tmp_path / name}/checkpoint.safetensors" for name in ("one", "two"))
    loss = curves[first, "loss before the step"]
    assert (loss.line, loss.unit, loss.steps, loss.values) == ("clip", "nats", (0, 10), (3.0, 2.0))
    assert curves[second, "loss before the step"].values == (4.0, 1.235)
    assert curves[second, "peak memory"].values == (2, 3, 4)
    assert (second, "learning rate") not in curves  # it never changes
    assert curves[first, "scenes-cls"].line == "acc1 (student)"
    assert {checkpoint for checkpoint, _ in curves} == {first, second}


def test_the_section_of_a_page(content, open_page, tmp_path):
    path = tmp_path / "report.html"
    path.write_bytes(to_page(content).content)
    page = open_page(path)
    page.evaluate(OPEN_ALL)
    chart = page.locator("[data-chart=curves]")
    chart.scroll_into_view_if_needed()
    expect(chart.locator(".mark-line path")).to_have_count(2)
    chart.locator("select").select_option("scenes-cls")
    expect(chart.locator('.mark-symbol path[aria-label*="0.25"]').first).to_be_attached()
    first = page.locator("#training tbody tr").first.locator("td").all_inner_texts()
    assert first == ["loss before the step", "clip", "10", "2.0", "nats"]
