"""Compositionality sets in the layouts of their own pages, made up and solved by hand.

The model sees the colour of a picture and the colours that a text names, in equal parts: a red
picture scores 1 with "red", 0.71 with "red and green", and 0 with "green".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from cosmos_eval.data import retrieval
from cosmos_eval.data.selection import open_data
from cosmos_eval.runner.doctor import examine
from cosmos_eval.tasks import selection
from cosmos_eval.types import (
    Measurement,
    RunOptions,
    SelectionProtocol,
    UsageError,
    no_progress,
)

Known = Callable[..., SelectionProtocol]


@pytest.fixture
def measured(known_set, colour_encoder) -> Callable[..., Measurement]:
    def measure(*args: Any, options: RunOptions | None = None, **changes: Any) -> Measurement:
        protocol = known_set(*args, **changes)
        return selection.TASK.measure_one(colour_encoder, protocol, options or RunOptions())

    return measure


def accuracies(result: Measurement) -> dict[str, tuple[float, int]]:
    """Return the accuracy and the number of items of each subset."""
    subsets = result.per_class.items()
    return {name: (figures["accuracy"], figures["items"]) for name, figures in subsets}


def triple(number: int, name: str, right: str, also: str, wrong: str) -> dict[str, Any]:
    captions = {"caption": right, "caption2": also, "negative_caption": wrong}
    return {"id": number, "filename": name, **captions}


SCPP = {
    "scpp/data/replace_att.json": [
        triple(0, "1.jpg", "a red car", "the car is red", "a green car"),
        # The second right caption scores below the wrong one.
        triple(1, "1.jpg", "a red car", "a car, red or blue or green", "a red and blue car"),
    ],
    # As high as the wrong one.
    "scpp/data/swap_obj.json": [triple(0, "2.jpg", "green", "red, green", "green, red")],
}
COCO = {"val2017/1.jpg": "red", "val2017/2.jpg": "green"}


def test_sugarcrepe_pp_has_two_right_captions(measured):
    sizes = {"replace_att": 2, "swap_obj": 1}
    result = measured("sugarcrepe-pp", SCPP, COCO, n_items=3, subset_items=sizes)
    assert result.samples["correct"].tolist() == [True, False, False]
    assert result.per_class["replace_att"]["accuracy"] == 0.5


SVO_HEADER = [
    "index",
    "sentence",
    "pos_image_id",
    "neg_image_id",
    "subj_neg",
    "verb_neg",
    "obj_neg",
]
SVO = [
    SVO_HEADER,
    ["0", "a red thing runs", "10", "11", "False", "True", "False"],
    ["1", "a red thing sits", "11", "10", "True", "False", "False"],
    ["2", "something red", "10", "12", "False", "False", "True"],  # which score the same
    ["3", "a green dog eats", "11", "10", "True", "True", "False"],
]
SVO_IMAGES = {f"svo_probes/images/{i}.jpg": c for i, c in ((10, "red"), (11, "green"), (12, "red"))}


def test_svo_probes_choose_an_image_by_a_sentence(measured):
    result = measured("svo-probes", {"svo_probes/svo_probes.csv": SVO}, SVO_IMAGES)
    assert accuracies(result) == {"object": (0, 1), "subject": (0, 1), "verb": (1, 1)}
    assert "shorter_accuracy" not in result.metrics  # which is of captions


def test_missing_images_of_a_set_of_unknown_size_are_noticed(known_set):
    files = {"svo_probes/svo_probes.csv": SVO}
    images = {name: colour for name, colour in SVO_IMAGES.items() if "12" not in name}
    protocol = known_set("svo-probes", files, images)
    with pytest.raises(UsageError, match=r"1 of the 3 images of .*svo_probes\.csv are not there"):
        open_data(protocol, RunOptions())
    found_samples = open_data(protocol, RunOptions(allow_partial=True)).found_samples
    assert found_samples is not None
    assert (found_samples.n_found, found_samples.n_expected) == (2, 3)


def foil(image: str, caption: str, wrong: str, votes: int) -> dict[str, Any]:
    mturk = {"foil": 0, "caption": votes, "other": 3 - votes}
    return {
        "dataset": "SWiG",
        "image_file": image,
        "caption": caption,
        "foil": wrong,
        "mturk": mturk,
    }


VALSE = {
    "VALSE/data/actant-swap.json": {
        "actions_test_0": foil("a_1.jpg", "red acts", "green acts", 2),
        "actions_test_1": foil("a_1.jpg", "green acts", "red acts", 3),
    },
    "VALSE/data/plurals.json": {"plurals_0": foil("000001.jpg", "red", "green", 1)},
    "VALSE/data/existence.json": {"existence_0": foil("v7w_1.jpg", "green", "no blue", 3)},
}
VALSE_IMAGES = {"VALSE/images/a_1.jpg": "red", "VALSE/images/v7w_1.jpg": "green"}


def test_valse_keeps_the_valid_items(measured):
    sizes = {"actant-swap": 2, "existence": 1}
    result = measured("valse", VALSE, VALSE_IMAGES, n_items=3, subset_items=sizes)
    assert accuracies(result) == {"actant-swap": (0.5, 2), "existence": (1, 1)}


# Counted in the files of github.com/Heidelberg-NLP/VALSE at 2152d90: items of which at least two
# of three annotators chose the caption.
VALID_ITEMS = {
    "actant-swap": 949,
    "action-replacement": 648,
    "coreference-hard": 104,
    "coreference-standard": 708,
    "counting-adversarial": 691,
    "counting-hard": 868,
    "counting-small-quant": 900,
    "existence": 505,
    "foil-it": 943,
    "plurals": 851,
    "relations": 535,
}


def test_valse_is_whole_with_the_items_of_its_release(known_set):
    item, invalid = foil("a_1.jpg", "red", "green", 2), foil("a_1.jpg", "red", "green", 1)
    files = {
        f"VALSE/data/{name}.json": {"0": invalid, **{f"{i + 1}": item for i in range(size)}}
        for name, size in VALID_ITEMS.items()
    }
    protocol = known_set("valse", files, VALSE_IMAGES)
    assert len(open_data(protocol, RunOptions()).subset_of_item) == 7702
    del files["VALSE/data/coreference-hard.json"]["7"]
    short = known_set("valse", files, VALSE_IMAGES)
    message = r"VALSE/data has 103 of 104 items of coreference-hard of valse; see"
    with pytest.raises(UsageError, match=message):
        open_data(short, RunOptions())
    diagnosis = examine(short, RunOptions(), no_progress, decode=False)
    assert not diagnosis.whole
    assert "103 of 104 items of coreference-hard" in diagnosis.faults[0]


def placed(first: str, word: str, last: str, *captions: str) -> dict[str, Any]:
    path = f"data/controlled_images/{first}_{word}_{last}.jpeg"
    return {"image_path": path, "caption_options": list(captions)}


WHATSUP = [
    # Of the mug all four are right; of the dog a pair.
    placed("mug", "left_of", "table", "red", "green", "blue", "red and green"),
    placed("mug", "right_of", "table", "green", "red", "blue", "red and green"),
    placed("mug", "on", "table", "red", "blue", "green", "green and blue"),
    placed("mug", "under", "table", "green", "blue", "red", "red and blue"),
    placed("dog", "left_of", "bed", "blue", "red", "green", "green and blue"),
    placed("dog", "right_of", "bed", "red", "green", "blue", "red and green"),
    placed("dog", "on", "bed", "red", "green", "blue", "red and green"),
    placed("dog", "under", "bed", "red", "green", "blue", "red and green"),
]
WHATSUP_IMAGES = {
    f"whatsup_vlms/{record['image_path']}": colour
    for record, colour in zip(
        WHATSUP, ("red", "green", "red", "green", "red", "red", "red", "red"), strict=True
    )
}
WHATSUP_FILES = {"whatsup_vlms/data/controlled_images_dataset.json": WHATSUP}


def test_whatsup_has_pairs_and_sets(measured):
    result = measured("whatsup-a", WHATSUP_FILES, WHATSUP_IMAGES, n_items=8)
    assert result.samples["correct"].tolist() == [True] * 4 + [False] + [True] * 3
    assert result.metrics["accuracy"] == 7 / 8
    assert result.metrics["accuracy_of_pairs"] == 3 / 4
    assert result.metrics["accuracy_of_sets"] == 1 / 2
    assert set(result.samples["cluster"][:4]) != set(result.samples["cluster"][4:])
    assert set(result.per_class) == {"left_of", "right_of", "on", "under"}


def test_incomplete_groups_do_not_count(measured):
    def result_of(limit: int) -> Measurement:
        options = RunOptions(limit=limit)
        return measured("whatsup-a", WHATSUP_FILES, WHATSUP_IMAGES, options=options, n_items=8)

    result = result_of(limit=5)
    assert result.samples["pair"].tolist() == [0, 0, 1, 1, -1]
    assert result.metrics["accuracy_of_pairs"] == result.metrics["accuracy_of_sets"] == 1
    assert "accuracy_of_pairs" not in result_of(limit=1).metrics


SPATIAL = {
    "whatsup_vlms/data/coco_qa_one_obj.json": [[1, "red on the left", "green on the right"]],
    "whatsup_vlms/data/coco_qa_two_obj.json": [[2, "red above", "green below"]],
}


def test_coco_spatial_names_images_by_numbers_of_twelve_digits(measured):
    images = {"val2017/000000000001.jpg": "red", "val2017/000000000002.jpg": "green"}
    sizes = {"one_obj": 1, "two_obj": 1}
    result = measured("coco-spatial", SPATIAL, images, n_items=2, subset_items=sizes)
    assert result.per_class["one_obj"]["accuracy"] == 1
    assert result.per_class["two_obj"]["accuracy"] == 0
    files = {path.replace("coco_qa", "vg_qa"): content for path, content in SPATIAL.items()}
    images = {f"whatsup_vlms/data/vg_images/{i}.jpg": "red" for i in (1, 2)}
    result = measured("gqa-spatial", files, images, n_items=2, subset_items=sizes)
    assert result.metrics["accuracy"] == 1


def question(image: str, answer: int, kind: str, *captions: str) -> list[str]:
    return [image, str(answer), *captions, kind]


QUESTIONS = [
    [
        "image_path",
        "correct_answer",
        *(f"caption_{i}" for i in range(4)),
        "correct_answer_template",
    ],
    question("data/coco/images/val2017/1.jpg", 2, "positive", "green", "blue", "red", "red, blue"),
    question("/home/me/val2017/2.jpg", 0, "hybrid", "green", "blue", "red", "no green"),
    question("val2017/2.jpg", 3, "negative", "blue", "red", "red, blue", "green, not red"),
]
NEGBENCH = "negbench/data/images/COCO_val_mcq_llama3.1_rephrased.csv"


def test_negbench_questions_have_four_captions(measured):
    result = measured("negbench-coco", {NEGBENCH: QUESTIONS}, COCO)
    # "no green" names green, as it should be for a model that is deaf to negation.
    assert accuracies(result) == {"hybrid": (0, 1), "negative": (1, 1), "positive": (1, 1)}


def test_negbench_retrieval_lists_captions_as_python_does(known_set):
    path = "negbench/data/images/COCO_val_retrieval.csv"
    rows = [["filepath", "captions"], ["x/1.jpg", '[\'a "b"\', "it\'s"]'], ["x/2.jpg", "['c']"]]
    protocol = known_set("negbench-coco-retrieval", {path: rows}, COCO, n_images=2, n_captions=3)
    data = retrieval.open_data(protocol, RunOptions())
    assert data.captions == ('a "b"', "it's", "c")
    assert data.names == ("1.jpg", "2.jpg")
    broken = known_set("negbench-coco-retrieval", {path: [rows[0], ["1.jpg", "a, b"]]}, COCO)
    with pytest.raises(UsageError, match=r"line 2: captions must be a list as Python writes it"):
        retrieval.open_data(broken, RunOptions())


def swapped(first: str, second: str, *captions: str) -> dict[str, Any]:
    images = {"image_1": f"images/{first}.png", "image_2": f"images/{second}.png"}
    return {"id": 0, "caption_1": captions[0], "caption_2": captions[1], **images}


def test_colorswap_and_bivlc_are_pairs(measured):
    images = {
        "colorswap/data/images/a.png": "red",
        "colorswap/data/images/b.png": "green",
    }
    records = [swapped("a", "b", "red", "green"), swapped("a", "b", "green", "red and green")]
    files = {"colorswap/data/test.json": records}
    result = measured("colorswap", files, images, n_items=2)
    assert result.samples["text_correct"].tolist() == [True, False]
    assert result.samples["image_correct"].tolist() == [True, False]
    pair = {"image_0": "a.jpg", "image_1": "b.jpg", "caption_0": "red", "caption_1": "green"}
    files = {"bivlc/items.jsonl": [{**pair, "type": "swap"}]}
    images = {"bivlc/images/a.jpg": "red", "bivlc/images/b.jpg": "green"}
    result = measured("bivlc", files, images, n_items=1)
    assert result.per_class["swap"]["accuracy"] == 1


def ordered(image: str, caption: str, *orders: str) -> dict[str, Any]:
    hard_texts = {f"hard_text_{number}": order for number, order in enumerate(orders, start=1)}
    return {"images": image, "correct_caption": caption, **hard_texts}


ORDERS = [
    # The first order repeats the caption, and is no choice.
    ordered("a.png", "a red car", "a red car", "a green car", "a car, red and blue", "a blue car"),
    # The third order scores higher than the caption.
    ordered("a.png", "red and green", "green", "green, blue", "red", "blue and red"),
    # All orders repeat the caption.
    ordered("b.png", "green", "green", "green", "green", "green"),
]


@pytest.mark.parametrize("name", ["aro-coco-order", "aro-flickr30k-order"])
def test_orders_of_words_that_repeat_the_caption_are_left_out(measured, name):
    files = {f"{name}/items.jsonl": ORDERS}
    images = {f"{name}/images/a.png": "red", f"{name}/images/b.png": "green"}
    result = measured(name, files, images, n_items=3)
    assert result.samples["correct"].tolist() == [True, False, False]
    assert result.samples["chance"].tolist() == [1 / 4, 1 / 5, 0]
    assert result.samples["cluster"].tolist() == [0, 0, 1]
    assert [note for note in result.notes if "equal to the right one" in note] == [
        "1 items have a wrong caption equal to the right one and count as wrong"
    ]


def test_eqben_has_frames_as_arrays(measured, tmp_path):
    pair = {"caption0": "red", "caption1": "blue", "private_info": {}}
    records = [
        {**pair, "image0": "eqbenyoucook2/a.npy", "image1": "eqbenyoucook2/b.npy"},
        {**pair, "image0": "eqbensd/a.png", "image1": "eqbensd/b.png"},
    ]
    folder = tmp_path / "eqben/image_subset/eqbenyoucook2"
    folder.mkdir(parents=True)
    for name, channel in (("a", 2), ("b", 0)):  # red and blue, in the order BGR
        pixels = np.zeros((6, 8, 3), np.uint8)
        pixels[:, :, channel] = 255
        np.save(folder / f"{name}.npy", pixels)
    images = {"eqben/image_subset/eqbensd/a.png": "red", "eqben/image_subset/eqbensd/b.png": "red"}
    files = {"eqben/eqben_subset_10percent_final.json": records}
    result = measured("eqben-subset", files, images)
    assert accuracies(result) == {"eqbensd": (0, 1), "eqbenyoucook2": (1, 1)}
    np.save(folder / "a.npy", np.zeros((4, 6), np.uint8))
    with pytest.raises(UsageError, match=r"a\.npy holds no pixels \(H, W, 3\) uint8"):
        measured("eqben-subset", files, images)


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("sugarcrepe-pp", SCPP, r"has no subset 'replace_obj'; the data set has: replace_att"),
        (
            "sugarcrepe-pp",
            {"scpp/data/extra.json": [triple(0, "1.jpg", "a", "b", "c")]},
            "has a subset 'extra'; the data set has",
        ),
        (
            "svo-probes",
            {"svo_probes/svo_probes.csv": [SVO_HEADER, [*SVO[1][:4], "maybe", "True", "False"]]},
            "line 2: subj_neg, verb_neg, obj_neg must be True or False",
        ),
        (
            "valse",
            {"VALSE/data/a.json": {"0": {"image_file": "a.jpg", "caption": "x", "foil": "y"}}},
            r"a\.json, record 0 has no votes `mturk`",
        ),
        (
            "whatsup-a",
            {
                "whatsup_vlms/data/controlled_images_dataset.json": [
                    placed("mug", "near", "bed", "x")
                ]
            },
            r"mug_near_bed\.jpeg names no preposition",
        ),
        (
            "coco-spatial",
            {"whatsup_vlms/data/coco_qa_one_obj.json": [[1, "x"]]},
            r"record 0 must list an image id and two captions, not \[1, 'x'\]",
        ),
        (
            "negbench-coco",
            {NEGBENCH: [QUESTIONS[0], question("1.jpg", 4, "hybrid", *"abcd")]},
            "line 2: `correct_answer` must be 0 to 3, not 4",
        ),
        (
            "colorswap",
            {"colorswap/data/test.json": [{"id": 0}]},
            "record 0 has no `image_0`, only id",
        ),
        (
            "bivlc",
            {
                "bivlc/items.jsonl": [
                    {"image_0": "a.jpg", "image_1": "a.jpg", "caption_0": "x"}
                    | {"caption_1": "y", "type": "swap"}
                ]
            },
            r"items\.jsonl has 1 of 2933 items of bivlc",
        ),
        (
            "aro-coco-order",
            {"aro-coco-order/items.jsonl": [ordered("a.png", "red", "green", "blue", "green red")]},
            r"items\.jsonl, line 1 has no `hard_text_4`, only images, correct_caption, hard_text_1",
        ),
        (
            "aro-flickr30k-order",
            {"ARO-Flickr-Order/items.jsonl": ORDERS},
            r"items\.jsonl has 3 of 5000 items of aro-flickr30k-order; see",
        ),
        ("whatsup-b", {}, "no images below|no items below .*controlled_clevr_dataset"),
    ],
)
def test_bad_files_are_refused(known_set, name, files, message):
    images = {"val2017/1.jpg": "red", "colorswap/data/images/a.png": "red"}
    images |= {"colorswap/data/images/b.png": "red", "bivlc/images/a.jpg": "red"}
    images |= {f"ARO-Flickr-Order/images/{name}.png": "red" for name in "ab"}
    with pytest.raises(UsageError, match=message) as raised:
        open_data(known_set(name, files, images), RunOptions())
    assert "\n" not in str(raised.value)


def test_own_sets_can_have_several_positives_and_pairs(make_set, colour_encoder):
    images = {"a.png": "red", "b.png": "green", "c.png": "blue"}
    records = [
        {"image": "a.png", "caption": "red", "positive": "it is red", "negative": ["green"]},
        {"image": "b.png", "caption": "green", "positives": ["a green one"], "negative": "blue"},
        {"image": "c.png", "caption": "red", "negative": "green", "negative_2": "blue"},
    ]
    for record, pair in zip(records, (0, 0, 1), strict=True):
        record["pair_id"] = pair
    result = selection.TASK.measure_one(colour_encoder, make_set(images, records), RunOptions())
    assert result.samples["correct"].tolist() == [True, True, False]
    assert result.metrics["accuracy_of_pairs"] == 0.5
    chosen = [
        {
            "caption": "red",
            "image": "a.png",
            "negative_image": "b.png",
            "negative_image_2": "c.png",
        },
        {"caption": "red", "image": "b.png", "negative_image": ["a.png"]},
    ]
    result = selection.TASK.measure_one(
        colour_encoder, make_set(images, chosen, "c.json"), RunOptions()
    )
    assert result.samples["correct"].tolist() == [True, False]
    assert result.samples["cluster"].tolist() == [0, 0]


ONE = {"image": "a.png", "caption": "red", "negative": "green"}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{**ONE, "negative_image": "b.png"}], "wrong images and more than one caption"),
        (
            [ONE, {"image": "a.png", "caption": "red", "negative_image": "b.png"}],
            "record 1 chooses other things than .*record 0: make two sets",
        ),
        ([{**ONE, "positive": "green"}], "'green' is the right caption and a wrong one"),
        ([{"image": "a.png", "caption": "x", "negative_image": "a.png"}], "both images are a.png"),
        ([{**ONE, "negative": None, "positive": "red"}], "has no wrong caption"),
    ],
)
def test_bad_records_of_own_sets(make_set, records, message):
    protocol = make_set({"a.png": "red", "b.png": "green"}, records)
    with pytest.raises(UsageError, match=message) as raised:
        open_data(protocol, RunOptions())
    assert "\n" not in str(raised.value)


# A row of the hub's Parquet files by data set. Images are `red` and `green`.
HUB_ROWS = {
    "bivlc": {
        **{"image": "red", "negative_image": "green"},
        **{"caption": "red", "negative_caption": "green", "type": "swap", "subtype": "att"},
    },
    "cvqa": {
        **{"image": "red", "ID": "7_0", "Subset": "('Spanish', 'Chile')", "Label": 1},
        **{"Question": "¿Qué color?", "Options": ["green", "red"]},
    },
    "aro-coco-order": ordered("red", "red car", "green car", "blue car", "car red, blue", "green"),
    "aro-flickr30k-order": ordered("red", "red car", "red car", "blue car", "blue", "green"),
}


@pytest.mark.parametrize("name", HUB_ROWS)
def test_the_documented_code_writes_images_of_parquet_files(
    known_set, colour_encoder, save_colour, tmp_path, monkeypatch, name
):
    """Run the code block of docs/caption-selection.md on tables as `datasets` stores images."""
    monkeypatch.chdir(tmp_path)
    row = dict(HUB_ROWS[name])
    for column in ("image", "images", "negative_image"):
        if column in row:
            content = save_colour(tmp_path / f"{row[column]}.jpg", row[column]).read_bytes()
            row[column] = {"bytes": content, "path": None}
    (tmp_path / name / "data").mkdir(parents=True)
    for shard in range(2):
        table = pandas.DataFrame([row])
        table.to_parquet(tmp_path / name / f"data/test-0000{shard}-of-00002.parquet")

    page = (Path(__file__).parents[3] / "docs/caption-selection.md").read_text("utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    assert code.count('Path("bivlc")') == 1
    exec(code.replace('Path("bivlc")', f"Path({name!r})"), {})

    protocol = known_set(name, {}, {}, n_items=2)
    result = selection.TASK.measure_one(colour_encoder, protocol, RunOptions())
    assert result.metrics["accuracy"] == 1
    # The image of both rows is one file, so that they are in one cluster.
    assert result.samples["cluster"].tolist() == [0, 0]
