"""The outcome of an audit: a verdict per metric, tables, a JSON document and a list of items."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosmos_eval.results.audit.groups import (
    NO_IMAGE,
    SAME_WORDS,
    SHORTER,
    ItemGroup,
    SuspectLabels,
    groups_of_samples,
)
from cosmos_eval.results.audit.metrics import AuditedMetric
from cosmos_eval.results.audit.ranking import (
    FEWEST_ITEMS,
    PairTest,
    Ranking,
    RankingChange,
    compare_rankings,
    order_of,
    rank_models,
)
from cosmos_eval.results.text import csv_text, metric_text
from cosmos_eval.stats.intervals import LEVEL
from cosmos_eval.tasks import classification, selection

MOST_EXAMPLES = 10
"""How many items of a group are shown as examples. The CSV file has all items."""
CSV_COLUMNS = ("dataset", "protocol", "metric", "sample", "name", "group", "score", "detail")


@dataclass(frozen=True)
class MetricAudit:
    """The audit of a metric on one data set."""

    metric: AuditedMetric
    groups: tuple[ItemGroup, ...]
    suspect_labels: SuspectLabels | None
    # The ranking on all items; None if there are too few.
    ranking: Ranking | None
    # The ranking without the items of each group, by the group's name. It is None if too few items
    # remain, or if leaving out the group would bias the ranking.
    without: Mapping[str, Ranking | None]
    # For each judgement that was not possible, a sentence that says why.
    unknown: tuple[str, ...]

    def change(self, group: ItemGroup) -> RankingChange | None:
        """Return how the ranking changes without a group; None if one of the two is missing."""
        without = self.without.get(group.name)
        if self.ranking is None or without is None:
            return None
        return compare_rankings(self.ranking, without)

    @property
    def tested_groups(self) -> list[ItemGroup]:
        """The groups without which the ranking might change.

        Items that every model solves, or no model, count alike for all models. A group that has
        only such items cannot change the ranking.
        """
        share_right = self.metric.hits.mean(axis=0)
        tells_models_apart = (share_right > 0) & (share_right < 1)
        tested_groups = []
        for group in self.groups:
            is_relevant = bool((group.items & tells_models_apart).any())
            if is_relevant and self.change(group) is not None:
                tested_groups.append(group)
        return tested_groups

    @property
    def verdict(self) -> str:
        """A line that says whether the ranking survives, and how many labels are suspect.

        The ranking survives if the tests decide no pair of models differently without any one of
        the groups.
        """
        models = self.metric.models
        n_models = f"{len(models)} model{'s' if len(models) > 1 else ''}"
        return f"{self.metric.name}: {n_models}; {self._ranking_verdict}{self._label_verdict}"

    @property
    def _ranking_verdict(self) -> str:
        """The part of the verdict that is about the ranking."""
        if len(self.metric.models) == 1:
            return "no ranking"
        if self.ranking is None:
            return f"no ranking of fewer than {FEWEST_ITEMS} items"
        if self.ranking.n_decided == 0:
            return "no two models are shown to differ"
        changes = {group.name: self.change(group) for group in self.tested_groups}
        losses = []
        for name, change in changes.items():
            if change is not None and not change.survives:
                n_lost = change.lost + change.reversed
                losses.append(f'"{name}" ({n_lost} of {self.ranking.n_decided} differences lost)')
        if losses:
            return f"ranking changes without {', '.join(losses)}"
        if not changes:
            return "no group can change the ranking"
        if len(changes) == 1:
            return f'ranking survives without "{next(iter(changes))}"'
        return f"ranking survives without each of {len(changes)} groups"

    @property
    def _label_verdict(self) -> str:
        """The part of the verdict that is about wrong labels; empty if they were not judged."""
        if self.suspect_labels is None:
            return ""
        errors = self.suspect_labels.errors
        n_suspect = int(errors.is_suspect.sum())
        return f"; {n_suspect} suspect label{'' if n_suspect == 1 else 's'}"


def audit_metric(
    metric: AuditedMetric, data_groups: Sequence[ItemGroup] = (), unknown: Sequence[str] = ()
) -> MetricAudit:
    """Find the groups of doubtful items of a metric, and rank the models without each of them.

    Args:
        metric: The metric of several models on the same items.
        data_groups: The groups that were found by searching the images and captions.
        unknown: For each judgement that the data did not allow, a sentence that says why.
    """
    sample_groups = groups_of_samples(metric)
    groups = (*data_groups, *sample_groups.groups)
    without: dict[str, Ranking | None] = {}
    for group in groups:
        is_ranked = group.count > 0 and not group.biases_ranking
        without[group.name] = rank_models(metric, ~group.items) if is_ranked else None
    return MetricAudit(
        metric=metric,
        groups=groups,
        suspect_labels=sample_groups.suspect_labels,
        ranking=rank_models(metric, np.ones(metric.n_items, bool)),
        without=without,
        unknown=(*unknown, *sample_groups.unknown),
    )


def group_records(audit: MetricAudit) -> list[dict[str, Any]]:
    """Return the rows of a table: one for all items, and one for each group that has items.

    The columns say how many items the group has, how many it would have if the benchmark had no
    fault, and how the decided pairs of models change without the group. A `*` marks groups that are
    chosen by the answers of the audited models.
    """
    n_items = audit.metric.n_items
    n_decided = "" if len(audit.metric.models) == 1 else _n_decided_text(audit)
    records = [_group_record("all items", n_items, n_items, None)]
    records[0]["decided"] = n_decided
    for group in audit.groups:
        if not group.count:
            continue
        name = f"{group.name} *" if group.by_answers else group.name
        record = _group_record(name, group.count, n_items, group.expected)
        change = audit.change(group)
        if change is not None and len(audit.metric.models) > 1:
            record["decided"] = change.kept + change.gained
            record["lost"] = change.lost or ""
            record["too few"] = change.too_few or ""
            record["gained"] = change.gained or ""
            record["reversed"] = change.reversed or ""
            record["change"] = metric_text(audit.metric.record, change.largest_change)
        records.append(record)
    return records


def _n_decided_text(audit: MetricAudit) -> str:
    """Return how many pairs of models are decided on all items, such as "12 of 15"; or empty."""
    if audit.ranking is None:
        return ""
    return f"{audit.ranking.n_decided} of {len(audit.ranking.tests)}"


def _group_record(name: str, count: int, n_items: int, expected: float | None) -> dict[str, Any]:
    """Return the row of a group in which the effect on the ranking is still empty.

    Args:
        name: The title of the row.
        count: The number of items in the group.
        n_items: The number of all items.
        expected: The number of items that are expected in the group by chance; None if unknown.
    """
    return {
        "group": name,
        "items": f"{count:,}",
        "%": f"{100 * count / n_items:.1f}",
        "by chance": "" if expected is None else f"{expected:.1f}",
        "decided": "",
        "lost": "",
        "too few": "",
        "gained": "",
        "reversed": "",
        "change": "",
    }


def empty_groups(audit: MetricAudit) -> str:
    """Return a line that names the groups without items; empty if there are none."""
    names = [f'"{group.name}"' for group in audit.groups if not group.count]
    return f"no items: {', '.join(names)}" if names else ""


def unknown_lines(audits: Sequence[MetricAudit]) -> list[str]:
    """Return a line for each reason why something was not judged, with the data sets concerned."""
    sets_by_reason: dict[str, dict[str, None]] = {}
    for audit in audits:
        for reason in audit.unknown:
            name = f"{audit.metric.results[0].dataset} ({audit.metric.row.protocol})"
            sets_by_reason.setdefault(reason, {})[name] = None
    return [f"not judged: {reason}: {', '.join(sets)}" for reason, sets in sets_by_reason.items()]


def rank_records(audit: MetricAudit) -> list[dict[str, Any]]:
    """Return the rows of a table, one per model: its value and ranks with and without groups.

    A cell such as "89.6 (1-2)" holds a value and the first and last possible rank. Groups without
    which the ranking cannot change are left out.
    """
    if audit.ranking is None:
        return []
    columns = _ranking_columns(audit)
    records = []
    for model in order_of(audit.ranking):
        record: dict[str, Any] = {"model": audit.metric.models[model]}
        for title, ranking in columns.items():
            first, last = ranking.ranks[model]
            ranks = f"{first}" if first == last else f"{first}-{last}"
            record[title] = f"{metric_text(audit.metric.record, ranking.values[model])} ({ranks})"
        records.append(record)
    return records


def difference_records(audit: MetricAudit) -> list[dict[str, Any]]:
    """Return the rows of a table, one per pair of models: their difference with and without groups.

    A cell such as "+2.80 [-0.25, +5.83] >" holds a difference with its interval, in points of
    percent or in the metric's unit. A `>` says that the first model is shown to be better, and a
    `<` that the second one is.
    """
    columns = _ranking_columns(audit)
    names = audit.metric.models
    records: list[dict[str, Any]] = []
    if audit.ranking is None:
        return []
    for pair, test in enumerate(audit.ranking.tests):
        record: dict[str, Any] = {"A - B [95%]": f"{names[test.a]} - {names[test.b]}"}
        for title, ranking in columns.items():
            record[title] = _difference_text(ranking.tests[pair], audit.metric.record.factor)
        records.append(record)
    return records


def _difference_text(test: PairTest, factor: int) -> str:
    """Return the difference of two models with its interval, and a mark for the better one.

    Args:
        test: The test of the two models.
        factor: The factor from fractions to the metric's unit, such as 100 for percent.
    """
    interval = test.difference.interval()
    ends = f"[{factor * interval.low:+.2f}, {factor * interval.high:+.2f}]"
    mark = ""
    if test.better is not None:
        mark = " >" if test.better == test.a else " <"
    return f"{factor * test.difference.difference:+.2f} {ends}{mark}"


def _ranking_columns(audit: MetricAudit) -> dict[str, Ranking]:
    """Return the rankings on all items and without the groups that may change it, by title."""
    if audit.ranking is None:
        return {}
    columns = {"all items": audit.ranking}
    for group in audit.tested_groups:
        ranking = audit.without[group.name]
        if ranking is not None:
            columns[f"without: {group.name}"] = ranking
    return columns


def label_line(audit: MetricAudit) -> str:
    """Return a line about wrong labels: their share, and how many suspect labels are wrong.

    The line is empty if wrong labels were not judged.

    Example:
        "wrong labels: 1.6% [0.6, 3.3] by 5 models; of 7 suspect ones, 6.0 [3.1, 6.6] expected to be
        wrong"
    """
    if audit.suspect_labels is None:
        return ""
    errors = audit.suspect_labels.errors
    expected, low, high = audit.suspect_labels.expected_wrong
    rate = f"{100 * errors.rate:.1f}% [{100 * errors.low:.1f}, {100 * errors.high:.1f}]"
    line = f"wrong labels: {rate} by {len(audit.suspect_labels.models)} models"
    n_suspect = int(errors.is_suspect.sum())
    if n_suspect:
        low, high = min(low, expected), max(high, expected)
        line += (
            f"; of {n_suspect} suspect ones, {expected:.1f} [{low:.1f}, {high:.1f}] expected to be "
            "wrong"
        )
    return line


def baselines(audit: MetricAudit) -> dict[str, float]:
    """Return the accuracies that can be reached without the image, or without word order, by name.

    - `chance`: by random answers.
    - `most frequent class`: by the same class for every image.
    - `no image`: by the mean feature of all images instead of the item's image. It is the mean over
      the models.
    - `shorter`: by the caption with the fewest words.
    - `bag of words`: the most that a model without word order can reach, if ties between captions
      with the same words are broken at random.
    - `bag of words, ties wrong`: the same if ties count as wrong, as they do in `accuracy`. Items
      with two images have neither of the two.
    """
    samples = audit.metric.samples[0]
    values = {}
    if audit.metric.row.task == classification.TASK.name:
        n_images_by_class = np.bincount(samples[classification.LABELS])
        values["most frequent class"] = float(n_images_by_class.max() / audit.metric.n_items)
    if selection.CHANCE in samples:
        values["chance"] = float(samples[selection.CHANCE].mean())
    for group in audit.groups:
        if group.name == NO_IMAGE:
            values["no image"] = float(group.scores.mean())
        if group.name == SHORTER:
            values["shorter"] = float(group.scores.mean())
        if group.name == SAME_WORDS and selection.TEXT not in samples:
            values["bag of words"] = float(1 - group.scores.mean())
            values["bag of words, ties wrong"] = float(1 - group.items.mean())
    return values


def baseline_line(audit: MetricAudit) -> str:
    """Return the baselines as a line such as "baselines: chance 50.0, shorter 64.2"; or empty."""
    texts = [f"{name} {100 * value:.1f}" for name, value in baselines(audit).items()]
    return f"baselines (%): {'; '.join(texts)}" if texts else ""


def example_lines(audit: MetricAudit) -> Iterator[str]:
    """Yield a line for each of the most doubtful items of every group, for a terminal."""
    for group in audit.groups:
        for item in group.most_doubtful()[:MOST_EXAMPLES]:
            detail = group.detail(item)
            ending = f", {detail}" if detail else ""
            yield f"{group.name}: {item} {audit.metric.item_names[item]}{ending}"


def to_json(audit: MetricAudit) -> dict[str, Any]:
    """Return the audit of a metric as a JSON document, which docs/auditing.md describes."""
    metric = audit.metric
    document: dict[str, Any] = {
        "task": metric.row.task,
        "dataset": metric.results[0].dataset,
        "protocol": metric.row.protocol,
        "metric": metric.metric,
        "items": metric.n_items,
        "models": metric.models,
        "verdict": audit.verdict,
        "survives": _survives(audit),
        "wrong_labels": _label_document(audit.suspect_labels),
        "baselines": baselines(audit),
        "groups": [_group_document(audit, group) for group in audit.groups],
        "ranking": _ranking_document(audit, audit.ranking),
        "unknown": list(audit.unknown),
    }
    return document


def _survives(audit: MetricAudit) -> bool | None:
    """Return whether the ranking survives without each group; None if this cannot be said.

    It cannot be said if no pair of models is decided, or if no group was tested.
    """
    if audit.ranking is None or audit.ranking.n_decided == 0 or not audit.tested_groups:
        return None
    changes = [audit.change(group) for group in audit.tested_groups]
    return all(change is not None and change.survives for change in changes)


def _label_document(suspect_labels: SuspectLabels | None) -> dict[str, Any] | None:
    """Return the estimate of wrong labels for JSON; None if wrong labels were not judged."""
    if suspect_labels is None:
        return None
    errors = suspect_labels.errors
    expected, low, high = suspect_labels.expected_wrong
    return {
        "models": list(suspect_labels.models),
        "share": {"value": errors.rate, "low": errors.low, "high": errors.high, "level": LEVEL},
        "suspect": int(errors.is_suspect.sum()),
        "fit_p_value": errors.fit,
        "expected_wrong": {
            "value": expected,
            "low": min(low, expected),
            "high": max(high, expected),
            "level": LEVEL,
        },
    }


def _group_document(audit: MetricAudit, group: ItemGroup) -> dict[str, Any]:
    """Return a group of items for JSON, with examples and the ranking without the group."""
    change = audit.change(group)
    examples = []
    for item in group.most_doubtful()[:MOST_EXAMPLES]:
        examples.append(
            {
                "sample": item,
                "name": audit.metric.item_names[item],
                "score": float(group.scores[item]),
                "detail": group.detail(item),
            }
        )
    change_document: dict[str, Any] | None = None
    if change is not None:
        change_document = change._asdict()
        change_document["survives"] = change.survives
    return {
        "name": group.name,
        "items": group.count,
        "share": group.count / audit.metric.n_items,
        "by_chance": group.expected,
        "by_answers": group.by_answers,
        "examples": examples,
        "change": change_document,
        "ranking_without": _ranking_document(audit, audit.without[group.name]),
    }


def _ranking_document(audit: MetricAudit, ranking: Ranking | None) -> dict[str, Any] | None:
    """Return the values, ranks and differences of models for JSON; None without a ranking."""
    if ranking is None:
        return None
    names = audit.metric.models
    models = []
    for name, value, interval, (first, last) in zip(
        names, ranking.values, ranking.intervals, ranking.ranks, strict=True
    ):
        models.append(
            {
                "model": name,
                "value": value,
                "low": interval.low,
                "high": interval.high,
                "first_rank": first,
                "last_rank": last,
            }
        )
    differences = []
    for test in ranking.tests:
        interval = test.difference.interval()
        differences.append(
            {
                "a": names[test.a],
                "b": names[test.b],
                "difference": test.difference.difference,
                "low": interval.low,
                "high": interval.high,
                "p_value": test.difference.p_value,
                "p_value_holm": test.adjusted,
                "better": None if test.better is None else names[test.better],
            }
        )
    return {"items": ranking.n_items, "models": models, "differences": differences}


def items_csv(audits: Sequence[MetricAudit]) -> str:
    """Return all items of all groups as CSV, the most doubtful items of each group first.

    The columns are CSV_COLUMNS: `sample` is the index of the item in the stored arrays, and `score`
    is higher for more doubtful items.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for audit in audits:
        metric = audit.metric
        for group in audit.groups:
            for item in group.most_doubtful():
                cells = [
                    metric.results[0].dataset,
                    metric.row.protocol,
                    metric.metric,
                    str(item),
                    metric.item_names[item],
                    group.name,
                    f"{group.scores[item]:.4f}",
                    group.detail(item),
                ]
                writer.writerow([csv_text(cell) for cell in cells])
    return file.getvalue()
