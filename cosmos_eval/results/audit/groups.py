"""Groups of doubtful items, which follow from the stored samples of several models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.results.audit.metrics import AuditedMetric
from cosmos_eval.stats.estimates import Ints, Values
from cosmos_eval.stats.items import discrimination
from cosmos_eval.stats.label_errors import (
    FEWEST_ITEMS,
    FEWEST_MODELS,
    Agreement,
    LabelErrors,
    agreement,
    estimate_label_errors,
)
from cosmos_eval.tasks import classification, selection
from cosmos_eval.types import Samples

SUSPECT = "suspect labels"
NONE_RIGHT, ALL_RIGHT = "no model right", "all models right"
WORSE_RIGHT = "worse models right"
NO_IMAGE, SHORTER = "right without image", "shorter is right"
UNSOLVABLE = "right equals wrong"

FEWEST_FOR_ORDER = 5
"""With fewer models, it is mostly chance whether better or worse models solve an item."""


@dataclass(frozen=True)
class ItemGroup:
    """Items that have a property which makes them doubtful, or useless for a comparison."""

    name: str
    # (N,) whether each item is in the group.
    items: NDArray[np.bool_]
    # (N,) how strongly each item has the property; the higher, the more doubtful.
    scores: Values
    # (N,) a phrase about each item, such as "labelled cat, 5 of 5 models say dog"; or empty.
    details: Sequence[str] = ()
    # How many items are expected in the group if the benchmark has no fault; None: unknown.
    expected: float | None = None
    # Whether the answers of the audited models decide which items are in the group.
    by_answers: bool = False

    @property
    def count(self) -> int:
        """The number of items in the group."""
        return int(self.items.sum())

    def detail(self, item: int) -> str:
        """Return the phrase about an item, which may be empty."""
        return self.details[item] if len(self.details) else ""

    def most_doubtful(self) -> list[int]:
        """Return the indices of the group's items, the highest score first."""
        members = np.flatnonzero(self.items)
        order = np.argsort(-self.scores[members], kind="stable")
        return [int(item) for item in members[order]]


class SuspectLabels(NamedTuple):
    """The estimate of wrong labels, and the models whose answers it follows from."""

    errors: LabelErrors
    # The labels of the models.
    models: tuple[str, ...]

    @property
    def expected_wrong(self) -> tuple[float, float, float]:
        """How many of the suspect labels are expected to be wrong, with the ends of the interval.

        The interval follows from the interval of the share of wrong labels.
        """
        is_suspect = self.errors.is_suspect
        return (
            float(self.errors.probability[is_suspect].sum()),
            float(self.errors.probability_low[is_suspect].sum()),
            float(self.errors.probability_high[is_suspect].sum()),
        )


class SampleGroups(NamedTuple):
    """The groups that follow from samples, and what could not be judged."""

    groups: tuple[ItemGroup, ...]
    suspect_labels: SuspectLabels | None
    # One sentence for each judgement that the samples do not allow.
    unknown: tuple[str, ...]


def groups_of_samples(metric: AuditedMetric) -> SampleGroups:
    """Return all groups of items that follow from the stored samples of a metric."""
    suspect_labels: SuspectLabels | None = None
    groups = []
    unknown = []
    evidence = _label_evidence(metric)
    if isinstance(evidence, str):
        unknown.append(evidence)
    else:
        suspect_labels = SuspectLabels(
            estimate_label_errors(
                evidence.agreed, evidence.labels, evidence.n_classes, len(evidence.models)
            ),
            tuple(evidence.models),
        )
        groups.append(_suspect_group(suspect_labels.errors, evidence))
    if metric.row.task == selection.TASK.name:
        groups += _selection_groups(metric)
    if len(metric.models) > 1:
        groups += _answer_groups(metric)
    else:
        unknown.append("one model: neither ranks, nor items that no or every model solves")
    if 1 < len(metric.models) < FEWEST_FOR_ORDER:
        unknown.append(
            f"items that only worse models solve: {FEWEST_FOR_ORDER} models are needed, not "
            f"{len(metric.models)}"
        )
    return SampleGroups(tuple(groups), suspect_labels, tuple(unknown))


class _Evidence(NamedTuple):
    """What the estimate of wrong labels needs of K models and N items."""

    agreed: Agreement
    # (N,) labels, or the subsets of items that are only right or wrong.
    labels: Ints
    # The number of answers that an item may have.
    n_classes: int
    # The labels of the models.
    models: list[str]
    # The names of the classes; empty for items that are only right or wrong.
    class_names: list[str]

    def detail(self, item: int) -> str:
        """Return a phrase about an item: "labelled cat, 4 of 5 models say dog"."""
        votes = f"{self.agreed.votes[item]} of {len(self.models)} models"
        if not self.class_names:
            return f"{votes} choose the wrong answer"
        label = self.class_names[self.labels[item]]
        answer = self.class_names[self.agreed.answer[item]]
        return f"labelled {label}, {votes} say {answer}"


def _label_evidence(metric: AuditedMetric) -> _Evidence | str:
    """Return the evidence on wrong labels, or a sentence that says why there is none.

    Only models count that are better than halfway between chance and perfect. Several models with
    the same answers, such as copies under two names, count as one.
    """
    if metric.n_items < FEWEST_ITEMS:
        return f"wrong labels: {FEWEST_ITEMS} items are needed, not {metric.n_items}"
    chance = _chance_level(metric)
    if isinstance(chance, str):
        return f"wrong labels: {chance}"
    is_classified = metric.row.task == classification.TASK.name
    least_accuracy = (1 + chance) / 2
    model_by_answers: dict[bytes, int] = {}
    answers_of_models = []
    for model, hits in enumerate(metric.hits):
        answers = metric.samples[model][classification.TOP5][:, 0] if is_classified else hits
        is_new = answers.tobytes() not in model_by_answers
        if hits.mean() > least_accuracy and is_new:
            model_by_answers[answers.tobytes()] = model
            answers_of_models.append(answers)
    if len(answers_of_models) < FEWEST_MODELS:
        return (
            f"wrong labels: {FEWEST_MODELS} models above {100 * least_accuracy:.0f}% are needed, "
            f"not {len(answers_of_models)}"
        )
    models = [metric.models[model] for model in model_by_answers.values()]
    samples = metric.samples[0]
    if is_classified:
        labels = samples[classification.LABELS].astype(np.int64)
        class_names = classification.displayed_names(samples)
        agreed = agreement(np.stack(answers_of_models), labels, len(class_names))
        return _Evidence(agreed, labels, len(class_names), models, class_names)
    n_right = np.sum(answers_of_models, axis=0)
    n_wrong = len(models) - n_right
    agreed = Agreement(n_right, np.where(n_wrong > 0, 1, -1), n_wrong)
    return _Evidence(agreed, samples[selection.SUBSET].astype(np.int64), 2, models, [])


def _chance_level(metric: AuditedMetric) -> float | str:
    """Return the accuracy of random answers, or a reason why wrong labels cannot be found."""
    samples = metric.samples[0]
    if metric.row.task == classification.TASK.name:
        return 1 / len(samples[classification.CLASSES])
    if metric.row.task != selection.TASK.name:
        return f"the samples of task {metric.row.task} do not hold the wrong answers"
    chances = samples.get(selection.CHANCE, np.zeros(1))
    if not np.isin(chances, (0, 0.5)).all():
        return "the samples do not say which of several wrong answers a model chose"
    return 0.5


def _suspect_group(errors: LabelErrors, evidence: _Evidence) -> ItemGroup:
    """Return the group of labels that are more probably wrong than right."""
    details = []
    for item, is_suspect in enumerate(errors.is_suspect.tolist()):
        details.append(evidence.detail(item) if is_suspect else "")
    expected = float((1 - errors.probability)[errors.is_suspect].sum())
    return ItemGroup(
        SUSPECT, errors.is_suspect, errors.probability, details, expected, by_answers=True
    )


def _selection_groups(metric: AuditedMetric) -> Iterator[ItemGroup]:
    """Yield the groups of items of caption selection that are solved without looking.

    Items count as solved without the image if most models choose right by the mean of all images
    (or captions). The number expected by chance is the sum of the items' chance levels.
    """
    samples = metric.samples[0]
    if selection.CHANCE not in samples:
        return
    chances = samples[selection.CHANCE]
    expected = float(chances.sum())
    if (chances == 0).any():
        yield ItemGroup(UNSOLVABLE, chances == 0, (chances == 0).astype(float), expected=0.0)
    blind_hits = [_blind_hits(samples) for samples in metric.samples if selection.BLIND in samples]
    if blind_hits:
        share = np.mean(blind_hits, axis=0)
        details = [f"{value:.0%} of the models are right without it" for value in share.tolist()]
        yield ItemGroup(NO_IMAGE, share > 0.5, share, details, expected, by_answers=True)
    if selection.SHORTER in samples:
        shorter = samples[selection.SHORTER]
        is_shorter = (shorter == 1) & (chances < 1)
        # Captions of equal length are not counted: the shorter one of the others is right as often
        # as chance.
        differs = (shorter != chances) & (chances > 0)
        by_chance = float(chances[differs].sum())
        yield ItemGroup(SHORTER, is_shorter, shorter.astype(float), expected=by_chance)


def _blind_hits(samples: Samples) -> NDArray[np.bool_]:
    """Return whether a model solves each item without its image, (N,)."""
    return np.asarray(samples[selection.BLIND], bool)


def _answer_groups(metric: AuditedMetric) -> Iterator[ItemGroup]:
    """Yield the groups of items that tell models apart badly, by the number of models they fool."""
    share_right = metric.hits.mean(axis=0)
    yield ItemGroup(NONE_RIGHT, share_right == 0, 1 - share_right, by_answers=True)
    yield ItemGroup(ALL_RIGHT, share_right == 1, share_right, by_answers=True)
    if len(metric.models) >= FEWEST_FOR_ORDER:
        advantage = np.nan_to_num(discrimination(metric.hits))
        details = [
            f"models that solve it are {-100 * value:.1f} points worse"
            for value in advantage.tolist()
        ]
        yield ItemGroup(WORSE_RIGHT, advantage < 0, -advantage, details, by_answers=True)
