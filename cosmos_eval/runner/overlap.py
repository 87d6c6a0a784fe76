"""Near-duplicates of a data set's images among training images, by perceptual hash.

Copies that were scaled, compressed, recoloured a little, mirrored, or cropped at the border are
found (docs/overlap.md has rates). A pair is reported if the files are the same, or if hashes are
near and the small grey pictures correlate."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_core.data.pixels import open_image, to_rgb
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageFile, ImageSource, shard_images
from cosmos_eval.embedding.embed import Features, embed_images
from cosmos_eval.results.identity import model_label
from cosmos_eval.results.record import ResultRow
from cosmos_eval.stats.estimates import without
from cosmos_eval.stats.hashing import SIDE, HashIndex, correlations, perceptual_hashes
from cosmos_eval.tasks import task_named
from cosmos_eval.types import (
    OnProgress,
    Progress,
    RunOptions,
    Samples,
    UsageError,
    no_progress,
)

if TYPE_CHECKING:
    from torch import Tensor

    from cosmos_eval.models.encoder import Encoder

Pictures = NDArray[np.uint8]

CORRELATION = 0.9
"""Least correlation of the pixels of two small grey pictures that are near-duplicates."""
SAME_FILE = "the same file"
"""What `Match.copy` says of two files with the same bytes."""
RECALL_NOTE = (
    "perceptual hashes find about half of the near-duplicates (docs/overlap.md): some of the "
    "remaining images may have been trained on"
)
"""What must be read beside the metrics without the images found."""
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
_AT_ONCE, _PIXELS_AT_ONCE = 4096, 256


@dataclass(frozen=True)
class Match:
    """A training image, `key` of `shard`, that is nearly an `image` of the data set. `copy` says
    what was made of it, or that it is alike by its `embedding`, with this cosine."""

    image: str
    shard: str
    key: str
    copy: str
    distance: int | None = None
    correlation: float | None = None
    cosine: float | None = None


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
    if results and not keep.any():
        raise UsageError("every image has a near-duplicate: no metric is left without them")
    rows = []
    for row, samples in results:
        task = task_named(row.task)
        if not task.by_image:
            raise UsageError(f"the samples of task {row.task} are not images: leave --results out")
        if row.n_samples != len(names):
            where = f"{model_label(row)} on {row.dataset} ({row.protocol})"
            raise UsageError(f"{where} has {row.n_samples} samples for {len(names)} images")
        estimates = task.estimates(task.derive(samples))
        for name in (name for name in task.headlines if name in row.metrics):
            rest = without(estimates[name], keep)
            interval = task.intervals({name: rest}, row.provenance["seed"]).get(name)
            numbers = {"all": row.metrics[name], "without": rest.value}
            low, high = interval[:2] if interval else (None, None)
            ends = {"low": low, "high": high}
            of = {"model": model_label(row), "protocol": row.protocol, "metric": name}
            rows.append({**of, **numbers, **ends})
    return rows


class ByModel(NamedTuple):
    """A model by whose embeddings images are also compared, and the least cosine of a match."""

    encoder: Encoder
    cosine: float


def find_overlap(
    images: Mapping[str, ImageSource],
    shards: Sequence[Path],
    options: RunOptions,
    progress: OnProgress = no_progress,
    model: ByModel | None = None,
) -> Overlap:
    """Compare all images in tar shards with those of a data set; processes divide the shards.
    Raises UsageError for a damaged shard and for an evaluation image that cannot be read."""
    known = Known.of(images, options, progress)
    alike, done = None, [0]
    if model is not None:
        own = embed_images(model.encoder, [*images.values()], options, progress)
        alike = partial(_alike, model, own.features, [*images], options)

    def search(own: Sequence[Path]) -> list[tuple[int, int, list[Match]]]:
        return [
            _search(known, alike, shard, options, partial(_report, progress, done)) for shard in own
        ]

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
    """What is searched: hashes of copies (K,), their pictures, names, and what was made of them;
    and the names of the images by the SHA-256 of their files."""

    hashes: HashIndex
    pictures: Pictures
    names: Sequence[str]
    copies: Sequence[str]
    flat: int
    files: Mapping[bytes, Sequence[str]]

    @classmethod
    def of(
        cls, images: Mapping[str, ImageSource], options: RunOptions, progress: OnProgress
    ) -> Known:
        """Read and hash the images of a data set."""
        pictures, flat = [np.empty((0, SIDE, SIDE), np.uint8)], 0
        names, copies = list[str](), list[str]()
        files = defaultdict[bytes, list[str]](list)
        read = prefetch(images.values(), _copies, workers=options.workers)
        for number, (name, (digest, copies_of_image)) in enumerate(
            zip(images, read, strict=True), start=1
        ):
            progress(Progress("images", number, len(images)))
            files[digest].append(name)
            if copies_of_image["whole"].std() < _FLAT:
                flat += 1
                continue
            pictures.append(np.stack([*copies_of_image.values()]))
            copies += copies_of_image
            names += [name] * len(copies_of_image)
        every = np.concatenate(pictures)
        return cls(HashIndex(perceptual_hashes(every)), every, names, copies, flat, files)


def _copies(source: ImageSource) -> tuple[bytes, dict[str, Pictures]]:
    """Return the SHA-256 of an image's file, and small pictures of the image, of its parts, and of
    all mirrored."""
    content = source.read()
    image = source.decode(content)
    found = dict[str, Pictures]()
    for name, (fraction, x, y) in _CROPS.items():
        width, height = (round(side * fraction) for side in image.size)
        left, top = round((image.width - width) * x), round((image.height - height) * y)
        picture = small(image.crop((left, top, left + width, top + height)))
        found |= {name: picture, f"{name}, mirrored": picture[:, ::-1]}
    return hashlib.sha256(content).digest(), found


def small(image: Image.Image) -> Pictures:
    """Return the grey picture (32, 32) of an image, whatever its shape."""
    scaled = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(scaled.convert("L"))


def _search(
    known: Known, alike: Any, shard: Path, options: RunOptions, report: Any
) -> tuple[int, int, list[Match]]:
    """Return the number of images in a shard, that of unreadable ones, and the matches."""
    matches: list[Match] = []
    count = unreadable = 0
    transform = None if alike is None else alike.args[0].encoder.transform
    decode = partial(_decoded, transform)
    samples = prefetch(shard_images(shard), decode, workers=options.workers)
    while block := [*islice(samples, _AT_ONCE if alike is None else _PIXELS_AT_ONCE)]:
        good = [sample for sample in block if sample.picture is not None]
        count, unreadable = count + len(block), unreadable + len(block) - len(good)
        if good:
            keys, digests, pictures, pixels = zip(*good, strict=True)
            same = same_files(known, str(shard), keys, digests)
            matches += same
            found = {(match.key, match.image) for match in same}
            near = matches_of(known, str(shard), keys, np.stack(pictures))
            matches += (match for match in near if (match.key, match.image) not in found)
            if alike is not None:
                matches += alike(str(shard), keys, pixels)
        report(len(block))
    return count, unreadable, matches


def _alike(
    model: ByModel,
    features: Features,
    names: Sequence[str],
    options: RunOptions,
    shard: str,
    keys: Sequence[str],
    pixels: Sequence[Tensor],
) -> Iterator[Match]:
    """Yield training images whose embeddings are close to those (N, D) of the data set."""
    import torch

    starts = range(0, len(pixels), options.batch_size)
    batches = (torch.stack([*pixels[start : start + options.batch_size]]) for start in starts)
    own = torch.cat([model.encoder.encode_image(batch).cpu() for batch in batches]).numpy()
    cosines = own @ features.T
    for query, item in zip(*np.nonzero(cosines >= model.cosine), strict=True):
        cosine = round(float(cosines[query, item]), 4)
        yield Match(names[item], shard, keys[query], "embedding", cosine=cosine)


class _Training(NamedTuple):
    """A training image: its key, the SHA-256 of its file, its small picture, and what a model gets;
    the last two are None if it is unreadable."""

    key: str
    digest: bytes
    picture: Pictures | None
    pixels: Tensor | None


def _decoded(
    transform: Callable[[Image.Image], Tensor] | None, member: tuple[str, bytes]
) -> _Training:
    """Hash and decode a training image."""
    key, content = member
    digest = hashlib.sha256(content).digest()
    try:
        with open_image(io.BytesIO(content)) as image:
            if transform is None:  # a JPEG need not be decoded in full
                image.draft("RGB", (4 * SIDE, 4 * SIDE))
            whole = to_rgb(image)
    except Exception:  # what Pillow's decoders raise for damaged files is not documented
        return _Training(key, digest, None, None)
    return _Training(key, digest, small(whole), None if transform is None else transform(whole))


def same_files(
    known: Known, shard: str, keys: Sequence[str], digests: Sequence[bytes]
) -> list[Match]:
    """Return the matches of training images with evaluation images that are the same file."""
    return [
        Match(name, shard, key, SAME_FILE, distance=0, correlation=1.0)
        for key, digest in zip(keys, digests, strict=True)
        for name in known.files.get(digest, ())
    ]


def matches_of(
    known: Known, shard: str, keys: Sequence[str], pictures: Pictures
) -> Iterator[Match]:
    """Yield the best match of each training image with each evaluation image."""
    near = known.hashes.near(perceptual_hashes(pictures))
    alike = correlations(pictures[near.query], known.pictures[near.item])
    best: dict[tuple[int, str], tuple[float, Match]] = {}
    for query, item, distance, found in zip(*near, alike.tolist(), strict=True):
        name, correlation = known.names[item], round(found, 4)
        match = Match(name, shard, keys[query], known.copies[item], int(distance), correlation)
        if found >= max(CORRELATION, best.get((int(query), name), (0.0, match))[0]):
            best[int(query), name] = found, match
    yield from (match for _, match in best.values())
