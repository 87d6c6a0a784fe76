"""`python benchmarks/leaderboard.py [--json] [--quick]`: 2,000 results to a printed leaderboard.

The results of 200 models on ten data sets are made up. Each has as many classes as the set, and the
samples of 120 images (30 of segmentation), which are hashed; metrics of about 240 results are
recomputed from them. The time of a format is that of the whole command in a new process, whose
start-up is measured too. In the same rounds, another process only parses the same files.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _report import Measurement, interleave, measurement, parser, report

from cosmos_eval.results.record import ResultRow
from cosmos_eval.stats.intervals import wilson

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.models import SAMPLES
from support.results import metrics_of
from support.rows import make_row, write_result

MODELS = 200
FORMATS = ("table", "md", "csv", "tex", "html", "json")
SECONDS = 2.0


class DataSet(NamedTuple):
    """A data set of the leaderboard."""

    task: str
    # The number of classes; 0 for retrieval.
    classes: int


SETS = {
    "coco-val2017": DataSet("retrieval", 0),
    "flickr30k-val": DataSet("retrieval", 0),
    "imagenet1k": DataSet("cls", 1_000),
    "food101": DataSet("cls", 101),
    "cifar100": DataSet("cls", 100),
    "dtd": DataSet("cls", 47),
    "ade20k": DataSet("seg", 150),
    "coco_stuff": DataSet("seg", 171),
    "cityscapes": DataSet("seg", 19),
    "voc20": DataSet("seg", 20),
}
IMAGES = {"retrieval": 120, "cls": 120, "seg": 30}
SKILLS = np.linspace(0.4, 0.7, 20)  # how good made-up models are
# The figures of each class, by task.
FIGURES = {"retrieval": (), "cls": ("images", "recall"), "seg": ("Acc", "IoU")}
# Parses the results in the folder that the argument names.
PARSE = """
import json, pathlib, sys
for path in pathlib.Path(sys.argv[1]).glob("*.json"):
    json.loads(path.read_text("utf-8"))
"""


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_results(Path(folder))
        lines = _lines(folder, 3 if arguments.quick else 9)
        report("Leaderboard of 2,000 results", lines, arguments.json)


def write_results(folder: Path) -> None:
    """Write the results of all models on all data sets."""
    rng = np.random.default_rng(0)
    samples = {task: _samples_of_skills(task) for task in IMAGES}
    metrics = {
        task: [metrics_of(task, each) for each in samples_of_skills]
        for task, samples_of_skills in samples.items()
    }
    for number in range(MODELS):
        spec = f"cosmos:/data/experiments/sweep-{number % 7}/run-{number:03}/checkpoints/last.pt"
        skill_index = int(rng.integers(len(SKILLS)))
        for dataset, (task, _) in SETS.items():
            row = _row(spec, dataset, metrics[task][skill_index], rng)
            write_result(folder, row, samples[task][skill_index])


def _samples_of_skills(task: str) -> Sequence[Any]:
    """Return the samples of a model of each skill."""
    return [SAMPLES[task](skill, np.random.default_rng(0)) for skill in SKILLS]


def _row(
    spec: str, dataset: str, metrics: Mapping[str, float], rng: np.random.Generator
) -> ResultRow:
    """Return the result of a model on a data set, with random figures of classes.

    Metrics that are at most 1 get intervals, as if they were shares of 1,000 samples.
    """
    task, n_classes = SETS[dataset]
    figure_names = FIGURES[task]
    intervals = {}
    for name, value in metrics.items():
        if value <= 1:
            intervals[name] = wilson(round(1000 * value), 1000)._asdict()
    figures = {}
    for number, values in enumerate(rng.random((n_classes, len(figure_names))).tolist()):
        figures[f"class number {number}"] = dict(zip(figure_names, values, strict=True))
    return make_row(
        {"hashes": {"sample_list": "1" * 64}},
        {"spec": spec},
        task=task,
        dataset=dataset,
        protocol="cosmos",
        n_samples=IMAGES[task],
        metrics=metrics,
        intervals=intervals,
        per_class=figures,
    )


def _lines(folder: str, rounds: int) -> list[Measurement]:
    """Return the seconds of each format and of a parser, and their ratios."""
    leaderboard = ("-m", "cosmos_eval", "leaderboard", folder, "--published", "--format")
    commands = {"parse the files": partial(_run_python, "-c", PARSE, folder)}
    for name in FORMATS:
        commands[name] = partial(_run_python, *leaderboard, name)
    seconds = interleave(commands, rounds)
    parsing = seconds["parse the files"]
    return [
        *(measurement(f"as {name}", seconds[name], "s", at_most=SECONDS) for name in FORMATS),
        measurement("parse the files", parsing, "s"),
        *(measurement(f"as {name} / parse", seconds[name].over(parsing), "x") for name in FORMATS),
    ]


def _run_python(*arguments: str) -> None:
    """Run Python, and drop what it prints."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
