"""Results of localisation in tables, comparisons and checks: labels, ratios, what is compared."""

from __future__ import annotations

import json
from pathlib import Path

from support.models import store

from cosmos_eval.results.identity import model_label
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.store import read_result
from cosmos_eval.tasks import metric_of

BEST_MAP = {"protocol": "localisation", "dataset": "scenes-loc"}
SAME_MAP = {"protocol": "localisation-similarity", "dataset": "scenes-loc"}
CLIP = {"model": {"spec": "scenes-clip"}}


def store_of_map(folder: Path, skill: float, seed: int, kind: str, **changes: object) -> Path:
    """Store a result of a model's own kind of map, which the protocol does not name."""
    provenance = {"map": kind, "protocol_map": None}
    return store(folder, "loc", skill, seed, provenance=provenance, **BEST_MAP, **changes)


def write_both(folder: Path) -> None:
    """Store results of two models by both protocols."""
    store_of_map(folder, 0.4, 1, "cross-attention")
    store_of_map(folder, 0.6, 2, "text-to-patch similarity", **CLIP)
    store(folder, "loc", 0.7, 3, **SAME_MAP)
    store(folder, "loc", 0.6, 2, **SAME_MAP, **CLIP)


def test_tables_tell_the_kinds_of_maps_apart(command, tmp_path):
    write_both(tmp_path / "all")
    entries = json.loads(command("leaderboard", "all", "--format", "json").out)
    assert sorted((entry["protocol"], entry["model"]) for entry in entries) == [
        ("localisation", "scenes-clip (text-to-patch similarity)"),
        ("localisation", "scenes-cosmos (cross-attention)"),
        ("localisation-similarity", "scenes-clip"),
        ("localisation-similarity", "scenes-cosmos"),
    ]
    markdown = command("leaderboard", "all", "--all", "--format", "md").out
    assert markdown.count("scenes-loc (localisation) mass / area |") == 1
    assert markdown.count("scenes-loc (localisation-similarity) mass / area |") == 1
    rows = [line for line in markdown.splitlines() if line.startswith("| scenes-")]
    assert len(rows) == 2
    entry = next(entry for entry in entries if "cross-attention" in entry["model"])
    over_area = entry["metrics"]["mass_over_area"]
    assert over_area > 1
    assert f"{over_area:.2f}x" in rows[1]
    assert f"{100 * entry['metrics']['AUC']:.1f}" in rows[1]
    assert (
        "Maps by localisation: scenes-clip: text-to-patch similarity; scenes-cosmos: "
        "cross-attention." in markdown
    )


def test_the_kind_of_map_is_in_labels_of_results_and_not_in_names_of_models(tmp_path):
    row = read_result(store_of_map(tmp_path, 0.4, 1, "cross-attention"))
    assert model_label(row) == "scenes-cosmos"
    assert StoredResult(Path(), row).label == "scenes-cosmos (cross-attention)"
    assert {name for name in row.metrics if metric_of("loc", name).unit == "ratio"} == {
        f"mass_over_{denominator}{size}"
        for denominator in ("area", "other_names")
        for size in ("", "_small", "_large")
    }


def test_both_protocols_of_a_folder_are_compared(command, tmp_path):
    write_both(tmp_path / "all")
    models = ["--model", "scenes-cosmos", "--model", "scenes-clip"]
    comparison = json.loads(command("compare", "all", "all", *models, "--json").out)
    assert comparison["notes"] == [
        "scenes-loc: map is cross-attention and text-to-patch similarity"
    ]
    headlines = [test for test in comparison["tests"] if test["p_value_holm"] is not None]
    assert {(test["protocol"], test["metric"], test["better"]) for test in headlines} == {
        ("localisation", "attention_mass", "B"),
        ("localisation", "AUC", "B"),
        ("localisation-similarity", "attention_mass", "A"),
        ("localisation-similarity", "AUC", "A"),
    }
    for test in comparison["tests"]:
        if test["metric"] == "mass_over_area_small":
            row = f"{test['a']:.2f} {test['b']:.2f} "
            assert row in " ".join(command("compare", "all", *models, "--all-metrics").out.split())
    area = next(test for test in comparison["tests"] if test["metric"] == "area")
    assert (area["difference"], area["p_value"]) == (0, 1)


def test_a_check_finds_a_model_that_looks_elsewhere(command, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    store(old, "loc", 0.6, 1, **SAME_MAP)
    store(new, "loc", 0.4, 2, **SAME_MAP)
    baseline = ["--baseline", "base/line.json"]
    update = ["--update", "--reason", "a first one", "--strict"]
    assert command("check", old, *baseline, *update).status == 0
    assert command("check", old, *baseline).status == 0
    ended = command("check", new, *baseline, "--json")
    assert ended.status == 1
    decided = {f["metric"]: f["decision"] for f in json.loads(ended.out)["findings"]}
    assert decided["AUC"] == decided["attention_mass"] == "regression"
    assert decided["area"] == "no change shown"
