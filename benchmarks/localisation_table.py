"""`python benchmarks/localisation_table.py [RESULTS]`: docs/attention.md's table of scenes-loc.

A row a metric and a size, a column a model and a kind of map; percent, or a ratio, with 95%
intervals; from stored results alone.
"""

from __future__ import annotations

import sys

from scenes_table import cell, plain_results

from cosmos_eval.results.text import percent

COLUMNS = {
    "scenes-cosmos, cross-attention": ("scenes-cosmos", "localisation"),
    "scenes-cosmos, similarity": ("scenes-cosmos", "localisation-similarity"),
    "scenes-clip, similarity": ("scenes-clip", "localisation-similarity"),
    "scenes-clip-long, similarity": ("scenes-clip-long", "localisation-similarity"),
}
SIZES = {"small": "small things", "medium": "dominant things", "large": "stuff"}
METRICS = {
    "attention_mass": "attention mass",
    "mass_over_area": "mass / area",
    "mass_over_other_names": "mass / other names",
    "pointing_game": "pointing game",
    "AUC": "AUC",
}


def table(results: str) -> str:
    """The table in Markdown."""
    found = plain_results(results)
    lines = [f"| | | {' | '.join(COLUMNS)} |", f"| --- | --- |{' --: |' * len(COLUMNS)}"]
    for size, things in SIZES.items():
        area = found.loc[(*next(iter(COLUMNS.values())), "scenes-loc", f"area_{size}")]["value"]
        named = f"{things}, {percent(float(area))} of a picture"
        for metric, title in METRICS.items():
            cells = [
                cell(found, (*column, "scenes-loc", f"{metric}_{size}"))
                for column in COLUMNS.values()
            ]
            lines.append(f"| {named} | {title} | {' | '.join(cells)} |")
            named = ""
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(*(sys.argv[1:] or ["results"])))
