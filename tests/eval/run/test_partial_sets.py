"""Known data sets with another number of samples: refused, or measured in part and marked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.rows import make_row
from support.sets import LAYOUTS, save_map, write_images, write_masks

import cosmos_eval
from cosmos_eval.protocols.segmentation import SEGMENTATION, SEGMENTATION_BY_PROTOCOL
from cosmos_eval.results.compare import describe_mismatches, setting_of_result
from cosmos_eval.results.filenames import file_stem
from cosmos_eval.results.identity import model_label
from cosmos_eval.results.leaderboard.entries import entries_of_rows
from cosmos_eval.results.store import read_result
from cosmos_eval.runner.execute import found_samples_of
from cosmos_eval.tasks import task_for
from cosmos_eval.types import (
    ClassificationProtocol,
    FoundSamples,
    LocalisationProtocol,
    Protocol,
    RetrievalProtocol,
    RunOptions,
    SegmentationProtocol,
    SelectionProtocol,
    UsageError,
)

N = 4  # samples of every made-up set
ALLOWED = RunOptions(allow_partial=True, workers=0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images, a label map of each, the same images in folders of classes, captions and items."""
    for number in range(N):
        name, letter = f"{number}.png", "ab"[number % 2]
        save_map(tmp_path / "images" / name, np.full((8, 8), 60 * number))
        save_map(tmp_path / "masks" / name, np.arange(64).reshape(8, 8) % 2)
        (tmp_path / "classes" / letter).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "classes" / letter / name)
    captions = [{"image": f"{n}.png", "caption": ["one", "two"]} for n in range(N)]
    items = [
        {"image": f"{n}.png", "caption": f"a {n}", "negative": "no", "subset": "ab"[n % 2]}
        for n in range(N)
    ]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    (tmp_path / "items.json").write_text(json.dumps(items))
    return tmp_path


def mine(kind: type[Any], root: Path, **fields: Any) -> Any:
    return kind(dataset="mine", protocol_name="test", root=str(root), **fields)


def of_label_maps(kind: type[Any], root: Path, known: int) -> Protocol:
    names = {"class_names": ("a", "b"), "queries": (("a",), ("b",))}
    files = {"images": "images", "masks": "masks", "image_suffix": ".png"}
    return mine(kind, root, **files, **names, n_images=known)


def of_retrieval(root: Path, known: int) -> Protocol:
    files = {"images": "images", "annotations": "captions.json"}
    return mine(RetrievalProtocol, root, **files, n_images=known, n_captions=2 * known)


def of_classes(root: Path, known: int) -> Protocol:
    return mine(ClassificationProtocol, root, folder="classes", n_images=known)


def of_selection(root: Path, known: int) -> Protocol:
    files = {"images": "images", "annotations": "items.json", "layout": "items"}
    subsets = {"a": 2, "b": known - 2}
    return mine(SelectionProtocol, root, **files, n_items=known, subset_items=subsets)


KINDS: dict[str, Callable[[Path, int], Protocol]] = {
    "retrieval": of_retrieval,
    "cls": of_classes,
    "select": of_selection,
    "seg": lambda root, known: of_label_maps(SegmentationProtocol, root, known),
    "loc": lambda root, known: of_label_maps(LocalisationProtocol, root, known),
}


def check(protocol: Protocol, **options: Any) -> None:
    task, given = task_for(protocol), RunOptions(workers=0, **options)
    task.check(protocol, given, task.open_data(protocol, given))


@pytest.mark.parametrize("task", KINDS)
def test_one_sample_too_few_or_too_many_is_refused(task, root):
    check(KINDS[task](root, N))
    with pytest.raises(UsageError, match=r"^mine: .* has \d of \d .*data doctor mine.*--partial"):
        check(KINDS[task](root, N + 1))
    with pytest.raises(UsageError, match=r"^mine: .* has \d \w+.*, more than the \d of mine; see"):
        check(KINDS[task](root, N - 1))
    for known in (N - 1, N + 1):
        check(KINDS[task](root, known), limit=2)


@pytest.mark.parametrize("task", KINDS)
def test_a_part_is_accepted_where_that_is_allowed(task, root):
    unit = "items" if task == "select" else "images"
    less = KINDS[task](root, N + 1)
    check(less, allow_partial=True)
    assert found_samples_of(less, ALLOWED) == FoundSamples(N, N + 1, unit)
    assert found_samples_of(less, RunOptions()) is None
    assert found_samples_of(KINDS[task](root, N), ALLOWED) is None
    with pytest.raises(UsageError, match=r"more than the [13] of mine; .*`, or measure the first"):
        check(KINDS[task](root, N - 1), allow_partial=True)


@pytest.mark.parametrize("task", sorted(KINDS.keys() - {"cls"}))
def test_samples_whose_files_are_missing_are_left_out_of_a_part(task, root):
    (root / "images" / "2.png").unlink()
    protocol = KINDS[task](root, N)
    with pytest.raises(UsageError):
        check(protocol)
    check(protocol, allow_partial=True)
    unit = "items" if task == "select" else "images"
    assert found_samples_of(protocol, ALLOWED) == FoundSamples(3, 4, unit)


@pytest.mark.parametrize(
    ("task", "own"),
    [
        ("retrieval", {"n_images": None, "n_captions": None}),
        ("select", {"n_items": None, "subset_items": {}}),
    ],
)
def test_missing_files_of_the_users_own_sets_stay_an_error(task, own, root):
    """Their number is not known, so that a result could not be marked."""
    (root / "images" / "2.png").unlink()
    known: Any = KINDS[task](root, N)
    with pytest.raises(UsageError, match=r"2\.png"):
        check(replace(known, **own), allow_partial=True)


def test_label_maps_that_are_missing_are_left_out_as_well(root):
    (root / "masks" / "1.png").unlink()
    protocol = KINDS["seg"](root, N)
    with pytest.raises(UsageError, match=r"cannot read label map .*masks/1\.png"):
        check(protocol)
    assert found_samples_of(protocol, ALLOWED) == FoundSamples(3, 4, "images")
    for number in range(N):
        (root / "masks" / f"{number}.png").unlink(missing_ok=True)
    with pytest.raises(UsageError, match=r"cannot read label map .*masks/0\.png"):
        check(protocol, allow_partial=True)


def test_a_list_of_one_line_is_not_the_set(tmp_path):
    """PASCAL VOC with a val.txt of one name."""
    voc = LAYOUTS["voc"]
    write_images(tmp_path, voc)
    write_masks(tmp_path, voc)
    (tmp_path / str(voc.split)).write_text(f"{voc.names[0]}\n")
    with pytest.raises(UsageError, match=r"^voc20: .*JPEGImages has 1 of 1449 images of voc20"):
        task_for(SEGMENTATION["voc20"]).open_data(
            SEGMENTATION["voc20"], RunOptions(data_root=str(tmp_path), workers=0)
        )


def test_a_limit_excludes_a_part():
    with pytest.raises(UsageError, match=r"--partial .* --limit .*: give one"):
        RunOptions(limit=3, allow_partial=True)


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory) -> Path:
    """Three of 500 images."""
    root = tmp_path_factory.mktemp("cityscapes")
    write_images(root, LAYOUTS["cityscapes"])
    write_masks(root, LAYOUTS["cityscapes"])
    return root


MARK = "partial (3 of 500 images)"


def test_a_partial_result_is_marked_wherever_it_is_shown(command, cityscapes, tiny_archs, tmp_path):
    model = f"openclip:{tiny_archs['tiny']}/random"
    run = ["run", "--dataset", "cityscapes", "--data-root", cityscapes, "--model", model]
    run += ["--output", "out", "--device", "cpu", "--no-cache"]
    refused = command(*run)
    assert refused.status == 2
    assert "has 3 of 500 images of cityscapes; see `cosmos-eval data doctor city" in refused.err
    assert not (tmp_path / "out").exists()

    preview = command(*run, "--partial", "--dry-run", "--json")
    assert json.loads(preview.out)[0]["samples"] == 3
    done = command(*run, "--partial")
    assert done.status == 0, done.err
    assert "partial" in done.out
    (path,) = (tmp_path / "out").glob("*.json")
    assert path.stem.endswith("__cityscapes__cosmos__partial-3-of-500-images")
    row = read_result(path)
    assert (row.provenance["partial"], row.n_samples) == ("3 of 500 images", 3)
    assert row.provenance["notes"][-1] == "3 of 500 images were found"
    assert command("verify", path).status == 0
    again = json.loads(command(*run, "--partial", "--dry-run", "--json").out)[0]
    assert again["result"] == f"out/{path.name}"
    assert json.loads(command(*run, "--dry-run", "--json").out)[0]["result"] is None

    for form in ("md", "csv", "tex"):
        shown = " ".join(command("leaderboard", "out", "--format", form).out.split())
        assert MARK in shown, form
    listed = json.loads(command("leaderboard", "out", "--published", "--format", "json").out)
    (measured,) = [entry for entry in listed if entry["source"] == "measured"]
    assert MARK in measured["model"]
    assert command("report", "out", "--output", "page.html").status == 0
    assert MARK in (tmp_path / "page.html").read_text()


def test_a_whole_set_is_not_marked(cityscapes, tiny_archs, monkeypatch):
    whole = replace(SEGMENTATION["cityscapes"], n_images=3, templates=("a {}",))
    monkeypatch.setitem(SEGMENTATION_BY_PROTOCOL["cosmos"], "cityscapes", whole)
    options = {"data_root": str(cityscapes), "allow_partial": True, "cache": False}
    model = f"openclip:{tiny_archs['tiny']}/random"
    row = cosmos_eval.evaluate(model, "cityscapes", device="cpu", **options)
    assert "partial" not in row.provenance


def test_a_partial_result_is_compared_only_with_one_of_the_same_part():
    """The samples are taken to be the same, so that only the mark differs."""
    hashes = {"sample_list": "a" * 64}
    complete = make_row(provenance={"hashes": hashes})
    part = make_row(provenance={"partial": "4 of 9 images", "hashes": hashes})
    assert describe_mismatches(setting_of_result(part), setting_of_result(part)) == []
    (found,) = describe_mismatches(setting_of_result(complete), setting_of_result(part))
    assert str(found) == "partial is missing and 4 of 9 images"
    other = make_row(provenance={"partial": "4 of 8 images", "hashes": hashes})
    (found,) = describe_mismatches(setting_of_result(other), setting_of_result(part))
    assert found.startswith("partial is ")


def test_a_partial_result_is_shown_and_not_ranked():
    part = make_row(provenance={"partial": "4 of 9 images"})
    assert model_label(part).endswith("(partial (4 of 9 images))")
    assert file_stem(part).endswith("__partial-4-of-9-images")
    (entry,) = entries_of_rows([part])
    assert entry.partial
    assert not entries_of_rows([make_row()])[0].partial
