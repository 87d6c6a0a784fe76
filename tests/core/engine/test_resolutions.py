"""Smaller views in the first steps, and views of the size of evaluations in the last ones."""

import itertools
import re
from dataclasses import replace

import open_clip
import pytest
import torch
from support.training import SMALL_MODEL

from cosmos_core.data.loading import make_loader
from cosmos_core.engine.build import phase_start
from cosmos_core.engine.check import check_config
from cosmos_core.engine.trainer import Trainer
from cosmos_core.model.checkpoint import read_checkpoint
from cosmos_core.model.clip import resize_positional_embedding
from cosmos_core.model.export import export
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

SHORT = (
    *("optim.steps=4", "optim.batch_size=4", "data.workers=0", "watch.pictures=false"),
    *("save.every=1", "save.keep=9", SMALL_MODEL),
)
FIRST = ("image.first_size=32", "image.first_steps=2")


def chosen(*settings):
    return override(RECIPES["scenes_cosmos"](), [*SHORT, *settings])


@pytest.mark.parametrize("stream", [False, True], ids=["tars", "streams"])
def test_batches_differ_only_in_the_size_of_the_first_global_views(scene_shards, setting, stream):
    shards = f"pipe:cat {scene_shards}" if stream else scene_shards

    def load_views(*settings, first_step=0):
        """Return the views of the batches up to the fourth one."""
        config = chosen(*settings)
        config = replace(config, data=replace(config.data, shards=shards))
        batches = make_loader(config, setting.tokenizer, first_step=first_step)
        return [batch.views for batch in itertools.islice(batches, 4 - first_step)]

    def sizes(views):
        return [views_of_batch.global_images.shape[-1] for views_of_batch in views]

    two_sizes, one_size = load_views(*FIRST), load_views()
    assert sizes(two_sizes) == [32, 32, 64, 64]
    assert sizes(one_size) == [64, 64, 64, 64]
    assert sizes(load_views(*FIRST, first_step=1)) == [32, 64, 64]
    for views, expected_views in zip(two_sizes, one_size, strict=True):
        assert torch.equal(views.local_images, expected_views.local_images)
        assert torch.equal(views.texts, expected_views.texts)
    assert torch.equal(two_sizes[2].global_images, one_size[2].global_images)
    # Small views are of the same crops: they are about the means of 2 x 2 pixels of large ones.
    large_images = one_size[0].global_images.flatten(0, 1).float()
    halved_images = torch.nn.functional.avg_pool2d(large_images, 2)
    difference = halved_images - two_sizes[0].global_images.flatten(0, 1)
    assert difference.abs().mean() < 5


@pytest.fixture(scope="module")
def run_of_two_sizes(setting_of_session, scene_shards, tmp_path_factory):
    """A run of two sizes, and its trainer."""
    setting = setting_of_session._replace(output=tmp_path_factory.mktemp("sizes") / "run")
    trainer = Trainer(chosen(*FIRST), setting)
    trainer.run(scene_shards)
    return setting, trainer


@pytest.mark.parametrize("left", [1, 2])
def test_a_run_resumes_before_and_at_the_change_of_size(
    run_of_two_sizes, scene_shards, tmp_path, left
):
    setting, _ = run_of_two_sizes
    expected = read_checkpoint(setting.output / "checkpoint.safetensors")
    output = tmp_path / "run"
    (output / "snapshots").mkdir(parents=True)
    snapshot = f"snapshots/step-{left:08d}.pt"
    (output / snapshot).write_bytes((setting.output / snapshot).read_bytes())
    Trainer(chosen(*FIRST), setting._replace(output=output), resume=True).run(scene_shards)
    resumed = read_checkpoint(output / "checkpoint.safetensors")
    for name, state in expected.weights.items():
        assert all(torch.equal(resumed.weights[name][key], state[key]) for key in state)
    assert resumed.training["flops"] == expected.training["flops"]


def test_flops_are_those_of_each_size(run_of_two_sizes):
    setting, trainer = run_of_two_sizes
    small, final = trainer._sample_flops[0], trainer._sample_flops[2]
    assert small < 0.8 * final
    training = read_checkpoint(setting.output / "checkpoint.safetensors").training
    assert training["flops"] == 8 * small + 8 * final
    assert [phase_start(step, trainer._config) for step in range(4)] == [0, 0, 2, 2]


def test_an_exported_model_takes_images_of_the_final_size(run_of_two_sizes, tmp_path):
    setting, trainer = run_of_two_sizes
    export(setting.output, tmp_path / "hub")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'hub'}")
    assert model.visual.image_size == (64, 64)
    assert preprocess.transforms[0].size == 64
    # Position embeddings were learned for the final size, and resized for smaller views.
    student = trainer._training.model
    assert student.visual.positional_embedding.shape[0] == 1 + 4 * 4
    images = torch.randn(2, 3, 32, 32)
    small = open_clip.transformer.VisionTransformer(32, 16, 16, 2, 2, 4.0, output_dim=16)
    state = student.visual.state_dict()
    state["positional_embedding"] = resize_positional_embedding(
        state["positional_embedding"], (2, 2)
    )
    small.load_state_dict(state, strict=False)
    with torch.no_grad():
        assert torch.allclose(student.encode_image(images), small(images), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["image.first_size=32"], "image.first_size and image.first_steps need each other: set"),
        (["image.first_steps=2"], "image.first_size and image.first_steps need each other: set"),
        (
            ["image.first_size=64", "image.first_steps=2"],
            "image.first_size=64 is not below image.global_size=64, the size of later steps",
        ),
        (
            ["image.first_size=32", "image.first_steps=4"],
            "image.first_steps=4 is not below optim.steps=4; the last steps must have the size",
        ),
        (
            ["image.first_size=24", "image.first_steps=2"],
            "image.first_size=24 is not a multiple of the architecture's patches of 16x16",
        ),
    ],
)
def test_sizes_that_cannot_be_trained_are_one_line(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        check_config(chosen(*settings), world_size=1)
    assert "\n" not in str(caught.value)
    check_config(chosen(*FIRST), world_size=1)


def test_flops_of_an_older_snapshot_are_those_of_all_steps(run_of_two_sizes, tmp_path):
    setting, _ = run_of_two_sizes
    output = tmp_path / "run"
    (output / "snapshots").mkdir(parents=True)
    name = "snapshots/step-00000002.pt"
    state = torch.load(setting.output / name, weights_only=True)
    torch.save({**state, "sample_flops": 5.0}, output / name)
    resumed = Trainer(chosen(*FIRST), setting._replace(output=output), resume=True)
    assert resumed._total_flops() == 2 * 4 * 5.0
