"""Write scenes in the layouts of usual data sets, so that readers of real data can read them."""

import io
import json
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
IGNORED = 255  # the label of ignored pixels, as in PASCAL VOC

_MAX_TOKENS = CONTEXT_LENGTH - 2  # without those of start and end


class _Entry(NamedTuple):
    """A scene that is to be written."""

    number: int  # counted from 1, as COCO's image ids are
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
    """Write `count` scenes of a split, from index `start` on, under `root`; return `root`.

    `layouts` are by default all of LAYOUTS. All files appear at once or not at all. Raises
    FileExistsError if `root` exists, and ValueError for an unknown split or layout.
    """
    layouts = layouts or LAYOUTS
    unknown_layouts = [name for name in layouts if name not in _WRITERS]
    if unknown_layouts:
        raise ValueError(f"unknown layouts {unknown_layouts}; known: {', '.join(LAYOUTS)}")
    if root.exists():
        raise FileExistsError(f"{root} exists already")
    with errors_of(root), appearing(root) as folder:
        entries = _render(split, count, start)
        for name in layouts:
            entries = _WRITERS[name](entries, folder, split)
        # Each writer writes an entry as it passes on, so that scenes are rendered one at a time.
        for _ in entries:
            pass
    return root


def image_captions(scene: Scene) -> list[str]:
    """Return five captions of a scene: three long ones joined, and two short ones."""
    long = [join(scene.captions[f"long{name}_captions"], _MAX_TOKENS) for name in STYLES]
    return long + scene.captions["shortSV_captions"] + scene.captions["shortLLA_captions"]


def joined_caption(scene: Scene) -> str:
    """Return one description of a scene: all sentences of one captioner."""
    return join(scene.captions["longIB_captions"], _MAX_TOKENS)


def _render(split: str, count: int, start: int) -> _Entries:
    """Yield the scenes of a split, with their JPEG files."""
    for number, scene in enumerate(split_scenes(split, count, start), start=1):
        buffer = io.BytesIO()
        image = PILImage.fromarray(scene.image)
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        yield _Entry(number, f"{number:012d}", scene, buffer.getvalue())


# Each of the following functions yields all entries again, and writes its layout of them.


def _write_coco(entries: _Entries, root: Path, split: str) -> _Entries:
    """Write COCO captions: five per image, and in a second file one joined caption per image."""
    folder = root / "coco" / "images" / split
    folder.mkdir(parents=True)
    images = list[dict[str, object]]()
    captions = list[tuple[int, str]]()
    joined_captions = list[tuple[int, str]]()
    for entry in entries:
        name, side = f"{entry.id}.jpg", entry.scene.image.shape[0]
        (folder / name).write_bytes(entry.jpeg)
        images.append({"id": entry.number, "file_name": name, "height": side, "width": side})
        for caption in image_captions(entry.scene):
            captions.append((entry.number, caption))
        joined_captions.append((entry.number, joined_caption(entry.scene)))
        yield entry
    for suffix, numbered_captions in (("", captions), ("_joined", joined_captions)):
        annotations = [
            {"id": number, "image_id": image, "caption": caption}
            for number, (image, caption) in enumerate(numbered_captions, start=1)
        ]
        content = {
            "info": {"description": f"scenes, {split} split"},
            "licenses": [],
            "images": images,
            "annotations": annotations,
        }
        _dump(root / "coco" / "annotations" / f"captions_{split}{suffix}.json", content)


def _write_folder(entries: _Entries, root: Path, split: str) -> _Entries:
    """Write one folder per class of dominant thing, as torchvision's ImageFolder reads them."""
    folders = [root / "folder" / split / kind for kind in THINGS]
    for folder in folders:
        folder.mkdir(parents=True)
    for entry in entries:
        (folders[entry.scene.label] / f"{entry.id}.jpg").write_bytes(entry.jpeg)
        yield entry


def _write_voc(entries: _Entries, root: Path, split: str) -> _Entries:
    """Write PASCAL VOC: label maps, and label maps in which the dominant thing is ignored."""
    voc = root / "voc"
    images, lists = voc / "JPEGImages", voc / "ImageSets" / "Segmentation"
    label_maps, small_label_maps = voc / "SegmentationClass", voc / "SegmentationClassSmall"
    for folder in (images, label_maps, small_label_maps, lists):
        folder.mkdir(parents=True)
    ids = list[str]()
    for entry in entries:
        ids.append(entry.id)
        (images / f"{entry.id}.jpg").write_bytes(entry.jpeg)
        labels = entry.scene.label_map
        _write_labels(label_maps / f"{entry.id}.png", labels)
        # The dominant thing's kind is unique, so that no small thing is ignored.
        small_labels = np.where(labels == entry.scene.label, np.uint8(IGNORED), labels)
        _write_labels(small_label_maps / f"{entry.id}.png", small_labels)
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
    with ShardWriter(
        pattern,
        maxcount=SHARD_SIZE,
        maxsize=float("inf"),
        verbose=0,
        mtime=0,
        user="",
        group="",
    ) as writer:
        for entry in entries:
            record: dict[str, object] = dict(entry.scene.captions)
            record["label"] = entry.scene.label
            writer.write({"__key__": entry.id, "jpg": entry.jpeg, "json": record})
            yield entry


def _write_records(entries: _Entries, root: Path, split: str) -> _Entries:
    """Write `annotations.json`: the elements of each scene and their places.

    With it, figures can be computed for small things only.
    """
    records = []
    for entry in entries:
        scene = entry.scene
        records.append(
            {
                "id": entry.id,
                "label": scene.label,
                "things": [thing._asdict() for thing in scene.things],
                "stuff": [stuff._asdict() for stuff in scene.stuff],
            }
        )
        yield entry
    _dump(root / "annotations.json", {"split": split, "classes": CLASSES, "scenes": records})


def _write_choices(entries: _Entries, root: Path, split: str) -> _Entries:
    """Write a file per attribute in SugarCrepe's form, about the images of the COCO layout."""
    records: dict[str, dict[str, dict[str, str]]] = {name: {} for name in ATTRIBUTES}
    for entry in entries:
        # A random generator of its own: the captions of scenes do not depend on this layout.
        rng = np.random.default_rng(entry.number)
        for attribute, items in records.items():
            caption, negative = choose(rng, entry.scene.things, attribute)
            items[str(len(items))] = {
                "filename": f"{entry.id}.jpg",
                "caption": caption,
                "negative_caption": negative,
            }
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
