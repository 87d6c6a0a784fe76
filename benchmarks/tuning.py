"""`python benchmarks/tuning.py [--json] [--quick]`: seconds of 1,000 settings on 100 scenes.

One search as `cosmos-eval tune` makes it, for scenes-cosmos over the space of the scenes, in wall
time and in CPU time of all threads. `--quick` tries 4 settings.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from _report import measurement, parser, report

from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols.scenes import TRAINING
from cosmos_eval.runner.tune import default_space, make_search, tune
from cosmos_eval.tasks.segmentation.tuning import read_space
from cosmos_eval.types import RunOptions, no_progress

TARGET = 600.0  # seconds on two cores


def main() -> None:
    """Search once, and print both times."""
    given = parser(__doc__ or "").parse_args()
    options, space = RunOptions(), read_space(default_space("scenes-seg"))
    search = make_search("scenes-seg", TRAINING, space, 4 if given.quick else 1000, 0, options)
    wall, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        tune(search, parse_model_spec("scenes-cosmos"), options, Path(folder), no_progress)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    name = f"{len(search.settings)} settings, {len(search.data.samples)} scenes"
    lines = [
        measurement(f"{name}: wall", wall, "s", at_most=TARGET),
        measurement(f"{name}: CPU", cpu, "s"),
    ]
    report("Search for settings", lines, given.json)


if __name__ == "__main__":
    main()
