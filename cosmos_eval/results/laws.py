"""Laws of scale of training methods: headlines, tables and JSON documents.

`results.scaling` fits the laws to stored results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cosmos_eval.results.table import frame_of_records
from cosmos_eval.stats.scaling import GREATEST_EXPONENT, MISFIT, Crossing, FittedLadder
from cosmos_eval.tasks import Metric, metric_of
from cosmos_eval.types import Interval

if TYPE_CHECKING:
    import pandas as pd

Unit = Literal["samples", "flops"]
"""The unit of budgets."""

_SIDES = "AB"


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
    # The reason why the law must not predict this budget; empty if it may.
    refusal: str

    @property
    def is_inside(self) -> bool | None:
        """True if the measured error lies in the interval; None if there is none."""
        if self.measured is None:
            return None
        return self.interval.low <= self.measured <= self.interval.high


class MethodLaw(NamedTuple):
    """The law of one method on one metric."""

    name: str
    fitted: FittedLadder
    # Predictions of the held-out budget and of the budget of `--predict`, as far as there are any.
    predictions: tuple[Prediction, ...]

    @property
    def misfits(self) -> bool:
        """True if the trainings are shown to deviate from the law."""
        misfit_p = self.fitted.misfit_p
        return misfit_p is not None and misfit_p < MISFIT

    @property
    def is_shown(self) -> bool:
        """True if the error is shown to fall, and nothing shows that it does so in another way."""
        return self.fitted.falls and not self.misfits


class MetricLaws(NamedTuple):
    """The laws of all methods on one metric of a data set, and where they cross."""

    dataset: str
    protocol: str
    # The data set, with the protocol if there are laws of several protocols.
    dataset_title: str
    task: str
    metric: str
    unit: Unit
    methods: tuple[MethodLaw, ...]
    # The crossing of every two methods, by the indices of both. It is None if one of them does not
    # follow its law, and pairs without a common range of budgets are left out.
    crossings: Mapping[tuple[int, int], Crossing | None]

    @property
    def metric_record(self) -> Metric:
        """The metric's definition: its unit, and whether higher is better."""
        return metric_of(self.task, self.metric)

    @property
    def title(self) -> str:
        """What the laws are of, such as "scenes-cls, error of acc1"."""
        if self.metric_record.higher_is_better:
            return f"{self.dataset_title}, error of {self.metric}"
        return f"{self.dataset_title}, {self.metric}"

    @property
    def factor(self) -> int:
        """The number that errors are multiplied by for display: 100 for percent, else 1."""
        return self.metric_record.factor


class Scaling(NamedTuple):
    """Laws of scale of all data sets and metrics."""

    laws: tuple[MetricLaws, ...]
    # Notes for the reader, one line each.
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
        """The budgets of all methods as a table, one row each, see `budget_rows`."""
        return frame_of_records(row for laws in self.laws for row in budget_rows(laws))


def budget_text(budget: float) -> str:
    """Return a budget with two digits.

    Example: 1234567 -> "1.2e6", 640 -> "640".
    """
    if budget < 1000:
        return f"{budget:.3g}"
    mantissa, exponent = f"{budget:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def headlines_of(laws: MetricLaws) -> Iterator[str]:
    """Yield the outcome of a metric: crossings, laws of methods without one, and predictions."""
    for (index_a, index_b), crossing in laws.crossings.items():
        methods = (laws.methods[index_a], laws.methods[index_b])
        if crossing is None:
            misfit = next(method.name for method in methods if method.misfits)
            yield f"{laws.title}: {misfit} does not follow the law, so no crossing is computed"
        else:
            yield f"{laws.title}: {_crossing_text(crossing, methods, laws.unit)}"
    compared_indices = {index for pair in laws.crossings for index in pair}
    for index, method in enumerate(laws.methods):
        if index not in compared_indices:
            yield f"{laws.title}: {_law_text(laws, method)}"
    for method in laws.methods:
        for prediction in method.predictions:
            yield f"{laws.title}: {method.name} {_prediction_text(laws, prediction)}"


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


def _law_text(laws: MetricLaws, method: MethodLaw) -> str:
    """Return how the error of a method falls.

    Example: "clip falls to 4.20 as samples^-alpha, alpha = 0.52 [0.41, 0.66]".
    """
    if method.misfits:
        return f"{method.name} does not follow a law E + A C^-alpha"
    if not method.fitted.falls:
        return f"no law of {method.name} shown: the interval of alpha includes 0"
    interval = method.fitted.parameter_interval("exponent")
    floor = laws.factor * method.fitted.law.floor
    return (
        f"{method.name} falls to {floor:.2f} as {laws.unit}^-alpha, "
        f"alpha = {alpha_text(method.fitted.law.exponent)} "
        f"[{alpha_text(interval.low)}, {alpha_text(interval.high)}]"
    )


def alpha_text(exponent: float) -> str:
    """Return an exponent with two digits, or ">4" at the end of those that are searched."""
    if exponent > 0.999 * GREATEST_EXPONENT:
        return f">{GREATEST_EXPONENT:g}"
    return f"{exponent:.2f}"


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

    - `error`: the mean over the trainings; None without trainings
    - `law`, `low`, `high`: the mean over all seeds and images by the law; None if no law is shown
    - `predicted_low`, `predicted_high`: the interval for the mean of `predicted_trainings`
      trainings on the same images. These three are None for fitted budgets.
    - `refusal`: the reason why a budget is not predicted; there are then no numbers of the law

    A new training that is predicted has its own row, also at a budget that has trainings.
    """
    for method in laws.methods:
        ladder = method.fitted.ladder
        held_out_predictions = {}
        rows = []
        columns: dict[str, Any]
        for prediction in method.predictions:
            if prediction.measured is None:
                columns = {"trainings": 0, "fitted": False, "error": None}
                columns |= _law_columns(method, prediction.budget, prediction)
                rows.append(_identifying_columns(laws, method, prediction.budget) | columns)
            else:
                held_out_predictions[prediction.budget] = prediction
        for index, budget in enumerate(ladder.budgets.tolist()):
            columns = {
                "trainings": len(ladder.errors[index]),
                "fitted": bool(ladder.is_fitted[index]),
                "error": float(ladder.means[index]),
            }
            columns |= _law_columns(method, budget, held_out_predictions.get(budget))
            rows.append(_identifying_columns(laws, method, budget) | columns)
        yield from sorted(rows, key=itemgetter("budget"))


def _identifying_columns(laws: MetricLaws, method: MethodLaw, budget: float) -> dict[str, Any]:
    """Return the columns of `budget_rows` that say which budget of which method a row is about."""
    return {
        "dataset": laws.dataset,
        "protocol": laws.protocol,
        "metric": laws.metric,
        "method": method.name,
        "unit": laws.unit,
        "budget": budget,
    }


def _law_columns(method: MethodLaw, budget: float, prediction: Prediction | None) -> dict[str, Any]:
    """Return the columns of `budget_rows` that follow from the law."""
    columns: dict[str, Any] = dict.fromkeys(
        ("law", "low", "high", "predicted_trainings", "predicted_low", "predicted_high", "refusal")
    )
    if prediction is not None:
        columns["predicted_trainings"] = prediction.trainings
        columns["refusal"] = prediction.refusal
        if prediction.refusal:
            return columns
        columns["predicted_low"] = prediction.interval.low
        columns["predicted_high"] = prediction.interval.high
    if not method.is_shown:
        return columns
    mean = method.fitted.mean_interval(budget)
    columns["law"] = float(method.fitted.law.error_at(budget))
    columns["low"], columns["high"] = mean.low, mean.high
    return columns


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
        alpha, low, high = map(alpha_text, (law.exponent, exponent.low, exponent.high))
        records.append(
            {
                "law": method.name,
                "E [95%]": _value_text(law.floor, floor, laws.factor) if method.is_shown else "",
                "alpha [95%]": f"{alpha} [{low}, {high}]" if method.is_shown else "",
                "A": f"{laws.factor * law.scale:.3g}" if method.is_shown else "",
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
            law = _value_text(row["law"], ends, laws.factor)
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


def _value_text(value: float, interval: Interval, factor: float) -> str:
    """Return a value with its interval, such as "4.20 [0.00, 9.10]"."""
    texts = [f"{factor * number:.2f}" for number in (value, interval.low, interval.high)]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def to_document(laws: MetricLaws) -> dict[str, Any]:
    """Return the laws of a metric as a JSON document. Errors are fractions, or as the metric."""
    crossings = []
    for (a, b), crossing in laws.crossings.items():
        record: dict[str, Any] = {"a": laws.methods[a].name, "b": laws.methods[b].name}
        if crossing is None:
            record |= {"shown": False, **dict.fromkeys(Crossing._fields)}
        else:
            record |= {"shown": crossing.crosses, **crossing._asdict()}
        crossings.append(record)
    return {
        "dataset": laws.dataset,
        "protocol": laws.protocol,
        "task": laws.task,
        "metric": laws.metric,
        "unit": laws.unit,
        "headlines": list(headlines_of(laws)),
        "methods": [_method_document(method) for method in laws.methods],
        "budgets": list(budget_rows(laws)),
        "crossings": crossings,
    }


def _method_document(method: MethodLaw) -> dict[str, Any]:
    """Return the law of a method as a JSON document."""
    fitted = method.fitted
    parameters = {}
    for name, field in (("E", "floor"), ("A", "scale"), ("alpha", "exponent")):
        interval = fitted.parameter_interval(field)
        parameters[name] = {
            "value": float(getattr(fitted.law, field)),
            "low": interval.low,
            "high": interval.high,
        }
    return {
        "name": method.name,
        "parameters": parameters,
        "shown": method.is_shown,
        "misfit_p": fitted.misfit_p,
        "seed_correlation": fitted.spread.correlation,
        "interval_method": fitted.method,
    }


def reading_notes(all_laws: Sequence[MetricLaws]) -> Iterator[str]:
    """Yield explanations of the columns of tables, and of the intervals."""
    error = "100 - metric, in percent"
    if not all(laws.metric_record.higher_is_better for laws in all_laws):
        error += ", or the metric if lower is better"
    yield f"error: {error}, mean of k trainings; law: E + A C^-alpha"
    yield from interval_notes(all_laws)
    if any(method.predictions for laws in all_laws for method in laws.methods):
        yield "predicted: mean of k held-out trainings, or one new one, on these images"
    if len(all_laws) > 1 or len(all_laws[0].crossings) > 1:
        yield "intervals are not corrected for the number of metrics and pairs"


def interval_notes(all_laws: Sequence[MetricLaws]) -> Iterator[str]:
    """Yield what intervals are over: seeds and images, or images only."""
    fitted_ladders = [method.fitted for laws in all_laws for method in laws.methods]
    if all(fitted.spread.dof > 0 for fitted in fitted_ladders):
        yield "intervals are over seeds and images"
    else:
        yield (
            "where no fitted budget has two trainings, intervals are over images only, and "
            "deviations from the law are not tested: other seeds may give other laws"
        )
