"""Suppression of the hit rate: the largest object of an image against its other objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.results import metrics_of

from cosmos_eval.data.label_map_checks import check_constants
from cosmos_eval.protocols.scenes import THINGS, scenes_localisation
from cosmos_eval.stats.estimates import FunctionOfSums
from cosmos_eval.tasks.localisation import TASK
from cosmos_eval.tasks.localisation.evaluate import _are_objects
from cosmos_eval.types import LocalisationProtocol, UsageError


def samples_of(
    images: list[list[tuple[int, int, float]]], are_objects: list[bool]
) -> dict[str, Any]:
    """Stored samples of images, each a list of a class, its pixels, and its hit."""
    pairs = [(n, *pair) for n, image in enumerate(images) for pair in image]
    image, classes, pixels, hits = map(np.array, zip(*pairs, strict=True))
    even = np.full(len(pairs), 0.5, np.float32)
    return {
        "name": np.array([f"{n}" for n in range(len(images))]),
        "classes": np.array([f"class {n}" for n in range(len(are_objects))]),
        "objects": np.array(are_objects),
        "bounds": np.array([0.06, 0.2]),
        "image_pixels": np.full(len(images), 1000, np.int32),
        "labelled_pixels": np.full(len(images), 1000, np.int32),
        "image": image.astype(np.int32),
        "class": classes.astype(np.int16),
        "thing_pixels": pixels.astype(np.int32),
        "mass": even,
        "hit": hits.astype(np.float32),
        "auc": even,
        "other_names": even,
    }


IMAGES = [
    [(0, 500, 0), (1, 20, 0.5), (2, 300, 1)],  # class 0 is stuff; class 2 is dominant
    [(1, 100, 0), (3, 100, 1)],  # equally large: the first is dominant
    [(0, 600, 1), (2, 300, 1)],  # a single object does not count
    [(3, 50, 0), (2, 60, 1), (1, 40, 0)],
]
ARE_OBJECTS = [False, True, True, True]


def test_by_hand() -> None:
    samples = samples_of(IMAGES, ARE_OBJECTS)
    TASK.require_valid(samples, {})
    metrics = metrics_of("loc", samples)
    assert metrics["pointing_game_dominant"] == pytest.approx(2 / 3)
    assert metrics["pointing_game_others"] == pytest.approx(1.5 / 4)
    assert metrics["suppression"] == pytest.approx(2 / 3 - 1.5 / 4)
    figures = TASK.figures(samples, seed=0)
    interval = figures.intervals["suppression"]
    assert interval.low < 2 / 3 - 1.5 / 4 < interval.high
    assert interval.method == "wilson, difference"


def test_equals_plain_loops() -> None:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(60):
        classes = rng.permutation(6)[: rng.integers(1, 6)]
        images.append(
            [(int(c), int(rng.integers(1, 9)), float(rng.random() < 0.5)) for c in classes]
        )
    are_objects = [True, False, True, True, False, True]
    dominant, others = [], []
    for image in images:
        objects = [pair for pair in image if are_objects[pair[0]]]
        if len(objects) > 1:
            objects.sort(key=lambda pair: -pair[1])  # a stable sort
            dominant.append(objects[0][2])
            others += [pair[2] for pair in objects[1:]]
    metrics = metrics_of("loc", samples_of(images, are_objects))
    assert metrics["suppression"] == pytest.approx(np.mean(dominant) - np.mean(others))


def test_older_results_have_none_and_are_still_compared() -> None:
    samples = samples_of(IMAGES, ARE_OBJECTS)
    older = {name: array for name, array in samples.items() if name != "objects"}
    assert "suppression" not in metrics_of("loc", older)
    assert "suppression" not in TASK.differences([samples, older])(0, 1)
    estimates = TASK.estimates(TASK.derive(samples))
    assert isinstance(estimates["suppression"], FunctionOfSums)
    with pytest.raises(ValueError, match="`objects` of the samples differs"):
        TASK.differences([samples, {**samples, "objects": np.ones(4, bool)}])


def test_which_classes_are_objects() -> None:
    scenes = scenes_localisation("localisation")
    assert _are_objects(scenes).tolist() == [name in THINGS for name in scenes.class_names]
    fields = {"dataset": "mine", "protocol_name": "user", "images": "i", "masks": "m"}
    names = ("background", "cat", "sea")
    protocol = LocalisationProtocol(
        **fields, class_names=names, queries=tuple((name,) for name in names)
    )
    assert _are_objects(protocol).tolist() == [False, True, True]
    check_constants(protocol)
    things = LocalisationProtocol(
        **fields, class_names=names, queries=protocol.queries, things=("cat", "dog")
    )
    assert _are_objects(things).tolist() == [False, True, False]
    with pytest.raises(UsageError, match="things names no class 'dog'"):
        check_constants(things)
