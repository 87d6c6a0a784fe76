"""Fractions as people read them: percent with one decimal."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

_TENTH = Decimal("0.1")


def percent(fraction: float) -> Decimal:
    """Percent with one decimal, half up as people round: 0.6705 -> 67.1.

    By way of the shortest text of the float, since 0.6705 itself is a little less.
    """
    return (Decimal(repr(fraction)) * 100).quantize(_TENTH, ROUND_HALF_UP)


def bounds(interval: Mapping[str, Any] | None) -> str:
    """An interval in percent, `[12.5, 50.0]`; empty where there is none."""
    if interval is None:
        return ""
    return f"[{percent(interval['low'])}, {percent(interval['high'])}]"


def exact_difference(fraction: float, other: float) -> Decimal:
    """A fraction minus another as their shortest texts say: 0.3 - 0.2 is 0.1."""
    return Decimal(repr(fraction)) - Decimal(repr(other))


def difference(fraction: float, other: float) -> str:
    """By how many percentage points a fraction is above another, with its sign: `+0.4`."""
    points = (exact_difference(fraction, other) * 100).quantize(_TENTH, ROUND_HALF_UP)
    return f"{points:+}" if points else "0.0"
