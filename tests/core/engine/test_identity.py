"""What identifies a training: group, data and cost."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from support.training import (
    ABLATIONS,
    METHODS,
    SINGLE_PROCESS,
    SMALL_MODEL,
    step,
    tiny_config,
    tiny_views,
)
from torch.utils.flop_counter import FlopCounterMode

from cosmos_core.bundled import bundled_models
from cosmos_core.engine.build import make_training
from cosmos_core.engine.flops import sample_flops
from cosmos_core.engine.snapshot import plain_config
from cosmos_core.engine.trainer import Trainer
from cosmos_core.model.checkpoint import read_checkpoint
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override
from cosmos_core.utils.recipe import remove_added_defaults, training_identity

SHORT = (
    *("optim.steps=1", "optim.batch_size=4", "data.workers=0", "watch.pictures=false"),
    SMALL_MODEL,
)


def train(setting, shards, name, *settings):
    """Train for a step; return the checkpoint."""
    config = override(RECIPES["scenes_clip"](), [*SHORT, *settings])
    output = setting.output / name
    Trainer(config, setting._replace(output=output)).run(shards)
    return read_checkpoint(output / "checkpoint.safetensors")


def test_two_seeds_of_a_recipe_are_one_group(setting, scene_shards):
    first = train(setting, scene_shards, "first")
    free = ("seed=1", "save.every=1", "watch.log_every=1")
    second = train(setting, scene_shards, "second", *free)
    other = train(setting, scene_shards, "other", "optim.lr=0.01")
    one, two, three = (training_identity(run.training) for run in (first, second, other))
    weights = (run.weights["student"]["visual.proj"] for run in (first, second))
    assert not torch.equal(*weights)
    assert one["group"] == two["group"] == first.training["group"] != three["group"]
    assert one["group"].startswith("scenes_clip-")
    assert (one["seed"], two["seed"], one["samples"]) == (0, 1, 4)
    assert one["recipe_sha256"] == first.training["recipe_sha256"]
    files = sorted(Path(scene_shards).parent.glob("*.tar"))
    named = json.dumps([[[file.name, len(file.read_bytes())] for file in files]])
    digest = hashlib.sha256(named.replace(" ", "").encode()).hexdigest()
    assert {run["data_sha256"] for run in (one, two, three)} == {digest}
    assert 0 < one["flops"] == first.training["flops"]


def test_a_resumed_run_states_the_same(setting, scene_shards):
    config = override(RECIPES["scenes_clip"](), [*SHORT, "optim.steps=2", "save.every=1"])
    Trainer(config, setting).run(scene_shards)
    path = setting.output / "checkpoint.safetensors"
    whole = read_checkpoint(path).training
    (setting.output / "snapshots" / "step-00000002.pt").unlink()
    Trainer(config, setting, resume=True).run(scene_shards)
    assert training_identity(read_checkpoint(path).training) == training_identity(whole)


def group(*settings, recipe="scenes_cosmos", **metadata):
    config = override(RECIPES[recipe](), settings)
    return training_identity({"config": asdict(config), **metadata})["group"]


@pytest.mark.parametrize(
    "free",
    [
        *("seed=3", "data.workers=7", "data.cache_gb=1", "save.keep=1", "watch.log_every=1"),
        *("compute.device=cuda", "compute.accumulate=2", "compute.compile=true"),
    ],
)
def test_what_does_not_decide_the_weights_does_not_decide_the_group(free):
    assert group(free) == group()


@pytest.mark.parametrize(
    "change",
    [
        *("optim.lr=0.002", "optim.steps=4999", "data.shards=scenes:100", "image.locals=0"),
        *("compute.precision=fp32", "method.distillation=false", "text.max_sentences=2"),
        *("method.distill_images_only=true", "text.captions=raw_caption"),
        *(
            "optim.layer_decay=0.9",
            "optim.optimizer=muon",
            "optim.schedule=constant",
            "optim.max_skipped=1",
            *("optim.image_lr=0.1", "optim.text_lr=2", "optim.image_weight_decay=0"),
            *("optim.text_weight_decay=2", "model.patch_dropout=0.5", "method.teacher_views=1"),
            *("model.unlocked_groups=1", "model.freeze_steps=9"),
            *("image.first_size=32", "image.first_steps=9"),
            "model.init=a.pt",
            "optim.gradient=published",
            "architecture=ViT-B-32",
            "recipe=another",
        ),
    ],
)
def test_what_decides_the_weights_decides_the_group(change):
    assert group(change) != group()


def test_options_that_a_version_added_count_where_they_are_used():
    config = asdict(override(RECIPES["scenes_cosmos"](), []))
    older = {k: v for k, v in config.items() if k not in ("method_sha256", "model", "parallel")}
    older["optim"] = {k: v for k, v in config["optim"].items() if k != "layer_decay"}
    assert training_identity({"config": config}) == training_identity({"config": older})
    assert plain_config(override(RECIPES["scenes_cosmos"](), [])).keys() == older.keys()
    assert remove_added_defaults({"a": {}, "b": {"c": 1}, "method_sha256": "1"}) == {
        **{"a": {}, "b": {"c": 1}, "method_sha256": "1"}
    }


def test_a_cosmos_of_an_earlier_version_is_the_same_training():
    recipe = override(RECIPES["scenes_cosmos"](), [])
    config, stored = asdict(recipe), plain_config(recipe)
    assert "captions" not in stored["text"]
    assert "distill_images_only" not in stored["method"]
    del config["text"]["captions"], config["method"]["distill_images_only"]
    assert training_identity({"config": config}) == training_identity({"config": asdict(recipe)})


def test_shards_count_by_their_fingerprint_and_a_training_that_is_not_whole_by_its_steps():
    here, there = "data.shards=/a/0.tar", "data.shards=/b/0.tar"
    assert group(here) != group(there)
    assert group(here, data_sha256="1" * 64) == group(there, data_sha256="1" * 64)
    assert group(here, data_sha256="1" * 64) != group(here, data_sha256="2" * 64)
    assert group(data_sha256="1" * 64) == group()  # of scenes their number
    assert group(steps=5000) == group()
    assert group(steps=400) == f"{group()} at step 400"
    published = "optim.gradient=published"
    assert group(published, processes=2) != group(published, processes=4)
    assert group(processes=2) == group(processes=4)


@pytest.mark.parametrize(
    ("name", "digits", "samples"),
    [
        ("scenes-clip", "fdaf36bd", 160_000),
        ("scenes-clip-long", "0d9ab892", 810_048),
        ("scenes-cosmos", "84153edb", 160_000),
    ],
)
def test_bundled_models_are_of_the_groups_of_their_recipes(name, digits, samples):
    """Stored results hold these names: they must never change."""
    recipe = name.replace("-", "_")
    found = training_identity(read_checkpoint(bundled_models()[name].weights_path).training)
    assert found["group"] == f"{recipe}-{digits}" == group(recipe=recipe)
    assert (found["seed"], found["samples"]) == (0, samples)
    assert (found["data_sha256"], found["flops"]) == (None, None)


@pytest.mark.parametrize(
    "foreign", [None, [], {}, {"config": []}, {"config": {}}, {"seed": 1, "samples_seen": 3}]
)
def test_metadata_without_a_configuration_identify_nothing(foreign):
    assert training_identity(foreign) == {}


def test_what_is_no_number_is_unknown():
    wrong = {"config": {"seed": "a"}, "samples_seen": True, "flops": 1, "data_sha256": "x"}
    found = training_identity(wrong)
    assert found["group"].startswith("training-")
    assert {found[name] for name in ("seed", "samples", "flops", "data_sha256")} == {None}


@pytest.mark.parametrize("method", [*METHODS.values(), ABLATIONS["without distillation"]], ids=str)
def test_counted_flops_are_those_of_a_step(method):
    """PyTorch's own count of forward and backward; attention in bfloat16 is made of products. The
    pixels have no gradient, which would take as many operations as embedding their patches.

    The loss, which is not counted, is 3.4% of FLAIR's step. PyTorch 2.15 also counts fused
    attention, whose backward pass takes 2.5 times as many operations as the forward pass.
    """
    config, views = tiny_config(method, precision="bf16"), tiny_views(method)
    training = make_training(config, SINGLE_PROCESS)
    before = torch.get_rng_state()
    found = sample_flops(config, views)
    assert torch.equal(torch.get_rng_state(), before)
    with FlopCounterMode(display=False) as counter:
        step(training, views, precision="bf16")
    if method.name == "lit":  # whose patches have no gradient either
        assert found == pytest.approx(counter.get_total_flops() / 8, rel=0.03)
        return
    patches = 16 * len(views.global_images) + 4 * len(views.local_images)
    pixels = 2 * patches * (3 * 8 * 8) * 16
    assert found - pixels == pytest.approx(counter.get_total_flops() / 8, rel=0.04)
