"""A run's log taken apart: which figures go into which panel, and what of them is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosmos_core.types import LossTerms

Floats = npt.NDArray[np.float64]
Records = Sequence[Mapping[str, Any]]


class Series(NamedTuple):
    """Figures (N,) by step (N,), NaN where the log has null. A `dashed` one is a student's."""

    name: str
    steps: Floats
    values: Floats
    dashed: bool = False


class Panel(NamedTuple):
    """What is drawn on the same axes. `noisy` figures differ from one line of the log to the next,
    so that a mean says more; those of `wide` may range over powers of ten."""

    title: str
    unit: str
    series: list[Series]
    noisy: bool = False
    wide: bool = False


class Plan(NamedTuple):
    """A panel before its figures are looked up: `names` are fields of the log, dots go deeper."""

    title: str
    unit: str
    names: tuple[str, ...]
    noisy: bool = False
    wide: bool = False
    factor: float = 1.0


LOSS = Plan("loss before the step", "nats", ("total", *LossTerms._fields), noisy=True)
PLANS = (
    Plan("learning rate", "", ("lr",)),
    Plan("logit scales", "", ("logit_scale", "distill_logit_scale")),
    Plan("teacher's momentum", "", ("momentum",)),
    Plan("norm of the gradient", "", ("gradient_norm",), noisy=True, wide=True),
    Plan("speed", "images a second", ("timing.samples_per_second",), noisy=True),
    Plan("time spent waiting for batches", "%", ("timing.data_wait",), noisy=True, factor=100),
    Plan("peak memory", "GB", ("timing.memory_bytes",), factor=1e-9),
    Plan("samples that could not be read", "samples", ("bad_samples",)),
)
OPTIONAL = ("bad_samples", *LossTerms._fields)  # not drawn while they are zero


def panels(records: Records) -> list[Panel]:
    """The panels of a run's log, the loss first, then one or two for each data set evaluated on.

    A panel without any figure is left out.
    """
    steps = [record for record in records if "evaluation" not in record]
    measured = [record for record in records if "evaluation" in record]
    planned = [_panel(plan, steps) for plan in (LOSS, *PLANS)]
    return [panel for panel in (*planned, *_evaluations(measured)) if panel.series]


def running_mean(values: Floats, window: int) -> Floats:
    """The mean of what is finite in a window around each place, of odd width, narrower at the
    ends."""
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    first = np.maximum(places - window // 2, 0)
    end = np.minimum(places + window // 2 + 1, len(values))
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing is finite
        return (sums[end] - sums[first]) / (counts[end] - counts[first])


def thinned(series: Series, most: int) -> Series:
    """At most `most` figures that look like all of them: the least and the largest of every
    stretch, so that no peak is lost."""
    count, stretches = len(series.values), most // 2
    if count <= most:
        return series
    length = -(-count // stretches)
    padded = np.pad(series.values, (0, stretches * length - count), constant_values=np.nan)
    rows = padded.reshape(stretches, length)
    lowest = np.where(np.isnan(rows), np.inf, rows).argmin(1)
    highest = np.where(np.isnan(rows), -np.inf, rows).argmax(1)
    places = np.unique(np.stack([lowest, highest]) + length * np.arange(stretches))
    places = places[places < count]
    return series._replace(steps=series.steps[places], values=series.values[places])


def _panel(plan: Plan, records: Records) -> Panel:
    found = [_series(name, records, plan.factor) for name in plan.names]
    shown = [one for one in found if _is_shown(one)]
    terms = [one for one in shown if one.name != "total"]
    series = shown if len(terms) > 1 else terms  # the total of one term is that term
    return Panel(plan.title, plan.unit, series, plan.noisy, plan.wide)


def _series(name: str, records: Records, factor: float) -> Series:
    outer, _, inner = name.rpartition(".")
    groups = [record.get(outer, {}) for record in records] if outer else records
    figures = [group.get(inner) for group in groups]
    steps = np.array([record["step"] for record in records], float)
    return Series(inner, steps, np.array(figures, float) * factor)


def _is_shown(series: Series) -> bool:
    finite = series.values[np.isfinite(series.values)]
    return finite.size > 0 and (series.name not in OPTIONAL or bool(finite.any()))


def _evaluations(records: Records) -> Iterator[Panel]:
    """A panel a data set of `dataset/weights/metric`. What exceeds 1, as ranks do, is apart."""
    names = list(dict.fromkeys(name for record in records for name in record["evaluation"]))
    for dataset in dict.fromkeys(name.rsplit("/", 2)[0] for name in names):
        series = [_metric(name, records) for name in names if name.rsplit("/", 2)[0] == dataset]
        fractions = [one for one in series if not (one.values > 1).any()]
        larger = [one for one in series if (one.values > 1).any()]
        yield Panel(dataset, "fraction", fractions)
        yield Panel(f"{dataset}, not fractions", "", larger)


def _metric(name: str, records: Records) -> Series:
    found = [(r["step"], r["evaluation"][name]) for r in records if name in r["evaluation"]]
    steps, values = np.array(found, float).T
    _, weights, metric = name.rsplit("/", 2)
    return Series(metric, steps, values, dashed=weights == "student")
