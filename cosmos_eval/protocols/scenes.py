"""The embedded data sets: rendered scenes in standard layouts, made in the user's cache folder.

Every data set is also measured on small things only, since the dominant thing of a scene hides
them: captions that name nothing else, crops around one small thing of each scene, and label maps
that ignore the dominant thing.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from cosmos_core.utils.files import appearing, cache_folder
from cosmos_eval import types
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
TEST_IMAGES = 500  # how many scenes are measured
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

# Paths below the folder of the scenes.
_COCO = "coco/annotations"
_COCO_IMAGES = "coco/images/test"
_SMALL_FOLDER = "folder/small"
_PROBE, _TRAINING = "probe", "training"
_SMALL_CAPTIONS = f"{_COCO}/captions_test_small.json"
_BOXES = f"{_COCO}/instances_test.json"
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
        images=_COCO_IMAGES,
        annotations=f"{_COCO}/captions_test_joined.json",
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
        images=_COCO_IMAGES,
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
            folder=_SMALL_FOLDER,
            templates=("a {}",),
        ),
        replace(
            retrieval,
            dataset="scenes-retrieval-five",
            annotations=f"{_COCO}/captions_test.json",
        ),
        replace(retrieval, dataset="scenes-retrieval-small", annotations=_SMALL_CAPTIONS),
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
        images=_COCO_IMAGES,
        annotations=_BOXES,
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
    """Render the test scenes into the cache folder unless they are there.

    The folder gets its name when it is complete. A run that is killed, or that renders at the same
    time, therefore does no harm. Raise UsageError if the folder cannot be written.
    """
    root = _scenes_folder()
    if root.is_dir():
        return
    with report_write_errors(root), appearing(root) as temporary_folder:
        _render_test_scenes(temporary_folder)


def prepare_training(dataset: str) -> None:
    """Render the training scenes of a data set, unless they are there.

    `dataset` is PROBE, for images on which probes are trained, or TRAINING, for images on which
    settings are chosen. Both are scenes of the training split that the bundled models were not
    trained on. Raise UsageError if they cannot be written.
    """
    from cosmos_core.data.scenes import TRAIN
    from cosmos_core.data.scenes.layouts import write_layouts
    from cosmos_core.recipes.scenes import TRAIN_SCENES

    # The bundled models were trained on the first TRAIN_SCENES scenes of the split.
    if dataset == PROBE:
        root = _scenes_folder() / _PROBE
        layout = "folder"
        start, count = TRAIN_SCENES, PROBE_IMAGES
    else:
        root = _scenes_folder() / _TRAINING
        layout = "voc"
        start, count = TRAIN_SCENES + PROBE_IMAGES, TRAINING_IMAGES
    if root.is_dir():
        return
    with report_write_errors(root):
        write_layouts(root, split=TRAIN, count=count, start=start, layouts=[layout])


@contextmanager
def report_write_errors(root: Path) -> Iterator[None]:
    """Turn an OSError in the block, which writes the folder `root`, into a UsageError.

    Ignore the error if the folder exists after it.
    """
    try:
        yield
    except OSError as error:
        if root.is_dir():
            return  # another run was faster and has written the same files
        raise types.UsageError(
            f"cannot write the embedded scenes to {root.parent}: {error}; "
            "set COSMOS_EVAL_CACHE to a folder that can be written"
        ) from error


def _render_test_scenes(folder: Path) -> None:
    """Write the test scenes to an empty folder, with captions and crops of small things.

    A second COCO file has captions of the small things only: `a small red ball on the left. a small
    green car in the center`.
    """
    from cosmos_core.data.scenes import TEST
    from cosmos_core.data.scenes.captions import PLACE_PHRASES
    from cosmos_core.data.scenes.layouts import write_layouts

    layouts = ("coco", "folder", "voc", "records", "choices")
    # The folder to write must not exist yet: write a subfolder, and move its content up.
    subfolder = write_layouts(folder / "new", split=TEST, count=TEST_IMAGES, layouts=layouts)
    for path in subfolder.iterdir():
        path.rename(folder / path.name)
    subfolder.rmdir()

    # Describe and crop the small things of every scene.
    scenes = json.loads((folder / "annotations.json").read_text("utf-8"))["scenes"]
    coco = json.loads((folder / _COCO / "captions_test_joined.json").read_text("utf-8"))
    for annotation, scene in zip(coco["annotations"], scenes, strict=True):
        small_things = [thing for thing in scene["things"] if thing["size"] == "small"]
        sentences = []
        for thing in small_things:
            place = PLACE_PHRASES[thing["place"]]
            sentences.append(f"a small {thing['colour']} {thing['kind']} {place}")
        annotation["caption"] = ". ".join(sentences)
        _write_crop(small_things[0], scene["id"], folder)
    (folder / _SMALL_CAPTIONS).write_text(json.dumps(coco), encoding="utf-8")
    boxes = _list_boxes(scenes, coco["images"])
    (folder / _BOXES).write_text(json.dumps(boxes), encoding="utf-8")


def _list_boxes(scenes: Sequence[Any], images: Sequence[Any]) -> dict[str, Any]:
    """Return the boxes of the things of all scenes in the form of COCO's instances.

    Args:
        scenes: The records of the scenes.
        images: The records of their images, in the same order.
    """
    annotations: list[dict[str, Any]] = []
    for scene, image in zip(scenes, images, strict=True):
        for thing in scene["things"]:
            left, top, right, bottom = thing["box"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": THINGS.index(thing["kind"]) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(THINGS, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _write_crop(thing: Mapping[str, Any], scene_id: str, folder: Path) -> None:
    """Write a square crop around a thing of a scene to the class folder of the thing's kind.

    The side of the square is 1.5 times the longer side of the thing, but at most the side of the
    picture. The thing is in the middle, unless the square would then leave the picture.

    Args:
        thing: Its `kind`, such as `apple`, and its `box` (left, top, right, bottom) in pixels.
        scene_id: The name of the scene's image without `.jpg`.
        folder: The folder of the test scenes.
    """
    from cosmos_core.data.pixels import open_image  # here, since it imports NumPy, which is slow

    left, top, right, bottom = thing["box"]
    target = folder / _SMALL_FOLDER / thing["kind"] / f"{scene_id}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_image(folder / _COCO_IMAGES / f"{scene_id}.jpg") as picture:
        longer_side = max(right - left, bottom - top)
        side = min(round(1.5 * longer_side), picture.width, picture.height)
        # Centre the square on the thing, and then move it into the picture.
        crop_left = (left + right - side) // 2
        crop_left = min(max(crop_left, 0), picture.width - side)
        crop_top = (top + bottom - side) // 2
        crop_top = min(max(crop_top, 0), picture.height - side)
        crop = picture.crop((crop_left, crop_top, crop_left + side, crop_top + side))
        crop.save(target)


def _scenes_folder() -> Path:
    """Return the folder of the scenes in the cache.

    It is named by a hash of everything that decides its content, so that other code renders other
    folders.
    """
    sha256 = hash_code(TEST_IMAGES, PROBE_IMAGES, TRAINING_IMAGES)
    return cache_folder() / f"scenes-{sha256[:12]}"


@cache
def hash_code(*counts: int, more: Path | None = None) -> str:
    """Return the SHA-256 of all code that renders scenes, and of numbers of images.

    `counts` are the numbers of images, which tests change, and `more` is another file of code. The
    files of cosmos_core are found without importing the package, which would import torch. Raise
    UsageError if the package is missing.
    """
    package = importlib.util.find_spec("cosmos_core")
    folders = package.submodule_search_locations if package else None
    if not folders:
        raise types.UsageError("the package cosmos_core is missing: install cosmos-eval again")
    digest = hashlib.sha256(" ".join(map(str, counts)).encode())
    paths = [*sorted(Path(folders[0]).glob("data/scenes/*.py")), Path(__file__)]
    for path in [*paths, *([] if more is None else [more])]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
