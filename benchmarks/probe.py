"""`python benchmarks/probe.py [--json] [--quick] [--images N] [--dimension D] [--classes C]`.

Probes of made-up normalised features, on a CPU. The first lines compare our linear probe with
scikit-learn's LogisticRegression of the same C, whose tolerance lets it converge, on 10,000 images:
seconds, and the difference in accuracy on as many other images, whose target is 0.001. The other
lines are for N x D features in memory and C classes, measured in separate processes: seconds, and
the peak memory above the features. A fit takes some hundred gradients. Times are CPU times over all
threads. `--quick` takes a tenth of the images and classes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from _memory import peak_of
from _report import Measurement, interleave, measurement, parser, report
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from cosmos_eval.tasks.probe import classifiers
from cosmos_eval.tasks.probe.classifiers import (
    BLOCK,
    Labelled,
    Objective,
    fit,
    nearest_classes,
    predict,
)

# Images, classes and dimension of the comparison with scikit-learn, and the regularisation.
COMPARED_IMAGES, COMPARED_CLASSES, COMPARED_DIMENSION, C = 10_000, 20, 128, 10.0
ACCURACY_TARGET = 1e-3
MEMORY_TARGET = 1000.0  # MB


class ClassFeatures(NamedTuple):
    """Normalised features of images, and their classes."""

    # (N, D)
    features: NDArray[np.float32]
    # (N,)
    labels: NDArray[np.int64]


def main() -> None:
    """Measure and print."""
    argument_parser = parser(__doc__ or "")
    argument_parser.add_argument("--images", type=int, default=128_000)
    argument_parser.add_argument("--dimension", type=int, default=768)
    argument_parser.add_argument("--classes", type=int, default=1000)
    # The option of child processes: the computation that is measured.
    argument_parser.add_argument("--peak", choices=COMPUTATIONS, help=argparse.SUPPRESS)
    arguments = argument_parser.parse_args()
    if arguments.peak:
        _print_costs(arguments)
        return
    if arguments.quick:
        arguments.images //= 10
        arguments.classes //= 10
    n_compared = COMPARED_IMAGES // 10 if arguments.quick else COMPARED_IMAGES
    lines = [*_comparison_lines(n_compared), *_scale_lines(arguments)]
    report("Probes of frozen features", lines, arguments.json)


def make_features(n: int, dimension: int, classes: int, seed: int = 0) -> ClassFeatures:
    """Return `n` random features around the centers of classes.

    The centers are the same for every seed.
    """
    centers = np.random.default_rng(1).normal(size=(classes, dimension)).astype(np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    features = centers[labels] + 3 * rng.standard_normal((n, dimension), np.float32)
    return ClassFeatures(features / np.linalg.norm(features, axis=1, keepdims=True), labels)


def _comparison_lines(n: int) -> Iterator[Measurement]:
    """Yield the seconds of fits by scikit-learn and by us, and their difference in accuracy."""
    train = make_features(n, COMPARED_DIMENSION, COMPARED_CLASSES)
    test = make_features(n, COMPARED_DIMENSION, COMPARED_CLASSES, seed=2)
    accuracies: dict[str, float] = {}

    def ours() -> None:
        data = Labelled(train.features, train.labels, np.arange(n))
        linear = fit(data, COMPARED_CLASSES, C)
        accuracies["ours"] = float((predict(linear, test.features) == test.labels).mean())

    def by_scikit_learn() -> None:
        model = LogisticRegression(C=C, tol=1e-6, max_iter=10_000)
        model.fit(train.features, train.labels)
        accuracies["scikit-learn"] = float(model.score(test.features, test.labels))

    functions = {"ours": ours, "scikit-learn": by_scikit_learn}
    seconds = interleave(functions, 3, clock=time.process_time)
    for name, spread in seconds.items():
        yield measurement(f"fit of {n:,} x {COMPARED_DIMENSION}, {name}", spread, "s")
    difference = abs(accuracies["ours"] - accuracies["scikit-learn"])
    yield measurement("difference in accuracy", difference, "", at_most=ACCURACY_TARGET)


def _scale_lines(arguments: argparse.Namespace) -> Iterator[Measurement]:
    """Yield the seconds and the peak memory of each computation, measured in new processes."""
    title = f"{arguments.images:,} x {arguments.dimension}, {arguments.classes} classes"
    for name in COMPUTATIONS:
        command = [
            sys.executable,
            __file__,
            f"--peak={name}",
            f"--images={arguments.images}",
            f"--dimension={arguments.dimension}",
            f"--classes={arguments.classes}",
        ]
        child = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, megabytes = map(float, child.stdout.split())
        yield measurement(f"{name}, {title}", seconds, "s")
        line = f"{name}, peak memory above the features"
        yield measurement(line, megabytes, "MB", at_most=MEMORY_TARGET)


def _print_costs(arguments: argparse.Namespace) -> None:
    """Print the seconds and the peak megabytes of a computation, after one on a single block."""
    features = np.empty((arguments.images, arguments.dimension), np.float32)
    labels = np.empty(arguments.images, np.int64)
    for seed, start in enumerate(range(0, arguments.images, BLOCK)):
        rows = slice(start, start + BLOCK)
        n_rows = len(labels[rows])
        features[rows], labels[rows] = make_features(
            n_rows, arguments.dimension, arguments.classes, seed
        )
    data = Labelled(features, labels, np.arange(arguments.images))
    compute = COMPUTATIONS[arguments.peak]
    compute(data._replace(rows=data.rows[:BLOCK]), arguments.classes)
    start_time = time.process_time()
    megabytes = peak_of(lambda: compute(data, arguments.classes))
    print(time.process_time() - start_time, megabytes)


def _one_gradient(data: Labelled, classes: int) -> None:
    """Compute the gradient of a fit at zero."""
    weights = np.zeros((data.features.shape[1] + 1) * classes)
    Objective(data, classes, C, "cpu")(weights)


def _few_iterations(data: Labelled, classes: int) -> None:
    """Fit for 12 iterations; L-BFGS needs the most memory after ten, as many as it remembers."""
    classifiers.ITERATIONS = 12
    fit(data, classes, C)


def _neighbours(data: Labelled, classes: int) -> None:
    """Classify a block of images by their nearest neighbours."""
    nearest_classes(data, data.features[:BLOCK], classes, 20, 0.07)


# The computations whose time and memory are measured.
COMPUTATIONS: dict[str, Callable[[Labelled, int], None]] = {
    "one gradient": _one_gradient,
    "12 iterations of L-BFGS": _few_iterations,
    "kNN of 4,096 queries": _neighbours,
}


if __name__ == "__main__":
    main()
