"""The samples of a result as a table, hand-solved for every task."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support.results import SAMPLES, store_result

import cosmos_eval
from cosmos_eval.types import UsageError

NA = None
# By task: names that are added to the made-up samples, and columns that follow from both.
EXPECTED = {
    "cls": (
        ["a", "b", "c", "d", "e"],
        {
            "image": ["a", "b", "c", "d", "e"],
            "label": ["pear", "pear", "pear", "apple", "fig"],
            "prediction": ["pear", "apple", "apple", "apple", "fig"],
            "score": [0.5, 0.75, 1, 0.875, 0.625],
            "rank": [1, 2, 2, 1, 1],
        },
    ),
    "retrieval": (
        ["a", "b", "c"],
        {
            "image": ["a", "b", "c", "a", "a", "b", "c", "c"],
            "query": ["image"] * 3 + ["caption"] * 5,
            "caption": [NA, NA, NA, 0, 1, 0, 0, 1],
            "rank": [1, 3, 5, 1, 1, 2, 3, 3],
        },
    ),
    "select": (
        ["a", "a", "b", "c"],
        {
            "image": ["a", "a", "b", "c"],
            "correct": [True, False, True, False],
            "subset": ["one", "one", "one", "two"],
            "text_correct": [True, True, True, False],
            "image_correct": [True, False, True, False],
        },
    ),
    # Sky 5 of 7 pixels, then cow 7 of 7 and cat 1 of 1.
    "seg": (
        ["a", "b"],
        {"image": ["a", "b"], "pixel_accuracy": [5 / 7, 1], "mIoU": [5 / 7 / 2, 1]},
    ),
    "loc": (
        ["a", "b"],
        {
            "image": ["a", "a", "b"],
            "class": ["sky", "cow", "cow"],
            "thing_pixels": [60, 5, 10],
            "mass": [0.75, 0.25, 0.5],
            "hit": [1, 0, 1],
        },
    ),
    "multilabel": (
        ["a", "b", "c", "d"],
        {
            "image": ["a", "a", "b", "b", "c", "c", "d", "d"],
            "class": ["pear", "apple"] * 4,
            "label": [True, True, True, False, False, False, False, True],
            "score": [0.5, 0.25, 0.125, 0.5, 0.25, 0.125, 0, 0.75],
            "rank": [1, 3, 3, 2, 2, 4, 4, 1],
        },
    ),
    "ratings": (
        [],
        {
            "clip_score": [0.5, 1, 1.5, 1.25, 0.75],
            "rating": [1, 2, 4, 3, 3],
            "image": [0, 0, 1, 2, 3],
        },
    ),
    "seg-probe": (
        ["a", "b"],
        {"image": ["a", "b"], "pixel_accuracy": [5 / 7, 1], "mIoU": [5 / 7 / 2, 1]},
    ),
    "depth-probe": (
        ["a", "b", "c"],
        {"image": ["a", "b", "c"], "pixels": [10, 20, 0], "rmse": [0.5, 0.25, np.nan]},
    ),
    "boxes": (
        ["a [0.0]", "a [1.0]", "b [0.0]", "c [0.0]"],
        {
            "image": ["a [0.0]", "a [1.0]", "b [0.0]", "c [0.0]"],
            "label": ["pear", "pear", "apple", "fig"],
            "prediction": ["pear", "apple", "apple", "pear"],
            "rank": [1, 2, 1, 3],
            "area": [0.25, 0.001, 0.01, 0.5],
            "group": ["thing", "thing", "stuff", "thing"],
        },
    ),
    "assoc": ([], {"jaccard": [1, 0.5, 0.25], "candidates": [5, 6, 10]}),
    "ood": (
        ["a", "b", "c", "d"],
        {
            "image": ["a", "b", "c", "d"],
            "inside": [True, True, False, False],
            "mcm": [0.75, 0.5, 0.625, 0.25],
            "max_logit": [0.5, 0.375, 0.25, 0.125],
        },
    ),
    "ranking": (
        [],
        {"query": [0, 0, 0, 1], "item": [7, 2, 0, 5], "rank": [1, 3, 4, 2]},
    ),
    "probe": (
        ["a", "b", "c", "d"],
        {
            "image": ["a", "b", "c", "d"],
            "label": ["pear", "pear", "apple", "fig"],
            "linear": ["pear", "pear", "apple", "apple"],
            "neighbours": ["pear", "apple", "apple", "apple"],
        },
    ),
}


@pytest.mark.parametrize("task", EXPECTED)
def test_every_task_has_a_table_of_its_samples(task, tmp_path):
    names, columns = EXPECTED[task]
    samples = {**SAMPLES[task], **({"name": np.array(names)} if names else {})}
    table = cosmos_eval.load_samples(store_result(tmp_path, task, samples))
    nullable = {name: "Int64" for name in ("caption", "rank") if name in columns}
    expected = pd.DataFrame(columns).astype(nullable)
    pd.testing.assert_frame_equal(table[list(columns)], expected, check_dtype=False)


def test_labels_below_the_fifth_prediction_have_no_rank(tmp_path):
    top5 = np.array([[1, 2, 3, 4, 5], [0, 1, -1, -1, -1]])
    classes = np.array([f"class {i}" for i in range(6)])
    samples = {"labels": np.array([0, 0]), "top5": top5, "classes": classes}
    table = cosmos_eval.load_samples(store_result(tmp_path, "cls", samples))
    assert table["rank"].isna().tolist() == [True, False]
    assert table["score"].isna().all()  # results of older versions have no probabilities
    assert "image" not in table  # nor names


def test_faces_by_the_names_of_the_answers(tmp_path):
    classes = [f"race:{n}" for n in "abcd"] + ["gender:m", "gender:f", "age:0", "age:1", "age:2"]
    classes += [f"toxic:{n}" for n in range(19)]
    samples = {**SAMPLES["faces"], "classes": np.array(classes), "name": np.array([*"wxyz"])}
    table = cosmos_eval.load_samples(store_result(tmp_path, "faces", samples))
    assert table.iloc[1].to_dict() == {
        "image": "x",
        "race": "b",
        "race_prediction": "a",
        "gender": "f",
        "gender_prediction": "f",
        "age": "2",
        "age_prediction": "1",
        "toxic_prediction": "14",
    }


@pytest.mark.parametrize("task", ["cls", "retrieval", "select"])
def test_measured_results_name_their_images(task, tmp_path):
    name = f"scenes-{task}"
    cosmos_eval.evaluate("scenes-cosmos", name, limit=4, output=tmp_path)
    (path,) = tmp_path.glob("*.json")
    table = cosmos_eval.load_samples(str(path))
    assert table["image"].str.contains("0000000000").all()
    assert len(table) >= 4


def test_values_that_are_not_results_are_refused(tmp_path):
    path = store_result(tmp_path, "cls")
    with pytest.raises(UsageError, match="is a folder, not a file"):
        cosmos_eval.load_samples(tmp_path)
    next(tmp_path.glob("*.npz")).unlink()
    with pytest.raises(UsageError, match="cannot be read: no such file"):
        cosmos_eval.load_samples(path)
