"""Where a segmentation set lies below the user's data root. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cosmos_eval.types import LabelMapProtocol, UsageError


def needed_parts(protocol: LabelMapProtocol) -> tuple[str, ...]:
    """What measuring needs: the folders of images and label maps, and the list of names if any."""
    return tuple(part for part in (protocol.images, protocol.masks, protocol.split) if part)


def find_root(protocol: LabelMapProtocol, data_root: str | None, parts: Sequence[str]) -> Path:
    """The folder that holds all `parts` of a set: the root or the usual folder below it.

    Raises UsageError that names the first path missing from either.
    """
    base = protocol.root or data_root
    usual = protocol.usual_folder or ""
    if base is None:
        raise UsageError(
            f"{protocol.dataset}: give --data-root DIR that holds {', '.join(parts)}"
            + (f", or {usual} with them" if usual else "")
        )
    candidates = list(dict.fromkeys([Path(base), Path(base) / usual]))
    missing = [[c / part for part in parts if not (c / part).exists()] for c in candidates]
    for candidate, absent in zip(candidates, missing, strict=True):
        if not absent:
            return candidate
    expected = " or ".join(str(absent[0]) for absent in missing)
    raise UsageError(f"{protocol.dataset}: expected {expected}, which is not there")
