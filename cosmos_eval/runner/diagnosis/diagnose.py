"""Name the fault behind a wrong number of a model on a data set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np

from cosmos_eval.models.encoder import Encoder
from cosmos_eval.runner.diagnosis.faults import Fault, NotApplicableError
from cosmos_eval.runner.diagnosis.images import IMAGE_FAULTS, NO_IMAGE_FAULT
from cosmos_eval.runner.diagnosis.labels import LABEL_FAULTS, Truth
from cosmos_eval.runner.diagnosis.modules import MODULE_FAULTS
from cosmos_eval.runner.diagnosis.passes import (
    Passes,
    encode_in_other_precision,
    encode_with_faults,
)
from cosmos_eval.runner.diagnosis.subjects import Subject, make_subject, metrics_of
from cosmos_eval.runner.diagnosis.texts import NO_TEXT_FAULT, TEXT_FAULTS
from cosmos_eval.stats import diagnosis as stats
from cosmos_eval.stats.estimates import Features, Values
from cosmos_eval.types import OnProgress, Protocol, RunOptions, UsageError

Verdict = Literal["agrees", "chance", "none", "fault"]
"""The known number is that of the result; both are those of guessing; nothing in the catalogue
explains it; or a fault does."""

OTHER_IMAGES = Fault(
    name="other images",
    wrong="another split, or other images of the same kind, were measured",
    check="compare the lists of images",
)
_NOBODY = "something else"


class KnownNumber(NamedTuple):
    """A number that is known from elsewhere, as a fraction."""

    value: float
    # Half of a unit of its last digit.
    half_width: float


@dataclass(frozen=True)
class Explanation:
    """One fault or two, and the number that they would give."""

    faults: tuple[Fault, ...]
    # The number of the whole set with the faults, and its 95% interval.
    value: float
    low: float
    high: float
    # Whether the known number, before it was rounded, may be in the interval.
    fits: bool
    # The probability that this is why the known number differs.
    probability: float

    @property
    def name(self) -> str:
        """The names of the faults, such as `BGR + lower case`."""
        return " + ".join(fault.name for fault in self.faults)


@dataclass(frozen=True)
class Diagnosis:
    """What explains a known number of a model on a data set."""

    verdict: Verdict
    metric: str
    known: KnownNumber
    # The number that was measured here, on how many images, and the number by chance.
    value: float
    n_images: int
    chance: float
    # The standard deviation of the number by precision.
    noise: float
    # How many images were run again.
    n_samples: int
    # The explanations, the most probable one first, and how many of them are tied.
    explanations: tuple[Explanation, ...] = ()
    n_tied: int = 0
    # The probability of something that is not in the catalogue.
    something_else: float = 0.0
    # Faults that change no outcome here, and why others cannot be applied.
    without_effect: tuple[str, ...] = ()
    not_applicable: Mapping[str, str] | None = None
    n_image_passes: int = 0
    n_text_passes: int = 0


def parse_known(text: str) -> KnownNumber:
    """Return a number in percent as a fraction, with the half unit of its last digit.

    Raises UsageError for other texts, and for numbers above 100.

    Example:
        "74.0" gives (0.74, 0.0005), and "74" gives (0.74, 0.005).
    """
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?%?", text.strip())
    if match is None or float(text.strip().rstrip("%")) > 100:
        raise UsageError(f"--known '{text}' is not a number in percent, such as 74.0")
    n_decimals = len(match[2] or "")
    return KnownNumber(float(text.strip().rstrip("%")) / 100, 0.5 * 10.0**-n_decimals / 100)


def diagnose(
    encoder: Encoder,
    protocol: Protocol,
    data: Any,
    known: KnownNumber,
    options: RunOptions,
    progress: OnProgress,
    metric: str | None = None,
    n_samples: int = 300,
) -> Diagnosis:
    """Compare a known number with that of a model on a data set, and look for a fault.

    The whole set is measured first. If rounding and precision explain the difference, or if both
    numbers are those of guessing, no fault is run.

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
    encoder = getattr(encoder, "built", encoder)  # of a bundled model, which is built when used
    subject = make_subject(
        encoder, protocol, data, choose_metric(protocol.task, metric), n_samples, options, progress
    )
    right = subject.outcomes(subject.image_features, subject.text_features, subject.truth)
    other_features = encode_in_other_precision(subject, options)
    rounded = subject.outcomes(*other_features, subject.truth)
    noise = stats.precision_noise(right, rounded, subject.n_whole)

    verdict: Verdict | None = None
    if stats.is_explained_by_precision(subject.value, known.value, known.half_width, noise):
        verdict = "agrees"
    elif stats.is_chance(subject.value, subject.chance, subject.n_whole) and stats.is_chance(
        known.value, subject.chance, subject.n_whole, known.half_width
    ):
        verdict = "chance"
    facts: dict[str, Any] = {
        "metric": subject.metric,
        "known": known,
        "value": subject.value,
        "n_images": subject.n_whole,
        "chance": subject.chance,
        "noise": noise,
        "n_samples": len(subject.images),
    }
    if verdict is not None:
        return Diagnosis(verdict=verdict, **facts)

    passes = encode_with_faults(
        subject, IMAGE_FAULTS, TEXT_FAULTS, MODULE_FAULTS, options, progress
    )
    trials = Trials(subject, passes, right)
    explanations, something_else = weigh(trials, known, noise)
    is_explained = something_else < 0.5 and any(one.fits for one in explanations)
    return Diagnosis(
        verdict="fault" if is_explained else "none",
        explanations=tuple(explanations),
        n_tied=stats.count_tied([explanation.probability for explanation in explanations]),
        something_else=something_else,
        without_effect=tuple(fault.name for fault in trials.without_effect),
        not_applicable={fault.name: reason for fault, reason in trials.reasons.items()},
        n_image_passes=passes.n_image_passes,
        n_text_passes=passes.n_text_passes,
        **facts,
    )


def choose_metric(task_name: str, metric: str | None) -> str:
    """Return the metric to diagnose. Raises UsageError for one that cannot be diagnosed."""
    metrics = metrics_of(task_name)
    if metric is None:
        return metrics[0]
    if metric not in metrics:
        raise UsageError(f"--metric '{metric}' cannot be diagnosed; choose {', '.join(metrics)}")
    return metric


class Trials:
    """The outcomes of a subject's samples under all faults, alone and in pairs.

    Features of images and of texts are computed apart. A fault of images and a fault of texts are
    combined by the product of their features, and either with a fault of labels.
    """

    def __init__(self, subject: Subject, passes: Passes, right: Values) -> None:
        """Apply the faults of labels, and list the faults that change an outcome.

        Args:
            subject: The model and the samples.
            passes: The features under faults of images, of texts and of the model.
            right: (n,), the outcomes without a fault.
        """
        self.subject = subject
        self.passes = passes
        self.right = right
        self.reasons = dict(passes.reasons)
        self._truth_by_fault: dict[Fault, Truth] = {}
        for fault in LABEL_FAULTS:
            try:
                self._truth_by_fault[fault] = fault.apply(subject.truth)
            except NotApplicableError as error:
                self.reasons[fault] = str(error)

        # The outcomes of each fault alone, if it changes any.
        self.singles: dict[Fault, Values] = {}
        self.without_effect: list[Fault] = []
        for fault in (*IMAGE_FAULTS, *TEXT_FAULTS, *MODULE_FAULTS, *LABEL_FAULTS):
            if fault in self.reasons:
                continue
            outcomes = self.outcomes([fault])
            if np.allclose(outcomes, right):
                self.without_effect.append(fault)
            else:
                self.singles[fault] = outcomes

    def outcomes(self, faults: Sequence[Fault]) -> Values:
        """Return the outcomes (n,) with faults, at most one of each kind."""
        image_features: Features = self.subject.image_features
        text_features: Features = self.subject.text_features
        truth = self.subject.truth
        for fault in faults:
            image_features = self.passes.images.get(fault, image_features)
            text_features = self.passes.texts.get(fault, text_features)
            truth = self._truth_by_fault.get(fault, truth)
        return self.subject.outcomes(image_features, text_features, truth)

    def pairs(self) -> Iterator[tuple[tuple[Fault, Fault], Values]]:
        """Yield the pairs of faults of different kinds whose outcomes differ from either alone."""
        image_faults = [fault for fault in IMAGE_FAULTS if fault in self.singles]
        text_faults = [fault for fault in TEXT_FAULTS if fault in self.singles]
        label_faults = [fault for fault in LABEL_FAULTS if fault in self.singles]
        module_faults = [fault for fault in MODULE_FAULTS if fault in self.singles]
        pairs: list[tuple[Fault, Fault]] = [
            *product(image_faults, text_faults),
            *product(image_faults, label_faults),
            *product(text_faults, label_faults),
            *product(module_faults, label_faults),
        ]
        for pair in pairs:
            outcomes = self.outcomes(pair)
            is_new = not any(np.allclose(outcomes, self.singles[fault]) for fault in pair)
            if is_new and not np.allclose(outcomes, self.right):
                yield pair, outcomes


def weigh(trials: Trials, known: KnownNumber, noise: float) -> tuple[list[Explanation], float]:
    """Return the explanations of a known number, and the probability of something else.

    Args:
        trials: The outcomes under faults.
        known: The number to explain.
        noise: The standard deviation of the number by precision.

    Returns:
        The explanations with the most probable one first, and a probability.
    """
    subject, right = trials.subject, trials.right
    hypotheses: list[tuple[tuple[Fault, ...], stats.Prediction]] = []
    other_images = stats.predict_other_samples(subject.value, right, subject.n_whole)
    hypotheses.append(((OTHER_IMAGES,), other_images))
    for fault, outcomes in trials.singles.items():
        prediction = stats.predict(subject.value, right, outcomes, subject.n_whole, noise)
        hypotheses.append(((fault,), prediction))
    for pair, outcomes in trials.pairs():
        prediction = stats.predict(subject.value, right, outcomes, subject.n_whole, noise)
        hypotheses.append((pair, prediction))

    log_likelihood = stats.log_likelihoods(
        [prediction for _, prediction in hypotheses], known.value, known.half_width
    )
    n_faults = np.array([len(faults) for faults, _ in hypotheses])
    probabilities, something_else = stats.probabilities(log_likelihood, n_faults, known.half_width)
    explanations = []
    for (faults, prediction), probability in zip(hypotheses, probabilities.tolist(), strict=True):
        low, high = prediction.interval
        fits = low - known.half_width <= known.value <= high + known.half_width
        value = min(max(prediction.value, 0.0), 1.0)
        explanations.append(Explanation(faults, value, low, high, fits, probability))
    explanations.sort(key=lambda explanation: -explanation.probability)
    return explanations, something_else
