"""Record the scenes that are measured: archives of version 1, and hashes of version 2.

    python benchmarks/record_scenes.py

writes `cosmos_eval/protocols/recorded_scenes` again, and prints the hashes of the archives, which
`cosmos_eval/protocols/scene_files.py` states. With OpenCV 5.0, both are those of the repository.
Other scenes get other numbers: record them only under another name of the data set.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cosmos_core.data.pixels import open_image
from cosmos_core.data.scenes import TEST, TRAIN
from cosmos_core.data.scenes.captions import PLACE_PHRASES
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_core.recipes.scenes import TRAIN_SCENES
from cosmos_eval.protocols import scenes, scenes2
from cosmos_eval.protocols.scene_files import FOLDER, archive_path, hash_files, list_path

# The layouts that protocols of the test scenes read.
TEST_LAYOUTS = ("coco", "folder", "voc", "records", "choices")


def main() -> None:
    """Write the archives and the lists of hashes."""
    FOLDER.mkdir(exist_ok=True)
    for name, write in version_1_parts().items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, name)
            write(folder)
            archive_path(name).write_bytes(pack(folder))
        print(name, hashlib.sha256(archive_path(name).read_bytes()).hexdigest())
    for name, write in version_2_parts().items():
        print(name, record(name, write), "files")


def record(name: str, write: Callable[[Path], object]) -> int:
    """Write the list of hashes of a part, and return how many files it has.

    Args:
        name: The name of the list, such as `scenes2-test`.
        write: Writes the part into a folder that does not exist yet.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, name)
        write(folder)
        lines = [f"{sha256}  {file}\n" for file, sha256 in hash_files(folder).items()]
    list_path(name).write_text("".join(lines), encoding="utf-8")
    return len(lines)


def version_1_parts() -> dict[str, Callable[[Path], object]]:
    """Return the function that writes each part of version 1, by the name of its archive.

    The bundled models were trained on the first TRAIN_SCENES scenes of the training split.
    """
    n_probe = scenes.PROBE_IMAGES

    def write_test(folder: Path) -> None:
        write_test_scenes(folder, scenes.TEST_IMAGES)

    def write_probe(folder: Path) -> None:
        write_layouts(folder, split=TRAIN, count=n_probe, start=TRAIN_SCENES, layouts=["folder"])

    def write_training(folder: Path) -> None:
        start = TRAIN_SCENES + n_probe
        count = scenes.TRAINING_IMAGES
        write_layouts(folder, split=TRAIN, count=count, start=start, layouts=["voc"])

    return {
        "scenes-test": write_test,
        "scenes-training": write_training,
        "scenes-probe": write_probe,
    }


def version_2_parts() -> dict[str, Callable[[Path], object]]:
    """Return the function that writes each part of version 2, by the name of its list."""
    return {
        f"scenes2-{name}": partial(scenes2.write_scenes2, name=name) for name in scenes2.LAYOUTS
    }


def write_test_scenes(folder: Path, count: int) -> None:
    """Write test scenes to a new folder, with captions and crops of small things.

    A second COCO file has captions of the small things only: `a small red ball on the left. a small
    green car in the center`.
    """
    write_layouts(folder, split=TEST, count=count, layouts=TEST_LAYOUTS)

    # Describe and crop the small things of every scene.
    records = json.loads((folder / "annotations.json").read_text("utf-8"))["scenes"]
    coco = json.loads((folder / scenes.COCO / "captions_test_joined.json").read_text("utf-8"))
    for annotation, scene in zip(coco["annotations"], records, strict=True):
        small_things = [thing for thing in scene["things"] if thing["size"] == "small"]
        sentences = []
        for thing in small_things:
            place = PLACE_PHRASES[thing["place"]]
            sentences.append(f"a small {thing['colour']} {thing['kind']} {place}")
        annotation["caption"] = ". ".join(sentences)
        write_crop(small_things[0], scene["id"], folder)
    (folder / scenes.SMALL_CAPTIONS).write_text(json.dumps(coco), encoding="utf-8")
    boxes = list_boxes(records, coco["images"])
    (folder / scenes.BOXES).write_text(json.dumps(boxes), encoding="utf-8")


def list_boxes(records: Sequence[Any], images: Sequence[Any]) -> dict[str, Any]:
    """Return the boxes of the things of all scenes in the form of COCO's instances.

    Args:
        records: The records of the scenes.
        images: The records of their images, in the same order.
    """
    annotations: list[dict[str, Any]] = []
    for scene, image in zip(records, images, strict=True):
        for thing in scene["things"]:
            left, top, right, bottom = thing["box"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": scenes.THINGS.index(thing["kind"]) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(scenes.THINGS, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_crop(thing: Mapping[str, Any], scene_id: str, folder: Path) -> None:
    """Write a square crop around a thing of a scene to the class folder of the thing's kind.

    The side of the square is 1.5 times the longer side of the thing, but at most the side of the
    picture. The thing is in the middle, unless the square would then leave the picture.

    Args:
        thing: Its `kind`, such as `apple`, and its `box` (left, top, right, bottom) in pixels.
        scene_id: The name of the scene's image without `.jpg`.
        folder: The folder of the test scenes.
    """
    left, top, right, bottom = thing["box"]
    target = folder / scenes.SMALL_FOLDER / thing["kind"] / f"{scene_id}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_image(folder / scenes.COCO_IMAGES / f"{scene_id}.jpg") as picture:
        longer_side = max(right - left, bottom - top)
        side = min(round(1.5 * longer_side), picture.width, picture.height)
        # Centre the square on the thing, and then move it into the picture.
        crop_left = (left + right - side) // 2
        crop_left = min(max(crop_left, 0), picture.width - side)
        crop_top = (top + bottom - side) // 2
        crop_top = min(max(crop_top, 0), picture.height - side)
        crop = picture.crop((crop_left, crop_top, crop_left + side, crop_top + side))
        crop.save(target)


def pack(folder: Path) -> bytes:
    """Return a compressed archive of a folder: the same files give the same bytes.

    A file with the content of an earlier one is a hard link to it.
    """
    tar_bytes = io.BytesIO()
    name_by_content: dict[bytes, str] = {}
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            if not path.is_file():
                continue
            content = path.read_bytes()
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.mode = 0o644
            first_name = name_by_content.setdefault(content, entry.name)
            if first_name == entry.name:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.linkname = tarfile.LNKTYPE, first_name
                archive.addfile(entry)
    return gzip.compress(tar_bytes.getvalue(), mtime=0)


if __name__ == "__main__":
    main()
