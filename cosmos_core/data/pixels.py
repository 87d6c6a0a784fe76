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

    Raises `PIL.UnidentifiedImageError`, which lists the FORMATS, for a file in another format, and
    Pillow's other errors for a damaged file.
    """
    try:
        return PIL.Image.open(file, formats=FORMATS)
    except PIL.UnidentifiedImageError as error:
        formats = ", ".join(FORMATS)
        raise PIL.UnidentifiedImageError(
            f"cannot identify image file (known: {formats})"
        ) from error


def require_moderate_shape(image: PIL.Image.Image) -> None:
    """Raise ValueError if an image is so thin that it would fill the memory once it is resized.

    The longer side may be at most MOST_ELONGATED times as long as the shorter one.
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
    stay. Raises ValueError for pixels whose white is not defined: 32-bit integers, floats and
    unusual TIFF encodings.
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
    high_bytes = (np.asarray(image) >> 8).astype(np.uint8)
    grey_image = PIL.Image.fromarray(high_bytes)
    if "exif" in image.info:
        grey_image.info["exif"] = image.info["exif"]
    return grey_image.convert("RGB")


def _is_unusual_tiff(image: PIL.Image.Image) -> bool:
    """Return whether an image is a TIFF file that has not 16 bits, or whose white is 0.

    An example are the 12 bits of some cameras. Images without TIFF tags are not unusual.
    """
    tags = getattr(image, "tag_v2", {})
    if tags.get(ExifTags.Base.BitsPerSample, (16,)) != (16,):
        return True
    black_is_zero = 1
    interpretation = tags.get(ExifTags.Base.PhotometricInterpretation, black_is_zero)
    return bool(interpretation != black_is_zero)


def has_deep_pixels(image: PIL.Image.Image) -> bool:
    """Return whether pixels have more than 8 bits: Pillow's modes I, I;16, I;16B and F."""
    return image.mode.startswith(("I", "F"))
