"""Linear segmentation of patch features: the same windows, metrics and samples as zero-shot."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cosmos_eval import types
from cosmos_eval.data import label_map_checks, label_maps
from cosmos_eval.data.folders import Survey
from cosmos_eval.data.label_maps import LabelMaps
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.tasks.dense_probe.fits import require_enough, require_valid
from cosmos_eval.tasks.segmentation import Segmentation
from cosmos_eval.tasks.task import Task

# Intervals of probes that are fitted once hold for these training images only.
_TRAINING = "training images"


class SegmentationProbe(Segmentation):
    """A linear map from patch features to classes, fitted to training images."""

    protocol = types.SegmentationProbeProtocol
    metrics = tuple(replace(metric, conditional_on=_TRAINING) for metric in Segmentation.metrics)
    shares_pass = False
    in_order = Task.in_order  # a probe is fitted before any image is measured

    def open_data(self, protocol: Any, options: types.RunOptions) -> LabelMaps:
        """List the test images and all training images, with their label maps.

        Raises UsageError for an image that is in both lists.
        """
        require_valid(protocol, protocol.faults())
        test = label_maps.open_data(protocol, options)
        train = label_maps.open_data(protocol.training_protocol, _training_options(options))
        require_enough(protocol, len(train.samples))
        test_images = {sample.image for sample in test.samples}
        for sample in train.samples:
            if sample.image in test_images:
                raise types.UsageError(
                    f"{protocol.dataset}: {sample.image} is a training and a test image"
                )
        return test._replace(train=train.samples)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[Any],
        data: Sequence[LabelMaps],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Fit the probe of each protocol, and yield its measurement on the test images."""
        from cosmos_eval.tasks.dense_probe.evaluate_segmentation import measure_protocol

        for protocol, maps in zip(protocols, data, strict=True):
            measurement, store = measure_protocol(encoder, protocol, maps, options, progress)
            yield measurement
            store.remove()

    def data_hashes(
        self, protocol: Any, data: LabelMaps, options: types.RunOptions
    ) -> Mapping[str, str]:
        """Return the hashes of the training and test images with their maps, and of their names."""
        from cosmos_eval.tasks.label_maps import data_hashes

        return data_hashes(data.samples, options, data.train)

    def image_pass(self, protocol: Any, options: types.RunOptions, data: LabelMaps) -> Hashable:
        """Return the data set: each protocol encodes its images itself."""
        return protocol.dataset

    def upgrade(self, samples: types.Samples, record: Mapping[str, Any]) -> types.Samples:
        """Return the samples as they are: format version 1 had no probes."""
        return samples

    def check(self, protocol: Any, options: types.RunOptions, data: LabelMaps) -> None:
        """Read every label map. Raises UsageError for one that does not fit the protocol."""
        label_map_checks.check(protocol, options, data)
        train = LabelMaps(data.train, data.palette)
        label_map_checks.check(protocol.training_protocol, options, train)

    def survey(
        self, protocol: Any, options: types.RunOptions, progress: types.OnProgress
    ) -> Survey:
        """Check every image and label map, and report missing and damaged files."""
        test = label_map_checks.survey(protocol, options, progress)
        train = label_map_checks.survey(
            protocol.training_protocol, _training_options(options), progress
        )
        return replace(
            test,
            faults=(*test.faults, *train.faults),
            remedy=test.remedy or train.remedy,
            expected=_sum(test.expected, train.expected),
            images=_sum(test.images, train.images),
            label_maps=_sum(test.label_maps, train.label_maps),
        )

    def is_there(self, protocol: Any, root: Path) -> bool:
        """Return whether the folder `root` holds the training and the test images."""
        return label_map_checks.is_there(protocol, root) and label_map_checks.is_there(
            protocol.training_protocol, root
        )


def _training_options(options: types.RunOptions) -> types.RunOptions:
    """Return the options without a limit: a probe needs all training images."""
    return replace(options, limit=None, allow_partial=False)


def _sum(first: int | None, second: int | None) -> int | None:
    """Return the sum of two numbers, or None if either is unknown."""
    return None if first is None or second is None else first + second


TASK = SegmentationProbe()
