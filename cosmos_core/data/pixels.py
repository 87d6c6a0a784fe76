"""Open images, and read their pixels in 8 bits. Imports no torch."""

import io
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ExifTags

# Pillow's names of the formats of data sets; MPO, of stereo cameras, is opened as JPEG. Pillow has
# readers that nobody expects behind the name of a .png: that of EPS runs Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MOST_ELONGATED = 500
"""How many times the shorter side of an image the longer one may be. Models resize the shorter side
to 224 pixels or more: at this limit the resized image takes 100 MB, far beyond it gigabytes."""

# It is written for every image of 89 to 179 megapixels, which are measured; larger ones are errors.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)


def open_image(file: Path | io.BytesIO) -> PIL.Image.Image:
    """Open an image of one of the FORMATS. Raises what Pillow raises."""
    try:
        return PIL.Image.open(file, formats=FORMATS)
    except PIL.UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise PIL.UnidentifiedImageError(f"cannot identify image file (known: {known})") from error


def require_moderate_shape(image: PIL.Image.Image) -> None:
    """Raise ValueError for an image so thin that it would fill the memory once it is resized."""
    shorter, longer = sorted(image.size)
    if longer > MOST_ELONGATED * shorter:
        raise ValueError(
            f"{image.width}x{image.height} pixels: its longer side is more than {MOST_ELONGATED} "
            "times the shorter one, and would be resized to gigabytes"
        )


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Convert an image to 8-bit RGB as `Image.convert` does, but 16-bit greyscale by its high byte.
    `convert` clips 16-bit greyscale at 255, which leaves all but the darkest greys white. The high
    byte is what Pillow itself reads of 16-bit colours (its raw mode `RGB;16B`) and OpenCV of 16-bit
    PNG files. EXIF tags stay. Raises ValueError for pixels whose white is not defined: 32-bit
    integers, floats and unusual TIFF encodings."""
    if not has_deep_pixels(image):
        return _without_palette_alpha(image).convert("RGB")
    # Older releases of Pillow call 16-bit PNG files, and all releases 16-bit PGM files, `I`.
    sixteen_bits = image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")
    )
    tags = getattr(image, "tag_v2", {})  # of a TIFF file: some have 12 bits, in some 0 is white
    usual = (
        tags.get(ExifTags.Base.BitsPerSample, (16,)) == (16,)
        and tags.get(ExifTags.Base.PhotometricInterpretation, 1) == 1
    )
    if not (sixteen_bits and usual):
        raise ValueError(
            f"its white is not defined in Pillow's mode {image.mode}: save it with 8 or 16 bits"
        )
    grey = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    grey.info = {key: value for key, value in image.info.items() if key == "exif"}
    return grey.convert("RGB")


def _without_palette_alpha(image: PIL.Image.Image) -> PIL.Image.Image:
    """Drop the transparency of a palette's colours, of which `convert` warns before it drops it."""
    if image.mode != "P" or not isinstance(image.info.get("transparency"), bytes):
        return image
    copied = image.copy()
    del copied.info["transparency"]
    return copied


def has_deep_pixels(image: PIL.Image.Image) -> bool:
    """Return whether pixels have more than 8 bits: modes I, I;16, I;16B, F."""
    return image.mode.startswith(("I", "F"))
