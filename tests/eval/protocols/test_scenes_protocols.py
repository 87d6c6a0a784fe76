"""The embedded data sets: written once, whole, and as the protocols say."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cosmos_core.data.scenes import CLASSES, SPLIT_SEEDS, STUFF, TEST, THINGS, layouts
from cosmos_core.data.scenes.scene import render_scene
from cosmos_eval.data.selection import open_data
from cosmos_eval.protocols import scenes
from cosmos_eval.types import RunOptions, UsageError


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own and few scenes."""
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scenes, "TEST_IMAGES", 10)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Any]]:
    """The protocols of ten scenes on the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSMOS_EVAL_CACHE", str(tmp_path_factory.mktemp("scenes")))
        patch.setattr(scenes, "TEST_IMAGES", 10)
        scenes.prepare_scenes()
        yield scenes.scenes_protocols()


def test_names_are_those_of_the_generator():
    assert (scenes.THINGS, scenes.STUFF) == (THINGS, STUFF)
    assert scenes.THINGS + scenes.STUFF == CLASSES


def test_small_queries_name_the_small_things_and_nothing_else(rendered):
    protocol = rendered["scenes-retrieval-small"]
    coco = json.loads(Path(protocol.root, protocol.annotations).read_text())
    queries = {note["image_id"]: note["caption"] for note in coco["annotations"]}
    assert sorted(queries) == list(range(1, 11))
    for index in range(10):
        scene = render_scene(SPLIT_SEEDS[TEST], index)
        query = queries[index + 1]
        assert THINGS[scene.label] not in query
        assert not [stuff.kind for stuff in scene.stuff if stuff.kind in query.split()]
        sentences = query.split(". ")
        for thing, sentence in zip(scene.things[1:], sentences, strict=True):
            assert sentence.startswith(f"a small {thing.colour} {thing.kind} ")


def test_small_label_maps_ignore_the_dominant_thing(rendered):
    everything, alone = rendered["scenes-seg"], rendered["scenes-seg-small"]
    for index in range(10):
        label = render_scene(SPLIT_SEEDS[TEST], index).label
        full, small_only = (
            np.asarray(Image.open(Path(one.root, one.masks, f"{index + 1:012d}.png")))
            for one in (everything, alone)
        )
        assert (full == label).any()
        assert ((small_only == alone.ignore_index) == (full == label)).all()


def test_choices_are_a_right_and_a_wrong_caption_of_every_scene(rendered):
    data = open_data(rendered["scenes-select"], RunOptions())
    assert data.subsets == ("colour", "kind", "place", "size")
    assert np.bincount(data.subset_of_item).tolist() == [10] * 4
    assert len(data.images) == 10


def test_cut_outs_show_one_small_thing_a_scene(rendered):
    protocol = rendered["scenes-cls-small"]
    files = sorted(Path(protocol.root, protocol.folder).rglob("*.png"), key=lambda p: p.name)
    assert len(files) == 10
    for index, file in enumerate(files):
        scene = render_scene(SPLIT_SEEDS[TEST], index)
        thing = scene.things[1]
        assert (file.stem, file.parent.name) == (f"{index + 1:012d}", thing.kind)
        cut_out = np.asarray(Image.open(file), float)
        x0, y0, x1, y1 = thing.box
        assert cut_out.shape[0] == cut_out.shape[1] >= 1.4 * max(x1 - x0, y1 - y0)
        # The thing is in the cut-out: the best match of its pixels differs by JPEG's loss only.
        patch = scene.image[y0:y1, x0:x1].astype(float)
        windows = np.lib.stride_tricks.sliding_window_view(cut_out, patch.shape)[:, :, 0]
        assert np.abs(windows - patch).mean((-1, -2, -3)).min() < 6


def test_scenes_are_rendered_once_and_whole(small, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(layouts, "write_layouts", killed)
        with pytest.raises(KeyboardInterrupt):
            scenes.prepare_scenes()
    assert list(small.iterdir()) == []
    scenes.prepare_scenes()
    (root,) = small.iterdir()
    written = (root / "annotations.json").stat().st_mtime_ns
    monkeypatch.setattr(layouts, "write_layouts", killed)
    scenes.prepare_scenes()
    assert (root / "annotations.json").stat().st_mtime_ns == written


def test_another_number_of_scenes_gets_another_folder(small, monkeypatch):
    first = scenes.scenes_protocols()["scenes-cls"].root
    monkeypatch.setattr(scenes, "TEST_IMAGES", 11)
    assert scenes.scenes_protocols()["scenes-cls"].root != first


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"cannot write the embedded scenes.*COSMOS_EVAL_CACHE"):
        scenes.prepare_scenes()
