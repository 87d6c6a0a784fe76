"""Stored samples of two results -> the difference of every metric. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.metrics.paired import (
    PairedDifference,
    Statistic,
    area_statistic,
    group_mean_statistic,
    joined,
    mcnemar,
    mean_statistic,
    paired_bootstrap,
    paired_recall,
    rank_statistic,
)
from cosmos_eval.metrics.segmentation import Areas, SparseConfusion, areas_of_images
from cosmos_eval.tasks.classification._samples import LABELS, TOP5
from cosmos_eval.tasks.retrieval._samples import IMAGE_OF_TEXT, IMAGE_RANK, TEXT_RANK
from cosmos_eval.tasks.segmentation._samples import CLASSES, GROUPS, MEMBERS, NAME, class_groups
from cosmos_eval.tasks.selection._samples import AVERAGED, CLUSTER, CORRECT, IMAGE, SUBSET, TEXT
from cosmos_eval.types import Interval, ResultRow, Samples, Task, UsageError

HEADLINES: Mapping[Task, tuple[str, ...]] = MappingProxyType(
    {
        "retrieval": ("image_to_text_R@1", "text_to_image_R@1"),
        "cls": ("acc1",),
        "seg": ("mIoU",),
        "select": ("accuracy",),
    }
)
"""The metrics that a comparison of models is about."""

_SUBSETS = "mean_subset_accuracy"

# What is true of the samples, whatever the model: two results of one sample list have it alike.
_TRUTH: Mapping[Task, tuple[str, ...]] = MappingProxyType(
    {
        "retrieval": (IMAGE_OF_TEXT,),
        "cls": (LABELS,),
        "seg": (NAME, CLASSES, GROUPS, MEMBERS),
        "select": (SUBSET, AVERAGED, CLUSTER),
    }
)

# How far metrics may lie from those of their samples: sums in another order differ in last bits.
_ROUNDING = 1e-9


class Sampled(NamedTuple):
    """The metrics of a result and the samples that they follow from."""

    metrics: Mapping[str, float]
    samples: Samples


def paired_interval(
    row_a: ResultRow, samples_a: Samples, row_b: ResultRow, samples_b: Samples, metric: str
) -> Interval:
    """The 95% interval of a metric of A minus that of B, two results of the same samples.

    Whether two results are of the same samples and protocol, `cosmos_eval.matching.mismatches`
    says. Raises UsageError as `paired_differences` does, and where the samples give no such metric.
    """
    found = paired_differences(row_a, samples_a, row_b, samples_b)
    if metric not in found:
        raise UsageError(f"{row_a.dataset}: the samples do not give {metric}")
    return found[metric].interval()


def paired_differences(
    row_a: ResultRow, samples_a: Samples, row_b: ResultRow, samples_b: Samples
) -> dict[str, PairedDifference]:
    """Every metric of A minus that of B, by name.

    Raises UsageError where the samples are not of the same images and labels, and where a metric
    is not what its samples give.
    """
    try:
        return differences_of(
            row_a.task, Sampled(row_a.metrics, samples_a), Sampled(row_b.metrics, samples_b)
        )
    except ValueError as error:
        raise UsageError(f"{row_a.dataset}: {error}") from error


def differences_of(task: Task, a: Sampled, b: Sampled) -> dict[str, PairedDifference]:
    """The same of metrics and samples alone; raises ValueError, which does not say where."""
    try:
        for name in _TRUTH[task]:
            if not np.array_equal(a.samples[name], b.samples[name]):
                raise ValueError(f"`{name}` of the samples differs")
        found = _differences(task, a.samples, b.samples)
    except (KeyError, IndexError) as error:
        raise ValueError(f"samples that lack {error} are not of this task") from error
    for metrics, side in ((a.metrics, "a"), (b.metrics, "b")):
        for name, value in metrics.items():
            _require_own(name, value, getattr(found[name], side) if name in found else None)
    return found


def _require_own(name: str, value: float, computed: float | None) -> None:
    if computed is None:
        raise ValueError(f"the samples do not give {name}")
    # Not the other way round: nothing is close to NaN.
    if not math.isclose(value, computed, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        raise ValueError(f"{name} is {value}, but its samples give {computed}")


def _differences(task: Task, a: Samples, b: Samples) -> dict[str, PairedDifference]:
    match task:
        case "retrieval":
            clusters = np.ones(len(a[IMAGE_RANK]), int)
            return paired_bootstrap(_retrieval(a), _retrieval(b), clusters)
        case "cls":
            return _classification(a, b)
        case "seg":
            of_a, of_b = _areas(a), _areas(b)
            if not np.array_equal(of_a.labelled, of_b.labelled):
                raise ValueError("the label maps of the samples differ")
            groups, clusters = class_groups(a), np.ones(len(a[NAME]), int)
            return paired_bootstrap(
                area_statistic(of_a, groups), area_statistic(of_b, groups), clusters
            )
        case "select":
            return _selection(a, b)


def _retrieval(samples: Samples) -> Statistic:
    own = np.arange(len(samples[IMAGE_RANK]))
    return joined(
        rank_statistic("image_to_text", samples[IMAGE_RANK], own),
        rank_statistic("text_to_image", samples[TEXT_RANK], samples[IMAGE_OF_TEXT]),
    )


def _classification(a: Samples, b: Samples) -> dict[str, PairedDifference]:
    labels = a[LABELS]
    hits_a, hits_b = (some[TOP5] == labels[:, None] for some in (a, b))
    return {
        "acc1": mcnemar(hits_a[:, 0], hits_b[:, 0]),
        "acc5": mcnemar(hits_a.any(axis=1), hits_b.any(axis=1)),
        "mean_per_class_recall": paired_recall(labels, hits_a[:, 0], hits_b[:, 0]),
    }


def _selection(a: Samples, b: Samples) -> dict[str, PairedDifference]:
    scores_a, scores_b = _scores(a), _scores(b)
    labels, cluster = np.unique(a[CLUSTER], return_inverse=True)
    if len(labels) == len(cluster):
        found = {name: mcnemar(scores_a[name], scores_b[name]) for name in scores_a}
    else:
        of_a, of_b = mean_statistic(scores_a, cluster), mean_statistic(scores_b, cluster)
        found = paired_bootstrap(of_a, of_b, np.ones(len(labels), int))
    kept = a[AVERAGED][a[SUBSET]]
    if len(np.unique(a[SUBSET][kept])) > 1:
        labels, cluster = np.unique(a[CLUSTER][kept], return_inverse=True)
        of_a, of_b = (
            group_mean_statistic(_SUBSETS, a[SUBSET][kept], some[CORRECT][kept], cluster)
            for some in (a, b)
        )
        found |= paired_bootstrap(of_a, of_b, np.ones(len(labels), int))
    return found


def _scores(samples: Samples) -> dict[str, NDArray[np.bool_]]:
    scores = {"accuracy": samples[CORRECT]}
    if TEXT in samples:
        text, image = samples[TEXT], samples[IMAGE]
        scores |= {"text_score": text, "image_score": image, "group_score": text & image}
    return scores


def _areas(samples: Samples) -> Areas:
    sparse = SparseConfusion(*(samples[field] for field in SparseConfusion._fields))
    return areas_of_images(sparse, len(samples[NAME]), len(samples[CLASSES]))
