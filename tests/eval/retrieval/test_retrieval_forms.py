"""Every form that captions come in: the same images and captions, and what can be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from support.shards import encoded, tar_of

from cosmos_eval.data.retrieval import open_data
from cosmos_eval.tasks import find_protocol, retrieval
from cosmos_eval.types import RetrievalProtocol, RunOptions, UsageError

PROTOCOL = RetrievalProtocol(dataset="colours", protocol_name="test", images="images")

CAPTIONS = {
    "green.jpg": ("a green one", "green"),
    "blue.jpg": ("the blue one",),
    "red.jpg": ('red, like "a rose"', "green, by mistake", "red"),
}
ROWS = [(name, caption) for name, captions in CAPTIONS.items() for caption in captions]
# Rows of an image need not stand together.
MIXED_ROWS = [ROWS[i] for i in (0, 2, 3, 1, 4, 5)]


def as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


def as_lines(records: list[Any]) -> bytes:
    return b"".join(as_json(record) + b"\n" for record in records)


def as_table(separator: str, *header: str) -> bytes:
    """Return a table of MIXED_ROWS.

    Its quotes are those of the csv module and pandas, its byte-order mark that of Excel.
    """
    quoted_rows = [(name, '"' + caption.replace('"', '""') + '"') for name, caption in MIXED_ROWS]
    lines = [separator.join(cells) for cells in (header, *quoted_rows)]
    return "\ufeff".encode() + "\r\n".join(lines).encode()


def coco(captions: Mapping[str, tuple[str, ...]] = CAPTIONS) -> dict[str, Any]:
    """Return the content of a file of COCO's captions, whose images are in reverse order."""
    image_ids = {name: 10 * i for i, name in enumerate(captions)}
    annotations = []
    for name, captions_of_image in captions.items():
        for caption in captions_of_image:
            note = {"id": len(annotations), "image_id": image_ids[name], "caption": caption}
            annotations.append(note)
    images = [{"id": image_id, "file_name": name} for name, image_id in image_ids.items()]
    return {"images": images[::-1], "annotations": annotations}


def karpathy(split: str = "test", folder: str | None = None) -> dict[str, Any]:
    """Return the content of a file of Karpathy's, with two images of other splits."""

    def image(name: str, captions: tuple[str, ...], split: str) -> dict[str, Any]:
        filepath = {} if folder is None else {"filepath": folder}
        sentences = [{"raw": caption, "tokens": []} for caption in captions]
        return {**filepath, "filename": name, "split": split, "sentences": sentences}

    images = [image("other.jpg", ("a",), "train"), image("another.jpg", ("a",), "val")]
    images += [image(name, captions, split) for name, captions in CAPTIONS.items()]
    return {"images": images}


def grouped(caption_key: str = "caption") -> list[Any]:
    """Return a record per image with a list of its captions."""
    return [{"image": name, caption_key: list(captions)} for name, captions in CAPTIONS.items()]


SINGLE = [{"image": name, "caption": caption} for name, caption in MIXED_ROWS]
FLICKR = "image,caption\n" + "\n".join(",".join(row) for row in MIXED_ROWS) + "\n"

FORMS = {
    "coco.json": as_json(coco()),
    "dataset_flickr30k.json": as_json(karpathy()),
    "list.json": as_json(grouped()),
    "rows.json": as_json(SINGLE),
    "list.jsonl": as_lines(grouped("captions")) + b"\n",
    "rows.jsonl": as_lines(SINGLE),
    "comma.csv": as_table(",", "image", "caption"),
    "openclip.csv": as_table("\t", "filepath", "title"),
    "tab.tsv": as_table("\t", "image", "caption"),
    "flickr30k_test_karpathy.txt": FLICKR.encode(),
    # As pandas writes CLIP Benchmark's list, and as Kaggle's captions.txt of Flickr8k is.
    "captions.txt": pd.DataFrame(MIXED_ROWS, columns=["image", "caption"])
    .to_csv(index=False)
    .encode(),
}


@pytest.fixture
def root(tmp_path: Path, save_colour: Callable[..., Path]) -> Path:
    for name in CAPTIONS:
        save_colour(tmp_path / "images" / name, Path(name).stem)
    return tmp_path


@pytest.fixture
def read(root: Path):
    """Return a function that writes a file and opens it by a protocol with changes."""

    def open_file(name: str, content: bytes, **changes: Any):
        (root / name).write_bytes(content)
        protocol = replace(PROTOCOL, annotations=name, **changes)
        return open_data(protocol, RunOptions(data_root=str(root)))

    return open_file


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_images_and_captions(name, root, read):
    data = read(name, FORMS[name])
    assert data.names == tuple(CAPTIONS)
    assert [image.name for image in data.images] == [f"{root}/images/{name}" for name in CAPTIONS]
    assert data.captions == tuple(caption for _, caption in ROWS)
    assert data.image_of_text.tolist() == [0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("lines", "captions"),
    [
        # Lines of one file are all CSV,
        (('"red , green"', "red"), ("red , green", "red")),
        (('"a "" SALE "" sign"', 'a "SALE" sign'), ('a " SALE " sign', 'a "SALE" sign')),
        (('""""',), ('"',)),
        # or a caption is all that follows.
        (("red, green", 'a "SALE" sign'), ("red, green", 'a "SALE" sign')),
        (('"red" and "green"', "red"), ('"red" and "green"', "red")),
        (('"red, green', "red"), ('"red, green', "red")),
    ],
)
def test_quotes_of_csv_are_not_part_of_captions(lines, captions, read):
    content = "image,caption\n" + "".join(f"red.jpg,{line}\n" for line in lines)
    assert read("a.txt", content.encode()).captions == captions


def test_folders_of_names_are_kept_or_dropped(root, read):
    content = as_json(karpathy(folder="images"))
    assert read("a.json", content, images=".").names[0] == "images/green.jpg"
    content = as_json(karpathy(folder="val2014"))
    assert read("a.json", content, bare_names=True).names[0] == "green.jpg"


def test_absolute_names_need_no_folder(root, read):
    content = as_lines([{"image": f"{root}/images/red.jpg", "caption": "red"}])
    assert read("a.jsonl", content, images=".").images[0].name == f"{root}/images/red.jpg"


def test_columns_and_keys_can_be_named(read):
    content = b"url,title,alt\nred.jpg,x,red\n"
    assert read("a.csv", content, image_key="url", caption_key="alt").captions == ("red",)
    content = as_json([{"image": "red.jpg", "caption": "x", "long": ["red", "a red one"]}])
    assert read("a.json", content, caption_key="long").captions == ("red", "a red one")


@pytest.mark.parametrize(
    "cells", [('["red", "a red one"]', '["green"]'), ("['red', 'a red one']", "['green']")]
)
def test_lists_in_cells_must_be_announced(cells, root, read):
    rows = [
        f'{name}\t"{cell.replace(chr(34), chr(34) * 2)}"\n'
        for name, cell in zip(("red.jpg", "green.jpg"), cells, strict=True)
    ]
    table = "image\tcaption\n" + "".join(rows)
    with pytest.raises(UsageError, match=r"a\.tsv: every caption is .* `listed_captions: true`"):
        read("a.tsv", table.encode())

    (root / "a.yaml").write_text(
        "{kind: retrieval, images: images, annotations: a.tsv, listed_captions: true}"
    )
    data = opened_file(root / "a.yaml")
    assert data.captions == ("red", "a red one", "green")
    assert data.image_of_text.tolist() == [0, 0, 1]

    # A caption in brackets is not a list, nor is a column in which only some cells are lists.
    mixed_table = "image\tcaption\nred.jpg\t[red]\ngreen.jpg\t['green']\n"
    assert read("a.tsv", mixed_table.encode()).captions == ("[red]", "['green']")


def test_lists_in_records_of_archives_must_be_announced(tmp_path):
    record = as_json({"caption": '["red", "a red one"]'})
    write_tar(tmp_path / "a.tar", {"red.png": sample("red.jpg")["red.png"], "red.json": record})
    with pytest.raises(UsageError, match=r"a\.tar: every caption is a list"):
        opened(tmp_path, "a.tar")
    assert opened(tmp_path, "a.tar", listed_captions=True).captions == ("red", "a red one")


def test_the_split_is_chosen(read):
    assert len(read("a.json", as_json(karpathy("restval")), split="restval").names) == 3


@pytest.mark.parametrize("places", [("no", "images"), ("empty", "images"), ("half", "images")])
def test_the_first_folder_that_holds_all_images_counts(places, root, read):
    (root / "empty").mkdir()
    (root / "half").mkdir()
    (root / "half/red.jpg").write_bytes(b"")
    data = read("a.json", FORMS["list.json"], images=places)
    assert data.images[0].name == f"{root}/images/green.jpg"


def test_the_first_file_that_is_there_counts(root, read):
    (root / "second.json").write_bytes(FORMS["list.json"])
    protocol = replace(PROTOCOL, annotations=("first.json", "second.json"))
    options = RunOptions(data_root=str(root))
    assert len(open_data(protocol, options).names) == 3
    (root / "second.json").unlink()
    with pytest.raises(UsageError, match=r"looked for first\.json, second\.json"):
        open_data(protocol, options)
    (root / "first.json").write_bytes(FORMS["list.json"])
    with pytest.raises(UsageError, match=r"no images below .* looked for photos, a/pictures"):
        open_data(replace(protocol, images=("photos", "a/pictures")), options)


def test_other_counts_than_the_protocol_has_are_refused(root, read):
    read("a.json", FORMS["list.json"], n_images=3, n_captions=6)
    with pytest.raises(UsageError, match=r"a\.json has 3 of 4 images of colours"):
        read("a.json", FORMS["list.json"], n_images=4)
    with pytest.raises(UsageError, match=r"a\.json has 6 of 7 captions of colours"):
        read("a.json", FORMS["list.json"], n_images=3, n_captions=7)
    protocol = replace(PROTOCOL, annotations="a.json", n_images=4)
    limited = open_data(protocol, RunOptions(data_root=str(root), limit=2))
    assert limited.names == ("green.jpg", "blue.jpg")


def with_item(content: Any, *path: Any, value: Any) -> bytes:
    """Replace the item at a path of keys, or remove it if the value is None; return as JSON."""
    *parent_keys, last_key = path
    parent = content
    for key in parent_keys:
        parent = parent[key]
    if value is None:
        del parent[last_key]
    else:
        parent[last_key] = value
    return as_json(content)


def bad_record(*path: Any, value: Any) -> bytes:
    return with_item(grouped(), 1, *path, value=value)


def bad_image(number: int, *path: Any, value: Any) -> bytes:
    return with_item(karpathy(), "images", number, *path, value=value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[]", r"a\.json lists no images"),
        ("a.json", b"{", r"a\.json is not JSON: .*; one record per line is \.jsonl"),
        ("a.json", b'{"data": []}', "none of the known forms: COCO's"),
        ("a.json", bad_record("image", value=None), r"record 1: no `image` or `file"),
        ("a.json", bad_record("image", value=3), "record 1: the image must be a"),
        ("a.json", bad_record("caption", value=[]), r"record 1: an image without cap"),
        ("a.json", bad_record("caption", value=[" "]), "record 1: a caption is bl"),
        ("a.json", bad_record("caption", value=7), r"record 1: captions must be text"),
        ("a.json", bad_record("title", value="a"), r"record 1: has caption and title; name "),
        ("a.json", bad_record(value="a"), r"record 1: must be a record"),
        ("a.json", with_item(grouped(), 2, "image", value="no.jpg"), r"1 of 3 .*/images/no\.jpg"),
        ("a.json", as_json(karpathy("val")), r"no images of split 'test', only of train \(1\), v"),
        ("a.json", bad_image(3, "split", value=None), r"`images\[3\]\.split` is missing"),
        ("a.json", bad_image(2, "filename", value="red.jpg"), "red.jpg is li"),
        (
            "a.json",
            bad_image(3, "sentences", 0, "raw", value=None),
            r"`images\[3\]\.sentences\[0\]\.raw` is missing",
        ),
        ("a.json", bad_image(3, "sentences", value=[]), r"\[3\]: an image wi"),
        ("a.jsonl", as_lines(SINGLE) + b"{", "line 7: is not JSON"),
        ("a.jsonl", as_lines([{"image": "red.jpg"}]), "line 1: no `caption`.* only image"),
        ("a.csv", b"", r"a\.csv lists no images"),
        ("a.csv", b"image;caption\nred.jpg;red\n", "line 1: columns are separated by semicolons"),
        ("a.csv", b"image,caption,caption\n", "line 1: column caption is listed twice"),
        ("a.csv", b"image,caption\nred.jpg,red, or so\n", "line 2: 3 fields, but the header has 2"),
        ("a.csv", b"image,caption\nred.jpg,red\nred.jpg\n", "line 3: 1 fields"),
        ("a.csv", b"image,caption\nred.jpg, \n", "line 2: a caption is blank"),
        ("a.csv", b'image,caption\nred.jpg,"red\n', "line 2: unexpected end of data"),
        ("a.csv", b"image,caption\n", r"a\.csv lists no images"),
        ("a.csv", b"image,caption\nred.jpg,\xff\n", r"a\.csv is not UTF-8 text"),
        ("a.txt", b"red.jpg,red\n", "line 1: must be a header, not an image"),
        ("a.txt", b"image,caption\nred.png,red\n", r"line 2: expected IMAGE\.jpg,caption"),
        ("a.txt", b"image,caption\nred.jpg,\n", "line 2: a caption is blank"),
        ("a.txt", b'image,caption\nred.jpg,""\n', "line 2: a caption is blank"),
        (
            "a.txt",
            b'image,caption\nred.jpg,"red, or so"\nred.jpg,red\nred.jpg,red, green\n',
            r"a\.txt, line 4: the caption holds a comma .* line 2 has a CSV field; .* as CSV",
        ),
        ("a.npz", b"", r"no known form of captions: \.json, \.jsonl, .*`archives`"),
    ],
)
def test_a_fault_of_a_file_is_named(name, content, message, read):
    with pytest.raises(UsageError, match=message) as raised:
        read(name, content)
    assert "\n" not in str(raised.value)


Members = dict[str, bytes]


def write_tar(path: Path, members: Members) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_of(members.items()))


def sample(name: str, extension: str = "txt") -> Members:
    """Return the members of an archive for one image: the image and a file of its captions."""
    captions, colour = CAPTIONS[name], Path(name).stem
    if extension == "txt":
        caption_file = "\n".join(captions).encode()
    else:
        caption_file = as_json({"caption": captions})
    image = encoded(Image.new("RGB", (8, 6), colour), "PNG")
    return {f"{colour}.png": image, f"{colour}.{extension}": caption_file}


def opened(root: Path, archives: Any, **changes: Any):
    protocol = replace(PROTOCOL, archives=archives, **changes)
    return open_data(protocol, RunOptions(data_root=str(root)))


def clip_benchmark(root: Path, split: str = "test") -> Path:
    """Write archives as clip_benchmark/webdataset_builder.py does; return their folder."""
    names = list(CAPTIONS)
    write_tar(root / f"wds/{split}/0.tar", {**sample(names[0]), **sample(names[1])})
    write_tar(root / f"wds/{split}/1.tar", sample(names[2]))
    (root / "wds/dataset_type.txt").write_text("retrieval\n")
    (root / f"wds/{split}/nshards.txt").write_text("2\n")
    return root / "wds"


def test_clip_benchmarks_archives(tmp_path, colour_encoder):
    clip_benchmark(tmp_path)
    data = opened(tmp_path, "wds")
    assert data.names == ("wds/test/0.tar:green", "wds/test/0.tar:blue", "wds/test/1.tar:red")
    assert data.captions == tuple(caption for _, caption in ROWS)
    protocol = replace(PROTOCOL, archives="wds", captions_per_image=2)
    result = retrieval.TASK.measure_one(
        colour_encoder, protocol, RunOptions(data_root=str(tmp_path))
    )
    # The mistaken caption of the red image is no worse for the green one than its own.
    assert result.samples["text_to_image_rank"].tolist() == [1, 1, 1, 1, 3]
    assert result.samples["image_to_text_rank"].tolist() == [2, 1, 1]


def test_a_split_of_clip_benchmarks_archives(tmp_path):
    clip_benchmark(tmp_path, "val")
    assert len(opened(tmp_path, "wds", split="val").names) == 3
    with pytest.raises(UsageError, match=r"cannot read .*test/nshards\.txt"):
        opened(tmp_path, "wds")


@pytest.mark.parametrize("extension", ["txt", "json"])
@pytest.mark.parametrize("archives", ["*.tar", ("a.tar", "b.tar"), ("a.tar", "[b-z].tar")])
def test_archives_of_the_users_own_are_read(extension, archives, tmp_path):
    names = list(CAPTIONS)
    write_tar(tmp_path / "a.tar", sample(names[0], extension))
    write_tar(tmp_path / "b.tar", {**sample(names[1], extension), **sample(names[2], extension)})
    data = opened(tmp_path, archives)
    assert data.names == ("a.tar:green", "b.tar:blue", "b.tar:red")
    assert data.captions == tuple(caption for _, caption in ROWS)
    assert data.image_of_text.tolist() == [0, 0, 1, 2, 2, 2]


RED = sample("red.jpg")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"red.txt": b"red"}, "red has no image"),
        (
            {"red.png": RED["red.png"]},
            r"a\.tar:red has neither a \.txt of captions, one per line, nor a \.json .*only png",
        ),
        ({**RED, "b.png": RED["red.png"]}, r"a\.tar:b has no \.txt, only png"),
        ({**RED, "red.txt": b"red\n\nred"}, r"a\.tar:red\.txt: a caption is blank"),
        ({**RED, "red.txt": b""}, "an image without captions"),
        ({"red.png": b"", "red.json": b"{"}, r"red\.json is not JSON"),
        ({"red.png": b"", "red.json": b"[]"}, "must be a record with captions"),
        ({"red.png": b"", "red.json": b'{"text": "a"}'}, "no `caption` .* only text"),
    ],
)
def test_a_fault_of_an_archive_is_named(members, message, tmp_path):
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(UsageError, match=message):
        opened(tmp_path, "a.tar")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "dataset_type.txt").unlink(), "cannot read .*dataset_type.txt"),
        (lambda folder: (folder / "dataset_type.txt").write_text("multilabel"), "'multilabel'"),
        (lambda folder: (folder / "test/1.tar").unlink(), r"1\.tar is not there"),
    ],
)
def test_a_fault_of_clip_benchmarks_folder_is_named(change, message, tmp_path):
    change(clip_benchmark(tmp_path))
    with pytest.raises(UsageError, match=message):
        opened(tmp_path, "wds")


def test_fields_that_exclude_each_other_are_refused(tmp_path, read):
    for changes in ({}, {"archives": "a", "annotations": "b"}):
        with pytest.raises(UsageError, match="`annotations` or `archives`, one of them"):
            open_data(replace(PROTOCOL, **changes), RunOptions(data_root=str(tmp_path)))
    with pytest.raises(UsageError, match=r"no archive .*/none-"):
        opened(tmp_path, "none-*.tar")
    with pytest.raises(UsageError, match="must be 1 or more"):
        read("a.json", FORMS["list.json"], captions_per_image=0)


def test_the_documents_examples_can_be_read(tmp_path, save_colour):
    text = (Path(__file__).parents[3] / "docs/data.md").read_text()
    examples = re.findall(r"```yaml\n(kind: retrieval\n.*?)```", text, re.DOTALL)
    table, archives = (tmp_path / f"{i}.yaml" for i in range(len(examples)))
    for path, example in zip((table, archives), examples, strict=True):
        path.write_text(example)
    (tmp_path / "captions.tsv").write_text("filepath\ttitle\nred.jpg\tred\n")
    save_colour(tmp_path / "photos/red.jpg", "red")
    write_tar(tmp_path / "shards/0.tar", RED)
    assert opened_file(table).captions == ("red",)
    assert opened_file(archives).names == ("shards/0.tar:red",)


def opened_file(path: Path):
    protocol = find_protocol(str(path))
    assert isinstance(protocol, RetrievalProtocol)
    return open_data(protocol, RunOptions())
