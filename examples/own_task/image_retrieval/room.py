"""The functions of the task: check data, measure, compute figures again, compare two results.

Shapes: N queries, M pictures of the gallery, D dimensions. Torch is imported only to measure.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cosmos_eval.data.folders import data_path, fingerprint, limit_notes
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.stats.intervals import wilson
from cosmos_eval.stats.paired import PairedDifference, mcnemar
from cosmos_eval.tasks import Evaluator, one_by_one
from cosmos_eval.types import Figures, Measurement, OnProgress, RunOptions, Samples, UsageError
from image_retrieval import ImageRetrievalProtocol

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

# What is stored beside a result: all that its figures follow from.
LABEL = "class_of_query"  # (N,) names
FOUND = "class_of_nearest"  # (N,) names


class Pictures(NamedTuple):
    """Image files and the names of their classes, one each."""

    images: list[ImageFile]
    classes: list[str]


class Data(NamedTuple):
    """The pictures that are looked for, and those that are looked through."""

    queries: Pictures
    gallery: Pictures


def check(protocol: ImageRetrievalProtocol, options: RunOptions) -> None:
    """Raise UsageError, one line, for data that cannot be measured on: before a model is loaded."""
    _open(protocol, options)


def measure(
    encoder: Encoder, protocol: ImageRetrievalProtocol, options: RunOptions, progress: OnProgress
) -> Measurement:
    """Recall at 1. Embeddings are kept, and shared among processes, by `embed_images`."""
    from cosmos_eval.embedding.embed import embed_images

    data, started = _open(protocol, options), perf_counter()
    queries, gallery = (
        embed_images(encoder, pictures.images, options, progress).features for pictures in data
    )
    nearest = (queries @ gallery.T).argmax(axis=1)
    samples = {
        LABEL: np.array(data.queries.classes),
        FOUND: np.array(data.gallery.classes)[nearest],
    }
    files = [str(image.path.relative_to(protocol.root or "")) for p in data for image in p.images]
    return Measurement(
        **vars(recompute(samples, options.seed)),
        samples=samples,
        hashes={"sample_list": fingerprint(files)},
        seconds={"images": perf_counter() - started},
        notes=limit_notes(options, "queries"),
    )


def recompute(samples: Samples, seed: int) -> Figures:
    """All figures of a result from its samples: `verify` compares them with what is stored."""
    hits = _hits(samples)
    return Figures(
        metrics={"image_to_image_R@1": float(hits.mean())},
        intervals={"image_to_image_R@1": wilson(int(hits.sum()), len(hits))},
        n_samples=len(hits),
    )


def differences(a: Samples, b: Samples) -> dict[str, PairedDifference]:
    """Every metric of A minus that of B on the same queries: `compare`, `check`, ties."""
    return {"image_to_image_R@1": mcnemar(_hits(a), _hits(b))}


EVALUATOR = Evaluator(
    check=check,
    measure=one_by_one(measure),
    recompute=recompute,
    differences=differences,
    truth=(LABEL,),
)


def _hits(samples: Samples) -> np.ndarray:
    return np.asarray(samples[LABEL] == samples[FOUND])


def _open(protocol: ImageRetrievalProtocol, options: RunOptions) -> Data:
    queries = _pictures(data_path(protocol, options, protocol.queries))
    gallery = _pictures(data_path(protocol, options, protocol.gallery))
    lone = sorted(set(queries.classes) - set(gallery.classes))
    if lone:
        raise UsageError(f"{protocol.dataset}: class '{lone[0]}' has queries, but no gallery")
    # The first N queries, of the classes in turn, for --limit.
    order = sorted(range(len(queries.images)), key=lambda n: queries.images[n].path.name)
    kept = order[: options.limit]
    images, classes = queries
    return Data(Pictures([images[n] for n in kept], [classes[n] for n in kept]), gallery)


def _pictures(folder: Path) -> Pictures:
    files = sorted(path for path in folder.glob("*/*") if path.is_file())
    if not files:
        raise UsageError(f"{folder} holds no pictures: it needs a folder a class with some in it")
    return Pictures([ImageFile(path) for path in files], [path.parent.name for path in files])
