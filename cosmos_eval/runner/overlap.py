"""Near-duplicates of a data set's images among training images, by perceptual hash.

Copies are found that were scaled, compressed, recoloured a little, mirrored, or cropped at the
border (docs/overlap.md has rates). A pair is reported if the two files are the same, or if their
hashes are near and their small grey pictures correlate.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_core.data.pixels import open_image, to_rgb
from cosmos_eval.data.frames import require_no_videos
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageFile, ImageSource, shard_images
from cosmos_eval.embedding.embed import embed_images
from cosmos_eval.models.encoder import batch_images
from cosmos_eval.results.identity import CONTENT, model_label
from cosmos_eval.results.record import ResultRow
from cosmos_eval.stats.estimates import without
from cosmos_eval.stats.hashing import SIDE, HashIndex, correlations, perceptual_hashes
from cosmos_eval.tasks import task_for, task_named
from cosmos_eval.types import (
    OnProgress,
    Progress,
    Protocol,
    RunOptions,
    Samples,
    UsageError,
    no_progress,
)

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

Pictures = NDArray[np.uint8]
"""Small grey pictures, (32, 32) or (N, 32, 32)."""

CORRELATION = 0.9
"""Least correlation of the pixels of two small grey pictures that are near-duplicates."""
SAME_FILE = "the same file"
"""The value of `Match.copy` for two files with the same bytes."""
RECALL_NOTE = (
    "perceptual hashes find about half of the near-duplicates (docs/overlap.md): some of the "
    "remaining images may have been trained on"
)
"""The caution that belongs to metrics without the images found."""

_LEAST_CONTRAST = 4.0  # standard deviation of grey levels (0-255); below, a picture shows nothing
_IMAGES_AT_ONCE = 4096  # training images that are compared together
_ENCODED_AT_ONCE = 256  # the same, if a model encodes them: their pixels need memory


class _Crop(NamedTuple):
    """A rectangle of an image, similar to the whole image."""

    # The fraction of the image's width and height.
    fraction: float
    # Where the rectangle lies: 0 at the left or the top border, 1 at the right or the bottom one.
    x: float
    y: float


_WHOLE = "whole"
# The crops of an evaluation image that are compared with training images.
_CROPS = {
    _WHOLE: _Crop(1.0, 0.0, 0.0),
    "middle 95%": _Crop(0.95, 0.5, 0.5),
    "middle 90%": _Crop(0.9, 0.5, 0.5),
    "middle 80%": _Crop(0.8, 0.5, 0.5),
    "top left 90%": _Crop(0.9, 0.0, 0.0),
    "top right 90%": _Crop(0.9, 1.0, 0.0),
    "bottom left 90%": _Crop(0.9, 0.0, 1.0),
    "bottom right 90%": _Crop(0.9, 1.0, 1.0),
}


@dataclass(frozen=True)
class Match:
    """A training image that is nearly an image of the data set."""

    # The name of the data set's image.
    image: str
    # The tar that has the training image, and the image's key in it.
    shard: str
    key: str
    # The crop of the data set's image that matches, `SAME_FILE`, or `embedding`.
    copy: str
    # The number of bits in which the hashes differ; None if embeddings were compared.
    distance: int | None = None
    # The correlation of the small grey pictures; None if embeddings were compared.
    correlation: float | None = None
    # The cosine similarity of the embeddings; None if hashes were compared.
    cosine: float | None = None


@dataclass(frozen=True)
class Overlap:
    """The matches of a data set with training images, and how many images were compared."""

    # The number of images in the data set.
    images: int
    # The number of images in the data set that show nothing to compare.
    flat: int
    # The number of training images, and of those that cannot be decoded.
    training_images: int
    unreadable: int
    matches: tuple[Match, ...]

    @property
    def duplicated_images(self) -> list[str]:
        """The images of the data set that have a near-duplicate, sorted."""
        return sorted({match.image for match in self.matches})


def images_of(data: Any) -> dict[str, ImageSource]:
    """Return the images of an opened data set of any task, by the names of their files.

    Args:
        data: The data that the task's `open_data` returned. It has `images`, and perhaps their
            `names`, or it has `samples` with an `image` each.

    Raises:
        UsageError: If the data set does not list images, or lists videos.
    """
    if hasattr(data, "images"):
        require_no_videos(data.images)
        names = getattr(data, "names", None) or [str(source.name) for source in data.images]
        return dict(zip(names, data.images, strict=True))
    if hasattr(data, "samples"):
        return {sample.name: ImageFile(sample.image) for sample in data.samples}
    raise UsageError(f"{type(data).__name__} lists no images: overlap cannot be found")


def require_measured_data(
    rows: Sequence[ResultRow], protocol: Protocol, data: Any, options: RunOptions
) -> None:
    """Raise UsageError for a result that was measured on other files or labels than data has.

    Nothing is checked for a result that records no hash of the files, for one of another task, and
    if the task cannot hash data.

    Args:
        rows: Results on the data set.
        protocol: The protocol that the data were opened by.
        data: The data that the task's `open_data` returned. All their files are read.
        options: The options of the run: the threads that read files.
    """
    rows_with_hash = []
    for row in rows:
        if row.task == protocol.task and row.provenance["hashes"].get(CONTENT):
            rows_with_hash.append(row)
    if not rows_with_hash:
        return
    content_sha256 = task_for(protocol).data_hashes(protocol, data, options).get(CONTENT)
    if content_sha256 is None:
        return
    for row in rows_with_hash:
        if row.provenance["hashes"][CONTENT] != content_sha256:
            raise UsageError(
                f"{model_label(row)} on {row.dataset} ({row.protocol}) was measured on other "
                "images or labels than are there now: measure it again, or leave --results out"
            )


def metrics_without(
    results: Sequence[tuple[ResultRow, Samples]],
    image_names: Sequence[str],
    duplicated_images: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the headline metrics of results, over all images and without the duplicated ones.

    Args:
        results: Results on one data set, each with its samples. A sample is an image.
        image_names: The names of the data set's images, in the order of the samples.
        duplicated_images: The names of images that have a near-duplicate among training images.

    Returns:
        A record for each result and metric, as `_headlines_without` returns it.

    Raises:
        UsageError: If all images are duplicated, if a result has another number of samples, or if
            the samples of its task are not images.
    """
    is_kept = ~np.isin(np.array(image_names, object), duplicated_images)
    if results and not is_kept.any():
        raise UsageError("every image has a near-duplicate: no metric is left without them")
    records: list[dict[str, Any]] = []
    for row, samples in results:
        if not task_named(row.task).by_image:
            raise UsageError(f"the samples of task {row.task} are not images: leave --results out")
        if row.n_samples != len(image_names):
            result_name = f"{model_label(row)} on {row.dataset} ({row.protocol})"
            raise UsageError(
                f"{result_name} has {row.n_samples} samples for {len(image_names)} images"
            )
        records += _headlines_without(row, samples, is_kept)
    return records


def _headlines_without(
    row: ResultRow, samples: Samples, is_kept: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Return the headline metrics of a result, over all samples and over some of them.

    Args:
        row: The record of the result.
        samples: The arrays that its metrics follow from.
        is_kept: (N,) whether each sample is kept.

    Example:
        `[{"model": "scenes-clip", "protocol": "scenes", "metric": "acc1", "all": 0.8, "without":
        0.78, "low": 0.74, "high": 0.82}]`. The interval belongs to the kept samples.
    """
    task = task_named(row.task)
    estimates = task.estimates(task.derive(samples))
    records = []
    for metric_name in task.headlines:
        if metric_name not in row.metrics:
            continue
        estimate = without(estimates[metric_name], is_kept)
        intervals = task.intervals({metric_name: estimate}, row.provenance["seed"])
        interval = intervals.get(metric_name)
        record = {
            "model": model_label(row),
            "protocol": row.protocol,
            "metric": metric_name,
            "all": row.metrics[metric_name],
            "without": estimate.value,
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
        }
        records.append(record)
    return records


def find_overlap(
    images: Mapping[str, ImageSource],
    shards: Sequence[Path],
    options: RunOptions,
    progress: OnProgress = no_progress,
    encoder: Encoder | None = None,
    least_cosine: float = 0.95,
) -> Overlap:
    """Compare all training images in tar shards with the images of a data set.

    Args:
        images: The images of the data set, by name.
        shards: Tar files of training images. The processes of a run divide them.
        options: Threads, batch size, cache and processes.
        progress: Is called with how many images have been read and compared.
        encoder: A model whose embeddings are compared too.
        least_cosine: With an encoder, images match if their embeddings have at least this cosine
            similarity.

    Raises:
        UsageError: For a damaged shard, and for an image of the data set that cannot be read.
    """
    evaluation_images = EvaluationImages.read(images, options, progress)
    embedding_search = None
    if encoder is not None:
        embedding_search = EmbeddingSearch(encoder, least_cosine, images, options, progress)
    search = _ShardSearch(evaluation_images, embedding_search, options, progress)
    shard_overlaps = options.distributed.map_sharded(search.search_all, shards)
    matches: list[Match] = []
    for shard_overlap in shard_overlaps:
        matches += shard_overlap.matches
    return Overlap(
        images=len(images),
        flat=evaluation_images.flat,
        training_images=sum(shard_overlap.images for shard_overlap in shard_overlaps),
        unreadable=sum(shard_overlap.unreadable for shard_overlap in shard_overlaps),
        matches=tuple(matches),
    )


@dataclass(frozen=True)
class EvaluationImages:
    """The images of a data set, as they are compared with training images.

    An image is present as 16 copies: 8 crops, and their mirror images. All sequences over copies
    have the same order: all copies of the first image, then all copies of the second, and so on. An
    image that shows nothing has no copies.
    """

    # The hashes of all copies, to be searched.
    hashes: HashIndex
    # The small grey pictures of all copies, (C, 32, 32).
    pictures: Pictures
    # The name of each copy's image.
    image_names: Sequence[str]
    # How each copy was made, such as `middle 95%, mirrored`.
    copy_names: Sequence[str]
    # The number of images that show nothing to compare, such as a plain white one.
    flat: int
    # The names of the images that have a file of this SHA-256.
    names_by_digest: Mapping[bytes, Sequence[str]]

    @classmethod
    def read(
        cls, images: Mapping[str, ImageSource], options: RunOptions, progress: OnProgress
    ) -> EvaluationImages:
        """Read the images of a data set, and hash the 16 copies of each.

        An image that shows nothing, such as a plain white one, would match all other such images.
        It is counted in `flat`, and its copies are left out.

        Args:
            images: The images by name.
            options: Their `workers` is the number of threads that read images.
            progress: Is called after each image.

        Example:
            The second one of the images `a.jpg` and `b.jpg` is plain white. The result has the 16
            copies of `a.jpg`: `image_names` is 16 times `a.jpg`, `copy_names` is `whole`, `whole,
            mirrored`, `middle 95%` and so on, and `flat` is 1.
        """
        pictures: list[Pictures] = []
        image_names: list[str] = []
        copy_names: list[str] = []
        names_by_digest: dict[bytes, list[str]] = defaultdict(list)
        n_flat = 0
        copied_images = prefetch(images.values(), _read_copies, workers=options.workers)
        for n_done, (image_name, copied_image) in enumerate(
            zip(images, copied_images, strict=True), start=1
        ):
            progress(Progress("images", n_done, len(images)))
            names_by_digest[copied_image.digest].append(image_name)
            if copied_image.is_flat:
                n_flat += 1
                continue
            for copy_name, picture in copied_image.picture_by_copy.items():
                pictures.append(picture)
                image_names.append(image_name)
                copy_names.append(copy_name)

        # The shape is stated for the case that there are no pictures.
        all_pictures = np.array(pictures, np.uint8).reshape(-1, SIDE, SIDE)
        hashes = HashIndex(perceptual_hashes(all_pictures))
        return cls(hashes, all_pictures, image_names, copy_names, n_flat, names_by_digest)

    def same_files(self, shard: str, keys: Sequence[str], digests: Sequence[bytes]) -> list[Match]:
        """Return the matches of training images whose file is also in the data set.

        Args:
            shard: The tar of the training images.
            keys: The name of each training image in the tar.
            digests: The SHA-256 of each training image's file.
        """
        matches = []
        for key, digest in zip(keys, digests, strict=True):
            for name in self.names_by_digest.get(digest, ()):
                matches.append(Match(name, shard, key, SAME_FILE, distance=0, correlation=1.0))
        return matches

    def near_duplicates(self, shard: str, keys: Sequence[str], pictures: Pictures) -> list[Match]:
        """Return the best match of each training image with each evaluation image.

        Two images match if the hashes of a copy and of the training image are near, and if their
        small grey pictures correlate. The best match is the copy with the highest correlation.

        Args:
            shard: The tar of the training images.
            keys: The name of each training image in the tar.
            pictures: (N, 32, 32), the small grey pictures of the training images.
        """
        # Pairs of a training image (`query`, an index of `keys`) and a copy (`item`).
        near = self.hashes.near(perceptual_hashes(pictures))
        pixel_correlations = correlations(pictures[near.query], self.pictures[near.item])
        # The correlation and the match, by the index of the training image and the image's name.
        best: dict[tuple[int, str], tuple[float, Match]] = {}
        for query, item, distance, correlation in zip(
            near.query.tolist(),
            near.item.tolist(),
            near.distance.tolist(),
            pixel_correlations.tolist(),
            strict=True,
        ):
            pair = (query, self.image_names[item])
            is_better = pair not in best or correlation >= best[pair][0]
            if correlation >= CORRELATION and is_better:
                match = Match(
                    image=self.image_names[item],
                    shard=shard,
                    key=keys[query],
                    copy=self.copy_names[item],
                    distance=distance,
                    correlation=round(correlation, 4),
                )
                best[pair] = (correlation, match)
        return [match for _, match in best.values()]


class _CopiedImage(NamedTuple):
    """An image of the data set with its 16 copies."""

    # The SHA-256 of the image's file.
    digest: bytes
    # The small grey picture of each copy, by the name of the copy: `whole`, `whole, mirrored`,
    # `middle 95%`, and so on.
    picture_by_copy: dict[str, Pictures]

    @property
    def is_flat(self) -> bool:
        """True if the image shows nothing to compare."""
        return bool(self.picture_by_copy[_WHOLE].std() < _LEAST_CONTRAST)


def _read_copies(source: ImageSource) -> _CopiedImage:
    """Read an image, and make its copies: every crop of `_CROPS`, and the crop's mirror image."""
    content = source.read()
    image = source.decode(content)
    picture_by_copy: dict[str, Pictures] = {}
    for crop_name, crop in _CROPS.items():
        width = round(crop.fraction * image.width)
        height = round(crop.fraction * image.height)
        left = round((image.width - width) * crop.x)
        top = round((image.height - height) * crop.y)
        picture = small(image.crop((left, top, left + width, top + height)))
        picture_by_copy[crop_name] = picture
        picture_by_copy[f"{crop_name}, mirrored"] = picture[:, ::-1]
    return _CopiedImage(hashlib.sha256(content).digest(), picture_by_copy)


def small(image: Image.Image) -> Pictures:
    """Return an image as a grey picture (32, 32); its aspect ratio is not kept."""
    scaled = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(scaled.convert("L"))


class EmbeddingSearch:
    """Finds training images whose embeddings are close to embeddings of the data set."""

    def __init__(
        self,
        encoder: Encoder,
        least_cosine: float,
        images: Mapping[str, ImageSource],
        options: RunOptions,
        progress: OnProgress,
    ) -> None:
        """Encode the images of the data set.

        Args:
            encoder: The model.
            least_cosine: The least cosine similarity of close embeddings.
            images: The images of the data set by name.
            options: Batch size, threads and cache.
            progress: Is called with how many images are encoded.
        """
        self.transform = encoder.transform
        self._encoder = encoder
        self._least_cosine = least_cosine
        self._batch_size = options.batch_size
        self._image_names = list(images)
        sources = list(images.values())
        self._image_features = embed_images(encoder, sources, options, progress).features

    def near_duplicates(
        self, shard: str, keys: Sequence[str], pixels: Sequence[Any]
    ) -> Iterator[Match]:
        """Yield all pairs of a training image and an evaluation image with close embeddings.

        Args:
            shard: The tar of the training images.
            keys: The name of each training image in the tar.
            pixels: The values of the model's `transform` for training images.
        """
        import torch

        features = []
        for start in range(0, len(pixels), self._batch_size):
            batch = batch_images(self._encoder, [*pixels[start : start + self._batch_size]])
            features.append(self._encoder.encode_image(batch).cpu())
        # Features have length 1. So their products are cosines, (training images, images).
        cosines = torch.cat(features).numpy() @ self._image_features.T
        is_close = cosines >= self._least_cosine
        for training_index, image_index in zip(*np.nonzero(is_close), strict=True):
            yield Match(
                image=self._image_names[image_index],
                shard=shard,
                key=keys[training_index],
                copy="embedding",
                cosine=round(float(cosines[training_index, image_index]), 4),
            )


class _TrainingImage(NamedTuple):
    """A training image."""

    # The image's key in its shard.
    key: str
    # The SHA-256 of its file.
    digest: bytes
    # The small grey picture; None if the image cannot be decoded.
    picture: Pictures | None = None
    # What the model's `transform` returns; None if the image cannot be decoded, or without a model.
    pixels: Any = None


class _ShardOverlap(NamedTuple):
    """The matches of a shard, the number of its images, and how many cannot be decoded."""

    images: int
    unreadable: int
    matches: list[Match]


class _ShardSearch:
    """Compares training images with a data set, and reports how many were compared."""

    def __init__(
        self,
        evaluation_images: EvaluationImages,
        embedding_search: EmbeddingSearch | None,
        options: RunOptions,
        progress: OnProgress,
    ) -> None:
        self._evaluation_images = evaluation_images
        self._embedding_search = embedding_search
        self._workers = options.workers
        self._progress = progress
        self._n_compared = 0  # training images so far, in all shards of this process

    def search_all(self, shards: Sequence[Path]) -> list[_ShardOverlap]:
        """Search shards one after the other."""
        return [self._search(shard) for shard in shards]

    def _search(self, shard: Path) -> _ShardOverlap:
        """Return the matches of a shard. Raises UsageError if the shard is damaged."""
        n_images = n_unreadable = 0
        matches: list[Match] = []
        block_size = _IMAGES_AT_ONCE if self._embedding_search is None else _ENCODED_AT_ONCE
        training_images = prefetch(shard_images(shard), self._decode, workers=self._workers)
        while block := list(islice(training_images, block_size)):
            readable = [image for image in block if image.picture is not None]
            n_images += len(block)
            n_unreadable += len(block) - len(readable)
            if readable:
                matches += self._match(str(shard), readable)
            self._n_compared += len(block)
            # The total is unknown before the last shard is read.
            self._progress(Progress("training images", self._n_compared, self._n_compared))
        return _ShardOverlap(n_images, n_unreadable, matches)

    def _decode(self, key_and_content: tuple[str, bytes]) -> _TrainingImage:
        """Hash and decode a training image.

        `key_and_content` are its name in the tar and the bytes of its file.
        """
        key, content = key_and_content
        digest = hashlib.sha256(content).digest()
        try:
            with open_image(io.BytesIO(content)) as image:
                if self._embedding_search is None:  # a JPEG need not be decoded in full
                    image.draft("RGB", (4 * SIDE, 4 * SIDE))
                rgb_image = to_rgb(image)
        except Exception:  # what Pillow's decoders raise for damaged files is not documented
            return _TrainingImage(key, digest)
        if self._embedding_search is None:
            return _TrainingImage(key, digest, small(rgb_image))
        pixels = self._embedding_search.transform(rgb_image)
        return _TrainingImage(key, digest, small(rgb_image), pixels)

    def _match(self, shard: str, training_images: Sequence[_TrainingImage]) -> list[Match]:
        """Return the matches of decoded training images: same files, hashes, then embeddings.

        A pair of the same file is not reported again for its hashes.
        """
        keys = [image.key for image in training_images]
        digests = [image.digest for image in training_images]
        pictures = [image.picture for image in training_images if image.picture is not None]
        matches = self._evaluation_images.same_files(shard, keys, digests)
        same_files = {(match.key, match.image) for match in matches}
        for match in self._evaluation_images.near_duplicates(shard, keys, np.stack(pictures)):
            if (match.key, match.image) not in same_files:
                matches.append(match)
        if self._embedding_search is not None:
            pixels = [image.pixels for image in training_images if image.pixels is not None]
            matches += self._embedding_search.near_duplicates(shard, keys, pixels)
        return matches
