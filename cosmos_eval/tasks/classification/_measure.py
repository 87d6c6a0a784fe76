"""Build the classifier, encode images, and put a classification measurement together."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.embed import embed_images
from cosmos_eval.encoder import Encoder
from cosmos_eval.metrics.classification import class_recalls, top_classes
from cosmos_eval.metrics.intervals import mean_class_recall_bootstrap, wilson
from cosmos_eval.tasks.classification._data import FolderData
from cosmos_eval.tasks.classification._samples import LABELS, TOP5, metrics_from_samples
from cosmos_eval.tasks.images import fingerprint, limit_notes
from cosmos_eval.tasks.prompts import prompt_embeddings, resolve_templates
from cosmos_eval.types import (
    ClassificationProtocol,
    Interval,
    Measurement,
    OnProgress,
    RunOptions,
)


def measure_data(
    encoder: Encoder,
    data: FolderData,
    protocol: ClassificationProtocol,
    options: RunOptions,
    progress: OnProgress,
) -> Measurement:
    """Measure an encoder on opened data."""
    started = perf_counter()
    names = class_names(protocol, data.folders)
    classifier = prompt_embeddings(encoder, names, protocol.templates, options, progress)
    prompted = perf_counter()
    images = embed_images(encoder, data.images, options, progress)
    top = top_classes(images.features, classifier)
    samples = {LABELS: data.labels, TOP5: top}
    return Measurement(
        metrics=metrics_from_samples(samples),
        intervals=_intervals(data.labels, top, options.seed),
        n_samples=len(data.images),
        samples=samples,
        hashes=_hashes(data, names, protocol),
        per_class=_per_class(data, top),
        seconds={"prompts": prompted - started, "images": perf_counter() - prompted},
        notes=limit_notes(options),
    )


def class_names(protocol: ClassificationProtocol, folders: tuple[str, ...]) -> tuple[str, ...]:
    """What the prompts call the classes, in the order of the folders."""
    if protocol.class_list == "imagenet1k":
        import open_clip

        return tuple(open_clip.IMAGENET_CLASSNAMES)
    if protocol.class_names:
        return tuple(protocol.class_names[folder] for folder in folders)
    return tuple(folder.replace("_", " ") for folder in folders)


def _intervals(labels: NDArray[np.int64], top: NDArray[np.int64], seed: int) -> dict[str, Interval]:
    hits = top == labels[:, None]
    first = hits[:, 0]
    return {
        "acc1": wilson(int(first.sum()), len(labels)),
        "acc5": wilson(int(hits.any(axis=1).sum()), len(labels)),
        "mean_per_class_recall": mean_class_recall_bootstrap(labels, first, seed=seed),
    }


def _per_class(data: FolderData, top: NDArray[np.int64]) -> dict[str, dict[str, float | None]]:
    """By folder name, since several classes may share a prompt name."""
    recalls = class_recalls(data.labels, top[:, 0] == data.labels)
    counts = np.bincount(data.labels, minlength=len(data.folders))
    return {
        folder: {"recall": recalls.get(number), "images": int(counts[number])}
        for number, folder in enumerate(data.folders)
    }


def _hashes(
    data: FolderData, names: tuple[str, ...], protocol: ClassificationProtocol
) -> dict[str, str]:
    return {
        "class_names": fingerprint(names),
        "templates": fingerprint(resolve_templates(protocol.templates)),
        "sample_list": fingerprint(data.names),
    }
