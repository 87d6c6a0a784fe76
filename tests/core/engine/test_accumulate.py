"""A batch in chunks: the loss and gradient of the whole, with the activations of one chunk."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from support.training import (
    ABLATIONS,
    METHODS,
    SINGLE_PROCESS,
    double_precision,
    gradients,
    kept_for_backward,
    step,
    tiny_config,
    tiny_views,
)
from torch import Tensor

from cosmos_core import Views
from cosmos_core.engine.build import make_training
from cosmos_core.engine.step import as_leaves, carry_back, join_features, split_views
from cosmos_core.losses import clip_loss
from cosmos_core.methods.clip import ClipMethod, clip_features

EVERY_METHOD = {**METHODS, "without distillation": ABLATIONS["without distillation"]}


class Record(NamedTuple):
    """Features of a made-up method."""

    rows: Tensor
    # A field without a value, such as that of features which a method does not use.
    nothing: None
    scale: Tensor


def train_one_step(name, *, n_chunks, precision="fp32"):
    """Return the report of a step of a method, and the training after it."""
    method = EVERY_METHOD[name]
    config = tiny_config(method, accumulate=n_chunks, precision=precision)
    training = make_training(config, SINGLE_PROCESS)
    report = step(training, tiny_views(method), n_chunks=n_chunks, precision=precision)
    return report, training


def relative_difference(model, expected_model):
    """Return the norm of the difference of two models' gradients, relative to the expected one."""
    model_gradients, expected_gradients = gradients(model), gradients(expected_model)
    assert model_gradients.keys() == expected_gradients.keys()
    gradient = torch.cat([model_gradients[key].flatten() for key in expected_gradients])
    expected_gradient = torch.cat([value.flatten() for value in expected_gradients.values()])
    return ((gradient - expected_gradient).norm() / expected_gradient.norm()).item()


def assert_close_weights(model, expected_model):
    weights = model.state_dict()
    for key, value in expected_model.state_dict().items():
        assert torch.allclose(weights[key], value, atol=1e-9), key


@pytest.mark.parametrize(
    ("name", "n_chunks"), [*((name, 4) for name in EVERY_METHOD), ("cosmos", 2)]
)
def test_chunks_give_the_gradient_of_the_whole_batch(name, n_chunks):
    with double_precision():
        expected_report, expected = train_one_step(name, n_chunks=1)
        report, training = train_one_step(name, n_chunks=n_chunks)
    assert relative_difference(training.model, expected.model) < 1e-12
    assert report.terms == pytest.approx(expected_report.terms, abs=1e-12)
    assert_close_weights(training.model, expected.model)
    assert_close_weights(training.teacher, expected.teacher)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 0.03)])
def test_gradients_of_chunks_are_as_precise_as_the_number_format(precision, tolerance):
    _, expected = train_one_step("cosmos", n_chunks=1, precision=precision)
    _, training = train_one_step("cosmos", n_chunks=4, precision=precision)
    assert relative_difference(training.model, expected.model) < tolerance


def test_the_activations_of_one_chunk_are_held_at_a_time():
    method = METHODS["cosmos"]
    training = make_training(tiny_config(method), SINGLE_PROCESS)

    def size_kept(views):
        return kept_for_backward(training.model, partial(training.student_encoder, views))

    views = tiny_views(method)
    sizes_of_chunks = [size_kept(chunk) for chunk in split_views(views, 4)]
    assert max(sizes_of_chunks) < 0.3 * size_kept(views)


class FlatFeatures(NamedTuple):
    """Features of one view without the dimension of views."""

    image: Tensor
    text: Tensor
    logit_scale: Tensor


class FlatMethod(ClipMethod):
    """CLIP whose features are (B, D)."""

    def student_features(self, student, views):
        features = clip_features(student, views)
        return FlatFeatures(features.image[0], features.text[0], features.logit_scale)

    def loss(self, student, teacher, gather):
        return clip_loss(student.image[None], student.text[None], student.logit_scale, gather)


def test_features_without_a_dimension_of_views_are_refused_in_the_first_step_of_chunks():
    method = FlatMethod()
    views = tiny_views(method)
    training = make_training(tiny_config(method, accumulate=2), SINGLE_PROCESS)
    with pytest.raises(ValueError, match=r"the feature image of the method .*\(4, 16\)") as raised:
        step(training, views, n_chunks=2)
    assert "\n" not in str(raised.value)
    # The whole batch needs no chunks, and is trained as by CLIP.
    report = step(make_training(tiny_config(method), SINGLE_PROCESS), views)
    expected_report, _ = train_one_step("clip", n_chunks=1)
    assert report.terms == expected_report.terms


def test_samples_are_split_in_order():
    views = tiny_views(METHODS["cosmos"], 6)
    chunks = split_views(views, 3)
    assert [chunk.texts.shape[1] for chunk in chunks] == [2, 2, 2]
    for field in Views._fields:
        joined = torch.cat([getattr(chunk, field) for chunk in chunks], dim=1)
        assert torch.equal(joined, getattr(views, field)), field


def test_samples_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="6 samples of a process cannot be split in 4 equal parts"):
        split_views(tiny_views(METHODS["clip"], 6), 4)


def test_the_gradient_is_carried_through_features_by_hand():
    # rows = w x and scale = w. The loss is scale * sum(rows^2) = w^3 sum(x^2), and its derivative
    # is 3 w^2 sum(x^2).
    weight = torch.tensor(2.0, requires_grad=True)
    chunks = torch.arange(1.0, 5.0).reshape(1, 4, 1).split(2, dim=1)

    def encode(chunk):
        return Record(weight * chunk, None, weight * 1)

    with torch.no_grad():
        leaves = [as_leaves(encode(chunk)) for chunk in chunks]
    joined = join_features(leaves)
    assert joined.nothing is None
    (joined.scale * joined.rows.square().sum()).backward()
    for chunk, leaves_of_chunk in zip(chunks, leaves, strict=True):
        carry_back(encode(chunk), leaves_of_chunk)
    assert weight.grad.item() == pytest.approx(3 * 2**2 * (1 + 4 + 9 + 16))
    assert join_features([None, None]) is None
