"""Protocols that see images alike are measured in one pass, and processes share a pass."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.segmenting import measure
from support.sets import LAYOUTS, write_images, write_masks
from support.sharing import together

from cosmos_eval import models as encoders
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.runner.run import run_all
from cosmos_eval.tasks.segmentation import TASK
from cosmos_eval.types import RunOptions, no_progress

PARITY = Path(__file__).parents[2] / "parity"
SIZES = {f"{i}": (20 + 7 * i, 60 - 5 * i) for i in range(7)}
YAML = """kind: seg
images: images
masks: masks
image_suffix: .png
templates: ["a {}", "{}"]
window: 32
stride: 16
"""
FOUR = "classes: [background, {name: cat, queries: [cat, kitten]}, dog, grass]\nprob_thd: 0.3\n"
THREE = "classes: [cat, dog, grass]\nreduce_zero_label: true\n"


@pytest.fixture
def options(tmp_path, write_set) -> RunOptions:
    write_set(tmp_path / "data", SIZES)
    return RunOptions(data_root=str(tmp_path / "data"), batch_size=8)


def assert_same_counts(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_together_gives_what_apart_gives_and_encodes_half(encoder, protocol, options, encoded):
    background = replace(protocol, dataset="background", prob_thd=0.3, scale=65.0, area_thd=0.2)
    things = replace(
        protocol,
        dataset="things",
        class_names=protocol.class_names[1:],
        queries=protocol.queries[1:],
        reduce_zero_label=True,
        groups={},
    )
    apart = [measure(encoder, one, options) for one in (background, things)]
    half = len(encoded) // 2
    assert encoded[:half] == encoded[half:]
    batches = list(encoded)
    encoded.clear()
    together = [background, things]
    data = [TASK.open_data(measured, options) for measured in together]
    shared = list(TASK.measure(encoder, together, data, options, no_progress))
    assert encoded == batches[:half]
    for one, other in zip(apart, shared, strict=True):
        assert_same_counts(one.samples, other.samples)
        assert (one.metrics, one.intervals) == (other.metrics, other.intervals)
        assert one.hashes == other.hashes
    assert apart[0].metrics["mIoU"] != apart[1].metrics["mIoU"]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("voc20", "voc21", True),
        ("context59", "context60", True),
        ("coco_object", "coco_stuff", False),
    ],
)
def test_which_published_sets_share_a_pass(one, other, alike, tmp_path):
    protocols = [SEGMENTATION[name] for name in (one, other)]
    for layout in LAYOUTS.values():
        write_images(tmp_path, layout)
        write_masks(tmp_path, layout)
    options = RunOptions(data_root=str(tmp_path), allow_partial=True)
    keys = [TASK.image_pass(one, options, TASK.open_data(one, options)) for one in protocols]
    assert (keys[0] == keys[1]) == alike


def test_a_run_makes_one_pass_for_data_sets_seen_alike(
    encoder, options, encoded, monkeypatch, tmp_path
):
    monkeypatch.setattr(encoders, "load_encoder", lambda spec, **_: encoder)
    for name, rest in {
        "four": "short_side: 48\n" + FOUR,
        "large": "short_side: 64\n" + FOUR,
        "three": "short_side: 48\n" + THREE,
    }.items():
        (tmp_path / f"data/{name}.yaml").write_text(YAML + rest)

    def samples_of(*names):
        datasets = [str(tmp_path / f"data/{name}.yaml") for name in names]
        own = replace(options, data_root=None, save_predictions=str(tmp_path / "-".join(names)))
        plan = make_plan(datasets=datasets, models=["scenes-clip"], options=own)
        done = list(run_all(plan))
        return {finished.row.dataset: finished.samples for finished in done}, sum(encoded)

    apart, windows = {}, {}
    for name in ("four", "large", "three"):
        encoded.clear()
        found, windows[name] = samples_of(name)
        apart |= found
    encoded.clear()
    shared, total = samples_of("four", "large", "three")
    assert list(shared) == ["four", "three", "large"]  # a pass's results follow each other
    assert windows["four"] == windows["three"]
    assert total == windows["four"] + windows["large"]
    for name in apart:
        assert_same_counts(apart[name], shared[name])
        pictures = sorted((tmp_path / name).rglob("*.png"))
        assert len(pictures) == len(SIZES)
        for path in pictures:
            twin = tmp_path / "four-large-three" / path.relative_to(tmp_path / name)
            assert twin.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_processes_give_the_same_counts(size, encoder, protocol, options, monkeypatch):
    monkeypatch.setattr("cosmos_eval.tasks.label_maps.IMAGES_PER_SHARD", 2)
    protocol = replace(protocol, prob_thd=0.3)
    alone = measure(encoder, protocol, options)
    shared = together(
        size,
        lambda distributed: measure(encoder, protocol, replace(options, distributed=distributed)),
    )
    assert len(shared) == size
    for measurement in shared:
        assert_same_counts(measurement.samples, alone.samples)
        assert measurement.metrics == alone.metrics
