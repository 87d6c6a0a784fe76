"""The score of a suite: the mean of each model over the members of the suite, with ranks.

A suite is a list of data sets with their protocols and metrics, which are its members. Only models
with results of all members have a mean and ranks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from cosmos_core.utils.text import first_of
from cosmos_eval.protocols.languages import language_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.leaderboard.entries import (
    MEAN_RECALL,
    Entry,
    Source,
    read_published_entries,
)
from cosmos_eval.results.leaderboard.suite_means import (
    GroupDifferences,
    Mean,
    ModelResults,
    SuiteMeans,
    mean_over,
    sample_list_key,
)
from cosmos_eval.results.leaderboard.task_tables import select_entries
from cosmos_eval.results.settings import FIELDS_OF_SAMPLES, column_fields
from cosmos_eval.results.store import ReadSamples, read_samples
from cosmos_eval.results.table import (
    BY_NAME,
    BY_RANK,
    USUAL,
    Cell,
    Head,
    NamePatterns,
    Table,
    TableOptions,
)
from cosmos_eval.results.text import interval_ends, metric_text, p_value_text
from cosmos_eval.stats import suites
from cosmos_eval.stats.estimates import Values
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.tasks import Metric, metric_of
from cosmos_eval.types import Suite, SuiteMember, UsageError

_ABSENT = "-"
_MOST_FILES = 4  # that a message names
_N_LOWEST = 3  # languages with the lowest numbers that a table shows
_EntriesByMember = dict[tuple[str, str, str], Entry]
"""The entries of a model by task, data set and protocol."""

_GROUP_NOTES = (
    "Group: the mean of all of its trainings. Its interval, ranks and p-value cover seeds "
    "and images; it has the members that all of its trainings have.",
    "1 training: they cover only images, and another seed may give another mean.",
)


class Row(NamedTuple):
    """A model, or a group of trainings, in the table of a suite."""

    # The label of the model, or the name of the group.
    model: str
    # The number of members of the suite that the model has results of.
    present: int
    # The mean over all members; None if the model lacks a member.
    mean: Mean | None = None
    # The first and last rank that the model can have; None if it lacks a member.
    ranks: tuple[int, int] | None = None
    # The p-value of the difference from the next row; None for the last row.
    p_next: float | None = None
    # The mean over the members that all models have; None if no model lacks a member.
    common: Mean | None = None
    source: Source = "measured"
    # The addresses of published numbers.
    url: str = ""
    # The number of trainings of a group; None for a model.
    trainings: int | None = None
    # The number of the model in each language that it has, by data set, the lowest first; empty for
    # groups of trainings, and for suites without data sets in several languages.
    languages: Mapping[str, float] = MappingProxyType({})


class SuiteScore(NamedTuple):
    """The means of models over a suite, before they are written in any format."""

    suite: Suite
    # A metric of a member. The metrics of all members have the same unit and direction.
    metric: Metric
    # The members that all models have; empty if no model lacks a member.
    common: tuple[SuiteMember, ...]
    # Models from the best mean down, then models that lack members, then published numbers.
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    # The least number of clusters that a member was resampled by.
    clusters: int = 0

    def table(self, options: TableOptions = USUAL) -> Table:
        """Return the table of the suite, with one row per model or group of trainings.

        Fractions are in percent, and a missing number is "-". Raises UsageError if rows are to be
        sorted by a metric, since the table has only means.
        """
        # With the option `members`, the tables of the members follow, which have metrics.
        is_known_order = options.sort in ("", BY_NAME, BY_RANK) or options.members
        if not is_known_order:
            raise UsageError(
                f"--sort {options.sort}: give {BY_NAME} or {BY_RANK}, or add --members"
            )

        # The titles of the columns: first the columns that name a row, then its numbers.
        name_titles = ["group" if self.has_groups else "model"]
        if self.has_published:
            name_titles.append("source")
        if self.has_groups:
            name_titles.append("trainings")
        titles = [*name_titles, "rank", "mean", "members", "p (next)"]
        if self.has_languages:
            titles.append("lowest languages")
        if self.common:
            titles.append("mean over common members")

        rows = self.rows
        if options.sort == BY_NAME:
            rows = tuple(sorted(rows, key=lambda row: row.model))
        unit = " (%)" if self.metric.in_percent else ""
        return Table(
            title=f"Suite {self.suite.name}{unit}",
            heads=tuple(Head(title) for title in titles),
            rows=tuple(self._cells(row, options) for row in rows),
            n_text_columns=len(name_titles),
            notes=self.notes,
            label=f"suite-{self.suite.name}",
        )

    @property
    def has_groups(self) -> bool:
        """True if rows are groups of trainings."""
        return any(row.trainings is not None for row in self.rows)

    @property
    def has_published(self) -> bool:
        """True if a row has published numbers."""
        return any(row.source != "measured" for row in self.rows)

    @property
    def has_languages(self) -> bool:
        """True if a row has numbers of languages."""
        return any(row.languages for row in self.rows)

    def _lowest_languages(self, row: Row, options: TableOptions) -> str:
        """Return the languages with the lowest numbers of a row: "quz 1.2, mi 2.0, te 2.1"."""
        texts = []
        for dataset, value in list(row.languages.items())[:_N_LOWEST]:
            language = language_of(dataset)
            if language is not None:
                number = metric_text(self.metric, value, options.decimals)
                texts.append(f"{language.language} {number}")
        return ", ".join(texts)

    def _cells(self, row: Row, options: TableOptions) -> tuple[Cell, ...]:
        """Return the cells of a row, in the order of the columns of `table`.

        Args:
            row: A model, or a group of trainings.
            options: How many decimals numbers have, and whether intervals are shown.
        """
        cells = [Cell(row.model)]
        if self.has_published:
            cells.append(Cell(row.source))
        if self.has_groups:
            cells.append(Cell(str(row.trainings or _ABSENT)))

        # Ranks from 1 to 3 are "1-3". If only rank 2 is possible, they are "2".
        ranks_text = _ABSENT
        if row.ranks is not None:
            first_rank, last_rank = row.ranks
            ranks_text = str(first_rank)
            if last_rank != first_rank:
                ranks_text = f"{first_rank}-{last_rank}"
        cells.append(Cell(ranks_text))

        cells.append(_mean_cell(self.metric, row.mean, options))
        cells.append(Cell(self.suite.present(row.present)))
        cells.append(Cell(_ABSENT if row.p_next is None else p_value_text(row.p_next)))
        if self.has_languages:
            cells.append(Cell(self._lowest_languages(row, options) or _ABSENT))
        if self.common:
            cells.append(_mean_cell(self.metric, row.common, options))
        return tuple(cells)

    def record(self) -> dict[str, Any]:
        """Return the suite and its means as a record for JSON, in which means are fractions."""
        models = []
        for row in self.rows:
            model = row._asdict()
            model["mean"] = _mean_record(row.mean)
            model["common"] = _mean_record(row.common)
            if not self.has_groups:
                del model["trainings"]
            del model["languages"]
            if row.languages:
                model["languages"] = dict(row.languages)
            models.append(model)

        record: dict[str, Any] = {
            "suite": self.suite.name,
            "members": [member._asdict() for member in self.suite.members],
            "common_members": [member._asdict() for member in self.common],
        }
        if self.suite.left_out:
            record["left_out"] = self.suite.left_out
        record["models"] = models
        record["notes"] = self.notes
        return record


def _mean_cell(metric: Metric, mean: Mean | None, options: TableOptions) -> Cell:
    """Return the cell of a mean, with its interval if tables show intervals.

    Args:
        metric: A metric of the suite, whose unit decides on percent.
        mean: The mean, or None if a model has none.
        options: How many decimals numbers have, and whether intervals are shown.
    """
    if mean is None:
        return Cell(_ABSENT)
    interval = None
    if mean.interval and options.intervals:
        interval = mean.interval._asdict()
    return Cell(
        text=metric_text(metric, mean.value, options.decimals),
        ends=interval_ends(metric, mean.value, interval, options.decimals),
    )


def _mean_record(mean: Mean | None) -> dict[str, Any] | None:
    """Return a mean and its interval as a record for JSON, or None without a mean."""
    if mean is None:
        return None
    record: dict[str, Any] = {"value": mean.value}
    if mean.interval:
        record |= mean.interval._asdict()
    return record


def score_models(
    suite: Suite,
    result_entries: Sequence[Entry],
    *,
    with_published: bool,
    by_group: bool,
    model_patterns: Sequence[str],
) -> SuiteScore:
    """Return the means over a suite of the models that a user names, see `suite_score`.

    Args:
        suite: The members, which are data sets with their protocols and metrics.
        result_entries: The measured and imported results as rows of a leaderboard.
        with_published: True if models get a mean of published numbers too.
        by_group: True if the trainings of a group, such as several seeds, get one mean.
        model_patterns: Only models whose names match one of them are shown; empty: all.
    """
    entries = list(result_entries)
    if with_published:
        entries += read_published_entries()
    chosen_entries = select_entries(entries, NamePatterns(models=model_patterns))
    return suite_score(suite, chosen_entries, by_group=by_group)


def suite_score(
    suite: Suite,
    entries: Sequence[Entry],
    read: ReadSamples = read_samples,
    *,
    by_group: bool = False,
) -> SuiteScore:
    """Return the means of models over a suite, with their ranks.

    Args:
        suite: The members, which are data sets with their protocols and metrics.
        entries: The results and published numbers of all models.
        read: A function that returns the per-sample arrays of a result file.
        by_group: True if the trainings of a group, which differ in their seeds, share a row.

    Raises:
        UsageError: If no model has a number of any member, for samples that are missing or do not
            give the metrics of their result, for a training that occurs twice, and if results of a
            member, or trainings of a group, were measured with different settings.
    """
    members = suite.members
    results = _results_by_model(members, entries)
    _require_same_settings(suite, results)
    metric = metric_of(members[0].task, members[0].metrics[0])
    published_rows = _published_rows(suite, entries, metric)
    if not results and not published_rows:
        raise UsageError(
            f"suite {suite.name}: no complete and unedited result of any member, which are "
            f"{_names_of_members(members)}"
        )

    suite_means = SuiteMeans(results, read, by_group=by_group, is_harmonic=suite.is_harmonic)
    rows, common, warnings = _measured_rows(suite_means, members, metric)
    if by_group:
        rows = [row._replace(trainings=len(suite_means.groups[row.model])) for row in rows]
    else:
        rows = [row._replace(languages=_numbers_of_languages(results[row.model])) for row in rows]
    n_ranked = sum(row.mean is not None for row in rows)
    incomplete_groups = [row.model for row in rows if row.mean is None]

    notes = list(_column_notes(suite, common, is_ranked=n_ranked > 1))
    if by_group:
        notes += _GROUP_NOTES
    notes += warnings
    for group in incomplete_groups:
        notes.append(_incomplete_note(group, members, suite_means.members_of(group)))
    notes += _exception_notes(members, results, entries)
    for url in dict.fromkeys(row.url for row in published_rows if row.url):
        notes.append(f"Published: {url}.")
    notes += _import_notes(published_rows, entries)
    return SuiteScore(
        suite=suite,
        metric=metric,
        common=tuple(common),
        rows=(*rows, *published_rows),
        notes=tuple(notes),
        clusters=suite_means.clusters,
    )


def _import_notes(rows: Iterable[Row], entries: Iterable[Entry]) -> Iterator[str]:
    """Yield notes on the imported numbers of a suite, if there are any.

    Args:
        rows: The rows of models with imported numbers of all members, among others.
        entries: The numbers of all models.
    """
    shown_models = {row.model for row in rows if row.source == "imported"}
    models = {entry.model for entry in entries if entry.source == "imported"}
    if shown_models:
        yield "Imported: means of numbers that another tool wrote to files, not ranked."
    hidden_models = sorted(models - shown_models)
    if hidden_models:
        yield f"Not shown, since their imported numbers lack members: {', '.join(hidden_models)}."


def _measured_rows(
    suite_means: SuiteMeans, members: Sequence[SuiteMember], metric: Metric
) -> tuple[list[Row], list[SuiteMember], list[str]]:
    """Return the rows of measured models or groups, common members, and warnings.

    Args:
        suite_means: The means of all models or groups.
        members: The members of the suite.
        metric: A metric of the suite, which says whether higher is better.

    Returns:
        The rows from the best mean down, followed by groups that lack members and have no mean.
        The common members, which all groups have. They are empty if no group lacks a member.
        Otherwise all rows also have a mean over them.
        The warnings about neighbouring rows that may be equal.
    """
    # Rank the groups that have all members.
    members_by_group = {group: suite_means.members_of(group) for group in suite_means.groups}
    means, differences = suite_means.means_over(members, metric)
    ranking = _Ranking(means, metric, differences)
    rows, warnings = ranking.rows(len(members), suite_means.clusters)

    # Add the other groups, and a mean that all groups have.
    incomplete_groups = sorted(members_by_group.keys() - means.keys())
    for group in incomplete_groups:
        rows.append(Row(group, len(members_by_group[group])))
    common: list[SuiteMember] = []
    if incomplete_groups:
        common = _common_members(members, members_by_group)
    if common:
        common_means, _ = suite_means.means_over(common, metric)
        rows = [row._replace(common=common_means[row.model]) for row in rows]
    return rows, common, warnings


def _results_by_model(
    members: Sequence[SuiteMember], entries: Iterable[Entry]
) -> dict[str, dict[SuiteMember, StoredResult]]:
    """Return the results that count in means, by model and then by member, in the suite's order.

    A result counts if it is complete and unedited, and has all metrics of the member.

    Args:
        members: The members of the suite, which are data sets with their protocols and metrics.
        entries: The results and published numbers of all models.
    """
    ranked_entries = [entry for entry in entries if entry.is_ranked and entry.stored]
    results: dict[str, dict[SuiteMember, StoredResult]] = {}
    for model in sorted({entry.model for entry in ranked_entries}):
        model_entries = [entry for entry in ranked_entries if entry.model == model]
        for member in members:
            entry = entry_of(member, model_entries)
            if entry is None or entry.stored is None:
                continue
            has_all_metrics = all(name in entry.metrics for name in member.metrics)
            if has_all_metrics:
                results.setdefault(model, {})[member] = entry.stored
    return results


def _require_same_settings(suite: Suite, results: Mapping[str, ModelResults]) -> None:
    """Raise UsageError if results of a member differ in a setting, such as the templates.

    Results on other samples are allowed, and not paired. So are fields that a result lacks.

    Args:
        suite: The suite.
        results: The results that count, by model and member.
    """
    for member in suite.members:
        stored_results = [
            by_member[member] for by_member in results.values() if member in by_member
        ]
        values_by_field: dict[str, set[str]] = {}
        for stored in stored_results:
            for field, value in column_fields(stored.row).items():
                if field not in FIELDS_OF_SAMPLES:
                    values_by_field.setdefault(field, set()).add(value)
        differing = [field for field, values in values_by_field.items() if len(values) > 1]
        if differing:
            paths = first_of([str(stored.path) for stored in stored_results], _MOST_FILES)
            raise UsageError(
                f"suite {suite.name}: {member.dataset} ({member.protocol}) was measured with other "
                f"{', '.join(differing)}: choose results with the same by --models, or measure "
                f"again: {paths}"
            )


def entry_of(member: SuiteMember, entries: Iterable[Entry]) -> Entry | None:
    """Return the entry of a suite's member among the entries of one model, or None.

    Args:
        member: The member, which names a data set such as "coco", or one version of it such as
            "coco (revision 1a2b3c4d)", with a task and a protocol.
        entries: The entries of the model.

    Raises:
        UsageError: For two entries of the member, which are results on different versions.
    """
    member_entries = []
    for entry in entries:
        has_task = entry.task == member.task and entry.protocol == member.protocol
        has_dataset = member.dataset in (entry.dataset, entry.dataset_name)
        if has_task and has_dataset:
            member_entries.append(entry)
    if len(member_entries) > 1:
        raise UsageError(
            f"{member_entries[0].model} has several results of {member.dataset}, on other data: "
            f"{', '.join(entry.dataset for entry in member_entries)}: keep one of them"
        )
    return member_entries[0] if member_entries else None


def _published_rows(suite: Suite, entries: Iterable[Entry], metric: Metric) -> list[Row]:
    """Return a row for each model with published or imported numbers of all members.

    The best mean comes first.

    Args:
        suite: The members of the suite, and whether their mean is harmonic.
        entries: The results and published numbers of all models.
        metric: A metric of the suite, which says whether higher is better.
    """
    entries_by_row: dict[tuple[str, Source], _EntriesByMember] = {}
    for entry in entries:
        if entry.source in ("published", "imported") and not entry.stored:
            key = (entry.task, entry.dataset, entry.protocol)
            entries_by_row.setdefault((entry.model, entry.source), {})[key] = entry

    # Sort by a number of which lower is better, and then by the name of the model.
    sign = -1 if metric.higher_is_better else 1
    rows_by_sort_key = {}
    for (model, source), row_entries in entries_by_row.items():
        row = _published_row(suite, model, source, row_entries, metric)
        if row is not None and row.mean is not None:
            rows_by_sort_key[sign * row.mean.value, model, source] = row
    return [rows_by_sort_key[sort_key] for sort_key in sorted(rows_by_sort_key)]


def _published_row(
    suite: Suite, model: str, source: Source, entries: _EntriesByMember, metric: Metric
) -> Row | None:
    """Return the row of a model, or None unless its entries have numbers of all members.

    Args:
        suite: The members of the suite, and whether their mean is harmonic.
        model: The name of the model.
        source: The source of its numbers, `published` or `imported`.
        entries: The entries of the model.
        metric: A metric of the suite, which says whether higher is better.
    """
    values, urls = [], set()
    numbers = {}
    for member in suite.members:
        entry = entries.get((member.task, member.dataset, member.protocol))
        member_values = _published_values(member, entry)
        if entry is None or member_values is None:
            return None
        values.append(member_values)
        urls.add(entry.url)
        numbers[member] = float(np.mean(member_values))
    mean = Mean(float(mean_over(values, suite.members, is_harmonic=suite.is_harmonic)))
    languages = _sort_languages(numbers, higher_is_better=metric.higher_is_better)
    url = ", ".join(sorted(urls))
    return Row(model, len(suite.members), mean, source=source, url=url, languages=languages)


def _numbers_of_languages(results: ModelResults) -> Mapping[str, float]:
    """Return the numbers of a model in each language, by data set, the worst first.

    Args:
        results: The results of the model by member of the suite. The number of a language is the
            mean of the member's metrics.
    """
    numbers = {}
    for member, stored in results.items():
        numbers[member] = float(np.mean([stored.row.metrics[name] for name in member.metrics]))
    metrics = [metric_of(member.task, member.metrics[0]) for member in numbers]
    return _sort_languages(numbers, higher_is_better=all(m.higher_is_better for m in metrics))


def _sort_languages(
    numbers: Mapping[SuiteMember, float], *, higher_is_better: bool
) -> Mapping[str, float]:
    """Return the numbers of the members that are languages, by data set, the worst first."""
    sign = 1 if higher_is_better else -1
    languages = []
    for member, number in numbers.items():
        if language_of(member.dataset) is not None:
            languages.append((sign * number, member.dataset, number))
    return {dataset: number for _, dataset, number in sorted(languages)}


def _published_values(member: SuiteMember, entry: Entry | None) -> Values | None:
    """Return the published metrics (M,) of a member, or None if they are not published.

    DataComp publishes the mean recall of retrieval in place of the recalls of both directions.

    Args:
        member: The member of the suite, with its metrics.
        entry: The published numbers of a model for the member, or None.
    """
    if entry is None:
        return None
    has_all_metrics = all(name in entry.metrics for name in member.metrics)
    if has_all_metrics:
        return np.array([entry.metrics[name] for name in member.metrics])
    if MEAN_RECALL in entry.metrics:
        return np.array([entry.metrics[MEAN_RECALL]])
    return None


def _common_members(
    members: Iterable[SuiteMember], members_by_group: Mapping[str, Sequence[SuiteMember]]
) -> list[SuiteMember]:
    """Return the members of the suite that all groups have, or none if there is only one group.

    Args:
        members: The members of the suite, in whose order they are returned.
        members_by_group: The members of which each model or group of trainings has results.
    """
    if len(members_by_group) < 2:
        return []
    common_members = []
    for member in members:
        if all(member in group_members for group_members in members_by_group.values()):
            common_members.append(member)
    return common_members


class _Ranking:
    """The order of models, or of groups of trainings, from the best mean down.

    Args:
        means: The means by model or group.
        metric: A metric of the suite, which says whether higher is better.
        differences: The differences between groups of trainings; None for models.
    """

    def __init__(
        self, means: Mapping[str, Mean], metric: Metric, differences: GroupDifferences | None
    ) -> None:
        self._means = means
        self._differences = differences
        # A mean times this sign is greater for a better model.
        self._sign = 1 if metric.higher_is_better else -1
        self._order = sorted(means, key=lambda name: (-self._sign * means[name].value, name))

    def rows(self, n_members: int, clusters: int) -> tuple[list[Row], list[str]]:
        """Return the rows from the best mean down, and a warning if neighbours may be equal.

        Args:
            n_members: The number of members of the suite, which all rows have.
            clusters: The least number of independent clusters of images over all members.

        Returns:
            The rows. If there are several, each has the ranks that it can have, and the p-value of
            the difference from the next row. Also a list with one warning, which is empty if all
            neighbours differ.
        """
        rows = [Row(name, n_members, self._means[name]) for name in self._order]
        if len(rows) < 2:
            return rows, []

        # Find out which means differ. Values have a sign by which greater is better.
        values = [self._sign * self._means[name].value for name in self._order]
        resampled_values = [self._sign * self._means[name].resampled_values for name in self._order]
        gain = None if self._differences is None else self._gain
        standings = suites.standings(values, resampled_values, clusters, gain)

        # Add the ranks and p-values to the rows, and collect neighbours that may be equal.
        tied_neighbours = []
        for index, standing in enumerate(standings):
            rows[index] = rows[index]._replace(ranks=standing.ranks, p_next=standing.p_next)
            next_index = index + 1
            is_tied_with_next = next_index in standing.tied
            if is_tied_with_next:
                # Ranks are counted from 1: "1 and 2 (clip, siglip)".
                names = f"{self._order[index]}, {self._order[next_index]}"
                tied_neighbours.append(f"{index + 1} and {next_index + 1} ({names})")
        if not tied_neighbours:
            return rows, []
        warning = (
            "Warning: neighbours that cannot be told apart, since the interval of the paired "
            "difference, corrected for the number of pairs, covers 0: "
            f"ranks {'; '.join(tied_neighbours)}."
        )
        return rows, [warning]

    def _gain(self, index_a: int, index_b: int) -> GroupDifference:
        """Return by how much one group is better than another one.

        The indices are positions in the order of the groups, from the best mean down. The gain is
        positive if the group at `index_a` is better, also for metrics of which lower is better.
        """
        assert self._differences is not None
        name_a, name_b = self._order[index_a], self._order[index_b]
        higher_is_better = self._sign == 1
        if higher_is_better:
            return self._differences.difference(name_a, name_b)
        return self._differences.difference(name_b, name_a)


def _names_of_members(members: Iterable[SuiteMember]) -> str:
    """Return the members of a suite as text: "coco (karpathy), xtd10 in 11 languages (karpathy)".

    A set of which there is one language only is called by its data set, such as `xtd10-de`.
    """
    datasets_by_name: dict[tuple[str, str], list[str]] = {}
    for member in members:
        language = language_of(member.dataset)
        name = member.dataset if language is None else language.language_set
        datasets_by_name.setdefault((name, member.protocol), []).append(member.dataset)
    texts = []
    for (name, protocol), datasets in datasets_by_name.items():
        if len(datasets) > 1:
            texts.append(f"{name} in {len(datasets)} languages ({protocol})")
        else:
            texts.append(f"{datasets[0]} ({protocol})")
    return ", ".join(texts)


def _column_notes(suite: Suite, common: Sequence[SuiteMember], *, is_ranked: bool) -> Iterator[str]:
    """Yield notes on the meaning of the columns of the table of a suite.

    Args:
        suite: The members, and the data sets that were left out.
        common: The members that all models have; empty if no model lacks a member.
        is_ranked: True if rows have ranks.
    """
    members = suite.members
    n_members = f"all {len(members)}"
    if suite.left_out:
        n_members = suite.present(len(members))
    kind = "harmonic, of the means over" if suite.is_harmonic else "over"
    yield f"Mean: {kind} {n_members} members, {'; '.join(_describe_metrics(members))}."
    weighted_members = [member for member in members if member.weight < 1]
    if weighted_members:
        yield f"Counted in part, as several of them are one: {_names_of_members(weighted_members)}."
    if suite.left_out:
        reasons = [f"{name}: {reason}" for name, reason in suite.left_out.items()]
        yield f"Left out: {'; '.join(reasons)}."
    has_languages = any(language_of(member.dataset) for member in members)
    exception = " or are languages of the same images" if has_languages else ""
    yield (
        "95% interval: by resampling within every member; members are independent unless they have "
        f"the same list of samples{exception}."
    )
    if is_ranked:
        yield (
            "Rank: the ranks that a model can have by the intervals of paired differences; the "
            "ranks of all models hold at once with 95%."
        )
        yield (
            "p (next): the two-sided p-value of the paired difference from the next row, not "
            "corrected for the number of pairs."
        )
    if common:
        yield f"Common members ({len(common)} of {len(members)}): {_names_of_members(common)}."


def _incomplete_note(
    group: str, members: Sequence[SuiteMember], group_members: Sequence[SuiteMember]
) -> str:
    """Return a note that names the members of the suite that a group or model lacks.

    Args:
        group: The name of the group or model.
        members: The members of the suite.
        group_members: The members of which the group has results.
    """
    missing_members = [member for member in members if member not in group_members]
    return f"Not ranked: {group} lacks {_names_of_members(missing_members)}."


def _describe_metrics(members: Sequence[SuiteMember]) -> Iterator[str]:
    """Yield texts that say which metrics of which members count in the mean.

    Members with the same metrics share a text: "top-1 of imagenet1k (clip), pets (clip)".
    """
    for metrics in dict.fromkeys(member.metrics for member in members):
        metric_members = [member for member in members if member.metrics == metrics]
        yield f"{' and '.join(metrics)} of {_names_of_members(metric_members)}"


def _exception_notes(
    members: Sequence[SuiteMember], results: Mapping[str, ModelResults], entries: Sequence[Entry]
) -> Iterator[str]:
    """Yield notes on members that are not paired, and on results that do not count.

    A member, which is a data set of the suite, is not paired if models were measured on other lists
    of samples.

    Args:
        members: The members of the suite.
        results: The results that count, by model and member.
        entries: All results and published numbers.
    """
    # Find the members whose results have different lists of samples.
    unpaired_members = []
    for member in members:
        sample_lists = set()
        for model_results in results.values():
            if member in model_results:
                sample_lists.add(sample_list_key(model_results[member]))
        if len(sample_lists) > 1:
            unpaired_members.append(member)
    if unpaired_members:
        reason = "lists of samples, or their content, differ or are not recorded"
        yield f"Not paired, since {reason}: {_names_of_members(unpaired_members)}."

    # Find out whether any result of a member does not count.
    member_sets = {(member.dataset, member.protocol) for member in members}
    for entry in entries:
        is_counted = entry.is_ranked or not entry.stored
        if not is_counted and (entry.dataset_name, entry.protocol) in member_sets:
            yield "Not counted: results of a part of the samples only, and edited ones."
            return
