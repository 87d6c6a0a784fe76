"""`python benchmarks/tuning.py [--json] [--quick]`: seconds of 1,000 settings on 100 scenes.

The script searches once as `cosmos-eval tune` does, with scenes-cosmos and the settings for scenes,
and prints wall time and the CPU time of all threads. `--quick` tries 4 settings.
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
    arguments = parser(__doc__ or "").parse_args()
    n_settings = 4 if arguments.quick else 1000
    options, space = RunOptions(), read_space(default_space("scenes-seg"))
    search = make_search("scenes-seg", TRAINING, space, n_settings, 0, options)
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        tune(search, parse_model_spec("scenes-cosmos"), options, Path(folder), no_progress)
    wall_seconds = time.perf_counter() - wall_start
    cpu_seconds = time.process_time() - cpu_start
    name = f"{len(search.settings)} settings, {len(search.data.samples)} scenes"
    lines = [
        measurement(f"{name}: wall", wall_seconds, "s", at_most=TARGET),
        measurement(f"{name}: CPU", cpu_seconds, "s"),
    ]
    report("Search for settings", lines, arguments.json)


if __name__ == "__main__":
    main()
