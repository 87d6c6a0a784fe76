"""Scenes written in the layouts of usual data sets, so that readers of real data read them."""

import io
import json
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from cosmos_core.data.scenes import CLASSES, TEST, THINGS
from cosmos_core.data.scenes.captions import ATTRIBUTES, STYLES, choose, join
from cosmos_core.data.scenes.scene import Scene, split_scenes
from cosmos_core.data.scenes.vocabulary import CONTEXT_LENGTH
from cosmos_core.utils.files import appearing, errors_of

JPEG_QUALITY = 95
SHARD_SIZE = 1000
IGNORED = 255  # label of pixels that do not count, as in PASCAL VOC

_MOST_TOKENS = CONTEXT_LENGTH - 2  # beside the marks of start and end


class _Entry(NamedTuple):
    number: int  # from 1 on, as COCO's image ids
    id: str  # the number in twelve digits
    scene: Scene
    jpeg: bytes


_Entries = Iterator[_Entry]


def write_layouts(
    root: Path,
    *,
    split: str = TEST,
    count: int = 400,
    start: int = 0,
    layouts: Sequence[str] | None = None,
) -> Path:
    """Write `count` scenes of a split from index `start` on under `root`, which must not exist yet.
    `layouts`, by default all of LAYOUTS, appear at once or not at all. Returns `root`. Raises
    FileExistsError if it exists, ValueError for an unknown split or layout."""
    unknown = [name for name in layouts or () if name not in _WRITERS]
    if unknown:
        raise ValueError(f"unknown layouts {unknown}; known: {', '.join(LAYOUTS)}")
    if root.exists():
        raise FileExistsError(f"{root} exists already")
    with errors_of(root), appearing(root) as folder:
        entries = _render(split, count, start)
        for name in layouts or LAYOUTS:
            entries = _WRITERS[name](entries, folder, split)
        deque(entries, maxlen=0)
    return root


def image_captions(scene: Scene) -> list[str]:
    """Return five captions of a scene: three long ones joined, and two short ones."""
    long = [join(scene.captions[f"long{name}_captions"], _MOST_TOKENS) for name in STYLES]
    return long + scene.captions["shortSV_captions"] + scene.captions["shortLLA_captions"]


def joined_caption(scene: Scene) -> str:
    """Return one description of the whole scene: all sentences of one captioner."""
    return join(scene.captions["longIB_captions"], _MOST_TOKENS)


def _render(split: str, count: int, start: int) -> _Entries:
    for number, scene in enumerate(split_scenes(split, count, start), 1):
        buffer, image = io.BytesIO(), PILImage.fromarray(scene.image)
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        yield _Entry(number, f"{number:012d}", scene, buffer.getvalue())


# Each of the following writes its layout of all entries while it passes them on.


def _write_coco(entries: _Entries, root: Path, split: str) -> _Entries:
    """Write COCO captions: five per image, and in a second file one joined caption per image."""
    folder = root / "coco" / "images" / split
    folder.mkdir(parents=True)
    images = list[dict[str, object]]()
    captions, joined = list[tuple[int, str]](), list[tuple[int, str]]()
    for entry in entries:
        name, side = f"{entry.id}.jpg", entry.scene.image.shape[0]
        (folder / name).write_bytes(entry.jpeg)
        images.append({"id": entry.number, "file_name": name, "height": side, "width": side})
        captions += ((entry.number, caption) for caption in image_captions(entry.scene))
        joined.append((entry.number, joined_caption(entry.scene)))
        yield entry
    head = {"info": {"description": f"scenes, {split} split"}, "licenses": [], "images": images}
    for suffix, pairs in (("", captions), ("_joined", joined)):
        notes = [
            {"id": number, "image_id": image, "caption": caption}
            for number, (image, caption) in enumerate(pairs, 1)
        ]
        path = root / "coco" / "annotations" / f"captions_{split}{suffix}.json"
        _dump(path, {**head, "annotations": notes})


def _write_folder(entries: _Entries, root: Path, split: str) -> _Entries:
    """Write one folder per class of dominant thing, as torchvision's ImageFolder reads them."""
    folders = [root / "folder" / split / kind for kind in THINGS]
    for folder in folders:
        folder.mkdir(parents=True)
    for entry in entries:
        (folders[entry.scene.label] / f"{entry.id}.jpg").write_bytes(entry.jpeg)
        yield entry


def _write_voc(entries: _Entries, root: Path, split: str) -> _Entries:
    """Write PASCAL VOC: label maps, and the same with the dominant thing ignored."""
    voc, ids = root / "voc", list[str]()
    images, lists = voc / "JPEGImages", voc / "ImageSets" / "Segmentation"
    whole, small = voc / "SegmentationClass", voc / "SegmentationClassSmall"
    for folder in (images, whole, small, lists):
        folder.mkdir(parents=True)
    for entry in entries:
        ids.append(entry.id)
        (images / f"{entry.id}.jpg").write_bytes(entry.jpeg)
        labels = entry.scene.label_map
        _write_labels(whole / f"{entry.id}.png", labels)
        # No small thing is of the dominant thing's kind.
        ignored = np.where(labels == entry.scene.label, np.uint8(IGNORED), labels)
        _write_labels(small / f"{entry.id}.png", ignored)
        yield entry
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
    (voc / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))


def _write_labels(path: Path, labels: npt.NDArray[np.uint8]) -> None:
    image = PILImage.fromarray(labels).convert("P")
    image.putpalette(palette())
    image.save(path)


def palette() -> list[int]:
    """Return PASCAL VOC's palette, 256 RGB triples flat: bits of the index, interleaved."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], 1, 9, "little")
    return (np.array([128, 64, 32]) @ bits.reshape(256, 3, 3)).ravel().tolist()


def _write_shards(entries: _Entries, root: Path, split: str) -> _Entries:
    """Write webdataset tars of `<id>.jpg` and `<id>.json`; the same scenes give the same bytes."""
    # Imported here: it is slow to import, and only this layout needs it.
    from webdataset import ShardWriter

    folder = root / "shards"
    folder.mkdir()
    pattern = str(folder).replace("%", "%%") + "/scenes-%06d.tar"
    options = {"maxcount": SHARD_SIZE, "maxsize": float("inf"), "verbose": 0}
    with ShardWriter(pattern, **options, mtime=0, user="", group="") as writer:
        for entry in entries:
            record = {**entry.scene.captions, "label": entry.scene.label}
            writer.write({"__key__": entry.id, "jpg": entry.jpeg, "json": record})
            yield entry


def _write_records(entries: _Entries, root: Path, split: str) -> _Entries:
    """Write `annotations.json`: what is where in each scene, for figures on small things alone."""
    records = []
    for entry in entries:
        scene = entry.scene
        things, stuff = ([one._asdict() for one in part] for part in (scene.things, scene.stuff))
        records.append({"id": entry.id, "label": scene.label, "things": things, "stuff": stuff})
        yield entry
    _dump(root / "annotations.json", {"split": split, "classes": CLASSES, "scenes": records})


def _write_choices(entries: _Entries, root: Path, split: str) -> _Entries:
    """Write a file per attribute in SugarCrepe's form, about the images of the COCO layout."""
    records: dict[str, dict[str, dict[str, str]]] = {name: {} for name in ATTRIBUTES}
    for entry in entries:
        # A stream of its own, so that the captions of scenes stay what they are.
        rng = np.random.default_rng(entry.number)
        for attribute, items in records.items():
            caption, negative = choose(rng, entry.scene.things, attribute)
            item = {"filename": f"{entry.id}.jpg", "caption": caption}
            items[str(len(items))] = {**item, "negative_caption": negative}
        yield entry
    for attribute, items in records.items():
        _dump(root / "choices" / f"{attribute}.json", items)


def _dump(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


_WRITERS = {
    "coco": _write_coco,
    "folder": _write_folder,
    "voc": _write_voc,
    "shards": _write_shards,
    "records": _write_records,
    "choices": _write_choices,
}
LAYOUTS = tuple(_WRITERS)  # names of the layouts that `write_layouts` knows
