"""`python benchmarks/scenes2_report.py [TRAININGS] [--figure FILE.png]`: suppression by method.

TRAININGS holds the results of `scenes2_study.py`, by default benchmarks/scenes2/trainings. The
tables have means and standard deviations over seeds, in percent, of everything that the study
measures. They test nothing: `study_claims.py` does. The figure shows the accuracy on dominant and
on small things.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from _family import Family, read_family
from scipy import stats

from cosmos_core.utils.figures import figure_to_png, new_page, plain_style
from cosmos_eval import read_results
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.text import markdown_table
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDER = Path(__file__).parent / "scenes2"
MAIN, CONTROL, SEEN = "scenes2-select", "scenes2-select-control", "scenes2-select-seen"
WORDS = ("kind", "colour", "place")
# The columns of each table: the title, the data set, the protocol and the metric.
Column = tuple[str, str, str, str]
OVERVIEW: tuple[Column, ...] = (
    ("dominant", MAIN, "scenes", "accuracy_dominant"),
    ("small", MAIN, "scenes", "accuracy_small"),
    ("suppression", MAIN, "scenes", "suppression"),
    ("suppression, control", CONTROL, "scenes", "suppression"),
    ("siblings", "scenes2-siblings", "scenes", "accuracy"),
    ("R@1 image to text", "scenes2-retrieval", "scenes", "image_to_text_R@1"),
    ("R@1 text to image", "scenes2-retrieval", "scenes", "text_to_image_R@1"),
    ("acc1", "scenes2-cls", "scenes", "acc1"),
    ("mIoU, tuned", "scenes2-seg", "tuned", "mIoU"),
)
DRAWINGS: tuple[Column, ...] = (
    ("dominant", MAIN, "scenes", "accuracy_dominant"),
    ("dominant, seen", SEEN, "scenes", "accuracy_dominant"),
    ("small", MAIN, "scenes", "accuracy_small"),
    ("small, seen", SEEN, "scenes", "accuracy_small"),
    ("suppression", MAIN, "scenes", "suppression"),
    ("suppression, seen", SEEN, "scenes", "suppression"),
)


def main() -> None:
    """Print the tables, and draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("trainings", nargs="?", type=Path, default=FOLDER / "trainings")
    parser.add_argument("--figure", type=Path, help="a PNG file to write")
    arguments = parser.parse_args()
    try:
        family = read_family(FOLDER / "family.yaml")
        rows_by_method = group_by_method(family, read_results(arguments.trainings))
    except UsageError as error:
        parser.exit(2, f"scenes2_report: {error}\n")
    print("\n".join(report(family, rows_by_method)))
    if arguments.figure is not None:
        draw(rows_by_method, arguments.figure)


def group_by_method(family: Family, rows: Sequence[ResultRow]) -> dict[str, list[ResultRow]]:
    """Return the results of each method of the family that has some, in the family's order."""
    rows_by_method = {}
    for method, trainings in family.methods.items():
        rows_of_method = []
        for row in rows:
            # The name of the group ends with a hyphen and the hash of the recipe.
            group = str(training_of(row).get("group"))
            if group.rpartition("-")[0] == trainings.group:
                rows_of_method.append(row)
        if rows_of_method:
            rows_by_method[method] = rows_of_method
    return rows_by_method


def column_values(rows: Sequence[ResultRow], column: Column) -> list[float]:
    """Return the values of a column in percent, one per training, in the order of seeds."""
    _, dataset, protocol, metric = column
    value_by_seed = {}
    for row in rows:
        is_measured = row.dataset == dataset and row.protocol.partition("-")[0] == protocol
        if is_measured and metric in row.metrics:
            value_by_seed[training_of(row)["seed"]] = 100 * row.metrics[metric]
    return [value for _, value in sorted(value_by_seed.items())]


def report(family: Family, rows_by_method: Mapping[str, Sequence[ResultRow]]) -> Iterator[str]:
    """Yield the lines of the tables, in Markdown."""
    n_expected = sum(len(trainings.seeds) for trainings in family.methods.values())
    seeds = {
        (method, training_of(row)["seed"])
        for method, rows in rows_by_method.items()
        for row in rows
    }
    yield "# Suppression on scenes, version 2\n"
    if len(seeds) < n_expected:
        yield f"Interim: {len(seeds)} of {n_expected} trainings.\n"
    yield "Mean ± standard deviation over seeds, in percent. No test is made here.\n"
    yield table(rows_by_method, OVERVIEW)
    yield "## By word\n"
    yield table(rows_by_method, columns_by_word(MAIN))
    yield "## By word, dominant thing as small as the others\n"
    yield table(rows_by_method, columns_by_word(CONTROL))
    yield "## Drawings that no training scene has, and drawings of training scenes\n"
    yield table(rows_by_method, DRAWINGS)


def columns_by_word(dataset: str) -> list[Column]:
    """Return the accuracies on dominant and on small things by the word that is false."""
    columns = []
    for word in WORDS:
        for role in ("dominant", "small"):
            columns.append((f"{word}, {role}", dataset, "scenes", f"accuracy_{role}_{word}"))
    return columns


def table(rows_by_method: Mapping[str, Sequence[ResultRow]], columns: Sequence[Column]) -> str:
    """Return a table in Markdown with a row for each method. Unknown cells are empty."""
    lines = []
    for method, rows in rows_by_method.items():
        cells = [cell(column_values(rows, column)) for column in columns]
        n_seeds = len({training_of(row)["seed"] for row in rows})
        lines.append([method, str(n_seeds), *cells])
    titles = ["method", "seeds", *(column[0] for column in columns)]
    return markdown_table(titles, lines, n_text_columns=1)


def cell(values: Sequence[float]) -> str:
    """Return the mean of values with their standard deviation, such as "62.3 ± 1.2"."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


def draw(rows_by_method: Mapping[str, Sequence[ResultRow]], path: Path) -> None:
    """Draw the accuracies on dominant and small things of each method, and write a PNG file.

    The left panel has the scenes, and the right one the control, in which the dominant thing is as
    small as the others. Bars are 95% intervals over seeds.
    """
    methods = [*rows_by_method]
    with plain_style({"font.size": 8}):
        page = new_page(760, 60 + 26 * len(methods))
        panels = page.subplots(1, 2, sharey=True)
        titles = ("dominant thing large", "the same scenes, dominant thing as small as the others")
        for panel, dataset, title in zip(panels, (MAIN, CONTROL), titles, strict=True):
            draw_panel(panel, rows_by_method, dataset)
            panel.set_title(title, fontsize=8)
        panels[0].set_yticks(range(len(methods)), methods)
        panels[0].invert_yaxis()
        panels[0].legend(loc="lower right", frameon=False)
        page.tight_layout()
        path.write_bytes(figure_to_png(page, colours=256))


def draw_panel(
    panel: Axes, rows_by_method: Mapping[str, Sequence[ResultRow]], dataset: str
) -> None:
    """Draw two points with intervals for each method: dominant things, and small things."""
    panel.axvline(50, color="0.8", linewidth=0.8)
    panel.set_xlabel("right of two captions, percent")
    for role, colour in (("dominant", "#0072B2"), ("small", "#D55E00")):
        column = (role, dataset, "scenes", f"accuracy_{role}")
        for height, rows in enumerate(rows_by_method.values()):
            values = column_values(rows, column)
            if not values:
                continue
            label = f"about the {role} thing" if height == 0 else None
            half_width = interval_half_width(values)
            panel.errorbar(
                mean(values), height, xerr=half_width, fmt="o", color=colour, label=label, ms=4
            )


def interval_half_width(values: Sequence[float]) -> float:
    """Return half of the width of the 95% t-interval of a mean; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    quantile = stats.t.ppf(0.975, len(values) - 1)
    return float(quantile * stdev(values) / len(values) ** 0.5)


if __name__ == "__main__":
    main()
