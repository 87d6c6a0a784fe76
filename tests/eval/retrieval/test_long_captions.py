"""Sets of long captions, in the layouts of their downloads and of those who measure them; captions
in sentences. Texts are made up, keys and paths are the public ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cosmos_eval.data.retrieval import RetrievalData, open_data
from cosmos_eval.protocols import find_known, protocols_of_dataset
from cosmos_eval.protocols.retrieval import RETRIEVAL
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import RetrievalProtocol, RunOptions, UsageError

SIZES = {
    "docci": (5000, 5000),
    "dci": (7805, 7805),
    "iiw": (612, 612),
    "iiw-400": (400, 400),
    "urban1k": (1000, None),
    "sharegpt4v-1k": (1000, None),
    "sharegpt4v-10k": (10_000, None),
}
TEXTS = ("A red wall. It is 2.5 m high\n\nNothing else", "Grass")

Files = dict[str, str]


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def docci() -> Files:
    """The fields that google.github.io/docci lists."""
    of_test = (("test_00000", "test", TEXTS[0]), ("test_00001", "test", TEXTS[1]))
    records = [
        {"split": split, "image_file": f"{name}.jpg", "description": text, "example_id": name}
        for name, split, text in (("train_00000", "train", "a"), *of_test)
    ]
    return {"docci_descriptions.jsonlines": lines(*records)}


def dci(*names: str) -> Files:
    """Return a file per image and lists of their names, as README.md of facebookresearch/DCI."""
    records = [
        {"image": f"sa_{i}.jpg", "short_caption": short, "extra_caption": extra, "mask_data": {}}
        for i, (short, extra) in enumerate([("A red wall.", "It is high."), ("Grass", "")])
    ]
    files = {f"annotations/{i}-data.json": json.dumps(record) for i, record in enumerate(records)}
    splits = {"train": ["1-data.json"], "valid": [], "test": ["0-data.json"]}
    return {"splits.json": json.dumps(splits), **files}


def iiw() -> Files:
    """Return three lists; two have names without a suffix, one of them under another key."""
    return {
        "DOCCI_Test/data.jsonl": lines({"DOCCI": "x", "IIW": TEXTS[0], "image": "test_00731"}),
        "IIW-400/data.jsonl": lines({"IIW": "A bee", "IIW-P5B": "x", "image/key": "aar_test_1"}),
        "DCI_Test/data.jsonl": lines({"IIW": TEXTS[1], "ex_id": "1", "image": "sa_1.jpg"}),
    }


def conversation(folder: str, number: int, text: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": "Describe it.\n<image>"}, {"from": "gpt", "value": text}]
    return {"id": f"sa_{number}", "image": f"{folder}/sa_{number}.jpg", "conversations": turns}


def sharegpt4v(folder: str) -> str:
    texts = (*TEXTS, "beyond the first")
    return json.dumps([conversation(folder, i, text) for i, text in enumerate(texts)])


def below(folder: str, files: Files) -> Files:
    return {f"{folder}/{name}": text for name, text in files.items()}


# FLAIR's datasets/Urban1k/annotations/annotations.json.
URBAN_LIST = {
    "annotations": [
        {"image_id": i, "image": f"{name}.jpg", "caption": text}
        for i, (name, text) in enumerate([("1", "A bus. It is green"), ("10", "Grass")])
    ]
}
# With a byte order mark, CRLF and a second line, which is not read.
URBAN = {"1.txt": "\ufeffA bus. It is green\r\nmore", "10.txt": "Grass\r\n", "._1.txt": "\0"}

# By data set: files, images, and the number of images that the set is cut to.
LAYOUTS: list[tuple[str, Files, list[str], tuple[str, ...]]] = [
    ("docci", below("docci", docci()), ["docci/images/test_00000.jpg"], TEXTS),
    ("docci", docci(), ["images/test_00000.jpg"], TEXTS),
    (
        "dci",
        below("dci/densely_captioned_images", dci()),
        ["dci/densely_captioned_images/photos/sa_1.jpg"],
        ("Grass\n", "A red wall.\nIt is high."),
    ),
    (
        "iiw",
        below("imageinwords/datasets", iiw()),
        ["docci/images/test_00731.jpg", "docci/images_aar/aar_test_1.jpg"],
        (TEXTS[0], "A bee", TEXTS[1]),
    ),
    (
        "iiw",
        below("imageinwords", iiw()),
        ["imageinwords/docci/test_00731.jpg", "imageinwords/docci_aar/aar_test_1.jpg"],
        (TEXTS[0], "A bee", TEXTS[1]),
    ),
    (
        "iiw-400",
        below("imageinwords", iiw()),
        ["imageinwords/docci_aar/aar_test_1.jpg"],
        ("A bee",),
    ),
    (
        "urban1k",
        below("Urban1k/caption", URBAN),
        ["Urban1k/image/1.jpg"],
        ("A bus. It is green", "Grass"),
    ),
    (
        "urban1k",
        {"Urban1k/annotations/annotations.json": json.dumps(URBAN_LIST)},
        ["Urban1k/images/1.jpg"],
        ("A bus. It is green", "Grass"),
    ),
    (
        "sharegpt4v-1k",
        {"share4v/share4v_sam_10k.json": sharegpt4v("sa_000048/images")},
        ["share4v/sa_000048/images/sa_0.jpg"],
        ("A red wall. It is 2.5 m high  Nothing else", "Grass"),
    ),
    (
        "sharegpt4v-10k",
        {"sharegpt4v/data/share-captioner_coco_lcs_sam_1246k_1107.json": sharegpt4v("sam/images")},
        ["sharegpt4v/data/sam/images/sa_0.jpg"],
        ("A red wall. It is 2.5 m high  Nothing else", "Grass"),
    ),
]
# The other images of a layout lie beside the first one, but for those of DCI in iiw.
OTHERS = {
    "docci": ["test_00001.jpg"],
    "dci": ["sa_0.jpg"],
    "iiw": [],
    "iiw-400": [],
    "urban1k": ["10.jpg"],
    "sharegpt4v-1k": ["sa_1.jpg"],
    "sharegpt4v-10k": ["sa_1.jpg"],
}
DCI_OF_IIW = {
    "docci/images/test_00731.jpg": "dci/densely_captioned_images/photos/sa_1.jpg",
    "imageinwords/docci/test_00731.jpg": "imageinwords/dci/sa_1.jpg",
}


def small(protocol: RetrievalProtocol, n: int) -> RetrievalProtocol:
    """Return the protocol of a known set as if it had n images."""
    first = n if protocol.first else protocol.first
    n_captions = n if protocol.n_captions else protocol.n_captions
    return replace(protocol, n_images=n, n_captions=n_captions, first=first)


@pytest.fixture
def write(tmp_path: Path, save_colour: Callable[..., Path]):
    """Return a function that writes files and images below a data root; it returns their paths."""

    def write_all(files: Files, images: list[str]) -> list[Path]:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(text.encode())
        return [save_colour(tmp_path / image, "red") for image in images]

    return write_all


@pytest.fixture
def read(tmp_path: Path):
    def open_known(protocol: RetrievalProtocol, **options: Any) -> RetrievalData:
        return open_data(protocol, RunOptions(data_root=str(tmp_path), **options))

    return open_known


def with_other_images(dataset: str, images: list[str]) -> list[str]:
    """Add images that are not in the set, but lie in its folders."""
    beside = [str(Path(images[0]).with_name(name)) for name in OTHERS[dataset]]
    return images + beside + [DCI_OF_IIW[image] for image in images if image in DCI_OF_IIW]


def test_numbers_of_images_and_captions():
    protocols = {name: p for name, p in RETRIEVAL.items() if p.protocol_name == "long"}
    assert {name: (p.n_images, p.n_captions) for name, p in protocols.items()} == SIZES
    assert {p.captions_per_image for p in protocols.values() if p.n_captions} == {None}
    assert protocols["sharegpt4v-1k"].first == 1000
    assert protocols["sharegpt4v-10k"].first == 10_000


@pytest.mark.parametrize(("dataset", "files", "images", "captions"), LAYOUTS)
def test_a_layout_is_found(dataset, files, images, captions, write, read):
    paths = write(files, with_other_images(dataset, images))
    data = read(small(RETRIEVAL[dataset], len(captions)))
    assert sorted(image.name for image in data.images) == sorted(map(str, paths))
    assert data.captions == captions
    assert data.names == tuple(Path(image.name).name for image in data.images)


def test_images_of_both_layouts_have_the_same_names(write, read):
    for dataset, files, images, captions in LAYOUTS[-2:]:
        write(files, with_other_images(dataset, images))
        data = read(small(RETRIEVAL[dataset], len(captions)))
        assert data.names == ("sa_0.jpg", "sa_1.jpg")


@pytest.mark.parametrize(("dataset", "files", "images", "captions"), LAYOUTS)
def test_another_number_and_a_missing_image_are_refused(
    dataset, files, images, captions, write, read
):
    *_, last_image = write(files, with_other_images(dataset, images))
    n = len(captions)
    with pytest.raises(UsageError, match=rf"has {n} of {n + 1} images of {dataset}"):
        read(replace(small(RETRIEVAL[dataset], n + 1), first=RETRIEVAL[dataset].first and n))
    if not RETRIEVAL[dataset].first:
        with pytest.raises(UsageError, match=rf"has {n} images, more than the {n - 1} of"):
            read(small(RETRIEVAL[dataset], n - 1))
    last_image.unlink()
    if n > 1:
        message = rf"1 of {n} images missing, first: .*{last_image.name}"
        with pytest.raises(UsageError, match=message):
            read(small(RETRIEVAL[dataset], n))
        partial_data = read(small(RETRIEVAL[dataset], n), allow_partial=True)
        assert str(partial_data.found_samples) == f"{n - 1} of {n} images"
        assert last_image.name not in partial_data.names


# The sentences of TEXTS by the rule of DreamLIP, LoTLIP and FLAIR, which also cuts "2.5" in two.
SENTENCES = ("A red wall", "It is 2", "5 m high", "Nothing else", "Grass")
JOINED = ("A red wall. It is 2. 5 m high. Nothing else", "Grass")


@pytest.mark.parametrize("layout_index", [0, 8])
@pytest.mark.parametrize(("kind", "captions"), [("sentences", SENTENCES), ("joined", JOINED)])
def test_captions_are_cut_into_sentences(layout_index, kind, captions, write, read):
    dataset, files, images, _ = LAYOUTS[layout_index]
    write(files, with_other_images(dataset, images))
    protocol = protocols_of_dataset(dataset)[f"long-{kind}"]
    data = read(small(protocol, 2))
    assert data.captions == captions
    # All captions but the last are of the first image.
    assert data.image_of_text.tolist() == [0] * (len(captions) - 1) + [1]


def test_every_family_has_scores_of_pairs():
    for protocol in protocols_of_dataset("docci").values():
        assert find_known("docci", protocol.protocol_name) is not None
    assert protocols_of_dataset("iiw")["long-sentences-pairs100"].sentences == "each"


@pytest.mark.parametrize(
    ("dataset", "pattern", "replacement", "message"),
    [
        ("docci", "Grass", " ", "jsonlines, line 3: a caption is blank"),
        ("docci", '"test"', '"dev"', r"no images of split 'test', .*dev \(2\)"),
        ("docci", '"split"', '"part"', "line 1: no `split`"),
        ("docci", "test_00001.jpg", "test_00000.jpg", "has 1 of 2 images"),
        ("docci", "\n", "\r\n", ""),  # lines as Windows ends them are no fault
        ("docci", r"\A", "\ufeff", ""),  # nor is a byte-order mark
        ("dci", "0-data", "2-data", "2-data.json: no such file"),
        ("dci", "0-data", "1-data", "image sa_1.jpg is listed twice"),
        ("sharegpt4v-1k", '"value"', '"text"', "a question and a reply"),
        ("sharegpt4v-1k", "Grass", "", "record 1: a caption is blank"),
    ],
)
def test_a_fault_of_a_list_is_named(dataset, pattern, replacement, message, write, read):
    _, files, images, captions = next(layout for layout in LAYOUTS if layout[0] == dataset)
    name = next(iter(files))
    changed_text = re.sub(pattern, replacement, files[name])
    assert changed_text != files[name]
    write({**files, name: changed_text}, with_other_images(dataset, images))
    if not message:
        assert read(small(RETRIEVAL[dataset], 2)).captions == captions
        return
    with pytest.raises(UsageError, match=message) as raised:
        read(small(RETRIEVAL[dataset], 2))
    assert "\n" not in str(raised.value)


def test_a_fault_of_a_folder_of_texts_is_named(tmp_path, write, read):
    write({"a/1.txt": " \n", "b/1.txt": "red", "c/1.md": "red"}, ["1.jpg"])
    protocol = RetrievalProtocol(dataset="own", protocol_name="user", image_suffix=".jpg")
    for folder, message in (("a", "a/1.txt: an image without captions"), ("c", "lists no images")):
        with pytest.raises(UsageError, match=message):
            read(replace(protocol, annotations=folder))
    with pytest.raises(UsageError, match=r"holds texts: name .* by `image_suffix`"):
        read(replace(protocol, annotations="b", image_suffix=""))


def test_a_set_of_the_users_own(tmp_path, write):
    """Texts beside images, several captions in a text, and sentences as captions."""
    write({"own/1.txt": "Red. A wall\nA photo", "own/2.txt": "Dots..."}, ["own/1.jpg", "own/2.jpg"])
    yaml = "kind: retrieval\nannotations: own\nimages: own\nimage_suffix: .jpg\n"
    (tmp_path / "set.yaml").write_text(yaml)
    (tmp_path / "sentences.yaml").write_text(f"{yaml}sentences: each\n")
    plain, sentences = (find_protocol(str(tmp_path / f"{n}.yaml")) for n in ("set", "sentences"))
    assert (plain.protocol_name, sentences.protocol_name) == ("user", "user-sentences")
    assert open_data(plain, RunOptions()).captions == ("Red. A wall", "A photo", "Dots...")
    data = open_data(sentences, RunOptions())
    assert data.captions == ("Red", "A wall", "A photo", "Dots")
    assert data.image_of_text.tolist() == [0, 0, 0, 1]
    write({"own/2.txt": "..."}, [])
    with pytest.raises(UsageError, match=r"image 2\.jpg: a caption without a sentence"):
        open_data(sentences, RunOptions())
