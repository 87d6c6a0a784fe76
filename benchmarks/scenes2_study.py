"""`python benchmarks/scenes2_study.py OUTPUT [--list]`: eight methods by eight seeds each.

All trainings have the recipe `scenes_tiny`: scenes of version 2, the same model, batch and steps.
The learning rate of each method is chosen first, by full trainings with a seed of their own, on
scenes whose drawings no other split shows. Then come the seeds, and CLIP and multi-view CLIP with
as many FLOPs as COSMOS. Every training is measured on the test scenes, into
benchmarks/scenes2/trainings.

The command can be stopped at any moment, and the same command goes on. Several of them may run side
by side with one OUTPUT: each takes the next training that no other one works on.

A training that fails is reported in a line, and the next one starts. At its end the command names
all that failed, and exits with status 1. The same command tries them again, except those that
family.yaml lists under `failed`, and diverged trainings of the choice of learning rates: these have
the file `diverged.txt` among their results, and count as the worst.
"""

from __future__ import annotations

from pathlib import Path

import _scenes2_worker as worker
from _scenes2_jobs import planned_jobs, possible_jobs


def work(output: Path) -> list[str]:
    """Train and measure all models. Return the names of the trainings that failed."""
    return worker.work(output, possible_jobs)


def main() -> None:
    """Run the command line."""
    worker.run_command_line(__doc__, planned_jobs, work)


if __name__ == "__main__":
    main()
