"""Scores of maps: how much of a map falls on the thing that was named.

A map has one weight per patch, which is spread evenly over the pixels of the patch. Pixels without
a label do not count, neither in masses nor in areas, so that the mass of an even map is equal to
the area of the thing. Shapes: K things of an image, h x w patches, H x W pixels; P pairs of an
image and a thing in it, N images, S sizes; a leading `...` is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Ints, Values, ratio

SIZES = ("small", "medium", "large")


class Cover(NamedTuple):
    """The pixels of a label map that lie under each patch of a map."""

    # (K, h, w): the number of pixels of each thing under each patch, which may be a fraction.
    things: Values
    # (h, w): the number of pixels with any label under each patch, which may be a fraction.
    labelled: Values
    # (K, h, w): True if the pixel in the middle of the patch belongs to the thing.
    thing_middles: NDArray[np.bool_]
    # (h, w): True if the pixel in the middle of the patch has a label.
    labelled_middles: NDArray[np.bool_]


def cover(label: Ints, classes: Sequence[int], grid: tuple[int, int], ignore_index: int) -> Cover:
    """Return how a grid of h x w patches of the same size covers a label map (H, W).

    `classes` are the labels of the K > 0 things. Pixels with the label `ignore_index` do not count.
    """
    (height, width), (n_rows, n_columns) = label.shape, grid
    rows, columns = _overlaps(height, n_rows), _overlaps(width, n_columns)
    middles = np.ix_(_middles(height, n_rows), _middles(width, n_columns))
    things = np.stack([label == class_index for class_index in classes])
    labelled = label != ignore_index
    return Cover(
        things=rows @ things @ columns.T,
        labelled=rows @ labelled @ columns.T,
        thing_middles=np.stack([thing[middles] for thing in things]),
        labelled_middles=labelled[middles],
    )


def _middles(length: int, n_patches: int) -> Ints:
    """Return the index of the pixel in the middle of each patch, (n_patches,).

    If two pixels are in the middle, it is the second one.
    """
    return (2 * np.arange(n_patches) + 1) * length // (2 * n_patches)


def _overlaps(length: int, n_patches: int) -> Values:
    """Return the fraction of each pixel that lies in each patch, (n_patches, length).

    The patches are equal parts of a line of `length` pixels. For example, 2 patches over 3 pixels
    give [[1, 0.5, 0], [0, 0.5, 1]].
    """
    ends = np.arange(n_patches + 1) * length / n_patches
    pixels = np.arange(length)
    overlaps = np.minimum(ends[1:, None], pixels + 1) - np.maximum(ends[:-1, None], pixels)
    return np.maximum(overlaps, 0)


class MapScores(NamedTuple):
    """The scores (K,) of the map of each thing."""

    # The share of the map that falls on its thing.
    mass: Values
    # 1 if the highest point of the map lies on its thing, else 0.
    hit: Values
    # The probability that the map is higher at a pixel of the thing than at another labelled pixel.
    auc: Values
    # The share of another thing's map that falls on this thing, as the mean over the other things.
    # It is NaN if the image has no other things.
    other_names: Values


def score_maps(maps: Values, under: Cover) -> MapScores:
    """Return the scores of K maps (K, h, w) of K things, whose values are 0 or more.

    Map i belongs to thing i. `under` holds the pixels under the patches. No thing may fill all
    labelled pixels.
    """
    n_things = len(maps)
    # [m, t]: the weight of map m on thing t, and its share of the whole weight of map m.
    weights_on_things = np.einsum("mhw,thw->mt", maps, under.things)
    weights = np.einsum("mhw,hw->m", maps, under.labelled)[:, None]
    shares = np.zeros_like(weights_on_things)
    np.divide(weights_on_things, weights, out=shares, where=weights > 0)
    mass = shares.diagonal().copy()
    other_names = np.full(n_things, np.nan)
    if n_things > 1:
        other_names = (shares.sum(axis=0) - mass) / (n_things - 1)
    outside = under.labelled - under.things
    hits, aucs = np.empty(n_things), np.empty(n_things)
    for index, attention_map in enumerate(maps):
        hits[index] = pointing(attention_map, under.thing_middles[index], under.labelled_middles)
        aucs[index] = auc(attention_map, under.things[index], outside[index])
    return MapScores(mass, hits, aucs, other_names)


def pointing(
    attention_map: Values, on_thing: NDArray[np.bool_], labelled: NDArray[np.bool_]
) -> float:
    """Return 1 if the highest point of a map (h, w) lies on the thing, else 0.

    The point is the middle of the highest patch whose middle is labelled, where an upsampled map is
    highest as well. If several patches are equally high, return the share of them that lies on the
    thing. Return 0 if no middle is labelled.
    """
    if not labelled.any():
        return 0.0
    highest = labelled & (attention_map == attention_map[labelled].max())
    return float(on_thing[highest].mean())


def auc(values: Values, inside: Values, outside: Values) -> float:
    """Return the probability that a pixel inside has a higher value than a pixel outside.

    Equal values count half. All arguments are (h, w): the value of each patch, which all its pixels
    have, and the numbers of its pixels that are inside and outside.
    """
    _, level = np.unique(values.ravel(), return_inverse=True)
    # The numbers of pixels with each distinct value, from the lowest.
    n_inside = np.bincount(level, weights=inside.ravel())
    n_outside = np.bincount(level, weights=outside.ravel())
    n_outside_below = np.cumsum(n_outside) - n_outside / 2
    return float(n_inside @ n_outside_below / (n_inside.sum() * n_outside.sum()))


class Pairs(NamedTuple):
    """Pairs (P,) of an image and a thing in it."""

    # The index of the image.
    image: Ints
    # The index of the thing's size in SIZES.
    size: Ints
    # The share of the image's labelled pixels that belong to the thing.
    area: Values
    scores: MapScores


class Sums(NamedTuple):
    """Sums over the pairs of each size, (..., S). The metrics are ratios of these sums."""

    # The number of pairs.
    pairs: Values
    # Sums of `Pairs.area` and of the `MapScores`.
    area: Values
    mass: Values
    hits: Values
    auc: Values
    # The mass, and `MapScores.other_names`, of things whose images have other things as well.
    mass_beside_others: Values
    other_names: Values


def sums_of_images(pairs: Pairs, n_images: int) -> Sums:
    """Return the sums over the pairs of each image and each size, (N, S)."""
    scores = pairs.scores
    is_only_thing = np.isnan(scores.other_names)
    columns = Sums(
        pairs=np.ones(len(pairs.image)),
        area=pairs.area,
        mass=scores.mass,
        hits=scores.hit,
        auc=scores.auc,
        mass_beside_others=np.where(is_only_thing, 0.0, scores.mass),
        other_names=np.where(is_only_thing, 0.0, scores.other_names),
    )
    n_sizes = len(SIZES)
    cell_of_pair = pairs.image * n_sizes + pairs.size  # in the flattened table of N x S sums
    sums = []
    for values in columns:
        flat = np.bincount(cell_of_pair, weights=values, minlength=n_images * n_sizes)
        sums.append(flat.reshape(n_images, n_sizes).astype(np.float64))
    return Sums(*sums)


def _mean_mass(sums: Sums) -> Values:
    return ratio(sums.mass, sums.pairs)


def _mean_area(sums: Sums) -> Values:
    return ratio(sums.area, sums.pairs)


def _mass_over_area(sums: Sums) -> Values:
    return ratio(sums.mass, sums.area)


def _mass_over_other_names(sums: Sums) -> Values:
    return ratio(sums.mass_beside_others, sums.other_names)


def _mean_hit(sums: Sums) -> Values:
    return ratio(sums.hits, sums.pairs)


def _mean_auc(sums: Sums) -> Values:
    return ratio(sums.auc, sums.pairs)


METRICS: Mapping[str, Callable[[Sums], Values]] = {
    "attention_mass": _mean_mass,
    "area": _mean_area,
    "mass_over_area": _mass_over_area,
    "mass_over_other_names": _mass_over_other_names,
    "pointing_game": _mean_hit,
    "AUC": _mean_auc,
}
"""The metrics (...,) as functions of sums (...,): means over pairs, and two ratios of means.
They are NaN without pairs."""


def of_size(size: int | None, sums: Sums) -> Sums:
    """Return the sums (...,) of one size from sums (..., S). A size of None adds up all sizes."""
    if size is None:
        return Sums(*(column.sum(-1) for column in sums))
    return Sums(*(column[..., size] for column in sums))
