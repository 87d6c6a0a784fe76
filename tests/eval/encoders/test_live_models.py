"""Models in training: measured as they are, and left as they were."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from support.user_models import pixels_of, tokens_of
from torch import Tensor, nn

import cosmos_eval
from cosmos_eval import TwoTower, UsageError


class Towers(nn.Module):
    """Towers with dropout and batch statistics; the text tower's norm is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(48, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        self.text = nn.Sequential(nn.Linear(9, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        self.fails = False

    def encode_image(self, images: Tensor) -> Tensor:
        random.random(), np.random.random(), torch.rand(1), torch.set_grad_enabled(False)
        if self.fails:
            raise RuntimeError("out of memory")
        return self.image(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.text(tokens / 100)


@pytest.fixture
def model() -> Towers:
    torch.manual_seed(0)
    towers = Towers().train()
    towers.text[1].eval()
    return towers


def wrap(model: Towers) -> TwoTower:
    return TwoTower(
        encode_image=model.encode_image,
        encode_text=model.encode_text,
        transform=pixels_of,
        tokenize=tokens_of,
        name="mine",
    )


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def random_state() -> tuple[Any, ...]:
    numpy_state = np.random.get_state()
    return random.getstate(), numpy_state[1].tolist(), torch.get_rng_state().tolist()


def measured(model: TwoTower) -> Any:
    return cosmos_eval.evaluate(model, "scenes-cls", limit=20)


def test_wrapping_a_model_leaves_it_in_training(model):
    before = modes(model)
    wrap(model)
    assert modes(model) == before
    assert before["image.2"]
    assert not before["text.1"]


def test_a_model_in_training_has_the_metrics_of_evaluation_mode(model):
    encoder = wrap(model)
    before = modes(model), random_state(), torch.is_grad_enabled()
    in_training = measured(encoder)
    assert (modes(model), random_state(), torch.is_grad_enabled()) == before
    assert model.image[1].num_batches_tracked == 0
    in_evaluation = measured(wrap(model.eval()))
    assert in_training.metrics == in_evaluation.metrics
    assert not any(modes(model).values())


def test_a_model_is_restored_after_an_error(model):
    encoder, model.fails = wrap(model), True
    before = modes(model), random_state(), torch.is_grad_enabled()
    message = "cannot encode a picture and texts: RuntimeError: out of memory"
    with pytest.raises(UsageError, match=message):
        measured(encoder)
    assert (modes(model), random_state(), torch.is_grad_enabled()) == before
    with pytest.raises(UsageError, match=message):
        cosmos_eval.embed(encoder, ["a dog"])
    assert (modes(model), random_state(), torch.is_grad_enabled()) == before


def test_features_of_a_model_in_training(model):
    encoder = wrap(model)
    features = cosmos_eval.embed(encoder, ["a", "dog"])
    assert modes(model)["text.2"]
    np.testing.assert_array_equal(features, cosmos_eval.embed(wrap(model.eval()), ["a", "dog"]))


def test_the_hash_is_that_of_the_weights_when_they_are_measured(model):
    encoder = wrap(model)
    first = measured(encoder).model["weights_sha256"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    second = measured(encoder).model["weights_sha256"]
    assert second != first
    assert second == wrap(model).info.weights_sha256


def test_gradients_flow_after_a_measurement(model):
    encoder = wrap(model)
    measured(encoder)
    model.text(torch.rand(4, 9)).sum().backward()
    assert model.text[0].weight.grad is not None
