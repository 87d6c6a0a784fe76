"""`python benchmarks/scenes_ablation.py`: what the parts of COSMOS are worth on the scenes.

Trains every variant with several seeds on the same samples (what is there already is not trained
again), measures the teachers, and writes results/ablation/: runs.csv, table.md, plot.png and where
they come from.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import pandas as pd
import typer

import cosmos_eval
from cosmos_core import read_checkpoint
from cosmos_core.data.scenes import TRAIN
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_core.recipes import RECIPES
from cosmos_core.utils.files import write_atomically

RUNS = Path("runs/ablation")
RESULTS = Path(__file__).parents[1] / "results" / "ablation"
RECIPE = "scenes_small"
# MMSegmentation must not be imported by two threads at once.
ONE_MEASUREMENT = threading.Lock()


def _method_of(recipe: str) -> tuple[str, ...]:
    """The settings that give the small recipe the method of another, heads included."""
    method = RECIPES[recipe]().method
    options = asdict(method)
    name = options.pop("name")
    return (f"method={name}", *(f"method.{key}={value}" for key, value in options.items()))


VARIANTS: dict[str, tuple[str, ...]] = {
    "CLIP": _method_of("scenes_clip"),
    "SLIP": _method_of("scenes_slip"),
    "SILC": _method_of("scenes_silc"),
    "COSMOS without text crops": ("method.local_texts=false",),
    "COSMOS without cross-attention": ("method.cross_attention=false",),
    "COSMOS without distillation": ("method.distillation=false",),
    "COSMOS": (),
}
METRICS = {
    ("scenes-retrieval", "image_to_text_R@1"): "R@1 image to text",
    ("scenes-retrieval", "text_to_image_R@1"): "R@1 text to image",
    ("scenes-cls", "acc1"): "acc1",
    ("scenes-seg", "mIoU"): "mIoU",
    ("scenes-seg", "mIoU_things"): "mIoU, things",
    ("scenes-cls-small", "acc1"): "acc1, small things",
}


def main(
    output: Annotated[Path, typer.Option(help="Folder of the training runs.")] = RUNS,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of every variant.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time, a thread each.")] = 2,
) -> None:
    """Train, measure, tabulate."""
    scenes = _render(output)
    # Seeds outermost: a table of fewer seeds has all variants.
    runs = [(variant, seed) for seed in range(seeds) for variant in VARIANTS]
    with ThreadPoolExecutor(jobs) as pool:
        records = list(pool.map(lambda run: _run(output, scenes, *run), runs))
    RESULTS.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(itertools.chain.from_iterable(records))
    frame.to_csv(RESULTS / "runs.csv", index=False)
    (RESULTS / "table.md").write_text(table(frame), encoding="utf-8")
    draw(frame, RESULTS / "plot.png")


def _render(output: Path) -> Path:
    """The recipe's scenes, written once for all runs."""
    name = RECIPES[RECIPE]().data.shards.replace(":", "-")
    folder = (output / name).resolve()
    if not folder.exists():
        count = int(name.rpartition("-")[2])
        write_layouts(folder, split=TRAIN, count=count, layouts=["shards"])
    return folder


def _run(output: Path, scenes: Path, variant: str, seed: int) -> list[dict[str, Any]]:
    """Train and measure one variant with one seed, unless its folder has weights or figures."""
    folder = output / f"{variant.lower().replace(' ', '-')}-{seed}"
    measured = folder / "metrics.json"
    if not measured.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / scenes.name).exists():
            (folder / scenes.name).symlink_to(scenes)
        if not (folder / "checkpoint.safetensors").exists():
            _train(folder, (*VARIANTS[variant], f"seed={seed}"))
        with ONE_MEASUREMENT:
            records = [{"variant": variant, "seed": seed, **record} for record in _measure(folder)]
        write_atomically(measured, json.dumps(records, indent=1).encode())
    loaded: list[dict[str, Any]] = json.loads(measured.read_text(encoding="utf-8"))
    return loaded


def _train(folder: Path, settings: Sequence[str]) -> None:
    command = [sys.executable, "-m", "cosmos_core.train", RECIPE, "--output", str(folder)]
    command += itertools.chain.from_iterable(("--set", setting) for setting in settings)
    if (folder / "snapshots").exists():
        command.append("--resume")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)


def _measure(folder: Path) -> Iterator[dict[str, Any]]:
    """Every headline metric of the teacher, with what identifies the weights."""
    checkpoint = folder / "checkpoint.safetensors"
    training = read_checkpoint(checkpoint).training
    assert training is not None
    for dataset, metrics in itertools.groupby(METRICS, key=lambda key: key[0]):
        row = cosmos_eval.evaluate(f"cosmos:{checkpoint}", dataset, workers=1)
        for _, metric in metrics:
            yield {
                "dataset": dataset,
                "metric": metric,
                "value": row.metrics[metric],
                "weights_sha256": row.model["weights_sha256"],
                "command": training["command"],
                "commit": training["commit"],
                "samples_seen": training["samples_seen"],
                "seconds": training["seconds"],
            }


def table(frame: pd.DataFrame) -> str:
    """Mean and standard deviation over seeds, in percent, a row a variant."""
    lines = [
        f"| {RECIPE}, percent | {' | '.join(METRICS.values())} |",
        f"| --- |{' --: |' * len(METRICS)}",
    ]
    for variant in VARIANTS:
        cells = [_cell(_values(frame, variant, key)) for key in METRICS]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    seeds, (samples,) = frame["seed"].nunique(), set(frame["samples_seen"])
    of = "One training" if seeds == 1 else f"Mean and standard deviation of {seeds} trainings"
    source = f"{of} of {samples:,} samples a variant; runs.csv has every figure and its commit."
    return "\n".join([*lines, "", source, ""])


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Every training a dot, the mean a bar, a panel a metric."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.2), sharey=True, layout="constrained")
    for axis, (key, title) in zip(axes.flat, METRICS.items(), strict=True):
        for row, variant in enumerate(VARIANTS):
            values = _values(frame, variant, key)
            axis.barh(row, values.mean(), color="tab:blue" if variant == "COSMOS" else "lightgrey")
            axis.plot(values, [row] * len(values), "k.", markersize=5)
        axis.set_title(f"{title} (%)", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_yticks(range(len(VARIANTS)), list(VARIANTS))
    axes[0, 0].invert_yaxis()
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _values(frame: pd.DataFrame, variant: str, key: tuple[str, str]) -> pd.Series:
    chosen = (frame["variant"] == variant) & (frame["dataset"] == key[0])
    return frame.loc[chosen & (frame["metric"] == key[1]), "value"] * 100


def _cell(values: pd.Series) -> str:
    return (
        f"{values.mean():.1f} ± {values.std():.1f}" if len(values) > 1 else f"{values.mean():.1f}"
    )


if __name__ == "__main__":
    typer.run(main)
