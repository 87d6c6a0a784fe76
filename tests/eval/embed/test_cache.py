"""Cached embeddings: found by content alone, missed by any change, dropped when damaged."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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


class Counting:
    """An encoder of sums, which counts what it encodes; everything of its identity can be set."""

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
def encoder() -> Counting:
    return Counting()


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    """Small batches, and shards of four images and five texts."""
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


def newly_encoded(encoder: Counting, act: Callable[[], object]) -> int:
    before = encoder.encoded
    act()
    return encoder.encoded - before


def test_a_second_run_encodes_nothing(encoder, options, images):
    acts: dict[Callable[[], np.ndarray], int] = {
        lambda: embed_images(encoder, images, options).features: IMAGES,
        lambda: embed_texts(encoder, TEXTS, options).features: 20,
        lambda: prompt_embeddings(encoder, ["cat", "dog"], ("a {}", "the {}"), options): 4,
    }
    for act, count in acts.items():
        alone = act()
        assert encoder.encoded == count
        again = act()
        assert encoder.encoded == count
        assert again.dtype == np.float32
        np.testing.assert_array_equal(again, alone)
        encoder.encoded = 0


def test_no_more_is_encoded_than_the_caller_waits_for(encoder, options, images):
    with pytest.raises(TooManyError, match="11 of 11 images are not cached"):
        embed_images(encoder, images, options, max_missing=IMAGES - 1)
    with pytest.raises(TooManyError, match="20 of 20 texts"):
        embed_texts(encoder, TEXTS, options, max_missing=0)
    assert encoder.encoded == 0
    embed_images(encoder, images[:8], options)
    whole = embed_images(encoder, images, options, max_missing=3).features
    assert encoder.encoded == IMAGES
    np.testing.assert_array_equal(
        embed_images(encoder, images, options, max_missing=0).features, whole
    )


def test_nothing_is_cached_without_a_folder_or_without_room(encoder, options, images, monkeypatch):
    nowhere = replace(options, cache=None)
    monkeypatch.setenv(cache.LIMIT_VARIABLE, "0")
    for some in (nowhere, nowhere, options, options):
        assert newly_encoded(encoder, lambda kept=some: embed_images(encoder, images, kept)) == 11
    assert shards(options) == []


def test_content_counts_and_names_do_not(encoder, options, images, tmp_path):
    first = embed_images(encoder, images, options).features
    names = (tmp_path / f"moved-{number}.png" for number in range(IMAGES))
    moved = [ImageFile(image.path.rename(next(names))) for image in reversed(images)]
    twice = [*moved, *moved[:3]]
    assert newly_encoded(encoder, lambda: embed_images(encoder, twice, options)) == 0
    again = embed_images(encoder, twice, options).features
    np.testing.assert_array_equal(again, np.concatenate([first[::-1], first[::-1][:3]]))
    Image.new("RGB", (3, 3)).save(moved[4].path)
    assert newly_encoded(encoder, lambda: embed_images(encoder, twice, options)) == 1


def test_equal_images_are_encoded_once(encoder, options, images, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(images[2].path.read_bytes())
    some = [*images, ImageFile(copy), images[5]]
    nowhere = replace(options, cache=None)
    assert newly_encoded(encoder, lambda: embed_images(encoder, some, nowhere)) == IMAGES


@pytest.mark.parametrize(
    ("change", "of_images", "of_texts"),
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
def test_a_change_misses_what_it_decides(change, of_images, of_texts, encoder, options, images):
    acts = {
        lambda: embed_images(encoder, images, options): IMAGES * of_images,
        lambda: embed_texts(encoder, TEXTS, options): 20 * of_texts,
        lambda: prompt_embeddings(encoder, TEXTS[:3], ("{}",), options): 3 * of_texts,
    }
    for act in acts:
        act()
    for name, value in change.items():
        if hasattr(encoder, name):
            setattr(encoder, name, value)
        else:
            encoder.info = encoder.info._replace(**{name: value})
    for act, count in acts.items():
        assert newly_encoded(encoder, act) == count


def test_roles_templates_and_code_are_parts_of_the_identity(encoder, options, monkeypatch):
    # A prompt of the bare name is the same text as a caption, and yet another embedding.
    assert newly_encoded(encoder, lambda: embed_texts(encoder, TEXTS, options)) == 20
    for templates, count in ((("{}",), 20), (("a {}",), 20), (("a {}", "{}"), 40), (("{}",), 0)):
        found = newly_encoded(
            encoder, lambda kept=templates: prompt_embeddings(encoder, TEXTS, kept, options)
        )
        assert found == count
    monkeypatch.setattr(embed, "fingerprint", lambda *_: "other code")
    assert newly_encoded(encoder, lambda: embed_texts(encoder, TEXTS, options)) == 20


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[:-3],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
    "no safetensors": lambda content: b"PK" + content[2:],
    "a bit of a feature": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_dropped_and_computed_again(damage, encoder, options, images):
    whole = embed_images(encoder, images, options).features
    bad = shards(options)[1]
    bad.write_bytes(DAMAGES[damage](bad.read_bytes()))
    steps: list[Progress] = []
    lost = newly_encoded(encoder, lambda: embed_images(encoder, images, options, steps.append))
    assert lost in (3, 4)  # eleven images are shards of four, four and three
    assert [step.note for step in steps if step.note] == [
        f"warning: {bad} was damaged and is computed again",
        f"{IMAGES - lost} of {IMAGES} images were embedded already",
    ]
    assert newly_encoded(encoder, lambda: embed_images(encoder, images, options)) == 0
    np.testing.assert_array_equal(embed_images(encoder, images, options).features, whole)


def test_a_damaged_key_finds_nothing_false(encoder, options, images):
    whole = embed_images(encoder, images, options).features
    for bad in shards(options):
        content = bytearray(bad.read_bytes())
        content[-1 - content[::-1].index(0)] ^= 255
        bad.write_bytes(content)
    np.testing.assert_array_equal(embed_images(encoder, images, options).features, whole)


def test_the_least_recently_used_goes_first(encoder, options, images, monkeypatch):
    parts = [images[0:4], images[4:8]]
    for part in parts:
        embed_images(encoder, part, options)
    for age, path in enumerate(shards(options)):
        os.utime(path, (age, age))
    embed_images(encoder, parts[0], options)  # used now
    size = sum(path.stat().st_size for path in shards(options))
    monkeypatch.setenv(cache.LIMIT_VARIABLE, str((size + 50) / 1e9))
    embed_images(encoder, images[8:], options)
    assert newly_encoded(encoder, lambda: embed_images(encoder, parts[0], options)) == 0
    assert sum(path.stat().st_size for path in shards(options)) <= size + 50
    assert newly_encoded(encoder, lambda: embed_images(encoder, parts[1], options)) == 4


def add_shard(root: Path, identity: dict[str, Any], key: int, limit: int | None = None) -> Path:
    """Store a shard of one key; return its file."""
    store = cache.ShardStore(root, identity, limit)
    before = set(root.rglob("*.safetensors"))
    store.add([bytes([key] * 32)], {"values": np.full(1, key, np.float32)})
    (path,) = set(root.rglob("*.safetensors")) - before
    return path


def test_shards_that_just_fit_stay(tmp_path):
    first = add_shard(tmp_path, {"of": "a"}, 1)
    size = first.stat().st_size
    second = add_shard(tmp_path, {"of": "b"}, 2, limit=2 * size)
    assert first.exists()
    assert second.exists()
    third = add_shard(tmp_path, {"of": "c"}, 3, limit=3 * size - 1)
    assert [path.exists() for path in (first, second, third)] == [False, True, True]


def test_an_identity_has_no_order_and_is_removed_alone(tmp_path):
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
    found = [(space.identity, space.embeddings, space.used) for space in cache.spaces(tmp_path)]
    assert found == [
        (identities[2], 1, 25.0),
        (identities[1], 2, 15.0),
        (identities[0], 1, 5.0),
        ({}, 1, 2.0),
    ]
    assert [space.size for space in cache.spaces(tmp_path, model="a")] == [2 * size, size]
    assert cache.spaces(tmp_path, model="a", of="none") == []


@pytest.mark.parametrize("wish", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number(wish, encoder, options, images, monkeypatch):
    monkeypatch.setenv(cache.LIMIT_VARIABLE, wish)
    with pytest.raises(UsageError, match=f"{cache.LIMIT_VARIABLE} must be a number .*{wish}"):
        embed_images(encoder, images, options)


def test_a_folder_that_cannot_be_written(encoder, options, images, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot write to .*--no-cache"):
        embed_images(encoder, images, options)


def test_an_image_that_changes_while_it_is_read(encoder, options, images, monkeypatch):
    read = ImageFile.read
    reads: list[str] = []

    def changing(image: ImageFile) -> bytes:
        reads.append(image.name)
        return read(image) + (b"\0" if reads.count(image.name) > 1 else b"")

    monkeypatch.setattr(ImageFile, "read", changing)
    with pytest.raises(UsageError, match=r"0\.png has changed while it was read"):
        embed_images(encoder, images, options)
    assert shards(options) == []


def test_runs_at_the_same_time(options, images):
    expected = embed_images(Counting(), images, replace(options, cache=None)).features

    def run(number: int) -> np.ndarray:
        if number % 4 == 3:
            cache.clear(Path(str(options.cache)))
        return embed_images(Counting(), images[:: 1 if number % 2 else -1], options).features

    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(run, range(40))):
            np.testing.assert_array_equal(found, expected[:: 1 if number % 2 else -1])
    assert all(load_file(path)["keys"].shape[1] == 32 for path in shards(options))


def test_info_and_clear(encoder, options, images, monkeypatch, tmp_path, command):
    def output(*arguments: str) -> str:
        status, out, _ = command("cache", *arguments)
        assert status == 0
        return out

    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path / "own"))
    assert "0.0 MB of 20 GB" in output("info")
    kept = replace(options, cache=str(cache.embeddings_folder()))
    embed_images(encoder, images, kept)
    embed_texts(encoder, TEXTS, kept)
    size = sum(path.stat().st_size for path in shards(kept))
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
    """Of a package with a module, a package below it with two, and a module beside them."""
    names = ("__init__", "lone", "part/__init__", "part/a", "part/b", "other")
    files = {name: tmp_path / "copied" / f"{name}.py" for name in names}
    files["part/a"].parent.mkdir(parents=True)
    for name, path in files.items():
        path.write_text(f"NAME = {name!r}\n")
    monkeypatch.syspath_prepend(tmp_path)

    def fingerprint() -> str:
        return cache.fingerprint.__wrapped__("copied.lone", "copied.part")

    found = [fingerprint()]
    for name in ("lone", "part/__init__", "part/a", "part/b"):
        files[name].write_text("NAME = 'changed'\n")
        found.append(fingerprint())
    (files["part/a"].parent / "new.py").write_text("NAME = 'new'\n")
    found.append(fingerprint())
    assert len(set(found)) == len(found)
    files["other"].write_text("NAME = 'changed'\n")
    assert fingerprint() == found[-1]
    assert "copied" not in sys.modules
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"another {name}")
    assert fingerprint() != found[-1]


# What modules that decide an embedding import and what cannot change one: records, files and
# threads, names that are inputs themselves, pictures of scenes (inputs as well), training.
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
    used = set().union(deciding, *map(graph.find_upstream_modules, deciding))
    listed = (*cache.EMBEDDING, *NOT_DECIDING)
    forgotten = [
        module
        for module in used - {"cosmos_core", "cosmos_eval"}
        if not any(f"{module}.".startswith(f"{one}.") for one in listed)
    ]
    assert forgotten == []
    assert set(cache.EMBEDDING) <= {*graph.modules}
    assert embed.embedding_identity(Counting(), "image")["code"] == cache.fingerprint(
        *cache.EMBEDDING
    )
