"""`python benchmarks/permutations.py FOLDER [--json]`: does the test of groups hold on trainings?

FOLDER has results of several trainings of one recipe or more. Trainings of one group are divided in
two, and those of two groups are given their labels at random, so that both sides differ by chance
alone. The table has the share of these divisions in which `cosmos-eval compare --group` would find
a difference at 5%, p <= 0.05, per headline metric. Divisions of the same trainings are not
independent: few trainings give a rough share, whatever the number of divisions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import combinations, islice
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

MOST = 1000  # divisions of the same trainings
FEWEST = 2  # trainings on a side

Row = dict[str, str]


def main() -> None:
    """Divide and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--json", action="store_true", help="print a JSON list")
    given = arguments.parse_args()
    try:
        rows = list(permutations(read_stored(result_paths(given.folder))))
    except UsageError as error:
        arguments.error(str(error))
    if not rows:
        arguments.error(f"{given.folder} has no group of {2 * FEWEST} trainings, nor two of two")
    print(json.dumps(rows, indent=2) if given.json else table_of(rows))


def table_of(rows: Sequence[Row]) -> str:
    """Return rows as Markdown."""
    return markdown_table(rows[0], (row.values() for row in rows), n_text_columns=4)


def permutations(results: Sequence[StoredResult]) -> Iterator[Row]:
    """Yield a row per data set, metric, and group or two groups."""
    groups: dict[str, list[StoredResult]] = {}
    for one in results:
        if group := training_of(one.row).get("group"):
            groups.setdefault(group, []).append(one)
    sets = {group: common_sets(members, group)[0] for group, members in sorted(groups.items())}
    for one in sets:
        yield from _rows(one, [sets[one]])
    for both in combinations(sets, 2):
        yield from _rows(" and ".join(both), [sets[group] for group in both])


def _rows(name: str, groups: Sequence[ResultsByDataset]) -> Iterator[Row]:
    for key in sorted(groups[0].keys() & groups[-1].keys()):
        sizes = [len(group[key]) for group in groups]
        stored = [one for group in groups for one in group[key]]
        first = sizes[0] if len(groups) > 1 else sizes[0] // 2
        if min(first, len(stored) - first) < FEWEST:
            continue
        found = estimate_moments_of_results(
            stored, read_samples, task_named(stored[0].row.task).headlines
        )
        for metric, one in found.items():
            if one:
                where = dict(zip(("data set", "protocol"), key, strict=True))
                yield {"groups": name, **where, "metric": metric, **_shares(one, first)}


def _shares(moments: Moments, first: int) -> Row:
    p_values = [
        moments.difference(*sides).p_value for sides in divisions(len(moments.values), first)
    ]
    share = float(np.mean(np.array(p_values) <= 0.05))
    k = f"{first} / {len(moments.values) - first}"
    return {"k": k, "divisions": str(len(p_values)), "p <= 0.05 (%)": f"{100 * share:.1f}"}


def divisions(k: int, first: int) -> Iterator[tuple[Ints, Ints]]:
    """Yield all divisions of k trainings into `first` and the others, or MOST drawn ones."""
    everyone = np.arange(k)
    if comb(k, first) <= MOST:
        chosen = (np.array(some) for some in combinations(range(k), first))
    else:
        rng = np.random.default_rng(0)
        chosen = (np.sort(rng.permutation(k)[:first]) for _ in range(MOST))
    for some in islice(chosen, MOST):
        yield some, np.setdiff1d(everyone, some)


if __name__ == "__main__":
    main()
