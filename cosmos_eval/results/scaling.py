"""Laws of scale of training methods, from stored results of trainings at several budgets.

A method is all trainings whose recipe has the same name. The group of a training by cosmos-train
ends with the hash of its recipe, in which the number of steps counts, so that each budget is a
group.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import combinations, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from cosmos_core.utils.text import first_of
from cosmos_eval.results import groups
from cosmos_eval.results.groups import Moments, ReadSamples, training_key
from cosmos_eval.results.identity import is_stopped, training_of
from cosmos_eval.results.labels import StoredResult, without_other_wordings
from cosmos_eval.results.laws import (
    MethodLaw,
    MetricLaws,
    Prediction,
    Scaling,
    Unit,
    budget_text,
)
from cosmos_eval.results.table import (
    NamePatterns,
    pattern_index,
    require_known,
    split_patterns,
)
from cosmos_eval.stats.estimates import Values
from cosmos_eval.stats.scaling import (
    Crossing,
    FittedLadder,
    Ladder,
    find_crossing,
    fit_ladders,
    refusal_of_prediction,
    require_enough_budgets,
    require_several_budgets,
)
from cosmos_eval.tasks import Metric, metric_of
from cosmos_eval.types import UsageError

LARGEST: Literal["largest"] = "largest"
_AT_STEP = " at step "  # in the group of a training that had not done all of its steps
_HASH_LENGTH = 8  # of the start of `recipe_sha256` in the group of a training by cosmos-train
_MOST_NAMES = 8  # that a message lists
_MOST_FAULTS = 3  # that a message lists
_FITTED_KINDS = "laws are of fractions, and of other metrics above 0 if lower is better"
_SAME_BUDGET = 1e-2  # the relative difference of budgets that count as equal

DatasetKey = tuple[str, str]
"""The data set, and its protocol with the settings that differ from the defaults."""


class ScalingOptions(NamedTuple):
    """The choices of a user: methods, metrics, budgets."""

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
        if number is None or number == LARGEST:
            continue
        if not 0 < number < math.inf:
            raise UsageError("a budget is a positive number such as 640000 or 6.4e5, or `largest`")
    return ScalingOptions(
        unit=unit,
        methods=tuple(methods),
        metrics=tuple(split_patterns(metrics)),
        hold_out=budget,
        predict=predict,
    )


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
    usable_results, notes = _usable_results(results, options)
    usable_results = _results_with_metrics(usable_results, options.metrics)
    methods = _methods_of(usable_results, options.methods)
    fitter = _LawFitter(read_samples, options, notes)
    keys = list(dict.fromkeys(_key_of(result) for result in usable_results))
    n_protocols = Counter(dataset for dataset, _ in keys)
    laws: list[MetricLaws] = []
    for key in keys:
        dataset, protocol = key
        title = dataset if n_protocols[dataset] == 1 else f"{dataset} ({protocol})"
        results_by_method = {}
        for name, method_results in methods.items():
            dataset_results = [result for result in method_results if _key_of(result) == key]
            if not dataset_results:
                continue
            results_by_budget = fitter.split_by_budget(title, name, dataset_results)
            if results_by_budget:
                results_by_method[name] = results_by_budget
        if results_by_method:
            laws += fitter.fit_dataset(key, title, results_by_method)
    if not laws:
        reasons = list(dict.fromkeys([*fitter.faults, *fitter.notes]))
        raise UsageError("; ".join(reasons[:_MOST_FAULTS]))
    _require_prediction(laws, options)
    return Scaling(tuple(laws), tuple(dict.fromkeys([*fitter.notes, *fitter.faults])))


class _LawFitter:
    """Fits the laws of methods on data sets, and collects what there is to say about them.

    Attributes:
        notes: What the reader must know about the results, one line each.
        faults: Why a method, data set or metric has no law, one line each.
    """

    def __init__(
        self, read_samples: ReadSamples, options: ScalingOptions, notes: Sequence[str]
    ) -> None:
        """Begin with the notes about results that are left out.

        Args:
            read_samples: A function that returns the per-sample arrays of a result file.
            options: The choices of the user.
            notes: The first notes.
        """
        self._read_samples = read_samples
        self._options = options
        self.notes = list(notes)
        self.faults: list[str] = []

    def split_by_budget(
        self, title: str, name: str, results: Sequence[StoredResult]
    ) -> dict[float, list[StoredResult]]:
        """Return the results of a method on one data set by budget, the smallest first.

        Within a budget they are in the order of seeds.

        Args:
            title: The data set, as messages call it.
            name: The name of the method.
            results: Its results on the data set.

        Returns:
            The results, or {} if the budgets do not support a law, which is a fault.

        Raises:
            UsageError: If trainings of one budget follow different recipes, a training occurs
                twice, or trainings have different architectures.
        """
        held_out_text = ""
        try:
            results_by_budget = _group_by_budget(name, results, self._options.unit)
            budgets = np.array(list(results_by_budget))
            is_fitted = _fitted_mask(budgets, self._options)
            if not is_fitted.all():
                held_out_text = " (without the held-out one)"
            require_enough_budgets(budgets[is_fitted])
        except ValueError as error:
            self.faults.append(f"{title}: no law of {name}{held_out_text}: {error}")
            return {}
        _require_one_architecture(name, results, self._options.unit)
        self._note_about_trainings(name, results, holds_out=not is_fitted.all())
        return results_by_budget

    def _note_about_trainings(
        self, name: str, results: Sequence[StoredResult], *, holds_out: bool
    ) -> None:
        """Note if trainings saw different data, or no budget of the method is held out."""
        data = {training_of(result.row).get("data_sha256") for result in results}
        if len(data - {None}) > 1:
            self.notes.append(f"the trainings of {name} differ in data_sha256")
        hold_out = self._options.hold_out
        if hold_out is not None and not holds_out:
            self.notes.append(
                f"{name} has no budget of {hold_out:g} {self._options.unit}: its law is fitted to "
                "all of its budgets"
            )

    def fit_dataset(
        self,
        key: DatasetKey,
        title: str,
        results_by_method: Mapping[str, Mapping[float, Sequence[StoredResult]]],
    ) -> list[MetricLaws]:
        """Return the laws of all methods on the metrics of one data set.

        Args:
            key: The data set and the protocol.
            title: The data set, as messages call it.
            results_by_method: The results of each method by budget.
        """
        results: list[StoredResult] = []
        for results_by_budget in results_by_method.values():
            for budget_results in results_by_budget.values():
                results += budget_results
        task = results[0].row.task
        metric_names = _metrics_of(results, self._options.metrics)
        if not metric_names:
            self.faults.append(f"{title}: no primary metric: choose others with --metrics")
            return []
        moments_by_metric = groups.estimate_moments_of_results(
            results, self._read_samples, metric_names
        )
        all_laws = []
        for metric_name in metric_names:
            moments = moments_by_metric.get(metric_name)
            metric = metric_of(task, metric_name)
            reason = _reason_without_law(metric_name, metric, results, moments)
            if reason or moments is None:
                self.faults.append(f"{title}: no law of {metric_name}, {reason}")
                continue
            methods = _fit_methods(results_by_method, moments, metric, self._options)
            all_laws.append(
                MetricLaws(
                    dataset=key[0],
                    protocol=key[1],
                    dataset_title=title,
                    task=task,
                    metric=metric_name,
                    unit=self._options.unit,
                    methods=tuple(methods),
                    crossings=self._find_crossings(title, methods),
                )
            )
        return all_laws

    def _find_crossings(
        self, title: str, methods: Sequence[MethodLaw]
    ) -> dict[tuple[int, int], Crossing | None]:
        """Return the crossing of every two methods by their indices, see `MetricLaws.crossings`.

        Methods without a common range of budgets have none, which is noted.
        """
        crossings: dict[tuple[int, int], Crossing | None] = {}
        for a, b in combinations(range(len(methods)), 2):
            if methods[a].misfits or methods[b].misfits:
                crossings[a, b] = None
                continue
            try:
                crossings[a, b] = find_crossing(methods[a].fitted, methods[b].fitted)
            except ValueError as error:
                self.notes.append(f"{title}: {methods[a].name} and {methods[b].name}: {error}")
        return crossings


def _usable_results(
    results: Sequence[StoredResult], options: ScalingOptions
) -> tuple[list[StoredResult], list[str]]:
    """Return the results of trainings whose group and number of samples are known, and notes.

    Trainings that had not done all of their steps are left out, because their learning rate had not
    fallen as that of a training of this budget. They count if the user names them.
    """
    patterns = [name for text in options.methods for name in split_patterns(text)]
    published_results, notes = without_other_wordings(results)
    usable_results = []
    n_left_out: Counter[str] = Counter()
    for result in published_results:
        training = training_of(result.row)
        if is_stopped(result.row):
            n_left_out["of runs that `--until` stopped"] += 1
        elif not training.get("group"):
            n_left_out["without the `group` of the training"] += 1
        elif not training.get("samples"):
            n_left_out["without the `samples` of the training"] += 1
        elif _AT_STEP in training["group"] and not _is_named(result, patterns):
            reason = f"before their last step (`--group 'NAME{_AT_STEP}*'` includes them)"
            n_left_out[f"of trainings {reason}"] += 1
        else:
            usable_results.append(result)
    notes = list(notes)
    for reason, count in n_left_out.items():
        notes.append(f"left out: {count} {'result' if count == 1 else 'results'} {reason}")
    if not usable_results:
        raise UsageError(
            "; ".join(
                [
                    *notes,
                    "no result states a finished training: measure checkpoints of cosmos-train, or "
                    "state group, seed and samples in a file, `cosmos-eval run --trainings FILE`",
                ]
            )
        )
    return usable_results, notes


def _results_with_metrics(
    results: Sequence[StoredResult], patterns: Sequence[str]
) -> list[StoredResult]:
    """Return the results on data sets that have a metric which a pattern matches.

    All results on such a data set are returned, also those that lack the metric. Without patterns
    they are the results on all data sets.

    Raises:
        UsageError: For a pattern that no metric of any result matches.
    """
    if not patterns:
        return list(results)
    all_names = [name for result in results for name in _ranked_metrics(result)]
    if not all_names:
        raise UsageError("no metric of these results says which model is better")
    require_known("metric", patterns, all_names)
    chosen_keys = {
        _key_of(result)
        for result in results
        if pattern_index(_ranked_metrics(result), patterns) >= 0
    }
    return [result for result in results if _key_of(result) in chosen_keys]


def has_ladder(results: Sequence[StoredResult]) -> bool:
    """Return whether a method has trainings at enough budgets for a law on one data set.

    They must be of one architecture, since larger models at other budgets are no ladder.
    """
    try:
        usable_results, _ = _usable_results(results, ScalingOptions())
    except UsageError:
        return False
    samples_of_ladder: dict[tuple[DatasetKey, str, str], set[float]] = {}
    for result in usable_results:
        ladder = (_key_of(result), _method_name(result), result.row.model["architecture"])
        samples_of_ladder.setdefault(ladder, set()).add(training_of(result.row)["samples"])
    for samples in samples_of_ladder.values():
        with suppress(ValueError):
            require_enough_budgets(np.array(sorted(samples)))
            return True
    return False


def select_results(results: Sequence[StoredResult], patterns: NamePatterns) -> list[StoredResult]:
    """Return the results of the models, data sets and protocols that patterns name.

    Raises:
        UsageError: For a pattern that matches nothing.
    """
    chosen_results = list(results)
    for kind, texts in (
        ("model", patterns.models),
        ("data set", patterns.datasets),
        ("protocol", patterns.protocols),
    ):
        if texts:
            all_names = [name for result in results for name in _names_of_kind(result, kind)]
            require_known(kind, texts, all_names)
            chosen_results = [
                result
                for result in chosen_results
                if pattern_index(_names_of_kind(result, kind), texts) >= 0
            ]
    return chosen_results


def _names_of_kind(result: StoredResult, kind: str) -> list[str]:
    """Return the names of a result's model, data set or protocol, whichever `kind` is."""
    if kind == "model":
        return [result.model, result.identity.name, result.identity.spec]
    return [result.row.dataset if kind == "data set" else result.row.protocol]


def method_name(group: str, recipe_sha256: str | None) -> str:
    """Return the name of the method of a group of trainings.

    It is the group without the hash of the recipe, or the group itself if it has none.

    Example: For a recipe with the hash "fdaf36bd...", "scenes_clip-fdaf36bd" and
    "scenes_clip-fdaf36bd at step 400" give "scenes_clip".
    """
    finished_group = group.partition(_AT_STEP)[0]
    if not recipe_sha256:
        return finished_group
    return finished_group.removesuffix(f"-{recipe_sha256[:_HASH_LENGTH]}")


def _method_name(result: StoredResult) -> str:
    """Return the name of the method of a result's training."""
    training = training_of(result.row)
    return method_name(training["group"], training.get("recipe_sha256"))


def _group_names(result: StoredResult) -> list[str]:
    """Return the names by which a user may call the group of a result's training.

    Example: "clip-fdaf36bd at step 400" and "clip at step 400".
    """
    group: str = training_of(result.row)["group"]
    _, separator, step = group.partition(_AT_STEP)
    return [group, _method_name(result) + separator + step]


def _is_named(result: StoredResult, patterns: Sequence[str]) -> bool:
    """Return whether a pattern names the group of a result's training.

    A training before its last step is only named by patterns with " at step ", so that `clip*` does
    not include it.
    """
    group = training_of(result.row)["group"]
    if _AT_STEP in group:
        patterns = [pattern for pattern in patterns if _AT_STEP in pattern]
    return pattern_index(_group_names(result), patterns) >= 0


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
            methods.setdefault(_method_name(result), []).append(result)
        return methods
    all_names = [name for result in results for name in _group_names(result)]
    owners: dict[Path, str] = {}
    for text in dict.fromkeys(patterns):
        names = split_patterns(text)
        require_known("group of trainings", names, all_names)
        for result in results:
            if not _is_named(result, names):
                continue
            owner = owners.setdefault(result.path, text)
            if owner != text:
                group = training_of(result.row)["group"]
                raise UsageError(f"--group {owner} and --group {text} both have {group}")
            methods.setdefault(text, []).append(result)
    return methods


def _key_of(result: StoredResult) -> DatasetKey:
    """Return the data set of a result, and its protocol with other settings than the defaults."""
    words = [result.row.protocol, *result.identity.variants]
    if result.row.provenance.get("map"):
        words.append(result.row.provenance["map"])
    return result.row.dataset, ", ".join(words)


def _group_by_budget(
    name: str, results: Sequence[StoredResult], unit: Unit
) -> dict[float, list[StoredResult]]:
    """Return the results of a method by budget, the smallest first, see `split_by_budget`.

    Raises:
        ValueError: If there are fewer budgets than a law needs, and if two are almost equal, which
            would count as two points of a law. So models of different architectures must not have
            the same FLOPs.
        UsageError: See `split_by_budget`.
    """
    results_by_size: dict[tuple[str, int], list[StoredResult]] = {}
    for result in sorted(results, key=training_key):
        architecture = result.row.model["architecture"] if unit == "flops" else ""
        size = (architecture, training_of(result.row)["samples"])
        results_by_size.setdefault(size, []).append(result)
    # A method with too few budgets may have any trainings, such as those of a search.
    require_several_budgets(len(results_by_size))
    pairs: list[tuple[float, list[StoredResult]]] = []
    for (_, samples), size_results in results_by_size.items():
        label = f"{name} with {samples:,} samples"
        _require_one_recipe(label, size_results)
        budget = float(samples)
        if unit == "flops":
            budget = samples * _flops_per_sample(label, size_results)
        pairs.append((budget, size_results))
    pairs.sort(key=itemgetter(0))
    for (smaller, _), (larger, _) in pairwise(pairs):
        if larger < smaller * (1 + _SAME_BUDGET):
            raise ValueError(
                f"budgets of {smaller:.6g} and {larger:.6g} {unit} are almost equal: choose one of "
                "them with --group"
            )
    return dict(pairs)


def _require_one_recipe(label: str, results: Sequence[StoredResult]) -> None:
    """Raise UsageError if trainings of a budget follow different recipes, or one occurs twice."""
    recipes = {training_of(result.row).get("recipe_sha256") for result in results} - {None}
    if len(recipes) > 1:
        names = sorted({training_of(result.row)["group"] for result in results})
        raise UsageError(
            f"{label} has trainings of different recipes ({first_of(names, _MOST_NAMES)}): name "
            "the groups of one recipe with --group"
        )
    groups.require_distinct(results)


def _require_one_architecture(name: str, results: Sequence[StoredResult], unit: Unit) -> None:
    """Raise UsageError if trainings of a method differ in their architecture.

    Budgets in FLOPs may belong to larger and larger models.
    """
    architectures = {result.row.model["architecture"] for result in results}
    if unit == "samples" and len(architectures) > 1:
        raise UsageError(
            f"the trainings of {name} have {len(architectures)} architectures: use --x flops, or "
            "name the groups of one architecture with --group"
        )


def _flops_per_sample(label: str, results: Sequence[StoredResult]) -> float:
    """Return the mean FLOPs per sample of the trainings of one budget that state them.

    The count of single trainings differs by the lengths of the captions in the batch that PyTorch
    counted, so that trainings of one budget would have different budgets. `label` names the
    trainings in the message of the UsageError that is raised if none of them states its FLOPs.
    """
    ratios = []
    for result in results:
        training = training_of(result.row)
        if training.get("flops"):
            ratios.append(training["flops"] / training["samples"])
    if not ratios:
        raise UsageError(f"no training of {label} states its FLOPs: use --x samples")
    return float(np.mean(ratios))


def _fitted_mask(budgets: Values, options: ScalingOptions) -> NDArray[np.bool_]:
    """Return which budgets (B,) the law is fitted to, (B,)."""
    mask = np.ones(len(budgets), bool)
    if options.hold_out == LARGEST:
        mask[-1] = False
    elif options.hold_out is not None:
        mask = ~np.isclose(budgets, options.hold_out, rtol=_SAME_BUDGET, atol=0)
    return mask


def _metrics_of(results: Sequence[StoredResult], patterns: Sequence[str]) -> list[str]:
    """Return the names of the metrics of any result that match a pattern, or of primary ones."""
    names = list(dict.fromkeys(name for result in results for name in _ranked_metrics(result)))
    if patterns:
        return [name for name in names if pattern_index([name], patterns) >= 0]
    return [name for name in names if metric_of(results[0].row.task, name).primary]


def _ranked_metrics(result: StoredResult) -> list[str]:
    """Return the names of the metrics of a result that say which model is better."""
    row = result.row
    return [name for name in row.metrics if metric_of(row.task, name).is_ranked]


def _reason_without_law(
    metric_name: str, metric: Metric, results: Sequence[StoredResult], moments: Moments | None
) -> str:
    """Return why no law can be fitted to the values of a metric; empty if one can.

    The variance between seeds is taken to be proportional to e (1 - e) for errors e that are
    fractions, and to e^2 for other errors, which must therefore be above 0.
    """
    n_without = sum(metric_name not in result.row.metrics for result in results)
    if n_without:
        return f"which {n_without} of {len(results)} results do not have"
    if moments is None:
        return "whose variance is not known"
    if metric.unit == "fraction":
        return ""
    if metric.higher_is_better:
        return f"which rises as models get better, and is not a fraction: {_FITTED_KINDS}"
    if metric.unit == "difference":
        return f"a difference, which may be 0 or negative: {_FITTED_KINDS}"
    if (moments.values <= 0).any():
        return f"which is {moments.values.min():.3g} for a training: {_FITTED_KINDS}"
    return ""


def _fit_methods(
    results_by_method: Mapping[str, Mapping[float, Sequence[StoredResult]]],
    moments: Moments,
    metric: Metric,
    options: ScalingOptions,
) -> list[MethodLaw]:
    """Return the law of each method on a metric, with its predictions. See `_make_ladders`."""
    ladders = _make_ladders(results_by_method, moments, metric, options)
    methods = []
    for name, fitted in zip(
        results_by_method, fit_ladders(ladders, moments.covariance), strict=True
    ):
        methods.append(MethodLaw(name, fitted, tuple(_predictions(fitted, options))))
    return methods


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
            budget_seeds = []
            for index, result in enumerate(results):
                seed = training_of(result.row).get("seed")
                budget_seeds.append(-1 - start - index if seed is None else seed)
            seeds.append(np.array(budget_seeds))
            start += len(results)
        budgets = np.array(list(results_by_budget))
        ladders.append(
            Ladder(
                budgets=budgets,
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
        refusal = refusal_of_prediction(fitted, options.predict, mean)
        if not refusal and fitted.spread.dof == 0:
            refusal = "one training per budget, so that the variance between seeds is unknown"
        yield Prediction(
            budget=options.predict,
            error=float(fitted.law.error_at(options.predict)),
            mean=mean,
            measured=None,
            trainings=1,
            interval=fitted.training_interval(options.predict),
            refusal=refusal,
        )


def _require_prediction(all_laws: Sequence[MetricLaws], options: ScalingOptions) -> None:
    """Raise UsageError if predictions are asked for and none of them is supported."""
    methods = [(laws, method) for laws in all_laws for method in laws.methods]
    if options.hold_out is not None and all(
        method.fitted.ladder.is_fitted.all() for _, method in methods
    ):
        budgets = [f"{budget:.6g}" for budget in methods[0][1].fitted.ladder.budgets]
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
