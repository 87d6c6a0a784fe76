"""`python benchmarks/scenes2_scaling.py OUTPUT [--list]`: CLIP and COSMOS at five budgets each.

The recipe is `scenes_tiny` with the learning rate that benchmarks/scenes2_study.py chooses for each
method. The learning rate is constant, and falls to zero in the last fifth of the steps. So one
training of the largest budget gives all of them: those of the others branch from its snapshots.

Results are written to benchmarks/scenes2/scaling. `cosmos-eval scaling benchmarks/scenes2/scaling
--hold-out largest` fits the laws. The command can be stopped at any moment, and the same command
goes on. Several of them may run side by side with one OUTPUT, the folder of the study or another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import _scenes2_worker as worker
from _scenes2_jobs import ROOT, ExploratoryJob, choose_learning_rates, is_measured

from cosmos_core.engine.snapshot import Snapshots

RESULTS = ROOT / "benchmarks" / "scenes2" / "scaling"
METHODS = ("CLIP", "COSMOS")
SEEDS = (0, 1, 2)
# In steps, each twice the one before. A budget of the study is among them.
BUDGETS = (625, 1_250, 2_500, 5_000, 10_000)
COOLDOWN = 5  # the last 1/5 of the steps, as in arXiv 2405.18392
SAVE_EVERY = 500  # steps; all budgets branch at a multiple


class BudgetJob(ExploratoryJob):
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
    def n_computed_steps(self) -> int:
        """The steps that the training computes: the cooldown, and all of the largest budget."""
        return self.steps if self.steps == BUDGETS[-1] else self.cooldown_steps

    @property
    def results_root(self) -> Path:
        """The folder of the results of all budgets."""
        return RESULTS


def ladders() -> list[list[BudgetJob]]:
    """Return the trainings of each ladder, which is all budgets of a method and seed.

    One seed of both methods comes after the other. Methods without a learning rate are left out.
    """
    learning_rates = choose_learning_rates()
    ladders = []
    for seed in SEEDS:
        for method in METHODS:
            if method in learning_rates:
                ladders.append(ladder_jobs(method, seed, learning_rates[method]))
    return ladders


def ladder_jobs(method: str, seed: int, learning_rate: str) -> list[BudgetJob]:
    """Return the trainings of a method with a seed, the largest budget first."""
    jobs = []
    for steps in reversed(BUDGETS):
        jobs.append(BudgetJob(f"{method}, {steps} steps", method, learning_rate, seed, steps))
    return jobs


def all_jobs() -> list[BudgetJob]:
    """Return the trainings of all ladders."""
    return [job for jobs in ladders() for job in jobs]


def work(output: Path) -> list[str]:
    """Train and measure all ladders, except those that another process works on.

    Args:
        output: The folder of the trainings and scenes.

    Returns:
        The names of the trainings that failed in this process.
    """
    worker.prepare_scenes(output)
    failed_names: list[str] = []
    for jobs in ladders():
        if all(is_measured(job) for job in jobs):
            continue
        log = worker.lock_log(output / jobs[0].name)
        if log is None:
            continue
        with log:
            failed_names += train_ladder(jobs, output, log)
    return failed_names


def train_ladder(jobs: Sequence[BudgetJob], output: Path, log: BinaryIO) -> list[str]:
    """Train and measure the budgets of one method and seed.

    Args:
        jobs: The trainings. All others branch from the first one.
        output: The folder of the trainings and scenes.
        log: The file that the output is written to.

    Returns:
        The names of the trainings that failed. The snapshots that they branch from are kept.
    """
    largest, *branches = jobs
    if not worker.train_and_measure(largest, output, log):
        return [largest.name]
    snapshots = Snapshots(output / largest.name / "run", keep=0)
    failed_names = []
    for job in branches:
        if is_measured(job):
            continue
        start = snapshots.path(job.steps - job.cooldown_steps)
        if worker.train_and_measure(job, output, log, start):
            worker.remove_snapshots(job, output)
        else:
            failed_names.append(job.name)
    if not failed_names:
        worker.remove_snapshots(largest, output)
    return failed_names


def main() -> None:
    """Run the command line."""
    worker.run_command_line(__doc__, all_jobs, work)


if __name__ == "__main__":
    main()
