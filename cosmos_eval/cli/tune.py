"""`cosmos-eval tune`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cosmos_core.utils.command import interrupts_are_resumable
from cosmos_eval.cli import options
from cosmos_eval.cli.completion import dataset_names, model_names
from cosmos_eval.cli.options import File, option
from cosmos_eval.cli.output import print_json, print_notes, print_records, print_written
from cosmos_eval.results.text import percent
from cosmos_eval.types import ModelSpec, RunOptions

if TYPE_CHECKING:
    from cosmos_eval.runner.tune import Search, Tuned


def tune(
    dataset: options.Dataset,
    split: Annotated[
        str,
        option(
            "NAME|FILE", "Training images: scenes-seg-train or YAML.", autocompletion=dataset_names
        ),
    ],
    budget: Annotated[int, option("N", "How many settings are tried with every model.", min=1)],
    output: Annotated[Path, option("DIR", "Folder of settings, trials and figure.")],
    model: Annotated[list[str], option("SPEC", "A model; repeatable.", autocompletion=model_names)],
    name: options.Names = None,
    space: Annotated[
        File, option("FILE", "YAML of every factor's values. Default: of the package.")
    ] = None,
    seed: Annotated[int, option("N", "Seed of the choice of settings.", min=0)] = 0,
    format: options.Format = "table",
    arch: options.Arch = None,
    weights: options.Weights = ModelSpec.weights,
    data_root: options.DataRoot = None,
    device: options.Device = RunOptions.device,
) -> None:
    """Choose settings of a segmentation data set for each model, by equal budgets.

    `cosmos-eval run --tuned FILE` measures by them. An interrupted search is resumed.
    """
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.embedding.cache import embeddings_folder
    from cosmos_eval.runner.overall import OverallProgress, Stage
    from cosmos_eval.runner.plan import model_specs, require_usable_device
    from cosmos_eval.runner.tune import (
        ALL_PASSES,
        default_space,
        make_search,
        require_separate_files,
    )
    from cosmos_eval.runner.tune import tune as tune_model
    from cosmos_eval.tasks.segmentation.tuning import read_space

    specs = model_specs(model, name or (), arch, weights)
    run_options = RunOptions(data_root=data_root, device=device, cache=str(embeddings_folder()))
    require_usable_device(run_options)  # before the data are read
    factor_values = read_space(space or default_space(dataset))
    search = make_search(dataset, split, factor_values, budget, seed, run_options)
    if len(specs) > 1:  # the files of a single model are checked before it is scored
        require_separate_files(search, specs, run_options, output)
    tuned_models = []
    with Progress() as progress, interrupts_are_resumable():
        stages = [Stage(ALL_PASSES, 1.0)] * len(specs)
        overall = OverallProgress(progress.step, "all models", stages)
        for spec in specs:
            report = partial(overall.show, spec.called)
            tuned_models.append(tune_model(search, spec, run_options, output, report))
            overall.end_stage()
            progress.hide_bars()
    from cosmos_eval.reporting.tuning import draw  # which imports Matplotlib

    figure = draw(search, tuned_models, output / "trials.png")
    if format == "json":
        print_json([tuned._asdict() | {"path": str(tuned.path)} for tuned in tuned_models])
    else:
        _print_tuned(search, tuned_models)
    print_notes(search.notes)
    for tuned in tuned_models:
        print_written(tuned.path)
    print_written(figure)


def _print_tuned(search: Search, tuned_models: Sequence[Tuned]) -> None:
    """Print a table with a column for each model, as `_tuned_column` returns it.

    All columns have the same rows.
    """
    columns = {tuned.model: _tuned_column(search, tuned) for tuned in tuned_models}
    row_names = list(next(iter(columns.values())))
    records = []
    for row_name in row_names:
        record = {"": row_name}
        for model, column in columns.items():
            record[model] = column[row_name]
        records.append(record)
    print_records(records)


def _tuned_column(search: Search, tuned: Tuned) -> dict[str, str]:
    """Return the texts about a model by the names of their rows.

    They are the chosen score, the best score to be expected of 1, 10 and 100 trials with its
    interval, and the chosen value of each factor, such as `scale`. Beside a value stands the
    fraction of the variance of all scores that its factor explains.

    Args:
        search: The settings that were tried.
        tuned: Their scores, and the best one.

    Example:
        `{"chosen: mIoU": "41.2", "best of 1": "35.0 [30.1, 40.2]", "scale": "40.0 (62%)"}`
    """
    import numpy as np

    from cosmos_eval.stats.tuning import best_of, explained

    scores = np.array(tuned.scores)
    column = {"chosen: mIoU": str(percent(tuned.scores[tuned.best]))}
    # Arrays over the number of trials: the expected best score, and the ends of its interval.
    expected_scores, low_ends, high_ends = best_of(scores)
    for n_trials in (1, 10, 100):
        if n_trials < len(scores):
            expected = percent(float(expected_scores[n_trials - 1]))
            low = percent(float(low_ends[n_trials - 1]))
            high = percent(float(high_ends[n_trials - 1]))
            column[f"best of {n_trials}"] = f"{expected} [{low}, {high}]"
    for factor, values in search.factors.items():
        share = explained(scores, values)
        # It is not known if each value was tried once.
        share_text = "" if math.isnan(share) else f" ({100 * share:.0f}%)"
        column[factor] = f"{values[tuned.best]}{share_text}"
    return column
