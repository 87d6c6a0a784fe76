"""`cosmos-eval tune`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cosmos_eval.cli import options
from cosmos_eval.cli.options import File, option
from cosmos_eval.cli.output import print_json, print_notes, print_records, print_written
from cosmos_eval.results.text import percent
from cosmos_eval.types import RunOptions

if TYPE_CHECKING:
    from cosmos_eval.runner.tune import Search, Tuned


def tune(
    dataset: options.Dataset,
    split: Annotated[str, option("NAME|FILE", "Training images: scenes-seg-train or YAML.")],
    budget: Annotated[int, option("N", "How many settings are tried with every model.", min=1)],
    output: Annotated[Path, option("DIR", "Folder of settings, trials and figure.")],
    model: Annotated[list[str], option("SPEC", "A model; repeatable.")],
    name: options.Names = None,
    space: Annotated[
        File, option("FILE", "YAML of every factor's values. Default: of the package.")
    ] = None,
    seed: Annotated[int, option("N", "Seed of the choice of settings.", min=0)] = 0,
    format: options.Format = "table",
    arch: options.Arch = None,
    weights: options.Weights = "teacher",
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
) -> None:
    """Choose settings of a segmentation data set for each model, by equal budgets.

    `cosmos-eval run --settings FILE` measures by them. An interrupted search is resumed.
    """
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.embedding.cache import embeddings_folder
    from cosmos_eval.runner.plan import model_specs
    from cosmos_eval.runner.tune import default_space, make_search
    from cosmos_eval.runner.tune import tune as tune_model
    from cosmos_eval.tasks.segmentation.tuning import read_space

    specs = model_specs(model, name or (), arch, weights)
    run = RunOptions(data_root=data_root, device=device, cache=str(embeddings_folder()))
    values = read_space(space or default_space(dataset))
    search = make_search(dataset, split, values, budget, seed, run)
    with Progress() as progress:
        tuned = [
            tune_model(search, spec, run, output, partial(progress.step, spec.called))
            for spec in specs
        ]
    from cosmos_eval.report.tuning import draw  # which imports Matplotlib

    figure = draw(search, tuned, output / "trials.png")
    if format == "json":
        print_json([{**one._asdict(), "path": str(one.path)} for one in tuned])
    else:
        _print(search, tuned)
    print_notes(search.notes)
    for path in (*(one.path for one in tuned), figure):
        print_written(path)


def _print(search: Search, tuned: Sequence[Tuned]) -> None:
    """Print for each model what was chosen, what was to be expected, and what the factors decide:
    beside a chosen value the share of the variance of all scores that is between its values."""
    import numpy as np

    from cosmos_eval.stats.tuning import best_of, explained

    columns: dict[str, dict[str, str]] = {}
    for one in tuned:
        scores = np.array(one.scores)
        column = columns[one.model] = {"chosen: mIoU": str(percent(one.scores[one.best]))}
        best = best_of(scores)
        for n in (n for n in (1, 10, 100) if n < len(scores)):
            expected, low, high = (percent(float(bound[n - 1])) for bound in best)
            column[f"best of {n}"] = f"{expected} [{low}, {high}]"
        for name, values in search.factors.items():
            column[name] = f"{values[one.best]} ({100 * explained(scores, values):.0f}%)"
    lines = next(iter(columns.values()))
    print_records([{"": n, **{model: c[n] for model, c in columns.items()}} for n in lines])
