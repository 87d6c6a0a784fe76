"""Zero-shot classification of images with several classes each, by mean average precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cosmos_eval import types
from cosmos_eval.data.class_names import ClassData, class_names, templates_of
from cosmos_eval.data.classification import open_data
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats.choices import class_scores
from cosmos_eval.stats.estimates import Features
from cosmos_eval.stats.precision import average_precisions, mean_average_precision
from cosmos_eval.tasks import classification
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.classification import CLASSES, LABELS, SHOWN
from cosmos_eval.tasks.task import NAME, Metric, no_further_check
from cosmos_eval.types import Samples

SCORES = "scores"  # (N, C) float32 cosines of images and classes; LABELS are (N, C) here
ARRAYS = (
    SampleArray(LABELS, "truth value", ("images", "classes")),
    SampleArray(SCORES, "number", ("images", "classes"), least=-1, most=1),
    SampleArray(CLASSES, "text", ("classes",)),
    SampleArray(SHOWN, "text", ("classes",), optional=True),
    SampleArray(NAME, "text", ("images",), optional=True),
)


def measure(
    encoder: Encoder,
    protocol: types.MultilabelProtocol,
    options: types.RunOptions,
    progress: types.OnProgress = types.no_progress,
    data: ClassData | None = None,
) -> types.Measurement:
    """Measure average precision; `options.limit` keeps the first images."""
    found = data or open_data(protocol, options)

    def score(images: Features, classifier: Features) -> types.Samples:
        scores, classes = class_scores(images, classifier), np.array(found.classes)
        own = {LABELS: found.labels, SCORES: scores, CLASSES: classes}
        return {**own, **classification.names_for_people(protocol, found)}

    prompts = [(class_names(protocol, found), templates_of(protocol, found))]
    given = encoder, protocol, options, progress, found, prompts, score
    return classification.measure_by_prompts(TASK, *given)


def _per_class(samples: types.Samples) -> Mapping[str, Mapping[str, float | None]]:
    own = np.stack([samples[SCORES], samples[LABELS]], axis=1)
    precisions = average_precisions(own)(np.ones((1, len(own))))[:, 0]
    images = samples[LABELS].sum(axis=0).tolist()
    return {
        name: {"average_precision": None if not count else float(value), "images": count}
        for name, value, count in zip(
            classification.shown(samples), precisions, images, strict=True
        )
    }


def _columns(samples: Samples) -> dict[str, Any]:
    """One row per image and class, by image; ranks are those of images for a class."""
    scores, classes = samples[SCORES], classification.shown(samples)
    order = np.argsort(-scores, axis=0, kind="stable")
    names = {"image": np.repeat(samples[NAME], len(classes))} if NAME in samples else {}
    return {
        **names,
        "class": np.tile(classes, len(scores)),
        "label": samples[LABELS].astype(bool).ravel(),
        "score": scores.ravel(),
        "rank": np.argsort(order, axis=0).ravel() + 1,
    }


TASK = replace(
    classification.TASK,
    protocol=types.MultilabelProtocol,
    metrics=(Metric("mAP", lambda s: mean_average_precision(s[SCORES], s[LABELS]), primary=True),),
    arrays=ARRAYS,
    require_consistent=no_further_check,
    checked="lists or archives, and how many images are there",
    measure=measure,
    derive=lambda samples: samples,
    per_class=_per_class,
    confusion_pairs=None,
    mistakes=None,
    upgrade=None,
    columns=_columns,
)
