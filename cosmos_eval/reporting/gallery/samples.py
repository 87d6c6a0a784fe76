"""Choose samples to show as thumbnails, each with the outcomes of all models. Imports no torch.

Shapes: K models, N samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.data.class_names import ClassData, displayed_class_names
from cosmos_eval.data.label_maps import LabelMaps
from cosmos_eval.data.retrieval import RetrievalData
from cosmos_eval.data.sources import decode_source
from cosmos_eval.reporting.content import SampledResult
from cosmos_eval.reporting.gallery.pictures import Canvas
from cosmos_eval.reporting.gallery.records import Outcome, SampleExample
from cosmos_eval.results.text import percent
from cosmos_eval.stats.segmentation import class_scores
from cosmos_eval.tasks import segmentation
from cosmos_eval.tasks.classification import LABELS, TOP5
from cosmos_eval.tasks.retrieval import IMAGE_RANK, TEXT_RANK
from cosmos_eval.tasks.segmentation import AREAS, CLASSES, NAME, pictures
from cosmos_eval.types import ClassificationProtocol, Samples, SegmentationProtocol

MOST_SAMPLES = 60
"""The most samples of a data set that are shown, of retrieval sets in each direction."""
_THUMBNAIL = 112  # longest side in pixels
_LEAST_SHARE = 0.001  # a class is a sample if it has at least this share of the image's pixels
_RIGHT_IOU = 0.5  # a model is right on a class of an image if its IoU is at least this


class Judgement(ABC):
    """The samples of a data set on which each of several models is right. Each task has a subclass.

    A sample is a small thing to show, such as an image with its class, or a caption. Methods get
    samples and models by their indices.

    Attributes:
        right: True for each model and sample (K, N) if the model is right.
        kind: The kind of each sample (N,), such as its class. Chosen samples differ in their kinds.
        metric: The metric that is the fraction of right samples; empty if there is none.
    """

    metric: ClassVar[str] = ""
    right: NDArray[np.bool_]
    kind: NDArray[Any]

    @abstractmethod
    def file(self, sample: int) -> str:
        """Return the name of the image file of a sample, with its folders in the data set."""

    @abstractmethod
    def image(self, sample: int) -> Image.Image:
        """Return the image of a sample. Raises UsageError if it is damaged."""

    @abstractmethod
    def description(self, sample: int) -> dict[str, Any]:
        """Return fields of `SampleExample` that describe a sample.

        For example, {"text": "a dog runs", "words": 3} for a caption.
        """

    @abstractmethod
    def answer(self, model: int, sample: int) -> str:
        """Return the answer of a model on a sample as text, such as "rank 3"."""

    def taken_for(self, model: int, sample: int) -> str:
        """Return the class that a model takes a sample for, or "" if that is the true class.

        Also return "" for samples without classes.
        """
        return ""


class ClassJudgement(Judgement):
    """Images, on which a model is right if its first predicted class is the true class.

    The kind of an image is its true class.
    """

    metric = "acc1"

    def __init__(
        self, protocol: ClassificationProtocol, data: ClassData, samples: Sequence[Samples]
    ) -> None:
        """Compare the first predictions of all models with the labels.

        Args:
            protocol: The settings of the measurement, among them the names of classes.
            data: The images and their labels.
            samples: For each model, the stored arrays of its result: labels and predictions.
        """
        self._data = data
        self._labels = samples[0][LABELS]
        self._class_names = displayed_class_names(protocol, data)
        first_predictions = [samples_of_model[TOP5][:, 0] for samples_of_model in samples]
        self._predicted = np.stack(first_predictions)  # (K, N)
        self.right = self._predicted == self._labels
        self.kind = self._labels

    def file(self, sample: int) -> str:
        """Return the name of an image, such as "wolf/1.jpg"."""
        return self._data.names[sample]

    def image(self, sample: int) -> Image.Image:
        """Return an image. Raises UsageError if it is damaged."""
        return decode_source(self._data.images[sample])

    def description(self, sample: int) -> dict[str, Any]:
        """Return the name of an image's true class, as its text and as its group."""
        class_name = self._class_names[self._labels[sample]]
        return {"text": class_name, "group": class_name}

    def answer(self, model: int, sample: int) -> str:
        """Return the name of the class that a model predicts for an image."""
        return self._class_names[self._predicted[model, sample]]

    def taken_for(self, model: int, sample: int) -> str:
        """Return the name of the predicted class, or "" if it is the true class."""
        return "" if self.right[model, sample] else self.answer(model, sample)


class CaptionJudgement(Judgement):
    """Captions, on which a model is right if it ranks their image first.

    The kind of a caption is the quarter of all captions, by number of words, that it belongs to.
    """

    metric = "text_to_image_R@1"

    def __init__(self, data: RetrievalData, samples: Sequence[Samples]) -> None:
        """Read the rank that each model gives each caption's image.

        Args:
            data: The images and captions.
            samples: For each model, the stored arrays of its result, among them the ranks.
        """
        self._data = data
        self._ranks = np.stack([samples_of_model[TEXT_RANK] for samples_of_model in samples])
        self._n_words = np.array([len(caption.split()) for caption in data.captions])
        self.right = self._ranks == 1
        # The quarter of all captions, 0 to 3, that each caption belongs to.
        quartiles = np.quantile(self._n_words, (0.25, 0.5, 0.75))
        self.kind = np.digitize(self._n_words, quartiles)

    def file(self, sample: int) -> str:
        """Return the name of the image of a caption, as the file of captions writes it."""
        return self._data.names[self._data.image_of_text[sample]]

    def image(self, sample: int) -> Image.Image:
        """Return the image of a caption. Raises UsageError if it is damaged."""
        image_index = self._data.image_of_text[sample]
        return decode_source(self._data.images[image_index])

    def description(self, sample: int) -> dict[str, Any]:
        """Return a caption and the number of its words."""
        return {
            "text": self._data.captions[sample],
            "direction": "text to image",
            "words": int(self._n_words[sample]),
        }

    def answer(self, model: int, sample: int) -> str:
        """Return the rank that a model gives the caption's image, such as "rank 3"."""
        return f"rank {self._ranks[model, sample]}"


class CaptionedImageJudgement(Judgement):
    """Images with captions, on which a model is right if it ranks any of their captions first.

    All images have one kind.
    """

    metric = "image_to_text_R@1"

    def __init__(self, data: RetrievalData, samples: Sequence[Samples]) -> None:
        """Read the rank that each model gives each image's best caption.

        Args:
            data: The images and captions.
            samples: For each model, the stored arrays of its result, among them the ranks.
        """
        self._data = data
        self._ranks = np.stack([samples_of_model[IMAGE_RANK] for samples_of_model in samples])
        self.right = self._ranks == 1
        self.kind = np.zeros(self._ranks.shape[1], np.int64)

    def file(self, sample: int) -> str:
        """Return the name of an image, as the file of captions writes it."""
        return self._data.names[sample]

    def image(self, sample: int) -> Image.Image:
        """Return an image. Raises UsageError if it is damaged."""
        return decode_source(self._data.images[sample])

    def description(self, sample: int) -> dict[str, Any]:
        """Return the first caption of an image."""
        # `argmax` returns the first caption that belongs to the image.
        first_caption = int(np.argmax(self._data.image_of_text == sample))
        return {"text": self._data.captions[first_caption], "direction": "image to text"}

    def answer(self, model: int, sample: int) -> str:
        """Return the rank that a model gives the image's best caption, such as "rank 3"."""
        return f"rank {self._ranks[model, sample]}"


class LabelMapJudgement(Judgement):
    """Classes in images, on which a model is right if their IoU in the image is at least 0.5.

    A sample is one class in one image. Its kind is the class.
    """

    def __init__(
        self, protocol: SegmentationProtocol, data: LabelMaps, samples: Sequence[Samples]
    ) -> None:
        """Compute the IoU of each class in each image.

        A sample is a class in an image that has at least 0.1% of the image's labelled pixels.

        Args:
            protocol: The settings of the measurement, among them the names of classes.
            data: The images and their label maps.
            samples: For each model, the stored arrays of its result: names and pixel counts of
                images.
        """
        self._data = data
        self._class_names = protocol.class_names
        self._names = samples[0][NAME]
        areas_of_models = []
        # For each model, the class (images, classes) that it takes most pixels of a class for.
        self._predicted: list[NDArray[np.int64]] = []
        for samples_of_model in samples:
            areas_of_models.append(segmentation.TASK.derive(samples_of_model)[AREAS])
            self._predicted.append(_most_predicted(samples_of_model))
        # A result on fewer images has the first ones.
        n_images = min(len(samples_of_model[NAME]) for samples_of_model in samples)
        class_pixels = areas_of_models[0].labelled[:n_images]  # (images, classes)
        image_pixels = class_pixels.sum(axis=1, keepdims=True)
        self._pixel_shares = class_pixels / np.maximum(1, image_pixels)
        # The indices of the image and the class of each sample, both (N,).
        self._images, self._classes = np.nonzero(self._pixel_shares >= _LEAST_SHARE)
        ious = []
        for areas in areas_of_models:
            iou = class_scores(areas).iou  # (images, classes)
            ious.append(iou[self._images, self._classes])
        self._ious = np.stack(ious)  # (K, N)
        self.right = self._ious >= _RIGHT_IOU
        self.kind = self._classes

    def file(self, sample: int) -> str:
        """Return the name of the image of a sample."""
        return str(self._names[self._images[sample]])

    def image(self, sample: int) -> Image.Image:
        """Return the image of a sample. Raises UsageError if it is damaged."""
        image_index = self._images[sample]
        return pictures.read_image(self._data.samples[image_index].image)

    def description(self, sample: int) -> dict[str, Any]:
        """Return the name of a sample's class as text and group, and the share of its pixels."""
        image_index = self._images[sample]
        class_index = self._classes[sample]
        class_name = self._class_names[class_index]
        size = float(self._pixel_shares[image_index, class_index])
        return {"text": class_name, "group": class_name, "size": size}

    def answer(self, model: int, sample: int) -> str:
        """Return the IoU of a model on a sample, such as "IoU 62%".

        If the model takes most pixels of the class for another one, add its name: "IoU 8%, cat".
        """
        iou = f"IoU {percent(self._ious[model, sample], 0)}%"
        other_class = self.taken_for(model, sample)
        return f"{iou}, {other_class}" if other_class else iou

    def taken_for(self, model: int, sample: int) -> str:
        """Return the class that a model takes most pixels of the sample's class for.

        Return "" if it is the sample's class.
        """
        true_class = self._classes[sample]
        predicted_class = self._predicted[model][self._images[sample], true_class]
        return "" if predicted_class == true_class else self._class_names[predicted_class]


def _most_predicted(samples: Samples) -> NDArray[np.int64]:
    """Return the class that most pixels of each class are predicted as, (images, classes).

    A class without labelled pixels in an image has -1.

    Args:
        samples: The stored arrays of a result, among them the pixels of each pair of a true and a
            predicted class in each image.

    Example:
        With two classes, an image with the confusion matrix [[1, 2], [0, 3]] has [1, 1].
    """
    n_classes = len(samples[CLASSES])
    true_classes, predicted_classes = np.divmod(samples["pair"].astype(np.int64), n_classes)
    most_predicted = np.full((len(samples[NAME]), n_classes), -1, np.int64)
    # The pairs with the most pixels are written last, and replace the others of their class.
    order = np.argsort(samples["pixels"], kind="stable")
    images = samples["image"][order]
    most_predicted[images, true_classes[order]] = predicted_classes[order]
    return most_predicted


class SampleDrawing(NamedTuple):
    """A sample that can be drawn, with the answers of all models."""

    # The results of all models, and which of the models are right. Both have the same order.
    results: Sequence[SampledResult]
    judgement: Judgement
    # The index of the sample.
    sample: int

    def draw(self, canvas: Canvas) -> SampleExample:
        """Draw the image of the sample, and add the answers of all models.

        `canvas` encodes the picture. Raises UsageError if the image is damaged.
        """
        outcomes = {}
        for model_index, result in enumerate(self.results):
            answer = self.judgement.answer(model_index, self.sample)
            is_right = bool(self.judgement.right[model_index, self.sample])
            taken_for = self.judgement.taken_for(model_index, self.sample)
            outcomes[result.model] = Outcome(answer, is_right, taken_for)
        row = self.results[0].row
        image = canvas.large(self.judgement.image(self.sample), _THUMBNAIL)
        return SampleExample(
            dataset=row.dataset,
            protocol=row.protocol,
            image=image._replace(file=self.judgement.file(self.sample)),
            metric=self.judgement.metric,
            outcomes=outcomes,
            **self.judgement.description(self.sample),
        )


def choose_samples(
    right: NDArray[np.bool_], kind: NDArray[Any], most: int = MOST_SAMPLES
) -> list[int]:
    """Return the indices of a few samples that differ in their outcomes and kinds.

    Samples have the same pattern if the same models are right on them. Patterns take turns: the
    first sample of every pattern comes before the second sample of any pattern. Within a turn,
    samples on which models disagree come first. Within a pattern, kinds take turns in the same way.
    Otherwise the order is random, but always the same.

    Args:
        right: (K, N), whether each of K models is right on each of N samples.
        kind: (N,), the kind of each sample, such as its class.
        most: The largest number of samples to return.

    Example:
        If the samples have the patterns [a, a, a, b], the chosen samples have [a, b, a, a] or
        [b, a, a, a], depending on whether models disagree in pattern b.
    """
    samples = np.random.default_rng(0).permutation(len(kind))

    # Let kinds take turns within each pattern: sort all samples by how many samples of the same
    # pattern and kind come before them. A pattern and a kind become one number, such as
    # pattern 3 * 10 kinds + kind 7 = 37.
    kinds, kind_indices = np.unique(kind[samples], return_inverse=True)
    pattern_indices = _pattern_indices(right[:, samples])
    pattern_and_kind = pattern_indices * max(1, len(kinds)) + kind_indices
    kind_turns = _count_earlier(pattern_and_kind)
    samples = samples[np.argsort(kind_turns, kind="stable")]

    # Let patterns take turns. Both sorts are stable, so the order within a pattern stays.
    pattern_turns = _count_earlier(_pattern_indices(right[:, samples]))
    models_agree = (right == right[:1]).all(axis=0)[samples]
    order = np.lexsort((models_agree, pattern_turns))  # by turn, then by agreement
    return samples[order][:most].tolist()


def _pattern_indices(right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the index of each sample's pattern, (N,), where a pattern is a column of `right`.

    Samples have the same index if the same models are right on them. `right` (K, N) says whether
    each model is right on each sample. For example, [[1, 0, 1], [1, 1, 1]] gives [1, 0, 1].
    """
    _, indices = np.unique(right, axis=1, return_inverse=True)
    return indices.ravel()


def _count_earlier(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each number occurs earlier in the array: [7, 8, 7] -> [0, 0, 1]."""
    order = np.argsort(numbers, kind="stable")
    sorted_numbers = numbers[order]
    # The place in the sorted array at which each number begins: [7, 7, 8] -> [0, 0, 2].
    starts = np.searchsorted(sorted_numbers, sorted_numbers)
    # The stable sort keeps equal numbers in their order, so that earlier ones come before.
    n_earlier = np.empty(len(numbers), np.int64)
    n_earlier[order] = np.arange(len(numbers)) - starts
    return n_earlier
