"""PAMR, pixel-adaptive mask refinement: scores spread between pixels of like colour.

Araslanov and Roth, arXiv:2005.00060; constants of their code (models/mods/pamr.py of
github.com/visinf/1-stage-wseg) but for steps and dilations. These, and where it is applied, are
those of SCLIP (clip_segmentor.py of github.com/wangf3014/SCLIP) and NACLIP (naclip.py of
github.com/sinahmr/NACLIP): the logits of the queries are refined at the original size, before scale
and softmax, by the resized image brought to that size.

Weights depend on the image alone, and queries do not meet before the decision. So a few queries are
formed, refined and compared with the best so far at a time, and full logits never exist.

Shapes: P neighbours, Q queries, H x W pixels of the original.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from cosmos_eval.tasks.segmentation.merge import Decision, decide

STEPS = 10
DILATIONS = (8, 16)
# Colour differences are divided by this share of the local standard deviation.
_SHARPNESS = 0.1
_EPSILON = 1e-8

_OFFSETS = tuple(
    (dilation * down, dilation * right)
    for dilation in DILATIONS
    for down in (-1, 0, 1)
    for right in (-1, 0, 1)
    if (down, right) != (0, 0)
)
_REACH = max(DILATIONS)

# Scores held at once beside as many refined ones: 2^21 float32 values are 8 MB.
_CHUNK_VALUES = 2**21


def refined_label_map(
    tokens: Tensor, rows: Tensor, columns: Tensor, decision: Decision, pixels: Tensor
) -> Tensor:
    """`label_map` with refined logits; `pixels` (3, h, w) is the resized image."""
    size = (len(rows), len(columns))
    image = F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]
    weights = affinities(image.to(tokens.device))
    return decide(functools.partial(_best_classes, tokens, rows, columns, weights), decision)


def affinities(image: Tensor) -> Tensor:
    """Weights (P, H, W) of every pixel's neighbours, which sum to 1, from an image (C, H, W).

    softmax over neighbours n of the mean over channels of -|x - x_n| / (0.1 s + 1e-8), where s is
    the standard deviation of the pixel and its neighbours; the pixel counts once a dilation.
    """
    count = len(_OFFSETS) + len(DILATIONS)
    total = len(DILATIONS) * image
    for neighbour in _neighbours(image):
        total += neighbour
    mean = total / count
    squares = len(DILATIONS) * (image - mean).square()
    for neighbour in _neighbours(image):
        squares += (neighbour - mean).square()
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


def _best_classes(
    tokens: Tensor,
    rows: Tensor,
    columns: Tensor,
    weights: Tensor,
    decision: Decision,
    ruled_out: Tensor | None,
) -> Tensor:
    """Class (H, W) uint8 of every pixel's best query that is not ruled out, 0 if improbable."""
    best = weights.new_full(weights.shape[1:], -torch.inf)
    total = torch.full_like(best, -torch.inf)
    classes = torch.zeros_like(best, dtype=torch.uint8)
    step = max(1, _CHUNK_VALUES // best.numel())
    for start in range(0, len(tokens), step):
        some = slice(start, start + step)
        logits = refine(rows @ tokens[some] @ columns.T, weights).mul_(decision.scale)
        if decision.prob_thd > 0:
            total = torch.logaddexp(total, logits.logsumexp(0))
        if ruled_out is not None:
            logits[ruled_out[some]] = -torch.inf
        peak = logits.max(0)
        better = peak.values > best
        best = torch.where(better, peak.values, best)
        classes = torch.where(better, decision.class_of_query[some][peak.indices], classes)
    if decision.prob_thd > 0:
        classes[(best - total).exp_() < decision.prob_thd] = 0
    return classes
