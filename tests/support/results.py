"""Made-up samples of every task, and results whose figures follow from them."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from support.rows import make_row, write_result

from cosmos_eval.results.record import ResultRow
from cosmos_eval.stats.retrieval import RetrievalRanks
from cosmos_eval.tasks import task_named
from cosmos_eval.types import Samples

SAMPLES: dict[str, Samples] = {
    "retrieval": {
        "image_to_text_rank": np.array([1, 3, 5]),
        "text_to_image_rank": np.array([1, 1, 2, 3, 3]),
        "image_of_text": np.array([0, 0, 1, 2, 2]),
    },
    # In no alphabetical order, as the classes of torchvision's sets may be.
    "cls": {
        "labels": np.array([0, 0, 0, 1, 2]),
        "top5": np.array([[0, 1, 2], [1, 0, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0]]),
        "confidence": np.array([0.5, 0.75, 1, 0.875, 0.625], np.float32),
        "classes": np.array(["pear", "apple", "fig"]),
    },
    "select": {
        "correct": np.array([True, False, True, False]),
        "text_correct": np.array([True, True, True, False]),
        "image_correct": np.array([True, False, True, False]),
        "subset": np.array([0, 0, 0, 1]),
        "subsets": np.array(["one", "two"]),
        "averaged": np.array([True, True]),
        "cluster": np.array([0, 0, 1, 2]),
    },
    "seg": {
        "name": np.array(["a", "b"]),
        "classes": np.array(["sky", "cow", "cat"]),
        "groups": np.array(["animals"]),
        "members": np.array([[False, True, True]]),
        "image": np.array([0, 0, 1, 1], np.int32),
        "pair": np.array([0, 1, 4, 8], np.int32),
        "pixels": np.array([5, 2, 7, 1]),
    },
    # The cow is alone in the second image.
    "loc": {
        "name": np.array(["a", "b"]),
        "image_pixels": np.array([100, 100], np.int32),
        "labelled_pixels": np.array([80, 100], np.int32),
        "classes": np.array(["sky", "cow", "cat"]),
        "bounds": np.array([0.06, 0.2]),
        "image": np.array([0, 0, 1], np.int32),
        "class": np.array([0, 1, 1], np.int16),
        "thing_pixels": np.array([60, 5, 10], np.int32),
        "mass": np.array([0.75, 0.25, 0.5], np.float32),
        "hit": np.array([1, 0, 1], np.float32),
        "auc": np.array([0.5, 0.75, 1], np.float32),
        "other_names": np.array([0.5, 0.125, np.nan], np.float32),
    },
    "multilabel": {
        "labels": np.array([[1, 1], [1, 0], [0, 0], [0, 1]], bool),
        "scores": np.array([[0.5, 0.25], [0.125, 0.5], [0.25, 0.125], [0, 0.75]], np.float32),
        "classes": np.array(["pear", "apple"]),
    },
    # Labels are age, gender, race and whether it is not white; answers race, gender, age, toxic.
    "faces": {
        "labels": np.array([[0, 0, 1, 0], [2, 1, 1, 0], [1, 1, 3, 1], [1, 0, 0, 1]]),
        "predicted": np.array([[1, 0, 0, 3], [0, 1, 1, 14], [2, 0, 1, 17], [1, 0, 1, 18]]),
        "classes": np.array(
            [
                *(f"race:{n}" for n in ("black", "white", "indian", "east asian")),
                *("gender:male", "gender:female", "age:young", "age:grown", "age:old"),
                *(f"toxic:{n}" for n in range(19)),
            ]
        ),
    },
    "ood": {
        "inside": np.array([True, True, False, False]),
        "mcm": np.array([0.75, 0.5, 0.625, 0.25], np.float32),
        "max_logit": np.array([0.5, 0.375, 0.25, 0.125], np.float32),
    },
    # The first two boxes are of one image.
    "boxes": {
        "labels": np.array([0, 0, 1, 2]),
        "top5": np.array(
            [[0, 1, 2, -1, -1], [1, 0, 2, -1, -1], [1, 2, 0, -1, -1], [0, 1, 2, -1, -1]]
        ),
        "confidence": np.array([0.5, 0.75, 0.625, 0.875]),
        "classes": np.array(["pear", "apple", "fig"]),
        "image": np.array([0, 0, 1, 2]),
        "area": np.array([0.25, 0.001, 0.01, 0.5]),
        "bounds": np.array([0.005, 0.05]),
        "group": np.array([1, 1, 0, 1]),
        "groups": np.array(["stuff", "thing"]),
    },
    "assoc": {
        "jaccard": np.array([1, 0.5, 0.25]),
        "candidates": np.array([5, 6, 10]),
        "cluster": np.array([0, 1, 2]),
    },
    "ratings": {
        "clip_score": np.array([0.5, 1, 1.5, 1.25, 0.75]),
        "rating": np.array([1.0, 2, 4, 3, 3]),
        "image": np.array([0, 0, 1, 2, 3]),
        "variant": np.array(["c"]),
    },
    # Of revisited Oxford's form: the second query has no easy positive.
    "ranking": {
        "cluster": np.array([0, 1]),
        "direction": np.array(["", ""]),
        "query": np.array([0, 0, 0, 1]),
        "rank": np.array([1, 3, 4, 2]),
        "item": np.array([7, 2, 0, 5]),
        "metrics": np.array(["mAP@R", "mAP_easy", "mAP_medium", "mAP_hard"]),
        "is_hard": np.array([False, True, False, True]),
    },
    # Two draws of one and of four images per class.
    "probe": {
        "labels": np.array([0, 0, 1, 2]),
        "linear": np.array([0, 0, 1, 1]),
        "neighbours": np.array([0, 1, 1, 1]),
        "shots": np.array([1, 4]),
        "fewshot_correct": np.array(
            [[[1, 0], [1, 1], [0, 0], [0, 0]], [[1, 1], [1, 1], [1, 0], [0, 1]]], bool
        ),
        "classes": np.array(["pear", "apple", "fig"]),
    },
    # No pixel of the last image counts.
    "depth-probe": {
        "name": np.array(["a", "b", "c"]),
        "pixels": np.array([10, 20, 0]),
        "rmse": np.array([0.5, 0.25, np.nan]),
        "abs_rel": np.array([0.125, 0.25, np.nan]),
        "delta1": np.array([0.5, 0.75, np.nan]),
        "delta2": np.array([0.75, 0.875, np.nan]),
        "delta3": np.array([1, 1, np.nan]),
    },
}
SAMPLES["seg-probe"] = SAMPLES["seg"]


def metrics_of(task: str, samples: Samples) -> dict[str, float]:
    """Return the metrics of samples, without intervals."""
    task_object = task_named(task)
    estimates = task_object.estimates(task_object.derive(samples))
    return {name: estimate.value for name, estimate in estimates.items()}


def retrieval_metrics(ranks: RetrievalRanks, image_of_text: ArrayLike = ()) -> dict[str, float]:
    """Metrics of ranks, which do not depend on what image a text belongs to."""
    samples = {
        "image_to_text_rank": ranks.image_to_text,
        "text_to_image_rank": ranks.text_to_image,
        "image_of_text": np.asarray(image_of_text),
    }
    return metrics_of("retrieval", samples)


def figures_of(task: str, samples: Samples) -> dict[str, Any]:
    """The fields of a result that follow from its samples."""
    figures = vars(task_named(task).figures(samples, 0))
    intervals = {name: value._asdict() for name, value in figures["intervals"].items()}
    return {**figures, "intervals": intervals}


def metric_names(task: str) -> tuple[str, ...]:
    """The metrics of a task, to which tests may add some."""
    return tuple(metric.name for metric in task_named(task).metrics)


@cache
def _made_up_figures(task: str, metrics: tuple[str, ...]) -> dict[str, Any]:
    """Return the figures of made-up samples; `metrics` are the metrics that the task has."""
    return figures_of(task, SAMPLES[task])


def measured_row(task: str, samples: Samples | None = None, **fields: Any) -> ResultRow:
    """A result of samples."""
    if samples:
        figures = figures_of(task, samples)
    else:
        figures = deepcopy(_made_up_figures(task, metric_names(task)))
    return make_row(task=task, **{**figures, **fields})


def store_result(folder: Path, task: str, samples: Samples | None = None, **fields: Any) -> Path:
    """Write such a result with its samples."""
    row = measured_row(task, samples, **fields)
    return write_result(folder, row, samples or SAMPLES[task])
