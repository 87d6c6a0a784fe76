"""Patch dropout (FLIP): which patches the student, the teacher and a batch in parts see."""

from dataclasses import replace

import open_clip
import pytest
import torch
from support.training import (
    ARCHITECTURE,
    METHODS,
    SINGLE_PROCESS,
    SMALL_MODEL,
    double_precision,
    gradients,
    step,
    tiny_config,
    tiny_views,
)
from torch.utils.flop_counter import FlopCounterMode

from cosmos_core.config import ModelConfig
from cosmos_core.engine.build import make_training
from cosmos_core.engine.check import check_config
from cosmos_core.engine.flops import sample_flops
from cosmos_core.engine.trainer import Trainer
from cosmos_core.model.checkpoint import load_model, read_checkpoint
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override


def config_with_dropout(name, fraction=0.5, **compute):
    config = tiny_config(METHODS[name], **compute)
    return replace(config, model=ModelConfig(patch_dropout=fraction))


def training_with_dropout(name, fraction=0.5, **compute):
    return make_training(config_with_dropout(name, fraction, **compute), SINGLE_PROCESS)


@pytest.mark.parametrize(("fraction", "n_tokens"), [(0.5, 9), (0.75, 5), (0.99, 2)])
def test_the_student_computes_openclips_patch_dropout(fraction, n_tokens):
    """Of 4 x 4 patches; the class token is never dropped, and one patch stays."""
    training = training_with_dropout("clip", fraction)
    vision = {**ARCHITECTURE["vision_cfg"], "patch_dropout": fraction}
    plain = open_clip.CLIP(**{**ARCHITECTURE, "vision_cfg": vision})
    plain.load_state_dict(training.model.state_dict())
    lengths = []
    training.model.visual.patch_dropout.register_forward_hook(
        lambda module, inputs, output: lengths.append(output.shape[1])
    )
    images = tiny_views(METHODS["clip"]).global_images[0]
    with torch.no_grad():
        torch.manual_seed(3)
        features = training.model.encode_image(images)
        torch.manual_seed(3)
        assert torch.allclose(features, plain.encode_image(images), atol=1e-6)
        assert not torch.allclose(features, plain.eval().encode_image(images), atol=1e-3)
    assert lengths == [n_tokens]


def test_the_teacher_sees_all_patches():
    method, views = METHODS["cosmos"], tiny_views(METHODS["cosmos"])
    plain = make_training(tiny_config(method), SINGLE_PROCESS)
    dropping = training_with_dropout("cosmos")
    expected = method.teacher_features(plain.teacher, views)
    assert torch.equal(method.teacher_features(dropping.teacher, views).image, expected.image)
    student = method.student_features(dropping.model, views)
    assert not torch.allclose(student.image[:2], expected.image, atol=1e-3)


def test_flops_are_those_of_the_patches_that_are_left():
    """PyTorch's own count of a step, as in test_identity.py; no random number is drawn."""
    config, views = config_with_dropout("cosmos", precision="bf16"), tiny_views(METHODS["cosmos"])
    before = torch.get_rng_state()
    flops = sample_flops(config, views)
    assert torch.equal(torch.get_rng_state(), before)
    assert flops < 0.9 * sample_flops(replace(config, model=ModelConfig()), views)
    training = make_training(config, SINGLE_PROCESS)
    with FlopCounterMode(display=False) as counter:
        step(training, views, precision="bf16")
    gradient_of_pixels = 2 * (2 * 16 + 3 * 4) * (3 * 8 * 8) * 16
    assert flops - gradient_of_pixels == pytest.approx(counter.get_total_flops() / 8, rel=0.04)


class RepeatedPatches(torch.nn.Module):
    """Keeps the patches that were kept of the same images before."""

    def __init__(self, records):
        super().__init__()
        self.records = records  # pairs of all tokens (1 + N, width) and those that were kept

    def forward(self, x):
        kept = []
        for tokens in x:
            same_size = [pair for pair in self.records if pair[0].shape == tokens.shape]
            ((_, kept_before),) = [p for p in same_size if torch.allclose(p[0], tokens)]
            is_kept = (tokens[:, None] - kept_before).abs().amax(-1) < 1e-9
            kept.append(tokens[is_kept.float().argmax(0)])
        return torch.stack(kept)


@pytest.mark.parametrize("name", ["clip", "cosmos", "flair"])
def test_a_batch_in_parts_has_the_gradient_of_the_whole_with_the_same_patches(name):
    """Both times that a part is encoded, and in the whole batch."""
    calls = []
    with double_precision():
        views = tiny_views(METHODS[name])
        training = training_with_dropout(name, accumulate=4)
        training.model.visual.patch_dropout.register_forward_hook(
            lambda module, inputs, output: calls.append((inputs[0].detach(), output.detach()))
        )
        report = step(training, views, n_chunks=4)
        first, second = calls[: len(calls) // 2], calls[len(calls) // 2 :]
        for (_, ours), (_, theirs) in zip(first, second, strict=True):
            assert torch.equal(ours, theirs)

        whole = make_training(tiny_config(METHODS[name]), SINGLE_PROCESS)
        records = [pair for batch in first for pair in zip(*batch, strict=True)]
        whole.model.visual.patch_dropout = RepeatedPatches(records)
        expected = step(whole, views)
    assert report.terms == pytest.approx(expected.terms, abs=1e-12)
    ours, theirs = gradients(training.model), gradients(whole.model)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.allclose(ours[key], value, rtol=1e-9, atol=1e-12), key


def test_later_draws_do_not_depend_on_the_number_of_parts():
    """The second time that parts are encoded ends at the same state of the generator."""
    views, states = tiny_views(METHODS["clip"]), []
    for n_chunks in (1, 4):
        training = training_with_dropout("clip", accumulate=n_chunks)
        torch.manual_seed(5)
        step(training, views, n_chunks=n_chunks)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_resumed_run_drops_the_same_patches(setting, scene_shards):
    settings = (
        *("optim.steps=4", "optim.batch_size=4", "data.workers=0", "watch.pictures=false"),
        *("save.every=2", "save.keep=9", "compute.accumulate=2", "model.patch_dropout=0.5"),
        SMALL_MODEL,
    )
    config = override(RECIPES["scenes_cosmos"](), settings)
    Trainer(config, setting).run(scene_shards)
    path = setting.output / "checkpoint.safetensors"
    whole = read_checkpoint(path).weights["student"]
    (setting.output / "snapshots" / "step-00000004.pt").unlink()
    torch.manual_seed(0)
    Trainer(config, setting, resume=True).run(scene_shards)
    resumed = read_checkpoint(path).weights["student"]
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())
    images = torch.randn(2, 3, 64, 64)
    model = load_model(path)  # sees all patches
    assert torch.equal(model.encode_image(images), model.encode_image(images))


def test_a_fraction_of_patches_is_below_one():
    config = RECIPES["scenes_clip"]()
    check_config(override(config, ["model.patch_dropout=0.5"]), world_size=1)
    with pytest.raises(ValueError, match=r"^--set model.patch_dropout: .* less than 1, not 1; for"):
        override(config, ["model.patch_dropout=1"])
