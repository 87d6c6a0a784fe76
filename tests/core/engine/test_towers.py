"""Towers that learn at their own rates, in part, or from a later step on."""

import re
from dataclasses import replace

import open_clip
import pytest
import torch
from support import sharded
from support.processes import run_processes
from support.training import (
    ARCHITECTURE,
    METHODS,
    SINGLE_PROCESS,
    SMALL_MODEL,
    double_precision,
    step,
    tiny_config,
    tiny_views,
)

from cosmos_core.config import ModelConfig
from cosmos_core.engine.build import make_training, phase_start
from cosmos_core.engine.check import check_config
from cosmos_core.engine.flops import sample_flops
from cosmos_core.engine.trainer import Trainer
from cosmos_core.losses import gather_locally
from cosmos_core.model.checkpoint import read_checkpoint
from cosmos_core.model.cosmos import clamp_logit_scales
from cosmos_core.model.pretrained import freeze, tower_of
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

SHORT = (
    *("optim.steps=4", "optim.batch_size=4", "data.workers=0", "watch.pictures=false"),
    *("optim.warmup_steps=2", "watch.log_every=1", "save.every=1", "save.keep=9", SMALL_MODEL),
)


def names_of(model):
    return {id(parameter): name for name, parameter in model.named_parameters()}


def test_every_group_has_the_learning_rate_of_its_tower_at_every_step(setting, scene_shards):
    """By hand: a warm-up of two steps and a half cosine over two, then factors of tower and layer.

    The model has two blocks per tower.
    """
    factors = ("optim.image_lr_factor=0.1", "optim.text_lr_factor=4", "optim.layer_decay=0.5")
    config = override(RECIPES["scenes_cosmos"](), [*SHORT, *factors, "optim.lr=0.008"])
    trainer = Trainer(config, setting)
    optimizer, names = trainer._training.optimizer, names_of(trainer._training.model)
    by_step = []

    def record(*_):
        groups = optimizer.param_groups
        by_step.append({names[id(p)]: group["lr"] for group in groups for p in group["params"]})

    optimizer.register_step_pre_hook(record)
    trainer.run(scene_shards)
    assert len(by_step) == 4
    for lr, rate_by_name in zip((0.004, 0.008, 0.008, 0.004), by_step, strict=True):
        for name, factor in {
            "visual.proj": 0.1,
            "visual.ln_post.weight": 0.05,
            "visual.transformer.resblocks.1.ln_1.bias": 0.05,
            "visual.transformer.resblocks.0.mlp.c_fc.weight": 0.025,
            "visual.conv1.weight": 0.0125,
            "text_projection": 4,
            "ln_final.bias": 2,
            "transformer.resblocks.0.ln_1.weight": 1,
            "token_embedding.weight": 0.5,
            "logit_scale": 1,
            "distill_logit_scale": 1,
            "image_token_mapping.weight": 1,
            "visual.attn_cross_pool.ln_q.weight": 1,
        }.items():
            assert rate_by_name[name] == pytest.approx(lr * factor), name


def test_a_step_is_adamws_with_the_rate_and_the_decay_of_each_parameter():
    config = tiny_config(METHODS["cosmos"], lr=0.01)
    factors = {
        "image_lr_factor": 0.1,
        "text_lr_factor": 3,
        "image_weight_decay_factor": 2,
        "text_weight_decay_factor": 0,
    }
    training = make_training(
        replace(config, optim=replace(config.optim, **factors)), SINGLE_PROCESS
    )
    before = {name: p.detach().clone() for name, p in training.model.named_parameters()}
    for group in training.optimizer.param_groups:
        group["lr"] = 0.01 * group["lr_scale"]
    step(training, tiny_views(METHODS["cosmos"]))
    for name, parameter in training.model.named_parameters():
        lr, decay = 0.01, 0.1
        if name.startswith("visual.") and "cross" not in name:
            lr, decay = 0.001, 0.2
        elif name.startswith(("transformer", "token_emb", "positional", "ln_final", "text_proj")):
            lr, decay = 0.03, 0.0
        if parameter.ndim < 2 or "bias" in name or "ln" in name:
            decay = 0.0
        plain = torch.nn.Parameter(before[name])
        plain.grad = parameter.grad
        torch.optim.AdamW([plain], lr, (0.9, 0.98), 1e-8, weight_decay=decay).step()
        assert torch.allclose(parameter, plain, rtol=1e-5, atol=1e-8), name


def test_without_factors_the_groups_are_the_old_ones():
    """Snapshots number the states of the optimizer by the order of parameters in groups."""
    training = make_training(tiny_config(METHODS["cosmos"]), SINGLE_PROCESS)
    exempt, decayed = training.optimizer.param_groups
    assert (exempt["weight_decay"], decayed["weight_decay"]) == (0.0, 0.1)
    names = names_of(training.model)
    for group in (exempt, decayed):
        in_group = [names[id(parameter)] for parameter in group["params"]]
        assert in_group == [name for name in names.values() if name in in_group]
        assert group["lr_scale"] == 1.0


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("n_groups", range(5))
def test_unlocked_groups_are_openclips(tower, n_groups):
    """Of two blocks: none, the projection, the last block, the first block, and the embeddings."""
    model, plain = METHODS["cosmos"].create_student(ARCHITECTURE), open_clip.CLIP(**ARCHITECTURE)
    frozen = freeze(model, tower, n_groups)
    if tower == "image":
        plain.lock_image_tower(unlocked_groups=n_groups)
    else:
        plain.lock_text_tower(unlocked_layers=n_groups)
    ours, theirs = (
        {name for name, parameter in either.named_parameters() if not parameter.requires_grad}
        for either in (model, plain)
    )
    assert ours == theirs
    assert {names_of(model)[id(parameter)] for parameter in frozen} == ours


@pytest.fixture(scope="module")
def partial_weights(tmp_path_factory):
    """Files of tiny weights: of the text tower, and of all but the projection of images."""
    folder = tmp_path_factory.mktemp("weights")
    state = METHODS["clip"].create_student(ARCHITECTURE).state_dict()
    text_state = {key: value for key, value in state.items() if not key.startswith("visual.")}
    torch.save(text_state, folder / "text.pt")
    del state["visual.proj"]
    torch.save(state, folder / "without-proj.pt")
    return folder


@pytest.mark.parametrize(
    ("method", "file", "frozen", "random_key"),
    [
        ("lit", "text.pt", {}, "visual.class_embedding"),
        ("clip", "text.pt", {"freeze": "image"}, "visual.class_embedding"),
        ("clip", "text.pt", {"freeze": "image", "freeze_steps": 2}, "visual.class_embedding"),
        ("clip", "text.pt", {"freeze": "image", "unlocked_groups": 1}, "visual.class_embedding"),
        ("clip", "without-proj.pt", {"freeze": "image"}, "visual.proj"),
    ],
)
def test_a_frozen_tower_is_not_random(partial_weights, method, file, frozen, random_key):
    options = ModelConfig(init=str(partial_weights / file), partial=True, **frozen)
    config = replace(tiny_config(METHODS[method]), model=options)
    message = f"{file}: the frozen tower would stay random, without {random_key}"
    with pytest.raises(ValueError, match=message) as raised:
        make_training(config, SINGLE_PROCESS)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "frozen"),
    [
        ("text.pt", {"freeze": "text"}),
        ("without-proj.pt", {"freeze": "image", "unlocked_groups": 1}),
        ("without-proj.pt", {"freeze": "text", "freeze_steps": 2}),
    ],
)
def test_what_is_trained_may_be_random(partial_weights, file, frozen):
    options = ModelConfig(init=str(partial_weights / file), partial=True, **frozen)
    for name in ("clip", "cosmos"):  # COSMOS has modules besides the towers
        training = make_training(replace(tiny_config(METHODS[name]), model=options), SINGLE_PROCESS)
        assert "visual.proj" in training.audit.new


def plain_frozen_steps(frozen):
    """Four steps of COSMOS with a loop over parameters, the gradients of some thrown away."""
    method = METHODS["cosmos"]
    with double_precision():
        training = make_training(tiny_config(method), SINGLE_PROCESS)
        student, teacher = training.model, training.teacher
        groups = [("visual.proj", "text_projection"), ("resblocks.1.", "ln_post", "ln_final")]
        unlocked = [text for group in groups[: frozen.unlocked_groups] for text in group]
        for number in range(4):
            training.optimizer.zero_grad()
            views = tiny_views(method, seed=number)
            features = method.student_features(student, views)
            targets = method.teacher_features(teacher, views)
            method.loss(features, targets, gather_locally).total.backward()
            pairs = zip(student.named_parameters(), teacher.parameters(), strict=True)
            for (name, parameter), average in pairs:
                is_unlocked = any(text in name for text in unlocked)
                is_early = number < (frozen.freeze_steps or 9)
                if tower_of(name) == frozen.freeze and is_early and not is_unlocked:
                    parameter.grad = None
                average.data.mul_(0.9).add_(parameter.data, alpha=0.1)
            training.optimizer.step()
            for model in (student, teacher):
                clamp_logit_scales(model)
    weights = {f"student.{name}": value for name, value in student.state_dict().items()}
    weights |= {f"teacher.{name}": value for name, value in teacher.state_dict().items()}
    return weights


FROZEN = {
    "image at first": ModelConfig(freeze="image", freeze_steps=2),
    "text in part at first": ModelConfig(freeze="text", freeze_steps=3, unlocked_groups=1),
    "image in part": ModelConfig(freeze="image", unlocked_groups=2),
}


@pytest.fixture(scope="module")
def plain():
    return {name: plain_frozen_steps(frozen) for name, frozen in FROZEN.items()}


def assert_near(state, expected):
    for name, value in expected.items():
        assert (state[name].squeeze() - value).abs().max() < 1e-9, name


@pytest.mark.parametrize("name", FROZEN)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_frozen_tower_is_one_whose_gradients_are_thrown_away(plain, name, parts):
    state = sharded.frozen_steps(SINGLE_PROCESS, "ddp", parts, FROZEN[name])
    assert_near(state, plain[name])
    with double_precision():
        start = make_training(tiny_config(METHODS["cosmos"]), SINGLE_PROCESS).model.state_dict()
    changed = state["student.visual.conv1.weight"] - start["visual.conv1.weight"]
    assert (changed.abs().max() > 1e-4) == (name != "image in part")


@pytest.mark.slow
def test_frozen_towers_of_several_processes_are_those_of_one(plain):
    """DDP and FSDP, before and after the tower is trained, with and without parts."""
    cases = [(parallel, 1, name) for parallel in ("ddp", "fsdp") for name in FROZEN]
    cases += [(parallel, 2, "text in part at first") for parallel in ("ddp", "fsdp")]
    jobs = [(parallel, parts, FROZEN[name]) for parallel, parts, name in cases]
    for states in run_processes(sharded.frozen_runs, 2, jobs):
        for (_, _, name), state in zip(cases, states, strict=True):
            assert_near(state, plain[name])


def weights_of(output):
    return read_checkpoint(output / "checkpoint.safetensors").weights["student"]


@pytest.mark.parametrize("left", [1, 2])
def test_a_run_resumes_before_and_at_the_step_that_trains_the_tower(setting, scene_shards, left):
    """The tower stays for two steps. FLOPs are counted of both phases."""
    config = override(RECIPES["scenes_cosmos"](), SHORT)
    config = replace(config, model=ModelConfig(freeze="image", freeze_steps=2))
    Trainer(config, setting).run(scene_shards)
    uninterrupted = read_checkpoint(setting.output / "checkpoint.safetensors")
    snapshots = {
        n: torch.load(setting.output / f"snapshots/step-{n:08d}.pt", weights_only=True)["student"]
        for n in range(1, 5)
    }
    for key in snapshots[1]:
        is_frozen = tower_of(key) == "image"
        assert torch.equal(snapshots[1][key], snapshots[2][key]) == is_frozen, key
        assert not torch.equal(snapshots[2][key], snapshots[3][key]), key
    for n in range(left + 1, 5):
        (setting.output / f"snapshots/step-{n:08d}.pt").unlink()
    Trainer(config, setting, resume=True).run(scene_shards)
    resumed = read_checkpoint(setting.output / "checkpoint.safetensors")
    for name, state in uninterrupted.weights.items():
        assert all(torch.equal(resumed.weights[name][key], state[key]) for key in state)
    assert resumed.training["flops"] == uninterrupted.training["flops"]


def test_flops_of_a_run_are_the_sum_over_its_phases(setting, scene_shards):
    config = override(RECIPES["scenes_cosmos"](), SHORT)
    config = replace(config, model=ModelConfig(freeze="image", freeze_steps=1))
    trainer = Trainer(config, setting)
    trainer.run(scene_shards)
    frozen, trained = trainer._sample_flops[0], trainer._sample_flops[1]
    assert frozen < 0.9 * trained
    tiny, views = tiny_config(METHODS["clip"]), tiny_views(METHODS["clip"])
    at_first = replace(tiny, model=ModelConfig(freeze="image", freeze_steps=1))
    to_the_end = replace(tiny, model=ModelConfig(freeze="image"))
    assert sample_flops(at_first, views, 1) == sample_flops(tiny, views)
    assert sample_flops(at_first, views, 0) == sample_flops(to_the_end, views, 5)
    lit = replace(tiny, method=METHODS["lit"])
    assert sample_flops(to_the_end, views) == sample_flops(lit, views)
    recorded = read_checkpoint(setting.output / "checkpoint.safetensors").training["flops"]
    assert recorded == 4 * frozen + 12 * trained  # batches of 4, one step and three
    assert [phase_start(step, config) for step in range(3)] == [0, 1, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.unlocked_groups=1"], "model.unlocked_groups and model.freeze_steps need a froze"),
        (["model.freeze_steps=1"], "model.unlocked_groups and model.freeze_steps need a frozen"),
        (
            ["model.freeze=text", "model.freeze_steps=4"],
            "model.freeze_steps=4 is not below optim.steps=4; leave it out to freeze the tower to",
        ),
        (
            ["model.freeze=text", "model.unlocked_groups=4"],
            "model.unlocked_groups=4 trains all 4 groups of the text tower; leave model.freeze out",
        ),
        (
            ["method=lit", "model.freeze=image", "model.unlocked_groups=1"],
            "LiT never trains its image tower; take --set method=clip to freeze it in part or at",
        ),
        (
            ["method=lit", "model.freeze=text"],
            "LiT trains only the text tower, and model.freeze=text freezes it; leave model.freeze",
        ),
        (
            ["method=lit", "optim.image_lr_factor=0.1"],
            "optim.image_lr_factor: the image tower is frozen to the end; leave it out",
        ),
        (
            [
                *("method=lit", "model.freeze=text", "model.unlocked_groups=1"),
                "optim.image_weight_decay_factor=0",
            ],
            "optim.image_weight_decay_factor: the image tower is frozen to the end; leave it out",
        ),
        (
            ["model.freeze=text", "optim.text_weight_decay_factor=0"],
            "optim.text_weight_decay_factor: the text tower is frozen to the end; leave it out",
        ),
    ],
)
def test_towers_that_cannot_be_frozen_so_are_one_line(settings, message):
    config = override(RECIPES["scenes_clip"](), [*SHORT, "model.init=scenes-clip", *settings])
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        check_config(config, world_size=1)
    assert "\n" not in str(caught.value)
