"""The embedded data sets: written once, whole, and as the protocols say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_core.data.scenes import CLASSES, SPLIT_SEEDS, STUFF, TEST, THINGS, layouts
from cosmos_core.data.scenes.scene import render_scene
from cosmos_eval.data.selection import open_data
from cosmos_eval.protocols import scenes
from cosmos_eval.types import RetrievalProtocol, RunOptions, SegmentationProtocol, UsageError


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own and few scenes."""
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scenes, "TEST_IMAGES", 10)
    return tmp_path / "cache"


def test_names_are_those_of_the_generator():
    assert scenes.THINGS == THINGS
    assert scenes.STUFF == STUFF
    assert scenes.THINGS + scenes.STUFF == CLASSES


def test_small_queries_name_the_small_things_and_nothing_else(small):
    scenes.prepare_scenes()
    protocol = scenes.scenes_protocols()["scenes-retrieval-small"]
    assert isinstance(protocol, RetrievalProtocol)
    root = Path(str(protocol.root))
    coco = json.loads((root / protocol.annotations).read_text())
    queries = {note["image_id"]: note["caption"] for note in coco["annotations"]}
    assert sorted(queries) == list(range(1, 11))
    for index in range(10):
        scene = render_scene(SPLIT_SEEDS[TEST], index)
        query = queries[index + 1]
        assert THINGS[scene.label] not in query
        assert not [stuff.kind for stuff in scene.stuff if stuff.kind in query.split()]
        sentences = query.split(". ")
        assert len(sentences) == len(scene.things) - 1
        for thing, sentence in zip(scene.things[1:], sentences, strict=True):
            assert sentence.startswith(f"a small {thing.colour} {thing.kind} ")


def test_small_label_maps_ignore_the_dominant_thing(small):
    scenes.prepare_scenes()
    everything, alone = (
        scenes.scenes_protocols()[name] for name in ("scenes-seg", "scenes-seg-small")
    )
    assert isinstance(everything, SegmentationProtocol)
    assert isinstance(alone, SegmentationProtocol)
    root = Path(str(alone.root))
    for index in range(10):
        label = render_scene(SPLIT_SEEDS[TEST], index).label
        name = f"{index + 1:012d}.png"
        full = np.asarray(Image.open(root / everything.masks / name))
        small_only = np.asarray(Image.open(root / alone.masks / name))
        assert (full == label).any()
        assert ((small_only == alone.ignore_index) == (full == label)).all()


def test_choices_are_a_right_and_a_wrong_caption_of_every_scene(small):
    scenes.prepare_scenes()
    protocol = scenes.scenes_protocols()["scenes-select"]
    data = open_data(protocol, RunOptions())
    assert data.subsets.names == ("colour", "kind", "place", "size")
    assert np.bincount(data.subsets.of_item).tolist() == [10] * 4
    assert len(data.images) == 10


def test_cut_outs_show_one_small_thing_a_scene(small):
    scenes.prepare_scenes()
    protocol = scenes.scenes_protocols()["scenes-cls-small"]
    files = sorted(
        (Path(str(protocol.root)) / protocol.folder).rglob("*.png"), key=lambda p: p.name
    )
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
