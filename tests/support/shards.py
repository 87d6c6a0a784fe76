"""Small shards and configurations for the tests of training data."""

import io
import itertools
import tarfile

import numpy as np
import PIL.Image
import torch
import webdataset

from cosmos_core.config import DataConfig, ImageViewConfig, OptimConfig, TextViewConfig, TrainConfig
from cosmos_core.methods import METHODS


def encoded(image, format, **options) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(seed, size=40):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return encoded(PIL.Image.fromarray(pixels), "JPEG")


def sample(number):
    """A sample whose every caption names it."""
    record = {"raw_caption": [f"sample {number}"]}
    return {"__key__": f"{number:06d}", "jpg": jpeg(number), "json": record}


def write_shard(path, samples):
    with webdataset.TarWriter(str(path)) as writer:
        for entry in samples:
            writer.write(entry)
    return path


def tar_of(files, form=tarfile.PAX_FORMAT) -> bytes:
    """The bytes of a tar of (name, content) pairs, in this order."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=form) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1.5 if form == tarfile.PAX_FORMAT else 1
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def with_size(data, start, size, *, checksum=True):
    """A tar whose header at `start` has another size."""
    header = bytearray(data[start : start + tarfile.BLOCKSIZE])
    header[124:136] = b"%011o\0" % size
    if checksum:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + tarfile.BLOCKSIZE :]


def write_shards(folder, sizes, first=0):
    """Shards of these sizes of samples numbered in order, `0.tar`, `1.tar`..."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = itertools.count(first)
    for name, size in enumerate(sizes):
        write_shard(folder / f"{name}.tar", map(sample, itertools.islice(numbers, size)))
    return folder


def tokenize(texts):
    """A token a character, of 40 at most: enough to tell captions apart."""
    ids = torch.zeros(len(texts), 40, dtype=torch.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = torch.tensor([ord(letter) for letter in text[:40]])
    return ids


def numbers_in(batch):
    """The numbers of the samples of a batch, from their captions."""
    texts = ["".join(chr(i) for i in row if i) for row in batch.views.texts[0].tolist()]
    return [int(text.split()[1]) for text in texts]


def train_config(shards, *, steps=6, batch_size=8, seed=3, **data):
    """A run on small views; `data` replaces the values of DataConfig."""
    return TrainConfig(
        recipe="test",
        method=METHODS["cosmos"](),
        architecture="ViT-B-32",
        data=DataConfig(**{"shards": str(shards), "workers": 0, **data}),
        optim=OptimConfig(steps=steps, batch_size=batch_size),
        image=ImageViewConfig(global_size=32, local_size=16, locals=2),
        text=TextViewConfig(locals=2),
        seed=seed,
    )


def assert_same_batches(batches, expected_batches):
    assert len(batches) == len(expected_batches) > 0
    for batch, expected in zip(batches, expected_batches, strict=True):
        assert batch.problems == expected.problems
        for view, expected_view in zip(batch.views, expected.views, strict=True):
            assert view.dtype == expected_view.dtype
            assert torch.equal(view, expected_view)
