"""Small made-up originals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from support.sets import LAYOUTS, save_map, write_images

from cosmos_eval.data.prepare import prepare
from cosmos_eval.types import UsageError

# What is drawn, bottom first: category ids of the Detail API, rectangles as (rows, columns).
SEGMENTS = {
    "2007_000033": [(360, (0, 4), (0, 7)), (187, (2, 4), (0, 7)), (2, (1, 3), (2, 5))],
    "2008_000073": [(3, (0, 2), (0, 3)), (458, (0, 1), (0, 3)), (284, (1, 2), (2, 3))],
}
SIZES = {"2007_000033": (4, 7), "2008_000073": (2, 3)}
EXPECTED = {
    # 47 is sky, 29 grass, 1 aeroplane.
    "2007_000033": [
        [47, 47, 47, 47, 47, 47, 47],
        [47, 47, 1, 1, 1, 47, 47],
        [29, 29, 1, 1, 1, 29, 29],
        [29, 29, 29, 29, 29, 29, 29],
    ],
    # 59 is wood, 37 person; category 3 is none of the 59, hence background.
    "2008_000073": [[59, 59, 59], [0, 0, 37]],
}


def drawn(name: str) -> list[tuple[int, np.ndarray]]:
    """Category and 0/1 map of every segment."""
    segments = []
    for category, rows, columns in SEGMENTS.get(name, ()):
        area = np.zeros(SIZES[name], np.uint8)
        area[slice(*rows), slice(*columns)] = 1
        segments.append((category, area))
    return segments


@pytest.fixture
def voc2010(tmp_path: Path) -> Path:
    """VOCdevkit/VOC2010 with two images and no annotation."""
    root = tmp_path / "VOCdevkit/VOC2010"
    for name, (height, width) in SIZES.items():
        save_map(root / f"JPEGImages/{name}.jpg", np.zeros((height, width, 3)))
    return root


@pytest.fixture
def annotation(voc2010: Path) -> Path:
    """The Detail API's file: one training, one validation and one test image."""
    images, segments = [], []
    listed = (("2008_000073", "val"), ("2007_000033", "train"), ("2010_000001", "test"))
    for name, phase in listed:
        height, width = SIZES.get(name, (5, 5))
        image_id = int(name.replace("_", ""))
        size = {"height": height, "width": width}
        images.append({"image_id": image_id, "file_name": f"{name}.jpg", "phase": phase, **size})
        for category, area in drawn(name):
            code = rle.encode(np.asfortranarray(area))
            text = {"size": code["size"], "counts": code["counts"].decode()}
            segment = {"image_id": image_id, "category_id": category, "segmentation": text}
            segments.append({"id": len(segments), "parts": [], "iscrowd": 0, **segment})
    path = voc2010 / "trainval_merged.json"
    path.write_text(json.dumps({"images": images, "annos_segmentation": segments}))
    return path


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """COCO-Stuff 164k with its raw maps of odd sizes."""
    write_images(tmp_path, LAYOUTS["coco_stuff"])
    return tmp_path


def read(path: Path) -> list[list[int]]:
    """A label map as it is on the disk, of 8-bit grey."""
    with Image.open(path) as image:
        assert image.mode == "L"
        values: list[list[int]] = np.asarray(image).tolist()
    return values


# Prepares a set until five files are there, then dies as by `kill -9`, other threads in mid-work.
_KILLED = """
import os, signal, sys
from cosmos_eval.data.prepare import prepare

def die(step):
    if step.phase in ("images", "label maps") and step.done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

prepare(sys.argv[1], sys.argv[2], workers=3, progress=die)
"""


def kill_preparing(name: str, root: Path) -> None:
    """Prepare a set in a process that is killed after five files."""
    completed = subprocess.run([sys.executable, "-c", _KILLED, name, str(root)], check=False)
    assert completed.returncode == -signal.SIGKILL


def refusal(name: str, root: Path) -> str:
    """The one line by which preparing a set fails."""
    with pytest.raises(UsageError) as error:
        prepare(name, str(root))
    assert "\n" not in str(error.value)
    return str(error.value)
