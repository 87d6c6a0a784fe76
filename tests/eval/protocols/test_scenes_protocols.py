"""The embedded data sets: unpacked once, whole, and as the protocols say."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cosmos_core.data.scenes import CLASSES, SPLIT_SEEDS, STUFF, TEST, THINGS, TRAIN
from cosmos_core.data.scenes.scene import render_scene
from cosmos_core.recipes.scenes import TRAIN_SCENES
from cosmos_eval.data.selection import open_data
from cosmos_eval.protocols import scene_files, scenes
from cosmos_eval.types import RunOptions, UsageError

SCENES = 10  # how many are compared with the generator, of 500


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own."""
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Any]]:
    """The protocols of the test scenes on the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSMOS_EVAL_CACHE", str(tmp_path_factory.mktemp("scenes")))
        scenes.prepare_scenes()
        yield scenes.scenes_protocols()


def test_names_are_those_of_the_generator():
    assert (scenes.THINGS, scenes.STUFF) == (THINGS, STUFF)
    assert scenes.THINGS + scenes.STUFF == CLASSES


def test_small_queries_name_the_small_things_and_nothing_else(unpacked):
    protocol = unpacked["scenes-retrieval-small"]
    coco = json.loads(Path(protocol.root, protocol.annotations).read_text())
    queries = {note["image_id"]: note["caption"] for note in coco["annotations"]}
    assert sorted(queries) == list(range(1, 501))
    for index in range(SCENES):
        scene = render_scene(SPLIT_SEEDS[TEST], index)
        query = queries[index + 1]
        assert THINGS[scene.label] not in query
        assert not [stuff.kind for stuff in scene.stuff if stuff.kind in query.split()]
        sentences = query.split(". ")
        for thing, sentence in zip(scene.things[1:], sentences, strict=True):
            assert sentence.startswith(f"a small {thing.colour} {thing.kind} ")


def test_small_label_maps_ignore_the_dominant_thing(unpacked):
    everything, alone = unpacked["scenes-seg"], unpacked["scenes-seg-small"]
    for index in range(SCENES):
        label = render_scene(SPLIT_SEEDS[TEST], index).label
        full, small_only = (
            np.asarray(Image.open(Path(one.root, one.masks, f"{index + 1:012d}.png")))
            for one in (everything, alone)
        )
        assert (full == label).any()
        assert ((small_only == alone.ignore_index) == (full == label)).all()


def test_choices_are_a_right_and_a_wrong_caption_of_every_scene(unpacked):
    data = open_data(unpacked["scenes-select"], RunOptions())
    assert data.subsets == ("colour", "kind", "place", "size")
    assert np.bincount(data.subset_of_item).tolist() == [500] * 4
    assert len(data.images) == 500


def test_cut_outs_show_one_small_thing_a_scene(unpacked):
    protocol = unpacked["scenes-cls-small"]
    files = sorted(Path(protocol.root, protocol.folder).rglob("*.png"), key=lambda p: p.name)
    assert len(files) == 500
    for index, file in enumerate(files[:SCENES]):
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


def test_the_archive_holds_the_scenes_of_the_generator(unpacked):
    """Pixels differ by JPEG's loss, and by little between versions of OpenCV."""
    protocol = unpacked["scenes-retrieval"]
    files = sorted(Path(protocol.root, protocol.images).iterdir())
    assert [file.name for file in files] == [f"{n:012d}.jpg" for n in range(1, 501)]
    for index, file in enumerate(files[:SCENES]):
        with Image.open(file) as image:
            difference = np.asarray(image, int) - render_scene(SPLIT_SEEDS[TEST], index).image
        assert np.abs(difference).mean() < 4
        for other in ("voc/JPEGImages", "folder/test"):
            (copy,) = Path(protocol.root, other).rglob(file.name)
            assert copy.read_bytes() == file.read_bytes()


def test_scenes_are_unpacked_once_and_whole(cache, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", killed)
        with pytest.raises(KeyboardInterrupt):
            scenes.prepare_scenes()
    assert list(cache.iterdir()) == []
    scenes.prepare_scenes()
    (root,) = cache.iterdir()
    monkeypatch.setattr(tarfile.TarFile, "extractall", killed)
    written = root.stat().st_mtime_ns
    scenes.prepare_scenes()
    assert root.stat().st_mtime_ns == written


@pytest.mark.parametrize("name", scene_files.ARCHIVES)
def test_a_damaged_archive_is_refused(tmp_path, monkeypatch, name):
    content = bytearray(scene_files.archive_path(name).read_bytes())
    content[5000] ^= 1
    monkeypatch.setattr(scene_files, "FOLDER", tmp_path)
    (tmp_path / f"{name}.tar.gz").write_bytes(content)
    message = rf"{name}\.tar\.gz is damaged: install cosmos-eval again"
    with pytest.raises(UsageError, match=message):
        scene_files.unpack_scenes(tmp_path / "scenes", name)
    assert not (tmp_path / "scenes").exists()


def test_settings_are_chosen_on_training_scenes_of_no_model(cache):
    scenes.prepare_scenes()
    scenes.prepare_training(scenes.TRAINING)
    protocol = scenes.scenes_protocols()[scenes.TRAINING]
    names = Path(protocol.root, protocol.split).read_text().split()
    assert len(names) == scenes.TRAINING_IMAGES
    first = TRAIN_SCENES + scenes.PROBE_IMAGES
    for name in names[::20]:
        scene = render_scene(SPLIT_SEEDS[TRAIN], first + int(name) - 1)
        with Image.open(Path(protocol.root, protocol.masks, f"{name}.png")) as image:
            assert np.mean(np.asarray(image) == scene.label_map) > 0.99


def test_no_drawing_code_is_imported(tmp_path):
    code = (
        "import sys; from cosmos_eval.protocols import embedded_protocols, prepare\n"
        "for protocol in embedded_protocols(): prepare(protocol)\n"
        "print([name for name in sys.modules if name == 'cv2' or 'data.scenes' in name])"
    )
    environment = {**os.environ, "COSMOS_EVAL_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
    assert len(list(tmp_path.glob("scenes-*/coco/images/test/*.jpg"))) == 500


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"cannot write the embedded scenes.*COSMOS_EVAL_CACHE"):
        scenes.prepare_scenes()
