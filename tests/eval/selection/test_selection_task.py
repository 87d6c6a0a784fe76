"""Selection measured: cases solved by hand, and the same data by CLIP Benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cosmos_eval.results.settings import describe_mismatches, make_setting
from cosmos_eval.tasks import selection
from cosmos_eval.types import Measurement, Progress, RunOptions, SelectionProtocol

Make = Callable[..., SelectionProtocol]

IMAGES = {"a.png": "red", "b.png": "green", "c.png": "blue"}


def item(image: str, caption: str, *negatives: str, **fields: Any) -> dict[str, Any]:
    return {"image": image, "caption": caption, "negatives": list(negatives), **fields}


ITEMS = [
    item("a.png", "red", "green", subset="one"),
    # "red or green" scores as high as "green or red".
    item("a.png", "red or green", "green or red", subset="two"),
    item("b.png", "green", "red", "blue", subset="two"),
    item("c.png", "blue or red", "red or green", "blue", subset="two"),
]


def figures(result: Measurement) -> dict[str, float]:
    """The metrics that are no reference."""
    return {
        n: value for n, value in result.metrics.items() if not selection.TASK.metric(n).reference
    }


def test_single_images_solved_by_hand(make_set, colour_encoder):
    result = selection.TASK.measure_one(
        colour_encoder, make_set(IMAGES, ITEMS), RunOptions(batch_size=2)
    )
    assert result.samples["correct"].tolist() == [True, False, True, False]
    assert result.samples["cluster"].tolist() == [0, 0, 1, 2]
    assert figures(result) == {
        "accuracy": 0.5,
        "mean_subset_accuracy": pytest.approx((1 + 1 / 3) / 2),
    }
    assert result.per_class["one"]["accuracy"] == 1
    assert result.per_class["two"]["accuracy"] == pytest.approx(1 / 3)
    assert [subset["items"] for subset in result.per_class.values()] == [1, 3]
    assert result.n_samples == 4
    assert result.notes == (
        "1 of 4 items are wrong only because a wrong answer has the score of the right one",
    )
    assert set(result.intervals) == set(figures(result))
    # Two items share an image.
    methods = [interval.method for interval in result.intervals.values()]
    assert methods == ["wilson, effective n", "cluster bootstrap"]
    for name, interval in result.intervals.items():
        assert interval.low <= result.metrics[name] <= interval.high


def pair(names: Sequence[str], *captions: str, **fields: str) -> dict[str, str]:
    """Return a record of two images, which have names without a suffix, and two captions."""
    record = dict(fields)
    for side, (name, caption) in enumerate(zip(names, captions, strict=True)):
        record |= {f"image_{side}": f"{name}.png", f"caption_{side}": caption}
    return record


def test_pairs_solved_by_hand(make_set, colour_encoder):
    images = {**IMAGES, "d.png": "red", "e.png": "blue", "f.png": "green"}
    pairs = [
        pair("ab", "red", "green"),
        # Both captions find their image; for the first image, they score the same.
        pair("cd", "blue", "red or blue"),
        pair("ef", "green", "blue"),
    ]
    protocol = make_set(images, pairs, "pairs.jsonl", layout="pairs")
    result = selection.TASK.measure_one(colour_encoder, protocol, RunOptions())
    assert result.samples["text_correct"].tolist() == [True, True, False]
    assert result.samples["image_correct"].tolist() == [True, False, False]
    assert figures(result) == {
        "text_score": pytest.approx(2 / 3),
        "image_score": pytest.approx(1 / 3),
        "group_score": pytest.approx(1 / 3),
        "accuracy": pytest.approx(1 / 3),
    }
    # The second item is wrong by a tie, and the third one by a higher score.
    assert result.notes == (
        "1 of 3 items are wrong only because a wrong answer has the score of the right one",
    )
    assert result.per_class == {}
    assert {interval.method for interval in result.intervals.values()} == {"wilson"}


@pytest.mark.parametrize(("rule", "expected"), [("group", False), ("image", True)])
def test_a_pair_may_count_only_by_its_images(make_set, colour_encoder, tmp_path, rule, expected):
    protocol = make_set(
        {"a.png": "red"},
        # The red image scores the same with both; each caption prefers its image.
        [pair("ab", "red or green", "red or blue")],
        layout="pairs",
        pair_accuracy=rule,
    )
    Image.new("RGB", (8, 6), (255, 0, 128)).save(tmp_path / "images" / "b.png")
    result = selection.TASK.measure_one(colour_encoder, protocol, RunOptions())
    assert result.metrics["text_score"] == 0
    assert result.metrics["image_score"] == 1
    assert result.metrics["accuracy"] == expected


def test_results_of_different_rules_for_pairs_cannot_be_compared(make_set, colour_encoder):
    images = {"a.png": "red", "b.png": "blue"}
    settings = []
    for rule in ("group", "image"):
        protocol = make_set(images, [pair("ab", "red", "blue")], layout="pairs", pair_accuracy=rule)
        result = selection.TASK.measure_one(colour_encoder, protocol, RunOptions())
        settings.append(make_setting("select", "pairs", "user", 1, {"hashes": result.hashes}))
    (mismatch,) = describe_mismatches(*settings)
    assert mismatch.startswith("hashes.pair_accuracy is missing and ")
    # Results by the default rule keep the hashes that they had before.
    assert settings[0].keys() == {"task", "dataset", "protocol", "n_samples", "hashes.content"} | {
        "hashes.sample_list"
    }


def test_items_that_share_images_through_others_are_one_cluster(make_set, colour_encoder):
    images = {f"{name}.png": "red" for name in "abcdef"}
    pairs = [pair(names, "red", "blue") for names in ("ab", "cd", "ef", "bc")]
    protocol = make_set(images, pairs, layout="pairs")
    result = selection.TASK.measure_one(colour_encoder, protocol, RunOptions())
    assert result.samples["cluster"].tolist() == [0, 0, 1, 0]


def test_every_image_and_caption_is_encoded_once(make_set, colour_encoder):
    steps: list[Progress] = []
    protocol = make_set(IMAGES, ITEMS)
    selection.TASK.measure_one(colour_encoder, protocol, RunOptions(), steps.append)
    assert {step.phase: step.total for step in steps} == {"images": 3, "captions": 6}


def test_limit_takes_subsets_in_turn(make_set, colour_encoder):
    protocol = make_set(IMAGES, ITEMS[1:] + ITEMS[:1])
    result = selection.TASK.measure_one(colour_encoder, protocol, RunOptions(limit=2))
    assert result.samples["subset"].tolist() == [1, 0]
    assert result.notes[0] == "at most 2 items were measured"
    of_one_item = selection.TASK.measure_one(colour_encoder, protocol, RunOptions(limit=1))
    assert set(of_one_item.per_class["two"].values()) == {None, 0}
    assert set(figures(of_one_item)) == {"accuracy"}


def test_subsets_left_out_of_the_mean(make_set, colour_encoder):
    items = [*ITEMS, item("b.png", "red", "green", subset="three")]
    protocol = make_set(IMAGES, items, left_out=("three",))
    result = selection.TASK.measure_one(colour_encoder, protocol, RunOptions())
    assert result.metrics["accuracy"] == pytest.approx(2 / 5)
    assert result.metrics["mean_subset_accuracy"] == pytest.approx(2 / 3)
    assert result.per_class["three"]["accuracy"] == 0
    few = selection.TASK.measure_one(
        colour_encoder, make_set(IMAGES, items, "few.json", smallest=2), RunOptions()
    )
    assert "mean_subset_accuracy" not in few.metrics
    assert "mean_subset_accuracy" not in few.intervals


def test_the_sample_list_is_hashed(make_set, colour_encoder):
    def sample_hash(items: list[dict[str, Any]], file: str, **fields: Any) -> str:
        protocol = make_set(IMAGES, items, file, **fields)
        result = selection.TASK.measure_one(colour_encoder, protocol, RunOptions())
        return result.hashes["sample_list"]

    expected = sample_hash(ITEMS, "a.json")
    assert sample_hash(ITEMS, "b.json") == expected
    with_other_caption = [{**ITEMS[0], "caption": "red."}, *ITEMS[1:]]
    assert sample_hash(with_other_caption, "c.json") != expected
    with_other_subset = [{**ITEMS[0], "subset": "two"}, *ITEMS[1:]]
    assert sample_hash(with_other_subset, "d.json") != expected
    assert sample_hash(ITEMS, "e.json", template="a photo of {}") != expected


def test_unsolvable_items_of_a_published_set_are_noted(make_set, colour_encoder):
    items = [item("a.png", "red", "red"), item("b.png", "green", "blue")]
    result = selection.TASK.measure_one(
        colour_encoder, make_set(IMAGES, items, n_items=2), RunOptions()
    )
    assert (result.metrics["accuracy"], result.metrics["chance"]) == (0.5, 0.25)
    assert result.notes == (
        "1 items have a wrong caption equal to the right one and count as wrong",
        "1 of 2 items are wrong only because a wrong answer has the score of the right one",
    )


@pytest.mark.parametrize(("n_images", "n_captions"), [(1, 2), (1, 4), (2, 2)])
def test_metrics_are_clip_benchmarks(make_set, colour_encoder, tmp_path, n_images, n_captions):
    """Each of 60 items has one or two random images and some captions."""
    from clip_benchmark.metrics.image_caption_selection import evaluate

    rng = np.random.default_rng(n_captions)
    # Equal captions would tie, which CLIP Benchmark counts as right.
    texts = ["red", "green", "blue", "red, green", "red, blue", "green, blue", "nothing"]
    captions_of_items = [rng.permutation(texts)[:n_captions].tolist() for _ in range(60)]
    items, loader = [], []
    folder = tmp_path / "images"
    folder.mkdir()
    for number, captions in enumerate(captions_of_items):
        names = [f"{number}_{side}" for side in range(n_images)]
        paths = [folder / f"{name}.png" for name in names]
        for path in paths:
            Image.new("RGB", (4, 4), tuple(rng.integers(0, 256, 3).tolist())).save(path)
        if n_images == 1:
            items.append(item(paths[0].name, *captions))
        else:
            items.append(pair(names, *captions))
        images = torch.stack([colour_encoder.transform(Image.open(path)) for path in paths])
        loader.append((images[None] if n_images == 2 else images, [captions]))
    protocol = make_set({}, items, layout="items" if n_images == 1 else "pairs")
    metrics = selection.TASK.measure_one(colour_encoder, protocol, RunOptions()).metrics
    expected = evaluate(colour_encoder, loader, colour_encoder.tokenize, "cpu", amp=False)
    assert 0 < expected["acc"] < 1
    assert metrics["accuracy"] == pytest.approx(expected["acc"])
    if n_images == 2:
        assert metrics["text_score"] == pytest.approx(expected["text_acc"])
        assert metrics["image_score"] == pytest.approx(expected["image_acc"])
        assert metrics["group_score"] == pytest.approx(expected["acc"])
