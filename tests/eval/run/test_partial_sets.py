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
from cosmos_eval.results.filenames import file_stem
from cosmos_eval.results.identity import model_label
from cosmos_eval.results.leaderboard.entries import entries_of_rows
from cosmos_eval.results.settings import describe_mismatches, setting_of_result
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


def make_protocol(kind: type[Any], root: Path, **fields: Any) -> Any:
    return kind(dataset="mine", protocol_name="test", root=str(root), **fields)


def label_map_protocol(kind: type[Any], root: Path, n_samples: int) -> Protocol:
    return make_protocol(
        kind,
        root,
        images="images",
        masks="masks",
        image_suffix=".png",
        class_names=("a", "b"),
        queries=(("a",), ("b",)),
        n_images=n_samples,
    )


def segmentation_protocol(root: Path, n_samples: int) -> Protocol:
    return label_map_protocol(SegmentationProtocol, root, n_samples)


def localisation_protocol(root: Path, n_samples: int) -> Protocol:
    return label_map_protocol(LocalisationProtocol, root, n_samples)


def retrieval_protocol(root: Path, n_samples: int) -> Protocol:
    return make_protocol(
        RetrievalProtocol,
        root,
        images="images",
        annotations="captions.json",
        n_images=n_samples,
        n_captions=2 * n_samples,
    )


def classification_protocol(root: Path, n_samples: int) -> Protocol:
    return make_protocol(ClassificationProtocol, root, folder="classes", n_images=n_samples)


def selection_protocol(root: Path, n_samples: int) -> Protocol:
    return make_protocol(
        SelectionProtocol,
        root,
        images="images",
        annotations="items.json",
        layout="items",
        n_items=n_samples,
        subset_items={"a": 2, "b": n_samples - 2},
    )


# Each function returns a protocol on the folder, whose complete data set has a number of samples.
PROTOCOLS: dict[str, Callable[[Path, int], Protocol]] = {
    "retrieval": retrieval_protocol,
    "cls": classification_protocol,
    "select": selection_protocol,
    "seg": segmentation_protocol,
    "loc": localisation_protocol,
}


def check(protocol: Protocol, **fields: Any) -> None:
    task, options = task_for(protocol), RunOptions(workers=0, **fields)
    task.check(protocol, options, task.open_data(protocol, options))


@pytest.mark.parametrize("task", PROTOCOLS)
def test_one_sample_too_few_or_too_many_is_refused(task, root):
    check(PROTOCOLS[task](root, N))
    with pytest.raises(UsageError, match=r"^mine: .* has \d of \d .*data doctor mine.*--partial"):
        check(PROTOCOLS[task](root, N + 1))
    with pytest.raises(UsageError, match=r"^mine: .* has \d \w+.*, more than the \d of mine; see"):
        check(PROTOCOLS[task](root, N - 1))
    for n_samples in (N - 1, N + 1):
        check(PROTOCOLS[task](root, n_samples), limit=2)


@pytest.mark.parametrize("task", PROTOCOLS)
def test_an_incomplete_set_is_accepted_if_options_allow_it(task, root):
    unit = "items" if task == "select" else "images"
    protocol = PROTOCOLS[task](root, N + 1)
    check(protocol, allow_partial=True)
    assert found_samples_of(protocol, ALLOWED) == FoundSamples(N, N + 1, unit)
    assert found_samples_of(protocol, RunOptions()) is None
    assert found_samples_of(PROTOCOLS[task](root, N), ALLOWED) is None
    with pytest.raises(UsageError, match=r"more than the [13] of mine; .*`, or measure the first"):
        check(PROTOCOLS[task](root, N - 1), allow_partial=True)


@pytest.mark.parametrize("task", sorted(PROTOCOLS.keys() - {"cls"}))
def test_samples_whose_files_are_missing_are_left_out_if_options_allow_it(task, root):
    (root / "images" / "2.png").unlink()
    protocol = PROTOCOLS[task](root, N)
    with pytest.raises(UsageError):
        check(protocol)
    check(protocol, allow_partial=True)
    unit = "items" if task == "select" else "images"
    assert found_samples_of(protocol, ALLOWED) == FoundSamples(3, 4, unit)


@pytest.mark.parametrize(
    ("task", "unknown_numbers"),
    [
        ("retrieval", {"n_images": None, "n_captions": None}),
        ("select", {"n_items": None, "subset_items": {}}),
    ],
)
def test_missing_files_of_the_users_own_sets_stay_an_error(task, unknown_numbers, root):
    """The complete number of their samples is not known, so a result could not be marked."""
    (root / "images" / "2.png").unlink()
    protocol: Any = PROTOCOLS[task](root, N)
    with pytest.raises(UsageError, match=r"2\.png"):
        check(replace(protocol, **unknown_numbers), allow_partial=True)


def test_label_maps_that_are_missing_are_left_out_as_well(root):
    (root / "masks" / "1.png").unlink()
    protocol = PROTOCOLS["seg"](root, N)
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


def test_a_result_of_a_complete_set_is_not_marked(cityscapes, tiny_archs, monkeypatch):
    three_images = replace(SEGMENTATION["cityscapes"], n_images=3, templates=("a {}",))
    monkeypatch.setitem(SEGMENTATION_BY_PROTOCOL["cosmos"], "cityscapes", three_images)
    options = {"data_root": str(cityscapes), "allow_partial": True, "cache": False}
    model = f"openclip:{tiny_archs['tiny']}/random"
    row = cosmos_eval.evaluate(model, "cityscapes", device="cpu", **options)
    assert "partial" not in row.provenance


def setting_of_partial_result(partial: str | None):
    """Return the setting of a result. All have the same samples, so that only the mark differs."""
    provenance: dict[str, Any] = {"hashes": {"sample_list": "a" * 64}}
    if partial:
        provenance["partial"] = partial
    return setting_of_result(make_row(provenance=provenance))


def test_a_partial_result_is_compared_only_with_an_equally_partial_one():
    setting = setting_of_partial_result("4 of 9 images")
    assert describe_mismatches(setting, setting) == []
    (mismatch,) = describe_mismatches(setting_of_partial_result(None), setting)
    assert str(mismatch) == "partial is missing and 4 of 9 images"
    (mismatch,) = describe_mismatches(setting_of_partial_result("4 of 8 images"), setting)
    assert mismatch.startswith("partial is ")


def test_a_partial_result_is_shown_and_not_ranked():
    partial_result = make_row(provenance={"partial": "4 of 9 images"})
    assert model_label(partial_result).endswith("(partial (4 of 9 images))")
    assert file_stem(partial_result).endswith("__partial-4-of-9-images")
    (entry,) = entries_of_rows([partial_result])
    assert entry.partial
    assert not entries_of_rows([make_row()])[0].partial
