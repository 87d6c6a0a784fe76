"""The released checkpoints' published numbers, each beside the one measured here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal, NamedTuple

from cosmos_eval.models.specs import RELEASED
from cosmos_eval.results import text
from cosmos_eval.results.leaderboard.board import Column, columns_of
from cosmos_eval.results.leaderboard.entries import AMP, Entry, published
from cosmos_eval.results.leaderboard.writers import grid_tables
from cosmos_eval.tasks import metric_of

if TYPE_CHECKING:
    from rich.table import Table

TITLE = "Released checkpoints: published, measured [interval], difference (%)"
_OUTSIDE = "!"
# github.com/ExplainableML/cosmos: the default of `--precision` in its params.py is `amp`, and its
# README says that amp was used. On a GPU that is autocast to float16.
_PUBLISHED_PRECISION = "amp float16"


class Reproduction(NamedTuple):
    """A published number of a released checkpoint and the one measured here, if there is one."""

    published: Entry
    column: Column
    measured: Entry | None

    @property
    def status(self) -> Literal["inside", "outside", "measured", "unverified"]:
        """Where the published number lies; `measured` where there is no interval."""
        if self.measured is None:
            return "unverified"
        interval = self.measured.intervals.get(self.column.metric)
        if interval is None:
            return "measured"
        return "inside" if interval["low"] <= self.value <= interval["high"] else "outside"

    @property
    def precision(self) -> str | None:
        """The precision of the measured number, for `amp` with its type; None without one."""
        if self.measured is None or self.measured.stored is None:
            return None
        record = self.measured.stored.row.provenance
        half = "float16" if str(record["device"]).startswith("cuda") else "bfloat16"
        return f"amp {half}" if record["precision"] == "amp" else str(record["precision"])

    @property
    def value(self) -> float:
        return self.published.metrics[self.column.metric]


def reproductions(entries: Iterable[Entry]) -> list[Reproduction]:
    """Return every published number of the released checkpoints, in the order of their names. Only
    a plain result counts as its measurement: the teacher's, of all samples, in mixed precision as
    the published one or else in float32."""
    found = {entry.key._replace(model=entry.specified): entry for entry in entries}
    models = [f"cosmos:{name}" for name in RELEASED]
    numbers = []
    for entry in published():
        if entry.model in models:
            key = entry.key._replace(source="measured", url="")
            measured = found.get(key._replace(model=entry.model + AMP), found.get(key))
            numbers += [Reproduction(entry, column, measured) for column in columns_of(entry)]
    return sorted(numbers, key=lambda n: (models.index(n.published.model), n.column))


def precision_note(numbers: Sequence[Reproduction]) -> str | None:
    """Name the precisions of measured numbers that are not the published one, in one line."""
    others = Counter(number.precision for number in numbers if number.measured is not None)
    others.pop(_PUBLISHED_PRECISION, None)
    if not others:
        return None
    listed = ", ".join(f"{count} in {precision}" for precision, count in sorted(others.items()))
    return (
        f"Published in {_PUBLISHED_PRECISION}, measured here: {listed}; "
        "--precision amp on a GPU measures as published"
    )


def summary(numbers: Sequence[Reproduction]) -> str:
    """Count the numbers that were measured and those that hold, in one line."""
    counts = Counter(number.status for number in numbers)
    measured = len(numbers) - counts["unverified"]
    return (
        f"{len(numbers)} published numbers: {measured} measured ({counts['outside']} outside the "
        f"measured interval, marked {_OUTSIDE}), {counts['unverified']} unverified"
    )


def to_json(numbers: Iterable[Reproduction]) -> str:
    """Write a list of records, one per published number; fractions, null where not measured."""
    names = ("model", "task", "dataset", "protocol", "url")
    records = []
    for number in numbers:
        metric, entry = number.column.metric, number.measured
        value = None if entry is None else entry.metrics[metric]
        difference = None if value is None else float(text.exact_difference(value, number.value))
        record = {
            **{name: getattr(number.published, name) for name in names},
            "metric": metric,
            "published": number.value,
            "published_precision": _PUBLISHED_PRECISION,
            "measured_precision": number.precision,
            "status": number.status,
            "measured": value,
            "interval": entry.intervals.get(metric) if entry else None,
            "difference": difference,
        }
        records.append(record)
    return text.json_text(records, indent=2, sort_keys=True) + "\n"


def to_markdown(numbers: Sequence[Reproduction]) -> str:
    """Write a table with one row per checkpoint, with its sources and a summary."""
    columns = sorted({number.column for number in numbers})
    titles = ["model", *(f"{column.dataset} {column.title}" for column in columns)]
    rows = (
        [text.markdown_text(model), *map("<br>".join, map(_lines, row))]
        for model, row in _rows(numbers).items()
    )
    table = text.markdown_table(map(text.markdown_text, titles), rows, texts=1)
    sources = "".join(f"- <{url}>\n" for url in sorted({n.published.url for n in numbers}))
    note = precision_note(numbers)
    remark = f"{text.markdown_text(note)}.\n\n" if note else ""
    return f"### {TITLE}\n\n{table}\n{remark}{summary(numbers)}. Published by:\n\n{sources}"


def to_tables(numbers: Sequence[Reproduction], width: int) -> list[Table]:
    """Return the same for the terminal, at most `width` characters wide."""
    from rich.text import Text

    rows = _rows(numbers)
    urls = sorted({number.published.url for number in numbers})
    return grid_tables(
        TITLE,
        width,
        texts=["model"],
        columns=sorted({number.column for number in numbers}),
        heads=[[model] for model in rows],
        cells=[[Text("\n".join(_lines(number))) for number in row] for row in rows.values()],
        notes=[summary(numbers), *filter(None, [precision_note(numbers)]), *urls],
    )


def _rows(numbers: Sequence[Reproduction]) -> dict[str, list[Reproduction]]:
    by_model = groupby(numbers, key=lambda number: number.published.model)
    return {model: list(row) for model, row in by_model}


def _lines(number: Reproduction) -> list[str]:
    """The published number; below it the measured one, its interval and the difference."""
    if number.measured is None:
        return [str(text.percent(number.value)), number.status]
    metric = number.column.metric
    value = number.measured.metrics[metric]
    known = metric_of(number.measured.task, metric)
    mark = f" {_OUTSIDE}" if number.status == "outside" else ""
    return [
        *(str(text.percent(fraction)) for fraction in (number.value, value)),
        *filter(None, [text.bounds(known, number.measured.intervals.get(metric))]),
        text.difference(value, number.value) + mark,
    ]
