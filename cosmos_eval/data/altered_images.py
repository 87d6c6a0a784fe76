"""Images that are altered when they are decoded: with a written word, or corrupted.

The alteration is a part of the bytes that `read` returns, so that altered images have embeddings of
their own in the cache. It depends on nothing but these bytes and the versions of the packages that
draw. Imports no torch.
"""

import hashlib
import io
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cosmos_core.utils.extras import missing_package
from cosmos_eval.data.class_names import ClassData
from cosmos_eval.data.sources import ImageSource
from cosmos_eval.types import UsageError
from cosmos_eval.types.protocols import SEVERITIES, Corruption

# Fractions of the side of the central square of an image, which models with a square crop see.
_LETTER_HEIGHT = 1 / 6
_MAX_TEXT_WIDTH = 0.9
_TEXT_CENTRE = 0.75  # the height of the middle of the text, from the top of the square
_OUTLINE = 1 / 12  # of the height of letters
_LEAST_LETTERS = 6  # pixels
_NO_CHARACTER = "\U0010fffe"  # which no font has

# As ImageNet-C was made (github.com/hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py,
# commit 8190fe3): torchvision's Resize(256) and CenterCrop(224), then JPEG of quality 85.
_SHORT_SIDE, _CROP, _JPEG_QUALITY = 256, 224, 85
_PACKAGE = "imagecorruptions-imaug"
_global_generator_lock = Lock()
"""Is held while a corruption draws from NumPy's global generator of random numbers."""


@dataclass(frozen=True)
class WrittenImage:
    """Another image with a word written on it: a typographic attack.

    The word is white with a black outline, in the lower half of the central square of the image, in
    the font of Pillow. Its letters are as high as a sixth of the square, or smaller if the word
    would be wider than nine tenths of the square.
    """

    image: ImageSource
    word: str

    @property
    def name(self) -> str:
        """The name of the image and the word: `1.jpg [written: sea lion]`."""
        return f"{self.image.name} [written: {self.word}]"

    def read(self) -> bytes:
        """Return one line with the word as JSON, followed by the bytes of the image."""
        return json.dumps({"written": self.word}).encode() + b"\n" + self.image.read()

    def decode(self, content: bytes) -> Image.Image:
        """Decode the image in bytes that `read` returned, and write the word on it."""
        _, _, image_content = content.partition(b"\n")
        return write_word(self.image.decode(image_content), self.word)


def write_word(image: Image.Image, word: str) -> Image.Image:
    """Return a copy of an RGB image with a word on it, as `WrittenImage` describes."""
    side = min(image.size)
    height = max(side * _LETTER_HEIGHT, _LEAST_LETTERS)
    font = _load_font(height)
    width = font.getlength(word)
    if width > side * _MAX_TEXT_WIDTH:
        font = _load_font(max(height * side * _MAX_TEXT_WIDTH / width, _LEAST_LETTERS))
    written = image.copy()
    ImageDraw.Draw(written).text(
        (image.width / 2, (image.height - side) / 2 + side * _TEXT_CENTRE),
        word,
        fill="white",
        font=font,
        anchor="mm",
        stroke_width=round(font.size * _OUTLINE),
        stroke_fill="black",
    )
    return written


def _load_font(height: float) -> ImageFont.FreeTypeFont:
    """Return the font of Pillow (Aileron Regular) in a size in pixels, which becomes whole."""
    font = ImageFont.load_default(size=round(height))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType: install Pillow's wheel")
    return font


def write_wrong_classes(data: ClassData, class_names: Sequence[str], dataset: str) -> ClassData:
    """Return the data with the name of a wrong class on every image.

    Args:
        data: N images with one label each.
        class_names: The names of the C classes in prompts, which are written without accents.
        dataset: The name of the data set, for error messages.

    Raises:
        UsageError: If all classes have the same name, or if the font lacks a letter of a name.
    """
    words = [_without_accents(name) for name in class_names]
    _require_letters(words, dataset)
    try:
        written_classes = draw_wrong_classes(data.names, data.labels, words)
    except ValueError as error:
        raise UsageError(f"{dataset}: no wrong class to write on images: {error}") from error
    images = []
    for image, class_index in zip(data.images, written_classes.tolist(), strict=True):
        images.append(WrittenImage(image, words[class_index]))
    return data._replace(images=tuple(images), written_classes=written_classes)


def _without_accents(name: str) -> str:
    """Return a name without accents, which the font lacks: `Curaçao` becomes `Curacao`."""
    letters = unicodedata.normalize("NFKD", name)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _require_letters(words: Sequence[str], dataset: str) -> None:
    """Raise UsageError for a word with a letter that the font would draw as an empty box."""
    font = _load_font(_LEAST_LETTERS * 4)
    empty_box = bytes(font.getmask(_NO_CHARACTER))
    for letter in sorted(set("".join(words))):
        if bytes(font.getmask(letter)) == empty_box:
            word = next(word for word in words if letter in word)
            raise UsageError(
                f"{dataset}: the font has no letter {letter!r} to write {word!r} on images: give "
                "`class_names` in Latin letters"
            )


def draw_wrong_classes(
    image_names: Sequence[str], labels: NDArray[Any], class_names: Sequence[str]
) -> NDArray[np.int64]:
    """Draw a wrong class for every image, which depends only on the name of the image.

    All classes whose name differs from the name of the right one are equally probable. ImageNet,
    for example, has two classes that are called `missile`.

    Args:
        image_names: The names of N images.
        labels: The index of each image's class, (N,).
        class_names: The names of C classes, as they are written.

    Returns:
        The indices of the drawn classes, (N,).

    Raises ValueError if all classes have the same name.
    """
    names = np.array(class_names)
    wrong_classes_by_label = {}
    for label in np.unique(labels).tolist():
        wrong_classes_by_label[label] = np.flatnonzero(names != names[label])
        if not len(wrong_classes_by_label[label]):
            raise ValueError(f"all classes are called {class_names[label]!r}")
    drawn_classes = np.empty(len(labels), np.int64)
    for index, (name, label) in enumerate(zip(image_names, labels.tolist(), strict=True)):
        wrong_classes = wrong_classes_by_label[label]
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
        drawn_number = int.from_bytes(digest[:8], "big")
        drawn_classes[index] = wrong_classes[drawn_number % len(wrong_classes)]
    return drawn_classes


@dataclass(frozen=True)
class CorruptedImage:
    """Another image with a corruption of ImageNet-C in one of the severities 1 to 5.

    The random numbers of a corruption depend only on the content of the image, the corruption and
    the severity.
    """

    image: ImageSource
    corruption: Corruption
    severity: int

    @property
    def name(self) -> str:
        """The name of the image and the corruption: `1.jpg [fog 3]`."""
        return f"{self.image.name} [{self.corruption} {self.severity}]"

    def read(self) -> bytes:
        """Return one line with the corruption as JSON, followed by the bytes of the image."""
        header = [self.corruption, self.severity, *_package_versions()]
        return json.dumps(header).encode() + b"\n" + self.image.read()

    def decode(self, content: bytes) -> Image.Image:
        """Decode the image in bytes that `read` returned, and corrupt it.

        The image is resized, cropped, corrupted and compressed as ImageNet-C was made.
        """
        _, _, image_content = content.partition(b"\n")
        image = _resize_and_crop(self.image.decode(image_content))
        # Versions of packages, which the first line has too, do not change the seed.
        label = f"{self.corruption} {self.severity}\n".encode()
        seed = int.from_bytes(hashlib.sha256(label + image_content).digest()[:4], "big")
        pixels = corrupt_pixels(np.asarray(image), self.corruption, self.severity, seed)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY, optimize=True)
        return Image.open(file).convert("RGB")


def corrupt_images(data: ClassData, corruption: Corruption) -> ClassData:
    """Return five versions of every image, one with each severity of a corruption.

    All images with severity 1 come first. The severity is the group of an image.

    Args:
        data: N images. Groups that they may have are replaced.
        corruption: The name of the corruption.

    Raises:
        UsageError: If the package that corrupts images is not installed.
    """
    _package_versions()
    versions = []
    for severity in SEVERITIES:
        images = [CorruptedImage(image, corruption, severity) for image in data.images]
        names = [f"{severity}/{name}" for name in data.names]
        versions.append(data._replace(images=tuple(images), names=tuple(names)))
    return join_severities(versions)


def join_severities(versions: Sequence[ClassData]) -> ClassData:
    """Return the data of all severities as one, with severities as groups.

    Args:
        versions: The same N images with the severities 1 to 5.
    """
    n_images = len(versions[0].images)
    joined = versions[0]._replace(
        names=tuple(name for version in versions for name in version.names),
        images=tuple(image for version in versions for image in version.images),
        labels=np.concatenate([version.labels for version in versions]),
        origins=np.tile(np.arange(n_images), len(versions)),
        skipped_files=tuple(name for version in versions for name in version.skipped_files),
    )
    return joined.with_groups(
        [f"severity {severity}" for severity in SEVERITIES for _ in range(n_images)]
    )


def corrupt_pixels(
    pixels: NDArray[np.uint8], corruption: Corruption, severity: int, seed: int
) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3) of an image with a corruption.

    The corruptions draw random numbers from NumPy's global generator, whose state is restored
    afterwards. Threads take turns.

    Args:
        pixels: The pixels of the image, (H, W, 3), RGB. H and W are 32 or more.
        corruption: The name of the corruption.
        severity: The severity, from 1 to 5.
        seed: The seed of the random numbers, of 32 bits.
    """
    from imagecorruptions import corrupt

    # Two corruptions have generators of their own.
    options = {"seed": seed} if corruption in ("impulse_noise", "glass_blur") else {}
    with _global_generator_lock:
        state = np.random.get_state()
        np.random.seed(seed)
        try:
            corrupted = corrupt(pixels, severity, corruption, **options)
        finally:
            np.random.set_state(state)
    return np.asarray(corrupted, np.uint8)


def _resize_and_crop(image: Image.Image) -> Image.Image:
    """Return the central square of 224 pixels of an image whose short side is 256 pixels."""
    from torchvision.transforms.functional import center_crop, resize  # which imports torch

    resized: Image.Image = center_crop(resize(image, _SHORT_SIDE), [_CROP, _CROP])
    return resized


@cache
def _package_versions() -> tuple[str, ...]:
    """Return the names and versions of the packages that corrupt images.

    Raise UsageError if they are not installed.
    """
    try:
        return tuple(f"{name} {version(name)}" for name in (_PACKAGE, "scikit-image"))
    except PackageNotFoundError as error:
        message = missing_package("a corruption", _PACKAGE, "corruptions")
        raise UsageError(message) from error
