"""A model from two functions: measured like any other, refused in one line where it is wrong."""

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
    """An object that is no module, around one."""

    model: Towers

    def encode(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images)


towers = Towers()


def transform(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.resize((8, 8)), np.float32)).permute(2, 0, 1) / 255


def tokenize(texts: list[str]) -> Tensor:
    rows = [[*map(ord, text[:9]), *[0] * (9 - len(text))] for text in texts]
    return torch.tensor(rows)


def of_the_file(images: Tensor) -> Tensor:
    return towers.encode_image(images)


def make(**changed: Any) -> TwoTower:
    model = Towers()
    parts = {"encode_image": model.encode_image, "encode_text": model.encode_text}
    return TwoTower(
        **{"transform": transform, "tokenize": tokenize, "name": "mine", **parts, **changed}
    )


def test_the_example_measures_what_the_bundled_model_does():
    assert len(EXAMPLE.read_text("utf-8").splitlines()) <= 15
    own, bundled = load(f"python:{EXAMPLE}"), load("scenes-clip")
    picture = Image.effect_noise((90, 70), 80).convert("RGB")
    texts = ["a red apple", "very " * 80 + "small", "a"]
    pixels, tokens = own.transform(picture)[None], own.tokenize(texts)
    torch.testing.assert_close(own.encode_image(pixels), bundled.encode_image(pixels))
    torch.testing.assert_close(own.encode_text(tokens), bundled.encode_text(tokens))
    assert own.overlong(texts).tolist() == bundled.overlong(texts).tolist() == [False, True, False]
    assert isinstance(own, Encoder)
    assert not isinstance(own, DenseEncoder)
    assert own.info.weights_sha256 is not None
    models = (f"python:{EXAMPLE}", "scenes-clip")
    rows = [cosmos_eval.evaluate(model, "scenes-cls", limit=20) for model in models]
    assert rows[0].metrics == rows[1].metrics
    assert len(rows[0].model["code_sha256"]) == 64


def test_an_object_is_measured_with_its_identity():
    row = cosmos_eval.evaluate(make(), "scenes-cls", limit=4)
    assert (row.model["spec"], row.model["architecture"]) == ("mine", "mine")
    assert len(row.model["weights_sha256"]) == len(row.model["code_sha256"]) == 64


def test_a_file_runs_in_the_precision_that_is_requested():
    whole, half = load(f"python:{EXAMPLE}"), load(f"python:{EXAMPLE}", precision="bf16")
    pixels = whole.transform(Image.new("RGB", (64, 64), "red"))[None]
    assert half.info.precision == "bf16"
    assert half.encode_image(pixels).dtype == torch.float32
    assert 0 < (half.encode_image(pixels) - whole.encode_image(pixels)).abs().max() < 0.02


def test_weights_are_found_where_functions_refer_to_them():
    local, other, holder = Towers(), Towers(), Holder()
    holder.model, weight = local, local.image.weight
    ways = {
        "attribute": holder.encode,
        "object": lambda images: holder.encode(images),
        "method": local.encode_image,
        "module": local.image,
        "closure": lambda images: local.encode_image(images),
        "partial": partial(lambda model, images: model.encode_image(images), local),
        "tensor": lambda images: images.mean(dim=(2, 3)) @ weight.T,
    }
    digests = {}
    for way, encode in ways.items():
        for shift in (0.0, 1.0):
            with torch.no_grad():
                local.image.weight += shift
            given = make(encode_image=encode, encode_text=other.encode_text)
            digests[way, shift] = given.info.weights_sha256
        assert digests[way, 0.0] != digests[way, 1.0]
    of_file = make(encode_image=of_the_file, encode_text=towers.encode_text)
    stated = make(encode_image=len, encode_text=len, weights=towers)
    assert of_file.info.weights_sha256 == stated.info.weights_sha256
    assert make(weights=towers.state_dict()).info.weights_sha256 is not None


def test_cut_texts_are_counted_and_those_that_fit_are_not():
    texts = ["", "a", "12345678", "123456789", "1234567890", "1234 67890123"]
    assert make().overlong(texts).tolist() == [False, False, False, False, True, True]
    padding_to_the_longest = make(tokenize=lambda texts: scenes_tokenizer(64)(texts)[:, :40])
    assert padding_to_the_longest.overlong(["a", "very " * 90]).tolist() == [False, True]


def keep_colours(texts: list[str]) -> Tensor:
    """Numbers of the words red and blue, at most three of a text; other words are dropped."""
    tokens = torch.zeros(len(texts), 3, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        words = text.replace(".", " ").replace(",", " ").split()
        numbers = [["red", "blue"].index(word) + 1 for word in words if word in ("red", "blue")][:3]
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens


def number_words(texts: list[str]) -> Tensor:
    """The same for three words of a text; other words have the number 3."""
    tokens = torch.zeros(len(texts), 3, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        numbers = [{"red": 1, "blue": 2}.get(word, 3) for word in text.split()[:3]]
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens


def test_words_that_a_tokenizer_drops_are_not_cut():
    whole = ["", "a ball", "red", "red on the left.", "red red blue", "red, a red and blue ball."]
    cut = ["red red red red", "a red, a red, a red and a blue ball", "red red blue ball blue."]
    dropping = make(tokenize=keep_colours)
    assert dropping.overlong([*whole, *cut]).tolist() == [False] * 6 + [True] * 3
    assert dropping.overlong(whole).tolist() == [False] * 6
    texts = ["red red ball", "red ball ball", "red ball ball ball", "ball ball ball blue"]
    assert make(tokenize=number_words).overlong(texts).tolist() == [False, False, True, True]


def test_dense_features():
    def encode_patches(images: Tensor, attention: str) -> Tensor:
        return nn.functional.avg_pool2d(images, 4).permute(0, 2, 3, 1) * 3

    dense = make(encode_patches=encode_patches, patch_size=4)
    assert isinstance(dense, DenseEncoder)
    patches = dense.encode_patches(torch.rand(2, 3, 10, 8), "csa")
    assert patches.shape == (2, 2, 2, 3)
    torch.testing.assert_close(patches.norm(dim=-1), torch.ones(2, 2, 2))
    wrong = make(encode_patches=encode_patches, patch_size=2)
    with pytest.raises(UsageError, match=r"returns \(2, 2, 2, 3\) for \(2, 3, 10, 8\), not \(2, 5"):
        wrong.encode_patches(torch.rand(2, 3, 10, 8), "csa")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encode_image": len, "weights": None}, "mine: .*len> refers to no module: give weights="),
        ({"encode_text": len, "weights": None}, "mine: .*len> refers to no module: give weights="),
        ({"encode_image": lambda x: towers(x)}, "cannot encode .* NotImplementedError"),
        ({"encode_image": lambda x: x}, r"`encode_image` returns \(2, 3, 8, 8\) for 2 inputs"),
        ({"encode_image": lambda x: [x]}, "a function returns list, not a tensor"),
        ({"encode_text": lambda x: x[:1, :5].float()}, r"`encode_text` returns \(1, 5\)"),
        ({"encode_text": lambda x: x.float()}, r"features of other dimensions: \[5, 9\]"),
        ({"encode_text": lambda x: x[:, :5] / 0}, r"features that are not finite"),
        ({"encode_text": lambda x: x[:, :5] * 0}, r"length 0, not 1"),
        ({"transform": lambda image: torch.zeros(8, 8)}, r"mine: `transform` returns \(8, 8\)"),
        ({"tokenize": lambda texts: texts}, r"mine: `tokenize` returns list"),
    ],
)
def test_what_is_no_model(changed, message):
    with pytest.raises(UsageError, match=message) as raised:
        require_encoder(make(**{"weights": towers, **changed}), "mine")
    assert "\n" not in str(raised.value)


def test_another_version_of_the_weights_is_another_identity(tmp_path):
    text = EXAMPLE.read_text("utf-8")
    digests = set()
    for name in ("scenes-clip", "scenes-cosmos"):
        path = tmp_path / f"{name}.py"
        path.write_text(text.replace("scenes-clip", name))
        info = load(f"python:{path}").info
        digests.add((info.weights_sha256, info.code_sha256))
    assert len({weights for weights, _ in digests}) == len({code for _, code in digests}) == 2


def test_scores_of_pairs():
    """Parts are one tensor or several, on the way in as the functions return them."""
    given = {"encode_image": towers.encode_image, "encode_text": towers.encode_text}
    given |= {"transform": transform, "tokenize": tokenize, "name": "mine"}

    def scores(images, text):
        return images[0] @ text.T + images[1][:, None]

    model = TwoTower(
        **given,
        image_parts=lambda images: (towers.encode_image(images), images.amax(dim=(1, 2, 3))),
        text_parts=towers.encode_text,
        pair_scores=scores,
    )
    assert isinstance(model, PairScorer)
    assert model.pair_score == "scores"
    images, tokens = torch.rand(3, 3, 8, 8), tokenize(["a", "some words"])
    found = model.pair_scores(model.image_parts(images), model.text_parts(tokens))
    product = towers.encode_image(images) @ towers.encode_text(tokens).T
    torch.testing.assert_close(found, (product + images.amax(dim=(1, 2, 3))[:, None]).detach())
    assert not isinstance(TwoTower(**given), PairScorer)
    with pytest.raises(UsageError, match="mine: pair_scores= needs image_parts= and text_parts="):
        TwoTower(**given, pair_scores=scores)
