"""Reading webdataset tars, and batches that do not depend on the number of workers."""

import io
import json

import numpy as np
import PIL.Image
import pytest
import torch
import webdataset

from cosmos_core.config import ImageViewConfig, TextViewConfig
from cosmos_core.data.captions import caption_sentences
from cosmos_core.data.shards import BatchOrder, ShardError, ViewDataset, index_shards, view_loader
from cosmos_core.types import EVERY_VIEW
from cosmos_core.views.image import MultiCrop


def jpeg(seed, size=40):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_shard(path, samples):
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def sample(number):
    record = {"raw_caption": [f"raw {number}"], "longSV_captions": ["one", "two", f"n{number}"]}
    return {"__key__": f"{number:06d}", "jpg": jpeg(number), "json": record}


@pytest.fixture
def shards(tmp_path):
    return [
        write_shard(tmp_path / "a.tar", [sample(n) for n in range(5)]),
        write_shard(tmp_path / "b.tar", [sample(n) for n in range(5, 9)]),
    ]


def tokenize(texts):
    """A token a character: enough to tell captions apart."""
    ids = torch.zeros(len(texts), 120, dtype=torch.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = torch.tensor([ord(letter) for letter in text])
    return ids


def dataset(shards):
    image = ImageViewConfig(global_size=32, local_size=16)
    samples = index_shards(shards)
    return ViewDataset(
        samples, MultiCrop(image), TextViewConfig(), tokenize, counts=EVERY_VIEW, seed=3
    )


def test_index_points_at_the_bytes(shards):
    samples = index_shards(shards)
    assert [entry.key for entry in samples] == [f"{n:06d}" for n in range(9)]
    for number, entry in enumerate(samples):
        with open(entry.shard, "rb") as file:
            file.seek(entry.image.offset)
            assert file.read(entry.image.size) == jpeg(number)
            file.seek(entry.record.offset)
            assert json.loads(file.read(entry.record.size)) == sample(number)["json"]


def test_batches_are_the_same_with_any_number_of_workers(shards):
    batches = []
    for workers in (0, 2):
        loader = view_loader(dataset(shards), BatchOrder(9, 4, 5, seed=7), workers)
        batches.append(list(loader))
    for alone, together in zip(*batches, strict=True):
        assert alone.global_images.shape == (2, 4, 3, 32, 32)
        assert alone.local_images.shape == (6, 4, 3, 16, 16)
        assert alone.texts.shape == (8, 4, 120)
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a, b)


def test_a_sample_is_augmented_anew_in_every_epoch(shards):
    data = dataset(shards)
    first, again, later = data[(0, 2)], data[(0, 2)], data[(1, 2)]
    assert torch.equal(first.images.local_images, again.images.local_images)
    assert not torch.equal(first.images.local_images, later.images.local_images)


def test_order_visits_every_sample_once_an_epoch():
    items = [item for batch in BatchOrder(9, 4, 9, seed=0) for item in batch]
    for epoch in range(4):
        assert sorted(i for e, i in items if e == epoch) == list(range(9))
    order = [[i for e, i in items if e == epoch] for epoch in range(2)]
    assert order[0] != order[1]


def test_broken_shards_are_named(tmp_path):
    (tmp_path / "no.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ShardError, match=r"no.tar: not a readable tar"):
        index_shards([tmp_path / "no.tar"])
    lone = write_shard(tmp_path / "lone.tar", [{"__key__": "k1", "jpg": jpeg(0)}])
    with pytest.raises(ShardError, match=r"lone.tar: sample k1 has no json"):
        index_shards([lone])
    bad = write_shard(tmp_path / "bad.tar", [{**sample(1), "jpg": b"not a picture"}])
    with pytest.raises(ShardError, match=r"bad.tar: sample 000001"):
        dataset([bad])[(0, 0)]
    with pytest.raises(ShardError, match="no samples"):
        index_shards([])


def test_caption_sentences_of_both_formats():
    record = {"raw_caption": " a ", "shortIB_captions": ["b"], "longLLA_captions": ["c", " "]}
    assert caption_sentences(record) == ["a", "b", "c"]
    prose = {"original_caption": "alt", "caption": "First one. Second\nThird</s>"}
    assert caption_sentences(prose) == ["alt", "First one", "Second", "Third"]
    with pytest.raises(ValueError, match="no caption key among text"):
        caption_sentences({"text": "x"})
