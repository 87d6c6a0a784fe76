"""Write scenes in the layouts of usual data sets, so that readers of real data can read them."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from cosmos_core.data.scenes import TEST, VERSION_1, Version
from cosmos_core.data.scenes.captions import (
    ATTRIBUTES,
    STYLES,
    Thing,
    join_sentences,
    make_caption_pair,
)
from cosmos_core.data.scenes.questions import WORDS, ask_questions, choose_among_siblings
from cosmos_core.data.scenes.scene import Scene, split_scenes
from cosmos_core.utils.files import appearing, errors_of

JPEG_QUALITY = 95
SHARD_SIZE = 1000
IGNORED = 255  # the label of ignored pixels, as in PASCAL VOC


class _Entry(NamedTuple):
    """A scene that is to be written."""

    number: int  # counted from 1, as COCO's image ids are
    id: str  # the number in twelve digits, such as "000000000001"
    scene: Scene
    jpeg: bytes


_Entries = Iterator[_Entry]


class _Target(NamedTuple):
    """Where scenes are written, and which scenes they are."""

    root: Path
    split: str
    version: Version


def write_layouts(
    root: Path,
    *,
    split: str = TEST,
    count: int = 400,
    start: int = 0,
    layouts: Sequence[str] | None = None,
    version: Version = VERSION_1,
    is_control: bool = False,
) -> Path:
    """Write scenes into a new folder, in the layouts of usual data sets.

    All files appear at once or not at all.

    Args:
        root: The folder to create.
        split: A split of the version, such as "train" or "test".
        count: The number of scenes.
        start: The index of the first scene in the split.
        layouts: The names of the layouts to write, such as "coco" and "voc". None or an empty list
            means all of LAYOUTS.
        version: The version of the scenes. The layout "choices" belongs to version 1, and
            "questions" and "siblings" belong to version 2.
        is_control: True for scenes whose dominant thing is rendered as small as the others.

    Returns:
        `root`.

    Raises:
        FileExistsError: If `root` exists.
        ValueError: If the split or a layout is unknown.
    """
    layouts = layouts or LAYOUTS[version.name]
    unknown_layouts = [name for name in layouts if name not in _WRITERS]
    if unknown_layouts:
        raise ValueError(f"unknown layouts {unknown_layouts}; known: {', '.join(_WRITERS)}")
    if root.exists():
        raise FileExistsError(f"{root} exists already")
    with errors_of(root), appearing(root) as folder:
        # A chain of generators: each writer writes an entry and yields it to the next writer. So
        # every scene is rendered once, and one scene at a time is in memory.
        scenes = split_scenes(split, count, start, version=version, is_control=is_control)
        entries = _encode_scenes(scenes)
        target = _Target(folder, split, version)
        for name in layouts:
            entries = _WRITERS[name](entries, target)
        for _ in entries:
            pass
    return root


def image_captions(scene: Scene, version: Version = VERSION_1) -> list[str]:
    """Return five captions of a scene: three long captions as one text each, and two short ones."""
    captions = []
    for captioner in STYLES:
        sentences = scene.captions[f"long{captioner}_captions"]
        captions.append(join_sentences(sentences, _most_tokens(version)))
    captions += scene.captions["shortSV_captions"]
    captions += scene.captions["shortLLA_captions"]
    return captions


def joined_caption(scene: Scene, version: Version = VERSION_1) -> str:
    """Return one long description of a scene: the joined sentences of one captioner."""
    return join_sentences(scene.captions["longIB_captions"], _most_tokens(version))


def _most_tokens(version: Version) -> int:
    """Return how many tokens a text may have besides the start and the end token."""
    return version.context_length - 2


def _encode_scenes(scenes: Iterator[Scene]) -> _Entries:
    """Yield scenes with their JPEG files."""
    for number, scene in enumerate(scenes, start=1):
        buffer = io.BytesIO()
        image = PILImage.fromarray(scene.image)
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        yield _Entry(number, f"{number:012d}", scene, buffer.getvalue())


# Each of the following functions writes one layout below the folder of the target. It takes scenes
# with their JPEG files (entries), and yields every entry after it has written it, for the next
# function.


def _write_coco(entries: _Entries, target: _Target) -> _Entries:
    """Write scenes as images and COCO's caption files, and yield the scenes again.

    `captions_SPLIT.json` has five captions per image, and `captions_SPLIT_joined.json` one long
    caption per image.

    Args:
        entries: The scenes with their JPEG files.
        target: The folder, the split and the version.
    """
    root, split = target.root, target.split
    folder = root / "coco" / "images" / split
    folder.mkdir(parents=True)
    images: list[dict[str, object]] = []
    # The number of the image, and the caption.
    captions: list[tuple[int, str]] = []
    joined_captions: list[tuple[int, str]] = []
    for entry in entries:
        name, side = f"{entry.id}.jpg", entry.scene.image.shape[0]
        (folder / name).write_bytes(entry.jpeg)
        images.append({"id": entry.number, "file_name": name, "height": side, "width": side})
        for caption in image_captions(entry.scene, target.version):
            captions.append((entry.number, caption))
        joined_captions.append((entry.number, joined_caption(entry.scene, target.version)))
        yield entry

    # Write both caption files.
    for suffix, captions_of_file in (("", captions), ("_joined", joined_captions)):
        annotations = []
        for caption_id, (image_id, caption) in enumerate(captions_of_file, start=1):
            annotations.append({"id": caption_id, "image_id": image_id, "caption": caption})
        content = {
            "info": {"description": f"scenes, {split} split"},
            "licenses": [],
            "images": images,
            "annotations": annotations,
        }
        _write_json(root / "coco" / "annotations" / f"captions_{split}{suffix}.json", content)


def _write_folder(entries: _Entries, target: _Target) -> _Entries:
    """Write one folder of images per kind of dominant thing, and yield the scenes again.

    torchvision's ImageFolder reads them.

    Args:
        entries: The scenes with their JPEG files.
        target: The folder, the split and the version.
    """
    folders = [target.root / "folder" / target.split / kind for kind in target.version.things]
    for folder in folders:
        folder.mkdir(parents=True)
    for entry in entries:
        # The label of a scene is the index of the dominant kind.
        folder = folders[entry.scene.label]
        (folder / f"{entry.id}.jpg").write_bytes(entry.jpeg)
        yield entry


def _write_voc(entries: _Entries, target: _Target) -> _Entries:
    """Write images and label maps as in PASCAL VOC, and yield the scenes again.

    In a second folder of label maps, the pixels of the dominant thing are ignored, so that only
    small things and stuff count.

    Args:
        entries: The scenes with their JPEG files.
        target: The folder, the split and the version.
    """
    voc_folder = target.root / "voc"
    image_folder = voc_folder / "JPEGImages"
    label_folder = voc_folder / "SegmentationClass"
    small_label_folder = voc_folder / "SegmentationClassSmall"
    list_folder = voc_folder / "ImageSets" / "Segmentation"
    for folder in (image_folder, label_folder, small_label_folder, list_folder):
        folder.mkdir(parents=True)

    ids: list[str] = []
    for entry in entries:
        ids.append(entry.id)
        (image_folder / f"{entry.id}.jpg").write_bytes(entry.jpeg)
        labels = entry.scene.label_map
        _write_labels(label_folder / f"{entry.id}.png", labels)
        # The dominant thing's kind is unique, so that no small thing is ignored.
        small_labels = np.where(labels == entry.scene.label, np.uint8(IGNORED), labels)
        _write_labels(small_label_folder / f"{entry.id}.png", small_labels)
        yield entry

    list_text = "".join(f"{name}\n" for name in ids)
    (list_folder / f"{target.split}.txt").write_text(list_text, encoding="utf-8")
    classes_text = "".join(f"{name}\n" for name in target.version.classes)
    (voc_folder / "classes.txt").write_text(classes_text)


def _write_labels(path: Path, labels: npt.NDArray[np.uint8]) -> None:
    """Write a label map (H, W) as a PNG file with PASCAL VOC's palette."""
    image = PILImage.fromarray(labels).convert("P")
    image.putpalette(palette())
    image.save(path)


def palette() -> list[int]:
    """Return PASCAL VOC's palette: 256 colours as a flat list of 768 values, R, G, B, R, G, B...

    The colour of an index follows from its bits. Red has bits 0, 3 and 6, the lowest bit first, as
    128, 64 and 32. Green has bits 1, 4 and 7, and blue has bits 2 and 5.

    Example:
        Index 1 (bit 0) is (128, 0, 0), and index 9 (bits 0 and 3) is (192, 0, 0).
    """
    indices = np.arange(256, dtype=np.uint8)
    # Nine bits of each index, the lowest first; the ninth is 0.
    bits = np.unpackbits(indices[:, None], axis=1, count=9, bitorder="little")
    # A row for each triple of bits (0 1 2, 3 4 5, 6 7 8), a column for each of red, green and blue.
    bits_by_triple_and_channel = bits.reshape(256, 3, 3)
    colours = np.array([128, 64, 32]) @ bits_by_triple_and_channel
    return colours.ravel().tolist()


def _write_shards(entries: _Entries, target: _Target) -> _Entries:
    """Write webdataset tars with an image and a JSON record per scene, and yield the scenes again.

    `000000000001.json` holds the captions by DreamLIP's keys, and the label. The same scenes give
    the same bytes.

    Args:
        entries: The scenes with their JPEG files.
        target: The folder, the split and the version.
    """
    # Imported here: it is slow to import, and only this layout needs it.
    from webdataset import ShardWriter

    folder = target.root / "shards"
    folder.mkdir()
    # A percent sign in the name of the folder is doubled, since this is a format.
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


def _write_records(entries: _Entries, target: _Target) -> _Entries:
    """Write the things and the stuff of each scene to a JSON file, and yield the scenes again.

    With the file `annotations.json`, metrics can be computed for small things only.

    Args:
        entries: The scenes with their JPEG files.
        target: The folder, the split and the version.
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
    content = {"split": target.split, "classes": target.version.classes, "scenes": records}
    _write_json(target.root / "annotations.json", content)


def _write_choices(entries: _Entries, target: _Target) -> _Entries:
    """Write pairs of a correct and a false caption as SugarCrepe does, and yield the scenes again.

    There is a file for each attribute in which the captions differ, such as `colour.json`. The
    images are in the COCO layout.

    Args:
        entries: The scenes with their JPEG files.
        target: The folder, the split and the version.
    """
    # For each attribute, the items of its file, by their numbers as texts.
    items_by_attribute: dict[str, dict[str, dict[str, str]]] = {name: {} for name in ATTRIBUTES}
    for entry in entries:
        # A random generator of its own: the captions of scenes do not depend on this layout.
        rng = np.random.default_rng(entry.number)
        for attribute, items in items_by_attribute.items():
            caption, negative_caption = make_caption_pair(rng, entry.scene.things, attribute)
            items[str(len(items))] = {
                "filename": f"{entry.id}.jpg",
                "caption": caption,
                "negative_caption": negative_caption,
            }
        yield entry
    for attribute, items in items_by_attribute.items():
        _write_json(target.root / "choices" / f"{attribute}.json", items)


def _write_questions(entries: _Entries, target: _Target) -> _Entries:
    """Write questions about the dominant and a small thing, and yield the scenes again.

    There is a file for each word that is false in a caption, such as `colour.json`. Besides the
    keys that SugarCrepe's items have, an item says which object the word is about (`object`,
    "dominant" or "small"), the word (`word`), and the areas of this object and of the largest one.
    The images are in the COCO layout.

    Args:
        entries: The scenes with their JPEG files.
        target: The folder, the split and the version.
    """
    items_by_word: dict[str, dict[str, dict[str, object]]] = {word: {} for word in WORDS}
    for entry in entries:
        # A random generator of its own: the captions of scenes do not depend on this layout.
        rng = np.random.default_rng(entry.number)
        for question in ask_questions(rng, entry.scene.things, target.version):
            items = items_by_word[question.word]
            items[str(len(items))] = {
                "filename": f"{entry.id}.jpg",
                "caption": question.caption,
                "negative_caption": question.false_caption,
                "object": question.object,
                "word": question.word,
                "area": question.area,
                "dominant_area": question.dominant_area,
            }
        yield entry
    for word, items in items_by_word.items():
        _write_json(target.root / "questions" / f"{word}.json", items)


def _write_siblings(entries: _Entries, target: _Target) -> _Entries:
    """Write choices among captions with the same dominant thing, and yield the scenes again.

    The file `siblings/siblings.json` has an item for each scene, with nine false captions, in
    SugarCrepe's form. The images are in the COCO layout.

    Args:
        entries: The scenes with their JPEG files.
        target: The folder, the split and the version.
    """
    ids: list[str] = []
    scenes: list[tuple[Thing, ...]] = []
    for entry in entries:
        ids.append(entry.id)
        scenes.append(entry.scene.things)
        yield entry
    items = {}
    for choice in choose_among_siblings(scenes):
        items[str(choice.scene)] = {
            "filename": f"{ids[choice.scene]}.jpg",
            "caption": choice.caption,
            "negative_caption": list(choice.false_captions),
        }
    _write_json(target.root / "siblings" / "siblings.json", items)


def _write_json(path: Path, content: object) -> None:
    """Write a JSON file, and create its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


# The functions that write the layouts, by the names of the layouts.
_WRITERS = {
    "coco": _write_coco,
    "folder": _write_folder,
    "voc": _write_voc,
    "shards": _write_shards,
    "records": _write_records,
    "choices": _write_choices,
    "questions": _write_questions,
    "siblings": _write_siblings,
}
_COMMON_LAYOUTS = ("coco", "folder", "voc", "shards", "records")
# The names of the layouts of each version.
LAYOUTS = {
    "scenes": (*_COMMON_LAYOUTS, "choices"),
    "scenes2": (*_COMMON_LAYOUTS, "questions", "siblings"),
}
