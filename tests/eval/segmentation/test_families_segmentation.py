"""Families of settings against what their authors' configurations say, and how one is chosen."""

from collections import Counter

import pytest

from cosmos_eval.data.label_map_checks import check_constants
from cosmos_eval.protocols import protocols_of_dataset
from cosmos_eval.protocols.segmentation import SEGMENTATION, SEGMENTATION_BY_PROTOCOL
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import RunOptions, UsageError

# Short side, long side, window, stride, scale, prob_thd: clearclip_segmentor.py and configs/ of
# ClearCLIP.
CLEARCLIP = {
    "voc21": (448, 2048, 448, 224, 50, 0.5),
    "context60": (448, 2048, 448, 224, 50, 0.15),
    "coco_object": (448, 2048, 448, 224, 50, 0.4),
    "voc20": (448, 2048, 448, 224, 50, 0),
    "cityscapes": (448, 2048, 224, 224, 50, 0),
    "context59": (448, 2048, 448, 224, 50, 0),
    "ade20k": (448, 2048, 448, 224, 50, 0),
    "coco_stuff": (448, 448, 224, 224, 50, 0),
}
# The same of naclip.py and configs/ of NACLIP; None: `slide_crop=0`, the whole image in one pass.
NACLIP = {
    "voc21": (336, 2048, None, 112, 40, 0.1),
    "context60": (336, 2048, 224, 112, 40, 0.1),
    "coco_object": (336, 2048, 224, 112, 40, 0.1),
    "voc20": (336, 2048, None, 112, 40, 0),
    "cityscapes": (560, 2048, 224, 112, 40, 0),
    "context59": (336, 2048, 224, 112, 40, 0),
    "ade20k": (336, 2048, 224, 112, 40, 0),
    "coco_stuff": (336, 2048, 224, 112, 40, 0),
}


@pytest.mark.parametrize(("protocol_name", "table"), [("clearclip", CLEARCLIP), ("naclip", NACLIP)])
def test_constants_are_those_of_the_authors_configurations(protocol_name, table):
    protocols = SEGMENTATION_BY_PROTOCOL[protocol_name]
    described = {
        name: (p.short_side, p.long_side, p.window, p.stride, p.scale, p.prob_thd)
        for name, p in protocols.items()
    }
    assert described == table
    for protocol in protocols.values():
        assert (protocol.protocol_name, protocol.attention, protocol.area_thd) == (
            protocol_name,
            protocol_name,
            None,
        )
        assert protocol.refinement == ("pamr" if protocol_name == "naclip" else None)


def test_clearclip_names_one_prompt_a_class_of_voc21():
    queries = SEGMENTATION_BY_PROTOCOL["clearclip"]["voc21"].queries
    assert (queries[0], queries[4], queries[11]) == (("background",), ("ship",), ("table",))
    assert all(len(prompts) == 1 for prompts in queries)


def test_clearclip_has_plain_names_for_voc20():
    """Its cls_voc20.txt: no synonyms of person and tvmonitor; two names as in SCLIP's list."""
    expected = """
        aeroplane bicycle bird ship bottle bus car cat chair cow table dog horse motorbike person
        pottedplant sheep sofa train tvmonitor
    """
    queries = SEGMENTATION_BY_PROTOCOL["clearclip"]["voc20"].queries
    assert queries == tuple((name,) for name in expected.split())


def test_clearclip_names_coco_objects_with_spaces():
    """Its cls_coco_object.txt: the background and COCO's 80 names, one prompt per class."""
    protocol = SEGMENTATION_BY_PROTOCOL["clearclip"]["coco_object"]
    assert len(protocol.queries) == 81
    assert protocol.queries == tuple((name,) for name in protocol.class_names)
    names = ("background", "person", "boat", "traffic light")
    assert tuple(protocol.queries[i] for i in (0, 1, 9, 10)) == tuple((name,) for name in names)


@pytest.mark.parametrize("protocol_name", ["clearclip", "naclip"])
def test_prompts_equal_those_of_sclip_on_other_sets(protocol_name):
    sets_with_other_prompts = {"clearclip": ("voc21", "voc20", "coco_object"), "naclip": ()}[
        protocol_name
    ]
    for name, protocol in SEGMENTATION_BY_PROTOCOL[protocol_name].items():
        has_prompts_of_sclip = protocol.queries == SEGMENTATION_BY_PROTOCOL["sclip"][name].queries
        assert has_prompts_of_sclip == (name not in sets_with_other_prompts)


@pytest.mark.parametrize(("protocol_name", "attention"), [("sclip", "csa"), ("flair", "vanilla")])
def test_other_constants_equal_those_of_the_cosmos_protocol(protocol_name, attention):
    for name, protocol in SEGMENTATION_BY_PROTOCOL[protocol_name].items():
        cosmos_protocol = SEGMENTATION[name]
        fields = ("queries", "short_side", "window", "stride", "scale", "prob_thd", "area_thd")
        assert [getattr(protocol, field) for field in fields] == [
            getattr(cosmos_protocol, field) for field in fields
        ]
        assert protocol.attention == attention


@pytest.mark.parametrize("name", SEGMENTATION)
def test_fixed_names_have_spaces_and_one_class_a_prompt(name):
    fixed, usual = SEGMENTATION_BY_PROTOCOL["fixed-names"][name], SEGMENTATION[name]
    prompts = [prompt for queries in fixed.queries for prompt in queries]
    assert max(Counter(prompts).values()) == 1
    joined = {cls.replace(" ", "") for cls in fixed.class_names if " " in cls}
    assert not joined & set(prompts)
    assert len(fixed.queries) == len(usual.queries)
    assert fixed.scale == usual.scale


def test_fixed_names_by_hand():
    fixed = SEGMENTATION_BY_PROTOCOL["fixed-names"]
    coco = dict(zip(fixed["coco_object"].class_names, fixed["coco_object"].queries, strict=True))
    assert "bed" not in coco["background"]
    assert len(coco["background"]) == 25
    assert coco["bed"] == ("bed",)
    stuff = dict(zip(fixed["coco_stuff"].class_names, fixed["coco_stuff"].queries, strict=True))
    assert (stuff["hair drier"], stuff["playingfield"]) == (("hair drier",), ("playing field",))
    assert fixed["context60"].queries[0] == ("background",)


@pytest.mark.parametrize("protocol_name", SEGMENTATION_BY_PROTOCOL)
def test_constants_of_every_family_make_sense_together(protocol_name):
    for protocol in SEGMENTATION_BY_PROTOCOL[protocol_name].values():
        check_constants(protocol)


def test_a_family_is_chosen_by_name(tmp_path):
    assert find_protocol("voc20").protocol_name == "cosmos"
    assert find_protocol("voc20", "naclip").attention == "naclip"
    assert list(protocols_of_dataset("coco_object")) == [
        *("cosmos", "fixed-names", "sclip", "flair", "clearclip", "naclip"),
        "localisation",
        *("localisation-cross-attention", "localisation-empty-ratio", "localisation-texts-ratio"),
        *("localisation-values", "localisation-similarity"),
    ]
    plan = make_plan(
        datasets=["voc20", "voc21"],
        protocol_names=["cosmos", "clearclip"],
        models=["scenes-clip"],
        options=RunOptions(data_root=str(tmp_path)),
    )
    assert [(p.dataset, p.protocol_name) for p in plan.protocols] == [
        *(("voc20", "cosmos"), ("voc20", "clearclip")),
        *(("voc21", "cosmos"), ("voc21", "clearclip")),
    ]


def test_wrong_families_are_refused(tmp_path):
    with pytest.raises(
        UsageError, match=r"coco_object has no protocol 'clear'; nearest: clearclip"
    ):
        find_protocol("coco_object", "clear")
    with pytest.raises(UsageError, match="scenes-cls has no protocol 'cosmos'; nearest: scenes"):
        find_protocol("scenes-cls", "cosmos")
    with pytest.raises(
        UsageError, match=r"mine\.yaml states its own protocol: leave --protocol out"
    ):
        find_protocol(str(tmp_path / "mine.yaml"), "cosmos")
    with pytest.raises(UsageError, match="--protocol needs --dataset"):
        make_plan(protocol_names=["cosmos"])
    with pytest.raises(UsageError, match=r"voc20 \(cosmos\) is given twice"):
        make_plan(
            datasets=["voc20"],
            protocol_names=["cosmos", "cosmos"],
            options=RunOptions(data_root=str(tmp_path)),
        )
