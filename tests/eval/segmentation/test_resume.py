"""Finished shards of an unfinished measurement are used again where they are the same's."""

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
    """Measure up to the result, which is then not stored: everything is kept."""
    steps = []
    data = TASK.open_data(protocol, options)
    running = TASK.measure(encoder, [protocol], [data], options, steps.append)
    measurement = next(running)
    if notes is not None:
        notes.extend(step.note for step in steps if step.note)
    return measurement, running, [step.done for step in steps if step.phase == "images"]


def interrupt(encoder, protocol, options, *, image):
    """A run that ends at an image, the first being 1."""

    def ending(step):
        if (step.phase, step.done) == ("images", image):
            raise KeyboardInterrupt

    data = TASK.open_data(protocol, options)
    with pytest.raises(KeyboardInterrupt):
        next(TASK.measure(encoder, [protocol], [data], options, ending))


def kept_shards(options):
    return sorted(Path(options.unfinished).rglob("*.safetensors"))


def assert_same(one, other):
    for name in one.samples:
        np.testing.assert_array_equal(one.samples[name], other.samples[name])
    assert one.metrics == other.metrics


def test_an_interrupted_run_goes_on_at_its_shard(encoder, protocol, options):
    whole, _, _ = start(encoder, protocol, replace(options, unfinished=None))
    interrupt(encoder, protocol, options, image=6)
    assert len(kept_shards(options)) == 2
    notes: list[str] = []
    resumed, running, done = start(encoder, protocol, options, notes)
    assert notes == ["resumed: 4 of 7 images were measured already"]
    assert done == [4, 5, 6, 7]
    assert_same(resumed, whole)
    assert len(kept_shards(options)) == 4
    assert next(running, None) is None  # the result is stored by now
    assert list(Path(options.unfinished).iterdir()) == []


@pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: b"", lambda data: b"PK"])
def test_a_damaged_shard_is_measured_again_and_told(encoder, protocol, options, damage):
    whole, _, _ = start(encoder, protocol, options)
    bad = kept_shards(options)[1]
    bad.write_bytes(damage(bad.read_bytes()))
    notes: list[str] = []
    resumed, _, done = start(encoder, protocol, options, notes)
    assert notes == [
        f"warning: {bad} was damaged and is computed again",
        f"resumed: {done[1]} of 7 images were measured already",
    ]
    assert done[1] in (5, 6)  # the last of four shards has one image
    assert_same(resumed, whole)


def test_a_flipped_bit_in_a_shard_is_noticed(encoder, protocol, options):
    start(encoder, protocol, options)
    bad = kept_shards(options)[0]
    position = bad.read_bytes().index(load_file(bad)["pixels"].tobytes())
    content = bytearray(bad.read_bytes())
    content[position] ^= 1
    bad.write_bytes(content)
    notes: list[str] = []
    start(encoder, protocol, options, notes)
    assert "was damaged" in notes[0]


def test_only_the_same_measurement_goes_on(encoder, protocol, options, monkeypatch, tmp_path):
    def resumes(of=protocol, by=options):
        notes: list[str] = []
        start(encoder, of, by, notes)
        return bool(notes)

    start(encoder, protocol, options)
    assert resumes()
    assert resumes(by=replace(options, batch_size=3, workers=2))
    assert not resumes(of=replace(protocol, scale=41.0))
    assert not resumes(of=replace(protocol, queries=(*protocol.queries[:-1], ("lawn",))))
    assert not resumes(by=replace(options, attention="vanilla"))
    assert not resumes(by=replace(options, limit=5))
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


def test_label_maps_that_are_wanted_must_be_there_as_saved(encoder, protocol, options, tmp_path):
    notes: list[str] = []
    start(encoder, protocol, options)
    saving = replace(options, save_predictions=str(tmp_path / "out"))
    start(encoder, protocol, saving, notes)
    assert notes == []  # the former run saved none
    pictures = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    assert len(pictures) == 7
    folder = tmp_path / "out" / f"{protocol.dataset}__{protocol.protocol_name}"
    (folder / "0.png").unlink()
    (folder / "6.png").write_bytes(b"another run's")
    start(encoder, protocol, saving, notes)
    assert notes == ["resumed: 4 of 7 images were measured already"]
    assert {path: path.read_bytes() for path in pictures} == pictures


@pytest.fixture
def pets(tmp_path, write_set) -> list[str]:
    """Arguments of a command that measures 128 images in four shards."""
    write_set(tmp_path / "data", {f"{i:03}": (64 + i % 7, 96) for i in range(128)})
    (tmp_path / "data/pets.yaml").write_text(
        "kind: seg\nimages: images\nmasks: masks\nimage_suffix: .png\ntemplates: ['{}']\n"
        "classes: [sky, cat, dog, grass]\nshort_side: 96\nwindow: 32\nstride: 16\n"
    )
    model = ["--model", f"cosmos:{PARITY}/checkpoint.pt", "--arch", f"{PARITY}/model_config.json"]
    return ["run", *model, "--dataset", str(tmp_path / "data/pets.yaml"), "--device", "cpu"]


@pytest.mark.slow
def test_a_killed_command_goes_on(pets, tmp_path, command):
    out, whole = tmp_path / "out", tmp_path / "whole"
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
    assert "resumed" not in command(*pets, "--output", whole).err
    rows = [read_results(folder)[0] for folder in (out, whole)]
    assert rows[0].metrics == rows[1].metrics
    assert json.dumps(rows[0].per_class) == json.dumps(rows[1].per_class)
    assert list((out / ".partial").iterdir()) == []
