"""Patch dropout (FLIP): which patches the student, the teacher and a batch in chunks see."""

from dataclasses import replace
from typing import NamedTuple

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


class DropoutCall(NamedTuple):
    """A call of the module that drops patches."""

    tokens: torch.Tensor  # (N, 1 + number of patches, width)
    kept_tokens: torch.Tensor  # (N, 1 + number of patches that are kept, width)


def record_dropout(model):
    """Return a list to which the calls of a model's patch dropout are appended."""
    calls = []

    def append_call(module, inputs, output):
        calls.append(DropoutCall(inputs[0].detach(), output.detach()))

    model.visual.patch_dropout.register_forward_hook(append_call)
    return calls


@pytest.mark.parametrize(("fraction", "n_tokens"), [(0.5, 9), (0.75, 5), (0.99, 2)])
def test_the_student_computes_openclips_patch_dropout(fraction, n_tokens):
    # An image has 4 x 4 patches. The class token is never dropped, and at least one patch stays.
    training = training_with_dropout("clip", fraction)
    vision = {**ARCHITECTURE["vision_cfg"], "patch_dropout": fraction}
    openclip_model = open_clip.CLIP(**{**ARCHITECTURE, "vision_cfg": vision})
    openclip_model.load_state_dict(training.model.state_dict())
    calls = record_dropout(training.model)
    images = tiny_views(METHODS["clip"]).global_images[0]
    with torch.no_grad():
        torch.manual_seed(3)
        features = training.model.encode_image(images)
        torch.manual_seed(3)
        assert torch.allclose(features, openclip_model.encode_image(images), atol=1e-6)
        all_patches = openclip_model.eval().encode_image(images)
        assert not torch.allclose(features, all_patches, atol=1e-3)
    assert [call.kept_tokens.shape[1] for call in calls] == [n_tokens]


def test_the_teacher_sees_all_patches():
    method, views = METHODS["cosmos"], tiny_views(METHODS["cosmos"])
    without_dropout = make_training(tiny_config(method), SINGLE_PROCESS)
    with_dropout = training_with_dropout("cosmos")
    expected = method.teacher_features(without_dropout.teacher, views)
    teacher = method.teacher_features(with_dropout.teacher, views)
    assert torch.equal(teacher.image, expected.image)
    student = method.student_features(with_dropout.model, views)
    assert not torch.allclose(student.image[:2], expected.image, atol=1e-3)


def test_flops_are_those_of_the_patches_that_are_left():
    """They agree with PyTorch's count of a step, as in test_identity.py."""
    config, views = config_with_dropout("cosmos", precision="bf16"), tiny_views(METHODS["cosmos"])
    random_state = torch.get_rng_state()
    flops = sample_flops(config, views)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert flops < 0.9 * sample_flops(replace(config, model=ModelConfig()), views)
    training = make_training(config, SINGLE_PROCESS)
    with FlopCounterMode(display=False) as counter:
        step(training, views, precision="bf16")
    # Two global views of 16 patches and three local ones of 4; a patch of 3 x 8 x 8 pixels has 16
    # channels.
    gradient_of_pixels = 2 * (2 * 16 + 3 * 4) * (3 * 8 * 8) * 16
    assert flops - gradient_of_pixels == pytest.approx(counter.get_total_flops() / 8, rel=0.04)


class RepeatedPatches(torch.nn.Module):
    """Keep the patches that recorded calls kept of the same images."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, x):
        return torch.stack([self.kept_tokens_of(tokens) for tokens in x])

    def kept_tokens_of(self, tokens):
        """Return the tokens of one image (1 + number of patches, width) that were kept."""
        matches = []
        for call in self.calls:
            if call.tokens.shape[1:] != tokens.shape:
                continue
            for recorded_tokens, recorded_kept_tokens in zip(*call, strict=True):
                if torch.allclose(recorded_tokens, tokens):
                    matches.append(recorded_kept_tokens)
        (kept_before,) = matches
        is_kept = (tokens[:, None] - kept_before).abs().amax(-1) < 1e-9
        return tokens[is_kept.float().argmax(0)]


@pytest.mark.parametrize("name", ["clip", "cosmos", "flair"])
def test_a_batch_in_chunks_has_the_gradient_of_the_whole_with_the_same_patches(name):
    with double_precision():
        views = tiny_views(METHODS[name])
        training = training_with_dropout(name, accumulate=4)
        calls = record_dropout(training.model)
        report = step(training, views, n_chunks=4)
        # Every chunk is encoded twice, and the same patches are kept both times.
        first_calls, second_calls = calls[: len(calls) // 2], calls[len(calls) // 2 :]
        for first_call, second_call in zip(first_calls, second_calls, strict=True):
            assert torch.equal(first_call.kept_tokens, second_call.kept_tokens)

        whole = make_training(tiny_config(METHODS[name]), SINGLE_PROCESS)
        whole.model.visual.patch_dropout = RepeatedPatches(first_calls)
        expected = step(whole, views)
    assert report.terms == pytest.approx(expected.terms, abs=1e-12)
    chunk_gradients, whole_gradients = gradients(training.model), gradients(whole.model)
    assert chunk_gradients.keys() == whole_gradients.keys()
    for key, value in whole_gradients.items():
        assert torch.allclose(chunk_gradients[key], value, rtol=1e-9, atol=1e-12), key


def test_later_random_numbers_do_not_depend_on_the_number_of_chunks():
    # Encoding chunks for the second time must not change the state of the random generator.
    views = tiny_views(METHODS["clip"])

    def random_state_after_step(n_chunks):
        training = training_with_dropout("clip", accumulate=n_chunks)
        torch.manual_seed(5)
        step(training, views, n_chunks=n_chunks)
        return torch.get_rng_state()

    assert torch.equal(random_state_after_step(1), random_state_after_step(4))


def test_a_resumed_run_drops_the_same_patches(setting, scene_shards):
    settings = (
        *("optim.steps=4", "optim.batch_size=4", "data.workers=0", "watch.pictures=false"),
        *("save.every=2", "save.keep=9", "compute.accumulate=2", "model.patch_dropout=0.5"),
        SMALL_MODEL,
    )
    config = override(RECIPES["scenes_cosmos"](), settings)
    Trainer(config, setting).run(scene_shards)
    path = setting.output / "checkpoint.safetensors"
    expected = read_checkpoint(path).weights["student"]
    (setting.output / "snapshots" / "step-00000004.pt").unlink()
    torch.manual_seed(0)
    Trainer(config, setting, resume=True).run(scene_shards)
    resumed = read_checkpoint(path).weights["student"]
    assert all(torch.equal(resumed[key], value) for key, value in expected.items())
    # A model that is loaded sees all patches, so that its features are not random.
    images = torch.randn(2, 3, 64, 64)
    model = load_model(path)
    assert torch.equal(model.encode_image(images), model.encode_image(images))


def test_the_fraction_of_dropped_patches_is_less_than_one():
    config = RECIPES["scenes_clip"]()
    check_config(override(config, ["model.patch_dropout=0.5"]), world_size=1)
    with pytest.raises(ValueError, match=r"^--set model.patch_dropout: .* less than 1, not 1; for"):
        override(config, ["model.patch_dropout=1"])
