"""Metrics of tasks: their names, their possible values, and how tables show them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cosmos_eval.types import Interval

if TYPE_CHECKING:
    from cosmos_eval.stats.estimates import Estimate  # which imports NumPy

Derived = Mapping[str, Any]
"""Stored samples, and the arrays that a task derives from them for several metrics."""

Unit = Literal["fraction", "difference", "rank", "ratio", "number", "unknown"]
"""The unit of a metric.

Fractions lie in [0, 1] and are shown in percent, differences of two fractions lie in [-1, 1] and
are shown in percentage points, ranks start at 1, ratios start at 0, and numbers may be any, such as
a correlation. Metrics of tasks that are not installed are `unknown`: they are
shown as they are stored and never ranked.
"""

_BOUNDS = {"fraction": (0, 1), "difference": (-1, 1), "rank": (1, math.inf), "ratio": (0, math.inf)}


def no_estimate(samples: Derived) -> None:
    """Return None, for a metric whose name is known, but not how to compute it."""


@dataclass(frozen=True)
class Metric:
    """A metric of a task.

    A name that ends with `*`, such as `acc1_*`, stands for several metrics. For given samples,
    `members` returns the texts that replace the `*`, such as `["urban", "rural"]`. `estimate` is
    called with the samples and one of these texts.
    """

    name: str
    # A pure function of what the task's `derive` returns. The type of the returned estimate decides
    # how the interval and the paired test are computed. It returns None if these samples do not
    # have the metric.
    estimate: Callable[..., Estimate | None] = no_estimate
    unit: Unit = "fraction"
    higher_is_better: bool = True
    # The title of the column in tables; empty: the name.
    label: str = ""
    # Whether tables show the metric.
    headline: bool = False
    # Whether tables show the metric and comparisons of models are decided by it.
    primary: bool = False
    # Whether the metric only helps to judge other metrics, as the chance level does. It has no
    # interval, and is neither ranked nor compared. Tables leave out its column if all values are 0.
    reference: bool = False
    # Whether stored results of earlier versions lack the metric, although their samples give it.
    later: bool = False
    # What the interval treats as fixed, such as the training images of a probe. Tables note it.
    conditional_on: str = ""
    members: Callable[[Derived], Sequence[str]] | None = None

    @property
    def is_ranked(self) -> bool:
        """True if models can be ranked by the metric, so that one of them is the best."""
        return not (self.reference or self.unit == "unknown")

    @property
    def in_percent(self) -> bool:
        """True if values are shown in percent, or in percentage points."""
        return self.unit in ("fraction", "difference")

    @property
    def factor(self) -> int:
        """The number that values are multiplied by for display: 100 for percent, else 1."""
        return 100 if self.in_percent else 1

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest possible value, such as (0, 1) for a fraction."""
        return _BOUNDS.get(self.unit, (-math.inf, math.inf))

    def within(self, interval: Interval) -> Interval:
        """Return the interval without impossible values: -0.1 to 0.4 becomes 0 to 0.4."""
        least, greatest = self.bounds
        return interval._replace(low=max(least, interval.low), high=min(greatest, interval.high))

    def fault(self, value: float) -> str:
        """Return a message that says why a value is impossible for the unit of this metric.

        Return an empty text for a possible value.

        Example:
            1.5 -> "1.5 is not a fraction, which is from 0 to 1; the unit of ..."
        """
        least, greatest = self.bounds
        is_possible = least <= value <= greatest
        if is_possible:
            return ""
        bounds = f"from {least} to 1" if greatest == 1 else f"{least} or more"
        return (
            f"{value} is not a {self.unit}, which is {bounds}; "
            "the unit of other metrics is declared as `number`"
        )
