"""Compare the published numbers of the released checkpoints with the numbers measured here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from cosmos_eval.models.specs import RELEASED
from cosmos_eval.protocols.facts import released_model
from cosmos_eval.results import table, text
from cosmos_eval.results.leaderboard.board import Column, columns_of
from cosmos_eval.results.leaderboard.entries import AMP, Entry, read_published_entries
from cosmos_eval.results.table import USUAL, Cell, Head, Table, TableOptions
from cosmos_eval.results.terminal import notes_text, to_terminal
from cosmos_eval.tasks import metric_of

if TYPE_CHECKING:
    from rich.text import Text

TITLE = "Released checkpoints: published and measured (%)"
TOLERANCE = 0.001
"""The tolerated distance of a true reproduction from the unrounded published value, a fraction.

Model and images are the same, so that only the arithmetic differs: half precision changes the order
of a few nearly equal scores. 0.1 points are one of the 1,014 images of flickr30k-val.
"""
ROUNDING = 0.0005
"""The most by which rounding to 0.1% moves a published number, as a fraction."""

_MARKS = {"near": "?", "differs": "!"}
# github.com/ExplainableML/cosmos: the default of `--precision` in its params.py is `amp`, and its
# README says that amp was used. On a GPU that is autocast to float16.
_PUBLISHED_PRECISION = "amp float16"


Status = Literal["reproduced", "near", "differs", "unverified"]


class Reproduction(NamedTuple):
    """A published number of a released checkpoint, and the number that was measured here."""

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
        difference = float(text.exact_difference(self.measured.metrics[metric], self.value))
        float_error = 1e-9
        is_reproduced = abs(difference) <= ROUNDING + TOLERANCE + float_error
        if is_reproduced:
            return "reproduced"
        interval = self.measured.intervals.get(metric)
        if interval is not None and interval["low"] <= self.value <= interval["high"]:
            return "near"
        return "differs"

    @property
    def precision(self) -> str | None:
        """The precision of the measured number: "fp32", "bf16" or "amp float16"; None without it.

        Mixed precision (amp) computes in float16 on a GPU and in bfloat16 on a CPU.
        """
        if self.measured is None or self.measured.stored is None:
            return None
        provenance = self.measured.stored.row.provenance
        if provenance["precision"] != "amp":
            return str(provenance["precision"])
        is_cuda = str(provenance["device"]).startswith("cuda")
        return "amp float16" if is_cuda else "amp bfloat16"

    @property
    def value(self) -> float:
        """The published number, as a fraction."""
        return self.published.metrics[self.column.metric]


def find_reproductions(entries: Iterable[Entry]) -> list[Reproduction]:
    """Return every published number of the released checkpoints with the number measured here.

    They are in the order of `RELEASED`, and then of data sets and metrics. A measured number must
    be of the teacher and of all samples. It is in mixed precision like the published number, or in
    float32 if there is none in mixed precision. A checkpoint is recognized by its released name, or
    by the SHA-256 of its file under any path.

    Args:
        entries: The results that were measured here.
    """
    # Label the results as published numbers are labelled.
    measured_entries = {}
    for entry in entries:
        key = entry.key._replace(model=_label_by_release(entry), dataset=entry.dataset_name)
        measured_entries[key] = entry

    # Find the measured entry of each published one.
    released_models = [f"cosmos:{name}" for name in RELEASED]
    reproductions = []
    for published_entry in read_published_entries():
        if published_entry.model not in released_models:
            continue
        float32_key = published_entry.key._replace(source="measured", url="")
        amp_key = float32_key._replace(model=published_entry.model + AMP)
        measured_entry = measured_entries.get(amp_key, measured_entries.get(float32_key))
        for column in columns_of(published_entry):
            reproductions.append(Reproduction(published_entry, column, measured_entry))
    return sorted(
        reproductions,
        key=lambda number: (released_models.index(number.published.model), number.column),
    )


def _label_by_release(entry: Entry) -> str:
    """Return the label of an entry with the released name of its checkpoint as the model's name.

    Labels of other checkpoints have the model's specification.

    Example:
        "cosmos:/data/downloaded.pt (amp)" -> "cosmos:vitb32_cc3m (amp)" if the file has the hash of
        this release.
    """
    spec_label = entry.spec_label
    if entry.stored is None:
        return spec_label
    released_name = released_model(entry.stored.row.model["weights_sha256"])
    if not released_name:
        return spec_label
    spec = entry.stored.identity.spec
    return spec_label.replace(spec, released_name, 1)


def exit_status(reproductions: Sequence[Reproduction]) -> int:
    """Return the exit status of the command that compares the numbers.

    It is 0 if all numbers are reproduced, 1 if any number differs or is only near, and 2 if numbers
    were not measured.
    """
    statuses = {reproduction.status for reproduction in reproductions}
    if "near" in statuses or "differs" in statuses:
        return 1
    if "unverified" in statuses or not statuses:
        return 2
    return 0


def precision_note(reproductions: Sequence[Reproduction]) -> str | None:
    """Return a line that counts the numbers that were measured in another precision.

    Returns None if all numbers were measured in the precision of the published numbers.

    Example:
        "Published in amp float16, measured here: 3 in bf16, 12 in fp32; --precision amp on a GPU
        measures as published"
    """
    counts: Counter[str | None] = Counter()
    for reproduction in reproductions:
        if reproduction.measured is not None:
            counts[reproduction.precision] += 1
    counts.pop(_PUBLISHED_PRECISION, None)
    if not counts:
        return None
    count_texts = [f"{count} in {precision}" for precision, count in sorted(counts.items())]
    counts_text = ", ".join(count_texts)
    return (
        f"Published in {_PUBLISHED_PRECISION}, measured here: {counts_text}; "
        "--precision amp on a GPU measures as published"
    )


def summarize(reproductions: Sequence[Reproduction]) -> str:
    """Return a line that counts the numbers by their status, and explains the marks."""
    counts = Counter(reproduction.status for reproduction in reproductions)
    return (
        f"{len(reproductions)} published numbers: {counts['reproduced']} reproduced (within "
        f"{100 * (ROUNDING + TOLERANCE):g} points), {counts['near']} near (marked "
        f"{_MARKS['near']}: inside the measured interval, but model and images are the same, so "
        f"look for the cause), {counts['differs']} differ (marked {_MARKS['differs']}), "
        f"{counts['unverified']} unverified"
    )


def to_json(reproductions: Iterable[Reproduction]) -> str:
    """Return the numbers as JSON: a list of records, one per published number.

    Numbers are fractions. The measured number and the difference are null if there is none.
    """
    records = []
    for reproduction in reproductions:
        metric = reproduction.column.metric
        published_entry = reproduction.published
        measured_entry = reproduction.measured
        measured_value = interval = difference = None
        if measured_entry is not None:
            measured_value = measured_entry.metrics[metric]
            interval = measured_entry.intervals.get(metric)
            difference = float(text.exact_difference(measured_value, reproduction.value))
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
            "measured": measured_value,
            "interval": interval,
            "difference": difference,
        }
        records.append(record)
    return text.json_text(records, indent=2, sort_keys=True) + "\n"


def to_markdown(reproductions: Sequence[Reproduction], options: TableOptions = USUAL) -> str:
    """Return the numbers as a table in Markdown, with a summary and the sources below it."""
    return table.to_markdown(_make_table(reproductions, options))


def to_texts(
    reproductions: Sequence[Reproduction], width: int, options: TableOptions = USUAL
) -> Iterator[Text]:
    """Yield the table of the numbers for a terminal, and then its notes.

    They are at most `width` characters wide.
    """
    number_table = _make_table(reproductions, options)
    yield from to_terminal(number_table, width)
    yield notes_text(number_table.notes, width)


def _make_table(reproductions: Sequence[Reproduction], options: TableOptions) -> Table:
    """Return the table of the numbers, with one row per number and one section per metric.

    Its notes are a summary, the precision of the measured numbers, and the sources.
    """
    rows, sections = [], []
    for reproduction in sorted(reproductions, key=lambda number: number.column):
        model_cell = Cell(reproduction.published.model)
        rows.append((model_cell, *_number_cells(reproduction, options)))
        sections.append(f"{reproduction.column.dataset}, {reproduction.column.title}")

    notes = [f"{summarize(reproductions)}."]
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
    return table.sorted_by(number_table, options.sort)


def _number_cells(reproduction: Reproduction, options: TableOptions) -> tuple[Cell, Cell, Cell]:
    """Return three cells: the published number, the measured number, and their difference.

    Without a measured number, the second cell is "unverified", and the third is empty.

    Args:
        reproduction: The published and the measured number.
        options: How many decimals numbers have, and whether intervals are shown.

    Example:
        The texts "49.6", "49.5" and "-0.1". A difference that is too large has a mark behind it, as
        in "-0.9 !".
    """
    metric = reproduction.column.metric
    measured_entry = reproduction.measured
    decimals = options.decimals
    published_cell = Cell(str(text.percent(reproduction.value, decimals)))
    if measured_entry is None:
        return published_cell, Cell(reproduction.status), Cell()

    value = measured_entry.metrics[metric]
    ends: tuple[str, ...] = ()
    if options.intervals:
        metric_record = metric_of(measured_entry.task, metric)
        interval = measured_entry.intervals.get(metric)
        ends = text.interval_ends(metric_record, value, interval, decimals)
    measured_cell = Cell(str(text.percent(value, decimals)), ends)

    difference = text.difference_text(value, reproduction.value, decimals)
    if reproduction.status in _MARKS:
        difference += f" {_MARKS[reproduction.status]}"
    return published_cell, measured_cell, Cell(difference)
