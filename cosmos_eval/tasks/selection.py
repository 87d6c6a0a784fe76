"""Caption selection: which of some captions, alike but for a detail, belongs to an image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data.folders import exist_in, fingerprint
from cosmos_eval.data.selection import SelectionData, list_data, open_data
from cosmos_eval.models.encoder import settings_of_pairs, with_pair_scores
from cosmos_eval.stats.choices import Score, pair_hits, products, single_hits
from cosmos_eval.stats.estimates import GroupMean, Mean, Proportion, means_of_groups
from cosmos_eval.tasks.task import Derived, Metric, Task

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import Embeddings, Features
    from cosmos_eval.models.encoder import Encoder

CORRECT = "correct"  # (N,) whether an item counts for the accuracy
TEXT = "text_correct"  # (N,) of pairs: whether each image finds its caption
IMAGE = "image_correct"  # (N,) of pairs: whether each caption finds its image
SUBSET = "subset"  # (N,) numbers of subsets
SUBSETS = "subsets"  # (S,) their sorted names; one without a name where there are no subsets
AVERAGED = "averaged"  # (S,) whether a subset is part of the mean over subsets
CLUSTER = "cluster"  # (N,) items of one number share an image or a set
PAIR = "pair"  # (N,) items of one number are right together; -1: of no complete pair
SET = "set"  # (N,) the same of sets of pairs
_GROUP = "group_correct"  # (N,) derived, of pairs: both


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
        if protocol.pairs is not None:
            scores = _scores_of_pairs(encoder, data, options, progress)
        return _samples(protocol.pair_accuracy, data, scores)

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


def _samples(rule: str, data: SelectionData, score: Score) -> types.Samples:
    if data.chosen != "both":
        hits = {CORRECT: _choose(data, score)}
    else:
        pairs = pair_hits(score, np.stack(data.images_of_item), np.stack(data.captions_of_item))
        correct = pairs.image if rule == "image" else pairs.text & pairs.image
        hits = {CORRECT: correct, TEXT: pairs.text, IMAGE: pairs.image}
    return {
        **hits,
        SUBSET: data.subset_of_item,
        SUBSETS: np.array(data.subsets),
        AVERAGED: data.averaged,
        CLUSTER: _clusters(data),
        **data.groups,
    }


def _choose(data: SelectionData, score: Score) -> NDArray[np.bool_]:
    """Return whether each item's caption finds its image, or its image the right captions, (N,)."""
    if data.chosen == "images":
        captions = np.concatenate(data.captions_of_item)
        return single_hits(
            lambda rows, columns: score(columns, rows), captions, data.images_of_item
        )
    images = np.concatenate(data.images_of_item)
    return single_hits(score, images, data.captions_of_item, data.right)


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
    if array not in samples:
        return None
    return _proportion(samples[array], samples[CLUSTER])


def _proportion(hits: NDArray[np.bool_], clusters: NDArray[np.int64]) -> Proportion | Mean:
    independent = len(np.unique(clusters)) == len(clusters)
    return Proportion(hits) if independent else Mean(hits, clusters)


def _together(groups: str, samples: Derived) -> Proportion | Mean | None:
    """Return the share of complete pairs or sets all of whose items are right, None without any."""
    group = samples.get(groups, np.array([-1]))
    if (group < 0).all():
        return None
    numbers, first, group = np.unique(group, return_index=True, return_inverse=True)
    right = np.bincount(group, weights=~samples[CORRECT]) == 0
    whole = numbers >= 0
    return _proportion(right[whole], samples[CLUSTER][first][whole])


def _mean_over_subsets(samples: Derived) -> GroupMean | None:
    """None where there is one subset, or the mean is the accuracy: all subsets of one size."""
    subset, averaged = samples[SUBSET], samples[AVERAGED]
    counts = np.bincount(subset, minlength=len(averaged))
    chosen = counts[averaged & (counts > 0)]
    if len(chosen) < 2 or (chosen.sum() == len(subset) and len(np.unique(chosen)) == 1):
        return None
    kept = averaged[subset]
    return GroupMean(samples[CORRECT][kept], subset[kept], samples[CLUSTER][kept])


def _per_subset(samples: types.Samples) -> dict[str, dict[str, float | None]]:
    """Accuracy, items, and of pairs both scores, by the subset's name, where there are subsets."""
    subsets = samples[SUBSETS].tolist()
    if subsets == [""]:
        return {}
    names = {CORRECT: "accuracy", TEXT: "text_score", IMAGE: "image_score"}
    columns = {name: samples[array] for array, name in names.items() if array in samples}
    return means_of_groups(subsets, samples[SUBSET], columns, "items")


_headline = partial(Metric, headline=True)
TASK = Task(
    protocol=types.SelectionProtocol,
    metrics=(
        Metric("accuracy", partial(_score, CORRECT), primary=True),
        _headline("mean_subset_accuracy", _mean_over_subsets, label="mean over subsets"),
        _headline("pair_accuracy", partial(_together, PAIR), label="pairs"),
        _headline("set_accuracy", partial(_together, SET), label="sets"),
        _headline("text_score", partial(_score, TEXT), label="text score"),
        _headline("image_score", partial(_score, IMAGE), label="image score"),
        _headline("group_score", partial(_score, _GROUP), label="group score"),
    ),
    per_sample=CORRECT,
    truth=(SUBSET, AVERAGED, CLUSTER),
    open_data=open_data,
    checked="captions, numbers of items, and that every image is there; none is decoded",
    measure=measure,
    derive=lambda s: {**s, _GROUP: s[TEXT] & s[IMAGE]} if TEXT in s else s,
    per_class=_per_subset,
    upgrade=lambda s, record: {**s, SUBSETS: np.array(sorted(record["per_class"]) or [""])},
    survey=lambda protocol, options, _: list_data(protocol, options).surveyed(protocol, options),
    is_there=lambda protocol, root: exist_in(root, protocol.annotations, protocol.images),
    n_samples=lambda protocol: protocol.n_items,
)
