"""Where a retrieval data set lies: the first of its known places that is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cosmos_eval.types import RetrievalProtocol, RunOptions, UsageError


class ImageFolder(NamedTuple):
    """A folder, and the images that it should hold and does not."""

    path: Path
    missing: list[Path]


def root_of(protocol: RetrievalProtocol, options: RunOptions) -> Path:
    """The folder that all paths are relative to. Raises UsageError where the user must name it."""
    root = protocol.root or options.data_root
    if root is None:
        holds = ", ".join(places(protocol.archives or protocol.annotations))
        raise UsageError(f"{protocol.dataset}: give --data-root DIR, the folder that holds {holds}")
    return Path(root)


def places(stated: tuple[str, ...] | str) -> tuple[str, ...]:
    """One place or several."""
    return (stated,) if isinstance(stated, str) else stated


def annotation_file(root: Path, protocol: RetrievalProtocol) -> Path:
    """The first annotation file that is there. Raises UsageError that names all places."""
    for place in places(protocol.annotations):
        if (root / place).exists():
            return root / place
    raise UsageError(_expected(protocol, "captions", root, places(protocol.annotations)))


def image_folder(root: Path, protocol: RetrievalProtocol, names: Sequence[str]) -> ImageFolder:
    """The first folder that holds all images of these names, or else the one that lacks fewest.

    Raises UsageError that names all places where none of them is a folder.
    """
    folders = [root / place for place in places(protocol.images) if (root / place).is_dir()]
    if not folders:
        raise UsageError(_expected(protocol, "images", root, places(protocol.images)))
    found: list[ImageFolder] = []
    for folder in folders:
        paths = (folder / name for name in names)
        found.append(ImageFolder(folder, [path for path in paths if not path.is_file()]))
        if not found[-1].missing:
            break
    return min(found, key=lambda one: len(one.missing))


def _expected(protocol: RetrievalProtocol, what: str, root: Path, candidates: Sequence[str]) -> str:
    if len(candidates) == 1:
        return f"{protocol.dataset}: expected {root / candidates[0]}, which is not there"
    return f"{protocol.dataset}: no {what} below {root}: looked for {_summed_up(candidates)}"


def _summed_up(candidates: Sequence[str]) -> str:
    """Paths in short, where every name is looked for in every folder."""
    names = dict.fromkeys(PurePosixPath(path).name for path in candidates)
    folders = dict.fromkeys(str(PurePosixPath(path).parent) for path in candidates)
    if len(names) * len(folders) == len(candidates):
        return f"{', '.join(names)} in {', '.join(folders)}"
    return ", ".join(candidates)
