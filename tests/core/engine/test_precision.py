"""Mixed precision, the gradient scaler, clipping, and gradients that are not finite."""

import math

import pytest
import torch
from support.training import METHODS, SINGLE_PROCESS, gradients, step, tiny_config, tiny_views

from cosmos_core.engine.build import choose_precision, make_training
from cosmos_core.engine.distributed import World
from cosmos_core.losses import gather_locally


def start(name="cosmos", precision="fp32", **options):
    method = METHODS[name]
    training = make_training(tiny_config(method, precision=precision, **options), SINGLE_PROCESS)
    return training, tiny_views(method)


def copy_weights(training):
    return [parameter.detach().clone() for parameter in training.model.parameters()]


def has_weights(training, weights):
    parameters = training.model.parameters()
    return all(torch.equal(p, weight) for p, weight in zip(parameters, weights, strict=True))


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "bf16") for name in METHODS), ("cosmos", "fp32"), ("cosmos", "fp16")],
)
def test_ten_steps_reduce_the_loss_of_a_batch(name, precision):
    training, views = start(name, precision, lr=3e-3)
    losses = [sum(step(training, views, precision=precision).terms.values()) for _ in range(10)]
    assert losses[-1] < 0.7 * losses[0]
    assert training.scaler.is_enabled() == (precision == "fp16")


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.01)])
def test_mixed_precision_is_near_full_precision(precision, tolerance):
    full_precision_training, views = start()
    expected = step(full_precision_training, views)
    training, _ = start(precision=precision)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=precision == "fp16")
    report = step(training, views, precision=precision)
    assert report.terms == pytest.approx(expected.terms, rel=tolerance)
    assert report.gradient_norm == pytest.approx(expected.gradient_norm, rel=tolerance)


def test_only_the_encoders_forward_passes_are_in_mixed_precision():
    training, views = start(precision="bf16")
    step(training, views, precision="bf16")
    # The same with autocast only around the encoders.
    expected, _ = start()
    method = expected.method
    with torch.autocast("cpu", torch.bfloat16):
        student = method.student_features(expected.model, views)
        teacher = method.teacher_features(expected.teacher, views)
    method.loss(student, teacher, gather_locally).total.backward()
    for name, gradient in gradients(training.model).items():
        assert gradient.dtype == torch.float32
        assert torch.equal(gradient, expected.model.get_parameter(name).grad), name


@pytest.mark.parametrize("n_chunks", [1, 2])
def test_an_overflow_skips_the_optimizer_and_halves_the_scale(n_chunks):
    training, views = start(precision="fp16", accumulate=n_chunks)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18)
    first_weights = copy_weights(training)
    report = step(training, views, precision="fp16", n_chunks=n_chunks)
    assert not math.isfinite(report.gradient_norm)
    assert has_weights(training, first_weights)
    assert training.scaler.get_scale() == 2.0**17
    while not math.isfinite(report.gradient_norm):
        assert has_weights(training, first_weights)
        report = step(training, views, precision="fp16", n_chunks=n_chunks)
    assert not has_weights(training, first_weights)
    assert training.scaler.get_scale() > 1


def test_a_loss_that_is_not_finite_stops_also_with_a_scaler():
    training, views = start(precision="fp16")
    views.global_images[0, 0, 0, 0, 0] = 1e6  # beyond the range of float16
    first_weights = copy_weights(training)
    report = step(training, views, precision="fp16")
    with pytest.raises(FloatingPointError, match="the clip loss is nan"):
        report.check()
    assert has_weights(training, first_weights)


def make_infinite(gradient):
    return gradient * math.inf


def test_a_gradient_that_is_not_finite_stops_without_a_scaler():
    training, views = start()
    training.model.visual.proj.register_hook(make_infinite)
    report = step(training, views)
    with pytest.raises(FloatingPointError, match="the gradient's norm is"):
        report.check()


def norm_of_gradients(model):
    squares = [gradient.double().square().sum().item() for gradient in gradients(model).values()]
    return math.sqrt(sum(squares))


def test_clipping_shrinks_all_gradients_to_a_norm_and_reports_the_former_norm():
    unclipped, views = start()
    unclipped_report = step(unclipped, views)
    unclipped_gradients, norm = gradients(unclipped.model), norm_of_gradients(unclipped.model)
    assert unclipped_report.gradient_norm == pytest.approx(norm, rel=1e-5)
    training, _ = start()
    report = step(training, views, clip_norm=norm / 4)
    assert report.gradient_norm == pytest.approx(norm, rel=1e-5)
    for name, gradient in gradients(training.model).items():
        assert torch.allclose(gradient, unclipped_gradients[name] / 4, rtol=1e-4, atol=1e-7), name


def test_gradients_under_the_limit_are_not_clipped():
    unclipped, views = start()
    report = step(unclipped, views)
    training, _ = start()
    step(training, views, clip_norm=2 * report.gradient_norm)
    for name, gradient in gradients(training.model).items():
        assert torch.equal(gradient, gradients(unclipped.model)[name]), name


def test_gradients_are_clipped_after_the_scale_of_a_scaler_is_removed():
    training, views = start(precision="fp16")
    training.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    report = step(training, views, precision="fp16", clip_norm=1.0)
    assert report.gradient_norm > 1
    assert norm_of_gradients(training.model) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("capability", "precision", "chosen"),
    [
        ("AVX512", "auto", "bf16"),
        ("AVX2", "auto", "fp32"),
        ("DEFAULT", "auto", "fp32"),
        ("AVX2", "bf16", "bf16"),
        ("AVX512", "fp32", "fp32"),
    ],
)
def test_auto_is_bf16_where_the_processor_has_instructions_for_it(
    monkeypatch, capability, precision, chosen
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    config = tiny_config(METHODS["cosmos"], precision=precision)
    assert choose_precision(config, SINGLE_PROCESS).compute.precision == chosen


def test_the_first_process_chooses_for_all(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    second_process = World(rank=1, world_size=2, gather=lambda value: ["fp32", value])
    config = tiny_config(METHODS["cosmos"], precision="auto")
    assert choose_precision(config, second_process).compute.precision == "fp32"


def test_a_step_needs_a_chosen_precision():
    training, views = start()
    with pytest.raises(KeyError, match="auto"):
        step(training, views, precision="auto")
