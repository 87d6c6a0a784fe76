"""`python benchmarks/scenes2_control.py [OUTPUT] [--list]`: what large things cost small ones.

The study trains on scenes with a large, dominant thing. Here, the same methods are trained on the
same scenes with this thing as small as the others; captions, views and settings are the study's. If
a dominant thing keeps a method from learning small ones, this training knows small things better.
Since captions are the study's, they still name this thing first, and some of them call it large. So
nearly every caption names a small thing here, which may help as much as the lack of large ones.
Test scenes have no large thing, except those of siblings, in which only small things decide.

With OUTPUT, the folder of the study's trainings and scenes or another one, the models are trained
and measured into benchmarks/scenes2/control. The command can be stopped at any moment, and the same
command goes on. Without OUTPUT it prints the table of the trainings that are measured.
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

import _scenes2_worker as worker
from _family import Metric
from _scenes2_jobs import (
    ROOT,
    ExploratoryJob,
    Job,
    choose_learning_rates,
    recipe_steps,
    training_scenes,
)
from scipy.stats import ttest_ind
from study_claims import mean_cell

from cosmos_eval import read_results
from cosmos_eval.results.text import markdown_table
from cosmos_eval.types import UsageError

RESULTS = ROOT / "benchmarks" / "scenes2" / "control"
METHODS = ("CLIP", "multi-view CLIP", "COSMOS")
SEEDS = (0, 1, 2)
_BESIDE = {"dataset": "scenes2-beside", "protocol": "scenes"}
METRICS = {
    "small things": Metric(**_BESIDE, metric="accuracy_control"),
    "kinds of small things": Metric(**_BESIDE, metric="accuracy_control_kind"),
    "colours of small things": Metric(**_BESIDE, metric="accuracy_control_colour"),
    "small things beside a large one": Metric(**_BESIDE, metric="accuracy_small"),
    "siblings": Metric(dataset="scenes2-siblings", protocol="scenes", metric="accuracy"),
}


class ControlJob(ExploratoryJob):
    """One training on scenes without a large thing."""

    __slots__ = ()

    def scenes_folder(self, output: Path) -> Path:
        """Return the folder of the scenes without a large thing."""
        scenes = training_scenes(output)
        return scenes.with_name(f"{scenes.name}-control")

    @property
    def results_root(self) -> Path:
        """The folder of the results of all trainings without a large thing."""
        return RESULTS


def control_jobs() -> list[ControlJob]:
    """Return the trainings on scenes without a large thing, one seed after the other.

    Methods whose learning rate is not chosen yet are left out.
    """
    learning_rates = choose_learning_rates()
    jobs = []
    for seed in SEEDS:
        for method in METHODS:
            if method in learning_rates:
                row = f"{method}, control"
                learning_rate = learning_rates[method]
                jobs.append(ControlJob(row, method, learning_rate, seed, recipe_steps()))
    return jobs


def work(output: Path) -> list[str]:
    """Train and measure all models. Return the names of the trainings that failed."""
    output.mkdir(parents=True, exist_ok=True)
    jobs = control_jobs()
    if jobs:
        with (output / "scenes.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            worker.write_training_scenes(jobs[0].scenes_folder(output), is_control=True)
    return worker.work(output, control_jobs)


def table(jobs: Sequence[Job]) -> Iterator[str]:
    """Yield the lines of a table of the trainings with and without a large thing, in Markdown.

    Args:
        jobs: The trainings without a large thing. The study has one with a large thing for each.
    """
    yield "# Small things, by trainings with and without a large thing in each scene\n"
    yield (
        "Percent of right choices among two captions (siblings: ten), mean ± standard deviation "
        "over seeds (their number). Test scenes have no large thing, except those of siblings and "
        "where the metric says so. The interval is Welch's over seeds, not corrected.\n"
    )
    rows = []
    for method in METHODS:
        jobs_of_method = [job for job in jobs if job.method == method]
        for title, metric in METRICS.items():
            without_large = values_of([job.results_folder for job in jobs_of_method], metric)
            study_jobs = [
                Job(job.method, job.method, job.learning_rate, job.seed, job.steps)
                for job in jobs_of_method
            ]
            with_large = values_of([job.results_folder for job in study_jobs], metric)
            difference = difference_cell(without_large, with_large)
            cells = [mean_cell(with_large), mean_cell(without_large), difference]
            rows.append([method, title, *cells])
    header = ["method", "metric", "large thing", "no large thing", "difference [95%]"]
    yield markdown_table(header, rows, n_text_columns=2)


def values_of(folders: Sequence[Path], metric: Metric) -> list[float]:
    """Return a metric of trainings in percent, without those that are not measured.

    Raises:
        UsageError: If a folder has several results with the metric.
    """
    values = []
    for folder in folders:
        rows = []
        for row in read_results(folder) if folder.is_dir() else []:
            if (row.dataset, row.protocol) == (metric.dataset, metric.protocol):
                rows.append(row)
        if len(rows) > 1:
            raise UsageError(f"{folder} has {len(rows)} results of {metric.dataset}: leave one")
        values += [100 * row.metrics[metric.metric] for row in rows]
    return values


def difference_cell(a: Sequence[float], b: Sequence[float]) -> str:
    """Return the difference of two means with Welch's interval.

    The interval is left out for single values, and for values that do not vary.
    """
    if not a or not b:
        return ""
    difference = f"{mean(a) - mean(b):+.1f}"
    if min(len(a), len(b)) < 2:
        return difference
    if stdev(a) == 0 and stdev(b) == 0:
        return difference
    interval = ttest_ind(a, b, equal_var=False).confidence_interval()
    return f"{difference} [{interval.low:+.1f}, {interval.high:+.1f}]"


def main() -> None:
    """Run the command line."""
    arguments = worker.run_command_line(__doc__, control_jobs, work, needs_output=False)
    if arguments.list:
        return
    try:
        print("\n".join(table(control_jobs())))
    except UsageError as error:
        print(f"scenes2_control: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
