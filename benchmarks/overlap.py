"""`python benchmarks/overlap.py [--json] [--quick] [--images DIR] [--cifar DIR]`: near-duplicates.

Speed: how many decoded images per second become small pictures and hashes on one thread, and how
long it takes to look up 5 million random hashes among 50,000. Quality: the share of copies of
made-up photographs, or of those in DIR, that are found, by kind of copy, and how many pairs of
different photographs are taken for copies.

`--cifar` measures how many of CIFAR-10's test images with a near-duplicate among its training
images are found. DIR has
- the images in `test.zip` and `train.zip`;
- `order.csv` (split, index, file), the names of their files by their index in the original batches;
- `duplicates_test_in_train.csv` (TestID, TrainID, Judgment: 1 near-duplicate, 2 very similar),
  which is ciFAIR's list (Barz and Denzler 2020, arXiv 1902.00423, github.com/cvjena/cifair).
"""

from __future__ import annotations

import csv
import io
import resource
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import numpy as np
from _photographs import jpegs
from _report import Measurement, interleave, measurement, parser, report
from PIL import Image, ImageEnhance, ImageOps

from cosmos_eval.data.sources import ZippedImage
from cosmos_eval.runner import overlap
from cosmos_eval.stats.hashing import HashIndex, perceptual_hashes

# Hashes that are indexed, and hashes that are looked up.
INDEXED, QUERIES, QUICK_QUERIES = 50_000, 5_000_000, 500_000
PHOTOGRAPHS, QUICK_PHOTOGRAPHS = 200, 40
QUERIES_AT_ONCE = 1 << 20


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """Return the image as a JPEG file of this quality has it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def middle(image: Image.Image, fraction: float) -> Image.Image:
    """Cut off all four sides by the same number of pixels.

    Args:
        image: The image.
        fraction: The fraction of the shorter side that is left.
    """
    return ImageOps.crop(image, round(min(image.size) * (1 - fraction) / 2))


def corner(image: Image.Image) -> Image.Image:
    """Return nine tenths of both sides, from the top left."""
    return image.crop((0, 0, round(image.width * 0.9), round(image.height * 0.9)))


COPIES: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 30": lambda image: compressed(image, 30),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "squashed to a square": lambda image: image.resize((256, 256)),
    "mirrored": ImageOps.mirror,
    "brighter by a third": lambda image: ImageEnhance.Brightness(image).enhance(4 / 3),
    "middle, 5% cut off": lambda image: middle(image, 0.95),
    "middle, 10% cut off": lambda image: middle(image, 0.9),
    "middle, 20% cut off": lambda image: middle(image, 0.8),
    "top left, 10% cut off": corner,
}


class Photograph:
    """The source of a photograph that is decoded already."""

    def __init__(self, name: str, image: Image.Image) -> None:
        self.name = name
        self.image = image

    def read(self) -> bytes:
        """Return nothing: there is no file."""
        return b""

    def decode(self, content: bytes) -> Image.Image:
        """Return the photograph."""
        return self.image


def load_photographs(folder: str | None, count: int) -> list[Image.Image]:
    """Return all photographs in a folder, or `count` made-up ones."""
    if folder is None:
        return [Image.open(io.BytesIO(content)).convert("RGB") for content in jpegs(count)]
    files = (path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    return [Image.open(path).convert("RGB") for path in sorted(files)]


def quality_lines(photographs: list[Image.Image]) -> list[Measurement]:
    """Return the recall of each kind of copy, and how many other photographs it is taken for."""
    images = {str(n): Photograph(str(n), image) for n, image in enumerate(photographs)}
    evaluation_images = overlap.EvaluationImages.read(
        images, overlap.RunOptions(workers=0), overlap.no_progress
    )
    lines = []
    for kind, change in COPIES.items():
        pictures = np.stack([overlap.small(change(image)) for image in photographs])
        matches = evaluation_images.near_duplicates("", list(images), pictures)
        matched_keys = {(match.key, match.image) for match in matches}
        n_recalled = sum((key, key) in matched_keys for key in images)
        lines.append(measurement(f"recall: {kind}", n_recalled / len(images), "fraction"))
        n_false = len(matched_keys) - n_recalled
        lines.append(measurement(f"false alarms: {kind}", n_false, "pairs"))
    return lines


class JudgedImages(NamedTuple):
    """The names of CIFAR-10's test images that ciFAIR's authors judged by eye."""

    # Images with a near-duplicate among the training images.
    near_duplicates: set[str]
    # Images with a very similar one among the training images.
    very_similar: set[str]


def read_judgments(folder: Path) -> JudgedImages:
    """Read ciFAIR's list; see the docstring of this file for the files in the folder."""
    with open(folder / "order.csv", newline="") as file:
        file_names = {(row["split"], row["index"]): row["file"] for row in csv.DictReader(file)}
    judged = JudgedImages(set(), set())
    names_by_judgment = {"1": judged.near_duplicates, "2": judged.very_similar}
    with open(folder / "duplicates_test_in_train.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["Judgment"] in names_by_judgment:
                names_by_judgment[row["Judgment"]].add(file_names["test", row["TestID"]])
    return judged


def duplicated_cifar_images(folder: Path) -> set[str]:
    """Return the names of the test images for which near-duplicates in the training are found."""
    with tempfile.TemporaryDirectory() as scratch, ZipFile(folder / "test.zip") as archive:
        shard = Path(scratch) / "train.tar"
        write_shard(folder / "train.zip", shard)
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        images = {name: ZippedImage(archive, name) for name in names}
        result = overlap.find_overlap(images, [shard], overlap.RunOptions(workers=1))
        return set(result.duplicated_images)


def cifar_lines(folder: Path) -> list[Measurement]:
    """Return the recall on CIFAR-10's test images, and other images that are found."""
    judged = read_judgments(folder)
    duplicated = duplicated_cifar_images(folder)
    n_near = len(judged.near_duplicates)
    n_near_found = len(duplicated & judged.near_duplicates)
    n_similar_found = len(duplicated & judged.very_similar)
    n_unlisted = len(duplicated - judged.near_duplicates - judged.very_similar)
    return [
        measurement("CIFAR-10: near-duplicates listed", n_near, "images"),
        measurement("CIFAR-10: of these found", n_near_found, "images", at_least=128),
        measurement("CIFAR-10: recall", n_near_found / n_near, "fraction"),
        measurement("CIFAR-10: very similar ones found", n_similar_found, "images"),
        measurement("CIFAR-10: others found, listed by nobody", n_unlisted, "images"),
    ]


def write_shard(archive: Path, shard: Path) -> None:
    """Write the images of a zip file as a tar of training images."""
    with ZipFile(archive) as images, tarfile.open(shard, "w") as tar:
        for name in sorted(name for name in images.namelist() if name.endswith(".jpg")):
            content = images.read(name)
            member = tarfile.TarInfo(name.replace("/", "_"))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def search_lines(n_queries: int) -> list[Measurement]:
    """Return the seconds to look up random hashes, and the peak memory of the process so far."""
    rng = np.random.default_rng(0)
    indexed_hashes = rng.integers(0, 2**64, INDEXED, dtype=np.uint64)

    def search() -> None:
        index = HashIndex(indexed_hashes)
        for start in range(0, n_queries, QUERIES_AT_ONCE):
            size = min(QUERIES_AT_ONCE, n_queries - start)
            index.near(rng.integers(0, 2**64, size, dtype=np.uint64))

    spread = interleave({"search": search}, rounds=1, warmup=0)["search"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kilobytes to gigabytes
    return [
        measurement(f"{n_queries:,} hashes among {INDEXED:,}", spread, "s", at_most=60),
        measurement("peak memory of the process", peak, "GB", at_most=2),
    ]


def speed_line(photographs: list[Image.Image]) -> Measurement:
    """Return how many decoded images per second are shrunk and hashed."""

    def hash_images() -> None:
        perceptual_hashes(np.stack([overlap.small(image) for image in photographs]))

    seconds = interleave({"hash": hash_images}, rounds=5)["hash"]
    rate = seconds.per(len(photographs))
    return measurement("images hashed after decoding", rate, "images/s", at_least=1500)


def main() -> None:
    """Measure and print."""
    argument_parser = parser(__doc__)
    argument_parser.add_argument(
        "--images", metavar="DIR", help="photographs instead of made-up ones"
    )
    argument_parser.add_argument(
        "--cifar", metavar="DIR", type=Path, help="CIFAR-10 and its duplicates"
    )
    arguments = argument_parser.parse_args()
    lines = search_lines(QUICK_QUERIES if arguments.quick else QUERIES)
    n_photographs = QUICK_PHOTOGRAPHS if arguments.quick else PHOTOGRAPHS
    photographs = load_photographs(arguments.images, n_photographs)
    lines += [speed_line(photographs), *quality_lines(photographs)]
    if arguments.cifar:
        lines += cifar_lines(arguments.cifar)
    report("near-duplicates", lines, arguments.json)


if __name__ == "__main__":
    main()
