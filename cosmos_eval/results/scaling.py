"""Laws of scale of training methods, from stored results of trainings at several budgets.

A method is all trainings whose recipe has the same name. The name of a training's group ends with
the hash of its recipe, in which the number of steps counts, so that each budget is a group.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from cosmos_core.utils.text import first_of
from cosmos_eval.results import groups
from cosmos_eval.results.groups import Moments, training_key
from cosmos_eval.results.identity import is_stopped, training_of
from cosmos_eval.results.labels import StoredResult, without_other_wordings
from cosmos_eval.results.table import (
    NamePatterns,
    frame_of_records,
    pattern_index,
    require_known,
    select_metrics,
    split_patterns,
)
from cosmos_eval.stats.scaling import (
    LEAST_BUDGETS,
    MISFIT,
    Crossing,
    FittedLadder,
    Ladder,
    find_crossing,
    fit_ladders,
    refusal_of_prediction,
    require_enough_budgets,
)
from cosmos_eval.tasks import Metric, metric_of
from cosmos_eval.types import Interval, Samples, UsageError

if TYPE_CHECKING:
    import pandas as pd

Unit = Literal["samples", "flops"]
"""What budgets are counted in."""

LARGEST: Literal["largest"] = "largest"
_HASH = re.compile(r"-[0-9a-f]{8}(?: at step \d+)?$")
_MOST_NAMES = 8  # that a message lists
_MOST_FAULTS = 3  # that a message lists
_SAME_BUDGET = 1e-2  # the relative difference of budgets that count as equal
_SIDES = "AB"

ReadSamples = Callable[[Path], Samples]
"""A function that returns the per-sample arrays of a result file."""

DatasetKey = tuple[str, str]
"""The data set, and its protocol with the settings that differ from the defaults."""


class ScalingOptions(NamedTuple):
    """What laws are fitted to, and what they are to predict."""

    unit: Unit = "samples"
    # One text for each method: names of recipes or groups, with commas between them and `*` for any
    # text. Empty: each name of a recipe is a method.
    methods: tuple[str, ...] = ()
    # Patterns of names of metrics; empty: primary metrics.
    metrics: tuple[str, ...] = ()
    # The budget that is held out: a number, or "largest" for the largest one of each method.
    hold_out: float | Literal["largest"] | None = None
    # The budget at which one new training is predicted.
    predict: float | None = None


def make_options(
    *,
    unit: Unit = "samples",
    methods: Sequence[str] = (),
    metrics: str | Sequence[str] = (),
    hold_out: str | float | None = None,
    predict: float | None = None,
) -> ScalingOptions:
    """Return the options from texts as users write them, see `ScalingOptions`.

    Raises:
        UsageError: If a budget is not a positive number, and for an unknown unit.

    Example:
        `make_options(hold_out="6.4e5").hold_out` is 640000.0.
    """
    if unit not in get_args(Unit):
        raise UsageError(f"budgets are in samples or flops, not in {unit}")
    budget: float | Literal["largest"] | None = None
    if hold_out == LARGEST:
        budget = LARGEST
    elif hold_out is not None:
        try:
            budget = float(hold_out)
        except ValueError:
            budget = math.nan
    for number in (budget, predict):
        if isinstance(number, float) and not 0 < number < math.inf:
            raise UsageError("a budget is a positive number such as 640000 or 6.4e5, or `largest`")
    return ScalingOptions(
        unit=unit,
        methods=tuple(methods),
        metrics=tuple(split_patterns(metrics)),
        hold_out=budget,
        predict=predict,
    )


class Prediction(NamedTuple):
    """The predicted error of a method at a budget that the law was not fitted to."""

    budget: float
    # The error by the law, and its interval: the mean over all seeds and images.
    error: float
    mean: Interval
    # The measured mean error of a held-out budget; None for a budget without trainings.
    measured: float | None
    # The number of trainings whose mean error `interval` predicts, on the same images.
    trainings: int
    interval: Interval
    # Why the law must not predict this budget; empty if it may.
    refusal: str

    @property
    def is_inside(self) -> bool | None:
        """Whether the measured error lies in the interval; None if there is none."""
        if self.measured is None:
            return None
        return self.interval.low <= self.measured <= self.interval.high


class MethodLaw(NamedTuple):
    """The law of one method on one metric."""

    name: str
    fitted: FittedLadder
    # Predictions of the held-out budget and of the budget of `--predict`, as far as there are any.
    predictions: tuple[Prediction, ...]


class MetricLaws(NamedTuple):
    """The laws of all methods on one metric of a data set, and where they cross."""

    dataset: str
    protocol: str
    task: str
    metric: str
    unit: Unit
    methods: tuple[MethodLaw, ...]
    # The crossing of every two methods, by the indices of both.
    crossings: Mapping[tuple[int, int], Crossing]

    @property
    def metric_record(self) -> Metric:
        """The metric's definition: its unit, and whether higher is better."""
        return metric_of(self.task, self.metric)

    @property
    def factor(self) -> int:
        """The number that errors are multiplied by for display: 100 for percent, else 1."""
        return self.metric_record.factor


class Scaling(NamedTuple):
    """Laws of scale of all data sets and metrics."""

    laws: tuple[MetricLaws, ...]
    # What a reader should know, one line each.
    notes: tuple[str, ...]

    @property
    def headlines(self) -> list[str]:
        """The outcome of each metric, one or more lines each."""
        return [line for laws in self.laws for line in headlines_of(laws)]

    @property
    def verdict(self) -> str:
        """All headlines, one per line."""
        return "\n".join(self.headlines)

    @property
    def frame(self) -> pd.DataFrame:
        """The budgets of all methods as a table, one row each; errors as fractions."""
        return frame_of_records(row for laws in self.laws for row in budget_rows(laws))


def fit_scaling(
    results: Sequence[StoredResult], read_samples: ReadSamples, options: ScalingOptions
) -> Scaling:
    """Fit laws of scale to all methods, data sets and metrics that have enough budgets.

    Args:
        results: The results of trainings.
        read_samples: A function that returns the per-sample arrays of a result file.
        options: The choices of the user.

    Raises:
        UsageError: If no law can be fitted, if none of the predictions that are asked for is
            supported, for edited results, and for different data or settings.
    """
    usable_results, notes = _usable_results(results)
    methods = _methods_of(usable_results, options.methods)
    laws: list[MetricLaws] = []
    faults: list[str] = []
    keys = dict.fromkeys(_key_of(result) for result in usable_results)
    for key in keys:
        results_by_method = {}
        for name, method_results in methods.items():
            on_key = [result for result in method_results if _key_of(result) == key]
            try:
                results_by_method[name] = _results_by_budget(name, on_key, options, notes)
            except _TooFewError as error:
                faults.append(f"{key[0]}: {error}")
        if results_by_method:
            laws += _laws_of_set(key, results_by_method, read_samples, options, notes)
    if not laws:
        raise UsageError("; ".join(list(dict.fromkeys(faults))[:_MOST_FAULTS]))
    _require_prediction(laws, options)
    return Scaling(tuple(laws), tuple(dict.fromkeys([*notes, *faults])))


class _TooFewError(Exception):
    """A method has too few budgets on a data set."""


def _usable_results(results: Sequence[StoredResult]) -> tuple[list[StoredResult], list[str]]:
    """Return the results of trainings whose group and number of samples are known, and notes."""
    published_results, notes = without_other_wordings(results)
    usable_results = []
    n_unknown = 0
    for result in published_results:
        training = training_of(result.row)
        if is_stopped(result.row) or not training.get("group"):
            continue
        if training.get("samples"):
            usable_results.append(result)
        else:
            n_unknown += 1
    if n_unknown:
        notes = [
            *notes,
            f"left out: {n_unknown} results do not state the samples of their training",
        ]
    if not usable_results:
        raise UsageError(
            "no result states its training: measure checkpoints of cosmos-train, or state group, "
            "seed and samples in a file, `cosmos-eval run --trainings FILE`"
        )
    return usable_results, notes


def has_ladder(results: Sequence[StoredResult]) -> bool:
    """Return whether a method has trainings at enough budgets for a law."""
    samples_of_method: dict[str, set[int]] = {}
    for result in results:
        training = training_of(result.row)
        if training.get("group") and training.get("samples"):
            name = method_name(training["group"])
            samples_of_method.setdefault(name, set()).add(training["samples"])
    return any(len(samples) >= LEAST_BUDGETS for samples in samples_of_method.values())


def select_results(results: Sequence[StoredResult], patterns: NamePatterns) -> list[StoredResult]:
    """Return the results of the models, data sets and protocols that patterns name."""
    chosen_results = []
    for result in results:
        names_and_patterns = (
            ([result.model, result.identity.name, result.identity.spec], patterns.models),
            ([result.row.dataset], patterns.datasets),
            ([result.row.protocol], patterns.protocols),
        )
        if all(
            not texts or pattern_index(names, texts) >= 0 for names, texts in names_and_patterns
        ):
            chosen_results.append(result)
    return chosen_results


def method_name(group: str) -> str:
    """Return the name of the method of a group of trainings, which is the name of its recipe.

    Example: "scenes_clip-fdaf36bd" and "scenes_clip-1a2b3c4d at step 400" -> "scenes_clip".
    """
    return _HASH.sub("", group)


def _methods_of(
    results: Sequence[StoredResult], patterns: Sequence[str]
) -> dict[str, list[StoredResult]]:
    """Return the results of each method, by its name.

    Args:
        results: The results of trainings.
        patterns: The methods that the user names, see `ScalingOptions.methods`.

    Raises:
        UsageError: If a pattern matches nothing, or a training belongs to two methods.
    """
    methods: dict[str, list[StoredResult]] = {}
    if not patterns:
        for result in results:
            name = method_name(training_of(result.row)["group"])
            methods.setdefault(name, []).append(result)
        return methods
    all_groups = [training_of(result.row)["group"] for result in results]
    all_names = [*all_groups, *(method_name(group) for group in all_groups)]
    owners: dict[Path, str] = {}
    for text in patterns:
        names = split_patterns(text)
        require_known("group of trainings", names, all_names)
        for result, group in zip(results, all_groups, strict=True):
            if pattern_index([group, method_name(group)], names) < 0:
                continue
            owner = owners.setdefault(result.path, text)
            if owner != text:
                raise UsageError(f"--group {owner} and --group {text} both have {group}")
            methods.setdefault(text, []).append(result)
    return methods


def _key_of(result: StoredResult) -> DatasetKey:
    """Return the data set of a result, and its protocol with other settings than the defaults."""
    words = [result.row.protocol, *result.identity.variants]
    if result.row.provenance.get("map"):
        words.append(result.row.provenance["map"])
    return result.row.dataset, ", ".join(words)


def _results_by_budget(
    name: str, results: Sequence[StoredResult], options: ScalingOptions, notes: list[str]
) -> dict[float, list[StoredResult]]:
    """Return the results of a method on one data set by budget, the smallest first.

    Within a budget they are in the order of seeds.

    Args:
        name: The name of the method.
        results: Its results on the data set.
        options: The unit of budgets, and the budget that is held out.
        notes: The list to which notes are added.

    Raises:
        _TooFewError: If there are too few budgets for a law.
        UsageError: If trainings of one budget follow different recipes, a training occurs twice,
            or trainings have different architectures.
    """
    by_samples: dict[int, list[StoredResult]] = {}
    for result in sorted(results, key=training_key):
        by_samples.setdefault(training_of(result.row)["samples"], []).append(result)
    for samples, budget_results in sorted(by_samples.items()):
        _require_one_recipe(f"{name} with {samples:,} samples", budget_results)
    scale = 1.0
    if options.unit == "flops":
        scale = _flops_per_sample(name, results)
    budgets = {samples * scale: by_samples[samples] for samples in sorted(by_samples)}
    is_fitted = _fitted_mask(list(budgets), options)
    try:
        require_enough_budgets(np.array(list(budgets))[is_fitted])
    except ValueError as error:
        held_out = "" if is_fitted.all() else " (without the held-out one)"
        raise _TooFewError(f"no law of {name}{held_out}: {error}") from None
    _require_one_architecture(name, results, options.unit)
    data = {training_of(result.row).get("data_sha256") for result in results}
    if len(data - {None}) > 1:
        notes.append(f"the trainings of {name} differ in data_sha256")
    return budgets


def _require_one_recipe(label: str, results: Sequence[StoredResult]) -> None:
    """Raise UsageError if trainings of a budget follow different recipes, or one occurs twice."""
    groups.require_distinct(results)
    recipes = {training_of(result.row).get("recipe_sha256") for result in results} - {None}
    if len(recipes) > 1:
        names = sorted({training_of(result.row)["group"] for result in results})
        raise UsageError(
            f"{label} has trainings of different recipes ({first_of(names, _MOST_NAMES)}): name "
            "the groups of one recipe with --group"
        )


def _require_one_architecture(name: str, results: Sequence[StoredResult], unit: Unit) -> None:
    """Raise UsageError if trainings of a method differ in their architecture.

    Budgets in FLOPs may be those of larger and larger models.
    """
    architectures = {result.row.model["architecture"] for result in results}
    if unit == "samples" and len(architectures) > 1:
        raise UsageError(
            f"the trainings of {name} have {len(architectures)} architectures: use --x flops, or "
            "name the groups of one architecture with --group"
        )


def _flops_per_sample(name: str, results: Sequence[StoredResult]) -> float:
    """Return the mean FLOPs per sample of the trainings that state them.

    The count of single trainings differs by the lengths of the captions in the batch that PyTorch
    counted, so that trainings of one budget would have different budgets.
    """
    ratios = []
    for result in results:
        training = training_of(result.row)
        if training.get("flops"):
            ratios.append(training["flops"] / training["samples"])
    if not ratios:
        raise UsageError(f"no training of {name} states its FLOPs: use --x samples")
    return float(np.mean(ratios))


def _fitted_mask(budgets: Sequence[float], options: ScalingOptions) -> Any:
    """Return which budgets the law is fitted to, (B,)."""
    mask = np.ones(len(budgets), bool)
    if options.hold_out == LARGEST:
        mask[-1] = False
    elif options.hold_out is not None:
        mask = ~np.isclose(budgets, options.hold_out, rtol=_SAME_BUDGET, atol=0)
    return mask


def _laws_of_set(
    key: DatasetKey,
    results_by_method: Mapping[str, Mapping[float, Sequence[StoredResult]]],
    read_samples: ReadSamples,
    options: ScalingOptions,
    notes: list[str],
) -> list[MetricLaws]:
    """Return the laws of all methods on the metrics of one data set.

    Args:
        key: The data set and the protocol.
        results_by_method: The results of each method by budget.
        read_samples: A function that returns the per-sample arrays of a result file.
        options: The choices of the user.
        notes: The list to which notes are added.
    """
    results: list[StoredResult] = []
    for results_by_budget in results_by_method.values():
        for budget_results in results_by_budget.values():
            results += budget_results
    task = results[0].row.task
    metric_names = _metrics_of(results, options.metrics)
    moments_by_metric = groups.estimate_moments_of_results(results, read_samples, metric_names)
    all_laws = []
    for metric_name in metric_names:
        moments = moments_by_metric.get(metric_name)
        metric = metric_of(task, metric_name)
        if moments is None or (metric.higher_is_better and metric.unit != "fraction"):
            notes.append(f"{key[0]}: no law of {metric_name}, whose error is not known")
            continue
        ladders = _make_ladders(results_by_method, moments, metric, options)
        fitted_ladders = fit_ladders(ladders, moments.covariance)
        methods = []
        for name, fitted in zip(results_by_method, fitted_ladders, strict=True):
            methods.append(MethodLaw(name, fitted, tuple(_predictions(fitted, options))))
        crossings = {}
        for a, b in combinations(range(len(methods)), 2):
            try:
                crossings[a, b] = find_crossing(fitted_ladders[a], fitted_ladders[b])
            except ValueError as error:
                notes.append(f"{methods[a].name} and {methods[b].name}: {error}")
        all_laws.append(
            MetricLaws(*key, task, metric_name, options.unit, tuple(methods), crossings)
        )
    return all_laws


def _metrics_of(results: Sequence[StoredResult], patterns: Sequence[str]) -> list[str]:
    """Return the names of the metrics that match a pattern, or of the primary ones."""
    row = results[0].row
    names = [name for name in row.metrics if metric_of(row.task, name).is_ranked]
    if patterns:
        return list(select_metrics(names, patterns, str))
    return [name for name in names if metric_of(row.task, name).primary]


def _make_ladders(
    results_by_method: Mapping[str, Mapping[float, Sequence[StoredResult]]],
    moments: Moments,
    metric: Metric,
    options: ScalingOptions,
) -> list[Ladder]:
    """Return the errors of each method's trainings by budget.

    Args:
        results_by_method: The results of each method by budget.
        moments: The values of the metric, in the order of the results.
        metric: The metric.
        options: The choices of the user.
    """
    values = 1 - moments.values if metric.higher_is_better else moments.values
    ladders = []
    start = 0
    for results_by_budget in results_by_method.values():
        errors, seeds = [], []
        for results in results_by_budget.values():
            errors.append(values[start : start + len(results)])
            numbers = []
            for index, result in enumerate(results):
                seed = training_of(result.row).get("seed")
                numbers.append(-1 - start - index if seed is None else seed)
            seeds.append(np.array(numbers))
            start += len(results)
        budgets = list(results_by_budget)
        ladders.append(
            Ladder(
                budgets=np.array(budgets, float),
                errors=tuple(errors),
                seeds=tuple(seeds),
                is_fitted=_fitted_mask(budgets, options),
                are_fractions=metric.unit == "fraction",
            )
        )
    return ladders


def _predictions(fitted: FittedLadder, options: ScalingOptions) -> Iterator[Prediction]:
    """Yield the predictions of held-out budgets, and of the budget that the user asks for."""
    ladder = fitted.ladder
    for index in np.flatnonzero(~ladder.is_fitted).tolist():
        budget = float(ladder.budgets[index])
        mean = fitted.mean_interval(budget)
        yield Prediction(
            budget=budget,
            error=float(fitted.law.error_at(budget)),
            mean=mean,
            measured=float(ladder.means[index]),
            trainings=int(ladder.counts[index]),
            interval=fitted.held_out_interval(index),
            refusal=refusal_of_prediction(fitted, budget, mean),
        )
    if options.predict is not None:
        mean = fitted.mean_interval(options.predict)
        yield Prediction(
            budget=options.predict,
            error=float(fitted.law.error_at(options.predict)),
            mean=mean,
            measured=None,
            trainings=1,
            interval=fitted.training_interval(options.predict),
            refusal=refusal_of_prediction(fitted, options.predict, mean),
        )


def _require_prediction(all_laws: Sequence[MetricLaws], options: ScalingOptions) -> None:
    """Raise UsageError if predictions are asked for and none of them is supported."""
    methods = [(laws, method) for laws in all_laws for method in laws.methods]
    if options.hold_out is not None and all(
        method.fitted.ladder.is_fitted.all() for _, method in methods
    ):
        budgets = [budget_text(float(b)) for b in methods[0][1].fitted.ladder.budgets]
        raise UsageError(
            f"no method has a budget of {options.hold_out:g} {options.unit} to hold out: "
            f"{methods[0][1].name} has {first_of(budgets, _MOST_NAMES)}"
        )
    refusals = []
    for laws, method in methods:
        for prediction in method.predictions:
            if not prediction.refusal:
                return
            refusals.append(
                f"{laws.dataset} {laws.metric}, {method.name} at "
                f"{budget_text(prediction.budget)} {laws.unit}: {prediction.refusal}"
            )
    if refusals:
        raise UsageError(f"not predicted: {'; '.join(refusals[:_MOST_FAULTS])}")


def budget_text(budget: float) -> str:
    """Return a budget with two digits.

    Example: 1234567 -> "1.2e6", 640 -> "640".
    """
    if budget < 1000:
        return f"{budget:.3g}"
    mantissa, exponent = f"{budget:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def headlines_of(laws: MetricLaws) -> Iterator[str]:
    """Yield the outcome of a metric: each crossing, or the law of a single method; predictions."""
    place = f"{laws.dataset}, error of {laws.metric}"
    if not laws.metric_record.higher_is_better:
        place = f"{laws.dataset}, {laws.metric}"
    for (index_a, index_b), crossing in laws.crossings.items():
        methods = (laws.methods[index_a], laws.methods[index_b])
        yield f"{place}: {_crossing_text(crossing, methods, laws.unit)}"
    if len(laws.methods) == 1:
        yield f"{place}: {_law_text(laws, laws.methods[0])}"
    for method in laws.methods:
        for prediction in method.predictions:
            yield f"{place}: {method.name} {_prediction_text(laws, prediction)}"


def _crossing_text(crossing: Crossing, methods: Sequence[MethodLaw], unit: Unit) -> str:
    """Return where the laws of two methods cross, in one sentence.

    Examples:
        "cosmos below clip from 2.1e5 samples on [1.4e5, 3.9e5]",
        "cosmos below clip from 4e4 to 6.4e5 samples",
        "no crossing of cosmos and clip shown from 4e4 to 6.4e5 samples".
    """
    lower = methods[_SIDES.index(crossing.lower_at_end)].name
    higher = methods[1 - _SIDES.index(crossing.lower_at_end)].name
    span = f"from {budget_text(crossing.low_budget)} to {budget_text(crossing.high_budget)} {unit}"
    for method in methods:
        if _misfits(method):
            return f"{method.name} does not follow the law, so no crossing is computed"
    if crossing.crosses and crossing.budget is not None:
        low = budget_text(crossing.low or crossing.low_budget)
        high = budget_text(crossing.high or crossing.high_budget)
        low = low if crossing.low else f"<{low}"
        high = high if crossing.high else f">{high}"
        return (
            f"{lower} below {higher} from {budget_text(crossing.budget)} {unit} on [{low}, {high}]"
        )
    if crossing.is_below:
        return f"{lower} below {higher} {span}"
    return f"no crossing of {lower} and {higher} shown {span}"


def _misfits(method: MethodLaw) -> bool:
    """Return whether the trainings of a method are shown to deviate from their law."""
    misfit_p = method.fitted.misfit_p
    return misfit_p is not None and misfit_p < MISFIT


def _law_text(laws: MetricLaws, method: MethodLaw) -> str:
    """Return how the error of a method falls.

    Example: "clip falls to 4.20 as samples^-0.52, alpha on [0.41, 0.66]".
    """
    if _misfits(method):
        return f"{method.name} does not follow a law E + A C^-alpha"
    if not method.fitted.falls:
        return f"no law of {method.name} shown: the interval of alpha includes 0"
    interval = method.fitted.parameter_interval("exponent")
    floor = laws.factor * method.fitted.law.floor
    return (
        f"{method.name} falls to {floor:.2f} as {laws.unit}^-{method.fitted.law.exponent:.2f}, "
        f"alpha on [{interval.low:.2f}, {interval.high:.2f}]"
    )


def _prediction_text(laws: MetricLaws, prediction: Prediction) -> str:
    """Return a prediction in a few words, with the measured error if there is one."""
    budget = f"{budget_text(prediction.budget)} {laws.unit}"
    if prediction.refusal:
        return f"at {budget} not predicted: {prediction.refusal}"
    error, low, high = (
        f"{laws.factor * value:.2f}"
        for value in (prediction.error, prediction.interval.low, prediction.interval.high)
    )
    text = f"at {budget} predicted {error} [{low}, {high}]"
    if prediction.measured is None:
        return text
    outcome = "inside" if prediction.is_inside else "outside"
    return f"{text}, measured {laws.factor * prediction.measured:.2f}: {outcome}"


def budget_rows(laws: MetricLaws) -> Iterator[dict[str, Any]]:
    """Yield a row for each budget of each method; errors are fractions, or as the metric.

    `error` is the mean over trainings; `law`, `low` and `high` are the mean over all seeds and
    images by the law. `predicted_low` and `predicted_high` are the interval for the mean of
    `trainings` trainings on the same images. They and `refusal`, the reason why there are none, are
    None for budgets that the law was fitted to.
    """
    for method in laws.methods:
        ladder = method.fitted.ladder
        predictions = {prediction.budget: prediction for prediction in method.predictions}
        budgets = {float(budget): index for index, budget in enumerate(ladder.budgets)}
        for budget in sorted({*budgets, *predictions}):
            index = budgets.get(budget)
            prediction = predictions.get(budget)
            is_refused = prediction is not None and prediction.refusal != ""
            mean = method.fitted.mean_interval(budget)
            row: dict[str, Any] = {
                "dataset": laws.dataset,
                "protocol": laws.protocol,
                "metric": laws.metric,
                "method": method.name,
                "unit": laws.unit,
                "budget": budget,
                "trainings": 0 if index is None else len(ladder.errors[index]),
                "fitted": index is not None and bool(ladder.is_fitted[index]),
                "error": None if index is None else float(ladder.means[index]),
                "law": None if is_refused else float(method.fitted.law.error_at(budget)),
                "low": None if is_refused else mean.low,
                "high": None if is_refused else mean.high,
                "predicted_trainings": None if prediction is None else prediction.trainings,
                "predicted_low": None,
                "predicted_high": None,
                "refusal": None if prediction is None else prediction.refusal,
            }
            if prediction is not None and not is_refused:
                row["predicted_low"] = prediction.interval.low
                row["predicted_high"] = prediction.interval.high
            yield row


def law_records(laws: MetricLaws) -> list[dict[str, Any]]:
    """Return the parameters of the laws as rows of a table, by the titles of the columns.

    E is in percent for fractions. If no law is shown, there are no parameters.
    """
    records = []
    for method in laws.methods:
        fitted = method.fitted
        law = fitted.law
        floor = fitted.parameter_interval("floor")
        exponent = fitted.parameter_interval("exponent")
        is_shown = fitted.falls and not _misfits(method)
        records.append(
            {
                "law": method.name,
                "E [95%]": _value_text(law.floor, floor, laws.factor, 2) if is_shown else "",
                "alpha [95%]": _value_text(law.exponent, exponent, 1, 2) if is_shown else "",
                "A": f"{laws.factor * law.scale:.3g}" if is_shown else "",
                "misfit p": "" if fitted.misfit_p is None else f"{fitted.misfit_p:.2g}",
            }
        )
    return records


def budget_records(laws: MetricLaws) -> list[dict[str, Any]]:
    """Return the budgets of all methods as rows of a table, by the titles of the columns."""
    records = []
    for row in budget_rows(laws):
        law = ""
        if row["law"] is not None:
            ends = Interval(row["low"], row["high"], "", 0.95)
            law = _value_text(row["law"], ends, laws.factor, 2)
        predicted = ""
        if row["predicted_low"] is not None:
            low, high = laws.factor * row["predicted_low"], laws.factor * row["predicted_high"]
            predicted = f"[{low:.2f}, {high:.2f}]"
        budget = row["budget"]
        records.append(
            {
                "method": row["method"],
                laws.unit: f"{budget:,.0f}" if laws.unit == "samples" else f"{budget:.3g}",
                "k": str(row["trainings"]),
                "error": "" if row["error"] is None else f"{laws.factor * row['error']:.2f}",
                "law [95%]": law,
                "predicted": predicted,
            }
        )
    return records


def _value_text(value: float, interval: Interval, factor: float, decimals: int) -> str:
    """Return a value with its interval, such as "4.20 [0.00, 9.10]"."""
    texts = [f"{factor * number:.{decimals}f}" for number in (value, interval.low, interval.high)]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def to_document(laws: MetricLaws) -> dict[str, Any]:
    """Return the laws of a metric as a JSON document. Errors are fractions, or as the metric."""
    methods = []
    for method in laws.methods:
        fitted = method.fitted
        parameters = {}
        for name, field in (("E", "floor"), ("A", "scale"), ("alpha", "exponent")):
            interval = fitted.parameter_interval(field)
            parameters[name] = {
                "value": float(getattr(fitted.law, field)),
                "low": interval.low,
                "high": interval.high,
            }
        methods.append(
            {
                "name": method.name,
                "parameters": parameters,
                "shown": fitted.falls and not _misfits(method),
                "misfit_p": fitted.misfit_p,
                "seed_correlation": fitted.spread.correlation,
                "interval_method": fitted.method,
            }
        )
    crossings = []
    for (a, b), crossing in laws.crossings.items():
        document = {"a": laws.methods[a].name, "b": laws.methods[b].name, **crossing._asdict()}
        document["shown"] = crossing.crosses
        crossings.append(document)
    return {
        "dataset": laws.dataset,
        "protocol": laws.protocol,
        "task": laws.task,
        "metric": laws.metric,
        "unit": laws.unit,
        "headlines": list(headlines_of(laws)),
        "methods": methods,
        "budgets": list(budget_rows(laws)),
        "crossings": crossings,
    }


def reading_notes(all_laws: Sequence[MetricLaws]) -> Iterator[str]:
    """Yield what the columns of the tables mean, and what the intervals cover."""
    is_percent = all(laws.factor == 100 for laws in all_laws)
    unit = "100 - metric, in percent" if is_percent else "1 - metric for fractions, in percent"
    fitted_ladders = [method.fitted for laws in all_laws for method in laws.methods]
    yield f"error: {unit}, mean over k trainings; law: E + A C^-alpha"
    if all(fitted.spread.dof > 0 for fitted in fitted_ladders):
        yield "intervals are over seeds and images"
    else:
        yield (
            "intervals are over images only where no budget has two trainings: other seeds may "
            "give other laws"
        )
    if any(method.predictions for laws in all_laws for method in laws.methods):
        yield (
            "predicted: for the mean of the k held-out trainings, or for one new training, on "
            "these images"
        )
    if len(all_laws) > 1 or len(all_laws[0].crossings) > 1:
        yield "intervals are not corrected for the number of metrics and pairs"
