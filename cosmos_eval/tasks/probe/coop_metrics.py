"""Stored arrays and metrics of few shots by CoOp's rules, and of base and new classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import CrossedMean, FunctionOfSums, Proportion, Values, ratio
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.probe.draws import count_base_classes
from cosmos_eval.types import Samples

# Stored arrays of N test images, B of them of base classes, S numbers of shots and D draws.
LABELS = "labels"  # (N,) classes of the test images
CLASSES = "classes"  # (C,) names
SHOTS = "shots"  # (S,) training images per class
ZERO_SHOT = "zero_shot"  # (N,) classes that the zero-shot classifier predicts
IN_HALF = "zero_shot_in_half"  # (N,) the same among base or new classes only
LINEAR = "linear_probe_correct"  # (S, N, D) whether the linear probe of a draw is correct
LINEAR_BASE = "linear_probe_base_correct"  # (S, B, D) the same among base classes only
CACHE = "cache_correct"  # (S, N, D) whether the cache model of a draw is correct
CACHE_BASE = "cache_base_correct"  # (S, B, D) the same among base classes only
_OF_ALL = ("shots", "images", "draws")
_OF_BASE = ("shots", "images of base classes", "draws")
ARRAYS = (
    SampleArray(ZERO_SHOT, "whole number", ("images",), least=0, below="classes", optional=True),
    SampleArray(IN_HALF, "whole number", ("images",), least=0, below="classes", optional=True),
    SampleArray(LINEAR, "truth value", _OF_ALL, optional=True),
    SampleArray(LINEAR_BASE, "truth value", _OF_BASE, optional=True),
    SampleArray(CACHE, "truth value", _OF_ALL, optional=True),
    SampleArray(CACHE_BASE, "truth value", _OF_BASE, optional=True),
)


def _is_base(samples: Derived) -> NDArray[np.bool_]:
    """Return whether each test image (N,) shows a base class."""
    is_base: NDArray[np.bool_] = samples[LABELS] < count_base_classes(len(samples[CLASSES]))
    return is_base


def _zero_shot_accuracy(samples: Derived) -> Proportion | None:
    """Return the accuracy of the zero-shot classifier among all classes."""
    if ZERO_SHOT not in samples:
        return None
    return Proportion(samples[ZERO_SHOT] == samples[LABELS])


def _zero_shot_base_accuracy(samples: Derived) -> Proportion | None:
    """Return the accuracy among base classes on their images; None if there are no images."""
    return _accuracy_in_half(samples, of_base=True)


def _zero_shot_new_accuracy(samples: Derived) -> Proportion | None:
    """Return the accuracy among new classes on their images; None if there are no images."""
    return _accuracy_in_half(samples, of_base=False)


def _accuracy_in_half(samples: Derived, *, of_base: bool) -> Proportion | None:
    """Return the zero-shot accuracy among base or new classes on the images of these classes."""
    if IN_HALF not in samples:
        return None
    is_in_half = _is_base(samples) == of_base
    if not is_in_half.any():
        return None
    return Proportion((samples[IN_HALF] == samples[LABELS])[is_in_half])


class _HalfTerms(NamedTuple):
    """For each test image (N,), whether it shows a base class, and how far it is correct."""

    base: Values
    base_correct: Values
    new: Values
    new_correct: Values


def _harmonic_mean_of_sums(sums: Any) -> Values:
    """Return the harmonic mean of the accuracies on base and on new classes.

    H = 2 base new / (base + new), as in CoCoOp's table 1, or 0 if both are 0. It is NaN if one
    half has no images.
    """
    base = ratio(sums.base_correct, sums.base)
    new = ratio(sums.new_correct, sums.new)
    total = base + new
    return ratio(2 * base * new, np.where(total == 0, 1.0, total))


def _harmonic_mean(samples: Derived, base_correct: NDArray[Any]) -> FunctionOfSums | None:
    """Return the harmonic mean of an accuracy on base classes and of zero-shot on new classes.

    Args:
        samples: The stored arrays.
        base_correct: How far each image of a base class (B,) is correct: the mean over draws.
    """
    is_base = _is_base(samples)
    if is_base.all() or not is_base.any():
        return None
    correct_if_base = np.zeros(len(is_base))
    correct_if_base[is_base] = base_correct
    correct_if_new = (samples[IN_HALF] == samples[LABELS]) & ~is_base
    terms = _HalfTerms(
        is_base.astype(float),
        correct_if_base,
        (~is_base).astype(float),
        correct_if_new.astype(float),
    )
    return FunctionOfSums(terms, _harmonic_mean_of_sums)


def _zero_shot_harmonic_mean(samples: Derived) -> FunctionOfSums | None:
    """Return the harmonic mean of the zero-shot accuracies on base and on new classes."""
    if IN_HALF not in samples:
        return None
    is_base = _is_base(samples)
    return _harmonic_mean(samples, (samples[IN_HALF] == samples[LABELS])[is_base])


@dataclass(frozen=True)
class _FewShotMetric:
    """Computes the metrics of one kind of few-shot classifier."""

    # The arrays of correct predictions among all classes, and among base classes.
    all_array: str
    base_array: str

    def members(self, samples: Derived) -> Sequence[str]:
        """Return the ends of the metrics' names, such as ["1_acc1", "1_base_acc1"]."""
        if self.all_array not in samples:
            return []
        members = []
        for shots in samples[SHOTS]:
            members += [f"{shots}_acc1", f"{shots}_base_acc1"]
            if self.all_array == CACHE:
                members.append(f"{shots}_harmonic_mean")
        return members

    def __call__(self, samples: Derived, member: str) -> CrossedMean | FunctionOfSums | None:
        """Return a metric by the end of its name.

        It is None if the number of shots was not measured, and for a half without images.

        Args:
            samples: The stored arrays.
            member: The end of the name, such as `16_base_acc1`.
        """
        shots, _, kind = member.partition("_")
        if self.all_array not in samples or int(shots) not in samples[SHOTS]:
            return None
        row = samples[SHOTS].tolist().index(int(shots))
        if kind == "harmonic_mean":
            return _harmonic_mean(samples, samples[self.base_array][row].mean(axis=1))
        array = self.base_array if kind == "base_acc1" else self.all_array
        hits = samples[array][row]
        return CrossedMean(hits) if len(hits) else None


@dataclass(frozen=True)
class _SixteenShots:
    """Computes a few-shot metric of 16 shots, which tables show."""

    metric: _FewShotMetric
    kind: str

    def __call__(self, samples: Derived) -> CrossedMean | FunctionOfSums | None:
        """Return the metric, or None if 16 shots were not measured."""
        return self.metric(samples, f"16_{self.kind}")


_LINEAR = _FewShotMetric(LINEAR, LINEAR_BASE)
_CACHE = _FewShotMetric(CACHE, CACHE_BASE)
_DRAWS = "draws"  # which the interval of a harmonic mean is conditional on
METRICS = (
    Metric("zero_shot_acc1", _zero_shot_accuracy, label="zero-shot acc1", headline=True),
    Metric("zero_shot_base_acc1", _zero_shot_base_accuracy),
    Metric("zero_shot_new_acc1", _zero_shot_new_accuracy),
    Metric("zero_shot_harmonic_mean", _zero_shot_harmonic_mean, label="base-new H", headline=True),
    Metric("linear_probe_16_acc1", _SixteenShots(_LINEAR, "acc1")),
    Metric(
        "cache_16_acc1", _SixteenShots(_CACHE, "acc1"), label="16-shot cache acc1", headline=True
    ),
    Metric("cache_16_harmonic_mean", _SixteenShots(_CACHE, "harmonic_mean"), conditional_on=_DRAWS),
    Metric("linear_probe_*", _LINEAR, members=_LINEAR.members),
    Metric("cache_*", _CACHE, members=_CACHE.members),
)


def require_consistent(samples: Samples) -> None:
    """Raise ValueError if the arrays of CoOp's rules are incomplete or contradict each other."""
    missing_arrays = [array.name for array in ARRAYS if array.name not in samples]
    if missing_arrays:
        raise ValueError(f"there is no array `{missing_arrays[0]}`")
    n_base = int(_is_base(samples).sum())
    if samples[LINEAR_BASE].shape[1] != n_base:
        raise ValueError(
            f"`{LINEAR_BASE}` has {samples[LINEAR_BASE].shape[1]} images of base classes, not "
            f"{n_base}"
        )
    n_base_classes = count_base_classes(len(samples[CLASSES]))
    if ((samples[IN_HALF] < n_base_classes) != _is_base(samples)).any():
        raise ValueError(f"`{IN_HALF}` predicts a class of the other half")
