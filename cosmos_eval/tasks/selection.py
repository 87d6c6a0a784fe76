"""Caption selection: which of some captions, alike but for a detail, belongs to an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data import selection as selection_data
from cosmos_eval.data.folders import Survey, all_exist, content_hash, fingerprint
from cosmos_eval.data.selection import SelectionData
from cosmos_eval.models.encoder import Encoder, describe_pair_scores, require_pair_scorer
from cosmos_eval.stats import choices
from cosmos_eval.stats.choices import Score, products
from cosmos_eval.stats.estimates import (
    GroupMean,
    Ints,
    Mean,
    Proportion,
    mean_of_items,
    means_of_groups,
)
from cosmos_eval.tasks import suppression
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.ordered import EmbeddedMeasurement, require_crops, require_no_pairs
from cosmos_eval.tasks.task import LEAST_NOTED_FRACTION, NAME, ScoredSamples, Task

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import Embeddings, Features

# Stored arrays of N items and S subsets.
CORRECT = "correct"  # (N,) whether an item counts as correct for the accuracy
TEXT = "text_correct"  # (N,) for pairs: whether each image finds its caption
IMAGE = "image_correct"  # (N,) for pairs: whether each caption finds its image
SUBSET = "subset"  # (N,) numbers of subsets
SUBSETS = "subsets"  # (S,) sorted names of subsets; one empty name if there are no subsets
AVERAGED = "averaged"  # (S,) whether a subset counts in the mean over subsets
CLUSTER = "cluster"  # (N,) items with the same number share an image or a set
# (N,) items with the same number belong to one pair, all of whose items must be correct to count;
# -1: the item is not in a complete pair
PAIR = "pair"
SET = "set"  # (N,) the same for sets of pairs
CHANCE = "chance"  # (N,) the probability that a random order of the scores is correct
BLIND = "blind"  # (N,) whether the choice by the mean of all images, or captions, is correct
SHORTER = "shorter"  # (N,) the probability that the captions with the fewest words are correct
# (N,) whether the correct captions are closer to each other than to any wrong caption
TEXT_TO_TEXT = "text_to_text"
# (N,) the probability that TEXT_TO_TEXT is true if the order of the scores is random
_TEXT_CHANCE = "text_to_text_chance"
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
    *suppression.ARRAYS,
)
_GROUP = "group_correct"  # (N,) derived, for pairs: whether both TEXT and IMAGE are true
# A random order of a pair's four scores is correct with a probability of 1 / _ORDERS[array].
# TEXT and IMAGE each need two comparisons of two scores to come out right: 1/2 * 1/2 = 1/4.
# _GROUP needs the two correct scores to be the two highest of the four: 1 / C(4, 2) = 1/6.
_ORDERS = {TEXT: 4, IMAGE: 4, _GROUP: 6}


@dataclass(frozen=True)
class ItemMean:
    """Computes the mean of an array over all items."""

    # The name of the array (N,).
    array: str

    def __call__(self, samples: Derived) -> Proportion | Mean | None:
        """Return the mean of the array over all items, or None if the samples do not have it."""
        if self.array not in samples:
            return None
        return mean_of_items(samples[self.array], samples[CLUSTER])


@dataclass(frozen=True)
class AllCorrect:
    """Computes the fraction of pairs (or sets) of items in which all items are correct.

    Only complete pairs count. If `correct_array` holds probabilities, the probability of a pair is
    the product of the probabilities of its items, and the mean over all pairs is computed.
    """

    # The name of the array (N,) with the number of each item's pair, -1 for an incomplete pair.
    group_array: str
    # The name of the array (N,) that says whether each item is correct, or how probable that is.
    correct_array: str

    def __call__(self, samples: Derived) -> Proportion | Mean | None:
        """Return the fraction of complete pairs in which all items are correct.

        Return None if the samples lack an array, and if no pair is complete.

        Example:
            Items of the pairs [7, 7, 8, 8, -1] are correct as [True, True, True, False, True]. Pair
            7 is correct and pair 8 is not. The last item is in no complete pair. So the fraction is
            1/2.
        """
        if self.group_array not in samples or self.correct_array not in samples:
            return None
        number_of_item, is_correct = samples[self.group_array], samples[self.correct_array]
        if (number_of_item < 0).all():
            return None

        # Multiply over the items of each pair. For truth values, the product is the logical "and".
        pair_numbers, first_item_of_pair, pair_of_item = np.unique(
            number_of_item, return_index=True, return_inverse=True
        )
        all_correct = np.ones(len(pair_numbers), is_correct.dtype)
        np.multiply.at(all_correct, pair_of_item, is_correct)

        # All items of a pair are in one cluster. Items that are in no complete pair have -1.
        cluster_of_pair = samples[CLUSTER][first_item_of_pair]
        is_complete = pair_numbers >= 0
        return mean_of_items(all_correct[is_complete], cluster_of_pair[is_complete])


@dataclass(frozen=True)
class SubsetMean:
    """Computes the mean over subsets of the mean of an array over the items of each subset.

    Only the subsets count that the protocol averages over.
    """

    # The name of the array (N,).
    array: str

    def __call__(self, samples: Derived) -> GroupMean | None:
        """Return the mean over subsets.

        Return None if the samples lack the array, if fewer than two subsets are averaged, and if
        the mean would equal the mean over items: all subsets are averaged and have the same size.
        """
        if self.array not in samples:
            return None
        subset_of_item, subset_is_averaged = samples[SUBSET], samples[AVERAGED]

        # Find the sizes of the averaged subsets that have items.
        n_items_of_subset = np.bincount(subset_of_item, minlength=len(subset_is_averaged))
        has_items = n_items_of_subset > 0
        averaged_sizes = n_items_of_subset[subset_is_averaged & has_items]
        if len(averaged_sizes) < 2:
            return None
        all_items_are_averaged = averaged_sizes.sum() == len(subset_of_item)
        have_equal_sizes = len(np.unique(averaged_sizes)) == 1
        if all_items_are_averaged and have_equal_sizes:
            return None

        item_is_averaged = subset_is_averaged[subset_of_item]
        return GroupMean(
            samples[self.array][item_is_averaged],
            subset_of_item[item_is_averaged],
            samples[CLUSTER][item_is_averaged],
        )


def _metrics() -> Iterator[Metric]:
    """Yield the metrics in the order of tables, each followed by its baselines.

    A baseline is a reference metric, which only helps to judge the other one. The chance level is
    the probability that a random choice is correct.
    """
    yield Metric("accuracy", ItemMean(CORRECT), primary=True)
    yield from suppression.headline_metrics(CORRECT, BLIND, CLUSTER)
    yield Metric(CHANCE, ItemMean(CHANCE), reference=True, headline=True)
    yield Metric("blind_accuracy", ItemMean(BLIND), reference=True, label="no image", headline=True)
    yield Metric("shorter_accuracy", ItemMean(SHORTER), reference=True)
    yield Metric(TEXT_TO_TEXT, ItemMean(TEXT_TO_TEXT), label="text to text", headline=True)
    yield Metric(_TEXT_CHANCE, ItemMean(_TEXT_CHANCE), reference=True)
    yield Metric(
        "mean_subset_accuracy", SubsetMean(CORRECT), label="mean over subsets", headline=True
    )
    yield Metric("mean_subset_accuracy_chance", SubsetMean(CHANCE), reference=True)
    yield Metric("mean_subset_accuracy_blind", SubsetMean(BLIND), reference=True)
    for name, label, group_array in (
        ("accuracy_of_pairs", "pairs", PAIR),
        ("accuracy_of_sets", "sets", SET),
    ):
        yield Metric(name, AllCorrect(group_array, CORRECT), label=label, headline=True)
        yield Metric(f"{name}_chance", AllCorrect(group_array, CHANCE), reference=True)
        yield Metric(f"{name}_blind", AllCorrect(group_array, BLIND), reference=True)
    for name, array in (("text_score", TEXT), ("image_score", IMAGE), ("group_score", _GROUP)):
        yield Metric(name, ItemMean(array), label=name.replace("_", " "), headline=True)
        yield Metric(f"{name}_chance", ItemMean(f"{array}_{CHANCE}"), reference=True)
    yield from suppression.detail_metrics(CORRECT, CLUSTER)


class Selection(Task):
    """The choice of the correct caption for an image, or of the correct image for a caption."""

    protocol = types.SelectionProtocol
    metrics = tuple(_metrics())
    truth = (SUBSET, AVERAGED, CLUSTER)
    per_sample = CORRECT
    checked = "captions, numbers of items, and that every image is there"
    arrays = ARRAYS

    def open_data(
        self, protocol: types.SelectionProtocol, options: types.RunOptions
    ) -> SelectionData:
        """List the items of a data set, with their images and captions."""
        return selection_data.open_data(protocol, options)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.SelectionProtocol],
        data: Sequence[SelectionData],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Measure a model, and yield a measurement for each protocol, in their order.

        A measurement says whether the choice of each item is correct.

        Args:
            encoder: The model.
            protocols: The protocols. Each is a data set, and how it is measured.
            data: The items of each protocol, from `open_data`, with their images and captions.
            options: The options of the run. If their `limit` is set, the first item of each subset
                is measured, then the second item of each subset, and so on.
            progress: Called with the progress.
        """
        from cosmos_eval.embedding.embed import ImageEmbedder
        from cosmos_eval.embedding.regions import region_embedder

        embedder = ImageEmbedder(encoder, options, progress)
        for protocol, items in zip(protocols, data, strict=True):
            score_items = partial(_score_items, encoder, protocol, items, options, progress)
            yield self.measure_captions(
                encoder,
                items,
                options,
                progress,
                score_items,
                embedder=region_embedder(embedder, protocol),
                hashes=_hashes(protocol, items, options),
                names=[items.pictures[images[0]].file for images in items.images_of_item],
                settings=describe_pair_scores(encoder, protocol.pairs),
                notes=_notes(items),
                unit="items",
            )

    def data_hashes(
        self, protocol: types.SelectionProtocol, data: SelectionData, options: types.RunOptions
    ) -> Mapping[str, str]:
        """Return the hashes of the images' files, and of the items."""
        from cosmos_eval.embedding.hashing import hash_images

        content = content_hash(hash_images(data.images, options))
        return {**_hashes(protocol, data, options), "content": content}

    def in_order(
        self,
        encoder: Encoder,
        protocol: types.SelectionProtocol,
        data: SelectionData,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> EmbeddedMeasurement:
        """Return a measurement that takes the items in any order.

        Raises UsageError for a protocol that scores pairs, or pools features of boxes.
        """
        require_no_pairs(protocol)
        require_crops(protocol)
        return _OrderedItems(self, encoder, protocol, data, options, progress)

    def derive(self, samples: types.Samples) -> Derived:
        """Add arrays for items with two images and two captions, as in Winoground.

        They are the group score, which needs both the text and the image score, and the chance
        levels of the three scores. Samples of other items are returned as they are.
        """
        if TEXT not in samples:
            return samples
        derived = {**samples, _GROUP: samples[TEXT] & samples[IMAGE]}
        if CHANCE in samples:
            is_solvable = samples[CHANCE] > 0
            for array, n_orders in _ORDERS.items():
                derived[f"{array}_{CHANCE}"] = is_solvable / n_orders
        return derived

    def require_consistent(self, samples: types.Samples) -> None:
        """Raise ValueError for arrays that contradict each other.

        The text scores and the image scores are stored together, and objects have a known role.
        """
        if (TEXT in samples) != (IMAGE in samples):
            raise ValueError(f"`{TEXT}` and `{IMAGE}` are stored together")
        suppression.require_roles(samples)

    def require_same_truth(self, first: Derived, second: Derived) -> None:
        """Raise ValueError unless two results have the same items, about the same objects."""
        super().require_same_truth(first, second)
        suppression.require_same_objects(first, second)

    def per_class(self, samples: types.Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return the accuracy, the baselines and the number of items of every subset, by its name.

        Items with two images and two captions have a text and an image score as well. The mapping
        is empty if the data set is not divided into subsets.
        """
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
        """Return a table with a row per item: all arrays (N,), with the names of subsets."""
        columns: dict[str, Any] = {
            name: array for name, array in samples.items() if name not in (NAME, SUBSETS, AVERAGED)
        }
        columns[SUBSET] = samples[SUBSETS][samples[SUBSET]]
        return columns

    def upgrade(self, samples: types.Samples, record: Mapping[str, Any]) -> types.Samples:
        """Add the names of the subsets to the samples of a result of format version 1.

        Version 1 stores them only in `record`.
        """
        subset_names = sorted(record["per_class"])
        return {**samples, SUBSETS: np.array(subset_names or [""])}

    def survey(
        self,
        protocol: types.SelectionProtocol,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Survey:
        """Count the images that the items refer to, and report missing ones."""
        return selection_data.list_data(protocol, options).complete_survey(protocol, options)

    def is_there(self, protocol: types.SelectionProtocol, root: Path) -> bool:
        """Return whether the folder `root` holds the items' file and the image folder."""
        return all_exist(root, protocol.annotations, protocol.images)

    def n_samples(self, protocol: types.SelectionProtocol) -> int | None:
        """Return the number of items of the complete data set, or None if it is unknown."""
        return protocol.n_items

    def attention(self, protocol: types.SelectionProtocol) -> types.Attention | None:
        """Return the form of attention of pooled features of boxes, or None for other features."""
        return protocol.pooled_attention


class _OrderedItems(EmbeddedMeasurement):
    """Measures items in any order. The captions of an item are embedded after its images."""

    def hashes_of_names(self) -> Mapping[str, str]:
        """Return the hashes of the images' names, the captions, the items and the protocol."""
        return _hashes(self.protocol, self.data, self.options)

    def images_of(self, sample: int) -> Sequence[int]:
        """Return the indices of the images of an item."""
        images: list[int] = self.data.images_of_item[sample].tolist()
        return images

    @cached_property
    def cluster_of_item(self) -> Ints:
        """The number of each item's cluster, (N,)."""
        return _cluster_items(self.data)

    def score(self, samples: Ints) -> types.Samples:
        """Return which items are correct, and the number of each item's cluster.

        Args:
            samples: The indices (n,) of the items.
        """
        from cosmos_eval.embedding.embed import embed_texts

        items = selection_data.select_items(self.data, samples)
        images = sorted({image for sample in samples for image in self.images_of(sample)})
        image_features = self.embeddings(images).features
        captions = embed_texts(self.encoder, items.captions, self.options)
        score_pairs: Score = products(image_features, captions.features)
        return {
            **_hits(self.protocol, items, score_pairs),
            CLUSTER: self.cluster_of_item[samples],
        }


def _notes(data: SelectionData) -> list[str]:
    """Return a note on the number of items that have a wrong caption equal to a correct one.

    Return an empty list if there are none.
    """
    n_unsolvable = 0
    for captions, n_correct in zip(data.captions_of_item, data.n_correct_of_item, strict=True):
        if np.isin(captions[:n_correct], captions[n_correct:]).any():
            n_unsolvable += 1
    if not n_unsolvable:
        return []
    return [f"{n_unsolvable} items have a wrong caption equal to the right one and count as wrong"]


def _score_items(
    encoder: Encoder,
    protocol: types.SelectionProtocol,
    data: SelectionData,
    options: types.RunOptions,
    progress: types.OnProgress,
    image_features: Features,
    captions: Embeddings,
) -> ScoredSamples:
    """Choose the best caption or image of every item. Return the arrays to store, and notes.

    Pairs of an image and a caption are scored by the products of their features, or by the model's
    own scores of pairs if the protocol asks for them.

    Args:
        encoder: The model.
        protocol: The protocol, which says whether pairs are scored.
        data: The items, I images and T captions.
        options: The options of the run.
        progress: Called with the number of pairs that are scored.
        image_features: The features (I, D) of the images.
        captions: The embeddings (T, D) of the captions.
    """
    score: Score = products(image_features, captions.features)
    baselines = _compute_baselines(data, image_features, captions.features)
    if protocol.pairs is not None:
        # The blind choice is made by embeddings, which the model's own scores of pairs do not use.
        score = _score_pairs_of_items(encoder, data, options, progress)
        baselines.pop(BLIND, None)
    hits = _hits(protocol, data, score)
    hits_and_ties = _hits(protocol, data, score, ties_are_hits=True)
    n_tied = np.count_nonzero(hits_and_ties[CORRECT] & ~hits[CORRECT])
    n_items = len(hits[CORRECT])
    notes = []
    if n_tied > LEAST_NOTED_FRACTION * n_items:
        notes.append(
            f"{n_tied} of {n_items} items are wrong only because a wrong answer has the score of "
            "the right one"
        )
    samples = {
        **hits,
        SUBSET: data.subset_of_item,
        SUBSETS: np.array(data.subsets),
        AVERAGED: data.counts_in_mean,
        CLUSTER: _cluster_items(data),
        **data.groups,
        **data.asked,
        **baselines,
    }
    return ScoredSamples(samples, notes)


def _score_pairs_of_items(
    encoder: Encoder, data: SelectionData, options: types.RunOptions, progress: types.OnProgress
) -> Score:
    """Let the model score every caption together with the images of the items that use it.

    Args:
        encoder: The model, which must be able to score pairs.
        data: The items, images and captions.
        options: The options of the run.
        progress: Called with the number of pairs that are scored.

    Returns:
        An object that maps indices of images and captions to the scores of these pairs.
    """
    from cosmos_eval.embedding.pairs import score_pairs

    images_of_caption: list[list[int]] = [[] for _ in data.captions]
    for images, captions in zip(data.images_of_item, data.captions_of_item, strict=True):
        for caption in captions:
            images_of_caption[caption] += images.tolist()
    return score_pairs(
        require_pair_scorer(encoder),
        data.images,
        data.captions,
        [np.array(images, np.int64) for images in images_of_caption],
        options,
        progress,
    )


def _hits(
    protocol: types.SelectionProtocol,
    data: SelectionData,
    score: Score,
    *,
    ties_are_hits: bool = False,
) -> dict[str, NDArray[Any]]:
    """Return which of N items are correct, as arrays (N,) to store, by name.

    Items with two images and two captions have the arrays of `_hits_of_pairs`, and other items only
    the array `correct`.

    Args:
        protocol: The protocol, with the rule for items of two images and two captions.
        data: The items.
        score: Maps indices of images and captions to scores.
        ties_are_hits: True if a right answer need not score higher than all wrong ones, but may
            have the same score.
    """
    if data.chosen == "both":
        return _hits_of_pairs(protocol.pair_accuracy, data, score, ties_are_hits=ties_are_hits)
    return {CORRECT: _hits_of_single_choices(data, score, ties_are_hits=ties_are_hits)}


def _hits_of_pairs(
    pair_accuracy: str, data: SelectionData, score: Score, *, ties_are_hits: bool
) -> dict[str, NDArray[Any]]:
    """Return which of N items with two images and two captions are correct.

    Args:
        pair_accuracy: The protocol's rule. If it is "image", an item is correct if both captions
            find their image. Otherwise both images must find their caption as well.
        data: The items.
        score: Maps indices of images and captions to scores.
        ties_are_hits: True if equal scores count as higher.

    Returns:
        The arrays (N,) to store, by name. `text_correct` says whether each of the two images scores
        higher with its own caption than with the other one, `image_correct` whether each of the two
        captions scores higher with its own image, `correct` whether the item is correct by the
        rule, and `chance` the probability that a random order of the scores is correct.
    """
    images, captions = np.stack(data.images_of_item), np.stack(data.captions_of_item)  # (N, 2)
    hits = choices.pair_hits(score, images, captions, ties_are_hits=ties_are_hits)

    # An item whose images, or captions, are the same cannot be solved. Other items are solved by a
    # random order of the scores with a probability of 1 / n_orders.
    is_solvable = (images[:, 0] != images[:, 1]) & (captions[:, 0] != captions[:, 1])
    if pair_accuracy == "image":
        is_correct, n_orders = hits.image, _ORDERS[IMAGE]
    else:
        is_correct, n_orders = hits.text & hits.image, _ORDERS[_GROUP]
    return {
        CORRECT: is_correct,
        TEXT: hits.text,
        IMAGE: hits.image,
        CHANCE: is_solvable / n_orders,
    }


def _hits_of_single_choices(
    data: SelectionData, score: Score, *, ties_are_hits: bool = False
) -> NDArray[np.bool_]:
    """Return whether each item is correct (N,), for items with a single image or caption.

    A single image must score higher with all of its correct captions than with any wrong one. A
    single caption must score higher with one of its correct images than with any wrong one.

    Args:
        data: The items.
        score: Maps indices of images and captions to scores.
        ties_are_hits: True if equal scores count as higher.
    """
    if data.chosen == "captions":
        images = np.concatenate(data.images_of_item)
        return choices.single_hits(
            score,
            images,
            data.captions_of_item,
            data.n_correct_of_item,
            ties_are_hits=ties_are_hits,
        )

    def score_images(captions: Ints, images: Ints) -> NDArray[np.float32]:
        """Return the scores of pairs, with images and captions in exchanged roles."""
        return score(images, captions)

    captions = np.concatenate(data.captions_of_item)
    return choices.single_hits(
        score_images,
        captions,
        data.images_of_item,
        data.n_correct_of_item,
        is_one_enough=True,
        ties_are_hits=ties_are_hits,
    )


def _compute_baselines(
    data: SelectionData, image_features: Features, text_features: Features
) -> dict[str, NDArray[Any]]:
    """Return how often choices would be correct that ignore the query of an item.

    The query is the image if a caption is chosen, and the caption if an image is chosen.

    Args:
        data: N items.
        image_features: The features (I, D) of all images.
        text_features: The features (T, D) of all captions.

    Returns:
        Arrays (N,) by name; none for items with two images and two captions.

        - `chance`: the choice is random.
        - `blind`: every query is replaced by the mean of all queries, if there are several.
        - `shorter`: the captions with the fewest words are chosen, if captions are chosen.
        - `text_to_text` and its chance level: captions are compared with each other, if every item
          has several correct captions.
    """
    if data.chosen == "both":
        return {}
    baselines: dict[str, NDArray[Any]] = {}
    if data.chosen == "captions":
        candidates_of_item = data.captions_of_item
        n_words = np.array([len(caption.split()) for caption in data.captions])
        baselines[SHORTER] = choices.expected_hits(
            -n_words, candidates_of_item, data.n_correct_of_item
        )
        if (data.n_correct_of_item > 1).all():
            baselines |= _text_to_text(text_features, candidates_of_item, data.n_correct_of_item)
        if len(image_features) > 1:
            mean_image = np.broadcast_to(image_features.mean(axis=0), image_features.shape)
            blind_score = products(mean_image, text_features)
            baselines[BLIND] = _hits_of_single_choices(data, blind_score)
        n_candidates = len(text_features)
    else:
        candidates_of_item = data.images_of_item
        if len(text_features) > 1:
            mean_caption = np.broadcast_to(text_features.mean(axis=0), text_features.shape)
            blind_score = products(image_features, mean_caption)
            baselines[BLIND] = _hits_of_single_choices(data, blind_score)
        n_candidates = len(image_features)
    # With equal scores, `expected_hits` returns the probability that a random choice is correct.
    equal_scores = np.zeros(n_candidates)
    baselines[CHANCE] = choices.expected_hits(
        equal_scores,
        candidates_of_item,
        data.n_correct_of_item,
        is_one_enough=data.chosen == "images",
    )
    return baselines


def _text_to_text(
    text_features: Features, captions_of_item: Sequence[Ints], n_correct: Ints
) -> dict[str, NDArray[Any]]:
    """Return whether the correct captions of each item are closer to each other than to wrong ones.

    Args:
        text_features: The features (T, D) of all captions.
        captions_of_item: For each of N items, the indices of its captions, the correct ones first.
        n_correct: The number (N,) of correct captions of each item, at least 2.

    Returns:
        The array `text_to_text` (N,): True if every similarity of two correct captions is above
        every similarity of a correct and a wrong caption; and the array of its chance level (N,).

    Example:
        An item with 2 correct and 1 wrong caption has 3 similarities, 1 of two correct captions. In
        a random order, this one is the highest with a probability of 1 / C(3, 1) = 1/3.
    """
    n_captions = np.array([len(captions) for captions in captions_of_item])
    n_similarities_of_correct = n_correct * (n_correct - 1) // 2  # pairs of correct captions
    n_similarities_to_wrong = n_correct * (n_captions - n_correct)
    n_similarities = n_similarities_of_correct + n_similarities_to_wrong

    # With equal similarities, `expected_hits` returns the probability for a random order. The items
    # can share the values: each needs only as many equal ones as it has similarities.
    equal_similarities = np.zeros(n_similarities.max())
    similarities_of_item = [np.arange(n) for n in n_similarities]
    return {
        TEXT_TO_TEXT: np.array(choices.text_hits(text_features, captions_of_item, n_correct)),
        _TEXT_CHANCE: choices.expected_hits(
            equal_similarities, similarities_of_item, n_similarities_of_correct
        ),
    }


def _cluster_items(data: SelectionData) -> NDArray[np.int64]:
    """Return the number of each item's cluster, (N,).

    Items are in one cluster if they use the same image file, or belong to the same pair or set,
    directly or through other items. Boxes of one image file use the same file.

    The clusters are the connected components of a graph. Its nodes are the items, then the image
    files, then the pairs, then the sets. An edge joins each item with its files and its groups.
    With 3 items and 2 files, in one pair (0, 1) and no sets:

        nodes 0 to 2   items
        nodes 3 to 4   image files: file_offset is 3
        nodes 5 to 7   pairs: group_offset is 5; as many nodes as items, most of them unused

    If item 0 uses file 0 and items 1 and 2 use file 1, the edges are 0-3, 1-4, 2-4, 0-5 and 1-5,
    and all three items are in one cluster.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n_items = len(data.images_of_item)
    file_offset = n_items
    files = dict.fromkeys(picture.file for picture in data.pictures)
    node_of_file = {file: file_offset + index for index, file in enumerate(files)}
    node_of_image = np.array([node_of_file[picture.file] for picture in data.pictures])

    # Edge i joins the item edge_items[i] with the node edge_nodes[i].
    n_images_of_item = [len(images) for images in data.images_of_item]
    edge_items = np.repeat(np.arange(n_items), n_images_of_item)
    edge_nodes = node_of_image[np.concatenate(data.images_of_item)]
    group_offset = file_offset + len(files)
    for group_of_item in data.groups.values():
        items_in_groups = np.flatnonzero(group_of_item >= 0)
        edge_items = np.concatenate([edge_items, items_in_groups])
        edge_nodes = np.concatenate([edge_nodes, group_offset + group_of_item[items_in_groups]])
        group_offset += n_items  # there are at most as many groups as items
    n_nodes = group_offset

    is_edge = np.ones(len(edge_items), bool)
    edges = coo_array((is_edge, (edge_items, edge_nodes)), shape=(n_nodes, n_nodes))
    _, component_of_node = connected_components(edges, directed=False)
    return component_of_node[:n_items].astype(np.int64)


def _hashes(
    protocol: types.SelectionProtocol, data: SelectionData, options: types.RunOptions
) -> dict[str, str]:
    """Return the hashes that a result records: the items, and how features of boxes are made.

    The rule for pairs is hashed if a user's file states another one than the default, so that other
    results keep their hashes. The rule of a published data set belongs to its protocol.
    """
    from cosmos_eval.embedding.regions import hash_constants

    hashes = {"sample_list": _hash_sample_list(data)}
    hashes.update(hash_constants(protocol, options))
    has_unusual_rule = data.chosen == "both" and protocol.pair_accuracy != "group"
    if has_unusual_rule and not protocol.is_published:
        hashes["pair_accuracy"] = fingerprint([protocol.pair_accuracy])
    return hashes


def _hash_sample_list(data: SelectionData) -> str:
    """Return a SHA-256 that identifies the images, the captions and the items.

    The numbers of correct captions are hashed only if an item has several, and pairs and sets of
    items, and the objects that items ask about, only if there are any. So other data sets keep the
    hash that they had before these fields existed.
    """
    sample_list: list[Any] = [
        data.pictures,
        data.captions,
        [images.tolist() for images in data.images_of_item],
        [captions.tolist() for captions in data.captions_of_item],
        data.subsets,
        data.subset_of_item.tolist(),
    ]
    if (data.n_correct_of_item > 1).any():
        sample_list.append(data.n_correct_of_item.tolist())
    sample_list += [group_of_item.tolist() for group_of_item in data.groups.values()]
    sample_list += [[name, values.tolist()] for name, values in data.asked.items()]
    return fingerprint(sample_list)


TASK = Selection()
