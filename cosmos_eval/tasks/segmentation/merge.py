"""From token logits of all windows to a label map at the original size, without full-size logits.

Sliding-window inference upsamples the logits of each window, adds them where windows overlap,
divides by the number of windows, and resizes the sum. All of these steps are linear, and act on
rows and columns separately. The logits of a query are therefore

    rows @ tokens @ columns.T

with the tokens of all windows side by side. The logits are formed one tile at a time, and only the
best query of each pixel is kept.

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
# Values that are held at once while only the columns are placed: 16 MB.
_BAND_VALUES = 2**22

# PAMR, pixel-adaptive mask refinement, spreads scores between pixels of similar colour: Araslanov
# and Roth, arXiv:2005.00060, with the constants of their code (models/mods/pamr.py of
# github.com/visinf/1-stage-wseg). Steps and dilations are those of SCLIP (clip_segmentor.py of
# github.com/wangf3014/SCLIP) and NACLIP (naclip.py of github.com/sinahmr/NACLIP). As in their code,
# logits are refined at the original size, before scale and softmax, by the resized image, which is
# interpolated to that size. Queries are independent before the decision: a few at a time are
# refined and compared with the best so far, so that full logits never exist.
STEPS = 10
DILATIONS = (8, 16)
# Colour differences are divided by this fraction of the local standard deviation.
_SHARPNESS = 0.1
_EPSILON = 1e-8

# The offsets (down, right) of the 8 neighbours of a pixel at each dilation.
_OFFSETS = tuple(
    (dilation * down, dilation * right)
    for dilation, down, right in product(DILATIONS, (-1, 0, 1), (-1, 0, 1))
    if (down, right) != (0, 0)
)
_REACH = max(DILATIONS)

# Scores that are refined at once: 2^21 float32 values are 8 MB, and as much again when refined.
_CHUNK_VALUES = 2**21


class Axis(NamedTuple):
    """One axis of the windows of an image, in pixels of the resized image and in tokens."""

    length: int
    window: int
    stride: int
    # The number of tokens of a window.
    tokens: int
    # Whether the image is not cut: its tokens are interpolated to the original size at once.
    is_whole: bool = False

    @property
    def starts(self) -> list[int]:
        """The first pixel of every window. A window that would pass the edge is moved inside."""
        last = max(self.length - self.window, 0)
        return [*range(0, last, self.stride), last]


class Decision(NamedTuple):
    """How logits become classes; the constants are the protocol's."""

    # (Q,), ascending.
    class_of_query: Tensor
    scale: float
    prob_thd: float
    area_thd: float | None


@lru_cache(maxsize=64)  # up to about 1 MB each
def placement(axis: Axis, size: int) -> Tensor:
    """Return the matrix (size, windows * tokens) from tokens of all windows to output pixels.

    Along one axis, it upsamples the tokens of each window to its pixels, takes the mean of the
    windows that cover a pixel, and resizes the image to `size` pixels.
    """
    # Interpolating a unit vector gives the weights of one token, with the same rounding.
    if axis.is_whole:
        return _interpolate(torch.eye(axis.tokens), size).T.contiguous()
    window = min(axis.window, axis.length)
    upsample = _interpolate(torch.eye(axis.tokens), window)
    weights = torch.zeros(len(axis.starts), axis.tokens, axis.length)
    n_windows_of_pixel = torch.zeros(axis.length)
    for index, start in enumerate(axis.starts):
        weights[index, :, start : start + window] = upsample
        n_windows_of_pixel[start : start + window] += 1
    mean_weights = weights.flatten(0, 1) / n_windows_of_pixel
    return _interpolate(mean_weights, size).T.contiguous()


def label_map(
    tokens: Tensor, rows: Tensor, columns: Tensor, decision: Decision, pixels: Tensor | None = None
) -> Tensor:
    """Return classes (H, W) from token logits (Q, A, B), rows (H, A) and columns (W, B).

    The logits are refined if `pixels` (3, h, w) of the resized image are given. A pixel has the
    class of its best query, the first one of equals, or class 0 if the softmax of the best query is
    below `prob_thd`. Classes that cover no more than `area_thd` of the pixels outside class 0 are
    ruled out for the image.
    """
    if pixels is None:
        best_classes = partial(_best_classes, tokens, rows, columns)
    else:
        size = (len(rows), len(columns))
        image = F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]
        best_classes = partial(_best_refined_classes, tokens, rows, columns, affinities(image))
    if decision.area_thd is None:
        return best_classes(decision, None)
    classes = best_classes(decision._replace(prob_thd=0.0), None)
    # The number of pixels of each class. `bincount` would do the same, but its checks make the CPU
    # wait for a GPU. There are at most as many classes as queries.
    areas = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
    areas.index_add_(0, classes.flatten().int(), areas.new_ones(()).expand(classes.numel()))
    is_small = areas <= decision.area_thd * areas[1:].sum()
    is_small[:1].fill_(False)
    return best_classes(decision, is_small[decision.class_of_query.long()])


def tiles(
    tokens: Tensor, rows: Tensor, columns: Tensor
) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
    """Yield rows and columns of tiles of about _TILE_VALUES logits, and the logits (Q, h, w)."""
    n_queries, n_rows, _ = tokens.shape
    tile_values = _GPU_TILE_VALUES if tokens.is_cuda else _TILE_VALUES
    width = max(1, min(_BAND_VALUES // (n_queries * n_rows), tile_values // n_queries))
    for left in range(0, len(columns), width):
        band = columns[left : left + width]
        across = tokens @ band.T
        height = max(1, tile_values // (n_queries * len(band)))
        for top in range(0, len(rows), height):
            strip = rows[top : top + height]
            tile = (slice(top, top + height), slice(left, left + width))
            # A strip uses few token rows. On a GPU, the CPU would have to wait to know which.
            used = slice(None) if strip.is_cuda else strip.any(0).nonzero()[:, 0]
            yield tile, strip[:, used] @ across[:, used]


def _best_classes(
    tokens: Tensor, rows: Tensor, columns: Tensor, decision: Decision, ruled_out: Tensor | None
) -> Tensor:
    """Return classes (H, W).

    Queries that are `ruled_out` (Q,) bool keep their probability in the softmax.
    """
    classes = decision.class_of_query.new_empty(len(rows), len(columns))
    for tile, logits in tiles(tokens, rows, columns):
        allowed_logits = logits
        if ruled_out is not None:
            allowed_logits = logits.masked_fill(ruled_out[:, None, None], -torch.inf)
        best = allowed_logits.max(0)
        classes_of_tile = decision.class_of_query[best.indices]
        if decision.prob_thd > 0:
            # The softmax of the best query is one over the sum of exp(scale (logit - best logit)),
            # which needs no division for each query.
            total = logits.sub_(best.values).mul_(decision.scale).exp_().sum(0)
            classes_of_tile.masked_fill_(total.reciprocal() < decision.prob_thd, 0)
        classes[tile] = classes_of_tile
    return classes


def affinities(image: Tensor) -> Tensor:
    """Return the weights (P, H, W) of the neighbours of every pixel of an image (C, H, W).

    The weights of the neighbours n of a pixel x are the softmax over n of

        -mean over channels of |x - x_n| / (0.1 s + 1e-8)

    where s is the standard deviation of all x_n and of x, which counts once for each dilation.
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
    """Replace scores (Q, H, W) by the weighted mean of their neighbours, STEPS times."""
    for _ in range(STEPS):
        refined = torch.zeros_like(scores)
        for weight, neighbour in zip(weights, _neighbours(scores), strict=True):
            refined.addcmul_(neighbour, weight)
        scores = refined
    return scores


def _neighbours(maps: Tensor) -> Iterator[Tensor]:
    """Yield the neighbours of all pixels of maps (C, H, W) at every offset, (C, H, W) each.

    The border is repeated outwards.
    """
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
    """Return classes (H, W) of the best refined queries; `affinities` returns the `weights`."""
    best_logits = weights.new_full(weights.shape[1:], -torch.inf)
    log_total = torch.full_like(best_logits, -torch.inf)
    classes = torch.zeros_like(best_logits, dtype=decision.class_of_query.dtype)
    step = max(1, _CHUNK_VALUES // best_logits.numel())
    for start in range(0, len(tokens), step):
        queries = slice(start, start + step)
        logits = refine(rows @ tokens[queries] @ columns.T, weights).mul_(decision.scale)
        if decision.prob_thd > 0:
            log_total = torch.logaddexp(log_total, logits.logsumexp(0))
        if ruled_out is not None:
            logits.masked_fill_(ruled_out[queries][:, None, None], -torch.inf)
        best = logits.max(0)
        is_better = best.values > best_logits
        best_logits = torch.where(is_better, best.values, best_logits)
        best_classes = decision.class_of_query[queries][best.indices]
        classes = torch.where(is_better, best_classes, classes)
    if decision.prob_thd > 0:
        classes.masked_fill_((best_logits - log_total).exp_() < decision.prob_thd, 0)
    return classes


def _interpolate(signals: Tensor, size: int) -> Tensor:
    """Interpolate (N, L) linearly to (N, size); pixel centres are aligned as in image resizing."""
    return F.interpolate(signals[None], size=size, mode="linear", align_corners=False)[0]
