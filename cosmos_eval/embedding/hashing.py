"""The SHA-256s of images as results record them, computed without a model. Imports no torch."""

import hashlib
from collections.abc import Sequence

from cosmos_eval.data.frames import Video
from cosmos_eval.data.regions import PooledRegion
from cosmos_eval.data.sources import ImageSource
from cosmos_eval.embedding.embed import hash_image_files
from cosmos_eval.embedding.regions import hash_regions
from cosmos_eval.types import RunOptions


def hash_images(images: Sequence[ImageSource], options: RunOptions) -> list[bytes]:
    """Return the SHA-256 of each image, as a measurement records it in `image_sha256s`.

    It is the SHA-256 of the image's file; of a box whose feature is pooled, the SHA-256 of the box
    with that of the file; and of a video, the SHA-256 of those of its frames.

    Args:
        images: The images, which are read but not decoded.
        options: The options of the run: the threads that read files.

    Raises UsageError for an image that cannot be read.
    """
    regions = [image for image in images if isinstance(image, PooledRegion)]
    if regions:
        return hash_regions(regions, options)
    if not any(isinstance(image, Video) for image in images):
        return hash_image_files(images, options)
    sha256s = []
    for image in images:
        frames = image.frames if isinstance(image, Video) else (image,)
        sha256s.append(hashlib.sha256(b"".join(hash_image_files(frames, options))).digest())
    return sha256s
