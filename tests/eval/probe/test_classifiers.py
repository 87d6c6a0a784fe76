"""Classifiers of features against scikit-learn, a plain loop, and cases solved by hand."""

from __future__ import annotations

import numpy as np
import pytest
from support.probes import CLASSES, fit_sklearn, make_features

from cosmos_eval.tasks.probe import classifiers
from cosmos_eval.tasks.probe.classifiers import Labelled, choose, fit, nearest_classes, predict


@pytest.fixture
def small_blocks(monkeypatch):
    """Set a block size that divides neither the number of rows nor that of queries."""
    monkeypatch.setattr(classifiers, "BLOCK", 37)


@pytest.mark.parametrize("c", [1e-2, 100.0, 1e4])
def test_a_fit_is_scikit_learns(small_blocks, c):
    features, labels = make_features(600)
    queries, _ = make_features(2000, seed=1)
    linear = fit(Labelled(features, labels, np.arange(600)), CLASSES, c)
    expected = fit_sklearn(features, labels, c)
    assert linear.converged
    expected_classes = expected.predict(queries.astype(np.float64))
    assert (predict(linear, queries) == expected_classes).mean() >= 0.999
    if c <= 100:
        expected_weights = np.vstack([expected.coef_.T, expected.intercept_])
        # Predictions do not change if all classes get the same weights added.
        centred = linear.weights - linear.weights.mean(axis=1, keepdims=True)
        expected_centred = expected_weights - expected_weights.mean(axis=1, keepdims=True)
        largest_error = np.abs(centred - expected_centred).max()
        assert largest_error < 1e-2 * np.abs(expected_weights).max()


def test_a_memory_map_and_some_rows_give_the_same_fit(small_blocks, tmp_path):
    features, labels = make_features(300)
    rows = np.arange(0, 300, 2)
    stored = np.memmap(tmp_path / "features", np.float32, "w+", shape=features.shape)
    stored[:] = features
    mapped = fit(Labelled(stored, labels, rows), CLASSES, 10.0)
    plain = fit(Labelled(features[rows], labels[rows], np.arange(150)), CLASSES, 10.0)
    assert np.array_equal(mapped.weights, plain.weights)


def test_a_fit_that_is_stopped_says_so(monkeypatch):
    monkeypatch.setattr(classifiers, "ITERATIONS", 2)
    features, labels = make_features(100)
    assert not fit(Labelled(features, labels, np.arange(100)), CLASSES, 1e4).converged


def test_the_candidate_is_the_one_that_scikit_learn_scores_best_on_held_out_rows():
    features, labels = make_features(260, spread=2.5)
    train, held_out = np.arange(200), np.arange(200, 260)
    candidates = [1e3, 1e-2, 1.0, 10.0, 1e5]
    chosen = choose(Labelled(features, labels, train), held_out, CLASSES, candidates, "cpu")
    scores = {}
    for c in sorted(candidates):
        classifier = fit_sklearn(features[train], labels[train], c)
        scores[c] = classifier.score(features[held_out], labels[held_out])
    assert len(set(scores.values())) > 2
    assert chosen.c == max(scores, key=scores.__getitem__)


def plain_vote(train, labels, query, k, temperature):
    """Return the class with most votes of the k nearest neighbours, by a loop in float64."""
    similarity = train.astype(np.float64) @ query.astype(np.float64)
    votes = np.zeros(CLASSES)
    for row in np.argsort(-similarity, kind="stable")[:k]:
        votes[labels[row]] += np.exp(similarity[row] / temperature)
    return int(votes.argmax())


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 0.005), (150, 1.0)])
def test_neighbours_are_those_of_a_plain_loop(small_blocks, k, temperature):
    features, labels = make_features(200, spread=2.0)
    queries, _ = make_features(90, seed=1, spread=2.0)
    rows = np.arange(10, 190)
    train = Labelled(features, labels, rows)
    classes = nearest_classes(train, queries, CLASSES, k, temperature)
    assert classes.tolist() == [
        plain_vote(features[rows], labels[rows], query, k, temperature) for query in queries
    ]


def test_temperature_weighs_the_votes():
    # One neighbour of class 0 at similarity 1, two of class 1 at 0.8: exp(0.2 / T) against 2.
    features = np.array([[1, 0], [0.8, 0.6], [0.8, -0.6]], np.float32)
    train = Labelled(features, np.array([0, 1, 1]), np.arange(3))
    query = np.array([[1, 0]], np.float32)
    assert nearest_classes(train, query, 2, 3, 0.2 / np.log(2) * 0.99).tolist() == [0]
    assert nearest_classes(train, query, 2, 3, 0.2 / np.log(2) * 1.01).tolist() == [1]
