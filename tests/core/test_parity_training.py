"""Agreement with recorded values of the published implementation, on small random weights."""

import json
import math
from pathlib import Path

import pytest
import torch

import cosmos_core

PARITY = Path(__file__).parents[1] / "parity"
RECORDS = json.loads((PARITY / "training.json").read_text())


def load(weights):
    return cosmos_core.load_model(PARITY / "checkpoint.pt", PARITY / "model_config.json", weights)


def loss(student, teacher, views):
    return cosmos_core.losses.cosmos_loss(
        student.encode_views(views), teacher.encode_globals(views)
    )


def statistics(tensor):
    """Return the norm, the sum, and the sum weighted by sin(0.7 i + 0.3), as they are recorded."""
    flat = tensor.detach().double().flatten()
    weights = torch.sin(0.7 * torch.arange(len(flat), dtype=torch.float64) + 0.3)
    return [flat.norm().item(), flat.sum().item(), (flat * weights).sum().item()]


def largest_differences(statistics_by_name, recorded_by_name):
    """Return the largest difference of a statistic by name, as a fraction of the recorded norm."""
    differences = {}
    for name, recorded_statistics in recorded_by_name.items():
        recorded_norm = max(recorded_statistics[0], 1e-12)
        pairs = zip(statistics_by_name[name], recorded_statistics, strict=True)
        differences[name] = max(abs(value - recorded) for value, recorded in pairs) / recorded_norm
    return differences


def assert_close_features(features, recorded_features, name):
    """Check features (views, samples, width) against recorded ones (views x samples, width)."""
    expected = torch.from_numpy(recorded_features)
    assert (features.flatten(0, 1) - expected).abs().max() < 1e-5, name


def test_student_features_of_all_views(recorded, recorded_views):
    student = load("student")
    with torch.no_grad():
        features = student.encode_views(recorded_views)
    for name in ("image", "text", "image_crossmodal", "text_crossmodal"):
        recorded_features = recorded[f"student_{name}_features"]
        assert_close_features(getattr(features, name), recorded_features, name)


def test_teacher_features_of_global_views(recorded, recorded_views):
    features = load("teacher").encode_globals(recorded_views)
    assert features.image_crossmodal is None
    assert features.text_crossmodal is None
    for name in ("image", "text"):
        assert not getattr(features, name).requires_grad
        recorded_features = recorded[f"teacher_{name}_features"]
        assert_close_features(getattr(features, name), recorded_features, name)


def test_losses_and_gradients(recorded_views):
    student, teacher = load("student").train(), load("teacher")
    terms = loss(student, teacher, recorded_views)
    assert terms.clip.item() == pytest.approx(RECORDS["losses"]["clip_loss"], rel=1e-6)
    assert terms.distill.item() == pytest.approx(RECORDS["losses"]["distill_loss"], rel=1e-6)
    assert terms.total.item() == pytest.approx(RECORDS["total"], rel=1e-6)
    terms.total.backward()
    gradients, names_without_gradient = {}, []
    for name, parameter in student.named_parameters():
        if parameter.grad is None:
            names_without_gradient.append(name)
        else:
            gradients[name] = statistics(parameter.grad)
    assert sorted(names_without_gradient) == sorted(RECORDS["no_gradient"])
    assert gradients.keys() == RECORDS["gradients"].keys()
    for name, difference in largest_differences(gradients, RECORDS["gradients"]).items():
        assert difference < 1e-4, name


def test_losses_and_weights_of_three_steps_with_a_teacher(recorded_views):
    student, teacher = load("student").train(), load("teacher").requires_grad_(False)
    settings = RECORDS["optimizer"]
    optimizer = torch.optim.AdamW(
        cosmos_core.param_groups(student, settings["weight_decay"]),
        lr=settings["lr"],
        betas=(settings["beta1"], settings["beta2"]),
        eps=settings["eps"],
    )
    for recorded_losses in RECORDS["loss_per_step"]:
        optimizer.zero_grad()
        terms = loss(student, teacher, recorded_views)
        assert terms.clip.item() == pytest.approx(recorded_losses["clip_loss"], rel=1e-5)
        assert terms.distill.item() == pytest.approx(recorded_losses["distill_loss"], rel=1e-5)
        terms.total.backward()
        cosmos_core.update_teacher(teacher, student, settings["momentum"])
        optimizer.step()
        for model in (student, teacher):
            cosmos_core.clamp_logit_scales(model)
    for model_name, model in (("student", student), ("teacher", teacher)):
        recorded = RECORDS[f"{model_name}_after_3_steps"]
        weights = {name: statistics(weight) for name, weight in model.named_parameters()}
        assert weights.keys() == recorded.keys()
        for name, difference in largest_differences(weights, recorded).items():
            tolerance = 2e-3 if "in_proj_bias" in name else 1e-4
            assert difference < tolerance, name


def test_parameters_without_weight_decay_are_the_recorded_ones():
    student = load("student")
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    not_decayed, decayed = cosmos_core.param_groups(student, 0.5)
    assert not_decayed["weight_decay"] == 0
    assert decayed["weight_decay"] == 0.5
    not_decayed_names = [names[id(parameter)] for parameter in not_decayed["params"]]
    assert sorted(not_decayed_names) == sorted(RECORDS["no_weight_decay"])
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    assert decayed_names == set(names.values()) - set(not_decayed_names)


def test_logit_scales_are_clamped_from_0_to_the_logarithm_of_100():
    model = load("student")
    for value, clamped in ((-1.0, 0.0), (9.0, math.log(100)), (2.0, 2.0)):
        with torch.no_grad():
            model.logit_scale.fill_(value)
            model.distill_logit_scale.fill_(value)
        cosmos_core.clamp_logit_scales(model)
        assert model.logit_scale.item() == pytest.approx(clamped)
        assert model.distill_logit_scale.item() == pytest.approx(clamped)
