"""A check tells and refuses what `compare` does: conditions, precision, metrics without a value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.models import make_result, seal, store

import cosmos_eval
from cosmos_eval.results.compare import detectable_text
from cosmos_eval.results.gate.check import Finding, Key
from cosmos_eval.results.gate.reports import to_cells
from cosmos_eval.results.table import USUAL
from cosmos_eval.stats.paired import PairedDifference
from cosmos_eval.tasks import metric_of

BASELINE = ("--baseline", "base.json")


def write_baseline(command: Any, folder: str) -> None:
    assert command("check", folder, *BASELINE, "--update", "--reason", "first").status == 0


def sum_of_features(text_weight: float) -> dict[str, Any]:
    return {"provenance": {"composition": f"sum of features, text weight {text_weight:g}"}}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"device": "a GPU"}, "device is cpu and a GPU"),
        ({"version": "0.9"}, "version is"),
        ({"dirty": True}, "dirty is False and True"),
        (sum_of_features(0.9)["provenance"], "composition is None and sum of features"),
    ],
)
def test_a_check_notes_what_compare_notes(
    changes: dict[str, Any], line: str, command: Any, tmp_path: Path
) -> None:
    store(tmp_path / "old")
    store(tmp_path / "new", provenance=changes)
    write_baseline(command, "old")
    ended = command("check", "new", *BASELINE)
    assert ended.status == 0
    compared = command("compare", "old", "new").err
    (note,) = [text for text in ended.err.splitlines() if line in text]
    assert note.endswith("(baseline and new): scenes-cosmos on scenes-cls (scenes)")
    assert f"note: scenes-cls: {line}" in compared
    assert line not in command("check", "old", *BASELINE).err


def test_a_baseline_of_an_older_version_has_no_conditions(command: Any, tmp_path: Path) -> None:
    store(tmp_path / "old")
    store(tmp_path / "new", provenance={"device": "a GPU"})
    write_baseline(command, "old")
    path = tmp_path / "base.json"
    document = json.loads(path.read_text())
    del document["results"][0]["conditions"]
    path.write_text(json.dumps(document))
    seal(path)
    ended = command("check", "new", *BASELINE)
    assert ended.status == 0
    assert "device is" not in ended.err


@pytest.mark.parametrize("sequential", [[], ["--sequential"]])
@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            {"model": {"name": "M"}, "provenance": {"precision": "bf16"}},
            {"model": {"name": "M (bf16)"}},
            "precision is bf16 and fp32",
        ),
        (
            {"model": {"name": "M", "weights": "student"}},
            {"model": {"name": "M (student)", "weights": "teacher"}},
            "weights is student and teacher",
        ),
    ],
)
def test_a_name_that_looks_like_a_setting_is_none(
    old: dict[str, Any],
    new: dict[str, Any],
    line: str,
    sequential: list[str],
    command: Any,
    tmp_path: Path,
) -> None:
    store(tmp_path / "old", **old)
    store(tmp_path / "new", **new)
    write_baseline(command, "old")
    ended = command("check", "new", *BASELINE, *sequential)
    assert ended.status == 2
    assert f"measured otherwise than the baseline: {line}" in ended.err


def test_other_weights_of_texts_differ_from_accepted_results(command: Any, tmp_path: Path) -> None:
    store(tmp_path / "accepted", **sum_of_features(0.5))
    store(tmp_path / "new", **sum_of_features(0.9))
    store(tmp_path / "own", provenance={"composition": "the model's own"})
    ended = command("verify", "new", "--like", "accepted")
    assert ended.status == 1
    assert "text weight is 0.9 and 0.5 there" in ended.out
    assert command("verify", "own", "--like", "accepted").status == 0


def segmented_images(folder: Path) -> Path:
    """Write two images, of which only the first one has pixels with a class."""
    for name in ("photos", "masks"):
        (folder / name).mkdir(parents=True)
    for number, colour in enumerate([(70, 130, 210), (70, 150, 60)]):
        Image.new("RGB", (32, 32), colour).save(folder / f"photos/{number}.png")
        mask = np.full((32, 32), 255 * number, np.uint8)
        if number == 0:
            mask[:, 12:] = 1
        Image.fromarray(mask).save(folder / f"masks/{number}.png")
    path = folder / "seg.yaml"
    path.write_text(
        "kind: seg\nimages: photos\nmasks: masks\nimage_suffix: .png\ntemplates: ['{}']\n"
        "classes: [green, blue]\nshort_side: 32\nwindow: null\n"
    )
    return path


def test_metrics_that_one_image_decides_are_problems_and_others_are_compared(
    command: Any, tmp_path: Path
) -> None:
    """Without the first image, no metric of the segmentation has a value."""
    path = segmented_images(tmp_path / "two")
    for folder, model in (("old", "scenes-clip"), ("new", "scenes-cosmos")):
        cosmos_eval.evaluate(model, str(path), name="M", output=tmp_path / folder, workers=0)
        store(tmp_path / folder)
    write_baseline(command, "old")
    ended = command("check", "new", *BASELINE, "--json")
    assert ended.status == 2
    document = json.loads(ended.out)
    findings = {finding["metric"] for finding in document["findings"]}
    assert findings == set(make_result()[0].metrics)
    problems = [problem["message"] for problem in document["problems"]]
    assert problems == [
        f"one image decides whether there is a value of {name}" for name in ("aAcc", "mAcc", "mIoU")
    ]
    compared = command("compare", "old", "new", "--model", "M", "--model", "M")
    note = "seg: not compared, since one image decides whether there is a value of aAcc, mAcc, mIoU"
    assert note in compared.err


def test_no_loss_of_a_share_is_above_100_points() -> None:
    """1.9465 is more than any share; 0.5 is a possible difference."""
    change = PairedDifference(0.4, 0.5, -0.1, 0.5, 3, 0.9, 4, "paired bootstrap")
    metric = metric_of("cls", "acc1")
    for detectable, text in ((1.9465, "> 100"), (0.5, "50.00")):
        finding = Finding(Key("a", "b", "c"), "cls", "acc1", change, 0.5, detectable)
        assert to_cells(finding)["detectable"] == text
        assert detectable_text(detectable, metric, USUAL) == text


def test_a_check_notes_another_preprocessing(command: Any, tmp_path: Path) -> None:
    store(tmp_path / "old")
    store(tmp_path / "new", model={"preprocessing_sha256": "a" * 64})
    write_baseline(command, "old")
    note = "weights 00000000, as in the baseline"
    assert f"{note}\n" in command("check", "old", *BASELINE).err
    changed = command("check", "new", *BASELINE).err.replace("\n ", "")
    assert f"{note}, but with another architecture, preprocessing or code" in changed
