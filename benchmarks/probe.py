"""`python benchmarks/probe.py [--json] [--quick] [--images N] [--dimension D] [--classes C]`.

Probes of made-up normalised features, on a CPU. First against scikit-learn's LogisticRegression of
the same C, with a tolerance that lets it converge, on 10,000 images: seconds, and the difference in
accuracy on as many others, for a target of 0.001. Then, on N x D features in memory and C classes,
each in a process of its own: seconds and the peak of memory above the features. A fit takes some
hundred gradients. Times are the processor's, over all threads. `--quick` takes a tenth of images
and classes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

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

KNOWN, KNOWN_CLASSES, KNOWN_DIMENSION, C = 10_000, 20, 128, 10.0
ACCURACY, MEMORY = 1e-3, 1000.0  # targets, the second in MB
Made = tuple[NDArray[np.float32], NDArray[np.int64]]


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    for name, default in (("--images", 128_000), ("--dimension", 768), ("--classes", 1000)):
        arguments.add_argument(name, type=int, default=default)
    arguments.add_argument("--peak", choices=PEAKS, help=argparse.SUPPRESS)  # for a child process
    given = arguments.parse_args()
    if given.peak:
        _print_peak(given.peak, given)
        return
    if given.quick:
        given.images, given.classes = given.images // 10, given.classes // 10
    lines = [*_agreement(KNOWN // 10 if given.quick else KNOWN), *_scale(given)]
    report("Probes of frozen features", lines, given.json)


def make_up(n: int, dimension: int, classes: int, seed: int = 0) -> Made:
    """Normalised features (n, dimension) around the centers of classes, and labels (n,)."""
    centers = np.random.default_rng(1).normal(size=(classes, dimension)).astype(np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    features = centers[labels] + 3 * rng.standard_normal((n, dimension), np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels


def _agreement(n: int) -> Iterator[Measurement]:
    of = KNOWN_DIMENSION, KNOWN_CLASSES
    (features, labels), (others, truth) = make_up(n, *of), make_up(n, *of, seed=2)
    right: dict[str, float] = {}

    def ours() -> None:
        linear = fit(Labelled(features, labels, np.arange(n)), KNOWN_CLASSES, C)
        right["ours"] = float((predict(linear, others) == truth).mean())

    def theirs() -> None:
        known = LogisticRegression(C=C, tol=1e-6, max_iter=10_000).fit(features, labels)
        right["scikit-learn"] = float(known.score(others, truth))

    found = interleave({"ours": ours, "scikit-learn": theirs}, 3, clock=time.process_time)
    for name, spread in found.items():
        yield measurement(f"fit of {n:,} x {KNOWN_DIMENSION}, {name}", spread, "s")
    difference = abs(right["ours"] - right["scikit-learn"])
    yield measurement("difference in accuracy", difference, "", at_most=ACCURACY)


def _scale(given: argparse.Namespace) -> Iterator[Measurement]:
    size = f"{given.images:,} x {given.dimension}, {given.classes} classes"
    for name in PEAKS:
        keys = ("images", "dimension", "classes")
        sizes = [f"--{key}={getattr(given, key)}" for key in keys]
        command = [sys.executable, __file__, "--peak", name, *sizes]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, peak = map(float, done.stdout.split())
        yield measurement(f"{name}, {size}", seconds, "s")
        yield measurement(f"{name}, peak memory above the features", peak, "MB", at_most=MEMORY)


def _print_peak(name: str, given: argparse.Namespace) -> None:
    """Print seconds and megabytes of one pass, after one over a single block."""
    features = np.empty((given.images, given.dimension), np.float32)
    labels = np.empty(given.images, np.int64)
    for seed, start in enumerate(range(0, given.images, BLOCK)):
        rows = slice(start, start + BLOCK)
        n = len(labels[rows])
        features[rows], labels[rows] = make_up(n, given.dimension, given.classes, seed)
    data = Labelled(features, labels, np.arange(given.images))
    PEAKS[name](data._replace(rows=data.rows[:BLOCK]), given.classes)
    started = time.process_time()
    peak = peak_of(lambda: PEAKS[name](data, given.classes))
    print(time.process_time() - started, peak)


def _gradient(data: Labelled, classes: int) -> None:
    start = np.zeros((data.features.shape[1] + 1) * classes)
    Objective(data, classes, C, "cpu")(start)


def _neighbours(data: Labelled, classes: int) -> None:
    nearest_classes(data, data.features[:BLOCK], classes, 20, 0.07)


def _iterations(data: Labelled, classes: int) -> None:
    """What L-BFGS itself takes is whole after ten steps, as many as it remembers."""
    classifiers.ITERATIONS = 12
    fit(data, classes, C)


PEAKS: dict[str, Callable[[Labelled, int], None]] = {
    "one gradient": _gradient,
    "12 iterations of L-BFGS": _iterations,
    "kNN of 4,096 queries": _neighbours,
}


if __name__ == "__main__":
    main()
