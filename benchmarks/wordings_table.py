"""`python benchmarks/wordings_table.py`: how much wording moves the bundled models on scenes.

The first table has ten automatic wordings of every data set. The others have, on scenes-cls, the
80 templates of CLIP one by one, and the published sets of 80, 7 and 1 templates. The results
are stored in --output, from which `cosmos-eval compare --over wording` prints more.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import open_clip

import cosmos_eval
from cosmos_eval.results.wordings import WordingComparison, WordingTest, outcome_text
from cosmos_eval.types import wording_name

MODELS = ("scenes-cosmos", "scenes-clip-long", "scenes-clip")
DATASETS = ("scenes-retrieval", "scenes-cls", "scenes-seg", "scenes-select")
_WORDINGS = 10


def published_sets() -> dict[str, Any]:
    """Return the sets of templates that are published for ImageNet, as wordings.

    The 80 of CLIP's paper, the seven that its notebook chose from them, and the usual single one.
    """
    seven = [template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES]
    return {
        "clip-80": {"templates": "openai-imagenet"},
        "clip-7": {"templates": seven},
        "clip-1": {"templates": ["a photo of a {}."]},
    }


def single_templates() -> dict[str, Any]:
    """Return the 80 templates of CLIP's paper one by one, as wordings."""
    templates = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    return {f"template-{n}": {"templates": [text]} for n, text in enumerate(templates, start=1)}


def means_of(model: str, comparison: WordingComparison) -> Iterator[Mapping[str, str]]:
    """Yield a row of the table for each metric of a model over wordings."""
    for test in comparison.tests:
        factor = test.metric_record.factor
        interval = test.interval
        components = test.components["A"]
        published = "" if test.published is None else f"{factor * test.published.a:.1f}"
        yield {
            "data set": test.dataset,
            "metric": test.metric,
            "model": model,
            "published wording": published,
            "mean over wordings [95%]": f"{factor * test.mean.mean:.1f} "
            f"[{factor * interval.low:.1f}, {factor * interval.high:.1f}]",
            "worst": f"{factor * test.rows[0].a:.1f}",
            "best": f"{factor * test.rows[1].a:.1f}",
            "sd by images": f"{factor * components.images.sd:.2f}",
            "sd by wording": f"{factor * components.wording.sd:.2f}",
        }


def difference_row(test: WordingTest) -> Mapping[str, str]:
    """Return the difference of two models with the published wording, and over wordings."""
    assert test.published is not None
    published = test.metric_record.factor * test.published.shown
    return {
        "data set": test.dataset,
        "metric": test.metric,
        "published wording": f"{published:+.1f}",
        "over wordings": outcome_text(test),
    }


def print_table(title: str, rows: list[Mapping[str, str]]) -> None:
    """Print rows as a Markdown table below a title."""
    print(f"### {title}\n")
    print(f"| {' | '.join(rows[0])} |")
    print(f"|{' --- |' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(row.values())} |")
    print(flush=True)


class Folders(NamedTuple):
    """The folders of the results."""

    # With ten automatic wordings.
    ten: Path
    # With the 80 templates of CLIP one by one.
    single: Path
    # With the published sets of templates.
    sets: Path


def measure(folders: Folders) -> None:
    """Measure the bundled models with all wordings."""
    for model in MODELS:
        for dataset in DATASETS:
            cosmos_eval.evaluate(model, dataset, wordings=_WORDINGS, output=folders.ten)
        cosmos_eval.evaluate(
            model, "scenes-cls", wordings=single_templates(), output=folders.single
        )
        cosmos_eval.evaluate(model, "scenes-cls", wordings=published_sets(), output=folders.sets)


def print_means_and_differences(title: str, folder: Path) -> None:
    """Print the means of all models over the wordings of a folder, and how the first two differ."""
    rows: list[Mapping[str, str]] = []
    for model in MODELS:
        rows += means_of(model, cosmos_eval.compare(folder, models=[model], over="wording"))
    rows.sort(key=lambda row: (DATASETS.index(row["data set"]), row["metric"]))
    print_table(title, rows)
    comparison = cosmos_eval.compare(folder, models=MODELS[:2], over="wording")
    differences = [difference_row(test) for test in comparison.tests]
    print_table(f"{title}: {MODELS[0]} (A) and {MODELS[1]} (B)", differences)


def print_published_sets(folder: Path) -> None:
    """Print acc1 of all models with each published set of templates."""
    cells_by_wording = {}
    for result in cosmos_eval.read_results(folder):
        name = wording_name(result.protocol) or "published wording"
        cells_by_wording[result.model["spec"], name] = f"{100 * result.metrics['acc1']:.1f}"
    rows: list[Mapping[str, str]] = []
    for model in MODELS:
        row = {"model": model}
        for name in ("published wording", *published_sets()):
            row[name] = cells_by_wording[model, name]
        rows.append(row)
    print_table("Published sets of templates: acc1 on scenes-cls", rows)


def main() -> None:
    """Measure the bundled models with all wordings, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="runs/wordings", help="folder of the results")
    output = Path(parser.parse_args().output)
    folders = Folders(output / "ten", output / "single", output / "sets")
    measure(folders)
    print_means_and_differences("Ten automatic wordings", folders.ten)
    print_means_and_differences("80 templates one by one", folders.single)
    print_published_sets(folders.sets)


if __name__ == "__main__":
    main()
