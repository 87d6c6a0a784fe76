"""Few scenes as a user's own files, each task's described by a YAML file."""

from __future__ import annotations

from pathlib import Path

from cosmos_core.data.scenes import CLASSES, TEST
from cosmos_core.data.scenes.layouts import write_layouts

MAPS = (
    "images: voc/JPEGImages\nmasks: voc/SegmentationClass\n"
    f"split: voc/ImageSets/Segmentation/test.txt\nclasses: [{', '.join(CLASSES)}]\n"
)
SEG = f"kind: seg\n{MAPS}short_side: 64\nwindow: 32\nstride: 16\n"
FILES = {
    "found": "kind: retrieval\nimages: coco/images/test\n"
    "annotations: coco/annotations/captions_test.json\n",
    "named": "kind: cls\nfolder: folder/test\ntemplates: ['a large {}']\n",
    "segmented": f"{SEG}templates: ['{{}}']\n",
    "again": f"{SEG}templates: ['a {{}}']\n",
    "chosen": "kind: select\nimages: coco/images/test\nannotations: choices\nlayout: sugarcrepe\n",
    "looked-at": f"kind: loc\n{MAPS}templates: ['a {{}}']\nsmall: 0.06\nlarge: 0.2\n",
}


def write_scenes(folder: Path, count: int, *names: str) -> list[str]:
    """Write so many scenes and the named files; return the paths of the files."""
    write_layouts(folder, split=TEST, count=count, layouts=["coco", "folder", "voc", "choices"])
    for name in names:
        (folder / f"{name}.yaml").write_text(FILES[name])
    return [str(folder / f"{name}.yaml") for name in names]
