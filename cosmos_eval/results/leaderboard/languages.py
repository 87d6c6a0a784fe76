"""Tables of data sets in many languages: a row for each language, and a column for each model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cosmos_eval.protocols.languages import language_of
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.table import BY_NAME, Cell, Head, Table, TableOptions
from cosmos_eval.results.text import metric_text
from cosmos_eval.tasks import Metric, metric_of, usable_task

_MEAN = "mean"


class LanguageTable(NamedTuple):
    """The numbers of models on the languages of a set, such as `xm3600`, under one protocol."""

    task: str
    language_set: str
    protocol: str
    # The metrics whose mean is the number of a language; they have the same unit.
    metrics: tuple[Metric, ...]
    # The names of the models, with the source of numbers that were not measured here. Measured ones
    # come first, then the others from the highest mean down.
    models: tuple[str, ...]
    # The languages from the one with the lowest mean over the models up.
    languages: tuple[str, ...]
    # The number of each language and model; pairs without one are missing.
    values: Mapping[tuple[str, str], float]

    @property
    def title(self) -> str:
        """The title of the table: `Languages of xm3600 (clip-benchmark): R@1 (%)`."""
        names = [metric.name for metric in self.metrics]
        numbers = f"mean of {' and '.join(names)}" if len(names) > 1 else names[0]
        unit = ", %" if self.metrics[0].in_percent else ""
        return f"Languages of {self.language_set} ({self.protocol}): {numbers}{unit}"

    def mean(self, model: str) -> float | None:
        """Return the mean of a model over all languages; None if it lacks one."""
        values = [self.values.get((language, model)) for language in self.languages]
        known_values = [value for value in values if value is not None]
        if len(known_values) < len(values):
            return None
        return float(np.mean(known_values))

    def text(self, value: float | None, decimals: int | None = None) -> str:
        """Return a number as tables show it, in percent for fractions; `-` for None."""
        return "-" if value is None else metric_text(self.metrics[0], value, decimals)

    def table(self, options: TableOptions) -> Table:
        """Return the table for a terminal or a file: the means, then the languages.

        Args:
            options: How many decimals numbers have, and whether rows are sorted by name.
        """
        languages = sorted(self.languages) if options.sort == BY_NAME else self.languages
        mean_cells = [Cell(self.text(self.mean(model), options.decimals)) for model in self.models]
        rows = [(Cell(_MEAN), *mean_cells)]
        for language in languages:
            cells = [Cell(language)]
            for model in self.models:
                value = self.values.get((language, model))
                cells.append(Cell(self.text(value, options.decimals)))
            rows.append(tuple(cells))
        return Table(
            title=self.title,
            heads=(Head("language"), *(Head(model) for model in self.models)),
            rows=tuple(rows),
            label=f"languages-{self.language_set}",
        )


def language_tables(entries: Iterable[Entry]) -> list[LanguageTable]:
    """Return a table for each set in several languages that entries of leaderboards belong to.

    The number of a language is the mean of the metrics that a user chose, or else of the primary
    metrics of the task. A set of which there is one language only has no table.
    """
    entries_by_table: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        language = language_of(entry.dataset_name)
        if language is not None and _metrics_of(entry):
            key = (entry.task, language.language_set, entry.protocol)
            entries_by_table.setdefault(key, []).append(entry)
    tables = []
    for (task, language_set, protocol), table_entries in entries_by_table.items():
        table = _make_table(task, language_set, protocol, table_entries)
        if len(table.languages) > 1:
            tables.append(table)
    return tables


def without_languages(entries: Iterable[Entry], tables: Sequence[LanguageTable]) -> list[Entry]:
    """Return the entries that none of the tables of languages shows."""
    shown_sets = {(table.language_set, table.protocol) for table in tables}
    other_entries = []
    for entry in entries:
        language = language_of(entry.dataset_name)
        if language is None or (language.language_set, entry.protocol) not in shown_sets:
            other_entries.append(entry)
    return other_entries


def _make_table(
    task: str, language_set: str, protocol: str, entries: Sequence[Entry]
) -> LanguageTable:
    """Return the table of the entries of one set, with the metrics of the first entry."""
    metric_names = _metrics_of(entries[0])
    values: dict[tuple[str, str], float] = {}
    values_by_language: dict[str, list[float]] = {}
    for entry in entries:
        language = language_of(entry.dataset_name)
        has_all_metrics = all(name in entry.metrics for name in metric_names)
        if language is None or not has_all_metrics:
            continue
        value = float(np.mean([entry.metrics[name] for name in metric_names]))
        values[language.language, _model_name(entry)] = value
        values_by_language.setdefault(language.language, []).append(value)

    def sort_key(language: str) -> tuple[float, str]:
        """Return the mean over the models, and the name."""
        return float(np.mean(values_by_language[language])), language

    measured_models = [entry.model for entry in entries if entry.source == "measured"]
    values_by_model: dict[str, list[float]] = {}
    for (_, model), value in values.items():
        values_by_model.setdefault(model, []).append(value)

    def model_key(model: str) -> tuple[bool, float, str]:
        """Return whether a model was measured elsewhere, minus its mean then, and its name."""
        is_measured = model in measured_models
        mean = 0.0 if is_measured else float(np.mean(values_by_model[model]))
        return not is_measured, -mean, model

    return LanguageTable(
        task=task,
        language_set=language_set,
        protocol=protocol,
        metrics=tuple(metric_of(task, name) for name in metric_names),
        models=tuple(sorted(values_by_model, key=model_key)),
        languages=tuple(sorted(values_by_language, key=sort_key)),
        values=values,
    )


def _metrics_of(entry: Entry) -> tuple[str, ...]:
    """Return the metrics whose mean stands for an entry: the chosen or else the primary ones."""
    if entry.titles:
        return tuple(name for name in entry.titles if name in entry.metrics)
    task = usable_task(entry.task)
    if task is None:
        return ()
    return tuple(m.name for m in task.metrics if m.primary and m.name in entry.metrics)


def _model_name(entry: Entry) -> str:
    """Return the name of an entry's model, with its source unless it was measured here."""
    if entry.source == "measured":
        return entry.model
    return f"{entry.model} ({entry.source})"
