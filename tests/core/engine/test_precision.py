"""Mixed precision, the gradient scaler, clipping, and gradients that are not finite."""

import math

import pytest
import torch
from support.training import METHODS, SINGLE_PROCESS, gradients, step, tiny_config, tiny_views

from cosmos_core.engine.build import make_training
from cosmos_core.losses import gather_locally


def start(name="cosmos", precision="fp32", **options):
    method = METHODS[name]
    training = make_training(tiny_config(method, precision=precision, **options), SINGLE_PROCESS)
    return training, tiny_views(method)


def weights(training):
    return [p.detach().clone() for p in training.model.parameters()]


def unchanged(training, before):
    return all(torch.equal(a, b) for a, b in zip(weights(training), before, strict=True))


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "bf16") for name in METHODS), ("cosmos", "fp32"), ("cosmos", "fp16")],
)
def test_a_batch_is_learned(name, precision):
    training, views = start(name, precision, lr=3e-3)
    losses = [sum(step(training, views, precision=precision).terms.values()) for _ in range(10)]
    assert losses[-1] < 0.7 * losses[0]
    assert training.scaler.is_enabled() == (precision == "fp16")


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.01)])
def test_mixed_precision_is_near_full_precision(precision, tolerance):
    expected, views = start()
    whole = step(expected, views)
    training, _ = start(precision=precision)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=precision == "fp16")
    report = step(training, views, precision=precision)
    assert report.terms == pytest.approx(whole.terms, rel=tolerance)
    assert report.gradient_norm == pytest.approx(whole.gradient_norm, rel=tolerance)


def test_only_the_encoders_forward_passes_are_in_mixed_precision():
    training, views = start(precision="bf16")
    step(training, views, precision="bf16")
    other, _ = start()
    method, model = other.method, other.model
    with torch.autocast("cpu", torch.bfloat16):
        student = method.student_features(model, views)
        teacher = method.teacher_features(other.teacher, views)
    method.loss(student, teacher, gather_locally).total.backward()
    for name, gradient in gradients(training.model).items():
        assert gradient.dtype == torch.float32
        assert torch.equal(gradient, model.get_parameter(name).grad), name


@pytest.mark.parametrize("parts", [1, 2])
def test_an_overflow_skips_the_optimizer_and_halves_the_scale(parts):
    training, views = start(precision="fp16", accumulate=parts)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18)
    before = weights(training)
    report = step(training, views, precision="fp16", n_chunks=parts)
    assert not math.isfinite(report.gradient_norm)
    assert unchanged(training, before)
    assert training.scaler.get_scale() == 2.0**17
    while not math.isfinite(report.gradient_norm):
        assert unchanged(training, before)
        report = step(training, views, precision="fp16", n_chunks=parts)
    assert not unchanged(training, before)
    assert training.scaler.get_scale() > 1


def test_a_loss_that_is_not_finite_stops_also_with_a_scaler():
    training, views = start(precision="fp16")
    views.global_images[0, 0, 0, 0, 0] = 1e6  # beyond the range of float16
    before = weights(training)
    report = step(training, views, precision="fp16")
    with pytest.raises(FloatingPointError, match="the clip loss is nan"):
        report.check()
    assert unchanged(training, before)


def test_a_gradient_that_is_not_finite_stops_without_a_scaler():
    training, views = start()
    training.model.visual.proj.register_hook(lambda gradient: gradient * math.inf)
    report = step(training, views)
    with pytest.raises(FloatingPointError, match="the gradient's norm is"):
        report.check()


def test_clipping_by_hand():
    """The norm is that before clipping; gradients are then shrunk to the limit's."""
    plain, views = start()
    free = step(plain, views)
    expected = gradients(plain.model)
    norm = math.sqrt(sum(g.double().square().sum().item() for g in expected.values()))
    assert free.gradient_norm == pytest.approx(norm, rel=1e-5)
    training, _ = start()
    report = step(training, views, clip_norm=norm / 4)
    assert report.gradient_norm == pytest.approx(norm, rel=1e-5)
    for name, gradient in gradients(training.model).items():
        assert torch.allclose(gradient, expected[name] / 4, rtol=1e-4, atol=1e-7), name


def test_gradients_under_the_limit_are_not_clipped():
    plain, views = start()
    free = step(plain, views)
    training, _ = start()
    step(training, views, clip_norm=2 * free.gradient_norm)
    for name, gradient in gradients(training.model).items():
        assert torch.equal(gradient, gradients(plain.model)[name]), name


def test_clipping_meets_gradients_without_the_scale():
    training, views = start(precision="fp16")
    training.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    report = step(training, views, precision="fp16", clip_norm=1.0)
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients(training.model).values()))
    assert report.gradient_norm > 1
    assert norm == pytest.approx(1.0, rel=1e-4)
