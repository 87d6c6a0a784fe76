"""Selection measured: cases solved by hand, and the same data by CLIP Benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cosmos_eval.tasks import selection
from cosmos_eval.types import Measurement, RunOptions, SelectionProtocol

Make = Callable[..., SelectionProtocol]

IMAGES = {"a.png": "red", "b.png": "green", "c.png": "blue"}


def item(image: str, caption: str, *wrong: str, **more: Any) -> dict[str, Any]:
    return {"image": image, "caption": caption, "negatives": list(wrong), **more}


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
    assert [one["items"] for one in result.per_class.values()] == [1, 3]
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


def pair(images: str, *captions: str, **more: str) -> dict[str, str]:
    named = {f"image_{side}": f"{name}.png" for side, name in enumerate(images)}
    return {**named, **{f"caption_{side}": text for side, text in enumerate(captions)}, **more}


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
    thirds = {"text_score": 2, "image_score": 1, "group_score": 1, "accuracy": 1}
    assert figures(result) == {name: pytest.approx(n / 3) for name, n in thirds.items()}
    # The second item is wrong by a tie, and the third one by a higher score.
    assert result.notes == (
        "1 of 3 items are wrong only because a wrong answer has the score of the right one",
    )
    assert result.per_class == {}
    assert {interval.method for interval in result.intervals.values()} == {"wilson"}


@pytest.mark.parametrize(("rule", "expected"), [("group", False), ("image", True)])
def test_a_pair_may_count_by_its_images_alone(make_set, colour_encoder, tmp_path, rule, expected):
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


def test_items_that_share_images_by_way_of_others_are_one_cluster(make_set, colour_encoder):
    images = {f"{name}.png": "red" for name in "abcdef"}
    pairs = [pair(two, "red", "blue") for two in ("ab", "cd", "ef", "bc")]
    result = selection.TASK.measure_one(
        colour_encoder, make_set(images, pairs, layout="pairs"), RunOptions()
    )
    assert result.samples["cluster"].tolist() == [0, 0, 1, 0]


def test_every_image_and_caption_is_encoded_once(make_set, colour_encoder):
    seen: dict[str, int] = {}
    selection.TASK.measure_one(
        colour_encoder,
        make_set(IMAGES, ITEMS),
        RunOptions(),
        lambda step: seen.update({step.phase: step.total}),
    )
    assert seen == {"images": 3, "captions": 6}


def test_limit_takes_subsets_in_turn(make_set, colour_encoder):
    protocol = make_set(IMAGES, ITEMS[1:] + ITEMS[:1])
    result = selection.TASK.measure_one(colour_encoder, protocol, RunOptions(limit=2))
    assert result.samples["subset"].tolist() == [1, 0]
    assert result.notes[0] == "at most 2 items were measured"
    alone = selection.TASK.measure_one(colour_encoder, protocol, RunOptions(limit=1))
    assert set(alone.per_class["two"].values()) == {None, 0}
    assert set(figures(alone)) == {"accuracy"}


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
    def hashes(items: list[dict[str, Any]], file: str, **fields: Any) -> str:
        protocol = make_set(IMAGES, items, file, **fields)
        return selection.TASK.measure_one(colour_encoder, protocol, RunOptions()).hashes[
            "sample_list"
        ]

    first = hashes(ITEMS, "a.json")
    assert first == hashes(ITEMS, "b.json")
    other = [{**ITEMS[0], "caption": "red."}, *ITEMS[1:]]
    moved = [{**ITEMS[0], "subset": "two"}, *ITEMS[1:]]
    assert first not in (
        hashes(other, "c.json"),
        hashes(moved, "d.json"),
        hashes(ITEMS, "e.json", template="a photo of {}"),
    )


def test_what_a_published_set_leaves_unsolvable_is_noted(make_set, colour_encoder):
    items = [item("a.png", "red", "red"), item("b.png", "green", "blue")]
    result = selection.TASK.measure_one(
        colour_encoder, make_set(IMAGES, items, n_items=2), RunOptions()
    )
    assert (result.metrics["accuracy"], result.metrics["chance"]) == (0.5, 0.25)
    assert result.notes == (
        "1 items have a wrong caption equal to the right one and count as wrong",
        "1 of 2 items are wrong only because a wrong answer has the score of the right one",
    )


@pytest.mark.parametrize(("per_item", "captions"), [(1, 2), (1, 4), (2, 2)])
def test_equals_clip_benchmark(make_set, colour_encoder, tmp_path, per_item, captions):
    from clip_benchmark.metrics.image_caption_selection import evaluate

    rng = np.random.default_rng(captions)
    # Colours that captions can name; two that name the same would tie, which they count as right.
    known = ["red", "green", "blue", "red, green", "red, blue", "green, blue", "nothing"]
    texts = [list(rng.permutation(known)[:captions]) for _ in range(60)]
    items, loader = [], []
    folder = tmp_path / "images"
    folder.mkdir()
    for n, some in enumerate(texts):
        names = [f"{n}_{side}.png" for side in range(per_item)]
        for name in names:
            Image.new("RGB", (4, 4), tuple(rng.integers(0, 256, 3).tolist())).save(folder / name)
        if per_item == 1:
            items.append(item(names[0], *map(str, some)))
        else:
            items.append(
                {
                    f"{kind}_{i}": str(v)
                    for kind, two in (("image", names), ("caption", some))
                    for i, v in enumerate(two)
                }
            )
        images = torch.stack([colour_encoder.transform(Image.open(folder / f)) for f in names])
        loader.append((images[None] if per_item == 2 else images, [some]))
    protocol = make_set({}, items, layout="items" if per_item == 1 else "pairs")
    ours = selection.TASK.measure_one(colour_encoder, protocol, RunOptions()).metrics
    theirs = evaluate(colour_encoder, loader, colour_encoder.tokenize, "cpu", amp=False)
    assert 0 < theirs["acc"] < 1
    assert ours["accuracy"] == pytest.approx(theirs["acc"])
    if per_item == 2:
        assert ours["text_score"] == pytest.approx(theirs["text_acc"])
        assert ours["image_score"] == pytest.approx(theirs["image_acc"])
        assert ours["group_score"] == pytest.approx(theirs["acc"])
