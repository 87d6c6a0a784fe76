"""`python benchmarks/pairs_table.py [RESULTS]`: docs/pair-scores.md's table of the embedded scenes.

It has a row for each data set and metric, in percent: by products of features, by scores of pairs,
and the paired difference with its 95% interval. All follows from stored results.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cosmos_eval.results.compare import compare
from cosmos_eval.results.store import read_samples, read_stored
from cosmos_eval.results.text import percent

MODEL = "scenes-cosmos"
DATASETS = ("scenes-retrieval", "scenes-retrieval-small", "scenes-select")


def pairs_table(results: str) -> str:
    """Return the table in Markdown.

    Args:
        results: The folder of the results.
    """
    compared_results = []
    for dataset in DATASETS:
        by_pairs = Path(results, f"{MODEL}__{dataset}__scenes-pairs.json")
        by_features = Path(results, f"{MODEL}__{dataset}__scenes.json")
        a, b = read_stored([by_pairs, by_features])
        compared_results.append((a, b))
    lines = ["| | by features | by pairs | difference |", "| --- | --: | --: | --: |"]
    for test in compare(compared_results, read_samples).tests:
        if not test.metric_record.primary:
            continue
        difference = test.difference
        interval = difference.interval()
        title = f"{test.dataset}: {test.metric.replace('_', ' ')}"
        change = (
            f"{100 * difference.difference:+.1f} "
            f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
        )
        lines.append(f"| {title} | {percent(difference.b)} | {percent(difference.a)} | {change} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(pairs_table(*(sys.argv[1:] or ["results"])))
