"""Agreement with what the published implementation recorded on small random weights."""

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
    """Norm, sum, and a sum weighted by sin(0.7 i + 0.3), as the records keep them."""
    flat = tensor.detach().double().flatten()
    weights = torch.sin(0.7 * torch.arange(len(flat), dtype=torch.float64) + 0.3)
    return [flat.norm().item(), flat.sum().item(), (flat * weights).sum().item()]


def worst_difference(statistics_of, recorded_statistics):
    """The largest difference of any statistic, as a share of the recorded norm."""
    return {
        name: max(abs(a - b) for a, b in zip(statistics_of[name], kept, strict=True))
        / max(kept[0], 1e-12)
        for name, kept in recorded_statistics.items()
    }


def test_student_features_of_all_views(recorded, recorded_views):
    student = load("student")
    with torch.no_grad():
        features = student.encode_views(recorded_views)
    for name in ("image", "text", "image_crossmodal", "text_crossmodal"):
        ours, kept = getattr(features, name), recorded[f"student_{name}_features"]
        assert (ours.flatten(0, 1) - torch.from_numpy(kept)).abs().max() < 1e-5, name


def test_teacher_features_of_global_views(recorded, recorded_views):
    features = load("teacher").encode_globals(recorded_views)
    assert features.image_crossmodal is None
    assert features.text_crossmodal is None
    for name in ("image", "text"):
        ours, kept = getattr(features, name), recorded[f"teacher_{name}_features"]
        assert not ours.requires_grad
        assert (ours.flatten(0, 1) - torch.from_numpy(kept)).abs().max() < 1e-5, name


def test_losses_and_gradients(recorded_views):
    student, teacher = load("student").train(), load("teacher")
    terms = loss(student, teacher, recorded_views)
    assert terms.clip.item() == pytest.approx(RECORDS["losses"]["clip_loss"], rel=1e-6)
    assert terms.distill.item() == pytest.approx(RECORDS["losses"]["distill_loss"], rel=1e-6)
    assert terms.total.item() == pytest.approx(RECORDS["total"], rel=1e-6)
    terms.total.backward()
    gradients = {n: statistics(p.grad) for n, p in student.named_parameters() if p.grad is not None}
    without = [n for n, p in student.named_parameters() if p.grad is None]
    assert sorted(without) == sorted(RECORDS["no_gradient"])
    assert gradients.keys() == RECORDS["gradients"].keys()
    worst = worst_difference(gradients, RECORDS["gradients"])
    assert max(worst.values()) < 1e-4, max(worst, key=worst.get)


def test_three_steps_with_teacher(recorded_views):
    student, teacher = load("student").train(), load("teacher").requires_grad_(False)
    settings = RECORDS["optimizer"]
    optimizer = torch.optim.AdamW(
        cosmos_core.param_groups(student, settings["weight_decay"]),
        lr=settings["lr"],
        betas=(settings["beta1"], settings["beta2"]),
        eps=settings["eps"],
    )
    for kept in RECORDS["loss_per_step"]:
        optimizer.zero_grad()
        terms = loss(student, teacher, recorded_views)
        assert terms.clip.item() == pytest.approx(kept["clip_loss"], rel=1e-5)
        assert terms.distill.item() == pytest.approx(kept["distill_loss"], rel=1e-5)
        terms.total.backward()
        cosmos_core.update_teacher(teacher, student, settings["momentum"])
        optimizer.step()
        for model in (student, teacher):
            cosmos_core.clamp_logit_scales(model)
    for name, model in (("student", student), ("teacher", teacher)):
        kept = RECORDS[f"{name}_after_3_steps"]
        ours = {name: statistics(p) for name, p in model.named_parameters()}
        assert ours.keys() == kept.keys()
        for name, difference in worst_difference(ours, kept).items():
            assert difference < (2e-3 if "in_proj_bias" in name else 1e-4), name


def test_no_weight_decay_list():
    student = load("student")
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    exempt, decayed = cosmos_core.param_groups(student, 0.5)
    assert exempt["weight_decay"] == 0
    assert decayed["weight_decay"] == 0.5
    spared = sorted(names.pop(id(p)) for p in exempt["params"])
    assert spared == sorted(RECORDS["no_weight_decay"])
    assert {id(p) for p in decayed["params"]} == names.keys()


def test_clamping_bounds():
    model = load("student")
    for value, clamped in ((-1.0, 0.0), (9.0, math.log(100)), (2.0, 2.0)):
        with torch.no_grad():
            model.logit_scale.fill_(value)
            model.distill_logit_scale.fill_(value)
        cosmos_core.clamp_logit_scales(model)
        assert model.logit_scale.item() == pytest.approx(clamped)
        assert model.distill_logit_scale.item() == pytest.approx(clamped)
