"""Groups of images: worst-group accuracy from a user's files, and bad files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.results import store_result

from cosmos_eval.tasks import classification, find_protocol
from cosmos_eval.types import ClassificationProtocol, RunOptions, UsageError

# Of the red images one is right on land and none in the water; of the blue ones both are.
IMAGES = {
    "red/1.png": ("red", "land"),
    "red/2.png": ("blue", "land"),
    "red/3.png": ("blue", "water"),
    "blue/1.png": ("blue", "land"),
    "blue/2.png": ("blue", "water"),
}
CSV = "image,class,group\n" + "".join(
    f"{name},{name.partition('/')[0]},{place}\n" for name, (_, place) in IMAGES.items()
)


@pytest.fixture
def protocol_of(
    tmp_path: Path, save_colour: Callable[..., Path]
) -> Callable[..., ClassificationProtocol]:
    """Return a function that writes a file of groups and a protocol of it, and reads the latter."""
    for name, (colour, _) in IMAGES.items():
        save_colour(tmp_path / "images" / name, colour)

    def make(groups: str = CSV, keys: str = "", file: str = "groups.csv") -> ClassificationProtocol:
        (tmp_path / file).write_text(groups)
        text = f"kind: cls\nfolder: images\ntemplates: ['{{}}']\ngroup_file: {file}\n{keys}"
        (tmp_path / "birds.yaml").write_text(text)
        protocol = find_protocol(str(tmp_path / "birds.yaml"))
        assert isinstance(protocol, ClassificationProtocol)
        return protocol

    return make


def test_metrics_of_groups_solved_by_hand(protocol_of, colour_encoder, command, tmp_path):
    result = classification.TASK.measure_one(colour_encoder, protocol_of(), RunOptions())
    # land: red/1 and blue/1 of three; water: blue/2 of two.
    expected = {"acc1_land": 2 / 3, "acc1_water": 1 / 2, "worst_group_acc1": 1 / 2}
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected)
    methods = {name: result.intervals[name].method for name in expected}
    names = ("wilson", "wilson", "exact, lowest of groups")
    assert methods == dict(zip(expected, names, strict=True))
    assert result.samples["groups"].tolist() == ["land", "water"]
    store_result(tmp_path / "runs", "cls", result.samples)
    assert "1 verified" in command("verify", str(tmp_path / "runs")).out
    leaderboard = command("leaderboard", str(tmp_path / "runs"), "--format", "md").out
    assert "worst-group acc1" in leaderboard


def test_groups_by_several_keys(protocol_of, colour_encoder):
    lines = [
        {"file": name, "y": name.partition("/")[0], "wet": int(place == "water")}
        for name, (_, place) in IMAGES.items()
    ]
    protocol = protocol_of(
        "\n".join(map(json.dumps, lines)), "group_keys: [y, wet]\nimage_key: file\n", "g.jsonl"
    )
    metrics = classification.TASK.measure_one(colour_encoder, protocol, RunOptions()).metrics
    assert {name: value for name, value in metrics.items() if name.startswith("acc1_")} == {
        "acc1_blue, 0": 1,
        "acc1_blue, 1": 1,
        "acc1_red, 0": 0.5,
        "acc1_red, 1": 0,
    }
    assert metrics["worst_group_acc1"] == 0
    # The first image of each class: groups without an image have no accuracy and are no worst.
    few = classification.TASK.measure_one(colour_encoder, protocol, RunOptions(limit=2))
    assert few.metrics["worst_group_acc1"] == 1
    assert "acc1_red, 1" not in few.metrics


def test_results_of_other_groups_are_not_compared(protocol_of, colour_encoder):
    hashes = [
        classification.TASK.measure_one(colour_encoder, protocol_of(groups), RunOptions()).hashes[
            "groups"
        ]
        for groups in (CSV, CSV.replace("blue,land", "blue,water"), CSV)
    ]
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (CSV.replace("red/2.png,red,land\n", ""), "gives image red/2.png of .* no group"),
        (CSV + "red/9.png,red,land\n", "lists 1 images that .*: red/9.png; nearest: red/"),
        (CSV + "red/1.png,red,water\n", "line 7: image red/1.png is listed twice"),
        (CSV.replace("blue,land", "blue,"), "line 5: `group` must be text or a whole number"),
        (CSV.replace("group", "place"), "line 2: `group` must be text or .*, not None"),
        ("", "gives image .* no group"),
    ],
)
def test_bad_groups_are_refused(groups, message, protocol_of):
    with pytest.raises(UsageError, match=f"^birds: .*{message}") as raised:
        classification.TASK.open_data(protocol_of(groups), RunOptions())
    assert "\n" not in str(raised.value)


def test_a_file_of_groups_that_is_not_there_is_status_2(protocol_of, command, tmp_path):
    protocol_of()
    (tmp_path / "groups.csv").unlink()
    completed = command("run", "--dataset", str(tmp_path / "birds.yaml"), "--model", "scenes-clip")
    assert completed.status == 2
    assert f"`group_file`: {tmp_path / 'groups.csv'}: no such file" in completed.err.replace(
        "\n", " "
    )
