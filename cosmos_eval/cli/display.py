"""What the commands print: tables and JSON on standard output, progress on standard error."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from cosmos_eval.results.labels import RESULTS as RESULTS
from cosmos_eval.results.text import is_share, json_text, one_line, p_value_text
from cosmos_eval.types import Progress as Step

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from cosmos_eval.embedding.cache import Space
    from cosmos_eval.report import Page
    from cosmos_eval.report.attention import Row
    from cosmos_eval.results.compare import Comparison, MetricTest
    from cosmos_eval.results.gate.check import Report
    from cosmos_eval.results.leaderboard import Entry, Format, Reproduction, Ties
    from cosmos_eval.results.record import ResultRow
    from cosmos_eval.results.verify import Verdict
    from cosmos_eval.runner.batch import Failed
    from cosmos_eval.runner.doctor import Diagnosis
    from cosmos_eval.runner.pending import ExistingResult
    from cosmos_eval.runner.preview import Preview

ReproductionFormat = Literal["table", "md", "json"]

# Wide enough for any table where no terminal says how wide it is.
_WIDTH_OF_FILES = 200


def _console() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH_OF_FILES
    return Console(width=width, highlight=False, markup=False, emoji=False)


def _say(text: str, *, error: bool = False) -> None:
    """Print a line on standard output, or on standard error."""
    print(one_line(text), file=sys.stderr if error else sys.stdout)


# Of the most frequent mistakes, which the result file has in full.
_PAIRS_SHOWN = 3

# Seconds between two lines about the same phase where there is no terminal.
_PATIENCE = 10.0


class Progress:
    """Bars on a terminal, elsewhere now and then a line; a line for every result in both.

    Nothing is printed for phases that are quickly over, so that an error in the data or in the
    model's name stays the only line.
    """

    def __init__(self, *, silent: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._console = Console(
            stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=silent
        )
        description = TextColumn("{task.description}", markup=False)
        columns = (description, BarColumn(), MofNCompleteColumn())
        self._bars = Bars(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._last_line: dict[tuple[str, str], float] = {}

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Elsewhere the bars would leave an empty line.
        if self._console.is_terminal:
            self._bars.stop()

    def step(self, what: str, step: Step) -> None:
        """Show how far a phase is, and its note; the first call of a phase starts it."""
        if step.note:
            self._console.print(one_line(f"{what}: {step.note}"))
        if self._console.is_terminal:
            self._show_bar(what, step)
        else:
            self._show_line(what, step)

    def wrote(self, path: Path) -> None:
        """Tell that a result is on the disk; its phases are over."""
        for task in self._tasks.values():
            self._bars.update(task, visible=False)
        self._console.print(one_line(f"wrote {path}"))

    def found(self, existing: ExistingResult) -> None:
        """Tell of a result file that was there before."""
        line = existing.fault and f"{existing.fault}: measured again"
        self._console.print(one_line(line or f"there already: {existing.path}"))

    def failed(self, event: Failed) -> None:
        """Tell what has no result, and why."""
        models = {pair.model for pair in event.pairs}
        sets = {f"{pair.dataset} ({pair.family})" for pair in event.pairs}
        who = models.pop() if len(models) == 1 else f"{len(models)} models"
        on = ", ".join(sorted(sets))
        self._console.print(one_line(f"failed: {who} on {on}: {event.reason}"))

    def _show_bar(self, what: str, step: Step) -> None:
        key = (what, step.phase)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(
                one_line(f"{what}: {step.phase}"), total=step.total
            )
        self._bars.update(self._tasks[key], completed=step.done, total=step.total)

    def _show_line(self, what: str, step: Step) -> None:
        now = time.monotonic()
        last = self._last_line.setdefault((what, step.phase), now)
        if now - last >= _PATIENCE:
            self._last_line[what, step.phase] = now
            self._console.print(one_line(f"{what}: {step.phase} {step.done}/{step.total}"))


def show_preview(previews: Sequence[Preview], *, as_json: bool) -> None:
    """Print what would be measured, what of it is there already, and about how long it takes."""
    if as_json:
        print_json([_preview_record(preview) for preview in previews])
        return
    show_records([_preview_row(preview) for preview in previews], as_json=False)
    missing = {
        preview.pair.dataset: preview.data
        for preview in previews
        if preview.data in ("not found", "no --data-root")
    }
    for dataset, data in missing.items():
        _say(f"data of {dataset}: {data}")
    left = [preview for preview in previews if not preview.is_there]
    known = [preview.estimate for preview in left if preview.estimate is not None]
    _say(f"there already: {len(previews) - len(left)} of {len(previews)}")
    if known:
        seconds = sum(estimate.seconds for estimate in known)
        _say(
            f"estimate for {len(known)} of the other {len(left)}: about {_duration(seconds)}, one "
            "after the other, each encoding all its images itself"
        )
        for basis in dict.fromkeys(estimate.basis for estimate in known):
            _say(f"estimated from {basis}")


def _preview_record(preview: Preview) -> dict[str, Any]:
    existing, estimate = preview.existing, preview.estimate
    return {
        "model": preview.pair.model,
        "task": preview.task,
        "dataset": preview.pair.dataset,
        "protocol": preview.pair.family,
        "data": None if preview.folder is None else str(preview.folder),
        "data_state": preview.data,
        "samples": preview.samples,
        "result": None if existing is None else str(existing.path),
        "result_fault": None if existing is None else existing.fault or None,
        "embeddings_kept": preview.kept,
        "estimated_seconds": None if estimate is None else round(estimate.seconds, 1),
        "estimated_from": None if estimate is None else estimate.basis,
    }


def _preview_row(preview: Preview) -> dict[str, str]:
    existing, estimate, kept = preview.existing, preview.estimate, preview.kept
    found = "" if existing is None else "damaged" if existing.fault else "there"
    counts = ", ".join(f"{count} {role}" for role, count in (kept or {}).items())
    return {
        "model": preview.pair.model,
        "task": preview.task,
        "dataset": preview.pair.dataset,
        "protocol": preview.pair.family,
        "data": preview.data,
        "samples": "" if preview.samples is None else str(preview.samples),
        "result": found,
        "embeddings kept": "unknown" if kept is None else counts or "none",
        "estimate": "unknown" if estimate is None else f"~{_duration(estimate.seconds)}",
    }


def _duration(seconds: float) -> str:
    """A time in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def show_summary(measured: int, kept: int, failed: int) -> None:
    """Tell on standard error how many results there are of each kind."""
    _say(f"measured {measured}, there already {kept}, failed {failed}", error=True)


def show_results(paths: Sequence[Path], *, as_json: bool) -> None:
    """Print the results that a run has just stored."""
    from cosmos_eval.results.leaderboard import measured, to_tables
    from cosmos_eval.results.store import read_result

    if as_json:
        print_json([json.loads(path.read_text("utf-8")) for path in paths])
        return
    rows = [read_result(path) for path in paths]
    console = _console()
    for table in to_tables(measured(rows), console.width):
        console.print(table)
    for row in rows:
        if row.confusion_pairs:
            _say(_most_confused(row), error=True)
    show_notes(dict.fromkeys(note for row in rows for note in row.provenance["notes"]))


def _most_confused(row: ResultRow) -> str:
    """The most frequent mistakes of a classification, in a line."""
    pairs = ", ".join(
        f"{pair['true']} as {pair['predicted']} ({pair['images']})"
        for pair in row.confusion_pairs[:_PAIRS_SHOWN]
    )
    return f"most confused by {row.model['spec']} on {row.dataset} ({row.protocol}): {pairs}"


def show_leaderboard(entries: Sequence[Entry], ties: Ties, form: Format) -> None:
    """Print entries in a form; `ties` is what samples told of those near the best."""
    from cosmos_eval.results import leaderboard

    if form == "table":
        console = _console()
        for table in leaderboard.to_tables(entries, console.width, ties):
            console.print(table)
    else:
        sys.stdout.write(leaderboard.WRITERS[form](entries, ties))


def show_reproductions(numbers: Sequence[Reproduction], form: ReproductionFormat) -> None:
    """Print published numbers of the released checkpoints beside those measured here."""
    from cosmos_eval.results import leaderboard

    if form == "json":
        sys.stdout.write(leaderboard.reproductions_to_json(numbers))
    elif form == "md":
        sys.stdout.write(leaderboard.reproductions_to_markdown(numbers))
    else:
        console = _console()
        for table in leaderboard.reproductions_to_tables(numbers, console.width):
            console.print(table)


def show_comparison(comparison: Comparison, unpaired: Sequence[str], *, as_json: bool) -> None:
    """Print the differences of two models, headline metrics with Holm's p-value; notes apart."""
    from cosmos_eval.results.compare import to_records

    if as_json:
        content = to_records(comparison)
        print_json({**content, "notes": [*unpaired, *content["notes"]]})
        return
    _say(f"A: {comparison.a}")
    _say(f"B: {comparison.b}")
    show_records([_compared(test) for test in comparison.tests], as_json=False)
    show_notes((*unpaired, *comparison.notes))


def _compared(test: MetricTest) -> dict[str, str]:
    difference = test.difference
    factor = 100 if is_share(test.metric) else 1
    low, high = difference.interval()[:2]
    least = difference.detectable()
    return {
        "data set": test.dataset,
        "protocol": test.protocol,
        "metric": test.metric,
        "A": f"{factor * difference.a:.2f}",
        "B": f"{factor * difference.b:.2f}",
        "A - B [95%]": f"{factor * difference.difference:+.2f} "
        f"[{factor * low:+.2f}, {factor * high:+.2f}]",
        "p": p_value_text(difference.p_value),
        "p (Holm)": "" if test.adjusted is None else p_value_text(test.adjusted),
        "better": test.better,
        "detectable": "" if least is None else f"{factor * least:.2f}",
        "test": f"{difference.method}, n = {difference.units}",
    }


def show_report(report: Report, *, as_json: bool) -> None:
    """Print a check: all metrics, the verdict; why something cannot be decided apart."""
    from cosmos_eval.results.gate.reports import to_cells, to_records, tolerance_text

    if as_json:
        print_json(to_records(report))
    else:
        if report.findings:
            show_records([to_cells(finding) for finding in report.findings], as_json=False)
        _say(f"baseline: {report.baseline}{tolerance_text(report)}")
        _say(report.verdict)
    show_notes(report.notes)
    for problem in report.problems:
        _say(f"cosmos-eval: cannot decide: {problem}", error=True)


def show_changes(baseline: Path, changes: Sequence[Mapping[str, str]], *, as_json: bool) -> None:
    """Print what a new baseline has changed."""
    show_records(changes, as_json=as_json)
    show_wrote(baseline)


def show_verdicts(verdicts: Sequence[Verdict], *, as_json: bool) -> None:
    """Print what was found of results, a line a finding, then how many are verified."""
    if as_json:
        print_json([{**verdict._asdict(), "outcome": verdict.outcome} for verdict in verdicts])
        return
    for verdict in verdicts:
        if verdict.outcome == "verified":
            _say(f"{verdict.path}: verified, {verdict.figures} figures")
        for line in verdict.differences or filter(None, [verdict.obstacle]):
            _say(f"{verdict.path}: {line}")
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    _say(f"{len(verdicts)} results: {counts}")


def show_diagnoses(diagnoses: Sequence[Diagnosis], *, as_json: bool) -> None:
    """Print what was found of data sets: a summary table, then faults and remedies, a line each."""
    from cosmos_eval.tasks import task_named

    if as_json:
        first = ("dataset", "task", "whole")
        rows = [dataclasses.asdict(diagnosis) for diagnosis in diagnoses]
        print_json([{**{name: row[name] for name in first}, **row} for row in rows])
        return
    table = [_summary(diagnosis) for diagnosis in diagnoses]
    columns = [name for name in table[0] if any(row[name] for row in table)]
    show_records([{name: row[name] for name in columns} for row in table], as_json=False)
    for task in dict.fromkeys(diagnosis.task for diagnosis in diagnoses):
        _say(f"looked at for {task}: {task_named(task).checked}")
    for diagnosis in diagnoses:
        for fault in diagnosis.faults:
            _say(f"{diagnosis.dataset}: {fault}")
        if diagnosis.remedy:
            _say(f"{diagnosis.dataset}: to mend it: {diagnosis.remedy}")


def _summary(diagnosis: Diagnosis) -> dict[str, str]:
    expected = diagnosis.expected
    counts = {
        "images": (diagnosis.images, expected),
        "captions": (diagnosis.captions, diagnosis.expected_captions),
        "items": (diagnosis.items, diagnosis.expected_items),
        "label maps": (diagnosis.label_maps, expected),
    }
    ranges = {"labels": diagnosis.labels, "of": diagnosis.classes}
    return {
        "dataset": diagnosis.dataset,
        "task": diagnosis.task,
        "whole": "yes" if diagnosis.whole else "NO",
        **{key: "" if n is None else f"{n} of {of}" for key, (n, of) in counts.items()},
        **{key: "" if ends is None else f"{ends[0]}-{ends[1]}" for key, ends in ranges.items()},
        "suffix": diagnosis.mask_suffix or "",
        "folder": diagnosis.folder or diagnosis.note,
    }


def show_cache(folder: Path, limit: int, spaces: Sequence[Space], *, as_json: bool) -> None:
    """Print what embeddings are kept, a line a model and role, and how much room they take."""
    size = sum(space.size for space in spaces)
    if as_json:
        listed = [space._asdict() for space in spaces]
        content = {"folder": str(folder), "bytes": size, "limit_bytes": limit, "spaces": listed}
        print_json(content)
        return
    if spaces:
        show_records([_kept(space) for space in spaces], as_json=False)
    _say(f"{folder}: {size / 1e6:.1f} MB of {limit / 1e9:g} GB")


def _kept(space: Space) -> dict[str, str]:
    identity = space.identity
    used = datetime.fromtimestamp(space.used, timezone.utc)
    return {
        "of": str(identity.get("role", "unknown")),
        "architecture": _shortened(str(identity.get("architecture", ""))),
        "weights": str(identity.get("weights_sha256", ""))[:12],
        "precision": str(identity.get("precision", "")),
        "embeddings": str(space.embeddings),
        "MB": f"{space.size / 1e6:.1f}",
        "used (UTC)": f"{used:%Y-%m-%d %H:%M}",
    }


def _shortened(text: str, length: int = 24) -> str:
    """A configuration instead of a name is too long for a table."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def show_looks(rows: Sequence[Row], out: Path, *, as_json: bool) -> None:
    """Print where maps are largest; of a single row also what its words weigh. Notes apart."""
    from cosmos_eval.report.attention import map_table, notes, to_records, word_tables

    if as_json:
        print_json(to_records(rows))
    else:
        show_records(map_table(rows), as_json=False)
        for table in word_tables(rows[0]) if len(rows) == 1 else ():
            show_records(table, as_json=False)
    show_notes(notes(rows, out))


def show_shares(shares: Mapping[str, float], *, as_json: bool) -> None:
    """Print the share of an image's pixels that each class has."""
    if as_json:
        print_json(shares)
        return
    records = [
        {"class": name, "pixels (%)": f"{100 * share:.1f}"} for name, share in shares.items()
    ]
    show_records(records, as_json=False)


def show_notes(notes: Iterable[str]) -> None:
    """Print notes on standard error, one per line."""
    for note in notes:
        _say(f"note: {note}", error=True)


def show_page(path: Path, page: Page) -> None:
    """Tell on standard error that a page is on the disk, how large it is, and what it lacks."""
    _say(f"wrote {path}, {len(page.content) / 1e6:.1f} MB", error=True)
    for note in page.notes:
        _say(f"note: not shown: {note}", error=True)


def show_wrote(path: Path) -> None:
    """Tell on standard error that a file is on the disk."""
    _say(f"wrote {path}", error=True)


def show_records(records: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print records with the same keys as a table or as JSON."""
    if as_json:
        print_json(records)
        return
    from rich import box
    from rich.table import Table

    table = Table(*map(one_line, records[0]), box=box.SIMPLE)
    for record in records:
        table.add_row(*(one_line(str(value)) for value in record.values()))
    _console().print(table)


def print_json(content: Any) -> None:
    """Print one JSON document; where standard output is not UTF-8, with JSON's own escapes."""
    is_ascii = (sys.stdout.encoding or "").lower() != "utf-8"
    print(json_text(content, indent=2, sort_keys=True, ensure_ascii=is_ascii))
