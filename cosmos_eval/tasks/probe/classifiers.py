"""Classifiers of frozen features: logistic regression, and k nearest neighbours.

Features are read in blocks, so that a float32 array or memory map of any length needs no copy.
Shapes: F rows of features, of which N are used; M queries, D embedding, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Features, Ints

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 4096  # rows
ITERATIONS = 1000
# L-BFGS ends when the largest component of the gradient is this fraction of the largest one at the
# start. With normalised features and many classes, all components are small from the start.
_TOLERANCE = 1e-5


class Labelled(NamedTuple):
    """Features with labels, of which some rows are used."""

    # (F, D)
    features: Features
    # (F,)
    labels: Ints
    # (N,)
    rows: Ints

    def blocks(self, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (B, D) features and (B,) classes on a device."""
        import torch

        for start in range(0, len(self.rows), BLOCK):
            rows = self.rows[start : start + BLOCK]
            features = torch.from_numpy(self.features[rows]).to(device)
            yield features, torch.from_numpy(self.labels[rows]).to(device)


class Linear(NamedTuple):
    """A linear classifier."""

    # (D + 1, C); the last row is the intercept.
    weights: NDArray[np.float64]
    # Whether L-BFGS converged.
    converged: bool


class Objective:
    """The loss of scikit-learn's `LogisticRegression(C=c)`, divided by the number N of rows.

    With the weights W without the intercept, the loss is

        (sum of cross entropies + |W|^2 / (2 c)) / N

    Calling the objective returns the loss and its gradient.
    """

    def __init__(self, data: Labelled, n_classes: int, c: float, device: str) -> None:
        self.data = data
        self.n_classes = n_classes
        self.c = c
        self.device = device

    def __call__(self, flat_weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the loss and its gradient at the weights, both as flat arrays ((D + 1) * C,)."""
        import torch

        weights = torch.from_numpy(flat_weights).view(-1, self.n_classes).to(self.device)
        # The term |W|^2 / (2 c) and its gradient W / c. The intercept, the last row, has none.
        loss = (weights[:-1] ** 2).sum() / (2 * self.c)
        gradient = weights / self.c
        gradient[-1] = 0
        weights_fp32 = weights.float()
        for features, labels in self.data.blocks(self.device):
            logits = torch.addmm(weights_fp32[-1], features, weights_fp32[:-1])
            log_probabilities = logits.log_softmax(dim=1)
            log_likelihoods = log_probabilities.gather(1, labels[:, None])
            loss -= log_likelihoods.sum(dtype=torch.float64)
            # The gradient of the cross entropy by the logits: probabilities minus one-hot labels.
            logit_gradient = log_probabilities.exp_()
            logit_gradient[torch.arange(len(labels)), labels] -= 1
            gradient[:-1] += features.T @ logit_gradient
            gradient[-1] += logit_gradient.sum(dim=0)
        n_rows = len(self.data.rows)
        return float(loss) / n_rows, (gradient / n_rows).cpu().numpy().ravel()


def fit(data: Labelled, n_classes: int, c: float, device: str = "cpu") -> Linear:
    """Fit multinomial logistic regression by L-BFGS, starting from zeros.

    Products are computed in float32, and sums in float64.
    """
    from scipy.optimize import minimize

    objective = Objective(data, n_classes, c, device)
    zeros = np.zeros((data.features.shape[1] + 1) * n_classes)
    _, first_gradient = objective(zeros)
    tolerance = _TOLERANCE * np.abs(first_gradient).max()
    options = {"maxiter": ITERATIONS, "gtol": tolerance, "ftol": 0}
    solution = minimize(objective, zeros, jac=True, method="L-BFGS-B", options=options)
    # Status 2, no better point in float32, counts as converged.
    reached_limit = solution.status == 1
    return Linear(solution.x.reshape(-1, n_classes), converged=not reached_limit)


def predict(linear: Linear, features: Features, device: str = "cpu") -> Ints:
    """Return the best class of (M, D) features, (M,)."""
    import torch

    weights = torch.from_numpy(linear.weights).float().to(device)
    classes = []
    for start in range(0, len(features), BLOCK):
        block = torch.from_numpy(features[start : start + BLOCK]).to(device)
        logits = torch.addmm(weights[-1], block, weights[:-1])
        classes.append(logits.argmax(dim=1))
    return torch.cat(classes).cpu().numpy()


class Choice(NamedTuple):
    """The C that was chosen among candidates."""

    c: float
    # Whether the fits of all candidates converged.
    converged: bool


def choose(
    train: Labelled, held_out: Ints, n_classes: int, candidates: Sequence[float], device: str
) -> Choice:
    """Choose the C with the highest accuracy on held-out rows, the smallest one of equals.

    `held_out` (H,) are rows of the features of `train` that it does not use.
    """
    features, labels = train.features[held_out], train.labels[held_out]
    c_values = sorted(candidates)
    n_correct_by_candidate = []
    all_converged = True
    for c in c_values:
        linear = fit(train, n_classes, c, device)
        n_correct_by_candidate.append(int((predict(linear, features, device) == labels).sum()))
        all_converged = all_converged and linear.converged
    best = int(np.argmax(n_correct_by_candidate))  # the first of equals, which is the smallest C
    return Choice(c_values[best], all_converged)


def nearest_classes(
    train: Labelled,
    queries: Features,
    n_classes: int,
    neighbours: int,
    temperature: float,
    device: str = "cpu",
) -> Ints:
    """Return the class (M,) of each of (M, D) queries, by the votes of its nearest rows.

    `neighbours` is the number of rows that vote. A row votes with exp(cosine similarity /
    temperature) for its class (Caron et al. 2021, arXiv 2104.14294, appendix F.1).
    """
    import torch

    # The similarities and classes (M, neighbours) of the nearest rows in the blocks so far.
    scores = torch.full((len(queries), neighbours), -torch.inf)
    classes = torch.zeros((len(queries), neighbours), dtype=torch.int64)
    for features, labels in train.blocks(device):
        for start in range(0, len(queries), BLOCK):
            rows = slice(start, start + BLOCK)
            similarities = torch.from_numpy(queries[rows]).to(device) @ features.T
            block_scores, block_rows = similarities.topk(min(neighbours, len(labels)), dim=1)
            candidate_scores = torch.cat([scores[rows], block_scores.cpu()], dim=1)
            candidate_classes = torch.cat([classes[rows], labels[block_rows].cpu()], dim=1)
            scores[rows], best = candidate_scores.topk(neighbours, dim=1)
            classes[rows] = candidate_classes.gather(1, best)
    votes = torch.zeros(len(queries), n_classes)
    votes.scatter_add_(1, classes, (scores / temperature).softmax(dim=1))
    return votes.argmax(dim=1).numpy()
