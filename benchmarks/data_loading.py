"""`python benchmarks/data_loading.py [--json] [--quick] [--images FOLDER]`: from JPEGs to views.

The published augmentations in torchvision on Pillow images are compared with ours, and with the
whole training loader, which also reads a tar, tokenizes captions and collates a batch. All have the
same files and the same decoder. Times are CPU times of one core, so that other processes on the
machine have little influence. Without a folder the files are made-up photographs of 500x375 pixels.

The script also measures how long it takes to resume a stream after RESUMED samples (`--quick`: a
tenth) of 128x128 pixels in tars of a thousand, in elapsed seconds in one process: by reading and
decoding all of them again, as without a position, and from the position of a snapshot.
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
RENDERED = 500.0  # scenes per second and core
SCENE_SIZE = (128, 128)  # pixels of an embedded scene
WARMUP = 2  # rounds
RESUMED = 50_000  # samples
SHARD_SAMPLES = 1000
SENTENCES = [f"A short sentence about thing number {number}." for number in range(8)]


def main() -> None:
    """Measure and print."""
    argument_parser = parser("From JPEG files to views, in samples a second.")
    argument_parser.add_argument(
        "--images", type=Path, help="a folder of JPEG files to use instead"
    )
    arguments = argument_parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    count, rounds = (8, 10) if arguments.quick else (32, 15)
    files = _read_files(arguments.images, count) if arguments.images else jpegs(count)
    if not files:
        argument_parser.error(
            f"{arguments.images}: no .jpg or .jpeg files; give a folder that holds some"
        )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # the index of the tar is deleted with the tar
        batches = _batches(Path(folder), files, rounds + WARMUP)
        seconds = _measure(files, batches, rounds)
        lines = _lines(seconds, len(files))
        lines += _resume_lines(Path(folder), RESUMED // 10 if arguments.quick else RESUMED)
    report(f"Views of {len(files)} JPEG files", lines, arguments.json)


def _read_files(folder: Path, count: int) -> list[bytes]:
    """Return the contents of the first `count` JPEG files of a folder, by name."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    return [path.read_bytes() for path in paths[:count]]


def _measure(files: Sequence[bytes], batches: Iterator[Batch], rounds: int) -> dict[str, Spread]:
    """Return the CPU seconds of each way to process all files, by name.

    Args:
        files: The contents of JPEG files.
        batches: Batches of the training loader, each of all files; one per round and warmup.
        rounds: The number of rounds.
    """
    plain_views = PlainMultiCrop()
    our_views = OurViews(ImageViewConfig())
    scene_views = OurViews(scenes_cosmos().image)
    scenes = [_decode(file).resize(SCENE_SIZE) for file in files]
    # A list comprehension keeps all results, as a batch does.
    functions: dict[str, Callable[[], object]] = {
        "plain": lambda: [plain_views(_decode(file)) for file in files],
        "ours": lambda: [our_views(_decode(file)) for file in files],
        "loader": lambda: next(batches),
        "decoding": lambda: [_decode(file) for file in files],
        "scenes": lambda: [scene_views(image) for image in scenes],
        "rendering": lambda: [render_scene(1, index) for index in range(len(files))],
    }
    return interleave(functions, rounds, WARMUP, clock=time.process_time)


def _lines(seconds: dict[str, Spread], count: int) -> list[Measurement]:
    """Return the rates and ratios that follow from the seconds for `count` files."""
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
    """Measure how long a stream takes to yield the sample after `count` others, in both ways."""
    streams = _scene_sized_streams(folder, count)

    start = time.perf_counter()
    reader = LaneReader(streams, 0, StreamPosition())
    samples = reader.good_samples([])
    deque(itertools.islice(samples, count), maxlen=0)
    position = reader.position()
    expected_sample = next(samples)
    seconds_to_read_again = time.perf_counter() - start

    start = time.perf_counter()
    resumed_sample = next(LaneReader(streams, 0, position).good_samples([]))
    seconds_to_resume = time.perf_counter() - start

    if resumed_sample[1] != expected_sample[1]:
        raise RuntimeError("a resumed stream has another sample")
    name = f"resume of a stream after {count:,} samples"
    return [
        measurement(f"{name}, all read again", seconds_to_read_again, "s"),
        measurement(f"{name}, from its position", seconds_to_resume, "s"),
        measurement(f"{name}, ratio", seconds_to_read_again / seconds_to_resume, "x"),
    ]


def _scene_sized_streams(folder: Path, count: int) -> StreamBatches:
    """Write tars with more than `count` images of the size of scenes, and stream them by `cat`."""
    files = [_encode(_decode(file).resize(SCENE_SIZE)) for file in jpegs(8)]
    n_shards = count // SHARD_SAMPLES + 2
    for number in range(n_shards):
        _write_shard(folder, [files[n % 8] for n in range(SHARD_SAMPLES)], f"{number:03}.tar")
    data = DataConfig(shards=f"pipe:cat {folder}/{{000..{n_shards - 1:03}}}.tar")
    view_maker = ViewMaker(scenes_cosmos(), open_clip.get_tokenizer("ViT-B-32"))
    return StreamBatches(parse_shards(data), 0, Schedule(1, 1), 1, view_maker)


def _encode(image: PIL.Image.Image) -> bytes:
    """Return the image as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _decode(file: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(file)).convert("RGB")


class OurViews:
    """Makes cosmos_core's views of an image, as the loader does, with a random generator."""

    def __init__(self, config: ImageViewConfig) -> None:
        self._crops = MultiCrop(config)
        self._rng = np.random.default_rng(0)

    def __call__(self, image: PIL.Image.Image) -> object:
        """Return the global and the local views of an image."""
        return self._crops(image, self._rng)


def _batches(folder: Path, files: Sequence[bytes], steps: int) -> Iterator[Batch]:
    """Write the files as a tar, and return batches of all of them from the training loader."""
    config = _config(_write_shard(folder, files), steps, len(files))
    return iter(make_loader(config, open_clip.get_tokenizer("ViT-B-32")))


def _config(shard: Path, steps: int, batch_size: int) -> TrainConfig:
    """Return a configuration whose data are loaded in this process."""
    return TrainConfig(
        recipe="data_loading",
        method=METHODS["cosmos"](),
        architecture="ViT-B-32",
        data=DataConfig(shards=str(shard), workers=0),
        optim=OptimConfig(steps=steps, batch_size=batch_size),
        compute=ComputeConfig(device="cpu"),
    )


def _write_shard(folder: Path, files: Sequence[bytes], name: str = "photographs.tar") -> Path:
    """Write a tar with the JPEG files and a caption for each, and return its path."""
    record = json.dumps({"raw_caption": "A photograph.", "longSV_captions": SENTENCES}).encode()
    path = folder / name
    with tarfile.open(path, "w") as tar:
        for number, file in enumerate(files):
            _add_file(tar, f"{number:06}.jpg", file)
            _add_file(tar, f"{number:06}.json", record)
    return path


def _add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    main()
