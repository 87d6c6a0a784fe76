"""The recipes of the released models against the numbers of the published scripts."""

import math

import pytest

from cosmos_core.recipes import RECIPES, TRAINING_SETS, published_steps

SETS = ("cc3m", "cc12m", "yfcc15m", "merged30m", "pixelprose")


def test_the_merged_set_is_the_sum_of_its_parts():
    cc3m, cc12m, yfcc15m, merged, _ = (data.samples for data in TRAINING_SETS.values())
    assert cc3m + cc12m + yfcc15m == merged


@pytest.mark.parametrize("data", TRAINING_SETS.values(), ids=SETS)
def test_epochs_are_whole_and_leave_no_worker_a_batch_short(data):
    """The least number of batches that holds every sample and divides among 16 workers."""
    batches = published_steps(data) // 32
    assert published_steps(data) == 32 * batches
    assert batches % 16 == 0
    assert batches * data.batch_size >= data.samples
    assert (batches - 16) * data.batch_size < data.samples


def test_steps_of_the_smallest_set():
    # 2757 batches of 1024 hold 2,823,019 samples; 173 for each of 16 workers are 2768.
    assert RECIPES["cc3m"]().optim.steps == 32 * 2768 == 88_576


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("suffix", "architecture"), [("", "ViT-B-16"), ("_vitb32", "ViT-B-32")])
def test_recipes_have_the_published_constants(name, suffix, architecture):
    config = RECIPES[name + suffix]()
    assert (config.recipe, config.architecture) == (name + suffix, architecture)
    assert config.optim == RECIPES[name]().optim
    batch, momentum = (1024, 0.999) if name == "cc3m" else (4096, 0.99)
    optim = config.optim
    assert (optim.batch_size, optim.momentum, optim.momentum_ramp) == (batch, momentum, False)
    assert (optim.lr, optim.betas, optim.eps) == (5e-4, (0.9, 0.98), 1e-8)
    assert (optim.weight_decay, optim.warmup_steps) == (0.5, 2000)
    assert (config.image.global_scale, config.image.local_scale) == ((0.4, 1.0), (0.05, 0.4))
    assert config.image.locals + 2 == config.text.locals + 2 == 8
    assert (config.compute.device, config.compute.precision) == ("cuda", "fp16")
    assert config.method.name == "cosmos"


def test_every_recipe_carries_its_own_name():
    assert {name: make().recipe for name, make in RECIPES.items()} == {n: n for n in RECIPES}


def test_the_debug_recipe_sees_its_256_scenes_a_few_times():
    config = RECIPES["debug"]()
    assert config.data.shards == "scenes:256"
    epochs = config.optim.steps * config.optim.batch_size / 256
    assert epochs == math.floor(epochs)
    assert 1 < epochs < 10
    assert config.optim.warmup_steps < config.optim.steps
    assert config.compute.device == "cpu"
