"""The eight zero-shot segmentation sets of COSMOS's published numbers, and families of settings.

Constants and prompt names: the evaluation code of github.com/ExplainableML/cosmos, which follows
SCLIP (arXiv:2312.01597). Class names: `METAINFO` of MMSegmentation 1.2; they are data here because
importing MMSegmentation takes seconds. Folders, suffixes and pages: MMSegmentation's docs/en/
user_guides/2_dataset_prepare.md, with instance maps beside COCO-Stuff's for coco_object.

Numbers of images: VOC2012's list `val`; COCO's val2017; Cityscapes' and ADE20K's validation sets
(cityscapes-dataset.com, groups.csail.mit.edu/vision/datasets/ADE20K); for Pascal-Context the list
that MMSegmentation's converter writes, which is one short of the original 5,105
(github.com/ccvl/detail-api/issues/1).

Prompts are the class names but for the synonyms and spellings listed here. The published lists
write many names of several words without the space; this is kept, as it changes the numbers.

Only numbers of one family can be compared with each other. Two families measure localisation, with
prompts of `fixed-names`; no published numbers of them are known. `localisation` takes each model's
own map, `localisation-KIND` one kind of map of all models that have it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from cosmos_eval.types import MAPS as MAP_KINDS
from cosmos_eval.types import LabelMapProtocol, LocalisationProtocol, MapKind, SegmentationProtocol

_GUIDE = "https://mmsegmentation.readthedocs.io/en/latest/user_guides/2_dataset_prepare.html"

# OpenAI's mean and standard deviation as that code rounds them; RGB, 0-255.
MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)


def _names(text: str) -> tuple[str, ...]:
    """Return the names of a comma-separated list over several lines."""
    return tuple(" ".join(name.split()) for name in text.split(","))


VOC = _names("""aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog,
    horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor""")
CONTEXT = _names("""aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle,
    building, bus, cabinet, car, cat, ceiling, chair, cloth, computer, cow, cup, curtain, dog, door,
    fence, floor, flower, food, grass, ground, horse, keyboard, light, motorbike, mountain, mouse,
    person, plate, platform, pottedplant, road, rock, sheep, shelves, sidewalk, sign, sky, snow,
    sofa, table, track, train, tree, truck, tvmonitor, wall, water, window, wood""")
CITYSCAPES = _names("""road, sidewalk, building, wall, fence, pole, traffic light, traffic sign,
    vegetation, terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle""")
ADE20K = _names("""wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet,
    sidewalk, person, earth, door, table, mountain, plant, curtain, chair, car, water, painting,
    sofa, shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp,
    bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink,
    skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
    screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill,
    bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade
    machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth,
    television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman,
    bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
    swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food,
    step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket,
    sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag""")
COCO_THINGS = _names("""person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic
    light, fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow,
    elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis,
    snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis
    racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table,
    toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
    refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush""")
COCO_STUFF = _names("""banner, blanket, branch, bridge, building-other, bush, cabinet, cage,
    cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard,
    curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone,
    floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel,
    ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin,
    net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad,
    river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other,
    stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable,
    wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood,
    water-other, waterdrops, window-blind, window-other, wood""")

_BACKGROUND = _names("""sky, wall, tree, wood, grass, road, sea, river, mountain, sands, desk, bed,
    building, cloud, lamp, door, window, wardrobe, ceiling, shelf, curtain, stair, floor, hill,
    rail, fence""")
_PERSON = _names("""person, person in shirt, person in jeans, person in dress, person in sweater,
    person in skirt, person in jacket""")
_VOC_PROMPTS = {
    "boat": ("ship",),
    "diningtable": ("table",),
    "person": _PERSON,
    "tvmonitor": _names("television monitor, tv monitor, monitor, television, screen"),
}


def _joined(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return every name of several words, written without spaces."""
    return {name: (name.replace(" ", ""),) for name in names}


def _protocol(
    dataset: str,
    mmseg_type: str,
    names: tuple[str, ...],
    prompts: Mapping[str, tuple[str, ...]],
    **layout_and_constants: Any,
) -> SegmentationProtocol:
    """Make a protocol; the prompt of a class is its name unless `prompts` has others."""
    return SegmentationProtocol(
        dataset=dataset,
        family="cosmos",
        source="https://github.com/ExplainableML/cosmos (evaluation code)",
        mmseg_type=mmseg_type,
        class_names=names,
        queries=tuple(prompts.get(name, (name,)) for name in names),
        mean=MEAN,
        std=STD,
        **layout_and_constants,
    )


_VOC2012: dict[str, Any] = {
    "download": "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/#devkit",
    "n_images": 1449,
    "usual_folder": "VOCdevkit/VOC2012",
    "images": "JPEGImages",
    "masks": "SegmentationClass",
    "split": "ImageSets/Segmentation/val.txt",
}
_VOC2010: dict[str, Any] = {
    "download": f"{_GUIDE}#pascal-context",
    "preparation": "context",
    "n_images": 5104,
    "usual_folder": "VOCdevkit/VOC2010",
    "images": "JPEGImages",
    "masks": "SegmentationClassContext",
    "split": "ImageSets/SegmentationContext/val.txt",
}
_COCO164K: dict[str, Any] = {
    "download": "https://github.com/nightrome/cocostuff#downloads",
    "n_images": 5000,
    "usual_folder": "coco_stuff164k",
    "images": "images/val2017",
    "masks": "annotations/val2017",
}

_PROTOCOLS = (
    _protocol(
        "voc21",
        "PascalVOCDataset",
        ("background", *VOC),
        {**_VOC_PROMPTS, "background": _BACKGROUND},
        **_VOC2012,
        scale=65.0,
        prob_thd=0.1,
        area_thd=0.1,
    ),
    _protocol(
        "context60",
        "PascalContextDataset",
        ("background", *CONTEXT),
        {},
        **_VOC2010,
        scale=50.0,
        prob_thd=0.1,
    ),
    # "bed" is also a prompt of the background, which comes first: that class can never win.
    _protocol(
        "coco_object",
        "COCOObjectDataset",
        ("background", *COCO_THINGS),
        {"background": _BACKGROUND, "person": (*_PERSON, "body")},
        **_COCO164K,
        preparation="coco_object",
        mask_suffix="_instanceTrainIds.png",
        scale=50.0,
        prob_thd=0.1,
    ),
    _protocol("voc20", "PascalVOCDataset", VOC, _VOC_PROMPTS, **_VOC2012, reduce_zero_label=True),
    _protocol(
        "cityscapes",
        "CityscapesDataset",
        CITYSCAPES,
        _joined(CITYSCAPES),
        download="https://www.cityscapes-dataset.com/downloads/",
        preparation="cityscapes",
        n_images=500,
        usual_folder="cityscapes",
        images="leftImg8bit/val",
        masks="gtFine/val",
        image_suffix="_leftImg8bit.png",
        mask_suffix="_gtFine_labelTrainIds.png",
        short_side=560,
    ),
    _protocol(
        "context59", "PascalContextDataset59", CONTEXT, {}, **_VOC2010, reduce_zero_label=True
    ),
    _protocol(
        "ade20k",
        "ADE20KDataset",
        ADE20K,
        _joined(ADE20K),
        download=f"{_GUIDE}#ade20k",
        n_images=2000,
        usual_folder="ade/ADEChallengeData2016",
        images="images/validation",
        masks="annotations/validation",
        reduce_zero_label=True,
    ),
    _protocol(
        "coco_stuff",
        "COCOStuffDataset",
        (*COCO_THINGS, *COCO_STUFF),
        _joined(COCO_THINGS),
        **_COCO164K,
        preparation="coco_stuff",
        mask_suffix="_labelTrainIds.png",
        short_side=448,
    ),
)

SEGMENTATION = {protocol.dataset: protocol for protocol in _PROTOCOLS}

# Names that COCO-Stuff, PASCAL VOC and PASCAL-Context themselves write without their spaces.
_SPACED = _names("dining table, playing field, potted plant, tv monitor, water drops")


def _fixed_names(protocol: SegmentationProtocol) -> tuple[tuple[str, ...], ...]:
    """Return prompts of whole words, none of which belongs to two classes: the published lists join
    "traffic light", and the background of coco_object claims "bed", which is a class of its own."""
    spaced = {name.replace(" ", ""): name for name in (*protocol.class_names, *_SPACED)}
    queries = [tuple(spaced.get(name, name) for name in names) for names in protocol.queries]
    if protocol.class_names[0] == "background":
        queries[0] = tuple(name for name in queries[0] if name not in protocol.class_names[1:])
    return tuple(queries)


def _clearclip_names(protocol: SegmentationProtocol) -> tuple[tuple[str, ...], ...]:
    """Return the prompts of ClearCLIP: of these three sets its lists are not SCLIP's."""
    if protocol.dataset not in ("voc21", "voc20", "coco_object"):
        return protocol.queries
    renamed = {"boat": "ship", "diningtable": "table"} if "voc" in protocol.dataset else {}
    return tuple((renamed.get(name, name),) for name in protocol.class_names)


# What differs from `cosmos` in each family.
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "cosmos": {},
    "fixed-names": {
        "source": "constants as in `cosmos`; names with their spaces, each of one class"
    },
    # COSMOS took its names, constants and attention over whole.
    "sclip": {"source": "https://github.com/wangf3014/SCLIP/tree/main/configs"},
    "clearclip": {
        "source": "https://github.com/mc-lan/ClearCLIP/tree/ad68a40 "
        "(clearclip_segmentor.py, configs)",
        "attention": "clearclip",
        **{"short_side": 448, "window": 448, "stride": 224, "scale": 50.0, "area_thd": None},
    },
    "naclip": {
        "source": "https://github.com/sinahmr/NACLIP/tree/0cac3a6 (naclip.py, configs)",
        "attention": "naclip",
        **{"scale": 40.0, "area_thd": None, "refinement": "pamr"},
    },
}
# What configs/cfg_*.py of ClearCLIP and NACLIP change of that for single sets. `slide_crop=0` of
# NACLIP is the whole image in one pass.
_OF_SETS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("clearclip", "voc21"): {"prob_thd": 0.5},
    ("clearclip", "context60"): {"prob_thd": 0.15},
    ("clearclip", "coco_object"): {"prob_thd": 0.4},
    ("clearclip", "cityscapes"): {"window": 224},
    ("clearclip", "coco_stuff"): {"window": 224, "long_side": 448},
    ("naclip", "voc21"): {"window": None},
    ("naclip", "voc20"): {"window": None},
    ("naclip", "coco_stuff"): {"short_side": 336},
}
_PROMPTS = {"fixed-names": _fixed_names, "clearclip": _clearclip_names}


def _of_family(family: str, protocol: SegmentationProtocol) -> SegmentationProtocol:
    queries = _PROMPTS[family](protocol) if family in _PROMPTS else protocol.queries
    settings = {**_SETTINGS[family], **_OF_SETS.get((family, protocol.dataset), {})}
    return replace(protocol, family=family, queries=queries, **settings)


SEGMENTATION_FAMILIES: Mapping[str, Mapping[str, SegmentationProtocol]] = {
    family: {name: _of_family(family, protocol) for name, protocol in SEGMENTATION.items()}
    for family in _SETTINGS
}
"""Protocols of every set by family, then by data set."""

LOCALISATION = "localisation"

MAPS: Mapping[str, MapKind | None] = {
    LOCALISATION: None,
    **{f"{LOCALISATION}-{name}": kind for name, kind in MAP_KINDS.items()},
}
"""The kind of map of each family; None: the model's own."""


def localisation_of(
    protocol: SegmentationProtocol, family: str, **changes: Any
) -> LocalisationProtocol:
    """Return the protocol of a family with the same images, label maps, names and templates."""
    shared = {field.name: getattr(protocol, field.name) for field in fields(LabelMapProtocol)}
    own = {"family": family, "source": "", "map": MAPS[family]}
    return LocalisationProtocol(**{**shared, **own, **changes})


LOCALISATION_FAMILIES: Mapping[str, Mapping[str, LocalisationProtocol]] = {
    family: {
        name: localisation_of(protocol, family)
        for name, protocol in SEGMENTATION_FAMILIES["fixed-names"].items()
    }
    for family in MAPS
}
"""Protocols of every set by family, then by data set."""
