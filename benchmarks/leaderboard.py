"""`python benchmarks/leaderboard.py [--json] [--quick]`: 2,000 results to a printed leaderboard.

Made-up results of 200 models on ten data sets, each with as many classes as the set has and the
samples of 120 images (30 of segmentation), which are hashed; metrics of about 240 results are
recomputed from them. A form's time is the whole command's in a process of its own, start-up
included; beside it, round by round, a process that does no more than parse the same files.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from _report import Measurement, interleave, measurement, parser, report

from cosmos_eval.results.record import ResultRow
from cosmos_eval.stats.intervals import wilson

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.models import SAMPLES
from support.results import metrics_of
from support.rows import make_row, write_result

MODELS = 200
FORMS = ("table", "md", "csv", "tex", "html", "json")
SECONDS = 2.0
SETS = {  # task, classes
    "coco-val2017": ("retrieval", 0),
    "flickr30k-val": ("retrieval", 0),
    "imagenet1k": ("cls", 1_000),
    "food101": ("cls", 101),
    "cifar100": ("cls", 100),
    "dtd": ("cls", 47),
    "ade20k": ("seg", 150),
    "coco_stuff": ("seg", 171),
    "cityscapes": ("seg", 19),
    "voc20": ("seg", 20),
}
IMAGES = {"retrieval": 120, "cls": 120, "seg": 30}
SKILLS = np.linspace(0.4, 0.7, 20)
FIGURES = {"retrieval": (), "cls": ("images", "recall"), "seg": ("Acc", "IoU")}
PARSE = """
import json, pathlib, sys
for path in pathlib.Path(sys.argv[1]).glob("*.json"):
    json.loads(path.read_text("utf-8"))
"""


def main() -> None:
    """Measure and print."""
    given = parser(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_up(Path(folder))
        report(
            "Leaderboard of 2,000 results", _seconds(folder, 3 if given.quick else 9), given.json
        )


def make_up(folder: Path) -> None:
    """Write the results of all models on all data sets."""
    rng = np.random.default_rng(0)
    by_task = {
        task: [SAMPLES[task](skill, np.random.default_rng(0)) for skill in SKILLS]
        for task in IMAGES
    }
    metrics = {task: [metrics_of(task, one) for one in found] for task, found in by_task.items()}
    for number in range(MODELS):
        spec = f"cosmos:/data/experiments/sweep-{number % 7}/run-{number:03}/checkpoints/last.pt"
        skill = int(rng.integers(len(SKILLS)))
        for dataset, (task, _) in SETS.items():
            row = _row(spec, dataset, metrics[task][skill], rng)
            write_result(folder, row, by_task[task][skill])


def _row(
    spec: str, dataset: str, metrics: Mapping[str, float], rng: np.random.Generator
) -> ResultRow:
    task, classes = SETS[dataset]
    shares = {name: value for name, value in metrics.items() if value <= 1}
    figures = rng.random((classes, len(FIGURES[task])))
    return make_row(
        {"hashes": {"sample_list": "1" * 64}},
        {"spec": spec},
        task=task,
        dataset=dataset,
        protocol="cosmos",
        n_samples=IMAGES[task],
        metrics=metrics,
        intervals={name: wilson(round(1000 * v), 1000)._asdict() for name, v in shares.items()},
        per_class={
            f"class number {place}": dict(zip(FIGURES[task], values.tolist(), strict=True))
            for place, values in enumerate(figures)
        },
    )


def _seconds(folder: str, rounds: int) -> list[Measurement]:
    board = ("-m", "cosmos_eval", "leaderboard", folder, "--published", "--format")
    commands = {
        "parse the files": partial(_run, "-c", PARSE, folder),
        **{form: partial(_run, *board, form) for form in FORMS},
    }
    seconds = interleave(commands, rounds)
    parse = seconds["parse the files"]
    return [
        *(measurement(f"as {form}", seconds[form], "s", at_most=SECONDS) for form in FORMS),
        measurement("parse the files", parse, "s"),
        *(measurement(f"as {form} / parse", seconds[form].over(parse), "x") for form in FORMS),
    ]


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
