"""The fit of ridge regression to streamed features, and what both dense probes share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats import ridge
from cosmos_eval.stats.ridge import LinearMap, Moments
from cosmos_eval.types import DenseProbe, OnProgress, RunOptions, UsageError

if TYPE_CHECKING:
    # At run time it would import torch.
    from cosmos_eval.tasks.dense_probe.steps import Training

CONSTANTS = ("iterations", "strengths", "validation")
"""The fields of a protocol that decide how ridge regression is fitted."""
STEP_CONSTANTS = ("iterations", "batch", "learning_rate", "weight_decay", "warmup")
"""The fields of a protocol that decide how AdamW fits."""
# The fraction by which an error has to be lower than another one to be clearly lower.
_CLEARLY_LESS = 1e-3


class PatchSamples(NamedTuple):
    """The patch features of a training image, and the labelled pixels under each patch."""

    # The index of the image among the training images.
    image: int
    # The SHA-256 of the image with its label or depth map.
    sha256: bytes
    # (n, D) features of n patches.
    features: NDArray[np.float32]
    # (n,) numbers of labelled pixels.
    counts: NDArray[Any]
    # (n, C) sums of the targets of the labelled pixels.
    target_sums: NDArray[Any]
    # The sum over all labelled pixels of the squared length of the target.
    squares: float


class FittedProbe(NamedTuple):
    """A probe, and how it was fitted."""

    # The parameters of the probe, by name.
    parameters: dict[str, NDArray[Any]]
    # What a result records.
    record: dict[str, Any]
    # The SHA-256s of the training images with their maps.
    sha256s: list[bytes]
    # Sentences that a reader of the result should know.
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """The SHA-256 of all parameters, in hexadecimal digits."""
        digest = hashlib.sha256()
        for name, values in sorted(self.parameters.items()):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def constants(protocol: DenseProbe) -> dict[str, Any]:
    """Return the constants of the fit that decide the numbers of a protocol, to be hashed."""
    names = CONSTANTS if protocol.iterations is None else STEP_CONSTANTS
    return {name: getattr(protocol, name) for name in names}


def require_valid(protocol: DenseProbe, faults: Iterable[str]) -> None:
    """Raise UsageError for the first of the contradictions among a protocol's constants."""
    for fault in faults:
        raise UsageError(f"{protocol.dataset}: {fault}")


def require_enough(protocol: DenseProbe, n_images: int) -> None:
    """Raise UsageError if no training image can be held out to choose the strength."""
    if protocol.iterations is None and n_images < 2:
        raise UsageError(f"{protocol.dataset}: a probe needs two training images or more")


def fit_ridge(
    protocol: DenseProbe,
    n_images: int,
    options: RunOptions,
    read: Callable[[Sequence[int]], Iterator[PatchSamples]],
) -> FittedProbe:
    """Fit ridge regression to the training images, of which each is read once.

    Only sums are kept, so that memory does not depend on the number of images. The strength is the
    one with the least squared error on the images that are held out; then the map is fitted to all
    training images.

    Args:
        protocol: The candidates for the strength, and the fraction that is held out.
        n_images: The number of training images.
        options: The options of the run, whose seed decides which images are held out.
        read: A function that yields the patches of training images with these indices.

    Returns:
        The probe. Its parameters are `weights` (C, D) and `bias` (C,).

    Raises UsageError if no pixel has a label.
    """
    n_held_out = min(n_images - 1, max(1, round(protocol.validation * n_images)))
    held_out = set(np.random.default_rng(options.seed).permutation(n_images)[:n_held_out].tolist())

    def add_up(ranks: Sequence[int]) -> list[_Sums]:
        """Return the sums over the images of each of the processes."""
        size = options.distributed.world_size
        return [_sum_over_images(read(range(rank, n_images, size)), held_out) for rank in ranks]

    processes = range(options.distributed.world_size)
    sums_of_processes = options.distributed.map_sharded(add_up, processes)
    sums = _join(sums_of_processes, n_images)
    if not sums.fit or not sums.held_out or not sums.fit.count or not sums.held_out.count:
        raise UsageError(
            f"{protocol.dataset}: no pixel of the training images that the probe is fitted to, or "
            "of those that are held out, has a label"
        )
    candidates = ridge.fit(sums.fit, protocol.strengths)
    errors = [ridge.mean_squared_error(candidate, sums.held_out) for candidate in candidates]
    strength = protocol.strengths[int(np.argmin(errors))]
    (linear_map,) = ridge.fit(sums.fit + sums.held_out, [strength])
    record = {
        "solver": "ridge regression, float64",
        "strength": strength,
        "training_images": n_images,
        "validation_images": n_held_out,
    }
    notes = [
        *strength_notes(protocol.strengths, errors),
        *_missing_notes(sums.fit + sums.held_out),
    ]
    return FittedProbe(_parameters(linear_map), record, sums.sha256s, tuple(notes))


def fit_by_steps(
    training: Training, options: RunOptions, progress: OnProgress, sha256s: list[bytes]
) -> FittedProbe:
    """Fit a probe by AdamW, in the first process for all of them.

    Args:
        training: The model, the views and the loss.
        options: The options of the run.
        progress: Called with the number of steps that are done.
        sha256s: The SHA-256s of the training images with their maps.
    """

    def fit(items: Sequence[int]) -> list[dict[str, NDArray[Any]]]:
        """Return the parameters, as the only result, in the process that has the only item."""
        return [training.fit(options, progress) for _ in items]

    (parameters,) = options.distributed.map_sharded(fit, [0])
    protocol = training.protocol
    record = {
        "solver": f"AdamW, {protocol.iterations} steps",
        "training_images": training.n_images,
    }
    return FittedProbe(parameters, record, sha256s)


class _Sums(NamedTuple):
    """Sums over training images. They are None if there are no images."""

    # Over the images that candidates are fitted to.
    fit: Moments | None
    # Over the images that decide between the candidates.
    held_out: Moments | None
    # The SHA-256 of each image, by its index.
    sha256_by_index: dict[int, bytes]

    @property
    def sha256s(self) -> list[bytes]:
        """The SHA-256s of all images, in their order."""
        return [sha256 for _, sha256 in sorted(self.sha256_by_index.items())]


def _sum_over_images(images: Iterable[PatchSamples], held_out: set[int]) -> _Sums:
    """Return the sums over training images, separately for those that are held out.

    Args:
        images: The patches of the images.
        held_out: The indices of the images that are held out.
    """
    fit_moments: Moments | None = None
    held_out_moments: Moments | None = None
    sha256_by_index = {}
    for patches in images:
        sha256_by_index[patches.image] = patches.sha256
        if patches.image in held_out:
            held_out_moments = _add_patches(held_out_moments, patches)
        else:
            fit_moments = _add_patches(fit_moments, patches)
    return _Sums(fit_moments, held_out_moments, sha256_by_index)


def _add_patches(moments: Moments | None, patches: PatchSamples) -> Moments:
    """Add the patches of an image to sums, and return the sums. None: there are no sums yet."""
    if moments is None:
        moments = Moments(patches.features.shape[1], patches.target_sums.shape[1])
    moments.add(patches.features, patches.counts, patches.target_sums, patches.squares)
    return moments


def _join(sums_of_processes: Sequence[_Sums], n_images: int) -> _Sums:
    """Return the sums over the images of all processes."""
    total = sums_of_processes[0]
    for sums in sums_of_processes[1:]:
        total = _Sums(
            _add(total.fit, sums.fit),
            _add(total.held_out, sums.held_out),
            {**total.sha256_by_index, **sums.sha256_by_index},
        )
    assert len(total.sha256_by_index) == n_images
    return total


def _add(first: Moments | None, second: Moments | None) -> Moments | None:
    """Return the sums over the samples of both, either of which may be None."""
    if first is None or second is None:
        return first or second
    return first + second


def _parameters(linear_map: LinearMap) -> dict[str, NDArray[Any]]:
    """Return the weights (C, D) and the bias (C,) as float32, by name."""
    return {name: values.astype(np.float32) for name, values in linear_map._asdict().items()}


def strength_notes(strengths: Sequence[float], errors: Sequence[float]) -> Iterator[str]:
    """Yield a note if a strength beyond the candidates is likely to be better than all of them.

    This is so if the best one is at an end, and its error is clearly below its neighbour's.

    Args:
        strengths: The candidates, in any order.
        errors: The mean squared error with each of them.
    """
    if len(strengths) < 2:
        return
    in_order = sorted(zip(strengths, errors, strict=True))
    for end, neighbour in ((0, 1), (-1, -2)):
        strength, error = in_order[end]
        _, error_of_neighbour = in_order[neighbour]
        if error == min(errors) and error < (1 - _CLEARLY_LESS) * error_of_neighbour:
            yield f"the strength {strength:g} is at the end of strengths: others may be best"


def _missing_notes(moments: Moments) -> Iterator[str]:
    """Yield a note if classes have no pixel in any training image."""
    n_missing = int((moments.y == 0).sum())
    if n_missing:
        yield f"{n_missing} classes have no pixel in training images: they are never predicted"
