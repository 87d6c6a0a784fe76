"""Build the classifier, encode images, and put a classification measurement together."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from cosmos_eval.data.class_names import ClassData, class_names, templates_of
from cosmos_eval.data.classification import sample_list_hash
from cosmos_eval.data.folders import fingerprint, limit_notes
from cosmos_eval.embedding.embed import embed_images
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats.classification import top_classes
from cosmos_eval.tasks.classification.samples import CLASSES, LABELS, TOP5, recompute
from cosmos_eval.tasks.prompts import prompt_embeddings, resolve_templates
from cosmos_eval.types import (
    ClassificationProtocol,
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
    samples = {
        LABELS: data.labels,
        TOP5: top_classes(images.features, classifier),
        CLASSES: np.array(data.classes),
    }
    return Measurement(
        **vars(recompute(samples, options.seed)),
        samples=samples,
        hashes={
            "class_names": fingerprint(names),
            "templates": fingerprint(resolve_templates(templates)),
            "sample_list": sample_list_hash(data),
        },
        seconds={"prompts": prompted - started, "images": perf_counter() - prompted},
        notes=(*limit_notes(options), *_remarks(protocol)),
    )


def _remarks(protocol: ClassificationProtocol) -> tuple[str, ...]:
    return (f"{protocol.dataset}: {protocol.remark}",) if protocol.remark else ()
