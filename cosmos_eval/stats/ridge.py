"""Ridge regression from sums over the samples, which are added up batch by batch.

With standardised features z = (x - m) / s, where m and s are the mean and the standard deviation of
each feature, the linear map W, b minimises

    mean of |W z + b - y|^2 + strength |W|^2

over all samples. The intercept b is not penalised. In scikit-learn, it is `StandardScaler` followed
by `Ridge(alpha=strength * number of samples)`. The solution depends on the samples only by the sums
in `Moments`, whose size does not depend on the number of samples.

Shapes: n rows of a batch, D features, C targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


class LinearMap(NamedTuple):
    """A map from features x (D,) to predictions `weights @ x + bias` (C,)."""

    weights: Doubles  # (C, D)
    bias: Doubles  # (C,)


class Moments:
    """Sums of features, of targets and of their products over samples, in float64."""

    def __init__(self, n_features: int, n_targets: int) -> None:
        """Begin with no samples of D features and C targets."""
        self.count = 0.0
        self.x = np.zeros(n_features)  # (D,) sum of x
        self.xx = np.zeros((n_features, n_features))  # (D, D) sum of x x^T
        self.y = np.zeros(n_targets)  # (C,) sum of y
        self.xy = np.zeros((n_features, n_targets))  # (D, C) sum of x y^T
        self.yy = 0.0  # sum of |y|^2

    def add(
        self,
        features: NDArray[Any],
        counts: NDArray[Any],
        target_sums: NDArray[Any],
        squares: float,
    ) -> None:
        """Add samples. A row stands for several samples with the same features.

        Args:
            features: The features (n, D) of each row.
            counts: The number (n,) of samples of each row, such as the labelled pixels of a patch.
            target_sums: The sum (n, C) of the targets of a row's samples.
            squares: The sum of |y|^2 over all samples.
        """
        is_used = counts > 0
        x = features[is_used].astype(np.float64)
        weights = counts[is_used].astype(np.float64)
        sums = target_sums[is_used].astype(np.float64)
        weighted_x = weights[:, None] * x
        self.count += float(weights.sum())
        self.x += weighted_x.sum(axis=0)
        self.xx += weighted_x.T @ x
        self.y += sums.sum(axis=0)
        self.xy += x.T @ sums
        self.yy += squares

    def __add__(self, other: Moments) -> Moments:
        """Return the sums over the samples of both."""
        total = Moments(*self.xy.shape)
        for name in vars(total):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total


def fit(moments: Moments, strengths: Sequence[float]) -> list[LinearMap]:
    """Return the map that ridge regression finds for each strength.

    Features that are the same for all samples get the weight 0.

    Args:
        moments: The sums over one or more samples.
        strengths: The strengths of the penalty, each above 0.
    """
    mean_x = moments.x / moments.count
    mean_y = moments.y / moments.count
    covariance = moments.xx / moments.count - np.outer(mean_x, mean_x)  # (D, D)
    cross_covariance = moments.xy / moments.count - np.outer(mean_x, mean_y)  # (D, C)

    # A variance of 0 is known up to the rounding of the sums.
    variance = np.diagonal(covariance)
    rounding = 1e-12 * np.diagonal(moments.xx) / moments.count
    is_constant = variance <= rounding
    scale = np.where(is_constant, 0.0, 1 / np.sqrt(np.where(is_constant, 1.0, variance)))

    # With the eigenvectors V and eigenvalues e of the correlation matrix, the weights of
    # standardised features are V diag(1 / (e + strength)) V^T times the scaled cross-covariance.
    eigenvalues, eigenvectors = np.linalg.eigh(covariance * np.outer(scale, scale))
    projected = eigenvectors.T @ (scale[:, None] * cross_covariance)  # (D, C)
    maps = []
    for strength in strengths:
        shrunk = projected / (np.maximum(eigenvalues, 0) + strength)[:, None]
        weights = (scale[:, None] * (eigenvectors @ shrunk)).T  # (C, D)
        maps.append(LinearMap(weights, mean_y - weights @ mean_x))
    return maps


def mean_squared_error(linear_map: LinearMap, moments: Moments) -> float:
    """Return the mean over samples of |W x + b - y|^2, from the sums over the samples.

    Example:
        If W and b are 0, it is the mean of |y|^2.
    """
    weights, bias = linear_map
    sum_of_squares = np.sum((weights @ moments.xx) * weights)  # of W x
    mixed = 2 * np.sum(bias * (weights @ moments.x))
    sum_of_predictions_squared = sum_of_squares + mixed + moments.count * np.sum(bias**2)
    products = np.sum(weights * moments.xy.T) + np.sum(bias * moments.y)
    return float((sum_of_predictions_squared - 2 * products + moments.yy) / moments.count)
