"""Scenes written in the layouts of usual data sets, so that readers of real data read them.

A whole layout appears at once or not at all: it is written beside its place and then renamed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from cosmos_core.utils.files import appearing, errors_of

from .captions import join
from .choices import ATTRIBUTES, choose
from .classes import CLASSES, TEST, THINGS
from .scene import Scene, split_scenes
from .vocabulary import CONTEXT_LENGTH

JPEG_QUALITY = 95
IGNORED = 255
"""Label of pixels that do not count, as in PASCAL VOC."""

Progress = Callable[[int, int], None]
"""Called with the scenes written and the scenes in all."""

# Evaluator for words beside the marks of start and end.
_MOST_TOKENS = CONTEXT_LENGTH - 2


class _Entry(NamedTuple):
    number: int
    """Counted from 1, as COCO's image ids are."""
    scene: Scene
    jpeg: bytes

    @property
    def id(self) -> str:
        return f"{self.number:012d}"


class _Writer(Protocol):
    def add(self, entry: _Entry) -> None: ...

    def close(self) -> None: ...


def image_captions(scene: Scene) -> list[str]:
    """Return five captions of a scene: three long ones joined, and two short ones."""
    long = [scene.captions[f"long{name}_captions"] for name in ("IB", "SV", "LLA")]
    joined = [join(sentences, _MOST_TOKENS) for sentences in long]
    return joined + scene.captions["shortSV_captions"] + scene.captions["shortLLA_captions"]


def joined_caption(scene: Scene) -> str:
    """Return one description of the whole scene: all sentences of one captioner."""
    return join(scene.captions["longIB_captions"], _MOST_TOKENS)


def _dump(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


class _CocoWriter:
    """COCO captions: five an image, and in a second file one joined caption an image."""

    def __init__(self, root: Path, split: str, shard_size: int) -> None:
        self._annotations = root / "coco" / "annotations"
        self._images = root / "coco" / "images" / split
        self._images.mkdir(parents=True)
        self._split = split
        self._records: list[dict[str, Any]] = []
        self._captions: list[dict[str, Any]] = []
        self._joined: list[dict[str, Any]] = []

    def add(self, entry: _Entry) -> None:
        name = f"{entry.id}.jpg"
        (self._images / name).write_bytes(entry.jpeg)
        side = entry.scene.image.shape[0]
        record = {"id": entry.number, "file_name": name, "height": side, "width": side}
        self._records.append(record)
        self._annotate(self._captions, entry, image_captions(entry.scene))
        self._annotate(self._joined, entry, [joined_caption(entry.scene)])

    @staticmethod
    def _annotate(to: list[dict[str, Any]], entry: _Entry, captions: Sequence[str]) -> None:
        for caption in captions:
            to.append({"id": len(to) + 1, "image_id": entry.number, "caption": caption})

    def close(self) -> None:
        info = {"description": f"scenes, {self._split} split"}
        for suffix, captions in (("", self._captions), ("_joined", self._joined)):
            content = {
                "info": info,
                "licenses": [],
                "images": self._records,
                "annotations": captions,
            }
            _dump(self._annotations / f"captions_{self._split}{suffix}.json", content)


class _FolderWriter:
    """One folder a class of dominant thing, as torchvision's ImageFolder reads them."""

    def __init__(self, root: Path, split: str, shard_size: int) -> None:
        self._root = root / "folder" / split
        for kind in THINGS:
            (self._root / kind).mkdir(parents=True)

    def add(self, entry: _Entry) -> None:
        folder = self._root / THINGS[entry.scene.label]
        (folder / f"{entry.id}.jpg").write_bytes(entry.jpeg)

    def close(self) -> None:
        pass


def palette() -> list[int]:
    """Return PASCAL VOC's palette, 256 RGB triples flat: bits of the index, interleaved."""
    index = np.arange(256)
    channels = [
        sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3))
        for channel in range(3)
    ]
    flat: list[int] = np.stack(channels, 1).astype(int).ravel().tolist()
    return flat


def _write_labels(path: Path, labels: npt.NDArray[np.uint8]) -> None:
    image = PILImage.fromarray(labels).convert("P")
    image.putpalette(palette())
    image.save(path)


class _VocWriter:
    """PASCAL VOC: label maps, and the same with the dominant thing ignored."""

    def __init__(self, root: Path, split: str, shard_size: int) -> None:
        self._root = root / "voc"
        self._list = self._root / "ImageSets" / "Segmentation" / f"{split}.txt"
        self._ids: list[str] = []
        for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassSmall"):
            (self._root / folder).mkdir(parents=True)

    def add(self, entry: _Entry) -> None:
        self._ids.append(entry.id)
        (self._root / "JPEGImages" / f"{entry.id}.jpg").write_bytes(entry.jpeg)
        labels = entry.scene.label_map
        # No small thing is of the dominant thing's kind.
        small = np.where(labels == entry.scene.label, np.uint8(IGNORED), labels)
        _write_labels(self._root / "SegmentationClass" / f"{entry.id}.png", labels)
        _write_labels(self._root / "SegmentationClassSmall" / f"{entry.id}.png", small)

    def close(self) -> None:
        self._list.parent.mkdir(parents=True)
        self._list.write_text("".join(f"{name}\n" for name in self._ids), encoding="utf-8")
        (self._root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))


class _ShardWriter:
    """Webdataset tars of `<id>.jpg` and `<id>.json`; the same scenes give the same bytes."""

    def __init__(self, root: Path, split: str, shard_size: int) -> None:
        self._root = root / "shards"
        self._root.mkdir()
        self._size = shard_size
        self._count = 0
        self._tar: Any = None

    def add(self, entry: _Entry) -> None:
        # Imported late: it is slow to import and only this layout needs it.
        from webdataset import TarWriter

        if self._count % self._size == 0:
            self.close()
            name = f"scenes-{self._count // self._size:06d}.tar"
            self._tar = TarWriter(str(self._root / name), mtime=0, user="", group="")
        self._count += 1
        content = {**entry.scene.captions, "label": entry.scene.label}
        self._tar.write({"__key__": entry.id, "jpg": entry.jpeg, "json": content})

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()


class _RecordWriter:
    """`annotations.json`: what is where in each scene, for figures on small things alone."""

    def __init__(self, root: Path, split: str, shard_size: int) -> None:
        self._path = root / "annotations.json"
        self._split = split
        self._records: list[dict[str, Any]] = []

    def add(self, entry: _Entry) -> None:
        scene = entry.scene
        self._records.append(
            {
                "id": entry.id,
                "label": scene.label,
                "things": [thing._asdict() for thing in scene.things],
                "stuff": [stuff._asdict() for stuff in scene.stuff],
            }
        )

    def close(self) -> None:
        _dump(self._path, {"split": self._split, "classes": CLASSES, "scenes": self._records})


class _ChoicesWriter:
    """SugarCrepe's form: a JSON file an attribute, of images and a right and a wrong caption.

    The images are those of the COCO layout.
    """

    def __init__(self, root: Path, split: str, shard_size: int) -> None:
        self._root = root / "choices"
        self._records: dict[str, dict[str, dict[str, str]]] = {name: {} for name in ATTRIBUTES}

    def add(self, entry: _Entry) -> None:
        # A stream of its own, so that the captions of scenes stay what they are.
        rng = np.random.default_rng(entry.number)
        for attribute, records in self._records.items():
            choice = choose(rng, entry.scene.things, attribute)
            records[str(len(records))] = {
                "filename": f"{entry.id}.jpg",
                "caption": choice.caption,
                "negative_caption": choice.negative,
            }

    def close(self) -> None:
        for attribute, records in self._records.items():
            _dump(self._root / f"{attribute}.json", records)


_WRITERS: MappingProxyType[str, Callable[[Path, str, int], _Writer]] = MappingProxyType(
    {
        "coco": _CocoWriter,
        "folder": _FolderWriter,
        "voc": _VocWriter,
        "shards": _ShardWriter,
        "records": _RecordWriter,
        "choices": _ChoicesWriter,
    }
)
LAYOUTS = tuple(_WRITERS)
"""Names of the layouts that `write_layouts` knows."""


def _encode(image: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _write(writers: Sequence[_Writer], split: str, count: int, progress: Progress | None) -> None:
    try:
        for number, scene in enumerate(split_scenes(split, count), 1):
            entry = _Entry(number, scene, _encode(scene.image))
            for writer in writers:
                writer.add(entry)
            if progress:
                progress(number, count)
    finally:
        # Also after a failure, since a writer may hold a file open.
        for writer in writers:
            writer.close()


def write_layouts(
    root: Path,
    *,
    split: str = TEST,
    count: int = 400,
    layouts: Sequence[str] = LAYOUTS,
    shard_size: int = 1000,
    progress: Progress | None = None,
) -> Path:
    """Write the first `count` scenes of a split under `root`, which must not exist yet.

    `layouts` chooses among LAYOUTS; each scene is rendered once for all of them. Returns `root`.
    Raises FileExistsError if it exists, ValueError for an unknown split or layout.
    """
    unknown = [name for name in layouts if name not in _WRITERS]
    if unknown:
        raise ValueError(f"unknown layouts {unknown}; known: {', '.join(LAYOUTS)}")
    if root.exists():
        raise FileExistsError(f"{root} exists already")
    with errors_of(root), appearing(root) as folder:
        writers = [_WRITERS[name](folder, split, shard_size) for name in layouts]
        _write(writers, split, count, progress)
    return root
