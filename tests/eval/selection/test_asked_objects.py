"""Items that state which object they ask about: read, measured by hand, compared, checked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models import store

from cosmos_core.data.scenes import TEST, THINGS
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_eval.data.selection import open_data
from cosmos_eval.results.store import read_result
from cosmos_eval.tasks import metric_of, selection
from cosmos_eval.types import RunOptions, UsageError

IMAGES = {"a.png": "red", "b.png": "green", "c.png": "blue"}
RED = {"image": "a.png", "caption": "red", "negative": "green"}
# The third item is wrong, since its first wrong caption names the same colours.
ITEMS = [
    {**RED, "object": "dominant", "word": "kind", "area": 0.4, "dominant_area": 0.4},
    {**RED, "object": "small", "word": "kind", "area": 0.02, "dominant_area": 0.4},
    {
        "image": "a.png",
        "caption": "red or blue",
        "negatives": ["blue or red", "green"],
        "object": "small",
        "word": "place",
        "area": 0.03,
        "dominant_area": 0.4,
    },
    {
        "image": "b.png",
        "caption": "green",
        "negative": "red",
        "object": "dominant",
        "word": "place",
        "area": 0.2,
        "dominant_area": 0.2,
    },
    {"image": "c.png", "caption": "red", "negative": "blue"},  # of no object, and wrong
]


def test_measured_by_hand(make_set, colour_encoder):
    result = selection.TASK.measure_one(colour_encoder, make_set(IMAGES, ITEMS), RunOptions())
    assert result.samples["correct"].tolist() == [True, True, False, True, False]
    assert result.samples["object"].tolist() == ["dominant", "small", "small", "dominant", ""]
    metrics = result.metrics
    assert metrics["accuracy"] == 3 / 5
    assert metrics["accuracy_dominant"] == 1
    assert metrics["accuracy_small"] == 1 / 2
    assert metrics["suppression"] == 1 / 2
    assert (metrics["suppression_kind"], metrics["suppression_place"]) == (0, 1)
    assert (metrics["accuracy_small_kind"], metrics["accuracy_small_place"]) == (1, 0)
    assert "suppression_blind" in metrics
    assert "suppression_blind" not in result.intervals
    assert result.intervals["suppression"].method == "wilson, difference"
    assert "odds_small_by_dominant_area" not in metrics  # all areas are equal
    # The three items of a.png are one cluster.
    assert result.samples["cluster"].tolist() == [0, 0, 0, 1, 2]


def test_loss_beside_a_dominant_object_by_hand(make_set, colour_encoder):
    """Two of four small objects are recognised beside a dominant one, and three without one."""
    items = []
    for role, wrong_words in (("small", ["kind", "place"]), ("control", ["place"])):
        for number, word in enumerate(["kind", "kind", "place", "place"]):
            # A wrong caption that names the same colours scores the same, and the item is wrong.
            is_wrong = word in wrong_words and number in (0, 2)
            negative = "red as well" if is_wrong else "green"
            item = {**RED, "negative": negative, "object": role, "word": word}
            items.append({**item, "image": f"{role}.png", "pair_id": number})
    images = {"small.png": "red", "control.png": "red"}
    result = selection.TASK.measure_one(colour_encoder, make_set(images, items), RunOptions())
    metrics = result.metrics
    assert (metrics["accuracy_small"], metrics["accuracy_control"]) == (2 / 4, 3 / 4)
    assert metrics["loss_beside_dominant"] == 1 / 4
    assert metrics["loss_beside_dominant_kind"] == 1 / 2
    assert metrics["loss_beside_dominant_place"] == 0
    assert metrics["accuracy_control_place"] == 1 / 2
    assert metrics["accuracy_of_pairs"] == 2 / 4
    assert "suppression" not in metrics
    assert "loss_beside_dominant_blind" in metrics
    assert result.intervals["loss_beside_dominant"].method == "wilson, difference"
    metric = metric_of("select", "loss_beside_dominant")
    assert (metric.unit, metric.higher_is_better, metric.primary) == ("difference", False, False)


def test_thirds_of_the_dominant_area(make_set, colour_encoder):
    records = []
    for area in (0.5, 0.1, 0.3, 0.2, 0.6, 0.4, 0.7):
        # A wrong caption of the same colour scores the same, and the item is wrong.
        wrong = "red as well" if area in (0.3, 0.7) else "blue"
        record = {**RED, "negative": wrong, "area": 0.02, "dominant_area": area}
        records.append({**record, "caption": f"red beside {area}"})
    result = selection.TASK.measure_one(colour_encoder, make_set(IMAGES, records), RunOptions())
    thirds = [
        result.metrics[f"accuracy_small_by_dominant_area_{third}"]
        for third in ("low", "middle", "high")
    ]
    assert thirds == [2 / 3, 1, 1 / 2]  # up to 0.3, up to 0.5, and above
    assert set(result.samples["object"]) == {"small"}  # by their areas
    assert "suppression" not in result.metrics


def test_a_role_follows_from_areas(make_set):
    records = [
        {**RED, "area": "0.2", "dominant_area": "0.2"},
        {**RED, "area": 0.1, "dominant_area": 0.2},
        {**RED, "dominant_area": 0.2},
        {**RED, "object": "small", "area": 0.2, "dominant_area": 0.2},
    ]
    asked = open_data(make_set(IMAGES, records), RunOptions()).asked
    assert asked["object"].tolist() == ["dominant", "small", "", "small"]
    assert math.isnan(asked["area"][2])
    assert "word" not in asked


def test_roles_in_capitals_are_refused_and_not_ignored(make_set):
    records = [{**RED, "object": "Small"}, {**RED, "object": "Dominant "}]
    with pytest.raises(UsageError, match="must be dominant, small or control, not 'Small'"):
        open_data(make_set(IMAGES, records), RunOptions())


def test_equal_areas_make_no_thirds(make_set, colour_encoder):
    records = [
        {**RED, "caption": f"red beside {number}", "area": 0.02, "dominant_area": area}
        for number, area in enumerate((0.3, 0.3, 0.3, 0.5, 0.5, 0.5))
    ]
    result = selection.TASK.measure_one(colour_encoder, make_set(IMAGES, records), RunOptions())
    assert not [name for name in result.metrics if name.startswith("accuracy_small_by_dominant")]


def test_fields_of_these_names_may_hold_something_else(make_set):
    """Files from before: nothing in them states an object."""
    records = [{**RED, "object": "dog", "word": 3, "area": "the kitchen"}]
    assert open_data(make_set(IMAGES, records), RunOptions()).asked == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"object": "Small"}, "record 1: `object` must be dominant, small or control, not 'Small'"),
        ({"object": "smal"}, "record 1: `object` must be dominant, small or control, not 'smal'"),
        ({"area": 3}, "`area` must be a fraction of the image, from 0 to 1, not 3"),
        ({"dominant_area": "nan"}, "`dominant_area` must be a fraction of the image"),
        ({"area": True}, "`area` must be a fraction of the image"),
        ({"area": 0.3, "dominant_area": 0.2}, "0.3 is above `dominant_area` 0.2"),
        ({"word": 4}, "`word` must be text such as colour, not 4"),
    ],
)
def test_wrong_values_are_refused(make_set, fields, message):
    records = [{**RED, "object": "small"}, {**RED, **fields}]
    with pytest.raises(UsageError, match=message):
        open_data(make_set(IMAGES, records), RunOptions())


def test_sugarcrepes_form_takes_objects_and_several_wrong_captions(make_set):
    record = {"filename": "a.png", "caption": "red", "negative_caption": ["green", "blue"]}
    files = {"kinds.json": [{**record, "object": "dominant", "word": "kind"}]}
    data = open_data(make_set(IMAGES, files, "data", layout="sugarcrepe"), RunOptions())
    assert data.captions == ("red", "green", "blue")
    assert data.captions_of_item[0].tolist() == [0, 1, 2]
    assert data.asked["object"].tolist() == ["dominant"]


def test_other_objects_are_other_data(make_set, colour_encoder):
    def measured(**changes: Any) -> Any:
        records = [{**ITEMS[0], **changes}, *ITEMS[1:]]
        protocol = make_set(IMAGES, records)
        return selection.TASK.measure_one(colour_encoder, protocol, RunOptions())

    first, other = measured(), measured(area=0.39)
    assert first.hashes["sample_list"] != other.hashes["sample_list"]
    with pytest.raises(ValueError, match="`area` of the samples differs"):
        selection.TASK.differences([first.samples, other.samples])
    relabelled = {**first.samples, "object": first.samples["object"][::-1]}
    with pytest.raises(ValueError, match="`object` of the samples differs"):
        selection.TASK.differences([first.samples, relabelled])
    broken = {**first.samples, "object": np.array(["large"] * 5)}
    with pytest.raises(ValueError, match="`object` holds a text"):
        selection.TASK.require_valid(broken, {})


def test_the_unit_of_a_difference():
    metric = metric_of("select", "suppression_kind")
    assert (metric.unit, metric.factor, metric.bounds) == ("difference", 100, (-1, 1))
    assert not metric.higher_is_better
    assert metric.fault(-0.5) == ""
    assert "from -1 to 1" in metric.fault(-1.5)


def made_up(small: float, seed: int) -> dict[str, Any]:
    """A dominant and two small items for each of 100 images."""
    rng = np.random.default_rng(seed)
    chances = np.tile([0.9, small, small], 100)
    return {
        "correct": rng.random(300) < chances,
        "subset": np.zeros(300, int),
        "subsets": np.array([""]),
        "averaged": np.ones(1, bool),
        "cluster": np.repeat(np.arange(100), 3),
        "object": np.tile(["dominant", "small", "small"], 100),
    }


def test_lower_suppression_is_better_everywhere(command, tmp_path):
    better, worse = made_up(0.85, 1), made_up(0.4, 2)
    store(tmp_path / "old", "select", samples=better)
    clip = {"model": {"spec": "scenes-clip"}}
    store(tmp_path / "old", "select", samples=worse, **clip)
    store(tmp_path / "new", "select", samples=worse)

    board = json.loads(command("leaderboard", "old", "--format", "json").out)
    values = {entry["model"]: entry["metrics"]["suppression"] for entry in board}
    assert values["scenes-cosmos"] < values["scenes-clip"]
    table = command("leaderboard", "old", "--metrics", "suppression").out
    best = next(line for line in table.splitlines() if line.startswith("scenes-cosmos"))
    assert f"{100 * values['scenes-cosmos']:.1f}*" in best

    shown = command(
        "compare",
        "old",
        "--model",
        "scenes-cosmos",
        "--model",
        "scenes-clip",
        "--metrics",
        "suppression",
    )
    assert shown.err == "note: lower is better: suppression\n"

    baseline = ["--baseline", "base.json"]
    update = ["--update", "--reason", "first", "--all-metrics", "--strict"]
    (tmp_path / "old" / read_name(tmp_path / "old", "scenes-clip")).unlink()
    assert command("check", "old", *baseline, *update).status == 0
    completed = command("check", "new", *baseline, "--json")
    assert completed.status == 1
    decided = {row["metric"]: row["decision"] for row in json.loads(completed.out)["findings"]}
    assert decided["suppression"] == "regression"
    assert command("check", "old", *baseline).status == 0


def read_name(folder: Path, spec: str) -> str:
    """The name of the file of a model's result."""
    return next(
        path.name for path in folder.glob("*.json") if read_result(path).model["spec"] == spec
    )


def test_rendered_scenes_of_ones_own(command, tmp_path):
    """A user's set of rendered scenes asks for every object of a scene against absent kinds."""
    write_layouts(tmp_path / "set", split=TEST, count=24, layouts=("coco", "records"))
    scenes = json.loads((tmp_path / "set/annotations.json").read_text())["scenes"]
    records = []
    for scene in scenes:
        scene_objects = scene["things"]
        kinds = [scene_object["kind"] for scene_object in scene_objects]
        dominant_area = max(scene_object["area"] for scene_object in scene_objects)
        for scene_object in scene_objects:
            record = {
                "filename": f"{scene['id']}.jpg",
                "caption": f"a {scene_object['kind']}",
                "negative_caption": [f"a {kind}" for kind in THINGS if kind not in kinds],
                "area": scene_object["area"],
                "dominant_area": dominant_area,
                "word": "kind",
            }
            records.append(record)
    (tmp_path / "set/choices").mkdir()
    (tmp_path / "set/choices/kinds.json").write_text(json.dumps(records))
    lines = ["kind: select", "images: coco/images/test", "annotations: choices"]
    (tmp_path / "set/scenes.yaml").write_text("\n".join([*lines, "layout: sugarcrepe"]))
    completed = command(
        "run", "--dataset", "set/scenes.yaml", "--model", "scenes-clip", "--output", "out"
    )
    assert completed.status == 0
    assert "suppression" in completed.out
    row = read_result(next((tmp_path / "out").glob("*.json")))
    low, high = (row.intervals["suppression"][end] for end in ("low", "high"))
    assert low < row.metrics["suppression"] < high
    assert command("verify", "out").status == 0
