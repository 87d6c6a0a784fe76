"""ImageNet-C: folders of severities, corruption errors relative to AlexNet's, and mCE."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.results import figures_of, metrics_of

from cosmos_eval.data.classification import open_data
from cosmos_eval.protocols import find_known, protocols_of_dataset
from cosmos_eval.protocols.shifts import IMAGENET_C
from cosmos_eval.runner.suites import read_suite
from cosmos_eval.tasks import classification, find_protocol
from cosmos_eval.types import ClassificationProtocol, RunOptions, UsageError

# Top-1 errors of AlexNet in %, as in table 1 of the paper (arXiv 1903.12261).
PAPER = {
    **{"gaussian_noise": 88.6, "shot_noise": 89.4, "impulse_noise": 92.3, "defocus_blur": 82.0},
    **{"glass_blur": 82.6, "motion_blur": 78.6, "zoom_blur": 79.8, "snow": 86.7, "frost": 82.7},
    **{"fog": 81.9, "brightness": 56.5, "contrast": 85.3, "elastic_transform": 64.6},
    **{"pixelate": 71.8, "jpeg_compression": 60.7},
}
# The colour of each image; its class is its folder.
COLOUR_OF = {"red/1.png": "red", "red/2.png": "blue", "blue/1.png": "blue"}


@pytest.fixture
def fog(tmp_path: Path, save_colour) -> ClassificationProtocol:
    """The published protocol for a few images of two classes; severity 5 shows everything red."""
    for severity in range(1, 6):
        for name, colour in COLOUR_OF.items():
            path = tmp_path / "imagenet-c/weather/fog" / str(severity) / name
            save_colour(path, "red" if severity == 5 else colour)
    protocol = find_known("imagenet-c/fog")
    assert isinstance(protocol, ClassificationProtocol)
    return replace(
        protocol, root=str(tmp_path), class_list=None, templates=("{}",), n_classes=2, n_images=15
    )


def test_severities_are_read_and_measured_by_hand(fog, colour_encoder):
    data = open_data(fog, RunOptions())
    names = sorted(COLOUR_OF)
    assert data.names == tuple(f"{severity}/{name}" for severity in range(1, 6) for name in names)
    assert data.origins.tolist() == [0, 1, 2] * 5
    result = classification.TASK.measure_one(colour_encoder, fog, RunOptions())
    # Severities 1 to 4: two of three are right. Severity 5: both red ones are.
    assert result.metrics["acc1"] == pytest.approx(10 / 15)
    assert result.metrics["acc1_severity 5"] == pytest.approx(2 / 3)
    assert result.metrics["CE"] == pytest.approx((5 / 15) / 0.819324)
    # Versions of an image are one sample: three clusters, and no interval of independent ones.
    assert result.intervals["acc1"].method == "wilson, effective n"
    assert result.intervals["CE"].method == "cluster bootstrap"
    assert "worst_group_acc1" not in result.metrics
    assert "ece" not in result.metrics


def test_a_limit_keeps_all_severities_of_an_image(fog, colour_encoder):
    """As for images that are corrupted on the fly, so that CE is of all severities."""
    few = open_data(fog, RunOptions(limit=2))
    expected = [f"{s}/{name}" for s in range(1, 6) for name in ("blue/1.png", "red/1.png")]
    assert few.names == tuple(expected)
    assert few.origins.tolist() == [0, 1] * 5
    assert few.group_of_image.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    result = classification.TASK.measure_one(colour_encoder, fog, RunOptions(limit=2))
    assert "at most 2 images with five severities were measured" in result.notes


def test_images_are_altered_once(fog):
    for change in ({"typographic": True}, {"corruption": "fog"}):
        with pytest.raises(UsageError, match="give only one of `layout: severities`, `"):
            open_data(replace(fog, **change), RunOptions())
    with pytest.raises(UsageError, match="unknown data set 'imagenet-c/fog-typographic'"):
        find_known("imagenet-c/fog-typographic")


def test_ce_is_the_error_over_severities_by_alexnets():
    """A plain loop over severities, as ImageNet-C/test.py averages; CE may exceed 1."""
    rng = np.random.default_rng(1)
    labels = np.tile(rng.integers(0, 4, 30), 5)
    predicted = rng.integers(0, 4, 150)
    samples = {
        "labels": labels,
        "top5": predicted[:, None],
        "classes": np.array(list("abcd")),
        "group": np.repeat(np.arange(5), 30),
        "groups": np.array([f"severity {number}" for number in range(1, 6)]),
        "origin": np.tile(np.arange(30), 5),
        "alexnet_error": np.array([0.5646]),
    }
    errors = [np.mean(predicted[30 * s : 30 * s + 30] != labels[:30]) for s in range(5)]
    expected = np.mean(errors) / 0.5646
    assert expected > 1
    assert metrics_of("cls", samples)["CE"] == pytest.approx(expected)
    interval = figures_of("cls", samples)["intervals"]["CE"]
    assert interval["low"] < expected < interval["high"]
    del samples["origin"]
    with pytest.raises(ValueError, match="`alexnet_error` is stored without `origin`"):
        classification.TASK.require_consistent(samples)


def test_alexnets_errors_and_the_suites():
    assert {name: round(100 * protocol.alexnet_error, 1) for name, protocol in (
        (key.removeprefix("imagenet-c/"), value) for key, value in IMAGENET_C["imagenet-c"].items()
    )} == PAPER  # fmt: skip
    for name in ("imagenet-c", "imagenet-c-on-the-fly"):
        suite = read_suite(name)
        assert [member.dataset for member in suite.members] == list(IMAGENET_C[name])
        assert {(member.protocol, member.metrics) for member in suite.members} == {(name, ("CE",))}
    protocols = protocols_of_dataset("imagenet-c/fog")
    assert list(protocols) == ["imagenet-c", "imagenet-c-on-the-fly"]
    assert protocols["imagenet-c"].n_images == 250_000
    on_the_fly = protocols["imagenet-c-on-the-fly"]
    assert (on_the_fly.corruption, on_the_fly.n_images) == ("fog", 50_000)
    assert "not comparable with the published JPEGs" in on_the_fly.remark
    assert classification.TASK.n_samples(on_the_fly) == 250_000


def test_faults_of_folders_are_one_line(fog, tmp_path):
    folder = tmp_path / "imagenet-c/weather/fog"
    (folder / "4/red/2.png").rename(folder / "4/red/3.png")
    with pytest.raises(UsageError, match=r"fog/4 lacks 1 images of severity 1, .*: red/2\.png$"):
        open_data(fog, RunOptions())
    shutil.copy(folder / "4/red/3.png", folder / "4/red/2.png")
    with pytest.raises(UsageError, match=r"fog/4 has 1 images that severity 1 lacks, .*3\.png$"):
        open_data(fog, RunOptions())
    (folder / "4/red/3.png").unlink()
    with pytest.raises(UsageError, match="has 15 images, more than the 14"):
        open_data(replace(fog, n_images=14), RunOptions())
    with pytest.raises(UsageError, match="five versions of every image: leave --until out"):
        classification.TASK.in_order(None, fog, None, RunOptions(), None)
    shutil.rmtree(folder / "3")
    with pytest.raises(UsageError, match="has no folder 3: severities are 1 to 5"):
        open_data(fog, RunOptions())


def test_images_are_corrupted_on_the_fly(tmp_path, save_colour, colour_encoder):
    pytest.importorskip("imagecorruptions")
    for name, colour in COLOUR_OF.items():
        save_colour(tmp_path / "images" / name, colour)
    path = tmp_path / "own.yaml"
    path.write_text("kind: cls\nfolder: images\ntemplates: ['{}']\ncorruption: brightness\n")
    protocol = find_protocol(str(path))
    results = [
        classification.TASK.measure_one(colour_encoder, protocol, RunOptions()) for _ in range(2)
    ]
    assert results[0].hashes == results[1].hashes
    assert len(results[0].samples["labels"]) == 15
    assert results[0].metrics["acc1"] == pytest.approx(2 / 3)  # brighter colours are the same
    assert "CE" not in results[0].metrics  # AlexNet's error is known on ImageNet only
