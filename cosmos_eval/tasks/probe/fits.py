"""The probes of one protocol: the training images that each is fitted to, and its predictions.

Nothing is chosen by the test images: the strength of regularisation is chosen by training images
that are held out. Few-shot probes are drawn as CoOp draws them (Zhou et al. 2022, arXiv 2109.01134,
github.com/KaiyangZhou/CoOp): k images per class to train on, min(k, 4) others to choose by.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.stats.estimates import Features, Ints
from cosmos_eval.tasks.probe.classifiers import Labelled, choose, fit, nearest_classes, predict

MOST_HELD_OUT = 4
"""The number of images per class, at most, that few-shot probes hold out."""


def in_random_order(labels: Ints, seed: int) -> list[Ints]:
    """Return the rows of each class, in a random order that the seed decides.

    `labels` (N,) holds the class of each row.

    Example:
        [0, 1, 0] -> [[2, 0], [1]] or [[0, 2], [1]]
    """
    rng = np.random.default_rng(seed)
    n_classes = labels.max() + 1
    return [rng.permutation(np.flatnonzero(labels == label)) for label in range(n_classes)]


def few_shots(labels: Ints, shots: int, seed: int) -> tuple[Ints, Ints]:
    """Draw training rows and held-out rows at random.

    With the same seed, the training rows of more shots include all training rows of fewer shots.

    Args:
        labels: The class (N,) of each row.
        shots: The number of training rows for each class.
        seed: The seed of the random order.

    Returns:
        The training rows, and the held-out rows to choose the regularisation by. Each class has
        min(shots, 4) held-out rows.
    """
    n_held_out = min(shots, MOST_HELD_OUT)
    rows_of_classes = in_random_order(labels, seed)
    training_rows = [rows[:shots] for rows in rows_of_classes]
    held_out_rows = [rows[shots : shots + n_held_out] for rows in rows_of_classes]
    return np.concatenate(training_rows), np.concatenate(held_out_rows)


def split(labels: Ints, fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Divide all rows at random into training rows and held-out rows.

    Args:
        labels: The class (N,) of each row.
        fraction: About this fraction of the rows of each class is held out: at least one row, and
            at most all rows but one.
        seed: The seed of the random order.

    Returns:
        The training rows and the held-out rows, both in ascending order.
    """
    training_rows, held_out_rows = [], []
    for rows in in_random_order(labels, seed):
        n_requested = max(1, round(fraction * len(rows)))
        n_held_out = min(n_requested, len(rows) - 1)
        training_rows.append(rows[n_held_out:])
        held_out_rows.append(rows[:n_held_out])
    return np.sort(np.concatenate(training_rows)), np.sort(np.concatenate(held_out_rows))


class LinearProbe(NamedTuple):
    """A linear probe of all training images."""

    # (N,) predicted classes of the test images.
    predicted: Ints
    # The strength of regularisation that was chosen, as scikit-learn's C.
    c: float
    # The number of training images that were held out to choose C.
    n_held_out: int


class FewShotProbes(NamedTuple):
    """The linear probes of S numbers of shots in D draws each."""

    # (S, D, N) predicted classes of the test images.
    predicted: NDArray[np.integer]
    # The C of each draw, for each number of shots.
    c_values: list[list[float]]


class Probe:
    """Fits the probes of one protocol to the features of training images, and applies them."""

    def __init__(
        self,
        protocol: types.ProbeProtocol,
        train_features: Features,
        train_labels: Ints,
        test_features: Features,
        seed: int,
        device: str,
        progress: types.OnProgress = types.no_progress,
    ) -> None:
        """Keep the features. Nothing is fitted yet.

        Args:
            protocol: The protocol: the numbers of shots, and how probes are fitted.
            train_features: The features (F, D) of the training images.
            train_labels: The class (F,) of each training image.
            test_features: The features (N, D) of the test images.
            seed: The seed of all random draws.
            device: The device that fits run on.
            progress: Called with the number of few-shot probes that are fitted.
        """
        self.protocol = protocol
        self.train_features = train_features
        self.train_labels = train_labels
        self.test_features = test_features
        self.seed = seed
        self.device = device
        self.progress = progress
        self.n_classes = int(train_labels.max()) + 1
        # Whether all fits so far converged.
        self.converged = True

    @property
    def draw_seeds(self) -> list[int]:
        """The seed of each random draw of training images for few-shot probes."""
        return [self.seed + draw for draw in range(self.protocol.draws)]

    def predict_neighbours(self) -> Ints:
        """Return the class of each test image that its nearest training images vote for, (N,)."""
        all_rows = np.arange(len(self.train_labels))
        return nearest_classes(
            Labelled(self.train_features, self.train_labels, all_rows),
            self.test_features,
            self.n_classes,
            min(self.protocol.neighbours, len(all_rows)),
            self.protocol.temperature,
            self.device,
        )

    def fit_linear(self) -> LinearProbe:
        """Fit a linear probe to all training images.

        Its regularisation C is chosen by training images that are held out at first.
        """
        training_rows, held_out_rows = split(self.train_labels, self.protocol.validation, self.seed)
        all_rows = np.arange(len(self.train_labels))
        predicted, c = self.choose_and_fit(training_rows, held_out_rows, all_rows)
        return LinearProbe(predicted, c, len(held_out_rows))

    def fit_few_shots(self) -> FewShotProbes:
        """Fit linear probes to a few training images per class, the shots.

        For each number of shots, training images are drawn several times, with different seeds, and
        a probe is fitted to each draw.
        """
        n_numbers_of_shots, n_draws = len(self.protocol.shots), self.protocol.draws
        n_probes = n_numbers_of_shots * n_draws
        predictions_of_probes: list[Ints] = []
        c_values: list[list[float]] = []
        for shots in self.protocol.shots:
            c_of_draws = []
            for seed in self.draw_seeds:
                training_rows, held_out_rows = few_shots(self.train_labels, shots, seed)
                predicted, c = self.choose_and_fit(training_rows, held_out_rows, training_rows)
                predictions_of_probes.append(predicted)
                c_of_draws.append(c)
                n_done = len(predictions_of_probes)
                self.progress(types.Progress("few shots", n_done, n_probes))
            c_values.append(c_of_draws)
        predictions = np.stack(predictions_of_probes).reshape(n_numbers_of_shots, n_draws, -1)
        return FewShotProbes(predictions, c_values)

    def choose_and_fit(
        self, training_rows: Ints, held_out_rows: Ints, final_rows: Ints
    ) -> tuple[Ints, float]:
        """Choose the regularisation C of a linear probe, and fit the probe.

        `self.converged` becomes False if a fit did not converge.

        Args:
            training_rows: The rows of the training features that fits with each C use.
            held_out_rows: Other rows, which these fits are judged by.
            final_rows: The rows that the probe is fitted to, with the best C.

        Returns:
            The classes (N,) that the probe predicts for the test images, and C.
        """
        choice = choose(
            Labelled(self.train_features, self.train_labels, training_rows),
            held_out_rows,
            self.n_classes,
            self.protocol.c_values,
            self.device,
        )
        final_data = Labelled(self.train_features, self.train_labels, final_rows)
        linear = fit(final_data, self.n_classes, choice.c, self.device)
        self.converged = self.converged and choice.converged and linear.converged
        return predict(linear, self.test_features, self.device), choice.c
