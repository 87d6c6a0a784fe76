"""The published numbers of the released checkpoints, each beside the number measured here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from cosmos_eval.models.specs import RELEASED
from cosmos_eval.protocols.facts import released_model
from cosmos_eval.results import table, text
from cosmos_eval.results.leaderboard.board import Column, columns_of
from cosmos_eval.results.leaderboard.entries import AMP, Entry, published
from cosmos_eval.results.table import USUAL, Cell, Head, Table, View
from cosmos_eval.results.terminal import notes_text, to_terminal
from cosmos_eval.tasks import metric_of

if TYPE_CHECKING:
    from rich.text import Text

TITLE = "Released checkpoints: published and measured (%)"
TOLERANCE = 0.001
"""How far a true reproduction may lie from the unrounded published value, as a fraction.

Model and images are the same, so that only the arithmetic differs: half precision changes the order
of a few nearly equal scores. 0.1 points are one of the 1,014 images of flickr30k-val.
"""
ROUNDING = 0.0005
"""How far rounding to 0.1% may move a published number, as a fraction."""

_MARKS = {"near": "?", "differs": "!"}
# github.com/ExplainableML/cosmos: the default of `--precision` in its params.py is `amp`, and its
# README says that amp was used. On a GPU that is autocast to float16.
_PUBLISHED_PRECISION = "amp float16"


Status = Literal["reproduced", "near", "differs", "unverified"]


class Reproduction(NamedTuple):
    """A published number of a released checkpoint and the one measured here."""

    # The entry of the published number.
    published: Entry
    # The data set and metric of the number.
    column: Column
    # The entry that was measured here; None if there is none.
    measured: Entry | None

    @property
    def status(self) -> Status:
        """How the measured number agrees with the published one.

        - `reproduced`: they differ by no more than rounding and `TOLERANCE`.
        - `near`: they differ by more, but the published number lies in the measured interval. The
          interval covers other test images. On the same images a difference has a cause, which
          should be looked for.
        - `differs`: the published number lies outside the measured interval.
        - `unverified`: nothing was measured.
        """
        if self.measured is None:
            return "unverified"
        metric = self.column.metric
        difference = text.exact_difference(self.measured.metrics[metric], self.value)
        if abs(float(difference)) <= ROUNDING + TOLERANCE + 1e-9:
            return "reproduced"
        interval = self.measured.intervals.get(metric)
        if interval is not None and interval["low"] <= self.value <= interval["high"]:
            return "near"
        return "differs"

    @property
    def precision(self) -> str | None:
        """The precision of the measured number, for `amp` with its type; None without a number."""
        if self.measured is None or self.measured.stored is None:
            return None
        provenance = self.measured.stored.row.provenance
        if provenance["precision"] != "amp":
            return str(provenance["precision"])
        is_cuda = str(provenance["device"]).startswith("cuda")
        return "amp float16" if is_cuda else "amp bfloat16"

    @property
    def value(self) -> float:
        """The published number."""
        return self.published.metrics[self.column.metric]


def reproductions(entries: Iterable[Entry]) -> list[Reproduction]:
    """Return every published number of the released checkpoints with the number measured here.

    Checkpoints are in the order of `RELEASED`. A measurement must be of the teacher and of all
    samples. It is in mixed precision, like the published number, or in float32 if there is none. A
    checkpoint is recognized by its released name, or by the SHA-256 of its file under any path.
    """
    measured_entries = {}
    for entry in entries:
        key = entry.key._replace(model=_released_label(entry), dataset=entry.dataset_name)
        measured_entries[key] = entry
    models = [f"cosmos:{name}" for name in RELEASED]
    numbers = []
    for entry in published():
        if entry.model not in models:
            continue
        key = entry.key._replace(source="measured", url="")
        amp_key = key._replace(model=entry.model + AMP)
        measured = measured_entries.get(amp_key, measured_entries.get(key))
        numbers += [Reproduction(entry, column, measured) for column in columns_of(entry)]
    return sorted(numbers, key=lambda number: (models.index(number.published.model), number.column))


def _released_label(entry: Entry) -> str:
    """Return the label of an entry with the released name of its weights as the model's name.

    Entries whose weights were not released have the model's specification instead.
    """
    if entry.stored is None:
        return entry.spec_label
    released_name = released_model(entry.stored.row.model["weights_sha256"])
    if not released_name:
        return entry.spec_label
    return entry.spec_label.replace(entry.stored.identity.spec, released_name, 1)


def exit_status(reproductions: Sequence[Reproduction]) -> int:
    """Return 0 if all numbers are reproduced, 1 if one differs or is only near, else 2."""
    statuses = {reproduction.status for reproduction in reproductions}
    if statuses & {"near", "differs"}:
        return 1
    return 2 if "unverified" in statuses or not statuses else 0


def precision_note(reproductions: Sequence[Reproduction]) -> str | None:
    """Return a line that counts the numbers measured in another precision than published.

    Returns None if there are no such numbers.
    """
    counts = Counter(
        reproduction.precision
        for reproduction in reproductions
        if reproduction.measured is not None
    )
    counts.pop(_PUBLISHED_PRECISION, None)
    if not counts:
        return None
    listed = ", ".join(f"{count} in {precision}" for precision, count in sorted(counts.items()))
    return (
        f"Published in {_PUBLISHED_PRECISION}, measured here: {listed}; "
        "--precision amp on a GPU measures as published"
    )


def summary(reproductions: Sequence[Reproduction]) -> str:
    """Return a line that counts the numbers by their status."""
    counts = Counter(reproduction.status for reproduction in reproductions)
    return (
        f"{len(reproductions)} published numbers: {counts['reproduced']} reproduced (within "
        f"{100 * (ROUNDING + TOLERANCE):g} points), {counts['near']} near (marked "
        f"{_MARKS['near']}: inside the measured interval, but model and images are the same, so "
        f"look for the cause), {counts['differs']} differ (marked {_MARKS['differs']}), "
        f"{counts['unverified']} unverified"
    )


def to_json(reproductions: Iterable[Reproduction]) -> str:
    """Write a list of records, one per published number: fractions, null if not measured."""
    records = []
    for reproduction in reproductions:
        metric = reproduction.column.metric
        published_entry, entry = reproduction.published, reproduction.measured
        value = difference = None
        if entry is not None:
            value = entry.metrics[metric]
            difference = float(text.exact_difference(value, reproduction.value))
        record = {
            "model": published_entry.model,
            "task": published_entry.task,
            "dataset": published_entry.dataset,
            "protocol": published_entry.protocol,
            "url": published_entry.url,
            "metric": metric,
            "published": reproduction.value,
            "published_precision": _PUBLISHED_PRECISION,
            "measured_precision": reproduction.precision,
            "status": reproduction.status,
            "measured": value,
            "interval": entry.intervals.get(metric) if entry else None,
            "difference": difference,
        }
        records.append(record)
    return text.json_text(records, indent=2, sort_keys=True) + "\n"


def to_markdown(reproductions: Sequence[Reproduction], view: View = USUAL) -> str:
    """Write a table with one row per number, with its sources and a summary."""
    return table.to_markdown(_table(reproductions, view))


def to_texts(
    reproductions: Sequence[Reproduction], width: int, view: View = USUAL
) -> Iterator[Text]:
    """Yield the table for the terminal, at most `width` characters wide, then its notes."""
    number_table = _table(reproductions, view)
    yield from to_terminal(number_table, width)
    yield notes_text(number_table.notes, width)


def _table(reproductions: Sequence[Reproduction], view: View) -> Table:
    """Return a table with one row per number and a section per metric."""
    rows, sections = [], []
    for reproduction in sorted(reproductions, key=lambda item: item.column):
        rows.append((Cell(reproduction.published.model), *_cells(reproduction, view)))
        sections.append(f"{reproduction.column.dataset}, {reproduction.column.title}")
    notes = [f"{summary(reproductions)}."]
    note = precision_note(reproductions)
    if note:
        notes.append(f"{note}.")
    for url in sorted({reproduction.published.url for reproduction in reproductions}):
        notes.append(f"Published by {url}")
    titles = ("model", "published", "measured", "difference")
    number_table = Table(
        title=TITLE,
        heads=tuple(Head(title) for title in titles),
        rows=tuple(rows),
        notes=tuple(notes),
        sections=tuple(sections),
        section="metric",
    )
    return table.sorted_by(number_table, view.sort)


def _cells(reproduction: Reproduction, view: View) -> tuple[Cell, Cell, Cell]:
    """Return three cells: the published number, the measured number, and their difference."""
    metric, entry, decimals = reproduction.column.metric, reproduction.measured, view.decimals
    published = Cell(str(text.percent(reproduction.value, decimals)))
    if entry is None:
        return published, Cell(reproduction.status), Cell()
    value, interval = entry.metrics[metric], entry.intervals.get(metric)
    ends = text.ends(metric_of(entry.task, metric), value, interval, decimals)
    measured = Cell(str(text.percent(value, decimals)), ends if view.intervals else ())
    mark = f" {_MARKS[reproduction.status]}" if reproduction.status in _MARKS else ""
    return published, measured, Cell(text.difference(value, reproduction.value, decimals) + mark)
