"""`python benchmarks/localisation_table.py [RESULTS]`: the tables of the scenes in
benchmarks/study/maps.md.

Of scenes-loc a row a metric and a size, a column a model and a kind of map; percent, or a ratio,
with 95% intervals. `--forms` is the table of scenes-seg by the last block's form, with the paired
difference; `--trainings FOLDER` is that of several trainings, of benchmarks/study/trainings: the
difference is paired by training, and its interval covers seeds and images. All are of stored
results alone. `--train N` measures scenes-cosmos on N scenes of the
training split that follow those it was trained on: by these the usual kind of map was chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from cosmos_eval import load_results
from cosmos_eval.protocols import find_known
from cosmos_eval.protocols.scenes import scenes_localisation
from cosmos_eval.protocols.segmentation import LOCALISATION
from cosmos_eval.results.compare import measurement_of, paired_differences
from cosmos_eval.results.groups import estimate_moments
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.store import read_result, read_samples, read_stored, result_paths
from cosmos_eval.results.text import interval_text, metric_text, percent
from cosmos_eval.tasks import metric_of, task_for
from cosmos_eval.types import MAPS, RunOptions

MODEL, RECIPE = "scenes-cosmos", "scenes_cosmos"
COLUMNS = {
    "scenes-cosmos, cross-attention": (MODEL, "localisation-cross-attention"),
    "ratio to the empty text": (MODEL, "localisation-empty-ratio"),
    "ratio to the mean over texts": (MODEL, "localisation-texts-ratio"),
    "values": (MODEL, "localisation"),
    "similarity": (MODEL, "localisation-similarity"),
    "scenes-clip, similarity": ("scenes-clip", "localisation-similarity"),
    "scenes-clip-long, similarity": ("scenes-clip-long", "localisation-similarity"),
}
SIZES = {
    "": "all",
    "_small": "small things",
    "_medium": "dominant things",
    "_large": "stuff",
}
METRICS = {
    "attention_mass": "attention mass",
    "mass_over_area": "mass / area",
    "mass_over_other_names": "mass / other names",
    "pointing_game": "pointing game",
    "AUC": "AUC",
}
FORMS = ("csa", "crossmodal")
OF_FORMS = {
    "scenes-seg": ("mIoU", "mIoU_things", "mIoU_stuff"),
    "scenes-seg-small": ("mIoU", "mIoU_things"),
}
# Of patches as they are, and of the values of the cross-attention.
SIDES = {
    "scenes-seg": ("csa", "crossmodal"),
    "scenes-loc": ("localisation-similarity", "localisation"),
}
OF_TRAININGS = {"scenes-seg": OF_FORMS["scenes-seg"], "scenes-loc": ("pointing_game", "AUC")}


def table(results: str) -> str:
    """The table of localisation in Markdown."""
    found = plain_results(results)
    rows = []
    for size, things in SIZES.items():
        area = found.loc[(*next(iter(COLUMNS.values())), "scenes-loc", f"area{size}")]["value"]
        named = f"{things}, {percent(float(area))} of a picture"
        for metric, title in METRICS.items():
            keys = [(*column, "scenes-loc", f"{metric}{size}") for column in COLUMNS.values()]
            rows.append([named, title, *(cell(found, key) for key in keys)])
            named = ""
    return markdown(["", "", *COLUMNS], rows, 2)


def plain_results(results: str) -> pd.DataFrame:
    """Results without variants, by model, protocol, data set and metric."""
    frame = load_results(results)
    return frame[frame["variant"] == ""].set_index(["model", "protocol", "dataset", "metric"])


def cell(found: pd.DataFrame, key: tuple[str, ...]) -> str:
    """A metric with its interval."""
    record = found.loc[key]
    interval = {name: float(record[name]) for name in ("low", "high")}
    metric = metric_of(record["task"], key[-1])
    return f"{metric_text(metric, float(record['value']))} {interval_text(metric, interval)}"


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]], texts: int = 1) -> str:
    """A table whose first columns are texts and whose others are numbers."""
    head, *lines = (
        "| " + "| ".join(f"{one} " if one else "" for one in row) + "|" for row in (header, *rows)
    )
    numbers = head.count("|") - 1 - texts
    return "\n".join([head, f"|{' --- |' * texts}{' --: |' * numbers}", *lines])


def forms(results: str) -> str:
    """The table of segmentation in Markdown, with the paired difference over images."""
    rows = []
    for dataset, metrics in OF_FORMS.items():
        stem = f"{MODEL}__{dataset}__scenes"
        files = [Path(results, f"{stem}{end}.json") for end in ("__crossmodal", "")]
        (b, a), samples = map(read_result, files), [read_samples(file) for file in files]
        differences = paired_differences(b, samples[0], a, samples[1], metrics)
        for name in metrics:
            low, high = (100 * end for end in differences[name].interval()[:2])
            change = f"{100 * differences[name].difference:+.1f} [{low:+.1f}, {high:+.1f}]"
            cells = [measured(name, "seg", row.metrics, row.intervals) for row in (a, b)]
            rows.append([f"{dataset}, {name.replace('_', ' ')}", *cells, change])
    return markdown(["", *FORMS, "difference"], rows)


def trainings(folder: str) -> str:
    """The table of all trainings with cross-attention in Markdown."""
    found: dict[str, dict[str, dict[int, StoredResult]]] = {name: {} for name in SIDES}
    for one in read_stored(result_paths(Path(folder))):
        row, training = one.row, training_of(one.row)
        side = row.provenance.get("attention") if row.protocol == "scenes" else row.protocol
        if side in SIDES.get(row.dataset, ()) and training["group"].startswith(RECIPE):
            found[row.dataset].setdefault(side, {})[training["seed"]] = one
    rows = [row for dataset, sides in found.items() for row in _of_trainings(dataset, sides)]
    titles = ["seeds", "patches", "values", "difference", "of each training"]
    return markdown(["", *titles], rows, 2)


def _of_trainings(
    dataset: str, found: Mapping[str, Mapping[int, StoredResult]]
) -> Iterator[list[str]]:
    sides = [found[name] for name in SIDES[dataset]]
    seeds = sorted(sides[0].keys() & sides[1].keys())
    several = [side[seed] for side in sides for seed in seeds]
    read = [measurement_of(one.row, read_samples(one.path)) for one in several]
    of_metrics = estimate_moments(read, OF_TRAININGS[dataset])
    for name in OF_TRAININGS[dataset]:
        one = of_metrics[name]
        assert one is not None
        patches, values = np.split(np.arange(len(several)), 2)
        change = one.difference(values, patches, by_seed=True)
        low, high = (100 * end for end in change.interval()[:2])
        means = (
            f"{100 * one.values[side].mean():.1f} ± {100 * one.values[side].std(ddof=1):.1f}"
            for side in (patches, values)
        )
        each = (f"{100 * one:+.1f}" for one in one.values[values] - one.values[patches])
        title = f"{dataset}, {name.replace('_', ' ')}"
        covered = f"{100 * change.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
        yield [title, ", ".join(map(str, seeds)), *means, covered, ", ".join(each)]


def measured(name: str, task: str, metrics: Mapping[str, Any], intervals: Mapping[str, Any]) -> str:
    """A metric with its interval."""
    metric = metric_of(task, name)
    return f"{metric_text(metric, metrics[name])} {interval_text(metric, intervals[name])}"


def train(count: int) -> Iterator[str]:
    """Yield the tables of maps and of forms on scenes that are of no training and no test."""
    from cosmos_core.data.scenes import TRAIN
    from cosmos_core.data.scenes.layouts import write_layouts
    from cosmos_core.recipes.scenes import TRAIN_SCENES
    from cosmos_eval.models import load_encoder
    from cosmos_eval.models.specs import parse_model_spec

    encoder = load_encoder(parse_model_spec(MODEL))

    def row(title: str, protocol: Any, metrics: Sequence[str], **options: Any) -> list[str]:
        own = replace(protocol, root=str(root), split="voc/ImageSets/Segmentation/train.txt")
        task, run = task_for(own), RunOptions(**options)
        found = task.measure_one(encoder, own, run)
        ends = {name: interval._asdict() for name, interval in found.intervals.items()}
        return [title, *(measured(name, own.task, found.metrics, ends) for name in metrics)]

    with TemporaryDirectory() as folder:
        root = Path(folder) / "scenes"
        write_layouts(root, split=TRAIN, count=count, start=TRAIN_SCENES, layouts=["voc"])
        metrics = ["attention_mass", "AUC", *(f"pointing_game{size}" for size in SIZES)]
        by_kind = {
            kind: scenes_localisation(f"{LOCALISATION}-{name}") for name, kind in MAPS.items()
        }
        rows = [row(kind, protocol, metrics) for kind, protocol in by_kind.items()]
        titles = [
            "map",
            "attention mass",
            "AUC",
            *(f"pointing game, {one}" for one in SIZES.values()),
        ]
        yield markdown(titles, rows)
        metrics, seg = OF_FORMS["scenes-seg"], find_known("scenes-seg")
        rows = [row(form, seg, metrics, attention=form) for form in FORMS]
        yield markdown(["last block", *metrics], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("results", nargs="?", default="results")
    parser.add_argument("--forms", action="store_true")
    parser.add_argument("--trainings", metavar="FOLDER")
    parser.add_argument("--train", type=int, metavar="N")
    chosen = parser.parse_args()
    if chosen.train:
        print("\n\n".join(train(chosen.train)))
    elif chosen.trainings:
        print(trainings(chosen.trainings))
    else:
        print((forms if chosen.forms else table)(chosen.results))
