"""The excerpts of published files in tests/excerpts, whose README.md says where they are from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from PIL import Image

from cosmos_eval.protocols.retrieval import RETRIEVAL
from cosmos_eval.protocols.selection import SELECTION
from cosmos_eval.types import RetrievalProtocol, SelectionProtocol

EXCERPTS = Path(__file__).parents[1] / "excerpts"

SUBSETS = {
    "add_att": 2,
    "add_obj": 5,
    "replace_att": 1,
    "replace_obj": 1,
    "replace_rel": 1,
    "swap_att": 3,
    "swap_obj": 3,
}
"""How many items of SugarCrepe's subsets the excerpt has."""


def write_coco_excerpt(root: Path) -> list[Path]:
    """Copy COCO's captions and SugarCrepe's items below a data root, with stand-in images.

    Returns the images, in the order of their names.
    """
    shutil.copytree(EXCERPTS / "annotations", root / "annotations")
    shutil.copytree(EXCERPTS / "sugar-crepe", root / "sugar-crepe")
    listed = json.loads((root / "annotations/captions_val2017.json").read_text())["images"]
    paths = [root / "val2017" / name for name in sorted(image["file_name"] for image in listed)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 6), (50 * number, 20, 90)).save(path)
    return paths


def sugarcrepe_excerpt() -> SelectionProtocol:
    """The known set, with the numbers of items of the excerpt."""
    return replace(SELECTION["sugarcrepe"], n_items=sum(SUBSETS.values()), subset_items=SUBSETS)


def coco_excerpt() -> RetrievalProtocol:
    """The known set `coco-val2017`, with the numbers of the excerpt."""
    return replace(RETRIEVAL["coco-val2017"], n_images=4, n_captions=22)


def caltech101_images() -> dict[str, int]:
    """Return the number of images in each folder of Caltech 101, sorted by name."""
    path = EXCERPTS / "caltech101_images_per_class.json"
    n_images_by_folder: dict[str, int] = json.loads(path.read_text())
    return n_images_by_folder
