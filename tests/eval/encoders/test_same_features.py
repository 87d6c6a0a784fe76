"""Features that change at every call, and features that are the same for all inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.user_models import pixels_of, tokens_of
from torch import Tensor, nn
from torchvision.transforms import RandomHorizontalFlip, RandomResizedCrop

import cosmos_eval
from cosmos_eval import TwoTower, UsageError

image_tower, text_tower = nn.Linear(192, 16), nn.Linear(9, 16)


def encode_image(images: Tensor) -> Tensor:
    return image_tower(images.flatten(1))


def encode_text(tokens: Tensor) -> Tensor:
    return text_tower(tokens / 100)


def with_dropout(images: Tensor) -> Tensor:
    return nn.functional.dropout(encode_image(images), 0.1, training=True)


def with_noise(tokens: Tensor) -> Tensor:
    features = encode_text(tokens)
    return features + 0.01 * features.norm() * torch.randn_like(features)


def bias_only(images: Tensor) -> Tensor:
    """Return the output of a tower that ignores its input."""
    return image_tower.bias.repeat(len(images), 1)


def at_the_start(tokens: Tensor) -> Tensor:
    """Return the feature at the first token, which is equal for all texts.

    A causal text tower does so if the end of text never occurs.
    """
    return text_tower.weight[:, 0].repeat(len(tokens), 1)


def with_random_flip(image: Image.Image) -> Tensor:
    return pixels_of(RandomHorizontalFlip()(image))


def with_random_crop(image: Image.Image) -> Tensor:
    return pixels_of(RandomResizedCrop(32)(image))


def make(**changes: Any) -> TwoTower:
    functions = {"encode_image": encode_image, "encode_text": encode_text}
    functions |= {"transform": pixels_of, "tokenize": tokens_of}
    return TwoTower(**(functions | changes), name="mine")


@pytest.mark.parametrize(
    ("wrong_function", "message"),
    [
        ({"encode_image": with_dropout}, "`encode_image` returns other features for the same"),
        ({"encode_text": with_noise}, "`encode_text` returns other features for the same input"),
        ({"transform": with_random_flip}, "`transform` returns other pixels for the same image"),
        ({"transform": with_random_crop}, "`transform` returns other pixels for the same image"),
        (
            {"encode_image": bias_only},
            "mine returns the same feature for all 20 images, which differ",
        ),
        ({"encode_text": at_the_start}, "mine returns the same feature for 10 different prompts"),
    ],
)
def test_random_and_constant_functions_are_refused(wrong_function, message):
    with pytest.raises(UsageError, match=message) as raised:
        cosmos_eval.evaluate(make(**wrong_function), "scenes-cls", limit=20)
    assert "\n" not in str(raised.value)


def test_streamed_and_cached_features_are_compared_too(colour_encoder, save_colour, tmp_path):
    """Nothing is encoded here: the images already have their features."""
    from cosmos_eval.embedding.embed import EmbeddedImage, embed_images
    from cosmos_eval.types import RunOptions

    feature = np.array([0, 1, 0], np.float32)
    images = [EmbeddedImage(f"{i}.jpg", bytes([i]), feature) for i in range(8)]
    fault = "colours returns the same feature for all 8 images, which differ"
    with pytest.raises(UsageError, match=fault):
        embed_images(colour_encoder, images, RunOptions())
    assert len(embed_images(colour_encoder, [images[0]] * 8, RunOptions()).features) == 8


def test_few_images_with_one_feature_are_reported(colour_encoder, save_colour, tmp_path, capsys):
    """Pictures of one colour may differ in what a model need not see, such as their size."""
    paths = [save_colour(tmp_path / "a.png", "red"), tmp_path / "b.png"]
    Image.new("RGB", (9, 9), (255, 0, 0)).save(paths[1])
    features = cosmos_eval.embed(colour_encoder, paths, progress=True, batch_size=1)
    np.testing.assert_array_equal(features[0], features[1])
    assert "colours returns the same feature for all 2 images" in capsys.readouterr().err


def test_inputs_that_are_the_same_may_have_the_same_feature(tmp_path: Path):
    """One input, an input given twice, and one picture in two files."""
    picture = Image.effect_noise((20, 20), 80).convert("RGB")
    paths = [tmp_path / "a.png", tmp_path / "b.bmp"]
    for path in paths:
        picture.save(path)
    for inputs in ([paths[0]], [paths[0]] * 2, paths, ["a dog"], ["a dog", "a dog"]):
        features = cosmos_eval.embed(make(), inputs)
        np.testing.assert_array_equal(features, np.repeat(features[:1], len(inputs), axis=0))


def test_texts_that_a_vocabulary_does_not_know_are_reported(capsys: pytest.CaptureFixture[str]):
    def tokenize_unknown_words(texts: list[str]) -> Tensor:
        return torch.ones(len(texts), 9, dtype=torch.long)

    model = make(tokenize=tokenize_unknown_words)
    assert cosmos_eval.embed(model, ["un chien", "un chat"], progress=True).shape == (2, 16)
    warning = "mine has the same tokens for 2 different texts: it knows no word"
    assert warning in capsys.readouterr().err
