"""Groups of trainings in leaderboards."""

import csv
import io
import json

import numpy as np
import pytest
from support.html import Page
from support.rows import make_row, write_result

from cosmos_eval.results.leaderboard.entries import entries_of
from cosmos_eval.results.leaderboard.groups import group_means, group_table
from cosmos_eval.results.leaderboard.writers import (
    WRITERS,
    Leaderboard,
    to_json,
    to_markdown,
)
from cosmos_eval.results.store import read_stored
from cosmos_eval.results.table import TableOptions
from cosmos_eval.types import UsageError

TRAINING = dict.fromkeys(["recipe_sha256", "data_sha256", "samples", "flops"])
ALL, HALF = [1] * 8, [1, 1, 1, 1, 0, 0, 0, 0]


def store(folder, name, hits, *, seed, group="clip", **provenance):
    """Store a classification of eight images of class 0, of which `hits` are right."""
    hits = np.array(hits, bool)
    top5 = np.where(hits[:, None], [[0, 1]], [[1, 0]])
    samples = {
        "labels": np.zeros(8, np.int64),
        "top5": top5.astype(np.int64),
        "classes": np.array(["a", "b"]),
    }
    model = {"spec": f"cosmos:{name}.pt", "weights_sha256": f"{sum(map(ord, name)):064x}"}
    if group is not None:
        model["training"] = {**TRAINING, "group": group, "seed": seed}
    hashes = {"hashes": {"sample_list": "1" * 64}, **provenance}
    metrics = {"acc1": float(hits.mean())}
    row = make_row(hashes, model, metrics=metrics, intervals={}, per_class={}, n_samples=8)
    return write_result(folder, row, samples)


def means(*paths):
    return group_means(entries_of(read_stored(paths)))


def test_a_group_is_one_row_with_its_seeds(tmp_path):
    """By hand: accuracies 1 and 1/2 vary by 1/8. Of images they vary by 0 and by
    1/4 x 8/7 / 8 = 1/28, half of which is 1/56 on average, and do not vary together."""
    paths = [store(tmp_path, "a", ALL, seed=0), store(tmp_path, "b", HALF, seed=1)]
    paths.append(store(tmp_path, "c", HALF, seed=0, group=None))
    (single,) = [mean for mean in means(*paths) if len(mean.seeds) == 1]
    (group,) = [mean for mean in means(*paths) if len(mean.seeds) == 2]
    assert (group.group, group.seeds, group.estimate.a) == ("clip", (0, 1), 0.75)
    assert group.seed_sd == pytest.approx((1 / 8 - 1 / 56) ** 0.5)
    low, high = group.estimate.interval()[:2]
    # By Student's t of 1 degree of freedom, 12.706, from a table.
    assert high - low == pytest.approx(2 * 12.706 * (1 / 8 / 2) ** 0.5, rel=1e-4)
    leaderboard = Leaderboard(entries_of(read_stored(paths)), groups=[single, group])
    text = to_markdown(leaderboard)
    assert "| clip | acc1 | 2 | 75.0 | 32.73 | 9.45 |" in text
    assert [*single.cells(TableOptions(decimals=2, intervals=False)).values()] == [
        *("cosmos:c.pt", "scenes-cls", "scenes", "acc1"),
        *("1", "50.00", "-", "18.90", ""),
    ]
    record = json.loads(to_json(leaderboard))["groups"][1]
    assert (record["group"], record["trainings"], record["mean"]) == ("clip", 2, 0.75)
    low, high = single.estimate.interval()[:2]
    # By Student's t of 7 degrees of freedom, 2.3646, from a table.
    assert high - low == pytest.approx(2 * 2.3646 * (1 / 28) ** 0.5, rel=1e-4)


def test_groups_by_name_or_from_the_best_down(tmp_path):
    paths = [store(tmp_path, "a", HALF, seed=0, group="one")]
    paths.append(store(tmp_path, "b", ALL, seed=0, group="two"))
    for sort, expected in (("", "one two"), ("model", "one two"), ("acc1", "two one")):
        rows = group_table(means(*paths), TableOptions(sort=sort)).rows
        assert [row[0].text for row in rows] == expected.split()


def test_every_form_has_the_groups(tmp_path):
    """The standard error by images of the mean of 1 and 1/2 is (1/28)^0.5 / 2."""
    paths = [store(tmp_path, "a", ALL, seed=0), store(tmp_path, "b", HALF, seed=1)]
    entries = entries_of(read_stored(paths))
    shown = Leaderboard(entries, groups=group_means(entries))
    forms = {form: write(shown) for form, write in WRITERS.items()}
    first, second, line = csv.DictReader(io.StringIO(forms["csv"]))
    assert [first["trainings"], second["trainings"]] == ["", ""]
    named = [line[name] for name in ("model", "dataset", "metric", "value", "trainings", "source")]
    assert named == ["clip", "scenes-cls", "acc1", "0.75", "2", "measured"]
    assert float(line["seed_sd"]) == pytest.approx((1 / 8 - 1 / 56) ** 0.5)
    assert float(line["image_error"]) == pytest.approx((1 / 28) ** 0.5 / 2)
    assert (float(line["low"]), float(line["high"])) == (0, 1)  # t of about one degree of freedom
    texts = [element.text.strip() for element in Page(forms["html"]).elements]
    assert {"Groups of trainings (%)", "2", "32.73", "9.45"} <= set(texts)
    assert "\nclip & acc1 & 2 & 75.0 & 32.73" in forms["tex"]
    plain = Leaderboard(entries)
    for form in ("tex", "csv"):
        lines = zip(WRITERS[form](plain).splitlines(), forms[form].splitlines(), strict=False)
        assert all(long.startswith(short) for short, long in lines)
    none = Leaderboard([], groups=[])
    assert json.loads(to_json(none)) == {"results": [], "groups": []}


def test_results_that_are_no_replicates_are_refused(tmp_path):
    first = store(tmp_path, "a", ALL, seed=0)
    with pytest.raises(UsageError, match="belong to one training, by its seed or weights"):
        means(first, store(tmp_path, "b", HALF, seed=0))
    other = store(tmp_path, "c", HALF, seed=1, hashes={"sample_list": "2" * 64})
    with pytest.raises(UsageError, match=r"cannot be compared: hashes\.sample_list is"):
        means(first, other)
