"""`python benchmarks/scenes2_report.py [TRAININGS] [--figure FILE.png]`: suppression by method.

TRAININGS holds the results of `scenes2_study.py`, by default benchmarks/scenes2/trainings. The
tables have means and standard deviations over seeds, in percent, of everything that the study
measures. They select trainings as `study_claims.py` does, and test nothing. The figure shows the
accuracy on dominant and on small things.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from _family import Family, Metric, Side, read_family
from _family_tests import SideResults, metric_values, results_by_side, results_in_metrics
from scipy.stats import t as student_t
from study_claims import count_trainings, mean_cell

from cosmos_core.utils.figures import figure_to_png, new_page, plain_style
from cosmos_core.utils.files import write_atomically
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.store import read_stored, result_paths
from cosmos_eval.results.text import markdown_table
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent / "scenes2"
MAIN, CONTROL, SEEN = "scenes2-select", "scenes2-select-control", "scenes2-select-seen"
WORDS = ("kind", "colour", "place")
ROLES = ("dominant", "small")
LOSS_TITLE = "loss beside a dominant thing"
# How points are drawn: their colour, and how far they lie below the name of the method.
STYLES = {"dominant": ("#0072B2", -0.12), "small": ("#D55E00", 0.12), LOSS_TITLE: ("black", 0.0)}
Columns = Mapping[str, Metric]
"""The metrics of a table by the titles of its columns."""


def scenes_metric(dataset: str, name: str) -> Metric:
    """Return a metric of a data set by the protocol `scenes`."""
    return Metric(dataset=dataset, protocol="scenes", metric=name)


LOSS = scenes_metric("scenes2-beside", "loss_beside_dominant")
OVERVIEW: Columns = {
    "dominant": scenes_metric(MAIN, "accuracy_dominant"),
    "small": scenes_metric(MAIN, "accuracy_small"),
    "suppression": scenes_metric(MAIN, "suppression"),
    "suppression, control": scenes_metric(CONTROL, "suppression"),
    LOSS_TITLE: LOSS,
    "siblings": scenes_metric("scenes2-siblings", "accuracy"),
    "R@1 image to text": scenes_metric("scenes2-retrieval", "image_to_text_R@1"),
    "R@1 text to image": scenes_metric("scenes2-retrieval", "text_to_image_R@1"),
    "acc1": scenes_metric("scenes2-cls", "acc1"),
    "mIoU, tuned": Metric(dataset="scenes2-seg", protocol="tuned", metric="mIoU"),
}
BESIDE: Columns = {
    "beside a large thing": scenes_metric("scenes2-beside", "accuracy_small"),
    "beside small things": scenes_metric("scenes2-beside", "accuracy_control"),
    "loss": LOSS,
    "loss, kind": scenes_metric("scenes2-beside", "loss_beside_dominant_kind"),
    "loss, colour": scenes_metric("scenes2-beside", "loss_beside_dominant_colour"),
}
AREAS: Columns = {
    "smallest third": scenes_metric(MAIN, "accuracy_small_by_dominant_area_low"),
    "middle third": scenes_metric(MAIN, "accuracy_small_by_dominant_area_middle"),
    "largest third": scenes_metric(MAIN, "accuracy_small_by_dominant_area_high"),
}
DRAWINGS: Columns = {
    "dominant": scenes_metric(MAIN, "accuracy_dominant"),
    "dominant, seen": scenes_metric(SEEN, "accuracy_dominant"),
    "small": scenes_metric(MAIN, "accuracy_small"),
    "small, seen": scenes_metric(SEEN, "accuracy_small"),
    "suppression": scenes_metric(MAIN, "suppression"),
    "suppression, seen": scenes_metric(SEEN, "suppression"),
}


def main() -> None:
    """Print the tables, and draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("trainings", nargs="?", type=Path, default=FOLDER / "trainings")
    parser.add_argument("--figure", type=Path, help="a PNG file to write")
    arguments = parser.parse_args()
    try:
        family = read_family(FOLDER / "family.yaml")
        stored = read_stored(result_paths(arguments.trainings))
        lines = [*report(family, stored)]
        if arguments.figure is not None:
            write_atomically(arguments.figure, draw(family, stored))
    except UsageError as error:
        parser.exit(2, f"scenes2_report: {error}\n")
    print("\n".join(lines))


def report(family: Family, stored: Sequence[StoredResult]) -> Iterator[str]:
    """Yield the lines of the tables, in Markdown.

    Args:
        family: The family of the study.
        stored: All stored results.

    Raises:
        UsageError: For results that `results_by_side` refuses.
    """
    n_complete, n_planned = count_trainings(family, results_by_side(family, stored))
    yield "# Suppression on scenes, version 2\n"
    if n_complete < n_planned:
        yield f"Interim: {n_complete} of {n_planned} trainings are complete.\n"
    yield "Mean ± standard deviation over seeds (their number), in percent. No test is made here.\n"
    yield table(family, stored, OVERVIEW)
    yield "## Small things beside a large one, and beside small ones\n"
    yield table(family, stored, BESIDE)
    yield "## By word\n"
    yield table(family, stored, columns_by_word(MAIN))
    yield "## By word, dominant thing as small as the others\n"
    yield table(family, stored, columns_by_word(CONTROL))
    yield "## Small things, by the area of the dominant thing beside them\n"
    yield table(family, stored, AREAS)
    yield "## Drawings that no training scene has, and drawings of training scenes\n"
    yield table(family, stored, DRAWINGS)


def columns_by_word(dataset: str) -> Columns:
    """Return the accuracies on dominant and on small things by the word that is false."""
    columns = {}
    for word in WORDS:
        for role in ROLES:
            columns[f"{word}, {role}"] = scenes_metric(dataset, f"accuracy_{role}_{word}")
    return columns


def table(family: Family, stored: Sequence[StoredResult], columns: Columns) -> str:
    """Return a table in Markdown with a row for each method that has results.

    Unknown cells are empty.
    """
    results = results_in_metrics(family, columns, stored)
    rows = []
    for method in measured_methods(family, [results]):
        cells = [method]
        for title, metric in columns.items():
            cells.append(mean_cell(metric_values(results[Side(method, title)], metric)))
        rows.append(cells)
    return markdown_table(["method", *columns], rows, n_text_columns=1)


def measured_methods(family: Family, results: Sequence[SideResults]) -> list[str]:
    """Return the methods of a family that have results in any metric, in the family's order."""
    methods_with_results = set()
    for side_results in results:
        for side, results_by_seed in side_results.items():
            if results_by_seed:
                methods_with_results.add(side.method)
    return [method for method in family.methods if method in methods_with_results]


def draw(family: Family, stored: Sequence[StoredResult]) -> bytes:
    """Return the content of a PNG file with the figure that `make_figure` describes."""
    with plain_style({"font.size": 8}):
        return figure_to_png(make_figure(family, stored), colours=256)


def make_figure(family: Family, stored: Sequence[StoredResult]) -> Figure:
    """Draw the accuracies on dominant and small things of each method, and what small things lose.

    The first panel has the scenes, and the second one the control, in which the dominant thing is
    as small as the others. The third has the loss of small things beside a large one. Bars are 95%
    intervals over seeds.
    """
    titles = {MAIN: "dominant thing large", CONTROL: "dominant thing drawn small"}
    results = {}
    for dataset in titles:
        results[dataset] = results_in_metrics(family, columns_by_role(dataset), stored)
    losses = {LOSS_TITLE: LOSS}
    loss_results = results_in_metrics(family, losses, stored)
    methods = measured_methods(family, [*results.values(), loss_results])
    page = new_page(900, 104 + 26 * len(methods))
    page.set_layout_engine("constrained")
    panels = page.subplots(1, 3, sharey=True)
    panels[1].sharex(panels[0])
    for panel, (dataset, title) in zip(panels[:2], titles.items(), strict=True):
        draw_panel(panel, methods, results[dataset], columns_by_role(dataset))
        panel.axvline(50, color="0.8", linewidth=0.8)
        panel.set_xlabel("right of two captions, percent\n(grey: chance)")
        panel.set_title(title, fontsize=8)
    draw_panel(panels[2], methods, loss_results, losses)
    panels[2].axvline(0, color="0.8", linewidth=0.8)
    panels[2].set_xlabel("beside small things minus\nbeside a large one, points")
    panels[2].set_title("small things: loss beside a large one", fontsize=8)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)  # the first method at the top
    handles, labels = panels[0].get_legend_handles_labels()
    page.legend(handles, labels, loc="outside lower center", ncols=len(ROLES), frameon=False)
    return page


def columns_by_role(dataset: str) -> Columns:
    """Return the accuracies on dominant and on small things, by these words."""
    return {role: scenes_metric(dataset, f"accuracy_{role}") for role in ROLES}


def draw_panel(panel: Axes, methods: Sequence[str], results: SideResults, columns: Columns) -> None:
    """Draw a point with its interval for each method and metric.

    Args:
        panel: The axes.
        methods: The methods, from the top.
        results: The results of each method and metric.
        columns: The metrics by a key of STYLES.
    """
    for title, metric in columns.items():
        colour, offset = STYLES[title]
        heights, means, half_widths = [], [], []
        for height, method in enumerate(methods):
            values = metric_values(results[Side(method, title)], metric)
            if values:
                heights.append(height + offset)
                means.append(mean(values))
                half_widths.append(interval_half_width(values))
        label = f"about the {title} thing"
        panel.errorbar(means, heights, xerr=half_widths, fmt="o", color=colour, label=label, ms=4)


def interval_half_width(values: Sequence[float]) -> float:
    """Return half of the width of the 95% t-interval of a mean; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    quantile = student_t.ppf(0.975, len(values) - 1)
    return float(quantile * stdev(values) / len(values) ** 0.5)


if __name__ == "__main__":
    main()
