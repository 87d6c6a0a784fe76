"""`cosmos-eval report` on files: what it writes, and how it refuses."""

from __future__ import annotations

import json
import re

import pytest
from support.models import store
from support.results import store_result


@pytest.fixture
def results(tmp_path):
    for seed, model in enumerate(("a", "b")):
        for task in ("cls", "seg"):
            store(tmp_path / "runs" / "eval", task, seed=seed, model={"spec": model})
    return tmp_path / "runs" / "eval"


def test_the_usual_folder_becomes_a_page(command, results, tmp_path):
    done = command("report", "--output", "sub/page.html", "--no-pictures")
    assert (done.status, done.out) == (0, "")
    assert done.err == "wrote sub/page.html, 0.5 MB\n"
    text = (tmp_path / "sub" / "page.html").read_text("utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "2 models, 2 data sets, 4 results of" in text
    assert 'id="compare"' in text
    again = command("report", results, "--output", "again.html", "--no-pictures")
    assert again.status == 0
    assert (tmp_path / "again.html").read_text("utf-8") == text


def test_published_numbers_can_be_left_out(command, tmp_path):
    store(
        tmp_path / "r",
        "cls",
        model={"spec": "cosmos:vitb16_cc3m"},
        dataset="imagenet1k",
        protocol="cosmos",
    )
    for option, has_published_rows in (("--published", True), ("--no-published", False)):
        assert command("report", "r", "--output", "p.html", "--no-pictures", option).status == 0
        text = (tmp_path / "p.html").read_text("utf-8")
        # In both cases, the difference from the published number is stated as by `leaderboard`.
        assert "vs published" in text
        assert ('data-source="published"' in text) == has_published_rows


def test_a_result_that_cannot_be_compared_is_noted_on_the_page_and_by_the_command(
    command, results, tmp_path
):
    (samples,) = results.glob("a__scenes-cls__scenes.*.npz")
    samples.write_bytes(b"edited")
    done = command("report", "--output", "page.html", "--no-pictures")
    assert done.status == 0
    first, note, reason = done.err.splitlines()
    assert first.startswith("wrote page.html")
    fault = "only in leaderboards: runs/eval/a__scenes-cls__scenes.json (edited samples)"
    assert note == f"note: not shown: {fault}"
    assert "the samples are not those that were stored with the record" in reason
    assert fault in (tmp_path / "page.html").read_text("utf-8")


def page_data(text):
    return json.loads(re.search(r'<script type="application/json".*?>(.*?)</script>', text)[1])


def test_an_edited_result_is_in_leaderboards_alone(command, tmp_path):
    store(tmp_path / "r", "cls", 0.9)
    bad = store(tmp_path / "r", "cls", 0.4, 1, model={"spec": "scenes-clip"})
    bad.write_text(re.sub(r'"acc1": 0\.\d+', '"acc1": 0.99', bad.read_text(), count=1))
    done = command("report", "r", "--output", "p.html", "--no-pictures")
    assert done.status == 0
    note = f"since the file was edited after it was written: {bad.name}"
    text = (tmp_path / "p.html").read_text("utf-8")
    assert note in done.err
    assert note in text
    assert f"only in leaderboards: r/{bad.name}" in text
    start = text.index('<tr data-model="scenes-clip (edited record)" data-source="unverified">')
    row = text[start : text.index("</tr>", start)]
    assert "99.0" in row
    assert "best" not in row
    assert (page_data(text)["models"], page_data(text)["pairs"]) == (["scenes-cosmos"], [])
    # Figures of classes may have been edited as well.
    assert "scenes-clip" not in text[text.index('id="classes"') : text.index('id="summary"')]


def test_two_states_of_a_checkpoint_are_two_models(command, tmp_path):
    for place, state in enumerate("12"):
        store(tmp_path / "r" / state, "cls", 0.5, place, model={"weights_sha256": state * 64})
    done = command("report", "r", "--output", "p.html", "--no-pictures")
    assert "note: 2 models are called scenes-cosmos: their weights differ" in done.err
    text = (tmp_path / "p.html").read_text("utf-8")
    names = [f"scenes-cosmos (weights {state * 8})" for state in "12"]
    assert page_data(text)["models"] == names
    assert len(page_data(text)["pairs"]) == 1
    assert all(text.count(f'data-model="{name}"') == 1 for name in names)


def refused(command, *arguments):
    done = command("report", *arguments)
    assert done.status == 2
    assert done.out == ""
    (line,) = done.err.splitlines()
    return line


def test_wrong_usage_is_one_line(command, results, tmp_path):
    assert "--output" in refused(command)
    message = refused(command, "--output", "page.pdf")
    assert message == "cosmos-eval: --output page.pdf: a page is written, so end its name in .html"
    assert "no results (*.json) in nowhere" in refused(command, "nowhere", "--output", "p.html")
    (tmp_path / "file").touch()
    assert "cannot write file/p.html: " in refused(command, "--output", "file/p.html")
    (tmp_path / "folder.html").mkdir()
    assert "cannot write folder.html" in refused(command, "--output", "folder.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.html", "runs"]


def test_a_broken_result_is_named(command, results):
    (results / "broken.json").write_text("{")
    assert "broken.json: cannot be read as a result" in refused(command, "--output", "p.html")
    (results / "broken.json").write_text(json.dumps({"schema_version": 2}))
    assert "broken.json: $.model: Field required" in refused(command, "--output", "p.html")


def test_two_results_of_one_model_are_named(command, results):
    same_data = {"hashes": {"content": "d" * 64}}
    store_result(results / "more", "cls", model={"spec": "a"}, provenance=same_data)
    message = refused(command, "--output", "p.html")
    assert "two results of a on scenes-cls (scenes): keep one of the files" in message
