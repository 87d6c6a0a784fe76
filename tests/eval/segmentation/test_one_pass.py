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


def assert_same_counts(samples, expected_samples):
    assert samples.keys() == expected_samples.keys()
    for name in samples:
        np.testing.assert_array_equal(samples[name], expected_samples[name])


def test_a_shared_pass_gives_the_same_results_and_encodes_half(encoder, protocol, options, encoded):
    with_background = replace(
        protocol, dataset="background", prob_thd=0.3, scale=65.0, area_thd=0.2
    )
    without_background = replace(
        protocol,
        dataset="things",
        class_names=protocol.class_names[1:],
        queries=protocol.queries[1:],
        reduce_zero_label=True,
        groups={},
    )
    protocols = [with_background, without_background]
    of_single_passes = [measure(encoder, protocol, options) for protocol in protocols]
    half = len(encoded) // 2
    assert encoded[:half] == encoded[half:]
    batches = list(encoded)
    encoded.clear()
    data = [TASK.open_data(protocol, options) for protocol in protocols]
    of_shared_pass = list(TASK.measure(encoder, protocols, data, options, no_progress))
    assert encoded == batches[:half]
    for expected, measurement in zip(of_single_passes, of_shared_pass, strict=True):
        assert_same_counts(measurement.samples, expected.samples)
        assert measurement.metrics == expected.metrics
        assert measurement.intervals == expected.intervals
        assert measurement.hashes == expected.hashes
    assert of_single_passes[0].metrics["mIoU"] != of_single_passes[1].metrics["mIoU"]


@pytest.mark.parametrize(
    ("first", "second", "share_a_pass"),
    [
        ("voc20", "voc21", True),
        ("context59", "context60", True),
        ("coco_object", "coco_stuff", False),
    ],
)
def test_which_published_sets_share_a_pass(first, second, share_a_pass, tmp_path):
    protocols = [SEGMENTATION[name] for name in (first, second)]
    for layout in LAYOUTS.values():
        write_images(tmp_path, layout)
        write_masks(tmp_path, layout)
    options = RunOptions(data_root=str(tmp_path), allow_partial=True)
    first_key, second_key = (
        TASK.image_pass(protocol, options, TASK.open_data(protocol, options))
        for protocol in protocols
    )
    assert (first_key == second_key) == share_a_pass


def test_a_run_makes_one_pass_for_data_sets_seen_alike(
    encoder, options, encoded, monkeypatch, tmp_path
):
    def load_tiny_encoder(spec, **load_options):
        return encoder

    monkeypatch.setattr(encoders, "load_encoder", load_tiny_encoder)
    yaml_of_dataset = {
        "four": YAML + "short_side: 48\n" + FOUR,
        "large": YAML + "short_side: 64\n" + FOUR,
        "three": YAML + "short_side: 48\n" + THREE,
    }
    for name, content in yaml_of_dataset.items():
        (tmp_path / f"data/{name}.yaml").write_text(content)

    def run(*names):
        """Return the samples of each data set of one run, and the number of encoded windows."""
        encoded.clear()
        datasets = [str(tmp_path / f"data/{name}.yaml") for name in names]
        predictions = str(tmp_path / "-".join(names))
        run_options = replace(options, data_root=None, save_predictions=predictions)
        plan = make_plan(datasets=datasets, models=["scenes-clip"], options=run_options)
        samples = {finished.row.dataset: finished.samples for finished in run_all(plan)}
        return samples, sum(encoded)

    expected_samples, n_windows = {}, {}
    for name in ("four", "large", "three"):
        samples, n_windows[name] = run(name)
        expected_samples |= samples
    samples_of_shared_run, n_windows_of_shared_run = run("four", "large", "three")
    # Results of one pass follow each other.
    assert list(samples_of_shared_run) == ["four", "three", "large"]
    assert n_windows["four"] == n_windows["three"]
    assert n_windows_of_shared_run == n_windows["four"] + n_windows["large"]
    for name in expected_samples:
        assert_same_counts(samples_of_shared_run[name], expected_samples[name])
        label_maps = sorted((tmp_path / name).rglob("*.png"))
        assert len(label_maps) == len(SIZES)
        for path in label_maps:
            same_map = tmp_path / "four-large-three" / path.relative_to(tmp_path / name)
            assert same_map.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_processes_give_the_same_counts(size, encoder, protocol, options, monkeypatch):
    monkeypatch.setattr("cosmos_eval.tasks.label_maps.IMAGES_PER_SHARD", 2)
    protocol = replace(protocol, prob_thd=0.3)

    def measure_as_one_of_several(distributed):
        return measure(encoder, protocol, replace(options, distributed=distributed))

    expected = measure(encoder, protocol, options)
    measurements = together(size, measure_as_one_of_several)
    assert len(measurements) == size
    for measurement in measurements:
        assert_same_counts(measurement.samples, expected.samples)
        assert measurement.metrics == expected.metrics
