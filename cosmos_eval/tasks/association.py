"""Associations: which of several images belong to a cue, if it is known how many do.

The images with the highest scores are chosen, as many as are associated with the cue. They are
compared with the associated images by the Jaccard index: WinoGAViL (Bitton et al. 2022, arXiv
2207.12576), as DataComp measures it (eval_utils/wino_eval.py of github.com/mlfoundations/datacomp,
commit 170b603).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cosmos_eval import types
from cosmos_eval.data import association as association_data
from cosmos_eval.data.association import AssociationData
from cosmos_eval.data.folders import (
    Survey,
    all_exist,
    content_hash,
    fetch_repository,
    fingerprint,
)
from cosmos_eval.stats.choices import jaccard_indices, products
from cosmos_eval.stats.estimates import Ints, Mean
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.ordered import EmbeddedMeasurement
from cosmos_eval.tasks.task import ScoredSamples, Task

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import Embeddings, Features
    from cosmos_eval.models.encoder import Encoder

# Stored arrays of N items.
JACCARD = "jaccard"  # (N,) Jaccard index of the chosen and the associated images
CANDIDATES = "candidates"  # (N,) the number of images to choose from
CLUSTER = "cluster"  # (N,) items with the same number have the same candidates
CUE = "cue"  # (N,) prompts; older results lack it
ARRAYS = (
    SampleArray(JACCARD, "number", ("items",), least=0, most=1),
    SampleArray(CANDIDATES, "whole number", ("items",), least=1),
    SampleArray(CLUSTER, "whole number", ("items",), least=0),
    SampleArray(CUE, "text", ("items",), optional=True),
)


def _mean_jaccard(samples: Derived) -> Mean:
    """Return the mean Jaccard index over all items."""
    return Mean(samples[JACCARD], samples[CLUSTER])


def _mean_jaccard_of_5_or_6(samples: Derived) -> Mean | None:
    """Return the mean Jaccard index over items with 5 or 6 images to choose from."""
    return _mean_jaccard_by_candidates(samples, (5, 6))


def _mean_jaccard_of_10_or_12(samples: Derived) -> Mean | None:
    """Return the mean Jaccard index over items with 10 or 12 images to choose from."""
    return _mean_jaccard_by_candidates(samples, (10, 12))


def _mean_jaccard_by_candidates(samples: Derived, n_candidates: Sequence[int]) -> Mean | None:
    """Return the mean Jaccard index over items with one of these numbers of candidate images.

    Return None if the items have fewer than two different lists of candidates. Items with the same
    list depend on each other, so that an interval needs several lists.

    Args:
        samples: The stored arrays by name.
        n_candidates: The numbers of candidate images, such as (5, 6).
    """
    is_selected = np.isin(samples[CANDIDATES], n_candidates)
    clusters = samples[CLUSTER][is_selected]
    if len(np.unique(clusters)) < 2:
        return None
    return Mean(samples[JACCARD][is_selected], clusters)


class Association(Task):
    """The choice of the images that are associated with a cue."""

    protocol = types.AssociationProtocol
    metrics = (
        Metric("jaccard", _mean_jaccard, label="Jaccard", primary=True),
        Metric("jaccard_5-6", _mean_jaccard_of_5_or_6, label="Jaccard of 5 or 6"),
        Metric(
            "jaccard_10-12",
            _mean_jaccard_of_10_or_12,
            label="Jaccard of 10 or 12",
            headline=True,
        ),
    )
    truth = (CANDIDATES, CLUSTER)
    per_sample = JACCARD
    checked = "cues, numbers of items, and that every image is there"
    arrays = ARRAYS

    def open_data(
        self, protocol: types.AssociationProtocol, options: types.RunOptions
    ) -> AssociationData:
        """List the items of a data set: cues, images to choose from, and correct images."""
        return association_data.open_data(protocol, options)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.AssociationProtocol],
        data: Sequence[AssociationData],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Measure a model, and yield a measurement for each protocol, in their order.

        A measurement holds the Jaccard index of each item.

        Args:
            encoder: The model.
            protocols: The protocols. Each is a data set, and how it is measured.
            data: The items of each protocol, from `open_data`: cues with candidate images.
            options: The options of the run. If their `limit` is set, only the first items are
                measured.
            progress: Called with the progress.
        """
        for associations in data:
            yield self.measure_captions(
                encoder,
                associations,
                options,
                progress,
                partial(_score_items, associations),
                hashes={"sample_list": _hash_sample_list(associations)},
                unit="items",
            )

    def data_hashes(
        self, protocol: types.AssociationProtocol, data: AssociationData, options: types.RunOptions
    ) -> Mapping[str, str]:
        """Return the hashes of the images' files, and of the items."""
        from cosmos_eval.embedding.hashing import hash_images

        content = content_hash(hash_images(data.images, options))
        return {"sample_list": _hash_sample_list(data), "content": content}

    def in_order(
        self,
        encoder: Encoder,
        protocol: types.AssociationProtocol,
        data: AssociationData,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> EmbeddedMeasurement:
        """Return a measurement that takes the items in any order."""
        return _OrderedItems(self, encoder, protocol, data, options, progress)

    def survey(
        self,
        protocol: types.AssociationProtocol,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Survey:
        """Count the images that the items refer to, and report missing ones."""
        return association_data.list_data(protocol, options).complete_survey(protocol, options)

    def is_there(self, protocol: types.AssociationProtocol, root: Path) -> bool:
        """Return whether the folder `root` holds the items' file and the image folder."""
        return all_exist(root, protocol.annotations, protocol.images)

    def n_samples(self, protocol: types.AssociationProtocol) -> int | None:
        """Return the number of items of the complete data set, or None if it is unknown."""
        return protocol.n_items

    def fetch(self, protocol: types.AssociationProtocol, options: types.RunOptions) -> None:
        """Download the data set if `options` ask for it and it is known where from."""
        fetch_repository(protocol, options)


class _OrderedItems(EmbeddedMeasurement):
    """Measures items in any order. All cues are embedded before the first item."""

    def hashes_of_names(self) -> Mapping[str, str]:
        """Return the hash of the images' names, the cues and the items."""
        return {"sample_list": _hash_sample_list(self.data)}

    def images_of(self, sample: int) -> Sequence[int]:
        """Return the indices of the candidate images of an item."""
        images: list[int] = self.data.items[sample][1].tolist()
        return images

    @cached_property
    def cues(self) -> Embeddings:
        """The embeddings of all cues."""
        from cosmos_eval.embedding.embed import embed_texts

        return embed_texts(
            self.encoder, self.data.captions, self.options, self.progress, phase="captions"
        )

    @cached_property
    def cluster_of_item(self) -> Ints:
        """The number of each item's cluster, (N,)."""
        return _cluster_items(self.data)

    def score(self, samples: Ints) -> types.Samples:
        """Return the Jaccard index of items (n,), and their clusters."""
        images = sorted({image for sample in samples for image in self.images_of(sample)})
        items = []
        for sample in samples:
            cue, candidates, is_associated = self.data.items[sample]
            items.append((cue, np.searchsorted(images, candidates), is_associated))
        score = products(self.embeddings(images).features, self.cues.features)
        return {
            JACCARD: jaccard_indices(score, items),
            CANDIDATES: np.array([len(candidates) for _, candidates, _ in items]),
            CLUSTER: self.cluster_of_item[samples],
        }


def _hash_sample_list(data: AssociationData) -> str:
    """Return a SHA-256 that identifies the images, the cues and the items."""
    sample_list: list[Any] = [data.names, data.captions]
    for cue, images, is_associated in data.items:
        sample_list.append((cue, images.tolist(), is_associated.tolist()))
    return fingerprint(sample_list)


def _cluster_items(data: AssociationData) -> Ints:
    """Return the number of each item's cluster, (N,): items with the same candidates are in one."""
    candidates_of_items = [str(images.tolist()) for _, images, _ in data.items]
    _, cluster_of_item = np.unique(candidates_of_items, return_inverse=True)
    return cluster_of_item


def _score_items(
    data: AssociationData, image_features: Features, cues: Embeddings
) -> ScoredSamples:
    """Compute the Jaccard index of every item, and return the arrays to store, without notes.

    Args:
        data: The items: the index of a cue, the indices of candidate images, and whether each of
            them is associated with the cue.
        image_features: The features (I, D) of all images.
        cues: The embeddings (T, D) of all cues.
    """
    score = products(image_features, cues.features)
    samples = {
        JACCARD: jaccard_indices(score, data.items),
        CANDIDATES: np.array([len(images) for _, images, _ in data.items]),
        CLUSTER: _cluster_items(data),
        CUE: np.array([data.captions[cue] for cue, _, _ in data.items]),
    }
    return ScoredSamples(samples)


TASK = Association()
