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
    """Open an image of one of the FORMATS. Raises Pillow's errors."""
    try:
        return PIL.Image.open(file, formats=FORMATS)
    except PIL.UnidentifiedImageError as error:
        formats = ", ".join(FORMATS)
        raise PIL.UnidentifiedImageError(
            f"cannot identify image file (known: {formats})"
        ) from error


def require_moderate_shape(image: PIL.Image.Image) -> None:
    """Raise ValueError for an image so thin that it would fill the memory once it is resized."""
    shorter, longer = sorted(image.size)
    if longer > MOST_ELONGATED * shorter:
        raise ValueError(
            f"{image.width}x{image.height} pixels: its longer side is more than {MOST_ELONGATED} "
            "times the shorter one, and would be resized to gigabytes"
        )


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Convert an image to 8-bit RGB as `Image.convert` does, but 16-bit grey by its high byte.

    `convert` clips 16-bit greyscale at 255, which makes all but the darkest greys white. The high
    byte is what Pillow itself reads from 16-bit colours (its raw mode `RGB;16B`), and OpenCV from
    16-bit PNG files. EXIF tags stay. Raises ValueError for pixels whose white is not defined:
    32-bit integers, floats and unusual TIFF encodings.
    """
    if not has_deep_pixels(image):
        return _without_palette_alpha(image).convert("RGB")
    if not _has_sixteen_bits(image) or _is_unusual_tiff(image):
        raise ValueError(
            f"its white is not defined in Pillow's mode {image.mode}: save it with 8 or 16 bits"
        )
    grey = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "exif" in image.info:
        grey.info["exif"] = image.info["exif"]
    return grey.convert("RGB")


def _has_sixteen_bits(image: PIL.Image.Image) -> bool:
    """Return whether pixels are 16-bit greyscale.

    The mode of 16-bit PGM files, and in older releases of Pillow of 16-bit PNG files, is `I`.
    """
    if image.mode.startswith("I;16"):
        return True
    return image.mode == "I" and image.format in ("PNG", "PPM")


def _is_unusual_tiff(image: PIL.Image.Image) -> bool:
    """Return whether a TIFF file has other than 16 bits, such as 12, or 0 for white."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(ExifTags.Base.BitsPerSample, (16,)) != (16,):
        return True
    return bool(tags.get(ExifTags.Base.PhotometricInterpretation, 1) != 1)


def _without_palette_alpha(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return an image without the transparency of its palette.

    `convert` would drop it too, but with a warning.
    """
    if image.mode != "P" or not isinstance(image.info.get("transparency"), bytes):
        return image
    opaque_image = image.copy()
    del opaque_image.info["transparency"]
    return opaque_image


def has_deep_pixels(image: PIL.Image.Image) -> bool:
    """Return whether pixels have more than 8 bits: modes I, I;16, I;16B, F."""
    return image.mode.startswith(("I", "F"))
