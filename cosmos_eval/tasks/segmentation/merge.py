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
from functools import lru_cache
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
        """The first pixel of every window.

        The last window ends at the edge. For example, windows of 4 pixels with stride 3 over 9
        pixels start at [0, 3, 5]. If the image is smaller than a window, the only start is 0.
        """
        last_start = max(self.length - self.window, 0)
        return [*range(0, last_start, self.stride), last_start]


class Decision(NamedTuple):
    """The constants by which the logits of queries become classes."""

    # (Q,) the class of each query, ascending.
    class_of_query: Tensor
    # Logits are multiplied by this number before the softmax over the queries.
    scale: float
    # A pixel whose best query has a lower probability gets class 0.
    prob_thd: float
    # Classes that cover at most this fraction of the pixels outside class 0 are ruled out for the
    # image. None: no class is ruled out.
    area_thd: float | None


@lru_cache(maxsize=64)  # up to about 1 MB each
def placement(axis: Axis, size: int) -> Tensor:
    """Return the matrix that maps the tokens of all windows along one axis to output pixels.

    It does three things at once: it upsamples the tokens of each window to the pixels of the
    window, averages the windows that cover a pixel, and resizes the image to `size` pixels.

    Args:
        axis: The windows along one axis of the image.
        size: The number of output pixels along this axis.

    Returns:
        The matrix (size, windows * tokens).

    Example:
        Two windows of 4 pixels with one token each start at the pixels 0 and 2 of 6 pixels. The
        output has 6 pixels, too: [[1, 0], [1, 0], [0.5, 0.5], [0.5, 0.5], [0, 1], [0, 1]]
    """
    # All steps are linear. Interpolating a unit vector, a row of the identity matrix, gives the
    # weights of one token in all pixels, with the same rounding as interpolating the tokens.
    unit_vectors = torch.eye(axis.tokens)
    if axis.is_whole:
        return _interpolate(unit_vectors, size).T.contiguous()

    # Upsample the tokens of a window to its pixels, and put each window in its place.
    window = min(axis.window, axis.length)
    weights_in_window = _interpolate(unit_vectors, window)  # (tokens, window)
    weights = torch.zeros(len(axis.starts), axis.tokens, axis.length)
    n_windows_of_pixel = torch.zeros(axis.length)
    for index, start in enumerate(axis.starts):
        weights[index, :, start : start + window] = weights_in_window
        n_windows_of_pixel[start : start + window] += 1

    # Average the windows that cover a pixel, and resize to the output pixels.
    mean_weights = weights.flatten(0, 1) / n_windows_of_pixel
    return _interpolate(mean_weights, size).T.contiguous()


def label_map(
    tokens: Tensor, rows: Tensor, columns: Tensor, decision: Decision, pixels: Tensor | None = None
) -> Tensor:
    """Return the class of each pixel, (H, W), from the logits of tokens.

    A pixel has the class of its best query, the first one of equals. It has class 0 if the
    probability of the best query is below `decision.prob_thd`. If `decision.area_thd` is set, small
    classes are ruled out: the classes are computed once to measure them, and a second time without
    the small ones.

    Args:
        tokens: The logits (Q, A, B) of Q queries for the tokens of all windows, side by side.
        rows: The matrix (H, A) of `placement` that maps rows of tokens to rows of pixels.
        columns: The matrix (W, B) of `placement` that maps columns of tokens to columns of pixels.
            The logits (H, W) of a query are rows @ tokens[query] @ columns.T.
        decision: The class of each query, and the thresholds.
        pixels: The pixels (3, h, w) of the resized image, to refine the logits by its colours
            (PAMR); None for no refinement.
    """
    weights = None
    if pixels is not None:
        size = (len(rows), len(columns))
        image = F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]
        weights = affinities(image)
    if decision.area_thd is None:
        return _best_classes(tokens, rows, columns, weights, decision, None)

    # Count the pixels of each class. `bincount` would do the same, but its checks make the CPU wait
    # for a GPU. There are at most as many classes as queries.
    without_threshold = decision._replace(prob_thd=0.0)
    classes = _best_classes(tokens, rows, columns, weights, without_threshold, None)
    areas = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
    one_per_pixel = areas.new_ones(()).expand(classes.numel())
    areas.index_add_(0, classes.flatten().int(), one_per_pixel)

    # Rule out the small classes, but never class 0.
    is_small = areas <= decision.area_thd * areas[1:].sum()
    is_small[:1].fill_(False)
    query_is_ruled_out = is_small[decision.class_of_query.long()]
    return _best_classes(tokens, rows, columns, weights, decision, query_is_ruled_out)


def tiles(
    tokens: Tensor, rows: Tensor, columns: Tensor
) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
    """Compute the logits rows @ tokens @ columns.T (Q, H, W), one rectangle of pixels at a time.

    A rectangle, or tile, has a fixed number of logits, so that they stay in a fast memory.

    Args:
        tokens: The logits (Q, A, B) of Q queries for the tokens of all windows, side by side.
        rows: The matrix (H, A) that maps rows of tokens to rows of pixels.
        columns: The matrix (W, B) that maps columns of tokens to columns of pixels.

    Yields:
        The slices of the pixel rows and columns of a tile, and its logits (Q, h, w).
    """
    n_queries, n_token_rows, _ = tokens.shape
    tile_values = _GPU_TILE_VALUES if tokens.is_cuda else _TILE_VALUES

    # A band is a number of pixel columns. It has Q * A values for each of them, and a tile has Q
    # values for each of its pixels.
    width = max(1, min(_BAND_VALUES // (n_queries * n_token_rows), tile_values // n_queries))
    for left in range(0, len(columns), width):
        columns_of_band = columns[left : left + width]
        band = tokens @ columns_of_band.T  # (Q, A, w)
        height = max(1, tile_values // (n_queries * len(columns_of_band)))
        for top in range(0, len(rows), height):
            rows_of_tile = rows[top : top + height]
            tile = (slice(top, top + height), slice(left, left + width))
            if rows_of_tile.is_cuda:
                yield tile, rows_of_tile @ band
            else:
                # A few pixel rows use few token rows: multiply only those. (On a GPU, the CPU would
                # have to wait for their indices.)
                used_token_rows = rows_of_tile.any(0).nonzero()[:, 0]
                yield tile, rows_of_tile[:, used_token_rows] @ band[:, used_token_rows]


def _best_classes(
    tokens: Tensor,
    rows: Tensor,
    columns: Tensor,
    weights: Tensor | None,
    decision: Decision,
    ruled_out: Tensor | None,
) -> Tensor:
    """Return the class of the best query of each pixel, (H, W).

    It is computed tile by tile. In plain terms, without refinement, and if no query is ruled out:

        logits = rows @ tokens @ columns.T  # (Q, H, W)
        classes = class_of_query[logits.argmax(0)]
        best_probability = (scale * logits).softmax(0).max(0).values
        classes[best_probability < prob_thd] = 0

    Args:
        tokens: The logits (Q, A, B) of Q queries for the tokens of all windows, side by side.
        rows: The matrix (H, A) that maps rows of tokens to rows of pixels.
        columns: The matrix (W, B) that maps columns of tokens to columns of pixels.
        weights: The weights (P, H, W) of the P neighbours of each pixel, which `affinities`
            returns, to refine the logits; None for no refinement.
        decision: The class of each query, and the thresholds.
        ruled_out: True if each query (Q,) cannot be the best one. It still counts in the softmax.
            None if no query is ruled out.
    """
    if weights is not None:
        return _best_refined_classes(tokens, rows, columns, weights, decision, ruled_out)
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
            best_probability = total.reciprocal()
            classes_of_tile.masked_fill_(best_probability < decision.prob_thd, 0)
        classes[tile] = classes_of_tile
    return classes


def affinities(image: Tensor) -> Tensor:
    """Return the weights of the P neighbours of every pixel of an image, (P, H, W).

    A neighbour has more weight if its colour is similar to the pixel's. The weights of the
    neighbours x_n of a pixel x are the softmax over n of

        -mean over channels of |x - x_n| / (0.1 s + 1e-8)

    Here s is the standard deviation, for each channel, of all x_n and of x. The pixel x counts once
    for each dilation.

    Args:
        image: The pixels (C, H, W) of the image.
    """
    # Mean and standard deviation of each channel, over the neighbours and the pixel itself.
    n_values = len(_OFFSETS) + len(DILATIONS)
    mean = sum(_shifted_maps(image), len(DILATIONS) * image) / n_values
    deviations = ((neighbour - mean).square() for neighbour in _shifted_maps(image))
    sum_of_squares = sum(deviations, len(DILATIONS) * (image - mean).square())
    spread = _SHARPNESS * (sum_of_squares / (n_values - 1)).sqrt() + _EPSILON

    # The exponents, and their softmax over the neighbours.
    weights = image.new_empty(len(_OFFSETS), *image.shape[1:])
    for weight, neighbour in zip(weights, _shifted_maps(image), strict=True):
        torch.mean(-(image - neighbour).abs() / spread, 0, out=weight)
    # Two of n values differ by at most sqrt(2 (n - 1)) standard deviations, so exponents are above
    # -60: their exponentials need no shift and can be formed in place.
    weights.exp_()
    return weights.div_(weights.sum(0))


def refine(scores: Tensor, weights: Tensor) -> Tensor:
    """Replace each score by the weighted mean of the scores of its neighbours, ten times.

    Args:
        scores: The scores (Q, H, W) of Q queries.
        weights: The weights (P, H, W) of the P neighbours of each pixel, which sum to 1.
    """
    for _ in range(STEPS):
        refined = torch.zeros_like(scores)
        for weight, neighbour in zip(weights, _shifted_maps(scores), strict=True):
            refined.addcmul_(neighbour, weight)
        scores = refined
    return scores


def _shifted_maps(maps: Tensor) -> Iterator[Tensor]:
    """Yield maps (C, H, W) shifted by every offset, so that each pixel holds its neighbour.

    Beyond the border, the values of the border are repeated.

    Example:
        For the offset (0, 8), the pixel at row r and column c holds the value of row r and column
        c + 8.
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
    """Return the class of the best query of each pixel, (H, W), by refined logits.

    It is computed for a few queries at a time. In plain terms, if no query is ruled out:

        logits = scale * refine(rows @ tokens @ columns.T, weights)  # (Q, H, W)
        classes = class_of_query[logits.argmax(0)]
        best_probability = logits.softmax(0).max(0).values
        classes[best_probability < prob_thd] = 0

    Args:
        tokens: The logits (Q, A, B) of Q queries for the tokens of all windows, side by side.
        rows: The matrix (H, A) that maps rows of tokens to rows of pixels.
        columns: The matrix (W, B) that maps columns of tokens to columns of pixels.
        weights: The weights (P, H, W) of the P neighbours of each pixel.
        decision: The class of each query, and the thresholds.
        ruled_out: True if each query (Q,) cannot be the best one. It still counts in the softmax.
            None if no query is ruled out.
    """
    # The best logits of the queries so far, their classes, and the logarithm of the sum of the
    # exponentials of all logits so far, (H, W) each.
    best_logits = weights.new_full(weights.shape[1:], -torch.inf)
    log_total = torch.full_like(best_logits, -torch.inf)
    classes = torch.zeros_like(best_logits, dtype=decision.class_of_query.dtype)
    n_queries_at_once = max(1, _CHUNK_VALUES // best_logits.numel())
    for start in range(0, len(tokens), n_queries_at_once):
        queries = slice(start, start + n_queries_at_once)
        logits = refine(rows @ tokens[queries] @ columns.T, weights).mul_(decision.scale)
        if decision.prob_thd > 0:
            log_total = torch.logaddexp(log_total, logits.logsumexp(0))
        if ruled_out is not None:
            logits.masked_fill_(ruled_out[queries][:, None, None], -torch.inf)

        # Keep the best of these queries where it is better than all queries before.
        best = logits.max(0)
        is_better = best.values > best_logits
        best_logits = torch.where(is_better, best.values, best_logits)
        classes_of_best = decision.class_of_query[queries][best.indices]
        classes = torch.where(is_better, classes_of_best, classes)
    if decision.prob_thd > 0:
        best_probabilities = (best_logits - log_total).exp_()
        classes.masked_fill_(best_probabilities < decision.prob_thd, 0)
    return classes


def _interpolate(signals: Tensor, size: int) -> Tensor:
    """Interpolate N signals of length L linearly, from (N, L) to (N, size).

    Pixel centres are aligned as in image resizing: [0, 4] becomes [0, 1, 3, 4] for size 4.
    """
    return F.interpolate(signals[None], size=size, mode="linear", align_corners=False)[0]
