"""Retrieval on a COCO-captions file: a case solved by hand, and bad data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosmos_eval.data.retrieval import (
    RetrievalData,
    count_shared_captions,
    describe_shared_captions,
)
from cosmos_eval.tasks import retrieval
from cosmos_eval.types import RetrievalProtocol, RunOptions, UsageError

PROTOCOL = RetrievalProtocol(
    dataset="colours", protocol_name="test", images="images", annotations="captions.json"
)

IMAGES = {20: "red", 3: "green", 11: "blue"}
# One caption is wrong, one names two colours and ties, one image has a single caption.
CAPTIONS = [
    (11, "the blue one"),
    (20, "red"),
    (20, "green, by mistake"),
    (3, "green or blue"),
    (3, "green"),
]


def write(root: Path, content: Any) -> None:
    (root / "captions.json").write_text(json.dumps(content))


def annotations() -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{colour}.png"} for i, colour in IMAGES.items()],
        "annotations": [
            {"id": n, "image_id": i, "caption": text} for n, (i, text) in enumerate(CAPTIONS)
        ],
    }


@pytest.fixture
def root(tmp_path: Path, save_colour: Callable[..., Path]) -> Path:
    for colour in IMAGES.values():
        save_colour(tmp_path / "images" / f"{colour}.png", colour)
    write(tmp_path, annotations())
    return tmp_path


def test_retrieval_solved_by_hand(root, colour_encoder, capsys):
    options = RunOptions(data_root=str(root), batch_size=2)
    result = retrieval.TASK.measure_one(colour_encoder, PROTOCOL, options)
    # By id: green (3), blue (11), red (20), each with its captions in the order of the file.
    assert result.samples["image_of_text"].tolist() == [0, 0, 1, 2, 2]
    # "green or blue" ties with the blue image; "green, by mistake" scores 0 with red and blue.
    assert result.samples["text_to_image_rank"].tolist() == [2, 1, 1, 1, 3]
    # The green image's own "green" ties with the mistaken one.
    assert result.samples["image_to_text_rank"].tolist() == [2, 1, 1]
    assert result.metrics["text_to_image_R@1"] == pytest.approx(3 / 5)
    assert result.metrics["image_to_text_R@1"] == pytest.approx(2 / 3)
    assert result.metrics["text_to_image_mean_rank"] == pytest.approx(8 / 5)
    assert result.n_samples == 3
    assert result.notes == (
        "1 of 3 images miss R@1 only because a wrong caption has the features of the right one",
    )
    # In random order, the green image's "green" is the first of two in half of the cases.
    assert result.samples["image_to_text_random_ties"].tolist() == [0.5, 1, 1]
    assert result.metrics["image_to_text_R@1_random_ties"] == pytest.approx(2.5 / 3)
    references = {"captions_cut", "image_to_text_R@1_random_ties", "text_to_image_R@1_random_ties"}
    assert set(result.intervals) == set(result.metrics) - references
    for name, interval in result.intervals.items():
        assert interval.low <= result.metrics[name] <= interval.high
    assert capsys.readouterr() == ("", "")


def test_duplicate_captions_have_a_recall_of_random_ties(root, colour_encoder):
    """The caption "red" of the red image is also one of the blue image, which prefers "the blue
    one"; "green" is as good for its image as the red one's "green, by mistake"."""
    content = annotations()
    content["annotations"].append({"id": 5, "image_id": 11, "caption": "red"})
    write(root, content)
    result = retrieval.TASK.measure_one(colour_encoder, PROTOCOL, RunOptions(data_root=str(root)))
    assert result.samples["image_to_text_rank"].tolist() == [2, 1, 2]
    assert result.samples["image_to_text_random_ties"].tolist() == [0.5, 1, 0.5]
    assert "text_to_image_random_ties" not in result.samples
    assert result.metrics["image_to_text_R@1"] == pytest.approx(1 / 3)
    assert result.metrics["image_to_text_R@1_random_ties"] == pytest.approx(2 / 3)
    assert "image_to_text_R@1_random_ties" not in result.intervals
    assert result.notes == (
        "2 of 6 captions are captions of several images: they tie, which lowers R@1",
        "2 of 3 images miss R@1 only because a wrong caption has the features of the right one",
    )
    assert "text_to_image_R@1_random_ties" not in result.metrics


def test_limit_and_captions_per_image(root, colour_encoder):
    protocol = replace(PROTOCOL, captions_per_image=1)
    result = retrieval.TASK.measure_one(
        colour_encoder, protocol, RunOptions(data_root=str(root), limit=2)
    )
    assert result.samples["image_of_text"].tolist() == [0, 1]
    assert result.notes == ("at most 2 images were measured",)


def test_the_sample_list_is_hashed(root, colour_encoder):
    options = RunOptions(data_root=str(root))
    first = retrieval.TASK.measure_one(colour_encoder, PROTOCOL, options)
    changed = annotations()
    changed["annotations"][0]["caption"] += "."
    write(root, changed)
    second = retrieval.TASK.measure_one(colour_encoder, PROTOCOL, options)
    assert first.hashes.keys() == {"sample_list", "content"}
    assert first.hashes["sample_list"] != second.hashes["sample_list"]
    assert first.hashes["content"] == second.hashes["content"]


def test_cut_captions_are_noted(root, tiny_encoder):
    content = annotations()
    content["annotations"][0]["caption"] = "blue " * 40
    write(root, content)
    result = retrieval.TASK.measure_one(tiny_encoder, PROTOCOL, RunOptions(data_root=str(root)))
    assert result.notes == ("1 of 5 captions did not fit the model's context and were cut",)
    assert result.samples["cut"].tolist() == [False, False, True, False, False]
    assert result.samples["words"].tolist() == [3, 1, 40, 1, 3]
    assert result.metrics["captions_cut"] == pytest.approx(1 / 5)


def test_captions_are_shared_if_another_image_has_them():
    captions = ["a cat", "a dog", "a cat", "a dog", "A cat"]
    assert count_shared_captions(captions, np.array([0, 1, 1, 1, 2])) == 2
    assert count_shared_captions(captions, np.array([0, 1, 0, 1, 2])) == 0


@pytest.mark.parametrize(("n_captions", "is_noted"), [(200, False), (199, True)])
def test_shared_captions_are_noted_if_they_are_over_1_percent(n_captions, is_noted):
    captions = ["the same", "the same", *map(str, range(n_captions - 2))]
    image_of_text = np.arange(n_captions)
    data = RetrievalData(names=(), images=(), captions=captions, image_of_text=image_of_text)
    note = f"2 of {n_captions} captions are captions of several images: they tie, which lowers R@1"
    assert describe_shared_captions(data) == note
    assert describe_shared_captions(data, 0.01) == (note if is_noted else "")


def test_run_and_doctor_say_why_recall_is_low(tmp_path, save_colour, command):
    """Images 0 to 46 are red and have one caption, which cannot tell them apart."""
    rows = ["image,caption"]
    for number in range(48):
        save_colour(tmp_path / "images" / f"{number}.png", "red" if number < 47 else "blue")
        rows.append(f"{number}.png,{'red' if number < 47 else 'blue'}")
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    protocol_yaml = "kind: retrieval\nimages: images\nannotations: captions.csv\n"
    (tmp_path / "mine.yaml").write_text(protocol_yaml)
    note = "47 of 48 captions are captions of several images: they tie, which lowers R@1"
    doctor = command("data", "doctor", "mine.yaml")
    assert doctor.status == 0
    assert f"mine: note: {note}\n" in doctor.out
    (diagnosis,) = json.loads(command("data", "doctor", "mine.yaml", "--format", "json").out)
    assert (diagnosis["note"], diagnosis["whole"]) == (note, True)
    model = f"python:{Path(__file__).parents[3] / 'examples' / 'own_model.py'}"
    completed = command("run", "--dataset", "mine.yaml", "--model", model)
    assert completed.err.endswith(
        f"note: {note}\n"
        "note: 47 of 48 images miss R@1 only because a wrong caption has the features of the right "
        "one\n"
        "note: 47 of 48 captions miss R@1 only because a wrong image has the features of the right "
        "one\n"
    )


def with_images(change: Callable[[list[dict[str, Any]]], object]) -> dict[str, Any]:
    """Return the annotations with a change of the list of images."""
    content = annotations()
    change(content["images"])
    return content


def with_captions(change: Callable[[list[dict[str, Any]]], object]) -> dict[str, Any]:
    """Return the annotations with a change of the list of captions."""
    content = annotations()
    change(content["annotations"])
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": annotations()["images"]}, "3 images without captions, first: image id 3"),
        (with_images(lambda images: images.clear()), "lists no images"),
        (with_images(lambda images: images.pop(0)), "captions of 1 images .* first: id 20"),
        (with_captions(lambda captions: captions.pop(0)), "1 images without captions"),
        (with_captions(lambda captions: captions[1].pop("image_id")), "image_id` is missing"),
        (
            with_captions(lambda captions: captions[1].pop("caption")),
            r"`annotations\[1\]\.caption` is missing",
        ),
        (with_images(lambda images: images[0].update(file_name="no.png")), "first: .*no.png"),
        (with_images(lambda images: images[0].pop("file_name")), "file_name` is missing"),
        (with_images(lambda images: images.append(images[0])), "has image id 20 twice"),
        (
            with_images(lambda images: images[0].update(file_name="blue.png")),
            r"image blue\.png is listed twice",
        ),
    ],
)
def test_faults_of_annotations_are_named(content, message, root):
    write(root, content)
    with pytest.raises(UsageError, match=message) as raised:
        retrieval.TASK.open_data(PROTOCOL, RunOptions(data_root=str(root)))
    assert "\n" not in str(raised.value)


def test_missing_data_are_named(root):
    with pytest.raises(UsageError, match=r"--data-root DIR, the folder that holds captions.json"):
        retrieval.TASK.open_data(PROTOCOL, RunOptions())
    (root / "captions.json").unlink()
    with pytest.raises(UsageError, match=f"expected {root}/captions.json"):
        retrieval.TASK.open_data(PROTOCOL, RunOptions(data_root=str(root)))
