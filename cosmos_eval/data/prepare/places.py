"""Where the label maps of a set belong: one beside or below the others for every image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cosmos_eval.data.folders import find_root
from cosmos_eval.types import LabelMapProtocol, UsageError


def targets_of_images(protocol: LabelMapProtocol, data_root: str | None) -> list[Path]:
    """The label map of every image in the set's folder, in order.

    Raises UsageError where the folder of images or of label maps is missing or holds no image.
    """
    root = find_root(protocol, data_root, (protocol.images, protocol.masks))
    folder, suffix = root / protocol.images, protocol.image_suffix
    images = sorted(folder.rglob(f"*{suffix}"))
    if not images:
        raise UsageError(f"no image *{suffix} in {folder}")
    names = (str(image.relative_to(folder)).removesuffix(suffix) for image in images)
    return [root / protocol.masks / f"{name}{protocol.mask_suffix}" for name in names]


@contextmanager
def missing_comes_from(protocol: LabelMapProtocol) -> Iterator[None]:
    """Add the page to download from to the errors about what is missing."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{error}; download: {protocol.download}") from error
