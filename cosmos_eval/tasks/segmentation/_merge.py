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

# Logits held at once: 2^22 float32 values are 16 MB, about what stays in a CPU's last cache.
_TILE_VALUES = 2**22


class Axis(NamedTuple):
    """One axis of the windows of an image, in pixels of the resized image and in tokens."""

    length: int
    window: int
    stride: int
    tokens: int

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


@functools.lru_cache(maxsize=256)
def placement(axis: Axis, size: int) -> Tensor:
    """The matrix (size, windows * tokens) that takes tokens of all windows to output pixels.

    Interpolation weights come from the operation itself, applied to unit vectors, so that they
    carry its rounding.
    """
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


def decide(best_classes: Callable[[Decision, Tensor | None], Tensor], decision: Decision) -> Tensor:
    """Classes (H, W) uint8 by a function that finds the best query of every pixel.

    `best_classes` maps a decision and the queries that are ruled out, (Q,) bool or None, to the
    class of the best other query, or to 0 where its probability is below `prob_thd`.
    The first of equal queries wins. With `area_thd`, classes but 0 with no more than that share
    of the pixels outside class 0 are ruled out for the image. Pixels whose probability
    (softmax over queries) is below `prob_thd` fall to class 0.
    """
    ruled_out = None
    if decision.area_thd is not None:
        classes = best_classes(decision._replace(prob_thd=0.0), None)
        n_classes = int(decision.class_of_query[-1]) + 1
        small = _small_classes(classes, n_classes, decision.area_thd)
        ruled_out = small[decision.class_of_query.long()]
    return best_classes(decision, ruled_out)


def tiles(tokens: Tensor, rows: Tensor, columns: Tensor) -> Iterator[Tile]:
    """Logits of the image in rectangles of at most about _TILE_VALUES values."""
    n_queries, n_rows, _ = tokens.shape
    width = max(1, _TILE_VALUES // (n_queries * n_rows))
    for left in range(0, len(columns), width):
        band = columns[left : left + width]
        across = tokens @ band.T
        height = max(1, _TILE_VALUES // (n_queries * len(band)))
        for top in range(0, len(rows), height):
            down = rows[top : top + height]
            where = (slice(top, top + height), slice(left, left + width))
            yield Tile(*where, down @ across)


def _best_classes(
    tokens: Tensor, rows: Tensor, columns: Tensor, decision: Decision, ruled_out: Tensor | None
) -> Tensor:
    """Class (H, W) uint8 of every pixel's best query that is not ruled out, 0 if improbable."""
    classes = torch.empty(len(rows), len(columns), dtype=torch.uint8, device=tokens.device)
    for tile in tiles(tokens, rows, columns):
        scores = tile.logits
        if decision.prob_thd > 0:
            scores = scores.mul_(decision.scale).softmax(0)
        if ruled_out is not None:
            scores[ruled_out] = -torch.inf
        best = scores.max(0)
        found = decision.class_of_query[best.indices]
        if decision.prob_thd > 0:
            found[best.values < decision.prob_thd] = 0
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
