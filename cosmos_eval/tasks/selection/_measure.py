"""Encode images and captions, choose, and put a selection measurement together."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cosmos_eval.embed import embed_images, embed_texts
from cosmos_eval.encoder import Encoder
from cosmos_eval.metrics.intervals import cluster_bootstrap, mean_of_groups_bootstrap, wilson
from cosmos_eval.metrics.selection import pair_hits, single_hits, subset_accuracies
from cosmos_eval.tasks.images import fingerprint, limit_notes, truncation_notes
from cosmos_eval.tasks.selection._data import SelectionData
from cosmos_eval.tasks.selection._samples import (
    AVERAGED,
    CLUSTER,
    CORRECT,
    IMAGE,
    SUBSET,
    TEXT,
    metrics_from_samples,
)
from cosmos_eval.types import (
    Embeddings,
    Interval,
    Measurement,
    OnProgress,
    PairAccuracy,
    RunOptions,
    SelectionProtocol,
)

Hits = dict[str, NDArray[np.bool_]]


def measure_data(
    encoder: Encoder,
    data: SelectionData,
    protocol: SelectionProtocol,
    options: RunOptions,
    progress: OnProgress,
) -> Measurement:
    """Measure an encoder on opened data."""
    started = perf_counter()
    images = embed_images(encoder, data.images, options, progress)
    imaged = perf_counter()
    texts = embed_texts(encoder, data.captions, options, progress, phase="captions")
    captioned = perf_counter()
    hits = _hits(data, images, texts, protocol.pair_accuracy)
    clusters = _clusters(data)
    samples: dict[str, NDArray[Any]] = {
        **hits,
        SUBSET: data.subsets.of_item,
        AVERAGED: data.subsets.averaged,
        CLUSTER: clusters,
    }
    metrics = metrics_from_samples(samples)
    return Measurement(
        metrics=metrics,
        intervals=_intervals(metrics, hits, data, clusters, options.seed),
        n_samples=len(clusters),
        samples=samples,
        hashes={"sample_list": _sample_list_hash(data)},
        per_class=_per_subset(hits, data),
        seconds={
            "images": imaged - started,
            "captions": captioned - imaged,
            "metrics": perf_counter() - captioned,
        },
        notes=(
            *limit_notes(options, "items"),
            *truncation_notes(texts.truncated, len(data.captions)),
            *_unsolvable_notes(data),
        ),
    )


def _hits(data: SelectionData, images: Embeddings, texts: Embeddings, rule: PairAccuracy) -> Hits:
    """By the names that they are stored under."""
    if data.images_of_item.shape[1] == 1:
        single = single_hits(
            images.features, texts.features, data.images_of_item[:, 0], data.captions_of_item
        )
        return {CORRECT: single}
    pairs = pair_hits(
        images.features, texts.features, data.images_of_item, np.stack(data.captions_of_item)
    )
    correct = pairs.image if rule == "image" else pairs.text & pairs.image
    return {CORRECT: correct, TEXT: pairs.text, IMAGE: pairs.image}


def _clusters(data: SelectionData) -> NDArray[np.int64]:
    """Numbers (N,) that items have in common when they share an image file, also by way of others.

    Boxes of one file are not independent either.
    """
    files = {file: i for i, file in enumerate(dict.fromkeys(p.file for p in data.pictures))}
    file_of_image = np.array([files[picture.file] for picture in data.pictures])
    n_items, per_item = data.images_of_item.shape
    item = np.repeat(np.arange(n_items), per_item)
    file = n_items + file_of_image[data.images_of_item.ravel()]
    size = n_items + len(files)
    graph = coo_array((np.ones(len(item), bool), (item, file)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:n_items].astype(np.int64)


def _intervals(
    metrics: Mapping[str, float],
    hits: Hits,
    data: SelectionData,
    clusters: NDArray[np.int64],
    seed: int,
) -> dict[str, Interval]:
    """Of all metrics; Wilson's where no items share an image, else by resampling images."""
    scores = {"accuracy": hits[CORRECT]}
    if TEXT in hits:
        group = hits[TEXT] & hits[IMAGE]
        scores |= {"text_score": hits[TEXT], "image_score": hits[IMAGE], "group_score": group}
    n = len(clusters)
    if len(np.unique(clusters)) == n:
        intervals = {name: wilson(int(right.sum()), n) for name, right in scores.items()}
    else:
        table = np.stack(list(scores.values()), axis=1)
        found = cluster_bootstrap(table, clusters, seed=seed)
        intervals = dict(zip(scores, found, strict=True))
    if "mean_subset_accuracy" in metrics:
        subset = data.subsets.of_item
        kept = data.subsets.averaged[subset]
        intervals["mean_subset_accuracy"] = mean_of_groups_bootstrap(
            subset[kept], hits[CORRECT][kept], clusters[kept], seed=seed
        )
    return intervals


def _per_subset(hits: Hits, data: SelectionData) -> dict[str, dict[str, float | None]]:
    """Accuracy, items, and of pairs both scores, by the subset's name, where there are subsets."""
    subsets, of_item, _ = data.subsets
    if subsets == ("",):
        return {}
    names = {CORRECT: "accuracy", TEXT: "text_score", IMAGE: "image_score"}
    columns = {
        names[name]: subset_accuracies(right, of_item, len(subsets)) for name, right in hits.items()
    }
    counts = np.bincount(of_item, minlength=len(subsets))
    return {
        subset: {
            **{name: float(c[i]) if counts[i] else None for name, c in columns.items()},
            "items": int(counts[i]),
        }
        for i, subset in enumerate(subsets)
    }


def _unsolvable_notes(data: SelectionData) -> tuple[str, ...]:
    found = sum(bool((some[1:] == some[0]).any()) for some in data.captions_of_item)
    if not found:
        return ()
    return (f"{found} items have a wrong caption equal to the right one and count as wrong",)


def _sample_list_hash(data: SelectionData) -> str:
    images = data.images_of_item.tolist()
    captions = [some.tolist() for some in data.captions_of_item]
    subsets, of_item, _ = data.subsets
    return fingerprint([data.pictures, data.captions, images, captions, subsets, of_item.tolist()])
