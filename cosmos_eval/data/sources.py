"""Sources of images: files, members of tar archives, arrays, and boxes of other images.

Reading and decoding are two steps, so that the content can be hashed: two sources with the same
content are the same image, also under different names. Imports no torch.
"""

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator
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

# Names of formats and of compressions in Pillow. JPEG 2000 may be lossless, but its header does
# not tell.
_LOSSY_FORMATS = frozenset({"JPEG", "MPO", "JPEG2000"})
_LOSSY_TIFF_COMPRESSIONS = frozenset({"jpeg", "tiff_jpeg", "webp"})

# Extensions of the image of a sample, as CLIP Benchmark's webdataset_builder.py and builder.py
# read them.
_IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")
_MAX_DIGITS = 6  # of the number of archives
_RECORD = 20 * BLOCK  # bytes; tar fills an archive up to a multiple of a record


class ImageSource(Protocol):
    """One image of a data set. Both methods raise a UsageError that names the image."""

    @property
    def name(self) -> str:
        """The name of the image in error messages."""

    def read(self) -> bytes:
        """Return all bytes that decide the pixels."""

    def decode(self, content: bytes) -> Image.Image:
        """Decode the bytes that `read` returned into an RGB image."""


def decode_source(source: ImageSource) -> Image.Image:
    """Read and decode an image."""
    return source.decode(source.read())


def to_displayed_rgb(image: Image.Image) -> Image.Image:
    """Return an RGB image as viewers show it.

    It is turned upright by its EXIF orientation, and transparent pixels are drawn over white.
    """
    if has_deep_pixels(image):
        image = to_rgb(image)
    upright = ImageOps.exif_transpose(image)
    if not upright.has_transparency_data:
        return to_rgb(upright)
    rgba = upright.convert("RGBA")
    on_white = Image.new("RGB", rgba.size, "white")
    on_white.paste(rgba, mask=rgba.getchannel("A"))
    return on_white


def _require_moderate_shape(image: Image.Image, name: str) -> None:
    """Raise UsageError for an image that is too thin to be resized."""
    try:
        require_moderate_shape(image)
    except ValueError as error:
        raise UsageError(f"{name}: {error}; remove it") from error


class _EncodedImage:
    """Base class of the sources whose content is an image file that Pillow decodes."""

    name: str
    # The function that converts a decoded image to RGB.
    _to_rgb = staticmethod(to_rgb)

    def decode(self, content: bytes) -> Image.Image:
        """Decode an image file. Raise UsageError if it is damaged or cut off."""
        # The code of a model may have set this, and Pillow would then fill up a cut file silently.
        PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            with open_image(io.BytesIO(content)) as image:
                require_moderate_shape(image)
                return self._to_rgb(image)
        except Exception as error:
            # Pillow does not document the errors of its decoders for damaged files. Some messages
            # end with the address of the buffer.
            reason = str(error).partition(" <_io.BytesIO")[0] or type(error).__name__
            raise UsageError(
                f"cannot decode image {self.name}: {reason}; replace or remove it"
            ) from error


@dataclass(frozen=True)
class ImageFile(_EncodedImage):
    """An image file in one of the formats of cosmos_core.data.pixels."""

    path: Path

    @property
    def name(self) -> str:  # type: ignore[override]
        return str(self.path)

    def read(self) -> bytes:
        """Return the content of the file. Raise UsageError if it cannot be read."""
        try:
            return read_bytes(self.path)
        except MissingFileError as error:
            raise UsageError(f"image not found: {self.path}") from error
        except FileError as error:
            raise UsageError(f"cannot read image {self.path}: {error}") from error


class ShownImage(ImageFile):
    """An image file as viewers show it: its first frame, upright, and white if transparent."""

    _to_rgb = staticmethod(to_displayed_rgb)


class PixelFile(ImageFile):
    """A .npy file with pixels (H, W, 3) uint8 in OpenCV's order BGR, as EqBen stores frames."""

    def decode(self, content: bytes) -> Image.Image:
        """Return the pixels as an RGB image. Raise UsageError for any other array."""
        try:
            bgr = np.load(io.BytesIO(content), allow_pickle=False)
            image = Image.fromarray(bgr[:, :, [2, 1, 0]])
        except (ValueError, EOFError, IndexError, TypeError) as error:
            raise UsageError(f"{self.name} holds no pixels (H, W, 3) uint8: {error}") from error
        _require_moderate_shape(image, self.name)
        return image


def shard_images(shard: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the key and the content of every image in a tar. Raise UsageError if it is damaged."""
    try:
        with shard.open("rb") as file:
            reader = TarReader(file)
            for member in reader:
                key_and_extension = split_name(member.name)
                if key_and_extension is None:
                    continue
                key, extension = key_and_extension
                if extension in _IMAGE_EXTENSIONS:
                    yield key, reader.read()
    except (TarError, OSError) as error:
        raise UsageError(f"{shard}: {error}") from error


@dataclass(frozen=True)
class ArchiveMember(_EncodedImage):
    """A file inside an uncompressed tar archive: `size` bytes that begin at `offset`."""

    archive: Path
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.archive}:{self.member}"

    def read(self) -> bytes:
        """Return the content of the file. Raise UsageError if the archive is damaged."""
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
class ImageContent(_EncodedImage):
    """An image file whose content was read before."""

    name: str
    content: bytes

    def read(self) -> bytes:
        """Return the content."""
        return self.content


@dataclass(frozen=True)
class ZippedImage(_EncodedImage):
    """A file inside a zip archive, which threads may read at the same time."""

    archive: ZipFile
    member: str

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.archive.filename}:{self.member}"

    def read(self) -> bytes:
        """Return the unpacked content of the file. Raise UsageError if it is damaged."""
        try:
            return self.archive.read(self.member)
        except (BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise UsageError(f"cannot read {self.name}: {error}; fetch it again") from error


def stores_images(place: Path) -> bool:
    """Return whether a path is a folder or a zip file."""
    return place.is_dir() or (place.suffix == ".zip" and place.is_file())


class ImageFolder:
    """A folder in which images are found by their paths below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> ImageSource | None:
        """Return the image of this path, or None if it is missing."""
        path = self.folder / name
        return ImageFile(path) if path.is_file() else None


class ImageZip:
    """A zip file in which images are found by their names, in any of its folders."""

    def __init__(self, path: Path) -> None:
        try:
            self.archive = ZipFile(path)
        except (BadZipFile, OSError) as error:
            raise UsageError(f"cannot read {path}: {error}; fetch it again") from error
        members = self.archive.namelist()
        self.members = {PurePosixPath(member).name: member for member in members}

    def find(self, name: str) -> ImageSource | None:
        """Return the image of this name, or None if the zip file does not hold it."""
        member = self.members.get(name)
        return None if member is None else ZippedImage(self.archive, member)


def open_image_place(place: Path) -> ImageFolder | ImageZip:
    """Open a folder or a zip file of images. Raise UsageError for a damaged zip file."""
    return ImageFolder(place) if place.is_dir() else ImageZip(place)


@dataclass(frozen=True)
class ImageArray:
    """Pixels (H, W, 3) uint8 that a data set holds in memory."""

    name: str
    pixels: NDArray[np.uint8]

    def read(self) -> bytes:
        """Return height and width as two 64-bit integers, followed by the pixels."""
        return np.array(self.pixels.shape[:2], "<i8").tobytes() + self.pixels.tobytes()

    def decode(self, content: bytes) -> Image.Image:
        """Return the pixels as an image. Raise UsageError for a very thin one."""
        height, width = np.frombuffer(content, "<i8", 2)
        pixels = np.frombuffer(content, np.uint8, offset=16).reshape(height, width, 3)
        image = Image.fromarray(pixels)
        _require_moderate_shape(image, self.name)
        return image


def array_of(image: Image.Image, name: str) -> ImageArray:
    """Return the RGB pixels of a Pillow image. Raise UsageError if they cannot be read."""
    try:
        return ImageArray(name, np.asarray(to_rgb(image)))
    except (ValueError, OSError) as error:
        raise UsageError(f"{name} cannot be read as an image: {error}") from error


@dataclass(frozen=True)
class CroppedImage:
    """A box of another image; the pixels of the box outside that image are black.

    `box` is (left, top, right, bottom) in pixels.
    """

    image: ImageSource
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        return f"{self.image.name} {list(self.box)}"

    def read(self) -> bytes:
        """Return a line with the box, followed by the content of the whole image."""
        return json.dumps(self.box).encode() + b"\n" + self.image.read()

    def decode(self, content: bytes) -> Image.Image:
        """Decode the image and cut out the box. Raise UsageError if the box is not in it."""
        _, _, image_content = content.partition(b"\n")
        image = self.image.decode(image_content)
        left, top, right, bottom = self.box
        if max(left, 0) >= min(right, image.width) or max(top, 0) >= min(bottom, image.height):
            raise UsageError(f"{self.name}: no such box in {image.width}x{image.height} pixels")
        try:
            cropped = image.crop(self.box)
        except (Image.DecompressionBombError, OverflowError, MemoryError) as error:
            raise UsageError(f"{self.name}: the box is too large ({error})") from error
        _require_moderate_shape(cropped, self.name)
        return cropped


def require_lossless(image: Image.Image, path: Path) -> None:
    """Raise UsageError for a label map in a lossy format, also under a lossless one's suffix."""
    compression = str(image.info.get("compression", ""))  # of a TIFF file
    if image.format in _LOSSY_FORMATS or compression in _LOSSY_TIFF_COMPRESSIONS:
        raise UsageError(
            f"label map {path} is a {image.format} file, whose compression changes classes: "
            "get it as PNG"
        )


class ArchiveSample(NamedTuple):
    """Adjacent members of an archive with the same key, such as `1.jpg` and `1.cls`.

    `members` maps extensions in lower case to members.
    """

    archive: Path
    key: str
    members: dict[str, ArchiveMember]

    @property
    def name(self) -> str:
        """The name of the sample in error messages."""
        return f"{self.archive}:{self.key}"

    def image(self) -> ArchiveMember:
        """Return the image of the sample. Raise UsageError if there is none."""
        for extension in _IMAGE_EXTENSIONS:
            if extension in self.members:
                return self.members[extension]
        raise UsageError(f"{self.name} has no image ({', '.join(_IMAGE_EXTENSIONS)})")

    def text(self, extension: str) -> str:
        """Return a member as text. Raise UsageError if it is missing or not UTF-8 text."""
        try:
            text = self._read(extension).decode()
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.name}.{extension} is not UTF-8 text") from error
        if "\0" in text:  # for example in a tar that is partly overwritten with zeros
            raise UsageError(f"{self.name}.{extension} has zero bytes: it is not text")
        return text

    def vector(self, size: int, *, exact: bool = True) -> NDArray[Any]:
        """Return the numbers (size,) of the .npy member.

        There may be more than `size` numbers if `exact` is False. Raise UsageError for another
        shape, and for values that are not finite numbers.
        """
        try:
            vector = np.lib.format.read_array(io.BytesIO(self._read("npy")), allow_pickle=False)
        except (ValueError, EOFError, MemoryError, OverflowError) as error:
            raise UsageError(f"{self.name}.npy is not a NumPy array: {error}") from error
        if vector.dtype.kind not in "biuf" or not np.isfinite(vector).all():
            raise UsageError(f"{self.name}.npy must hold finite numbers")
        has_size = vector.ndim == 1 and (len(vector) == size if exact else len(vector) >= size)
        if not has_size:
            expected = f"{size} numbers" if exact else f"{size} or more numbers"
            raise UsageError(
                f"{self.name}.npy must hold {expected}, not an array of {vector.shape}"
            )
        return vector

    def _read(self, extension: str) -> bytes:
        """Return the content of a member. Raise UsageError if it is missing."""
        if extension not in self.members:
            raise UsageError(f"{self.name} has no .{extension}, only {', '.join(self.members)}")
        return self.members[extension].read()


def open_archives(archives: Iterable[Path]) -> list[ArchiveSample]:
    """List all samples of archives in their order, reading only headers.

    Raise UsageError for an archive that is missing, empty or damaged.
    """
    samples = []
    for archive in archives:
        samples.extend(_list_samples(archive))
    return samples


def _list_samples(archive: Path) -> list[ArchiveSample]:
    """List the samples of one archive. Raise UsageError if it is missing, empty or damaged."""
    if archive.exists() and not archive.is_file():
        raise UsageError(f"{archive} is a folder, a pipe or a device, not a tar archive")
    samples: list[ArchiveSample] = []
    try:
        with archive.open("rb") as file:
            for entry in TarReader(file):
                member = ArchiveMember(archive, entry.name, entry.offset, entry.size)
                _add_to_samples(samples, member)
    except FileNotFoundError as error:
        raise UsageError(f"{archive} is not there") from error
    except TarError as error:
        raise UsageError(f"{archive}: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {archive}: {error.strerror}") from error
    if not samples:
        raise UsageError(f"no samples in {archive}")
    return samples


def _add_to_samples(samples: list[ArchiveSample], member: ArchiveMember) -> None:
    """Add a member to the last sample if it has the same key, or else to a new sample.

    Members whose names have no key and extension are left out. Raise UsageError if a sample has two
    members with the same extension.
    """
    key_and_extension = split_name(member.member)
    if key_and_extension is None:
        return
    key, extension = key_and_extension
    if not samples or samples[-1].key != key:
        samples.append(ArchiveSample(member.archive, key, {}))
    sample = samples[-1]
    if extension in sample.members:
        raise UsageError(f"{sample.name} has two files .{extension}; keep one of them")
    sample.members[extension] = member


def image_sources(data: Any) -> list[ImageSource]:
    """Return the images of a task's opened data.

    They are in the attribute `images` of the data, or beside label maps in `samples`. For a list or
    tuple, such as the training and test data of a probe, return the images of all its entries. For
    an image source, return the source itself. Return an empty list for other data.
    """
    if hasattr(data, "images"):
        return list(data.images)
    if hasattr(data, "samples"):
        return [ImageFile(sample.image) for sample in data.samples]
    if isinstance(data, list | tuple):
        return [source for entry in data for source in image_sources(entry)]
    if hasattr(data, "decode"):
        return [data]
    return []


def archive_notes(data: Any) -> list[str]:
    """Return a note for every archive of opened data that may have been cut and zero-filled."""
    archives: dict[Path, None] = {}
    for source in image_sources(data):
        if isinstance(source, ArchiveMember):
            archives[source.archive] = None
    notes = []
    for archive in archives:
        # A streamed archive is removed after the measurement.
        note = _note_of_zeros(archive) if archive.is_file() else None
        if note is not None:
            notes.append(note)
    return notes


def _note_of_zeros(archive: Path) -> str | None:
    """Return a note if an archive ends with more zeros than tar writes, else None.

    After the last file, tar writes two blocks of zeros, and more to fill up the last record. The
    zeros are fewer than two blocks and a record.
    """
    usual_zeros = 2 * BLOCK + _RECORD
    size = archive.stat().st_size
    with archive.open("rb") as file:
        file.seek(max(size - usual_zeros, 0))
        end = file.read()
    if end.strip(b"\0"):
        return None
    last_name, last_offset, last_size = list(read_members(str(archive)))[-1]
    last_padding = -last_size % BLOCK  # fills up the last block of the last file
    n_zeros = size - (last_offset + last_size + last_padding)
    if n_zeros < usual_zeros:
        return None
    return (
        f"{archive} ends with {n_zeros:,} bytes of zeros after {last_name}, more than tar writes: "
        "samples are missing if it was cut there; compare its checksum with its source's"
    )


def write_index(archive: Path, index: Path) -> list[ArchiveMember]:
    """Write a tar that stands in for an archive: every image is replaced by its SHA-256.

    The index has the same members; the content of an image is 32 bytes. Return the images of the
    archive. Raise UsageError if the archive is damaged.
    """
    samples = open_archives([archive])
    images = [sample.image() for sample in samples]
    image_names = {image.member for image in images}
    with tarfile.open(index, "w", format=tarfile.GNU_FORMAT) as tar:
        for sample in samples:
            for member in sample.members.values():
                content = member.read()
                if member.member in image_names:
                    content = hashlib.sha256(content).digest()
                entry = tarfile.TarInfo(member.member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return images


def numbered_archives(folder: Path) -> list[Path]:
    """Return the paths 0.tar, 1.tar... in a folder, as many as its nshards.txt says.

    Raise UsageError if that file of CLIP Benchmark's layout does not hold a number.
    """
    path = folder / "nshards.txt"
    text = read_layout_file(path)
    is_zero = not text.strip("0")
    if not text.isdecimal() or is_zero or len(text) > _MAX_DIGITS:
        raise UsageError(f"{path} must hold the number of archives, not {text[:40]!r}")
    return [folder / f"{number}.tar" for number in range(int(text))]


def read_layout_file(path: Path) -> str:
    """Read a text file of CLIP Benchmark's layout. Raise UsageError if it cannot be read."""
    with faults_of(f"cannot read {path}, which CLIP Benchmark's layout has: "):
        return read_text(path).strip()
