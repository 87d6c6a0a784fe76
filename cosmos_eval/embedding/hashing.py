"""The SHA-256s of images as results record them, computed without a model. Imports no torch."""

import hashlib
from collections.abc import Sequence

from cosmos_eval.data.frames import Video
from cosmos_eval.data.regions import PooledRegion
from cosmos_eval.data.sources import ImageSource
from cosmos_eval.embedding.embed import hash_image_files
from cosmos_eval.embedding.regions import hash_regions
from cosmos_eval.types import RunOptions, UsageError


def hash_images(images: Sequence[ImageSource], options: RunOptions) -> list[bytes]:
    """Return the SHA-256 of each image, as a measurement records it in `image_sha256s`.

    For an image, its file is hashed. For a box whose feature is pooled, the box is hashed with the
    SHA-256 of the file; for a video, the SHA-256s of its frames are hashed.

    Args:
        images: The images, which are read but not decoded. If one is a pooled box, all must be.
        options: The options of the run: the threads that read files.

    Raises:
        UsageError: For an image that cannot be read, and if only some images are pooled boxes.
    """
    regions = [image for image in images if isinstance(image, PooledRegion)]
    if regions:
        if len(regions) < len(images):
            raise UsageError("features are pooled over boxes, and an image has no box")
        return hash_regions(regions, options)
    if not any(isinstance(image, Video) for image in images):
        return hash_image_files(images, options)
    sha256s = []
    for image in images:
        frames = image.frames if isinstance(image, Video) else (image,)
        sha256s.append(hashlib.sha256(b"".join(hash_image_files(frames, options))).digest())
    return sha256s
