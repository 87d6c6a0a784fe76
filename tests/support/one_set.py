"""One set of six images that every task of the package can measure."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image
from support.webdatasets import npy, shard_of

from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import FacesProtocol, Protocol

COLOURS = {"blue": (70, 130, 210), "green": (70, 150, 60), "red": (210, 50, 45)}
PHOTOS = tuple(f"{colour}/{number}" for colour in COLOURS for number in (0, 1))
"""Names below the folders of images and of label maps, in the order of the names."""

_MAPS = "images: photos\nmasks: masks\nimage_suffix: .png\ntemplates: ['{}']\n"
_YAML = {
    "retrieval": "images: photos\nannotations: captions.json\n",
    "cls": "folder: photos\ntemplates: ['a {}']\n",
    "multilabel": "folder: photos\nannotations: labels.csv\ntemplates: ['a {}']\n",
    "seg": f"{_MAPS}classes: [green, blue]\nshort_side: 32\nwindow: null\n",
    "select": "images: photos\nannotations: items.csv\nlayout: items\n",
    "loc": f"{_MAPS}classes: [background, blue]\n",
    "assoc": "images: photos\nannotations: cues.jsonl\nimage_suffix: .png\n",
    "ood": "inside: photos\noutside: train\ntemplates: ['a {}']\n",
    "ratings": "images: photos\nannotations: ratings.csv\n",
    "boxes": "images: photos\nannotations: boxes.json\ntemplates: ['a {}']\nregions: pooled\n"
    "side: 32\n",
    "ranking": "images: photos\nannotations: queries.jsonl\n",
    "probe": "train: train\ntest: photos\nshots: [1]\ndraws: 1\nc_values: [0.1, 1.0]\n",
    "seg-probe": "images: photos\nmasks: masks\ntrain_images: train\ntrain_masks: masks\n"
    "image_suffix: .png\nclasses: [green, blue]\nshort_side: 32\nwindow: null\n",
    "depth-probe": "train: train.txt\ntest: photos.txt\n",
}
_QUESTIONS = ("race:black", "race:red", "gender:green", "gender:red", "age:red", "age:blue")
_TOXIC = tuple(f"toxic:{number} red" for number in range(21))


def write_set(root: Path) -> None:
    """Write images, label maps and lists, and a YAML file for every task but `faces`."""
    for folder in ("photos", "train"):
        for photo in PHOTOS:
            write_photo(root / folder / f"{photo}.png", COLOURS[photo.partition("/")[0]])
    for photo in PHOTOS:
        write_label_map(root / "masks" / f"{photo}.png", split_at=12)
        write_depth_map(root / "depth" / f"{photo}.png", split_at=12)
    for folder in ("photos", "train"):
        lines = [f"{folder}/{photo}.png depth/{photo}.png\n" for photo in PHOTOS]
        (root / f"{folder}.txt").write_text("".join(lines))
    files = [f"{photo}.png" for photo in PHOTOS]
    captions = [{"image": file, "caption": [f"a {file.partition('/')[0]} one"]} for file in files]
    (root / "captions.json").write_text(json.dumps(captions))
    _write_table(root / "labels.csv", ("image", "labels"), [(f, f.split("/")[0]) for f in files])
    items = [(file, file.split("/")[0], "white") for file in files]
    _write_table(root / "items.csv", ("image", "caption", "negative"), items)
    cues = [{"cue": "green", "candidates": PHOTOS, "associations": ["green/0", "green/1"]}]
    cues.append({"cue": "red", "candidates": PHOTOS, "associations": ["red/0", "red/1"]})
    (root / "cues.jsonl").write_text("".join(f"{json.dumps(cue)}\n" for cue in cues))
    rated = [(file, "green", str(number)) for number, file in enumerate(files)]
    _write_table(root / "ratings.csv", ("image", "caption", "rating"), rated)
    (root / "boxes.json").write_text(json.dumps(_list_boxes(files)))
    queries: list[dict[str, object]] = [
        {"image": files[0], "positives": files[1:2], "negatives": files[2:]},
        {"text": "red", "positives": files[4:]},
        {"image": files[2], "text": "blue", "positives": files[:2], "junk": files[2:3]},
    ]
    (root / "queries.jsonl").write_text("".join(f"{json.dumps(query)}\n" for query in queries))
    for task, text in _YAML.items():
        (root / f"{task}.yaml").write_text(f"kind: {task}\n{text}")
    write_faces(root, "lime")


def _list_boxes(files: list[str]) -> dict[str, object]:
    """Return a box of each image in the form of COCO's instances."""
    images = [
        {"id": n, "file_name": name, "width": 32, "height": 32} for n, name in enumerate(files)
    ]
    colours = list(COLOURS)
    boxes = [
        {
            "image_id": number,
            "category_id": colours.index(name.partition("/")[0]),
            "bbox": [2.5, 4, 20, 16],
        }
        for number, name in enumerate(files)
    ]
    categories = [{"id": n, "name": colour} for n, colour in enumerate(colours)]
    return {"images": images, "annotations": boxes, "categories": categories}


def write_photo(path: Path, colour: tuple[int, int, int]) -> None:
    """Write an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), colour).save(path)


def write_label_map(path: Path, split_at: int) -> None:
    """Write a label map of class 0, and of class 1 from a column on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros((32, 32), np.uint8)
    labels[:, split_at:] = 1
    Image.fromarray(labels).save(path)


def write_depth_map(path: Path, split_at: int) -> None:
    """Write a depth map of one metre, and of three metres from a column on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    millimetres = np.full((32, 32), 1000, np.uint16)
    millimetres[:, split_at:] = 3000
    Image.fromarray(millimetres).save(path)


def write_faces(root: Path, first_colour: str) -> None:
    """Write the archive of faces, of which the first has a colour."""
    faces = root / "faces"
    (faces / "test").mkdir(parents=True, exist_ok=True)
    (faces / "classnames.txt").write_text("\n".join([*_QUESTIONS, *_TOXIC]) + "\n")
    templates = "".join(f"{question}:a {{c}}\n" for question in ("race", "gender", "age", "toxic"))
    (faces / "zeroshot_classification_templates.txt").write_text(templates)
    (faces / "test/nshards.txt").write_text("1\n")
    labels = {"npy": npy([0, 1, 1, 0])}
    content = shard_of((first_colour, labels), ("red", labels), ("blue", labels))
    (faces / "test/0.tar").write_bytes(content)


def protocol_of(task: str, root: Path) -> Protocol:
    """Return the protocol by which a task measures the set."""
    if task == "faces":
        return FacesProtocol(dataset="faces", protocol_name="test", root=str(root), folder="faces")
    return find_protocol(str(root / f"{task}.yaml"))


def change_image(task: str, root: Path) -> None:
    """Overwrite an image of the set under its name, by one of another colour."""
    if task == "faces":
        write_faces(root, "yellow")
    else:
        write_photo(root / "photos/green/0.png", (1, 2, 3))


def _write_table(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
