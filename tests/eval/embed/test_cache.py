"""Cached embeddings are found by content only, missed after any change, dropped when damaged."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grimp
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from cosmos_eval.data.sources import ImageFile
from cosmos_eval.embedding import cache, embed
from cosmos_eval.embedding.embed import TooManyError, embed_images, embed_texts
from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.types import EncoderInfo, Progress, RunOptions, UsageError

TEXTS = [f"thing {number} is {'very ' * (number % 7)}small" for number in range(20)]
IMAGES = 11


class CountingEncoder:
    """An encoder of sums that counts its inputs; every part of its identity can be set."""

    trims_text = False

    def __init__(self) -> None:
        self.info = EncoderInfo("sums", "sums", "teacher", "0" * 64, False, "fp32", "cpu")
        self.preprocessing: dict[str, Any] = {"size": 8, "mean": [0.5]}
        self.tokenizer: dict[str, Any] = {"context_length": 4}
        self.encoded = 0

    def transform(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1)

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[len(text), sum(map(ord, text)), ord(text[-1])] for text in texts])

    def overlong(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.zeros(len(texts), dtype=torch.bool)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        self.encoded += len(images)
        return torch.nn.functional.normalize(images.mean(dim=(2, 3)) + 1, dim=1)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        self.encoded += len(tokens)
        return torch.nn.functional.normalize(tokens.float(), dim=1)


@pytest.fixture
def encoder() -> CountingEncoder:
    return CountingEncoder()


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    """Return options of small batches; set shards of four images and five texts."""
    monkeypatch.setattr(embed, "IMAGES_PER_SHARD", 4)
    monkeypatch.setattr(embed, "TEXTS_PER_SHARD", 5)
    return RunOptions(cache=str(tmp_path / "cache"), batch_size=2)


@pytest.fixture
def images(tmp_path: Path) -> list[ImageFile]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(IMAGES)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).save(path)
    return [ImageFile(path) for path in paths]


def shards(options: RunOptions) -> list[Path]:
    return sorted(Path(str(options.cache)).glob("*/*.safetensors"))


@contextmanager
def assert_encodes(encoder: CountingEncoder, count: int) -> Iterator[None]:
    """Check how many images and texts the encoder encodes inside a block."""
    encoded_before = encoder.encoded
    yield
    assert encoder.encoded - encoded_before == count


def embed_two_classes(encoder: CountingEncoder, options: RunOptions) -> np.ndarray:
    """Return the features of two classes, which are four prompts."""
    return prompt_embeddings(encoder, ["cat", "dog"], ("a {}", "the {}"), options)


def test_a_second_run_encodes_nothing(encoder, options, images):
    with assert_encodes(encoder, IMAGES):
        image_features = embed_images(encoder, images, options).features
    with assert_encodes(encoder, 20):
        text_features = embed_texts(encoder, TEXTS, options).features
    with assert_encodes(encoder, 4):
        class_features = embed_two_classes(encoder, options)
    with assert_encodes(encoder, 0):
        cached_image_features = embed_images(encoder, images, options).features
        cached_text_features = embed_texts(encoder, TEXTS, options).features
        cached_class_features = embed_two_classes(encoder, options)
    for cached_features, features in (
        (cached_image_features, image_features),
        (cached_text_features, text_features),
        (cached_class_features, class_features),
    ):
        assert cached_features.dtype == np.float32
        np.testing.assert_array_equal(cached_features, features)


def test_no_more_is_encoded_than_the_caller_waits_for(encoder, options, images):
    with pytest.raises(TooManyError, match="11 of 11 images are not cached"):
        embed_images(encoder, images, options, max_missing=IMAGES - 1)
    with pytest.raises(TooManyError, match="20 of 20 texts"):
        embed_texts(encoder, TEXTS, options, max_missing=0)
    assert encoder.encoded == 0
    embed_images(encoder, images[:8], options)
    features = embed_images(encoder, images, options, max_missing=3).features
    assert encoder.encoded == IMAGES
    cached_features = embed_images(encoder, images, options, max_missing=0).features
    np.testing.assert_array_equal(cached_features, features)


def test_nothing_is_cached_without_a_folder_or_without_room(encoder, options, images, monkeypatch):
    without_folder = replace(options, cache=None)
    monkeypatch.setenv(cache.LIMIT_VARIABLE, "0")
    for uncached_options in (without_folder, without_folder, options, options):
        with assert_encodes(encoder, IMAGES):
            embed_images(encoder, images, uncached_options)
    assert shards(options) == []


def test_content_counts_and_names_do_not(encoder, options, images, tmp_path):
    features = embed_images(encoder, images, options).features
    renamed_images = []
    for number, image in enumerate(reversed(images)):
        renamed_path = image.path.rename(tmp_path / f"moved-{number}.png")
        renamed_images.append(ImageFile(renamed_path))
    repeated_images = [*renamed_images, *renamed_images[:3]]
    with assert_encodes(encoder, 0):
        embed_images(encoder, repeated_images, options)
    repeated_features = embed_images(encoder, repeated_images, options).features
    expected = np.concatenate([features[::-1], features[::-1][:3]])
    np.testing.assert_array_equal(repeated_features, expected)
    Image.new("RGB", (3, 3)).save(renamed_images[4].path)
    with assert_encodes(encoder, 1):
        embed_images(encoder, repeated_images, options)


def test_equal_images_are_encoded_once(encoder, options, images, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(images[2].path.read_bytes())
    repeated_images = [*images, ImageFile(copy), images[5]]
    with assert_encodes(encoder, IMAGES):
        embed_images(encoder, repeated_images, replace(options, cache=None))


@pytest.mark.parametrize(
    ("change", "misses_images", "misses_texts"),
    [
        ({"weights_sha256": "1" * 64}, True, True),
        ({"weights": "student"}, True, True),
        ({"weights_sha256": None}, True, True),
        ({"architecture": "products"}, True, True),
        ({"precision": "bf16"}, True, True),
        ({"device": "cuda:1"}, True, True),
        ({"preprocessing": {"size": 8, "mean": [0.4]}}, True, False),
        ({"tokenizer": {"context_length": 5}}, False, True),
    ],
)
def test_a_change_misses_the_embeddings_that_it_decides(
    change, misses_images, misses_texts, encoder, options, images
):
    embed_images(encoder, images, options)
    embed_texts(encoder, TEXTS, options)
    prompt_embeddings(encoder, TEXTS[:3], ("{}",), options)
    for name, value in change.items():
        if hasattr(encoder, name):
            setattr(encoder, name, value)
        else:
            encoder.info = encoder.info._replace(**{name: value})
    with assert_encodes(encoder, IMAGES if misses_images else 0):
        embed_images(encoder, images, options)
    with assert_encodes(encoder, 20 if misses_texts else 0):
        embed_texts(encoder, TEXTS, options)
    with assert_encodes(encoder, 3 if misses_texts else 0):
        prompt_embeddings(encoder, TEXTS[:3], ("{}",), options)


def test_roles_templates_and_code_are_parts_of_the_identity(encoder, options, monkeypatch):
    with assert_encodes(encoder, 20):
        embed_texts(encoder, TEXTS, options)
    # A prompt of the bare name is the same text as a caption, but another embedding.
    for templates, count in ((("{}",), 20), (("a {}",), 20), (("a {}", "{}"), 40), (("{}",), 0)):
        with assert_encodes(encoder, count):
            prompt_embeddings(encoder, TEXTS, templates, options)
    monkeypatch.setattr(embed, "fingerprint", lambda *_: "other code")
    with assert_encodes(encoder, 20):
        embed_texts(encoder, TEXTS, options)


# Functions that damage the bytes of a file.
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[:-3],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
    "no safetensors": lambda content: b"PK" + content[2:],
    "a bit of a feature": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_dropped_and_computed_again(damage, encoder, options, images):
    features = embed_images(encoder, images, options).features
    damaged_shard = shards(options)[1]
    damaged_shard.write_bytes(DAMAGES[damage](damaged_shard.read_bytes()))
    steps: list[Progress] = []
    embed_images(encoder, images, options, steps.append)
    computed_again = encoder.encoded - IMAGES
    assert computed_again in (3, 4)  # eleven images are shards of four, four and three
    assert [step.note for step in steps if step.note] == [
        f"warning: {damaged_shard} was damaged and is computed again",
        f"{IMAGES - computed_again} of {IMAGES} images were embedded already",
    ]
    with assert_encodes(encoder, 0):
        embed_images(encoder, images, options)
    np.testing.assert_array_equal(embed_images(encoder, images, options).features, features)


def test_a_damaged_key_finds_no_wrong_embedding(encoder, options, images):
    features = embed_images(encoder, images, options).features
    for shard in shards(options):
        content = bytearray(shard.read_bytes())
        last_zero = len(content) - 1 - content[::-1].index(0)
        content[last_zero] ^= 255
        shard.write_bytes(content)
    np.testing.assert_array_equal(embed_images(encoder, images, options).features, features)


def test_the_least_recently_used_shard_is_removed_first(encoder, options, images, monkeypatch):
    first_images, second_images, third_images = images[:4], images[4:8], images[8:]
    embed_images(encoder, first_images, options)
    embed_images(encoder, second_images, options)
    for age, path in enumerate(shards(options)):
        os.utime(path, (age, age))
    embed_images(encoder, first_images, options)  # used now
    size = sum(path.stat().st_size for path in shards(options))
    monkeypatch.setenv(cache.LIMIT_VARIABLE, str((size + 50) / 1e9))
    embed_images(encoder, third_images, options)
    with assert_encodes(encoder, 0):
        embed_images(encoder, first_images, options)
    assert sum(path.stat().st_size for path in shards(options)) <= size + 50
    with assert_encodes(encoder, 4):
        embed_images(encoder, second_images, options)


def add_shard(root: Path, identity: dict[str, Any], key: int, limit: int | None = None) -> Path:
    """Store a shard of one key; return its file."""
    store = cache.ShardStore(root, identity, limit)
    files_before = set(root.rglob("*.safetensors"))
    store.add([bytes([key] * 32)], {"values": np.full(1, key, np.float32)})
    (path,) = set(root.rglob("*.safetensors")) - files_before
    return path


def test_shards_that_just_fit_stay(tmp_path):
    first = add_shard(tmp_path, {"of": "a"}, 1)
    size = first.stat().st_size
    second = add_shard(tmp_path, {"of": "b"}, 2, limit=2 * size)
    assert first.exists()
    assert second.exists()
    third = add_shard(tmp_path, {"of": "c"}, 3, limit=3 * size - 1)
    assert [path.exists() for path in (first, second, third)] == [False, True, True]


def test_an_identity_has_no_order_and_is_removed_without_others(tmp_path):
    first = add_shard(tmp_path, {"a": 1, "b": 2}, 1)
    second = add_shard(tmp_path, {"b": 2, "a": 1}, 2)
    other = add_shard(tmp_path, {"a": 1}, 3)
    assert first.parent == second.parent != other.parent
    cache.ShardStore(tmp_path, {"a": 1, "b": 2}).remove()
    assert list(tmp_path.iterdir()) == [other.parent]
    cache.ShardStore(None, {}).remove()


def test_only_a_limited_store_notes_its_use(tmp_path):
    path = add_shard(tmp_path, {}, 1)
    os.utime(path, (1, 1))
    assert len(list(cache.ShardStore(tmp_path, {}).find([b"\1" * 32], print))) == 1
    assert path.stat().st_mtime == 1
    assert len(list(cache.ShardStore(tmp_path, {}, limit=10**6).find([b"\1" * 32], print))) == 1
    assert path.stat().st_mtime > 1


@pytest.mark.parametrize("content", ["[]", "{"])
def test_spaces_are_listed_by_their_last_use(content, tmp_path):
    identities = [{"model": "a", "of": "images"}, {"model": "a", "of": "texts"}, {"model": "b"}]
    for number, identity in enumerate(identities):
        used = 10 * number + 5
        os.utime(add_shard(tmp_path, identity, number), (used, used))
    old = add_shard(tmp_path, identities[1], 9)
    os.utime(old, (1, 1))
    damaged = add_shard(tmp_path, {"model": "damaged"}, 4)
    damaged.with_name("identity.json").write_text(content)
    os.utime(damaged, (2, 2))
    (tmp_path / "empty").mkdir()
    size = old.stat().st_size
    spaces = cache.spaces(tmp_path)
    assert [(space.identity, space.embeddings, space.used) for space in spaces] == [
        (identities[2], 1, 25.0),
        (identities[1], 2, 15.0),
        (identities[0], 1, 5.0),
        ({}, 1, 2.0),
    ]
    assert [space.size for space in cache.spaces(tmp_path, model="a")] == [2 * size, size]
    assert cache.spaces(tmp_path, model="a", of="none") == []


@pytest.mark.parametrize("limit", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_not_a_number_is_refused(limit, encoder, options, images, monkeypatch):
    monkeypatch.setenv(cache.LIMIT_VARIABLE, limit)
    with pytest.raises(UsageError, match=f"{cache.LIMIT_VARIABLE} must be a number .*{limit}"):
        embed_images(encoder, images, options)


def test_a_folder_that_cannot_be_written_is_an_error(encoder, options, images, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot write to .*--no-cache"):
        embed_images(encoder, images, options)


def test_an_image_that_changes_while_it_is_read_is_not_cached(
    encoder, options, images, monkeypatch
):
    read = ImageFile.read
    names_read: list[str] = []

    def read_changed_at_the_second_time(image: ImageFile) -> bytes:
        names_read.append(image.name)
        return read(image) + (b"\0" if names_read.count(image.name) > 1 else b"")

    monkeypatch.setattr(ImageFile, "read", read_changed_at_the_second_time)
    with pytest.raises(UsageError, match=r"0\.png has changed while it was read"):
        embed_images(encoder, images, options)
    assert shards(options) == []


def test_runs_at_the_same_time_share_a_cache(options, images):
    """Runs with an even number have the images in reverse; every fourth clears the cache."""
    expected = embed_images(CountingEncoder(), images, replace(options, cache=None)).features

    def run(number: int) -> np.ndarray:
        if number % 4 == 3:
            cache.clear(Path(str(options.cache)))
        order = 1 if number % 2 else -1
        return embed_images(CountingEncoder(), images[::order], options).features

    with ThreadPoolExecutor(8) as pool:
        for number, features in enumerate(pool.map(run, range(40))):
            order = 1 if number % 2 else -1
            np.testing.assert_array_equal(features, expected[::order])
    for path in shards(options):
        assert load_file(path)["keys"].shape[1] == 32


def test_info_and_clear(encoder, options, images, monkeypatch, tmp_path, command):
    def output(*arguments: str) -> str:
        status, out, _ = command("cache", *arguments)
        assert status == 0
        return out

    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path / "own"))
    assert "0.0 MB of 20 GB" in output("info")
    default_options = replace(options, cache=str(cache.embeddings_folder()))
    embed_images(encoder, images, default_options)
    embed_texts(encoder, TEXTS, default_options)
    size = sum(path.stat().st_size for path in shards(default_options))
    document = json.loads(output("info", "--json"))
    assert document["bytes"] == size
    assert document["limit_bytes"] == 20_000_000_000
    counts = {space["identity"]["role"]: space["embeddings"] for space in document["spaces"]}
    assert counts == {"image": IMAGES, "text": 20}
    assert "sums" in output("info")
    assert json.loads(output("clear", "--json"))[0]["removed_bytes"] == size
    assert list(cache.embeddings_folder().iterdir()) == []
    assert json.loads(output("clear", "--json"))[0]["removed_bytes"] == 0


def test_a_change_of_any_listed_source_is_another_identity(tmp_path, monkeypatch):
    """The listed sources are a module and a package; another module beside them is not listed."""
    names = ("__init__", "lone", "part/__init__", "part/a", "part/b", "other")
    files = {name: tmp_path / "copied" / f"{name}.py" for name in names}
    files["part/a"].parent.mkdir(parents=True)
    for name, path in files.items():
        path.write_text(f"NAME = {name!r}\n")
    monkeypatch.syspath_prepend(tmp_path)

    def fingerprint() -> str:
        return cache.fingerprint.__wrapped__("copied.lone", "copied.part")

    fingerprints = [fingerprint()]
    for name in ("lone", "part/__init__", "part/a", "part/b"):
        files[name].write_text("NAME = 'changed'\n")
        fingerprints.append(fingerprint())
    (files["part/a"].parent / "new.py").write_text("NAME = 'new'\n")
    fingerprints.append(fingerprint())
    assert len(set(fingerprints)) == len(fingerprints)
    files["other"].write_text("NAME = 'changed'\n")
    assert fingerprint() == fingerprints[-1]
    assert "copied" not in sys.modules
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"another {name}")
    assert fingerprint() != fingerprints[-1]


# Modules that those which decide an embedding import, but that cannot change one: records, files
# and threads, names that are inputs themselves, pictures of scenes (inputs as well), training.
NOT_DECIDING = (
    "cosmos_eval.data.hub",  # fetches files
    # Find the frames of videos, each of which is an embedding of its own.
    *("cosmos_eval.data.class_folders", "cosmos_eval.data.folders", "cosmos_eval.data.frames"),
    *("cosmos_core.bundled", "cosmos_core.config", "cosmos_core.types", "cosmos_core.utils"),
    *("cosmos_core.data.scenes", "cosmos_core.data.tar", "cosmos_core.engine"),
    *("cosmos_core.losses", "cosmos_eval.data.class_names", "cosmos_eval.data.prefetch"),
    *("cosmos_eval.data.readers", "cosmos_eval.embedding.cache", "cosmos_eval.protocols"),
    "cosmos_eval.types",
)


def test_all_code_that_decides_an_embedding_is_part_of_its_identity():
    graph = grimp.build_graph("cosmos_core", "cosmos_eval")
    deciding = ["cosmos_eval.embedding.embed", "cosmos_eval.tasks.prompts"]
    deciding += graph.find_children("cosmos_eval.models")
    imported = set().union(deciding, *map(graph.find_upstream_modules, deciding))
    listed_prefixes = tuple(f"{module}." for module in (*cache.EMBEDDING, *NOT_DECIDING))
    forgotten_modules = []
    for module in imported - {"cosmos_core", "cosmos_eval"}:
        if not f"{module}.".startswith(listed_prefixes):
            forgotten_modules.append(module)
    assert forgotten_modules == []
    assert set(cache.EMBEDDING) <= {*graph.modules}
    identity = embed.embedding_identity(CountingEncoder(), "image")
    assert identity["code"] == cache.fingerprint(*cache.EMBEDDING)
