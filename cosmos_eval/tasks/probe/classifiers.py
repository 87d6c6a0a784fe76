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
        self.data, self.n_classes, self.c, self.device = data, n_classes, c, device

    def __call__(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        import torch

        weights = torch.from_numpy(flat).view(-1, self.n_classes).to(self.device)
        gradient = weights / self.c
        gradient[-1] = 0
        loss = (weights[:-1] ** 2).sum() / (2 * self.c)
        w = weights.float()
        for features, labels in self.data.blocks(self.device):
            log_p = torch.addmm(w[-1], features, w[:-1]).log_softmax(dim=1)
            loss -= log_p.gather(1, labels[:, None]).sum(dtype=torch.float64)
            error = log_p.exp_()
            error[torch.arange(len(labels)), labels] -= 1
            gradient[:-1] += features.T @ error
            gradient[-1] += error.sum(dim=0)
        n = len(self.data.rows)
        return float(loss) / n, (gradient / n).cpu().numpy().ravel()


def fit(data: Labelled, n_classes: int, c: float, device: str = "cpu") -> Linear:
    """Fit multinomial logistic regression by L-BFGS, starting from zeros.

    Products are computed in float32, and sums in float64.
    """
    from scipy.optimize import minimize

    objective = Objective(data, n_classes, c, device)
    start = np.zeros((data.features.shape[1] + 1) * n_classes)
    _, slope = objective(start)
    options = {"maxiter": ITERATIONS, "gtol": _TOLERANCE * np.abs(slope).max(), "ftol": 0}
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    # Status 1: the limit of iterations was reached. Status 2: float32 finds no better point.
    return Linear(solution.x.reshape(-1, n_classes), solution.status != 1)


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
    """The candidate with the highest accuracy on held-out rows, the smallest one of equals."""

    c: float
    # Whether the fits of all candidates converged.
    converged: bool


def choose(
    train: Labelled, held_out: Ints, n_classes: int, candidates: Sequence[float], device: str
) -> Choice:
    """Choose C by the accuracy on held-out rows (H,) of the same features."""
    features, labels = train.features[held_out], train.labels[held_out]
    c_values = sorted(candidates)
    n_right = []
    all_converged = True
    for c in c_values:
        linear = fit(train, n_classes, c, device)
        n_right.append(int((predict(linear, features, device) == labels).sum()))
        all_converged = all_converged and linear.converged
    return Choice(c_values[int(np.argmax(n_right))], all_converged)


def nearest_classes(
    train: Labelled,
    queries: Features,
    n_classes: int,
    neighbours: int,
    temperature: float,
    device: str = "cpu",
) -> Ints:
    """Return the class (M,) that the nearest rows vote for.

    A row votes with exp(cosine similarity / temperature) for its class (Caron et al. 2021, arXiv
    2104.14294, appendix F.1).
    """
    import torch

    # The best neighbours (M, neighbours) so far.
    scores = torch.full((len(queries), neighbours), -torch.inf)
    classes = torch.zeros((len(queries), neighbours), dtype=torch.int64)
    for features, labels in train.blocks(device):
        for start in range(0, len(queries), BLOCK):
            rows = slice(start, start + BLOCK)
            similarities = torch.from_numpy(queries[rows]).to(device) @ features.T
            block_scores, index = similarities.topk(min(neighbours, len(labels)), dim=1)
            candidate_scores = torch.cat([scores[rows], block_scores.cpu()], dim=1)
            candidate_classes = torch.cat([classes[rows], labels[index].cpu()], dim=1)
            scores[rows], best = candidate_scores.topk(neighbours, dim=1)
            classes[rows] = candidate_classes.gather(1, best)
    votes = torch.zeros(len(queries), n_classes)
    votes.scatter_add_(1, classes, (scores / temperature).softmax(dim=1))
    return votes.argmax(dim=1).numpy()
