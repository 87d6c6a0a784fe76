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
    """100 scenes, for classification and for retrieval."""
    return write_scenes(tmp_path_factory.mktemp("sets") / "scenes", 100, "named", "found")


@pytest.fixture(scope="module")
def bgr(sets: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of scenes-cosmos with the tensors' channels reversed."""
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


def diagnosed(command: Run, *arguments: object) -> dict[str, Any]:
    ended = command("diagnose", *arguments, "--json")
    assert ended.status == 0, ended.err
    return json.loads(ended.out)


def test_a_fault_is_named_by_its_number(command: Run, sets: list[str], bgr: Path) -> None:
    value = json.loads(bgr.read_text())["metrics"]["acc1"]
    found = diagnosed(
        command, "scenes-cosmos", sets[0], "--known", f"{100 * value:.1f}", "--samples", 100
    )
    assert found["verdict"] == "fault"
    names = [explanation["faults"] for explanation in found["explanations"][: found["n_tied"]]]
    assert ["BGR"] in names
    (of_bgr,) = (one for one in found["explanations"] if one["faults"] == ["BGR"])
    assert of_bgr["low"] <= value <= of_bgr["high"]
    assert of_bgr["fits"]
    right = cosmos_eval.evaluate("scenes-cosmos", sets[0]).metrics["acc1"]
    assert found["measured"]["value"] == right
    total = sum(one["probability"] for one in found["explanations"]) + found["something_else"]
    assert total == pytest.approx(1)
    # Every fault is in one of three places.
    assert "squash" in found["without_effect"]
    assert found["not_applicable"]["bicubic"] == "the model is evaluated so"
    assert found["not_applicable"]["first caption only"] == "the data set has no captions"


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
    found = diagnosed(
        command, "scenes-cosmos", sets[0], "--known", f"{100 * value:.0f}", "--samples", 50
    )
    assert (found["verdict"], found["explanations"], found["n_image_passes"]) == ("agrees", [], 0)


def test_a_result_that_agrees_runs_no_fault(command: Run, sets: list[str], tmp_path: Path) -> None:
    """Hits in the whole gallery are compared, not those that are foreseen from few images."""
    cosmos_eval.evaluate("scenes-clip-long", sets[1], output=tmp_path)
    (path,) = tmp_path.glob("*.json")
    found = diagnosed(command, "scenes-clip-long", sets[1], "--known", path, "--samples", 30)
    assert (found["verdict"], found["n_image_passes"]) == ("agrees", 0)


def test_retrieval_has_the_number_of_a_run(command: Run, sets: list[str]) -> None:
    metrics = cosmos_eval.evaluate("scenes-cosmos", sets[1]).metrics
    known = f"{100 * metrics['image_to_text_R@1']:.2f}"
    found = diagnosed(command, "scenes-cosmos", sets[1], "--known", known, "--samples", 40)
    assert (found["verdict"], found["measured"]["value"]) == (
        "agrees",
        metrics["image_to_text_R@1"],
    )

    metric = "text_to_image_R@5"
    options = ("--known", "0.9", "--metric", metric, "--samples", 100)
    found = diagnosed(command, "scenes-cosmos", sets[1], *options)
    assert found["measured"]["value"] == metrics[metric]
    (shifted,) = (one for one in found["explanations"] if one["faults"] == ["labels + 1"])
    assert shifted["value"] < 0.3


def test_random_weights_are_not_diagnosed(
    command: Run, sets: list[str], tiny_archs: dict[str, str]
) -> None:
    described = sets[0]
    model = f"openclip:{tiny_archs['tiny']}/random"
    value = cosmos_eval.evaluate(model, described).metrics["acc1"]
    known = "15.0" if value < 0.12 else "8.0"
    ended = command("diagnose", model, described, "--known", known, "--samples", 40)
    assert ended.status == 0, ended.err
    first, second, *_ = ended.out.splitlines()
    assert first.startswith("cannot tell: acc1 is ")
    assert first.endswith("and guessing gives 10.00")
    assert second == "no fault is visible in a model that guesses: check its weights first"


def test_a_number_that_no_fault_gives(command: Run, sets: list[str]) -> None:
    """scenes-clip knows few objects: no fault makes it right."""
    ended = command("diagnose", "scenes-clip", sets[0], "--known", "99.0", "--samples", 40)
    assert ended.status == 0, ended.err
    first = ended.out.splitlines()[0]
    assert first.startswith("none of the catalogue explains it: acc1 is ")
    assert first.endswith(" here, 99.0 is known")


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
    (described,) = write_scenes(tmp_path / "few", 20, "named")
    ended = command("diagnose", "scenes-clip", described, "--known", bgr)
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
