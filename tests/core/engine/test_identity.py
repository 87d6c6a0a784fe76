"""What identifies a training: group, data and cost."""

import hashlib
import json
import statistics
from dataclasses import asdict
from pathlib import Path

import cv2
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
from cosmos_core.types import Views
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
    run = train(setting, scene_shards, "first")
    same_group_settings = ("seed=1", "save.every=1", "watch.log_every=1")
    run_of_same_group = train(setting, scene_shards, "second", *same_group_settings)
    run_of_other_group = train(setting, scene_shards, "other", "optim.lr=0.01")
    identity = training_identity(run.training)
    same_group = training_identity(run_of_same_group.training)
    other_group = training_identity(run_of_other_group.training)

    projection = run.weights["student"]["visual.proj"]
    assert not torch.equal(projection, run_of_same_group.weights["student"]["visual.proj"])
    assert identity["group"] == same_group["group"] == run.training["group"]
    assert run.training["opencv"] == cv2.__version__  # with another version, scenes differ
    assert run.training["group"] != other_group["group"]
    assert identity["group"].startswith("scenes_clip-")
    assert (identity["seed"], same_group["seed"], identity["samples"]) == (0, 1, 4)
    assert identity["recipe_sha256"] == run.training["recipe_sha256"]
    # The data are identified by the names and sizes of the files, as JSON without spaces.
    files = sorted(Path(scene_shards).parent.glob("*.tar"))
    names_and_sizes = [[[file.name, len(file.read_bytes())] for file in files]]
    digest = hashlib.sha256(json.dumps(names_and_sizes).replace(" ", "").encode()).hexdigest()
    for run_identity in (identity, same_group, other_group):
        assert run_identity["data_sha256"] == digest
    assert 0 < identity["flops"] == run.training["flops"]


def test_a_resumed_run_has_the_same_identity(setting, scene_shards):
    config = override(RECIPES["scenes_clip"](), [*SHORT, "optim.steps=2", "save.every=1"])
    Trainer(config, setting).run(scene_shards)
    path = setting.output / "checkpoint.safetensors"
    expected = training_identity(read_checkpoint(path).training)
    (setting.output / "snapshots" / "step-00000002.pt").unlink()
    Trainer(config, setting, resume=True).run(scene_shards)
    assert training_identity(read_checkpoint(path).training) == expected


def group(*settings, recipe="scenes_cosmos", **metadata):
    """Return the group of a training of a recipe with these settings and other metadata."""
    config = override(RECIPES[recipe](), settings)
    return training_identity({"config": asdict(config), **metadata})["group"]


@pytest.mark.parametrize(
    "setting",
    [
        "seed=3",
        "data.workers=7",
        "data.cache_gb=1",
        "save.keep=1",
        "watch.log_every=1",
        "compute.device=cuda",
        "compute.accumulate=2",
        "compute.compile=true",
        "optim.max_skipped=1",
    ],
)
def test_settings_that_do_not_decide_the_weights_do_not_decide_the_group(setting):
    assert group(setting) == group()


@pytest.mark.parametrize(
    "setting",
    [
        "optim.lr=0.002",
        "optim.steps=4999",
        "data.shards=scenes:100",
        "image.locals=0",
        "compute.precision=fp32",
        "method.distillation=false",
        "text.max_sentences=2",
        "method.distill_images_only=true",
        "text.captions=raw_caption",
        "optim.layer_decay=0.9",
        "optim.optimizer=muon",
        "optim.schedule=constant",
        "optim.image_lr_factor=0.1",
        "optim.text_lr_factor=2",
        "optim.image_weight_decay_factor=0",
        "optim.text_weight_decay_factor=2",
        "model.patch_dropout=0.5",
        "method.teacher_views=1",
        "model.unlocked_groups=1",
        "model.freeze_steps=9",
        "image.first_size=32",
        "image.first_steps=9",
        "model.init=a.pt",
        "optim.gradient=published",
        "architecture=ViT-B-32",
        "recipe=another",
    ],
)
def test_settings_that_decide_the_weights_decide_the_group(setting):
    assert group(setting) != group()


def test_options_of_later_versions_count_only_if_they_are_used():
    config = asdict(override(RECIPES["scenes_cosmos"](), []))
    # The configuration as a version without these options stored it.
    older_config = dict(config)
    for key in ("method_sha256", "model", "parallel"):
        del older_config[key]
    older_config["optim"] = dict(config["optim"])
    del older_config["optim"]["layer_decay"]
    assert training_identity({"config": config}) == training_identity({"config": older_config})
    assert plain_config(override(RECIPES["scenes_cosmos"](), [])).keys() == older_config.keys()
    without_added_options = {"a": {}, "b": {"c": 1}, "method_sha256": "1"}
    assert remove_added_defaults(without_added_options) == {
        "a": {},
        "b": {"c": 1},
        "method_sha256": "1",
    }


def test_a_cosmos_of_an_earlier_version_is_the_same_training():
    recipe = override(RECIPES["scenes_cosmos"](), [])
    config, stored_config = asdict(recipe), plain_config(recipe)
    assert "captions" not in stored_config["text"]
    assert "distill_images_only" not in stored_config["method"]
    del config["text"]["captions"], config["method"]["distill_images_only"]
    assert training_identity({"config": config}) == training_identity({"config": asdict(recipe)})


def test_shards_count_by_their_fingerprint_and_unfinished_trainings_by_their_steps():
    shards, moved_shards = "data.shards=/a/0.tar", "data.shards=/b/0.tar"
    assert group(shards) != group(moved_shards)
    assert group(shards, data_sha256="1" * 64) == group(moved_shards, data_sha256="1" * 64)
    assert group(shards, data_sha256="1" * 64) != group(shards, data_sha256="2" * 64)
    # Scenes are identified by their number, without a fingerprint.
    assert group(data_sha256="1" * 64) == group()
    # The recipe has 5000 steps.
    assert group(steps=5000) == group()
    assert group(steps=400) == f"{group()} at step 400"
    published = "optim.gradient=published"
    assert group(published, processes=2) != group(published, processes=4)
    assert group(processes=2) == group(processes=4)


@pytest.mark.parametrize(
    ("name", "digest", "samples"),
    [
        ("scenes-clip", "fdaf36bd", 160_000),
        ("scenes-clip-long", "0d9ab892", 810_048),
        ("scenes-cosmos", "84153edb", 160_000),
    ],
)
def test_bundled_models_have_the_groups_of_their_recipes(name, digest, samples):
    """Stored results have the names of these groups, which must never change.

    These models were trained in bf16, which "auto" is on a processor with instructions for it.
    """
    recipe = name.replace("-", "_")
    identity = training_identity(read_checkpoint(bundled_models()[name].weights_path).training)
    assert identity["group"] == f"{recipe}-{digest}"
    assert identity["group"] == group("compute.precision=bf16", recipe=recipe)
    assert (identity["seed"], identity["samples"]) == (0, samples)
    assert (identity["data_sha256"], identity["flops"]) == (None, None)


@pytest.mark.parametrize(
    "metadata", [None, [], {}, {"config": []}, {"config": {}}, {"seed": 1, "samples_seen": 3}]
)
def test_metadata_without_a_configuration_identify_nothing(metadata):
    assert training_identity(metadata) == {}


def test_metadata_of_a_wrong_type_are_unknown():
    identity = training_identity(
        {"config": {"seed": "a"}, "samples_seen": True, "flops": 1, "data_sha256": "x"}
    )
    assert identity["group"].startswith("training-")
    assert {identity[name] for name in ("seed", "samples", "flops", "data_sha256")} == {None}


@pytest.mark.parametrize("name", ["clip", "lit", "cosmos"])
def test_counted_flops_are_a_mean_over_captions_of_all_lengths(name):
    method = METHODS[name]
    config, views = tiny_config(method), tiny_views(method, 20)
    flops_by_sample = []
    for i in range(20):
        sample = Views(*(tensor[:, i : i + 1] for tensor in views))
        flops_by_sample.append(sample_flops(config, sample))
    assert statistics.stdev(flops_by_sample) > 0
    assert sample_flops(config, views) == pytest.approx(statistics.mean(flops_by_sample))


@pytest.mark.parametrize("method", [*METHODS.values(), ABLATIONS["without distillation"]], ids=str)
def test_counted_flops_are_those_of_a_step(method):
    """They agree with PyTorch's count of the forward and the backward pass, per sample.

    This package also counts a gradient of the pixels, which takes as many operations as embedding
    their patches, but which a step does not compute. It does not count the loss, which is 3.4% of
    FLAIR's step. PyTorch counts attention in bfloat16 as matrix products. PyTorch 2.15 also counts
    fused attention, whose backward pass takes 2.5 times as many operations as the forward pass.
    """
    config, views = tiny_config(method, precision="bf16"), tiny_views(method)
    training = make_training(config, SINGLE_PROCESS)
    random_state = torch.get_rng_state()
    flops = sample_flops(config, views)
    assert torch.equal(torch.get_rng_state(), random_state)
    with FlopCounterMode(display=False) as counter:
        step(training, views, precision="bf16")
    flops_per_sample = counter.get_total_flops() / 8
    if method.name == "lit":  # the image tower is frozen, so that pixels have no gradient
        assert flops == pytest.approx(flops_per_sample, rel=0.03)
        return
    # A patch of 3 x 8 x 8 pixels is embedded in 16 channels.
    n_patches = 16 * len(views.global_images) + 4 * len(views.local_images)
    gradient_of_pixels = 2 * n_patches * (3 * 8 * 8) * 16
    assert flops - gradient_of_pixels == pytest.approx(flops_per_sample, rel=0.04)
