"""Zero-shot classification of images with several classes each, by mean average precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cosmos_eval import types
from cosmos_eval.data.class_names import ClassData
from cosmos_eval.stats.choices import class_scores
from cosmos_eval.stats.estimates import Features, FunctionOfWeights
from cosmos_eval.stats.precision import average_precisions, mean_average_precision
from cosmos_eval.tasks import classification
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.classification import CLASSES, LABELS, SHOWN
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.task import NAME

# LABELS are (N, C) here.
SCORES = "scores"  # (N, C) float32 cosines of images and classes
ARRAYS = (
    SampleArray(LABELS, "truth value", ("images", "classes")),
    SampleArray(SCORES, "number", ("images", "classes"), least=-1, most=1),
    SampleArray(CLASSES, "text", ("classes",)),
    SampleArray(SHOWN, "text", ("classes",), optional=True),
    SampleArray(NAME, "text", ("images",), optional=True),
)


def _mean_average_precision(samples: Derived) -> FunctionOfWeights:
    return mean_average_precision(samples[SCORES], samples[LABELS])


class Multilabel(classification.ClassTask):
    """Zero-shot classification of images with several classes each."""

    protocol = types.MultilabelProtocol
    metrics = (Metric("mAP", _mean_average_precision, primary=True),)
    truth = (LABELS,)
    checked = "lists or archives, and how many images are there"
    arrays = ARRAYS

    def make_samples(
        self,
        protocol: types.MultilabelProtocol,
        data: ClassData,
        image_features: Features,
        class_embeddings: Features,
    ) -> types.Samples:
        return {
            LABELS: data.labels,
            SCORES: class_scores(image_features, class_embeddings),
            CLASSES: np.array(data.classes),
            **classification.displayed_names_array(protocol, data),
        }

    def per_class(self, samples: types.Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return the average precision and the number of images of every class.

        The precision is None if a class has no image.
        """
        scores_and_labels = np.stack([samples[SCORES], samples[LABELS]], axis=1)
        one_weight_each = np.ones((1, len(scores_and_labels)))
        precisions = average_precisions(scores_and_labels)(one_weight_each)[:, 0]
        metrics_by_class: dict[str, dict[str, float | None]] = {}
        for name, precision, n_images in zip(
            classification.displayed_names(samples),
            precisions,
            samples[LABELS].sum(axis=0).tolist(),
            strict=True,
        ):
            average_precision = float(precision) if n_images else None
            metrics_by_class[name] = {"average_precision": average_precision, "images": n_images}
        return metrics_by_class

    def columns(self, samples: types.Samples) -> Mapping[str, Any]:
        """Return one row per image and class: all classes of the first image, then of the next.

        `rank` is the rank of the image among all images by their scores for the class, from 1.
        """
        scores, classes = samples[SCORES], classification.displayed_names(samples)
        order_by_score = np.argsort(-scores, axis=0, kind="stable")
        rank_from_zero = np.argsort(order_by_score, axis=0)  # the inverse of the order
        columns = {}
        if NAME in samples:
            columns["image"] = np.repeat(samples[NAME], len(classes))
        columns["class"] = np.tile(classes, len(scores))
        columns["label"] = samples[LABELS].astype(bool).ravel()
        columns["score"] = scores.ravel()
        columns["rank"] = rank_from_zero.ravel() + 1
        return columns


TASK = Multilabel()
