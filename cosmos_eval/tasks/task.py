"""The base class of tasks: opening data, measuring a model, and figures from stored samples."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from cosmos_eval.tasks.metric import Derived, Metric
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
    no_progress,
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

NAME = "name"
"""The name of the array (N,) with the names of images, or other samples, as the data have them."""


class Task(ABC):
    """A task: its metrics, and how a model is measured.

    A subclass sets the first four attributes and has the two abstract methods. All other attributes
    and methods have defaults. Methods that take samples raise KeyError, ValueError or IndexError
    for samples of another task.
    """

    protocol: type[Protocol]
    """The type of the task's protocols. A user's YAML file of this kind sets their fields."""
    metrics: Sequence[Metric]
    """The metrics, in the order of tables."""
    truth: tuple[str, ...]
    """The names of arrays that are the same for every model, such as labels. Two results are
    compared only if they agree in them."""
    checked: str
    """A phrase that says what `open_data`, `check` and `survey` check, for the doctor."""

    arrays: Sequence[SampleArray] = ()
    """The stored arrays and the values that they may hold."""
    per_sample: str = ""
    """The name of an array with one entry per sample; empty: the first one of `truth`."""
    names_hash: str = ""
    """The name of the recorded hash that covers only the names of the samples, if any."""
    seconds: float = 0.4
    """Seconds that ViT-B/16 takes for a sample on two busy CPU cores, for estimates. They were
    measured on 48 scenes, and for segmentation on 6 photographs of voc20."""
    resamples: bool = True
    """True if a paired comparison of headline metrics resamples every sample, which is slow."""
    by_image: bool = False
    """True if the clusters of all estimates, or else their samples, are the images in order."""
    groups_by_length: bool = False
    """True if `per_class` groups captions by their length."""
    shares_pass: bool = False
    """True if `measure` encodes the images of all its protocols once."""

    @abstractmethod
    def open_data(self, protocol: Any, options: RunOptions) -> Any:
        """Return the data, before any model is loaded.

        The `found_samples` of the data say how many samples of an incomplete known data set there
        are. Raises UsageError for data that are missing or inconsistent.
        """

    @abstractmethod
    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[Any],
        data: Sequence[Any],
        options: RunOptions,
        progress: OnProgress,
    ) -> Iterator[Measurement]:
        """Yield a measurement per protocol, in their order.

        `data` are what `open_data` returned for each protocol; their `image_pass` are equal. A
        measurement is stored before the iterator is resumed, so that a task may then remove the
        unfinished parts that it stored.
        """

    # Methods for stored samples.

    def derive(self, samples: Samples) -> Derived:
        """Return the samples with arrays that several metrics share."""
        return samples

    def per_class(self, samples: Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return metrics by class, or by another group of samples; empty if there are none."""
        return {}

    def lengths(self, samples: Samples) -> Sequence[LengthBin]:
        """Return recall by the length of captions; empty if the task does not measure it."""
        return ()

    def confusion_pairs(self, samples: Samples) -> Sequence[Mapping[str, Any]]:
        """Return the most frequent mistakes; empty if the task does not count them."""
        return ()

    def mistakes(self, samples: Samples) -> Mistakes | None:
        """Return all mistakes; None if the task does not count them."""
        return None

    def upgrade(self, samples: Samples, record: Mapping[str, Any]) -> Samples:
        """Return samples of a result of version 1 as this version stores them.

        Raises ValueError or UsageError if that needs something that version 1 lacks.
        """
        return samples

    def columns(self, samples: Samples) -> Mapping[str, Any]:
        """Return the columns of `load_samples`: the arrays with one entry per sample."""
        shape = (self.count(samples),)
        return {name: array for name, array in samples.items() if array.shape == shape}

    def require_consistent(self, samples: Samples) -> None:
        """Raise ValueError for arrays that contradict each other."""
        return None

    # Methods for protocols and their data.

    def image_pass(self, protocol: Any, options: RunOptions, data: Any) -> Hashable:
        """Return a key that is equal for protocols that are measured together."""
        return protocol.dataset

    def check(self, protocol: Any, options: RunOptions, data: Any) -> None:
        """Raise UsageError for opened data that cannot be measured, if finding out takes long."""
        return None

    def survey(self, protocol: Any, options: RunOptions, progress: OnProgress) -> Survey:
        """Return what `cosmos-eval data doctor` reports of a data set.

        By default, data are checked as before a run, and images are counted. Raises UsageError for
        data that cannot be opened.
        """
        from cosmos_eval.data.folders import Survey
        from cosmos_eval.data.sources import image_sources

        data = self.open_data(protocol, options)
        self.check(protocol, options, data)
        n_images = len(image_sources(data)) or None
        folder = protocol.root or options.data_root
        return Survey(folder=folder, expected=n_images, images=n_images)

    def decode(self, source: Any) -> Any:
        """Return an image as the doctor decodes it."""
        return source.decode(source.read())

    def is_there(self, protocol: Any, root: Path) -> bool:
        """Return whether the folders or files of a data set are below a root."""
        return root.is_dir()

    def n_samples(self, protocol: Any) -> int | None:
        """Return the number of samples of a data set; None if it is unknown."""
        return None

    def fetch(self, protocol: Any, options: RunOptions) -> None:
        """Download a data set if the options ask for it."""
        return None

    def attention(self, protocol: Any) -> Attention | None:
        """Return the form of attention of a protocol; None if the task uses global features."""
        return None

    # Methods that every task has.

    @property
    def name(self) -> str:
        """The name of the task, by which options and results call it."""
        return self.protocol.task

    @cached_property
    def by_name(self) -> Mapping[str, Metric]:
        """The metrics by name."""
        return {metric.name: metric for metric in self.metrics}

    @property
    def headlines(self) -> Mapping[str, str]:
        """The titles of the metrics that tables show, by the name of the metric."""
        return {
            metric.name: metric.label or metric.name
            for metric in self.metrics
            if metric.headline or metric.primary
        }

    def metric(self, name: str) -> Metric:
        """Return the metric of a name; an unknown one is a fraction."""
        if name in self.by_name:
            return self.by_name[name]
        for metric in self.metrics:
            if metric.members and name.startswith(metric.name.removesuffix("*")):
                return replace(metric, name=name)
        return Metric(name)

    def measure_one(
        self,
        encoder: Encoder,
        protocol: Any,
        options: RunOptions | None = None,
        progress: OnProgress = no_progress,
        data: Any = None,
    ) -> Measurement:
        """Return the measurement of one protocol, on its data if they are opened already."""
        options = RunOptions() if options is None else options
        data = self.open_data(protocol, options) if data is None else data
        (measurement,) = self.measure(encoder, [protocol], [data], options, progress)
        return measurement

    def require_valid(
        self, samples: Samples, hashes: Mapping[str, str], *, has_names: bool = False
    ) -> None:
        """Raise ValueError, one line, for stored samples that cannot be of this task.

        `hashes` are those that the result records. In a result that `has_names`, a hash of the list
        of samples means that their names are stored.
        """
        from cosmos_eval.data.folders import fingerprint
        from cosmos_eval.tasks.arrays import require_valid

        require_valid(self.arrays, samples)
        self.require_consistent(samples)
        stores_names = any(array.name == NAME for array in self.arrays)
        if stores_names and has_names and "sample_list" in hashes and NAME not in samples:
            raise ValueError(f"there is no array `{NAME}`, though the list of samples was hashed")
        recorded_hash = hashes.get(self.names_hash)
        if recorded_hash and NAME in samples:
            names_hash = fingerprint(samples[NAME].tolist())
            if names_hash != recorded_hash:
                raise ValueError(
                    f"the hash of `{NAME}` is not the recorded one, `{self.names_hash}`"
                )

    def estimates(self, derived: Derived) -> dict[str, Estimate]:
        """Return the estimates of derived samples by the name of the metric."""
        estimates: dict[str, Estimate | None] = {}
        for metric in self.metrics:
            if metric.members is None:
                estimates[metric.name] = metric.estimate(derived)
                continue
            for member in metric.members(derived):
                name = metric.name.removesuffix("*") + member
                if name not in self.by_name:
                    estimates[name] = metric.estimate(derived, member)
        return {name: estimate for name, estimate in estimates.items() if estimate is not None}

    def values(
        self, estimates: Mapping[str, Estimate], methods: Mapping[str, str] | None = None
    ) -> dict[str, float]:
        """Return the values of the metrics, without those that are NaN.

        `methods` is explained in `figures`.
        """
        values = {}
        for name, estimate in estimates.items():
            is_stored = methods is None or name in methods or not self.metric(name).later
            if is_stored and not math.isnan(estimate.value):
                values[name] = estimate.value
        return values

    def figures(
        self, samples: Samples, seed: int, methods: Mapping[str, str] | None = None
    ) -> Figures:
        """Return metrics, intervals and metrics by class of samples. NaN metrics are left out.

        `methods` maps the metrics of a stored result to the methods of their intervals. Intervals
        are then computed by these methods again, and metrics that were added `later` are left out.
        """
        estimates = self.estimates(self.derive(samples))
        metrics = self.values(estimates, methods)
        with_interval = {
            name: estimates[name] for name in metrics if not self.metric(name).reference
        }
        return Figures(
            metrics=metrics,
            intervals=self.intervals(with_interval, seed, methods),
            n_samples=self.count(samples),
            per_class=self.per_class(samples),
            confusion_pairs=self.confusion_pairs(samples),
        )

    def count(self, samples: Samples) -> int:
        """Return the number of samples."""
        return len(samples[self.per_sample or self.truth[0]])

    def intervals(
        self,
        estimates: Mapping[str, Estimate],
        seed: int,
        methods: Mapping[str, str] | None = None,
    ) -> dict[str, Interval]:
        """Return the intervals of estimates by the name of the metric.

        `methods` are the methods of a stored result. If all its samples are alike, it has only the
        intervals that are named there.
        """
        from cosmos_eval.stats.intervals import ALL_ALIKE, intervals

        bounds = {name: self.metric(name).bounds for name in estimates}
        all_intervals = intervals(estimates, seed=seed, methods=methods or {}, bounds=bounds)
        return {
            name: interval
            for name, interval in all_intervals.items()
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
        """Embed the images and the captions, and return the measurement.

        `score` computes the samples from the features of all images (N, D) and the embedded
        captions (M, D). `more` are arguments of `measurement`.
        """
        from cosmos_eval.data.folders import content_hash
        from cosmos_eval.embedding.embed import embed_images, embed_texts

        started = perf_counter()
        images = embed_images(encoder, data.images, options, progress)
        images_done = perf_counter()
        captions = embed_texts(encoder, data.captions, options, progress, phase="captions")
        captions_done = perf_counter()
        samples = score(images.features, captions)
        n_cut = captions.cut.sum()
        if n_cut:
            cut = f"{n_cut} of {len(data.captions)} captions did not fit the model's context"
            notes = (f"{cut} and were cut", *notes)
        return self.measurement(
            samples,
            options,
            content=content_hash(images.image_sha256s),
            seconds={
                "images": images_done - started,
                "captions": captions_done - images_done,
                "metrics": perf_counter() - captions_done,
            },
            notes=notes,
            **more,
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
        """Return the measurement of samples.

        - `names`: the names of the samples, which are stored for readers of the result.
        - `sample_list`: the names of all that was measured, of which the hash is recorded.
        - `content`: the `content_hash` of the files. It differs for other images of the same names.
        - `hashes`: more hashes to record.
        - `unit`: what `options.limit` counts.
        - `more`: other fields of `Measurement`.
        """
        import numpy as np

        from cosmos_eval.data.folders import fingerprint

        if options.limit is not None:
            notes = (f"at most {options.limit} {unit} were measured", *notes)
        if names:
            samples = {**samples, NAME: np.array(names)}
        recorded_hashes = {}
        if sample_list:
            recorded_hashes["sample_list"] = fingerprint(sample_list)
        if content:
            recorded_hashes["content"] = content
        recorded_hashes.update(hashes or {})
        return Measurement(
            **vars(self.figures(samples, options.seed)),
            samples=samples,
            hashes=recorded_hashes,
            notes=tuple(notes),
            **more,
        )

    def require_same_truth(self, a: Derived, b: Derived) -> None:
        """Raise ValueError if derived samples belong to other images or labels."""
        import numpy as np

        for name in self.truth:
            if not np.array_equal(a[name], b[name]):
                raise ValueError(f"`{name}` of the samples differs")

    def compared_estimates(
        self, results: Sequence[Samples], only: Collection[str] | None = None
    ) -> list[dict[str, Estimate]]:
        """Return the estimates by which results are compared, for each result, by metric.

        Reference metrics are left out. `only` names the metrics to keep; None keeps all. Raises
        ValueError for samples of other images or labels, or of another task.
        """
        try:
            derived_results = [self.derive(samples) for samples in results]
            for derived in derived_results[1:]:
                self.require_same_truth(derived_results[0], derived)
            estimates = [self.estimates(derived) for derived in derived_results]
        except (KeyError, IndexError) as error:
            raise ValueError(f"samples that lack {error} are not of this task") from error
        return [
            {
                name: estimate
                for name, estimate in estimates_of_result.items()
                if (only is None or name in only) and not self.metric(name).reference
            }
            for estimates_of_result in estimates
        ]

    def differences(
        self,
        results: Sequence[Samples],
        *,
        without_slow: bool = False,
        only: Collection[str] | None = None,
    ) -> Compare:
        """Return a function that compares two of the results by paired differences.

        It takes the indices of both results. `without_slow` leaves out the slowest metrics. `only`
        names the metrics to keep; None keeps all. Raises ValueError for samples of other images or
        labels.
        """
        from cosmos_eval.stats.paired import differences

        return differences(self.compared_estimates(results, only), without_slow=without_slow)
