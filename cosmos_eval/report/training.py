"""Curves of trainings, from the logs that `cosmos-train` writes beside its checkpoints."""

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cosmos_eval.models.specs import local_weights, parse_model_spec
from cosmos_eval.results.labels import Stored
from cosmos_eval.types import UsageError

_LOG = "log.jsonl"
_POINTS = 120  # of a curve at most
_OTHERS = ("step", "total", "timing", "evaluation")  # fields of a log that are no loss terms


class Curve(NamedTuple):
    """Values by step of one of the lines that `losses.png` has in a panel."""

    model: str
    panel: str
    unit: str
    line: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def curves_of(results: Iterable[Stored]) -> tuple[Curve, ...]:
    """Return the curves of all models whose log is beside their weights on this machine."""
    logs: dict[str, Path] = {}
    for one in results:
        with suppress(UsageError):
            spec = parse_model_spec(one.row.model["spec"], arch=one.row.model["architecture"])
            # Snapshots are in a folder of their own.
            folders = [folder for file in local_weights(spec)[:1] for folder in file.parents[:2]]
            found = next((path for f in folders if (path := f / _LOG).is_file()), None)
            if found is not None:
                logs[one.model] = found
    return tuple(curve for model, path in sorted(logs.items()) for curve in _curves(model, path))


def _curves(model: str, path: Path) -> Iterator[Curve]:
    from cosmos_core.engine.loggers import read_log  # which imports torch
    from cosmos_core.plots.curves import PANELS, panels, thinned

    records = read_log(path)
    others = {*_OTHERS, *(name for panel in PANELS for name in panel.names)}
    terms = dict.fromkeys(name for record in records for name in record if name not in others)
    for panel in panels(records, list(terms)):
        for series in panel.series:
            few = thinned(series, _POINTS)
            line = f"{series.name} (student)" if series.dashed else series.name
            points = [
                (int(step), float(f"{value:.4g}"))
                for step, value in zip(few.steps, few.values, strict=True)
                if math.isfinite(value)
            ]
            if points:
                yield Curve(model, panel.title, panel.unit, line, *zip(*points, strict=True))
