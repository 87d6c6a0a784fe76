"""Features of the boxes of images, pooled from the features of the whole images' patches.

The whole image is resized so that its longer side has a number of pixels, and padded with black
pixels to a square, at the right and at the bottom. RoIAlign (He et al. 2017, arXiv 1703.06870)
averages the normalised features of the patches over each box, as in CLIPSelf (arXiv 2310.01403;
src/open_clip/transform.py and eva_clip/eva_vit_model.py of github.com/wusize/CLIPSelf, commit
1c7fe9c). An image is encoded once for all of its boxes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cosmos_eval.data import folders
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.regions import Box, PooledRegion
from cosmos_eval.data.sources import ImageSource
from cosmos_eval.embedding.cache import EMBEDDING, ShardStore, fingerprint
from cosmos_eval.embedding.embed import (
    IMAGES_PER_SHARD,
    Embeddings,
    FeaturesByKey,
    ImageEmbedder,
    embedding_identity,
    hash_image_files,
    open_store,
    read_cached_features,
)
from cosmos_eval.models.encoder import (
    DenseEncoder,
    Encoder,
    copy_to_host,
    is_gpu,
    require_finite,
    stack_on_host,
    to_device,
)
from cosmos_eval.types import (
    Attention,
    OnProgress,
    Progress,
    RegionFeatures,
    RunOptions,
    UsageError,
)

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor

_CODE = (*EMBEDDING, "cosmos_eval.embedding.regions", "cosmos_eval.data.regions")
_CPU_PATCHES = 8 * 14**2  # that a batch has at most on a CPU
_PHASE = "images"


class _BoxedImage(NamedTuple):
    """A whole image with the boxes in it that are embedded."""

    image: ImageSource
    # The SHA-256 of the image's file.
    sha256: bytes
    boxes: Sequence[Box]
    # The SHA-256 of each box with the image's file.
    keys: Sequence[bytes]


class _LoadedImage(NamedTuple):
    """The pixels of a whole image, and its boxes in these pixels."""

    # (3, side, side) float32, normalised.
    pixels: Tensor
    # (K, 4) float32: left, top, right, bottom.
    boxes: Tensor


def region_embedder(embedder: ImageEmbedder, protocol: RegionFeatures) -> ImageEmbedder:
    """Return the embedder of a protocol's images: the given one, unless features are pooled."""
    if protocol.regions == "crops":
        return embedder
    return RegionEmbedder(embedder.encoder, protocol, embedder.options, embedder.progress)


def hash_constants(protocol: RegionFeatures, options: RunOptions) -> dict[str, str]:
    """Return the hash `constants` of how features of boxes are made, which a result records.

    The dict is empty if boxes are simply cut out.
    """
    constants = protocol.region_constants
    if not constants:
        return {}
    if protocol.regions == "pooled":
        constants["attention"] = options.attention or protocol.attention
    return {"constants": folders.fingerprint([constants])}


class RegionEmbedder(ImageEmbedder):
    """Embeds boxes of images by pooling. Equal boxes that follow each other are embedded once."""

    def __init__(
        self,
        encoder: Encoder,
        protocol: RegionFeatures,
        options: RunOptions,
        progress: OnProgress,
    ) -> None:
        """Keep the model, and how it is measured.

        Raises UsageError for a model without patches, or without the form of attention.
        """
        from cosmos_eval.models.maps import require_patches

        super().__init__(encoder, options, progress)
        attention = options.attention or protocol.attention
        # An error in one process is raised in all of them.
        dense_encoder = options.distributed.synchronized(require_patches, encoder, attention)
        self._pooling = _Pooling(dense_encoder, protocol.side, attention, options)

    def embed(self, images: Sequence[ImageSource]) -> Embeddings:
        """Return the features of boxes, kept until others are embedded.

        Raises UsageError for an image that has no box.
        """
        if self._last is None or self._last[0] != images:
            regions = [image for image in images if isinstance(image, PooledRegion)]
            if len(regions) < len(images):
                raise UsageError("features are pooled over boxes, and an image has no box")
            self._last = images, self._embed_regions(regions)
        return self._last[1]

    def _embed_regions(self, regions: Sequence[PooledRegion]) -> Embeddings:
        """Return the features (N, D) of boxes, and the SHA-256 of each box with its image."""
        images = _group_by_image(regions, self.options)
        shards: list[Sequence[_BoxedImage]] = []
        for start in range(0, len(images), IMAGES_PER_SHARD):
            shards.append(images[start : start + IMAGES_PER_SHARD])
        features_of_shards = self.options.distributed.map_sharded(self._embed_shards, shards)
        features_by_key: FeaturesByKey = {}
        for features_of_shard in features_of_shards:
            features_by_key.update(features_of_shard)

        keys = _keys_of(regions, images)
        features = np.stack([features_by_key[key] for key in keys])
        return Embeddings(features, image_sha256s=keys)

    def _embed_shards(self, shards: Sequence[Sequence[_BoxedImage]]) -> list[FeaturesByKey]:
        """Return the features of the boxes of each shard, from the cache, or computed and cached.

        An image is encoded again if the feature of any of its boxes is not cached.
        """
        n_images = sum(map(len, shards))
        store = open_store(self._pooling.identity, self.options)

        def report_warning(warning: str) -> None:
            self.progress(Progress(_PHASE, 0, n_images, warning))

        all_keys = [key for shard in shards for image in shard for key in image.keys]
        cached_features = read_cached_features(store, all_keys, report_warning)
        n_done = 0
        features_of_shards: list[FeaturesByKey] = []
        for shard in shards:
            features: FeaturesByKey = {}
            missing_images = []
            for image in shard:
                if cached_features.keys() >= set(image.keys):
                    features.update({key: cached_features[key] for key in image.keys})
                else:
                    missing_images.append(image)
            if missing_images:
                features.update(self._pooling.embed(missing_images, store))
            features_of_shards.append(features)
            n_done += len(shard)
            self.progress(Progress(_PHASE, n_done, n_images))
        return features_of_shards


class _Pooling:
    """Encodes whole images, and averages the features of their patches over boxes."""

    def __init__(
        self, encoder: DenseEncoder, side: int, attention: Attention, options: RunOptions
    ) -> None:
        """Keep the model, and how it encodes images.

        Args:
            encoder: The model.
            side: The side in pixels of the squares that images become.
            attention: The form of attention in the last block.
            options: The options of the run, such as the batch size.
        """
        self._encoder = encoder
        self._side = side
        self._attention = attention
        self._options = options
        self.identity = embedding_identity(
            encoder,
            "regions",
            code_of_regions=fingerprint(*_CODE),
            side=side,
            attention=attention,
            auxiliary=encoder.info.auxiliary,
            mean=list(encoder.image_mean),
            std=list(encoder.image_std),
        )

    def embed(self, images: Sequence[_BoxedImage], store: ShardStore) -> FeaturesByKey:
        """Encode images, add the features of their boxes to the store, and return them by key.

        Raises UsageError for an image that cannot be read, and for features that are not finite.
        """
        regions = [(image, box) for image in images for box in image.boxes]
        keys = [key for image in images for key in image.keys]
        features_of_batches = [
            features.numpy() for _, (features,) in copy_to_host(self._pool_batches(images))
        ]
        features = np.concatenate(features_of_batches)

        def name(index: int) -> str:
            image, box = regions[index]
            return f"{image.image.name} {list(box)}"

        require_finite(features, self._encoder.info, name)
        store.add(keys, {"features": features})
        return dict(zip(keys, features, strict=True))

    def _pool_batches(self, images: Sequence[_BoxedImage]) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield the number of images of each batch, and the features (K, D) of their K boxes.

        The features are the only tensor of a list, because `copy_to_host` takes lists of tensors.
        """
        device = self._encoder.info.device
        batch_size = self._images_at_once()
        loaded_images = prefetch(
            images, self._load, workers=self._options.workers, window=2 * batch_size
        )
        while batch := [*islice(loaded_images, batch_size)]:
            pixels = stack_on_host([image.pixels for image in batch], device)
            patches = self._encoder.encode_patches(to_device(pixels, device), self._attention)
            boxes = [to_device(image.boxes, patches.device.type) for image in batch]
            yield len(batch), [pool(patches, boxes, self._grid_side())]

    def _images_at_once(self) -> int:
        """Return how many images are encoded together: fewer on a CPU if they have many patches."""
        batch_size = self._options.batch_size
        if is_gpu(self._encoder.info.device):
            return batch_size
        n_patches = max(1, self._side // self._encoder.patch_size) ** 2
        return max(1, min(batch_size, _CPU_PATCHES // n_patches))

    def _grid_side(self) -> int:
        """Return the side in pixels of the square that the patches cover."""
        patch_size = self._encoder.patch_size
        return self._side // patch_size * patch_size

    def _load(self, image: _BoxedImage) -> _LoadedImage:
        """Read an image, resize and pad it, and resize its boxes by the same factor.

        Raises UsageError if the file has changed since its SHA-256 was computed, and for a box that
        does not overlap with the image.
        """
        import torch
        from torchvision.transforms.functional import normalize, to_tensor

        content = image.image.read()
        if hashlib.sha256(content).digest() != image.sha256:
            raise UsageError(f"{image.image.name} has changed while it was read; run again")
        picture = image.image.decode(content)
        for left, top, right, bottom in image.boxes:
            if right <= 0 or bottom <= 0 or left >= picture.width or top >= picture.height:
                raise UsageError(
                    f"{image.image.name} {[left, top, right, bottom]}: no such box in "
                    f"{picture.width}x{picture.height} pixels"
                )
        factor = self._side / max(picture.size)
        square = to_tensor(pad_to_square(picture, self._side))
        pixels = normalize(square, self._encoder.image_mean, self._encoder.image_std)
        return _LoadedImage(pixels, torch.tensor(image.boxes) * factor)


def pad_to_square(picture: PIL.Image.Image, side: int) -> PIL.Image.Image:
    """Return an RGB picture whose longer side has `side` pixels, on a black square.

    The picture is at the left and at the top.
    """
    import PIL.Image

    factor = side / max(picture.size)
    width, height = (max(1, round(length * factor)) for length in picture.size)
    square = PIL.Image.new("RGB", (side, side))
    square.paste(picture.resize((width, height), PIL.Image.Resampling.BICUBIC))
    return square


def pool(patches: Tensor, boxes: Sequence[Tensor], side: int) -> Tensor:
    """Return the mean feature of the patches under each box, (K, D), L2-normalised.

    It is RoIAlign to a single bin: the box is divided into ceil(height) x ceil(width) cells, by its
    sides in patches, and the features, interpolated at the middles of the cells, are averaged.

    Args:
        patches: The features (B, h, w, D) of the patches of B square images.
        boxes: The boxes (K_i, 4) in pixels of each image, K in all: left, top, right, bottom.
        side: The side in pixels of the square that the patches cover.
    """
    from torch.nn.functional import normalize
    from torchvision.ops import roi_align

    channels_first = patches.float().permute(0, 3, 1, 2)
    scale = patches.shape[1] / side
    pooled = roi_align(channels_first, list(boxes), (1, 1), scale, -1, aligned=True)
    return normalize(pooled[:, :, 0, 0], dim=-1)


def hash_regions(regions: Sequence[PooledRegion], options: RunOptions) -> list[bytes]:
    """Return the SHA-256 of each box with its image. Raises UsageError for an unreadable image."""
    return _keys_of(regions, _group_by_image(regions, options))


def _keys_of(regions: Sequence[PooledRegion], images: Sequence[_BoxedImage]) -> list[bytes]:
    """Return the key of each box, in the order of `regions`. `images` are their distinct images."""
    key_by_region = {}
    for image in images:
        for box, key in zip(image.boxes, image.keys, strict=True):
            key_by_region[image.image, box] = key
    return [key_by_region[region.image, region.box] for region in regions]


def _group_by_image(regions: Sequence[PooledRegion], options: RunOptions) -> list[_BoxedImage]:
    """Return the distinct images of boxes, each with its distinct boxes and their hashes."""
    boxes_by_image: dict[ImageSource, dict[Box, bytes]] = {}
    for region in regions:
        boxes_by_image.setdefault(region.image, {})[region.box] = b""
    sha256s = hash_image_files(list(boxes_by_image), options)
    images = []
    for (image, boxes), sha256 in zip(boxes_by_image.items(), sha256s, strict=True):
        keys = [hashlib.sha256(json.dumps(box).encode() + sha256).digest() for box in boxes]
        images.append(_BoxedImage(image, sha256, list(boxes), keys))
    return images
