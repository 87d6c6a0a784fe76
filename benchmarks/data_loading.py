"""`python benchmarks/data_loading.py [--json] [--quick] [--images FOLDER]`: from JPEGs to views.

The published augmentations in torchvision on Pillow images against ours, and against the whole
training loader, which also reads a tar, makes captions into tokens and collates a batch. All have
the same files and the same decoder. Times are one core's (of the process, not of the clock), so
that other processes on the machine count little. Without a folder the files are made-up photographs
of 500x375 pixels.

And the seconds (of the clock, in one process) that it takes to resume a stream after RESUMED
samples (`--quick`: a tenth) of 128x128 pixels in tars of a thousand: to read and decode all of them
again, as without a position, or to go on from the position of a snapshot.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import open_clip
import PIL.Image
import torch
from _photographs import jpegs
from _plain_views import PlainMultiCrop
from _report import Measurement, Spread, interleave, measurement, parser, report

from cosmos_core.config import (
    ComputeConfig,
    DataConfig,
    ImageViewConfig,
    OptimConfig,
    TrainConfig,
)
from cosmos_core.data.loading import make_loader
from cosmos_core.data.samples import Batch, StreamPosition, ViewMaker
from cosmos_core.data.scenes.scene import render_scene
from cosmos_core.data.shards import Schedule, parse_shards
from cosmos_core.data.stream import LaneReader, StreamBatches
from cosmos_core.methods import METHODS
from cosmos_core.recipes.scenes import scenes_cosmos
from cosmos_core.views import MultiCrop

TARGET = 1.3
RENDERED = 500.0  # scenes a second and core
SCENE_SIZE = (128, 128)  # pixels of an embedded scene
WARMUP = 2  # rounds
RESUMED = 50_000  # samples
SHARD_SAMPLES = 1000
SENTENCES = [f"A short sentence about thing number {number}." for number in range(8)]


def main() -> None:
    """Measure and print."""
    arguments = parser("From JPEG files to views, in samples a second.")
    arguments.add_argument("--images", type=Path, help="a folder of JPEG files to use instead")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    count, rounds = (8, 10) if given.quick else (32, 15)
    files = _read(given.images, count) if given.images else jpegs(count)
    if not files:
        arguments.error(f"{given.images}: no .jpg or .jpeg files; give a folder that holds some")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # the index of the tar goes when the tar does
        batches = _batches(Path(folder), files, rounds + WARMUP)
        seconds = _measure(files, batches, rounds)
        lines = _lines(seconds, len(files))
        lines += _resume_lines(Path(folder), RESUMED // 10 if given.quick else RESUMED)
    report(f"Views of {len(files)} JPEG files", lines, given.json)


def _read(folder: Path, count: int) -> list[bytes]:
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    return [path.read_bytes() for path in found[:count]]


def _measure(files: Sequence[bytes], batches: Iterator[Batch], rounds: int) -> dict[str, Spread]:
    plain, ours, scene = PlainMultiCrop(), _ours(ImageViewConfig()), _ours(scenes_cosmos().image)
    scenes = [_decode(file).resize(SCENE_SIZE) for file in files]
    functions: dict[str, Callable[[], object]] = {
        "plain": lambda: [plain(_decode(file)) for file in files],
        "ours": lambda: [ours(_decode(file)) for file in files],
        "loader": lambda: next(batches),
        "decoding": lambda: [_decode(file) for file in files],
        "scenes": lambda: [scene(image) for image in scenes],
        "rendering": lambda: [render_scene(1, index) for index in range(len(files))],
    }
    return interleave(functions, rounds, WARMUP, clock=time.process_time)


def _lines(seconds: dict[str, Spread], count: int) -> list[Measurement]:
    plain, ours, loader = seconds["plain"], seconds["ours"], seconds["loader"]
    rate, share = "samples/s/core", "of its time"
    return [
        measurement("plain views", plain.per(count), rate),
        measurement("our views", ours.per(count), rate),
        measurement("our loader", loader.per(count), rate),
        measurement("our views to plain", plain.over(ours), "x", at_least=TARGET),
        measurement("our loader to plain", plain.over(loader), "x", at_least=TARGET),
        measurement("decoding in plain", seconds["decoding"].over(plain), share),
        measurement("decoding in ours", seconds["decoding"].over(ours), share),
        measurement("our views of scenes", seconds["scenes"].per(count), rate),
        measurement("rendering scenes", seconds["rendering"].per(count), rate, at_least=RENDERED),
    ]


def _resume_lines(folder: Path, count: int) -> list[Measurement]:
    """Measure the first sample of a stream after `count` others, and compare both ways to it."""
    files = [_encode(_decode(file).resize(SCENE_SIZE)) for file in jpegs(8)]
    shards = count // SHARD_SAMPLES + 2
    for number in range(shards):
        _write_shard(folder, [files[n % 8] for n in range(SHARD_SAMPLES)], f"{number:03}.tar")
    spec = DataConfig(shards=f"pipe:cat {folder}/{{000..{shards - 1:03}}}.tar")
    schedule, maker = (
        Schedule(1, 1),
        ViewMaker(scenes_cosmos(), open_clip.get_tokenizer("ViT-B-32")),
    )
    streams = StreamBatches(parse_shards(spec), 0, schedule, 1, maker)
    start = time.perf_counter()
    reader = LaneReader(streams, 0, StreamPosition())
    samples = reader.good_samples([])
    deque(itertools.islice(samples, count), maxlen=0)
    position = reader.position()
    expected = next(samples)
    whole = time.perf_counter() - start
    start = time.perf_counter()
    resumed = next(LaneReader(streams, 0, position).good_samples([]))
    resumption = time.perf_counter() - start
    if resumed[1] != expected[1]:
        raise RuntimeError("a resumed stream has another sample")
    name = f"resume of a stream after {count:,} samples"
    return [
        measurement(f"{name}, all read again", whole, "s"),
        measurement(f"{name}, from its position", resumption, "s"),
        measurement(f"{name}, ratio", whole / resumption, "x"),
    ]


def _encode(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _ours(config: ImageViewConfig) -> Callable[[PIL.Image.Image], object]:
    crops, rng = MultiCrop(config), np.random.default_rng(0)
    return lambda image: crops(image, rng)


def _decode(file: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(file)).convert("RGB")


def _batches(folder: Path, files: Sequence[bytes], steps: int) -> Iterator[Batch]:
    """Batches of all files, made in this process."""
    config = _config(_write_shard(folder, files), steps, len(files))
    return iter(make_loader(config, open_clip.get_tokenizer("ViT-B-32")))


def _config(shard: Path, steps: int, batch_size: int) -> TrainConfig:
    return TrainConfig(
        recipe="data_loading",
        method=METHODS["cosmos"](),
        architecture="ViT-B-32",
        data=DataConfig(shards=str(shard), workers=0),
        optim=OptimConfig(steps=steps, batch_size=batch_size),
        compute=ComputeConfig(device="cpu"),
    )


def _write_shard(folder: Path, files: Sequence[bytes], name: str = "photographs.tar") -> Path:
    record = json.dumps({"raw_caption": "A photograph.", "longSV_captions": SENTENCES}).encode()
    path = folder / name
    with tarfile.open(path, "w") as tar:
        for number, file in enumerate(files):
            _add(tar, f"{number:06}.jpg", file)
            _add(tar, f"{number:06}.json", record)
    return path


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    main()
