"""`cosmos-eval diagnose` on bundled models, with mistakes made here and not by the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.encoders import load
from support.scene_files import write_scenes

import cosmos_eval
from cosmos_eval.runner.diagnosis.known import parse_known
from cosmos_eval.types import UsageError

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Describe 100 scenes, as a set for classification and as one for retrieval."""
    return write_scenes(tmp_path_factory.mktemp("sets") / "scenes", 100, "named", "found")


@pytest.fixture(scope="module")
def bgr(sets: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store the result of scenes-cosmos with the colour channels of images reversed."""
    encoder = load("scenes-cosmos").built
    right_transform = encoder.transform
    mean = torch.tensor(encoder.image_mean)[:, None, None]
    std = torch.tensor(encoder.image_std)[:, None, None]

    def transform(image: Image.Image) -> torch.Tensor:
        colours = right_transform(image) * std + mean
        return (colours.flip(0) - mean) / std

    encoder.transform = transform
    folder = tmp_path_factory.mktemp("bgr")
    cosmos_eval.evaluate(encoder, sets[0], name="bgr", output=folder)
    (path,) = folder.glob("*.json")
    return path


def diagnose(command: Run, *arguments: object) -> dict[str, Any]:
    """Return the report of a diagnosis, read from JSON."""
    ended = command("diagnose", *arguments, "--json")
    assert ended.status == 0, ended.err
    return json.loads(ended.out)


def test_a_fault_is_named_by_its_number(command: Run, sets: list[str], bgr: Path) -> None:
    value = json.loads(bgr.read_text())["metrics"]["acc1"]
    known_value = f"{100 * value:.1f}"
    report = diagnose(command, "scenes-cosmos", sets[0], "--known", known_value, "--samples", 100)
    assert report["verdict"] == "fault"
    explanations = report["explanations"]
    most_likely = [explanation["faults"] for explanation in explanations[: report["n_tied"]]]
    assert ["BGR"] in most_likely
    (bgr_only,) = (e for e in explanations if e["faults"] == ["BGR"])
    assert bgr_only["low"] <= value <= bgr_only["high"]
    assert bgr_only["fits"]
    right_value = cosmos_eval.evaluate("scenes-cosmos", sets[0]).metrics["acc1"]
    assert report["measured"]["value"] == right_value
    total = sum(explanation["probability"] for explanation in explanations)
    assert total + report["something_else"] == pytest.approx(1)
    # Every fault is an explanation, without effect or not applicable.
    assert "squash" in report["without_effect"]
    assert report["not_applicable"]["bicubic"] == "the model is evaluated so"
    assert report["not_applicable"]["first caption only"] == "the data set has no captions"


def test_a_fault_is_named_by_its_samples(command: Run, sets: list[str], bgr: Path) -> None:
    ended = command("diagnose", "scenes-cosmos", sets[0], "--known", bgr, "--samples", 60)
    assert ended.status == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].startswith("most likely BGR (")
    assert lines[1] == "BGR: channels are in the order blue, green, red"
    assert lines[2] == "- to check: convert what cv2.imread returns by cv2.COLOR_BGR2RGB"
    assert lines[3] == "if this result is right, look for it where the known number comes from;"
    assert "60 of 100 images, " in ended.err
    assert max(map(len, lines)) <= 80


def test_a_number_that_agrees_runs_no_fault(command: Run, sets: list[str]) -> None:
    value = cosmos_eval.evaluate("scenes-cosmos", sets[0]).metrics["acc1"]
    known_value = f"{100 * value:.0f}"
    report = diagnose(command, "scenes-cosmos", sets[0], "--known", known_value, "--samples", 50)
    assert (report["verdict"], report["explanations"]) == ("agrees", [])
    assert report["n_image_passes"] == 0


def test_a_result_that_agrees_runs_no_fault(command: Run, sets: list[str], tmp_path: Path) -> None:
    """Hits in the whole gallery are compared, not those that are predicted from few images."""
    cosmos_eval.evaluate("scenes-clip-long", sets[1], output=tmp_path)
    (path,) = tmp_path.glob("*.json")
    report = diagnose(command, "scenes-clip-long", sets[1], "--known", path, "--samples", 30)
    assert (report["verdict"], report["n_image_passes"]) == ("agrees", 0)


def test_the_measured_recall_is_that_of_a_run(command: Run, sets: list[str]) -> None:
    metrics = cosmos_eval.evaluate("scenes-cosmos", sets[1]).metrics
    known_value = f"{100 * metrics['image_to_text_R@1']:.2f}"
    report = diagnose(command, "scenes-cosmos", sets[1], "--known", known_value, "--samples", 40)
    assert report["verdict"] == "agrees"
    assert report["measured"]["value"] == metrics["image_to_text_R@1"]

    metric = "text_to_image_R@5"
    options = ("--known", "0.9", "--metric", metric, "--samples", 100)
    report = diagnose(command, "scenes-cosmos", sets[1], *options)
    assert report["measured"]["value"] == metrics[metric]
    (shifted_labels,) = (e for e in report["explanations"] if e["faults"] == ["labels + 1"])
    assert shifted_labels["value"] < 0.3


def test_random_weights_are_not_diagnosed(
    command: Run, sets: list[str], tiny_archs: dict[str, str]
) -> None:
    model = f"openclip:{tiny_archs['tiny']}/random"
    value = cosmos_eval.evaluate(model, sets[0]).metrics["acc1"]
    known_value = "15.0" if value < 0.12 else "8.0"
    ended = command("diagnose", model, sets[0], "--known", known_value, "--samples", 40)
    assert ended.status == 0, ended.err
    verdict, advice, *_ = ended.out.splitlines()
    assert verdict.startswith("cannot tell: acc1 is ")
    assert verdict.endswith("and guessing gives 10.00")
    assert advice == "no fault is visible in a model that guesses: check its weights first"


def test_a_number_that_no_fault_gives(command: Run, sets: list[str]) -> None:
    """scenes-clip knows few objects: no fault makes it right."""
    ended = command("diagnose", "scenes-clip", sets[0], "--known", "99.0", "--samples", 40)
    assert ended.status == 0, ended.err
    verdict = ended.out.splitlines()[0]
    assert verdict.startswith("none of the catalogue explains it: acc1 is ")
    assert verdict.endswith(" here, 99.0 is known")


@pytest.mark.parametrize(
    ("text", "value", "half_width"),
    [("74.0", 0.74, 0.0005), ("74", 0.74, 0.005), ("74.05%", 0.7405, 0.00005), ("100", 1, 0.005)],
)
def test_known_numbers_keep_their_digits(text: str, value: float, half_width: float) -> None:
    assert parse_known(text)[:2] == pytest.approx((value, half_width))


@pytest.mark.parametrize("text", ["", "abc", "-1", "101", "nan", "1e1", "7,4", "٧"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="neither a number in percent"):
        parse_known(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scenes-seg", "--known", "50"), "task seg cannot be diagnosed"),
        (("scenes-cls", "--known", "50", "--metric", "ece"), "--metric 'ece' cannot be diagnosed"),
        (("scenes-cls", "--known", "half"), "--known 'half' is neither a number in percent"),
        (("scenes-cls", "--known", "missing.json"), "missing.json"),
    ],
)
def test_wrong_usage_is_one_line(command: Run, arguments: tuple[str, ...], message: str) -> None:
    ended = command("diagnose", "scenes-clip", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_results_of_other_images_are_refused(
    command: Run, sets: list[str], bgr: Path, tmp_path: Path
) -> None:
    (smaller_set,) = write_scenes(tmp_path / "few", 20, "named")
    ended = command("diagnose", "scenes-clip", smaller_set, "--known", bgr)
    assert ended.status == 2
    assert "is about other images than the data set" in ended.err
    other_task = command("diagnose", "scenes-clip", sets[1], "--known", bgr)
    assert "is of task cls" in other_task.err


def test_edited_results_are_refused(
    command: Run, sets: list[str], bgr: Path, tmp_path: Path
) -> None:
    for path in bgr.parent.glob(f"{bgr.stem}*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    record = json.loads(bgr.read_text())
    record["metrics"]["acc1"] += 0.1
    (tmp_path / bgr.name).write_text(json.dumps(record))
    ended = command("diagnose", "scenes-cosmos", sets[0], "--known", tmp_path / bgr.name)
    assert ended.status == 2
    assert "verify" in ended.err
