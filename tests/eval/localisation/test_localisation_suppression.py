"""Suppression of the hit rate: the largest object of an image against its other objects."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from support.results import metrics_of

from cosmos_eval.data.label_map_checks import check_constants
from cosmos_eval.protocols.scenes import THINGS, scenes_localisation
from cosmos_eval.stats.estimates import FunctionOfSums
from cosmos_eval.tasks.localisation import TASK
from cosmos_eval.tasks.localisation.evaluate import _are_objects
from cosmos_eval.types import LocalisationProtocol, UsageError


class Thing(NamedTuple):
    """A class in an image."""

    class_index: int
    n_pixels: int
    # The share of the highest points of the map that lie on the thing.
    hit: float


def samples_of(images: list[list[Thing]], are_objects: list[bool]) -> dict[str, Any]:
    """Return the stored samples of images, each a list of things."""
    things = [thing for image in images for thing in image]
    image_indices = np.repeat(np.arange(len(images)), [len(image) for image in images])
    even_scores = np.full(len(things), 0.5, np.float32)
    return {
        "name": np.array([f"{n}" for n in range(len(images))]),
        "classes": np.array([f"class {n}" for n in range(len(are_objects))]),
        "objects": np.array(are_objects),
        "bounds": np.array([0.06, 0.2]),
        "image_pixels": np.full(len(images), 1000, np.int32),
        "labelled_pixels": np.full(len(images), 1000, np.int32),
        "image": image_indices.astype(np.int32),
        "class": np.array([thing.class_index for thing in things], np.int16),
        "thing_pixels": np.array([thing.n_pixels for thing in things], np.int32),
        "mass": even_scores,
        "hit": np.array([thing.hit for thing in things], np.float32),
        "auc": even_scores,
        "other_names": even_scores,
    }


IMAGES = [
    # Class 0 is stuff. Class 2 is the largest object, the dominant one.
    [Thing(0, 500, 0), Thing(1, 20, 0.5), Thing(2, 300, 1)],
    # Of equally large objects, the first is dominant.
    [Thing(1, 100, 0), Thing(3, 100, 1)],
    # A single object does not count.
    [Thing(0, 600, 1), Thing(2, 300, 1)],
    [Thing(3, 50, 0), Thing(2, 60, 1), Thing(1, 40, 0)],
]
ARE_OBJECTS = [False, True, True, True]


def test_suppression_by_hand() -> None:
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


def test_suppression_equals_plain_loops() -> None:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(60):
        classes = rng.permutation(6)[: rng.integers(1, 6)]
        images.append(
            [
                Thing(int(class_index), int(rng.integers(1, 9)), float(rng.random() < 0.5))
                for class_index in classes
            ]
        )
    are_objects = [True, False, True, True, False, True]
    dominant_hits, other_hits = [], []
    for image in images:
        objects = [thing for thing in image if are_objects[thing.class_index]]
        if len(objects) > 1:
            # The sort is stable: of equally large objects, the first stays first.
            objects.sort(key=lambda thing: -thing.n_pixels)
            dominant_hits.append(objects[0].hit)
            other_hits += [thing.hit for thing in objects[1:]]
    metrics = metrics_of("loc", samples_of(images, are_objects))
    expected = np.mean(dominant_hits) - np.mean(other_hits)
    assert metrics["suppression"] == pytest.approx(expected)


def test_older_results_have_no_suppression_and_are_still_compared() -> None:
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
    with_named_things = LocalisationProtocol(
        **fields, class_names=names, queries=protocol.queries, things=("cat", "dog")
    )
    assert _are_objects(with_named_things).tolist() == [False, True, False]
    with pytest.raises(UsageError, match="things names no class 'dog'"):
        check_constants(with_named_things)
