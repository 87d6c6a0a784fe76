"""The known sets: their sizes, and every layout that a download of them may have."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from support.excerpts import coco_excerpt, write_coco_excerpt

from cosmos_eval.data.retrieval import RetrievalData, open_data
from cosmos_eval.protocols.retrieval import RETRIEVAL
from cosmos_eval.runner.doctor import Diagnosis, examine
from cosmos_eval.types import RetrievalProtocol, RunOptions, UsageError, no_progress

PROTOCOL_AND_SIZES = {
    "coco-val2017": ("cosmos", 5000, 25014),
    "coco-karpathy": ("karpathy", 5000, 25010),
    "flickr30k-karpathy": ("karpathy", 1000, 5000),
    "flickr30k-val": ("cosmos", 1014, 5070),
    "negbench-coco-retrieval": ("negbench", 5000, 25014),
    "negbench-coco-negated": ("negbench", 5000, 25014),
    "flickr30k-cna": ("chinese-clip", 1000, 5000),
    "coco-cn": ("chinese-clip", 1000, 1053),
}
CAPTIONS = ["a red one", "red, or so"]
COCO_NAME, FLICKR = "COCO_val2014_000000391895.jpg", "1007129816.jpg"
COCO_2017_NAME = "000000000139.jpg"


def coco_content(name: str) -> str:
    notes = [{"id": i, "image_id": 7, "caption": text} for i, text in enumerate(CAPTIONS)]
    return json.dumps({"images": [{"id": 7, "file_name": name}], "annotations": notes})


def karpathy_content(**image: Any) -> str:
    sentences = [{"raw": text} for text in CAPTIONS]
    training_image = {"filename": "other.jpg", "split": "train", "sentences": sentences}
    test_image = {"split": "test", "sentences": sentences, **image}
    return json.dumps({"images": [training_image, test_image]})


def blip_content(name: str) -> str:
    return json.dumps([{"image": name, "caption": CAPTIONS}])


FLICKR_LIST = "image,caption\n" + "".join(f"{FLICKR},{text}\n" for text in CAPTIONS)
FLICKR_KARPATHY = karpathy_content(filename=FLICKR)
FLICKR_BLIP = blip_content(f"flickr30k-images/{FLICKR}")
COCO_2014, COCO_2017 = coco_content(COCO_NAME), coco_content(COCO_2017_NAME)
COCO_KARPATHY = karpathy_content(filepath="val2014", filename=COCO_NAME)
COCO_BLIP = blip_content(f"val2014/{COCO_NAME}")

# For every data set: annotation files, their contents, and an image.
LAYOUTS_OF = {
    "coco-val2017": [
        ("annotations/captions_val2017.json", COCO_2017, f"images/val2017/{COCO_2017_NAME}"),
        ("coco/annotations/captions_val2017.json", COCO_2017, f"coco/val2017/{COCO_2017_NAME}"),
        (
            "coco/annotations/captions_val2017.json",
            COCO_2017,
            f"coco_stuff164k/images/val2017/{COCO_2017_NAME}",
        ),
    ],
    "coco-karpathy": [
        ("coco_test_karpathy.json", COCO_2014, f"val2014/{COCO_NAME}"),
        (
            "mscoco_captions/coco_test_karpathy.json",
            COCO_2014,
            f"mscoco_captions/val2014/{COCO_NAME}",
        ),
        ("dataset_coco.json", COCO_KARPATHY, f"images/val2014/{COCO_NAME}"),
        ("coco/dataset_coco.json", COCO_KARPATHY, f"coco/val2014/{COCO_NAME}"),
        ("coco/annotations/coco_karpathy_test.json", COCO_BLIP, f"coco/images/val2014/{COCO_NAME}"),
    ],
    "flickr30k-karpathy": [
        ("flickr30k/flickr30k_test_karpathy.txt", FLICKR_LIST, f"flickr30k/{FLICKR}"),
        (
            "flickr30k/dataset_flickr30k.json",
            FLICKR_KARPATHY,
            f"flickr30k/flickr30k-images/{FLICKR}",
        ),
        ("flickr30k_test_karpathy.txt", FLICKR_LIST, f"flickr30k_images/flickr30k_images/{FLICKR}"),
        (
            "flickr30k/annotations/flickr30k_test.json",
            FLICKR_BLIP,
            f"flickr30k/images/flickr30k-images/{FLICKR}",
        ),
    ],
    "flickr30k-val": [
        ("flickr30k_val.json", FLICKR_BLIP, f"flickr30k-images/{FLICKR}"),
        ("flickr30k/flickr30k_val.json", FLICKR_BLIP, f"flickr30k/Images/{FLICKR}"),
        # datasets/README.md of github.com/ExplainableML/cosmos: the list among the images.
        ("flickr30k-images/flickr30k_val.json", FLICKR_BLIP, f"flickr30k-images/{FLICKR}"),
        (
            "flickr30k/flickr30k-images/flickr30k_val.json",
            FLICKR_BLIP,
            f"flickr30k/flickr30k-images/{FLICKR}",
        ),
        ("flickr30k_val.json", FLICKR_BLIP, FLICKR),
    ],
}
LAYOUTS = [(dataset, *layout) for dataset, layouts in LAYOUTS_OF.items() for layout in layouts]


def small(dataset: str) -> RetrievalProtocol:
    """A known set, as if it had one image with two captions."""
    protocol = RETRIEVAL[dataset]
    return replace(protocol, n_images=1, n_captions=2)


@pytest.fixture
def place(tmp_path: Path, save_colour: Callable[..., Path]):
    """Write a layout below a data root."""

    def write(annotations: str, content: str, image: str) -> Path:
        path = tmp_path / annotations
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return save_colour(tmp_path / image, "red")

    return write


def read(dataset: str, root: Path) -> RetrievalData:
    return open_data(small(dataset), RunOptions(data_root=str(root)))


def examined(protocol: RetrievalProtocol, root: Path) -> Diagnosis:
    return examine(protocol, RunOptions(data_root=str(root)), no_progress)


def test_protocols_and_sizes_of_all_sets():
    tested_elsewhere = ("long", "clip4clip")  # in test_long_captions.py and test_videos.py
    protocols = [p for p in RETRIEVAL.values() if p.protocol_name not in tested_elsewhere]
    sizes = {p.dataset: (p.protocol_name, p.n_images, p.n_captions) for p in protocols}
    assert sizes == PROTOCOL_AND_SIZES
    assert {p.captions_per_image for p in protocols} == {None}


@pytest.mark.parametrize(("dataset", "annotations", "content", "image"), LAYOUTS)
def test_a_documented_layout_is_found(dataset, annotations, content, image, tmp_path, place):
    path = place(annotations, content, image)
    data = read(dataset, tmp_path)
    assert [source.name for source in data.images] == [str(path)]
    assert data.names == (path.name,)
    assert data.captions == tuple(CAPTIONS)


def test_an_excerpt_of_the_published_coco_captions(tmp_path):
    """Captions keep the order of the file, images that of their ids; a sixth caption is kept."""
    paths = write_coco_excerpt(tmp_path)
    content = json.loads((tmp_path / "annotations/captions_val2017.json").read_text())
    data = open_data(coco_excerpt(), RunOptions(data_root=str(tmp_path)))
    assert [source.name for source in data.images] == list(map(str, paths))
    ids = sorted(image["id"] for image in content["images"])
    assert data.names[ids.index(7816)] == "000000007816.jpg"
    assert data.names[ids.index(545958)] == "000000545958.jpg"
    annotations = sorted(content["annotations"], key=itemgetter("image_id"))  # a stable sort
    assert data.captions == tuple(annotation["caption"] for annotation in annotations)
    assert data.image_of_text.tolist() == [0] * 5 + [1] * 5 + [2] * 6 + [3] * 6


def test_the_first_folder_of_images_may_be_another_sets(tmp_path, place, save_colour):
    save_colour(tmp_path / "images/other.jpg", "blue")
    place("flickr30k_val.json", FLICKR_BLIP, f"flickr30k/{FLICKR}")
    assert read("flickr30k-val", tmp_path).names == (FLICKR,)


@pytest.mark.parametrize(("dataset", "annotations", "content", "image"), LAYOUTS[::3])
def test_the_doctor_counts_what_it_finds(dataset, annotations, content, image, tmp_path, place):
    path = place(annotations, content, image)
    diagnosis = examined(small(dataset), tmp_path)
    assert (diagnosis.whole, diagnosis.faults, diagnosis.remedy) == (True, (), None)
    assert (diagnosis.images, diagnosis.expected) == (1, 1)
    assert (diagnosis.captions, diagnosis.expected_captions) == (2, 2)
    assert diagnosis.folder == str(path.parent)


def test_the_doctor_tells_other_counts_and_missing_images(tmp_path, place):
    path = place("flickr30k_val.json", FLICKR_BLIP, f"flickr30k-images/{FLICKR}")
    path.unlink()
    protocol = RETRIEVAL["flickr30k-val"]
    diagnosis = examined(protocol, tmp_path)
    assert not diagnosis.whole
    assert (diagnosis.images, diagnosis.expected) == (0, 1014)
    assert (diagnosis.captions, diagnosis.expected_captions) == (2, 5070)
    missing, images, captions = diagnosis.faults
    assert images == f"{tmp_path}/flickr30k_val.json has 1 of 1014 images of flickr30k-val"
    assert captions == f"{tmp_path}/flickr30k_val.json has 2 of 5070 captions of flickr30k-val"
    assert missing.startswith(f"1 of 1 images missing, first: {path}; images are looked for in ")
    assert "flickr30k/Images" in missing
    assert diagnosis.remedy == protocol.download
    with pytest.raises(UsageError) as error:
        read("flickr30k-val", tmp_path)
    assert str(error.value).startswith("flickr30k-val: 1 of 1 images missing, first: ")
    assert str(error.value).endswith(
        "; see `cosmos-eval data doctor flickr30k-val`, or measure the samples found with "
        "--partial, the first N with --limit N"
    )


def test_the_doctor_names_all_paths(tmp_path):
    diagnosis = examined(small("flickr30k-val"), tmp_path)
    assert diagnosis.faults == (
        f"no captions below {tmp_path}: looked for flickr30k_val.json "
        "in ., annotations, flickr30k-images, flickr30k, flickr30k/annotations, "
        "flickr30k/flickr30k-images; from: "
        "https://shannon.cs.illinois.edu/DenotationGraph/ (images), "
        "https://storage.googleapis.com/sfr-vision-language-research/datasets/flickr30k_val.json",
    )
    assert diagnosis.remedy is not None
    assert diagnosis.remedy.endswith("/flickr30k_val.json")


def test_medians_are_floored_only_by_the_cosmos_protocol() -> None:
    assert {p.protocol_name for p in RETRIEVAL.values() if p.floor_median} == {"cosmos"}
    assert all(p.floor_median for p in RETRIEVAL.values() if p.protocol_name == "cosmos")
