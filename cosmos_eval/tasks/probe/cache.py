"""Tip-Adapter: a zero-shot classifier with a cache of a few labelled training images.

Zhang et al. 2022, arXiv 2207.09519, as github.com/gaopengcuhk/Tip-Adapter has it at d0e2d6f
(main.py, utils.py), without the training of the cache (Tip-Adapter-F). Features of training images
show one view. The published code averages the features of 10 random crops.

Shapes: N images, M cached images, C classes, D embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Features, Ints
from cosmos_eval.tasks.probe.classifiers import BLOCK

if TYPE_CHECKING:
    from torch import Tensor

LOGIT_SCALE = 100.0
"""The scale of cosines of images and classes."""
BETAS, ALPHAS = 200, 20
"""How many values of beta and alpha are tried: `search_step` of all published configurations."""
SEARCH_BLOCK = 1024
"""Images whose logits with all alphas are computed at once."""
_LEAST = 0.1  # the first value that is tried


class Constants(NamedTuple):
    """The constants of a cache model."""

    # The weight of the cache.
    alpha: float
    # How sharply the weight of a cached image falls with its distance.
    beta: float


def candidates(greatest: float, number: int) -> list[float]:
    """Return values from 0.1 on in equal steps, below the greatest: `search_hp` in utils.py.

    Example:
        `candidates(1.1, 4)` returns `[0.1, 0.35, 0.6, 0.85]`.
    """
    return [index * (greatest - _LEAST) / number + _LEAST for index in range(number)]


class CacheModel:
    """Adds a vote of cached training images to the logits of a zero-shot classifier.

    The logits of an image with the feature f are

        100 f W^T + alpha exp(-beta (1 - f K^T)) L

    with the class embeddings W (C, D), the cached features K (M, D), and their one-hot labels L
    (M, C). All features are normalised.
    """

    def __init__(
        self, class_embeddings: Features, features: Features, labels: Ints, device: str
    ) -> None:
        """Keep the embeddings (C, D) of the classes, and the cached features (M, D) and labels."""
        import torch

        n_classes = len(class_embeddings)
        self._device = device
        self._class_embeddings = torch.from_numpy(class_embeddings).to(device)
        self._keys = torch.from_numpy(features).to(device)
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels), n_classes)
        self._values = one_hot.float().to(device)

    def predict(self, features: Features, constants: Constants) -> Ints:
        """Return the class (N,) of each image, by its feature (N, D)."""
        alpha, beta = constants
        predicted = []
        for start in range(0, len(features), BLOCK):
            logits, similarities = self._compare(features[start : start + BLOCK])
            logits += alpha * self._votes(similarities, beta)
            predicted.append(logits.argmax(dim=1).cpu().numpy())
        return np.concatenate(predicted) if predicted else np.zeros(0, np.int64)

    def search(
        self, features: Features, labels: Ints, greatest_beta: float, greatest_alpha: float
    ) -> Constants:
        """Return the constants by which most of N held-out images are classified correctly.

        Among equally good ones, the smallest beta decides, and then the smallest alpha.

        Args:
            features: The features (N, D) of the images.
            labels: Their classes (N,).
            greatest_beta: The bound of the values of beta, of which 200 are tried.
            greatest_alpha: The bound of the values of alpha, of which 20 are tried.
        """
        betas, alphas = candidates(greatest_beta, BETAS), candidates(greatest_alpha, ALPHAS)
        n_correct = np.zeros((BETAS, ALPHAS), np.int64)
        for start in range(0, len(features), SEARCH_BLOCK):
            rows = slice(start, start + SEARCH_BLOCK)
            for row, counts in enumerate(
                self._count_correct(features[rows], labels[rows], betas, alphas)
            ):
                n_correct[row] += counts
        best_beta, best_alpha = np.unravel_index(n_correct.argmax(), n_correct.shape)
        return Constants(alphas[best_alpha], betas[best_beta])

    def _count_correct(
        self, features: Features, labels: Ints, betas: list[float], alphas: list[float]
    ) -> NDArray[np.int64]:
        """Return how many images are classified correctly with each beta and alpha (B, A)."""
        import torch

        correct = torch.from_numpy(labels).to(self._device)
        weights = torch.tensor(alphas, device=self._device)[:, None, None]
        zero_shot_logits, similarities = self._compare(features)
        counts = []
        for beta in betas:
            logits = zero_shot_logits + weights * self._votes(similarities, beta)  # (A, N, C)
            counts.append((logits.argmax(dim=2) == correct).sum(dim=1))
        return torch.stack(counts).cpu().numpy()

    def _compare(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return the zero-shot logits (N, C) and the similarities to cached images (N, M)."""
        import torch

        images = torch.from_numpy(features).to(self._device)
        return LOGIT_SCALE * images @ self._class_embeddings.T, images @ self._keys.T

    def _votes(self, similarities: Tensor, beta: float) -> Tensor:
        """Return the votes (N, C) of cached images, by their similarities (N, M) to N images."""
        return (beta * (similarities - 1)).exp() @ self._values


def zero_shot_classes(features: Features, class_embeddings: Features) -> Ints:
    """Return the class (N,) whose embedding (C, D) is the most similar to each feature (N, D)."""
    predicted = []
    for start in range(0, len(features), BLOCK):
        similarities = features[start : start + BLOCK] @ class_embeddings.T
        predicted.append(similarities.argmax(axis=1))
    return np.concatenate(predicted) if predicted else np.zeros(0, np.int64)
