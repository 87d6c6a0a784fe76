"""Selection sets in their published layouts and users' own, and what is wrong in files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.excerpts import sugarcrepe_excerpt, write_coco_excerpt

from cosmos_eval.data.selection import SelectionData, open_data
from cosmos_eval.protocols.selection import SELECTION
from cosmos_eval.tasks import selection
from cosmos_eval.types import RunOptions, SelectionProtocol, UsageError

Make = Callable[..., SelectionProtocol]

IMAGES = {"a.png": "red", "b.png": "green"}


def opened(protocol: SelectionProtocol, **options: Any) -> SelectionData:
    return open_data(protocol, RunOptions(**options))


def described(data: SelectionData) -> list[tuple[list[str], list[str], str]]:
    """Every item's image files, captions and subset."""
    return [
        (
            [data.pictures[i].file for i in images],
            [data.captions[c] for c in captions],
            data.subsets[subset],
        )
        for images, captions, subset in zip(
            data.images_of_item, data.captions_of_item, data.subset_of_item, strict=True
        )
    ]


ITEMS = [
    {"image": "a.png", "caption": "red", "negative": "green", "id": 7},
    {"image": "b.png", "caption": "green", "negative": "red", "negative_2": "blue", "id": 8},
]
ROWS = [["id", "image", "caption", "negative", "negative_2"]]
ROWS += [["7", "a.png", "red", "green", ""], ["8", "b.png", "green", "red", "blue"]]


@pytest.mark.parametrize(
    ("content", "file"),
    [
        (ITEMS, "i.json"),
        ({"3": ITEMS[0], "9": ITEMS[1]}, "i.json"),
        (ITEMS, "i.jsonl"),
        (ROWS, "i.csv"),
    ],
)
def test_own_items_in_every_form(make_set, content, file):
    data = opened(make_set(IMAGES, content, file))
    assert described(data) == [
        (["a.png"], ["red", "green"], ""),
        (["b.png"], ["green", "red", "blue"], ""),
    ]
    assert len(data.captions) == 3


def test_the_first_place_that_is_there_counts(make_set, tmp_path):
    protocol = make_set(IMAGES, ITEMS, "items.json")
    elsewhere = replace(
        protocol, images=("photos", "images"), annotations=("no.json", "items.json")
    )
    assert opened(elsewhere).images == opened(protocol).images
    nowhere = replace(protocol, images=("photos", "pictures"))
    assert_refused(nowhere, f"no images below {tmp_path}: looked for photos, pictures")


def test_sugarcrepe_has_a_file_a_subset(make_set):
    def record(name: str, right: str, wrong: str) -> dict[str, str]:
        return {"filename": name, "caption": right, "negative_caption": wrong}

    files = {
        "swap_obj.json": {"0": record("a.png", "x", "y"), "2": record("b.png", "y", "x")},
        "add_att.json": {"0": record("a.png", "z", "x")},
    }
    assert described(opened(make_set(IMAGES, files, "data", layout="sugarcrepe"))) == [
        (["a.png"], ["z", "x"], "add_att"),
        (["a.png"], ["x", "y"], "swap_obj"),
        (["b.png"], ["y", "x"], "swap_obj"),
    ]


def test_an_excerpt_of_the_published_sugarcrepe(tmp_path):
    """Read as main_eval.py of its authors does: by index, which `swap_obj` leaves gaps in."""
    write_coco_excerpt(tmp_path)
    data = opened(sugarcrepe_excerpt(), data_root=str(tmp_path))
    expected = []
    for path in sorted((tmp_path / "sugar-crepe/data").glob("*.json")):
        records = json.loads(path.read_text())
        for index in range(3000):
            if (record := records.get(str(index))) is not None:
                captions = [record["caption"], record["negative_caption"]]
                expected.append(([record["filename"]], captions, path.stem))
    assert described(data) == expected
    assert len(data.images) == 4
    assert next(captions for _, captions, subset in described(data) if subset == "swap_obj") == [
        "A clock sits above green bushes under a blue sky.",
        "Green bushes sit above a clock under a blue sky.",
    ]


def test_numbers_of_the_released_sugarcrepe():
    """Counted in the seven released files; no item is left out or invented by the total."""
    released = {
        **{"add_att": 692, "add_obj": 2062, "replace_att": 788, "replace_obj": 1652},
        **{"replace_rel": 1406, "swap_att": 666, "swap_obj": 245},
    }
    protocol = SELECTION["sugarcrepe"]
    assert protocol.subset_items == released
    assert protocol.n_items == sum(released.values()) == 7511


def test_a_line_of_json_may_hold_other_line_separators(make_set):
    """JSON allows U+2028 in a text; only a line feed ends a record."""
    item = {**ITEMS[0], "caption": "red\u2028or so"}
    content = json.dumps(item, ensure_ascii=False) + "\n"
    assert opened(make_set(IMAGES, content, "i.jsonl")).captions[0] == "red\u2028or so"


def test_the_layout_of_winoground(make_set):
    record = {"id": 0, "image_0": "a", "image_1": "b", "tag": "Adjective", "num_main_preds": 1}
    record |= {"caption_0": "old kisses young", "caption_1": "young kisses old"}
    winoground = SELECTION["winoground"]
    protocol = make_set(
        IMAGES,
        [{**record, "collapsed_tag": "Object"}],
        "examples.jsonl",
        layout=winoground.layout,
        image_suffix=winoground.image_suffix,
        subset_key=winoground.subset_key,
    )
    assert described(opened(protocol)) == [
        (["a.png", "b.png"], ["old kisses young", "young kisses old"], "Object")
    ]


QUESTIONS = [
    ["Question ID", "Type", "Statement"],
    *(["1", "Color", "red"], ["2", "Color", "green"]),
    *(["31", "Text", "one"], ["32", "Text", "two"]),
]
PATTERNS = {f"{name}.jpg": "red" for name in ("Color/1", "Color/2", "Text/31", "Text/32")}


def test_mmvp_pairs_are_rows_that_follow_each_other(make_set):
    protocol = make_set(
        PATTERNS, QUESTIONS, "Questions.csv", layout="mmvp", template="a photo of {}"
    )
    assert described(opened(protocol)) == [
        (["Color/1.jpg", "Color/2.jpg"], ["a photo of red", "a photo of green"], "Color"),
        (["Text/31.jpg", "Text/32.jpg"], ["a photo of one", "a photo of two"], "Text"),
    ]


ARO = {"image_path": "a.png", "true_caption": "x on y", "false_caption": "y on x"}
BOX = {"bbox_x": 2, "bbox_y": 1, "bbox_w": 4, "bbox_h": 3}


def test_aro_looks_at_boxes(make_set, tmp_path):
    records = [
        {**ARO, **BOX, "relation_name": "on"},
        {**ARO, **BOX, "bbox_x": 0, "relation_name": "by"},
    ]
    data = opened(make_set(IMAGES, records, layout="aro"))
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[1:4, 2:6] = 200
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    assert [subset for *_, subset in described(data)] == ["on", "by"]
    first, second = (np.asarray(source.decode(source.read())) for source in data.images)
    assert first.shape == (3, 4, 3)
    assert (first == 200).all()
    assert (second == pixels[1:4, 0:4]).all()
    named = [{**ARO, **BOX, "attributes": ["red", "old"]}]
    assert described(opened(make_set(IMAGES, named, "b.json", layout="aro")))[0][2] == "red_old"


def changed(**fields: Any) -> list[dict[str, Any]]:
    """The items with the second one changed; None takes a field away."""
    record = {**ITEMS[1], **fields}
    return [ITEMS[0], {name: value for name, value in record.items() if value is not None}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(caption=None), r"items\.json, record 1 has no `caption`, only image, negative"),
        (changed(caption=" "), "record 1: `caption` must be text, not ' '"),
        (changed(caption=3), "record 1: `caption` must be text, not 3"),
        (changed(negative=["red", ""]), "record 1: `negative` must be text, not ''"),
        (changed(negative=None, negative_2=None), "record 1 has no wrong caption"),
        (changed(caption="blue"), "record 1: 'blue' is the right caption and a wrong one"),
        (changed(image="no.png"), r"1 of the 2 images of .*items\.json are not there.*no\.png"),
        (changed(subset="one"), "1 items have no `subset`, the others have one"),
        ([], "holds no items"),
        ("[", r"cannot read .*items\.json"),
        ("3", "a list of records, or an object"),
        ([3], "record 0 must hold names and values, not 3"),
    ],
)
def test_bad_items_are_refused(make_set, content, message):
    assert_refused(make_set(IMAGES, content), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (QUESTIONS[:-1], "has 3 rows: two are a pair, so one is missing"),
        (
            [QUESTIONS[0], *QUESTIONS[2:], QUESTIONS[1]],
            r"line 2: 2 \(Color\) and 31 \(Text\) are no",
        ),
        ([QUESTIONS[0], QUESTIONS[2], QUESTIONS[1]], r"2 \(Color\) and 1 \(Color\) are not a pair"),
        ([QUESTIONS[0], QUESTIONS[1][:2]], "line 2: 2 fields, but the header has 3"),
        ([["Id", *QUESTIONS[0][1:]], *QUESTIONS[1:]], "line 2 has no `Question ID`, only Id, Type"),
        ([QUESTIONS[0], ["one", "Color", "red"], QUESTIONS[2]], "`Question ID` must be a whole"),
        ([QUESTIONS[0], QUESTIONS[1], ["2", "Color", "red"]], "'red' is the right caption and a"),
    ],
)
def test_bad_questions_are_refused(make_set, content, message):
    assert_refused(make_set(PATTERNS, content, "Questions.csv", layout="mmvp"), message)


def test_other_faults_are_refused(make_set):
    pairs = [{"image_0": "a.png", "image_1": "a.png", "caption_0": "x", "caption_1": "y"}]
    assert_refused(make_set(IMAGES, pairs, "p.json", layout="pairs"), "both images are a.png")
    assert_refused(make_set(IMAGES, [{**ARO, **BOX}], "b.json", layout="aro"), "has neither")
    assert_refused(make_set(IMAGES, "", "items.txt"), r"must be a \.json, \.jsonl, \.csv or")
    assert_refused(
        make_set(IMAGES, ITEMS, "c.json", template="a photo"), "must hold '{}' exactly once"
    )
    assert_refused(
        make_set(IMAGES, {}, "empty", layout="sugarcrepe"), r"a folder with a \.json file per"
    )
    with pytest.raises(UsageError, match="--data-root DIR, the folder that holds sugar-crepe/data"):
        selection.TASK.open_data(SELECTION["sugarcrepe"], RunOptions())  # type: ignore[arg-type]


def test_a_published_set_has_its_counts_and_subsets(make_set):
    records = {
        name: {"0": {"filename": "a.png", "caption": "x", "negative_caption": "y"}}
        for name in ("one.json", "two.json")
    }
    sizes = {"one": 1, "two": 2}
    incomplete = make_set(IMAGES, records, "s", layout="sugarcrepe", n_items=3, subset_items=sizes)
    assert_refused(incomplete, r"mine: .*s has 1 of 2 items of two of mine; see")
    assert len(opened(incomplete, limit=2).subset_of_item) == 2
    other_sizes = {"one": 1, "too": 1}
    other_subset = make_set(
        IMAGES, records, "o", layout="sugarcrepe", n_items=2, subset_items=other_sizes
    )
    assert_refused(other_subset, "has no subset 'too'; the data set has: one, too")
    with pytest.raises(UsageError, match="no subset 'too'"):
        opened(other_subset, limit=1)
    assert_refused(make_set(IMAGES, ITEMS, n_items=3), "has 2 of 3 items of mine")


def test_numbers_of_items_are_known_if_a_source_states_them():
    relation = SELECTION["aro-relation"]
    assert len(relation.left_out) == len(set(relation.left_out))
    assert {"adjusting", "close to", "standing next to", "around"} <= set(relation.left_out)
    assert not [name for name in relation.left_out if name != name.strip() or not name]
    # docs/caption-selection.md names those whose number of items no source states.
    unknown = {"svo-probes", "negbench-coco", "negbench-voc2007", "eqben-subset"}
    unknown |= {"coco-spatial", "gqa-spatial", "colorswap", "coco-suppression"}
    unknown |= {"refcoco", "refcoco+", "refcocog"}
    for protocol in SELECTION.values():
        assert isinstance(protocol, SelectionProtocol)
        assert (protocol.n_items is None) == (protocol.dataset in unknown)
        if protocol.subset_items:
            assert sum(protocol.subset_items.values()) == protocol.n_items
        assert protocol.download
        assert protocol.source


def assert_refused(protocol: SelectionProtocol, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        selection.TASK.open_data(protocol, RunOptions())
    assert "\n" not in str(raised.value)
