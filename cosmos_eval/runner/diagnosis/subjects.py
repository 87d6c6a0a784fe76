"""Subjects of a diagnosis: a model on a data set, its number, and samples to run again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosmos_eval import types
from cosmos_eval.data.class_names import class_names, templates_of
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
    """A model on a data set: the number of the whole set, and the part that is run again.

    The outcome of a sample is what it contributes to the metric: the mean outcome of all samples of
    the whole set is the number. A sample is an image, with its captions.
    """

    encoder: Encoder
    metric: str
    # The number of the whole set, as `cosmos-eval run` measures it, and the number by chance.
    value: float
    chance: float
    # The number of images of the whole set.
    n_whole: int
    # The part: the indices (n,) of its images in the whole set.
    indices: Ints
    # (n,) the share of hits of each image's queries in the whole set without a fault.
    hits: Values
    # Its n images, their texts, and what is right.
    images: Sequence[ImageSource]
    wording: Wording
    truth: Truth
    # The features of the part without a fault, from the whole set.
    image_features: Features
    text_features: Features

    @property
    @abstractmethod
    def right_values(self) -> Values:
        """The contribution (n,) of each image to the number without a fault."""

    @abstractmethod
    def outcomes(self, image_features: Features, text_features: Features, truth: Truth) -> Outcomes:
        """Return the outcomes of the n images of the part.

        Args:
            image_features: (n, D), perhaps with a fault.
            text_features: (T, D) of the texts of the part, perhaps with a fault.
            truth: What is right, perhaps with a fault.
        """


@dataclass(frozen=True)
class ClassificationSubject(Subject):
    """Zero-shot classification: every image is compared with all classes."""

    # (n,) the weight of each image in the metric, with the mean 1 over the whole set.
    weights: Values

    @property
    def right_values(self) -> Values:
        """The weight (n,) of each image that is right, and 0 for the others."""
        return self.weights * self.hits

    def outcomes(self, image_features: Features, text_features: Features, truth: Truth) -> Outcomes:
        """Return the weight of each image that is right, and 0 for the others."""
        n_places = PLACES_BY_METRIC[self.metric]
        predicted = top_classes(image_features, text_features, n_places)
        hits = (predicted == truth.labels[:, None]).any(axis=1)
        return Outcomes(self.weights * hits)


@dataclass(frozen=True)
class RetrievalSubject(Subject):
    """Retrieval: images and captions of the part are compared with each other.

    The gallery of the whole set is larger. A query's rank there follows from the number of better
    rivals in the part (`expected_hits`).
    """

    # The number of captions of the whole set.
    n_captions_whole: int

    @property
    def right_values(self) -> Values:
        """The share of hits (n,) of each image, weighed by its number of queries."""
        if self.metric.startswith(_IMAGE_TO_TEXT):
            return self.hits
        n_captions = np.bincount(self.truth.labels, minlength=len(self.hits))
        weighed: Values = self.hits * n_captions / n_captions.mean()
        return weighed

    def outcomes(self, image_features: Features, text_features: Features, truth: Truth) -> Outcomes:
        """Return the mean over each image's queries of the probability of a hit."""
        assert truth.kept_captions is not None
        kept = truth.kept_captions
        image_of_text = truth.labels[kept]
        n_images, n_texts = len(image_features), int(kept.sum())
        ranks = retrieval_ranks(image_features, text_features[kept], image_of_text)
        direction, _, k = self.metric.rpartition("_R@")
        if direction == _IMAGE_TO_TEXT:
            n_texts_whole = round(self.n_captions_whole * n_texts / len(kept))
            captions_per_image = n_texts / n_images
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
    """Return the metrics of a task that can be diagnosed, the usual one first.

    Raises UsageError for a task without any.
    """
    if task_name == "cls":
        return [*PLACES_BY_METRIC]
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
    """Measure a model on a whole data set, and choose the samples that are run again.

    Args:
        encoder: The model.
        protocol: The protocol of the data set, of classification or retrieval.
        data: The opened data set.
        metric: The metric, one of `metrics_of`.
        n_samples: How many images are chosen at random, if there are more.
        options: The options of the run. Embeddings of the whole set are cached.
        progress: Called with the progress.
    """
    if isinstance(protocol, types.ClassificationProtocol):
        make = _make_classification
    else:
        make = _make_retrieval
    return make(encoder, protocol, data, metric, n_samples, options, progress)


def _choose(n_whole: int, n_samples: int) -> Ints:
    """Return the sorted indices of samples that are chosen at random."""
    n_chosen = min(n_samples, n_whole)
    chosen = np.random.default_rng(_SEED).choice(n_whole, n_chosen, replace=False)
    return np.sort(chosen)


def _make_classification(
    encoder: Encoder,
    protocol: Any,
    data: Any,
    metric: str,
    n_samples: int,
    options: types.RunOptions,
    progress: types.OnProgress,
) -> Subject:
    """Measure classification, and choose images. `make_subject` explains the arguments."""
    names = class_names(protocol, data)
    templates = resolve_templates(templates_of(protocol, data))
    class_embeddings = prompt_embeddings(encoder, names, templates, options, progress)
    image_features = embed_images(encoder, data.images, options, progress).features
    samples = classification.TASK.make_samples(protocol, data, image_features, class_embeddings)
    n_classes, n_whole = len(names), len(data.images)
    if metric == "acc5" and n_classes < 5:
        raise types.UsageError(f"{protocol.dataset} has {n_classes} classes, too few for acc5")

    chosen = _choose(n_whole, n_samples)
    hits = hits_of(samples, protocol.task, metric)
    weights = np.ones(n_whole)
    if metric == "mean_per_class_recall":
        images_of_class = np.bincount(data.labels, minlength=n_classes)
        n_classes_with_images = np.count_nonzero(images_of_class)
        weights = n_whole / (n_classes_with_images * images_of_class[data.labels])
    return ClassificationSubject(
        encoder=encoder,
        metric=metric,
        value=_value_of(protocol, samples, metric),
        chance=PLACES_BY_METRIC[metric] / n_classes,
        n_whole=n_whole,
        indices=chosen,
        hits=hits[chosen],
        images=[data.images[index] for index in chosen],
        wording=Wording(tuple(names), templates, tuple(data.classes)),
        truth=Truth(data.labels[chosen], n_classes, tuple(names)),
        image_features=image_features[chosen],
        text_features=class_embeddings,
        weights=weights[chosen],
    )


def _make_retrieval(
    encoder: Encoder,
    protocol: Any,
    data: Any,
    metric: str,
    n_samples: int,
    options: types.RunOptions,
    progress: types.OnProgress,
) -> Subject:
    """Measure retrieval, and choose images with their captions. As `make_subject`."""
    if protocol.pairs is not None:
        raise types.UsageError(
            f"{protocol.protocol_name} scores pairs, which cannot be diagnosed: choose a protocol "
            "without them"
        )
    image_features = embed_images(encoder, data.images, options, progress).features
    captions = embed_texts(encoder, data.captions, options, progress, "captions")
    ranks = retrieval_ranks(image_features, captions.features, data.image_of_text)
    samples = {
        retrieval.IMAGE_RANK: ranks.image_to_text,
        retrieval.TEXT_RANK: ranks.text_to_image,
        retrieval.IMAGE_OF_TEXT: data.image_of_text,
    }
    n_whole = len(data.images)
    chosen = _choose(n_whole, n_samples)
    hits = hits_of(samples, protocol.task, metric)
    chosen_texts = np.flatnonzero(np.isin(data.image_of_text, chosen))
    image_of_text = np.searchsorted(chosen, data.image_of_text[chosen_texts])
    return RetrievalSubject(
        encoder=encoder,
        metric=metric,
        value=_value_of(protocol, samples, metric),
        chance=int(metric.rpartition("@")[2]) / n_whole,
        n_whole=n_whole,
        indices=chosen,
        hits=hits[chosen],
        images=[data.images[index] for index in chosen],
        wording=Wording(tuple(data.captions[index] for index in chosen_texts), ("{}",)),
        truth=Truth(image_of_text, len(chosen), None, np.ones(len(chosen_texts), np.bool_)),
        image_features=image_features[chosen],
        text_features=captions.features[chosen_texts],
        n_captions_whole=len(data.captions),
    )


def _value_of(protocol: types.Protocol, samples: types.Samples, metric: str) -> float:
    """Return the value of a metric of the samples of the whole set."""
    task = task_for(protocol)
    estimates = task.estimates(task.derive(samples))
    return estimates[metric].value
