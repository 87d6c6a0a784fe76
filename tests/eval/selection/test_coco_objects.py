"""Questions from COCO's instances: which objects are asked about, and which kinds are absent."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosmos_eval.data.coco_objects import Question, read_questions
from cosmos_eval.data.readers import FileError
from cosmos_eval.data.selection import open_data
from cosmos_eval.tasks import selection
from cosmos_eval.types import RunOptions

KINDS = ["cat", "dog", "cup", "ball", "person", "bird"]
Objects = list[tuple[str, float]]  # kind and percent of the image; "person crowd" is a crowd


def instances(images: list[Objects]) -> dict[str, Any]:
    """The content of an instances file; images have 100 x 50 pixels."""
    annotations = []
    for image_id, objects in enumerate(images):
        for name, percent in objects:
            kind, _, crowd = name.partition(" ")
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": 10 + KINDS.index(kind),
                    "area": 50.0 * percent,
                    "iscrowd": int(crowd == "crowd"),
                    "bbox": [0, 0, 1, 1],
                }
            )
    return {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 50, "license": 1}
            for n in range(len(images))
        ],
        "annotations": annotations,
        "categories": [{"id": 10 + n, "name": kind} for n, kind in enumerate(KINDS)],
    }


def questions(tmp_path: Path, content: Any) -> list[Question]:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return read_questions(path)


def test_questions_of_two_images_solved_by_hand(tmp_path):
    first_image = [("cup", 1), ("cat", 30), ("cup", 2)]
    second_image = [("dog", 20), ("ball", 5), ("person crowd", 10), ("bird", 0.9)]
    asked = questions(tmp_path, instances([first_image, second_image]))
    assert [(q.file_name, q.kind, q.absent_kind) for q in asked] == [
        ("0.jpg", "cat", "dog"),
        ("0.jpg", "cup", "ball"),
        ("1.jpg", "dog", "cat"),
        ("1.jpg", "ball", "cup"),
    ]
    # Role, kind of word, and the fractions of the image of the object and of the largest one.
    assert [tuple(q.asked) for q in asked] == [
        ("dominant", "kind", pytest.approx(0.3), pytest.approx(0.3)),
        ("small", "kind", pytest.approx(0.03), pytest.approx(0.3)),
        ("dominant", "kind", pytest.approx(0.2), pytest.approx(0.2)),
        ("small", "kind", pytest.approx(0.05), pytest.approx(0.2)),
    ]


@pytest.mark.parametrize(
    "objects",
    [
        [("dog", 19), ("ball", 3)],  # no dominant object
        [("dog", 30)],  # no small one
        [("dog", 30), ("ball", 3), ("ball", 3)],  # together too large
        [("dog", 30), ("ball", 3), ("ball crowd", 1)],  # a kind with a crowd
        [("dog", 30), ("ball", 3), ("dog crowd", 1)],  # the dominant kind with a crowd
        [("dog", 30), ("ball", 3), ("person crowd", 40)],  # the largest one is a crowd
        [("dog", 30), ("ball", 3), ("cat", 6), ("cup", 0.1)],  # cat and cup are not absent
        [],
    ],
)
def test_images_that_give_no_question(tmp_path, objects):
    """The other image then has no partner, and is left out as well."""
    assert questions(tmp_path, instances([[("cat", 30), ("cup", 2)], objects])) == []


@pytest.mark.parametrize("name", ["images", "categories"])
def test_an_id_that_two_entries_have_is_refused(tmp_path, name):
    content = instances([[("cat", 30), ("cup", 2)], [("dog", 20), ("ball", 5)]])
    content[name].append(dict(content[name][0]))
    with pytest.raises(FileError, match="has several images or categories of one id"):
        questions(tmp_path, content)


def random_images(seed: int, n_images: int = 200) -> list[Objects]:
    """Draw images with a large object and some small ones; people are in most of them."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n_images):
        chosen = rng.permutation(len(KINDS))[: rng.integers(2, 4)]
        if rng.random() < 0.4:
            chosen = np.unique([4, *chosen])
            rng.shuffle(chosen)
        small = [(KINDS[kind], float(rng.uniform(1, 4.9))) for kind in chosen[1:]]
        images.append([(KINDS[chosen[0]], 25.0), *small])
    return images


def test_a_model_that_does_not_see_the_image_is_right_in_half(tmp_path):
    """It is so for any order of preference of the kinds, in both roles; so suppression is 0."""
    images = random_images(5)
    asked = questions(tmp_path, instances(images))
    assert len(asked) > 200
    for question in asked:
        present = {kind for kind, _ in images[int(question.file_name.removesuffix(".jpg"))]}
        assert question.kind in present
        assert question.absent_kind not in present
    rng = np.random.default_rng(6)
    for role in ("dominant", "small"):
        pairs = [(q.kind, q.absent_kind) for q in asked if q.asked.role == role]
        assert Counter(pairs) == Counter((absent, kind) for kind, absent in pairs)
        for _ in range(20):
            preferred = [*rng.permutation(KINDS)]
            is_right = [preferred.index(kind) < preferred.index(absent) for kind, absent in pairs]
            assert np.mean(is_right) == 0.5


def test_the_order_of_annotations_changes_nothing(tmp_path):
    content = instances(random_images(7, 60))
    asked = questions(tmp_path, content)
    content["annotations"].reverse()
    content["images"].reverse()
    assert sorted(questions(tmp_path, content)) == sorted(asked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"image_id": 9, "category_id": 10, "area": 1.0}]}, "image id 9"),
        ({"annotations": [{"image_id": 0, "category_id": 1, "area": 1.0}]}, "category of id 1"),
        ({"annotations": [{"image_id": 0, "category_id": 10, "area": -1.0}]}, "area"),
        ({"categories": []}, "no category of id"),
        ({"images": None}, "`images`"),
    ],
)
def test_broken_files_are_refused(tmp_path, change, message):
    content = {**instances([[("cat", 30), ("cup", 2)]]), **change}
    with pytest.raises(FileError, match=message):
        questions(tmp_path, content)


def test_the_known_set_is_found_and_measured(known_set, colour_encoder, command, tmp_path):
    content = instances([[("cat", 30), ("cup", 2)], [("dog", 30), ("ball", 2)]])
    images = {"val2017/0.jpg": "red", "val2017/1.jpg": "green"}
    files = {"annotations/instances_val2017.json": content}
    protocol = known_set("coco-suppression", files, images)
    data = open_data(protocol, RunOptions())
    assert data.captions[:2] == ("a photo of a cat.", "a photo of a dog.")
    measured = selection.TASK.measure_one(colour_encoder, protocol, RunOptions())
    assert measured.samples["object"].tolist() == ["dominant", "small"] * 2
    assert {"accuracy_dominant", "accuracy_small", "suppression"} <= set(measured.metrics)
    completed = command("data", "doctor", "coco-suppression", "--data-root", tmp_path)
    assert completed.status == 0
    assert "4 of 4" in completed.out
    annotations = tmp_path / "annotations/instances_val2017.json"
    same_dominant_kind = instances([[("cat", 30), ("cup", 2)], [("cat", 30), ("ball", 2)]])
    annotations.write_text(json.dumps(same_dominant_kind))
    completed = command("data", "doctor", "coco-suppression", "--data-root", tmp_path)
    assert completed.status != 0
    assert "gives no question about dominant objects" in completed.out + completed.err
    annotations.write_text('{"images": 3}')
    completed = command("data", "doctor", "coco-suppression", "--data-root", tmp_path)
    assert completed.status != 0
    assert "instances_val2017.json: `" in completed.out + completed.err
