"""A linear map from patch features to depth, with the metrics of each test image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosmos_eval import types
from cosmos_eval.data import depth_maps
from cosmos_eval.data.depth_maps import DepthMaps
from cosmos_eval.data.folders import Survey, find_root, remedy_of
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats.estimates import Mean
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.dense_probe.fits import require_enough, require_valid
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.task import NAME, Task

# Stored arrays of N test images.
PIXELS = "pixels"  # (N,) pixels whose depth is known and counts
RMSE = "rmse"  # (N,) root of the mean squared error, in metres
ABS_REL = "abs_rel"  # (N,) mean of the error divided by the depth
DELTAS = ("delta1", "delta2", "delta3")  # (N,) shares of pixels, see `image_metrics`
_TRAINING = "training images"


class _ImageMean:
    """A metric that is the mean over the images of a stored array."""

    def __init__(self, array: str) -> None:
        """Keep the name of the array."""
        self._array = array

    def estimate(self, samples: Derived) -> Mean | None:
        """Return the mean over the images with a pixel that counts, or None if there are none."""
        (images,) = np.nonzero(samples[PIXELS])
        if not len(images):
            return None
        return Mean(samples[self._array][images], clusters=images)


class DepthProbe(Task):
    """A linear map from patch features to depth, fitted to training images."""

    protocol = types.DepthProbeProtocol
    metrics = (
        Metric(
            RMSE,
            _ImageMean(RMSE).estimate,
            unit="number",
            higher_is_better=False,
            label="RMSE (m)",
            primary=True,
            conditional_on=_TRAINING,
        ),
        Metric(
            ABS_REL,
            _ImageMean(ABS_REL).estimate,
            unit="number",
            higher_is_better=False,
            label="abs rel",
            headline=True,
            conditional_on=_TRAINING,
        ),
        Metric(DELTAS[0], _ImageMean(DELTAS[0]).estimate, headline=True, conditional_on=_TRAINING),
        Metric(DELTAS[1], _ImageMean(DELTAS[1]).estimate, conditional_on=_TRAINING),
        Metric(DELTAS[2], _ImageMean(DELTAS[2]).estimate, conditional_on=_TRAINING),
    )
    truth = (NAME, PIXELS)
    checked = "both lists, every file, the size of every image, every depth map"
    arrays = (
        SampleArray(NAME, "text", ("images",)),
        SampleArray(PIXELS, "whole number", ("images",), least=0),
        SampleArray(RMSE, "number", ("images",), least=0, may_be_nan=True),
        SampleArray(ABS_REL, "number", ("images",), least=0, may_be_nan=True),
        *(
            SampleArray(name, "number", ("images",), least=0, most=1, may_be_nan=True)
            for name in DELTAS
        ),
    )
    names_hash = "samples"
    seconds = 2.0
    by_image = True

    def open_data(self, protocol: types.DepthProbeProtocol, options: types.RunOptions) -> DepthMaps:
        """List the test images and all training images, with their depth maps."""
        require_valid(protocol, protocol.faults())
        data = depth_maps.open_data(protocol, options)
        require_enough(protocol, len(data.train))
        return data

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.DepthProbeProtocol],
        data: Sequence[DepthMaps],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Fit the probe of each protocol, and yield its measurement on the test images."""
        from cosmos_eval.tasks.dense_probe.evaluate_depth import measure_protocol

        for protocol, maps in zip(protocols, data, strict=True):
            measurement, store = measure_protocol(encoder, protocol, maps, options, progress)
            yield measurement
            store.remove()

    def data_hashes(
        self, protocol: Any, data: DepthMaps, options: types.RunOptions
    ) -> Mapping[str, str]:
        """Return the hashes of the training and test images with their maps, and of their names."""
        from cosmos_eval.tasks.label_maps import data_hashes

        return data_hashes(data.samples, options, data.train)

    def require_consistent(self, samples: types.Samples) -> None:
        """Raise ValueError if a number is missing for an image with pixels that count."""
        has_pixels = samples[PIXELS] > 0
        for name in (RMSE, ABS_REL, *DELTAS):
            if np.isnan(samples[name][has_pixels]).any():
                raise ValueError(f"`{name}` lacks the number of an image with `{PIXELS}`")

    def check(
        self, protocol: types.DepthProbeProtocol, options: types.RunOptions, data: DepthMaps
    ) -> None:
        """Read every depth map. Raises UsageError for one that does not fit its image."""
        depth_maps.check(protocol, options, data)

    def survey(
        self,
        protocol: types.DepthProbeProtocol,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Survey:
        """Check the lists and every file, and report the first fault."""
        try:
            data = self.open_data(protocol, options)
            self.check(protocol, options, data)
        except types.UsageError as error:
            return Survey(faults=(str(error),), remedy=remedy_of(protocol))
        n_images = len(data.samples) + len(data.train)
        root = str(find_root(protocol, options.data_root))
        return Survey(folder=root, expected=n_images, images=n_images)

    def decode(self, source: ImageFile) -> Any:
        """Read and decode an image by OpenCV, as it is decoded for the measurement."""
        from cosmos_eval.tasks.segmentation.pictures import decode  # which imports OpenCV

        return decode(source.path)

    def is_there(self, protocol: types.DepthProbeProtocol, root: Path) -> bool:
        """Return whether the folder `root` holds both lists of a data set."""
        try:
            find_root(protocol, str(root))
        except types.UsageError:
            return False
        return True

    def n_samples(self, protocol: types.DepthProbeProtocol) -> int | None:
        """Return the number of test images of the complete data set, or None if it is unknown."""
        return protocol.n_images

    def attention(self, protocol: types.DepthProbeProtocol) -> types.Attention:
        """Return the form of attention that the protocol prescribes for the last block."""
        return protocol.attention

    def columns(self, samples: types.Samples) -> Mapping[str, Any]:
        """Return a table with a row per test image: its pixels that count, and its metrics."""
        return {name: samples[name] for name in (PIXELS, RMSE, ABS_REL, *DELTAS)}


TASK = DepthProbe()
