"""Caption selection: which of some captions, alike but for a detail, belongs to an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data.folders import exist_in, fingerprint
from cosmos_eval.data.selection import SelectionData, list_data, open_data
from cosmos_eval.models.encoder import Encoder, settings_of_pairs, with_pair_scores
from cosmos_eval.stats.choices import (
    Score,
    expected_hits,
    pair_hits,
    products,
    single_hits,
    text_hits,
)
from cosmos_eval.stats.estimates import GroupMean, Ints, Mean, Proportion, means_of_groups
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.task import NAME, Derived, Metric, Task

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import Embeddings, Features

CORRECT = "correct"  # (N,) whether an item counts for the accuracy
TEXT = "text_correct"  # (N,) of pairs: whether each image finds its caption
IMAGE = "image_correct"  # (N,) of pairs: whether each caption finds its image
SUBSET = "subset"  # (N,) numbers of subsets
SUBSETS = "subsets"  # (S,) their sorted names; one without a name where there are no subsets
AVERAGED = "averaged"  # (S,) whether a subset is part of the mean over subsets
CLUSTER = "cluster"  # (N,) items of one number share an image or a set
PAIR = "pair"  # (N,) items of one number are right together; -1: of no complete pair
SET = "set"  # (N,) the same of sets of pairs
CHANCE = "chance"  # (N,) how probable it is that a random order of the scores counts
BLIND = "blind"  # (N,) whether the choice by the mean of all images, or captions, is right
SHORTER = "shorter"  # (N,) how probable it is that the captions of fewest words are right
TEXT_TO_TEXT = "text_to_text"  # (N,) whether right captions are closer to each other than to wrong
_TEXT_CHANCE = "text_to_text_chance"  # (N,)
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
_GROUP = "group_correct"  # (N,) derived, of pairs: both
# One of so many orders of a pair's four scores counts: two are each the higher of two, or the
# highest of all.
_ORDERS = {TEXT: 4, IMAGE: 4, _GROUP: 6}


def measure(
    encoder: Encoder,
    protocol: types.SelectionProtocol,
    options: types.RunOptions,
    progress: types.OnProgress = types.no_progress,
    data: SelectionData | None = None,
) -> types.Measurement:
    """Measure accuracy; `options.limit` keeps the first items of subsets in turn."""
    data = data or open_data(protocol, options)
    settings = settings_of_pairs(encoder, protocol.pairs)

    def score(images: Features, texts: Embeddings) -> types.Samples:
        scores: Score = products(images, texts.features)
        baselines = _baselines(data, images, texts.features)
        if protocol.pairs is not None:
            scores = _scores_of_pairs(encoder, data, options, progress)
            baselines.pop(BLIND, None)  # which is of the embeddings
        return {**_samples(protocol.pair_accuracy, data, scores), **baselines}

    of_item = zip(data.captions_of_item, data.right, strict=True)
    found = sum(bool(np.isin(some[:n], some[n:]).any()) for some, n in of_item)
    note = f"{found} items have a wrong caption equal to the right one and count as wrong"
    return TASK.measure_captions(
        encoder,
        data,
        options,
        progress,
        score,
        hashes={"sample_list": _sample_list_hash(data)},
        names=[data.pictures[images[0]].file for images in data.images_of_item],
        settings=settings,
        notes=[note] if found else [],
        unit="items",
    )


def _scores_of_pairs(
    encoder: Encoder, data: SelectionData, options: types.RunOptions, progress: types.OnProgress
) -> Score:
    """Score every caption with the images of its items."""
    from cosmos_eval.embedding.pairs import score_pairs

    wanted: list[list[int]] = [[] for _ in data.captions]
    for images, captions in zip(data.images_of_item, data.captions_of_item, strict=True):
        for caption in captions:
            wanted[caption] += images.tolist()
    arrays = [np.array(some, np.int64) for some in wanted]
    scorer = with_pair_scores(encoder)
    return score_pairs(scorer, data.images, data.captions, arrays, options, progress)


def _samples(rule: str, data: SelectionData, score: Score) -> dict[str, Any]:
    hits = {CORRECT: _hits(data, score)} if data.chosen != "both" else _of_pairs(rule, data, score)
    return {
        **hits,
        SUBSET: data.subset_of_item,
        SUBSETS: np.array(data.subsets),
        AVERAGED: data.averaged,
        CLUSTER: _clusters(data),
        **data.groups,
    }


def _of_pairs(rule: str, data: SelectionData, score: Score) -> dict[str, Any]:
    images, captions = np.stack(data.images_of_item), np.stack(data.captions_of_item)
    hits = pair_hits(score, images, captions)
    solvable = (images[:, 0] != images[:, 1]) & (captions[:, 0] != captions[:, 1])
    correct = hits.image if rule == "image" else hits.text & hits.image
    chance = solvable / _ORDERS[IMAGE if rule == "image" else _GROUP]
    return {CORRECT: correct, TEXT: hits.text, IMAGE: hits.image, CHANCE: chance}


def _hits(data: SelectionData, score: Score) -> NDArray[np.bool_]:
    """Return whether each item's image finds its right captions, or its caption the image, (N,)."""
    images, captions = data.images_of_item, data.captions_of_item
    if data.chosen == "captions":
        return single_hits(score, np.concatenate(images), captions, data.right)
    return single_hits(lambda rows, columns: score(columns, rows), np.concatenate(captions), images)


def _baselines(data: SelectionData, images: Features, texts: Features) -> dict[str, Any]:
    """Return the samples of single items that no image decides, or no caption that chooses one.
    Blind is the choice by the mean of all images, or captions, which is no item's alone."""
    found: dict[str, Any] = {}
    if data.chosen == "both":
        return found
    of_item, queries, right = data.images_of_item, texts, data.right
    if data.chosen == "captions":
        of_item, queries = data.captions_of_item, images
        words = np.array([len(caption.split()) for caption in data.captions])
        found[SHORTER] = expected_hits(-words, of_item, right)
        if (right > 1).all():
            found |= _text_to_text(texts, of_item, right)
    if len(queries) > 1:
        mean = np.broadcast_to(queries.mean(axis=0), queries.shape)
        both = (mean, texts) if data.chosen == "captions" else (images, mean)
        found[BLIND] = _hits(data, products(*both))
    return {**found, CHANCE: expected_hits(np.zeros(len(images) + len(texts)), of_item, right)}


def _text_to_text(texts: Features, of_item: Sequence[Ints], right: Ints) -> dict[str, Any]:
    alike = right * (right - 1) // 2
    pairs = alike + right * ([*map(len, of_item)] - right)
    chance = expected_hits(np.zeros(max(pairs)), [np.arange(n) for n in pairs], alike)
    return {TEXT_TO_TEXT: np.array(text_hits(texts, of_item, right)), _TEXT_CHANCE: chance}


def _clusters(data: SelectionData) -> NDArray[np.int64]:
    """Number items (N,) alike that share an image file, or boxes of it, or a set of items that are
    right together, also by way of others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n_items, per_item = len(data.images_of_item), [len(some) for some in data.images_of_item]
    item, shared = np.repeat(np.arange(n_items), per_item), np.concatenate(data.images_of_item)
    files = {file: i for i, file in enumerate(dict.fromkeys(p.file for p in data.pictures))}
    shared = np.array([files[picture.file] for picture in data.pictures])[shared]
    size = n_items + len(files)
    shared += n_items
    for group in data.groups.values():
        item = np.concatenate([item, np.flatnonzero(group >= 0)])
        shared = np.concatenate([shared, size + group[group >= 0]])
        size += n_items
    graph = coo_array((np.ones(len(item), bool), (item, shared)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:n_items].astype(np.int64)


def _sample_list_hash(data: SelectionData) -> str:
    images = [some.tolist() for some in data.images_of_item]
    captions = [some.tolist() for some in data.captions_of_item]
    subsets = (data.subsets, data.subset_of_item.tolist())
    # What most sets lack is left out, so that the hashes of these stay.
    more = [data.right.tolist()] if (data.right > 1).any() else []
    more += [group.tolist() for group in data.groups.values()]
    return fingerprint([data.pictures, data.captions, images, captions, *subsets, *more])


def _score(array: str, samples: Derived) -> Proportion | Mean | None:
    return _proportion(samples[array], samples[CLUSTER]) if array in samples else None


def _proportion(hits: NDArray[Any], clusters: NDArray[np.int64]) -> Proportion | Mean:
    independent = len(np.unique(clusters)) == len(clusters)
    return Proportion(hits) if independent else Mean(hits, clusters)


def _together(groups: str, array: str, samples: Derived) -> Proportion | Mean | None:
    """Return the share of complete pairs or sets all of whose items are right, None without any."""
    group = samples.get(groups, np.array([-1]))
    if (group < 0).all() or array not in samples:
        return None
    numbers, first, group = np.unique(group, return_index=True, return_inverse=True)
    right = np.ones(len(numbers), samples[array].dtype)
    np.multiply.at(right, group, samples[array])
    whole = numbers >= 0
    return _proportion(right[whole], samples[CLUSTER][first][whole])


def _mean_over_subsets(array: str, samples: Derived) -> GroupMean | None:
    """None where there is one subset, or the mean is the accuracy: all subsets of one size."""
    subset, averaged = samples[SUBSET], samples[AVERAGED]
    counts = np.bincount(subset, minlength=len(averaged))
    chosen = counts[averaged & (counts > 0)]
    is_accuracy = chosen.sum() == len(subset) and len(np.unique(chosen)) == 1
    if len(chosen) < 2 or is_accuracy or array not in samples:
        return None
    kept = averaged[subset]
    return GroupMean(samples[array][kept], subset[kept], samples[CLUSTER][kept])


def _per_subset(samples: types.Samples) -> dict[str, dict[str, float | None]]:
    """Accuracy, items, and of pairs both scores, by the subset's name, where there are subsets."""
    subsets = samples[SUBSETS].tolist()
    if subsets == [""]:
        return {}
    names = {CORRECT: "accuracy", TEXT: "text_score", IMAGE: "image_score"}
    names |= {CHANCE: CHANCE, BLIND: "blind_accuracy", SHORTER: "shorter_accuracy"}
    columns = {name: samples[array] for array, name in names.items() if array in samples}
    return means_of_groups(subsets, samples[SUBSET], columns, "items")


def _columns(samples: types.Samples) -> dict[str, Any]:
    found = {n: array for n, array in samples.items() if n not in (NAME, SUBSETS, AVERAGED)}
    return {**found, SUBSET: samples[SUBSETS][samples[SUBSET]]}


def _require_both_directions(samples: types.Samples) -> None:
    """Raise ValueError for hits of pairs in one direction only."""
    if (TEXT in samples) != (IMAGE in samples):
        raise ValueError(f"`{TEXT}` and `{IMAGE}` are stored together")


def _derive(samples: types.Samples) -> Derived:
    if TEXT not in samples:
        return samples
    found = {**samples, _GROUP: samples[TEXT] & samples[IMAGE]}
    if CHANCE in samples:
        found |= {f"{of}_{CHANCE}": (samples[CHANCE] > 0) / n for of, n in _ORDERS.items()}
    return found


_headline = partial(Metric, headline=True)
_reference = partial(Metric, reference=True)


def _metrics() -> Iterator[Metric]:
    yield Metric("accuracy", partial(_score, CORRECT), primary=True)
    yield _reference(CHANCE, partial(_score, CHANCE), headline=True)
    yield _reference("blind_accuracy", partial(_score, BLIND), headline=True, label="blind")
    yield _reference("shorter_accuracy", partial(_score, SHORTER))
    yield _headline(TEXT_TO_TEXT, partial(_score, TEXT_TO_TEXT), label="text to text")
    yield _reference(_TEXT_CHANCE, partial(_score, _TEXT_CHANCE))
    for name, label, of in (
        ("mean_subset_accuracy", "mean over subsets", _mean_over_subsets),
        ("accuracy_of_pairs", "pairs", partial(_together, PAIR)),
        ("accuracy_of_sets", "sets", partial(_together, SET)),
    ):
        yield _headline(name, partial(of, CORRECT), label=label)
        yield _reference(f"{name}_chance", partial(of, CHANCE))
        yield _reference(f"{name}_blind", partial(of, BLIND))
    for name, array in (("text_score", TEXT), ("image_score", IMAGE), ("group_score", _GROUP)):
        yield _headline(name, partial(_score, array), label=name.replace("_", " "))
        yield _reference(f"{name}_chance", partial(_score, f"{array}_{CHANCE}"))


TASK = Task(
    protocol=types.SelectionProtocol,
    metrics=tuple(_metrics()),
    arrays=ARRAYS,
    require_consistent=_require_both_directions,
    per_sample=CORRECT,
    truth=(SUBSET, AVERAGED, CLUSTER),
    open_data=open_data,
    checked="captions, numbers of items, and that every image is there",
    measure=measure,
    derive=_derive,
    per_class=_per_subset,
    columns=_columns,
    upgrade=lambda s, record: {**s, SUBSETS: np.array(sorted(record["per_class"]) or [""])},
    survey=lambda protocol, options, _: list_data(protocol, options).surveyed(protocol, options),
    is_there=lambda protocol, root: exist_in(root, protocol.annotations, protocol.images),
    n_samples=lambda protocol: protocol.n_items,
)
