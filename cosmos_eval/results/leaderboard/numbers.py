"""Numbers as people read them: fractions in percent with one decimal, ratios as they are."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from cosmos_eval.results.matching import is_share

_TENTH, _HUNDREDTH = Decimal("0.1"), Decimal("0.01")


def percent(fraction: float) -> Decimal:
    """Percent with one decimal, half up as people round: 0.6705 -> 67.1.

    By way of the shortest text of the float, since 0.6705 itself is a little less.
    """
    return (Decimal(repr(fraction)) * 100).quantize(_TENTH, ROUND_HALF_UP)


def shown(metric: str, value: float) -> Decimal:
    """A metric as tables have it: a share in percent, a ratio with two decimals."""
    if is_share(metric):
        return percent(value)
    return Decimal(repr(value)).quantize(_HUNDREDTH, ROUND_HALF_UP)


def shown_text(metric: str, value: float) -> str:
    """The same as text: `67.1`, or `1.91x` of a ratio."""
    return f"{shown(metric, value)}{'' if is_share(metric) else 'x'}"


def bounds(metric: str, interval: Mapping[str, Any] | None) -> str:
    """An interval of a metric, `[12.5, 50.0]`; empty where there is none."""
    if interval is None:
        return ""
    return f"[{shown(metric, interval['low'])}, {shown(metric, interval['high'])}]"


def exact_difference(fraction: float, other: float) -> Decimal:
    """A fraction minus another as their shortest texts say: 0.3 - 0.2 is 0.1."""
    return Decimal(repr(fraction)) - Decimal(repr(other))


def difference(fraction: float, other: float) -> str:
    """By how many percentage points a fraction is above another, with its sign: `+0.4`."""
    points = (exact_difference(fraction, other) * 100).quantize(_TENTH, ROUND_HALF_UP)
    return f"{points:+}" if points else "0.0"
