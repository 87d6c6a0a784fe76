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
    """Features with labels, and the rows of them that are used."""

    # (F, D)
    features: Features
    # (F,) the class of each row.
    labels: Ints
    # (N,) the indices of the rows that are used.
    rows: Ints

    def blocks(self, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Copy the used rows to a device, block by block.

        For each block of B rows, yields the features (B, D) and the labels (B,).
        """
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

    W are the weights without the intercept. The loss is

        (sum of cross entropies + |W|^2 / (2 c)) / N

    Calling the objective returns the loss and its gradient.
    """

    def __init__(self, data: Labelled, n_classes: int, c: float, device: str) -> None:
        """Keep the data, and the strength of regularisation.

        Args:
            data: The features and labels of the N rows.
            n_classes: The number C of classes.
            c: The inverse strength of regularisation.
            device: The device that products are computed on.
        """
        self.data = data
        self.n_classes = n_classes
        self.c = c
        self.device = device

    def __call__(self, flat_weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the loss, and its gradient with respect to the weights.

        `flat_weights` ((D + 1) * C,) are the weights (D + 1, C), flattened. The gradient is flat as
        well. The last row of the weights is the intercept.
        """
        import torch

        weights = torch.from_numpy(flat_weights).view(-1, self.n_classes).to(self.device)

        # The term |W|^2 / (2 c) and its gradient W / c. The intercept, the last row, has none.
        loss = (weights[:-1] ** 2).sum() / (2 * self.c)
        gradient = weights / self.c
        gradient[-1] = 0

        # The cross entropies of all rows and their gradients.
        weights_fp32 = weights.float()
        for features, labels in self.data.blocks(self.device):
            logits = torch.addmm(weights_fp32[-1], features, weights_fp32[:-1])  # (B, C)
            log_probabilities = logits.log_softmax(dim=1)
            log_likelihoods = log_probabilities.gather(1, labels[:, None])
            loss -= log_likelihoods.sum(dtype=torch.float64)
            # The gradient with respect to the logits: probabilities minus one-hot labels.
            logit_gradient = log_probabilities.exp_()
            logit_gradient[torch.arange(len(labels)), labels] -= 1
            gradient[:-1] += features.T @ logit_gradient
            gradient[-1] += logit_gradient.sum(dim=0)
        n_rows = len(self.data.rows)
        return float(loss) / n_rows, (gradient / n_rows).cpu().numpy().ravel()


def fit(data: Labelled, n_classes: int, c: float, device: str = "cpu") -> Linear:
    """Fit multinomial logistic regression by L-BFGS, starting from zero weights.

    Products are computed in float32, and sums in float64.

    Args:
        data: The features and labels to fit to.
        n_classes: The number of classes.
        c: The inverse strength of regularisation, as in scikit-learn.
        device: The device that products are computed on.
    """
    from scipy.optimize import minimize

    objective = Objective(data, n_classes, c, device)
    n_features = data.features.shape[1]
    zero_weights = np.zeros((n_features + 1) * n_classes)  # with a row for the intercept

    # The fit ends when the gradient is small, relative to the gradient at the start.
    _, first_gradient = objective(zero_weights)
    tolerance = _TOLERANCE * np.abs(first_gradient).max()
    options = {"maxiter": ITERATIONS, "gtol": tolerance, "ftol": 0}
    solution = minimize(objective, zero_weights, jac=True, method="L-BFGS-B", options=options)
    # Status 1 is the limit of iterations. Status 2, no better point in float32, counts as
    # converged.
    reached_limit = solution.status == 1
    return Linear(solution.x.reshape(-1, n_classes), converged=not reached_limit)


def predict(linear: Linear, features: Features, device: str = "cpu") -> Ints:
    """Return the class with the highest logit for each feature.

    Args:
        linear: The classifier, with weights (D + 1, C) whose last row is the intercept.
        features: The features (M, D).
        device: The device that logits are computed on.

    Returns:
        The classes (M,).
    """
    import torch

    weights = torch.from_numpy(linear.weights).float().to(device)
    classes = []
    for start in range(0, len(features), BLOCK):
        block = torch.from_numpy(features[start : start + BLOCK]).to(device)
        logits = torch.addmm(weights[-1], block, weights[:-1])
        classes.append(logits.argmax(dim=1))
    return torch.cat(classes).cpu().numpy()


class Choice(NamedTuple):
    """The regularisation C that was chosen among candidates."""

    c: float
    # Whether the fits of all candidates converged.
    converged: bool


def choose(
    train: Labelled, held_out: Ints, n_classes: int, candidates: Sequence[float], device: str
) -> Choice:
    """Fit a classifier with each candidate C, and choose the C with the highest accuracy.

    The smallest of several values with the same accuracy is chosen.

    Args:
        train: The features and labels, and the rows of them that classifiers are fitted to.
        held_out: Other rows (H,), which the accuracy is measured on.
        n_classes: The number of classes.
        candidates: The values of C, the inverse strength of regularisation.
        device: The device that products are computed on.
    """
    features, labels = train.features[held_out], train.labels[held_out]
    c_values = sorted(candidates)
    n_correct_of_candidates = []
    all_converged = True
    for c in c_values:
        linear = fit(train, n_classes, c, device)
        is_correct = predict(linear, features, device) == labels
        n_correct_of_candidates.append(int(is_correct.sum()))
        all_converged = all_converged and linear.converged
    best = int(np.argmax(n_correct_of_candidates))  # the first of equals, which is the smallest C
    return Choice(c_values[best], all_converged)


def nearest_classes(
    train: Labelled,
    queries: Features,
    n_classes: int,
    neighbours: int,
    temperature: float,
    device: str = "cpu",
) -> Ints:
    """Return the class (M,) of each query for which its nearest training rows vote.

    A row votes for its class with the weight exp(cosine similarity / temperature): Caron et al.
    2021, arXiv 2104.14294, appendix F.1.

    Args:
        train: The training rows: normalised features with labels.
        queries: The normalised features (M, D) of the queries.
        n_classes: The number of classes.
        neighbours: The number of rows that vote on a query.
        temperature: The temperature of the weights.
        device: The device that similarities are computed on.
    """
    import torch

    # The similarities and classes (M, neighbours) of the nearest rows in the blocks so far.
    nearest_similarities = torch.full((len(queries), neighbours), -torch.inf)
    nearest_labels = torch.zeros((len(queries), neighbours), dtype=torch.int64)
    for features, labels in train.blocks(device):
        n_in_block = min(neighbours, len(labels))
        for start in range(0, len(queries), BLOCK):
            rows = slice(start, start + BLOCK)
            similarities = torch.from_numpy(queries[rows]).to(device) @ features.T
            # Join the nearest rows of this block with the nearest so far, and keep the best.
            similarities_in_block, rows_in_block = similarities.topk(n_in_block, dim=1)
            labels_in_block = labels[rows_in_block]
            candidates = torch.cat([nearest_similarities[rows], similarities_in_block.cpu()], dim=1)
            candidate_labels = torch.cat([nearest_labels[rows], labels_in_block.cpu()], dim=1)
            nearest_similarities[rows], best = candidates.topk(neighbours, dim=1)
            nearest_labels[rows] = candidate_labels.gather(1, best)

    # Add the weight of each neighbour to the votes for its class. Dividing all weights of a query
    # by their sum, as the softmax does, changes no winner.
    weights = (nearest_similarities / temperature).softmax(dim=1)
    votes = torch.zeros(len(queries), n_classes)
    votes.scatter_add_(1, nearest_labels, weights)
    return votes.argmax(dim=1).numpy()
