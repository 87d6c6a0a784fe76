"""Random access to the samples of local webdataset tars, and batches of their views."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cosmos_core.config import TextViewConfig
from cosmos_core.data.captions import caption_sentences
from cosmos_core.types import ViewCounts, Views
from cosmos_core.views.image import ImageViews, MultiCrop
from cosmos_core.views.text import caption_views

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
Tokenizer = Callable[[list[str]], Tensor]


class ShardError(ValueError):
    """A shard or a sample that cannot be read, named in one line."""


class Member(NamedTuple):
    """Where a file of a sample lies in its tar, in bytes."""

    offset: int
    size: int


class SampleIndex(NamedTuple):
    """Where a sample lies: the tar, its image and its JSON record."""

    shard: str
    key: str
    image: Member
    record: Member


def index_shards(shards: Sequence[str | Path]) -> list[SampleIndex]:
    """The samples of local tars in order; ShardError where one lacks an image or a record."""
    samples = [sample for shard in shards for sample in _index_shard(str(shard))]
    if not samples:
        raise ShardError("no samples in the given shards")
    return samples


def _index_shard(shard: str) -> Iterator[SampleIndex]:
    members: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(shard) as tar:
            for entry in tar:
                key, _, suffix = entry.name.partition(".")
                kind = "image" if suffix.lower() in IMAGE_SUFFIXES else suffix.lower()
                members.setdefault(key, {})[kind] = Member(entry.offset_data, entry.size)
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"{shard}: not a readable tar ({error})") from error
    for key, files in members.items():
        if missing := {"image", "json"} - files.keys():
            raise ShardError(f"{shard}: sample {key} has no {' and no '.join(sorted(missing))}")
        yield SampleIndex(shard, key, files["image"], files["json"])


class SampleViews(NamedTuple):
    """The views of one sample: uint8 images and captions (T, S)."""

    images: ImageViews
    texts: Tensor


class ViewDataset(Dataset[SampleViews]):
    """Samples of shards as views. An item is (epoch, index): both decide its augmentation."""

    def __init__(
        self,
        samples: Sequence[SampleIndex],
        crops: MultiCrop,
        texts: TextViewConfig,
        tokenizer: Tokenizer,
        *,
        counts: ViewCounts,
        seed: int,
    ) -> None:
        self._samples, self._crops, self._texts = samples, crops, texts
        self._tokenizer, self._counts, self._seed = tokenizer, counts, seed

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, item: tuple[int, int]) -> SampleViews:
        epoch, index = item
        rng = np.random.default_rng([self._seed, epoch, index])
        image, record = self._read(self._samples[index])
        captions = caption_views(caption_sentences(record), self._texts, rng, self._counts)
        views = self._crops(image, rng)
        return SampleViews(views, self._tokenizer(captions))

    def _read(self, sample: SampleIndex) -> tuple[PIL.Image.Image, dict[str, Any]]:
        try:
            with open(sample.shard, "rb") as file:
                image = PIL.Image.open(io.BytesIO(_read_member(file, sample.image))).convert("RGB")
                record = json.loads(_read_member(file, sample.record))
        except (OSError, ValueError) as error:
            raise ShardError(f"{sample.shard}: sample {sample.key}: {error}") from error
        return image, record


def _read_member(file: io.BufferedReader, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


class BatchOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): a fresh permutation an epoch, decided by the seed alone.

    Batches run on over the end of an epoch, so that every one is full.
    """

    def __init__(self, samples: int, batch_size: int, batches: int, seed: int) -> None:
        self._samples, self._batch_size, self._batches = samples, batch_size, batches
        self._seed = seed

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        items = self._items()
        for _ in range(self._batches):
            yield [next(items) for _ in range(self._batch_size)]

    def _items(self) -> Iterator[tuple[int, int]]:
        epoch = 0
        while True:
            order = np.random.default_rng([self._seed, epoch]).permutation(self._samples)
            yield from ((epoch, int(index)) for index in order)
            epoch += 1


def collate(samples: Sequence[SampleViews]) -> Views:
    """Samples -> `Views` with uint8 images, view-major, in a worker."""
    return Views(
        torch.stack([sample.images.global_images for sample in samples], dim=1),
        torch.stack([sample.images.local_images for sample in samples], dim=1),
        torch.stack([sample.texts for sample in samples], dim=1),
    )


def view_loader(dataset: Dataset[Any], order: BatchOrder, workers: int) -> DataLoader[Views]:
    """A loader of collated batches; what it yields does not depend on the number of workers."""
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
    )
