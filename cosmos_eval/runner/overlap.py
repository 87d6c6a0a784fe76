"""Near-duplicates of a data set's images among training images, by perceptual hash.

Copies that were scaled, compressed, recoloured a little, mirrored, or cropped at the border are
found (docs/overlap.md has rates). A pair is reported where hashes are near and the small grey
pictures correlate."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageFile, ImageSource, shard_images
from cosmos_eval.results.record import ResultRow
from cosmos_eval.stats.estimates import without
from cosmos_eval.stats.hashing import SIDE, HashIndex, correlations, perceptual_hashes
from cosmos_eval.stats.intervals import intervals
from cosmos_eval.tasks import known_tasks
from cosmos_eval.types import (
    OnProgress,
    Progress,
    RunOptions,
    Samples,
    UsageError,
    no_progress,
)

Pictures = NDArray[np.uint8]

CORRELATION = 0.9
"""Least correlation of the pixels of two small grey pictures that are near-duplicates."""
# What is compared of an evaluation image: the fraction of its sides, and where, from the left and
# the top, the rest is cut off.
_CROPS = {
    "whole": (1.0, 0.0, 0.0),
    **{f"middle {fraction:.0%}": (fraction, 0.5, 0.5) for fraction in (0.95, 0.9, 0.8)},
    **{
        f"{top} {left} 90%": (0.9, x, y)
        for top, y in (("top", 0.0), ("bottom", 1.0))
        for left, x in (("left", 0.0), ("right", 1.0))
    },
}
_FLAT = 4.0  # standard deviation of grey levels (0-255) under which a picture shows nothing
_AT_ONCE = 4096


@dataclass(frozen=True)
class Match:
    """A training image, `key` of `shard`, that is nearly an `image` of the data set; `copy` says
    what was made of it."""

    image: str
    shard: str
    key: str
    copy: str
    distance: int
    correlation: float


@dataclass(frozen=True)
class Overlap:
    """Matches, and how many images were compared: `flat` evaluation images show nothing to compare,
    `unreadable` training images cannot be decoded."""

    images: int
    flat: int
    training_images: int
    unreadable: int
    matches: tuple[Match, ...]

    @property
    def found(self) -> list[str]:
        """The images of the data set that have a near-duplicate, sorted."""
        return sorted({match.image for match in self.matches})


def images_of(data: Any) -> dict[str, ImageSource]:
    """Return the images of an opened data set of any task by the names that its files have. Raises
    UsageError where it lists none."""
    if hasattr(data, "images"):
        names = getattr(data, "names", None) or [str(source.name) for source in data.images]
        return dict(zip(names, data.images, strict=True))
    if hasattr(data, "samples"):
        return {sample.name: ImageFile(sample.image) for sample in data.samples}
    raise UsageError(f"{type(data).__name__} lists no images: overlap cannot be found")


def metrics_without(
    results: Sequence[tuple[ResultRow, Samples]], names: Sequence[str], found: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the headline metrics of results, of all `names` and without those `found`. Raises
    UsageError for results of other images, or of a task whose samples are not images."""
    keep = ~np.isin(np.array(names, object), found)
    rows = []
    for row, samples in results:
        task = known_tasks()[row.task]
        if not task.by_image:
            raise UsageError(f"the samples of task {row.task} are not images: leave --results out")
        if row.n_samples != len(names):
            where = f"{row.model['spec']} on {row.dataset} ({row.protocol})"
            raise UsageError(f"{where} has {row.n_samples} samples for {len(names)} images")
        estimates = task.estimates(task.derive(samples))
        for name in (name for name in task.headlines if name in row.metrics):
            rest = without(estimates[name], keep)
            (interval,) = intervals({name: rest}, seed=row.provenance["seed"]).values()
            numbers = {"all": row.metrics[name], "without": rest.value}
            ends = {"low": interval.low, "high": interval.high}
            of = {"model": row.model["spec"], "protocol": row.protocol, "metric": name}
            rows.append({**of, **numbers, **ends})
    return rows


def find_overlap(
    images: Mapping[str, ImageSource],
    shards: Sequence[Path],
    options: RunOptions,
    progress: OnProgress = no_progress,
) -> Overlap:
    """Compare all images in tar shards with those of a data set; processes divide the shards.
    Raises UsageError for a damaged shard and for an evaluation image that cannot be read."""
    known = Known.of(images, options, progress)
    done = [0]

    def search(own: Sequence[Path]) -> list[tuple[int, int, list[Match]]]:
        return [_search(known, shard, options, partial(_report, progress, done)) for shard in own]

    counts = options.distributed.map_sharded(search, shards)
    return Overlap(
        images=len(images),
        flat=known.flat,
        training_images=sum(count for count, _, _ in counts),
        unreadable=sum(unreadable for _, unreadable, _ in counts),
        matches=tuple(match for _, _, matches in counts for match in matches),
    )


def _report(progress: OnProgress, done: list[int], images: int) -> None:
    done[0] += images
    progress(Progress("training images", done[0], done[0]))


class Known(NamedTuple):
    """What is searched: hashes of copies (K,), their pictures, names, and what was made of them."""

    hashes: HashIndex
    pictures: Pictures
    names: Sequence[str]
    copies: Sequence[str]
    flat: int

    @classmethod
    def of(
        cls, images: Mapping[str, ImageSource], options: RunOptions, progress: OnProgress
    ) -> Known:
        pictures, flat = list[Pictures](), 0
        names, copies = list[str](), list[str]()
        read = prefetch(images.values(), _copies, workers=options.workers)
        for number, (name, own) in enumerate(zip(images, read, strict=True), 1):
            progress(Progress("images", number, len(images)))
            if own[next(iter(own))].std() < _FLAT:
                flat += 1
                continue
            pictures += own.values()
            copies += own
            names += [name] * len(own)
        if not pictures:
            raise UsageError("no image of the data set shows anything to compare")
        every = np.stack(pictures)
        return cls(HashIndex(perceptual_hashes(every)), every, names, copies, flat)


def _copies(source: ImageSource) -> dict[str, Pictures]:
    """Return small pictures of an image, of its parts, and of all mirrored."""
    image = source.decode(source.read())
    found = dict[str, Pictures]()
    for name, (fraction, x, y) in _CROPS.items():
        width, height = (round(side * fraction) for side in image.size)
        left, top = round((image.width - width) * x), round((image.height - height) * y)
        picture = small(image.crop((left, top, left + width, top + height)))
        found |= {name: picture, f"{name}, mirrored": picture[:, ::-1]}
    return found


def small(image: Image.Image) -> Pictures:
    """Return the grey picture (32, 32) of an image, whatever its shape."""
    scaled = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(scaled.convert("L"))


def _search(
    known: Known, shard: Path, options: RunOptions, report: Any
) -> tuple[int, int, list[Match]]:
    """Return the number of images in a shard, that of unreadable ones, and the matches."""
    matches: list[Match] = []
    count = unreadable = 0
    samples = prefetch(shard_images(shard), _decoded, workers=options.workers)
    while block := [*islice(samples, _AT_ONCE)]:
        good = [(key, picture) for key, picture in block if picture is not None]
        count, unreadable = count + len(block), unreadable + len(block) - len(good)
        if good:
            keys, pictures = zip(*good, strict=True)
            matches += matches_of(known, str(shard), keys, np.stack(pictures))
        report(len(block))
    return count, unreadable, matches


def _decoded(member: tuple[str, bytes]) -> tuple[str, Pictures | None]:
    key, content = member
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.draft("RGB", (4 * SIDE, 4 * SIDE))  # a JPEG need not be decoded in full
            return key, small(image.convert("RGB"))
    except Exception:  # what Pillow's decoders raise for damaged files is not documented
        return key, None


def matches_of(
    known: Known, shard: str, keys: Sequence[str], pictures: Pictures
) -> Iterator[Match]:
    """Yield the best match of each training image with each evaluation image."""
    near = known.hashes.near(perceptual_hashes(pictures))
    alike = correlations(pictures[near.query], known.pictures[near.item])
    best: dict[tuple[int, str], Match] = {}
    for query, item, distance, correlation in zip(*near, alike, strict=True):
        if correlation < CORRELATION:
            continue
        match = Match(
            known.names[item],
            shard,
            keys[query],
            known.copies[item],
            int(distance),
            round(float(correlation), 4),
        )
        own = best.setdefault((int(query), match.image), match)
        if match.correlation > own.correlation:
            best[int(query), match.image] = match
    yield from best.values()
