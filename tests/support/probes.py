"""Made-up features of classes, and scikit-learn's fit to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

CLASSES, DIMENSION = 7, 24


def make_features(n: int, seed: int = 0, spread: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    """Return normalised features (n, DIMENSION) and labels (n,).

    The features lie around a direction that all share, as those of CLIP do.
    """
    centers = np.random.default_rng(7).normal(size=(CLASSES, DIMENSION)) + 2
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % CLASSES)
    features = centers[labels] + spread * rng.normal(size=(n, DIMENSION))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), labels


def fit_sklearn(features: np.ndarray, labels: np.ndarray, c: float) -> LogisticRegression:
    """Fit scikit-learn's classifier in float64, to a smaller tolerance than its default."""
    from sklearn.linear_model import LogisticRegression

    solver = LogisticRegression(C=c, tol=1e-7, max_iter=20_000)
    return solver.fit(features.astype(np.float64), labels)
