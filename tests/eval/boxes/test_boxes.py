"""Boxes of images: files, crops, pooled features and metrics."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.results import SAMPLES, metrics_of

from cosmos_eval.data.boxes import enlarged, open_data, read_boxes
from cosmos_eval.data.readers import FileError
from cosmos_eval.data.regions import (
    PooledRegion,
    SquareCrop,
    intersection_over_union,
    make_region,
    whole_pixels,
)
from cosmos_eval.data.selection import open_data as open_selection
from cosmos_eval.data.sources import CroppedImage, ImageArray, ImageFile
from cosmos_eval.embedding.embed import ImageEmbedder
from cosmos_eval.embedding.regions import pad_to_square, pool, region_embedder
from cosmos_eval.models import load_encoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols.boxes import BOXES
from cosmos_eval.protocols.selection import SELECTION
from cosmos_eval.results.compare import all_differences
from cosmos_eval.tasks import find_protocol, task_named
from cosmos_eval.types import BoxesProtocol, RunOptions, UsageError, no_progress

CATEGORIES = [{"id": 7, "name": "tree"}, {"id": 3, "name": "dog"}]
IMAGES = [
    {"id": 1, "file_name": "1.png", "width": 40, "height": 20},
    {"id": 2, "file_name": "2.png", "width": 20, "height": 20},
]
BOXED = [
    {"image_id": 2, "category_id": 3, "bbox": [2.5, 4, 10, 8]},
    {"image_id": 1, "category_id": 7, "bbox": [30, -2, 15, 12]},
    {"image_id": 1, "category_id": 3, "bbox": [0, 0, 3, 2], "iscrowd": 1},
]
COCO = {"images": IMAGES, "annotations": BOXED, "categories": CATEGORIES}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def changed(**fields: Any) -> dict[str, Any]:
    """Return COCO's file with other fields."""
    return {**COCO, **fields}


def test_boxes_of_coco_by_hand(tmp_path):
    """Classes are in the order of their ids, and boxes end at the edges of the image."""
    annotated = read_boxes(write(tmp_path / "a.json", COCO), "val2017")
    assert (annotated.classes, annotated.kinds) == (["dog", "tree"], None)
    assert [box[:2] for box in annotated.boxes] == [
        ("2.png", (2.5, 4, 12.5, 12)),
        ("1.png", (30, 0, 40, 10)),
        ("1.png", (0, 0, 3, 2)),
    ]
    assert [box.label for box in annotated.boxes] == [0, 1, 0]
    assert [box.label for box in read_boxes(tmp_path / "a.json", "", 64).boxes] == [0, 1]


def test_segments_of_panoptic_files_and_addresses_of_lvis(tmp_path):
    categories = [{**CATEGORIES[0], "isthing": 0}, {**CATEGORIES[1], "isthing": 1}]
    segments = [{"image_id": 1, "segments_info": BOXED[1:]}]
    panoptic = changed(annotations=segments, categories=categories)
    annotated = read_boxes(write(tmp_path / "a.json", panoptic), "val2017")
    assert ([box.label for box in annotated.boxes], annotated.kinds) == ([1, 0], ["thing", "stuff"])

    address = "http://images.cocodataset.org/{}2017/{}.jpg"
    images = [
        {"id": n, "width": 40, "height": 20, "coco_url": address.format(split, n)}
        for n, split in ((1, "train"), (2, "val"))
    ]
    lvis = write(tmp_path / "b.json", changed(images=images))
    assert [box.file_name for box in read_boxes(lvis, "val2017").boxes] == ["2.jpg"]
    with pytest.raises(FileError, match="no boxes of images in a folder test2017"):
        read_boxes(lvis, "test2017")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"annotations": [{**BOXED[0], "image_id": 9}]}, "annotates image id 9, which it does not"),
        ({"annotations": [{**BOXED[0], "category_id": 9}]}, "has no category of id 9"),
        ({"annotations": [{**BOXED[0], "bbox": [1, 2, 3]}]}, "bbox"),
        ({"annotations": [{**BOXED[0], "bbox": [1, 2, 0, 3]}]}, "has no boxes"),
        ({"annotations": [{**BOXED[0], "bbox": [20, 2, 1, 3]}]}, "has no boxes"),
        ({"annotations": [*BOXED, {**BOXED[0], "bbox": [21, 2, 1, 3]}]}, "20x20 pixels"),
        ({"annotations": [*BOXED, {**BOXED[0], "bbox": [1, -4, 1, 3]}]}, "not in its image, id 2"),
        ({"annotations": [*BOXED, {**BOXED[0], "bbox": [9, 2, -1, 3]}]}, "not in its image, id 2"),
        ({"categories": [*CATEGORIES, CATEGORIES[0]]}, "has 2 `categories` of id 7"),
        ({"images": [*IMAGES, IMAGES[1]]}, "has 2 `images` of id 2"),
        ({"categories": CATEGORIES[:1]}, "fewer than two categories"),
        ({"images": [{"id": 1, "width": 4, "height": 4}]}, "neither `file_name` nor `coco_url`"),
    ],
)
def test_faulty_files(tmp_path, fields, message):
    content = changed(**fields)
    if len(content["images"]) == 1:
        content["annotations"] = BOXED[1:]
    with pytest.raises(FileError, match=message) as raised:
        read_boxes(write(tmp_path / "a.json", content), "val2017")
    assert "\n" not in str(raised.value)


def made_set(tmp_path: Path, **fields: Any) -> BoxesProtocol:
    """Return a data set of two images and three boxes."""
    for image in IMAGES:
        rng = np.random.default_rng(image["id"])
        pixels = rng.integers(0, 256, (image["height"], image["width"], 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / image["file_name"])
    write(tmp_path / "boxes.json", COCO)
    return BoxesProtocol(
        **{"dataset": "mine", "protocol_name": "user", "root": str(tmp_path), "images": "."},
        **{"annotations": "boxes.json", "templates": ("a {}",), "side": 64, **fields},
    )


def test_data_of_crops_and_of_pooled_boxes(tmp_path):
    data = open_data(made_set(tmp_path, enlargement=1.5, squares="padded"), RunOptions())
    (first, second, _) = data.images
    assert isinstance(first, SquareCrop)
    assert first.crop == CroppedImage(ImageFile(tmp_path / "2.png"), (0, 2, 15, 14))
    assert second.crop.box == (28, 0, 40, 12)
    assert data.image_of_box.tolist() == [0, 1, 1]
    np.testing.assert_allclose(data.area_of_box, [80 / 400, 100 / 800, 6 / 800])
    pooled = open_data(made_set(tmp_path, regions="pooled", enlargement=1.5), RunOptions(limit=2))
    assert [image.box for image in pooled.images] == [(2.5, 4, 12.5, 12), (30, 0, 40, 10)]


def test_counts_and_missing_images(tmp_path):
    protocol = made_set(tmp_path, n_boxes=4)
    with pytest.raises(UsageError, match="has 3 of 4 boxes of mine"):
        open_data(protocol, RunOptions())
    with pytest.raises(UsageError, match=r"boxes.json has 2 classes, not the 3 of mine"):
        open_data(replace(protocol, n_classes=3), RunOptions(limit=1))
    (tmp_path / "2.png").unlink()
    with pytest.raises(UsageError, match=r"1 of the 2 images of .*boxes.json are not there, first"):
        open_data(made_set_without(tmp_path), RunOptions())
    data = open_data(protocol, RunOptions(allow_partial=True))
    assert (len(data.images), data.found_samples.n_expected) == (2, 4)


def made_set_without(tmp_path: Path) -> BoxesProtocol:
    """Return the data set whose second image is missing."""
    protocol = made_set(tmp_path)
    (tmp_path / "2.png").unlink()
    return protocol


def test_whole_pixels_and_enlarged_boxes():
    assert whole_pixels((0.4, 1.6, 9.6, 4.0)) == (0, 2, 10, 4)
    assert whole_pixels((132.86, 347.1, 132.93, 347.18)) == (132, 347, 133, 348)
    assert enlarged((10, 10, 20, 30), 1.5, (100, 100)) == (7.5, 5, 22.5, 35)
    assert enlarged((0, 10, 20, 30), 1.5, (32, 24)) == (0, 5, 24, 32)


@pytest.mark.parametrize("squares", ["padded", "stretched"])
def test_squares(squares):
    pixels = np.full((10, 30, 3), 200, np.uint8)
    protocol = BoxesProtocol(
        **{"dataset": "a", "protocol_name": "b", "images": "", "annotations": ""}, squares=squares
    )
    source = make_region(ImageArray("a", pixels), (5, 2, 25, 7), protocol)
    square = np.asarray(source.decode(source.read()))
    assert square.shape == (20, 20, 3)
    is_black = (square == 0).all(axis=(1, 2))
    rows = [*range(7), *range(12, 20)] if squares == "padded" else []
    assert np.flatnonzero(is_black).tolist() == rows


def plain_roi_align(patches: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    """Return the mean of bilinear samples under a box in units of patches, by loops.

    Detectron2's definition with `aligned`: pixel centres are at halves, and a box has as many
    samples as it has patches, rounded up.
    """
    height, width, _ = patches.shape
    left, top, right, bottom = (value - 0.5 for value in box)
    n_rows, n_columns = math.ceil(bottom - top), math.ceil(right - left)
    total = np.zeros(patches.shape[-1])
    for row in range(n_rows):
        for column in range(n_columns):
            y = top + (row + 0.5) * (bottom - top) / n_rows
            x = left + (column + 0.5) * (right - left) / n_columns
            y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            above = patches[y0, x0] * (x0 + 1 - x) + patches[y0, x1] * (x - x0)
            below = patches[y1, x0] * (x0 + 1 - x) + patches[y1, x1] * (x - x0)
            total += above * (y0 + 1 - y) + below * (y - y0)
    mean = total / (n_rows * n_columns)
    return mean / np.linalg.norm(mean)


def test_pooling_equals_a_loop_over_boxes():
    patches = torch.randn(2, 8, 8, 5, generator=torch.Generator().manual_seed(0))
    boxes = [
        torch.tensor([[0.0, 0, 128, 128], [3, 7.5, 40, 60], [100, 90, 101, 91.5]]),
        torch.tensor([[16.0, 32, 32, 48]]),
    ]
    pooled = pool(patches, boxes, 128).numpy()
    expected = []
    for image, boxes_of_image in zip(patches.numpy(), boxes, strict=True):
        for box in boxes_of_image.tolist():
            expected.append(plain_roi_align(image, tuple(value / 16 for value in box)))
    np.testing.assert_allclose(pooled, expected, atol=1e-5)
    # A box that is a patch has the feature of the patch.
    patch = patches[1, 2, 1].numpy()
    np.testing.assert_allclose(pooled[3], patch / np.linalg.norm(patch), atol=1e-5)


def test_images_are_padded_at_the_right_and_at_the_bottom():
    square = np.asarray(pad_to_square(Image.new("RGB", (40, 20), "white"), 10))
    assert (square[:5] == 255).all()
    assert (square[5:] == 0).all()


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(parse_model_spec("scenes-clip"))


def test_an_image_is_encoded_once_for_its_boxes_and_then_cached(encoder, tmp_path, monkeypatch):
    counts: list[int] = []
    encode_patches = encoder.encode_patches

    def counted(images: torch.Tensor, attention: Any) -> torch.Tensor:
        counts.append(len(images))
        return encode_patches(images, attention)

    monkeypatch.setattr(encoder, "encode_patches", counted)
    protocol = made_set(tmp_path, regions="pooled", attention="vanilla")
    options = RunOptions(cache=str(tmp_path / "cache"))
    images = open_data(protocol, options).images
    plain = ImageEmbedder(encoder, options, no_progress)
    features = region_embedder(plain, protocol).embed(images).features
    n_encoded = sum(counts)
    counts.clear()
    again = region_embedder(plain, protocol).embed(images[::-1]).features
    np.testing.assert_array_equal(again[::-1], features)
    assert n_encoded - sum(counts) == 2  # constructing an embedder tries a patch of its own

    for region, feature in zip(images, features, strict=True):
        assert isinstance(region, PooledRegion)
        picture = Image.open(region.image.path)
        square = np.asarray(pad_to_square(picture, 64), np.float32) / 255
        pixels = (square - np.array(encoder.image_mean)) / np.array(encoder.image_std)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        patches = encode_patches(tensor, "vanilla")[0].numpy()
        factor = 64 / max(picture.size) / encoder.patch_size
        expected = plain_roi_align(patches, tuple(value * factor for value in region.box))
        np.testing.assert_allclose(feature, expected, atol=2e-5)


def test_results_with_other_bounds_of_sizes_cannot_be_compared(tmp_path, command):
    made_set(tmp_path)
    yaml = "kind: boxes\nimages: .\nannotations: boxes.json\ntemplates: ['a {}']\nregions: crops\n"
    for name, bounds in (("A", ""), ("B", "small: 0.5\nlarge: 0.9\n")):
        (tmp_path / "own.yaml").write_text(f"{yaml}{bounds}")
        words = ("--model", "scenes-clip", "--name", name, "--output", name)
        assert command("run", "--dataset", tmp_path / "own.yaml", *words).status == 0
    ended = command("compare", "A", "B", "--all-metrics")
    assert (ended.status, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert "cannot be compared: hashes.small_and_large is missing and " in line


def test_samples_with_other_bounds_of_sizes_differ():
    """Results of earlier versions have no hash of the bounds."""
    other = {**SAMPLES["boxes"], "bounds": np.array([0.1, 0.2])}
    with pytest.raises(ValueError, match="`bounds` of the samples differs"):
        all_differences("boxes", [SAMPLES["boxes"], other])


def test_metrics_by_hand():
    """The hits are 1 0 1 0 of the classes 0 0 1 2, which are thing, thing, stuff and thing."""
    assert metrics_of("boxes", SAMPLES["boxes"]) == {
        "mean_per_class_recall": 0.5,
        "acc1": 0.5,
        **{"acc1_small": 0, "acc1_medium": 1, "acc1_large": 0.5},
        **{"mean_per_class_recall_stuff": 1, "mean_per_class_recall_thing": 0.25},
    }
    assert task_named("boxes").per_class(SAMPLES["boxes"])["pear"] == {"recall": 0.5, "boxes": 2}


def test_means_over_classes_are_those_of_clipself():
    """The formula is macc_with_is_thing of src/training/zero_shot.py, in plain loops."""
    rng = np.random.default_rng(0)
    labels, n_classes = rng.integers(0, 9, 200), 9
    top5 = np.array([rng.permutation(n_classes)[:5] for _ in labels])
    is_thing = labels < 6
    samples = {
        **SAMPLES["boxes"],
        **{"labels": labels, "top5": top5, "confidence": np.full(200, 0.5)},
        **{"classes": np.arange(n_classes).astype(str), "image": np.arange(200) // 4},
        **{"area": np.full(200, 0.5), "group": is_thing.astype(int)},
    }
    metrics = metrics_of("boxes", samples)
    for group, is_member in (("thing", is_thing), ("stuff", ~is_thing)):
        for name, n_predictions in (("recall", 1), ("acc5", 5)):
            accuracies = []
            for label in sorted(set(labels[is_member].tolist())):
                predictions = top5[labels == label, :n_predictions]
                accuracies.append(np.mean([label in row for row in predictions.tolist()]))
            expected = sum(accuracies) / len(accuracies)
            assert metrics[f"mean_per_class_{name}_{group}"] == pytest.approx(expected)


def test_scenes_by_both_protocols(command, tmp_path):
    words = ("--model", "scenes-cosmos", "--limit", "20", "--output", tmp_path / "runs")
    assert command("run", "--task", "boxes", *words).status == 0
    assert (
        command("run", "--dataset", "scenes-boxes", "--protocol", "scenes-crops", *words).status
        == 0
    )
    ended = command("verify", tmp_path / "runs")
    assert (ended.status, ended.out.count(": verified")) == (0, 2)
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*.json")]
    pooled, crops = sorted(records, key=lambda record: record["protocol"])
    assert pooled["provenance"]["protocol_attention"] == "maskclip"
    assert crops["provenance"].get("protocol_attention") is None
    assert crops["metrics"]["acc1"] > 0.4


def test_only_crops_can_stop_early(encoder):
    pooled, crops = find_protocol("coco-boxes"), find_protocol("coco-boxes", "boxes-crops")
    task = task_named("boxes")
    assert task.in_order(encoder, crops, None, RunOptions(), no_progress)
    with pytest.raises(UsageError, match=r"coco-boxes: pooled features .* choose a protocol with"):
        task.in_order(encoder, pooled, None, RunOptions(), no_progress)


def test_declared_sets():
    assert set(BOXES) == {"coco-boxes", "coco-panoptic-boxes", "lvis-boxes"}
    for name in BOXES:
        pooled, crops = find_protocol(name), find_protocol(name, "boxes-crops")
        assert (pooled.protocol_name, pooled.regions, pooled.side) == ("boxes", "pooled", 1024)
        assert (crops.regions, crops.enlargement, crops.squares) == ("crops", 1.5, "padded")
    for name in ("fg-ovd", "refcoco", "refcoco+", "refcocog"):
        assert find_protocol(name, "boxes-pooled").regions == "pooled"
        assert find_protocol(name).regions == "crops"


FG_OVD = {
    **{"img_path": "val2017/1.png", "bbox": [2.5, 4.0, 10.0, 8.0], "test_type": "1_attributes"},
    **{"pos_expression": ["A grey Pipe."], "neg_expression": ["A pink pipe.", "A red pipe."]},
}


def test_items_of_fg_ovd(tmp_path):
    (tmp_path / "fgovd").mkdir()
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "val2017" / "1.png")
    write(tmp_path / "fgovd" / "h.jsonl", FG_OVD)
    options = RunOptions(data_root=str(tmp_path), limit=1)
    with pytest.raises(UsageError, match="has no subset 'easy'"):
        open_selection(SELECTION["fg-ovd"], options)
    protocol = replace(SELECTION["fg-ovd"], subset_items={}, n_items=None)
    data = open_selection(protocol, options)
    assert data.captions == ("a grey pipe.", "a pink pipe.", "a red pipe.")
    assert data.subsets == ("hard",)
    assert data.images[0].crop.box == (2, 4, 12, 12)
    pooled = open_selection(replace(protocol, regions="pooled"), options)
    assert pooled.images[0].box == (2.5, 4, 12.5, 12)
    for field, value, message in (
        ("test_type", "color", "is none of 1_attributes"),
        ("bbox", [1, 2, 3], "must be left, top, width and height"),
        ("bbox", [1, 2, 0, 3], "must be left, top, width and height"),
    ):
        write(tmp_path / "fgovd" / "h.jsonl", {**FG_OVD, field: value})
        with pytest.raises(UsageError, match=message):
            open_selection(protocol, options)


def test_items_of_refcoco(tmp_path):
    for folder in ("refcoco", "train2014"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "train2014" / "COCO_train2014_000000000005.jpg")
    record = {
        "file_name": "COCO_train2014_000000000005_16.jpg",
        "ann_id": 12,
        "anns": [{"id": 11, "bbox": [0, 0, 9, 9]}, {"id": 12, "bbox": [10, 2, 20, 8]}],
        "sentences": [{"raw": "The Right dog"}, {"raw": "brown one"}],
    }
    alone = {**record, "anns": record["anns"][1:]}
    path = tmp_path / "refcoco" / "refcoco_testA.jsonl"
    path.write_text(f"{json.dumps(record)}\n{json.dumps(alone)}\n")
    data = open_selection(SELECTION["refcoco"], RunOptions(data_root=str(tmp_path)))
    assert (data.chosen, data.subsets) == ("images", ("testA",))
    assert data.captions == ("a photo of the right dog", "a photo of brown one")
    assert [[data.images[i].crop.box for i in images] for images in data.images_of_item] == [
        [(10, 2, 30, 10), (0, 0, 9, 9)]
    ] * 2
    # The object is (10, 2, 30, 10). Of the other boxes, (10, 2, 25, 10) covers 3/4 of it, and
    # (10, 2, 20, 10) one half, which is not above 0.5.
    others = [{"id": 13, "bbox": [10, 2, 10, 8]}, {"id": 14, "bbox": [10, 2, 15, 8]}]
    alone = {**record, "anns": [record["anns"][1], others[1]]}
    write(path, {**record, "anns": record["anns"] + others})
    path.write_text(f"{path.read_text()}\n{json.dumps(alone)}\n")
    data = open_selection(SELECTION["refcoco"], RunOptions(data_root=str(tmp_path)))
    assert data.n_correct_of_item.tolist() == [2, 2]
    boxes = [data.images[image].crop.box for image in data.images_of_item[0]]
    assert boxes == [(10, 2, 30, 10), (10, 2, 25, 10), (0, 0, 9, 9), (10, 2, 20, 10)]
    write(path, {**record, "ann_id": 99})
    with pytest.raises(UsageError, match="no entry of `anns` has the id 99"):
        open_selection(SELECTION["refcoco"], RunOptions(data_root=str(tmp_path)))


def test_intersection_over_union_by_hand():
    assert intersection_over_union((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(8 / 24)
    assert intersection_over_union((0, 0, 4, 4), (4, 0, 6, 4)) == 0
    assert intersection_over_union((0, 0, 4, 4), (5, 5, 6, 6)) == 0
    assert intersection_over_union((1, 2, 3, 4), (1, 2, 3, 4)) == 1


def test_any_box_that_overlaps_with_the_object_is_right(encoder, tmp_path):
    """As ReCLIP counts: the box of the highest score is right, whichever of the right ones it is.

    Each of three boxes of an image is once the wrong one.
    """
    for folder in ("refcoco", "train2014"):
        (tmp_path / folder).mkdir()
    pixels = np.zeros((40, 90, 3), np.uint8)
    pixels[:, :30, 0] = pixels[:, 30:60, 1] = pixels[:, 60:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "train2014" / "COCO_train2014_000000000005.png")
    wholes = [[0, 0, 30, 40], [30, 0, 30, 40], [60, 0, 30, 40]]
    lines = []
    for wrong in range(3):
        right = [(wrong + 1) % 3, (wrong + 2) % 3]
        record = {
            "file_name": "COCO_train2014_000000000005_1.png",
            "ann_id": right[0],
            "anns": [{"id": number, "bbox": wholes[number]} for number in (*right, wrong)],
            "sentences": [{"raw": "a red apple"}],
        }
        lines.append(json.dumps(record))
    (tmp_path / "refcoco" / "refcoco_val.jsonl").write_text("\n".join(lines))
    data = open_selection(SELECTION["refcoco"], RunOptions(data_root=str(tmp_path)))
    data = data._replace(n_correct_of_item=np.array([2, 2, 2]))
    measurement = task_named("select").measure_one(encoder, SELECTION["refcoco"], data=data)
    features = ImageEmbedder(encoder, RunOptions(), no_progress).embed(data.images).features
    text = encoder.encode_text(encoder.tokenize(list(data.captions))).numpy()[0]
    best = int(np.argmax(features @ text))
    wrong_image = [int(images[-1]) for images in data.images_of_item]
    assert measurement.samples["correct"].tolist() == [image != best for image in wrong_image]
    np.testing.assert_allclose(measurement.samples["chance"], 2 / 3)


@pytest.mark.parametrize("regions", ["pooled", "crops"])
def test_fg_ovd_is_a_choice_by_the_features_of_boxes(encoder, tmp_path, regions):
    """An item is right if its first caption has the highest cosine with the box."""
    (tmp_path / "fgovd").mkdir()
    made_set(tmp_path)
    captions = ["a red apple", "a blue boat", "a green tree"]
    lines = []
    for order in (captions, captions[1:] + captions[:1], captions[2:] + captions[:2]):
        fields = {"img_path": "2.png", "pos_expression": order[:1], "neg_expression": order[1:]}
        lines.append(json.dumps({**FG_OVD, **fields}))
    (tmp_path / "fgovd" / "h.jsonl").write_text("\n".join(lines))
    protocol = replace(
        SELECTION["fg-ovd"],
        **{"subset_items": {}, "n_items": None, "root": str(tmp_path), "images": "."},
        **{"regions": regions, "side": 64, "attention": "vanilla"},
    )
    data = open_selection(protocol, RunOptions())
    measurement = task_named("select").measure_one(encoder, protocol, data=data)
    embedder = region_embedder(ImageEmbedder(encoder, RunOptions(), no_progress), protocol)
    feature = embedder.embed(data.images).features[0]
    texts = encoder.encode_text(encoder.tokenize(captions)).numpy()
    best = int(np.argmax(texts @ feature))
    assert measurement.samples["correct"].tolist() == [number == best for number in range(3)]
    assert "constants" in measurement.hashes
