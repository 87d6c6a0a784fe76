"""Images with true and predicted label maps, the same images for all models. Imports no torch.

A predicted map is shown only if it gives the pixel counts that were measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from cosmos_core.data.pixels import open_image
from cosmos_eval.data.label_maps import Label, LabelMaps, Sample, open_data, read_label
from cosmos_eval.report.content import Sampled
from cosmos_eval.report.gallery.pictures import Candidate, Canvas, shrunk
from cosmos_eval.report.gallery.records import SegmentationExample
from cosmos_eval.report.gallery.samples import judge_maps, sample_candidates
from cosmos_eval.report.gallery.source import MAPS, Group, Pair, Request, Source, listed
from cosmos_eval.results.filenames import predictions_name
from cosmos_eval.results.identity import auxiliary_of
from cosmos_eval.stats.segmentation import confusion, pixel_accuracy
from cosmos_eval.tasks import segmentation
from cosmos_eval.tasks.segmentation import AREAS, CLASSES, NAME, pictures
from cosmos_eval.tasks.segmentation.tuning import tuned_protocol
from cosmos_eval.types import OnProgress, RunOptions, Samples, SegmentationProtocol, UsageError

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

_IMAGES = 3  # at most, of a data set
# Images by quality, as quantiles: a typical one, a poor one, a good one.
_QUANTILES = (0.5, 0.1, 0.9)
# A class is easily seen from this share of an image's pixels on.
_EASILY_SEEN = 0.01
_PROMPT = "a photo of a {}."
# The share of an image's pixels that may be counted otherwise than measured: rounding moves a pixel
# at a border, under autocast more (docs/log.md: 1% of the pixels from fp32 to bf16).
_ROUNDING: dict[str, float] = {"fp32": 0.001, "amp": 0.02, "bf16": 0.02, "fp16": 0.02}


class Truth(NamedTuple):
    """An image by its number among the samples, and its true classes (H, W)."""

    number: int
    sample: Sample
    label: Label


class SegmentationSource(Source):
    """Images of a group's data set with the label maps of all its results."""

    def __init__(self, group: Group, options: RunOptions, predictions: Path | None) -> None:
        super().__init__()
        self._name, self._family, self._options = group.name, group.family, options
        self._protocol = cast(SegmentationProtocol, group.protocol)
        self._truths: list[Truth] = []
        self._maps: dict[tuple[str, int], Label] = {}  # by model and number of the image
        self._differing: set[str] = set()  # models whose predictions were not all measured
        opened = self.open_results(group, options, open_data, self._is_of, whole=True)
        self._opened, self._results = opened, [result for result, _ in opened]
        if opened:
            self._read_truths(opened[0][1])
        for result in self._results:
            if predictions is not None:
                self._read_saved(predictions, result)
            missing = [t for t in self._truths if (result.model, t.number) not in self._maps]
            if missing:
                run = partial(self._predict, result, missing)
                self.requests.append(Request(result.row, result.model, MAPS, group.name, run))
        self.pairs += self._prompted_images()

    def _is_of(self, data: LabelMaps, result: Sampled) -> bool:
        names = result.samples[NAME].tolist()
        same_images = names == [sample.name for sample in data.samples[: len(names)]]
        return same_images and result.samples[CLASSES].tolist() == list(self._protocol.class_names)

    def _read_truths(self, data: LabelMaps) -> None:
        for index in choose_images([result.samples for result in self._results]):
            sample = data.samples[index]
            try:
                self._truths.append(Truth(index, sample, read_label(sample, self._protocol)))
            except UsageError as error:
                self.notes.append(str(error))

    def _protocol_of(self, result: Sampled) -> SegmentationProtocol:
        """Return the protocol with the settings that were chosen for the model, if any. Raises
        UsageError where they change what is not there any more."""
        tuned = result.row.provenance.get("tuned")
        spec = result.row.model["spec"]
        return tuned_protocol(tuned, self._protocol, spec) if tuned else self._protocol

    def _read_saved(self, folder: Path, result: Sampled) -> None:
        record, auxiliary = result.row.provenance, auxiliary_of(result.row.provenance)
        of_model = folder / predictions_name(result.stored.identity.name, auxiliary)
        usual = record.get("protocol_attention", self._protocol.attention)
        protocol = replace(self._protocol, family=self._family, attention=usual)
        attention = None if auxiliary else record["attention"]
        own = pictures.predictions_folder(of_model, protocol, attention)
        found: list[tuple[Truth, Label]] = []
        for truth in self._truths:
            path = pictures.prediction_file(own, truth.sample.name)
            try:
                if path.is_file():
                    found.append((truth, _saved_map(path)))
            except UsageError as error:
                self.notes.append(str(error))
        if not self._add_measured(result, found):
            self.notes.append(f"{own}: not the label maps that {result.model} was measured with")

    def _predict(
        self, result: Sampled, truths: Sequence[Truth], encoder: Encoder, _: OnProgress
    ) -> None:
        from cosmos_eval.tasks.segmentation.inference import predictions

        how = result.row.provenance
        own = {"attention": how["attention"], "auxiliary": auxiliary_of(how)}
        options = replace(self._options, **own)
        samples = [truth.sample for truth in truths]
        maps = predictions(encoder, self._protocol_of(result), samples, options)
        if not self._add_measured(result, list(zip(truths, maps, strict=True))):
            self._differing.add(result.model)

    def _add_measured(self, result: Sampled, found: Sequence[tuple[Truth, Label]]) -> bool:
        """Keep the label maps that were measured, as small as drawn; returns whether all were."""
        measured = {
            (result.model, truth.number): shrunk(classes)
            for truth, classes in found
            if _is_measured(classes, truth, result, self._protocol)
        }
        self._maps |= measured
        return len(measured) == len(found)

    def _prompted_images(self) -> Iterator[Pair]:
        """Pair every image with a prompt of its smallest class that is easily seen."""
        protocol = self._protocol
        for truth in self._truths:
            n_classes = len(protocol.class_names)
            pixels = np.bincount(truth.label.ravel(), minlength=n_classes)[:n_classes]
            seen = np.flatnonzero(pixels >= _EASILY_SEEN * truth.label.size)
            if len(seen):
                name = protocol.queries[seen[np.argmin(pixels[seen])]][0]
                image = partial(pictures.read_image, truth.sample.image)
                yield Pair(protocol.dataset, truth.sample.name, image, _PROMPT.format(name))

    def candidates(self) -> Iterator[Candidate]:
        """Return the chosen classes of images, and images with the label maps of all results."""
        yield from sample_candidates(self._opened, partial(judge_maps, self._protocol))
        if differing := [r.model for r in self._results if r.model in self._differing]:
            self.notes.append(
                f"{self._name}: label maps of {listed(differing)} are not shown, as they "
                "come out otherwise than measured"
            )
        for turn, truth in enumerate(self._truths):
            models = [r.model for r in self._results if (r.model, truth.number) in self._maps]
            maps = {model: self._maps[model, truth.number] for model in models}
            shown = replace(self._protocol, family=self._family)
            yield Candidate(turn, partial(_draw, shown, truth, maps))


def choose_images(results: Sequence[Samples]) -> list[int]:
    """Return indices of a few images that all results have. Of several models, the image on which
    they differ most comes first; then a typical, a poor and a good one. Images are judged by their
    share of right pixels."""
    n_images = min(len(samples[NAME]) for samples in results)
    shares = np.stack(
        [pixel_accuracy(segmentation.TASK.derive(one)[AREAS])[:n_images] for one in results]
    )
    judged = np.flatnonzero(~np.isnan(shares).any(axis=0))
    if not len(judged):
        return []
    shares = shares[:, judged]
    by_mean = np.argsort(shares.mean(axis=0), kind="stable")
    first = [int(np.argmax(np.ptp(shares, axis=0)))] if len(results) > 1 else []
    by_mean = by_mean[~np.isin(by_mean, first)]
    quantiles = _QUANTILES[: _IMAGES - len(first)] if len(by_mean) else ()
    others = (int(by_mean[round(quantile * (len(by_mean) - 1))]) for quantile in quantiles)
    return [int(judged[index]) for index in dict.fromkeys([*first, *others])]


def _is_measured(
    classes: Label, truth: Truth, result: Sampled, protocol: SegmentationProtocol
) -> bool:
    """Return whether predicted classes give the image's stored pixel counts, up to rounding."""
    n_classes = len(protocol.class_names)
    if classes.shape != truth.label.shape or classes.max() >= n_classes:
        return False
    own = result.samples["image"] == truth.number
    stored = np.zeros(n_classes**2, np.int64)
    stored[result.samples["pair"][own]] = result.samples["pixels"][own]
    counts = confusion(truth.label, classes, n_classes, protocol.ignore_index).ravel()
    # A pixel of another class is one too few and one too many.
    moved = np.abs(stored - counts).sum() / 2
    return bool(moved <= _ROUNDING[result.row.provenance["precision"]] * counts.sum())


def _saved_map(path: Path) -> Label:
    try:
        with open_image(path) as image:
            mode, classes = image.mode, np.asarray(image)
    except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for a broken PNG
        raise UsageError(f"cannot read the saved label map {path}: {error}") from error
    if mode not in ("P", "L", "I;16", "I"):
        raise UsageError(f"{path} is no saved label map: its mode is {mode}")
    return classes


def _draw(
    protocol: SegmentationProtocol, truth: Truth, maps: Mapping[str, Label], canvas: Canvas
) -> SegmentationExample:
    image = pictures.read_image(truth.sample.image)
    size, palette = canvas.size_of(image.size), pictures.colours(protocol)
    present = np.unique(np.concatenate([one.ravel() for one in (truth.label, *maps.values())]))
    return SegmentationExample(
        dataset=protocol.dataset,
        protocol=protocol.family,
        name=truth.sample.name,
        image=canvas.large(image),
        truth=canvas.label_map(truth.label, palette, size),
        predictions={model: canvas.label_map(one, palette, size) for model, one in maps.items()},
        legend={
            protocol.class_names[index]: "#{:02x}{:02x}{:02x}".format(*palette[index])
            for index in present[present < len(protocol.class_names)]
        },
    )
