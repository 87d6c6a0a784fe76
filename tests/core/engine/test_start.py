"""A run that starts from pretrained weights: what is loaded, kept, frozen and recorded."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from cosmos_core.bundled import bundled_models
from cosmos_core.engine.check import check_config
from cosmos_core.engine.loggers import read_log
from cosmos_core.engine.trainer import Trainer
from cosmos_core.model.checkpoint import read_checkpoint, save_checkpoint
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override
from cosmos_core.utils.recipe import training_identity

SHORT = (
    *("optim.steps=2", "optim.batch_size=4", "data.workers=0", "watch.pictures=false"),
    *("watch.log_every=1", "compute.precision=fp32", "save.every=1", "optim.warmup_steps=0"),
)


def chosen(*settings, recipe="scenes_clip"):
    return override(RECIPES[recipe](), [*SHORT, *settings])


@pytest.mark.slow
def test_a_frozen_tower_stays_and_the_source_decides_the_group(setting, scene_shards, tmp_path):
    bundled = bundled_models()["scenes-clip"].weights_path
    start = read_checkpoint(bundled).weights["teacher"]
    source = tmp_path / "source.safetensors"
    source.write_bytes(bundled.read_bytes())
    config = chosen(f"model.init={source}", "model.freeze=image", "optim.layer_decay=0.5")
    trainer = Trainer(config, setting)
    trainer.run(scene_shards)
    rates = {group["lr_scale"]: group["lr"] for group in trainer._training.optimizer.param_groups}
    assert sorted(rates) == [0.0625, 0.125, 0.25, 0.5, 1]  # three blocks of text
    assert rates[0.25] == pytest.approx(0.25 * rates[1.0])
    audit = json.loads((setting.output / "init.json").read_text())
    assert sorted(audit["loaded"]) == sorted(start)
    assert audit["new"] == audit["left_over"] == audit["resized"] == []
    path = setting.output / "checkpoint.safetensors"
    trained = read_checkpoint(path)
    for state in trained.weights.values():
        unchanged_keys = {key for key in start if torch.equal(state[key], start[key].float())}
        assert {key for key in start if key.startswith("visual.")} <= unchanged_keys
        assert not {"token_embedding.weight", "text_projection"} & unchanged_keys
    assert trained.training["init_sha256"] == audit["sha256"]
    copied = tmp_path / "copy.safetensors"
    source.rename(copied)
    elsewhere = {**trained.training, "config": {**trained.training["config"]}}
    elsewhere["config"]["model"] = {**elsewhere["config"]["model"], "init": str(copied)}
    assert training_identity(elsewhere) == training_identity(trained.training)
    other = {**elsewhere, "init_sha256": "0" * 64}
    assert training_identity(other)["group"] != training_identity(elsewhere)["group"]
    (setting.output / "snapshots" / "step-00000002.pt").unlink()
    Trainer(config, setting, resume=True).run(scene_shards)  # without the source
    again = read_checkpoint(path)
    assert again.training["init_sha256"] == audit["sha256"]
    for key in start:
        assert torch.equal(again.weights["student"][key], trained.weights["student"][key])


@pytest.mark.slow
def test_lit_learns_a_text_tower_for_a_locked_image_tower(setting, scene_shards, caplog):
    bundled = bundled_models()["scenes-cosmos"].weights_path
    config = chosen("method=lit", f"model.init={bundled}", "optim.steps=20", "optim.lr=0.002")
    with caplog.at_level("INFO", "cosmos_core"):
        Trainer(config, setting).run(scene_shards)
    assert f"model.init={bundled}: " in caplog.text
    losses = [record["clip"] for record in read_log(setting.output / "log.jsonl")]
    assert losses[-1] < losses[0]
    trained = read_checkpoint(setting.output / "checkpoint.safetensors").weights["student"]
    start = read_checkpoint(bundled).weights["teacher"]
    assert torch.equal(trained["visual.proj"], start["visual.proj"].float())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=lit"], "a frozen tower needs pretrained weights: name some by model.init"),
        (["model.freeze=text"], "a frozen tower needs pretrained weights"),
        (["optim.momentum=1"], "optim.momentum=1 keeps the teacher at its random weights: give"),
        (["model.partial=true"], "model.partial=true needs pretrained weights: name some by"),
        (
            ["model.init=scenes-clip", "model.partial=true", "optim.momentum=1"],
            "optim.momentum=1 keeps the teacher's weights that model.init does not have at random",
        ),
    ],
)
def test_options_of_pretrained_weights_need_some(settings, message):
    with pytest.raises(ValueError, match=message):
        check_config(chosen(*settings), world_size=1)


def test_weights_that_do_not_fit_leave_no_folder(setting, tmp_path):
    path = tmp_path / "other.safetensors"
    small = RECIPES["scenes_small"]()
    model = small.method.create_student(small.architecture)
    save_checkpoint(path, {"teacher": model}, "cosmos", small.architecture, None)
    with pytest.raises(ValueError, match="does not fit the image and text tower"):
        Trainer(chosen(f"model.init={path}"), setting)
    assert not setting.output.exists()


@pytest.mark.slow
def test_the_fine_tuning_of_the_docs_starts_where_the_bundled_model_ended(setting, scene_shards):
    """The command of docs/training.md, but for its length and data."""
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text("utf-8")
    (command,) = re.findall(r"^cosmos-train (scenes_clip --set model\.init=.*)$", text, re.M)
    recipe, *words = shlex.split(command)
    assert words[::2] == ["--set"] * 4
    config = override(RECIPES[recipe](), [*words[1::2], *SHORT, "optim.steps=1"])
    random = override(RECIPES[recipe](), [*SHORT, "optim.steps=1"])
    Trainer(config, setting).run(scene_shards)
    Trainer(random, setting._replace(output=setting.output / "random")).run(scene_shards)
    first, other = (
        read_log(folder / "log.jsonl")[0]["clip"]
        for folder in (setting.output, setting.output / "random")
    )
    assert first < other / 3
