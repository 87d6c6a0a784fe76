"""Draw images with true and predicted label maps, the same images for all models.

A predicted map is shown only if it gives the pixel counts that were measured. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cosmos_core.data.pixels import open_image
from cosmos_eval.data.label_maps import Label, LabelMaps, Sample, open_data, read_label
from cosmos_eval.reporting.content import SampledResult
from cosmos_eval.reporting.gallery.pictures import Candidate, Canvas, shrunk
from cosmos_eval.reporting.gallery.records import SegmentationExample
from cosmos_eval.reporting.gallery.samples import Judgement, LabelMapJudgement
from cosmos_eval.reporting.gallery.source import (
    MAPS,
    ImageWithText,
    Request,
    ResultGroup,
    ResultSource,
    listed,
)
from cosmos_eval.results.filenames import predictions_name
from cosmos_eval.results.identity import auxiliary_of
from cosmos_eval.stats.segmentation import confusion, pixel_accuracy
from cosmos_eval.tasks import segmentation
from cosmos_eval.tasks.segmentation import AREAS, CLASSES, NAME, pictures
from cosmos_eval.tasks.segmentation.tuning import tuned_protocol
from cosmos_eval.types import OnProgress, RunOptions, Samples, SegmentationProtocol, UsageError

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

_MOST_IMAGES = 3  # of a data set
# Images by quality, as quantiles: a typical one, a poor one, a good one.
_QUANTILES = (0.5, 0.1, 0.9)
# A class that has at least this share of an image's pixels is easily seen.
_EASILY_SEEN = 0.01
_PROMPT = "a photo of a {}."
# The share of an image's pixels whose prediction may differ from the measured one. Rounding moves
# pixels at borders, under autocast more of them (1% of the pixels from fp32 to bf16).
_TOLERANCE: dict[str, float] = {"fp32": 0.001, "amp": 0.02, "bf16": 0.02, "fp16": 0.02}


class LabelledImage(NamedTuple):
    """An image with its true label map."""

    # The index of the image among the samples of the data set.
    sample_index: int
    sample: Sample
    # The true classes (H, W).
    label: Label


class SegmentationSource(ResultSource):
    """Images of a segmentation set with the label maps of all results of a group."""

    def __init__(self, group: ResultGroup, options: RunOptions, predictions: Path | None) -> None:
        """Choose images, read the label maps that runs saved, and request the others.

        Args:
            group: The results on a data set by one protocol.
            options: How data are opened and models are run.
            predictions: A folder that `cosmos-eval run --save-predictions` wrote, or None.
        """
        super().__init__(group, options)
        # Predicted label maps as drawn, by model and index of the image.
        self._maps: dict[tuple[str, int], Label] = {}
        # Models whose predictions are not all the measured ones.
        self._models_that_differ: set[str] = set()
        self._opened_results = self.open_results(whole=True)
        self._results = [opened_result.result for opened_result in self._opened_results]

        # Choose the images that are shown, and read their true label maps.
        self._images: list[LabelledImage] = []
        if self._opened_results:
            data = self._opened_results[0].data
            for index in choose_images([result.samples for result in self._results]):
                sample = data.samples[index]
                try:
                    label = read_label(sample, self.protocol)
                except UsageError as error:
                    self.notes.append(str(error))
                else:
                    self._images.append(LabelledImage(index, sample, label))

        # Request the label maps of each model that were not saved.
        for result in self._results:
            if predictions is not None:
                self._read_saved_maps(predictions, result)
            images_without_map = []
            for image in self._images:
                if (result.model, image.sample_index) not in self._maps:
                    images_without_map.append(image)
            if images_without_map:
                self.requests.append(
                    _LabelMapRequest(
                        row=result.row,
                        label=result.model,
                        kind=MAPS,
                        dataset=group.name,
                        source=self,
                        result=result,
                        images=images_without_map,
                    )
                )
        self.images_with_texts += self._images_with_prompts()

    def open_data(self, options: RunOptions) -> LabelMaps:
        """Open the images and true label maps of the data set."""
        return open_data(self.protocol, options)

    def has_measured_names(self, result: SampledResult, data: LabelMaps) -> bool:
        """Return whether a result has the first images, and all classes, of the data."""
        measured_names = result.samples[NAME].tolist()
        first_samples = data.samples[: len(measured_names)]
        names = [sample.name for sample in first_samples]
        measured_classes = result.samples[CLASSES].tolist()
        return names == measured_names and measured_classes == list(self.protocol.class_names)

    def measured_part(self, result: SampledResult, data: LabelMaps) -> LabelMaps:
        """Return the data with the first images only, which a result was measured on."""
        return data._replace(samples=data.samples[: len(result.samples[NAME])])

    def judge(self, data: Any, samples: Sequence[Samples]) -> list[Judgement]:
        """Return which models are right on which classes of which images.

        `data` are the opened data, and `samples` the stored arrays of each model's result.
        """
        return [LabelMapJudgement(self.protocol, data, samples)]

    def _read_saved_maps(self, predictions: Path, result: SampledResult) -> None:
        """Read and keep the label maps of a result that a run saved below a folder.

        Maps that do not give the measured pixel counts, or cannot be read, are left out with a
        note. Maps that were not saved are left out without one.

        Args:
            predictions: The folder that runs saved label maps in.
            result: A result of the group.
        """
        folder = self._find_saved_maps(predictions, result)
        saved_maps: list[tuple[LabelledImage, Label]] = []
        for image in self._images:
            file = pictures.prediction_file(folder, image.sample.name)
            if file.is_file():
                try:
                    saved_maps.append((image, _read_saved_map(file)))
                except UsageError as error:
                    self.notes.append(str(error))
        all_were_measured = self._add_measured_maps(result, saved_maps)
        if not all_were_measured:
            self.notes.append(f"{folder}: not the label maps that {result.model} was measured with")

    def _find_saved_maps(self, predictions: Path, result: SampledResult) -> Path:
        """Return the folder in which a run wrote the label maps of a result.

        It lies below the folder `predictions`. Its path depends on the model, the data set, the
        protocol and the form of attention.
        """
        record = result.row.provenance
        auxiliary = auxiliary_of(record)
        model_folder = predictions / predictions_name(result.stored.identity.name, auxiliary)
        protocol_attention = record.get("protocol_attention", self.protocol.attention)
        protocol = replace(
            self.protocol, protocol_name=self.group.protocol_name, attention=protocol_attention
        )
        attention = None if auxiliary else record["attention"]
        return pictures.predictions_folder(model_folder, protocol, attention)

    def predict(
        self, result: SampledResult, images: Sequence[LabelledImage], encoder: Encoder
    ) -> None:
        """Predict and keep the label maps of images with the options that a result was measured by.

        Args:
            result: A result of the group.
            images: The images to predict label maps for.
            encoder: The loaded model of the result.

        Raises:
            UsageError: The maps cannot be predicted, or the result has a tuned constant that does
                not exist any more.
        """
        from cosmos_eval.tasks.segmentation.inference import predictions

        record = result.row.provenance
        options = replace(
            self.options, attention=record["attention"], auxiliary=auxiliary_of(record)
        )
        # Some constants of the protocol may have been tuned for the model.
        protocol: SegmentationProtocol = self.protocol
        tuned = record.get("tuned")
        if tuned is not None:
            protocol = tuned_protocol(tuned, protocol, result.row.model["spec"])
        samples = [image.sample for image in images]
        maps = predictions(encoder, protocol, samples, options)
        all_were_measured = self._add_measured_maps(result, list(zip(images, maps, strict=True)))
        if not all_were_measured:
            self._models_that_differ.add(result.model)

    def _add_measured_maps(
        self, result: SampledResult, maps: Sequence[tuple[LabelledImage, Label]]
    ) -> bool:
        """Keep the label maps that give the pixel counts of a result, in the size that is drawn.

        Args:
            result: A result of the group, which stores pixel counts.
            maps: Images, each with its predicted classes (H, W).

        Returns:
            True if all of the maps give the stored counts.
        """
        all_were_measured = True
        for image, classes in maps:
            if _gives_measured_counts(classes, image, result, self.protocol):
                self._maps[result.model, image.sample_index] = shrunk(classes)
            else:
                all_were_measured = False
        return all_were_measured

    def _images_with_prompts(self) -> Iterator[ImageWithText]:
        """Yield every image with the prompt of one of its classes, such as "a photo of a cat.".

        The class is the smallest one that has at least 1% of the pixels. Images without such a
        class are left out.
        """
        n_classes = len(self.protocol.class_names)
        for image in self._images:
            # The number of pixels of each class. Larger values are pixels without a class.
            class_pixels = np.bincount(image.label.ravel(), minlength=n_classes)[:n_classes]
            visible_classes = np.flatnonzero(class_pixels >= _EASILY_SEEN * image.label.size)
            if len(visible_classes):
                smallest_class = visible_classes[np.argmin(class_pixels[visible_classes])]
                class_name = self.protocol.queries[smallest_class][0]  # the first of its names
                yield ImageWithText(
                    dataset=self.protocol.dataset,
                    name=image.sample.name,
                    read_image=partial(pictures.read_image, image.sample.image),
                    text=_PROMPT.format(class_name),
                )

    def candidates(self) -> Iterator[Candidate]:
        """Yield the chosen classes of images, then images with the label maps of all results.

        A note names the models whose label maps are not the measured ones.
        """
        yield from self.sample_candidates(self._opened_results)
        models = [result.model for result in self._results]
        models_that_differ = [model for model in models if model in self._models_that_differ]
        if models_that_differ:
            self.notes.append(
                f"{self.group.name}: label maps of {listed(models_that_differ)} are not shown, as "
                "they come out otherwise than measured"
            )
        protocol = replace(self.protocol, protocol_name=self.group.protocol_name)
        for index, image in enumerate(self._images):
            map_by_model = {}
            for model in models:
                if (model, image.sample_index) in self._maps:
                    map_by_model[model] = self._maps[model, image.sample_index]
            drawing = _LabelMapDrawing(protocol, image, map_by_model)
            # The first image is in round 0, the second one in round 1.
            yield Candidate(round=index, draw=drawing.draw)


@dataclass(frozen=True, kw_only=True)
class _LabelMapRequest(Request):
    """A request for the label maps that the model of a result predicts for images."""

    source: SegmentationSource
    result: SampledResult
    images: Sequence[LabelledImage]

    def run(self, encoder: Encoder, progress: OnProgress) -> None:
        """Predict the label maps. Raises UsageError if they cannot be predicted."""
        self.source.predict(self.result, self.images, encoder)


def choose_images(results: Sequence[Samples]) -> list[int]:
    """Return the indices of at most three images to show, chosen by their pixel accuracy.

    If there are several results, the first image is the one on which their accuracies differ most.
    Then come a typical, a poor and a good image by the mean accuracy of all results. Only images
    that all results have are chosen.

    Args:
        results: For each model, the stored arrays of its result.
    """
    # A result on fewer images has the first ones.
    n_images = min(len(samples[NAME]) for samples in results)
    accuracies_of_models = []
    for samples in results:
        accuracy = pixel_accuracy(segmentation.TASK.derive(samples)[AREAS])
        accuracies_of_models.append(accuracy[:n_images])
    accuracies = np.stack(accuracies_of_models)  # (models, images)
    # The accuracy is NaN for images without labels.
    labelled_images = np.flatnonzero(~np.isnan(accuracies).any(axis=0))
    if not len(labelled_images):
        return []
    accuracies = accuracies[:, labelled_images]

    # Choose among the labelled images, by their index in `labelled_images`.
    chosen = []
    if len(results) > 1:
        spread = np.ptp(accuracies, axis=0)  # the largest minus the smallest accuracy
        chosen.append(int(np.argmax(spread)))
    by_mean = np.argsort(accuracies.mean(axis=0), kind="stable")  # the poorest first
    by_mean = by_mean[~np.isin(by_mean, chosen)]
    if len(by_mean):
        n_missing = _MOST_IMAGES - len(chosen)
        for quantile in _QUANTILES[:n_missing]:
            place = round(quantile * (len(by_mean) - 1))
            chosen.append(int(by_mean[place]))
    return [int(labelled_images[index]) for index in dict.fromkeys(chosen)]  # each once


def _gives_measured_counts(
    classes: Label, image: LabelledImage, result: SampledResult, protocol: SegmentationProtocol
) -> bool:
    """Return whether a predicted label map gives the pixel counts that a result stores.

    The counts may differ by the share of pixels that rounding moves at borders of classes.

    Args:
        classes: (H, W), the predicted class of each pixel.
        image: The image with its true classes.
        result: The result, which stores the pixels of each pair of a true and a predicted class.
        protocol: The settings of the measurement, among them the names of classes.
    """
    n_classes = len(protocol.class_names)
    if classes.shape != image.label.shape or classes.max() >= n_classes:
        return False
    # The number of a pair of a true and a predicted class is true class * n_classes + predicted
    # class, as in a flat confusion matrix. Results store only pairs that an image has.
    samples = result.samples
    is_of_image = samples["image"] == image.sample_index
    stored_counts = np.zeros(n_classes**2, np.int64)
    stored_counts[samples["pair"][is_of_image]] = samples["pixels"][is_of_image]
    counts = confusion(image.label, classes, n_classes, protocol.ignore_index).ravel()
    # A pixel with another class lowers one count by 1 and raises another one by 1.
    n_differing_pixels = np.abs(stored_counts - counts).sum() / 2
    tolerance = _TOLERANCE[result.row.provenance["precision"]]
    return bool(n_differing_pixels <= tolerance * counts.sum())


def _read_saved_map(file: Path) -> Label:
    """Return the classes (H, W) of a label map that a run saved as a PNG file.

    Raises UsageError if the file cannot be read, or is a colour image instead of a label map.
    """
    try:
        with open_image(file) as image:
            mode = image.mode
            classes = np.asarray(image)
    except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for a broken PNG
        raise UsageError(f"cannot read the saved label map {file}: {error}") from error
    if mode not in ("P", "L", "I;16", "I"):
        raise UsageError(f"{file} is not a saved label map: its mode is {mode}")
    return classes


class _LabelMapDrawing(NamedTuple):
    """An image that can be drawn, with its true and its predicted label maps."""

    # The settings of the measurement, among them the names of classes.
    protocol: SegmentationProtocol
    image: LabelledImage
    # The predicted classes (H, W) of each model, in the size that is drawn.
    map_by_model: Mapping[str, Label]

    def draw(self, canvas: Canvas) -> SegmentationExample:
        """Draw the image, its true label map and its predicted label maps.

        `canvas` encodes the pictures. Raises UsageError if the image cannot be read.
        """
        sample = self.image.sample
        rgb_image = pictures.read_image(sample.image)
        size = canvas.size_of(rgb_image.size)
        palette = pictures.colours(self.protocol)
        predictions = {}
        for model, classes in self.map_by_model.items():
            predictions[model] = canvas.label_map(classes, palette, size)
        return SegmentationExample(
            dataset=self.protocol.dataset,
            protocol=self.protocol.protocol_name,
            name=sample.name,
            image=canvas.large(rgb_image)._replace(file=sample.name),
            truth=canvas.label_map(self.image.label, palette, size),
            predictions=predictions,
            legend=self._make_legend(palette),
        )

    def _make_legend(self, palette: Sequence[tuple[int, int, int]]) -> dict[str, str]:
        """Return the colours of all classes in the label maps, such as {"cat": "#0000ff"}.

        `palette` holds the red, green and blue of each class.
        """
        flat_maps = [self.image.label.ravel()]
        for classes in self.map_by_model.values():
            flat_maps.append(classes.ravel())
        legend = {}
        for class_index in np.unique(np.concatenate(flat_maps)):
            # Larger values are pixels without a class.
            if class_index < len(self.protocol.class_names):
                red, green, blue = palette[class_index]
                class_name = self.protocol.class_names[class_index]
                legend[class_name] = f"#{red:02x}{green:02x}{blue:02x}"
        return legend
