"""`python benchmarks/pairs_table.py [RESULTS]`: docs/pair-scores.md's table of the embedded scenes.

A row a data set and metric, percent: by products of features, by scores of pairs, and the paired
difference with its 95% interval; from stored results alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cosmos_eval.results.compare import compare
from cosmos_eval.results.store import read_samples, read_stored
from cosmos_eval.results.text import percent

MODEL = "scenes-cosmos"
SETS = ("scenes-retrieval", "scenes-retrieval-small", "scenes-select")


def table(results: str) -> str:
    """The table in Markdown."""
    stems = (Path(results, f"{MODEL}__{name}__scenes") for name in SETS)
    files = [[Path(f"{stem}{suffix}.json") for suffix in ("-pairs", "")] for stem in stems]
    pairs = [(a, b) for a, b in map(read_stored, files)]
    lines = ["| | by features | by pairs | difference |", "| --- | --: | --: | --: |"]
    for test in compare(pairs, read_samples).tests:
        if test.metric_record.primary:
            found, interval = test.difference, test.difference.interval()
            low, high, change = (100 * value for value in (*interval[:2], found.difference))
            title = f"{test.dataset}: {test.metric.replace('_', ' ')}"
            both = f"{percent(found.b)} | {percent(found.a)}"
            lines.append(f"| {title} | {both} | {change:+.1f} [{low:+.1f}, {high:+.1f}] |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(*(sys.argv[1:] or ["results"])))
