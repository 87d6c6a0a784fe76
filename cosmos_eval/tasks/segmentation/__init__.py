"""Zero-shot semantic segmentation: classes named by text, patches compared with the names."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from cosmos_eval.embed import ahead
from cosmos_eval.encoder import Encoder
from cosmos_eval.metrics.segmentation import SparseConfusion, confusion, pack
from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.tasks.segmentation._constants import check_constants
from cosmos_eval.tasks.segmentation._data import (
    Sample,
    SegmentationData,
    check_sample,
    open_data,
)
from cosmos_eval.tasks.segmentation._images import load_image
from cosmos_eval.tasks.segmentation._inference import Prediction, Segmenter, predict
from cosmos_eval.tasks.segmentation._model import fit_to_model, with_patches
from cosmos_eval.tasks.segmentation._pictures import save_label_map
from cosmos_eval.tasks.segmentation._samples import (
    fingerprints,
    intervals_from_samples,
    metrics_from_samples,
    pack_samples,
    per_class_from_samples,
)
from cosmos_eval.types import (
    Measurement,
    OnProgress,
    Progress,
    RunOptions,
    SegmentationProtocol,
)

__all__ = ["check", "measure", "metrics_from_samples"]


def check(protocol: SegmentationProtocol, options: RunOptions) -> None:
    """Raise UsageError where data are missing or inconsistent, before any model is loaded.

    Reads every label map, because an undeclared class would otherwise show after hours.
    """
    check_constants(protocol)
    data = open_data(protocol, options)
    one = partial(check_sample, protocol=protocol)
    for _ in ahead(data.samples, one, workers=options.workers, window=_window(options)):
        pass


def measure(
    encoder: Encoder,
    protocol: SegmentationProtocol,
    options: RunOptions,
    progress: OnProgress,
) -> Measurement:
    """Segment every image and compare with its label map; `check` is assumed to have passed.

    `options.batch_size` counts windows. Predictions go to `options.save_predictions` as palette
    PNGs named after the images. Raises UsageError for a model without patch embeddings and, with
    the file's name, for an image that cannot be decoded.
    """
    dense = with_patches(encoder, options.attention)
    protocol = fit_to_model(protocol, dense)
    data = open_data(protocol, options)
    started = time.perf_counter()
    names = [name for synonyms in protocol.queries for name in synonyms]
    queries = prompt_embeddings(encoder, names, protocol.templates, progress=progress)
    segmenter = Segmenter(dense, queries, protocol, options.attention, options.batch_size)
    prompted = time.perf_counter()

    def segment(own: Sequence[Sample]) -> list[SparseConfusion]:
        return list(_confusions(segmenter, data._replace(samples=tuple(own)), options, progress))

    confusions = options.share.spread(segment, data.samples)
    seconds = {"prompts": prompted - started, "images": time.perf_counter() - prompted}
    return _measurement(data, confusions, protocol, options, seconds)


def _confusions(
    segmenter: Segmenter, data: SegmentationData, options: RunOptions, progress: OnProgress
) -> Iterator[SparseConfusion]:
    """Confusion counts of every image, in order."""
    protocol = segmenter.protocol
    load = partial(load_image, protocol=protocol)
    images = ahead(data.samples, load, workers=options.workers, window=_window(options))
    for done, prediction in enumerate(predict(segmenter, images), start=1):
        if options.save_predictions is not None:
            _save(prediction, data, Path(options.save_predictions))
        counts = confusion(
            prediction.image.label,
            prediction.classes,
            len(protocol.class_names),
            protocol.ignore_index,
        )
        yield pack([counts])
        progress(Progress("images", done, len(data.samples)))


def _window(options: RunOptions) -> int:
    """Images read ahead: a few a thread, since windows of several images make up a batch."""
    return 4 * options.workers


def _save(prediction: Prediction, data: SegmentationData, folder: Path) -> None:
    path = folder / f"{prediction.image.sample.name}.png"
    save_label_map(path, prediction.classes, data.palette)


def _measurement(
    data: SegmentationData,
    confusions: Sequence[SparseConfusion],
    protocol: SegmentationProtocol,
    options: RunOptions,
    seconds: dict[str, float],
) -> Measurement:
    samples = pack_samples([sample.name for sample in data.samples], confusions)
    return Measurement(
        metrics=metrics_from_samples(samples, protocol),
        intervals=intervals_from_samples(samples, protocol, options.seed),
        n_samples=len(data.samples),
        samples=samples,
        hashes=fingerprints(samples, protocol, options.attention),
        per_class=per_class_from_samples(samples, protocol),
        seconds=seconds,
    )
