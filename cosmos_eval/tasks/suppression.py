"""Metrics of caption selection by the object that an item asks about.

The object is the dominant one of its image, a small one beside it, or a control: a small one
without a dominant one beside it.

Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.asked_objects import (
    AREA,
    CONTROL,
    DOMINANT,
    DOMINANT_AREA,
    OBJECT,
    ROLES,
    SMALL,
    WORD,
)
from cosmos_eval.stats.estimates import (
    FunctionOfSums,
    FunctionOfWeights,
    Mean,
    Proportion,
    mean_of_items,
)
from cosmos_eval.stats.suppression import count_group_hits, odds_ratio_by_area, share_difference
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.types import Samples

# Stored arrays of N items.
ARRAYS = (
    SampleArray(OBJECT, "text", ("items",), optional=True),  # one of ROLES, or empty
    SampleArray(WORD, "text", ("items",), optional=True),
    SampleArray(AREA, "number", ("items",), least=0, most=1, may_be_nan=True, optional=True),
    SampleArray(
        DOMINANT_AREA, "number", ("items",), least=0, most=1, may_be_nan=True, optional=True
    ),
)
THIRDS = ("low", "middle", "high")
"""The thirds of the items about small objects, by the area of the dominant object."""


@dataclass(frozen=True)
class _RoleAccuracy:
    """Computes the accuracy of the items about the objects of a role."""

    # One of ROLES.
    role: str
    # The names of the arrays (N,) that say whether an item is correct, and which cluster it has.
    correct_array: str
    cluster_array: str

    def __call__(self, samples: Derived, word: str = "") -> Proportion | Mean | None:
        """Return the accuracy of the items that ask for a word; empty: of all items.

        Return None if there are no such items.
        """
        has_role = _has_role(samples, self.role, word)
        if not has_role.any():
            return None
        correct, clusters = samples[self.correct_array], samples[self.cluster_array]
        return mean_of_items(correct[has_role], clusters[has_role])


@dataclass(frozen=True)
class _Difference:
    """Computes the accuracy at the objects of a role, less the accuracy at small ones."""

    # DOMINANT or CONTROL.
    role: str
    # The names of the arrays (N,) that say whether an item is correct, and which cluster it has.
    correct_array: str
    cluster_array: str

    def __call__(self, samples: Derived, word: str = "") -> FunctionOfSums | None:
        """Return the difference for the items that ask for a word; empty: for all items.

        Return None if a role has no such items, and if the samples lack an array.
        """
        if OBJECT not in samples or self.correct_array not in samples:
            return None
        hits = count_group_hits(
            samples[self.correct_array],
            _has_role(samples, self.role, word),
            _has_role(samples, SMALL, word),
            samples[self.cluster_array],
        )
        return share_difference(hits)


@dataclass(frozen=True)
class _AccuracyInThird:
    """Computes the accuracy at small objects in a third of their items, by the dominant area."""

    # An index of THIRDS.
    third: int
    # The names of the arrays (N,) that say whether an item is correct, and which cluster it has.
    correct_array: str
    cluster_array: str

    def __call__(self, samples: Derived) -> Proportion | Mean | None:
        """Return the accuracy, or None if equal areas leave a third without items."""
        has_area = _has_dominant_area(samples)
        if not has_area.any():
            return None
        areas = samples[DOMINANT_AREA][has_area]
        bounds = np.quantile(areas, [1 / 3, 2 / 3])
        thirds = np.searchsorted(bounds, areas, side="left")
        if len(np.unique(thirds)) < len(THIRDS):
            return None
        is_in_third = thirds == self.third
        correct = samples[self.correct_array][has_area][is_in_third]
        return mean_of_items(correct, samples[self.cluster_array][has_area][is_in_third])


@dataclass(frozen=True)
class _OddsRatio:
    """Computes how the odds at small objects change with the area of the dominant object."""

    # The names of the arrays (N,) that say whether an item is correct, and which cluster it has.
    correct_array: str
    cluster_array: str

    def __call__(self, samples: Derived) -> FunctionOfWeights | None:
        """Return the odds ratio, or None if there are no areas, or if all are equal."""
        has_area = _has_dominant_area(samples)
        if not has_area.any():
            return None
        return odds_ratio_by_area(
            samples[self.correct_array][has_area],
            samples[DOMINANT_AREA][has_area],
            samples[self.cluster_array][has_area],
        )


def _has_role(samples: Derived, role: str, word: str) -> NDArray[np.bool_]:
    """Return whether each item (N,) asks about the object of a role, by a word unless it is empty.

    The array is empty if the samples do not say which objects they ask about.
    """
    if OBJECT not in samples:
        return np.zeros(0, bool)
    has_role: NDArray[np.bool_] = samples[OBJECT] == role
    if word:
        has_role &= samples[WORD] == word
    return has_role


def _has_dominant_area(samples: Derived) -> NDArray[np.bool_]:
    """Return whether each item (N,) asks about a small object beside a dominant one of known area.

    No item does if the samples have no areas.
    """
    is_small = _has_role(samples, SMALL, "")
    if DOMINANT_AREA not in samples:
        return np.zeros_like(is_small)
    return is_small & ~np.isnan(samples[DOMINANT_AREA])


def words_of(samples: Derived) -> Sequence[str]:
    """Return the sorted words that items ask for, such as ["colour", "kind"]."""
    if OBJECT not in samples or WORD not in samples:
        return []
    words = np.unique(samples[WORD][np.isin(samples[OBJECT], ROLES)]).tolist()
    return [word for word in words if word]


def headline_metrics(correct: str, blind: str, cluster: str) -> Iterator[Metric]:
    """Yield the metrics that tables show if items state the objects that they ask about.

    Args:
        correct: The name of the array (N,) that says whether an item is correct.
        blind: The name of the array (N,) that says whether the choice without the image is.
        cluster: The name of the array (N,) of the numbers of clusters.
    """
    yield Metric(
        "accuracy_small", _RoleAccuracy(SMALL, correct, cluster), label="small", headline=True
    )
    for name, role, label in (
        ("suppression", DOMINANT, ""),
        ("loss_beside_dominant", CONTROL, "loss beside dominant"),
    ):
        yield Metric(
            name,
            _Difference(role, correct, cluster),
            unit="difference",
            label=label,
            higher_is_better=False,
            headline=True,
        )
        yield Metric(
            f"{name}_blind", _Difference(role, blind, cluster), unit="difference", reference=True
        )


def detail_metrics(correct: str, cluster: str) -> Iterator[Metric]:
    """Yield the other metrics by object, by word, and by the area of the dominant object.

    Args:
        correct: The name of the array (N,) that says whether an item is correct.
        cluster: The name of the array (N,) of the numbers of clusters.
    """
    accuracy_dominant = _RoleAccuracy(DOMINANT, correct, cluster)
    accuracy_small = _RoleAccuracy(SMALL, correct, cluster)
    accuracy_control = _RoleAccuracy(CONTROL, correct, cluster)
    yield Metric("accuracy_dominant", accuracy_dominant)
    yield Metric("accuracy_control", accuracy_control)
    for third, third_name in enumerate(THIRDS):
        accuracy_in_third = _AccuracyInThird(third, correct, cluster)
        yield Metric(f"accuracy_small_by_dominant_area_{third_name}", accuracy_in_third)
    yield Metric("odds_small_by_dominant_area", _OddsRatio(correct, cluster), unit="ratio")
    yield Metric("accuracy_dominant_*", accuracy_dominant, members=words_of)
    yield Metric("accuracy_small_*", accuracy_small, members=words_of)
    yield Metric("accuracy_control_*", accuracy_control, members=words_of)
    for name, role in (("suppression_*", DOMINANT), ("loss_beside_dominant_*", CONTROL)):
        yield Metric(
            name,
            _Difference(role, correct, cluster),
            unit="difference",
            higher_is_better=False,
            members=words_of,
        )


def require_roles(samples: Samples) -> None:
    """Raise ValueError for stored objects whose role is not one of ROLES, and not unknown."""
    if OBJECT in samples and not np.isin(samples[OBJECT], ["", *ROLES]).all():
        raise ValueError(f"`{OBJECT}` holds a text that is not {DOMINANT}, {SMALL} or {CONTROL}")
    for name in (WORD, AREA, DOMINANT_AREA):
        if name in samples and OBJECT not in samples:
            raise ValueError(f"`{name}` is stored without `{OBJECT}`")


def require_same_objects(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Raise ValueError unless two results ask about the same objects, by the same words."""
    for name in (OBJECT, WORD):
        if not np.array_equal(first.get(name, ""), second.get(name, "")):
            raise ValueError(f"`{name}` of the samples differs")
    for name in (AREA, DOMINANT_AREA):
        areas, other_areas = first.get(name, np.nan), second.get(name, np.nan)
        if not np.array_equal(areas, other_areas, equal_nan=True):
            raise ValueError(f"`{name}` of the samples differs")
