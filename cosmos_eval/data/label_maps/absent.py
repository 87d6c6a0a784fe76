"""Images and label maps of a set that are not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from cosmos_eval.data.label_maps.read import Sample
from cosmos_eval.types import LabelMapProtocol

Kind = Literal["images", "label maps", "unreadable", "labels", "sizes"]


class Fault(NamedTuple):
    """One line about all faults of a kind, with the first path concerned."""

    kind: Kind
    text: str


def missing_images(
    samples: Sequence[Sample], protocol: LabelMapProtocol, root: Path, expected: int
) -> Iterator[Fault]:
    """Images that the list names, or that label maps without an image tell of."""
    missing = [sample.image for sample in samples if not sample.image.is_file()]
    if protocol.split is None and len(samples) < expected:
        missing += _images_of_spare_masks(samples, protocol, root)
    found = sum(sample.image.is_file() for sample in samples)
    if missing or found < expected:
        n = max(expected - found, len(missing))
        first = f", first: {missing[0]}" if missing else f" from {root / protocol.images}"
        yield Fault("images", f"{n} of {expected} images missing{first}")
    elif found > expected:
        yield Fault("images", f"{found} images, {expected} expected, in {root / protocol.images}")


def _images_of_spare_masks(
    samples: Sequence[Sample], protocol: LabelMapProtocol, root: Path
) -> list[Path]:
    folder, suffix = root / protocol.masks, protocol.mask_suffix
    used = {sample.mask for sample in samples}
    spare = sorted(path for path in folder.rglob(f"*{suffix}") if path not in used)
    names = (str(path.relative_to(folder)).removesuffix(suffix) for path in spare)
    return [root / protocol.images / f"{name}{protocol.image_suffix}" for name in names]


def missing_masks(samples: Sequence[Sample], protocol: LabelMapProtocol) -> Iterator[Fault]:
    """Label maps that are missing, and where all are, a file that is there instead."""
    missing = [sample.mask for sample in samples if not sample.mask.is_file()]
    if not missing:
        return
    text = f"{len(missing)} of {len(samples)} label maps missing, first: {missing[0]}"
    if len(missing) == len(samples):
        others = (path for path in missing[0].parent.glob("[!.]*") if path.is_file())
        instead = min(others, default=None)
        text += f"; none ends in {protocol.mask_suffix}"
        text += f", there is {instead.name}" if instead else ""
    yield Fault("label maps", text)
