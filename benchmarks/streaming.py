"""`python benchmarks/streaming.py [--json] [--quick]`: `run --stream` against its slowest stage.

A hub in a separate process sends archives of made-up photographs (500x375, JPEG) at a limited rate.
Each stage is timed by itself: the hub's client fetches all archives; threads decode and transform
all images of local archives; an encoder takes images that are ready. Then all stages run together,
as in `--stream`. In each of three settings another stage is the slowest, and the others take 0.6 of
its time.

The encoder waits instead of computing, as for a GPU, and the transform waits until it has taken the
time of its setting, so two processors are enough to see whether stages overlap. Rounds are
interleaved. The script prints medians, and the largest number of archives that lay on the disk at
the same time. `--quick` only shows that it runs: nothing overlaps with the first and the last
archive, and they take too large a share of two seconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
PICTURES = 64  # different photographs; copies of them differ in bytes after the end of the image
OPTIONS = RunOptions(device="cpu", stream=True)
STAGES = ("download", "decode", "encode")


class Encoder:
    """An encoder that takes a given time for each image.

    Args:
        transform_seconds: How long the transform of an image takes.
        encode_seconds: How long it takes to encode an image of a batch.
    """

    info = EncoderInfo("waiting", "waiting", None, "0" * 64, False, "fp32", "cpu")
    preprocessing = MappingProxyType({"size": 224})
    _transform = staticmethod(image_transform(224, is_train=False))

    def __init__(self, transform_seconds: float, encode_seconds: float) -> None:
        self._transform_seconds = transform_seconds
        self._encode_seconds = encode_seconds

    def transform(self, image: Image.Image) -> torch.Tensor:
        """Return the pixels (3, 224, 224) of an image, after the time of a transform."""
        end = time.perf_counter() + self._transform_seconds
        pixels: torch.Tensor = self._transform(image)
        time.sleep(max(0.0, end - time.perf_counter()))
        return pixels

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mean colours (B, 3) of images (B, 3, 224, 224) as features, after a wait."""
        time.sleep(self._encode_seconds * len(images))
        return torch.nn.functional.normalize(images.mean(dim=(2, 3)), dim=1)


class LocalSet(NamedTuple):
    """A data set on the disk, and the rate at which the hub sends it."""

    archives: list[Path]
    # The images in all archives.
    images: list[ImageSource]
    # The file in which the hub reads its rate, in bytes per second.
    rate_file: Path

    @property
    def size(self) -> int:
        """Bytes of all archives."""
        return sum(path.stat().st_size for path in self.archives)


def main() -> None:
    """Serve a data set, and measure it in another process."""
    argument_parser = parser(__doc__ or "")
    # The option of the child process: the folder with the data set.
    argument_parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = argument_parser.parse_args()
    if arguments.folder:
        report("Streaming", measure(arguments.folder, arguments.quick), arguments.json)
    else:
        sys.exit(_serve_and_measure(arguments.quick))


def _serve_and_measure(quick: bool) -> int:
    """Serve a data set by a hub, measure it in another process, and return its exit status."""
    n_archives, images_per_archive = (10, 32) if quick else (20, 64)
    with tempfile.TemporaryDirectory() as folder, serving() as hub:
        for name, content in make_files(n_archives, images_per_archive).items():
            hub.files[f"datasets/{REPOSITORY}/{name}"] = content
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        rate_file, temporary = Path(folder, "rate"), Path(folder, "temporary")
        temporary.mkdir()
        rate_file.write_text("inf")

        def set_rate(request: str) -> None:
            hub.bytes_per_second = float(rate_file.read_text())

        hub.on_request = set_rate
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": f"{folder}/home",
            "TMPDIR": str(temporary),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        command = [sys.executable, __file__, *sys.argv[1:], "--folder", folder]
        return subprocess.run(command, env=environment).returncode


def make_files(n_archives: int, images_per_archive: int) -> dict[str, bytes]:
    """Return the contents of the files of a data set by name; no two images have the same bytes."""
    pictures = jpegs(PICTURES)
    files = {"classnames.txt": b"one\ntwo\n", "test/nshards.txt": b"%d\n" % n_archives}
    for archive in range(n_archives):
        first = archive * images_per_archive
        members = []
        for i in range(first, first + images_per_archive):
            members += [(f"{i}.jpg", pictures[i % PICTURES] + b"%d" % i), (f"{i}.cls", b"0")]
        files[f"test/{archive}.tar"] = tar_of(members)
    return files


def measure(folder: Path, quick: bool) -> Iterator[Measurement]:
    """Yield the lines of all settings."""
    torch.set_num_threads(1)
    n_archives = int((folder / "test/nshards.txt").read_text())
    archives = [folder / f"test/{number}.tar" for number in range(n_archives)]
    images: list[ImageSource] = [sample.image() for sample in open_archives(archives)]
    data = LocalSet(archives, images, folder / "rate")
    slowest_seconds, rounds = (2.0, 1) if quick else (10.0, 3)
    for slowest in STAGES:
        yield from measure_setting(data, slowest, slowest_seconds, rounds)


def measure_setting(
    data: LocalSet, slowest: str, slowest_seconds: float, rounds: int
) -> Iterator[Measurement]:
    """Yield the lines of a setting.

    Args:
        data: The data set.
        slowest: The slowest stage.
        slowest_seconds: About how long the slowest stage takes.
        rounds: The number of rounds.
    """
    seconds = dict.fromkeys(STAGES, OTHERS * slowest_seconds)
    seconds[slowest] = slowest_seconds
    data.rate_file.write_text(str(data.size / seconds["download"]))
    count = len(data.images)
    encoder = Encoder(seconds["decode"] * OPTIONS.workers / count, seconds["encode"] / count)
    archives_on_disk: list[int] = []  # in each round
    functions: dict[str, Callable[[], object]] = {
        "download": lambda: download(data),
        "decode": lambda: decode(encoder, data),
        "encode": lambda: encode(encoder, count),
        "streaming": lambda: archives_on_disk.append(stream_set(encoder, data)),
    }
    spreads = interleave(functions, rounds, warmup=0)
    for name, spread in spreads.items():
        yield measurement(f"slowest {slowest}: {name}", spread, "s")
    ratio = spreads[slowest].over(spreads["streaming"])
    yield measurement(f"{slowest} to streaming", ratio, "x", at_least=TARGET)
    yield measurement("archives on the disk", max(archives_on_disk), "", at_most=ON_DISK)


def download(data: LocalSet) -> None:
    """Fetch all archives by the hub's client."""
    with tempfile.TemporaryDirectory() as folder:
        for path in data.archives:
            hf_hub_download(
                REPOSITORY,
                f"test/{path.name}",
                repo_type="dataset",
                revision=COMMIT,
                cache_dir=folder,
            )


def decode(encoder: Encoder, data: LocalSet) -> None:
    """Decode and transform all images in as many threads as a run has."""

    def load(image: ImageSource) -> torch.Tensor:
        return encoder.transform(decode_source(image))

    for _ in prefetch(data.images, load, workers=OPTIONS.workers):
        pass


def encode(encoder: Encoder, count: int) -> None:
    """Encode `count` images that are ready."""
    batch = [torch.zeros(3, 224, 224)] * OPTIONS.batch_size
    for start in range(0, count, len(batch)):
        encoder.encode_image(stack_on_host(batch[: count - start], "cpu"))


def stream_set(encoder: Any, data: LocalSet) -> int:
    """Stream the set; return the largest number of archives on the disk at the same time."""
    protocol = ClassificationProtocol(
        dataset="photographs",
        protocol_name="made-up",
        repository=REPOSITORY,
        revision=COMMIT,
        folder=".",
        layout="webdataset",
        n_images=len(data.images),
    )
    with count_archives(Path(tempfile.gettempdir())) as counts:
        stream(encoder, protocol, OPTIONS, no_progress, open_data)
    return max(counts)


@contextmanager
def count_archives(folder: Path) -> Iterator[list[int]]:
    """Count the archives below a folder every 10 ms, and append the number to the list."""
    counts, stopped = [0], Event()

    def count_until_stopped() -> None:
        while not stopped.wait(0.01):
            counts.append(sum(1 for _ in folder.glob("*/hub-*/*/blobs/[0-9a-f]*")))

    thread = Thread(target=count_until_stopped)
    thread.start()
    try:
        yield counts
    finally:
        stopped.set()
        thread.join()


if __name__ == "__main__":
    main()
