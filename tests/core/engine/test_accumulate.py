"""A batch in parts: the loss and gradient of the whole, with the activations of one part."""

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

EVERY_METHOD = {**METHODS, "without distillation": ABLATIONS["without distillation"]}


class Record(NamedTuple):
    """Features of a made-up method."""

    rows: Tensor
    nothing: None
    scale: Tensor


def stepped(name, *, parts, precision="fp32"):
    method = EVERY_METHOD[name]
    config = tiny_config(method, accumulate=parts, precision=precision)
    training = make_training(config, SINGLE_PROCESS)
    report = step(training, tiny_views(method), n_chunks=parts, precision=precision)
    return report, training


def difference(ours, expected):
    """Of two gradients of the whole model, as a share of the expected one's norm."""
    assert ours.keys() == expected.keys()
    flat, other = (torch.cat([g[key].flatten() for key in expected]) for g in (ours, expected))
    return ((flat - other).norm() / other.norm()).item()


@pytest.mark.parametrize(("name", "parts"), [*((name, 4) for name in EVERY_METHOD), ("cosmos", 2)])
def test_parts_give_the_gradient_of_the_whole(name, parts):
    with double_precision():
        whole, expected = stepped(name, parts=1)
        report, training = stepped(name, parts=parts)
    assert difference(gradients(training.model), gradients(expected.model)) < 1e-12
    assert report.terms == pytest.approx(whole.terms, abs=1e-12)
    for model in ("model", "teacher"):
        for key, value in getattr(expected, model).state_dict().items():
            assert torch.allclose(getattr(training, model).state_dict()[key], value, atol=1e-9), key


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 0.03)])
def test_precision_of_parts(precision, tolerance):
    _, expected = stepped("cosmos", parts=1, precision=precision)
    _, training = stepped("cosmos", parts=4, precision=precision)
    assert difference(gradients(training.model), gradients(expected.model)) < tolerance


def test_the_activations_of_one_part_are_held_at_a_time():
    method = METHODS["cosmos"]
    training = make_training(tiny_config(method), SINGLE_PROCESS)
    views = tiny_views(method)
    sizes = [
        kept_for_backward(training.model, partial(training.student_encoder, piece))
        for piece in (views, *split_views(views, 4))
    ]
    assert max(sizes[1:]) < 0.3 * sizes[0]


def test_samples_are_split_in_order():
    views = tiny_views(METHODS["cosmos"], 6)
    pieces = split_views(views, 3)
    assert [piece.texts.shape[1] for piece in pieces] == [2, 2, 2]
    joined = Views(*(torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True)))
    assert all(torch.equal(a, b) for a, b in zip(joined, views, strict=True))


def test_samples_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="6 samples of a process cannot be split in 4 equal parts"):
        split_views(tiny_views(METHODS["clip"], 6), 4)


def test_the_gradient_is_carried_through_features_by_hand():
    """rows = w x, scale = w; the loss is scale * sum(rows^2): its derivative is 3 w^2 sum(x^2)."""
    weight = torch.tensor(2.0, requires_grad=True)
    inputs = torch.arange(1.0, 5.0).reshape(1, 4, 1).split(2, dim=1)

    def encode(part):
        return Record(weight * part, None, weight * 1)

    with torch.no_grad():
        leaves = [as_leaves(encode(part)) for part in inputs]
    joined = join_features(leaves)
    assert joined.nothing is None
    (joined.scale * joined.rows.square().sum()).backward()
    for part, own in zip(inputs, leaves, strict=True):
        carry_back(encode(part), own)
    assert weight.grad.item() == pytest.approx(3 * 2**2 * (1 + 4 + 9 + 16))
    assert join_features([None, None]) is None
