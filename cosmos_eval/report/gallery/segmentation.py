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
from cosmos_eval.report.content import SampledResult
from cosmos_eval.report.gallery.pictures import Candidate, Canvas, shrunk
from cosmos_eval.report.gallery.records import SegmentationExample
from cosmos_eval.report.gallery.samples import LabelMapJudgement
from cosmos_eval.report.gallery.source import (
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
# A class is easily seen from this share of an image's pixels on.
_EASILY_SEEN = 0.01
_PROMPT = "a photo of a {}."
# The share of an image's pixels whose prediction may differ from the measured one. Rounding moves
# pixels at borders, under autocast more of them (docs/log.md: 1% of the pixels from fp32 to bf16).
_TOLERANCE: dict[str, float] = {"fp32": 0.001, "amp": 0.02, "bf16": 0.02, "fp16": 0.02}


class LabelledImage(NamedTuple):
    """An image with its true label map."""

    # The index of the image among the samples of the data set.
    sample_index: int
    sample: Sample
    # The true classes (H, W).
    label: Label


class SegmentationSource(ResultSource):
    """Images of a group's data set with the label maps of all its results."""

    def __init__(self, group: ResultGroup, options: RunOptions, predictions: Path | None) -> None:
        super().__init__(group, options)
        self._images: list[LabelledImage] = []
        # Predicted label maps as drawn, by model and index of the image.
        self._maps: dict[tuple[str, int], Label] = {}
        # Models whose predictions are not all the measured ones.
        self._models_that_differ: set[str] = set()
        self._opened = self.open_results(whole=True)
        self._results = [opened.result for opened in self._opened]
        if self._opened:
            self._read_images(self._opened[0].data)
        for result in self._results:
            if predictions is not None:
                self._read_saved_maps(predictions, result)
            missing = [
                image
                for image in self._images
                if (result.model, image.sample_index) not in self._maps
            ]
            if missing:
                self.requests.append(
                    _LabelMapRequest(
                        row=result.row,
                        label=result.model,
                        kind=MAPS,
                        dataset=group.name,
                        source=self,
                        result=result,
                        images=missing,
                    )
                )
        self.images_with_texts += self._prompted_images()

    def open_data(self, options: RunOptions) -> LabelMaps:
        return open_data(self.protocol, options)

    def was_measured_on(self, result: SampledResult, data: LabelMaps) -> bool:
        measured_names = result.samples[NAME].tolist()
        names = [sample.name for sample in data.samples[: len(measured_names)]]
        measured_classes = result.samples[CLASSES].tolist()
        return names == measured_names and measured_classes == list(self.protocol.class_names)

    def judge(self, data: Any, samples: Sequence[Samples]) -> LabelMapJudgement:
        return LabelMapJudgement(self.protocol, data, samples)

    def _read_images(self, data: LabelMaps) -> None:
        """Choose the images that are shown, and read their true label maps."""
        for index in choose_images([result.samples for result in self._results]):
            sample = data.samples[index]
            try:
                label = read_label(sample, self.protocol)
            except UsageError as error:
                self.notes.append(str(error))
            else:
                self._images.append(LabelledImage(index, sample, label))

    def _protocol_of(self, result: SampledResult) -> SegmentationProtocol:
        """Return the protocol with the settings that were tuned for the model, if any.

        Raises UsageError if they change a setting that does not exist any more.
        """
        protocol: SegmentationProtocol = self.protocol
        tuned = result.row.provenance.get("tuned")
        if tuned is None:
            return protocol
        return tuned_protocol(tuned, protocol, result.row.model["spec"])

    def _read_saved_maps(self, predictions: Path, result: SampledResult) -> None:
        """Read the label maps that a run saved below the folder `predictions`."""
        folder = self._saved_maps_folder(predictions, result)
        saved_maps: list[tuple[LabelledImage, Label]] = []
        for image in self._images:
            file = pictures.prediction_file(folder, image.sample.name)
            if file.is_file():
                try:
                    saved_maps.append((image, _read_saved_map(file)))
                except UsageError as error:
                    self.notes.append(str(error))
        if not self._add_measured_maps(result, saved_maps):
            self.notes.append(f"{folder}: not the label maps that {result.model} was measured with")

    def _saved_maps_folder(self, predictions: Path, result: SampledResult) -> Path:
        """Return the folder in which a run with `--save-predictions` wrote the maps of a result."""
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
        """Predict the label maps of images as the result was measured.

        Raises UsageError if this is impossible.
        """
        from cosmos_eval.tasks.segmentation.inference import predictions

        record = result.row.provenance
        options = replace(
            self.options, attention=record["attention"], auxiliary=auxiliary_of(record)
        )
        samples = [image.sample for image in images]
        maps = predictions(encoder, self._protocol_of(result), samples, options)
        if not self._add_measured_maps(result, list(zip(images, maps, strict=True))):
            self._models_that_differ.add(result.model)

    def _add_measured_maps(
        self, result: SampledResult, maps: Sequence[tuple[LabelledImage, Label]]
    ) -> bool:
        """Add the label maps that give the measured pixel counts, in the size that is drawn.

        Returns whether all maps do.
        """
        all_were_measured = True
        for image, classes in maps:
            if _gives_measured_counts(classes, image, result, self.protocol):
                self._maps[result.model, image.sample_index] = shrunk(classes)
            else:
                all_were_measured = False
        return all_were_measured

    def _prompted_images(self) -> Iterator[ImageWithText]:
        """Yield every image with a prompt of its smallest class that is easily seen."""
        n_classes = len(self.protocol.class_names)
        for image in self._images:
            class_pixels = np.bincount(image.label.ravel(), minlength=n_classes)[:n_classes]
            seen_classes = np.flatnonzero(class_pixels >= _EASILY_SEEN * image.label.size)
            if len(seen_classes):
                smallest = seen_classes[np.argmin(class_pixels[seen_classes])]
                yield ImageWithText(
                    dataset=self.protocol.dataset,
                    name=image.sample.name,
                    read_image=partial(pictures.read_image, image.sample.image),
                    text=_PROMPT.format(self.protocol.queries[smallest][0]),
                )

    def candidates(self) -> Iterator[Candidate]:
        """Yield the chosen classes of images, then images with the label maps of all results."""
        yield from self.sample_candidates(self._opened)
        models = [result.model for result in self._results]
        models_that_differ = [model for model in models if model in self._models_that_differ]
        if models_that_differ:
            self.notes.append(
                f"{self.group.name}: label maps of {listed(models_that_differ)} are not shown, as "
                "they come out otherwise than measured"
            )
        protocol = replace(self.protocol, protocol_name=self.group.protocol_name)
        for turn, image in enumerate(self._images):
            maps = {}
            for model in models:
                if (model, image.sample_index) in self._maps:
                    maps[model] = self._maps[model, image.sample_index]
            yield Candidate(turn, _LabelMapDrawing(protocol, image, maps).draw)


@dataclass(frozen=True, kw_only=True)
class _LabelMapRequest(Request):
    """The label maps that a result predicts for images."""

    source: SegmentationSource
    result: SampledResult
    images: Sequence[LabelledImage]

    def run(self, encoder: Encoder, progress: OnProgress) -> None:
        self.source.predict(self.result, self.images, encoder)


def choose_images(results: Sequence[Samples]) -> list[int]:
    """Return the indices of a few images that all results have, by their pixel accuracy.

    If there are several results, the first image is the one on which their accuracies differ most.
    Then come a typical, a poor and a good image by the mean accuracy of all results.
    """
    n_images = min(len(samples[NAME]) for samples in results)
    accuracies = np.stack(
        [pixel_accuracy(segmentation.TASK.derive(samples)[AREAS])[:n_images] for samples in results]
    )
    # Images without labels have no accuracy.
    labelled = np.flatnonzero(~np.isnan(accuracies).any(axis=0))
    if not len(labelled):
        return []
    accuracies = accuracies[:, labelled]
    chosen = []
    if len(results) > 1:
        chosen.append(int(np.argmax(np.ptp(accuracies, axis=0))))
    by_mean = np.argsort(accuracies.mean(axis=0), kind="stable")
    by_mean = by_mean[~np.isin(by_mean, chosen)]
    if len(by_mean):
        for quantile in _QUANTILES[: _MOST_IMAGES - len(chosen)]:
            chosen.append(int(by_mean[round(quantile * (len(by_mean) - 1))]))
    return [int(labelled[index]) for index in dict.fromkeys(chosen)]


def _gives_measured_counts(
    classes: Label, image: LabelledImage, result: SampledResult, protocol: SegmentationProtocol
) -> bool:
    """Return whether predicted classes (H, W) give the pixel counts that a result stores.

    The counts may differ by the share of pixels that rounding moves at borders of classes.
    """
    n_classes = len(protocol.class_names)
    if classes.shape != image.label.shape or classes.max() >= n_classes:
        return False
    samples = result.samples
    # Results store the pixels of each pair of true and predicted class that an image has.
    is_of_image = samples["image"] == image.sample_index
    stored_counts = np.zeros(n_classes**2, np.int64)
    stored_counts[samples["pair"][is_of_image]] = samples["pixels"][is_of_image]
    counts = confusion(image.label, classes, n_classes, protocol.ignore_index).ravel()
    # A pixel with another class lowers one count by 1 and raises another one by 1.
    differing_pixels = np.abs(stored_counts - counts).sum() / 2
    tolerance = _TOLERANCE[result.row.provenance["precision"]]
    return bool(differing_pixels <= tolerance * counts.sum())


def _read_saved_map(file: Path) -> Label:
    """Read a label map (H, W) that a run saved. Raises UsageError for another kind of file."""
    try:
        with open_image(file) as image:
            mode, classes = image.mode, np.asarray(image)
    except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for a broken PNG
        raise UsageError(f"cannot read the saved label map {file}: {error}") from error
    if mode not in ("P", "L", "I;16", "I"):
        raise UsageError(f"{file} is not a saved label map: its mode is {mode}")
    return classes


class _LabelMapDrawing(NamedTuple):
    """An image that can be drawn, with its predicted label maps by model."""

    protocol: SegmentationProtocol
    image: LabelledImage
    maps: Mapping[str, Label]

    def draw(self, canvas: Canvas) -> SegmentationExample:
        """Draw the image and all its label maps. Raises UsageError for an unusable image."""
        protocol, sample = self.protocol, self.image.sample
        rgb_image = pictures.read_image(sample.image)
        size = canvas.size_of(rgb_image.size)
        palette = pictures.colours(protocol)
        predictions = {}
        for model, classes in self.maps.items():
            predictions[model] = canvas.label_map(classes, palette, size)
        return SegmentationExample(
            dataset=protocol.dataset,
            protocol=protocol.protocol_name,
            name=sample.name,
            image=canvas.large(rgb_image),
            truth=canvas.label_map(self.image.label, palette, size),
            predictions=predictions,
            legend=self._legend(palette),
        )

    def _legend(self, palette: Sequence[tuple[int, int, int]]) -> dict[str, str]:
        """Return the colours of the classes that any of the label maps has."""
        all_classes = [self.image.label.ravel()]
        all_classes += [classes.ravel() for classes in self.maps.values()]
        legend = {}
        for index in np.unique(np.concatenate(all_classes)):
            if index < len(self.protocol.class_names):
                red, green, blue = palette[index]
                legend[self.protocol.class_names[index]] = f"#{red:02x}{green:02x}{blue:02x}"
        return legend
