"""The pictures of real runs: when they are drawn, what they show, and that they change nothing."""

import json
import signal
import time

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from support.pixels import find_pixels
from support.shards import encoded, tar_of
from support.training import METHODS, SINGLE_PROCESS, SMALL_MODEL, tiny_views

from cosmos_core.engine import watch as pictures
from cosmos_core.engine.distributed import World
from cosmos_core.engine.loggers import read_log
from cosmos_core.engine.snapshot import Snapshots
from cosmos_core.engine.trainer import Trainer
from cosmos_core.engine.watch import RunPictures, Watch
from cosmos_core.plots.curves import draw_curves
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

STEPS, TERMS = 4, ("clip", "distill")
TINY = (
    *("data.workers=0", "optim.batch_size=4", f"optim.steps={STEPS}", "optim.warmup_steps=1"),
    *("watch.log_every=1", "save.every=2", SMALL_MODEL),
)
UNCHANGED_VIEWS = (  # each view is the whole image
    *("image.global_scale=1,1", "image.jitter_p=0", "image.flip_p=0", "image.grayscale_p=0"),
    *("image.blur_p=0,0,0", "image.solarize_p=0"),
)


def config(*assignments):
    return override(RECIPES["scenes_small"](), [*TINY, *assignments])


def names(folder):
    return sorted(path.name for path in folder.glob("*.png"))


def snapshot(output):
    return Snapshots(output, keep=1).newest()


def log_without_times(output):
    lines = (output / "log.jsonl").read_text().splitlines()
    return [{**json.loads(line), "timing": None} for line in lines]


class InterruptedTokenizer:
    """A tokenizer that is sent SIGTERM when it is called after so many batches."""

    def __init__(self, tokenizer, n_batches):
        self.tokenizer = tokenizer
        self.n_batches_left = n_batches

    def __call__(self, texts):
        if self.n_batches_left == 0:
            signal.raise_signal(signal.SIGTERM)
        self.n_batches_left -= 1
        return self.tokenizer(texts)


def read_picture(path):
    return np.asarray(PIL.Image.open(path).convert("RGB"))


def test_pictures_change_neither_weights_nor_log_nor_random_numbers(
    tmp_path, setting, scene_shards, monkeypatch
):
    # Curves are drawn also at the first snapshot.
    monkeypatch.setattr(pictures, "FIRST_DRAWING_SECONDS", 0.0)
    with_pictures, without_pictures = tmp_path / "with", tmp_path / "without"
    for output, option in ((with_pictures, "true"), (without_pictures, "false")):
        run_config = config(f"watch.pictures={option}")
        Trainer(run_config, setting._replace(output=output)).run(scene_shards)
    assert names(with_pictures) == ["losses.png", "views.png"]
    assert names(without_pictures) == []

    weights = load_file(with_pictures / "checkpoint.safetensors")
    expected_weights = load_file(without_pictures / "checkpoint.safetensors")
    assert weights.keys() == expected_weights.keys()
    assert [name for name in weights if not weights[name].equal(expected_weights[name])] == []

    random = snapshot(with_pictures)["random"][0]
    expected_random = snapshot(without_pictures)["random"][0]
    assert torch.equal(random["torch"], expected_random["torch"])
    assert random["python"] == expected_random["python"]
    assert random["numpy"][0] == expected_random["numpy"][0]
    assert torch.equal(random["numpy"][1], expected_random["numpy"][1])
    assert random["numpy"][2:] == expected_random["numpy"][2:]
    assert log_without_times(with_pictures) == log_without_times(without_pictures)


def write_shard(path, image):
    """Write a tar with one sample: an image, without loss, and a caption."""
    record = json.dumps({"raw_caption": "a red fish", "shortIB_captions": []}).encode()
    content = encoded(PIL.Image.fromarray(image), "PNG")
    path.write_bytes(tar_of([("0.png", content), ("0.json", record)]))


def test_an_image_of_a_shard_is_shown_with_its_pixels(tmp_path, setting):
    """It is read, made a view, normalised and drawn; pictures of another run are replaced."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    shard = tmp_path / "one.tar"
    write_shard(shard, image)
    setting.output.mkdir()
    for name in ("views.png", "views-resumed.png", "losses.png"):
        (setting.output / name).write_bytes(b"a picture of another run")
    run_config = config("method=clip", "optim.batch_size=1", "optim.steps=1", *UNCHANGED_VIEWS)
    Trainer(run_config, setting).run(str(shard))
    assert names(setting.output) == ["losses.png", "views.png"]
    assert read_picture(setting.output / "losses.png").ndim == 3
    enlarged_image = image.repeat(3, 0).repeat(3, 1)
    picture = read_picture(setting.output / "views.png")
    assert len(find_pixels(picture, enlarged_image)) == 1
    assert find_pixels(picture, enlarged_image[:, ::-1]) == []


def test_a_resumed_run_keeps_the_picture_of_its_start(setting, scene_shards, capsys):
    tokenizer = InterruptedTokenizer(setting.tokenizer, n_batches=2)
    assert Trainer(config(), setting._replace(tokenizer=tokenizer)).run(scene_shards) == 2
    output = setting.output
    views_of_start = (output / "views.png").read_bytes()
    losses_of_start = (output / "losses.png").read_bytes()
    assert names(output) == ["losses.png", "views.png"]
    assert f"pictures: {output / 'views.png'} shows the first batch" in capsys.readouterr().err
    Trainer(config(), setting, resume=True).run(scene_shards)
    assert names(output) == ["losses.png", "views-resumed.png", "views.png"]
    assert f"pictures: {output / 'views-resumed.png'} shows" in capsys.readouterr().err
    assert (output / "views.png").read_bytes() == views_of_start
    records = read_log(output / "log.jsonl")
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    curves = draw_curves(records, "scenes_small (cosmos): steps 0 to 3 of 4", TERMS)
    assert (output / "losses.png").read_bytes() == curves != losses_of_start


def broken_decoder(ids):
    raise RuntimeError("no such\nlanguage")


def test_a_picture_that_fails_is_reported_and_the_training_goes_on(setting, scene_shards, capsys):
    (setting.output / "losses.png").mkdir(parents=True)  # a folder, which no file can replace
    inverse = setting.inverse._replace(decode=broken_decoder)
    Trainer(config(), setting._replace(inverse=inverse)).run(scene_shards)
    assert snapshot(setting.output)["step"] == STEPS
    lines = capsys.readouterr().err.splitlines()
    message = "could not be drawn, the training goes on"
    assert lines[0] == f"views.png {message} (RuntimeError: no such)"
    assert lines[-1].startswith(f"losses.png {message} (IsADirectoryError: ")
    assert names(setting.output) == ["losses.png"]
    assert not list(setting.output.glob(".*"))


def test_a_run_that_diverges_leaves_its_curves(setting, scene_shards):
    diverging = config("optim.lr=1e30", "optim.warmup_steps=0", "compute.precision=fp32")
    with pytest.raises(FloatingPointError):
        Trainer(diverging, setting).run(scene_shards)
    records = read_log(setting.output / "log.jsonl")
    assert 1 <= len(records) < STEPS
    title = f"scenes_small (cosmos): steps 0 to {len(records) - 1} of {STEPS}"
    assert (setting.output / "losses.png").read_bytes() == draw_curves(records, title, TERMS)


def test_only_the_first_process_draws(setting):
    views = tiny_views(METHODS["clip"])
    setting.output.mkdir()
    (setting.output / "log.jsonl").write_text('{"step": 0, "clip": 2.0}\n')

    def draw(rank):
        world = World(rank=rank, world_size=2)
        watch = Watch(config("method=clip"), setting.output, world, first_step=0)
        with RunPictures(watch, setting.inverse) as run_pictures:
            run_pictures.draw_first_batch(views)

    draw(rank=1)
    assert names(setting.output) == []
    draw(rank=0)
    assert names(setting.output) == ["losses.png", "views.png"]


def test_curves_are_drawn_again_only_when_that_costs_little(setting, monkeypatch):
    setting.output.mkdir()
    curves = setting.output / "losses.png"
    with Watch(config(), setting.output, SINGLE_PROCESS, first_step=0) as watch:
        watch.show_step(0, {"clip": 2.0})
        with RunPictures(watch, setting.inverse) as run_pictures:
            run_pictures.draw_curves_if_due()
            # Drawing takes about a second, which is too long within the first hundred seconds.
            assert not curves.exists()
            let_100_seconds_pass(monkeypatch)
            run_pictures.draw_curves_if_due()
            first_curves = curves.read_bytes()
            watch.show_step(1, {"clip": 1.0})
            run_pictures.draw_curves_if_due()
            assert curves.read_bytes() == first_curves
    assert curves.read_bytes() != first_curves  # drawn at the end


def let_100_seconds_pass(monkeypatch):
    real_clock = time.monotonic

    def clock():
        return real_clock() + 100

    monkeypatch.setattr(time, "monotonic", clock)


def test_an_interrupted_user_does_not_wait_for_a_picture(setting):
    setting.output.mkdir()
    with Watch(config(), setting.output, SINGLE_PROCESS, first_step=0) as watch:
        watch.show_step(0, {"clip": 2.0})
        with pytest.raises(KeyboardInterrupt), RunPictures(watch, setting.inverse):
            raise KeyboardInterrupt
    assert not (setting.output / "losses.png").exists()
