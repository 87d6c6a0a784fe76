"""Images and tar archives to be fuzzed, and the model that measures them.

The model sees the mean colour of an image and the colour words of a text, so that an oracle needs
Pillow and a maximum alone.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, UnidentifiedImageError
from support.fuzzing import Kind, Outcome, damage, misplace

COLOURS = {"red": (200, 30, 40), "green": (30, 180, 60), "blue": (20, 60, 220)}
MODEL = """
import numpy as np
import torch
from cosmos_eval.types import EncoderInfo

COLOURS = ("red", "green", "blue")

class Colours:
    preprocessing = {}
    tokenizer = {}
    trims_text = False

    def __init__(self, device, precision):
        self.info = EncoderInfo("colours", "colours", None, "0" * 64, False, precision, device)

    def transform(self, image):
        mean = np.asarray(image, np.float64).reshape(-1, 3).mean(axis=0)
        return torch.tensor(mean + 1e-3).float()[:, None, None]

    def tokenize(self, texts):
        named = torch.tensor([[int(colour in text) for colour in COLOURS] for text in texts])
        return torch.where(named.any(dim=1, keepdim=True), named, 1)

    def overlong(self, texts):
        return torch.zeros(len(texts), dtype=torch.bool)

    def encode_image(self, images):
        return torch.nn.functional.normalize(images[:, :, 0, 0], dim=1)

    def encode_text(self, tokens):
        return torch.nn.functional.normalize(tokens.float(), dim=1)

def load(device, precision):
    return Colours(device, precision)
"""
SAMPLES = [(n, colour) for n, colour in enumerate(("red", "green", "blue", "blue", "green", "red"))]
FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")
GREY = "none more than another"


def picture(number: int, colour: str, form: str = "PNG") -> bytes:
    """Return a small image of about one colour. Number 4 is red, whatever its label says."""
    colour = "red" if number == 4 else colour
    rng = np.random.default_rng(number)
    pixels = np.clip(rng.normal(COLOURS[colour], 8, (6, 8, 3)), 0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form)
    return content.getvalue()


def seen(content: bytes) -> str | None:
    """Return the colour that the model must see, by Pillow; None if Pillow cannot decode it."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            mean = np.asarray(image.convert("RGB"), np.float64).reshape(-1, 3).mean(axis=0)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    second, first = np.sort(mean)[1:]
    return list(COLOURS)[int(mean.argmax())] if first - second > 1e-3 else GREY


def measure(dataset: str, folder: Path, model: str = "python:{}/model.py") -> list[str]:
    """Return the arguments that measure the data set of a YAML file."""
    return [
        *("run", "--dataset", str(folder / dataset), "--model", model.format(folder)),
        *("--output", str(folder / "out"), "--device", "cpu", "--no-cache", "--workers", "0"),
    ]


def prepare_images(folder: Path) -> None:
    """Write a data set, `set.yaml`, with an image of every format, and the model."""
    (folder / "model.py").write_text(MODEL)
    (folder / "set.yaml").write_text("kind: cls\nfolder: photos\n")
    for (number, colour), form in zip(SAMPLES, FORMATS, strict=True):
        path = folder / "photos" / colour / f"{number}.{form.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, colour, form))


def _mutate_image(rng: Random, folder: Path) -> str:
    path = rng.choice(sorted((folder / "photos").glob("*/*")))
    return misplace(rng, path) if rng.random() < 0.1 else damage(rng, path)


def _mutate_shape(rng: Random, folder: Path) -> str:
    """Put an image of another shape in the place of one, from square to very thin."""
    path = rng.choice(sorted((folder / "photos").glob("*/*")))
    size = [rng.choice((1, 2, 7)), int(10 ** rng.uniform(0, 6))]
    rng.shuffle(size)
    Image.new("RGB", (size[0], size[1]), COLOURS[path.parent.name]).save(path, "PNG")
    return f"{path.name}: {size[0]}x{size[1]} pixels"


def _judge_shapes(copy: Path, pristine: Path, outcome: Outcome, other: Outcome) -> Iterator[str]:
    """No image may pass that is so thin that a resize would take gigabytes."""
    for path in (copy / "photos").glob("*/*.*"):
        with Image.open(path) as image:
            shorter, longer = sorted(image.size)
        if longer > 500 * shorter:
            yield f"{path.name} of {longer}x{shorter} pixels is measured"
    yield from _judge_images(copy, pristine, outcome, other)


def _judge_images(copy: Path, _: Path, outcome: Outcome, __: Outcome) -> Iterator[str]:
    paths = [path for path in (copy / "photos").glob("*/*.*") if path.is_file()]
    labels = [(path.parent.name, path.read_bytes()) for path in paths]
    yield from _judge_colours(labels, outcome)


def _judge_colours(labels: list[tuple[str, bytes]], outcome: Outcome) -> Iterator[str]:
    """Compare an accuracy with that of the oracle on labels and images."""
    (result,) = outcome.results
    colours = [(label, seen(content)) for label, content in labels]
    if unread := sum(colour is None for _, colour in colours):
        yield f"Pillow cannot decode {unread} of the images"
        return
    # The model may take a grey image for any colour, so the number of right images has bounds.
    least = sum(label == colour for label, colour in colours)
    most = least + sum(colour == GREY for _, colour in colours)
    n_right = result["metrics"]["acc1"] * len(colours)
    if result["n_samples"] != len(colours) or not least - 1e-9 <= n_right <= most + 1e-9:
        measured = f"{n_right} of {result['n_samples']}"
        yield f"{measured} images are right, by the oracle {least} to {most} of {len(colours)}"


# Reports of GNU tar on owners, times and permissions, and its last line after any report.
_HARMLESS = re.compile(r"(mode|uid|gid|time)_t|time stamp|contiguous files|Exiting with failure")


def _prepare_tars(folder: Path) -> None:
    (folder / "model.py").write_text(MODEL)
    (folder / "set.yaml").write_text("kind: cls\nlayout: webdataset\nfolder: wds\n")
    (folder / "wds/test").mkdir(parents=True)
    (folder / "wds/classnames.txt").write_text("\n".join(COLOURS))
    (folder / "wds/test/nshards.txt").write_text("1")
    with tarfile.open(folder / "wds/test/0.tar", "w") as tar:
        for number, colour in SAMPLES:
            label = str(list(COLOURS).index(colour)).encode()
            for suffix, content in (("cls", label), ("png", picture(number, colour))):
                info = tarfile.TarInfo(f"{number:04}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


# Offset and size of fields of a header of tar (POSIX ustar): name, mode, size of the file,
# checksum, type, and name of the link.
_HEADER_FIELDS = ((0, 100), (100, 8), (124, 12), (148, 8), (156, 1), (157, 100))


def _mutate_tar(rng: Random, folder: Path) -> str:
    path = folder / "wds/test/0.tar"
    if rng.random() < 0.05:
        return misplace(rng, path)
    if rng.random() < 0.5:
        return damage(rng, path)
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        starts = [info.offset for info in tar]
    start = rng.choice(starts)
    offset, size = rng.choice(_HEADER_FIELDS)
    field = rng.choice((b"", b"7" * size, b"\xff" * size, rng.randbytes(size), b"00000000144"))
    content[start + offset : start + offset + size] = field[:size].ljust(size, b"\0")
    header = content[start : start + 512]
    if rng.random() < 0.7:  # an adversary corrects the checksum
        header[148:156] = b" " * 8
        content[start + 148 : start + 156] = f"{sum(header):06o}\0 ".encode()
    path.write_bytes(content)
    return f"0.tar: field {offset} of the header at {start} is {bytes(field)[:12]!r}"


def _judge_tar(copy: Path, _: Path, outcome: Outcome, __: Outcome) -> Iterator[str]:
    yield from judge_archive(copy / "wds/test/0.tar", outcome)


def judge_archive(archive: Path, outcome: Outcome) -> Iterator[str]:
    """Compare with the files that GNU tar extracts from the archive, which must be complete."""
    if any(archive.read_bytes()[-1024:]):
        yield "it does not end as archives do, with two blocks of zeros"
        return
    with tempfile.TemporaryDirectory() as folder:
        command = ["tar", "--ignore-zeros", "-xf", str(archive), "-C", folder]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        faults = [line for line in completed.stderr.splitlines() if not _HARMLESS.search(line)]
        if faults:
            yield f"GNU tar refuses it: {faults[0][:100]!r}"
            return
        labels = []
        for path in Path(folder).rglob("*.cls"):
            path.chmod(0o600)
            path.with_suffix(".png").chmod(0o600)
            label = list(COLOURS)[int(path.read_text())]
            labels.append((label, path.with_suffix(".png").read_bytes()))
    yield from _judge_colours(labels, outcome)


KINDS = (
    Kind("images", prepare_images, _mutate_image, partial(measure, "set.yaml"), _judge_images),
    Kind("shapes", prepare_images, _mutate_shape, partial(measure, "set.yaml"), _judge_shapes),
    Kind("tars", _prepare_tars, _mutate_tar, partial(measure, "set.yaml"), _judge_tar),
)
