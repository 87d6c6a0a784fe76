"""Measure models until it is known whether they are better than a stored baseline.

The samples of a data set are measured in a random order. A run stops at the first look at which the
answer is known. Its result is marked as stopped: it holds the metric that decided, and everything
that the decision follows from. A run that reaches the last sample gives a usual result.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from cosmos_eval import types
from cosmos_eval.results import decisions
from cosmos_eval.results.decisions import Look, Shards
from cosmos_eval.results.identity import STOPPED, is_stopped, require_whole
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.settings import describe_mismatches, make_setting, setting_of_result
from cosmos_eval.results.store import read_stored, result_paths
from cosmos_eval.results.text import decided_line, difference_and_interval
from cosmos_eval.results.verify import VerifiedResult, read_verified
from cosmos_eval.runner import plan as plans
from cosmos_eval.runner.facts import ImageCounter
from cosmos_eval.runner.provenance import describe_environment, make_row, settings_of
from cosmos_eval.runner.run import LoadedModel, load_model, store
from cosmos_eval.stats.sampling import SEED
from cosmos_eval.stats.sequential import Decision, SetDecision, correct_over_sets
from cosmos_eval.tasks import Task, task_for
from cosmos_eval.tasks.ordered import OrderedMeasurement

_MOST_POINTS = 100  # of percent: the largest possible difference of a metric


class Answer(NamedTuple):
    """The answer whether model A or the baseline B is better on one data set."""

    # The label of model A.
    a: str
    # The label of the baseline, with the folder of its result.
    b: str
    dataset: str
    protocol: str
    decision: Decision
    # The difference A - B on the measured samples, as a fraction; NaN if there was no look.
    difference: float
    # The interval at the last look; None if there was no look.
    look: Look | None
    # The number of measured samples, and the number of all samples.
    n_samples: int
    n_all_samples: int
    # The noun for samples, such as `images`.
    unit: str

    def __str__(self) -> str:
        """Return a line such as `scenes-cls: A better, +4.2 [1.1, 7.3], after 256 of ...`."""
        return decided_line(
            self.dataset,
            self.decision,
            self.difference,
            None if self.look is None else (self.look.low, self.look.high),
            self.n_samples,
            self.n_all_samples,
            self.unit,
        )


def read_baselines(
    place: str, output: Path | None, protocols: Sequence[types.Protocol]
) -> dict[plans.Pair, VerifiedResult]:
    """Read and verify the result of the baseline on each data set, by data set and protocol.

    Args:
        place: A result file, a folder with the results of one model, or the name of a model whose
            results are in the folder `output`.
        output: The folder of the results of the run; None if there is none.
        protocols: The data sets of the run.

    Raises:
        UsageError: If the place has no model or several ones, or if a result is missing, was edited
            or comes from a run that stopped.
    """
    results = _results_of_baseline(place, output)
    baselines = {}
    for protocol in protocols:
        name = f"{protocol.dataset} ({protocol.protocol_name})"
        matching = []
        for result in results:
            row = result.row
            if (row.dataset, row.protocol) == (protocol.dataset, protocol.protocol_name):
                matching.append(result)
        if not matching:
            raise types.UsageError(
                f"--against {place} has no result on {name}: measure it there first, or leave the "
                "data set out"
            )
        if len(matching) > 1:
            raise types.UsageError(
                f"--against {place} has several results on {name}: name one of the files"
            )
        verified = read_verified(matching[0].path)
        if not isinstance(verified, VerifiedResult):
            reason = "; ".join(verified.differences) or verified.obstacle
            raise types.UsageError(f"--against {matching[0].path}: {reason}")
        baselines[_key(protocol)] = verified
    return baselines


def _results_of_baseline(place: str, output: Path | None) -> list[StoredResult]:
    """Return the whole results of the one model that `--against` names, see `read_baselines`."""
    path = Path(place)
    if path.is_file():
        results = read_stored([path])
        require_whole(results[0].row, f"--against {place}")
        return results
    if path.is_dir():
        results = _read_whole_results(path)
        models = {result.model for result in results}
        if len(models) != 1:
            raise types.UsageError(
                f"--against {place} has results of {len(models)} models: name one of the files"
            )
        return results
    if output is None:
        raise types.UsageError(f"--against {place}: there is no such file or folder of results")
    return _results_called(place, output)


def _read_whole_results(folder: Path) -> list[StoredResult]:
    """Return the results in a folder. Results of runs that stopped early are left out."""
    results = read_stored(result_paths(folder))
    return [result for result in results if not is_stopped(result.row)]


def _results_called(name: str, folder: Path) -> list[StoredResult]:
    """Return the whole results of the model that is called `name`, from a folder.

    A model whose full label is `name` comes before models that can be called so in short.

    Raises UsageError if no model or several models are called so.
    """
    results = _read_whole_results(folder)
    matching_results = [result for result in results if result.model == name]
    if not matching_results:
        matching_results = [result for result in results if result.is_called(name)]
    labels = sorted({result.model for result in matching_results})
    if not labels:
        all_labels = sorted({result.model for result in results})
        raise types.UsageError(
            f"--against {name} is not a file or folder, and {folder} has no result of such a model"
            f"; nearest: {types.nearest(name, all_labels)}"
        )
    if len(labels) > 1:
        raise types.UsageError(f"--against {name}: choose one of {', '.join(labels)}")
    return matching_results


def _key(protocol: types.Protocol) -> plans.Pair:
    """Return the key of a data set and its protocol, with an empty name of a model."""
    return plans.Pair("", protocol.dataset, protocol.protocol_name)


@dataclass
class DecidingRun:
    """A run that stops on each data set when the answer is known."""

    plan: plans.Plan
    # The folder of the results; None: they are not stored.
    output: Path | None
    # The results of the baseline, from `read_baselines`.
    baselines: Mapping[plans.Pair, VerifiedResult]
    # Models whose difference is smaller than this fraction count as the same; None: models are
    # never the same.
    margin: float | None = None
    # The answers of all models that were measured so far.
    answers: list[Answer] = field(default_factory=list)

    def run(
        self, show_progress: plans.ShowProgress = plans.show_no_progress
    ) -> Iterator[plans.Result]:
        """Yield a result for every model and data set. Afterwards, `answers` has their answers.

        The answers of a model are corrected for the number of its data sets.

        Raises:
            UsageError: For bad data or models, and if a data set, its hash or its list of samples
                is not the one of the baseline.
        """
        plans.require_outputs(self.plan.options, self.output)
        plans.require_usable_device(self.plan.options)
        datasets = plans.open_datasets(self.plan, show_progress)
        for spec in self.plan.specs:
            comparisons = []
            for dataset in datasets:
                baseline = self.baselines[_key(dataset.protocol)]
                comparisons.append(_Comparison(dataset, baseline, self.margin))
            # All data sets are checked before the first one is measured.
            plan_of_model = replace(self.plan, specs=[spec])
            model: LoadedModel | None = None
            prepared_measurements = []
            for comparison in comparisons:
                (job,) = plans.jobs_of(plan_of_model, [comparison.dataset], output=self.output)
                if model is None:
                    model = load_model(job, show_progress)
                prepared_measurements.append(comparison.prepare(model, job, show_progress))
            for comparison, prepared in zip(comparisons, prepared_measurements, strict=True):
                # Each data set that is decided leaves a greater error probability to the others.
                comparison.alpha = _correct(comparisons)[comparison.name].alpha
                yield comparison.measure(prepared)
            assert model is not None  # a plan has data sets
            for comparison in comparisons:
                decision = _correct(comparisons)[comparison.name]
                self.answers.append(comparison.answer(model, decision.decision, decision.alpha))


def _correct(comparisons: Sequence[_Comparison]) -> Mapping[str, SetDecision]:
    """Return the answer for each data set of a model by its name, corrected for their number."""
    sequences = {comparison.name: comparison.evidence.sequence for comparison in comparisons}
    margins: dict[str, float] = {}
    for comparison in comparisons:
        if comparison.margin is not None:
            margins[comparison.name] = comparison.margin
    return correct_over_sets(sequences, decisions.ALPHA, margins)


def require_deciding_options(
    options: types.RunOptions, *, against: str | None, until: str | None, margin: float | None
) -> str:
    """Check that the options go together with a run that may stop, and return `against`.

    Args:
        options: The options of the run.
        against: The place or the name of the baseline.
        until: "decided", or None if `--until` was left out. The other options then have no meaning,
            which is an error.
        margin: Models whose difference is smaller than this many points of percent count as the
            same; None: models are never the same.

    Raises:
        UsageError: For options that do not go together.
    """
    if until != "decided":
        raise types.UsageError("--against and --margin go with --until decided")
    if against is None:
        raise types.UsageError("--until decided needs --against: a stored result to compare with")
    if margin is not None and not 0 < margin < _MOST_POINTS:
        raise types.UsageError(f"--margin is in points, above 0 and below 100, not {margin:g}")
    if options.distributed.world_size > 1:
        raise types.UsageError("--until decided runs in one process: no torchrun")
    if options.stream:
        raise types.UsageError("--until decided takes images in random order: no --stream")
    if options.save_predictions is not None:
        raise types.UsageError("--until decided does not see all images: no --save-predictions")
    return against


def make_deciding_run(
    plan: plans.Plan,
    output: Path | None,
    *,
    against: str | None,
    until: str | None,
    margin: float | None,
) -> DecidingRun:
    """Return a run that stops when the answer is known, and read the results of its baseline.

    Args:
        plan: The models and data sets.
        output: The folder of the results; None: they are not stored.
        against: The place or the name of the baseline, see `read_baselines`.
        until: "decided", or None if `--until` was left out, which is an error.
        margin: Models whose difference is smaller than this many points of percent count as the
            same; None: models are never the same.

    Raises:
        UsageError: For options that do not go together, and for bad baselines.
    """
    place = require_deciding_options(plan.options, against=against, until=until, margin=margin)
    if any(protocol.wording is not None for protocol in plan.protocols):
        raise types.UsageError("--until decided compares one wording: leave --wordings out")
    baselines = read_baselines(place, output, plan.protocols)
    margin_as_fraction = None if margin is None else margin / _MOST_POINTS
    return DecidingRun(plan, output, baselines, margin_as_fraction)


class _Prepared(NamedTuple):
    """A measurement that can begin, since its data were checked."""

    model: LoadedModel
    job: plans.Job
    ordered: OrderedMeasurement
    # The hashes that a whole result records.
    hashes: Mapping[str, str]
    progress: ImageCounter
    # How long the preparation took.
    seconds: float


class _Comparison:
    """The comparison of a model with the baseline on one data set."""

    def __init__(
        self, dataset: plans.Dataset, baseline: VerifiedResult, margin: float | None
    ) -> None:
        """Find the units that are drawn at random, by the baseline's samples.

        Raises UsageError if the task has no metric by which a run could be decided.
        """
        self.dataset = dataset
        self.protocol = dataset.protocol
        self.baseline = baseline
        self.margin = margin
        self.task: Task = task_for(self.protocol)
        self.name = f"{self.protocol.dataset} ({self.protocol.protocol_name})"
        try:
            self.units = decisions.units_of(self.task, baseline.samples)
        except ValueError as error:
            raise types.UsageError(f"{self.protocol.dataset}: {error}") from error
        self.evidence = decisions.begin_looks(self.task, self.units)
        # The error probability of this data set. The run sets it before the first look.
        self.alpha = decisions.ALPHA
        self.looks: list[Look] = []
        # The samples of the model and of the baseline so far, one shard before each look.
        self._measured_shards: list[Shards] = []

    def prepare(
        self, model: LoadedModel, job: plans.Job, show_progress: plans.ShowProgress
    ) -> _Prepared:
        """Hash the data, check that the baseline was measured on them, and prepare to measure.

        Args:
            model: The model.
            job: The job of the model with this data set.
            show_progress: Called with a title and with the progress of the run.

        Raises:
            UsageError: If the baseline was measured on other data, or in another way.
        """
        describe_environment()  # records the state of the code now, before it can be edited
        started = time.perf_counter()
        title = f"{model.spec.called} on {self.protocol.dataset}"

        def show(step: types.Progress) -> None:
            show_progress(title, step)

        progress = ImageCounter(show)
        ordered = self.task.in_order(
            model.encoder, self.protocol, self.dataset.data, job.options, progress
        )
        hashes = ordered.hashes()
        self._require_same_data(job.options, hashes)
        seconds = time.perf_counter() - started
        return _Prepared(model, job, ordered, hashes, progress, seconds)

    def measure(self, prepared: _Prepared) -> plans.Result:
        """Measure a model until the answer is known, store the result and return it."""
        started = time.perf_counter() - prepared.seconds
        model, job, progress = prepared.model, prepared.job, prepared.progress
        if self.units.method == decisions.ASYMPTOTIC and self.units.start > self.units.n_samples:
            noun = self.task.sample_noun
            note = (
                f"the first look is after {self.units.start:,} {noun}, and there are "
                f"{self.units.n_samples:,}: this run cannot stop early"
            )
            progress(types.Progress("decision", 0, self.units.n_samples, note))
        answer: Decision = "undecided"
        shards = self._measure_shards(prepared.ordered)
        for answered_look in decisions.go_through(self.evidence, shards, self.alpha, self.margin):
            self.looks.append(answered_look.look)
            answer = answered_look.answer
            progress(self._state(answered_look.look))
        seconds = time.perf_counter() - started

        if answer == "undecided" or self.evidence.is_complete:
            measurement = prepared.ordered.finish()
        else:
            measurement = self._stopped_measurement(answer, prepared.hashes)
        seconds_by_phase = {"load": model.load_seconds}
        seconds_by_phase.update(measurement.seconds)
        seconds_by_phase["images"] = seconds
        seconds_by_phase["total"] = time.perf_counter() - started
        row = make_row(
            model,
            job,
            self.protocol,
            measurement,
            self._found_samples(job.options),
            seconds_by_phase,
            progress.images_per_second(seconds_by_phase, job.options.distributed),
        )
        result = store(self.protocol, row, measurement.samples, job)
        if self.evidence.is_complete:
            prepared.ordered.forget()
        return result

    def _found_samples(self, options: types.RunOptions) -> types.FoundSamples | None:
        """Return how many samples of an incomplete data set exist; None for a complete one."""
        if not options.allow_partial:
            return None
        found_samples: types.FoundSamples | None
        found_samples = getattr(self.dataset.data, "found_samples", None)
        return found_samples

    def answer(self, model: LoadedModel, decision: Decision, alpha: float) -> Answer:
        """Return the answer for this data set after the run.

        Args:
            model: The model.
            decision: The answer, corrected for the number of data sets.
            alpha: The error probability of this data set after all were measured. If the run
                reached the last sample, the interval is computed again for this probability.
        """
        look = self.looks[-1] if self.looks else None
        if look is not None and self.evidence.is_complete:
            look = self.evidence.look(alpha)
        return Answer(
            a=model.spec.called,
            b=f"{self.baseline.stored.identity.label} of {self.baseline.path.parent}",
            dataset=self.protocol.dataset,
            protocol=self.protocol.protocol_name,
            decision=decision,
            difference=self.evidence.difference,
            look=look,
            n_samples=self.evidence.n_samples,
            n_all_samples=self.units.n_samples,
            unit=self.task.sample_noun,
        )

    def _measure_shards(self, ordered: OrderedMeasurement) -> Iterator[Shards]:
        """Measure the samples, and yield those between two looks with the baseline's samples.

        All of them are kept for `_stopped_measurement`.
        """
        shards = decisions.cut_into_shards(self.units)
        measured_samples = ordered.measure([shard.samples for shard in shards])
        for shard, samples in zip(shards, measured_samples, strict=True):
            baseline_samples = self.task.take(self.baseline.samples, shard.samples)
            measured_shard = (samples, baseline_samples, shard.units)
            self._measured_shards.append(measured_shard)
            yield measured_shard

    def _state(self, look: Look) -> types.Progress:
        """Return the progress to show after a look: the difference, its interval and the count."""
        interval = difference_and_interval(self.evidence.difference, (look.low, look.high))
        n_all = self.units.n_samples
        counts = f"{look.n_samples:,} of {n_all:,} {self.task.sample_noun}"
        state = f"A - B: {interval} after {counts}"
        return types.Progress("decision", look.n_samples, n_all, state=state)

    def _require_same_data(self, options: types.RunOptions, hashes: Mapping[str, str]) -> None:
        """Raise UsageError if the baseline was measured on other data, or in another way."""
        provenance = settings_of(self.protocol, options, self._found_samples(options))
        provenance["hashes"] = dict(hashes)
        if self.protocol.repository:
            provenance["repository"] = self.protocol.repository
            provenance["revision"] = self.protocol.revision
        baseline_row = self.baseline.row
        setting = make_setting(
            self.protocol.task,
            self.protocol.dataset,
            self.protocol.protocol_name,
            baseline_row.n_samples,
            provenance,
        )
        mismatches = describe_mismatches(setting, setting_of_result(baseline_row))
        if mismatches:
            raise types.UsageError(
                f"{self.protocol.dataset}: {self.baseline.path} was measured otherwise: "
                f"{'; '.join(mismatches)} there"
            )

    def _stopped_measurement(
        self, answer: Decision, hashes: Mapping[str, str]
    ) -> types.Measurement:
        """Return the measurement of a run that stopped.

        It holds the metric that decided, and a record that is enough to compute the decision again.

        Args:
            answer: The answer at the last look.
            hashes: The hashes that a whole result records, by name.
        """
        metric = self.task.deciding_metric
        assert metric is not None  # `units_of` requires it
        samples = decisions.stopped_samples(self.task, self._measured_shards)
        samples_of_model, _, _ = decisions.split_stopped_samples(samples)
        provenance = self.baseline.row.provenance
        record = {
            "answer": answer,
            "metric": metric.name,
            "difference": self.evidence.difference,
            "against": self.baseline.stored.identity.label,
            "against_sha256": provenance.get("record_sha256") or provenance["samples_sha256"],
            "alpha": self.alpha,
            "margin": self.margin,
            "seed": SEED,
            "samples": self.units.n_samples,
            "units": self.units.n_units,
            "most": self.units.most,
            "method": self.units.method,
            "start": self.units.start,
            "looks": [list(look) for look in self.looks],
        }
        note = (
            f"stopped after {self.evidence.n_samples} of {self.units.n_samples} "
            f"{self.task.sample_noun}: values are not ranked, and have no intervals of their own"
        )
        return types.Measurement(
            metrics={metric.name: decisions.deciding_estimate(self.task, samples_of_model).value},
            intervals={},
            n_samples=self.evidence.n_samples,
            samples=samples,
            hashes=dict(hashes),
            settings={STOPPED: record},
            notes=(note,),
        )
