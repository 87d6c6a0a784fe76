"""CVQA: questions with four options in many languages, as rows of the hub's file."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cosmos_eval.data.selection import SelectionData, open_data
from cosmos_eval.protocols.selection import SELECTION
from cosmos_eval.types import RunOptions, UsageError

JAPANESE, SPANISH = "('Japanese', 'Japan')", "('Spanish', 'Chile')"
ROWS = [
    {
        "ID": "5919_0", "Subset": JAPANESE, "Question": "これは何? ",
        "Translated Question": "What is this?", "Options": ["犬", "猫 ", "鳥", "魚"],
        "Translated Options": ["dog", "cat", "bird", "fish"], "Label": 1,
    },
    {
        "ID": "5919_1", "Subset": SPANISH, "Question": "¿Qué color?",
        "Translated Question": "Which colour?", "Options": ["rojo", "azul", "verde", "negro"],
        "Translated Options": ["red", "blue", "green", "black"], "Label": 3,
    },
]  # fmt: skip


def write(root: Path, rows: list[dict]) -> None:
    (root / "cvqa/images").mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        Image.new("RGB", (8, 6), (90 * number, 9, 9)).save(root / f"cvqa/images/{row['ID']}.png")
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (root / "cvqa/items.jsonl").write_text("\n".join(lines), "utf-8")


def read(dataset: str, root: Path) -> SelectionData:
    protocol = replace(SELECTION[dataset], n_items=2)
    return open_data(protocol, RunOptions(data_root=str(root)))


def captions_of(data: SelectionData) -> list[list[str]]:
    return [[data.captions[index] for index in indices] for indices in data.captions_of_item]


def test_the_correct_option_comes_first(tmp_path):
    write(tmp_path, ROWS)
    data = read("cvqa", tmp_path)
    assert captions_of(data) == [
        ["これは何? 猫", "これは何? 犬", "これは何? 鳥", "これは何? 魚"],
        ["¿Qué color? negro", "¿Qué color? rojo", "¿Qué color? azul", "¿Qué color? verde"],
    ]
    assert [data.subsets[index] for index in data.subset_of_item] == [JAPANESE, SPANISH]
    assert [picture.file for picture in data.pictures] == ["5919_0.png", "5919_1.png"]
    english = read("cvqa-english", tmp_path)
    assert [captions[0] for captions in captions_of(english)] == [
        "What is this? cat",
        "Which colour? black",
    ]

    # A table has lists as Python writes them.
    (tmp_path / "cvqa/items.jsonl").unlink()
    with open(tmp_path / "cvqa/metadata.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(ROWS[0]))
        table.writeheader()
        table.writerows(ROWS)
    assert captions_of(read("cvqa", tmp_path)) == captions_of(data)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"Label": -1}, "line 2: `Label` is -1, .* the public file withholds labels"),
        ({"Label": 4}, "line 2: `Label` is 4, not the number of an option"),
        ({"Options": "no list"}, "line 2, `Options`: must be a list"),
        ({"Options": ["one"]}, "line 2: `Options` must list texts"),
    ],
)
def test_faults_are_one_line(change, fault, tmp_path):
    write(tmp_path, [ROWS[0], ROWS[1] | change])
    with pytest.raises(UsageError, match=fault):
        read("cvqa", tmp_path)


def test_another_number_of_questions_is_refused(tmp_path):
    write(tmp_path, ROWS)
    with pytest.raises(UsageError, match="2 of 10374 items"):
        open_data(SELECTION["cvqa"], RunOptions(data_root=str(tmp_path)))
