"""The measurement of a linear depth probe: fit to training images, compare on test images.

It follows the evaluation of github.com/facebookresearch/dinov3 at 6876159 (dinov3/eval/depth): the
whole image, padded with 0 on all sides to whole patches; the mean of the depths of the image and of
its mirror image; depths of patches interpolated to pixels; the mean over images of the metrics of
each image.

Shapes: H x W pixels, h x w patches, D features, K bins of depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from cosmos_eval.data.depth_maps import (
    Depth,
    DepthMaps,
    box_slices,
    read_depth,
    require_same_size,
)
from cosmos_eval.data.folders import content_hash, fingerprint
from cosmos_eval.data.label_maps import Sample
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.embedding.cache import Arrays, ShardStore
from cosmos_eval.models.encoder import DenseEncoder, Encoder, require_finite, to_device
from cosmos_eval.models.maps import require_patches
from cosmos_eval.tasks.dense_probe import fits, steps
from cosmos_eval.tasks.dense_probe.depth import ABS_REL, DELTAS, PIXELS, RMSE, TASK
from cosmos_eval.tasks.dense_probe.fits import FittedProbe, PatchSamples
from cosmos_eval.tasks.dense_probe.steps import View
from cosmos_eval.tasks.label_maps import (
    CONTENT,
    ShardedMeasurement,
    content_array,
    content_sha256,
    hash_contents,
    unfinished_store,
)
from cosmos_eval.tasks.segmentation.pictures import Pixels, decode
from cosmos_eval.tasks.task import NAME
from cosmos_eval.types import (
    Attention,
    DepthProbeProtocol,
    Measurement,
    OnProgress,
    Progress,
    RunOptions,
    UsageError,
)

_CONSTANTS = ("units_per_metre", "min_depth", "max_depth", "train_box", "test_box")
_STEP_CONSTANTS = ("bins", "crop")
_LEAST_SCORE = 0.1  # of a bin of depth
_LOSS_OFFSET = 0.001  # metres, added before logarithms
_MEAN_WEIGHT = 0.15  # of the squared mean of the errors of logarithms, in the loss
_STEPS_WITHOUT_VARIANCE = 100  # in which the loss leaves out the variance of these errors
_IMAGES_PER_LOSS = 2  # each of 8 GPUs had two images
_DEGREES = 2.5  # of the largest rotation
_GAMMA, _BRIGHTNESS, _COLOUR = (0.9, 1.1), (0.75, 1.25), (0.9, 1.1)


class LoadedDepth(NamedTuple):
    """An image and its depth map."""

    sample: Sample
    image: Pixels  # (H, W, 3), RGB
    depth: Depth  # (H, W)
    # The SHA-256 of both files.
    sha256: bytes


def load(sample: Sample, protocol: DepthProbeProtocol) -> LoadedDepth:
    """Read an image and its depth map. Raises UsageError for a file that cannot be used."""
    content = ImageFile(sample.image).read()
    image = decode(sample.image, content)
    depth = read_depth(sample, protocol)
    require_same_size(sample, (image.shape[0], image.shape[1]), depth)
    return LoadedDepth(sample, image, depth, content_sha256(content, sample))


def measure_protocol(
    encoder: Encoder,
    protocol: DepthProbeProtocol,
    data: DepthMaps,
    options: RunOptions,
    progress: OnProgress,
) -> tuple[Measurement, ShardStore]:
    """Fit a probe to the training images, and measure it on the test images.

    Returns:
        The measurement, and the store of the measured shards, which can be removed.

    Raises UsageError for models without patches and for damaged images.
    """
    started = perf_counter()
    attention = options.attention or protocol.attention
    dense_encoder = options.distributed.synchronized(require_patches, encoder, attention)
    model = DepthModel(dense_encoder, protocol, attention, options)
    probe = _fit(model, data.train, progress)
    fitted = perf_counter()

    store = unfinished_store(
        encoder.info, protocol, options, data.samples, fitted_sha256=probe.sha256
    )
    measuring = _DepthMeasurement(store, model, probe.parameters, data.samples, progress)
    (arrays,), _ = measuring.run()
    if not arrays[PIXELS].any():
        raise UsageError(f"{protocol.dataset}: no pixel of any test image has a depth that counts")
    names = [sample.name for sample in data.samples]
    sha256s = [row.tobytes() for row in arrays.pop(CONTENT)]
    measurement = TASK.measurement(
        {NAME: np.array(names), **arrays},
        options,
        content=content_hash([*probe.sha256s, *sha256s]),
        hashes={
            "samples": fingerprint(names),
            "training": fingerprint([sample.name for sample in data.train]),
            "constants": fingerprint(_constants(protocol, attention, options.seed)),
        },
        settings={"dense_probe": probe.record},
        seconds={"training": fitted - started, "images": perf_counter() - fitted},
        notes=probe.notes,
    )
    return measurement, store


def _constants(protocol: DepthProbeProtocol, attention: Attention, seed: int) -> list[Any]:
    """Return all constants that decide the numbers of a protocol, to be hashed."""
    names = _CONSTANTS if protocol.iterations is None else (*_CONSTANTS, *_STEP_CONSTANTS)
    return [
        sorted(fits.constants(protocol).items()),
        [getattr(protocol, name) for name in names],
        attention,
        seed,
    ]


def _fit(model: DepthModel, samples: Sequence[Sample], progress: OnProgress) -> FittedProbe:
    """Fit the probe to the training images by the method that the protocol names."""
    protocol, options = model.protocol, model.options
    images = _TrainingImages(model, samples, progress)
    if protocol.iterations is None:
        return fits.fit_ridge(protocol, len(samples), options, images.read)

    training = steps.Training(
        encoder=model.encoder,
        attention=model.attention,
        protocol=protocol,
        schedule=steps.DepthSchedule(protocol.iterations, protocol.warmup, protocol.learning_rate),
        n_images=len(samples),
        load=images.load_view,
        loss=images.loss,
        n_outputs=protocol.bins,
    )
    return fits.fit_by_steps(training, options, progress, hash_contents(samples, options))


class DepthModel(NamedTuple):
    """A model with the protocol by which depth is predicted from its patches."""

    encoder: DenseEncoder
    protocol: DepthProbeProtocol
    attention: Attention
    options: RunOptions

    def normalise(self, image: NDArray[Any]) -> Tensor:
        """Return the normalised pixels (3, H, W) float32 of an image (H, W, 3) from 0 to 255."""
        mean = np.array(self.encoder.image_mean, np.float32)
        std = np.array(self.encoder.image_std, np.float32)
        pixels = (image.astype(np.float32) / 255 - mean) / std
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def encode(self, pixels: Tensor, name: str) -> Tensor:
        """Return the patch features (B, h, w, D) of padded images (B, 3, H, W).

        Raises UsageError for features that are not finite. `name` is the image in its message.
        """
        on_device = to_device(pixels, self.encoder.info.device)
        features = self.encoder.encode_patches(on_device, self.attention)
        require_finite(features[None], self.encoder.info, [name].__getitem__)
        return features

    @torch.no_grad()
    def predict(self, image: LoadedDepth, parameters: Mapping[str, NDArray[Any]]) -> Depth:
        """Return the predicted depth (H, W) of an image, within the bounds of the protocol."""
        pixels = self.normalise(image.image)
        views = torch.stack([pixels, pixels.flip(2)])  # the image and its mirror image
        features = self.encode(pad_to_patches(views, self.encoder.patch_size), image.sample.name)
        weights = torch.from_numpy(parameters["weights"]).to(features.device)
        bias = torch.from_numpy(parameters["bias"]).to(features.device)
        outputs = (features @ weights.T + bias).permute(0, 3, 1, 2)  # (2, K, h, w)
        depths = depth_of(outputs, self.protocol)
        mean_depth = (depths[0] + depths[1].flip(1)) / 2
        bounds = (self.protocol.min_depth, self.protocol.max_depth)
        upsampled = _interpolate(mean_depth[None], image.depth.shape)[0].clamp(*bounds)
        predicted: Depth = upsampled.cpu().numpy()
        return predicted


def pad_to_patches(images: Tensor, patch_size: int) -> Tensor:
    """Return images (..., H, W) with 0 around them, so that both sides are whole patches.

    Example:
        13 columns in patches of 8 get one more column on the left and two on the right.
    """
    padding = []
    for length in (images.shape[-1], images.shape[-2]):
        missing = -length % patch_size
        padding += [missing // 2, missing - missing // 2]
    return F.pad(images, padding)


def depth_of(outputs: Tensor, protocol: DepthProbeProtocol) -> Tensor:
    """Return the depth (B, h, w) of each patch from the outputs (B, K, h, w) of a head.

    A single output is the depth. Several are the scores of depths with equal distances, from the
    least to the greatest one: relu(score) + 0.1 is the weight of a depth in the mean.
    """
    n_bins = outputs.shape[1]
    if n_bins == 1:
        return outputs[:, 0]
    depths = torch.linspace(protocol.min_depth, protocol.max_depth, n_bins, device=outputs.device)
    weights = outputs.relu() + _LEAST_SCORE
    return torch.einsum("bkhw,k->bhw", weights / weights.sum(1, keepdim=True), depths)


def _interpolate(depth: Tensor, size: Sequence[int]) -> Tensor:
    """Return depths (B, h, w) interpolated to (B, H, W)."""
    resized = F.interpolate(depth[:, None], size=tuple(size), mode="bilinear", align_corners=False)
    return resized[:, 0]


def image_metrics(depth: Depth, predicted: Depth, protocol: DepthProbeProtocol) -> dict[str, float]:
    """Return the metrics of an image by name, and the number of pixels that count.

    Pixels count in the test box, if their depth is between the bounds of the protocol. `delta1` is
    the share of pixels at which the larger of both depths is less than 1.25 times the other one;
    `delta2` and `delta3` are for 1.25^2 and 1.25^3. Metrics are NaN if no pixel counts.

    Example:
        Depths [1, 2] and predictions [1, 3] have the RMSE 0.71, abs_rel 0.25 and delta1 0.5.
    """
    counts = np.zeros(depth.shape, np.bool_)
    counts[box_slices(protocol.test_box, (depth.shape[0], depth.shape[1]))] = True
    counts &= (depth > protocol.min_depth) & (depth < protocol.max_depth)
    n_pixels = int(counts.sum())
    if n_pixels == 0:
        return {PIXELS: 0, **dict.fromkeys((RMSE, ABS_REL, *DELTAS), np.nan)}
    true, guess = depth[counts].astype(np.float64), predicted[counts].astype(np.float64)
    ratio = np.maximum(true / guess, guess / true)
    metrics = {
        PIXELS: n_pixels,
        RMSE: float(np.sqrt(np.mean((true - guess) ** 2))),
        ABS_REL: float(np.mean(np.abs(true - guess) / true)),
    }
    for power, name in enumerate(DELTAS, start=1):
        metrics[name] = float(np.mean(ratio < 1.25**power))
    return metrics


class _DepthMeasurement(ShardedMeasurement[Sample, LoadedDepth]):
    """Measures the test images in shards."""

    def __init__(
        self,
        store: ShardStore,
        model: DepthModel,
        parameters: Mapping[str, NDArray[Any]],
        samples: Sequence[Sample],
        progress: OnProgress,
    ) -> None:
        """Keep the model and the fitted parameters."""
        super().__init__([store], samples, model.options, progress)
        self._model = model
        self._parameters = parameters

    def prepare(self) -> None:
        """Do nothing: there are no prompts."""

    def load(self, sample: Sample) -> LoadedDepth:
        """Read an image and its depth map."""
        return load(sample, self._model.protocol)

    def samples_of(self, item: Sample) -> Sequence[Sample]:
        """Return the sample itself, for the only store."""
        return (item,)

    def measure_shard(self, shard: range, images: Iterator[LoadedDepth]) -> list[Arrays]:
        """Return the metrics of the images of a shard, and the hashes of their files."""
        metrics_of_images, sha256s = [], []
        for image in images:
            predicted = self._model.predict(image, self._parameters)
            metrics_of_images.append(image_metrics(image.depth, predicted, self._model.protocol))
            sha256s.append(image.sha256)
            self.image_done()
        arrays = {CONTENT: content_array(sha256s)}
        for name in (PIXELS, RMSE, ABS_REL, *DELTAS):
            arrays[name] = np.array([metrics[name] for metrics in metrics_of_images])
        return [arrays]


class _TrainingImages:
    """Reads training images, for ridge regression or as random views."""

    def __init__(self, model: DepthModel, samples: Sequence[Sample], progress: OnProgress) -> None:
        """Keep the model and the list of images. Nothing is read yet."""
        self._model = model
        self._samples = samples
        self._progress = progress

    def _load(self, index: int) -> LoadedDepth:
        """Read a training image and its depth map, and cut both to the training box."""
        loaded = load(self._samples[index], self._model.protocol)
        box = box_slices(self._model.protocol.train_box, loaded.image.shape[:2])
        return loaded._replace(image=loaded.image[box], depth=loaded.depth[box])

    @torch.no_grad()
    def read(self, indices: Sequence[int]) -> Iterator[PatchSamples]:
        """Yield the patches of training images, by their indices, with sums of depths."""
        model = self._model
        patch_size = model.encoder.patch_size
        images = prefetch(indices, self._load, workers=model.options.workers)
        for done, (index, image) in enumerate(zip(indices, images, strict=True), start=1):
            pixels = pad_to_patches(model.normalise(image.image), patch_size)
            features = model.encode(pixels[None], image.sample.name).flatten(0, 2).cpu().numpy()
            depth = pad_to_patches(torch.from_numpy(image.depth.copy()), patch_size).double()
            counts, sums, squares = (
                _sum_by_patch(values, patch_size) for values in ((depth > 0), depth, depth**2)
            )
            yield PatchSamples(
                index, image.sha256, features, counts, sums[:, None], float(squares.sum())
            )
            self._progress(Progress("training images", done, len(indices)))

    def load_view(self, index: int, generator: np.random.Generator) -> View:
        """Return a random view of a training image: rotated, mirrored, cut, in other colours."""
        loaded = self._load(index)
        image = torch.from_numpy(loaded.image.copy()).permute(2, 0, 1).float()
        depth = torch.from_numpy(loaded.depth.copy())[None]
        if generator.random() < 0.5:
            angle = float(generator.uniform(-_DEGREES, _DEGREES))
            image = rotate(image, angle, InterpolationMode.BILINEAR)
            depth = rotate(depth, angle, InterpolationMode.NEAREST)
        if generator.random() < 0.5:
            image, depth = image.flip(2), depth.flip(2)
        rows, columns = self._random_crop(loaded, generator)
        colours = _change_colours(image[:, rows, columns].permute(1, 2, 0).numpy(), generator)
        pixels = pad_to_patches(self._model.normalise(colours), self._model.encoder.patch_size)
        return View(pixels, depth[0, rows, columns].contiguous())

    def _random_crop(
        self, image: LoadedDepth, generator: np.random.Generator
    ) -> tuple[slice, slice]:
        """Return the rows and columns of a random crop. Raises UsageError for a small image."""
        slices = []
        for length, side in zip(image.depth.shape, self._model.protocol.crop, strict=True):
            if length < side:
                raise UsageError(
                    f"{image.sample.image} is smaller than crops of {side} px: set `crop` lower"
                )
            start = int(generator.integers(length - side + 1))
            slices.append(slice(start, start + side))
        rows, columns = slices
        return rows, columns

    def loss(self, outputs: Tensor, depths: Tensor, step: int) -> Tensor:
        """Return the mean over pairs of images of the scale-invariant loss.

        With the errors g = log(predicted + 0.001) - log(depth + 0.001) of pixels with a depth, it
        is sqrt(var(g) + 0.15 mean(g)^2), without the variance in the first 100 steps.

        Args:
            outputs: The outputs (B, K, h, w) of the head.
            depths: The depth (B, H, W) of each pixel.
            step: The number of the step.
        """
        predicted = _interpolate(depth_of(outputs, self._model.protocol), depths.shape[1:])
        losses = []
        for guess, true in zip(
            predicted.split(_IMAGES_PER_LOSS), depths.split(_IMAGES_PER_LOSS), strict=True
        ):
            has_depth = true > 0
            if has_depth.sum() > 1:
                errors = (guess[has_depth] + _LOSS_OFFSET).log()
                errors = errors - (true[has_depth] + _LOSS_OFFSET).log()
                square = _MEAN_WEIGHT * errors.mean() ** 2
                if step >= _STEPS_WITHOUT_VARIANCE:
                    square = square + errors.var()
                losses.append(square.sqrt() if square > 0 else square)
        return torch.stack(losses).mean() if losses else 0 * outputs.sum()


def _sum_by_patch(values: Tensor, patch_size: int) -> NDArray[np.float64]:
    """Return the sums of values (H, W) over patches, (h * w,)."""
    patches = values.double().unfold(0, patch_size, patch_size).unfold(1, patch_size, patch_size)
    sums: NDArray[np.float64] = patches.sum((2, 3)).flatten().numpy()
    return sums


def _change_colours(image: NDArray[Any], generator: np.random.Generator) -> NDArray[np.float32]:
    """Return an image (H, W, 3), in half of the cases with another gamma, brightness and colour."""
    values = image
    if generator.random() < 0.5:
        factors = generator.uniform(*_BRIGHTNESS) * generator.uniform(*_COLOUR, size=3)
        values = values ** generator.uniform(*_GAMMA) * factors
    return values.clip(0, 255).astype(np.float32)
