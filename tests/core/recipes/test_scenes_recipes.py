"""The scenes recipes are comparable: same data and encoder; equal samples or equal compute."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cosmos_core.data.loading import make_loader
from cosmos_core.data.scenes import TRAIN
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.engine.build import make_training
from cosmos_core.engine.distributed import World
from cosmos_core.engine.step import normalise, train_step
from cosmos_core.losses import gather_locally
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override
from cosmos_core.recipes.scenes import LONG_MULTI_VIEW_SAMPLES, SAMPLES

BATCH = 8


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes") / "data"
    write_layouts(root, split=TRAIN, count=BATCH, layouts=["shards"])
    return str(root / "shards" / "*.tar")


def step_flops(recipe, shards, *settings):
    """Floating-point operations of one training step, a sample."""
    config = override(RECIPES[recipe](), settings)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, shards=shards, workers=0),
        optim=dataclasses.replace(config.optim, batch_size=BATCH),
    )
    batch = next(iter(make_loader(config, scenes_tokenizer())))
    views = normalise(batch.views, torch.full((3,), 0.5), torch.full((3,), 0.25))
    training = make_training(config, World())
    with FlopCounterMode(display=False) as counter:
        train_step(training, views, gather_locally, momentum=0.99)
    return counter.get_total_flops() / BATCH


@pytest.fixture(scope="module")
def cosmos_flops(shards):
    return step_flops("scenes_cosmos", shards) * SAMPLES


def test_long_clip_has_the_compute_of_cosmos(shards, cosmos_flops):
    optim = RECIPES["scenes_clip_long"]().optim
    flops = step_flops("scenes_clip_long", shards) * optim.batch_size * optim.steps
    assert flops == pytest.approx(cosmos_flops, rel=0.05)


def test_cosmos_without_distillation_has_the_compute_of_cosmos(shards, cosmos_flops):
    flops = step_flops("scenes_cosmos", shards, "method.distillation=false")
    assert flops * LONG_MULTI_VIEW_SAMPLES == pytest.approx(cosmos_flops, rel=0.05)


@pytest.mark.parametrize("method", ["clip", "slip", "silc", "siglip"])
def test_baselines_differ_from_cosmos_in_method_and_batch_alone(method):
    cosmos, baseline = RECIPES["scenes_cosmos"](), RECIPES[f"scenes_{method}"]()
    assert baseline.method.name == method
    seen = [r.optim.steps * r.optim.batch_size for r in (cosmos, baseline)]
    assert seen[0] == seen[1]
    batches = {"steps": cosmos.optim.steps, "batch_size": cosmos.optim.batch_size}
    optim = dataclasses.replace(baseline.optim, **batches)
    same = {"recipe": cosmos.recipe, "method": cosmos.method, "optim": optim}
    assert dataclasses.replace(baseline, **same) == cosmos


def test_the_long_baseline_differs_from_the_short_one_in_its_steps_alone():
    short, long = RECIPES["scenes_clip"](), RECIPES["scenes_clip_long"]()
    steps = dataclasses.replace(long.optim, steps=short.optim.steps)
    assert dataclasses.replace(long, recipe=short.recipe, optim=steps) == short
