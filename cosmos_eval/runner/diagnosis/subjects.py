"""Subjects of a diagnosis: a model on a data set, its number, and the images to run again.

A diagnosis measures the whole data set once without a fault. It then runs a random subset of the
images again under each fault, since this is much faster than to measure everything again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosmos_eval import types
from cosmos_eval.data.class_names import class_names, templates_of
from cosmos_eval.data.frames import require_no_videos
from cosmos_eval.data.sources import ImageSource
from cosmos_eval.embedding.embed import embed_images, embed_texts
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.runner.diagnosis.known import PLACES_BY_METRIC, hits_of
from cosmos_eval.runner.diagnosis.labels import Truth
from cosmos_eval.runner.diagnosis.texts import Wording
from cosmos_eval.stats.choices import top_classes
from cosmos_eval.stats.diagnosis import Outcomes, expected_hits
from cosmos_eval.stats.estimates import Features, Ints, Values
from cosmos_eval.stats.retrieval import retrieval_ranks
from cosmos_eval.tasks import classification, retrieval, task_for
from cosmos_eval.tasks.prompts import prompt_embeddings, resolve_templates

_SEED = 0  # of the choice of samples
_IMAGE_TO_TEXT = "image_to_text"


@dataclass(frozen=True)
class Subject(ABC):
    """A model on a data set: the metric of the whole set, and the subset that is run again.

    A sample is an image with its captions. The outcome of a sample is its contribution to the
    metric: the mean outcome of all samples of the whole set is the value of the metric.
    """

    encoder: Encoder
    metric: str
    # The value of the metric on the whole set, as `cosmos-eval run` measures it.
    value: float
    # The value that a model which guesses reaches.
    chance: float
    # The number of images of the whole set.
    n_whole: int
    # (n,) the indices of the subset's images in the whole set.
    indices: Ints
    # (n,) the share of hits among the queries of each image of the subset, without a fault. The
    # queries are compared with the whole set.
    hits: Values
    # The n images of the subset.
    images: Sequence[ImageSource]
    # The prompts of all classes, or the captions of the subset's images.
    wording: Wording
    # The right answers for the subset.
    truth: Truth
    # (n, D), the features of the subset's images without a fault.
    image_features: Features
    # (T, D), the features of the texts of `wording` without a fault.
    text_features: Features

    @property
    @abstractmethod
    def right_values(self) -> Values:
        """The contribution (n,) of each image of the subset to the metric, without a fault."""

    @abstractmethod
    def outcomes(self, image_features: Features, text_features: Features, truth: Truth) -> Outcomes:
        """Return the outcomes of the n images of the subset.

        Args:
            image_features: (n, D), the features of the images, perhaps with a fault.
            text_features: (T, D), the features of the texts, perhaps with a fault.
            truth: The right answers, perhaps with a fault.
        """


@dataclass(frozen=True)
class ClassificationSubject(Subject):
    """Zero-shot classification: every image is compared with all classes."""

    # (n,) the weight of each image in the metric, with the mean 1 over the whole set.
    weights: Values

    @property
    def right_values(self) -> Values:
        """(n,) the weight of each image that is classified correctly, and 0 for the others."""
        return self.weights * self.hits

    def outcomes(self, image_features: Features, text_features: Features, truth: Truth) -> Outcomes:
        """Return the weight of each image that is classified correctly, and 0 for the others."""
        n_places = PLACES_BY_METRIC[self.metric]
        predicted = top_classes(image_features, text_features, n_places)
        hits = (predicted == truth.labels[:, None]).any(axis=1)
        return Outcomes(self.weights * hits)


@dataclass(frozen=True)
class RetrievalSubject(Subject):
    """Retrieval: the images and captions of the subset are compared with each other.

    The gallery of the whole set is larger than the subset. `expected_hits` therefore estimates from
    the rank of a query in the subset how probably the query is a hit in the whole set.
    """

    # The number of captions of the whole set.
    n_captions_whole: int

    @property
    def right_values(self) -> Values:
        """(n,) the share of hits of each image, weighted by its number of queries."""
        if self.metric.startswith(_IMAGE_TO_TEXT):
            return self.hits
        n_captions = np.bincount(self.truth.labels, minlength=len(self.hits))
        weighted_hits: Values = self.hits * n_captions / n_captions.mean()
        return weighted_hits

    def outcomes(self, image_features: Features, text_features: Features, truth: Truth) -> Outcomes:
        """Return the probability of a hit, averaged over the queries of each image."""
        is_kept = truth.kept_captions
        assert is_kept is not None  # only subjects of classification have none
        image_of_text = truth.labels[is_kept]
        n_images, n_texts = len(image_features), int(is_kept.sum())
        ranks = retrieval_ranks(image_features, text_features[is_kept], image_of_text)
        direction, _, k = self.metric.rpartition("_R@")
        if direction == _IMAGE_TO_TEXT:
            # If a fault drops captions, it drops the same share of them in the whole set.
            n_texts_whole = round(self.n_captions_whole * n_texts / len(is_kept))
            captions_per_image = n_texts / n_images  # the right ones, which are not rivals
            return expected_hits(
                ranks.image_to_text - 1,
                np.arange(n_images),
                n_rivals=round(n_texts - captions_per_image),
                n_rivals_whole=round(n_texts_whole - captions_per_image),
                k=int(k),
            )
        return expected_hits(
            ranks.text_to_image - 1,
            image_of_text,
            n_rivals=n_images - 1,
            n_rivals_whole=self.n_whole - 1,
            k=int(k),
        )


def metrics_of(task_name: str) -> list[str]:
    """Return the names of the metrics of a task that can be diagnosed, the usual one first.

    Raises UsageError for tasks that cannot be diagnosed.
    """
    if task_name == "cls":
        return list(PLACES_BY_METRIC)
    if task_name == "retrieval":
        directions = (_IMAGE_TO_TEXT, "text_to_image")
        return [f"{direction}_R@{k}" for direction in directions for k in (1, 5, 10)]
    raise types.UsageError(
        f"task {task_name} cannot be diagnosed: name a data set of classification or retrieval"
    )


def make_subject(
    encoder: Encoder,
    protocol: types.Protocol,
    data: Any,
    metric: str,
    n_samples: int,
    options: types.RunOptions,
    progress: types.OnProgress,
) -> Subject:
    """Measure a model on a whole data set, and choose the images that are run again.

    Args:
        encoder: The model.
        protocol: The protocol of the data set, of classification or retrieval.
        data: The opened data set.
        metric: The metric, one of `metrics_of`.
        n_samples: How many images are chosen at random. All are chosen if there are fewer.
        options: The options of the run. Embeddings of the whole set are cached.
        progress: Called with the progress.
    """
    if isinstance(protocol, types.ClassificationProtocol):
        return _measure_classification(
            encoder, protocol, data, metric, n_samples, options, progress
        )
    return _measure_retrieval(encoder, protocol, data, metric, n_samples, options, progress)


def _choose_images(n_whole: int, n_samples: int) -> Ints:
    """Return the sorted indices of `n_samples` of `n_whole` images, chosen at random."""
    n_chosen = min(n_samples, n_whole)
    chosen_images = np.random.default_rng(_SEED).choice(n_whole, n_chosen, replace=False)
    return np.sort(chosen_images)


def _measure_classification(
    encoder: Encoder,
    protocol: Any,
    data: Any,
    metric: str,
    n_samples: int,
    options: types.RunOptions,
    progress: types.OnProgress,
) -> Subject:
    """Classify all images of a data set, and choose the images that are run again.

    `make_subject` explains the arguments.

    Raises:
        UsageError: If the metric is top-5 accuracy and there are fewer than five classes, and for
            videos.
    """
    names = class_names(protocol, data)
    templates = resolve_templates(templates_of(protocol, data))
    class_embeddings = prompt_embeddings(encoder, names, templates, options, progress)
    require_no_videos(data.images)
    image_features = embed_images(encoder, data.images, options, progress).features
    samples = classification.TASK.make_samples(protocol, data, image_features, class_embeddings)
    n_classes, n_whole = len(names), len(data.images)
    if metric == "acc5" and n_classes < 5:
        raise types.UsageError(f"{protocol.dataset} has {n_classes} classes, too few for acc5")

    chosen_images = _choose_images(n_whole, n_samples)
    hits = hits_of(samples, protocol.task, metric)
    weights = np.ones(n_whole)
    if metric == "mean_per_class_recall":
        # Every class counts alike, so that an image of a small class counts more.
        images_of_class = np.bincount(data.labels, minlength=n_classes)
        n_classes_with_images = np.count_nonzero(images_of_class)
        weights = n_whole / (n_classes_with_images * images_of_class[data.labels])
    return ClassificationSubject(
        encoder=encoder,
        metric=metric,
        value=_value_of(protocol, samples, metric),
        chance=PLACES_BY_METRIC[metric] / n_classes,
        n_whole=n_whole,
        indices=chosen_images,
        hits=hits[chosen_images],
        images=[data.images[index] for index in chosen_images],
        wording=Wording(tuple(names), templates, tuple(data.classes)),
        truth=Truth(data.labels[chosen_images], n_classes, tuple(names)),
        image_features=image_features[chosen_images],
        text_features=class_embeddings,
        weights=weights[chosen_images],
    )


def _measure_retrieval(
    encoder: Encoder,
    protocol: Any,
    data: Any,
    metric: str,
    n_samples: int,
    options: types.RunOptions,
    progress: types.OnProgress,
) -> Subject:
    """Rank all images and captions of a data set, and choose the images that are run again.

    The captions of a chosen image are run again, too. `make_subject` explains the arguments.

    Raises:
        UsageError: If the protocol scores pairs of images and captions, and for videos.
    """
    if protocol.pairs is not None:
        raise types.UsageError(
            f"{protocol.protocol_name} scores pairs, which cannot be diagnosed: choose a protocol "
            "without them"
        )
    require_no_videos(data.images)
    image_features = embed_images(encoder, data.images, options, progress).features
    captions = embed_texts(encoder, data.captions, options, progress, "captions")
    ranks = retrieval_ranks(image_features, captions.features, data.image_of_text)
    samples = {
        retrieval.IMAGE_RANK: ranks.image_to_text,
        retrieval.TEXT_RANK: ranks.text_to_image,
        retrieval.IMAGE_OF_TEXT: data.image_of_text,
    }
    n_whole = len(data.images)
    chosen_images = _choose_images(n_whole, n_samples)
    hits = hits_of(samples, protocol.task, metric)
    chosen_texts = np.flatnonzero(np.isin(data.image_of_text, chosen_images))
    # The place of each caption's image in the subset: if images 3 and 7 are chosen, 7 becomes 1.
    image_of_text = np.searchsorted(chosen_images, data.image_of_text[chosen_texts])
    return RetrievalSubject(
        encoder=encoder,
        metric=metric,
        value=_value_of(protocol, samples, metric),
        chance=int(metric.rpartition("@")[2]) / n_whole,
        n_whole=n_whole,
        indices=chosen_images,
        hits=hits[chosen_images],
        images=[data.images[index] for index in chosen_images],
        wording=Wording(tuple(data.captions[index] for index in chosen_texts), ("{}",)),
        truth=Truth(image_of_text, len(chosen_images), None, np.ones(len(chosen_texts), np.bool_)),
        image_features=image_features[chosen_images],
        text_features=captions.features[chosen_texts],
        n_captions_whole=len(data.captions),
    )


def _value_of(protocol: types.Protocol, samples: types.Samples, metric: str) -> float:
    """Return the value of a metric, computed from the arrays of all samples."""
    task = task_for(protocol)
    estimates = task.estimates(task.derive(samples))
    return estimates[metric].value
