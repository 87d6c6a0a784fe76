"""Encode images and captions, choose, and put a selection measurement together."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cosmos_eval.data.folders import fingerprint, limit_notes, truncation_notes
from cosmos_eval.data.selection import SelectionData
from cosmos_eval.embedding.embed import embed_images, embed_texts
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats.selection import pair_hits, single_hits
from cosmos_eval.tasks.selection.samples import (
    AVERAGED,
    CLUSTER,
    CORRECT,
    IMAGE,
    SUBSET,
    SUBSETS,
    TEXT,
    recompute,
)
from cosmos_eval.types import (
    Embeddings,
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
    samples: dict[str, NDArray[Any]] = {
        **_hits(data, images, texts, protocol.pair_accuracy),
        SUBSET: data.subsets.of_item,
        SUBSETS: np.array(data.subsets.names),
        AVERAGED: data.subsets.averaged,
        CLUSTER: _clusters(data),
    }
    return Measurement(
        **vars(recompute(samples, options.seed)),
        samples=samples,
        hashes={"sample_list": _sample_list_hash(data)},
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
