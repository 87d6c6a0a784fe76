"""Groups of doubtful items, which follow from the stored samples of several models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.results.audit.metrics import AuditedMetric
from cosmos_eval.results.text import p_value_text
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
from cosmos_eval.tasks import classification, retrieval, selection
from cosmos_eval.tasks.task import NAME
from cosmos_eval.types import Samples

SUSPECT = "suspect labels"
NONE_RIGHT, ALL_RIGHT = "no model right", "all models right"
WORSE_RIGHT = "worse models right"
SHARED_ANSWER = "same wrong answer"
NO_IMAGE, SHORTER = "right without image", "shorter is right"
UNSOLVABLE = "right equals wrong"
SAME_WORDS = "same words"
"""Items whose right and wrong captions have the same words. The score of an item is the probability
that a model which ignores word order is wrong."""

FEWEST_FOR_ORDER = 5
"""With fewer models, it is mostly chance whether better or worse models solve an item."""


@dataclass(frozen=True)
class ItemGroup:
    """Items that have a property which makes them doubtful, or useless for a comparison."""

    name: str
    # (N,) true for the items that are in the group.
    items: NDArray[np.bool_]
    # (N,) how doubtful each item is: the higher, the more.
    scores: Values
    # (N,) a phrase about each item, such as "labelled cat, 5 of 5 models say dog"; or no phrases.
    details: Sequence[str] = ()
    # How many items are expected in the group if the benchmark has no fault; None if unknown.
    expected: float | None = None
    # True if the answers of the audited models decide which items are in the group.
    by_answers: bool = False
    # True if it depends on the models that are right whether an item is in the group. A ranking
    # without these items would show differences that do not exist, or hide real ones.
    biases_ranking: bool = False

    @property
    def count(self) -> int:
        """The number of items in the group."""
        return int(self.items.sum())

    def detail(self, item: int) -> str:
        """Return the phrase about an item. It may be empty."""
        return self.details[item] if len(self.details) else ""

    def most_doubtful(self) -> list[int]:
        """Return the indices of the group's items, the item with the highest score first."""
        item_indices = np.flatnonzero(self.items)
        order = np.argsort(-self.scores[item_indices], kind="stable")
        return [int(item) for item in item_indices[order]]


class SuspectLabels(NamedTuple):
    """The estimate of wrong labels, and the models by whose answers they were found."""

    errors: LabelErrors
    # The names of the models.
    models: tuple[str, ...]

    @property
    def expected_wrong(self) -> tuple[float, float, float]:
        """How many of the suspect labels are expected to be wrong, and its lower and upper limit.

        The limits follow from the limits of the share of wrong labels.
        """
        is_suspect = self.errors.is_suspect
        return (
            float(self.errors.probability[is_suspect].sum()),
            float(self.errors.probability_low[is_suspect].sum()),
            float(self.errors.probability_high[is_suspect].sum()),
        )


class SampleGroups(NamedTuple):
    """The groups of items that follow from stored samples, and reasons why others are missing."""

    groups: tuple[ItemGroup, ...]
    # None if wrong labels cannot be estimated.
    suspect_labels: SuspectLabels | None
    # For each judgement that the samples do not allow, a sentence that says why.
    unknown: tuple[str, ...]


def groups_of_samples(metric: AuditedMetric) -> SampleGroups:
    """Return all groups of items that follow from the stored samples of a metric."""
    suspect_labels: SuspectLabels | None = None
    groups = []
    unknown = []
    evidence = _label_evidence(metric)
    if isinstance(evidence, _Evidence):
        errors = evidence.estimate()
        if errors.is_fitting:
            suspect_labels = SuspectLabels(errors, tuple(evidence.models))
            groups.append(_suspect_group(errors, evidence))
        else:
            unknown.append(
                "wrong labels: the numbers of models that err alike fit no known distribution "
                f"(p = {p_value_text(errors.fit)}), as if models differ much"
            )
        groups.append(_shared_answer_group(errors, evidence))
    elif metric.row.task != retrieval.TASK.name:
        unknown.append(evidence)
    if metric.row.task == selection.TASK.name:
        groups += _selection_groups(metric)
    if metric.row.task == retrieval.TASK.name:
        shared_answers = _shared_item_group(metric)
        if isinstance(shared_answers, str):
            unknown.append(shared_answers)
        else:
            groups.append(shared_answers)
    if len(metric.models) > 1:
        groups += _answer_groups(metric)
    else:
        unknown.append("one model: neither ranks, nor items that no or every model solves")
    if 1 < len(metric.models) < FEWEST_FOR_ORDER:
        unknown.append(
            f"items that worse models solve: {FEWEST_FOR_ORDER} models are needed, there are "
            f"{len(metric.models)}"
        )
    return SampleGroups(tuple(groups), suspect_labels, tuple(unknown))


class _Evidence(NamedTuple):
    """The data from which wrong labels are estimated, for K models and N items."""

    # How many models agree on an answer to each item.
    agreed: Agreement
    # (N,) the labels, and the wrong answers that most models give. How often which label is
    # confused with which answer is counted from both. They are class numbers, or subsets of items.
    labels: Ints
    answers: Ints
    # The number of classes.
    n_classes: int
    # The names of the models.
    models: list[str]
    # (N,) a phrase about the label of each item, such as "labelled cat, "; or no phrases.
    label_phrases: Sequence[str]
    # The name of each answer.
    answer_names: Sequence[str]

    def estimate(self) -> LabelErrors:
        """Estimate the share of wrong labels, and how probably each label is wrong."""
        return estimate_label_errors(
            self.agreed._replace(answer=self.answers),
            self.labels,
            self.n_classes,
            len(self.models),
        )

    def detail(self, item: int) -> str:
        """Return a phrase about an item: "labelled cat, 4 of 5 models say dog"."""
        answer = self.answer_names[self.agreed.answer[item]]
        votes = f"{self.agreed.votes[item]} of {len(self.models)} models say {answer}"
        return f"{self.label_phrases[item]}{votes}" if len(self.label_phrases) else votes


def _label_evidence(metric: AuditedMetric) -> _Evidence | str:
    """Return the evidence on wrong labels, or a sentence that says why there is none.

    Only models whose accuracy is above the middle between chance and 100% are used. Several models
    with the same answers, such as copies under two names, count as one.
    """
    if metric.n_items < FEWEST_ITEMS:
        return f"wrong labels: {FEWEST_ITEMS} items are needed, there are {metric.n_items}"
    chance = _chance_level(metric)
    if isinstance(chance, str):
        return f"wrong labels: {chance}"
    least_accuracy = (1 + chance) / 2
    model_by_answers: dict[bytes, int] = {}
    answers_of_models = []
    for model, hits in enumerate(metric.hits):
        answers = _answers_of_model(metric, model)
        is_new = answers.tobytes() not in model_by_answers
        if hits.mean() > least_accuracy and is_new:
            model_by_answers[answers.tobytes()] = model
            answers_of_models.append(answers)
    if len(answers_of_models) < FEWEST_MODELS:
        return (
            f"wrong labels: {FEWEST_MODELS} models above {100 * least_accuracy:.0f}% are needed, "
            f"there are {len(answers_of_models)}"
        )
    models = [metric.models[model] for model in model_by_answers.values()]
    samples = metric.samples[0]
    if metric.row.task == classification.TASK.name:
        labels = samples[classification.LABELS].astype(np.int64)
        names = classification.displayed_names(samples)
        agreed = agreement(np.stack(answers_of_models), labels)
        phrases = [f"labelled {names[label]}, " for label in labels]
        return _Evidence(agreed, labels, agreed.answer, len(names), models, phrases, names)
    # An answer is either right, -1, or wrong, 0. Confusions are counted for each subset.
    agreed = agreement(np.stack(answers_of_models), np.full(metric.n_items, -1))
    subsets = samples[selection.SUBSET].astype(np.int64)
    wrong_answers = np.where(agreed.votes > 0, 1, -1)
    return _Evidence(agreed, subsets, wrong_answers, 2, models, (), ["the other one"])


def _answers_of_model(metric: AuditedMetric, model: int) -> Ints:
    """Return the answers (N,) of a model: class numbers, or -1 if it is right and 0 if wrong."""
    if metric.row.task == classification.TASK.name:
        return np.asarray(metric.samples[model][classification.TOP5][:, 0], np.int64)
    return np.where(metric.hits[model], -1, 0)


def _chance_level(metric: AuditedMetric) -> float | str:
    """Return the accuracy of random answers, or a reason why labels cannot be judged."""
    samples = metric.samples[0]
    if metric.row.task == classification.TASK.name:
        return 1 / len(samples[classification.CLASSES])
    if metric.row.task != selection.TASK.name:
        return f"probabilities are not known for task {metric.row.task}"
    chances = samples.get(selection.CHANCE, np.zeros(1))
    if not np.isin(chances, (0, 0.5)).all():
        return "the samples do not say which of several wrong answers a model chose"
    return 0.5


def _shared_item_group(metric: AuditedMetric) -> ItemGroup | str:
    """Return the queries of retrieval for which most models rank the same wrong item first.

    The item may fit as well as the right one, or the models may err alike. The samples do not tell
    which is the case.

    Returns:
        The group, or a sentence that says why it is missing.
    """
    are_queries_captions = metric.has_captions_as_items
    array_name = retrieval.TEXT_FIRST if are_queries_captions else retrieval.IMAGE_FIRST
    if not all(array_name in samples for samples in metric.samples):
        return "other answers that fit: the samples lack them; measure again, without pair scores"
    # Several models with the same answers count as one.
    first_items = np.unique([samples[array_name] for samples in metric.samples], axis=0)
    n_models = len(first_items)
    if n_models < FEWEST_MODELS:
        return f"other answers that fit: {FEWEST_MODELS} models are needed, there are {n_models}"
    agreed = agreement(first_items, np.full(metric.n_items, -1))
    is_shared = agreed.votes >= _least_votes(n_models)
    samples = metric.samples[0]
    names = [str(name) for name in samples.get(NAME, range(len(samples[retrieval.IMAGE_RANK])))]
    details = []
    for votes, answer in zip(agreed.votes, agreed.answer, strict=True):
        item = names[answer] if are_queries_captions else f"caption {answer}"
        details.append(f"{votes} of {n_models} models say {item}" if votes else "")
    scores = agreed.votes / n_models
    return ItemGroup(
        SHARED_ANSWER, is_shared, scores, details, by_answers=True, biases_ranking=True
    )


def _suspect_group(errors: LabelErrors, evidence: _Evidence) -> ItemGroup:
    """Return the group of labels that are more probably wrong than right."""
    details = []
    for item, is_suspect in enumerate(errors.is_suspect.tolist()):
        details.append(evidence.detail(item) if is_suspect else "")
    expected = float((1 - errors.probability)[errors.is_suspect].sum())
    return ItemGroup(
        SUSPECT, errors.is_suspect, errors.probability, details, expected, by_answers=True
    )


def _shared_answer_group(errors: LabelErrors, evidence: _Evidence) -> ItemGroup:
    """Return the items to which most models give the same wrong answer.

    Models err alike, so that right labels are in this group, too. Their expected number is the
    number expected by chance. It is unknown if the mixture of `stats.label_errors` does not fit.
    """
    n_models = len(evidence.models)
    least_votes = _least_votes(n_models)
    is_shared = evidence.agreed.votes >= least_votes
    details = []
    for item, shared in enumerate(is_shared.tolist()):
        details.append(evidence.detail(item) if shared else "")
    expected = float(errors.expected_by_votes[least_votes:].sum()) if errors.is_fitting else None
    scores = evidence.agreed.votes / n_models
    return ItemGroup(
        SHARED_ANSWER, is_shared, scores, details, expected, by_answers=True, biases_ranking=True
    )


def _least_votes(n_models: int) -> int:
    """Return how many models must give the same answer: more than half of them, at least 3."""
    return max(FEWEST_MODELS, n_models // 2 + 1)


def _selection_groups(metric: AuditedMetric) -> Iterator[ItemGroup]:
    """Yield the groups of items of caption selection that can be solved without the image.

    An item counts as solved without the image if most models choose correctly when the mean of all
    images (or captions) takes the place of its image (or caption). The number expected by chance is
    the sum of the probabilities with which random answers solve the items.
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
        # Items whose captions have equal lengths are not counted. Among the other items, the
        # shorter caption is expected to be right as often as a random one.
        has_different_lengths = (shorter != chances) & (chances > 0)
        expected_shorter = float(chances[has_different_lengths].sum())
        yield ItemGroup(SHORTER, is_shorter, shorter.astype(float), expected=expected_shorter)


def _blind_hits(samples: Samples) -> NDArray[np.bool_]:
    """Return whether a model solves each item without its image, (N,)."""
    return np.asarray(samples[selection.BLIND], bool)


def _answer_groups(metric: AuditedMetric) -> Iterator[ItemGroup]:
    """Yield the groups of items that say little or the wrong thing about which model is better.

    They are the items that no model solves, that all models solve, and, if there are enough models,
    those that worse models solve more often than better ones.
    """
    share_right = metric.hits.mean(axis=0)
    yield ItemGroup(NONE_RIGHT, share_right == 0, 1 - share_right, by_answers=True)
    yield ItemGroup(ALL_RIGHT, share_right == 1, share_right, by_answers=True)
    if len(metric.models) >= FEWEST_FOR_ORDER:
        advantage = np.nan_to_num(discrimination(metric.hits))
        details = [
            f"models that solve it are {-100 * value:.1f} points worse"
            for value in advantage.tolist()
        ]
        yield ItemGroup(
            WORSE_RIGHT, advantage < 0, -advantage, details, by_answers=True, biases_ranking=True
        )
