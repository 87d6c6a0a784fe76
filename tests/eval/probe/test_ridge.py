"""Ridge regression from streamed sums, against a hand-solved case and scikit-learn."""

import tracemalloc
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from cosmos_eval.stats.ridge import LinearMap, Moments, fit, mean_squared_error
from cosmos_eval.tasks.dense_probe.fits import PatchSamples, fit_ridge, strength_notes
from cosmos_eval.types import DepthProbeProtocol, RunOptions


def make_samples(n: int = 400, n_features: int = 24, n_targets: int = 3, seed: int = 0):
    """Return features (n, n_features) and one-hot targets (n, n_targets).

    The features have a mean, correlations and a constant, like those of patches.
    """
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(n_features, n_features))
    x = rng.normal(size=(n, n_features)) @ mixing + 5
    x[:, 7] = 0.25
    y = np.eye(n_targets)[(x[:, :n_targets] + rng.normal(size=(n, n_targets))).argmax(1)]
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), y


def moments_of(x, y, counts=None):
    counts = np.ones(len(x)) if counts is None else counts
    moments = Moments(x.shape[1], y.shape[1])
    squares = (counts[:, None] * y**2).sum(1)
    for rows in np.array_split(np.arange(len(x)), 7):
        weighted = counts[rows, None] * y[rows]
        moments.add(x[rows], counts[rows], weighted, float(squares[rows].sum()))
    return moments


def test_a_case_solved_by_hand():
    # x is 0 or 2: standardised -1 or 1, covariance with y = 2x is 2, and the mean of y is 2.
    moments = moments_of(np.array([[0.0], [2.0]]), np.array([[0.0], [4.0]]))
    strengths = (1e-9, 1.0, 3.0)
    for strength, linear_map in zip(strengths, fit(moments, strengths), strict=True):
        weight = 2 / (1 + strength)
        np.testing.assert_allclose(linear_map.weights, [[weight]], rtol=1e-12)
        np.testing.assert_allclose(linear_map.bias, [2 - weight], atol=1e-12)
    # Predictions are 1 and 3 for a strength of 1: both are wrong by 1.
    assert mean_squared_error(fit(moments, [1.0])[0], moments) == pytest.approx(1)


@pytest.mark.parametrize("strength", [1e-6, 1e-3, 1.0, 100.0])
def test_predictions_are_scikit_learns(strength):
    x, y = make_samples()
    x[:, 7] = 0  # scikit-learn does not centre its features as exactly as it would have to
    counts = np.random.default_rng(1).integers(0, 5, len(x)).astype(float)
    (linear_map,) = fit(moments_of(x, y, counts), [strength])

    rows = np.repeat(np.arange(len(x)), counts.astype(int))
    scaler = StandardScaler().fit(x[rows].astype(np.float64))
    ridge = Ridge(alpha=strength * len(rows), solver="svd")
    ridge.fit(scaler.transform(x[rows].astype(np.float64)), y[rows])
    expected = ridge.predict(scaler.transform(x.astype(np.float64)))
    predicted = x @ linear_map.weights.T + linear_map.bias
    np.testing.assert_allclose(predicted, expected, atol=1e-6)


def test_the_error_from_sums_is_that_of_the_samples():
    x, y = make_samples(seed=3)
    weights = np.random.default_rng(2).normal(size=(3, 24))
    bias = np.random.default_rng(2).normal(size=3)
    linear_map = LinearMap(weights, bias)
    errors = x.astype(np.float64) @ linear_map.weights.T + linear_map.bias - y
    expected = (errors**2).sum(1).mean()
    assert mean_squared_error(linear_map, moments_of(x, y)) == pytest.approx(expected, rel=1e-9)


def test_sums_of_two_halves_of_the_samples_add_up():
    x, y = make_samples()
    total = moments_of(x[:150], y[:150]) + moments_of(x[150:], y[150:])
    for name, values in vars(moments_of(x, y)).items():
        np.testing.assert_allclose(getattr(total, name), values, rtol=1e-9)


def test_a_constant_feature_has_no_weight():
    x, y = make_samples()
    (linear_map,) = fit(moments_of(x * 0 + 0.1, y), [1e-6])
    assert not linear_map.weights.any()
    np.testing.assert_allclose(linear_map.bias, y.mean(0))


def test_memory_does_not_grow_with_the_number_of_images():
    protocol = DepthProbeProtocol(dataset="d", protocol_name="p", train="a", test="b")

    def read(indices: Sequence[int]) -> Iterator[PatchSamples]:
        for index in indices:
            x = np.random.default_rng(index).normal(size=(200, 256)).astype(np.float32)
            yield PatchSamples(index, bytes(32), x, np.ones(200), x[:, :3], 300.0)

    def peak_bytes(n_images: int) -> int:
        """Fit to images, and return the most bytes that are allocated at a time."""
        tracemalloc.start()
        fit_ridge(protocol, n_images, RunOptions(), read)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    peak_bytes(5)  # imports and caches
    few_images, many_images = peak_bytes(20), peak_bytes(400)
    bytes_of_all_features = 400 * 200 * 256 * 4
    assert many_images < 1.05 * few_images
    assert many_images < bytes_of_all_features / 5


@pytest.mark.parametrize(
    ("errors", "strength"),
    [
        ((0.5, 0.4, 0.45), None),  # the best is inside
        ((0.5, 0.45, 0.4), "10"),
        ((0.4, 0.45, 0.5), "0.1"),
        ((0.44999, 0.45, 0.5), None),  # weaker ones make no difference
        ((0.4,), None),
    ],
)
def test_a_note_says_that_the_best_strength_may_be_beyond_the_candidates(errors, strength):
    notes = list(strength_notes((0.1, 1.0, 10.0)[: len(errors)], errors))
    expected = f"the strength {strength} is at the end of strengths: others may be best"
    assert notes == ([] if strength is None else [expected])
