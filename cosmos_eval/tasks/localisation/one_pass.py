"""One pass over the images of a set: maps of all classes, scored where a class is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.embedding.cache import Arrays, ShardStore
from cosmos_eval.models.encoder import require_finite
from cosmos_eval.stats.localisation import MapScores, score_maps
from cosmos_eval.tasks.label_maps import Sample
from cosmos_eval.tasks.label_maps.measure import images_at_once, store_shard
from cosmos_eval.tasks.localisation.images import LoadedImage, load_image
from cosmos_eval.tasks.localisation.maps import Mapper, class_maps
from cosmos_eval.tasks.localisation.samples import (
    AUC,
    CLASS,
    HIT,
    IMAGE,
    LABELLED,
    MASS,
    OTHER_NAMES,
    PIXELS,
    THING,
)
from cosmos_eval.types import LocalisationProtocol, OnProgress, Progress, RunOptions

ALONE = "alone"  # (N,) whether one class fills all labelled pixels of an image


class Job(NamedTuple):
    """A protocol, its images, and the store of its finished shards."""

    protocol: LocalisationProtocol
    samples: Sequence[Sample]
    store: ShardStore


def score_shards(
    job: Job,
    mapper: Mapper,
    options: RunOptions,
    shards: Sequence[range],
    progress: OnProgress,
) -> list[Arrays]:
    """Arrays of the shards, each of which is kept as soon as it is finished."""
    numbers = [number for shard in shards for number in shard]
    # Images of the next shard are read while those of one are encoded.
    images = prefetch(
        [job.samples[number] for number in numbers],
        partial(load_image, encoder=mapper.encoder, protocol=job.protocol),
        workers=options.workers,
        window=4 * options.workers,
    )
    found, done = [], 0
    for shard in shards:
        loaded = list(islice(images, len(shard)))
        scores = {}
        for number, score in _scores(loaded, mapper, options.batch_size):
            scores[number] = score
            done += 1
            progress(Progress("images", done, len(numbers)))
        arrays = _arrays(shard, loaded, [scores[number] for number in range(len(loaded))])
        store_shard(job.store, shard, arrays)
        found.append(arrays)
    return found


class _Scored(NamedTuple):
    """The scores of an image's things, None where it has none, and its number in its shard."""

    number: int
    scores: MapScores | None


def _scores(loaded: Sequence[LoadedImage], mapper: Mapper, batch_size: int) -> Iterator[_Scored]:
    """Scores of the images of a shard; those of equal size are encoded together.

    Raises UsageError, naming the image, where its maps are not finite.
    """
    of_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, image in enumerate(loaded):
        of_size[image.pixels.shape[1], image.pixels.shape[2]].append(number)
    for size, members in of_size.items():
        batches = math.ceil(len(members) / images_at_once(mapper.encoder, size, batch_size))
        for batch in np.array_split(members, batches):
            maps = class_maps(mapper, torch.stack([loaded[n].pixels for n in batch]))
            names = [loaded[n].name for n in batch]
            require_finite(maps, mapper.encoder.info, names.__getitem__)
            for number, every in zip(batch.tolist(), maps.numpy(), strict=True):
                classes, *_, under, _ = loaded[number].things
                yield _Scored(number, score_maps(every[classes], under) if under else None)


def _arrays(
    shard: range, loaded: Sequence[LoadedImage], scored: Sequence[MapScores | None]
) -> Arrays:
    things = [image.things for image in loaded]
    scores = [np.stack(some).astype(np.float32) for some in scored if some is not None]
    joined = np.concatenate([np.zeros((len(MapScores._fields), 0), np.float32), *scores], axis=1)
    return {
        PIXELS: np.array([some.image_pixels for some in things], np.int32),
        LABELLED: np.array([some.labelled_pixels for some in things], np.int32),
        ALONE: np.array([some.alone for some in things]),
        IMAGE: np.repeat(np.array(shard, np.int32), [len(some.classes) for some in things]),
        CLASS: np.array([number for some in things for number in some.classes], np.int16),
        THING: np.array([pixels for some in things for pixels in some.pixels], np.int32),
        **dict(zip((MASS, HIT, AUC, OTHER_NAMES), joined, strict=True)),
    }
