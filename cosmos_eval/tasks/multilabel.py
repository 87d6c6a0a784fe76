"""Zero-shot classification of images with several classes each, by mean average precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cosmos_eval import types
from cosmos_eval.data.class_names import ClassData
from cosmos_eval.stats.choices import class_scores
from cosmos_eval.stats.estimates import Features, FunctionOfWeights, Ints
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
    """Return the mean over the classes of the average precision of ranking all images."""
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
        """Score every image with every class, and return the scores with the labels.

        Args:
            protocol: The protocol that is measured.
            data: N images, each with a label (C,) that is True for the classes of the image.
            image_features: The features (N, D) of the images.
            class_embeddings: The embeddings (C, D) of the classes.
        """
        return {
            LABELS: data.labels,
            SCORES: class_scores(image_features, class_embeddings),
            CLASSES: np.array(data.classes),
            **classification.displayed_names_array(protocol, data),
        }

    def per_class(self, samples: types.Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return the average precision and the number of images of every class, by its name.

        The average precision is None if no image has the class.
        """
        scores_and_labels = np.stack([samples[SCORES], samples[LABELS]], axis=1)  # (N, 2, C)
        compute_precisions = average_precisions(scores_and_labels)
        # The function takes rows of weights of the images, as for a bootstrap. Here is one row, in
        # which every image counts once. The precisions are (C, 1).
        weights = np.ones((1, len(scores_and_labels)))
        precisions = compute_precisions(weights)[:, 0]
        n_images_of_class = samples[LABELS].sum(axis=0).tolist()
        metrics_by_class: dict[str, dict[str, float | None]] = {}
        for index, name in enumerate(classification.displayed_names(samples)):
            n_images = n_images_of_class[index]
            average_precision = float(precisions[index]) if n_images else None
            metrics_by_class[name] = {"average_precision": average_precision, "images": n_images}
        return metrics_by_class

    def class_sizes(self, samples: types.Samples) -> Ints:
        """Return the number of images that have each of C classes, (C,)."""
        return np.asarray(samples[LABELS].sum(axis=0))

    def columns(self, samples: types.Samples) -> Mapping[str, Any]:
        """Return a table with one row per image and class, as arrays (N * C,) by column names.

        All classes of the first image come first, then all classes of the next image. `rank` is
        the rank of the image among all images, from 1, by their scores for the class.
        """
        scores, classes = samples[SCORES], classification.displayed_names(samples)

        # Rank the images for each class. Scores [0.1, 0.9, 0.5] of three images give
        order_by_score = np.argsort(-scores, axis=0, kind="stable")  # [1, 2, 0], highest first
        rank_from_zero = np.argsort(order_by_score, axis=0)  # [2, 0, 1], the inverse permutation

        columns = {}
        if NAME in samples:
            columns["image"] = np.repeat(samples[NAME], len(classes))
        columns["class"] = np.tile(classes, len(scores))
        columns["label"] = samples[LABELS].astype(bool).ravel()
        columns["score"] = scores.ravel()
        columns["rank"] = rank_from_zero.ravel() + 1
        return columns


TASK = Multilabel()
