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
    """Run one image at a time through the modules of the example, without a mask."""
    module = runpy.run_path(str(EXAMPLE))
    towers, features = module["towers"].eval(), []
    for image in images:
        inputs = module["transform"](Image.fromarray(image.pixels))
        tokens = towers.embed_patches(inputs["patches"]) + towers.embed_places(inputs["places"])
        for layer in towers.blocks.layers:
            tokens = layer(tokens[None])[0]
        features.append(tokens.mean(dim=0))
    return nn.functional.normalize(torch.stack(features), dim=-1)


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
    """Write data sets of pictures of many sizes, for classification and with captions."""
    entries, colours = [], ["red", "green", "blue"]
    for i, (height, width) in enumerate(SIZES):
        colour = colours[i % 3]
        file = tmp_path / "pictures" / colour / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), colour).save(file)
        entries.append({"image": f"{colour}/{i}.png", "captions": [f"a {colour} wall {i}"]})
    (tmp_path / "captions.json").write_text(json.dumps(entries), "utf-8")
    retrieval_yaml = "kind: retrieval\nimages: pictures\nannotations: captions.json\n"
    (tmp_path / "cls.yaml").write_text("kind: cls\nfolder: pictures\n", "utf-8")
    (tmp_path / "retrieval.yaml").write_text(retrieval_yaml, "utf-8")
    return tmp_path


@pytest.mark.parametrize("task", ["cls", "retrieval"])
def test_metrics_do_not_depend_on_the_batch(
    task: str, pictures: Path, command: Any, tmp_path: Path
) -> None:
    """Batches of one image and of all images give the same metrics."""
    metrics = []
    for batch_size in (1, 8):
        output = tmp_path / f"out-{batch_size}"
        run = ("run", "--model", f"python:{EXAMPLE}", "--dataset", pictures / f"{task}.yaml")
        completed = command(*run, "--batch-size", batch_size, "--no-cache", "--output", output)
        assert completed.status == 0, completed.err
        (file,) = output.glob("*.json")
        result = json.loads(file.read_text("utf-8"))
        metrics.append(result["metrics"])
        assert result["model"]["name"] == "any-size"
        assert result["model"]["facts"]["embedding_size"] == 32
        assert result["model"]["facts"]["image_size"] is None
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("dataset", ["scenes-cls", "scenes-retrieval", "scenes-select"])
def test_the_example_is_measured_on_embedded_sets(dataset: str, command: Any) -> None:
    run = ("run", "--dataset", dataset, "--limit", 6, "--no-cache", "--output", "out")
    completed = command(*run, "--model", f"python:{EXAMPLE}")
    assert completed.status == 0, completed.err


@pytest.mark.parametrize("dataset", ["scenes-seg", "scenes-loc"])
def test_tasks_that_need_patches_refuse_the_example(dataset: str, command: Any) -> None:
    run = ("run", "--dataset", dataset, "--output", "out")
    completed = command(*run, "--model", f"python:{EXAMPLE}")
    assert completed.status == 2
    assert "any_size.py has no patches to compare a text with" in completed.err
    assert "Traceback" not in completed.err


class NamedBatch(NamedTuple):
    """For each image, the sum (3) of its pixels and their number."""

    sums: Tensor
    lengths: Tensor


image_tower = nn.Linear(3, 5)
"""The image tower of all models of `make`: a linear map of the mean colour."""
MAPPINGS = ("dict", "BatchFeature")
KINDS = ("tensor", "tuple", "named tuple", *MAPPINGS)


def transform(image: Image.Image) -> Tensor:
    """Return the pixels (N, 3) of an image, whose number N depends on its size."""
    return torch.from_numpy(np.asarray(image, np.float32)).flatten(0, 1) / 255


def mean_colours(images: list[ImageArray]) -> Tensor:
    """Return the mean colours (N, 3) of images, from 0 to 1."""
    means = np.stack([image.pixels.mean((0, 1)) for image in images]) / 255
    return torch.tensor(means).float()


def make(kind: str = "dict", **changes: Any) -> TwoTower:
    """Make a model of the mean colour, whose batches are of a kind; changes replace functions."""

    def collate(images: list[Tensor]) -> Any:
        sums = torch.stack([image.sum(0) for image in images])
        lengths = torch.tensor([[len(image)] for image in images])
        return {
            "tensor": sums / lengths,
            "tuple": (sums, lengths),
            "named tuple": NamedBatch(sums, lengths),
            "dict": {"sums": sums, "lengths": lengths, "unit": "pixels"},
            "BatchFeature": BatchFeature({"sums": sums, "lengths": lengths}),
        }[kind]

    def encode_image(batch: Any) -> Tensor:
        if kind == "tensor":
            return image_tower(batch)
        if kind == "named tuple":
            return image_tower(batch.sums / batch.lengths)
        if kind == "BatchFeature":
            assert isinstance(batch, BatchFeature)
        sums, lengths = batch if kind == "tuple" else (batch["sums"], batch["lengths"])
        return image_tower(sums / lengths)

    functions = {
        "transform": transform,
        "collate": collate,
        "tokenize": scenes_tokenizer(),
        "encode_image": encode_image,
        "encode_text": nn.EmbeddingBag(49408, 5),
    }
    return TwoTower(name="mine", **(functions | changes))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_any_kind_is_encoded(kind: str, images: Any) -> None:
    model = make(kind)
    require_encoder(model, "it")
    assert isinstance(model, CollatingEncoder)
    expected = nn.functional.normalize(image_tower(mean_colours(images)), dim=-1)
    features = embed_images(model, images, RunOptions(batch_size=3)).features
    torch.testing.assert_close(torch.from_numpy(features), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_moved_to_the_device_of_the_model(kind: str) -> None:
    """The device `meta` has no values, but shows which tensors are moved. The batch stays."""

    def devices(batch: Any) -> list[str]:
        values = batch.values() if kind in MAPPINGS else batch
        return [str(value.device) for value in values if isinstance(value, Tensor)]

    batch = make(kind).collate([torch.ones(2, 3), torch.ones(5, 3)])
    moved_batch = _move_inputs(batch, "meta")
    assert type(moved_batch) is type(batch)
    assert devices(batch) == ["cpu"] * 2
    assert devices(moved_batch) == ["meta"] * 2
    if kind == "dict":
        assert moved_batch["unit"] == "pixels"


def test_collate_may_do_everything(images: Any) -> None:
    """`transform` returns the picture itself, or an array; a list in a batch is moved too."""

    def collate(pictures: list[Any]) -> dict[str, Any]:
        return {"pixels": [transform(Image.fromarray(np.asarray(p))) for p in pictures]}

    def encode_image(batch: Any) -> Tensor:
        return image_tower(torch.stack([pixels.mean(0) for pixels in batch["pixels"]]))

    expected = nn.functional.normalize(image_tower(mean_colours(images)), dim=-1).detach().numpy()
    for idle_transform in (Image.Image.copy, np.asarray):
        model = make(transform=idle_transform, collate=collate, encode_image=encode_image)
        require_encoder(model, "it")
        features = embed_images(model, images, RunOptions(batch_size=3)).features
        np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)
    moved_batch = _move_inputs(collate([images[0].pixels]), "meta")
    assert [str(pixels.device) for pixels in moved_batch["pixels"]] == ["meta"]


def test_an_object_is_measured_alike_with_any_batch_size() -> None:
    """By `evaluate`, the function for training loops."""
    model = make()
    results = [evaluate(model, "scenes-cls", limit=6, batch_size=size) for size in (1, 4)]
    assert results[0].metrics == pytest.approx(results[1].metrics, abs=1e-5)
    assert results[0].model["facts"]["image_size"] is None


def products(image_features: Tensor, text_features: Tensor) -> Tensor:
    return image_features @ text_features.T


def test_pairs_are_scored_by_batches_of_collate(images: Any) -> None:
    """The score of a pair is the product of the features of a mean colour and of words."""
    text_tower = nn.EmbeddingBag(49408, 5)
    model = make(
        encode_text=text_tower,
        image_parts=make().__dict__["_encode_image"],
        text_parts=text_tower,
        pair_scores=products,
    )
    require_encoder(model, "it")
    texts = ["a red ball", "two boats"]
    image_indices = np.arange(len(images))
    candidates = [image_indices] * len(texts)
    tables = []
    for batch_size in (1, 5):
        options = RunOptions(batch_size=batch_size)
        score = score_pairs(model, images, texts, candidates, options)
        tables.append(score(image_indices[None], np.arange(len(texts))[:, None]))
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-5)
    with torch.no_grad():
        text_features = text_tower(model.tokenize(texts))
        expected = text_features @ image_tower(mean_colours(images)).T
    np.testing.assert_allclose(tables[0], expected.numpy(), atol=1e-4)


def test_near_duplicates_of_any_size_are_found(images: Any) -> None:
    model = make()
    sources = {image.name: image for image in images}
    options = RunOptions(batch_size=3)
    search = EmbeddingSearch(model, 0.9999, sources, options, no_progress)
    training = [search.transform(Image.fromarray(image.pixels)) for image in images[:5]]
    matches = [*search.near_duplicates("a.tar", list("abcde"), training)]
    copies = {("a", "0"), ("b", "1"), ("c", "2"), ("d", "3"), ("e", "4")}
    assert {(match.key, match.image) for match in matches} >= copies


def test_costs_that_depend_on_the_size_of_an_image_are_not_stated() -> None:
    """The cost of the example depends on it; the cost of a mean colour's feature does not."""
    facts = model_facts(load(f"python:{EXAMPLE}"))
    assert (facts["image_size"], facts["image_gflops"], facts["embedding_size"]) == (None, None, 32)
    facts = model_facts(make())
    assert (facts["image_size"], facts["embedding_size"]) == (None, 5)
    assert facts["image_gflops"] == 2 * 3 * 5 / 1e9
    assert model_facts(make("tensor"))["image_size"] is None  # its batch has no height


def test_maps_are_refused_if_transform_returns_no_pixels() -> None:
    def encode_patches(images: Tensor, attention: str) -> Tensor:
        return images[:, None, None, :, 0, 0]

    model: Any = make(encode_patches=encode_patches, patch_size=8)
    with pytest.raises(UsageError, match="its `transform` returns no pixels"):
        whole_image_size(model, (40, 60))


def pad(images: list[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence(images, batch_first=True)


@pytest.mark.parametrize(
    ("wrong_functions", "message"),
    [
        (
            {"collate": pad, "encode_image": lambda batch: image_tower(batch.mean(1))},
            r"other features for an image if its batch has an image of another size, .*: mask",
        ),
        (
            {"collate": pad, "encode_image": lambda batch: image_tower(batch[0, :1])},
            r"`encode_image` returns \(1, 5\) for 2 inputs",
        ),
        (
            {"encode_image": lambda batch: image_tower(batch["sums"])[:1]},
            r"`encode_image` returns 1 features for a batch of 2 images",
        ),
        ({"encode_image": lambda batch: image_tower(batch["sums"])[0]}, r"\(5,\), not \(B, D\)"),
        ({"collate": lambda images: images[5]}, "IndexError"),
        ({"transform": lambda image: torch.randn(4, 3)}, "returns other pixels"),
        (
            {"transform": lambda image: {"a": torch.ones(3), "b": [torch.rand(1)]}},
            "returns other pixels",
        ),
    ],
)
def test_faults_are_named_in_one_line(wrong_functions: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        require_encoder(make(**wrong_functions), "it")
    assert "\n" not in str(raised.value)


def test_images_of_different_sizes_need_collate(images: Any) -> None:
    def transform_to_chw(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1)

    def encode_image(images: Tensor) -> Tensor:
        return image_tower(images.mean((2, 3)))

    model = make(collate=None, transform=transform_to_chw, encode_image=encode_image)
    require_encoder(model, "it")
    with pytest.raises(UsageError, match=r"images of one batch have shapes .* needs collate="):
        embed_images(model, images, RunOptions(batch_size=2))


def test_a_feature_that_is_missing_in_a_later_batch_is_an_error(images: Any) -> None:
    def encode_image(batch: Any) -> Tensor:
        features = image_tower(batch["sums"] / batch["lengths"])
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
    failing_later = "    images = images if len(images) < 3 else images[9]\n    lengths = "
    file.write_text(text.replace("    lengths = ", failing_later, 1), "utf-8")
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
    features_of_files = embed_images(encoder, files, RunOptions()).features
    features_of_arrays = embed_images(encoder, arrays, RunOptions()).features
    np.testing.assert_array_equal(features_of_files, features_of_arrays)
