"""Models of images of any size: `collate` makes the batches, and no image depends on its batch."""

from __future__ import annotations

import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from support.encoders import load, noise, refusal
from torch import Tensor, nn
from transformers import BatchFeature

from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_eval import TwoTower, UsageError, evaluate
from cosmos_eval.data.sources import ImageArray, ImageFile
from cosmos_eval.embedding.embed import embed_images
from cosmos_eval.embedding.pairs import score_pairs
from cosmos_eval.models.encoder import CollatingEncoder, _move_inputs, require_encoder
from cosmos_eval.models.facts import model_facts
from cosmos_eval.models.maps import whole_image_size
from cosmos_eval.runner.overlap import EmbeddingSearch
from cosmos_eval.types import RunOptions, no_progress

EXAMPLE = Path(__file__).parents[3] / "examples" / "any_size.py"
CLOSE = {"rtol": 0, "atol": 1e-6}
SIZES = [(40, 60), (90, 20), (64, 64), (8, 200), (300, 280), (7, 5), (60, 40), (64, 64)]


@pytest.fixture
def images() -> list[ImageArray]:
    rng = np.random.default_rng(0)
    return [
        ImageArray(str(i), rng.integers(0, 256, (*size, 3), np.uint8))
        for i, size in enumerate(SIZES)
    ]


@torch.no_grad()
def features_without_padding(images: Sequence[ImageArray]) -> Tensor:
    """One image at a time through the modules of the example, without a mask."""
    module = runpy.run_path(str(EXAMPLE))
    towers, rows = module["towers"].eval(), []
    for image in images:
        parts = module["transform"](Image.fromarray(image.pixels))
        tokens = towers.embed_patches(parts["patches"]) + towers.embed_places(parts["places"])
        for layer in towers.blocks.layers:
            tokens = layer(tokens[None])[0]
        rows.append(tokens.mean(dim=0))
    return nn.functional.normalize(torch.stack(rows), dim=-1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_features_do_not_depend_on_the_batch(batch_size: int, workers: int, images: Any) -> None:
    encoder = load(f"python:{EXAMPLE}")
    shapes = [encoder.transform(Image.fromarray(i.pixels))["patches"].shape for i in images]
    assert len(set(shapes)) > 5
    options = RunOptions(batch_size=batch_size, workers=workers)
    features = embed_images(encoder, images, options).features
    torch.testing.assert_close(
        torch.from_numpy(features), features_without_padding(images), **CLOSE
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures of many sizes, for classification, and with captions."""
    entries, colours = [], ["red", "green", "blue"]
    for i, (height, width) in enumerate(SIZES):
        colour = colours[i % 3]
        file = tmp_path / "pictures" / colour / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), colour).save(file)
        entries.append({"image": f"{colour}/{i}.png", "captions": [f"a {colour} wall {i}"]})
    (tmp_path / "captions.json").write_text(json.dumps(entries), "utf-8")
    files = {
        "cls": "kind: cls\nfolder: pictures\n",
        "retrieval": "kind: retrieval\nimages: pictures\nannotations: captions.json\n",
    }
    for kind, text in files.items():
        (tmp_path / f"{kind}.yaml").write_text(text, "utf-8")
    return tmp_path


@pytest.mark.parametrize("task", ["cls", "retrieval"])
def test_tasks_of_pictures_of_many_sizes(
    task: str, pictures: Path, command: Any, tmp_path: Path
) -> None:
    """The same metrics for images that are alone in their batch as for whole batches."""
    metrics = []
    for batch_size in (1, 8):
        output = tmp_path / f"out-{batch_size}"
        run = ("run", "--model", f"python:{EXAMPLE}", "--dataset", pictures / f"{task}.yaml")
        done = command(*run, "--batch-size", batch_size, "--no-cache", "--output", output)
        assert done.status == 0, done.err
        (file,) = output.glob("*.json")
        result = json.loads(file.read_text("utf-8"))
        metrics.append(result["metrics"])
        assert result["model"]["name"] == "any-size"
        assert result["model"]["facts"]["embedding_size"] == 32
        assert result["model"]["facts"]["image_size"] is None
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("dataset", ["scenes-cls", "scenes-retrieval", "scenes-select"])
def test_embedded_sets(dataset: str, command: Any) -> None:
    run = ("run", "--dataset", dataset, "--limit", 6, "--no-cache", "--output", "out")
    done = command(*run, "--model", f"python:{EXAMPLE}")
    assert done.status == 0, done.err


@pytest.mark.parametrize("dataset", ["scenes-seg", "scenes-loc"])
def test_tasks_of_patches_refuse_it(dataset: str, command: Any) -> None:
    done = command("run", "--dataset", dataset, "--output", "out", "--model", f"python:{EXAMPLE}")
    assert done.status == 2
    assert "any_size.py has no patches to compare a text with" in done.err
    assert "Traceback" not in done.err


class Named(NamedTuple):
    """A batch with names."""

    sums: Tensor
    lengths: Tensor


towers = nn.Linear(3, 5)
MAPPINGS = ("dict", "BatchFeature")
KINDS = ("tensor", "tuple", "named tuple", *MAPPINGS)


def transform(image: Image.Image) -> Tensor:
    """The pixels (N, 3) of an image, as many as it has."""
    return torch.from_numpy(np.asarray(image, np.float32)).flatten(0, 1) / 255


def make(kind: str = "dict", **changed: Any) -> TwoTower:
    """A model of the mean colour, whose batch is of a kind."""

    def collate(images: list[Tensor]) -> Any:
        sums = torch.stack([image.sum(0) for image in images])
        lengths = torch.tensor([[len(image)] for image in images])
        return {
            "tensor": sums / lengths,
            "tuple": (sums, lengths),
            "named tuple": Named(sums, lengths),
            "dict": {"sums": sums, "lengths": lengths, "unit": "pixels"},
            "BatchFeature": BatchFeature({"sums": sums, "lengths": lengths}),
        }[kind]

    def encode_image(batch: Any) -> Tensor:
        if kind == "tensor":
            return towers(batch)
        if kind == "named tuple":
            return towers(batch.sums / batch.lengths)
        if kind == "BatchFeature":
            assert isinstance(batch, BatchFeature)
        sums, lengths = batch if kind == "tuple" else (batch["sums"], batch["lengths"])
        return towers(sums / lengths)

    functions = {"encode_image": encode_image, "encode_text": nn.EmbeddingBag(49408, 5)}
    tools = {"transform": transform, "tokenize": scenes_tokenizer(), "name": "mine"}
    return TwoTower(**{**functions, **tools, "collate": collate, **changed})


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_any_kind(kind: str, images: Any) -> None:
    model = make(kind)
    require_encoder(model, "it")
    assert isinstance(model, CollatingEncoder)
    means = torch.tensor(np.stack([image.pixels.mean((0, 1)) for image in images]) / 255)
    expected = nn.functional.normalize(towers(means.float()), dim=-1)
    features = embed_images(model, images, RunOptions(batch_size=3)).features
    torch.testing.assert_close(torch.from_numpy(features), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_moved_to_the_device_of_the_model(kind: str) -> None:
    """The device `meta` has no values, but shows what is moved. The batch itself stays."""
    batch = make(kind).collate([torch.ones(2, 3), torch.ones(5, 3)])
    moved = _move_inputs(batch, "meta")
    assert type(moved) is type(batch)
    values = [[*made.values()] if kind in MAPPINGS else [*made] for made in (batch, moved)]
    tensors = [[value for value in row if isinstance(value, Tensor)] for row in values]
    assert [str(tensor.device) for tensor in tensors[0]] == ["cpu"] * 2
    assert [str(tensor.device) for tensor in tensors[1]] == ["meta"] * 2
    if kind == "dict":
        assert moved["unit"] == "pixels"


def test_collate_may_do_everything(images: Any) -> None:
    """`transform` returns the picture itself, or an array; a list in a batch is moved too."""

    def collate(pictures: list[Any]) -> dict[str, Any]:
        return {"pixels": [transform(Image.fromarray(np.asarray(p))) for p in pictures]}

    def encode_image(batch: Any) -> Tensor:
        return towers(torch.stack([pixels.mean(0) for pixels in batch["pixels"]]))

    means = torch.tensor(np.stack([image.pixels.mean((0, 1)) for image in images]) / 255)
    expected = nn.functional.normalize(towers(means.float()), dim=-1).detach().numpy()
    for take in (Image.Image.copy, np.asarray):
        model = make(transform=take, collate=collate, encode_image=encode_image)
        require_encoder(model, "it")
        features = embed_images(model, images, RunOptions(batch_size=3)).features
        np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)
    moved = _move_inputs(collate([images[0].pixels]), "meta")
    assert [str(pixels.device) for pixels in moved["pixels"]] == ["meta"]


def test_an_object_is_measured() -> None:
    """The facade for training loops: one image at a time and whole batches give the same."""
    model = make()
    rows = [evaluate(model, "scenes-cls", limit=6, batch_size=size) for size in (1, 4)]
    assert rows[0].metrics == pytest.approx(rows[1].metrics, abs=1e-5)
    assert rows[0].model["facts"]["image_size"] is None


def test_pairs_are_scored(images: Any) -> None:
    """The parts of images come from batches of `collate`: a product of mean colours and words."""
    parts = make().__dict__["_encode_image"]
    words = nn.EmbeddingBag(49408, 5)
    model = make(
        encode_text=words,
        image_parts=parts,
        text_parts=words,
        pair_scores=lambda images, texts: images @ texts.T,
    )
    require_encoder(model, "it")
    texts = ["a red ball", "two boats"]
    candidates = [np.arange(len(images))] * len(texts)
    table = [
        score_pairs(model, images, texts, candidates, RunOptions(batch_size=batch_size))(
            np.arange(len(images))[None], np.arange(len(texts))[:, None]
        )
        for batch_size in (1, 5)
    ]
    np.testing.assert_allclose(table[0], table[1], atol=1e-5)
    with torch.no_grad():
        means = torch.tensor(np.stack([i.pixels.mean((0, 1)) for i in images]) / 255).float()
        expected = words(model.tokenize(texts)) @ towers(means).T
    np.testing.assert_allclose(table[0], expected.numpy(), atol=1e-4)


def test_near_duplicates_of_any_size(images: Any) -> None:
    model = make()
    sources = {image.name: image for image in images}
    options = RunOptions(batch_size=3)
    search = EmbeddingSearch(model, 0.9999, sources, options, no_progress)
    training = [search.transform(Image.fromarray(image.pixels)) for image in images[:5]]
    matches = [*search.near_duplicates("a.tar", list("abcde"), training)]
    assert {(match.key, match.image) for match in matches} >= {
        (key, str(i)) for i, key in enumerate("abcde")
    }


def test_costs_of_images_of_any_size() -> None:
    """The cost of the example depends on the size of an image, and that of a mean does not."""
    facts = model_facts(load(f"python:{EXAMPLE}"))
    assert (facts["image_size"], facts["image_gflops"], facts["embedding_size"]) == (None, None, 32)
    facts = model_facts(make())
    assert (facts["image_size"], facts["embedding_size"]) == (None, 5)
    assert facts["image_gflops"] == 2 * 3 * 5 / 1e9
    assert model_facts(make("tensor"))["image_size"] is None  # its batch has no height


def test_maps_need_the_size_of_the_transform() -> None:
    model: Any = make(encode_patches=lambda images, _: images[:, None, None, :, 0, 0], patch_size=8)
    with pytest.raises(UsageError, match="its `transform` returns no pixels"):
        whole_image_size(model, (40, 60))


def pad(images: list[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence(images, batch_first=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"collate": pad, "encode_image": lambda batch: towers(batch.mean(1))},
            r"other features for an image if its batch has an image of another size, .*: mask",
        ),
        (
            {"collate": pad, "encode_image": lambda batch: towers(batch[0, :1])},
            r"`encode_image` returns \(1, 5\) for 2 inputs",
        ),
        (
            {"encode_image": lambda batch: towers(batch["sums"])[:1]},
            r"`encode_image` returns 1 features for a batch of 2 images",
        ),
        ({"encode_image": lambda batch: towers(batch["sums"])[0]}, r"\(5,\), not \(B, D\)"),
        ({"collate": lambda images: images[5]}, "IndexError"),
        ({"transform": lambda image: torch.randn(4, 3)}, "returns other pixels"),
        (
            {"transform": lambda image: {"a": torch.ones(3), "b": [torch.rand(1)]}},
            "returns other pixels",
        ),
    ],
)
def test_faults_are_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        require_encoder(make(**changed), "it")
    assert "\n" not in str(raised.value)


def test_images_of_different_sizes_without_collate(images: Any) -> None:
    model = make(
        collate=None,
        transform=lambda image: torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1),
        encode_image=lambda images: towers(images.mean((2, 3))),
    )
    require_encoder(model, "it")
    with pytest.raises(UsageError, match=r"images of one batch have shapes .* needs collate="):
        embed_images(model, images, RunOptions(batch_size=2))


def test_a_feature_is_missing_in_a_later_batch(images: Any) -> None:
    def encode_image(batch: Any) -> Tensor:
        features = towers(batch["sums"] / batch["lengths"])
        return features[:2] if len(features) == 3 else features

    model = make(encode_image=encode_image)
    require_encoder(model, "it")
    with pytest.raises(UsageError, match="returns 2 features for a batch of 3 images"):
        embed_images(model, images, RunOptions(batch_size=3))


def test_errors_in_a_file_name_the_function(tmp_path: Path, images: Any) -> None:
    text = EXAMPLE.read_text("utf-8")
    file = tmp_path / "broken.py"
    file.write_text(text.replace("    lengths = ", "    lengths = images[9]  #", 1), "utf-8")
    assert "`model` cannot encode a picture and texts: IndexError" in refusal(f"python:{file}")
    late = "    images = images if len(images) < 3 else images[9]\n    lengths = "
    file.write_text(text.replace("    lengths = ", late, 1), "utf-8")
    encoder = load(f"python:{file}")
    with pytest.raises(UsageError, match=r"broken.py: collate failed: IndexError"):
        embed_images(encoder, images, RunOptions(batch_size=4))
    file.write_text(text.replace("src_key_padding_mask", "mask=None)  # ", 1), "utf-8")
    assert "mask the padding that `collate` adds" in refusal(f"python:{file}")


def test_a_picture_in_a_file_is_embedded_like_its_pixels(tmp_path: Path) -> None:
    encoder = load(f"python:{EXAMPLE}")
    picture = noise(50, 90)
    picture.save(tmp_path / "a.png")
    noise(30, 20).save(tmp_path / "b.png")
    files = [ImageFile(tmp_path / name) for name in ("a.png", "b.png")]
    arrays = [ImageArray("a", np.asarray(picture)), ImageArray("b", np.asarray(noise(30, 20)))]
    features = [
        embed_images(encoder, sources, RunOptions()).features for sources in (files, arrays)
    ]
    np.testing.assert_array_equal(features[0], features[1])
