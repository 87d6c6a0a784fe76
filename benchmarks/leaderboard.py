"""`python benchmarks/leaderboard.py [--json] [--quick]`: 2,000 results to a printed leaderboard.

Made-up results of 200 models on ten data sets, each with as many classes as the set has. A form's
time is the whole command's in a process of its own, start-up included; beside it, round by round, a
process that does no more than parse the same files.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from _report import Measurement, interleave, measurement, parser, report

from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import write_result
from cosmos_eval.stats.intervals import wilson

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.rows import make_row

MODELS = 200
FORMS = ("table", "md", "csv", "tex", "html", "json")
SECONDS = 2.0
SETS = {  # task, samples, classes
    "coco-val2017": ("retrieval", 5_000, 0),
    "flickr30k-val": ("retrieval", 1_014, 0),
    "imagenet1k": ("cls", 50_000, 1_000),
    "food101": ("cls", 25_250, 101),
    "cifar100": ("cls", 10_000, 100),
    "dtd": ("cls", 1_880, 47),
    "ade20k": ("seg", 2_000, 150),
    "coco_stuff": ("seg", 5_000, 171),
    "cityscapes": ("seg", 500, 19),
    "voc20": ("seg", 1_449, 20),
}
METRICS = {
    "retrieval": ("image_to_text_R@1", "image_to_text_R@5", "text_to_image_R@1"),
    "cls": ("acc1", "acc5", "mean_per_class_recall"),
    "seg": ("mIoU", "mAcc", "aAcc"),
}
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
    for number in range(MODELS):
        spec = f"cosmos:/data/experiments/sweep-{number % 7}/run-{number:03}/checkpoints/last.pt"
        skill = rng.uniform(0.4, 0.7)
        for dataset in SETS:
            write_result(folder, _row(spec, dataset, skill, rng), {"x": np.arange(1)})


def _row(spec: str, dataset: str, skill: float, rng: np.random.Generator) -> ResultRow:
    task, samples, classes = SETS[dataset]
    hits = {name: int(rng.binomial(samples, skill)) for name in METRICS[task]}
    figures = rng.random((classes, len(FIGURES[task])))
    return make_row(
        {"hashes": {"sample_list": "1" * 64}},
        {"spec": spec},
        task=task,
        dataset=dataset,
        protocol="cosmos",
        n_samples=samples,
        metrics={name: hit / samples for name, hit in hits.items()},
        intervals={name: wilson(hit, samples)._asdict() for name, hit in hits.items()},
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
