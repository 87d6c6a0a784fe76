"""Several labs' results of one model: a row each if they differ, and their differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from support.html import Page
from support.models import store

IMAGES = 500


def samples_with(n_right: int, confidence: float = 0.5) -> dict[str, Any]:
    """Of 500 images of the classes a and b, the first `n_right` are right at rank 1."""
    labels = np.arange(IMAGES) % 2
    first = np.where(np.arange(IMAGES) < n_right, labels, 1 - labels)
    return {
        "labels": labels,
        "top5": np.stack([first, 1 - first], axis=1),
        "confidence": np.full(IMAGES, confidence, np.float32),
        "classes": np.array(["a", "b"]),
    }


def measured_at(day: int, **provenance: Any) -> dict[str, Any]:
    return {"utc": f"2026-01-{day:02}T00:00:00+00:00", **provenance}


def store_labs(folder: Path) -> None:
    """Five labs measure one model, and the third is the first to do so. One has another model."""
    store(folder / "third", samples=samples_with(400), provenance=measured_at(1))
    store(folder / "equal", samples=samples_with(400), provenance=measured_at(2))
    other_bits = float(np.nextafter(np.float32(0.5), np.float32(1)))
    store(folder / "bits", samples=samples_with(400, other_bits), provenance=measured_at(3))
    store(folder / "one", samples=samples_with(401), provenance=measured_at(4))
    ours = {"name": "ours"}
    store(folder / "two", samples=samples_with(398), provenance=measured_at(5), model=ours)
    store(folder / "two", samples=samples_with(300), model={"spec": "clip"})


def test_a_table_of_the_differences(command, tmp_path):
    store_labs(tmp_path / "board")
    done = command("leaderboard", "board", "--labs", "--no-intervals")
    assert (done.status, done.err) == (0, "")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    # 400 of 500 are 80%; the model has the same number in three labs, and rows of its own in two.
    for row in ("clip 60.0", "ours (third) 80.0", "ours (one) 80.2*", "ours (two) 79.6"):
        assert any(line.startswith(row) for line in lines), row
    start = lines.index("Models that several labs measured (%)")
    assert lines[start + 1] == ("model metric first lab other lab first other difference agreement")
    assert lines[start + 3 : start + 8] == [
        "scenes-cls, scenes",
        "ours acc1 third equal 80.0 80.0 +0.00 equal samples",
        "ours acc1 third bits 80.0 80.0 +0.00 within rounding",
        "ours acc1 third one 80.0 80.2 +0.20 within rounding",
        "ours acc1 third two 80.0 79.6 -0.40 differs",
    ]


def test_json_and_web_page(command, tmp_path):
    store_labs(tmp_path / "board")
    document = json.loads(command("leaderboard", "board", "--labs", "--json").out)
    assert {record["model"] for record in document["results"]} == {
        "clip", "ours (third)", "ours (equal)", "ours (bits)", "ours (one)", "ours (two)",
    }  # fmt: skip
    assert document["labs"][3] == {
        "model": "ours",
        "task": "cls",
        "dataset": "scenes-cls",
        "protocol": "scenes",
        "metric": "acc1",
        "first_lab": "third",
        "lab": "two",
        "first_value": 0.8,
        "value": 0.796,
        "difference": -0.004,
        "agreement": "differs",
    }
    assert len(document["labs"]) == 4
    page = Page(command("leaderboard", "board", "--labs", "--format", "html").out)
    cells = [element.text for element in page.all("td", "th")]
    assert "differs" in cells
    assert "-0.40" in cells


def test_equal_numbers_have_one_row(command, tmp_path):
    for lab in ("a", "b"):
        store(tmp_path / "board" / lab, samples=samples_with(400))
    done = command("leaderboard", "board", "--labs", "--json")
    document = json.loads(done.out)
    assert done.err == ""
    assert [record["model"] for record in document["results"]] == ["scenes-cosmos"]
    assert [record["agreement"] for record in document["labs"]] == ["equal samples"]


def test_the_same_samples_in_another_file_are_equal(command, tmp_path):
    # The order of arrays in the file is another one.
    samples = samples_with(400)
    store(tmp_path / "board" / "a", samples=samples)
    store(tmp_path / "board" / "b", samples=dict(reversed(samples.items())))
    first, second = sorted((tmp_path / "board").glob("*/*.npz"))
    assert first.read_bytes() != second.read_bytes()
    document = json.loads(command("leaderboard", "board", "--labs", "--json").out)
    assert [record["agreement"] for record in document["labs"]] == ["equal samples"]


def test_ranks_agree_within_a_thousandth(command, tmp_path):
    """Mean ranks of 1,001 and 1,002 differ by less than 0.1%, those of 1,001 and 1,003 by more."""
    for day, (lab, rank) in enumerate({"a": 1001, "b": 1002, "c": 1003}.items(), start=1):
        samples = {
            "image_to_text_rank": np.array([rank, rank]),
            "text_to_image_rank": np.ones(3000, np.int64),
            "image_of_text": np.arange(3000) % 2,
        }
        store(tmp_path / "board" / lab, "retrieval", samples=samples, provenance=measured_at(day))
    options = ("--labs", "--json", "--metrics", "image_to_text_mean_rank")
    document = json.loads(command("leaderboard", "board", *options).out)
    agreements = [(r["lab"], r["difference"], r["agreement"]) for r in document["labs"]]
    assert agreements == [("b", 1.0, "within rounding"), ("c", 2.0, "differs")]


def test_what_is_not_the_same_measurement(command, tmp_path):
    board = tmp_path / "board"
    store(board / "a", samples=samples_with(400))
    store(board / "b", samples=samples_with(300), provenance={"precision": "bf16"})
    store(board / "c", samples=samples_with(300), hashes={"content": "e" * 64})
    edited = store(board / "d", samples=samples_with(300))
    record = json.loads(edited.read_text())
    record["metrics"]["acc1"] = 0.9
    edited.write_text(json.dumps(record))
    store(board / "e", samples=samples_with(401), hashes={"templates": "e" * 64})
    document = json.loads(command("leaderboard", "board", "--labs", "--json").out)
    assert [(r["lab"], r["agreement"]) for r in document["labs"]] == [("e", "other settings")]
    names = {record["model"] for record in document["results"]}
    assert "scenes-cosmos (edited record, d)" in names


def test_published_numbers_stay_beside_the_row_of_a_lab(command, tmp_path):
    for lab, n_right in (("a", 190), ("b", 195)):
        store(
            tmp_path / "board" / lab,
            samples=samples_with(n_right),
            dataset="imagenet1k",
            protocol="cosmos",
            model={"spec": "cosmos:vitb16_cc3m"},
        )
    document = json.loads(command("leaderboard", "board", "--labs", "--json").out)
    published = [record["published"]["acc1"] for record in document["results"]]
    assert len(published) == 2
    assert published[0] == published[1]


def test_refusals(command, tmp_path):
    store(tmp_path / "board", samples=samples_with(400))
    done = command("leaderboard", "board", "--labs")
    assert done.status == 2
    assert done.err == (
        "cosmos-eval: board/scenes-cosmos__scenes-cls__scenes.json belongs to no lab: with --labs, "
        "board has one folder per lab\n"
    )
    done = command("leaderboard", "board", "--labs", "--format", "csv")
    assert done.status == 2
    assert done.err == (
        "cosmos-eval: --labs has tables and JSON: choose another --format than csv\n"
    )


def test_two_results_of_one_lab_are_still_refused(command, tmp_path):
    for folder in ("x", "y"):
        n_right = 400 if folder == "x" else 300
        store(tmp_path / "board" / "a" / folder, samples=samples_with(n_right))
    store(tmp_path / "board" / "b", samples=samples_with(400))
    done = command("leaderboard", "board", "--labs")
    assert done.status == 2
    assert "two results of scenes-cosmos (a) on scenes-cls (scenes): keep one of" in done.err


def test_a_report_has_the_rows_and_the_table(command, tmp_path):
    store_labs(tmp_path / "board")
    done = command("report", "board", "--output", "page.html", "--no-pictures")
    assert done.status == 2
    assert "keep one of the files" in done.err
    done = command("report", "board", "--labs", "--output", "page.html", "--no-pictures")
    assert done.status == 0
    page = Page((tmp_path / "page.html").read_text("utf-8"))
    cells = [element.text for element in page.all("td", "th")]
    row = ["third", "two", "80.0", "79.6", "-0.40", "differs"]
    assert any(cells[start : start + 6] == row for start in range(len(cells)))
    assert "labs" in page.values("id")
    assert "ours (two)" in page.values("data-model")


def test_a_report_without_labs_has_no_such_section(command, tmp_path):
    store(tmp_path / "board", samples=samples_with(400))
    command("report", "board", "--output", "page.html", "--no-pictures")
    assert "labs" not in Page((tmp_path / "page.html").read_text("utf-8")).values("id")
