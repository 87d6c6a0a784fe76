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
from cosmos_eval.types import LabelMapProtocol, LocalisationProtocol, RunOptions, UsageError

PARITY = Path(__file__).parents[2] / "parity"


@pytest.mark.parametrize("protocol_name", segmentation.MAPS)
@pytest.mark.parametrize("dataset", segmentation.SEGMENTATION)
def test_every_segmentation_set_is_one_of_localisation(dataset, protocol_name):
    found = find_protocol(dataset, protocol_name)
    assert isinstance(found, LocalisationProtocol)
    assert (found.task, found.protocol_name, found.map) == (
        "loc",
        protocol_name,
        segmentation.MAPS[protocol_name],
    )
    segmented = segmentation.SEGMENTATION_BY_PROTOCOL["fixed-names"][dataset]
    for field in fields(LabelMapProtocol):
        if field.name not in ("protocol_name", "source"):
            assert getattr(found, field.name) == getattr(segmented, field.name)
    check_constants(found)
    assert find_protocol(dataset).task == "seg"


def test_the_usual_bounds_are_cocos():
    voc = segmentation.LOCALISATION_BY_PROTOCOL["localisation"]["voc21"]
    assert (round(voc.small, 5), round(voc.large, 5)) == (0.00333, 0.03)


def test_bounds_of_scenes_part_small_things_dominant_ones_and_stuff():
    protocols = protocols_of_dataset("scenes-loc")
    assert list(protocols) == list(segmentation.MAPS)
    protocol = protocols["localisation"]
    assert isinstance(protocol, LocalisationProtocol)
    assert is_embedded(protocol)
    prepare(protocol)
    small, dominant, stuff = [], [], []
    for sample in open_data(protocol, RunOptions(limit=60)).samples:
        counts = np.bincount(read_label(sample, protocol).ravel(), minlength=18) / 128**2
        things, under = np.sort(counts[:10][counts[:10] > 0]), counts[10:][counts[10:] > 0]
        small, dominant = [*small, *things[:-1]], [*dominant, things[-1]]
        stuff += list(under)
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


OWN = "kind: loc\nimages: images\nmasks: masks\nclasses: [sky, {name: car, queries: [car, van]}]\n"


def own(tmp_path: Path, text: str) -> LocalisationProtocol:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    found = find_protocol(str(path))
    assert isinstance(found, LocalisationProtocol)
    return found


def test_a_users_file(tmp_path):
    found = own(tmp_path, OWN)
    assert found == LocalisationProtocol(
        dataset="mine",
        protocol_name="user",
        root=str(tmp_path),
        mmseg_type=None,
        images="images",
        masks="masks",
        class_names=("sky", "car"),
        queries=(("sky",), ("car", "van")),
    )
    found = own(
        tmp_path,
        f"{OWN}map: text-to-patch similarity\nsmall: 0.1\nlarge: 0.4\nscale: 100\n"
        "attention: vanilla\nsplit: val.txt\ntemplates: ['{}']\nignore_index: 9\n"
        "image_suffix: .png\nmask_suffix: _ids.png\nreduce_zero_label: true\n",
    )
    assert (found.map, found.small, found.large) == ("text-to-patch similarity", 0.1, 0.4)
    assert (found.scale, found.attention, found.split) == (100, "vanilla", "val.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{OWN}window: 224", "unknown key `window`; nearest known: "),
        (
            f"{OWN}map: attention",
            "`map` must be 'cross-attention', 'log ratio to the empty text', .*, n",
        ),
        (f"{OWN}small: tiny", "`small` must be a finite number .*, not 'tiny'"),
        ("kind: loc\nimages: i\nmasks: m", "`classes` must list the class names"),
        ("kind: loc\nimages: i\nclasses: [a, b]", "`masks` is missing"),
    ],
)
def test_faults_of_a_users_file(tmp_path, text, message):
    with pytest.raises(UsageError, match=rf"mine\.yaml: {message}"):
        own(tmp_path, text)


@pytest.mark.parametrize("missing", ["images", "masks"])
def test_what_is_not_there_is_named(tmp_path, missing, command):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / folder / "a.png")
    own(tmp_path, f"{OWN}image_suffix: .png\n")
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
