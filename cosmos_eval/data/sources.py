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
from cosmos_eval.data.readers import (
    FileError,
    MissingFileError,
    read_bytes,
    read_text,
    report_faults_at,
)
from cosmos_eval.types import UsageError

# Names of formats and of compressions in Pillow. JPEG 2000 may be lossless, but its header does
# not say so.
_LOSSY_FORMATS = frozenset({"JPEG", "MPO", "JPEG2000"})
_LOSSY_TIFF_COMPRESSIONS = frozenset({"jpeg", "tiff_jpeg", "webp"})

# Extensions of the image of a sample, as CLIP Benchmark's webdataset_builder.py and builder.py
# read them.
_IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")
_MAX_DIGITS_OF_ARCHIVES = 6  # digits of the number of archives in nshards.txt
# tar fills an archive with zeros up to a multiple of a record (in bytes).
_RECORD = 20 * BLOCK


class ImageSource(Protocol):
    """One image of a data set, wherever it is stored.

    Reading and decoding are separate, so that the bytes can be hashed before they are decoded. Both
    methods raise a UsageError that names the image.
    """

    @property
    def name(self) -> str:
        """The name of the image in error messages."""

    def read(self) -> bytes:
        """Return the stored bytes, which fully determine the pixels."""

    def decode(self, content: bytes) -> Image.Image:
        """Decode the bytes that `read` returned into an RGB image."""


def decode_source(source: ImageSource) -> Image.Image:
    """Read an image and decode it to RGB. Raise UsageError if that fails."""
    return source.decode(source.read())


def to_displayed_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB as image viewers display it.

    It is turned upright by its EXIF orientation, and transparent pixels are drawn over white.
    """
    if has_deep_pixels(image):  # more than 8 bits per channel, which Pillow would clip
        image = to_rgb(image)
    upright_image = ImageOps.exif_transpose(image)
    if not upright_image.has_transparency_data:
        return to_rgb(upright_image)

    # Paste the image on a white one, with its alpha channel as the mask.
    rgba_image = upright_image.convert("RGBA")
    white_image = Image.new("RGB", rgba_image.size, "white")
    white_image.paste(rgba_image, mask=rgba_image.getchannel("A"))
    return white_image


def _require_moderate_shape(image: Image.Image, name: str) -> None:
    """Raise UsageError, with the name of the image, if it is too long and thin to be resized."""
    try:
        require_moderate_shape(image)
    except ValueError as error:
        raise UsageError(f"{name}: {error}; remove it") from error


class _EncodedImage:
    """Base class of the sources whose bytes are an image file that Pillow decodes."""

    name: str
    # The function that converts the image that Pillow opened to RGB. Subclasses may replace it.
    _to_rgb = staticmethod(to_rgb)

    def decode(self, content: bytes) -> Image.Image:
        """Decode the bytes of an image file to RGB.

        This also makes Pillow refuse files that are cut off, in the whole process.

        Raises:
            UsageError: If the file is damaged, cut off, or too long and thin to be resized.
        """
        # The code of a model may have set this to True. Pillow would then replace the missing end
        # of a cut file by grey pixels without an error.
        PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            with open_image(io.BytesIO(content)) as image:
                require_moderate_shape(image)
                return self._to_rgb(image)
        except Exception as error:
            # Pillow does not document which errors its decoders raise for damaged files. Remove the
            # memory address at the end of messages such as "cannot identify image file
            # <_io.BytesIO object at 0x7f...>".
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
        """The path of the file."""
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
    """An image file as viewers show it: the first frame, turned upright, over white."""

    _to_rgb = staticmethod(to_displayed_rgb)


class PixelFile(ImageFile):
    """A .npy file with pixels (H, W, 3) uint8 in OpenCV's order BGR, as EqBen stores frames."""

    def decode(self, content: bytes) -> Image.Image:
        """Return the pixels of a .npy file as an RGB image.

        Raise UsageError if the array has another shape or type than (H, W, 3) uint8.
        """
        try:
            bgr_pixels = np.load(io.BytesIO(content), allow_pickle=False)
            rgb_pixels = bgr_pixels[:, :, [2, 1, 0]]  # reverse the order of the channels
            image = Image.fromarray(rgb_pixels)
        except (ValueError, EOFError, IndexError, TypeError) as error:
            raise UsageError(f"{self.name} holds no pixels (H, W, 3) uint8: {error}") from error
        _require_moderate_shape(image, self.name)
        return image


def shard_images(shard: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the key and the bytes of every image in a tar of training samples.

    The key of a sample is the name of its files without the extension.

    Args:
        shard: The path of the tar.

    Raises:
        UsageError: If the tar is damaged.

    Example:
        For the file `00012.jpg` in the tar, it yields `("00012", <the bytes of the file>)`.
    """
    try:
        with shard.open("rb") as file:
            reader = TarReader(file)
            for member in reader:
                key_and_extension = split_name(member.name)  # such as ("00012", "jpg")
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
    # The name of the file in the archive.
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:  # type: ignore[override]
        """The archive and the file in it: `test/0.tar:00012.jpg`."""
        return f"{self.archive}:{self.member}"

    def read(self) -> bytes:
        """Return the bytes of the file. Raise UsageError if the archive is damaged."""
        try:
            with self.archive.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
            if len(content) != self.size:
                raise UsageError(f"{self.archive} is cut off inside {self.member}; fetch it again")
            # Raises TarError if the content holds headers of further files, as in a damaged tar.
            require_one_file(content)
        except OSError as error:
            raise UsageError(f"cannot read {self.name}: {error.strerror}") from error
        except TarError as error:
            raise UsageError(f"{self.name}: {error}") from error
        return content


@dataclass(frozen=True)
class ImageContent(_EncodedImage):
    """An image file whose bytes are already in memory."""

    name: str
    content: bytes

    def read(self) -> bytes:
        """Return the bytes of the file."""
        return self.content


@dataclass(frozen=True)
class ZippedImage(_EncodedImage):
    """An image file inside a zip archive. Several threads may read from the same archive."""

    archive: ZipFile
    # The name of the file in the archive.
    member: str

    @property
    def name(self) -> str:  # type: ignore[override]
        """The archive and the file in it: `val2017.zip:val2017/1.jpg`."""
        return f"{self.archive.filename}:{self.member}"

    def read(self) -> bytes:
        """Return the unpacked content of the file. Raise UsageError if it is damaged."""
        try:
            return self.archive.read(self.member)
        except (BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise UsageError(f"cannot read {self.name}: {error}; fetch it again") from error


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images, which are looked up by their paths below it."""

    folder: Path

    def find(self, name: str) -> ImageSource | None:
        """Return the image at the path `name` below the folder, or None if it is missing."""
        path = self.folder / name
        return ImageFile(path) if path.is_file() else None


class ImageZip:
    """A zip file of images, which are looked up by their file names, in any folder inside it.

    Images that share a file name are looked up by their whole paths in the zip file.
    """

    def __init__(self, path: Path) -> None:
        """Read the list of files. Raise UsageError if the zip file is damaged or missing."""
        try:
            self.archive = ZipFile(path)
        except (BadZipFile, OSError) as error:
            raise UsageError(f"cannot read {path}: {error}; fetch it again") from error
        self._path = path
        # For example {"1.jpg": ["val2017/1.jpg"], "val2017/1.jpg": ["val2017/1.jpg"]}.
        self._members_by_name: dict[str, list[str]] = {}
        for member in self.archive.namelist():
            for name in {PurePosixPath(member).name, member}:
                self._members_by_name.setdefault(name, []).append(member)

    def find(self, name: str) -> ImageSource | None:
        """Return the image with the file name or the path `name`, or None if there is none.

        Raise UsageError if several images have this file name.
        """
        members = self._members_by_name.get(name, [])
        if len(members) > 1:
            raise UsageError(
                f"{self._path} has {len(members)} images named {name} ({', '.join(members[:3])}): "
                "give their paths in the zip file"
            )
        return ZippedImage(self.archive, members[0]) if members else None


def open_image_place(path: Path) -> ImageFolder | ImageZip:
    """Return the images in a folder, or in a zip file, by their names.

    Raise UsageError for a damaged zip file.
    """
    return ImageFolder(path) if path.is_dir() else ImageZip(path)


@dataclass(frozen=True, eq=False)
class ImageArray:
    """An image whose pixels (H, W, 3), uint8 in RGB, are already in memory.

    Two of them are equal if they are the same object: whether arrays are equal has no truth value.
    """

    name: str
    pixels: NDArray[np.uint8]

    def read(self) -> bytes:
        """Return the height and the width (64-bit integers, 16 bytes), followed by the pixels."""
        height_and_width = np.array(self.pixels.shape[:2], "<i8")
        return height_and_width.tobytes() + self.pixels.tobytes()

    def decode(self, content: bytes) -> Image.Image:
        """Return the image that is stored in bytes from `read`.

        Raise UsageError if the image is too long and thin to be resized.
        """
        # The first 16 bytes are the height and the width. The pixels follow, row by row.
        height, width = np.frombuffer(content, "<i8", 2)
        flat_pixels = np.frombuffer(content, np.uint8, offset=16)
        image = Image.fromarray(flat_pixels.reshape(height, width, 3))
        _require_moderate_shape(image, self.name)
        return image


def to_image_array(image: Image.Image, name: str) -> ImageArray:
    """Return a Pillow image as an image source that is called `name`.

    Raise UsageError if its pixels cannot be read.
    """
    try:
        return ImageArray(name, np.asarray(to_rgb(image)))
    except (ValueError, OSError) as error:
        raise UsageError(f"{name} cannot be read as an image: {error}") from error


@dataclass(frozen=True)
class CroppedImage:
    """A rectangular box of another image. Pixels of the box outside that image are black."""

    image: ImageSource
    # (left, top, right, bottom) in pixels.
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """The name of the whole image and the box: `1.jpg [0, 10, 20, 40]`."""
        return f"{self.image.name} {list(self.box)}"

    def read(self) -> bytes:
        """Return one line with the box as JSON, followed by the bytes of the whole image."""
        return json.dumps(self.box).encode() + b"\n" + self.image.read()

    def decode(self, content: bytes) -> Image.Image:
        """Decode the whole image, and cut out the box.

        `content` is what `read` returned: one line with the box, then the bytes of the whole image.
        Raise UsageError if the box and the image do not overlap, or if the box is too large.
        """
        _, _, image_content = content.partition(b"\n")
        image = self.image.decode(image_content)

        left, top, right, bottom = self.box
        overlap_width = min(right, image.width) - max(left, 0)
        overlap_height = min(bottom, image.height) - max(top, 0)
        if overlap_width <= 0 or overlap_height <= 0:
            raise UsageError(f"{self.name}: no such box in {image.width}x{image.height} pixels")

        try:
            cropped = image.crop(self.box)
        except (Image.DecompressionBombError, OverflowError, MemoryError) as error:
            raise UsageError(f"{self.name}: the box is too large ({error})") from error
        _require_moderate_shape(cropped, self.name)
        return cropped


def require_lossless(image: Image.Image, path: Path) -> None:
    """Raise UsageError if a label map is stored in a lossy format such as JPEG.

    Lossy compression changes pixels, which are the classes here. The content of the file decides,
    and not its suffix. A TIFF file is lossy if its compression is.

    Args:
        image: The label map, as Pillow opened it.
        path: Its path, for the error message.
    """
    compression = str(image.info.get("compression", ""))  # only TIFF files state it
    if image.format in _LOSSY_FORMATS or compression in _LOSSY_TIFF_COMPRESSIONS:
        raise UsageError(
            f"label map {path} is a {image.format} file, whose compression changes classes: "
            "get it as PNG"
        )


class ArchiveSample(NamedTuple):
    """A sample of a webdataset: adjacent files of a tar archive that share their key.

    The files `00012.jpg` and `00012.cls`, for example, are the sample with the key `00012`.
    """

    archive: Path
    key: str
    # The files by their extensions in lower case, such as `jpg` and `cls`.
    members: dict[str, ArchiveMember]

    @property
    def name(self) -> str:
        """The name of the sample in error messages: `test/0.tar:00012`."""
        return f"{self.archive}:{self.key}"

    def image(self) -> ArchiveMember:
        """Return the image of the sample. Raise UsageError if there is none."""
        for extension in _IMAGE_EXTENSIONS:
            if extension in self.members:
                return self.members[extension]
        raise UsageError(f"{self.name} has no image ({', '.join(_IMAGE_EXTENSIONS)})")

    def text(self, extension: str) -> str:
        """Return the text of the file with this extension.

        Raise UsageError if the sample has no such file, or if it is not UTF-8 text.
        """
        try:
            text = self._read(extension).decode()
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.name}.{extension} is not UTF-8 text") from error
        if "\0" in text:  # for example if a part of the tar was overwritten with zeros
            raise UsageError(f"{self.name}.{extension} has zero bytes: it is not text")
        return text

    def vector(self, size: int, *, exact: bool = True) -> NDArray[Any]:
        """Return the numbers in the sample's .npy file, an array of one dimension.

        Args:
            size: How many numbers the file must hold.
            exact: If False, the file may hold more than `size` numbers. All are returned.

        Raises:
            UsageError: If the file is missing, if its array has another shape, and if a value is
                not a finite number.
        """
        content = io.BytesIO(self._read("npy"))
        try:
            vector = np.lib.format.read_array(content, allow_pickle=False)
        except (ValueError, EOFError, MemoryError, OverflowError) as error:
            raise UsageError(f"{self.name}.npy is not a NumPy array: {error}") from error

        # Booleans, signed and unsigned integers, and floating-point numbers.
        is_numeric = vector.dtype.kind in "biuf"
        if not is_numeric or not np.isfinite(vector).all():
            raise UsageError(f"{self.name}.npy must hold finite numbers")

        if exact:
            expected = f"{size} numbers"
            has_expected_size = vector.shape == (size,)
        else:
            expected = f"{size} or more numbers"
            has_expected_size = vector.ndim == 1 and len(vector) >= size
        if not has_expected_size:
            raise UsageError(
                f"{self.name}.npy must hold {expected}, not an array of {vector.shape}"
            )
        return vector

    def _read(self, extension: str) -> bytes:
        """Return the bytes of the file with this extension. Raise UsageError if it is missing."""
        if extension not in self.members:
            raise UsageError(f"{self.name} has no .{extension}, only {', '.join(self.members)}")
        return self.members[extension].read()


def open_archives(archives: Iterable[Path]) -> list[ArchiveSample]:
    """Return all samples of tar archives, in the order of the archives and of their files.

    Only the headers are read, not the contents of files. Raise UsageError for an archive that is
    missing, empty or damaged.
    """
    samples = []
    for archive in archives:
        samples.extend(_list_samples(archive))
    return samples


def _list_samples(archive: Path) -> list[ArchiveSample]:
    """Return the samples of one tar archive, in the order of its files.

    Raise UsageError if the archive is missing, empty or damaged.
    """
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
    """Add a file of an archive to the last sample, or to a new sample if it has another key.

    Files of a sample are adjacent in an archive. Files without a key and an extension in their
    names are skipped.

    Args:
        samples: The samples of all previous files in the archive. The list is changed in place.
        member: The next file, such as `00012.jpg`, which belongs to the sample `00012`.

    Raises:
        UsageError: If a sample would have two files with the same extension.
    """
    key_and_extension = split_name(member.member)  # such as ("00012", "jpg")
    if key_and_extension is None:
        return
    key, extension = key_and_extension
    is_new_sample = not samples or samples[-1].key != key
    if is_new_sample:
        samples.append(ArchiveSample(member.archive, key, {}))
    sample = samples[-1]
    if extension in sample.members:
        raise UsageError(f"{sample.name} has two files .{extension}; keep one of them")
    sample.members[extension] = member


def image_sources(data: Any) -> list[ImageSource]:
    """Return the images of a data set that any task has opened.

    Args:
        data: The data set. Its form depends on the task:

            - If it has an attribute `images`, these images are returned.
            - If it has an attribute `samples`, which have label maps, the image of each sample is
              returned, and then of the samples `train`, if there are any.
            - If it is a list or tuple, such as the training and the test data of a probe, the
              images of all entries are returned.
            - If it is an image source itself, it is returned.
            - Anything else has no images.
    """
    if hasattr(data, "images"):
        return list(data.images)
    if hasattr(data, "samples"):
        samples = (*data.samples, *getattr(data, "train", ()))
        return [ImageFile(sample.image) for sample in samples]
    if isinstance(data, list | tuple):
        sources: list[ImageSource] = []
        for entry in data:
            sources.extend(image_sources(entry))
        return sources
    if hasattr(data, "decode"):
        return [data]
    return []


def archive_notes(data: Any) -> list[str]:
    """Return a note for every tar archive of a data set that may lack samples at its end.

    An archive is suspicious if it ends with many zeros: an interrupted download may have reserved
    the space of the whole file.

    Args:
        data: A data set that a task has opened. Only its images in archives matter.
    """
    archives = []
    for source in image_sources(data):
        if isinstance(source, ArchiveMember):
            archives.append(source.archive)

    notes = []
    for archive in dict.fromkeys(archives):  # every archive once, in their order
        if not archive.is_file():
            continue  # a streamed archive is removed after the measurement
        note = _describe_trailing_zeros(archive)
        if note is not None:
            notes.append(note)
    return notes


def _describe_trailing_zeros(archive: Path) -> str | None:
    """Return a note if a tar archive ends with more zeros than tar writes, or else None.

    After the last file, tar writes two blocks (512 bytes each) of zeros, and then zeros up to the
    next multiple of a record (20 blocks). It is always less than two blocks and a whole record.
    """
    # Most archives end with fewer zeros than this. For them, it is enough to look at their end.
    max_usual_zeros = 2 * BLOCK + _RECORD
    archive_size = archive.stat().st_size
    with archive.open("rb") as file:
        file.seek(max(archive_size - max_usual_zeros, 0))
        last_bytes = file.read()
    has_only_zeros = not last_bytes.strip(b"\0")
    if not has_only_zeros:
        return None

    # The last file itself may end with zeros: count only the zeros after it.
    last_name, last_offset, last_size = list(read_members(str(archive)))[-1]
    last_padding = -last_size % BLOCK  # zeros that fill up the last block of the last file
    end_of_last_file = last_offset + last_size + last_padding
    n_zeros = archive_size - end_of_last_file
    if n_zeros < max_usual_zeros:
        return None
    return (
        f"{archive} ends with {n_zeros:,} bytes of zeros after {last_name}, more than tar writes: "
        "samples are missing if it was cut there; compare its checksum with its source's"
    )


def write_index(archive: Path, index: Path) -> list[ArchiveMember]:
    """Write a small tar that stands in for an archive, and return the images of the archive.

    The index has the same files as the archive, but the content of every image is replaced by its
    SHA-256 (32 bytes).

    Args:
        archive: The path of the tar archive of samples.
        index: The path of the index to write.

    Raises:
        UsageError: If the archive is damaged.
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
    """Return the paths of the archives in a folder of CLIP Benchmark's webdataset layout.

    The file nshards.txt in the folder holds the number of archives. Raise UsageError if it does not
    hold a number above 0.

    Example:
        If nshards.txt holds `2`, the archives are `0.tar` and `1.tar` in the folder.
    """
    path = folder / "nshards.txt"
    text = read_layout_file(path)
    is_zero = not text.strip("0")
    if not text.isdecimal() or is_zero or len(text) > _MAX_DIGITS_OF_ARCHIVES:
        raise UsageError(f"{path} must hold the number of archives, not {text[:40]!r}")
    return [folder / f"{number}.tar" for number in range(int(text))]


def read_layout_file(path: Path) -> str:
    """Return the stripped text of a file of CLIP Benchmark's webdataset layout.

    Raise UsageError if it cannot be read.
    """
    with report_faults_at(f"cannot read {path}, which CLIP Benchmark's layout has: "):
        return read_text(path).strip()
