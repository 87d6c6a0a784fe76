"""`python benchmarks/localisation_table.py [RESULTS]`: the tables of the scenes in
benchmarks/study/maps.md.

The table of scenes-loc has a row for each size of things and metric, and a column for each model
and kind of map. Values are percent, or a ratio, with 95% intervals. `--forms` prints the table of
scenes-seg by the form of the last block, with the paired difference. `--trainings FOLDER` prints a
table of several trainings, such as benchmarks/study/trainings. Its differences are paired by
training, and their intervals cover seeds and images. All these tables follow from stored results.
`--train N` measures scenes-cosmos on N scenes of the training split that follow the scenes it was
trained on. The usual kind of map was chosen by them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval import load_results
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.protocols import find_known
from cosmos_eval.protocols.scenes import scenes_localisation
from cosmos_eval.protocols.segmentation import LOCALISATION
from cosmos_eval.results.compare import measurement_of, paired_differences
from cosmos_eval.results.groups import Moments, estimate_moments
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.store import read_result, read_samples, read_stored, result_paths
from cosmos_eval.results.text import interval_text, metric_text, percent
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.stats.paired import PairedDifference
from cosmos_eval.tasks import metric_of, task_for
from cosmos_eval.types import MAPS, Attention, RunOptions

MODEL, RECIPE = "scenes-cosmos", "scenes_cosmos"


class MapSource(NamedTuple):
    """The model and the protocol, which decides the kind of map, of a column."""

    model: str
    protocol: str


COLUMNS = {
    "scenes-cosmos, cross-attention": MapSource(MODEL, "localisation-cross-attention"),
    "ratio to the empty text": MapSource(MODEL, "localisation-empty-ratio"),
    "ratio to the mean over texts": MapSource(MODEL, "localisation-texts-ratio"),
    "values": MapSource(MODEL, "localisation"),
    "similarity": MapSource(MODEL, "localisation-similarity"),
    "scenes-clip, similarity": MapSource("scenes-clip", "localisation-similarity"),
    "scenes-clip-long, similarity": MapSource("scenes-clip-long", "localisation-similarity"),
}
# The names of sizes in tables, by the ends of the names of metrics.
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
# The forms of attention in the last block that are compared, and their metrics by data set.
FORMS: tuple[Attention, ...] = ("csa", "crossmodal")
FORM_METRICS = {
    "scenes-seg": ("mIoU", "mIoU_things", "mIoU_stuff"),
    "scenes-seg-small": ("mIoU", "mIoU_things"),
}
TRAINING_METRICS = {
    "scenes-seg": FORM_METRICS["scenes-seg"],
    "scenes-loc": ("pointing_game", "AUC"),
}


class ComparedForms(NamedTuple):
    """Two forms of attention, or two protocols of localisation, that trainings are compared by."""

    # It takes the features of patches as they are.
    patches: str
    # It takes the values of the cross-attention.
    values: str


COMPARED_FORMS = {
    "scenes-seg": ComparedForms("csa", "crossmodal"),
    "scenes-loc": ComparedForms("localisation-similarity", "localisation"),
}

ResultsByForm = dict[str, dict[int, StoredResult]]
"""The results of trainings on a data set, by form and seed."""


def localisation_table(results: str) -> str:
    """Return the table of localisation in Markdown.

    Args:
        results: The folder of the results.
    """
    records = localisation_records(results)
    first_source = next(iter(COLUMNS.values()))
    rows = []
    for suffix, size in SIZES.items():
        area = records[first_source, f"area{suffix}"].value  # the same in all columns
        size_title = f"{size}, {percent(float(area))} of a picture"
        for name, metric_title in METRICS.items():
            cells = [size_title, metric_title]
            for source in COLUMNS.values():
                record = records[source, f"{name}{suffix}"]
                interval = {"low": float(record.low), "high": float(record.high)}
                cells.append(
                    value_text(record.task, f"{name}{suffix}", float(record.value), interval)
                )
            rows.append(cells)
            size_title = ""  # only in the first row of a size
    return markdown(["", "", *COLUMNS], rows, n_text_columns=2)


def localisation_records(results: str) -> dict[tuple[MapSource, str], Any]:
    """Return the rows of `load_results` on scenes-loc without variants, by source and metric."""
    frame = load_results(results)
    frame = frame[(frame["variant"] == "") & (frame["dataset"] == "scenes-loc")]
    records: dict[tuple[MapSource, str], Any] = {}
    record: Any
    for record in frame.itertuples():
        records[MapSource(record.model, record.protocol), record.metric] = record
    return records


def value_text(task: str, name: str, value: float, interval: Mapping[str, Any]) -> str:
    """Return the value of a metric with its interval, such as "51.4 [50.6, 52.1]"."""
    metric = metric_of(task, name)
    return f"{metric_text(metric, value)} {interval_text(metric, interval)}"


def markdown(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, n_text_columns: int = 1
) -> str:
    """Return a table in Markdown whose first columns hold texts, and the others numbers."""
    n_number_columns = len(header) - n_text_columns
    lines = [
        markdown_row(header),
        f"|{' --- |' * n_text_columns}{' --: |' * n_number_columns}",
        *(markdown_row(cells) for cells in rows),
    ]
    return "\n".join(lines)


def markdown_row(cells: Iterable[str]) -> str:
    """Return a row of a table in Markdown, in which an empty cell is a single space."""
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def forms_table(results: str) -> str:
    """Return the table of segmentation in Markdown, with the paired difference over images.

    Args:
        results: The folder of the results.
    """
    rows = []
    for dataset, names in FORM_METRICS.items():
        csa_path = Path(results, f"{MODEL}__{dataset}__scenes.json")
        crossmodal_path = Path(results, f"{MODEL}__{dataset}__scenes__crossmodal.json")
        csa, crossmodal = read_result(csa_path), read_result(crossmodal_path)
        differences = paired_differences(
            crossmodal, read_samples(crossmodal_path), csa, read_samples(csa_path), names
        )
        for name in names:
            cells = [metric_title(dataset, name)]
            for row in (csa, crossmodal):
                cells.append(value_text("seg", name, row.metrics[name], row.intervals[name]))
            rows.append([*cells, difference_text(differences[name])])
    return markdown(["", *FORMS, "difference"], rows)


def metric_title(dataset: str, name: str) -> str:
    """Return the title of a metric's row, such as "scenes-seg, mIoU things"."""
    return f"{dataset}, {name.replace('_', ' ')}"


def difference_text(difference: PairedDifference | GroupDifference) -> str:
    """Return a difference of fractions in percent with its interval: "+6.6 [+6.1, +7.2]"."""
    interval = difference.interval()
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * difference.difference:+.1f} [{low:+.1f}, {high:+.1f}]"


def trainings_table(folder: str) -> str:
    """Return the table of all trainings with cross-attention in Markdown.

    Args:
        folder: The folder with the results of the trainings.
    """
    rows: list[list[str]] = []
    for dataset, results_by_form in read_trainings(folder).items():
        rows += training_rows(dataset, results_by_form)
    header = ["", "seeds", "patches", "values", "difference", "of each training"]
    return markdown(header, rows, n_text_columns=2)


def read_trainings(folder: str) -> dict[str, ResultsByForm]:
    """Read the results of all trainings with cross-attention, by data set."""
    results: dict[str, ResultsByForm] = {}
    for dataset, forms in COMPARED_FORMS.items():
        results[dataset] = {form: {} for form in forms}
    for result in read_stored(result_paths(Path(folder))):
        row, training = result.row, training_of(result.row)
        form = row.provenance.get("attention") if row.protocol == "scenes" else row.protocol
        is_compared = form in COMPARED_FORMS.get(row.dataset, ())
        if form is not None and is_compared and training["group"].startswith(RECIPE):
            results[row.dataset][form][training["seed"]] = result
    return results


def training_rows(dataset: str, results_by_form: ResultsByForm) -> Iterator[list[str]]:
    """Yield a row for each metric of a data set: both forms and their difference by training."""
    forms = COMPARED_FORMS[dataset]
    patches_results, values_results = results_by_form[forms.patches], results_by_form[forms.values]
    seeds = sorted(patches_results.keys() & values_results.keys())
    results = [patches_results[seed] for seed in seeds] + [values_results[seed] for seed in seeds]
    measurements = [measurement_of(result.row, read_samples(result.path)) for result in results]
    names = TRAINING_METRICS[dataset]
    moments_by_metric = estimate_moments(measurements, names)
    for name in names:
        moments = moments_by_metric[name]
        assert moments is not None
        seeds_cell = ", ".join(str(seed) for seed in seeds)
        yield [metric_title(dataset, name), seeds_cell, *paired_cells(moments, len(seeds))]


def paired_cells(moments: Moments, n_seeds: int) -> list[str]:
    """Return the cells of a metric: both means, their difference, and each training's difference.

    Args:
        moments: The metric of each training by patches, and then of each by values, as fractions.
        n_seeds: The number of trainings.
    """
    by_patches = np.arange(n_seeds)
    by_values = by_patches + n_seeds
    cells = []
    for indices in (by_patches, by_values):
        values = moments.values[indices]
        cells.append(f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f}")
    difference = moments.difference(by_values, by_patches, by_seed=True)
    differences = moments.values[by_values] - moments.values[by_patches]
    each_training = ", ".join(f"{100 * value:+.1f}" for value in differences)
    return [*cells, difference_text(difference), each_training]


def training_split_tables(n_scenes: int) -> Iterator[str]:
    """Yield the tables of maps and of forms on scenes of no training and no test."""
    # The tables of stored results need none of these.
    from cosmos_core.data.scenes import TRAIN
    from cosmos_core.data.scenes.layouts import write_layouts
    from cosmos_core.recipes.scenes import TRAIN_SCENES
    from cosmos_eval.models import load_encoder
    from cosmos_eval.models.specs import parse_model_spec

    encoder = load_encoder(parse_model_spec(MODEL))
    with TemporaryDirectory() as folder:
        root = Path(folder) / "scenes"
        write_layouts(root, split=TRAIN, count=n_scenes, start=TRAIN_SCENES, layouts=["voc"])
        yield measured_maps_table(encoder, root)
        yield measured_forms_table(encoder, root)


def measured_maps_table(encoder: Encoder, root: Path) -> str:
    """Measure each kind of map on the scenes in a folder, and return the table."""
    names = ["attention_mass", "AUC", *(f"pointing_game{suffix}" for suffix in SIZES)]
    pointing_titles = [f"pointing game, {size}" for size in SIZES.values()]
    rows = []
    for short_name, kind in MAPS.items():
        protocol = scenes_localisation(f"{LOCALISATION}-{short_name}")
        rows.append([kind, *measured_cells(encoder, protocol, root, names, RunOptions())])
    return markdown(["map", "attention mass", "AUC", *pointing_titles], rows)


def measured_forms_table(encoder: Encoder, root: Path) -> str:
    """Measure segmentation by each form on the scenes in a folder, and return the table."""
    names = FORM_METRICS["scenes-seg"]
    protocol = find_known("scenes-seg")
    rows = []
    for form in FORMS:
        options = RunOptions(attention=form)
        rows.append([form, *measured_cells(encoder, protocol, root, names, options)])
    return markdown(["last block", *names], rows)


def measured_cells(
    encoder: Encoder, protocol: Any, root: Path, names: Sequence[str], options: RunOptions
) -> list[str]:
    """Measure a model on training scenes, and return its metrics with their intervals.

    Args:
        encoder: The model.
        protocol: The protocol of localisation or segmentation on the test scenes.
        root: The folder of the training scenes.
        names: The names of the metrics.
        options: The options of the run.
    """
    split = "voc/ImageSets/Segmentation/train.txt"
    train_protocol = replace(protocol, root=str(root), split=split)
    measurement = task_for(train_protocol).measure_one(encoder, train_protocol, options)
    cells = []
    for name in names:
        interval = measurement.intervals[name]._asdict()
        cells.append(value_text(train_protocol.task, name, measurement.metrics[name], interval))
    return cells


def main() -> None:
    """Print the table that the options choose."""
    parser = argparse.ArgumentParser()
    parser.add_argument("results", nargs="?", default="results")
    parser.add_argument("--forms", action="store_true")
    parser.add_argument("--trainings", metavar="FOLDER")
    parser.add_argument("--train", type=int, metavar="N")
    arguments = parser.parse_args()
    if arguments.train:
        print("\n\n".join(training_split_tables(arguments.train)))
    elif arguments.trainings:
        print(trainings_table(arguments.trainings))
    elif arguments.forms:
        print(forms_table(arguments.results))
    else:
        print(localisation_table(arguments.results))


if __name__ == "__main__":
    main()
