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
    """A folder with 21 good samples and one whose image is cut off."""
    folder = write_shards(tmp_path_factory.mktemp("shards"), [5, 7, 9])
    cut_sample = {**sample(99), "__key__": "cut", "jpg": jpeg(1)[:300]}
    write_shard(folder / "cut.tar", [cut_sample])
    return folder


def index_of(folder):
    return index_shards(sorted(map(str, folder.glob("*.tar"))), workers=0)


# 20 kB hold a few of the samples.
@pytest.mark.parametrize("cache_gb", [1.0, 2e-5])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_a_cache(folder, cache_gb, workers):
    expected = list(make_loader(train_config(f"{folder}/*.tar"), tokenize))
    config = train_config(f"{folder}/*.tar", cache_gb=cache_gb, workers=workers)
    batches = list(make_loader(config, tokenize))
    assert_same_batches(batches, expected)
    assert {problem.key for batch in batches for problem in batch.problems} == {"cut"}


def test_samples_are_kept_until_the_memory_is_full(folder, caplog):
    index = index_of(folder)
    view_maker = ViewMaker(train_config(f"{folder}/*.tar"), tokenize)
    samples = cache.decode_samples(index, view_maker, 1.0)
    assert len(index) == 22
    assert len(samples) == 21
    for number, cached_sample in samples.items():
        expected = decode_sample(index.read(number))
        assert cached_sample.sentences == expected.sentences
        assert np.array_equal(np.array(cached_sample.image), np.array(expected.image))
    width, height = next(iter(samples.values())).image.size
    bytes_of_image = 4 * width * height
    caplog.set_level("INFO")
    cache_gb = 3.5 * bytes_of_image * 1e-9
    assert len(cache.decode_samples(index, view_maker, cache_gb)) == 3
    assert caplog.messages[-1].endswith(" of 22 samples")
    assert cache.decode_samples(index, view_maker, 0.0) == {}


def test_sentences_are_tokenised_once():
    tokenized_texts, tokenizer = [], scenes_tokenizer()

    def recording_tokenizer(texts):
        tokenized_texts.extend(texts)
        return tokenizer(texts)

    cached_tokenizer = cache.CachedTokenizer(recording_tokenizer)
    texts = ["a red cup", "a dog. a cup", "a red cup", "a dog"]
    for _ in range(2):
        assert torch.equal(cached_tokenizer(texts), tokenizer(texts))
    # Texts of several sentences are not cached.
    assert tokenized_texts == ["a red cup", "a dog. a cup", "a dog", "a dog. a cup"]


def test_the_tokens_of_only_so_many_sentences_are_kept(monkeypatch):
    monkeypatch.setattr(cache, "_MAX_SENTENCES", 2)
    cached_tokenizer, tokenizer = cache.CachedTokenizer(scenes_tokenizer()), scenes_tokenizer()
    texts = ["a cup", "a dog", "a red cup"]
    for _ in range(2):
        assert torch.equal(cached_tokenizer(texts), tokenizer(texts))
    assert [*cached_tokenizer._tokens] == texts[:2]
