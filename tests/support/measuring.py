"""Workers for tests of measurements by several processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cosmos_core.utils.distributed import Distributed, process_group
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.runner.run import run_all
from cosmos_eval.types import RunOptions


def measure_together(
    datasets: Sequence[str], checkpoint: str, arch: str, output: str
) -> list[dict[str, float]]:
    """The metrics of every data set as this process has them; the first one writes the results."""
    with process_group() as distributed:
        return measure(distributed, datasets, checkpoint, arch, output)


def measure(
    distributed: Distributed, datasets: Sequence[str], checkpoint: str, arch: str, output: str
) -> list[dict[str, float]]:
    """The metrics of every data set; nothing is kept."""
    plan = make_plan(
        datasets=datasets,
        models=[f"cosmos:{checkpoint}"],
        arch=arch,
        options=RunOptions(device="cpu", distributed=distributed, workers=1),
    )
    return [dict(result.row.metrics) for result in run_all(plan, output=Path(output)) if result.row]
