"""The known sets by their protocols, the embedded scenes, and users' own files."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_eval.data.label_map_checks import check_constants
from cosmos_eval.data.label_maps import open_data, read_label
from cosmos_eval.protocols import is_embedded, prepare, protocols_of_dataset, segmentation
from cosmos_eval.runner.suites import read_suite
from cosmos_eval.tasks import find_protocol
from cosmos_eval.tasks.localisation import TASK
from cosmos_eval.tasks.localisation.evaluate import _are_objects
from cosmos_eval.types import LabelMapProtocol, LocalisationProtocol, RunOptions, UsageError

PARITY = Path(__file__).parents[2] / "parity"


@pytest.mark.parametrize("protocol_name", segmentation.MAPS)
@pytest.mark.parametrize("dataset", segmentation.SEGMENTATION)
def test_every_segmentation_set_is_one_of_localisation(dataset, protocol_name):
    protocol = find_protocol(dataset, protocol_name)
    assert isinstance(protocol, LocalisationProtocol)
    assert (protocol.task, protocol.protocol_name) == ("loc", protocol_name)
    assert protocol.map == segmentation.MAPS[protocol_name]
    of_segmentation = segmentation.SEGMENTATION_BY_PROTOCOL["fixed-names"][dataset]
    for field in fields(LabelMapProtocol):
        if field.name not in ("protocol_name", "source"):
            assert getattr(protocol, field.name) == getattr(of_segmentation, field.name)
    check_constants(protocol)
    assert find_protocol(dataset).task == "seg"


@pytest.mark.parametrize(
    ("dataset", "n_things", "objects", "stuff"),
    [
        ("voc21", 20, ["person", "diningtable"], ["background"]),
        ("voc20", 20, ["person", "diningtable"], []),
        ("context60", 20, ["person", "table"], ["background", "sky", "building"]),
        ("context59", 20, ["person", "table"], ["sky", "building"]),
        ("coco_object", 80, ["person", "dining table"], ["background"]),
        ("coco_stuff", 80, ["person", "dining table"], ["sky-other", "grass"]),
        ("cityscapes", 8, ["person", "rider"], ["road", "building", "pole"]),
        ("ade20k", 100, ["person", "bed", "flag"], ["wall", "sky", "shower"]),
    ],
)
def test_stuff_is_no_object(dataset, n_things, objects, stuff):
    protocol = segmentation.LOCALISATION_BY_PROTOCOL["localisation"][dataset]
    are_objects = dict(zip(protocol.class_names, _are_objects(protocol), strict=True))
    assert sum(are_objects.values()) == n_things
    assert all(are_objects[name] for name in objects)
    assert not any(are_objects[name] for name in stuff)
    check_constants(protocol)


def test_the_usual_bounds_are_cocos():
    voc = segmentation.LOCALISATION_BY_PROTOCOL["localisation"]["voc21"]
    assert (round(voc.small, 5), round(voc.large, 5)) == (0.00333, 0.03)


def test_bounds_of_scenes_separate_small_things_dominant_things_and_stuff():
    """Things are the first 10 classes. The largest thing of an image is the dominant one."""
    protocols = protocols_of_dataset("scenes-loc")
    assert list(protocols) == list(segmentation.MAPS)
    protocol = protocols["localisation"]
    assert isinstance(protocol, LocalisationProtocol)
    assert is_embedded(protocol)
    prepare(protocol)
    small, dominant, stuff = [], [], []
    for sample in open_data(protocol, RunOptions(limit=60)).samples:
        areas = np.bincount(read_label(sample, protocol).ravel(), minlength=18) / 128**2
        thing_areas, stuff_areas = areas[:10], areas[10:]
        *small_things, dominant_thing = np.sort(thing_areas[thing_areas > 0])
        small += small_things
        dominant.append(dominant_thing)
        stuff += list(stuff_areas[stuff_areas > 0])
    assert protocol.small < min(dominant)
    assert np.mean(np.array(small) < protocol.small) > 0.95  # the others are two small ones
    assert np.mean(np.array(dominant) < protocol.large) > 0.9
    assert np.mean(np.array(stuff) >= protocol.large) > 0.99


def test_protocols_that_all_models_have_are_in_the_suite_of_scenes():
    listed = [p for p in read_suite("scenes").protocols if p.task == "loc"]
    assert [(p.dataset, p.protocol_name) for p in listed] == [
        ("scenes-loc", "localisation"),
        ("scenes-loc", "localisation-similarity"),
    ]
    assert len({TASK.image_pass(p, RunOptions(), None) for p in listed}) == 2


USER_FILE = (
    "kind: loc\nimages: images\nmasks: masks\nclasses: [sky, {name: car, queries: [car, van]}]\n"
)


def read_user_file(tmp_path: Path, text: str) -> LocalisationProtocol:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    protocol = find_protocol(str(path))
    assert isinstance(protocol, LocalisationProtocol)
    return protocol


def test_a_users_file_is_read(tmp_path):
    protocol = read_user_file(tmp_path, USER_FILE)
    assert protocol == LocalisationProtocol(
        dataset="mine",
        protocol_name="user",
        root=str(tmp_path),
        mmseg_type=None,
        images="images",
        masks="masks",
        class_names=("sky", "car"),
        queries=(("sky",), ("car", "van")),
    )
    protocol = read_user_file(
        tmp_path,
        f"{USER_FILE}map: text-to-patch similarity\nsmall: 0.1\nlarge: 0.4\nscale: 100\n"
        "attention: vanilla\nsplit: val.txt\ntemplates: ['{}']\nignore_index: 9\n"
        "image_suffix: .png\nmask_suffix: _ids.png\nreduce_zero_label: true\n",
    )
    assert protocol.map == "text-to-patch similarity"
    assert (protocol.small, protocol.large, protocol.scale) == (0.1, 0.4, 100)
    assert (protocol.attention, protocol.split) == ("vanilla", "val.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{USER_FILE}window: 224", "unknown key `window`; nearest known: "),
        (
            f"{USER_FILE}map: attention",
            "`map` must be 'cross-attention', 'log ratio to the empty text', .*, n",
        ),
        (f"{USER_FILE}small: tiny", "`small` must be a finite number .*, not 'tiny'"),
        ("kind: loc\nimages: i\nmasks: m", "`classes` must list the class names"),
        ("kind: loc\nimages: i\nclasses: [a, b]", "`masks` is missing"),
    ],
)
def test_faults_of_a_users_file(tmp_path, text, message):
    with pytest.raises(UsageError, match=rf"mine\.yaml: {message}"):
        read_user_file(tmp_path, text)


@pytest.mark.parametrize("missing", ["images", "masks"])
def test_a_missing_folder_is_named(tmp_path, missing, command):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / folder / "a.png")
    read_user_file(tmp_path, f"{USER_FILE}image_suffix: .png\n")
    (tmp_path / missing / "a.png").unlink()
    (tmp_path / missing).rmdir()
    ended = command("run", "--dataset", "mine.yaml", "--model", "scenes-clip")
    assert ended.status == 2
    assert ended.err.splitlines() == [
        f"cosmos-eval: mine: expected {tmp_path}/{missing}, which is not there"
    ]


def test_recorded_sets_are_read(command):
    options = ["--data-root", str(PARITY / "voc"), "--model", "scenes-cosmos", "--no-cache"]
    options += ["--partial"]
    dataset = ["--dataset", "voc21", "--protocol", "localisation"]
    ended = command("run", *dataset, *options, "--output", "out", "--json")
    assert ended.status == 0, ended.err
    assert "scenes-cosmos__voc21__localisation__partial-5-of-1449-images.json" in ended.err
    assert command("verify", "out").status == 0
    unnamed = command("run", "--task", "loc", "--dataset", "voc21", *options)
    assert (unnamed.status, unnamed.out) == (2, "")
    assert "voc21 is a data set of task seg, not loc" in unnamed.err
