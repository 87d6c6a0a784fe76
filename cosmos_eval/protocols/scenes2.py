"""The embedded data sets of scenes of version 2: how far do dominant things suppress small ones?

Test scenes have drawings and textures that no training scene has. `scenes2-select` asks about the
dominant thing and about small things. `scenes2-select-control` asks the same about the same scenes,
whose dominant thing is rendered as small as the others. `scenes2-beside` asks about the same small
thing in both. `scenes2-select-seen` asks about new scenes with the drawings and textures of the
training scenes. All are made in the user's cache folder, and compared with recorded hashes.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from cosmos_core.utils.files import cache_folder, write_atomically
from cosmos_eval import types
from cosmos_eval.protocols.scene_files import list_path, render_recorded, report_write_errors
from cosmos_eval.protocols.scenes import (
    PROTOCOL_NAME,
    THING_TEMPLATES,
    scenes_segmentation,
)

TRAINING = "scenes2-seg-train"
"""Scenes on which settings of scenes2-seg are chosen: never a test set."""
BESIDE = "scenes2-beside"
"""The data set about small things, beside a large thing and without one."""

# How many scenes are measured: ten for each kind and colour of the dominant thing.
TEST_IMAGES = 1200
# How many scenes are segmented: three for each kind and colour, since windows take time.
SEGMENTED_IMAGES = 360
# How many scenes settings are chosen on.
TRAINING_IMAGES = 120

# The classes in the order of the label maps, as in cosmos_core.data.scenes.VERSION_2, which a test
# compares. They are written out, because importing cosmos_core imports torch.
THINGS = (
    *("apple", "ball", "balloon", "bell", "boat", "butterfly", "cactus", "car", "cat", "chair"),
    *("cherry", "clock", "cup", "duck", "fish", "guitar", "house", "key", "kite", "ladybird"),
    *("lamp", "leaf", "mushroom", "pear", "rocket", "snail", "sunflower", "train", "tree"),
    "umbrella",
)

# The folders of the scenes.
_TEST, _CONTROL, _SEEN = "test", "control", "test-seen"
_SEGMENTED, _TRAINING = "segmented", "validation"
# The items of BESIDE, in a file beside these folders. They are about what a thing is, not where.
_BESIDE_ITEMS = "beside.json"
_BESIDE_WORDS = ("kind", "colour")
LAYOUTS = {
    _TEST: ("coco", "folder", "records", "questions", "siblings"),
    _CONTROL: ("coco", "questions"),
    _SEEN: ("coco", "questions"),
    _SEGMENTED: ("voc",),
    _TRAINING: ("voc",),
}
"""The layouts that are written to each of these folders."""


def scenes2_protocols() -> Mapping[str, types.Protocol]:
    """Return the protocols of the data sets by name. Their files may not exist yet."""
    return _protocols_below(str(_scenes_folder()))


@cache
def _protocols_below(folder: str) -> Mapping[str, types.Protocol]:
    """Return the protocols of the data sets, by name, with files below `folder`."""
    test = f"{folder}/{_TEST}"
    selection = types.SelectionProtocol(
        dataset="scenes2-select",
        protocol_name=PROTOCOL_NAME,
        root=test,
        images="coco/images/test",
        annotations="questions",
        layout="sugarcrepe",
    )
    maps = "voc/SegmentationClass"
    protocols: tuple[types.Protocol, ...] = (
        types.RetrievalProtocol(
            dataset="scenes2-retrieval",
            protocol_name=PROTOCOL_NAME,
            root=test,
            images="coco/images/test",
            annotations="coco/annotations/captions_test_joined.json",
        ),
        types.ClassificationProtocol(
            dataset="scenes2-cls",
            protocol_name=PROTOCOL_NAME,
            root=test,
            folder="folder/test",
            templates=THING_TEMPLATES,
        ),
        scenes_segmentation("scenes2-seg", f"{folder}/{_SEGMENTED}", maps, _TEST, THINGS),
        selection,
        replace(selection, dataset="scenes2-select-control", root=f"{folder}/{_CONTROL}"),
        replace(
            selection,
            dataset="scenes2-select-seen",
            root=f"{folder}/{_SEEN}",
            images="coco/images/test-seen",
        ),
        replace(selection, dataset="scenes2-siblings", annotations="siblings"),
        replace(
            selection,
            dataset=BESIDE,
            root=folder,
            images=".",
            annotations=_BESIDE_ITEMS,
            layout="items",
        ),
        scenes_segmentation(TRAINING, f"{folder}/{_TRAINING}", maps, _TRAINING, THINGS),
    )
    return {protocol.dataset: protocol for protocol in protocols}


def prepare_scenes2(protocol: types.Protocol) -> None:
    """Render the scenes of a data set into the cache folder, unless they are there.

    The folder gets its name when it is complete. A run that is killed, or that renders at the same
    time, therefore does no harm. Raise UsageError if the folder cannot be written.
    """
    assert protocol.root is not None
    root = Path(protocol.root)
    if protocol.dataset != BESIDE:
        _render(root)
        return
    _render(root / _TEST)
    _render(root / _CONTROL)
    path = root / _BESIDE_ITEMS
    if not path.is_file():
        with report_write_errors(root):
            write_atomically(path, json.dumps([*_items_beside(root)]).encode())


def _render(root: Path) -> None:
    """Render the scenes of a folder, such as `test`, unless they are there."""
    if root.is_dir():
        return

    def write(folder: Path) -> None:
        write_scenes2(folder, root.name)

    render_recorded(root, f"scenes2-{root.name}", write)


def write_scenes2(folder: Path, name: str) -> None:
    """Write the scenes of a part, such as `test`, into a new folder."""
    from cosmos_core.data.scenes import VERSION_2
    from cosmos_core.data.scenes.layouts import write_layouts

    counts = {_SEGMENTED: SEGMENTED_IMAGES, _TRAINING: TRAINING_IMAGES}
    write_layouts(
        folder,
        split=name if name in VERSION_2.splits else _TEST,
        count=counts.get(name, TEST_IMAGES),
        layouts=LAYOUTS[name],
        version=VERSION_2,
        is_control=name == _CONTROL,
    )


def _items_beside(root: Path) -> Iterator[dict[str, object]]:
    """Yield the questions about small things of the test scenes, and the same of the controls.

    Both questions about a thing and a word are a pair. In a control, the things beside a small
    thing are small, too.

    Args:
        root: The folder of the rendered scenes.
    """
    for word in _BESIDE_WORDS:
        # The roles of `cosmos_eval.data.asked_objects`.
        for folder, role in ((_TEST, "small"), (_CONTROL, "control")):
            questions = json.loads(
                (root / folder / "questions" / f"{word}.json").read_text("utf-8")
            )
            for question in questions.values():
                if question["object"] != "small":
                    continue
                yield {
                    "image": f"{folder}/coco/images/test/{question['filename']}",
                    "caption": question["caption"],
                    "negative": question["negative_caption"],
                    "pair_id": f"{question['filename']} {word}",
                    "object": role,
                    "word": word,
                    "area": question["area"],
                    "dominant_area": question["dominant_area"],
                }


def _scenes_folder() -> Path:
    """Return the folder of the scenes in the cache, named by a hash of the recorded hashes."""
    return cache_folder() / f"scenes2-{_hash_lists()[:12]}"


@cache
def _hash_lists() -> str:
    """Return the SHA-256 of the lists of recorded hashes."""
    digest = hashlib.sha256()
    for name in LAYOUTS:
        digest.update(list_path(f"scenes2-{name}").read_bytes())
    return digest.hexdigest()
