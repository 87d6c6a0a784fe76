"""The embedded data sets of scenes of version 2: rendered once, and as the protocols say."""

import re
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image
from support.recorded import record_scenes

from cosmos_core.data.scenes import STUFF, TEST, VALIDATION, VERSION_2
from cosmos_core.data.scenes.scene import split_scenes
from cosmos_eval import protocols
from cosmos_eval.data.asked_objects import CONTROL, SMALL
from cosmos_eval.data.selection import open_data
from cosmos_eval.data.selection_layouts import read_items
from cosmos_eval.protocols import find_known, scene_files, scenes, scenes2
from cosmos_eval.types import RunOptions, UsageError

SCENES = 6


@pytest.fixture
def few_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scenes2, "TEST_IMAGES", SCENES)
    monkeypatch.setattr(scenes2, "SEGMENTED_IMAGES", 4)
    monkeypatch.setattr(scenes2, "TRAINING_IMAGES", 2)
    # A choice among siblings needs all 1,200 scenes.
    layouts = dict(scenes2.LAYOUTS, test=("coco", "folder", "questions"))
    monkeypatch.setattr(scenes2, "LAYOUTS", layouts)
    record_scenes(tmp_path / "lists", monkeypatch, *(f"scenes2-{name}" for name in layouts))


def test_names_are_those_of_the_generator():
    assert VERSION_2.things == scenes2.THINGS
    assert VERSION_2.classes == scenes2.THINGS + scenes.STUFF
    assert scenes.STUFF == STUFF
    # Ten scenes of each kind and colour of the dominant thing.
    assert 10 * sum(map(len, VERSION_2.colours.values())) == scenes2.TEST_IMAGES


def test_a_run_without_names_measures_the_scenes_of_version_1_alone():
    names = [protocol.dataset for protocol in protocols.embedded_protocols(on_request=True)]
    assert not [name for name in names if name.startswith("scenes2")]


@pytest.mark.usefixtures("few_scenes")
@pytest.mark.parametrize(
    ("dataset", "split", "is_control"),
    [
        ("scenes2-select", TEST, False),
        ("scenes2-select-control", TEST, True),
        ("scenes2-select-seen", "test-seen", False),
    ],
)
def test_questions_are_about_the_images_of_their_split(dataset, split, is_control):
    protocol = find_known(dataset)
    protocols.prepare(protocol)
    data = open_data(protocol, RunOptions())
    assert 4 * SCENES <= len(data.images_of_item) <= 6 * SCENES
    rendered = split_scenes(split, SCENES, version=VERSION_2, is_control=is_control)
    for picture, scene in zip(sorted(data.pictures), rendered, strict=True):
        with Image.open(Path(protocol.root, str(protocol.images), picture.file)) as image:
            difference = np.asarray(image, int) - scene.image
        assert np.abs(difference).mean() < 4  # JPEG


@pytest.mark.usefixtures("few_scenes")
def test_items_ask_about_each_small_thing_beside_a_large_thing_and_without_one():
    protocol = find_known(scenes2.BESIDE)
    protocols.prepare(protocol)
    items = read_items(protocol, Path(protocol.root, protocol.annotations))
    assert len(items) == SCENES * 2 * 2  # scenes, words, and both images of a scene
    items_by_pair = {}
    for item in items:
        items_by_pair.setdefault(item.pair, {})[item.asked.role] = item
    assert len(items_by_pair) == SCENES * 2
    for pair in items_by_pair.values():
        small, control = pair[SMALL], pair[CONTROL]
        file_names = []
        for item, folder, size in ((small, "test", "large"), (control, "control", "small")):
            (picture,) = item.pictures
            assert picture.file.startswith(f"{folder}/")
            assert Path(protocol.root, picture.file).is_file()
            file_names.append(Path(picture.file).name)
            # One of the two sentences is about the dominant thing of the scene, which the control
            # names with its size there.
            assert sorted(sentence.split()[1] for sentence in item.captions[0].split(". ")) == (
                sorted([size, "small"])
            )
        assert file_names[0] == file_names[1]
        assert small.asked.word == control.asked.word
        assert small.asked.area < small.asked.dominant_area
        assert control.asked.dominant_area < small.asked.dominant_area
    data = open_data(protocol, RunOptions())
    assert len(data.images_of_item) == len(items)


@pytest.mark.usefixtures("few_scenes")
def test_label_maps_have_the_classes_of_version_2():
    for dataset, split, count in (("scenes2-seg", TEST, 4), (scenes2.TRAINING, VALIDATION, 2)):
        protocol = find_known(dataset)
        protocols.prepare(protocol)
        for number, scene in enumerate(split_scenes(split, count, version=VERSION_2), start=1):
            path = Path(protocol.root, protocol.masks, f"{number:012d}.png")
            with Image.open(path) as image:
                assert np.array_equal(np.asarray(image), scene.label_map)
        listed = Path(protocol.root, protocol.split).read_text().split()
        assert len(listed) == count


@pytest.mark.usefixtures("few_scenes")
def test_scenes_that_differ_from_the_recorded_ones_are_refused(tmp_path):
    path = scene_files.list_path("scenes2-validation")
    lines = path.read_text().splitlines()
    # An image and a label map of the two scenes are recorded with other pixels.
    for folder in ("JPEGImages/", "SegmentationClass/"):
        number = next(n for n, line in enumerate(lines) if folder in line)
        lines[number] = f"{0:064x}{lines[number][64:]}"
    path.write_text("\n".join(lines))
    versions = f"OpenCV {cv2.__version__} and Pillow {PIL.__version__}"
    message = (
        rf"scenes2-validation: rendered with {re.escape(versions)}, 2 of 8 files differ from the "
        r"recorded ones, such as voc/.*; install .* 'opencv-python==5\.0\.\*'"
    )
    protocol = find_known(scenes2.TRAINING)
    with pytest.raises(UsageError, match=message):
        protocols.prepare(protocol)
    assert not Path(protocol.root).exists()
