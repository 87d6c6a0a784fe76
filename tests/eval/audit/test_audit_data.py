"""Copies and captions of retrieval and caption selection, and the answers that retrieval stores."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from cosmos_eval.results.store import read_samples
from cosmos_eval.stats.retrieval import first_wrong_items

RUN = ("--model", "scenes-cosmos", "--output", "runs")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 30 different pictures of a few rectangles, 00.png to 29.png."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(30):
        image = Image.new("RGB", (64, 64), tuple(rng.integers(0, 256, 3).tolist()))
        for _ in range(6):
            left, top, width, height = rng.integers(0, 48, 4).tolist()
            colour = tuple(rng.integers(0, 256, 3).tolist())
            image.paste(colour, (left, top, left + width // 2 + 8, top + height // 2 + 8))
        image.save(folder / f"{number:02}.png")
    return folder


def write_captions(path: Path, captions: dict[str, list[str]]) -> None:
    rows = [{"image": image, "caption": text} for image in captions for text in captions[image]]
    path.write_text(json.dumps(rows))


def groups_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {group["name"]: group for group in document["groups"]}


def test_captions_that_fit_several_images(photos, tmp_path, command):
    ImageOps.mirror(Image.open(photos / "03.png")).save(photos / "30.png")
    captions = {f"{number:02}.png": [f"picture {number}", "one more"] for number in range(31)}
    for number in range(31):
        captions[f"{number:02}.png"][1] += f" of {number}"
    captions["05.png"][1] = "A red ball, a blue car."
    captions["06.png"][0] = "a blue car; a red ball"
    captions["07.png"] = ["the same twice", "twice the same"]
    write_captions(tmp_path / "captions.json", captions)
    file = tmp_path / "captions.yaml"
    file.write_text("kind: retrieval\nimages: photos\nannotations: captions.json\n")
    ended = command("run", "--dataset", file, *RUN)
    assert ended.status == 0, ended.err
    ended = command("audit", "runs", "--dataset", file, "--json")
    assert ended.status == 0, ended.err
    of_images, of_captions = (groups_of(document) for document in json.loads(ended.out))

    names = [item["name"] for item in of_images["copies"]["examples"]]
    assert names == ["03.png", "30.png"]
    assert of_images["copies"]["examples"][0]["detail"] == "like 30.png"
    names = [item["name"] for item in of_captions["copies"]["examples"]]
    assert names == ["03.png#0", "03.png#1", "30.png#0", "30.png#1"]
    fits = {item["name"]: item["detail"] for item in of_captions["caption fits others"]["examples"]}
    assert fits == {"05.png#1": "A red ball, a blue car.", "06.png#0": "a blue car; a red ball"}
    names = [item["name"] for item in of_images["caption fits others"]["examples"]]
    assert names == ["05.png", "06.png"]


def write_items(path: Path, rows: list[tuple[str, str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "negative"])
        writer.writerows(rows)


def test_copies_of_selection_items(photos, tmp_path, command: Callable[..., Any]):
    Image.open(photos / "02.png").save(photos / "copy.jpg", quality=70)
    rows = [(f"{number:02}.png", f"right {number}", f"wrong {number}") for number in range(30)]
    rows += [("copy.jpg", "right 2", "wrong 2"), ("04.png", "wrong 4", "right 4")]
    rows += [("09.png", "a cat on a mat", "A mat on a cat.")]
    write_items(tmp_path / "items.csv", rows)
    file = tmp_path / "items.yaml"
    file.write_text("kind: select\nimages: photos\nannotations: items.csv\nlayout: items\n")
    ended = command("run", "--dataset", file, *RUN)
    assert ended.status == 0, ended.err
    ended = command("audit", "runs", "--dataset", file, "--json")
    assert ended.status == 0, ended.err
    (document,) = json.loads(ended.out)
    groups = groups_of(document)
    assert [item["sample"] for item in groups["copies"]["examples"]] == [30]
    assert [item["sample"] for item in groups["copies, other label"]["examples"]] == [4, 31]
    (item,) = groups["same words"]["examples"]
    assert (item["sample"], item["score"]) == (32, 0.5)
    assert item["detail"] == "a cat on a mat | A mat on a cat."
    assert document["baselines"]["bag of words"] == pytest.approx(1 - 0.5 / 33)


def test_the_first_wrong_item_is_the_one_with_the_highest_score():
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((50, 4)).astype(np.float32)
    items = rng.standard_normal((20, 4)).astype(np.float32)
    right = rng.integers(0, 20, 50)
    scores = queries @ items.T
    ranks = (scores >= scores[np.arange(50), right][:, None]).sum(axis=1)
    first_wrong = first_wrong_items(queries, items, ranks)
    expected = np.where(scores.argmax(axis=1) == right, -1, scores.argmax(axis=1))
    assert first_wrong.tolist() == expected.tolist()
    assert -1 in first_wrong
    assert first_wrong_items(queries, items, np.ones(50, int)).tolist() == [-1] * 50


def test_retrieval_stores_the_first_wrong_items(photos, tmp_path, command):
    captions = {f"{number:02}.png": [f"thing {number}"] for number in range(30)}
    write_captions(tmp_path / "captions.json", captions)
    file = tmp_path / "captions.yaml"
    file.write_text("kind: retrieval\nimages: photos\nannotations: captions.json\n")
    assert command("run", "--dataset", file, *RUN).status == 0
    (path,) = (tmp_path / "runs").glob("*.json")
    samples = read_samples(path)
    for direction in ("image_to_text", "text_to_image"):
        first, rank = samples[f"{direction}_first"], samples[f"{direction}_rank"]
        assert (first[rank == 1] == -1).all()
        assert (first[rank > 1] >= 0).all()
        missed = np.flatnonzero(rank > 1)
        assert len(missed) > 10
        assert (first[missed] != missed).all()
    assert command("verify", path).status == 0
