"""`python benchmarks/streaming.py [--json] [--quick]`: `run --stream` against its slowest stage.

A hub in a process of its own sends archives of made-up photographs (500x375, JPEG) at a limited
rate. Each stage is timed alone: the hub's client fetches all archives; threads decode and transform
all images of local archives; an encoder takes ready images. Then all of them at once, as `--stream`
runs them. In each of three settings another stage is the slowest, and the others take 0.6 of its
time. Encoding waits as for a GPU, and the transform waits until a thread has spent its time on the
image, so that two processors are enough to see whether stages overlap. Rounds are interleaved and
medians are printed, with the most archives that lay on the disk at a time. `--quick` shows that it
runs: in two seconds the first and the last archive, which nothing overlaps, are too large a part.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from _photographs import jpegs
from _report import Measurement, interleave, measurement, parser, report
from huggingface_hub import hf_hub_download
from open_clip import image_transform
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.hub import COMMIT, serving
from support.shards import tar_of

from cosmos_eval.data.classification import open_data
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageSource, decode_source, open_archives
from cosmos_eval.embedding.stream import ON_DISK, stream
from cosmos_eval.models.encoder import stack_on_host
from cosmos_eval.types import ClassificationProtocol, EncoderInfo, RunOptions, no_progress

TARGET = 0.9
OTHERS = 0.6  # of the slowest stage's time
REPOSITORY = "made-up/photographs"
PICTURES = 64  # different ones, which are repeated with other bytes after the end of the image
OPTIONS = RunOptions(device="cpu", stream=True)
STAGES = ("download", "decode", "encode")


class Encoder:
    """Takes so many seconds to transform an image, and to encode one of a batch."""

    info = EncoderInfo("waiting", "waiting", None, "0" * 64, False, "fp32", "cpu")
    preprocessing = MappingProxyType({"size": 224})
    _transform = staticmethod(image_transform(224, is_train=False))

    def __init__(self, to_transform: float, to_encode: float) -> None:
        self._to_transform, self._to_encode = to_transform, to_encode

    def transform(self, image: Image.Image) -> torch.Tensor:
        end = time.perf_counter() + self._to_transform
        pixels: torch.Tensor = self._transform(image)
        time.sleep(max(0.0, end - time.perf_counter()))
        return pixels

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(self._to_encode * len(images))
        return torch.nn.functional.normalize(images.mean(dim=(2, 3)), dim=1)


class Set(NamedTuple):
    """A set on the disk: its archives, its images, and the file with the hub's rate."""

    archives: list[Path]
    images: list[ImageSource]
    rate: Path

    @property
    def size(self) -> int:
        """Bytes of all archives."""
        return sum(path.stat().st_size for path in self.archives)


def main() -> None:
    """Serve a set, and measure it in another process."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # for the child
    given = arguments.parse_args()
    if given.folder:
        report("Streaming", measure(given.folder, given.quick), given.json)
        return
    with tempfile.TemporaryDirectory() as folder, serving() as hub:
        repository = f"datasets/{REPOSITORY}"
        for name, content in make_up(*((10, 32) if given.quick else (20, 64))).items():
            hub.files[f"{repository}/{name}"] = content
            (Path(folder, name).parent).mkdir(exist_ok=True)
            Path(folder, name).write_bytes(content)
        rate, temporary = Path(folder, "rate"), Path(folder, "temporary")
        temporary.mkdir()
        rate.write_text("inf")
        hub.on_request = lambda _: setattr(hub, "bytes_per_second", float(rate.read_text()))
        places = {"HF_ENDPOINT": hub.url, "HF_HOME": f"{folder}/home", "TMPDIR": str(temporary)}
        command = [sys.executable, __file__, *sys.argv[1:], "--folder", folder]
        ended = subprocess.run(
            command, env={**os.environ, **places, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        )
    sys.exit(ended.returncode)


def make_up(archives: int, images: int) -> dict[str, bytes]:
    """The files of a set by name; no two images have the same bytes."""
    pictures = jpegs(PICTURES)
    files = {"classnames.txt": b"one\ntwo\n", "test/nshards.txt": b"%d\n" % archives}
    for archive in range(archives):
        members = []
        for i in range(archive * images, (archive + 1) * images):
            members += [(f"{i}.jpg", pictures[i % PICTURES] + b"%d" % i), (f"{i}.cls", b"0")]
        files[f"test/{archive}.tar"] = tar_of(members)
    return files


def measure(folder: Path, quick: bool) -> Iterator[Measurement]:
    """Yield the lines of all settings."""
    torch.set_num_threads(1)
    count = int((folder / "test/nshards.txt").read_text())
    archives = [folder / f"test/{number}.tar" for number in range(count)]
    images: list[ImageSource] = [sample.image() for sample in open_archives(archives)]
    data = Set(archives, images, folder / "rate")
    for slowest in STAGES:
        yield from setting(data, slowest, *((2.0, 1) if quick else (10.0, 3)))


def setting(data: Set, slowest: str, most: float, rounds: int) -> Iterator[Measurement]:
    """Yield the lines of a setting, whose slowest stage takes about so many seconds."""
    seconds = {stage: most * (1.0 if stage == slowest else OTHERS) for stage in STAGES}
    data.rate.write_text(str(data.size / seconds["download"]))
    count = len(data.images)
    encoder = Encoder(seconds["decode"] * OPTIONS.workers / count, seconds["encode"] / count)
    peaks: list[int] = []
    stages: Mapping[str, Callable[[], object]] = {
        "download": partial(download, data),
        "decode": partial(decode, encoder, data),
        "encode": partial(encode, encoder, count),
        "streaming": lambda: peaks.append(streamed(encoder, data)),
    }
    spreads = interleave(stages, rounds, warmup=0)
    for name, spread in spreads.items():
        yield measurement(f"slowest {slowest}: {name}", spread, "s")
    ratio = spreads[slowest].over(spreads["streaming"])
    yield measurement(f"{slowest} to streaming", ratio, "x", at_least=TARGET)
    yield measurement("archives on the disk", max(peaks), "", at_most=ON_DISK)


def download(data: Set) -> None:
    """Fetch all archives by the hub's client."""
    with tempfile.TemporaryDirectory() as folder:
        for path in data.archives:
            file = f"test/{path.name}"
            hf_hub_download(
                REPOSITORY, file, repo_type="dataset", revision=COMMIT, cache_dir=folder
            )


def decode(encoder: Encoder, data: Set) -> None:
    """Decode and transform all images by as many threads as a run has."""

    def pixels(image: ImageSource) -> torch.Tensor:
        return encoder.transform(decode_source(image))

    for _ in prefetch(data.images, pixels, workers=OPTIONS.workers):
        pass


def encode(encoder: Encoder, count: int) -> None:
    """Encode so many images that are ready."""
    batch = [torch.zeros(3, 224, 224)] * OPTIONS.batch_size
    for start in range(0, count, len(batch)):
        encoder.encode_image(stack_on_host(batch[: count - start], "cpu"))


def streamed(encoder: Any, data: Set) -> int:
    """Stream the set; return how many archives lay on the disk at a time."""
    protocol = ClassificationProtocol(
        dataset="photographs",
        protocol_name="made-up",
        repository=REPOSITORY,
        revision=COMMIT,
        folder=".",
        layout="webdataset",
        n_images=len(data.images),
    )
    with watched(Path(tempfile.gettempdir())) as counts:
        stream(encoder, protocol, OPTIONS, no_progress, open_data)
    return max(counts)


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """Count archives below a folder every 10 ms."""
    counts, ended = [0], Event()

    def watch() -> None:
        while not ended.wait(0.01):
            counts.append(sum(1 for _ in folder.glob("*/hub-*/*/blobs/[0-9a-f]*")))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield counts
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
