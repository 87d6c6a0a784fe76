"""COCO-Stuff's and COCO-Object's label maps from the `stuffthingmaps` of COCO-Stuff 164k.

A pixel of those holds COCO's category id less one: 0 to 90 for things, 91 to 181 for stuff, 255
for none (github.com/nightrome/cocostuff, README.md and labels.md). Both sets take the classes that
have pixels, in order: MMSegmentation's tools/dataset_converters/coco_stuff164k.py, and
datasets/cvt_coco_object.py of github.com/sinahmr/NACLIP, which puts 1 to 80 for things and 0 for
stuff and for pixels without a label.
"""

from __future__ import annotations

from cosmos_eval.data.prepare.maps import IGNORE, Work, make_table, translated
from cosmos_eval.data.prepare.places import missing_comes_from, targets_of_images
from cosmos_eval.protocols.segmentation import COCO_THINGS, SEGMENTATION

_STUFF, _OBJECT = SEGMENTATION["coco_stuff"], SEGMENTATION["coco_object"]
_VALUES = 182
# Street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush:
# things with a category id and no pixel.
_EMPTY = frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})

_KEPT = [value for value in range(_VALUES) if value not in _EMPTY]
_TRAIN_IDS = {**{value: index for index, value in enumerate(_KEPT)}, IGNORE: IGNORE}
_OBJECT_IDS = {index: index + 1 if index < len(COCO_THINGS) else 0 for index in _TRAIN_IDS.values()}

_STUFF_TABLES = (make_table(".png", _TRAIN_IDS),)
_OBJECT_TABLES = (
    make_table(".png", {value: _OBJECT_IDS[index] for value, index in _TRAIN_IDS.items()}),
    make_table(_STUFF.mask_suffix, _OBJECT_IDS),
)


def coco_stuff(data_root: str | None) -> Work:
    """`*_labelTrainIds.png`: 0 to 170, and 255."""
    with missing_comes_from(_STUFF):
        targets = targets_of_images(_STUFF, data_root)
        return translated(targets, _STUFF.mask_suffix, _STUFF_TABLES, len(_STUFF.class_names))


def coco_object(data_root: str | None) -> Work:
    """`*_instanceTrainIds.png`: 0 for the background, 1 to 80 for things.

    Made from `*_labelTrainIds.png` where the raw maps were not kept.
    """
    with missing_comes_from(_OBJECT):
        targets = targets_of_images(_OBJECT, data_root)
        return translated(targets, _OBJECT.mask_suffix, _OBJECT_TABLES, len(_OBJECT.class_names))
