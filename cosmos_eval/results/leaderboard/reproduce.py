"""The released checkpoints' published numbers, each beside what was measured here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cosmos_eval.models.specs import RELEASED
from cosmos_eval.results.leaderboard.board import Column, columns_of
from cosmos_eval.results.leaderboard.entries import AMP, Entry, Key, Source, published
from cosmos_eval.results.leaderboard.terminal import Grid, grid_tables
from cosmos_eval.results.leaderboard.writers import markdown_table
from cosmos_eval.results.text import (
    bounds,
    difference,
    exact_difference,
    json_text,
    markdown_text,
    percent,
)
from cosmos_eval.tasks import metric_of

if TYPE_CHECKING:
    from rich.table import Table

Status = Literal["inside", "outside", "measured", "unverified"]

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
    def status(self) -> Status:
        """Where the published number lies: `measured` is said where there is no interval."""
        if self.measured is None:
            return "unverified"
        interval = self.measured.intervals.get(self.column.metric)
        if interval is None:
            return "measured"
        return "inside" if interval["low"] <= self.value <= interval["high"] else "outside"

    @property
    def precision(self) -> str | None:
        """How the measured number was computed: the precision, and for `amp` its type.

        None where nothing was measured.
        """
        if self.measured is None or self.measured.result is None:
            return None
        record = self.measured.result.provenance
        precision = str(record["precision"])
        half = "float16" if str(record["device"]).startswith("cuda") else "bfloat16"
        return f"amp {half}" if precision == "amp" else precision

    @property
    def value(self) -> float:
        """The published number, a fraction."""
        return self.published.metrics[self.column.metric]


def reproductions(entries: Iterable[Entry]) -> list[Reproduction]:
    """Every published number of the released checkpoints, in the order in which they are named.

    Only a plain result counts as its measurement: the teacher's, of all samples, in mixed precision
    as the published one or else in float32.
    """
    found = {entry.key: entry for entry in entries}
    numbers = [
        Reproduction(entry, column, _measurement(entry, found))
        for entry in published()
        if entry.model.removeprefix("cosmos:") in RELEASED
        for column in columns_of(entry)
    ]
    order = list(RELEASED)
    return sorted(
        numbers,
        key=lambda number: (
            order.index(number.published.model.removeprefix("cosmos:")),
            number.column,
        ),
    )


def _measurement(number: Entry, found: Mapping[Key, Entry]) -> Entry | None:
    source: Source = "measured"
    key = number.key._replace(source=source, url="")
    return found.get(key._replace(model=number.model + AMP), found.get(key))


def precision_note(numbers: Sequence[Reproduction]) -> str | None:
    """Name the precisions of measured numbers that are not the published one, in a line."""
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
    """How many were measured and how many of those hold, in a line."""
    counts = Counter(number.status for number in numbers)
    measured = len(numbers) - counts["unverified"]
    return (
        f"{len(numbers)} published numbers: {measured} measured ({counts['outside']} outside the "
        f"measured interval, marked {_OUTSIDE}), {counts['unverified']} unverified"
    )


def reproductions_to_json(numbers: Iterable[Reproduction]) -> str:
    """A list of records, a published number each; fractions, null where nothing was measured."""
    records = [_record(number) for number in numbers]
    return json_text(records, indent=2, sort_keys=True) + "\n"


def reproductions_to_markdown(numbers: Sequence[Reproduction]) -> str:
    """A table with a row a checkpoint as GitHub's Markdown, with its sources and a summary."""
    titles = ["model", *(f"{column.dataset} {column.title}" for column in _columns(numbers))]
    rows = (
        [markdown_text(model), *("<br>".join(_lines(number)) for number in row)]
        for model, row in _rows(numbers)
    )
    table = markdown_table(map(markdown_text, titles), rows, texts=1)
    sources = "".join(f"- <{url}>\n" for url in _urls(numbers))
    note = precision_note(numbers)
    remark = f"{markdown_text(note)}.\n\n" if note else ""
    return f"### {TITLE}\n\n{table}\n{remark}{summary(numbers)}. Published by:\n\n{sources}"


def reproductions_to_tables(numbers: Sequence[Reproduction], width: int) -> list[Table]:
    """The same for the terminal, at most `width` characters wide."""
    from rich.text import Text

    rows = _rows(numbers)
    grid = Grid(
        title=TITLE,
        texts=["model"],
        titles=[f"{column.dataset}\n{column.title}" for column in _columns(numbers)],
        heads=[[model] for model, _ in rows],
        cells=[[Text("\n".join(_lines(number))) for number in row] for _, row in rows],
        notes=[summary(numbers), *filter(None, [precision_note(numbers)]), *_urls(numbers)],
    )
    return grid_tables(grid, width)


def _rows(numbers: Sequence[Reproduction]) -> list[tuple[str, list[Reproduction]]]:
    models = dict.fromkeys(number.published.model for number in numbers)
    return [(model, [n for n in numbers if n.published.model == model]) for model in models]


def _columns(numbers: Iterable[Reproduction]) -> list[Column]:
    return sorted({number.column for number in numbers})


def _urls(numbers: Iterable[Reproduction]) -> list[str]:
    return sorted({number.published.url for number in numbers})


def _lines(number: Reproduction) -> list[str]:
    """The published number; below it the measured one and the difference."""
    published_here = str(percent(number.value))
    if number.measured is None:
        return [published_here, number.status]
    metric = number.column.metric
    value = number.measured.metrics[metric]
    known = metric_of(number.measured.task, metric)
    interval = bounds(known, number.measured.intervals.get(metric))
    mark = f" {_OUTSIDE}" if number.status == "outside" else ""
    return [
        published_here,
        str(percent(value)),
        *([interval] if interval else []),
        difference(value, number.value) + mark,
    ]


def _record(number: Reproduction) -> dict[str, Any]:
    entry, metric = number.published, number.column.metric
    record: dict[str, Any] = {
        **{name: getattr(entry, name) for name in ("model", "task", "dataset", "protocol", "url")},
        "metric": metric,
        "published": number.value,
        "published_precision": _PUBLISHED_PRECISION,
        "measured_precision": number.precision,
        "status": number.status,
        **dict.fromkeys(("measured", "interval", "difference")),
    }
    if number.measured is not None:
        value = number.measured.metrics[metric]
        record["measured"] = value
        record["interval"] = number.measured.intervals.get(metric)
        record["difference"] = float(exact_difference(value, number.value))
    return record
