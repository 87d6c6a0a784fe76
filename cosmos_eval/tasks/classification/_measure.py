"""Build the classifier, encode images, and put a classification measurement together."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.embed import embed_images
from cosmos_eval.encoder import Encoder
from cosmos_eval.metrics.classification import class_recalls, top_classes
from cosmos_eval.metrics.intervals import mean_class_recall_bootstrap, wilson
from cosmos_eval.tasks.classification._names import class_names, templates_of
from cosmos_eval.tasks.classification._samples import (
    LABELS,
    TOP5,
    confusion_from_samples,
    metrics_from_samples,
)
from cosmos_eval.tasks.classification._types import ClassData
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
    data: ClassData,
    protocol: ClassificationProtocol,
    options: RunOptions,
    progress: OnProgress,
) -> Measurement:
    """Measure an encoder on opened data."""
    started = perf_counter()
    names, templates = class_names(protocol, data), templates_of(protocol, data)
    classifier = prompt_embeddings(encoder, names, templates, options, progress)
    prompted = perf_counter()
    images = embed_images(encoder, data.images, options, progress)
    top = top_classes(images.features, classifier)
    samples = {LABELS: data.labels, TOP5: top}
    return Measurement(
        metrics=metrics_from_samples(samples),
        intervals=_intervals(data.labels, top, options.seed),
        n_samples=len(data.images),
        samples=samples,
        hashes={
            "class_names": fingerprint(names),
            "templates": fingerprint(resolve_templates(templates)),
            "sample_list": fingerprint(data.names),
        },
        per_class=_per_class(data, top),
        confusion_pairs=confusion_from_samples(samples, data.classes),
        seconds={"prompts": prompted - started, "images": perf_counter() - prompted},
        notes=(*limit_notes(options), *_remarks(protocol)),
    )


def _remarks(protocol: ClassificationProtocol) -> tuple[str, ...]:
    return (f"{protocol.dataset}: {protocol.remark}",) if protocol.remark else ()


def _intervals(labels: NDArray[np.int64], top: NDArray[np.int64], seed: int) -> dict[str, Interval]:
    hits = top == labels[:, None]
    first = hits[:, 0]
    return {
        "acc1": wilson(int(first.sum()), len(labels)),
        "acc5": wilson(int(hits.any(axis=1).sum()), len(labels)),
        "mean_per_class_recall": mean_class_recall_bootstrap(labels, first, seed=seed),
    }


def _per_class(data: ClassData, top: NDArray[np.int64]) -> dict[str, dict[str, float | None]]:
    """By the data's own names, since several classes may share a prompt name."""
    recalls = class_recalls(data.labels, top[:, 0] == data.labels)
    counts = np.bincount(data.labels, minlength=len(data.classes))
    return {
        name: {"recall": recalls.get(number), "images": int(counts[number])}
        for number, name in enumerate(data.classes)
    }
