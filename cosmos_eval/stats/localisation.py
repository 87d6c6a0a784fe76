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
    """Return the numbers of pixels that lie under the patches of a grid over a label map.

    A thing is a class that occurs in the label map, such as a dog, and is named to a model.

    Args:
        label: (H, W), the label of each pixel.
        classes: The labels of the K > 0 things.
        grid: (h, w), the number of rows and of columns of patches, which are stretched over the
            whole label map.
        ignore_index: The label of pixels that do not count.
    """
    height, width = label.shape
    n_rows, n_columns = grid
    is_thing = np.stack([label == class_index for class_index in classes])  # (K, H, W)
    is_labelled = label != ignore_index  # (H, W)
    # rows @ mask @ columns.T adds up the pixels of a mask (H, W) under each patch, (h, w).
    rows = _pixel_fractions(height, n_rows)
    columns = _pixel_fractions(width, n_columns)
    # mask[middle_pixels] (h, w) holds the pixel in the middle of each patch.
    middle_pixels = np.ix_(_middle_pixels(height, n_rows), _middle_pixels(width, n_columns))
    return Cover(
        things=rows @ is_thing @ columns.T,
        labelled=rows @ is_labelled @ columns.T,
        thing_middles=np.stack([mask[middle_pixels] for mask in is_thing]),
        labelled_middles=is_labelled[middle_pixels],
    )


def _middle_pixels(length: int, n_patches: int) -> Ints:
    """Return the index of the pixel in the middle of each patch, (n_patches,).

    The patches divide a line of `length` pixels evenly. If two pixels are in the middle, it is the
    second one. For example, 2 patches over 6 pixels have the middles [1, 4], and over 8 pixels
    [2, 6].
    """
    return (2 * np.arange(n_patches) + 1) * length // (2 * n_patches)


def _pixel_fractions(length: int, n_patches: int) -> Values:
    """Return the fraction of each pixel that lies in each patch, (n_patches, length).

    The patches divide a line of `length` pixels evenly. For example, 2 patches over 3 pixels give
    [[1, 0.5, 0], [0, 0.5, 1]].
    """
    edges = np.arange(n_patches + 1) * length / n_patches
    first_edges, last_edges = edges[:-1, None], edges[1:, None]
    pixels = np.arange(length)
    # Pixel i goes from i to i + 1. The overlap of a pixel and a patch that do not touch is below 0.
    overlaps = np.minimum(last_edges, pixels + 1) - np.maximum(first_edges, pixels)
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
    """Return the scores of the attention maps of the K things of an image.

    A thing is a class in the image, such as a dog. Its map says where a model looks if it is named.

    Args:
        maps: (K, h, w), the map of each thing, whose values are 0 or more.
        under: The pixels of the things that lie under each patch of the maps. No thing may fill all
            labelled pixels.

    Example:
        There are two things. The map of thing 0 falls with 80% of its weight on thing 0 and with
        20% on thing 1. The map of thing 1 falls with 30% on thing 0 and with 70% on thing 1. Then
        the masses are [0.8, 0.7], and `other_names` is [0.3, 0.2].
    """
    n_things = len(maps)
    # shares[m, t] is the share of the whole weight of map m that falls on thing t.
    weights_on_things = np.einsum("mhw,thw->mt", maps, under.things)
    whole_weights = np.einsum("mhw,hw->m", maps, under.labelled)[:, None]
    shares = np.zeros_like(weights_on_things)
    np.divide(weights_on_things, whole_weights, out=shares, where=whole_weights > 0)

    # The diagonal holds the share of each map on its own thing. The other elements of a column are
    # the shares of other things' maps on this thing.
    mass = shares.diagonal().copy()
    other_names = np.full(n_things, np.nan)
    if n_things > 1:
        other_names = (shares.sum(axis=0) - mass) / (n_things - 1)

    outside = under.labelled - under.things  # (K, h, w)
    hits = np.empty(n_things)
    aucs = np.empty(n_things)
    for index, attention_map in enumerate(maps):
        hits[index] = pointing(attention_map, under.thing_middles[index], under.labelled_middles)
        aucs[index] = auc(attention_map, under.things[index], outside[index])
    return MapScores(mass, hits, aucs, other_names)


def pointing(
    attention_map: Values, on_thing: NDArray[np.bool_], labelled: NDArray[np.bool_]
) -> float:
    """Return 1 if the highest point of an attention map lies on the thing, else 0.

    The highest point is the middle of the patch with the largest value, among patches whose middle
    is labelled. (An upsampled map is highest there as well.) If several patches are equally high,
    return the share of them that lies on the thing. Return 0 if no middle is labelled.

    Args:
        attention_map: (h, w), the value of each patch.
        on_thing: (h, w), whether the pixel in the middle of each patch belongs to the thing.
        labelled: (h, w), whether the pixel in the middle of each patch has a label.

    Example:
        The map [[3, 5, 5]] has two highest patches. If only the last one lies on the thing, the
        result is 0.5.
    """
    if not labelled.any():
        return 0.0
    largest_value = attention_map[labelled].max()
    is_highest = labelled & (attention_map == largest_value)
    return float(on_thing[is_highest].mean())


def auc(values: Values, inside: Values, outside: Values) -> float:
    """Return the probability that a pixel inside a thing has a higher value than one outside.

    Both pixels are drawn at random, and equal values count half.

    Args:
        values: (h, w), the value of each patch, which all its pixels have.
        inside: (h, w), the number of pixels of each patch that are inside the thing.
        outside: (h, w), the number of labelled pixels of each patch that are outside the thing.

    Example:
        Patches of the values [1, 2], with [1, 3] pixels inside and [4, 0] outside, give
        (1 * 2 + 3 * 4) / (4 * 4) = 0.875. The pixel inside of value 1 counts half for each of the 4
        pixels outside, since they have the same value.
    """
    # The rank of each patch's value among the distinct values, from 0 for the lowest.
    _, level_of_patch = np.unique(values.ravel(), return_inverse=True)
    # The numbers of pixels with each distinct value, from the lowest value to the highest.
    n_inside = np.bincount(level_of_patch, weights=inside.ravel())
    n_outside = np.bincount(level_of_patch, weights=outside.ravel())
    # The number of outside pixels with lower values, and half of those with the same value.
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
    """Add up the areas and scores of the things of each size in each image, (N, S) each.

    Args:
        pairs: Pairs of an image and a thing in it.
        n_images: The number N of images. Some of them may have no pairs.

    Example:
        A thing of size 0 in image 1 adds its mass to `mass[1, 0]`. If the image has no other
        things, it adds nothing to `mass_beside_others` and `other_names`.
    """
    scores = pairs.scores
    is_only_thing = np.isnan(scores.other_names)
    # What each pair adds to the sums, (P,) each.
    terms = Sums(
        pairs=np.ones(len(pairs.image)),
        area=pairs.area,
        mass=scores.mass,
        hits=scores.hit,
        auc=scores.auc,
        mass_beside_others=np.where(is_only_thing, 0.0, scores.mass),
        other_names=np.where(is_only_thing, 0.0, scores.other_names),
    )
    n_sizes = len(SIZES)
    # The place of each pair's image and size in a flattened table (N, S).
    flat_index = pairs.image * n_sizes + pairs.size
    tables = []
    for values in terms:
        flat_sums = np.bincount(flat_index, weights=values, minlength=n_images * n_sizes)
        tables.append(flat_sums.reshape(n_images, n_sizes).astype(np.float64))
    return Sums(*tables)


def _mean_mass(sums: Sums) -> Values:
    """Return the mean share of a map that falls on its thing."""
    return ratio(sums.mass, sums.pairs)


def _mean_area(sums: Sums) -> Values:
    """Return the mean share of an image's labelled pixels that belong to a thing."""
    return ratio(sums.area, sums.pairs)


def _mass_over_area(sums: Sums) -> Values:
    """Return mean mass / mean area: 1 for an even map, and more for a map that finds the thing."""
    return ratio(sums.mass, sums.area)


def _mass_over_other_names(sums: Sums) -> Values:
    """Return how many times as much of its own map falls on a thing as of other things' maps.

    It is a ratio of means over the things whose images have other things as well. For example, 60%
    of its own map and 20% of the other things' maps give 3.
    """
    return ratio(sums.mass_beside_others, sums.other_names)


def _hit_rate(sums: Sums) -> Values:
    """Return the fraction of maps whose highest point lies on the thing."""
    return ratio(sums.hits, sums.pairs)


def _mean_auc(sums: Sums) -> Values:
    """Return the mean probability that a map is higher on its thing than beside it."""
    return ratio(sums.auc, sums.pairs)


METRICS: Mapping[str, Callable[[Sums], Values]] = {
    "attention_mass": _mean_mass,
    "area": _mean_area,
    "mass_over_area": _mass_over_area,
    "mass_over_other_names": _mass_over_other_names,
    "pointing_game": _hit_rate,
    "AUC": _mean_auc,
}
"""The metrics (...,) as functions of sums (...,): means over pairs, and two ratios of means.
They are NaN without pairs."""


def of_size(size: int | None, sums: Sums) -> Sums:
    """Return the sums (...,) over the things of one size, or of all sizes.

    Args:
        size: The index of the size in SIZES, or None for things of all sizes.
        sums: The sums (..., S) over the things of each size.
    """
    if size is None:
        return Sums(*(sums_of_sizes.sum(-1) for sums_of_sizes in sums))
    return Sums(*(sums_of_sizes[..., size] for sums_of_sizes in sums))
