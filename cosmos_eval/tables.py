"""Stored results in Python: `cosmos_eval.leaderboard`, `compare` and `check`.

Their results have a pandas DataFrame as `frame`, and notebooks show them as tables. `report` is in
`cosmos_eval.reporting.write`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cosmos_eval.results import sides
from cosmos_eval.results.compare import Comparison
from cosmos_eval.results.exchange.places import read_all_places
from cosmos_eval.results.gate import check as gate
from cosmos_eval.results.leaderboard.entries import (
    entries_of,
    imported_entries,
    published_beside,
)
from cosmos_eval.results.leaderboard.groups import group_means
from cosmos_eval.results.leaderboard.ranking import find_ties
from cosmos_eval.results.leaderboard.task_tables import select_entries
from cosmos_eval.results.leaderboard.writers import Leaderboard
from cosmos_eval.results.table import TableOptions, split_patterns
from cosmos_eval.runner.suites import score_suite

Names = str | Sequence[str]
"""One name or several. A name may hold `*` for any text, and commas between names."""


def compare(
    a: str | Path,
    b: str | Path | None = None,
    *,
    models: Sequence[str] = (),
    groups: Sequence[str] = (),
    same_seeds: bool = False,
) -> Comparison:
    """Compare two models on the same samples, or two methods by groups of trainings.

    Args:
        a: A result file, a folder of results, or a file of another tool (docs/exchange.md).
        b: The file or folder of the other side; None: the folder `a`.
        models: The names of both models, A's first. They are not needed if each side has the
            results of one model.
        groups: The names of two groups of trainings in the folder `a`, instead of models.
        same_seeds: True if the trainings of both groups are paired by their seeds.

    Returns:
        The comparison. Its `frame` has one row per metric.

    Raises:
        UsageError: If the sides are not two models or two groups, or cannot be compared.

    Example:
        `compare("results", models=["scenes-cosmos", "scenes-clip"]).frame`
    """
    return sides.read_comparison(
        Path(a),
        None if b is None else Path(b),
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
    ties: Literal["auto", "paired", "intervals"] = "auto",
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
        models=_split(models),
        datasets=_split(datasets),
        protocols=_split(protocols),
        metrics=_split(metrics),
        members=True,
    )
    result_entries = [*entries_of(results), *imported_entries(imported_results)]
    all_entries = list(result_entries)
    if published:
        all_entries += published_beside(result_entries)
    entries = select_entries(all_entries, options)
    score = None
    if suite is not None:
        score = score_suite(
            suite,
            result_entries,
            with_published=published,
            by_group=groups,
            model_patterns=options.models,
        )
    means = None
    if groups:
        means = group_means([entry for entry in entries if entry.stored is not None])
    return Leaderboard(
        entries, find_ties(entries, ties), facts=facts, suite=score, groups=means, options=options
    )


def check(
    results: str | Path | Sequence[str | Path], baseline: str | Path, *, strict: bool = False
) -> gate.Report:
    """Check results against a baseline, for regressions.

    Args:
        results: Result files and folders.
        baseline: The file that `cosmos-eval check --update` wrote.
        strict: True if results of edited code, or of an unknown commit, are problems too.

    Returns:
        The outcome. Its `status` is 0 if no regression is shown, 1 if one is, and 2 if `problems`
        keep it from being decided. Its `frame` has one row per metric.

    Raises:
        UsageError: If the baseline cannot be read or was edited.

    Example:
        `check("runs/eval", "baseline.json").verdict`
    """
    places = [results] if isinstance(results, str | Path) else results
    verified_results, problems = gate.read_results([Path(place) for place in places])
    return gate.check_results(verified_results, Path(baseline), strict=strict, problems=problems)


def _split(names: Names) -> list[str]:
    """Return names as a list: `"acc1, acc5"` gives `["acc1", "acc5"]`."""
    return split_patterns([names] if isinstance(names, str) else names)
