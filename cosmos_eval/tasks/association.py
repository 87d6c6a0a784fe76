"""Associations: which of several images belong to a cue, of which it is known how many do.

The images with the highest scores are chosen, as many as are associated, and compared with those by
the Jaccard index: WinoGAViL (Bitton et al. 2022, arXiv 2207.12576), as DataComp measures it
(eval_utils/wino_eval.py of github.com/mlfoundations/datacomp, commit 170b603)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cosmos_eval import types
from cosmos_eval.data.association import AssociationData, list_data, open_data
from cosmos_eval.data.folders import exist_in, fetch_repository, fingerprint
from cosmos_eval.stats.choices import jaccard_indices, products
from cosmos_eval.stats.estimates import Mean
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.task import Derived, Metric, Task

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import Embeddings, Features
    from cosmos_eval.models.encoder import Encoder

JACCARD = "jaccard"  # (N,) of the chosen images of an item
CANDIDATES = "candidates"  # (N,) the number of images to choose from
CLUSTER = "cluster"  # (N,) items of one number have the same candidates
CUE = "cue"  # (N,) prompts; older results lack it
ARRAYS = (
    SampleArray(JACCARD, "number", ("items",), least=0, most=1),
    SampleArray(CANDIDATES, "whole number", ("items",), least=1),
    SampleArray(CLUSTER, "whole number", ("items",), least=0),
    SampleArray(CUE, "text", ("items",), optional=True),
)


def measure(
    encoder: Encoder,
    protocol: types.AssociationProtocol,
    options: types.RunOptions,
    progress: types.OnProgress = types.no_progress,
    data: AssociationData | None = None,
) -> types.Measurement:
    """Measure Jaccard indices; `options.limit` keeps the first items."""
    found = data or open_data(protocol, options)
    items = [(cue, images.tolist(), right.tolist()) for cue, images, right in found.items]
    candidates = [str(images) for _, images, _ in items]

    def score(images: Features, texts: Embeddings) -> types.Samples:
        return {
            JACCARD: jaccard_indices(products(images, texts.features), found.items),
            CANDIDATES: np.array([len(images) for _, images, _ in items]),
            CLUSTER: np.unique(candidates, return_inverse=True)[1],
            CUE: np.array([found.captions[cue] for cue, *_ in items]),
        }

    hashes = {"sample_list": fingerprint([found.names, found.captions, *items])}
    given = encoder, found, options, progress, score
    return TASK.measure_captions(*given, hashes=hashes, unit="items")


def _mean(samples: Derived, sizes: tuple[int, ...] = ()) -> Mean | None:
    chosen = np.isin(samples[CANDIDATES], sizes or samples[CANDIDATES])
    clusters = samples[CLUSTER][chosen]
    if sizes and len(np.unique(clusters)) < 2:  # which cannot be resampled
        return None
    return Mean(samples[JACCARD][chosen], clusters)


TASK = Task(
    protocol=types.AssociationProtocol,
    metrics=(
        Metric("jaccard", _mean, label="Jaccard", primary=True),
        Metric("jaccard_5-6", partial(_mean, sizes=(5, 6)), label="Jaccard of 5 or 6"),
        Metric(
            "jaccard_10-12",
            partial(_mean, sizes=(10, 12)),
            label="Jaccard of 10 or 12",
            headline=True,
        ),
    ),
    arrays=ARRAYS,
    per_sample=JACCARD,
    truth=(CANDIDATES, CLUSTER),
    open_data=open_data,
    checked="cues, numbers of items, and that every image is there",
    measure=measure,
    survey=lambda protocol, options, _: list_data(protocol, options).surveyed(protocol, options),
    is_there=lambda protocol, root: exist_in(root, protocol.annotations, protocol.images),
    n_samples=lambda protocol: protocol.n_items,
    fetch=fetch_repository,
)
