"""The base class of tasks: opening data, measuring a model, and figures from stored samples."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

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
    UsageError,
    no_progress,
)

if TYPE_CHECKING:
    # At run time they would import torch or NumPy, which takes long.
    from cosmos_eval.data.association import AssociationData
    from cosmos_eval.data.folders import Survey
    from cosmos_eval.data.ratings import RatedData
    from cosmos_eval.data.retrieval import RetrievalData
    from cosmos_eval.data.selection import SelectionData
    from cosmos_eval.embedding.embed import Embeddings, Features, ImageEmbedder
    from cosmos_eval.models.encoder import Encoder
    from cosmos_eval.stats.estimates import Estimate, Ints
    from cosmos_eval.stats.lengths import LengthBin
    from cosmos_eval.stats.paired import Compare
    from cosmos_eval.tasks.arrays import SampleArray
    from cosmos_eval.tasks.ordered import OrderedMeasurement

NAME = "name"
"""The name of the array (N,) with the names of images, or other samples, as the data have them."""
LEAST_NOTED_FRACTION = 0.01
"""A note mentions ties and repeated captions if they concern more than this fraction of samples."""


class ScoredSamples(NamedTuple):
    """The measurements that a task makes of the features of images and captions."""

    # The arrays to store with the result, by name.
    samples: Samples
    # Sentences that a reader of the result should know.
    notes: Sequence[str] = ()


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
        """Find and check the files of a data set, and return what `measure` needs of them.

        It is called before any model is loaded, so that missing files are reported at once.

        Args:
            protocol: A protocol of this task: the data set, and how it is measured.
            options: The options of the run: where the data are, and how many samples are measured.

        Returns:
            The data, in a type that the task chooses. If a known data set is incomplete, their
            attribute `found_samples` says how many of its samples there are.

        Raises UsageError for data that are missing or inconsistent.
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
        """Measure a model under several protocols.

        The images may be encoded once for all protocols, because `image_pass` returns the same key
        for all of them.

        Args:
            encoder: The model.
            protocols: Protocols of this task. Each is a data set, and how it is measured.
            data: The data that `open_data` returned for each protocol.
            options: The options of the run.
            progress: Called with the progress.

        Yields:
            A measurement for each protocol, in their order. The caller stores a measurement before
            it asks for the next one: after a `yield`, the task may remove the intermediate results
            of that measurement.
        """

    # Methods for stored samples.

    def derive(self, samples: Samples) -> Derived:
        """Return the samples, with added arrays that several metrics are computed from.

        By default, no array is added.
        """
        return samples

    def per_class(self, samples: Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return the metrics of each class, such as `{"cat": {"recall": 0.5, "images": 20}}`.

        A task may divide its samples by something else than classes. By default, the mapping is
        empty.
        """
        return {}

    def lengths(self, samples: Samples) -> Sequence[LengthBin]:
        """Return recall by the length of captions; empty if the task does not measure it."""
        return ()

    def confusion_pairs(self, samples: Samples) -> Sequence[Mapping[str, Any]]:
        """Return the most frequent mistakes, the most frequent one first.

        For example, `{"true": "cat", "predicted": "dog", "images": 7}`. By default, mistakes are
        not counted.
        """
        return ()

    def class_sizes(self, samples: Samples) -> Ints | None:
        """Return the number of samples in which each of C classes occurs, (C,).

        Return None unless the deciding metric is a mean over classes, whose comparison has to wait
        for rare classes.
        """
        return None

    def mistakes(self, samples: Samples) -> Mistakes | None:
        """Return the numbers of all mistakes by true and predicted class.

        Return None if the task does not count mistakes.
        """
        return None

    def upgrade(self, samples: Samples, record: Mapping[str, Any]) -> Samples:
        """Return the samples of a result of format version 1 as this version stores them.

        Args:
            samples: The stored arrays by name.
            record: The JSON record of the result.

        Raises ValueError or UsageError if the record does not hold what this version needs.
        """
        return samples

    def columns(self, samples: Samples) -> Mapping[str, Any]:
        """Return the columns of the table that `load_samples` returns, by name.

        By default, they are all stored arrays with one entry per sample.
        """
        shape_of_column = (self.count(samples),)
        return {name: array for name, array in samples.items() if array.shape == shape_of_column}

    def require_consistent(self, samples: Samples) -> None:
        """Raise ValueError for arrays that contradict each other.

        Each array was checked against `arrays` before.
        """
        return None

    def take(self, samples: Samples, indices: Ints) -> Samples:
        """Return the arrays of some samples, in the order of their indices (n,).

        Arrays without an entry for each sample, such as names of classes, stay the same.
        """
        taken = dict(samples)
        for name in self._arrays_by_sample & samples.keys():
            taken[name] = samples[name][indices]
        return taken

    def join(self, shards: Sequence[Samples]) -> Samples:
        """Return the arrays of all samples of several shards, which have the same arrays."""
        import numpy as np

        joined = dict(shards[0])
        for name in self._arrays_by_sample & shards[0].keys():
            joined[name] = np.concatenate([samples[name] for samples in shards])
        return joined

    @cached_property
    def _arrays_by_sample(self) -> frozenset[str]:
        """The names of the stored arrays that have one entry for each sample."""
        return frozenset(array.name for array in self.arrays if array.axes[0] == self.sample_noun)

    @cached_property
    def sample_noun(self) -> str:
        """The noun for samples: the axis of the array that counts them, such as `images`."""
        counted_array = self.per_sample or self.truth[0]
        axes = [array.axes for array in self.arrays if array.name == counted_array]
        return str(axes[0][0]) if axes else "samples"

    # Methods for protocols and their data.

    def image_pass(self, protocol: Any, options: RunOptions, data: Any) -> Hashable:
        """Return a key that decides which protocols are measured together.

        Protocols with equal keys are handed to one call of `measure`. By default, these are the
        protocols of one data set, and all languages of a data set that has several.
        """
        return protocol.language_set or protocol.dataset

    def check(self, protocol: Any, options: RunOptions, data: Any) -> None:
        """Raise UsageError for opened data that cannot be measured.

        These are the checks that take too long for `open_data`. By default, there are none.
        """
        return None

    def survey(self, protocol: Any, options: RunOptions, progress: OnProgress) -> Survey:
        """Check the files of a data set, and return a report for `cosmos-eval data doctor`.

        By default, the data are checked as they are before a run, and their images are counted.
        Raises UsageError for data that cannot be opened.
        """
        from cosmos_eval.data.folders import Survey
        from cosmos_eval.data.sources import image_sources

        data = self.open_data(protocol, options)
        self.check(protocol, options, data)
        n_images = len(image_sources(data)) or None
        folder = protocol.root or options.data_root
        return Survey(folder=folder, expected=n_images, images=n_images)

    def decode(self, source: Any) -> Any:
        """Read and decode an image, to find out whether its file is damaged.

        `cosmos-eval data doctor` calls it for every image. `source` is an `ImageSource`. All frames
        of a video are decoded, and the last one is returned. Raises UsageError for a damaged file.
        """
        for image in getattr(source, "frames", (source,)):
            decoded_image = image.decode(image.read())
        return decoded_image

    def is_there(self, protocol: Any, root: Path) -> bool:
        """Return whether the folder `root` holds the files of a data set."""
        return root.is_dir()

    def n_samples(self, protocol: Any) -> int | None:
        """Return the number of samples of the complete data set, or None if it is unknown."""
        return None

    def fetch(self, protocol: Any, options: RunOptions) -> None:
        """Download the data set if `options` ask for it. By default, nothing can be downloaded."""
        return None

    def attention(self, protocol: Any) -> Attention | None:
        """Return the form of attention that the protocol prescribes for the last block.

        Return None if the task uses global image features only.
        """
        return None

    def data_hashes(self, protocol: Any, data: Any, options: RunOptions) -> Mapping[str, str]:
        """Return the hashes of the data that a result of this protocol records, by name.

        They are computed without a model. All files are read, but no image is decoded. By default,
        there are none, so that changed data of existing results are not found.

        Args:
            protocol: A protocol of this task.
            data: The data that `open_data` returned.
            options: The options of the run.

        Raises UsageError for a file that cannot be read.
        """
        return {}

    def in_order(
        self,
        encoder: Encoder,
        protocol: Any,
        data: Any,
        options: RunOptions,
        progress: OnProgress,
    ) -> OrderedMeasurement:
        """Return a measurement that takes the samples in any order, and may stop after a part.

        By default, a task cannot be measured so.

        Args:
            encoder: The model.
            protocol: A protocol of this task.
            data: The data that `open_data` returned.
            options: The options of the run.
            progress: Called with the progress.

        Raises UsageError if the task or the protocol cannot be measured so.
        """
        raise UsageError(
            f"{protocol.dataset}: task {self.name} needs all samples, and cannot stop when the "
            "answer is known: leave --until out"
        )

    # Methods that every task has.

    @property
    def name(self) -> str:
        """The name of the task in options and results, such as `retrieval`."""
        return self.protocol.task

    @cached_property
    def by_name(self) -> Mapping[str, Metric]:
        """The metrics by name."""
        return {metric.name: metric for metric in self.metrics}

    @property
    def can_stop(self) -> bool:
        """True if the samples can be measured in any order, so that a run may stop early."""
        return type(self).in_order is not Task.in_order

    @property
    def deciding_metric(self) -> Metric | None:
        """The metric that decides when a run may stop: the first primary one, if there is any."""
        return next((metric for metric in self.metrics if metric.primary), None)

    @property
    def headlines(self) -> Mapping[str, str]:
        """The metrics that tables show: their column titles by their names."""
        titles = {}
        for metric in self.metrics:
            if metric.headline or metric.primary:
                titles[metric.name] = metric.label or metric.name
        return titles

    def metric(self, name: str) -> Metric:
        """Return the metric with a name.

        A metric such as `acc1_*` stands for all metrics whose names begin with `acc1_`, such as
        `acc1_urban`. An unknown name stands for a metric with default properties: a fraction, the
        higher the better.
        """
        if name in self.by_name:
            return self.by_name[name]
        for metric in self.metrics:
            has_members = metric.members is not None
            if has_members and name.startswith(metric.name.removesuffix("*")):
                return replace(metric, name=name)
        return Metric(name)

    def has_metric(self, name: str) -> bool:
        """Return whether the task has a metric, such as `acc1`, or `acc1_urban` by `acc1_*`."""
        return name in self.by_name or any(
            metric.members is not None and name.startswith(metric.name.removesuffix("*"))
            for metric in self.metrics
        )

    def measure_one(
        self,
        encoder: Encoder,
        protocol: Any,
        options: RunOptions | None = None,
        progress: OnProgress = no_progress,
        data: Any = None,
    ) -> Measurement:
        """Measure a model under one protocol, and return the measurement.

        Args:
            encoder: The model.
            protocol: A protocol of this task.
            options: The options of the run; None for the defaults.
            progress: Called with the progress.
            data: The data that `open_data` returned. If it is None, the data are opened here.
        """
        if options is None:
            options = RunOptions()
        if data is None:
            data = self.open_data(protocol, options)
        (measurement,) = self.measure(encoder, [protocol], [data], options, progress)
        return measurement

    def require_valid(
        self, samples: Samples, hashes: Mapping[str, str], *, has_names: bool = False
    ) -> None:
        """Raise ValueError, with a message of one line, for samples that this task cannot have.

        The types, shapes and bounds of all arrays are checked. If the result records a hash of the
        names of its samples, the stored names must have this hash.

        Args:
            samples: The stored arrays of a result, by name.
            hashes: The hashes that the result records, by name.
            has_names: False for results of older versions, which do not store the names.
        """
        from cosmos_eval.data.folders import fingerprint
        from cosmos_eval.tasks.arrays import require_valid

        require_valid(self.arrays, samples)
        self.require_consistent(samples)

        # If the list of samples was hashed, their names must be stored as well.
        task_stores_names = any(array.name == NAME for array in self.arrays)
        must_have_names = task_stores_names and has_names and "sample_list" in hashes
        if must_have_names and NAME not in samples:
            raise ValueError(f"there is no array `{NAME}`, though the list of samples was hashed")

        recorded_hash = hashes.get(self.names_hash)
        if recorded_hash and NAME in samples:
            names_hash = fingerprint(samples[NAME].tolist())
            if names_hash != recorded_hash:
                raise ValueError(
                    f"the hash of `{NAME}` is not the recorded one, `{self.names_hash}`"
                )

    def estimates(self, derived: Derived) -> dict[str, Estimate]:
        """Return the estimate of every metric: its value, and what its interval depends on.

        Args:
            derived: The arrays that `derive` returned for the samples of a result.

        Returns:
            The estimates by the name of the metric. Metrics that the samples do not have are left
            out. A metric such as `acc1_*` has an estimate for each of its members, under names such
            as `acc1_urban` and `acc1_rural`.
        """
        estimates: dict[str, Estimate | None] = {}
        for metric in self.metrics:
            if metric.members is None:
                estimates[metric.name] = metric.estimate(derived)
                continue
            prefix = metric.name.removesuffix("*")
            for member in metric.members(derived):
                name = prefix + member
                is_declared_by_name = name in self.by_name
                if not is_declared_by_name:
                    estimates[name] = metric.estimate(derived, member)
        return {name: estimate for name, estimate in estimates.items() if estimate is not None}

    def values(
        self, estimates: Mapping[str, Estimate], methods: Mapping[str, str] | None = None
    ) -> dict[str, float]:
        """Return the value of each estimate by the name of the metric. NaNs are left out.

        Args:
            estimates: The estimates by the name of the metric.
            methods: None for new samples. For a stored result, the methods of its intervals by the
                name of the metric: metrics that were added to the task after the result was
                stored are then left out.
        """
        values = {}
        for name, estimate in estimates.items():
            is_stored = methods is None or name in methods
            was_added_later = self.metric(name).later
            if was_added_later and not is_stored:
                continue
            if not math.isnan(estimate.value):
                values[name] = estimate.value
        return values

    def figures(
        self, samples: Samples, seed: int, methods: Mapping[str, str] | None = None
    ) -> Figures:
        """Compute metrics, their confidence intervals, and metrics by class from samples.

        Metrics that are NaN are left out. Reference metrics, which only help to judge other
        metrics, have no interval.

        Args:
            samples: The stored arrays by name.
            seed: The seed of the random draws of the bootstrap.
            methods: None for new samples. To compute the numbers of a stored result again, the
                methods of its intervals by the name of the metric. The same methods are used, and
                metrics that were added to the task later are left out.
        """
        estimates = self.estimates(self.derive(samples))
        metrics = self.values(estimates, methods)
        estimates_with_interval = {}
        for name in metrics:
            if not self.metric(name).reference:
                estimates_with_interval[name] = estimates[name]
        return Figures(
            metrics=metrics,
            intervals=self.intervals(estimates_with_interval, seed, methods),
            n_samples=self.count(samples),
            per_class=self.per_class(samples),
            confusion_pairs=self.confusion_pairs(samples),
        )

    def count(self, samples: Samples) -> int:
        """Return the number of samples: the length of the array `per_sample`."""
        array_name = self.per_sample or self.truth[0]
        return len(samples[array_name])

    def intervals(
        self,
        estimates: Mapping[str, Estimate],
        seed: int,
        methods: Mapping[str, str] | None = None,
    ) -> dict[str, Interval]:
        """Return the confidence interval of each estimate, by the name of the metric.

        Args:
            estimates: The estimates by the name of the metric.
            seed: The seed of the random draws of the bootstrap.
            methods: None for new samples. For a stored result, the methods of its intervals by the
                name of the metric, which are used again.
        """
        from cosmos_eval.stats.intervals import ALL_ALIKE, intervals

        bounds = {name: self.metric(name).bounds for name in estimates}
        interval_by_name = intervals(estimates, seed=seed, methods=methods or {}, bounds=bounds)
        if methods is None:
            return interval_by_name

        # Older results do not have an interval for a metric that is the same for all samples.
        stored_intervals = {}
        for name, interval in interval_by_name.items():
            if name in methods or interval.method != ALL_ALIKE:
                stored_intervals[name] = interval
        return stored_intervals

    def measure_captions(
        self,
        encoder: Encoder,
        data: RetrievalData | SelectionData | AssociationData | RatedData,
        options: RunOptions,
        progress: OnProgress,
        score: Callable[[Features, Embeddings], ScoredSamples],
        *,
        embedder: ImageEmbedder | None = None,
        notes: Sequence[str] = (),
        **measurement_arguments: Any,
    ) -> Measurement:
        """Embed the images and the captions of a data set, score them, and return the measurement.

        If captions did not fit the model's context and were cut, the measurement has a note with
        their number. The notes on the scores come last.

        Args:
            encoder: The model.
            data: N images and M captions.
            options: The options of the run.
            progress: Called with the progress.
            score: A function of the image features (N, D) and the captions' embeddings (M, D). It
                returns the arrays to store with the result, and notes.
            embedder: Embeds the images; None: they are embedded for this data set only.
            notes: Sentences that a reader of the result should know.
            measurement_arguments: More arguments of the method `measurement`.
        """
        from cosmos_eval.data.folders import content_hash
        from cosmos_eval.embedding.embed import ImageEmbedder, embed_texts

        started = perf_counter()
        if embedder is None:
            embedder = ImageEmbedder(encoder, options, progress)
        images = embedder.embed(data.images)
        images_done = perf_counter()
        captions = embed_texts(encoder, data.captions, options, progress, phase="captions")
        captions_done = perf_counter()
        samples, score_notes = score(images.features, captions)

        n_cut_captions = captions.cut.sum()
        if n_cut_captions:
            note = (
                f"{n_cut_captions} of {len(data.captions)} captions did not fit the model's "
                "context and were cut"
            )
            notes = (note, *notes)
        return self.measurement(
            samples,
            options,
            content=content_hash(images.image_sha256s),
            seconds={
                "images": images_done - started,
                "captions": captions_done - images_done,
                "metrics": perf_counter() - captions_done,
            },
            notes=[*notes, *score_notes],
            **measurement_arguments,
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
        **fields: Any,
    ) -> Measurement:
        """Compute the metrics of samples, and return them as a measurement.

        Args:
            samples: The arrays to store with the result, by name.
            options: The options of the run: its limit on the number of samples, and its seed.
            names: The names of the samples, which are stored for readers of the result.
            sample_list: Everything that identifies the samples. Its hash is recorded.
            content: The `content_hash` of the files. It differs for other images of the same names.
            hashes: More hashes to record, by name.
            notes: Sentences that a reader of the result should know.
            unit: The noun for what `options.limit` counts.
            fields: Other fields of `Measurement`.
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
            **fields,
        )

    def require_same_truth(self, first: Derived, second: Derived) -> None:
        """Raise ValueError unless two results were measured on the same images and labels.

        `first` and `second` are what `derive` returned for their samples.
        """
        import numpy as np

        for name in self.truth:
            if not np.array_equal(first[name], second[name]):
                raise ValueError(f"`{name}` of the samples differs")

    def compared_estimates(
        self, results: Sequence[Samples], only: Collection[str] | None = None
    ) -> list[dict[str, Estimate]]:
        """Return the estimates of each result that may be compared between the results.

        Args:
            results: The samples of each result.
            only: The names of the metrics to compare; None for all. Reference metrics, such as a
                chance level, are never compared.

        Returns:
            For each result, its estimates by the name of the metric.

        Raises ValueError if the results were measured on different images or labels, and for
        samples of another task.
        """
        try:
            derived_results = [self.derive(samples) for samples in results]
            for derived in derived_results[1:]:
                self.require_same_truth(derived_results[0], derived)
            estimates_of_results = [self.estimates(derived) for derived in derived_results]
        except (KeyError, IndexError) as error:
            raise ValueError(f"samples that lack {error} are not of this task") from error

        compared_estimates = []
        for estimate_by_name in estimates_of_results:
            compared_by_name = {}
            for name, estimate in estimate_by_name.items():
                is_requested = only is None or name in only
                is_reference = self.metric(name).reference
                if is_requested and not is_reference:
                    compared_by_name[name] = estimate
            compared_estimates.append(compared_by_name)
        return compared_estimates

    def differences(
        self,
        results: Sequence[Samples],
        *,
        without_slow: bool = False,
        only: Collection[str] | None = None,
    ) -> Compare:
        """Return a function that compares two of the results by paired differences.

        Args:
            results: The samples of each result.
            without_slow: True to leave out the slowest metrics.
            only: The names of the metrics to compare; None for all. Reference metrics, such as a
                chance level, are never compared.

        Returns:
            A function of the indices of two results, which returns their paired differences by the
            name of the metric.

        Raises ValueError if the results were measured on different images or labels, and for
        samples of another task.

        Example:
            compare = task.differences([first_samples, second_samples])
            differences = compare(0, 1)
        """
        from cosmos_eval.stats.paired import differences

        estimates = self.compared_estimates(results, only)
        return differences(estimates, without_slow=without_slow)
