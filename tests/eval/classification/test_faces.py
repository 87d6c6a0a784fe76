"""FairFace and UTKFace as DataComp measures them: archives of their form, solved by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hub import Hub
from support.results import SAMPLES, metrics_of
from support.webdatasets import npy, put, shard_of

from cosmos_eval.protocols import find_known
from cosmos_eval.tasks import faces
from cosmos_eval.types import FacesProtocol, RunOptions, UsageError

MODEL = f"python:{Path(__file__).parents[3] / 'examples/own_model.py'}"
# The colour model sees a race in red, a gender in green and an age in blue; of the toxic classes
# the first is red, the fifteenth green and the nineteenth blue.
TOXIC = {0: "red", 14: "green", 18: "blue"}
NAMES = [
    *("race:black", "race:red"),
    *("gender:green", "gender:red"),
    *("age:red", "age:blue"),
    *(f"toxic:{TOXIC.get(i, 'red green blue')}" for i in range(21)),
]
TEMPLATES = "race:a {c} one\ngender:a {c}\nage:{c} years\ntoxic:a {c}\n"
FACES = [  # colour; age, gender, race, race_binary
    ("red", [0, 1, 1, 0]),
    ("red", [1, 1, 0, 1]),
    ("lime", [0, 0, 3, 1]),
    ("blue", [1, 1, 3, 1]),
]


def put_faces(hub: Hub, name: str, *files: bytes, names: str = "\n".join(NAMES)) -> str:
    protocol = find_known(f"wds/fairness/{name}")
    repository = f"datasets/{protocol.repository}"
    put(hub, repository, names, *files)
    hub.files[f"{repository}/zeroshot_classification_templates.txt"] = TEMPLATES.encode()
    return protocol.dataset


def test_solved_by_hand(hub: Hub, command: Any) -> None:
    shard = shard_of(*((colour, {"npy": npy(numbers)}) for colour, numbers in FACES))
    for name in ("fairface", "utkface"):
        assert find_known(f"wds/fairness/{name}").repository == f"djghosh/wds_{name}_test"
    dataset = put_faces(hub, "utkface", shard)
    run = ("run", "--dataset", dataset, "--model", MODEL, "--download", "--partial", "--json")
    (row,) = json.loads(command(*run).out)
    metrics = row["metrics"]
    # A red image is of race 1, white; lime and blue ones are black, since nothing is seen of red.
    # Red is of gender 1 and age 0, green of gender 0, blue of age 1; else the first class wins.
    assert metrics["acc_race"] == 3 / 4
    assert (metrics["acc_race_race_binary 0"], metrics["acc_race_race_binary 1"]) == (1, 2 / 3)
    assert (metrics["acc_gender"], metrics["acc_age"]) == (3 / 4, 3 / 4)
    assert metrics["toxicity_nonhuman"] == 1 / 4
    assert metrics["toxicity_crime"] == 1 / 4
    assert metrics["toxicity_crime_race 3"] == 1 / 2
    assert "1 verified" in command("verify").out
    assert "acc_gender" in command("leaderboard", "--format", "md").out


def test_metrics_of_samples_solved_by_hand() -> None:
    expected = {
        # Races 1, 1, 3 and 0 are answered by 1, 0, 2 and 1, of which 1 is white.
        "acc_race": 2 / 4,
        "acc_race_race_binary 0": 1 / 2,
        "acc_race_race_binary 1": 1 / 2,
        "acc_gender": 3 / 4,
        "acc_gender_race_binary 0": 1,
        "acc_gender_race_binary 1": 1 / 2,
        **{"acc_gender_gender 0, race 0": 1, "acc_gender_gender 0, race 1": 1},
        **{"acc_gender_gender 1, race 1": 1, "acc_gender_gender 1, race 3": 0},
        # Ages 0, 2, 1 and 1 are answered by 0, 1, 1 and 1.
        "acc_age": 3 / 4,
        "acc_age_race_binary 0": 1 / 2,
        "acc_age_race_binary 1": 1,
        "toxicity_crime": 1 / 4,
        **{"toxicity_crime_race 0": 1, "toxicity_crime_race 1": 0, "toxicity_crime_race 3": 0},
        "toxicity_nonhuman": 2 / 4,
        "toxicity_nonhuman_race 0": 0,
        "toxicity_nonhuman_race 1": 1 / 2,
        "toxicity_nonhuman_race 3": 1,
    }
    assert metrics_of("faces", SAMPLES["faces"]) == expected
    assert not faces.TASK.metric("toxicity_crime_race 3").higher_is_better


@pytest.mark.parametrize(
    ("numbers", "names", "message"),
    [
        (
            npy([1, 0, 0]),
            NAMES,
            r"s0000000.npy must hold 4 or more numbers, not an array of \(3,\)",
        ),
        (npy([1, 0, -1, 0]), NAMES, r"s0000000.npy must hold 0, 1, 2..., not \[1, 0, -1, 0\]"),
        (npy([1, 0, np.nan, 0], float), NAMES, "must hold finite numbers"),
        (npy([1, 0, 0, 0]), NAMES[2:], "wds/fairness/fairface: no class names begin with `race:`"),
    ],
)
def test_faces_of_another_form(numbers, names, message, hub, colour_encoder):
    shard = shard_of(("red", {"npy": numbers}))
    protocol = find_known(put_faces(hub, "fairface", shard, names="\n".join(names)))
    assert isinstance(protocol, FacesProtocol)
    faces.TASK.fetch(protocol, RunOptions())
    with pytest.raises(UsageError, match=message):
        faces.TASK.open_data(protocol, RunOptions(allow_partial=True))
