"""Stored results in Python: `cosmos_eval.leaderboard`, `compare`, `scaling` and `check`.

Their results have a pandas DataFrame as `frame`, and notebooks show them as tables. `report` is in
`cosmos_eval.reporting.write`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, overload

from cosmos_eval.data.readers import path_of
from cosmos_eval.results import sides
from cosmos_eval.results.compare import Comparison
from cosmos_eval.results.exchange.places import read_all_places
from cosmos_eval.results.gate import check as gate
from cosmos_eval.results.gate.sequential import check_sequentially
from cosmos_eval.results.laws import Scaling, Unit
from cosmos_eval.results.leaderboard.ranking import TieRule
from cosmos_eval.results.leaderboard.writers import Leaderboard, make_leaderboard
from cosmos_eval.results.scaling import fit_scaling, make_options
from cosmos_eval.results.store import read_samples
from cosmos_eval.results.table import NamePatterns, TableOptions
from cosmos_eval.results.wordings import WordingComparison
from cosmos_eval.runner.suites import read_score
from cosmos_eval.types import UsageError

Names = str | Sequence[str]
"""One name or several. A name may hold `*` for any text, and commas between names."""


@overload
def compare(
    a: str | Path,
    b: str | Path | None = None,
    *,
    models: Sequence[str] = (),
    groups: Sequence[str] = (),
    same_seeds: bool = False,
    over: None = None,
) -> Comparison: ...


@overload
def compare(
    a: str | Path,
    b: str | Path | None = None,
    *,
    models: Sequence[str] = (),
    groups: Sequence[str] = (),
    same_seeds: bool = False,
    over: Literal["wording"],
) -> WordingComparison: ...


def compare(
    a: str | Path,
    b: str | Path | None = None,
    *,
    models: Sequence[str] = (),
    groups: Sequence[str] = (),
    same_seeds: bool = False,
    over: Literal["wording"] | None = None,
) -> Comparison | WordingComparison:
    """Compare two models on the same samples, or two methods by groups of trainings.

    Args:
        a: A result file, a folder of results, or a file of another tool (docs/exchange.md).
        b: The file or folder of the other side; None: the folder `a`.
        models: The names of both models, A's first. They are not needed if each side has the
            results of one model.
        groups: The names of two groups of trainings in the folder `a`, instead of models.
        same_seeds: True if the trainings of both groups are paired by their seeds.
        over: `wording` to compare over the other wordings that were measured (docs/wording.md). A
            single model, or a single group, is then allowed.

    Returns:
        The comparison. Its `frame` has one row per metric, and over wordings one per metric and
        wording.

    Raises:
        UsageError: If the sides are not two models or two groups, or cannot be compared.

    Example:
        `compare("results", models=["scenes-cosmos", "scenes-clip"]).frame`
    """
    path_a = path_of(a, "a")
    path_b = None if b is None else path_of(b, "b")
    if over is not None:
        if over != "wording" or same_seeds:
            raise UsageError('over is "wording" or None, and takes no same_seeds')
        return sides.read_over_wordings(path_a, path_b, models=models, trainings=groups)
    return sides.read_comparison(
        path_a,
        path_b,
        models=models,
        trainings=groups,
        same_seeds=same_seeds,
    )


def leaderboard(
    *places: str | Path,
    suite: str | None = None,
    groups: bool = False,
    facts: bool = False,
    published: bool = False,
    models: Names = (),
    datasets: Names = (),
    protocols: Names = (),
    metrics: Names = (),
    ties: TieRule = "auto",
) -> Leaderboard:
    """Return results side by side. Warns of edited results.

    Args:
        places: Result files and folders; without any, `runs/eval` in the current folder. They may
            also be files of other tools, see docs/exchange.md.
        suite: The name or file of a suite of data sets, whose mean is added.
        groups: True if means over the seeds of each group of trainings are added.
        facts: True if facts of the models are added, such as parameters and GFLOPs.
        published: True if numbers that others published are added.
        models: Only these models, in this order.
        datasets: Only these data sets, in this order.
        protocols: Only these protocols, in this order.
        metrics: Only these metrics; by default all in `frame`, and the usual ones in notebooks.
        ties: The test of ties with the best result: `paired` (of samples), `intervals` (whether
            they overlap), or `auto`.

    Returns:
        The leaderboard. Its `frame` has one row per result and metric.

    Raises:
        UsageError: For folders without results, files that are not results, and unknown names.

    Example:
        `leaderboard("results", datasets="scenes-cls").frame`
    """
    results, imported_results = read_all_places(places)
    options = TableOptions(
        patterns=NamePatterns.split(
            models=models, datasets=datasets, protocols=protocols, metrics=metrics
        ),
        members=True,
    )
    return make_leaderboard(
        results,
        options,
        imported=imported_results,
        suite=None if suite is None else read_score(suite),
        groups=groups,
        facts=facts,
        published=published,
        ties=ties,
    )


def scaling(
    *places: str | Path,
    groups: Names = (),
    x: Unit = "samples",
    metrics: Names = (),
    hold_out: float | Literal["largest"] | None = None,
    predict: float | None = None,
) -> Scaling:
    """Fit error = E + A * C^-alpha to methods that were trained at several budgets C.

    Args:
        places: Result files and folders; without any, `runs/eval` in the current folder.
        groups: The methods, one text for each: names of recipes or groups of trainings, with commas
            between them. By default, all trainings whose recipe has the same name are a method.
        x: What budgets are counted in: `samples` or `flops`.
        metrics: Only these metrics; by default the primary ones.
        hold_out: A budget that the laws are not fitted to, but predict: a number, or `largest`.
        predict: A budget at which one new training is predicted.

    Returns:
        The laws. Their `frame` has one row per method, budget and metric, `verdict` the outcome.

    Raises:
        UsageError: If the results do not support a law, or none of the predictions.

    Example:
        `scaling("runs/eval", hold_out="largest").verdict`
    """
    results, _ = read_all_places(places)
    options = make_options(
        unit=x,
        methods=[groups] if isinstance(groups, str) else groups,
        metrics=metrics,
        hold_out=hold_out,
        predict=predict,
    )
    return fit_scaling(results, read_samples, options)


def check(
    results: str | Path | Sequence[str | Path],
    baseline: str | Path,
    *,
    strict: bool = False,
    sequential: bool = False,
) -> gate.Report:
    """Check results against a baseline, for regressions.

    Args:
        results: Result files and folders.
        baseline: The file that `cosmos-eval check --update` wrote.
        strict: True if results of edited code, or of an unknown commit, are problems too.
        sequential: True if results are judged after each look at the data, so that runs may have
            stopped early.

    Returns:
        The outcome. Its `status` is 0 if no regression is shown, 1 if one is, and 2 if `problems`
        keep it from being decided. Its `frame` has one row per metric.

    Raises:
        UsageError: If the baseline cannot be read or was edited.

    Example:
        `check("runs/eval", "baseline.json").verdict`
    """
    if isinstance(results, Iterable) and not isinstance(results, str):
        paths = [path_of(place, "a place of results") for place in results]
    else:
        paths = [path_of(results, "results")]
    baseline_path = path_of(baseline, "baseline")
    verified_results, problems = gate.read_results(paths)
    check_all = check_sequentially if sequential else gate.check_results
    return check_all(verified_results, baseline_path, strict=strict, problems=problems)
