"""`cosmos-eval audit` on results of scenes, planted faults, and pictures with copies."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.excerpts import EXCERPTS
from support.results import store_result

from cosmos_eval.data.folders import fingerprint
from cosmos_eval.results.audit.document import audit_metric, to_json
from cosmos_eval.results.audit.groups import ItemGroup
from cosmos_eval.results.audit.metrics import read_metrics
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.store import read_result, read_samples

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results"
TRAININGS = ROOT / "benchmarks" / "study" / "trainings"
MODELS = 7


def store(folder: Path, task: str, samples: Any, model: str, dataset: str = "planted") -> Path:
    """Write a made-up result on a data set that is nowhere on the disk."""
    names = samples.get("name", ())
    hashes = {"sample_list": fingerprint([str(name) for name in names])}
    first = next(iter(samples.values()))
    return store_result(
        folder,
        task,
        samples,
        dataset=dataset,
        protocol="user",
        n_samples=len(first),
        model={"spec": model},
        provenance={"hashes": hashes},
    )


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Results of seven trainings on scenes of which 15 of 500 labels are wrong, and which."""
    paths = []
    for path in sorted(TRAININGS.glob("*/*__scenes-cls__scenes.json")):
        if json.loads(path.read_text())["metrics"]["acc1"] > 0.8:
            paths.append(path)
    rng = np.random.default_rng(3)
    wrong = rng.permutation(500)[:15]
    folder = tmp_path / "planted"
    for path in paths[:: len(paths) // MODELS][:MODELS]:
        samples = dict(read_samples(path))
        labels = samples["labels"].copy()
        labels[wrong] = (labels[wrong] + 1 + np.arange(15) % 9) % 10
        samples["labels"] = labels
        store(folder, "cls", samples, path.parent.name)
    return folder, wrong


def test_planted_labels_are_listed_for_a_maintainer(planted, command, tmp_path):
    folder, wrong = planted
    ended = command("audit", folder, "--output", tmp_path / "items.csv", "--json")
    assert ended.status == 0, ended.err
    (document,) = json.loads(ended.out)
    labels = document["wrong_labels"]
    assert len(labels["models"]) == MODELS
    assert labels["share"]["low"] <= 15 / 500 <= labels["share"]["high"]
    assert 0.01 <= labels["fit_p_value"] <= 1
    assert document["baselines"] == {"most frequent class": pytest.approx(0.1, abs=0.02)}

    rows = list(csv.DictReader(io.StringIO((tmp_path / "items.csv").read_text())))
    suspects = [row for row in rows if row["group"] == "suspect labels"]
    assert len(suspects) == labels["suspect"]
    suspect_items = {int(row["sample"]) for row in suspects}
    assert len(suspect_items & set(wrong.tolist())) >= 11
    assert len(suspect_items - set(wrong.tolist())) <= 3
    scores = [float(row["score"]) for row in suspects]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0.5
    assert suspects[0]["detail"].startswith("labelled ")
    assert f"of {MODELS} models say" in suspects[0]["detail"]
    assert suspects[0]["name"].endswith(".jpg")

    # Items to which at least four of seven models give the same wrong answer, by counting.
    by_name = {group["name"]: group for group in document["groups"]}
    answers = [read_samples(path)["top5"][:, 0] for path in sorted(folder.glob("*.json"))]
    truth = read_samples(min(folder.glob("*.json")))["labels"]
    n_shared = 0
    for item, answers_to_item in enumerate(np.transpose(answers)):
        wrong_answers = answers_to_item[answers_to_item != truth[item]]
        n_shared += len(wrong_answers) > 0 and np.bincount(wrong_answers).max() >= 4
    assert by_name["same wrong answer"]["items"] == n_shared
    assert 0 < by_name["same wrong answer"]["by_chance"] < n_shared

    # Items that no model, and that every model solves, by counting.
    hits = []
    for path in sorted(folder.glob("*.json")):
        samples = read_samples(path)
        hits.append(samples["top5"][:, 0] == samples["labels"])
    counts = np.sum(hits, axis=0)
    assert by_name["no model right"]["items"] == (counts == 0).sum()
    assert by_name["all models right"]["items"] == (counts == MODELS).sum()

    # The ranking without all suspects, by hand.
    keep = ~np.isin(np.arange(500), list(suspect_items))
    without = by_name["suspect labels"]["ranking_without"]
    assert without["items"] == keep.sum()
    values = sorted(model["value"] for model in without["models"])
    assert values == pytest.approx(sorted(np.mean(row[keep]) for row in hits))
    assert by_name["suspect labels"]["by_answers"]


def test_copies_of_a_model_count_once(planted, command):
    folder, _ = planted
    first = min(folder.glob("*.json"))
    store(folder, "cls", read_samples(first), "the same model again")
    (document,) = json.loads(command("audit", folder, "--json").out)
    assert len(document["models"]) == MODELS + 1
    assert len(document["wrong_labels"]["models"]) == MODELS


def test_what_is_printed_begins_with_the_verdict(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ended = command("audit", RESULTS, "--no-data", "--metrics", "acc1", "--all")
    lines = ended.out.splitlines()
    assert lines[0] == ("scenes-cls-small, scenes, acc1: 3 models; no group can change the ranking")
    assert lines[2] == ""
    assert max(map(len, lines)) <= 80
    assert "no model right: 43 apple/000000000422.png" in lines
    assert "baselines (%): most frequent class 11.8" in lines
    assert "wrong labels: 3 models above 55% are needed, there are 2: scenes-cls" in ended.err
    assert "not audited: scenes-loc, scenes-seg, scenes-seg-small" in ended.err
    assert ended.status == 0


def test_selection_by_plain_counting(command):
    """Blind choices and single models, from the stored arrays."""
    arguments = ("--no-data", "--metrics", "accuracy", "--json")
    documents = json.loads(command("audit", RESULTS, *arguments).out)
    by_protocol = {document["protocol"]: document for document in documents}
    groups = {group["name"]: group for group in by_protocol["scenes"]["groups"]}
    paths = sorted(RESULTS.glob("*__scenes-select__scenes.json"))
    blind = np.mean([read_samples(path)["blind"] for path in paths], axis=0)
    assert groups["right without image"]["items"] == (blind > 0.5).sum()
    assert groups["right without image"]["by_chance"] == pytest.approx(1000)
    baselines = by_protocol["scenes"]["baselines"]
    assert baselines == pytest.approx({"chance": 0.5, "no image": blind.mean(), "shorter": 0.5})
    assert by_protocol["scenes-pairs"]["ranking"]["differences"] == []
    unknown = " ".join(by_protocol["scenes-pairs"]["unknown"])
    assert "one model" in unknown
    assert "copies and captions: --no-data" in unknown


def test_models_of_very_different_strength_are_not_judged(planted, command):
    folder, _ = planted
    hard = np.random.default_rng(5).random(500) < 0.25
    for path in sorted(folder.glob("*.json"))[1:]:
        samples = dict(read_samples(path))
        samples["top5"] = samples["top5"].copy()
        samples["top5"][hard, 0] = (samples["labels"][hard] + 1) % 10
        store(folder, "cls", samples, read_result(path).model["spec"])
    (document,) = json.loads(command("audit", folder, "--json").out)
    assert document["wrong_labels"] is None
    assert "suspect label" not in document["verdict"]
    assert "fit no known distribution (p = <1e-06)" in " ".join(document["unknown"])
    shared = next(g for g in document["groups"] if g["name"] == "same wrong answer")
    assert shared["items"] >= hard.sum() - 15
    assert shared["by_chance"] is None
    assert shared["ranking_without"] is None


def test_a_ranking_does_not_survive_without_labels_that_one_model_knows(tmp_path, command):
    """A fifth model agrees with 80 wrong labels of 600, and is a little worse on the others."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 600)
    labels = truth.copy()
    labels[:80] = (truth[:80] + 1) % 4
    other = (truth + rng.integers(1, 4, (4, 600))) % 4
    good = np.where(rng.random((4, 600)) < 0.9, truth, other)
    fifth = np.where(rng.random(600) < 0.88, truth, (truth + 2) % 4)
    fifth[:80] = labels[:80]
    for number, answers in enumerate([*good, fifth]):
        top5 = np.full((600, 5), -1)
        top5[:, 0] = answers
        samples = {"labels": labels, "top5": top5, "classes": np.array(["a", "b", "c", "d"])}
        store(tmp_path / "runs", "cls", samples, f"model-{number}")

    # The answers fit no mixture, so that nothing is claimed about labels.
    (document,) = json.loads(command("audit", "runs", "--json").out)
    assert document["wrong_labels"] is None
    best = max(document["ranking"]["models"], key=itemgetter("value"))
    assert (best["model"], best["first_rank"], best["last_rank"]) == ("model-4", 1, 1)

    # If the wrong labels are known from elsewhere, the ranking does not survive without them.
    (metric,), _ = read_metrics(read_checked(sorted((tmp_path / "runs").glob("*.json"))))
    is_wrong = np.arange(600) < 80
    wrong_labels = ItemGroup("wrong labels", is_wrong, is_wrong.astype(float))
    audit = audit_metric(metric, [wrong_labels])
    change = audit.change(wrong_labels)
    assert (change.lost, change.reversed, change.survives) == (4, 0, False)
    expected = 'ranking changes without "wrong labels" (4 of 4 differences lost)'
    assert expected in audit.verdict
    assert to_json(audit)["survives"] is False
    assert audit.without["wrong labels"].ranks == [(1, 5)] * 5


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """40 different pictures of a few rectangles."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(40):
        image = Image.new("RGB", (64, 64), tuple(rng.integers(0, 256, 3).tolist()))
        for _ in range(6):
            left, top, width, height = rng.integers(0, 48, 4).tolist()
            colour = tuple(rng.integers(0, 256, 3).tolist())
            image.paste(colour, (left, top, left + width // 2 + 8, top + height // 2 + 8))
        images.append(image)
    return images


@pytest.fixture
def measured(
    tmp_path: Path, pictures: list[Image.Image], command: Callable[..., Any]
) -> tuple[Path, Path]:
    """A user's data set with copies, and a folder with the results of two models on it."""
    folder = tmp_path / "photos"
    for name in ("apple", "ball"):
        (folder / name).mkdir(parents=True)
    for number, picture in enumerate(pictures):
        picture.save(folder / ("apple", "ball")[number % 2] / f"{number:02}.png")
    pictures[0].save(folder / "apple" / "copy.jpg", quality=60)
    ImageOps.mirror(pictures[1]).save(folder / "apple" / "other.png")
    shutil.copy(folder / "ball" / "03.png", folder / "ball" / "same.png")
    # Plain images show nothing to compare, but the same file is the same image.
    for name in ("white-1", "white-2"):
        Image.new("RGB", (64, 64), "white").save(folder / "apple" / f"{name}.png")
    Image.new("RGB", (64, 64), "black").save(folder / "apple" / "black.png")
    file = tmp_path / "photos.yaml"
    file.write_text("kind: cls\nfolder: photos\ntemplates: ['a {}']\n")
    models = ("--model", "scenes-cosmos", "--model", "scenes-clip")
    ended = command("run", "--dataset", file, *models, "--output", "runs")
    assert ended.status == 0, ended.err
    return file, tmp_path / "runs"


def test_copies_with_equal_and_other_labels(measured, command):
    file, runs = measured
    ended = command("audit", runs, "--dataset", file, "--json")
    (document,) = json.loads(ended.out)
    groups = {group["name"]: group for group in document["groups"]}
    copies = {item["name"]: item["detail"] for item in groups["copies"]["examples"]}
    assert copies == {
        "apple/copy.jpg": "like apple/00.png",
        "apple/white-2.png": "like apple/white-1.png",
        "ball/same.png": "like ball/03.png",
    }
    copies_with_other_label = {
        item["name"]: item["detail"] for item in groups["copies, other label"]["examples"]
    }
    assert copies_with_other_label == {
        "apple/other.png": "like ball/01.png",
        "ball/01.png": "like apple/other.png",
    }
    assert groups["copies"]["ranking_without"]["items"] == 46 - 3
    assert groups["copies, other label"]["ranking_without"]["items"] == 46 - 2
    assert "100 items are needed, there are 46" in " ".join(document["unknown"])

    # Without its YAML file, or with --no-data, only the samples are audited.
    without = json.loads(command("audit", runs, "--json").out)[0]
    assert "copies" not in [group["name"] for group in without["groups"]]
    assert any(line.startswith("copies") for line in without["unknown"])

    # So is a set that no result was measured on.
    ended = command("audit", RESULTS / "scenes-clip__scenes-cls__scenes.json", "--dataset", file)
    assert (ended.status, ended.err) == (
        2,
        "cosmos-eval: no result was measured on photos: leave --dataset out\n",
    )

    # Other images under the same names are refused.
    Image.new("RGB", (64, 64), "red").save(file.parent / "photos" / "apple" / "02.png")
    ended = command("audit", runs, "--dataset", file)
    assert ended.status == 2
    assert "its images or labels are other ones; restore it, or add --no-data" in ended.err
    (file.parent / "photos" / "apple" / "02.png").unlink()
    ended = command("audit", runs, "--dataset", file)
    assert ended.status == 2
    assert "not what was measured: its items have other names" in ended.err
    assert command("audit", runs, "--no-data").status == 0


def sorted_words(text: str) -> list[str]:
    letters = [c if c.isalnum() or c == "'" else " " for c in text.lower()]
    return sorted("".join(letters).split())


def test_captions_are_judged_without_their_images(tmp_path, command):
    """Of the items of SugarCrepe's excerpt, six of sixteen have two captions of the same words."""
    shutil.copytree(EXCERPTS / "sugar-crepe", tmp_path / "data" / "sugar-crepe")
    files = sorted((tmp_path / "data" / "sugar-crepe" / "data").glob("*.json"))
    items, subsets = [], []
    for number, path in enumerate(files):
        items_of_subset = list(json.loads(path.read_text()).values())
        items += items_of_subset
        subsets += [number] * len(items_of_subset)
    n_same_words = sum(
        sorted_words(item["caption"]) == sorted_words(item["negative_caption"]) for item in items
    )
    assert n_same_words > 0
    rng = np.random.default_rng(0)
    for model in ("a", "b"):
        samples = {
            "correct": rng.random(len(items)) < 0.7,
            "subset": np.array(subsets),
            "subsets": np.array([path.stem for path in files]),
            "averaged": np.ones(len(files), bool),
            "cluster": np.arange(len(items)),
            "chance": np.full(len(items), 0.5),
            "name": np.array([item["filename"] for item in items]),
        }
        store_result(
            tmp_path / "runs",
            "select",
            samples,
            dataset="sugarcrepe",
            protocol="sugarcrepe",
            n_samples=len(items),
            model={"spec": model},
            provenance={"hashes": {"sample_list": "a" * 64}},
        )
    ended = command("audit", "runs", "--data-root", "data", "--json")
    (document,) = json.loads(ended.out)
    group = next(group for group in document["groups"] if group["name"] == "same words")
    assert group["items"] == n_same_words
    # By chance, a bag of words solves half of these items. It solves all other ones.
    expected = 1 - n_same_words / len(items) / 2
    assert document["baselines"]["bag of words"] == pytest.approx(expected)
    assert " | " in group["examples"][0]["detail"]
    assert "copies: the images are not there" in " ".join(document["unknown"])


def test_retrieval_finds_answers_that_models_share(tmp_path, command):
    """Three models rank image 7 first for caption 4; captions 1 and 2 have the same words."""
    for number in range(3):
        samples = {
            "image_to_text_rank": np.ones(40, int),
            "text_to_image_rank": np.ones(40, int),
            "image_of_text": np.arange(40),
            "image_to_text_first": np.full(40, -1),
            "text_to_image_first": np.full(40, -1),
            "name": np.array([f"{image}.jpg" for image in range(40)]),
        }
        missed = [4, 10 + number]
        samples["text_to_image_rank"][missed] = 2
        samples["text_to_image_first"][missed] = [7, 20]
        store(tmp_path / "runs", "retrieval", samples, f"model-{number}")
    documents = json.loads(command("audit", "runs", "--json").out)
    by_metric = {document["metric"]: document for document in documents}
    groups = {group["name"]: group for group in by_metric["text_to_image_R@1"]["groups"]}
    (item,) = groups["same wrong answer"]["examples"]
    assert (item["name"], item["detail"]) == ("4.jpg#0", "3 of 3 models say 7.jpg")
    # Their answers to images are the same, so that there is one model.
    unknown = " ".join(by_metric["image_to_text_R@1"]["unknown"])
    assert "other answers that fit: 3 models are needed, there are 1" in unknown


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("samples", "cannot be read"),
        ("record", "edited record"),
        ("settings", "cannot be audited: hashes.sample_list is"),
        ("labels", "cannot be audited: `labels` of the samples differs"),
    ],
)
def test_bad_results_are_refused_in_one_line(planted, command, spoil, message):
    folder, _ = planted
    path = min(folder.glob("*.json"))
    samples = dict(read_samples(path))
    if spoil == "samples":
        next(folder.glob(f"{path.stem}*.npz")).unlink()
    elif spoil == "record":
        path.write_text(path.read_text().replace('"cls"', '"cls" '))
        path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    elif spoil == "settings":
        samples["name"] = samples["name"][::-1]
        store(folder, "cls", samples, "x")
    else:
        samples["labels"] = np.roll(samples["labels"], 1)
        store(folder, "cls", samples, "x")
    ended = command("audit", folder)
    assert ended.status == 2
    assert ended.out == ""
    assert message in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_nothing_to_audit_is_an_error(command):
    ended = command("audit", RESULTS, "--data-root", "nowhere")
    assert (ended.status, ended.err) == (2, "cosmos-eval: no folder nowhere, see --data-root\n")
    ended = command("audit", RESULTS / "scenes-clip__scenes-seg__scenes.json")
    assert ended.status == 2
    assert "nothing to audit: not audited: scenes-seg" in ended.err
