"""`python benchmarks/permutations.py FOLDER [--json]`: does the test of groups hold on trainings?

FOLDER has results of several trainings of at least one recipe. The trainings of one group are
divided in two. The trainings of two groups are put together and divided, as if their labels were
random. Both sides of a division then differ by chance only. The table has the share of these
divisions in which `cosmos-eval compare --group` would find a difference at 5%, p <= 0.05, for each
headline metric. Divisions of the same trainings are not independent: few trainings give a rough
share, however many divisions there are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np

from cosmos_eval.results.groups import (
    Moments,
    ResultsByDataset,
    common_sets,
    estimate_moments_of_results,
)
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.store import read_samples, read_stored, result_paths
from cosmos_eval.results.text import markdown_table
from cosmos_eval.stats.estimates import Ints
from cosmos_eval.tasks import task_named
from cosmos_eval.types import UsageError

MAX_DIVISIONS = 1000  # of the same trainings
MIN_TRAININGS = 2  # on each side
LEVEL = 0.05  # of the test

Row = dict[str, str]
"""The cells of a table by the title of their column."""


def main() -> None:
    """Divide the trainings of a folder, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    arguments = parser.parse_args()
    try:
        rows = list(permutations(read_stored(result_paths(arguments.folder))))
    except UsageError as error:
        parser.error(str(error))
    if not rows:
        parser.error(
            f"{arguments.folder} has no group of {2 * MIN_TRAININGS} trainings, nor two of two"
        )
    print(json.dumps(rows, indent=2) if arguments.json else table_of(rows))


def table_of(rows: Sequence[Row]) -> str:
    """Return rows as Markdown."""
    return markdown_table(rows[0], (row.values() for row in rows), n_text_columns=4)


def permutations(results: Sequence[StoredResult]) -> Iterator[Row]:
    """Yield a row per data set, metric, and group or two groups."""
    results_by_group: dict[str, list[StoredResult]] = {}
    for result in results:
        group = training_of(result.row).get("group")
        if group:
            results_by_group.setdefault(group, []).append(result)
    sets = {}
    for group, group_results in sorted(results_by_group.items()):
        sets[group], _ = common_sets(group_results, group)
    for group in sets:
        yield from group_rows(group, [sets[group]])
    for a, b in combinations(sets, 2):
        yield from group_rows(f"{a} and {b}", [sets[a], sets[b]])


def group_rows(name: str, groups: Sequence[ResultsByDataset]) -> Iterator[Row]:
    """Yield a row per data set and metric of one group, or of two groups that are exchanged.

    Two groups are divided into sides of their sizes, one group into halves. Data sets with fewer
    than MIN_TRAININGS on a side are left out.
    """
    for dataset, protocol in sorted(groups[0].keys() & groups[-1].keys()):
        group_results = [group[dataset, protocol] for group in groups]
        results = [result for members in group_results for result in members]
        n_first = len(group_results[0]) if len(groups) > 1 else len(results) // 2
        if min(n_first, len(results) - n_first) < MIN_TRAININGS:
            continue
        headlines = task_named(results[0].row.task).headlines
        moments_by_metric = estimate_moments_of_results(results, read_samples, headlines)
        for metric, moments in moments_by_metric.items():
            if moments:
                row = {"groups": name, "data set": dataset, "protocol": protocol, "metric": metric}
                yield row | cells_of_divisions(moments, n_first)


def cells_of_divisions(moments: Moments, n_first: int) -> Row:
    """Return the sizes of both sides, the number of divisions, and the share that differs."""
    n_trainings = len(moments.values)
    p_values = [
        moments.difference(first, second).p_value
        for first, second in divisions(n_trainings, n_first)
    ]
    share = float(np.mean(np.array(p_values) <= LEVEL))
    return {
        "k": f"{n_first} / {n_trainings - n_first}",
        "divisions": str(len(p_values)),
        "p <= 0.05 (%)": f"{100 * share:.1f}",
    }


def divisions(n_trainings: int, n_first: int) -> Iterator[tuple[Ints, Ints]]:
    """Yield the indices on both sides of all divisions with `n_first` trainings on the first side.

    If there are more than MAX_DIVISIONS, yield so many random ones.
    """
    for first in first_sides(n_trainings, n_first):
        yield first, np.setdiff1d(np.arange(n_trainings), first)


def first_sides(n_trainings: int, n_first: int) -> Iterator[Ints]:
    """Yield the indices (n_first,) on the first side of all divisions, or of random ones."""
    if comb(n_trainings, n_first) <= MAX_DIVISIONS:
        for indices in combinations(range(n_trainings), n_first):
            yield np.array(indices)
        return
    rng = np.random.default_rng(0)
    for _ in range(MAX_DIVISIONS):
        yield np.sort(rng.permutation(n_trainings)[:n_first])


if __name__ == "__main__":
    main()
