"""`python benchmarks/overlap.py [--json] [--quick] [--images DIR] [--cifar DIR]`: near-duplicates.

Speed: small pictures and hashes per second on one thread after decoding, and 5 million random
hashes searched for 50,000. Quality: copies of made-up photographs, or of those in DIR, that are
found, by kind of copy, and pairs of different photographs that pass for copies. `--cifar`: of
CIFAR-10's test images with a near-duplicate among its training images, those that are found. DIR
has the images in `test.zip` and `train.zip`, their names by their index in the original batches in
`order.csv` (split, index, file), and `duplicates_test_in_train.csv` (TestID, TrainID, Judgment: 1
near-duplicate, 2 very similar), which is ciFAIR's list (Barz and Denzler 2020, arXiv 1902.00423,
github.com/cvjena/cifair).
"""

from __future__ import annotations

import csv
import io
import resource
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from _photographs import jpegs
from _report import Measurement, interleave, measurement, parser, report
from PIL import Image, ImageEnhance, ImageOps

from cosmos_eval.data.sources import ZippedImage
from cosmos_eval.runner import overlap
from cosmos_eval.stats.hashing import HashIndex, perceptual_hashes

KNOWN, SEEN, QUICK_SEEN = 50_000, 5_000_000, 500_000
PHOTOGRAPHS, QUICK_PHOTOGRAPHS = 200, 40
AT_ONCE = 1 << 20


def compressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def middle(image: Image.Image, fraction: float) -> Image.Image:
    return ImageOps.crop(image, round(min(image.size) * (1 - fraction) / 2))


def corner(image: Image.Image) -> Image.Image:
    """Nine tenths of both sides, from the top left."""
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
    """A decoded photograph as a data set has it."""

    def __init__(self, name: str, image: Image.Image) -> None:
        self.name, self.image = name, image

    def read(self) -> bytes:
        return b""

    def decode(self, content: bytes) -> Image.Image:
        return self.image


def load(folder: str | None, count: int) -> list[Image.Image]:
    """Photographs of a folder, or made-up ones."""
    if folder is None:
        return [Image.open(io.BytesIO(content)).convert("RGB") for content in jpegs(count)]
    files = (path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    return [Image.open(path).convert("RGB") for path in sorted(files)]


def quality(photographs: list[Image.Image]) -> list[Measurement]:
    """Recall by kind of copy, and false alarms among pairs of different photographs."""
    images = {str(n): Photograph(str(n), image) for n, image in enumerate(photographs)}
    evaluation_images = overlap.EvaluationImages.read(
        images, overlap.RunOptions(workers=0), overlap.no_progress
    )
    found = []
    for name, change in COPIES.items():
        pictures = np.stack([overlap.small(change(image)) for image in photographs])
        matches = evaluation_images.near_duplicates("", list(images), pictures)
        pairs = {(match.key, match.image) for match in matches}
        own = sum((key, key) in pairs for key in images)
        found.append(measurement(f"recall: {name}", own / len(images), "fraction"))
        found.append(measurement(f"false alarms: {name}", len(pairs) - own, "pairs"))
    return found


def cifar(folder: Path) -> list[Measurement]:
    """Recall on CIFAR-10's test images that ciFAIR's authors judged by eye."""
    with open(folder / "order.csv", newline="") as file:
        file_of = {(row["split"], row["index"]): row["file"] for row in csv.DictReader(file)}
    with open(folder / "duplicates_test_in_train.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    judged = {
        judgment: {file_of["test", row["TestID"]] for row in rows if row["Judgment"] == judgment}
        for judgment in ("1", "2")
    }
    with tempfile.TemporaryDirectory() as scratch, ZipFile(folder / "test.zip") as archive:
        shard = Path(scratch) / "train.tar"
        write_shard(folder / "train.zip", shard)
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        images = {name: ZippedImage(archive, name) for name in names}
        found_overlap = overlap.find_overlap(images, [shard], overlap.RunOptions(workers=1))
        found = set(found_overlap.duplicated_images)
    near, similar = judged["1"], judged["2"]
    others = len(found - near - similar)
    return [
        measurement("CIFAR-10: near-duplicates listed", len(near), "images"),
        measurement("CIFAR-10: of these found", len(found & near), "images", at_least=128),
        measurement("CIFAR-10: recall", len(found & near) / len(near), "fraction"),
        measurement("CIFAR-10: very similar ones found", len(found & similar), "images"),
        measurement("CIFAR-10: others found, listed by nobody", others, "images"),
    ]


def write_shard(archive: Path, shard: Path) -> None:
    """Write the images of a zip file as a tar of training images."""
    with ZipFile(archive) as images, tarfile.open(shard, "w") as tar:
        for name in sorted(name for name in images.namelist() if name.endswith(".jpg")):
            content = images.read(name)
            member = tarfile.TarInfo(name.replace("/", "_"))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def search(seen: int) -> list[Measurement]:
    """Random hashes, with a near one of every hundredth known one among them."""
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2**64, KNOWN, dtype=np.uint64)

    def run() -> int:
        index, found = HashIndex(known), 0
        for start in range(0, seen, AT_ONCE):
            queries = rng.integers(0, 2**64, min(AT_ONCE, seen - start), dtype=np.uint64)
            found += len(index.near(queries).query)
        return found

    spread = interleave({"search": run}, rounds=1, warmup=0)["search"]
    seconds = measurement(f"{seen:,} hashes among {KNOWN:,}", spread, "s", at_most=60)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # of kilobytes
    return [seconds, measurement("peak memory of the process", peak, "GB", at_most=2)]


def speed(photographs: list[Image.Image]) -> Measurement:
    def run() -> None:
        perceptual_hashes(np.stack([overlap.small(image) for image in photographs]))

    spread = interleave({"hash": run}, rounds=5)["hash"].per(len(photographs))
    return measurement("images hashed after decoding", spread, "images/s", at_least=1500)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", metavar="DIR", help="photographs instead of made-up ones")
    arguments.add_argument("--cifar", metavar="DIR", type=Path, help="CIFAR-10 and its duplicates")
    options = arguments.parse_args()
    found = search(QUICK_SEEN if options.quick else SEEN)
    photographs = load(options.images, QUICK_PHOTOGRAPHS if options.quick else PHOTOGRAPHS)
    found += [speed(photographs), *quality(photographs)]
    found += cifar(options.cifar) if options.cifar else []
    report("near-duplicates", found, options.json)


if __name__ == "__main__":
    main()
