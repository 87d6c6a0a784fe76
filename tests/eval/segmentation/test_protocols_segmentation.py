"""Class lists and constants of the published sets against MMSegmentation and the protocol table."""

import pytest

from cosmos_eval.data.label_map_checks import check_constants
from cosmos_eval.data.label_maps import dataset_class
from cosmos_eval.protocols.segmentation import SEGMENTATION

# set: short side, classes, queries, scale, prob_thd, area_thd, zero label reduced.
TABLE = {
    "voc21": (336, 21, 56, 65, 0.1, 0.1, False),
    "context60": (336, 60, 60, 50, 0.1, None, False),
    "coco_object": (336, 81, 113, 50, 0.1, None, False),
    "voc20": (336, 20, 30, 40, 0, None, True),
    "cityscapes": (560, 19, 19, 40, 0, None, False),
    "context59": (336, 59, 59, 40, 0, None, True),
    "ade20k": (336, 150, 150, 40, 0, None, True),
    "coco_stuff": (448, 171, 171, 40, 0, None, False),
}
# Classes whose prompts are not simply their names.
SYNONYMS = {"boat": ("ship",), "diningtable": ("table",)}
RENAMED = {
    "voc20": {*SYNONYMS, "person", "tvmonitor"},
    "voc21": {*SYNONYMS, "person", "tvmonitor", "background"},
    "coco_object": {"person", "background"},
}
JOINED = {"cityscapes": 2, "ade20k": 15, "coco_stuff": 15}


def test_table_of_constants():
    described = {
        name: (
            protocol.short_side,
            len(protocol.class_names),
            sum(len(names) for names in protocol.queries),
            protocol.scale,
            protocol.prob_thd,
            protocol.area_thd,
            protocol.reduce_zero_label,
        )
        for name, protocol in SEGMENTATION.items()
    }
    assert described == TABLE
    for protocol in SEGMENTATION.values():
        check_constants(protocol)
        assert (protocol.window, protocol.stride, protocol.long_side) == (224, 112, 2048)
        assert protocol.templates == "openai-imagenet"


@pytest.mark.parametrize("name", TABLE)
def test_class_names_are_mmsegmentations(name):
    protocol = SEGMENTATION[name]
    classes = [c.strip() for c in dataset_class(protocol.mmseg_type).METAINFO["classes"]]
    if name == "voc20":
        assert classes.pop(0) == "background"
    assert list(protocol.class_names) == classes


@pytest.mark.parametrize("name", TABLE)
def test_prompts_depart_from_names_only_where_published(name):
    protocol = SEGMENTATION[name]
    departing = {
        cls: prompts
        for cls, prompts in zip(protocol.class_names, protocol.queries, strict=True)
        if prompts != (cls,)
    }
    if name in JOINED:
        assert len(departing) == JOINED[name]
        assert departing == {cls: (cls.replace(" ", ""),) for cls in departing}
    else:
        assert set(departing) == RENAMED.get(name, set())


def test_published_synonyms():
    voc = dict(zip(SEGMENTATION["voc20"].class_names, SEGMENTATION["voc20"].queries, strict=True))
    assert {name: voc[name] for name in SYNONYMS} == SYNONYMS
    assert voc["person"][1::5] == ("person in shirt", "person in jacket")
    assert voc["tvmonitor"][-1] == "screen"
    coco = SEGMENTATION["coco_object"]
    assert coco.queries[1] == (*voc["person"], "body")
    assert coco.queries[0] == SEGMENTATION["voc21"].queries[0]
    assert (coco.queries[0][0], coco.queries[0][-1], len(coco.queries[0])) == ("sky", "fence", 26)
    ade = SEGMENTATION["ade20k"]
    assert ade.queries[ade.class_names.index("chest of drawers")] == ("chestofdrawers",)
