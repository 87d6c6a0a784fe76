"""Caption selection: which of some captions, alike but for a detail, belongs to an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data import selection as selection_data
from cosmos_eval.data.folders import Survey, exist_in, fingerprint
from cosmos_eval.data.selection import SelectionData
from cosmos_eval.models.encoder import Encoder, settings_of_pairs, with_pair_scores
from cosmos_eval.stats import choices
from cosmos_eval.stats.choices import Score, products
from cosmos_eval.stats.estimates import GroupMean, Ints, Mean, Proportion, means_of_groups
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.task import NAME, Task

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import Embeddings, Features

# Stored arrays of N items and S subsets.
CORRECT = "correct"  # (N,) whether an item counts as right for the accuracy
TEXT = "text_correct"  # (N,) for pairs: whether each image finds its caption
IMAGE = "image_correct"  # (N,) for pairs: whether each caption finds its image
SUBSET = "subset"  # (N,) numbers of subsets
SUBSETS = "subsets"  # (S,) sorted names of subsets; one empty name if there are no subsets
AVERAGED = "averaged"  # (S,) whether a subset counts in the mean over subsets
CLUSTER = "cluster"  # (N,) items with the same number share an image or a set
PAIR = "pair"  # (N,) items with the same number are right together; -1: in no complete pair
SET = "set"  # (N,) the same for sets of pairs
CHANCE = "chance"  # (N,) the probability that a random order of the scores is right
BLIND = "blind"  # (N,) whether the choice by the mean of all images, or captions, is right
SHORTER = "shorter"  # (N,) the probability that the captions with the fewest words are right
TEXT_TO_TEXT = "text_to_text"  # (N,) whether right captions are closer to each other than to wrong
_TEXT_CHANCE = "text_to_text_chance"  # (N,) the probability of the same by a random order
ARRAYS = (
    SampleArray(CORRECT, "truth value", ("items",)),
    SampleArray(TEXT, "truth value", ("items",), optional=True),
    SampleArray(IMAGE, "truth value", ("items",), optional=True),
    SampleArray(SUBSET, "whole number", ("items",), least=0, below="subsets"),
    SampleArray(SUBSETS, "text", ("subsets",)),
    SampleArray(AVERAGED, "truth value", ("subsets",)),
    SampleArray(CLUSTER, "whole number", ("items",), least=0),
    SampleArray(PAIR, "whole number", ("items",), least=-1, optional=True),
    SampleArray(SET, "whole number", ("items",), least=-1, optional=True),
    SampleArray(CHANCE, "number", ("items",), least=0, most=1, optional=True),
    SampleArray(BLIND, "truth value", ("items",), optional=True),
    SampleArray(SHORTER, "number", ("items",), least=0, most=1, optional=True),
    SampleArray(TEXT_TO_TEXT, "truth value", ("items",), optional=True),
    SampleArray(_TEXT_CHANCE, "number", ("items",), least=0, most=1, optional=True),
    SampleArray(NAME, "text", ("items",), optional=True),
)
_GROUP = "group_correct"  # (N,) derived, for pairs: whether both TEXT and IMAGE are true
# The number of equally likely orders of a pair's four scores, one of which is right. For TEXT and
# IMAGE, two scores are each the higher one of two; for _GROUP, they are the two highest of all.
_ORDERS = {TEXT: 4, IMAGE: 4, _GROUP: 6}


@dataclass(frozen=True)
class ItemMean:
    """The mean of an array over all items; None if the samples do not have the array."""

    array: str

    def __call__(self, samples: Derived) -> Proportion | Mean | None:
        if self.array not in samples:
            return None
        return _mean_of_items(samples[self.array], samples[CLUSTER])


@dataclass(frozen=True)
class AllRight:
    """The fraction of complete pairs, or sets, whose items are all right; None without any."""

    # The array that numbers pairs or sets, and the array that says whether items are right.
    numbers: str
    array: str

    def __call__(self, samples: Derived) -> Proportion | Mean | None:
        number_of_item = samples.get(self.numbers, np.array([-1]))
        if (number_of_item < 0).all() or self.array not in samples:
            return None
        distinct_numbers, first_item, group_of_item = np.unique(
            number_of_item, return_index=True, return_inverse=True
        )
        all_right = np.ones(len(distinct_numbers), samples[self.array].dtype)
        np.multiply.at(all_right, group_of_item, samples[self.array])
        is_complete = distinct_numbers >= 0
        clusters = samples[CLUSTER][first_item][is_complete]
        return _mean_of_items(all_right[is_complete], clusters)


@dataclass(frozen=True)
class SubsetMean:
    """The mean of an array over subsets.

    It is None if there is only one subset, or if it equals the accuracy, since all subsets have one
    size.
    """

    array: str

    def __call__(self, samples: Derived) -> GroupMean | None:
        subset, averaged = samples[SUBSET], samples[AVERAGED]
        n_items = np.bincount(subset, minlength=len(averaged))
        sizes = n_items[averaged & (n_items > 0)]
        equals_accuracy = sizes.sum() == len(subset) and len(np.unique(sizes)) == 1
        if len(sizes) < 2 or equals_accuracy or self.array not in samples:
            return None
        is_averaged = averaged[subset]
        return GroupMean(
            samples[self.array][is_averaged], subset[is_averaged], samples[CLUSTER][is_averaged]
        )


def _mean_of_items(values: NDArray[Any], clusters: NDArray[np.int64]) -> Proportion | Mean:
    """Return the mean of (N,) values, by clusters unless every item is a cluster of its own."""
    are_independent = len(np.unique(clusters)) == len(clusters)
    return Proportion(values) if are_independent else Mean(values, clusters)


def _headline(name: str, estimate: Callable[[Derived], Any], label: str = "") -> Metric:
    return Metric(name, estimate, headline=True, label=label)


def _baseline(
    name: str, estimate: Callable[[Derived], Any], label: str = "", *, headline: bool = False
) -> Metric:
    """Return a metric that others are read beside."""
    return Metric(name, estimate, reference=True, label=label, headline=headline)


def _metrics() -> Iterator[Metric]:
    """Yield the metrics in the order of tables, each followed by its baselines."""
    yield Metric("accuracy", ItemMean(CORRECT), primary=True)
    yield _baseline(CHANCE, ItemMean(CHANCE), headline=True)
    yield _baseline("blind_accuracy", ItemMean(BLIND), "blind", headline=True)
    yield _baseline("shorter_accuracy", ItemMean(SHORTER))
    yield _headline(TEXT_TO_TEXT, ItemMean(TEXT_TO_TEXT), "text to text")
    yield _baseline(_TEXT_CHANCE, ItemMean(_TEXT_CHANCE))
    yield _headline("mean_subset_accuracy", SubsetMean(CORRECT), "mean over subsets")
    yield _baseline("mean_subset_accuracy_chance", SubsetMean(CHANCE))
    yield _baseline("mean_subset_accuracy_blind", SubsetMean(BLIND))
    for name, label, numbers in (
        ("accuracy_of_pairs", "pairs", PAIR),
        ("accuracy_of_sets", "sets", SET),
    ):
        yield _headline(name, AllRight(numbers, CORRECT), label)
        yield _baseline(f"{name}_chance", AllRight(numbers, CHANCE))
        yield _baseline(f"{name}_blind", AllRight(numbers, BLIND))
    for name, array in (("text_score", TEXT), ("image_score", IMAGE), ("group_score", _GROUP)):
        yield _headline(name, ItemMean(array), name.replace("_", " "))
        yield _baseline(f"{name}_chance", ItemMean(f"{array}_{CHANCE}"))


class Selection(Task):
    """The choice of the right caption for an image, or of the right image for a caption."""

    protocol = types.SelectionProtocol
    metrics = tuple(_metrics())
    truth = (SUBSET, AVERAGED, CLUSTER)
    per_sample = CORRECT
    checked = "captions, numbers of items, and that every image is there"
    arrays = ARRAYS

    def open_data(
        self, protocol: types.SelectionProtocol, options: types.RunOptions
    ) -> SelectionData:
        return selection_data.open_data(protocol, options)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.SelectionProtocol],
        data: Sequence[SelectionData],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Yield the accuracy of every protocol.

        `options.limit` keeps the first items of subsets in turn.
        """
        for protocol, items in zip(protocols, data, strict=True):
            yield self.measure_captions(
                encoder,
                items,
                options,
                progress,
                partial(_samples, encoder, protocol, items, options, progress),
                hashes={"sample_list": _sample_list_hash(items)},
                names=[items.pictures[images[0]].file for images in items.images_of_item],
                settings=settings_of_pairs(encoder, protocol.pairs),
                notes=_notes(items),
                unit="items",
            )

    def derive(self, samples: types.Samples) -> Derived:
        """Add, for pairs, whether both directions are right, and the probability of each score by a
        random order."""
        if TEXT not in samples:
            return samples
        derived = {**samples, _GROUP: samples[TEXT] & samples[IMAGE]}
        if CHANCE in samples:
            is_solvable = samples[CHANCE] > 0
            for array, n_orders in _ORDERS.items():
                derived[f"{array}_{CHANCE}"] = is_solvable / n_orders
        return derived

    def require_consistent(self, samples: types.Samples) -> None:
        """Raise ValueError for hits of pairs in one direction only."""
        if (TEXT in samples) != (IMAGE in samples):
            raise ValueError(f"`{TEXT}` and `{IMAGE}` are stored together")

    def per_class(self, samples: types.Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return the accuracy, the baselines and, for pairs, both scores by the subset's name."""
        subsets = samples[SUBSETS].tolist()
        if subsets == [""]:
            return {}
        column_names = {
            CORRECT: "accuracy",
            TEXT: "text_score",
            IMAGE: "image_score",
            CHANCE: CHANCE,
            BLIND: "blind_accuracy",
            SHORTER: "shorter_accuracy",
        }
        columns = {name: samples[array] for array, name in column_names.items() if array in samples}
        return means_of_groups(subsets, samples[SUBSET], columns, "items")

    def columns(self, samples: types.Samples) -> Mapping[str, Any]:
        """Return the arrays of items, with the names of subsets."""
        columns: dict[str, Any] = {
            name: array for name, array in samples.items() if name not in (NAME, SUBSETS, AVERAGED)
        }
        columns[SUBSET] = samples[SUBSETS][samples[SUBSET]]
        return columns

    def upgrade(self, samples: types.Samples, record: Mapping[str, Any]) -> types.Samples:
        """Add the names of the subsets, which records of version 1 hold."""
        return {**samples, SUBSETS: np.array(sorted(record["per_class"]) or [""])}

    def survey(
        self,
        protocol: types.SelectionProtocol,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Survey:
        return selection_data.list_data(protocol, options).surveyed(protocol, options)

    def is_there(self, protocol: types.SelectionProtocol, root: Path) -> bool:
        return exist_in(root, protocol.annotations, protocol.images)

    def n_samples(self, protocol: types.SelectionProtocol) -> int | None:
        return protocol.n_items


def _notes(data: SelectionData) -> list[str]:
    """Return a note on items whose wrong captions include the right one."""
    n_items = 0
    for captions, n_right in zip(data.captions_of_item, data.right, strict=True):
        n_items += bool(np.isin(captions[:n_right], captions[n_right:]).any())
    if not n_items:
        return []
    return [f"{n_items} items have a wrong caption equal to the right one and count as wrong"]


def _samples(
    encoder: Encoder,
    protocol: types.SelectionProtocol,
    data: SelectionData,
    options: types.RunOptions,
    progress: types.OnProgress,
    image_features: Features,
    captions: Embeddings,
) -> types.Samples:
    """Return the samples of images (N, D) and embedded captions (M, D)."""
    scores: Score = products(image_features, captions.features)
    baselines = _baselines(data, image_features, captions.features)
    if protocol.pairs is not None:
        scores = _scores_of_pairs(encoder, data, options, progress)
        baselines.pop(BLIND, None)  # which follows from embeddings
    if data.chosen == "both":
        hits = _hits_of_pairs(protocol.pair_accuracy, data, scores)
    else:
        hits = {CORRECT: _hits(data, scores)}
    return {
        **hits,
        SUBSET: data.subset_of_item,
        SUBSETS: np.array(data.subsets),
        AVERAGED: data.averaged,
        CLUSTER: _clusters(data),
        **data.groups,
        **baselines,
    }


def _scores_of_pairs(
    encoder: Encoder, data: SelectionData, options: types.RunOptions, progress: types.OnProgress
) -> Score:
    """Score every caption with the images of its items."""
    from cosmos_eval.embedding.pairs import score_pairs

    images_of_caption: list[list[int]] = [[] for _ in data.captions]
    for images, captions in zip(data.images_of_item, data.captions_of_item, strict=True):
        for caption in captions:
            images_of_caption[caption] += images.tolist()
    return score_pairs(
        with_pair_scores(encoder),
        data.images,
        data.captions,
        [np.array(images, np.int64) for images in images_of_caption],
        options,
        progress,
    )


def _hits_of_pairs(rule: str, data: SelectionData, score: Score) -> dict[str, NDArray[Any]]:
    """Return the samples of pairs of two images and two captions; `rule` is `pair_accuracy`."""
    images, captions = np.stack(data.images_of_item), np.stack(data.captions_of_item)
    hits = choices.pair_hits(score, images, captions)
    is_solvable = (images[:, 0] != images[:, 1]) & (captions[:, 0] != captions[:, 1])
    if rule == "image":
        is_correct, n_orders = hits.image, _ORDERS[IMAGE]
    else:
        is_correct, n_orders = hits.text & hits.image, _ORDERS[_GROUP]
    return {
        CORRECT: is_correct,
        TEXT: hits.text,
        IMAGE: hits.image,
        CHANCE: is_solvable / n_orders,
    }


def _hits(data: SelectionData, score: Score) -> NDArray[np.bool_]:
    """Return whether each item's image finds its right captions, or its caption the image, (N,)."""
    if data.chosen == "captions":
        images = np.concatenate(data.images_of_item)
        return choices.single_hits(score, images, data.captions_of_item, data.right)

    def score_images(captions: Ints, images: Ints) -> NDArray[np.float32]:
        return score(images, captions)

    captions = np.concatenate(data.captions_of_item)
    return choices.single_hits(score_images, captions, data.images_of_item)


def _baselines(
    data: SelectionData, image_features: Features, text_features: Features
) -> dict[str, NDArray[Any]]:
    """Return the samples of choices that ignore the query; empty for pairs.

    The blind choice is made by the mean of all images, or of all captions, in place of the query.
    """
    if data.chosen == "both":
        return {}
    baselines: dict[str, NDArray[Any]] = {}
    if data.chosen == "captions":
        choices_of_item, queries = data.captions_of_item, image_features
        n_words = np.array([len(caption.split()) for caption in data.captions])
        baselines[SHORTER] = choices.expected_hits(-n_words, choices_of_item, data.right)
        if (data.right > 1).all():
            baselines |= _text_to_text(text_features, choices_of_item, data.right)
    else:
        choices_of_item, queries = data.images_of_item, text_features
    if len(queries) > 1:
        mean_query = np.broadcast_to(queries.mean(axis=0), queries.shape)
        if data.chosen == "captions":
            baselines[BLIND] = _hits(data, products(mean_query, text_features))
        else:
            baselines[BLIND] = _hits(data, products(image_features, mean_query))
    equal_scores = np.zeros(len(image_features) + len(text_features))
    baselines[CHANCE] = choices.expected_hits(equal_scores, choices_of_item, data.right)
    return baselines


def _text_to_text(
    text_features: Features, captions_of_item: Sequence[Ints], n_right: Ints
) -> dict[str, NDArray[Any]]:
    """Return whether right captions are closer to each other than to wrong ones, and the chance.

    An item has `n_right` right captions, which come first.
    """
    n_captions = np.array([len(captions) for captions in captions_of_item])
    n_right_pairs = n_right * (n_right - 1) // 2
    n_pairs = n_right_pairs + n_right * (n_captions - n_right)
    equal_scores = np.zeros(max(n_pairs))
    pairs_of_item = [np.arange(n) for n in n_pairs]
    return {
        TEXT_TO_TEXT: np.array(choices.text_hits(text_features, captions_of_item, n_right)),
        _TEXT_CHANCE: choices.expected_hits(equal_scores, pairs_of_item, n_right_pairs),
    }


def _clusters(data: SelectionData) -> NDArray[np.int64]:
    """Return the cluster (N,) of every item.

    Items are in one cluster if they share an image file, or a set of items that are right together,
    directly or through other items. Boxes of one image file share it.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # The nodes of the graph are the items, the image files, and the numbers of every grouping.
    n_items = len(data.images_of_item)
    file_names = dict.fromkeys(picture.file for picture in data.pictures)
    node_of_file = {file: n_items + index for index, file in enumerate(file_names)}
    node_of_image = np.array([node_of_file[picture.file] for picture in data.pictures])
    n_images = [len(images) for images in data.images_of_item]
    items = np.repeat(np.arange(n_items), n_images)
    nodes = node_of_image[np.concatenate(data.images_of_item)]
    n_nodes = n_items + len(node_of_file)
    for numbers in data.groups.values():
        items = np.concatenate([items, np.flatnonzero(numbers >= 0)])
        nodes = np.concatenate([nodes, n_nodes + numbers[numbers >= 0]])
        n_nodes += n_items
    edges = coo_array((np.ones(len(items), bool), (items, nodes)), shape=(n_nodes, n_nodes))
    _, component_of_node = connected_components(edges, directed=False)
    return component_of_node[:n_items].astype(np.int64)


def _sample_list_hash(data: SelectionData) -> str:
    """Return the SHA-256 of pictures, captions and items.

    Fields that most data sets lack are left out, so that the hashes of these stay the same.
    """
    sample_list: list[Any] = [
        data.pictures,
        data.captions,
        [images.tolist() for images in data.images_of_item],
        [captions.tolist() for captions in data.captions_of_item],
        data.subsets,
        data.subset_of_item.tolist(),
    ]
    if (data.right > 1).any():
        sample_list.append(data.right.tolist())
    sample_list += [numbers.tolist() for numbers in data.groups.values()]
    return fingerprint(sample_list)


TASK = Selection()
