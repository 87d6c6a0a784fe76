"""Detection of images outside the classes: scores by hand, known sets, own sets, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosmos_eval.protocols import find_known
from cosmos_eval.runner.suites import read_suite
from cosmos_eval.tasks import find_protocol
from cosmos_eval.tasks.ood import TASK, splits_of
from cosmos_eval.types import OodProtocol, RunOptions, UsageError

YAML = "kind: ood\ninside: inside\noutside: outside\ntemplates: ['{}']\n"


@pytest.fixture
def colours(tmp_path: Path, save_colour) -> Callable[..., OodProtocol]:
    """Red and blue inside, with a mistake; green outside."""
    save_colour(tmp_path / "inside/red/1.png", "red")
    save_colour(tmp_path / "inside/blue/1.png", "blue")
    save_colour(tmp_path / "inside/blue/2.png", "green")
    save_colour(tmp_path / "outside/images/1.png", "green")

    def make(text: str = YAML) -> OodProtocol:
        (tmp_path / "colours.yaml").write_text(text)
        protocol = find_protocol(str(tmp_path / "colours.yaml"))
        assert isinstance(protocol, OodProtocol)
        return protocol

    return make


def test_solved_by_hand(colours, colour_encoder):
    result = TASK.measure_one(colour_encoder, colours())
    samples = result.samples
    assert samples["name"].tolist() == ["blue/1.png", "blue/2.png", "red/1.png", "images/1.png"]
    assert samples["inside"].tolist() == [True, True, True, False]
    # Cosines with blue and red: 0 and 1, or 0 and 0. Softmax at temperature 1: e / (1 + e), or 1/2.
    right = np.e / (1 + np.e)
    assert samples["mcm"] == pytest.approx([right, 0.5, right, 0.5])
    assert samples["max_logit"] == pytest.approx([1, 0, 1, 0])
    # Two pairs are right, and one is a tie. To accept all inside, the one outside is accepted too.
    for suffix in ("", "_max_logit"):
        assert result.metrics[f"auroc{suffix}"] == pytest.approx(2.5 / 3)
        assert result.metrics[f"fpr95{suffix}"] == 1
    assert set(result.intervals) == set(result.metrics)


def test_a_run_can_be_verified_and_compared(colours, command):
    colours(YAML + "name: mine\n")
    arguments = ["run", "--dataset", "colours.yaml", "--model", "scenes-clip", "--output", "runs"]
    ended = command(*arguments, "--model", "scenes-cosmos")
    assert ended.status == 0
    assert "AUROC" in ended.out
    assert "FPR95" in ended.out
    assert "2 verified" in command("verify", "runs").out
    models = ("--model", "scenes-clip", "--model", "scenes-cosmos")
    document = json.loads(command("compare", "runs", *models, "--json").out)
    assert "auroc" in json.dumps(document)
    ended = command("data", "doctor", "colours.yaml")
    assert ended.status == 0
    assert "4 of 4" in ended.out


def test_images_inside_are_encoded_once_for_all_sets_outside(colours, colour_encoder, monkeypatch):
    protocol = colours()
    other = replace(protocol, dataset="other")
    data = TASK.open_data(protocol, RunOptions())
    encoded = []
    encode_image = colour_encoder.encode_image

    def count(images):
        encoded.append(len(images))
        return encode_image(images)

    monkeypatch.setattr(colour_encoder, "encode_image", count)
    results = list(
        TASK.measure(
            colour_encoder, [protocol, other], [data, data], RunOptions(cache=None), print_nothing
        )
    )
    assert results[0].metrics == results[1].metrics
    assert sum(encoded) == 3 + 1 + 1
    sets = [find_known(f"imagenet-ood/{name}") for name in ("sun", "dtd")]
    keys = {TASK.image_pass(known, RunOptions(), None) for known in sets}
    assert len(keys) == 1


def print_nothing(progress) -> None:
    pass


def test_known_sets_have_the_numbers_of_their_sources():
    suite = read_suite("imagenet-ood")
    counts = {member.dataset: find_known(member.dataset).splits[1].n_images
              for member in suite.members}  # fmt: skip
    assert counts == {
        **dict.fromkeys(
            [f"imagenet-ood/{name}" for name in ("inaturalist", "sun", "places")], 10000
        ),
        "imagenet-ood/dtd": 5640,
    }
    sun = find_known("imagenet-ood/sun")
    assert isinstance(sun, OodProtocol)
    assert TASK.n_samples(sun) == 60000
    assert sun.splits[0].templates == sun.templates == ("a photo of a {}",)


def test_bad_input(colours, tmp_path, save_colour, command):
    with pytest.raises(UsageError, match="`outside`"):
        colours("kind: ood\ninside: inside\n")
    protocol = colours()
    known = find_known("imagenet-ood/sun").splits[1]
    outside = replace(known, root=str(tmp_path), folder="outside", n_images=2)
    splits = (splits_of(protocol)[0], outside)
    with pytest.raises(UsageError, match="has 1 of 2 images"):
        TASK.open_data(replace(protocol, splits=splits), RunOptions())
    for image in (tmp_path / "inside/red").iterdir():
        image.unlink()
    (tmp_path / "inside/red").rmdir()
    ended = command("run", "--dataset", "colours.yaml", "--model", "scenes-clip")
    assert ended.status == 2
    assert "has one class, blue: a choice needs two or more" in ended.err.replace("\n", " ")
