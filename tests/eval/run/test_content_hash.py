"""The hash of what was measured: of every task, and the same however a set is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.class_sets import write_class_set
from support.encoders import load
from support.one_set import (
    PHOTOS,
    change_image,
    protocol_of,
    write_label_map,
    write_photo,
    write_set,
)
from support.sharing import together

from cosmos_eval.models.encoder import Encoder
from cosmos_eval.protocols import find_known
from cosmos_eval.tasks import TASKS, task_for
from cosmos_eval.types import OnProgress, Protocol, RunOptions, no_progress

MODEL = f"python:{Path(__file__).parents[3] / 'examples/own_model.py'}"
WITH_LABEL_MAPS = ("seg", "loc", "seg-probe")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load(MODEL)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_set(tmp_path / "data")
    return tmp_path / "data"


def hashes_of(
    encoder: Encoder,
    protocol: Protocol,
    options: RunOptions,
    progress: OnProgress = no_progress,
) -> Mapping[str, str]:
    """Return the hashes of a measurement."""
    task = task_for(protocol)
    return task.measure_one(encoder, protocol, options, progress).hashes


def options_for(root: Path, **options: Any) -> RunOptions:
    return RunOptions(data_root=str(root), workers=0, **options)


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def sha256_of_all(sha256s: Sequence[bytes], labels: Sequence[Any] | None = None) -> str:
    """Return the hash as the documentation describes it."""
    text = b"" if labels is None else json.dumps(labels).encode()
    return hashlib.sha256(b"".join(sha256s) + text).hexdigest()


@pytest.mark.parametrize("task", TASKS)
def test_a_replaced_image_changes_only_the_content_hash(task, encoder, root):
    protocol, options = protocol_of(task, root), options_for(root)
    before = hashes_of(encoder, protocol, options)
    assert before["content"] == hashes_of(encoder, protocol, options)["content"]
    change_image(task, root)
    after = hashes_of(encoder, protocol, options)
    assert {name for name in before if before[name] != after[name]} == {"content"}


@pytest.mark.parametrize("task", ["probe", "seg-probe", "depth-probe"])
def test_training_images_of_a_probe_change_the_content_hash(task, encoder, root):
    protocol, options = protocol_of(task, root), options_for(root)
    before = hashes_of(encoder, protocol, options)
    write_photo(root / "train/green/0.png", (1, 2, 3))
    after = hashes_of(encoder, protocol, options)
    assert {name for name in before if before[name] != after[name]} == {"content"}


@pytest.mark.parametrize("task", WITH_LABEL_MAPS)
def test_another_label_map_changes_the_content_hash(task, encoder, root):
    protocol, options = protocol_of(task, root), options_for(root)
    before = hashes_of(encoder, protocol, options)
    write_label_map(root / "masks/green/0.png", split_at=20)
    after = hashes_of(encoder, protocol, options)
    assert {name for name in before if before[name] != after[name]} == {"content"}


def hashes_of_files(folder):
    return [sha256((folder / f"{photo}.png").read_bytes()) for photo in PHOTOS]


def hashes_of_pairs(image_hashes, map_hashes):
    return [sha256(image + map_) for image, map_ in zip(image_hashes, map_hashes, strict=True)]


def test_the_content_hash_is_that_of_files_in_the_order_of_the_list(encoder, root):
    images, training = hashes_of_files(root / "photos"), hashes_of_files(root / "train")
    masks, depth = hashes_of_files(root / "masks"), hashes_of_files(root / "depth")
    images_and_masks = hashes_of_pairs(images, masks)
    labels = [0, 0, 1, 1, 2, 2]
    expected = {
        "retrieval": sha256_of_all(images),
        "select": sha256_of_all(images),
        "assoc": sha256_of_all(images),
        "ratings": sha256_of_all(images),
        "cls": sha256_of_all(images, labels),
        "multilabel": sha256_of_all(images, [[label == n for n in range(3)] for label in labels]),
        "seg": sha256_of_all(images_and_masks),
        "loc": sha256_of_all(images_and_masks),
        "ood": sha256_of_all(images + training, [True] * 6 + [False] * 6),
        "probe": sha256_of_all(training + images, labels + labels),
        "seg-probe": sha256_of_all([*hashes_of_pairs(training, masks), *images_and_masks]),
        "depth-probe": sha256_of_all(
            [*hashes_of_pairs(training, depth), *hashes_of_pairs(images, depth)]
        ),
    }
    options = options_for(root)
    content_hashes = {
        task: hashes_of(encoder, protocol_of(task, root), options)["content"] for task in expected
    }
    assert content_hashes == expected


@pytest.mark.parametrize("task", TASKS)
def test_the_content_hash_is_the_same_for_any_number_of_processes(task, encoder, root, monkeypatch):
    monkeypatch.setattr("cosmos_eval.tasks.label_maps.IMAGES_PER_SHARD", 1)
    protocol = protocol_of(task, root)

    def hashes_as_one_of_several(distributed):
        return hashes_of(encoder, protocol, options_for(root, distributed=distributed))

    expected = hashes_of(encoder, protocol, options_for(root))
    assert "content" in expected
    assert together(4, hashes_as_one_of_several) == [expected] * 4


@pytest.mark.parametrize("task", TASKS)
def test_the_content_hash_is_the_same_with_and_without_the_cache(task, encoder, root, tmp_path):
    protocol, cached = protocol_of(task, root), options_for(root, cache=str(tmp_path / "cache"))
    without = hashes_of(encoder, protocol, options_for(root))
    assert "content" in without
    assert hashes_of(encoder, protocol, cached) == without
    assert hashes_of(encoder, protocol, cached) == without  # nothing is encoded again


@pytest.mark.parametrize("task", WITH_LABEL_MAPS)
def test_a_resumed_run_has_the_content_hash_of_all_images(
    task, encoder, root, tmp_path, monkeypatch
):
    monkeypatch.setattr("cosmos_eval.tasks.label_maps.IMAGES_PER_SHARD", 2)
    protocol, options = protocol_of(task, root), options_for(root, unfinished=str(tmp_path / "u"))
    expected = hashes_of(encoder, protocol, options_for(root))

    def interrupt_at_the_fifth_image(step):
        if (step.phase, step.done) == ("images", 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hashes_of(encoder, protocol, options, interrupt_at_the_fifth_image)
    steps = []
    resumed = hashes_of(encoder, protocol, options, steps.append)
    notes = [step.note for step in steps]
    assert "resumed: 4 of 6 images were measured already" in notes
    assert "content" in expected
    assert resumed == expected


def test_a_part_of_a_set_has_another_content_hash(encoder, root):
    first = sha256((root / "photos/blue/0.png").read_bytes())
    limited = hashes_of(encoder, protocol_of("retrieval", root), options_for(root, limit=1))
    assert limited["content"] == sha256_of_all([first])


def test_pixels_that_a_set_holds_in_one_file(encoder, tmp_path, monkeypatch):
    write_class_set("cifar10", tmp_path, monkeypatch)
    protocol = replace(find_known("cifar10"), n_images=None, n_classes=None)
    options = options_for(tmp_path)
    data = task_for(protocol).open_data(protocol, options)
    images = [
        sha256(np.array(image.pixels.shape[:2], "<i8").tobytes() + image.pixels.tobytes())
        for image in data.images
    ]
    content = hashes_of(encoder, protocol, options)["content"]
    assert content == sha256_of_all(images, data.labels.tolist())
