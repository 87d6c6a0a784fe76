"""Open images, and read their pixels in 8 bits. This imports no torch."""

import io
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ExifTags

# Pillow's names of the formats that data sets have; MPO, of stereo cameras, is opened as JPEG. A
# file called .png could have another format, and Pillow's reader of EPS runs Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MOST_ELONGATED = 500
"""How many times the shorter side of an image the longer one may be. Models resize the shorter side
to 224 pixels or more: at this limit the resized image takes 100 MB, far beyond it gigabytes."""

# Pillow warns of every image of 89 to 179 megapixels, which is read; larger images are errors.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)


def open_image(file: Path | io.BytesIO) -> PIL.Image.Image:
    """Open an image file with Pillow, which reads its pixels when they are used.

    Args:
        file: The path of the file, or its content.

    Raises:
        PIL.UnidentifiedImageError: If the file has none of the FORMATS. The error lists them.
        Exception: Pillow's other errors, if the file is damaged.
    """
    try:
        return PIL.Image.open(file, formats=FORMATS)
    except PIL.UnidentifiedImageError as error:
        formats = ", ".join(FORMATS)
        raise PIL.UnidentifiedImageError(
            f"cannot identify image file (known: {formats})"
        ) from error


def require_moderate_shape(image: PIL.Image.Image) -> None:
    """Check that an image is not so thin that it would fill the memory once it is resized.

    Raises:
        ValueError: If the longer side is more than MOST_ELONGATED times as long as the shorter one.
    """
    shorter_side, longer_side = sorted(image.size)
    if longer_side > MOST_ELONGATED * shorter_side:
        raise ValueError(
            f"{image.width}x{image.height} pixels: its longer side is more than {MOST_ELONGATED} "
            "times the shorter one, and would be resized to gigabytes"
        )


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Convert an image to 8-bit RGB, as `Image.convert` does, but with the right greys.

    `convert` clips 16-bit greyscale at 255, which makes all but the darkest greys white. Here the
    high byte of each grey is taken: 65535 becomes 255, and 256 becomes 1. Pillow itself reads
    16-bit colours in this way (its raw mode `RGB;16B`), and OpenCV 16-bit PNG files. EXIF tags
    stay.

    Raises:
        ValueError: If it is not defined which value of the pixels is white: for 32-bit integers,
            floats and unusual TIFF encodings.
    """
    if not has_deep_pixels(image):
        has_palette_alpha = isinstance(image.info.get("transparency"), bytes)
        if image.mode == "P" and has_palette_alpha:
            # `convert` would drop the transparency of the palette too, but with a warning.
            image = image.copy()
            del image.info["transparency"]
        return image.convert("RGB")

    # The mode of 16-bit PGM files, and in older releases of Pillow of 16-bit PNG files, is `I`.
    is_sixteen_bit_file = image.mode == "I" and image.format in ("PNG", "PPM")
    has_sixteen_bits = image.mode.startswith("I;16") or is_sixteen_bit_file
    if not has_sixteen_bits or _is_unusual_tiff(image):
        raise ValueError(
            f"its white is not defined in Pillow's mode {image.mode}: save it with 8 or 16 bits"
        )
    # Take the high byte of each 16-bit grey.
    high_bytes = (np.asarray(image) >> 8).astype(np.uint8)
    grey_image = PIL.Image.fromarray(high_bytes)
    if "exif" in image.info:
        grey_image.info["exif"] = image.info["exif"]
    return grey_image.convert("RGB")


def _is_unusual_tiff(image: PIL.Image.Image) -> bool:
    """Return whether a greyscale image is a TIFF file without 16 bits, or in which 0 is white.

    For example, some cameras write 12 bits. Images without TIFF tags are not unusual.
    """
    # Tags that are missing have the usual values.
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))
    black_is_zero = 1  # a value of the TIFF tag
    interpretation = tags.get(ExifTags.Base.PhotometricInterpretation, black_is_zero)
    return bool(bits != (16,) or interpretation != black_is_zero)


def has_deep_pixels(image: PIL.Image.Image) -> bool:
    """Return whether pixels have more than 8 bits: Pillow's modes I, I;16, I;16B and F."""
    return image.mode.startswith(("I", "F"))
