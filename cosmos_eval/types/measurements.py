"""The outcome of a measurement: samples, and the figures that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    # Importing NumPy at run time would slow down `--help`.
    import numpy as np
    from numpy.typing import NDArray

Samples: TypeAlias = "Mapping[str, NDArray[Any]]"
"""Arrays by name, stored beside a result, from which its figures follow."""


class Interval(NamedTuple):
    """A confidence interval of a metric, in the metric's unit."""

    low: float
    high: float
    method: str
    level: float = 0.95


class Mistakes(NamedTuple):
    """The confusions of C classes: P pairs of a true class and another, predicted class."""

    # The unit of the amounts: `images` or `pixels`.
    unit: str
    # (C,) names.
    classes: Sequence[str]
    # (P,) the index of the true class of each pair, and of the class that was predicted instead.
    true: NDArray[np.integer]
    predicted: NDArray[np.integer]
    # (P,) how many images or pixels of each pair there are.
    amounts: NDArray[np.integer]
    # (C,) how many images or pixels of each class there are.
    totals: NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The metrics that are computed from stored samples and a seed."""

    metrics: Mapping[str, float]
    # Confidence intervals by the names of metrics.
    intervals: Mapping[str, Interval]
    n_samples: int
    # For each class, its metrics by name.
    per_class: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    # The most frequent mistakes of a classification.
    confusion_pairs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class Measurement(Figures):
    """The metrics that a task measured, and the samples that they are computed from."""

    samples: Samples
    # SHA-256s of everything that defines the number: class names, templates, the list of samples.
    hashes: Mapping[str, str]
    # Fields that are added to the provenance.
    settings: Mapping[str, Any] = field(default_factory=dict)
    # Wall time by phase.
    seconds: Mapping[str, float] = field(default_factory=dict)
    # Lines that a reader of the number must know.
    notes: tuple[str, ...] = ()


class FoundSamples(NamedTuple):
    """How many of a data set's samples are on the disk, such as 499 of 500 images."""

    # How many samples the files on the disk hold.
    n_found: int
    # How many samples the complete data set has.
    n_expected: int
    # The unit of both numbers: `images`, `captions` or `items`.
    unit: str

    def __str__(self) -> str:
        """Return a phrase such as `499 of 500 images`."""
        return f"{self.n_found} of {self.n_expected} {self.unit}"
