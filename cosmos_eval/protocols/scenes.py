"""The embedded data sets: scenes in standard layouts, unpacked in the user's cache folder.

Every data set is also measured on small things only, since the dominant thing of a scene hides
them: captions that name nothing else, crops around one small thing of each scene, and label maps
that ignore the dominant thing.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from cosmos_core.utils.files import cache_folder
from cosmos_eval import types
from cosmos_eval.protocols.scene_files import ARCHIVES, unpack_scenes
from cosmos_eval.protocols.segmentation import LOCALISATION, MEAN, STD, localisation_of

DEFAULT = ("scenes-retrieval", "scenes-cls", "scenes-seg", "scenes-select")
"""Data sets that a run without arguments measures."""

PROBE = "scenes-probe"
"""The data set on which probes are trained and measured."""
TRAINING = "scenes-seg-train"
"""The training scenes on which settings of scenes-seg are chosen: never a test set."""
ON_REQUEST = ("scenes-loc", PROBE, "scenes-boxes")
"""Data sets that are only measured if their task is named."""

PROTOCOL_NAME = "scenes"
TEST_IMAGES = 500  # how many scenes are measured: the archives have so many
PROBE_IMAGES = 1000  # how many scenes probes are trained on
TRAINING_IMAGES = 100  # how many scenes settings are chosen on

# The classes in the order of the label maps, as in cosmos_core.data.scenes.CLASSES, which a test
# compares. They are written out, because importing cosmos_core imports torch.
THINGS = (
    *("apple", "ball", "boat", "car", "fish"),
    *("house", "ladybird", "mushroom", "sunflower", "tree"),
)
STUFF = ("grass", "water", "brick", "sand", "wood", "snow", "stone", "sky")

# Prompts in the style of the scenes' captions. They were chosen, like the windows below, on 100
# scenes of the training split (docs/log.md).
THING_TEMPLATES = ("a large {}", "a picture of a {}", "the main object is a {}")
# Fractions of a picture. A small thing covers 1.6 to 6%, the dominant thing 7.7 to 25%, stuff 20%
# and more. Two small things of the same kind are one class.
_SMALL, _LARGE = 0.06, 0.2

# Paths below the folder of the scenes; benchmarks/record_scenes.py writes them.
COCO = "coco/annotations"
COCO_IMAGES = "coco/images/test"
SMALL_FOLDER = "folder/small"
_PROBE, _TRAINING = "probe", "training"
SMALL_CAPTIONS = f"{COCO}/captions_test_small.json"
BOXES = f"{COCO}/instances_test.json"
_SIDE = 128  # of an image, in pixels


def scenes_protocols() -> Mapping[str, types.Protocol]:
    """Return the protocols of the embedded data sets by name. Their files may not exist yet."""
    return _protocols_below(str(_scenes_folder()))


@cache
def _protocols_below(root: str) -> Mapping[str, types.Protocol]:
    """Return the protocols of the embedded data sets, by name, with files below `root`."""
    retrieval = types.RetrievalProtocol(
        dataset="scenes-retrieval",
        protocol_name=PROTOCOL_NAME,
        root=root,
        images=COCO_IMAGES,
        annotations=f"{COCO}/captions_test_joined.json",
    )
    classification = types.ClassificationProtocol(
        dataset="scenes-cls",
        protocol_name=PROTOCOL_NAME,
        root=root,
        folder="folder/test",
        templates=THING_TEMPLATES,
    )
    # cosmos_core.data.scenes.captions says how the wrong captions are made.
    selection = types.SelectionProtocol(
        dataset="scenes-select",
        protocol_name=PROTOCOL_NAME,
        root=root,
        images=COCO_IMAGES,
        annotations="choices",
        layout="sugarcrepe",
    )
    probe = types.ProbeProtocol(
        dataset=PROBE,
        protocol_name=PROTOCOL_NAME,
        root=root,
        train=f"{_PROBE}/folder/train",
        test="folder/test",
    )
    protocols: tuple[types.Protocol, ...] = (
        retrieval,
        classification,
        scenes_segmentation("scenes-seg", root, "voc/SegmentationClass"),
        selection,
        replace(
            classification,
            dataset="scenes-cls-small",
            folder=SMALL_FOLDER,
            templates=("a {}",),
        ),
        replace(
            retrieval,
            dataset="scenes-retrieval-five",
            annotations=f"{COCO}/captions_test.json",
        ),
        replace(retrieval, dataset="scenes-retrieval-small", annotations=SMALL_CAPTIONS),
        scenes_segmentation("scenes-seg-small", root, "voc/SegmentationClassSmall"),
        scenes_segmentation(TRAINING, f"{root}/{_TRAINING}", "voc/SegmentationClass", "train"),
        scenes_localisation(LOCALISATION),
        probe,
        scenes_boxes(root, "pooled"),
    )
    return {protocol.dataset: protocol for protocol in protocols}


def scenes_boxes(root: str, regions: types.Regions) -> types.BoxesProtocol:
    """Return the protocol that classifies the boxes of the things in the test scenes.

    Args:
        root: The folder of the scenes.
        regions: How the features of boxes are made. The protocol is called `scenes` if they are
            pooled, and `scenes-crops` if boxes are cut out.
    """
    return types.BoxesProtocol(
        dataset="scenes-boxes",
        protocol_name=PROTOCOL_NAME if regions == "pooled" else f"{PROTOCOL_NAME}-crops",
        root=root,
        images=COCO_IMAGES,
        annotations=BOXES,
        templates=("a {}",),
        regions=regions,
        side=_SIDE,
        squares="padded" if regions == "crops" else None,
        enlargement=1.5,
        small=_SMALL,
        large=_LARGE,
    )


def scenes_localisation(protocol_name: str) -> types.LocalisationProtocol:
    """Return a localisation protocol on the test scenes.

    `protocol_name` is a key of `cosmos_eval.protocols.segmentation.MAPS`, which decides the kind of
    attention map.
    """
    segmentation = scenes_segmentation("scenes-seg", str(_scenes_folder()), "voc/SegmentationClass")
    return localisation_of(
        segmentation,
        protocol_name,
        dataset="scenes-loc",
        small=_SMALL,
        large=_LARGE,
        things=THINGS,
    )


def scenes_segmentation(
    dataset: str, root: str, masks: str, split: str = "test", things: tuple[str, ...] = THINGS
) -> types.SegmentationProtocol:
    """Return a segmentation protocol on the scenes.

    Args:
        dataset: The name of the data set.
        root: The folder that contains `voc`, the layout of PASCAL VOC.
        masks: The folder of the label maps, relative to `root`.
        split: The name of the file that lists the images, such as `test`.
        things: The kinds of things of the version of the scenes.
    """
    queries = [f"we see a {name}" for name in things]
    queries += [f"with {name}" for name in STUFF]
    return types.SegmentationProtocol(
        dataset=dataset,
        protocol_name=PROTOCOL_NAME,
        root=root,
        images="voc/JPEGImages",
        masks=masks,
        split=f"voc/ImageSets/Segmentation/{split}.txt",
        class_names=things + STUFF,
        queries=tuple((query,) for query in queries),
        templates=("{}",),
        short_side=128,
        window=40,  # a thing fills the window, as it fills a local crop in training
        stride=20,
        mean=MEAN,
        std=STD,
        groups={"things": things, "stuff": STUFF},
    )


def prepare_scenes() -> None:
    """Unpack the test scenes into the cache folder unless they are there.

    The folder gets its name when it is complete. A run that is killed, or that unpacks at the same
    time, therefore does no harm. Raise UsageError if the folder cannot be written.
    """
    root = _scenes_folder()
    if not root.is_dir():
        unpack_scenes(root, "scenes-test")


def prepare_training(dataset: str) -> None:
    """Unpack the training scenes of a data set, after `prepare_scenes`, unless they are there.

    `dataset` is PROBE, for images on which probes are trained, or TRAINING, for images on which
    settings are chosen. Both are scenes of the training split that the bundled models were not
    trained on. Raise UsageError if the folder cannot be written.
    """
    name = _PROBE if dataset == PROBE else _TRAINING
    root = _scenes_folder() / name
    if not root.is_dir():
        unpack_scenes(root, f"scenes-{name}")


def _scenes_folder() -> Path:
    """Return the folder of the scenes in the cache, which is named by a hash of the archives."""
    digest = hashlib.sha256("".join(ARCHIVES.values()).encode())
    return cache_folder() / f"scenes-{digest.hexdigest()[:12]}"
