"""The fit of a linear head to patch features by AdamW, as DINOv3 trains its dense probes.

Constants and formulas follow github.com/facebookresearch/dinov3 at 6876159 (dinov3/eval): batch
normalisation of the features, a linear map of each patch, one random view of every image of a
batch, and a learning rate that rises and then falls as a cosine. The last step counts. (DINOv3's
code for segmentation reports the best of several evaluations on the test images.)

Shapes: B images of H x W pixels, h x w patches, D features, C outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.models.encoder import DenseEncoder, require_finite, to_device
from cosmos_eval.tasks.label_maps import images_at_once
from cosmos_eval.types import Attention, DenseProbe, OnProgress, Progress, RunOptions


class View(NamedTuple):
    """A random view of a training image."""

    # (3, H, W) normalised pixels, float32.
    pixels: Tensor
    # (H, W) classes, int64, or depths, float32.
    target: Tensor


@dataclass(frozen=True)
class Schedule:
    """The learning rate and the momentum of each step. This is the one of segmentation."""

    steps: int
    warmup: int
    # The learning rate at the end of the warm-up.
    peak: float
    beta2: float = 0.999
    # The longest gradient.
    clip: float = math.inf

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, from 0. The first two steps have the same one."""
        place = max(step - 1, 0)
        if place < self.warmup:
            start = 1e-6  # fraction of the peak
            risen = 1 - (1 - place / self.warmup) * (1 - start)
            return self.peak * risen * (1 - place / self.steps)
        return cosine(self.peak, 0, (place + 1) / self.steps)

    def beta1(self, step: int) -> float:
        """Return AdamW's first momentum in a step."""
        return 0.9


@dataclass(frozen=True)
class DepthSchedule(Schedule):
    """The learning rate and the momentum of each step for depth."""

    beta2: float = 0.99
    clip: float = 35.0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""
        if step < self.warmup:
            top = cosine(self.peak, 0, step / self.steps)
            return self.peak / 1000 + top * step / self.warmup
        return cosine(self.peak, self.peak / 25 / 1000, (step + 1) / self.steps)

    def beta1(self, step: int) -> float:
        """Return AdamW's first momentum in a step: 0 in the warm-up, and then 0.85 to 0.95."""
        if step < self.warmup:
            return 0.0
        return cosine(0.85, 0.95, (step - self.warmup) / (self.steps - self.warmup))


def cosine(start: float, end: float, fraction: float) -> float:
    """Return the value between `start` and `end` on a half cosine: the mean at 0.5."""
    return end + (start - end) / 2 * (math.cos(math.pi * fraction) + 1)


class LinearHead(nn.Module):
    """Batch normalisation and a linear map of the features of each patch."""

    def __init__(self, n_features: int, n_outputs: int, dropout: float) -> None:
        """Draw small weights. `dropout` is the probability that a feature of an image is 0."""
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.norm = nn.BatchNorm2d(n_features)
        self.map = nn.Conv2d(n_features, n_outputs, kernel_size=1)
        nn.init.normal_(self.map.weight, std=0.01)
        assert self.map.bias is not None
        nn.init.zeros_(self.map.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the outputs (B, C, h, w) for patch features (B, D, h, w)."""
        return self.map(self.norm(self.dropout(features)))

    @torch.no_grad()
    def parameters_by_name(self) -> dict[str, NDArray[Any]]:
        """Return the map with the normalisation in it: `weights` (C, D) and `bias` (C,)."""
        self.cpu()  # other devices may lack float64
        norm, weights = self.norm, self.map.weight[:, :, 0, 0].double()
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
        shift = norm.bias.double() - mean.double() * scale
        bias = self.map.bias.double() + weights @ shift  # type: ignore[union-attr]
        folded = {"weights": weights * scale, "bias": bias}
        return {name: values.float().numpy() for name, values in folded.items()}


@dataclass(frozen=True)
class Training:
    """Everything that the training of a head needs: the model, the views, and the loss."""

    encoder: DenseEncoder
    attention: Attention
    protocol: DenseProbe
    schedule: Schedule
    n_images: int
    # Takes the index of an image and a generator, and returns a random view.
    load: Callable[[int, np.random.Generator], View]
    # Takes the outputs (B, C, h, w), the targets (B, H, W) and the step; returns the loss.
    loss: Callable[[Tensor, Tensor, int], Tensor]
    n_outputs: int
    dropout: float = 0.0

    def fit(self, options: RunOptions, progress: OnProgress) -> dict[str, NDArray[Any]]:
        """Train a head, and return its parameters by name. The model is not changed.

        Args:
            options: The options of the run, whose seed decides all random draws.
            progress: Called with the number of steps that are done.
        """
        device = torch.device(self.encoder.info.device)
        cuda_devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(cuda_devices):
            torch.manual_seed(options.seed)
            return self._fit(options, progress)

    def _fit(self, options: RunOptions, progress: OnProgress) -> dict[str, NDArray[Any]]:
        """Train a head by the random state of torch, and return its parameters."""
        head: LinearHead | None = None
        optimizer: torch.optim.AdamW | None = None
        steps, schedule = self.schedule.steps, self.schedule
        views = prefetch(self._draw_images(options.seed), self._load, workers=options.workers)
        for step in range(steps):
            batch = [next(views) for _ in range(self.protocol.batch)]
            features = self._encode(torch.stack([view.pixels for view in batch]), options)
            targets = to_device(
                torch.stack([view.target for view in batch]), self.encoder.info.device
            )
            if head is None or optimizer is None:
                head = LinearHead(features.shape[1], self.n_outputs, self.dropout)
                head.to(features.device)
                optimizer = torch.optim.AdamW(
                    head.parameters(), weight_decay=self.protocol.weight_decay
                )
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
                group["betas"] = (schedule.beta1(step), schedule.beta2)
            optimizer.zero_grad()
            self.loss(head(features), targets, step).backward()
            nn.utils.clip_grad_norm_(head.parameters(), schedule.clip)
            optimizer.step()
            progress(Progress("training steps", step + 1, steps))
        assert head is not None
        return head.parameters_by_name()

    def _draw_images(self, seed: int) -> Iterator[tuple[int, tuple[int, int]]]:
        """Yield the index of the image of each view, and the seed of the view.

        Every image is drawn once before any is drawn again.
        """
        generator = np.random.default_rng(seed)
        n_views = self.schedule.steps * self.protocol.batch
        for first in range(0, n_views, self.n_images):
            order = generator.permutation(self.n_images)[: n_views - first]
            for place, index in enumerate(order.tolist(), start=first):
                yield index, (seed, place)

    def _load(self, item: tuple[int, tuple[int, int]]) -> View:
        """Return a random view of an image: its index and the seed of the view."""
        index, seed = item
        return self.load(index, np.random.default_rng(seed))

    @torch.no_grad()
    def _encode(self, pixels: Tensor, options: RunOptions) -> Tensor:
        """Return the patch features (B, D, h, w) of images (B, 3, H, W)."""
        encoder = self.encoder
        image_hw = (pixels.shape[2], pixels.shape[3])
        n_at_once = images_at_once(encoder, image_hw, options.batch_size)
        chunks = []
        for chunk in to_device(pixels, encoder.info.device).split(n_at_once):
            chunks.append(encoder.encode_patches(chunk, self.attention))
        features = torch.cat(chunks)
        require_finite(features[None], encoder.info, ["training images"].__getitem__)
        return features.permute(0, 3, 1, 2).contiguous()
