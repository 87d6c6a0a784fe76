"""How much of a map falls on the thing that was named.

A map has one weight a patch, spread evenly over the pixels of the patch. Pixels without a label
count nowhere, neither in masses nor in areas, so that an even map has a mass equal to the area.
Shapes: K things of an image, h x w patches, H x W pixels; P pairs of an image and a thing in it, N
images, S sizes; a leading `...` is kept.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Ints, Values, ratio

SIZES = ("small", "medium", "large")


class Cover(NamedTuple):
    """The label map under the patches of a map. `things` (K, h, w) are pixels of every thing,
    `labelled` (h, w) those with any label, fractions included; `thing_middles` and
    `labelled_middles` say whether the middle of a patch lies on them."""

    things: Values
    labelled: Values
    thing_middles: NDArray[np.bool_]
    labelled_middles: NDArray[np.bool_]


def cover(label: Ints, classes: Sequence[int], grid: tuple[int, int], ignore_index: int) -> Cover:
    """Return the cover of h x w patches that share a label map (H, W) evenly, of K > 0 classes."""
    axes = list(zip(label.shape, grid, strict=True))
    rows, columns = (_overlaps(side, parts) for side, parts in axes)
    # The pixel in the middle of every part; of two, the second.
    middles = np.ix_(*((2 * np.arange(n) + 1) * side // (2 * n) for side, n in axes))
    things = np.stack([label == number for number in classes])
    labelled = label != ignore_index
    return Cover(
        rows @ things @ columns.T,
        rows @ labelled @ columns.T,
        np.stack([thing[middles] for thing in things]),
        labelled[middles],
    )


def _overlaps(length: int, parts: int) -> Values:
    """Return how much of every pixel lies in each of equal parts, (parts, length)."""
    ends = np.arange(parts + 1) * length / parts
    pixels = np.arange(length)
    overlaps = np.minimum(ends[1:, None], pixels + 1) - np.maximum(ends[:-1, None], pixels)
    return np.maximum(overlaps, 0)


class MapScores(NamedTuple):
    """Scores (K,) of the map of every thing. `mass` is the share of the map that falls on its
    thing, `hit` whether its highest point does, `auc` how often a pixel of the thing ranks above
    another labelled one. `other_names` is the mean share on this thing of the maps of the other
    things, NaN where there is none."""

    mass: Values
    hit: Values
    auc: Values
    other_names: Values


def score_maps(maps: Values, under: Cover) -> MapScores:
    """Return the scores of maps (K, h, w) >= 0; no thing may fill all labelled pixels."""
    k, on_things = len(maps), np.einsum("mhw,thw->mt", maps, under.things)
    total = np.einsum("mhw,hw->m", maps, under.labelled)[:, None]
    masses = np.divide(on_things, total, out=np.zeros_like(on_things), where=total > 0)
    own = masses.diagonal().copy()
    others = (masses.sum(axis=0) - own) / (k - 1) if k > 1 else np.full(k, np.nan)
    middles = under.labelled_middles
    hits = [pointing(*one, middles) for one in zip(maps, under.thing_middles, strict=True)]
    outside = under.labelled - under.things
    aucs = [auc(*one) for one in zip(maps, under.things, outside, strict=True)]
    return MapScores(own, np.array(hits), np.array(aucs), others)


def pointing(one: Values, on_thing: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> float:
    """Return 1 where the highest point of a map (h, w) lies on the thing, else 0. The point is the
    middle of the highest patch with a labelled middle, where an upsampled map is highest as well;
    of several equal ones the mean, 0 where there is none."""
    if not labelled.any():
        return 0.0
    highest = labelled & (one == one[labelled].max())
    return float(on_thing[highest].mean())


def auc(values: Values, inside: Values, outside: Values) -> float:
    """Return how often a pixel inside has a higher value than one outside; equal ones count half.
    All arguments are per patch: the value of its pixels, and how many are inside and outside."""
    _, level = np.unique(values.ravel(), return_inverse=True)
    inside_at = np.bincount(level, weights=inside.ravel())
    outside_at = np.bincount(level, weights=outside.ravel())
    below = np.cumsum(outside_at) - outside_at / 2
    return float(inside_at @ below / (inside_at.sum() * outside_at.sum()))


class Pairs(NamedTuple):
    """Pairs (P,) of an image and a thing in it: the image's number, the size's, and the scores.
    `area` is the share of the labelled pixels that are the thing's."""

    image: Ints
    size: Ints
    area: Values
    scores: MapScores


class Sums(NamedTuple):
    """Sums over pairs (..., S), which means follow from; the last two where others are named."""

    pairs: Values
    area: Values
    mass: Values
    hits: Values
    auc: Values
    mass_beside_others: Values
    other_names: Values


def sums_of_images(pairs: Pairs, n_images: int) -> Sums:
    """Return the sums over the pairs of every image, (N, S)."""
    shape, scores = (n_images, len(SIZES)), pairs.scores
    cell = pairs.image * len(SIZES) + pairs.size
    alone = np.isnan(scores.other_names)
    beside_others = (np.where(alone, 0.0, some) for some in (scores.mass, scores.other_names))
    columns = (np.ones(len(cell)), pairs.area, *scores[:3], *beside_others)
    sums = (np.bincount(cell, weights=values, minlength=math.prod(shape)) for values in columns)
    return Sums(*(flat.reshape(shape).astype(np.float64) for flat in sums))


METRICS: Mapping[str, Callable[[Sums], Values]] = {
    "attention_mass": lambda sums: ratio(sums.mass, sums.pairs),
    "area": lambda sums: ratio(sums.area, sums.pairs),
    "mass_over_area": lambda sums: ratio(sums.mass, sums.area),
    "mass_over_other_names": lambda sums: ratio(sums.mass_beside_others, sums.other_names),
    "pointing_game": lambda sums: ratio(sums.hits, sums.pairs),
    "AUC": lambda sums: ratio(sums.auc, sums.pairs),
}
"""Metrics (...,) of sums (...,): means over pairs, and two ratios of means; NaN without pairs."""


def of_size(size: int | None, sums: Sums) -> Sums:
    """Return the sums (...,) of one size, or of all, from sums (..., S)."""
    return Sums(*(part.sum(-1) if size is None else part[..., size] for part in sums))
