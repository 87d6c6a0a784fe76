"""A number that is known from elsewhere, or a whole result with its samples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.store import read_samples
from cosmos_eval.stats.estimates import Values
from cosmos_eval.tasks import classification, retrieval
from cosmos_eval.tasks.task import NAME
from cosmos_eval.types import Samples, UsageError

PLACES_BY_METRIC = {"acc1": 1, "acc5": 5, "mean_per_class_recall": 1}
"""For each metric of classification: among how many predictions the class of a hit is."""


class Known(NamedTuple):
    """A number that is known from elsewhere, as a fraction."""

    value: float
    # Half of a unit of the last digit, since the number was rounded; 0 for the value of a result.
    half_width: float
    # (N,) the share of hits among the queries of each image of the whole set; None if only the
    # number is known.
    hits: Values | None = None


def check_known(text: str) -> None:
    """Raise UsageError unless a text is a number in percent, or the path of a JSON file.

    It needs no data set, so that mistakes are reported at once.
    """
    if not text.endswith(".json"):
        parse_known(text)
    elif not Path(text).is_file():
        raise UsageError(f"--known {text}: no such file")


def read_known(text: str, data: Any, task_name: str, metric: str) -> Known:
    """Return the number that a user gives: a number in percent, or the JSON file of a result.

    Args:
        text: The number as it is written elsewhere, or a path that ends with `.json`.
        data: The opened data set, whose images the result must have.
        task_name: The task of the data set, `cls` or `retrieval`.
        metric: The metric of the number.

    Raises:
        UsageError: If the text is neither a number nor a path, if the result is about other images,
            or if it was edited.
    """
    if text.endswith(".json"):
        return _read_result(Path(text), data, task_name, metric)
    return parse_known(text)


def parse_known(text: str) -> Known:
    """Return a number in percent as a fraction, with the half unit of its last digit.

    Raises UsageError for other texts, and for numbers above 100.

    Example:
        "74.0" gives 0.74 and 0.0005, and "74" gives 0.74 and 0.005.
    """
    match = re.fullmatch(r"(\d+(?:\.(\d+))?)%?", text.strip(), re.ASCII)
    if match is None or float(match[1]) > 100:
        raise UsageError(
            f"--known '{text}' is neither a number in percent, such as 74.0, nor the .json of a "
            "result"
        )
    n_decimals = len(match[2] or "")
    return Known(float(match[1]) / 100, 0.5 * 10.0**-n_decimals / 100)


def _read_result(path: Path, data: Any, task_name: str, metric: str) -> Known:
    """Return the value of a metric of a stored result, with the hits of its images.

    `read_known` explains the arguments and the errors.
    """
    if metric == "mean_per_class_recall":
        raise UsageError("--known FILE is not for mean_per_class_recall: choose --metric acc1")
    (result,) = read_checked([path])
    if result.is_edited:
        raise UsageError(f"{path}: {result.fault} (`cosmos-eval verify` shows more)")
    if result.row.task != task_name:
        raise UsageError(f"{path} is of task {result.row.task}, and the data set of {task_name}")
    if metric not in result.row.metrics:
        raise UsageError(f"{path} has no {metric}")
    samples = read_samples(path)
    names = samples.get(NAME)
    if names is None or names.tolist() != list(data.names):
        raise UsageError(f"{path} is about other images than the data set, or does not name them")
    return Known(result.row.metrics[metric], 0.0, hits_of(samples, task_name, metric))


def hits_of(samples: Samples, task_name: str, metric: str) -> Values:
    """Return for each image the share of its queries that are hits, (N,), from stored samples.

    The queries of an image are its captions if captions are searched with ("text to image"). In all
    other cases the image itself is the only query.
    """
    if task_name == "cls":
        n_places = PLACES_BY_METRIC[metric]
        predicted = samples[classification.TOP5][:, :n_places]
        is_hit = (predicted == samples[classification.LABELS][:, None]).any(axis=1)
        return is_hit.astype(np.float64)
    direction, _, k = metric.rpartition("_R@")
    image_ranks, text_ranks = samples[retrieval.IMAGE_RANK], samples[retrieval.TEXT_RANK]
    if direction == "image_to_text":
        return (image_ranks <= int(k)).astype(np.float64)
    image_of_text = samples[retrieval.IMAGE_OF_TEXT]
    n_images = len(image_ranks)
    n_hits = np.bincount(image_of_text, weights=text_ranks <= int(k), minlength=n_images)
    n_captions = np.bincount(image_of_text, minlength=n_images)
    shares: Values = (n_hits / n_captions).astype(np.float64)
    return shares
