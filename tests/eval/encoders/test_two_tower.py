"""A model from two functions is measured like any other, or refused in one line if it is wrong."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.encoders import load
from torch import Tensor, nn

import cosmos_eval
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_eval import TwoTower, UsageError
from cosmos_eval.models.encoder import DenseEncoder, Encoder, PairScorer, require_encoder
from cosmos_eval.models.user import referred_weights

EXAMPLE = Path(__file__).parents[3] / "examples" / "two_tower.py"


class Towers(nn.Module):
    """Linear maps of the mean colour and of the tokens to five dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(3, 5), nn.Linear(9, 5)

    def encode_image(self, images: Tensor) -> Tensor:
        return self.image(images.mean(dim=(2, 3)))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.text(tokens.float())


class Holder:
    """An object that is not a module, but holds one."""

    model: Towers

    def encode(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images)


DOUBLE = nn.Linear(3, 5).double()
module_towers = Towers()
"""Towers to which functions of this file refer by a global name."""


def transform(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.resize((8, 8)), np.float32)).permute(2, 0, 1) / 255


def tokenize(texts: list[str]) -> Tensor:
    rows = [[*map(ord, text[:9]), *[0] * (9 - len(text))] for text in texts]
    return torch.tensor(rows)


def encode_with_module_towers(images: Tensor) -> Tensor:
    return module_towers.encode_image(images)


def make(**options: Any) -> TwoTower:
    """Make a model of new towers, or of the functions that are among the options."""
    towers = Towers()
    defaults = {
        "encode_image": towers.encode_image,
        "encode_text": towers.encode_text,
        "transform": transform,
        "tokenize": tokenize,
        "name": "mine",
    }
    return TwoTower(**(defaults | options))


def test_the_example_measures_what_the_bundled_model_does():
    assert len(EXAMPLE.read_text("utf-8").splitlines()) <= 15
    example, bundled = load(f"python:{EXAMPLE}"), load("scenes-clip")
    picture = Image.effect_noise((90, 70), 80).convert("RGB")
    texts = ["a red apple", "very " * 80 + "small", "a"]
    pixels, tokens = example.transform(picture)[None], example.tokenize(texts)
    torch.testing.assert_close(example.encode_image(pixels), bundled.encode_image(pixels))
    torch.testing.assert_close(example.encode_text(tokens), bundled.encode_text(tokens))
    assert example.overlong(texts).tolist() == [False, True, False]
    assert bundled.overlong(texts).tolist() == [False, True, False]
    assert isinstance(example, Encoder)
    assert not isinstance(example, DenseEncoder)
    assert example.info.weights_sha256 is not None
    example_result = cosmos_eval.evaluate(f"python:{EXAMPLE}", "scenes-cls", limit=20)
    bundled_result = cosmos_eval.evaluate("scenes-clip", "scenes-cls", limit=20)
    # A CPU may round other batches otherwise.
    assert example_result.metrics == pytest.approx(bundled_result.metrics, rel=1e-4)
    assert len(example_result.model["code_sha256"]) == 64


def test_an_object_is_measured_with_its_identity():
    result = cosmos_eval.evaluate(make(), "scenes-cls", limit=4)
    assert (result.model["spec"], result.model["architecture"]) == ("mine", "mine")
    assert len(result.model["weights_sha256"]) == len(result.model["code_sha256"]) == 64


def test_a_file_runs_in_the_precision_that_is_requested():
    fp32, bf16 = load(f"python:{EXAMPLE}"), load(f"python:{EXAMPLE}", precision="bf16")
    pixels = fp32.transform(Image.new("RGB", (64, 64), "red"))[None]
    assert bf16.info.precision == "bf16"
    assert bf16.encode_image(pixels).dtype == torch.float32
    assert 0 < (bf16.encode_image(pixels) - fp32.encode_image(pixels)).abs().max() < 0.02


def test_weights_are_found_where_functions_refer_to_them():
    image_towers, text_towers, holder = Towers(), Towers(), Holder()
    holder.model, weight = image_towers, image_towers.image.weight
    # Ways in which an image encoder refers to `image_towers`.
    image_encoders = {
        "attribute": holder.encode,
        "object": lambda images: holder.encode(images),
        "method": image_towers.encode_image,
        "module": image_towers.image,
        "closure": lambda images: image_towers.encode_image(images),
        "partial": partial(lambda model, images: model.encode_image(images), image_towers),
        "tensor": lambda images: images.mean(dim=(2, 3)) @ weight.T,
    }
    for way, encode_image in image_encoders.items():
        model = make(encode_image=encode_image, encode_text=text_towers.encode_text)
        with torch.no_grad():
            weight += 1.0
        changed_model = make(encode_image=encode_image, encode_text=text_towers.encode_text)
        assert model.info.weights_sha256 != changed_model.info.weights_sha256, way
    by_global_name = make(
        encode_image=encode_with_module_towers, encode_text=module_towers.encode_text
    )
    stated = make(encode_image=len, encode_text=len, weights=module_towers)
    assert by_global_name.info.weights_sha256 == stated.info.weights_sha256
    assert make(weights=module_towers.state_dict()).info.weights_sha256 is not None


class Head:
    """A plain object that holds a module, and the object that holds itself."""

    def __init__(self, owner: Any) -> None:
        self.owner, self.linear = owner, nn.Linear(5, 5)


class TowersWithHeads(Towers):
    """A module that holds a head in a plain container, where PyTorch does not register it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = {"image": nn.Linear(5, 5)}
        self.masks = [torch.zeros(3)]  # not weights


@pytest.mark.parametrize("place", ["dict", "list", "object", "tensor", "module"])
def test_weights_inside_containers_are_found_after_the_others(place):
    holder = Holder()
    holder.model = towers = TowersWithHeads() if place == "module" else Towers()
    holder.aliases = [towers, towers.text, [*towers.parameters()]]
    holder.optimizers = {"adam": torch.optim.Adam(towers.parameters())}
    if place == "module":
        head = towers.heads["image"]
    elif place == "object":
        holder.children = (Head(holder),)
        head = holder.children[0].linear
    elif place == "tensor":
        head = torch.ones(5)
        holder.scales = {"image": head}
    else:
        head = nn.Linear(5, 5)
        holder.heads = {"image": head} if place == "dict" else [[head]]
    assert [*referred_weights([holder.encode])] == [towers, head]


def test_aliases_of_weights_do_not_change_their_hash():
    towers, holder = Towers(), Holder()
    expected = make(encode_image=len, encode_text=len, weights=towers).info.weights_sha256
    holder.model, holder.aliases = towers, {"text": towers.text, "all": [*towers.parameters()]}
    model = make(encode_image=holder.encode, encode_text=holder.encode)
    assert model.info.weights_sha256 == expected
    holder.aliases["head"] = nn.Linear(2, 2)
    model.refresh_info()
    assert model.info.weights_sha256 != expected


def pad_to_the_longest(texts: list[str]) -> Tensor:
    """Pad to the longest text instead of to the context, which is 40 of the 64 tokens."""
    return scenes_tokenizer(64)(texts)[:, :40]


def test_cut_texts_are_counted_and_those_that_fit_are_not():
    texts = ["", "a", "12345678", "123456789", "1234567890", "1234 67890123"]
    assert make().overlong(texts).tolist() == [False, False, False, False, True, True]
    model = make(tokenize=pad_to_the_longest)
    assert model.overlong(["a", "very " * 90]).tolist() == [False, True]


def keep_colours(texts: list[str]) -> Tensor:
    """Number the words red and blue, at most three of a text, and drop other words."""
    colours = {"red": 1, "blue": 2}
    tokens = torch.zeros(len(texts), 3, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        words = text.replace(".", " ").replace(",", " ").split()
        numbers = [colours[word] for word in words if word in colours][:3]
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens


def number_words(texts: list[str]) -> Tensor:
    """Number the first three words of a text: red 1, blue 2, other words 3."""
    tokens = torch.zeros(len(texts), 3, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        numbers = [{"red": 1, "blue": 2}.get(word, 3) for word in text.split()[:3]]
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens


def test_words_that_a_tokenizer_drops_are_not_cut():
    fitting = ["", "a ball", "red", "red on the left.", "red red blue", "red, a red and blue ball."]
    cut = ["red red red red", "a red, a red, a red and a blue ball", "red red blue ball blue."]
    model = make(tokenize=keep_colours)
    assert model.overlong([*fitting, *cut]).tolist() == [False] * 6 + [True] * 3
    assert model.overlong(fitting).tolist() == [False] * 6
    texts = ["red red ball", "red ball ball", "red ball ball ball", "ball ball ball blue"]
    assert make(tokenize=number_words).overlong(texts).tolist() == [False, False, True, True]


def test_patch_features_are_normalized_and_their_number_is_checked():
    def encode_patches(images: Tensor, attention: str) -> Tensor:
        return nn.functional.avg_pool2d(images, 4).permute(0, 2, 3, 1) * 3

    model = make(encode_patches=encode_patches, patch_size=4)
    assert isinstance(model, DenseEncoder)
    patches = model.encode_patches(torch.rand(2, 3, 10, 8), "csa")
    assert patches.shape == (2, 2, 2, 3)
    torch.testing.assert_close(patches.norm(dim=-1), torch.ones(2, 2, 2))
    model_of_smaller_patches = make(encode_patches=encode_patches, patch_size=2)
    with pytest.raises(UsageError, match=r"returns \(2, 2, 2, 3\) for \(2, 3, 10, 8\), not \(2, 5"):
        model_of_smaller_patches.encode_patches(torch.rand(2, 3, 10, 8), "csa")


@pytest.mark.parametrize(
    ("wrong_options", "message"),
    [
        ({"encode_image": len, "weights": None}, "mine: .*len> refers to no module: give weights="),
        ({"encode_text": len, "weights": None}, "mine: .*len> refers to no module: give weights="),
        ({"encode_image": lambda x: module_towers(x)}, "cannot encode .* NotImplementedError"),
        ({"encode_image": lambda x: x}, r"`encode_image` returns \(2, 3, 8, 8\) for 2 inputs"),
        ({"encode_image": lambda x: [x]}, "a function returns list, not a tensor"),
        ({"encode_image": lambda x: (x, x)}, "a function returns a tuple of 2 tensors, not one"),
        ({"encode_image": lambda x: DOUBLE(x.mean((2, 3)))}, r"call \.float\(\) on the model, or"),
        ({"encode_text": lambda x: x[:1, :5].float()}, r"`encode_text` returns \(1, 5\)"),
        ({"encode_text": lambda x: x.float()}, r"features of other dimensions: \[5, 9\]"),
        ({"encode_text": lambda x: x[:, :5] / 0}, r"features that are not finite"),
        ({"encode_text": lambda x: x[:, :5] * 0}, r"length 0, not 1"),
        ({"transform": lambda image: torch.zeros(8, 8)}, r"mine: `transform` returns \(8, 8\)"),
        ({"tokenize": lambda texts: texts}, r"mine: `tokenize` returns list, .* dimensions$"),
        ({"tokenize": lambda texts: {"input_ids": 1}}, r"mine: `tokenize` returns dict"),
        ({"tokenize": lambda texts: [[1], [2]]}, r"returns list, .*\.partial\(tokenizer, padding="),
    ],
)
def test_wrong_functions_are_refused_in_one_line(wrong_options, message):
    with pytest.raises(UsageError, match=message) as raised:
        require_encoder(make(**{"weights": module_towers, **wrong_options}), "mine")
    assert "\n" not in str(raised.value)


def test_another_object_is_told_to_become_two_towers():
    with pytest.raises(
        UsageError, match=r"it has no .*; make a cosmos_eval\.TwoTower of its funct"
    ):
        require_encoder(module_towers, "mine")


def test_another_version_of_the_weights_is_another_identity(tmp_path):
    text = EXAMPLE.read_text("utf-8")
    digests = set()
    for name in ("scenes-clip", "scenes-cosmos"):
        path = tmp_path / f"{name}.py"
        path.write_text(text.replace("scenes-clip", name))
        info = load(f"python:{path}").info
        digests.add((info.weights_sha256, info.code_sha256))
    assert len({weights for weights, _ in digests}) == len({code for _, code in digests}) == 2


def features_and_brightest_pixels(images: Tensor) -> tuple[Tensor, Tensor]:
    return module_towers.encode_image(images), images.amax(dim=(1, 2, 3))


def scores(image_parts: tuple[Tensor, Tensor], text_features: Tensor) -> Tensor:
    image_features, brightest_pixels = image_parts
    return image_features @ text_features.T + brightest_pixels[:, None]


def test_scores_of_pairs_take_one_tensor_or_several():
    """The parts of an image are a tuple here, and those of a text are one tensor."""
    encoders = {
        "encode_image": module_towers.encode_image,
        "encode_text": module_towers.encode_text,
    }
    model = make(
        **encoders,
        image_parts=features_and_brightest_pixels,
        text_parts=module_towers.encode_text,
        pair_scores=scores,
    )
    assert isinstance(model, PairScorer)
    assert model.pair_score == "scores"
    images, tokens = torch.rand(3, 3, 8, 8), tokenize(["a", "some words"])
    pair_scores = model.pair_scores(model.image_parts(images), model.text_parts(tokens))
    products = module_towers.encode_image(images) @ module_towers.encode_text(tokens).T
    expected = (products + images.amax(dim=(1, 2, 3))[:, None]).detach()
    torch.testing.assert_close(pair_scores, expected)
    assert not isinstance(make(**encoders), PairScorer)
    with pytest.raises(UsageError, match="mine: pair_scores= needs image_parts= and text_parts="):
        make(**encoders, pair_scores=scores)
