"""The embedded scenes as files: COCO captions, class folders, label maps, shards."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_core.data.scenes import CLASSES, THINGS, layouts
from cosmos_core.data.scenes.layouts import image_captions, write_layouts
from cosmos_core.data.scenes.scene import split_scenes

COUNT = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder_of_scenes = tmp_path_factory.mktemp("scenes") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "SHARD_SIZE", 16)
        return write_layouts(folder_of_scenes, count=COUNT)


def test_coco_captions_are_read_back(root, capsys):
    from pycocotools.coco import COCO

    annotations = root / "coco" / "annotations"
    coco = COCO(str(annotations / "captions_test.json"))
    joined = COCO(str(annotations / "captions_test_joined.json"))
    assert coco.getImgIds() == joined.getImgIds() == list(range(1, COUNT + 1))
    for image_id, scene in zip(coco.getImgIds(), split_scenes("test", COUNT), strict=True):
        captions = [a["caption"] for a in coco.imgToAnns[image_id]]
        assert captions == image_captions(scene)
        assert len(captions) == 5
        (only,) = joined.imgToAnns[image_id]
        assert only["caption"] == ". ".join(scene.captions["longIB_captions"])
        name = coco.loadImgs(image_id)[0]["file_name"]
        pixels = np.asarray(Image.open(root / "coco" / "images" / "test" / name), np.float32)
        assert np.abs(pixels - scene.image).mean() < 6


def test_image_folder_numbers_classes_as_the_scenes_do(root):
    from torchvision.datasets import ImageFolder

    folder = ImageFolder(str(root / "folder" / "test"))
    assert tuple(folder.classes) == THINGS
    by_id = {int(Path(path).stem): label for path, label in folder.samples}
    assert by_id == {i + 1: i % 10 for i in range(COUNT)}


def test_voc_label_maps_are_exact(root):
    voc = root / "voc"
    ids = (voc / "ImageSets" / "Segmentation" / "test.txt").read_text().split()
    assert len(ids) == COUNT
    for name, scene in zip(ids, split_scenes("test", COUNT), strict=True):
        assert (voc / "JPEGImages" / f"{name}.jpg").is_file()
        with Image.open(voc / "SegmentationClass" / f"{name}.png") as image:
            assert image.mode == "P"
            start = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128]
            assert image.getpalette()[:18] == start  # PASCAL's
            pixels = np.asarray(image)
        small = np.asarray(Image.open(voc / "SegmentationClassSmall" / f"{name}.png"))
        assert np.array_equal(pixels, scene.label_map)
        assert np.array_equal(small == 255, scene.label_map == scene.label)
        assert np.array_equal(small[small != 255], pixels[small != 255])


@pytest.mark.filterwarnings("ignore")
def test_shards_are_read_back(root):
    import webdataset

    shards = sorted((root / "shards").iterdir())
    assert [path.name for path in shards] == [f"scenes-{i:06d}.tar" for i in range(3)]
    data = webdataset.WebDataset([str(p) for p in shards], shardshuffle=False, empty_check=False)
    samples = list(data.decode("rgb8"))
    assert len(samples) == COUNT
    for sample, scene in zip(samples, split_scenes("test", COUNT), strict=True):
        assert sample["json"] == {**scene.captions, "label": scene.label}
        assert sample["jpg"].shape == (128, 128, 3)


def test_shards_have_the_same_bytes_again(root, tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "SHARD_SIZE", 16)
    write_layouts(tmp_path / "again", count=COUNT, layouts=["shards"])
    assert [p.name for p in (tmp_path / "again").iterdir()] == ["shards"]
    for path in (root / "shards").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / "shards" / path.name).read_bytes()
        with tarfile.open(path) as tar:
            assert {member.mtime for member in tar} == {0}


def test_records_hold_every_small_thing(root):
    content = json.loads((root / "annotations.json").read_text())
    assert content["classes"] == list(CLASSES)
    for record, scene in zip(content["scenes"], split_scenes("test", COUNT), strict=True):
        assert [t["kind"] for t in record["things"]] == [t.kind for t in scene.things]
        assert [tuple(t["box"]) for t in record["things"]] == [t.box for t in scene.things]
        # Other people's scripts read these keys.
        for thing in record["things"]:
            assert list(thing) == ["kind", "colour", "size", "place", "box", "area"]
        for stuff in record["stuff"]:
            assert list(stuff) == ["kind", "where", "area"]


def test_a_failed_writing_leaves_nothing(tmp_path, monkeypatch):
    def stop_at_third(split, count, start, **_):
        yield from split_scenes(split, 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(layouts, "split_scenes", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        write_layouts(tmp_path / "data", count=5)
    assert list(tmp_path.iterdir()) == []


def test_bad_requests_are_refused(root, tmp_path):
    with pytest.raises(FileExistsError):
        write_layouts(root, count=1)
    with pytest.raises(ValueError, match="known: coco"):
        write_layouts(tmp_path / "data", count=1, layouts=["cocoa"])
    with pytest.raises(ValueError, match="known: train, test"):
        split_scenes("tset", 1)
