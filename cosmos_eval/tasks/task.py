"""The records that describe a task: what it measures and the functions that the commands call."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from cosmos_eval.types import (
    Attention,
    Figures,
    Interval,
    Measurement,
    Mistakes,
    OnProgress,
    Protocol,
    RunOptions,
    Samples,
)

if TYPE_CHECKING:
    # At run time they would import torch or NumPy, which takes long.
    from cosmos_eval.data.association import AssociationData
    from cosmos_eval.data.folders import Survey
    from cosmos_eval.data.retrieval import RetrievalData
    from cosmos_eval.data.selection import SelectionData
    from cosmos_eval.embedding.embed import Embeddings, Features
    from cosmos_eval.models.encoder import Encoder
    from cosmos_eval.stats.estimates import Estimate
    from cosmos_eval.stats.lengths import LengthBin
    from cosmos_eval.stats.paired import Compare
    from cosmos_eval.tasks.arrays import SampleArray

Derived = Mapping[str, Any]
"""Stored samples, and what a task derives from them for several metrics."""

Unit = Literal["fraction", "rank", "ratio", "number", "unknown"]
"""Fractions lie in [0, 1] and are shown in percent, ranks start at 1, ratios at 0; numbers are any,
such as a correlation.

Metrics of tasks that are not installed are `unknown`: they are shown as stored and never ranked.
"""

NAME = "name"
"""Of stored samples: the names (N,) of images, or of what else was measured, as the data have them.
"""

_BOUNDS = {"fraction": (0, 1), "rank": (1, math.inf), "ratio": (0, math.inf)}


def _nothing(*_: Any) -> None:
    """Be the default of hooks that a task need not have."""


def no_further_check(samples: Samples) -> None:
    """Accept all samples whose arrays are as they are declared."""


@dataclass(frozen=True)
class Metric:
    """A metric of a task.

    `estimate` is a pure function of what the task's `derive` returns. Its kind of estimate decides
    how interval and paired test are made; None says that these samples have no such metric. Tables
    show `headline` metrics and `primary` ones, which decide a comparison of models, under `label`.
    A name that ends with `*` stands for several metrics: `members` gives what the samples have in
    its place, of which `estimate` gets one beside the samples. Stored results of earlier versions
    lack a `later` one, whatever their samples give. A `reference` is what others are
    read beside, such as the chance level: it has no interval, is not ranked and not compared, and
    tables leave out a column of it that is 0. Its interval takes as given what it is
    `conditional_on`, such as the training images of a probe; tables note that.
    """

    name: str
    estimate: Callable[..., Estimate | None] = _nothing  # of a metric known by its name alone
    unit: Unit = "fraction"
    higher_is_better: bool = True
    label: str = ""
    headline: bool = False
    primary: bool = False
    reference: bool = False
    later: bool = False
    conditional_on: str = ""
    members: Callable[[Derived], Sequence[str]] | None = None

    @property
    def is_ranked(self) -> bool:
        """Whether models are ranked by it."""
        return not (self.reference or self.unit == "unknown")

    @property
    def factor(self) -> int:
        """What values are multiplied by where people read them: 100 for percent."""
        return 100 if self.unit == "fraction" else 1

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that it can have."""
        return _BOUNDS.get(self.unit, (-math.inf, math.inf))

    def within(self, interval: Interval) -> Interval:
        """Cut an interval off at the least and the largest value."""
        least, most = self.bounds
        return interval._replace(low=max(least, interval.low), high=min(most, interval.high))

    def fault(self, value: float) -> str:
        """Return what is wrong with a value of this metric; empty for a valid one."""
        least, most = self.bounds
        if least <= value <= most:
            return ""
        bounds = "from 0 to 1" if most == 1 else f"{least} or more"
        hint = "; the unit of other metrics is declared as `number`"
        return f"{value} is no {self.unit}, which is {bounds}{hint}"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task: its protocols and metrics, and what reads data and measures. Required fields:

    - `protocol` is the type of its protocols; a user's YAML file of this kind sets their fields.
    - `metrics` in the order of tables.
    - `truth` names the stored arrays that are the same for every model: two results must have them
      in common to be compared. The first has one entry per sample, or else `per_sample` names one.
    - `open_data(protocol, options)` returns the data, before any model is loaded. It raises
      UsageError where they are missing or inconsistent. Of an incomplete known set, their `part`
      is how many there are.
    - `measure(encoder, protocol, options, progress, data)` returns the measurement of one protocol
      on the data that `open_data` returned, or `measure_together` takes sequences of protocols and
      data with equal `image_pass(protocol, options, data)` and yields their measurements in order,
      encoding their images once. It removes unfinished parts when it is resumed after the last
      measurement, which is stored by then.
    - `checked` says what `open_data`, `check` and `survey` check.

    `arrays` declares the stored arrays and the values that they may hold, and `require_consistent`
    raises ValueError for arrays that contradict each other: samples that break either are refused
    before figures are computed. `names_hash` is the recorded hash that is of the names alone.

    `seconds` is how long a sample takes ViT-B/16 on two busy CPU cores (48 scenes; for seg 6
    photographs of voc20's usual size). `resamples` says whether a paired comparison of headline
    metrics resamples every sample, which takes seconds for many. `by_image` says whether the
    clusters of all estimates, or else their samples, are the images of the data in their order.
    Functions of samples raise KeyError, ValueError or IndexError for samples of another task.
    """

    protocol: type[Protocol]
    metrics: Sequence[Metric]
    truth: tuple[str, ...]
    open_data: Callable[[Any, RunOptions], Any]
    checked: str
    measure: Callable[[Encoder, Any, RunOptions, OnProgress, Any], Measurement] | None = None
    measure_together: (
        Callable[
            [Encoder, Sequence[Any], RunOptions, OnProgress, Sequence[Any]], Iterator[Measurement]
        ]
        | None
    ) = None
    image_pass: Callable[[Any, RunOptions, Any], Hashable] = lambda protocol, *_: protocol.dataset

    # Of stored samples: arrays that metrics share, figures per class, recall by the length of
    # captions, the most frequent mistakes, all mistakes, samples of version 1 brought up to date
    # (`upgrade(samples, record)`), and the columns of `load_samples`, by default the arrays with
    # one entry per sample.
    derive: Callable[[Samples], Derived] = lambda samples: samples
    per_class: Callable[[Samples], Mapping[str, Mapping[str, float | None]]] | None = None
    lengths: Callable[[Samples], Sequence[LengthBin]] | None = None
    confusion_pairs: Callable[[Samples], Sequence[Mapping[str, Any]]] | None = None
    mistakes: Callable[[Samples], Mistakes] | None = None
    upgrade: Callable[[Samples, Mapping[str, Any]], Samples] | None = None
    columns: Callable[[Samples], Mapping[str, Any]] | None = None

    # Of protocols: `check(protocol, options, data)` raises UsageError where opened data cannot be
    # measured on, where finding out takes long; what `data doctor` finds, and how it decodes an
    # image; whether folders are below a root, the number of samples if known, downloading, and the
    # form of attention.
    check: Callable[[Any, RunOptions, Any], None] = _nothing
    survey: Callable[[Any, RunOptions, OnProgress], Survey] | None = None
    decode: Callable[[Any], Any] = lambda source: source.decode(source.read())
    is_there: Callable[[Any, Path], bool] = lambda protocol, root: root.is_dir()
    n_samples: Callable[[Any], int | None] = _nothing
    fetch: Callable[[Any, RunOptions], None] = _nothing
    attention: Callable[[Any], Attention | None] = _nothing

    arrays: Sequence[SampleArray] = ()
    require_consistent: Callable[[Samples], None] = no_further_check
    names_hash: str = ""
    per_sample: str = ""
    seconds: float = 0.4
    resamples: bool = True
    by_image: bool = False

    @cached_property
    def by_name(self) -> Mapping[str, Metric]:
        """The metrics by name."""
        return {metric.name: metric for metric in self.metrics}

    @property
    def headlines(self) -> Mapping[str, str]:
        """The titles of the metrics that tables show."""
        return {m.name: m.label or m.name for m in self.metrics if m.headline or m.primary}

    def metric(self, name: str) -> Metric:
        """The metric of a name; one that is not known is a fraction."""
        families = (m for m in self.metrics if m.members and name.startswith(m.name[:-1]))
        family = next(families, Metric(name))
        return self.by_name.get(name) or replace(family, name=name)

    def measure_all(
        self,
        encoder: Encoder,
        protocols: Sequence[Any],
        options: RunOptions,
        progress: OnProgress,
        data: Sequence[Any],
    ) -> Iterator[Measurement]:
        """Yield the measurements of protocols with the same `image_pass`, in their order."""
        if self.measure_together is not None:
            yield from self.measure_together(encoder, protocols, options, progress, data)
        elif self.measure is not None:
            for protocol, own in zip(protocols, data, strict=True):
                yield self.measure(encoder, protocol, options, progress, own)

    def require_valid(
        self, samples: Samples, hashes: Mapping[str, str], *, has_names: bool = False
    ) -> None:
        """Raise ValueError, one line, for stored samples that cannot be of this task.

        `hashes` are those that the result records; of a result that `has_names`, a hash of the
        list of samples means that their names are stored.
        """
        from cosmos_eval.data.folders import fingerprint
        from cosmos_eval.tasks.arrays import require_valid

        require_valid(self.arrays, samples)
        self.require_consistent(samples)
        stores_names = any(array.name == NAME for array in self.arrays)
        if stores_names and has_names and "sample_list" in hashes and NAME not in samples:
            raise ValueError(f"there is no array `{NAME}`, though the list of samples was hashed")
        recorded = hashes.get(self.names_hash)
        if recorded and NAME in samples and fingerprint(samples[NAME].tolist()) != recorded:
            raise ValueError(f"the hash of `{NAME}` is not the recorded one, `{self.names_hash}`")

    def estimates(self, derived: Derived) -> dict[str, Estimate]:
        """Return the estimates of samples, as `derive` returns them, by the name of the metric."""
        found = {}
        for metric in self.metrics:
            if metric.members is None:
                found[metric.name] = metric.estimate(derived)
                continue
            for member in metric.members(derived):
                name = metric.name.removesuffix("*") + member
                if name not in self.by_name:
                    found[name] = metric.estimate(derived, member)
        return {name: estimate for name, estimate in found.items() if estimate is not None}

    def values(
        self, estimates: Mapping[str, Estimate], methods: Mapping[str, str] | None = None
    ) -> dict[str, float]:
        """Return the metrics that have a value; `methods` are those of `figures`."""
        values = {
            name: estimate.value
            for name, estimate in estimates.items()
            if methods is None or name in methods or not self.metric(name).later
        }
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def figures(
        self, samples: Samples, seed: int, methods: Mapping[str, str] | None = None
    ) -> Figures:
        """Return all figures of stored samples; metrics without a value are left out. Of a stored
        result, `methods` are those of its intervals: it keeps them, and lacks `later` metrics."""
        estimates = self.estimates(self.derive(samples))
        metrics = self.values(estimates, methods)
        uncertain = {n: estimates[n] for n in metrics if not self.metric(n).reference}
        return Figures(
            metrics=metrics,
            intervals=self.intervals(uncertain, seed, methods),
            n_samples=len(samples[self.per_sample or self.truth[0]]),
            per_class=self.per_class(samples) if self.per_class else {},
            confusion_pairs=self.confusion_pairs(samples) if self.confusion_pairs else (),
        )

    def intervals(
        self,
        estimates: Mapping[str, Estimate],
        seed: int,
        methods: Mapping[str, str] | None = None,
    ) -> dict[str, Interval]:
        """Return the intervals of estimates by the name of the metric. `methods` are those of a
        stored result, which has no other intervals of samples that are all alike."""
        from cosmos_eval.stats.intervals import ALL_ALIKE, intervals

        bounds = {name: self.metric(name).bounds for name in estimates}
        ends = intervals(estimates, seed=seed, methods=methods or {}, bounds=bounds)
        return {
            name: interval
            for name, interval in ends.items()
            if methods is None or name in methods or interval.method != ALL_ALIKE
        }

    def measure_captions(
        self,
        encoder: Encoder,
        data: RetrievalData | SelectionData | AssociationData,
        options: RunOptions,
        progress: OnProgress,
        score: Callable[[Features, Embeddings], Samples],
        *,
        notes: Sequence[str] = (),
        **more: Any,
    ) -> Measurement:
        """Measure what `score` makes of the features of all images (N, D) and the embedded captions
        (M, D)."""
        from cosmos_eval.data.folders import content_hash
        from cosmos_eval.embedding.embed import embed_images, embed_texts

        started = perf_counter()
        images = embed_images(encoder, data.images, options, progress)
        imaged = perf_counter()
        texts = embed_texts(encoder, data.captions, options, progress, phase="captions")
        captioned = perf_counter()
        samples = score(images.features, texts)
        seconds = {"images": imaged - started, "captions": captioned - imaged}
        seconds["metrics"] = perf_counter() - captioned
        if texts.cut.any():
            cut = f"{texts.cut.sum()} of {len(data.captions)} captions"
            notes = (f"{cut} did not fit the model's context and were cut", *notes)
        content = content_hash(images.image_sha256s)
        return self.measurement(
            samples, options, content=content, seconds=seconds, notes=notes, **more
        )

    def measurement(
        self,
        samples: Samples,
        options: RunOptions,
        *,
        names: Sequence[str] = (),
        sample_list: Sequence[object] = (),
        content: str = "",
        hashes: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
        unit: str = "images",
        **more: Any,
    ) -> Measurement:
        """Return the measurement of samples; `more` are other fields of `Measurement`.

        `names` of samples are stored with them, for people. Two hashes are recorded: of
        `sample_list`, the names of what was measured, and `content`, the `content_hash` of the
        files, by which results on other images of the same names are told apart. `options.limit`
        counts `unit`s.
        """
        import numpy as np

        from cosmos_eval.data.folders import fingerprint

        if options.limit is not None:
            notes = (f"at most {options.limit} {unit} were measured", *notes)
        samples = {**samples, NAME: np.array(names)} if names else samples
        recorded = {"sample_list": fingerprint(sample_list)} if sample_list else {}
        if content:
            recorded["content"] = content
        return Measurement(
            **vars(self.figures(samples, options.seed)),
            samples=samples,
            hashes={**recorded, **(hashes or {})},
            notes=tuple(notes),
            **more,
        )

    def require_same_truth(self, a: Derived, b: Derived) -> None:
        """Raise ValueError where derived samples are not of the same images and labels."""
        import numpy as np

        for name in self.truth:
            if not np.array_equal(a[name], b[name]):
                raise ValueError(f"`{name}` of the samples differs")

    def compared_estimates(
        self, several: Sequence[Samples], only: Collection[str] | None = None
    ) -> list[dict[str, Estimate]]:
        """Return the estimates of several results, or `only` some, by which they are compared.
        Raises ValueError for other images or labels, or samples of another task."""
        try:
            derived = [self.derive(samples) for samples in several]
            for other in derived[1:]:
                self.require_same_truth(derived[0], other)
            estimates = map(self.estimates, derived)
            return [
                {
                    n: one
                    for n, one in some.items()
                    if (only is None or n in only) and not self.metric(n).reference
                }
                for some in estimates
            ]
        except (KeyError, IndexError) as error:
            raise ValueError(f"samples that lack {error} are not of this task") from error

    def differences(
        self,
        several: Sequence[Samples],
        *,
        without_slow: bool = False,
        only: Collection[str] | None = None,
    ) -> Compare:
        """Return paired differences of two of several results, by their indices.

        Raises ValueError for other images or labels. `without_slow` leaves out the slowest metrics,
        `only` all but some.
        """
        from cosmos_eval.stats.paired import differences

        return differences(self.compared_estimates(several, only), without_slow=without_slow)
