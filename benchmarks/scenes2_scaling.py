"""`python benchmarks/scenes2_scaling.py OUTPUT [--list]`: CLIP and COSMOS at five budgets each.

The recipe is `scenes_tiny` with the learning rate that benchmarks/scenes2_study.py chooses for each
method. The learning rate is constant, and falls to zero in the last fifth of the steps. So one
training of the largest budget gives all of them: those of the others branch from its snapshots.

Results are written to benchmarks/scenes2/scaling. `cosmos-eval scaling benchmarks/scenes2/scaling
--hold-out largest` fits the laws. The command can be stopped at any moment, and the same command
goes on. Several of them may run side by side with one OUTPUT, the folder of the study or another.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import scenes2_study as study

from cosmos_core.engine.snapshot import Snapshots

RESULTS = study.ROOT / "benchmarks" / "scenes2" / "scaling"
METHODS = ("CLIP", "COSMOS")
SEEDS = (0, 1, 2)
# In steps, each twice the one before. A budget of the study is among them.
BUDGETS = (625, 1_250, 2_500, 5_000, 10_000)
COOLDOWN = 5  # the last 1/5 of the steps, as in arXiv 2405.18392
DATASETS = ("scenes2-select", "scenes2-siblings", "scenes2-retrieval", "scenes2-cls")
SAVE_EVERY = 500  # steps; all budgets branch at a multiple


class BudgetJob(study.Job):
    """One training of a budget."""

    __slots__ = ()

    @property
    def group(self) -> str:
        """The name of the trainings of the method in results, without the hash of the recipe."""
        return f"scenes2-scaling-{self.method.lower()}"

    @property
    def cooldown_steps(self) -> int:
        """The number of steps in which the learning rate falls."""
        return self.steps // COOLDOWN

    @property
    def datasets(self) -> tuple[str, ...]:
        """The sets that the training is measured on."""
        return DATASETS

    @property
    def has_segmentation(self) -> bool:
        """False: scenes2-seg is not measured."""
        return False

    @property
    def settings(self) -> list[str]:
        """The settings of `cosmos-train scenes_tiny`."""
        return [
            *super().settings,
            "optim.schedule=wsd",
            f"optim.cooldown_steps={self.cooldown_steps}",
            # All snapshots are kept, so that other budgets can branch from them.
            f"save.every={SAVE_EVERY}",
            f"save.keep={BUDGETS[-1] // SAVE_EVERY}",
        ]

    @property
    def results_folder(self) -> Path:
        """The folder of the results."""
        return RESULTS / self.name


def ladder_jobs(method: str, seed: int) -> list[BudgetJob]:
    """Return the trainings of a method with a seed, the largest budget first.

    The list is empty before the study has chosen the learning rate of the method.
    """
    learning_rate = study.choose_learning_rate(method)
    if learning_rate is None:
        return []
    jobs = []
    for steps in reversed(BUDGETS):
        jobs.append(BudgetJob(f"{method}, {steps} steps", method, learning_rate, seed, steps))
    return jobs


def all_jobs() -> list[BudgetJob]:
    """Return all trainings, one seed of both methods after the other."""
    jobs = []
    for seed in SEEDS:
        for method in METHODS:
            jobs += ladder_jobs(method, seed)
    return jobs


def work(output: Path) -> None:
    """Train and measure all ladders, except those that another process works on.

    Args:
        output: The folder of the trainings and scenes.
    """
    study.prepare_scenes(output)
    for seed in SEEDS:
        for method in METHODS:
            jobs = ladder_jobs(method, seed)
            if all(study.is_measured(job) for job in jobs):
                continue
            with study.lock_of(output / jobs[0].name) as log:
                if log is not None:
                    train_ladder(jobs, output, log)


def train_ladder(jobs: list[BudgetJob], output: Path, log: Any) -> None:
    """Train and measure the budgets of one method and seed.

    Args:
        jobs: The trainings. All others branch from the first one.
        output: The folder of the trainings and scenes.
        log: The file that the output is written to.
    """
    largest = jobs[0]
    print(largest.name, flush=True)
    study.train(largest, output, log)
    snapshots = Snapshots(output / largest.name / "run", keep=0)
    for job in jobs:
        if study.is_measured(job):
            continue
        if job is not largest:
            start = snapshots.path(job.steps - job.cooldown_steps)
            study.train(job, output, log, start)
        study.measure(job, output, log)
        if job is not largest:
            study.remove_snapshots(job, output)
    study.remove_snapshots(largest, output)


def main() -> None:
    """Run the command line."""
    parser = study.make_parser(__doc__)
    arguments = parser.parse_args()
    if not all_jobs():
        parser.exit(2, "scenes2_scaling: learning rates are not chosen; see scenes2_study.py\n")
    if arguments.list:
        print("\n".join(study.listing(all_jobs(), arguments.output)))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        work(arguments.output.resolve())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from the last snapshot")


if __name__ == "__main__":
    main()
