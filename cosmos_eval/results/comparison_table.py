"""The table of a comparison for a paper, with one row per metric."""

from collections.abc import Iterator, Sequence

from cosmos_eval._version import __version__
from cosmos_eval.results.captions import (
    TEST_METHODS,
    measured_sentence,
    methods_sentence,
    sizes_sentence,
)
from cosmos_eval.results.compare import Comparison, MetricTest, detectable_text
from cosmos_eval.results.table import Cell, Head, Table, TableOptions
from cosmos_eval.results.text import interval_ends, metric_text, p_value_text, round_metric
from cosmos_eval.stats.groups import GroupDifference


def comparison_table(comparison: Comparison, options: TableOptions) -> Table:
    """Return the table of a comparison for a paper, below a heading for each data set.

    The better side of a test is bold. A table for one column of a paper has no detectable
    differences, and a single column of p-values: with Holm's correction if all metrics have it.

    Args:
        comparison: The comparison, with the tests that the table shows.
        options: How many decimals numbers have, whether intervals are shown, how wide the table is,
            and whether its caption states methods.
    """
    titles = _column_titles(comparison.tests, has_room=options.paper_columns != 1)
    protocols = {test.protocol for test in comparison.tests}
    rows, sections = [], []
    for test in comparison.tests:
        cells = _test_cells(test, options)
        rows.append(tuple(cells[title] for title in titles))
        has_one_protocol = len(protocols) == 1
        sections.append(test.dataset if has_one_protocol else f"{test.dataset} ({test.protocol})")
    title = f"{_side_name(comparison, 0)} (A) and {_side_name(comparison, 1)} (B)"
    if all(test.metric_record.in_percent for test in comparison.tests):
        title += " (%)"
    if len(protocols) == 1:
        title += f", protocol {comparison.tests[0].protocol}"
    return Table(
        title=title,
        heads=tuple(Head(title) for title in titles),
        rows=tuple(rows),
        notes=tuple(_notes(comparison, options, titles)),
        sections=tuple(sections),
        label="comparison",
    )


def _column_titles(tests: Sequence[MetricTest], *, has_room: bool) -> list[str]:
    """Return the titles of the columns, see `comparison_table`.

    Args:
        tests: The tests that the table shows.
        has_room: True if the table is wider than one column of a paper of two columns.
    """
    is_corrected = [test.adjusted is not None for test in tests]
    titles = ["metric", "A", "B", "A − B"]
    if has_room or not all(is_corrected):
        titles.append("p")
    if all(is_corrected) or (has_room and any(is_corrected)):
        titles.append("p (Holm)")
    if has_room:
        titles.append("detectable")
    return titles


def _side_name(comparison: Comparison, side: int) -> str:
    """Return the name of side 0 or 1 with its number of trainings: "clip, 5 trainings"."""
    name = (comparison.a, comparison.b)[side]
    if not comparison.trainings:
        return name
    n_trainings = len(comparison.trainings[side])
    return f"{name}, {n_trainings} training{'' if n_trainings == 1 else 's'}"


def _metric_title(test: MetricTest) -> str:
    """Return what tables call the metric of a test, such as "image to text R@1"."""
    return test.metric_record.label or test.metric.replace("_", " ")


def _test_cells(test: MetricTest, options: TableOptions) -> dict[str, Cell]:
    """Return the cells of a test by the titles of their columns."""
    metric, decimals = test.metric_record, options.decimals
    if decimals is None and metric.in_percent:
        decimals = 1
    difference = test.difference
    interval = difference.interval()._asdict() if options.intervals else None
    detectable = detectable_text(test.detectable, metric, options._replace(decimals=decimals))
    change = round_metric(metric, difference.difference, decimals)
    return {
        "metric": Cell(_metric_title(test)),
        "A": Cell(metric_text(metric, difference.a, decimals), best=test.better == "A"),
        "B": Cell(metric_text(metric, difference.b, decimals), best=test.better == "B"),
        "A − B": Cell(
            f"{change:+}", ends=interval_ends(metric, difference.difference, interval, decimals)
        ),
        "p": Cell(p_value_text(difference.p_value)),
        "p (Holm)": Cell("" if test.adjusted is None else p_value_text(test.adjusted)),
        "detectable": Cell(detectable or ""),
    }


def _notes(comparison: Comparison, options: TableOptions, titles: list[str]) -> Iterator[str]:
    """Yield the notes of a table: the meaning of its columns, and the methods if asked for.

    Args:
        comparison: The comparison, with the tests that the table shows.
        options: True if intervals are shown, and whether the caption states methods.
        titles: The titles of the columns.
    """
    tests = comparison.tests
    if any(test.better for test in tests):
        yield (
            "Bold: better, by a p-value of at most 0.05 with Holm's correction for all headline "
            "metrics of the comparison."
        )
    if options.intervals:
        yield "±, or + and -: how far the 95% interval of A − B reaches above and below it."
    if "detectable" in titles:
        yield "Detectable: the true difference that the test finds with a probability of 80%."
    if not options.caption:
        return

    yield sizes_sentence((test.dataset, test.difference.units) for test in tests)
    methods: list[tuple[str, str]] = []
    for test in tests:
        method = test.difference.method
        methods.append((_metric_title(test), TEST_METHODS.get(method, method)))
    yield methods_sentence("Paired tests and their 95% intervals", methods)
    compares_groups = any(isinstance(test.difference, GroupDifference) for test in tests)
    coverage = "seeds and test images" if compares_groups else "test images, not seeds"
    yield measured_sentence([__version__], [test.protocol for test in tests], coverage)
