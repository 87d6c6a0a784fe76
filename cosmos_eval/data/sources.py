"""Sources of images: files, members of tar archives, arrays, and boxes of other images.

Reading and decoding are two steps, so that the content can be hashed: two sources with the same
content are the same image, whatever their names. Imports no torch.
"""

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol
from zipfile import BadZipFile, ZipFile

import numpy as np
import PIL.ImageFile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cosmos_core.data.pixels import (
    has_deep_pixels,
    open_image,
    require_moderate_shape,
    to_rgb,
)
from cosmos_core.data.tar import (
    BLOCK,
    TarError,
    TarReader,
    read_members,
    require_one_file,
    split_name,
)
from cosmos_eval.data.readers import FileError, MissingFileError, faults_of, read_bytes, read_text
from cosmos_eval.types import UsageError

# Pillow's names. JPEG 2000 may be lossless, which the header does not say.
_LOSSY = frozenset({"JPEG", "MPO", "JPEG2000"})
_LOSSY_TIFF = frozenset({"jpeg", "tiff_jpeg", "webp"})

# Of a sample's image; those that CLIP Benchmark's webdataset_builder.py and builder.py read.
_IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")
_MOST_DIGITS = 6
_RECORD = 20 * BLOCK  # what tar pads an archive to, after two blocks of zeros


class ImageSource(Protocol):
    """One image of a data set. Both methods raise UsageError that names it."""

    @property
    def name(self) -> str:
        """The name in error messages."""

    def read(self) -> bytes:
        """Return everything that decides the pixels."""

    def decode(self, content: bytes) -> Image.Image:
        """Turn what was read into an RGB image."""


def decoded(source: ImageSource) -> Image.Image:
    """Read and decode an image."""
    return source.decode(source.read())


def as_shown(image: Image.Image) -> Image.Image:
    """Convert an image to RGB as viewers show it: upright, what is transparent in white."""
    upright = ImageOps.exif_transpose(to_rgb(image) if has_deep_pixels(image) else image)
    if not upright.has_transparency_data:
        return to_rgb(upright)
    layer = upright.convert("RGBA")
    page = Image.new("RGB", layer.size, "white")
    page.paste(layer, mask=layer.getchannel("A"))
    return page


def _moderate(image: Image.Image, name: str) -> Image.Image:
    """Return an image that can be resized. Raises UsageError for a very thin one."""
    try:
        require_moderate_shape(image)
    except ValueError as error:
        raise UsageError(f"{name}: {error}; remove it") from error
    return image


class _Encoded:
    name: str
    _to_rgb = staticmethod(to_rgb)

    def decode(self, content: bytes) -> Image.Image:
        # Code that was imported with a model may have allowed it: half an image is another image.
        PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            with open_image(io.BytesIO(content)) as image:
                require_moderate_shape(image)
                return self._to_rgb(image)
        except Exception as error:
            # What Pillow's decoders raise for damaged files is not documented. Some messages end
            # with the address of the buffer.
            reason = str(error).partition(" <_io.BytesIO")[0] or type(error).__name__
            raise UsageError(
                f"cannot decode image {self.name}: {reason}; replace or remove it"
            ) from error


@dataclass(frozen=True)
class ImageFile(_Encoded):
    """An image file of one of the formats of cosmos_core.data.pixels."""

    path: Path

    @property
    def name(self) -> str:  # type: ignore[override]
        return str(self.path)

    def read(self) -> bytes:
        try:
            return read_bytes(self.path)
        except MissingFileError as error:
            raise UsageError(f"image not found: {self.path}") from error
        except FileError as error:
            raise UsageError(f"cannot read image {self.path}: {error}") from error


class ShownImage(ImageFile):
    """An image file as viewers show it: upright, the first frame, what is transparent in white."""

    _to_rgb = staticmethod(as_shown)


class PixelFile(ImageFile):
    """A .npy file of pixels (H, W, 3) uint8 in OpenCV's order, BGR, as EqBen has frames."""

    def decode(self, content: bytes) -> Image.Image:
        try:
            pixels = np.load(io.BytesIO(content), allow_pickle=False)[:, :, [2, 1, 0]]
            image = Image.fromarray(pixels)
        except (ValueError, EOFError, IndexError, TypeError) as error:
            raise UsageError(f"{self.name} holds no pixels (H, W, 3) uint8: {error}") from error
        return _moderate(image, self.name)


def shard_images(shard: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the keys and the files of a tar's images. Raises UsageError for a damaged tar."""
    try:
        with shard.open("rb") as file:
            reader = TarReader(file)
            for member in reader:
                named = split_name(member.name)
                if named and named[1] in _IMAGE_EXTENSIONS:
                    yield named[0], reader.read()
    except (TarError, OSError) as error:
        raise UsageError(f"{shard}: {error}") from error


@dataclass(frozen=True)
class ArchiveMember(_Encoded):
    """A file inside an uncompressed tar archive: `size` bytes from `offset` on."""

    archive: Path
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.archive}:{self.member}"

    def read(self) -> bytes:
        try:
            with self.archive.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
            if len(content) != self.size:
                raise UsageError(f"{self.archive} is cut off inside {self.member}; fetch it again")
            require_one_file(content)
        except OSError as error:
            raise UsageError(f"cannot read {self.name}: {error.strerror}") from error
        except TarError as error:
            raise UsageError(f"{self.name}: {error}") from error
        return content


@dataclass(frozen=True)
class ImageContent(_Encoded):
    """An image file that was read before."""

    name: str
    content: bytes

    def read(self) -> bytes:
        return self.content


@dataclass(frozen=True)
class ZippedImage(_Encoded):
    """A file inside a zip archive, which threads may read at the same time."""

    archive: ZipFile
    member: str

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.archive.filename}:{self.member}"

    def read(self) -> bytes:
        try:
            return self.archive.read(self.member)
        except (BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise UsageError(f"cannot read {self.name}: {error}; fetch it again") from error


def holds_images(place: Path) -> bool:
    """Return whether this is a folder or a zip file."""
    return place.is_dir() or (place.suffix == ".zip" and place.is_file())


def image_finder(place: Path) -> Callable[[str], ImageSource | None]:
    """Return the function that finds an image by its path below a folder, or by its name in any
    folder of a zip file. Raises UsageError for a damaged zip file."""
    if place.is_dir():
        return lambda name: ImageFile(place / name) if (place / name).is_file() else None
    try:
        archive = ZipFile(place)
    except (BadZipFile, OSError) as error:
        raise UsageError(f"cannot read {place}: {error}; fetch it again") from error
    members = {PurePosixPath(member).name: member for member in archive.namelist()}
    return lambda name: ZippedImage(archive, members[name]) if name in members else None


@dataclass(frozen=True)
class ImageArray:
    """Pixels (H, W, 3) uint8 that a data set holds in memory."""

    name: str
    pixels: NDArray[np.uint8]

    def read(self) -> bytes:
        """Return height and width, then the pixels."""
        return np.array(self.pixels.shape[:2], "<i8").tobytes() + self.pixels.tobytes()

    def decode(self, content: bytes) -> Image.Image:
        height, width = np.frombuffer(content, "<i8", 2)
        pixels = np.frombuffer(content, np.uint8, offset=16).reshape(height, width, 3)
        return _moderate(Image.fromarray(pixels), self.name)


def array_of(image: Image.Image, name: str) -> ImageArray:
    """Return the RGB pixels of an image of Pillow's. Raises UsageError where it has none."""
    try:
        return ImageArray(name, np.asarray(to_rgb(image)))
    except (ValueError, OSError) as error:
        raise UsageError(f"{name} cannot be read as an image: {error}") from error


@dataclass(frozen=True)
class CroppedImage:
    """A box (left, top, right, bottom), in pixels, of another source; black outside the image."""

    whole: ImageSource
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        return f"{self.whole.name} {list(self.box)}"

    def read(self) -> bytes:
        """Return the box in a line, then the whole image's content."""
        return json.dumps(self.box).encode() + b"\n" + self.whole.read()

    def decode(self, content: bytes) -> Image.Image:
        """Decode the box. Raises UsageError where it is empty or has no pixel of the image."""
        _, _, inner = content.partition(b"\n")
        image = self.whole.decode(inner)
        left, top, right, bottom = self.box
        if max(left, 0) >= min(right, image.width) or max(top, 0) >= min(bottom, image.height):
            raise UsageError(f"{self.name}: no such box in {image.width}x{image.height} pixels")
        try:
            return _moderate(image.crop(self.box), self.name)
        except (Image.DecompressionBombError, OverflowError, MemoryError) as error:
            raise UsageError(f"{self.name}: the box is too large ({error})") from error


def require_lossless(image: Image.Image, path: Path) -> None:
    """Raise UsageError for a label map of a lossy format, whatever its name ends with."""
    compression = str(image.info.get("compression", ""))  # of a TIFF file
    if image.format in _LOSSY or compression in _LOSSY_TIFF:
        raise UsageError(
            f"label map {path} is a {image.format} file, whose compression changes classes: "
            "get it as PNG"
        )


class ArchiveSample(NamedTuple):
    """Adjacent members of an archive under one key (`1.jpg`, `1.cls`), by lower extension."""

    archive: Path
    key: str
    members: dict[str, ArchiveMember]

    @property
    def name(self) -> str:
        return f"{self.archive}:{self.key}"

    def image(self) -> ArchiveMember:
        """Return the sample's image. Raises UsageError where it has none."""
        found = [self.members[one] for one in _IMAGE_EXTENSIONS if one in self.members]
        if not found:
            raise UsageError(f"{self.name} has no image ({', '.join(_IMAGE_EXTENSIONS)})")
        return found[0]

    def text(self, extension: str) -> str:
        """Return a member as UTF-8 text. Raises UsageError where it is missing or is no text."""
        try:
            text = self._read(extension).decode()
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.name}.{extension} is not UTF-8 text") from error
        if "\0" in text:  # as in a tar of which a part is overwritten with zeros
            raise UsageError(f"{self.name}.{extension} has zero bytes, which are no text")
        return text

    def vector(self, size: int, *, exact: bool = True) -> NDArray[Any]:
        """Return the .npy member, which must hold `size` finite numbers in a row, or where that is
        not `exact` more. Raises UsageError."""
        try:
            found = np.lib.format.read_array(io.BytesIO(self._read("npy")), allow_pickle=False)
        except (ValueError, EOFError, MemoryError, OverflowError) as error:
            raise UsageError(f"{self.name}.npy is no array of NumPy's: {error}") from error
        if found.dtype.kind not in "biuf" or not np.isfinite(found).all():
            raise UsageError(f"{self.name}.npy must hold finite numbers")
        if found.ndim != 1 or len(found) < size or (exact and len(found) > size):
            what = f"{size}{'' if exact else ' or more'} numbers"
            raise UsageError(f"{self.name}.npy must hold {what}, not an array of {found.shape}")
        return found

    def _read(self, extension: str) -> bytes:
        if extension not in self.members:
            raise UsageError(f"{self.name} has no .{extension}, only {', '.join(self.members)}")
        return self.members[extension].read()


def open_archives(archives: Iterable[Path]) -> list[ArchiveSample]:
    """List all samples of archives, in their order; only headers are read. Raises UsageError."""
    return [sample for archive in archives for sample in _samples(archive)]


def _samples(archive: Path) -> list[ArchiveSample]:
    if archive.exists() and not archive.is_file():
        raise UsageError(f"{archive} is a folder, a pipe or a device, not a tar archive")
    samples: list[ArchiveSample] = []
    try:
        with archive.open("rb") as file:
            for member in TarReader(file):
                if (found := split_name(member.name)) is None:
                    continue
                key, extension = found
                if not samples or samples[-1].key != key:
                    samples.append(ArchiveSample(archive, key, {}))
                sample = samples[-1]
                if extension in sample.members:
                    raise UsageError(f"{sample.name} has two files .{extension}; keep one of them")
                sample.members[extension] = ArchiveMember(archive, *member)
    except FileNotFoundError as error:
        raise UsageError(f"{archive} is not there") from error
    except TarError as error:
        raise UsageError(f"{archive}: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {archive}: {error.strerror}") from error
    if not samples:
        raise UsageError(f"no samples in {archive}")
    return samples


def image_sources(data: Any) -> list[ImageSource]:
    """Return the images of opened data of any task: listed in `images`, beside label maps in
    `samples`, or in several sets, such as a probe's."""
    if hasattr(data, "images"):
        return list(data.images)
    if hasattr(data, "samples"):
        return [ImageFile(sample.image) for sample in data.samples]
    if isinstance(data, list | tuple):
        return [source for inner in data for source in image_sources(inner)]
    return [data] if hasattr(data, "decode") else []


def archive_notes(data: Any) -> list[str]:
    """Return a note for every archive of opened data that may have been cut and zero-filled."""
    images = (source for source in image_sources(data) if isinstance(source, ArchiveMember))
    archives = dict.fromkeys(image.archive for image in images)
    # What was streamed is gone after the measurement.
    there = (archive for archive in archives if archive.is_file())
    return [note for archive in there for note in _zeros_at_end(archive)]


def _zeros_at_end(archive: Path) -> Iterator[str]:
    """Yield a note if an archive ends with more zeros than tar writes: a record and two blocks."""
    usual = 2 * BLOCK + _RECORD
    size = archive.stat().st_size
    with archive.open("rb") as file:
        file.seek(max(size - usual, 0))
        if file.read().strip(b"\0"):
            return
    *_, (name, offset, length) = read_members(str(archive))
    zeros = size - offset - length - (-length % BLOCK)
    if zeros >= usual:
        yield (
            f"{archive} ends with {zeros:,} bytes of zeros after {name}, more than tar writes: "
            "samples are missing if it was cut there; compare its checksum with its source's"
        )


def write_index(archive: Path, index: Path) -> list[ArchiveMember]:
    """Write a tar with the members of an archive, but the SHA-256 (32 bytes) of each sample's image
    in its place, and return the images. Raises UsageError."""
    samples = open_archives([archive])
    images = [sample.image() for sample in samples]
    hashed = {image.member for image in images}
    with tarfile.open(index, "w", format=tarfile.GNU_FORMAT) as tar:
        for member in (one for sample in samples for one in sample.members.values()):
            content = member.read()
            if member.member in hashed:
                content = hashlib.sha256(content).digest()
            entry = tarfile.TarInfo(member.member)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return images


def numbered_archives(folder: Path) -> list[Path]:
    """Return 0.tar, 1.tar... of a folder by CLIP Benchmark's nshards.txt. Raises UsageError."""
    path = folder / "nshards.txt"
    count = read_stated(path)
    if not count.isdecimal() or not count.strip("0") or len(count) > _MOST_DIGITS:
        raise UsageError(f"{path} must hold the number of archives, not {count[:40]!r}")
    return [folder / f"{number}.tar" for number in range(int(count))]


def read_stated(path: Path) -> str:
    """Read a text file of CLIP Benchmark's layout. Raises UsageError where it cannot be read."""
    with faults_of(f"cannot read {path}, which CLIP Benchmark's layout has: "):
        return read_text(path).strip()
