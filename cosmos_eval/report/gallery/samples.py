"""Choose samples to show as thumbnails, each with the outcomes of all models. Imports no torch.

Shapes: K models, N samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.data.class_names import ClassData, displayed_class_names
from cosmos_eval.data.label_maps import LabelMaps
from cosmos_eval.data.retrieval import RetrievalData
from cosmos_eval.data.sources import decode_source
from cosmos_eval.report.content import SampledResult
from cosmos_eval.report.gallery.pictures import Canvas
from cosmos_eval.report.gallery.records import Outcome, SampleExample
from cosmos_eval.stats.segmentation import class_scores
from cosmos_eval.tasks import segmentation
from cosmos_eval.tasks.classification import LABELS, TOP5
from cosmos_eval.tasks.retrieval import TEXT_RANK
from cosmos_eval.tasks.segmentation import AREAS, NAME, pictures
from cosmos_eval.types import ClassificationProtocol, Samples, SegmentationProtocol

MOST_SAMPLES = 60
"""The most samples of a data set that are shown."""
_THUMBNAIL = 112  # longest side in pixels
_LEAST_SHARE = 0.001  # a class is a sample if it has at least this share of the image's pixels
_RIGHT_IOU = 0.5  # a model is right on a class of an image if its IoU is at least this


class Judgement(ABC):
    """The outcomes of models on the samples of a data set; each task has a subclass.

    Attributes:
        right: True for each model and sample (K, N) if the model is right.
        kind: The kind of each sample (N,). The chosen samples have different kinds.
    """

    right: NDArray[np.bool_]
    kind: NDArray[Any]

    @abstractmethod
    def image(self, sample: int) -> Image.Image:
        """Return the image of a sample. Raises UsageError if it is damaged."""

    @abstractmethod
    def description(self, sample: int) -> dict[str, Any]:
        """Return the text of a sample, and its class, number of words or size if it has them."""

    @abstractmethod
    def answer(self, model: int, sample: int) -> str:
        """Return what a model answered on a sample, as text."""


class ClassJudgement(Judgement):
    """Images, on which a model is right if its first predicted class is the true class.

    The kind of an image is its true class.
    """

    def __init__(
        self, protocol: ClassificationProtocol, data: ClassData, samples: Sequence[Samples]
    ) -> None:
        self._data = data
        self._labels = samples[0][LABELS]
        self._class_names = displayed_class_names(protocol, data)
        self._predicted = np.stack([model_samples[TOP5][:, 0] for model_samples in samples])
        self.right = self._predicted == self._labels
        self.kind = self._labels

    def image(self, sample: int) -> Image.Image:
        return decode_source(self._data.images[sample])

    def description(self, sample: int) -> dict[str, Any]:
        name = self._class_names[self._labels[sample]]
        return {"text": name, "group": name}

    def answer(self, model: int, sample: int) -> str:
        return self._class_names[self._predicted[model, sample]]


class CaptionJudgement(Judgement):
    """Captions, on which a model is right if it ranks their image first.

    The kind of a caption is the quarter of all captions, by number of words, that it belongs to.
    """

    def __init__(self, data: RetrievalData, samples: Sequence[Samples]) -> None:
        self._data = data
        self._ranks = np.stack([model_samples[TEXT_RANK] for model_samples in samples])
        self._n_words = np.array([len(caption.split()) for caption in data.captions])
        quartiles = np.quantile(self._n_words, (0.25, 0.5, 0.75))
        self.right = self._ranks == 1
        self.kind = np.digitize(self._n_words, quartiles)

    def image(self, sample: int) -> Image.Image:
        return decode_source(self._data.images[self._data.image_of_text[sample]])

    def description(self, sample: int) -> dict[str, Any]:
        return {"text": self._data.captions[sample], "words": int(self._n_words[sample])}

    def answer(self, model: int, sample: int) -> str:
        return f"rank {self._ranks[model, sample]}"


class LabelMapJudgement(Judgement):
    """Classes in images, on which a model is right if their IoU in the image is at least 0.5.

    A sample is one class in one image. Its kind is the class.
    """

    def __init__(
        self, protocol: SegmentationProtocol, data: LabelMaps, samples: Sequence[Samples]
    ) -> None:
        self._data = data
        self._class_names = protocol.class_names
        # A result of fewer images has the first ones.
        n_images = min(len(model_samples[NAME]) for model_samples in samples)
        areas = [segmentation.TASK.derive(model_samples)[AREAS] for model_samples in samples]
        class_pixels = areas[0].labelled[:n_images]  # (images, classes)
        image_pixels = class_pixels.sum(axis=1, keepdims=True)
        self._shares = class_pixels / np.maximum(1, image_pixels)
        # The indices of the image and the class of each sample, both (N,).
        self._images, self._classes = np.nonzero(self._shares >= _LEAST_SHARE)
        self._iou = np.stack(
            [class_scores(model_areas).iou[self._images, self._classes] for model_areas in areas]
        )
        self.right = self._iou >= _RIGHT_IOU
        self.kind = self._classes

    def image(self, sample: int) -> Image.Image:
        return pictures.read_image(self._data.samples[self._images[sample]].image)

    def description(self, sample: int) -> dict[str, Any]:
        name = self._class_names[self._classes[sample]]
        size = float(self._shares[self._images[sample], self._classes[sample]])
        return {"text": name, "group": name, "size": size}

    def answer(self, model: int, sample: int) -> str:
        return f"IoU {100 * self._iou[model, sample]:.0f}%"


class SampleDrawing(NamedTuple):
    """A sample that can be drawn, with the results of all models."""

    results: Sequence[SampledResult]
    judgement: Judgement
    sample: int

    def draw(self, canvas: Canvas) -> SampleExample:
        """Draw the sample. Raises UsageError if its image is damaged."""
        judgement, sample = self.judgement, self.sample
        outcomes = {}
        for model, result in enumerate(self.results):
            is_right = bool(judgement.right[model, sample])
            outcomes[result.model] = Outcome(judgement.answer(model, sample), is_right)
        row = self.results[0].row
        return SampleExample(
            dataset=row.dataset,
            protocol=row.protocol,
            image=canvas.large(judgement.image(sample), _THUMBNAIL),
            outcomes=outcomes,
            **judgement.description(sample),
        )


def choose_samples(
    right: NDArray[np.bool_], kind: NDArray[Any], most: int = MOST_SAMPLES
) -> list[int]:
    """Return the indices of at most `most` samples that differ in their outcomes and kinds.

    `right` (K, N) tells which models are right on each sample, `kind` (N,) is the kind of a sample,
    such as its class. Samples with the same column of `right` have the same pattern.

    Patterns take turns: the first sample of every pattern comes before the second sample of any
    pattern. Within a turn, samples on which models disagree come first. Within a pattern, kinds
    take turns in the same way. Otherwise the order is random, but always the same.

    Example: with patterns [a, a, a, b] the patterns of the chosen samples are [a, b, a, a].
    """
    samples = np.random.default_rng(0).permutation(len(kind))
    # Within each pattern, let kinds take turns: sort all samples by how many samples of the same
    # pattern and kind come before them.
    pattern_and_kind = _group_numbers(right[:, samples], kind[samples])
    samples = samples[np.argsort(_turns(pattern_and_kind), kind="stable")]
    # Let patterns take turns. Both sorts are stable, so the order within a pattern stays.
    pattern_turns = _turns(_pattern_numbers(right[:, samples]))
    models_agree = (right == right[:1]).all(axis=0)[samples]
    order = np.lexsort((models_agree, pattern_turns))  # by turn, then by agreement
    return samples[order][:most].tolist()


def _pattern_numbers(right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return one number per sample (N,), equal for samples with equal columns of `right` (K, N)."""
    _, numbers = np.unique(right, axis=1, return_inverse=True)
    return numbers.ravel()


def _group_numbers(right: NDArray[np.bool_], kind: NDArray[Any]) -> NDArray[np.int64]:
    """Return one number per sample (N,), equal for samples of the same pattern and kind."""
    kinds, kind_numbers = np.unique(kind, return_inverse=True)
    return _pattern_numbers(right) * max(1, len(kinds)) + kind_numbers


def _turns(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each sample how many samples of its group come before it.

    Example: [7, 8, 7] -> [0, 0, 1].
    """
    order = np.argsort(groups, kind="stable")
    sorted_groups = groups[order]
    # The position in the sorted array at which the group of each sample begins.
    group_starts = np.searchsorted(sorted_groups, sorted_groups)
    turns = np.empty(len(groups), np.int64)
    turns[order] = np.arange(len(groups)) - group_starts
    return turns
