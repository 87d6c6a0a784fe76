"""`python benchmarks/scenes_table.py [RESULTS]`: the README's table of the pair trained on scenes.

A row a metric, a column a model, percent with 95% intervals; from stored results alone.
"""

from __future__ import annotations

import sys

import pandas as pd

from cosmos_eval import load_results
from cosmos_eval.results.text import bounds, shown_text
from cosmos_eval.tasks import metric_of

MODELS = ("scenes-cosmos", "scenes-clip", "scenes-clip-long")
OWN, ALIKE = "localisation", "localisation-similarity"
ROWS = {
    ("scenes", "scenes-retrieval", "image_to_text_R@1"): "image to text R@1",
    ("scenes", "scenes-retrieval", "text_to_image_R@1"): "text to image R@1",
    ("scenes", "scenes-cls", "acc1"): "classification acc1",
    ("scenes", "scenes-seg", "mIoU"): "segmentation mIoU",
    ("scenes", "scenes-seg", "mIoU_things"): "segmentation mIoU, things",
    ("scenes", "scenes-seg", "mIoU_stuff"): "segmentation mIoU, stuff",
    ("scenes", "scenes-select", "accuracy"): "choice between two captions, accuracy",
    ("scenes", "scenes-retrieval-small", "image_to_text_R@1"): "small things: image to text R@1",
    ("scenes", "scenes-retrieval-small", "text_to_image_R@1"): "small things: text to image R@1",
    ("scenes", "scenes-cls-small", "acc1"): "small things: classification acc1",
    ("scenes", "scenes-seg-small", "mIoU_things"): "small things: segmentation mIoU",
    (
        OWN,
        "scenes-loc",
        "mass_over_area_small",
    ): "own map, small things: mass / area",
    (OWN, "scenes-loc", "pointing_game"): "own map: pointing game",
    (
        ALIKE,
        "scenes-loc",
        "mass_over_area_small",
    ): "similarity map, small things: mass / area",
    (ALIKE, "scenes-loc", "pointing_game"): "similarity map: pointing game",
}


def table(results: str) -> str:
    """The table in Markdown; a model without results has no column."""
    found = plain_results(results)
    models = [model for model in MODELS if model in found.index.get_level_values("model")]
    lines = [f"| | {' | '.join(models)} |", f"| --- |{' --: |' * len(models)}"]
    for key, title in ROWS.items():
        cells = [cell(found, (model, *key)) for model in models]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plain_results(results: str) -> pd.DataFrame:
    """Results without variants, by model, protocol, data set and metric."""
    frame = load_results(results)
    return frame[frame["variant"] == ""].set_index(["model", "protocol", "dataset", "metric"])


def cell(found: pd.DataFrame, key: tuple[str, ...]) -> str:
    """A metric with its interval."""
    record = found.loc[key]
    interval = {name: float(record[name]) for name in ("low", "high")}
    metric = metric_of(record["task"], key[-1])
    return f"{shown_text(metric, float(record['value']))} {bounds(metric, interval)}"


if __name__ == "__main__":
    print(table(*(sys.argv[1:] or ["results"])))
