"""The embedded data sets of scenes of version 2: rendered once, and as the protocols say."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_core.data.scenes import STUFF, TEST, VALIDATION, VERSION_2
from cosmos_core.data.scenes.scene import split_scenes
from cosmos_eval import protocols
from cosmos_eval.data.selection import open_data
from cosmos_eval.protocols import find_known, scenes, scenes2
from cosmos_eval.types import RunOptions

SCENES = 6


@pytest.fixture
def few_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path))
    monkeypatch.setattr(scenes2, "TEST_IMAGES", SCENES)
    monkeypatch.setattr(scenes2, "SEGMENTED_IMAGES", 4)
    monkeypatch.setattr(scenes2, "TRAINING_IMAGES", 2)
    # A choice among siblings needs all 1,200 scenes.
    layouts = dict(scenes2._LAYOUTS, test=("coco", "folder", "questions"))
    monkeypatch.setattr(scenes2, "_LAYOUTS", layouts)


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
