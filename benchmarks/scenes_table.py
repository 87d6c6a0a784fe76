"""`python benchmarks/scenes_table.py [RESULTS]`: the README's table of the pair trained on scenes.

A row a metric, a column a model, percent with 95% intervals; from stored results alone.
"""

from __future__ import annotations

import sys

import pandas as pd

from cosmos_eval import load_results
from cosmos_eval.leaderboard import percent

MODELS = ("scenes-cosmos", "scenes-clip", "scenes-clip-long")
ROWS = {
    ("scenes-retrieval", "image_to_text_R@1"): "image to text R@1",
    ("scenes-retrieval", "text_to_image_R@1"): "text to image R@1",
    ("scenes-cls", "acc1"): "classification acc1",
    ("scenes-seg", "mIoU"): "segmentation mIoU",
    ("scenes-seg", "mIoU_things"): "segmentation mIoU, things",
    ("scenes-seg", "mIoU_stuff"): "segmentation mIoU, stuff",
    ("scenes-select", "accuracy"): "choice between two captions, accuracy",
    ("scenes-retrieval-small", "image_to_text_R@1"): "small things: image to text R@1",
    ("scenes-retrieval-small", "text_to_image_R@1"): "small things: text to image R@1",
    ("scenes-cls-small", "acc1"): "small things: classification acc1",
    ("scenes-seg-small", "mIoU_things"): "small things: segmentation mIoU",
}


def table(results: str) -> str:
    """The table in Markdown; a model without results has no column."""
    frame = load_results(results)
    plain = frame[frame["variant"] == ""].set_index(["model", "dataset", "metric"])
    models = [model for model in MODELS if model in plain.index.get_level_values("model")]
    lines = [f"| | {' | '.join(models)} |", f"| --- |{' --: |' * len(models)}"]
    for (dataset, metric), title in ROWS.items():
        cells = [_cell(plain.loc[(model, dataset, metric)]) for model in models]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(record: pd.Series) -> str:
    value, low, high = (percent(float(record[name])) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    print(table(*(sys.argv[1:] or ["results"])))
