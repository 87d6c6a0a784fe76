"""Name the fault behind a wrong number of a model on a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np

from cosmos_eval.models.encoder import Encoder
from cosmos_eval.runner.diagnosis.faults import Fault, NotApplicableError
from cosmos_eval.runner.diagnosis.images import IMAGE_FAULTS
from cosmos_eval.runner.diagnosis.known import Known
from cosmos_eval.runner.diagnosis.labels import LABEL_FAULTS, LabelFault, Truth
from cosmos_eval.runner.diagnosis.modules import MODULE_FAULTS
from cosmos_eval.runner.diagnosis.passes import (
    Passes,
    encode_in_other_precision,
    encode_with_faults,
)
from cosmos_eval.runner.diagnosis.subjects import Subject, make_subject, metrics_of
from cosmos_eval.runner.diagnosis.texts import TEXT_FAULTS
from cosmos_eval.stats import diagnosis as stats
from cosmos_eval.stats.diagnosis import Outcomes
from cosmos_eval.stats.estimates import Features, Values
from cosmos_eval.types import OnProgress, Protocol, RunOptions, UsageError

Verdict = Literal["agrees", "chance", "none", "fault"]
"""The outcome of a diagnosis:

- "agrees": rounding and precision explain the difference between the known and the measured number.
- "chance": a model that guesses would reach about both numbers.
- "none": nothing in the catalogue explains the difference.
- "fault": a fault of the catalogue explains it.
"""

OTHER_IMAGES = Fault(
    name="other images",
    wrong="another split, or other images of the same kind, were measured",
    check="compare the lists of images",
)
SLIP = 0.02
"""The expected share of samples whose outcome differs between two implementations, even if both are
right and compute in the same precision."""


@dataclass(frozen=True)
class Explanation:
    """One fault or two, and the number that they would give."""

    faults: tuple[Fault, ...]
    # The predicted number of the whole set with the faults, and its 95% interval.
    value: float
    low: float
    high: float
    # True if the known number, before it was rounded, may be in the interval.
    fits: bool
    # The probability that these faults are the reason for the known number.
    probability: float

    @property
    def name(self) -> str:
        """The names of the faults, such as `BGR + lower case`."""
        return " + ".join(fault.name for fault in self.faults)


@dataclass(frozen=True)
class Measured:
    """A measurement without a fault."""

    metric: str
    # The number of the whole set.
    value: float
    # The number of images of the whole set.
    n_images: int
    # The number that a model which guesses reaches.
    chance: float
    # The standard deviation of the number due to the precision of the computation.
    noise: float
    # How many images were run again.
    n_samples: int


@dataclass(frozen=True)
class Diagnosis:
    """The explanations of a known number of a model on a data set."""

    verdict: Verdict
    known: Known
    measured: Measured
    # The explanations, the most probable one first.
    explanations: tuple[Explanation, ...] = ()
    # How many explanations are about as probable as the first one, itself included.
    n_tied: int = 0
    # The probability of a reason that is not in the catalogue.
    something_else: float = 0.0
    # The names of faults that change no outcome here.
    without_effect: tuple[str, ...] = ()
    # For each fault that cannot be applied: its name, and the reason.
    not_applicable: Mapping[str, str] = field(default_factory=dict)
    # How often the model encoded the images, and the texts.
    n_image_passes: int = 0
    n_text_passes: int = 0


def diagnose(
    encoder: Encoder,
    protocol: Protocol,
    data: Any,
    known: Known,
    options: RunOptions,
    progress: OnProgress,
    metric: str | None = None,
    n_samples: int = 300,
) -> Diagnosis:
    """Measure a model, compare the number with a known one, and look for a fault.

    The whole set is measured first. If rounding and precision explain the difference, or if both
    numbers could come from a model that guesses, no fault is tried.

    Args:
        encoder: The model.
        protocol: The protocol of the data set, of classification or retrieval.
        data: The opened data set.
        known: The number that is known from elsewhere.
        options: The options of the run.
        progress: Called with the progress.
        metric: The metric; None: the usual one of the task.
        n_samples: How many images are run again under each fault.

    Raises:
        UsageError: For tasks, metrics and protocols that cannot be diagnosed.
    """
    encoder = getattr(encoder, "built", encoder)  # bundled models are built when they are used
    subject = make_subject(
        encoder, protocol, data, choose_metric(protocol.task, metric), n_samples, options, progress
    )
    right = subject.outcomes(subject.image_features, subject.text_features, subject.truth)
    other_features = encode_in_other_precision(subject, options)
    in_other_precision = subject.outcomes(*other_features, subject.truth)
    noise = stats.precision_noise(right.values, in_other_precision.values, subject.n_whole)
    # noise**2 * n_whole is the share of samples whose outcome depends on the precision.
    slip = SLIP + noise**2 * subject.n_whole
    measured = Measured(
        metric=subject.metric,
        value=subject.value,
        n_images=subject.n_whole,
        chance=subject.chance,
        noise=noise,
        n_samples=len(subject.images),
    )
    if agrees(subject, known, noise, slip):
        return Diagnosis("agrees", known, measured)
    if are_both_chance(subject, known):
        return Diagnosis("chance", known, measured)

    passes = encode_with_faults(
        subject, IMAGE_FAULTS, TEXT_FAULTS, MODULE_FAULTS, options, progress
    )
    trials = Trials(subject, passes, right)
    explanations, something_else = weigh(predict_all(trials, noise), known, subject, slip)
    return Diagnosis(
        verdict="fault" if is_any_explained(explanations, something_else) else "none",
        known=known,
        measured=measured,
        explanations=tuple(explanations),
        n_tied=stats.count_tied([explanation.probability for explanation in explanations]),
        something_else=something_else,
        without_effect=tuple(fault.name for fault in trials.without_effect),
        not_applicable={fault.name: reason for fault, reason in trials.reasons.items()},
        n_image_passes=passes.n_image_passes,
        n_text_passes=passes.n_text_passes,
    )


def agrees(subject: Subject, known: Known, noise: float, slip: float) -> bool:
    """Return whether rounding and precision explain why the known number is not the measured one.

    If the known number comes with the hits of its images, the hits must agree as well: at most
    2 * slip of them may differ.

    Args:
        subject: The model and the samples.
        known: The number to explain.
        noise: The standard deviation of the number due to precision.
        slip: The expected share of samples whose outcome differs without a fault.
    """
    if not stats.is_explained_by_precision(subject.value, known.value, known.half_width, noise):
        return False
    if known.hits is None:
        return True
    return float(np.abs(known.hits[subject.indices] - subject.hits).mean()) <= 2 * slip


def are_both_chance(subject: Subject, known: Known) -> bool:
    """Return whether the measured and the known number could come from a model that guesses."""
    is_measured_chance = stats.is_chance(subject.value, subject.chance, subject.n_whole)
    is_known_chance = stats.is_chance(
        known.value, subject.chance, subject.n_whole, known.half_width
    )
    return is_measured_chance and is_known_chance


def choose_metric(task_name: str, metric: str | None) -> str:
    """Return the metric to diagnose: the named one, or the usual one of the task for None.

    Raises UsageError if the metric, or any metric of the task, cannot be diagnosed.
    """
    metrics = metrics_of(task_name)
    if metric is None:
        return metrics[0]
    if metric not in metrics:
        raise UsageError(f"--metric '{metric}' cannot be diagnosed; choose {', '.join(metrics)}")
    return metric


def is_any_explained(explanations: Sequence[Explanation], something_else: float) -> bool:
    """Return whether faults of the catalogue explain the known number.

    They do if the catalogue is more probable than something else, and if the known number is in the
    interval of at least one explanation.
    """
    return something_else < 0.5 and any(explanation.fits for explanation in explanations)


class Trials:
    """The outcomes of a subject's samples under single faults and under pairs of faults.

    The features of images and texts were computed separately. A fault of images is therefore
    combined with a fault of texts by comparing the features of both, without another pass of the
    model. Either of them is combined with a fault of labels in the same way.
    """

    def __init__(
        self,
        subject: Subject,
        passes: Passes,
        right: Outcomes,
        label_faults: Sequence[LabelFault] = LABEL_FAULTS,
    ) -> None:
        """Compute the outcomes of each single fault, and list the faults that change none.

        Args:
            subject: The model and the samples.
            passes: The features under faults of images, of texts and of the model.
            right: The outcomes without a fault.
            label_faults: The faults of labels, which are applied here.
        """
        self.subject = subject
        self.passes = passes
        self.right = right
        self.label_faults = label_faults
        self.reasons = dict(passes.reasons)
        self._truths_by_fault: dict[Fault, list[Truth]] = {}
        for label_fault in label_faults:
            try:
                self._truths_by_fault[label_fault] = label_fault.apply(subject.truth)
            except NotApplicableError as error:
                self.reasons[label_fault] = str(error)

        # The outcomes of each single fault, if it changes any.
        self.singles: dict[Fault, Outcomes] = {}
        self.without_effect: list[Fault] = []
        faults: tuple[Fault, ...] = (
            *IMAGE_FAULTS,
            *TEXT_FAULTS,
            *MODULE_FAULTS,
            *label_faults,
        )
        for fault in faults:
            if fault in self.reasons:
                continue
            outcomes = self.outcomes([fault])
            if np.allclose(outcomes.values, right.values):
                self.without_effect.append(fault)
            else:
                self.singles[fault] = outcomes

    def outcomes(self, faults: Sequence[Fault]) -> Outcomes:
        """Return the outcomes with faults, at most one of each kind."""
        image_features: Features = self.subject.image_features
        text_features: Features = self.subject.text_features
        truths = [self.subject.truth]
        for fault in faults:
            image_features = self.passes.images.get(fault, image_features)
            text_features = self.passes.texts.get(fault, text_features)
            truths = self._truths_by_fault.get(fault, truths)
        if len(truths) == 1:
            return self.subject.outcomes(image_features, text_features, truths[0])
        return self._random_outcomes(image_features, text_features, truths)

    def _random_outcomes(
        self, image_features: Features, text_features: Features, truths: Sequence[Truth]
    ) -> Outcomes:
        """Return the probabilities of a hit under a random fault of labels.

        All samples that are hits without this fault have the same probability: their share of hits
        over all draws. The same is done for the samples that are misses.

        Args:
            image_features: (n, D), perhaps with a fault.
            text_features: (T, D), perhaps with a fault.
            truths: The right answers with each draw of the random fault.
        """
        outcomes = self.subject.outcomes(image_features, text_features, self.subject.truth)
        draws = [self.subject.outcomes(image_features, text_features, truth) for truth in truths]
        mean_of_draws = np.mean([draw.values for draw in draws], axis=0)
        probabilities = np.zeros(len(mean_of_draws))
        for is_of_kind in (outcomes.values >= 0.5, outcomes.values < 0.5):
            if is_of_kind.any():
                probabilities[is_of_kind] = mean_of_draws[is_of_kind].mean()
        return draws[0]._replace(values=probabilities)

    def pairs(self) -> Iterator[tuple[tuple[Fault, Fault], Outcomes]]:
        """Yield each pair of faults of different kinds that has an effect of its own.

        The outcomes of the pair must differ from the outcomes of each single fault, and from the
        outcomes without a fault.
        """
        image_faults = [fault for fault in IMAGE_FAULTS if fault in self.singles]
        text_faults = [fault for fault in TEXT_FAULTS if fault in self.singles]
        label_faults = [fault for fault in self.label_faults if fault in self.singles]
        module_faults = [fault for fault in MODULE_FAULTS if fault in self.singles]
        pairs: list[tuple[Fault, Fault]] = [
            *product(image_faults, text_faults),
            *product(image_faults, label_faults),
            *product(text_faults, label_faults),
            *product(module_faults, label_faults),
        ]
        for pair in pairs:
            outcomes = self.outcomes(pair)
            is_new = not any(
                np.allclose(outcomes.values, self.singles[fault].values) for fault in pair
            )
            if is_new and not np.allclose(outcomes.values, self.right.values):
                yield pair, outcomes


class Hypothesis(NamedTuple):
    """A possible reason for the known number: one fault or two, and the number that they give."""

    faults: tuple[Fault, ...]
    prediction: stats.Prediction
    # (n,) the outcomes of the samples with the faults; None if other images were measured.
    outcomes: Values | None = None

    @property
    def n_faults(self) -> int:
        """The number of faults. It is 0 if other images were measured."""
        return 0 if self.outcomes is None else len(self.faults)


def predict_all(trials: Trials, noise: float) -> list[Hypothesis]:
    """Predict the number of the whole set under each fault, each pair, and with other images.

    Args:
        trials: The outcomes under faults.
        noise: The standard deviation of the number due to precision.
    """
    subject = trials.subject
    right = subject.right_values
    other_images = stats.predict_other_samples(subject.value, right, subject.n_whole)
    hypotheses = [Hypothesis((OTHER_IMAGES,), other_images)]
    outcomes_with_faults: list[tuple[tuple[Fault, ...], Outcomes]] = []
    for fault, outcomes in trials.singles.items():
        outcomes_with_faults.append(((fault,), outcomes))
    outcomes_with_faults += trials.pairs()
    for faults, outcomes in outcomes_with_faults:
        prediction = stats.predict(subject.value, right, outcomes, subject.n_whole, noise)
        hypotheses.append(Hypothesis(faults, prediction, outcomes.values))
    return hypotheses


def weigh(
    hypotheses: Sequence[Hypothesis],
    known: Known,
    subject: Subject,
    slip: float,
) -> tuple[list[Explanation], float]:
    """Return the probability of each hypothesis, given the known number.

    If the known number comes with the hits of its images, the hits are compared with the outcomes
    of each hypothesis. If not, only the numbers are compared.

    Args:
        hypotheses: The faults that may have been made, with predicted numbers.
        known: The number to explain, perhaps with the hits of its images.
        subject: The model and the samples.
        slip: The share of samples whose outcome may differ under the same faults.

    Returns:
        The explanations with the most probable one first, and the probability that something else
        is the reason for the known number.
    """
    if known.hits is None:
        predictions = [hypothesis.prediction for hypothesis in hypotheses]
        log_likelihood = stats.log_likelihoods(predictions, known.value, known.half_width)
        log_likelihood_of_else = float(np.log(2 * known.half_width))  # any number in [0, 1]
    else:
        hits = known.hits[subject.indices]
        hypotheses = [hypothesis for hypothesis in hypotheses if hypothesis.outcomes is not None]
        outcomes = np.array([hypothesis.outcomes for hypothesis in hypotheses])
        log_likelihood = stats.log_likelihoods_of_hits(outcomes, hits, slip)
        log_likelihood_of_else = stats.log_likelihood_of_unknown(subject.hits, hits)
    n_faults = np.array([hypothesis.n_faults for hypothesis in hypotheses])
    probabilities, something_else = stats.probabilities(
        log_likelihood, n_faults, log_likelihood_of_else
    )
    explanations = []
    for hypothesis, probability in zip(hypotheses, probabilities.tolist(), strict=True):
        low, high = hypothesis.prediction.interval
        fits = low - known.half_width <= known.value <= high + known.half_width
        value = min(max(hypothesis.prediction.value, 0.0), 1.0)
        explanations.append(Explanation(hypothesis.faults, value, low, high, fits, probability))
    explanations.sort(key=lambda explanation: -explanation.probability)
    return explanations, something_else
