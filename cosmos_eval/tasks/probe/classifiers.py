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
# L-BFGS ends where the largest component of the gradient is this much of the one at the start: of
# normalised features and many classes, all are small from the start.
_TOLERANCE = 1e-5


class Labelled(NamedTuple):
    """The rows (N,) that are used of features (F, D), and the classes (F,) of all."""

    features: Features
    labels: Ints
    rows: Ints

    def blocks(self, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (B, D) features and (B,) classes on a device."""
        import torch

        for start in range(0, len(self.rows), BLOCK):
            rows = self.rows[start : start + BLOCK]
            features = torch.from_numpy(self.features[rows]).to(device)
            yield features, torch.from_numpy(self.labels[rows]).to(device)


class Linear(NamedTuple):
    """Weights (D + 1, C), the last row of which is the intercept; whether L-BFGS converged."""

    weights: NDArray[np.float64]
    converged: bool


class Objective:
    """The mean over rows of scikit-learn's loss of `LogisticRegression(C=c)`: the sum of cross
    entropies and |W|^2 / (2 c), without the intercept, and its gradient."""

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
    """Fit multinomial logistic regression by L-BFGS from zeros, with float32 products and float64
    sums."""
    from scipy.optimize import minimize

    objective = Objective(data, n_classes, c, device)
    start = np.zeros((data.features.shape[1] + 1) * n_classes)
    _, slope = objective(start)
    options = {"maxiter": ITERATIONS, "gtol": _TOLERANCE * np.abs(slope).max(), "ftol": 0}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    # Status 1 is the limit of iterations, 2 that float32 shows no better point.
    return Linear(found.x.reshape(-1, n_classes), found.status != 1)


def predict(linear: Linear, features: Features, device: str = "cpu") -> Ints:
    """Return the best class of (M, D) features, (M,)."""
    import torch

    weights = torch.from_numpy(linear.weights).float().to(device)
    blocks = (torch.from_numpy(features[a : a + BLOCK]) for a in range(0, len(features), BLOCK))
    found = [torch.addmm(weights[-1], x.to(device), weights[:-1]).argmax(dim=1) for x in blocks]
    return torch.cat(found).cpu().numpy()


class Choice(NamedTuple):
    """The candidate with the highest accuracy on held-out rows, the smallest of equal ones."""

    c: float
    converged: bool  # whether the fits of all candidates did


def choose(
    train: Labelled, held_out: Ints, n_classes: int, candidates: Sequence[float], device: str
) -> Choice:
    """Choose how much to regularise by the accuracy on other rows (H,) of the same features."""
    features, labels = train.features[held_out], train.labels[held_out]
    right, converged = [], True
    for c in sorted(candidates):
        linear = fit(train, n_classes, c, device)
        right.append(int((predict(linear, features, device) == labels).sum()))
        converged &= linear.converged
    return Choice(sorted(candidates)[int(np.argmax(right))], converged)


def nearest_classes(
    train: Labelled,
    queries: Features,
    n_classes: int,
    neighbours: int,
    temperature: float,
    device: str = "cpu",
) -> Ints:
    """Return the class (M,) with the largest sum of exp(cosine similarity / temperature) over the
    nearest rows (Caron et al. 2021, arXiv 2104.14294, appendix F.1)."""
    import torch

    scores = torch.full((len(queries), neighbours), -torch.inf)
    classes = torch.zeros((len(queries), neighbours), dtype=torch.int64)
    for features, labels in train.blocks(device):
        for at in (slice(start, start + BLOCK) for start in range(0, len(queries), BLOCK)):
            products = torch.from_numpy(queries[at]).to(device) @ features.T
            new, index = products.topk(min(neighbours, len(labels)), dim=1)
            both = torch.cat([scores[at], new.cpu()], dim=1)
            labelled = torch.cat([classes[at], labels[index].cpu()], dim=1)
            scores[at], kept = both.topk(neighbours, dim=1)
            classes[at] = labelled.gather(1, kept)
    votes = torch.zeros(len(queries), n_classes)
    votes.scatter_add_(1, classes, (scores / temperature).softmax(dim=1))
    return votes.argmax(dim=1).numpy()
