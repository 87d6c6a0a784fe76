"""Towers that learn at their own rates, in part, or from a later step on."""

from dataclasses import replace

import pytest
import torch
from support.training import (
    METHODS,
    SINGLE_PROCESS,
    SMALL_MODEL,
    step,
    tiny_config,
    tiny_views,
)

from cosmos_core.engine.build import make_training
from cosmos_core.engine.trainer import Trainer
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
    rates = ("optim.image_lr=0.1", "optim.text_lr=4", "optim.layer_decay=0.5", "optim.lr=0.008")
    trainer = Trainer(override(RECIPES["scenes_cosmos"](), [*SHORT, *rates]), setting)
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
    factors = {"image_lr": 0.1, "text_lr": 3, "image_weight_decay": 2, "text_weight_decay": 0}
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
