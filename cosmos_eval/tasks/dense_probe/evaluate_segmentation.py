"""The measurement of a linear segmentation probe: fit to training images, count on test images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cosmos_eval.data.folders import content_hash, fingerprint
from cosmos_eval.data.label_maps import (
    Label,
    LabelMaps,
    Sample,
    read_label,
    require_same_size,
)
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.embedding.cache import ShardStore
from cosmos_eval.models.encoder import DenseEncoder, Encoder
from cosmos_eval.models.maps import require_patches
from cosmos_eval.tasks import segmentation
from cosmos_eval.tasks.dense_probe import fits, steps, views
from cosmos_eval.tasks.dense_probe.fits import FittedProbe, PatchSamples
from cosmos_eval.tasks.dense_probe.steps import View
from cosmos_eval.tasks.label_maps import CONTENT, fingerprints, hash_contents, unfinished_store
from cosmos_eval.tasks.segmentation import inference, pictures
from cosmos_eval.tasks.segmentation.evaluate import Job, count_images
from cosmos_eval.tasks.segmentation.inference import LoadedImage, Segmenter
from cosmos_eval.types import (
    Attention,
    Measurement,
    OnProgress,
    Progress,
    RunOptions,
    SegmentationProbeProtocol,
    UsageError,
)

_DROPOUT = 0.1  # the probability that a feature of an image is 0 in a step of AdamW


def measure_protocol(
    encoder: Encoder,
    protocol: SegmentationProbeProtocol,
    data: LabelMaps,
    options: RunOptions,
    progress: OnProgress,
) -> tuple[Measurement, ShardStore]:
    """Fit a probe to the training images, and measure it on the test images.

    Args:
        encoder: The model.
        protocol: The data set, and how the probe is fitted.
        data: The test samples, and the training samples.
        options: The options of the run.
        progress: Called with the number of images that are read.

    Returns:
        The measurement, and the store of the measured shards, which can be removed.

    Raises UsageError for models without patches and for damaged images.
    """
    started = perf_counter()
    attention = options.attention or protocol.attention
    dense_encoder = options.distributed.synchronized(require_patches, encoder, attention)
    fitted_protocol = inference.fit_to_model(protocol, dense_encoder)
    # A class has one logit, whatever its prompts are.
    names = tuple((name,) for name in protocol.class_names)
    fitted_protocol = replace(fitted_protocol, queries=names)
    probe = _fit(dense_encoder, fitted_protocol, data.train, options, progress)
    fitted = perf_counter()

    store = unfinished_store(
        encoder.info, fitted_protocol, options, data.samples, fitted_sha256=probe.sha256
    )
    folder = None
    if options.save_predictions:
        attention_of_folder = None if options.auxiliary else options.attention
        root = Path(options.save_predictions)
        folder = pictures.predictions_folder(root, protocol, attention_of_folder)
    job = Job(fitted_protocol, data, store, folder, options.overlays)
    segmenter = Segmenter(
        dense_encoder,
        probe.parameters["weights"],
        fitted_protocol,
        attention,
        options.batch_size,
        probe.parameters["bias"],
    )
    (counts,), _ = count_images([job], lambda: [segmenter], options, progress)
    seconds = {"training": fitted - started, "images": perf_counter() - fitted}
    return _measurement(fitted_protocol, data, probe, counts, attention, options, seconds), store


def _fit(
    encoder: DenseEncoder,
    protocol: SegmentationProbeProtocol,
    samples: Sequence[Sample],
    options: RunOptions,
    progress: OnProgress,
) -> FittedProbe:
    """Fit the probe to the training images by the method that the protocol names."""
    attention = options.attention or protocol.attention
    images = _TrainingImages(encoder, protocol, attention, samples, options, progress)
    if protocol.iterations is None:
        return fits.fit_ridge(protocol, len(samples), options, images.read)

    training = steps.Training(
        encoder=encoder,
        attention=attention,
        protocol=protocol,
        schedule=steps.Schedule(protocol.iterations, protocol.warmup, protocol.learning_rate),
        n_images=len(samples),
        load=images.load_view,
        loss=images.loss,
        n_outputs=len(protocol.class_names),
        dropout=_DROPOUT,
    )
    return fits.fit_by_steps(training, options, progress, hash_contents(samples, options))


class _TrainingImages:
    """Reads training images, encodes them, and counts the classes of the pixels of patches."""

    def __init__(
        self,
        encoder: DenseEncoder,
        protocol: SegmentationProbeProtocol,
        attention: Attention,
        samples: Sequence[Sample],
        options: RunOptions,
        progress: OnProgress,
    ) -> None:
        """Keep the model and the list of images. Nothing is read yet."""
        self._encoder = encoder
        self._protocol = protocol
        self._attention = attention
        self._samples = samples
        self._options = options
        self._progress = progress

    def read(self, indices: Sequence[int]) -> Iterator[PatchSamples]:
        """Yield the patches of training images, by their indices."""
        images = prefetch(indices, self._load, workers=self._options.workers)
        encoded_images = inference.encode_labelled_patches(
            self._encoder, self._protocol, self._attention, self._options.batch_size, images
        )
        n_classes = len(self._protocol.class_names)
        for done, (index, encoded) in enumerate(zip(indices, encoded_images, strict=True), 1):
            class_counts = []
            token_hw = (encoded.patches.shape[1], encoded.patches.shape[2])
            for label in encoded.labels:
                class_counts.append(
                    count_classes(label, token_hw, n_classes, self._protocol.ignore_index)
                )
            counts_of_class = np.concatenate(class_counts)  # (n * h * w, C)
            counts = counts_of_class.sum(axis=1)
            features = encoded.patches.flatten(0, 2).cpu().numpy()
            # A target is 1 for the class of the pixel and 0 for others, so its square is 1.
            squares = float(counts.sum())
            yield PatchSamples(
                index, encoded.image.sha256, features, counts, counts_of_class, squares
            )
            self._progress(Progress("training images", done, len(indices)))

    def load_view(self, index: int, generator: np.random.Generator) -> View:
        """Return a random square of a training image, with the classes of its pixels.

        The image is resized at random, cut, turned from left to right in half of the cases, and
        changed in its colours. Squares have the side of a window.
        """
        sample, protocol = self._samples[index], self._protocol
        image = pictures.decode(sample.image)
        label = read_label(sample, protocol)
        require_same_size(sample, (image.shape[0], image.shape[1]), label)

        short_side = views.random_size(protocol.short_side, generator)
        resized = inference.resize_image(image, replace(protocol, short_side=short_side))
        label = inference.resize_label(label, (resized.shape[0], resized.shape[1]))
        side = protocol.window or protocol.short_side
        square, label = views.random_crop(resized, label, side, protocol.ignore_index, generator)
        if generator.integers(2):
            square, label = square[:, ::-1], label[:, ::-1]
        colours = views.distort_colours(np.ascontiguousarray(square), generator)
        pixels = inference.normalise_pixels(colours, protocol)
        return View(*views.pad(pixels, label.copy(), side, protocol.ignore_index))

    def loss(self, logits: Tensor, classes: Tensor, step: int) -> Tensor:
        """Return the mean cross entropy of pixels, where pixels without a class count as 0.

        Args:
            logits: The logits (B, C, h, w) of patches, which are interpolated to pixels.
            classes: The class (B, H, W) of each pixel.
            step: The number of the step, which is not used.
        """
        size = (classes.shape[1], classes.shape[2])
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        ignore_index = self._protocol.ignore_index
        return F.cross_entropy(logits, classes, ignore_index=ignore_index, reduction="none").mean()

    def _load(self, index: int) -> LoadedImage:
        """Read a training image and its label map."""
        (image,) = inference.load_together([self._samples[index]], [self._protocol])
        return image


def count_classes(
    label: Label, token_hw: tuple[int, int], n_classes: int, ignore_index: int
) -> NDArray[np.int64]:
    """Return how many pixels of each class lie under each patch, (h * w, C).

    The pixels are divided evenly among the patches. Pixels with the value `ignore_index` do not
    count.

    Args:
        label: The class (H, W) of each pixel.
        token_hw: The numbers h and w of patches along the height and the width.
        n_classes: The number C of classes.
        ignore_index: The label of pixels that do not count.

    Example:
        The label map [[0, 0, 1, 255]] with 1 x 2 patches and two classes gives [[2, 0], [0, 1]].
    """
    (height, width), (h, w) = label.shape, token_hw
    row = np.arange(height) * h // height
    column = np.arange(width) * w // width
    token = row[:, None] * w + column  # (H, W)
    is_labelled = label != ignore_index
    cell = token[is_labelled] * n_classes + label[is_labelled]
    return np.bincount(cell, minlength=h * w * n_classes).reshape(h * w, n_classes)


def _measurement(
    protocol: SegmentationProbeProtocol,
    data: LabelMaps,
    probe: FittedProbe,
    counts: dict[str, NDArray[Any]],
    attention: Attention,
    options: RunOptions,
    seconds: dict[str, float],
) -> Measurement:
    """Compute the metrics of a probe from its pixel counts, and return the measurement.

    Raises UsageError if no pixel of any test image is labelled.
    """
    from cosmos_eval.tasks.dense_probe.segmentation import TASK

    if not counts["pixels"].any():
        raise UsageError(f"{protocol.dataset}: no pixel of any image has a label to compare with")
    names = [sample.name for sample in data.samples]
    sha256s = [row.tobytes() for row in counts.pop(CONTENT)]
    constants = {**segmentation.constants(protocol, attention), **fits.constants(protocol)}
    hashes = {
        **fingerprints(protocol, names, {**constants, "seed": options.seed}),
        "training": fingerprint([sample.name for sample in data.train]),
    }
    samples = {
        segmentation.NAME: np.array(names),
        **segmentation.class_arrays(protocol),
        **counts,
    }
    return TASK.measurement(
        samples,
        options,
        content=content_hash([*probe.sha256s, *sha256s]),
        hashes=hashes,
        settings={"dense_probe": probe.record},
        seconds=seconds,
        notes=probe.notes,
    )
