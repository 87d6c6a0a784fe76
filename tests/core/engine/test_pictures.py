"""The pictures of real runs: when they are drawn, of what, and that they change nothing."""

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
AS_IT_IS = (  # views that are the whole image, unchanged
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


def stopping_after(count, tokenizer):
    """A tokenizer that makes so many batches; in the last a signal comes."""
    made = 0

    def tokenize(texts):
        nonlocal made
        made += 1
        if made == count + 1:
            signal.raise_signal(signal.SIGTERM)
        return tokenizer(texts)

    return tokenize


def page(path):
    return np.asarray(PIL.Image.open(path).convert("RGB"))


def test_pictures_change_neither_weights_nor_log_nor_random_numbers(
    tmp_path, setting, scene_shards, monkeypatch
):
    monkeypatch.setattr(pictures, "FIRST_DRAWING_SECONDS", 0.0)  # curves also at the first snapshot
    outputs = tmp_path / "with", tmp_path / "without"
    for output, on in zip(outputs, ("true", "false"), strict=True):
        chosen = config(f"watch.pictures={on}")
        Trainer(chosen, setting._replace(output=output)).run(scene_shards)
    assert [names(output) for output in outputs] == [["losses.png", "views.png"], []]
    ours, theirs = (load_file(output / "checkpoint.safetensors") for output in outputs)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []
    ours, theirs = (snapshot(output)["random"][0] for output in outputs)
    assert torch.equal(ours["torch"], theirs["torch"])
    assert ours["python"] == theirs["python"]
    assert ours["numpy"][0] == theirs["numpy"][0]
    assert torch.equal(ours["numpy"][1], theirs["numpy"][1])
    assert ours["numpy"][2:] == theirs["numpy"][2:]
    assert log_without_times(outputs[0]) == log_without_times(outputs[1])


def write_shard(path, image):
    """One sample: an image, without loss, and a caption."""
    record = json.dumps({"raw_caption": "a red fish", "shortIB_captions": []}).encode()
    content = encoded(PIL.Image.fromarray(image), "PNG")
    path.write_bytes(tar_of([("0.png", content), ("0.json", record)]))


def test_a_known_image_is_shown_as_it_is(tmp_path, setting):
    """From the shard through the views, the normalising and the picture to the file, in place of
    the pictures of another run."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    shard = tmp_path / "one.tar"
    write_shard(shard, image)
    setting.output.mkdir()
    for stale in ("views.png", "views-resumed.png", "losses.png"):
        (setting.output / stale).write_bytes(b"another run's")
    chosen = config("method=clip", "optim.batch_size=1", "optim.steps=1", *AS_IT_IS)
    Trainer(chosen, setting).run(str(shard))
    assert names(setting.output) == ["losses.png", "views.png"]
    assert page(setting.output / "losses.png").ndim == 3
    enlarged, drawn = image.repeat(3, 0).repeat(3, 1), page(setting.output / "views.png")
    assert len(find_pixels(drawn, enlarged)) == 1
    assert find_pixels(drawn, enlarged[:, ::-1]) == []


def test_a_resumed_run_keeps_the_picture_of_its_start(setting, scene_shards, capsys):
    stopped = setting._replace(tokenizer=stopping_after(2, setting.tokenizer))
    assert Trainer(config(), stopped).run(scene_shards) == 2
    output = setting.output
    before = (output / "views.png").read_bytes(), (output / "losses.png").read_bytes()
    assert names(output) == ["losses.png", "views.png"]
    assert f"pictures: {output / 'views.png'} shows the first batch" in capsys.readouterr().err
    Trainer(config(), setting, resume=True).run(scene_shards)
    assert names(output) == ["losses.png", "views-resumed.png", "views.png"]
    assert f"pictures: {output / 'views-resumed.png'} shows" in capsys.readouterr().err
    assert (output / "views.png").read_bytes() == before[0]
    records = read_log(output / "log.jsonl")
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    curves = draw_curves(records, "scenes_small (cosmos): steps 0 to 3 of 4", TERMS)
    assert (output / "losses.png").read_bytes() == curves != before[1]


def broken_decoder(ids):
    raise RuntimeError("no such\nlanguage")


def test_a_picture_that_fails_is_reported_and_the_training_goes_on(setting, scene_shards, capsys):
    (setting.output / "losses.png").mkdir(parents=True)  # cannot be replaced by a file
    broken = setting._replace(inverse=setting.inverse._replace(decode=broken_decoder))
    Trainer(config(), broken).run(scene_shards)
    assert snapshot(setting.output)["step"] == STEPS
    printed = capsys.readouterr().err.splitlines()
    why = "could not be drawn, the training goes on"
    assert printed[0] == f"views.png {why} (RuntimeError: no such)"
    assert printed[-1].startswith(f"losses.png {why} (IsADirectoryError: ")
    assert names(setting.output) == ["losses.png"]
    assert not list(setting.output.glob(".*"))


def test_a_run_that_diverges_leaves_its_curves(setting, scene_shards):
    wild = config("optim.lr=1e30", "optim.warmup_steps=0", "compute.precision=fp32")
    with pytest.raises(FloatingPointError):
        Trainer(wild, setting).run(scene_shards)
    records = read_log(setting.output / "log.jsonl")
    assert 1 <= len(records) < STEPS
    title = f"scenes_small (cosmos): steps 0 to {len(records) - 1} of {STEPS}"
    assert (setting.output / "losses.png").read_bytes() == draw_curves(records, title, TERMS)


def test_other_processes_draw_nothing(setting):
    """Of a batch and a log that the first draws."""
    chosen, views = config("method=clip"), tiny_views(METHODS["clip"])
    setting.output.mkdir()
    (setting.output / "log.jsonl").write_text('{"step": 0, "clip": 2.0}\n')
    for rank in (1, 0):
        world = World(rank=rank, world_size=2)
        watch = Watch(chosen, setting.output, world, first_step=0)
        with RunPictures(watch, setting.inverse) as drawing:
            drawing.draw_first_batch(views)
        assert names(setting.output) == ([] if rank else ["losses.png", "views.png"])


def test_curves_are_drawn_again_only_when_that_costs_little(setting, monkeypatch):
    setting.output.mkdir()
    curves = setting.output / "losses.png"
    with Watch(config(), setting.output, SINGLE_PROCESS, first_step=0) as watch:
        watch.show_step(0, {"clip": 2.0})
        with RunPictures(watch, setting.inverse) as drawing:
            drawing.draw_curves_if_due()
            assert not curves.exists()  # a second's work within the first hundred seconds
            monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 100)
            drawing.draw_curves_if_due()
            first = curves.read_bytes()
            watch.show_step(1, {"clip": 1.0})
            drawing.draw_curves_if_due()
            assert curves.read_bytes() == first
    assert curves.read_bytes() != first  # at the end


def test_an_interrupted_user_does_not_wait_for_a_picture(setting):
    setting.output.mkdir()
    with Watch(config(), setting.output, SINGLE_PROCESS, first_step=0) as watch:
        watch.show_step(0, {"clip": 2.0})
        with pytest.raises(KeyboardInterrupt), RunPictures(watch, setting.inverse):
            raise KeyboardInterrupt
    assert not (setting.output / "losses.png").exists()
