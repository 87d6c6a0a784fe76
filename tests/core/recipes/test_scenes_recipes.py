"""The pair of scenes recipes is comparable: same data and encoder; samples or compute as said."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cosmos_core.data.scenes import TRAIN, write_layouts
from cosmos_core.engine.step import normalise, train_step
from cosmos_core.engine.trainer import make_loader, make_training
from cosmos_core.losses import gather_locally
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.scenes import scenes_tokenizer

BATCH = 16


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes") / "data"
    write_layouts(root, split=TRAIN, count=BATCH, layouts=["shards"])
    return sorted((root / "shards").glob("*.tar"))


def step_flops(recipe, shards):
    """Floating-point operations of one training step, a sample."""
    config = RECIPES[recipe]()
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, workers=0),
        optim=dataclasses.replace(config.optim, batch_size=BATCH),
    )
    raw = next(iter(make_loader(config, shards, scenes_tokenizer())))
    views = normalise(raw, torch.full((3,), 0.5), torch.full((3,), 0.25))
    training = make_training(config)
    with FlopCounterMode(display=False) as counter:
        train_step(training, views, gather_locally, momentum=0.99)
    return counter.get_total_flops() / BATCH


def test_long_clip_has_the_compute_of_cosmos(shards):
    total = {
        name: step_flops(name, shards) * optim.batch_size * optim.steps
        for name, optim in ((n, RECIPES[n]().optim) for n in ("scenes_cosmos", "scenes_clip_long"))
    }
    assert total["scenes_clip_long"] == pytest.approx(total["scenes_cosmos"], rel=0.05)


@pytest.mark.parametrize("name", ["scenes_clip", "scenes_clip_long"])
def test_baselines_share_data_and_encoder(name):
    cosmos, clip = RECIPES["scenes_cosmos"](), RECIPES[name]()
    assert cosmos.architecture == clip.architecture
    assert cosmos.data == clip.data


def test_the_short_baseline_sees_as_many_samples():
    cosmos, clip = (RECIPES[name]().optim for name in ("scenes_cosmos", "scenes_clip"))
    assert cosmos.steps * cosmos.batch_size == clip.steps * clip.batch_size
