"""Finished shards of an unfinished measurement are used again by the same measurement."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from cosmos_eval.results.checked import read_results
from cosmos_eval.tasks.segmentation import TASK
from cosmos_eval.types import RunOptions

PARITY = Path(__file__).parents[2] / "parity"
SIZES = {f"{i}": (20 + 7 * i, 60 - 5 * i) for i in range(7)}


@pytest.fixture
def options(tmp_path, write_set, monkeypatch) -> RunOptions:
    monkeypatch.setattr("cosmos_eval.tasks.label_maps.IMAGES_PER_SHARD", 2)
    write_set(tmp_path / "data", SIZES)
    return RunOptions(
        data_root=str(tmp_path / "data"),
        batch_size=8,
        workers=0,
        unfinished=str(tmp_path / ".partial"),
    )


def start(encoder, protocol, options, notes=None):
    """Measure up to the result, but do not go on to where shards are deleted, so all are kept.

    Return the measurement, the generator that would delete them, and the numbers of images that
    were reported as done. Notes of the progress are added to `notes`.
    """
    steps = []
    data = TASK.open_data(protocol, options)
    measurements = TASK.measure(encoder, [protocol], [data], options, steps.append)
    measurement = next(measurements)
    if notes is not None:
        notes.extend(step.note for step in steps if step.note)
    return measurement, measurements, [step.done for step in steps if step.phase == "images"]


def interrupt(encoder, protocol, options, *, image):
    """Measure, and interrupt it at an image, the first being 1."""

    def interrupt_at_image(step):
        if (step.phase, step.done) == ("images", image):
            raise KeyboardInterrupt

    data = TASK.open_data(protocol, options)
    with pytest.raises(KeyboardInterrupt):
        next(TASK.measure(encoder, [protocol], [data], options, interrupt_at_image))


def kept_shards(options):
    return sorted(Path(options.unfinished).rglob("*.safetensors"))


def assert_same(measurement, expected):
    for name in measurement.samples:
        np.testing.assert_array_equal(measurement.samples[name], expected.samples[name])
    assert measurement.metrics == expected.metrics


def test_an_interrupted_run_goes_on_at_its_shard(encoder, protocol, options):
    uninterrupted, _, _ = start(encoder, protocol, replace(options, unfinished=None))
    interrupt(encoder, protocol, options, image=6)
    assert len(kept_shards(options)) == 2
    notes: list[str] = []
    resumed, measurements, done = start(encoder, protocol, options, notes)
    assert notes == ["resumed: 4 of 7 images were measured already"]
    assert done == [4, 5, 6, 7]
    assert_same(resumed, uninterrupted)
    assert len(kept_shards(options)) == 4
    assert next(measurements, None) is None  # the result is stored by now
    assert list(Path(options.unfinished).iterdir()) == []


def cut_the_end(content):
    return content[:-30]


def remove_everything(content):
    return b""


def replace_by_the_begin_of_a_zip_file(content):
    return b"PK"


@pytest.mark.parametrize(
    "damage", [cut_the_end, remove_everything, replace_by_the_begin_of_a_zip_file]
)
def test_a_damaged_shard_is_measured_again_with_a_warning(encoder, protocol, options, damage):
    undamaged, _, _ = start(encoder, protocol, options)
    shard = kept_shards(options)[1]
    shard.write_bytes(damage(shard.read_bytes()))
    notes: list[str] = []
    resumed, _, done = start(encoder, protocol, options, notes)
    assert notes == [
        f"warning: {shard} was damaged and is computed again",
        f"resumed: {done[1]} of 7 images were measured already",
    ]
    assert done[1] in (5, 6)  # the last of four shards has one image
    assert_same(resumed, undamaged)


def test_a_flipped_bit_in_a_shard_is_noticed(encoder, protocol, options):
    start(encoder, protocol, options)
    shard = kept_shards(options)[0]
    position = shard.read_bytes().index(load_file(shard)["pixels"].tobytes())
    content = bytearray(shard.read_bytes())
    content[position] ^= 1
    shard.write_bytes(content)
    notes: list[str] = []
    start(encoder, protocol, options, notes)
    assert "was damaged" in notes[0]


def test_only_the_same_measurement_goes_on(encoder, protocol, options, monkeypatch, tmp_path):
    def resumes(new_protocol=protocol, new_options=options):
        notes: list[str] = []
        start(encoder, new_protocol, new_options, notes)
        return bool(notes)

    start(encoder, protocol, options)
    assert resumes()
    assert resumes(new_options=replace(options, batch_size=3, workers=2))
    other_queries = (*protocol.queries[:-1], ("lawn",))
    assert not resumes(new_protocol=replace(protocol, scale=41.0))
    assert not resumes(new_protocol=replace(protocol, queries=other_queries))
    assert not resumes(new_options=replace(options, attention="vanilla"))
    assert not resumes(new_options=replace(options, limit=5))
    for changed in (
        {"weights_sha256": "1" * 64},
        {"architecture": "other"},
        {"code_sha256": "1" * 64},
        {"weights": "student"},
        {"precision": "bf16"},
    ):
        with monkeypatch.context() as patch:
            patch.setattr(encoder, "info", encoder.info._replace(**changed))
            assert not resumes()
    Image.new("L", SIZES["3"][::-1], color=1).save(tmp_path / "data/masks/3.png")
    assert not resumes()


def test_shards_whose_saved_label_maps_changed_are_measured_again(
    encoder, protocol, options, tmp_path
):
    notes: list[str] = []
    start(encoder, protocol, options)
    saving = replace(options, save_predictions=str(tmp_path / "out"))
    start(encoder, protocol, saving, notes)
    assert notes == []  # the former run saved none
    label_maps = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    assert len(label_maps) == 7
    folder = tmp_path / "out" / f"{protocol.dataset}__{protocol.protocol_name}"
    (folder / "0.png").unlink()
    (folder / "6.png").write_bytes(b"another run's")
    start(encoder, protocol, saving, notes)
    assert notes == ["resumed: 4 of 7 images were measured already"]
    assert {path: path.read_bytes() for path in label_maps} == label_maps


@pytest.fixture
def pets(tmp_path, write_set) -> list[str]:
    """Return the arguments of a command that measures 128 images in four shards."""
    write_set(tmp_path / "data", {f"{i:03}": (64 + i % 7, 96) for i in range(128)})
    (tmp_path / "data/pets.yaml").write_text(
        "kind: seg\nimages: images\nmasks: masks\nimage_suffix: .png\ntemplates: ['{}']\n"
        "classes: [sky, cat, dog, grass]\nshort_side: 96\nwindow: 32\nstride: 16\n"
    )
    model = ["--model", f"cosmos:{PARITY}/checkpoint.pt", "--arch", f"{PARITY}/model_config.json"]
    return ["run", *model, "--dataset", str(tmp_path / "data/pets.yaml"), "--device", "cpu"]


@pytest.mark.slow
def test_a_killed_command_goes_on(pets, tmp_path, command):
    out, uninterrupted_out = tmp_path / "out", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-m", "cosmos_eval", *pets, "--output", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not list(out.rglob("*.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(out.glob("*.json")) == []

    ended = command(*pets, "--output", out)
    assert ended.status == 0
    (resumed,) = re.findall(r"resumed: (\d+) of 128 images were measured already", ended.err)
    assert 32 <= int(resumed) < 128
    assert int(resumed) % 32 == 0
    assert "resumed" not in command(*pets, "--output", uninterrupted_out).err
    result, uninterrupted = read_results(out)[0], read_results(uninterrupted_out)[0]
    assert result.metrics == uninterrupted.metrics
    assert json.dumps(result.per_class) == json.dumps(uninterrupted.per_class)
    assert list((out / ".partial").iterdir()) == []
