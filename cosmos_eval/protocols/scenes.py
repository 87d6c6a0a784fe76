"""The embedded data sets: rendered scenes in standard layouts, made in the user's cache folder.
Every data set is also measured on its small things alone, since the dominant thing of a scene hides
them: queries that name nothing else, cut-outs around one small thing per scene, label maps that
ignore the dominant thing."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from cosmos_core.utils.files import appearing, cache_folder
from cosmos_eval import types
from cosmos_eval.protocols.segmentation import LOCALISATION, MEAN, STD, localisation_of

DEFAULT = ("scenes-retrieval", "scenes-cls", "scenes-seg", "scenes-select")
"""Data sets that a run without arguments measures."""

PROBE = "scenes-probe"
TRAINING = "scenes-seg-train"
"""The training scenes on which settings of scenes-seg are chosen: never a test set."""
ON_REQUEST = ("scenes-loc", PROBE)
"""Those that a run of their task alone measures."""

FAMILY = "scenes"
TEST_IMAGES = 500
PROBE_IMAGES = 1000  # to train probes on
TRAINING_IMAGES = 100  # to choose settings on

# In the order of the label maps: cosmos_core.data.scenes.CLASSES, which a test compares. Written
# out, because importing cosmos_core imports torch.
THINGS = (
    *("apple", "ball", "boat", "car", "fish"),
    *("house", "ladybird", "mushroom", "sunflower", "tree"),
)
STUFF = ("grass", "water", "brick", "sand", "wood", "snow", "stone", "sky")

# Prompts in the manner of the scenes' captions; chosen, like the windows below, on 100 scenes of
# the training split (docs/log.md).
_THING_TEMPLATES = ("a large {}", "a picture of a {}", "the main object is a {}")
_QUERIES = (*(f"we see a {thing}" for thing in THINGS), *(f"with {stuff}" for stuff in STUFF))
# A small thing covers 1.6 to 6% of a picture, the dominant one 7.7 to 25%, stuff 20% and more. Two
# small ones of a kind are one class.
_SMALL, _LARGE = 0.06, 0.2

_COCO = "coco/annotations"
_COCO_IMAGES = "coco/images/test"
_SMALL_FOLDER = "folder/small"
_PROBE, _TRAINING = "probe", "training"
_SMALL_CAPTIONS = f"{_COCO}/captions_test_small.json"


def scenes_protocols() -> Mapping[str, types.Protocol]:
    """Return the embedded data sets by name; their files may not exist yet."""
    return _protocols_below(str(_root()))


@cache
def _protocols_below(root: str) -> Mapping[str, types.Protocol]:
    retrieval = partial(types.RetrievalProtocol, family=FAMILY, root=root, images=_COCO_IMAGES)
    classification = partial(types.ClassificationProtocol, family=FAMILY, root=root)
    protocols: tuple[types.Protocol, ...] = (
        retrieval(dataset="scenes-retrieval", annotations=f"{_COCO}/captions_test_joined.json"),
        classification(dataset="scenes-cls", folder="folder/test", templates=_THING_TEMPLATES),
        _segmentation("scenes-seg", root, "voc/SegmentationClass"),
        # cosmos_core.data.scenes.captions says how the wrong captions are made.
        types.SelectionProtocol(
            dataset="scenes-select",
            family=FAMILY,
            root=root,
            images=_COCO_IMAGES,
            annotations="choices",
            layout="sugarcrepe",
        ),
        classification(dataset="scenes-cls-small", folder=_SMALL_FOLDER, templates=("a {}",)),
        retrieval(dataset="scenes-retrieval-five", annotations=f"{_COCO}/captions_test.json"),
        retrieval(dataset="scenes-retrieval-small", annotations=_SMALL_CAPTIONS),
        _segmentation("scenes-seg-small", root, "voc/SegmentationClassSmall"),
        _segmentation(TRAINING, f"{root}/{_TRAINING}", "voc/SegmentationClass", "train"),
        scenes_localisation(LOCALISATION),
        types.ProbeProtocol(
            dataset=PROBE,
            family=FAMILY,
            root=root,
            train=f"{_PROBE}/folder/train",
            test="folder/test",
        ),
    )
    return {protocol.dataset: protocol for protocol in protocols}


def scenes_localisation(family: str) -> types.LocalisationProtocol:
    """Return the protocol by which a family measures localisation on the scenes."""
    known = _segmentation("scenes-seg", str(_root()), "voc/SegmentationClass")
    return localisation_of(known, family, dataset="scenes-loc", small=_SMALL, large=_LARGE)


def _segmentation(
    dataset: str, root: str, masks: str, split: str = "test"
) -> types.SegmentationProtocol:
    return types.SegmentationProtocol(
        dataset=dataset,
        family=FAMILY,
        root=root,
        images="voc/JPEGImages",
        masks=masks,
        split=f"voc/ImageSets/Segmentation/{split}.txt",
        class_names=THINGS + STUFF,
        queries=tuple((query,) for query in _QUERIES),
        templates=("{}",),
        short_side=128,
        window=40,  # about a local crop's content: a thing then fills one, as in training
        stride=20,
        mean=MEAN,
        std=STD,
        groups={"things": THINGS, "stuff": STUFF},
    )


def prepare_scenes() -> None:
    """Render the test scenes into the cache folder unless they are there: all at once or not at
    all, so that a killed or a simultaneous run does no harm. Raises UsageError where the folder
    cannot be written."""

    def write(root: Path) -> None:
        with appearing(root) as temporary:
            _render(temporary)

    _make(_root(), write)


def prepare_training(dataset: str) -> None:
    """Render the training images of probes or of tuning beside the test scenes, like these: scenes
    that follow those that the bundled models were trained on. Raises UsageError."""
    from cosmos_core.data.scenes import TRAIN
    from cosmos_core.data.scenes.layouts import write_layouts
    from cosmos_core.recipes.scenes import TRAIN_SCENES

    folder, layout, count, start = {
        PROBE: (_PROBE, "folder", PROBE_IMAGES, TRAIN_SCENES),
        TRAINING: (_TRAINING, "voc", TRAINING_IMAGES, TRAIN_SCENES + PROBE_IMAGES),
    }[dataset]

    def write(root: Path) -> None:
        write_layouts(root, split=TRAIN, count=count, start=start, layouts=[layout])

    _make(_root() / folder, write)


def _make(root: Path, write: Callable[[Path], None]) -> None:
    if root.is_dir():
        return
    try:
        write(root)
    except OSError as error:
        if root.is_dir():
            return  # another run was faster; what it wrote is the same
        raise types.UsageError(
            f"cannot write the embedded scenes to {root.parent}: {error}; "
            "set COSMOS_EVAL_CACHE to a folder that can be written"
        ) from error


def _render(folder: Path) -> None:
    """Fill an empty folder with the layouts and what the small things need."""
    from cosmos_core.data.scenes import TEST
    from cosmos_core.data.scenes.captions import PLACE_PHRASES
    from cosmos_core.data.scenes.layouts import write_layouts

    layouts = ("coco", "folder", "voc", "records", "choices")
    written = write_layouts(folder / "new", split=TEST, count=TEST_IMAGES, layouts=layouts)
    for path in written.iterdir():
        path.rename(folder / path.name)
    written.rmdir()
    scenes = json.loads((folder / "annotations.json").read_text("utf-8"))["scenes"]
    coco = json.loads((folder / _COCO / "captions_test_joined.json").read_text("utf-8"))
    for annotation, scene in zip(coco["annotations"], scenes, strict=True):
        small = [thing for thing in scene["things"] if thing["size"] == "small"]
        annotation["caption"] = ". ".join(
            f"a small {t['colour']} {t['kind']} {PLACE_PHRASES[t['place']]}" for t in small
        )
        _cut_out(small[0], scene["id"], folder)
    (folder / _SMALL_CAPTIONS).write_text(json.dumps(coco), encoding="utf-8")


def _cut_out(thing: Mapping[str, Any], scene_id: str, folder: Path) -> None:
    """Write a thing of a scene to the folder of its kind, in a square that is half as large again
    as the thing and moved inside the picture."""
    from cosmos_core.data.pixels import open_image  # imports NumPy, which lists do without

    left, top, right, bottom = thing["box"]
    target = folder / _SMALL_FOLDER / thing["kind"] / f"{scene_id}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_image(folder / _COCO_IMAGES / f"{scene_id}.jpg") as picture:
        side = min(round(1.5 * max(right - left, bottom - top)), *picture.size)
        x = min(max((left + right - side) // 2, 0), picture.width - side)
        y = min(max((top + bottom - side) // 2, 0), picture.height - side)
        picture.crop((x, y, x + side, y + side)).save(target)


def _root() -> Path:
    """Return the folder of the scenes, named by what decides the content of their files."""
    return (
        cache_folder() / f"scenes-{_content_hash(TEST_IMAGES, PROBE_IMAGES, TRAINING_IMAGES)[:12]}"
    )


@cache
def _content_hash(*counts: int) -> str:
    """Return the hash of counts and of all code that makes scenes, found without importing it."""
    core = importlib.util.find_spec("cosmos_core")
    folders = core.submodule_search_locations if core else None
    if not folders:
        raise types.UsageError("the package cosmos_core is missing: install cosmos-eval again")
    digest = hashlib.sha256(" ".join(map(str, counts)).encode())
    for path in [*sorted(Path(folders[0]).glob("data/scenes/*.py")), Path(__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
