"""`python benchmarks/localisation_table.py [RESULTS]`: docs/attention.md's table of scenes-loc.

A row a metric and a size, a column a model and a kind of map; percent, or a ratio, with 95%
intervals; from stored results alone. `--kinds N` measures the kinds of maps of scenes-cosmos on N
scenes of the training split that follow those it was trained on: the table that the usual kind was
chosen by.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from scenes_table import cell, plain_results

from cosmos_eval.protocols.scenes import scenes_localisation
from cosmos_eval.protocols.segmentation import LOCALISATION
from cosmos_eval.results.text import bounds, percent, shown_text
from cosmos_eval.types import MAPS, RunOptions, no_progress

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


def kinds(count: int) -> str:
    """Every kind of map on scenes that neither the model's training nor the test split has."""
    from cosmos_core.data.scenes import TRAIN
    from cosmos_core.data.scenes.layouts import write_layouts
    from cosmos_core.recipes.scenes import TRAIN_SCENES
    from cosmos_eval.models import load_encoder
    from cosmos_eval.models.specs import parse_model_spec
    from cosmos_eval.tasks import metric_of
    from cosmos_eval.tasks.localisation import measure

    encoder = load_encoder(parse_model_spec("scenes-cosmos"))
    pointing = [f"pointing_game_{size}" for size in SIZES]
    metrics = [metric_of("loc", m) for m in ("attention_mass", "AUC", "pointing_game", *pointing)]
    titles = ["attention mass", "AUC", "pointing game", *SIZES.values()]
    lines = [f"| map | {' | '.join(titles)} |", f"| --- |{' --: |' * len(titles)}"]
    with TemporaryDirectory() as folder:
        root = Path(folder) / "scenes"
        write_layouts(root, split=TRAIN, count=count, start=TRAIN_SCENES, layouts=["voc"])
        made = {"root": str(root), "split": "voc/ImageSets/Segmentation/train.txt"}
        for name, kind in MAPS.items():
            protocol = replace(scenes_localisation(f"{LOCALISATION}-{name}"), **made)
            (found,) = measure(encoder, [protocol], RunOptions(), no_progress)
            cells = [
                f"{shown_text(m, found.metrics[m.name])} "
                f"{bounds(m, found.intervals[m.name]._asdict())}"
                for m in metrics
            ]
            lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--kinds"]:
        print(kinds(int(sys.argv[2])))
    else:
        print(table(*(sys.argv[1:] or ["results"])))
