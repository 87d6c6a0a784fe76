"""Read curves of trainings from the logs that `cosmos-train` writes beside its checkpoints."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from cosmos_eval.models.specs import local_weights, parse_model_spec
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.types import UsageError

LOG = "log.jsonl"
_MOST_POINTS = 120  # of a curve
# Fields of a log that are not terms of the loss.
_FIELDS_WITHOUT_LOSS = ("step", "samples_seen", "total", "timing", "evaluation")


class Curve(NamedTuple):
    """A line in a panel of `losses.png`, the picture of a training: its values by step."""

    model: str
    # The title of the panel, and the unit of its values.
    panel: str
    unit: str
    # The name of the line.
    line: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    # Whether it is a loss or an evaluation, and not, for example, the speed.
    is_result: bool = False


def curves_of(results: Iterable[StoredResult]) -> tuple[Curve, ...]:
    """Return the training curves of all models that have a log beside their weights.

    Logs are read on this machine. The curves are sorted by model.
    """
    logs: dict[str, Path] = {}
    for result in results:
        log = _find_log(result)
        if log is not None:
            logs[result.model] = log
    curves: list[Curve] = []
    for model, log in sorted(logs.items()):
        curves += read_curves(model, log)
    return tuple(curves)


def _find_log(result: StoredResult) -> Path | None:
    """Return the training log beside the weights of a result's model.

    Return None if the weights are not on this machine, or have no log.
    """
    model = result.row.model
    try:
        spec = parse_model_spec(model["spec"], arch=model["architecture"])
        weight_files = local_weights(spec)
    except UsageError:
        return None
    if not weight_files:
        return None
    # Look beside the weights and one folder above: a snapshot of a training has a folder of its own
    # inside the folder of the training.
    for folder in weight_files[0].parents[:2]:
        log = folder / LOG
        if log.is_file():
            return log
    return None


def read_curves(model: str, log: Path) -> Iterator[Curve]:
    """Yield the curves in the training log of a model, such as its losses by step.

    Each curve has at most 120 points. Values that are not finite are left out, and so are curves
    without any finite value. `model` is the name of the model, and `log` the file with one record
    for each logged step.
    """
    from cosmos_core.engine.loggers import read_log  # which imports torch
    from cosmos_core.plots.curves import PANELS, panels, thinned

    records = read_log(log)

    titles_without_results = {panel.title for panel in PANELS}

    # All fields that no panel shows yet are terms of the loss.
    other_fields = set(_FIELDS_WITHOUT_LOSS)
    for panel in PANELS:
        other_fields.update(panel.names)
    fields = dict.fromkeys(name for record in records for name in record)
    loss_terms = [name for name in fields if name not in other_fields]

    for panel in panels(records, loss_terms):
        for series in panel.series:
            # Dashed lines are for the student's weights.
            line = f"{series.name} (student)" if series.dashed else series.name
            points = thinned(series, _MOST_POINTS)
            steps = []
            values = []
            for step, value in zip(points.steps, points.values, strict=True):
                if math.isfinite(value):
                    steps.append(int(step))
                    values.append(float(f"{value:.4g}"))  # four significant digits
            if steps:
                yield Curve(
                    model=model,
                    panel=panel.title,
                    unit=panel.unit,
                    line=line,
                    steps=tuple(steps),
                    values=tuple(values),
                    is_result=panel.title not in titles_without_results,
                )
