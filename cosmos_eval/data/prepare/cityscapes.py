"""Cityscapes' training ids from the label ids that the download holds."""

from __future__ import annotations

from cosmos_eval.data.prepare.maps import IGNORE, Work, make_table, translated
from cosmos_eval.data.prepare.places import missing_comes_from, targets_of_images
from cosmos_eval.protocols.segmentation import SEGMENTATION

_PROTOCOL = SEGMENTATION["cityscapes"]
# Label ids 0 to 33, and those that are evaluated in the order of the classes: `labels` in
# cityscapesscripts/helpers/labels.py of github.com/mcordts/cityscapesScripts. The licence plate's
# id there, -1, is 255 in 8 bits.
_LABEL_IDS = 34
_EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

_TABLE = make_table(
    "_gtFine_labelIds.png",
    {
        **dict.fromkeys((*range(_LABEL_IDS), IGNORE), IGNORE),
        **{label_id: index for index, label_id in enumerate(_EVALUATED)},
    },
)


def cityscapes(data_root: str | None) -> Work:
    """`*_gtFine_labelTrainIds.png` of the validation set: 0 to 18, and 255."""
    with missing_comes_from(_PROTOCOL):
        targets = targets_of_images(_PROTOCOL, data_root)
        return translated(targets, _PROTOCOL.mask_suffix, (_TABLE,), len(_PROTOCOL.class_names))
