"""From token logits of all windows to a label map at the original size, without full-size logits.

Sliding-window inference upsamples the logits of each window, adds them where windows overlap,
divides by the number of windows and resizes the sum. All of these are linear and act on rows and
columns apart, so the logits of a query are `rows @ tokens @ columns.T`, with its tokens of all
windows side by side. They are formed a tile at a time and only the best query of a pixel is kept.

Shapes: Q queries, A x B tokens of all window rows and columns, H x W pixels of the original.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Logits formed at once: 2^19 float32 values are 2 MB, what a core's own cache can hold.
_TILE_VALUES = 2**19
# Values held at once with columns placed and rows still to be: 16 MB.
_BAND_VALUES = 2**22


class Axis(NamedTuple):
    """One axis of the windows of an image, in pixels of the resized image and in tokens.

    `is_whole` marks an image that a protocol does not cut into windows: its logits are interpolated
    from the tokens to the original size at once.
    """

    length: int
    window: int
    stride: int
    tokens: int
    is_whole: bool = False

    @property
    def starts(self) -> list[int]:
        """First pixel of every window; one that would pass the edge is moved back inside."""
        return window_starts(self.length, self.window, self.stride)


class Decision(NamedTuple):
    """How logits become classes; see SegmentationProtocol for the constants.

    `class_of_query` (Q,) uint8, non-decreasing.
    """

    class_of_query: Tensor
    scale: float
    prob_thd: float
    area_thd: float | None


class Tile(NamedTuple):
    """Logits (Q, h, w) of a rectangle of the image."""

    rows: slice
    columns: slice
    logits: Tensor


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixel of every window along an axis."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [min(i * stride, max(length - window, 0)) for i in range(count)]


@functools.lru_cache(maxsize=64)  # up to about 1 MB each
def placement(axis: Axis, size: int) -> Tensor:
    """The matrix (size, windows * tokens) that takes tokens of all windows to output pixels.

    Interpolation weights come from the operation itself, applied to unit vectors, so that they
    carry its rounding.
    """
    if axis.is_whole:
        return _interpolate(torch.eye(axis.tokens), size).T.contiguous()
    window = min(axis.window, axis.length)
    upsample = _interpolate(torch.eye(axis.tokens), window)
    merged = torch.zeros(len(axis.starts), axis.tokens, axis.length)
    covering = torch.zeros(axis.length)
    for index, start in enumerate(axis.starts):
        merged[index, :, start : start + window] = upsample
        covering[start : start + window] += 1
    return _interpolate(merged.flatten(0, 1) / covering, size).T.contiguous()


def label_map(tokens: Tensor, rows: Tensor, columns: Tensor, decision: Decision) -> Tensor:
    """Classes (H, W) uint8 from token logits (Q, A, B), rows (H, A) and columns (W, B)."""
    return decide(functools.partial(_best_classes, tokens, rows, columns), decision)


def decide(best: Callable[[Decision, Tensor | None], Tensor], decision: Decision) -> Tensor:
    """Classes (H, W) uint8 from a function that finds every pixel's class.

    `best` maps a decision without its area threshold, and queries (Q,) bool that are ruled out or
    None, to the class of each pixel's best other query, 0 where its probability is below
    `prob_thd` (softmax over all queries). The first of equal queries wins. With `area_thd`,
    classes but 0 with no more than that share of the pixels outside class 0 are ruled out for the
    image.
    """
    ruled_out = None
    if decision.area_thd is not None:
        classes = best(decision._replace(prob_thd=0.0), None)
        n_classes = int(decision.class_of_query[-1]) + 1
        small = _small_classes(classes, n_classes, decision.area_thd)
        ruled_out = small[decision.class_of_query.long()]
    return best(decision, ruled_out)


def tiles(tokens: Tensor, rows: Tensor, columns: Tensor) -> Iterator[Tile]:
    """Logits of the image in rectangles of at most about _TILE_VALUES values.

    A strip of pixel rows takes something from few token rows; the others are left out.
    """
    n_queries, n_rows, _ = tokens.shape
    width = max(1, min(_BAND_VALUES // (n_queries * n_rows), _TILE_VALUES // n_queries))
    for left in range(0, len(columns), width):
        band = columns[left : left + width]
        across = tokens @ band.T
        height = max(1, _TILE_VALUES // (n_queries * len(band)))
        for top in range(0, len(rows), height):
            strip = rows[top : top + height]
            used = strip.any(0).nonzero()[:, 0]
            where = (slice(top, top + height), slice(left, left + width))
            yield Tile(*where, strip[:, used] @ across[:, used])


def _best_classes(
    tokens: Tensor, rows: Tensor, columns: Tensor, decision: Decision, ruled_out: Tensor | None
) -> Tensor:
    """Class (H, W) uint8 of every pixel's best query that is not ruled out, 0 if improbable.

    `ruled_out` (Q,) bool; such queries still have their share of probability.
    """
    classes = torch.empty(len(rows), len(columns), dtype=torch.uint8, device=tokens.device)
    for tile in tiles(tokens, rows, columns):
        kept = tile.logits
        if ruled_out is not None:
            kept = kept.masked_fill(ruled_out[:, None, None], -torch.inf)
        best = kept.max(0)
        found = decision.class_of_query[best.indices]
        if decision.prob_thd > 0:
            # The best query's probability is one over this sum, the softmax's own, without a
            # division for every query.
            weights = tile.logits.sub_(best.values).mul_(decision.scale).exp_().sum(0)
            found[weights.reciprocal() < decision.prob_thd] = 0
        classes[tile.rows, tile.columns] = found
    return classes


def _small_classes(classes: Tensor, n_classes: int, area_thd: float) -> Tensor:
    """(n_classes,) bool: classes to rule out because they cover too little of the foreground."""
    areas = torch.bincount(classes.flatten(), minlength=n_classes)
    small = areas <= area_thd * areas[1:].sum()
    small[0] = False
    return small


def _interpolate(signals: Tensor, size: int) -> Tensor:
    """(N, L) -> (N, size), linear, pixel centres aligned as in image resizing."""
    return F.interpolate(signals[None], size=size, mode="linear", align_corners=False)[0]
