"""Read the pixels of an image in 8 bits. Imports no torch."""

import numpy as np
import PIL.Image
from PIL import ExifTags


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Convert an image to 8-bit RGB as `Image.convert` does, but 16-bit greyscale by its high byte.
    `convert` clips 16-bit greyscale at 255, which leaves all but the darkest greys white. The high
    byte is what Pillow itself reads of 16-bit colours (its raw mode `RGB;16B`) and OpenCV of 16-bit
    PNG files. EXIF tags stay. Raises ValueError for pixels whose white is not defined: 32-bit
    integers, floats and unusual TIFF encodings."""
    if not has_deep_pixels(image):
        return image.convert("RGB")
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


def has_deep_pixels(image: PIL.Image.Image) -> bool:
    """Return whether pixels have more than 8 bits: modes I, I;16, I;16B, F."""
    return image.mode.startswith(("I", "F"))
