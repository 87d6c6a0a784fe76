"""Decoded samples and tokens in memory: batches are the same with them."""

import numpy as np
import pytest
import torch
from support.shards import (
    assert_same_batches,
    jpeg,
    sample,
    tokenize,
    train_config,
    write_shard,
    write_shards,
)

from cosmos_core.data import cache
from cosmos_core.data.index import index_shards
from cosmos_core.data.loading import make_loader
from cosmos_core.data.samples import ViewMaker, decode_sample
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """21 good samples and one whose image is cut."""
    folder = write_shards(tmp_path_factory.mktemp("shards"), [5, 7, 9])
    cut = {**sample(99), "__key__": "cut", "jpg": jpeg(1)[:300]}
    write_shard(folder / "cut.tar", [cut])
    return folder


def index_of(folder):
    return index_shards(sorted(map(str, folder.glob("*.tar"))), workers=0)


@pytest.mark.parametrize("cache_gb", [1.0, 2e-5])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same(folder, cache_gb, workers):
    plain = make_loader(train_config(f"{folder}/*.tar"), tokenize)
    config = train_config(f"{folder}/*.tar", cache_gb=cache_gb, workers=workers)
    kept = list(make_loader(config, tokenize))
    assert_same_batches(kept, list(plain))
    assert {problem.key for batch in kept for problem in batch.problems} == {"cut"}


def test_samples_are_kept_until_the_memory_is_full(folder, caplog):
    index = index_of(folder)
    view_maker = ViewMaker(train_config(f"{folder}/*.tar"), tokenize)
    whole = cache.decode_samples(index, view_maker, 1.0)
    assert len(index) == 22
    assert len(whole) == 21
    for number, kept in whole.items():
        expected = decode_sample(index.read(number))
        assert kept.sentences == expected.sentences
        assert np.array_equal(np.array(kept.image), np.array(expected.image))
    size = next(iter(whole.values())).image.size
    caplog.set_level("INFO")
    assert len(cache.decode_samples(index, view_maker, 3.5e-9 * 4 * size[0] * size[1])) == 3
    assert caplog.messages[-1].endswith(" of 22 samples")
    assert cache.decode_samples(index, view_maker, 0.0) == {}


def test_sentences_are_tokenised_once():
    asked, tokenizer = [], scenes_tokenizer()

    def counting(texts):
        asked.extend(texts)
        return tokenizer(texts)

    cached = cache.CachedTokenizer(counting)
    texts = ["a red cup", "a dog. a cup", "a red cup", "a dog"]
    for _ in range(2):
        assert torch.equal(cached(texts), tokenizer(texts))
    assert asked == ["a red cup", "a dog. a cup", "a dog", "a dog. a cup"]


def test_the_tokens_of_only_so_many_sentences_are_kept(monkeypatch):
    monkeypatch.setattr(cache, "_MAX_SENTENCES", 2)
    cached, tokenizer = cache.CachedTokenizer(scenes_tokenizer()), scenes_tokenizer()
    texts = ["a cup", "a dog", "a red cup"]
    for _ in range(2):
        assert torch.equal(cached(texts), tokenizer(texts))
    assert [*cached._tokens] == texts[:2]
