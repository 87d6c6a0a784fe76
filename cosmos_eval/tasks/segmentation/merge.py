"""From token logits of all windows to a label map at the original size, without full-size logits.

Sliding-window inference upsamples the logits of each window, adds them where windows overlap,
divides by the number of windows and resizes the sum. All of these are linear and act on rows and
columns apart, so the logits of a query are `rows @ tokens @ columns.T`, with its tokens of all
windows side by side. They are formed a tile at a time and only the best query of a pixel is kept.
Shapes: Q queries, A x B tokens of all windows, H x W original pixels, P neighbours of a pixel.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Logits formed at once: 2^19 float32 values are 2 MB, what a core's own cache can hold.
_TILE_VALUES = 2**19
# A GPU takes longer to start a tile's operations than to run them, unless tiles are larger: 128 MB.
_GPU_TILE_VALUES = 2**25
# Values held at once with columns placed and rows still to be: 16 MB.
_BAND_VALUES = 2**22

# PAMR, pixel-adaptive mask refinement, spreads scores between pixels of like colour: Araslanov and
# Roth, arXiv:2005.00060, constants of their code (models/mods/pamr.py of
# github.com/visinf/1-stage-wseg). Steps, dilations and where it is applied are those of SCLIP
# (clip_segmentor.py of github.com/wangf3014/SCLIP) and NACLIP (naclip.py of
# github.com/sinahmr/NACLIP): logits are refined at the original size, before scale and softmax, by
# the resized image brought to that size. Queries are independent before the decision: a few at a
# time are refined and compared with the best so far, and full logits never exist.
STEPS = 10
DILATIONS = (8, 16)
# Colour differences are divided by this share of the local standard deviation.
_SHARPNESS = 0.1
_EPSILON = 1e-8

_OFFSETS = tuple(
    (dilation * down, dilation * right)
    for dilation, down, right in product(DILATIONS, (-1, 0, 1), (-1, 0, 1))
    if down or right
)
_REACH = max(DILATIONS)

# Scores held at once beside as many refined ones: 2^21 float32 values are 8 MB.
_CHUNK_VALUES = 2**21


class Axis(NamedTuple):
    """One axis of the windows of an image, in pixels of the resized image and in tokens."""

    length: int
    window: int
    stride: int
    tokens: int
    is_whole: bool = False  # not cut: interpolated from tokens to the original size at once

    @property
    def starts(self) -> list[int]:
        """First pixel of every window; one that would pass the edge is moved back inside."""
        last = max(self.length - self.window, 0)
        return [*range(0, last, self.stride), last]


class Decision(NamedTuple):
    """How logits become classes, as the protocol says; `class_of_query` (Q,) is ascending."""

    class_of_query: Tensor
    scale: float
    prob_thd: float
    area_thd: float | None


@lru_cache(maxsize=64)  # up to about 1 MB each
def placement(axis: Axis, size: int) -> Tensor:
    """The matrix (size, windows * tokens) that takes tokens of all windows to output pixels."""
    # Interpolating unit vectors gives its weights with their rounding.
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


def label_map(
    tokens: Tensor, rows: Tensor, columns: Tensor, decision: Decision, pixels: Tensor | None = None
) -> Tensor:
    """Classes (H, W) from token logits (Q, A, B), rows (H, A) and columns (W, B).

    Logits are refined by the resized image's `pixels` (3, h, w), which are on their device. A pixel
    has the class of its best query, the first of equal ones, and class 0 where that one's softmax
    is below `prob_thd`. Classes with no more than `area_thd` of the pixels outside class 0 are
    ruled out for the image.
    """
    best = partial(_best_classes, tokens, rows, columns)
    if pixels is not None:
        size = (len(rows), len(columns))
        image = F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]
        weights = affinities(image)
        best = partial(_best_refined_classes, tokens, rows, columns, weights)
    if decision.area_thd is None:
        return best(decision, None)
    classes = best(decision._replace(prob_thd=0.0), None)
    # As `bincount`, for whose checks a GPU would have to be waited for.
    areas = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
    areas.index_add_(0, classes.flatten().int(), areas.new_ones(()).expand(classes.numel()))
    small = areas <= decision.area_thd * areas[1:].sum()
    small[:1].fill_(False)
    return best(decision, small[decision.class_of_query.long()])


def tiles(
    tokens: Tensor, rows: Tensor, columns: Tensor
) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
    """Rows and columns of rectangles of about _TILE_VALUES logits, and these logits (Q, h, w)."""
    n_queries, n_rows, _ = tokens.shape
    tile_values = _GPU_TILE_VALUES if tokens.is_cuda else _TILE_VALUES
    width = max(1, min(_BAND_VALUES // (n_queries * n_rows), tile_values // n_queries))
    for left in range(0, len(columns), width):
        band = columns[left : left + width]
        across = tokens @ band.T
        height = max(1, tile_values // (n_queries * len(band)))
        for top in range(0, len(rows), height):
            strip = rows[top : top + height]
            where = (slice(top, top + height), slice(left, left + width))
            # A strip takes something from few token rows; a GPU would have to be waited for.
            used = slice(None) if strip.is_cuda else strip.any(0).nonzero()[:, 0]
            yield where, strip[:, used] @ across[:, used]


def _best_classes(
    tokens: Tensor, rows: Tensor, columns: Tensor, decision: Decision, ruled_out: Tensor | None
) -> Tensor:
    """Classes (H, W); queries `ruled_out` (Q,) bool still have their share of probability."""
    classes = decision.class_of_query.new_empty(len(rows), len(columns))
    for where, logits in tiles(tokens, rows, columns):
        kept = logits
        if ruled_out is not None:
            kept = kept.masked_fill(ruled_out[:, None, None], -torch.inf)
        best = kept.max(0)
        found = decision.class_of_query[best.indices]
        if decision.prob_thd > 0:
            # The best query's probability is one over this sum, the softmax's own, without a
            # division for every query.
            weights = logits.sub_(best.values).mul_(decision.scale).exp_().sum(0)
            found.masked_fill_(weights.reciprocal() < decision.prob_thd, 0)
        classes[where] = found
    return classes


def affinities(image: Tensor) -> Tensor:
    """Weights (P, H, W) of a pixel's neighbours n: softmax of -mean_c |x - x_n| / (0.1 s + 1e-8).

    The image is (C, H, W); s is the standard deviation of x and all x_n, x counted once a dilation.
    """
    count = len(_OFFSETS) + len(DILATIONS)
    mean = sum(_neighbours(image), len(DILATIONS) * image) / count
    deviations = ((neighbour - mean).square() for neighbour in _neighbours(image))
    squares = sum(deviations, len(DILATIONS) * (image - mean).square())
    spread = _SHARPNESS * (squares / (count - 1)).sqrt() + _EPSILON
    weights = image.new_empty(len(_OFFSETS), *image.shape[1:])
    for weight, neighbour in zip(weights, _neighbours(image), strict=True):
        torch.mean(-(image - neighbour).abs() / spread, 0, out=weight)
    # Two of n values differ by at most sqrt(2 (n - 1)) standard deviations, so exponents are above
    # -60: their exponentials need no shift and can be formed in place.
    weights.exp_()
    return weights.div_(weights.sum(0))


def refine(scores: Tensor, weights: Tensor) -> Tensor:
    """Scores (Q, H, W) after STEPS steps of replacing each by the weighted mean of neighbours."""
    for _ in range(STEPS):
        refined = torch.zeros_like(scores)
        for weight, neighbour in zip(weights, _neighbours(scores), strict=True):
            refined.addcmul_(neighbour, weight)
        scores = refined
    return scores


def _neighbours(maps: Tensor) -> Iterator[Tensor]:
    """Maps (C, H, W) seen from every offset, (C, H, W) each; the border is repeated outwards."""
    height, width = maps.shape[1:]
    padded = F.pad(maps[None], [_REACH] * 4, mode="replicate")[0]
    for down, right in _OFFSETS:
        top, left = _REACH + down, _REACH + right
        yield padded[:, top : top + height, left : left + width]


def _best_refined_classes(
    tokens: Tensor,
    rows: Tensor,
    columns: Tensor,
    weights: Tensor,
    decision: Decision,
    ruled_out: Tensor | None,
) -> Tensor:
    """Class (H, W) of every pixel's best query that is not ruled out, 0 if improbable."""
    best = weights.new_full(weights.shape[1:], -torch.inf)
    total = torch.full_like(best, -torch.inf)
    classes = torch.zeros_like(best, dtype=decision.class_of_query.dtype)
    step = max(1, _CHUNK_VALUES // best.numel())
    for start in range(0, len(tokens), step):
        some = slice(start, start + step)
        logits = refine(rows @ tokens[some] @ columns.T, weights).mul_(decision.scale)
        if decision.prob_thd > 0:
            total = torch.logaddexp(total, logits.logsumexp(0))
        if ruled_out is not None:
            logits.masked_fill_(ruled_out[some][:, None, None], -torch.inf)
        peak = logits.max(0)
        better = peak.values > best
        best = torch.where(better, peak.values, best)
        classes = torch.where(better, decision.class_of_query[some][peak.indices], classes)
    if decision.prob_thd > 0:
        classes.masked_fill_((best - total).exp_() < decision.prob_thd, 0)
    return classes


def _interpolate(signals: Tensor, size: int) -> Tensor:
    """(N, L) -> (N, size), linear, pixel centres aligned as in image resizing."""
    return F.interpolate(signals[None], size=size, mode="linear", align_corners=False)[0]
