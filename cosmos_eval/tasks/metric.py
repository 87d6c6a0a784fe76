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

Unit = Literal["fraction", "rank", "ratio", "number", "unknown"]
"""The unit of a metric.

Fractions lie in [0, 1] and are shown in percent, ranks start at 1, ratios start at 0, and numbers
may be any, such as a correlation. Metrics of tasks that are not installed are `unknown`: they are
shown as they are stored and never ranked.
"""

_BOUNDS = {"fraction": (0, 1), "rank": (1, math.inf), "ratio": (0, math.inf)}


def no_estimate(samples: Derived) -> None:
    """Return None: only the name of the metric is known."""


@dataclass(frozen=True)
class Metric:
    """A metric of a task.

    A name that ends with `*`, such as `acc1_*`, stands for several metrics. For given samples,
    `members` returns the texts that replace the `*`, such as `["urban", "rural"]`. `estimate` is
    called with the samples and one of these texts.
    """

    name: str
    # A pure function of what the task's `derive` returns. The kind of estimate decides how the
    # interval and the paired test are made. None: these samples do not have the metric.
    estimate: Callable[..., Estimate | None] = no_estimate
    unit: Unit = "fraction"
    higher_is_better: bool = True
    # The title of the column in tables; empty: the name.
    label: str = ""
    # Whether tables show the metric.
    headline: bool = False
    # Whether tables show the metric and comparisons of models are decided by it.
    primary: bool = False
    # Whether other metrics are read beside this one, such as the chance level. It has no interval,
    # is neither ranked nor compared, and tables leave out a column of it that is 0.
    reference: bool = False
    # Whether stored results of earlier versions lack the metric, although their samples give it.
    later: bool = False
    # What the interval takes as given, such as the training images of a probe. Tables note it.
    conditional_on: str = ""
    members: Callable[[Derived], Sequence[str]] | None = None

    @property
    def is_ranked(self) -> bool:
        """True if models are ranked by the metric."""
        return not (self.reference or self.unit == "unknown")

    @property
    def factor(self) -> int:
        """The factor of values where people read them: 100 for percent."""
        return 100 if self.unit == "fraction" else 1

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest possible value."""
        return _BOUNDS.get(self.unit, (-math.inf, math.inf))

    def within(self, interval: Interval) -> Interval:
        """Return the part of an interval that lies within the possible values."""
        least, greatest = self.bounds
        return interval._replace(low=max(least, interval.low), high=min(greatest, interval.high))

    def fault(self, value: float) -> str:
        """Return why a value of this metric is not possible; empty if it is possible."""
        least, greatest = self.bounds
        if least <= value <= greatest:
            return ""
        bounds = "from 0 to 1" if greatest == 1 else f"{least} or more"
        hint = "; the unit of other metrics is declared as `number`"
        return f"{value} is no {self.unit}, which is {bounds}{hint}"
