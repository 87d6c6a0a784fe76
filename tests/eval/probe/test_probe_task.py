"""The task: draws, what chooses C, intervals over images and draws, and bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.class_sets import write_class_set
from support.models import make_result
from support.probes import fit_sklearn, make_features

from cosmos_core.data.scenes import SPLIT_SEEDS, TRAIN
from cosmos_core.data.scenes.scene import render_scene
from cosmos_core.recipes.scenes import TRAIN_SCENES
from cosmos_eval.protocols import find_known, prepare
from cosmos_eval.results.leaderboard.board import make_boards
from cosmos_eval.results.leaderboard.entries import entries_of_rows
from cosmos_eval.stats import suites
from cosmos_eval.stats.estimates import CrossedMean, Mean, Proportion, without
from cosmos_eval.stats.intervals import intervals
from cosmos_eval.stats.paired import differences
from cosmos_eval.tasks import probe, task_for
from cosmos_eval.tasks.probe import fits
from cosmos_eval.types import ProbeProtocol, RunOptions, UsageError

PROTOCOL = ProbeProtocol(
    dataset="photos",
    protocol_name="user",
    train="train",
    test="test",
    shots=(1, 4),
    draws=2,
    c_values=(0.1, 10.0, 1e3),
)
METRICS = ("linear_acc1", "linear_mean_per_class_recall", "knn_acc1", "fewshot_1_acc1")
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 30))


def make_probe(test: np.ndarray, seed: int = 3) -> fits.Probe:
    train, labels = make_features(280, spread=2.0)
    return fits.Probe(PROTOCOL, train, labels, test, seed, "cpu")


@pytest.mark.parametrize(("shots", "held_out"), [(1, 1), (2, 2), (4, 4), (16, 4)])
def test_draws_are_balanced_disjoint_and_reproducible(shots, held_out):
    rows, held_out_rows = fits.few_shots(LABELS, shots, seed=5)
    assert np.bincount(LABELS[rows]).tolist() == [shots] * 5
    assert np.bincount(LABELS[held_out_rows]).tolist() == [held_out] * 5
    assert len({*rows, *held_out_rows}) == 5 * (shots + held_out)
    assert np.array_equal(rows, fits.few_shots(LABELS, shots, seed=5)[0])
    assert not np.array_equal(rows, fits.few_shots(LABELS, shots, seed=6)[0])
    assert {*rows} <= {*fits.few_shots(LABELS, shots + 1, seed=5)[0]}


def test_a_fifth_of_every_class_is_held_out():
    """20% of 50, 2 and 10 images: 10, at least 1, and 2."""
    labels = np.array([0] * 50 + [1] * 2 + [2] * 10)
    rows, held_out = fits.split(labels, 0.2, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [10, 1, 2]
    assert sorted([*rows, *held_out]) == [*range(62)]
    assert not np.array_equal(held_out, fits.split(labels, 0.2, seed=1)[1])


def test_the_linear_probe_is_scikit_learns_on_all_training_images():
    queries, _ = make_features(1000, seed=1, spread=2.0)
    probe_fit = make_probe(queries)
    features, labels = probe_fit.train_features, probe_fit.train_labels
    predicted, c, n_held_out = probe_fit.fit_linear()
    rows, held_out = fits.split(labels, PROTOCOL.validation, seed=3)
    scores = {}
    for c_value in PROTOCOL.c_values:
        classifier = fit_sklearn(features[rows], labels[rows], c_value)
        scores[c_value] = classifier.score(features[held_out], labels[held_out])
    assert (c, n_held_out) == (max(scores, key=scores.__getitem__), len(held_out))
    expected = fit_sklearn(features, labels, c).predict(queries.astype(np.float64))
    assert (predicted == expected).mean() >= 0.999


def test_few_shots_are_scikit_learns_on_the_draws():
    queries, _ = make_features(500, seed=1, spread=2.0)
    probe_fit = make_probe(queries)
    features, labels = probe_fit.train_features, probe_fit.train_labels
    predicted, chosen_c = probe_fit.fit_few_shots()
    assert predicted.shape == (2, 2, 500)  # shots, draws, test images
    assert probe_fit.draw_seeds == [3, 4]
    for shots, predicted_of_shots, c_of_shots in zip(
        PROTOCOL.shots, predicted, chosen_c, strict=True
    ):
        for seed, classes, c in zip(
            probe_fit.draw_seeds, predicted_of_shots, c_of_shots, strict=True
        ):
            rows, _ = fits.few_shots(labels, shots, seed)
            classifier = fit_sklearn(features[rows], labels[rows], c)
            expected = classifier.predict(queries.astype(np.float64))
            assert (classes == expected).mean() >= 0.998


def test_the_mean_of_draws_has_an_interval_over_images_and_draws():
    rng = np.random.default_rng(0)
    accuracy_of_draws = np.array([0.5, 0.7, 0.9])
    hits = rng.random((400, 3)) < accuracy_of_draws
    over_both = CrossedMean(hits)
    over_images = Mean(hits.ravel(), np.repeat(np.arange(400), 3))
    by_name = intervals({"both": over_both, "images": over_images})
    low, high, method, _ = by_name["both"]
    assert method == "wilson, t over draws"
    assert 0 < low < hits.mean() < high < 1
    # Three draws are few: Student's quantile is 4.3 instead of 1.96.
    assert by_name["images"].high - by_name["images"].low < 0.2 * (high - low)


def test_two_models_are_compared_on_the_same_images_and_draws():
    rng = np.random.default_rng(0)
    difficulty = rng.random((200, 3))
    a_hits, b_hits = difficulty < 0.6, difficulty < 0.5  # a tenth more, on all images and draws
    a, b = {"acc1": CrossedMean(a_hits)}, {"acc1": CrossedMean(b_hits)}
    difference = differences([a, b])(0, 1)["acc1"]
    assert difference.difference == pytest.approx(a_hits.mean() - b_hits.mean())
    assert difference.units == 200
    assert difference.p_value < 0.001
    no_difference = differences([a, a])(0, 1)["acc1"]
    assert (no_difference.difference, no_difference.p_value) == (0, 1)


@pytest.fixture
def photos(tmp_path: Path, save_colour) -> Path:
    """Write two classes of three training and two test images."""
    for split, count in (("train", 3), ("test", 2)):
        for name, colour in (("apples", "red"), ("leaves", "green")):
            for number in range(count):
                save_colour(tmp_path / split / name / f"{number}.png", colour)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": "train"}, "photos: train and test must be different folders"),
        ({"shots": (2,)}, "class apples has 3 training images, and 2 shots need 4, .* set `shots`"),
        ({"shots": (0, 1)}, "shots must be different numbers from 1"),
        ({"draws": 0}, "draws and neighbours must be 1 or more"),
        ({"temperature": 0.0}, "temperature and c_values must be above 0"),
        ({"c_values": (0.0, 1.0)}, "temperature and c_values must be above 0"),
        ({"validation": 1.0}, "validation must be a share between 0 and 1"),
        ({"train": "trained"}, "photos: expected .*trained, which is not there"),
    ],
)
def test_constants_and_data_that_do_not_fit_are_refused(photos, changes, message):
    protocol = replace(PROTOCOL, **{"root": str(photos), "shots": (1,), **changes})
    with pytest.raises(UsageError, match=message) as raised:
        probe.TASK.open_data(protocol, RunOptions())
    assert "\n" not in str(raised.value)


def test_classes_of_one_folder_only_are_refused(photos, save_colour):
    protocol = replace(PROTOCOL, root=str(photos), shots=(1,))
    save_colour(photos / "test" / "sky" / "0.png", "blue")
    with pytest.raises(UsageError, match=r"^photos: class sky is in test, but not in train$"):
        probe.TASK.open_data(protocol, RunOptions())
    (photos / "test" / "sky").rename(photos / "train" / "sky")
    with pytest.raises(UsageError, match=r"^photos: class sky is in train, but not in test$"):
        probe.TASK.open_data(protocol, RunOptions())


def test_a_limit_is_of_test_images_and_images_of_both_are_noted(photos, colour_encoder):
    protocol = replace(PROTOCOL, root=str(photos), shots=(1,))
    options = RunOptions(limit=2, workers=0)
    measurement = probe.TASK.measure_one(colour_encoder, protocol, options)
    assert measurement.n_samples == 2
    assert measurement.settings["probe"]["training_images"] == 6
    assert {*measurement.metrics} == {*METRICS}
    assert {*measurement.metrics.values()} == {1}
    expected_note = "test images have the features of training images"
    assert any(expected_note in note for note in measurement.notes)


def small_protocol(name: str, n_images: int | None = None) -> ProbeProtocol:
    """Return a known protocol for two classes, of `n_images` training and three test images."""
    protocol = find_known(name)
    assert isinstance(protocol, ProbeProtocol)
    train, test = protocol.splits
    small_train = replace(train, n_classes=2, n_images=n_images)
    small_test = replace(test, n_classes=2, n_images=3)
    return replace(protocol, splits=(small_train, small_test), shots=(1,))


def test_a_known_set_needs_all_training_images(tmp_path, monkeypatch, colour_encoder):
    write_class_set("food101", tmp_path, monkeypatch)
    annotations = tmp_path / "food-101/meta/train.json"
    images = {"waffles": ["waffles/1", "waffles/1"], "apple_pie": ["apple_pie/2", "apple_pie/4"]}
    annotations.write_text(json.dumps(images))
    options = RunOptions(data_root=str(tmp_path), workers=0)
    protocol = small_protocol("food101-probe")
    measurement = probe.TASK.measure_one(colour_encoder, protocol, options)
    assert measurement.n_samples == 3
    assert measurement.settings["probe"]["training_images"] == 4
    with pytest.raises(UsageError, match=r"has 4 of 75750 .*; a probe needs all training images$"):
        probe.TASK.open_data(small_protocol("food101-probe", 75_750), options)
    (tmp_path / "food-101/images/waffles/7.jpg").unlink()
    partial = replace(options, allow_partial=True)
    data = probe.TASK.open_data(small_protocol("food101-probe"), partial)
    assert str(data.found_samples) == "2 of 3 images"
    (tmp_path / "food-101/images/apple_pie/2.jpg").unlink()
    with pytest.raises(
        UsageError, match=r"1 of 4 training images are not there, the first: .*apple_pie/2"
    ):
        probe.TASK.open_data(small_protocol("food101-probe"), partial)


def test_imagenets_training_folders_are_found(tmp_path):
    is_there = task_for(find_known("imagenet1k-probe")).is_there
    (tmp_path / "imagenet/val").mkdir(parents=True)
    assert not is_there(find_known("imagenet1k-probe"), tmp_path)
    (tmp_path / "imagenet/train").mkdir(parents=True)
    assert is_there(find_known("imagenet1k-probe"), tmp_path)


YAML = "kind: probe\ntrain: train\ntest: test\nshots: [1]\nc_values: [1, 100]\n"


def test_a_second_run_encodes_nothing_and_test_labels_choose_nothing(photos, command, monkeypatch):
    # Other tests encode the same colours.
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(photos / "cache"))
    (photos / "photos.yaml").write_text(YAML)
    run = ("run", "--model", "scenes-clip", "--dataset", "photos.yaml", "--json", "--output")
    first, second = (json.loads(command(*run, name).out)[0] for name in ("one", "two"))
    assert first["provenance"]["images_per_second"] is not None
    assert second["provenance"]["images_per_second"] is None
    assert second["metrics"] == first["metrics"]
    assert "1 verified" in command("verify", "two").out
    # The classes of the test images change places.
    for old, new in (("apples", "x"), ("leaves", "apples"), ("x", "leaves")):
        (photos / "test" / old).rename(photos / "test" / new)
    third = json.loads(command(*run, "three").out)[0]
    assert third["metrics"]["linear_acc1"] != first["metrics"]["linear_acc1"]
    assert third["provenance"]["probe"] == first["provenance"]["probe"]
    assert third["provenance"]["probe"]["draw_seeds"] == [0, 1, 2]


def test_bad_input_is_status_2(photos, command):
    (photos / "photos.yaml").write_text(YAML.replace("[1]", "[8]"))
    ended = command("run", "--model", "scenes-clip", "--dataset", "photos.yaml")
    assert (ended.status, len(ended.err.splitlines())) == (2, 1)
    assert "8 shots need 12" in ended.err


def test_no_model_was_trained_on_the_training_scenes_of_probes(tmp_path, monkeypatch):
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path))
    protocol = find_known("scenes-probe")
    prepare(protocol)
    data = probe.TASK.open_data(replace(protocol, shots=(1,)), RunOptions())
    assert np.bincount(data.train.labels).tolist() == [100] * 10
    numbers = [int(Path(name).stem) for name in data.train.names]
    assert sorted(numbers) == list(range(1, 1001))
    for number, image in [*zip(numbers, data.train.images, strict=True)][::50]:
        scene = render_scene(SPLIT_SEEDS[TRAIN], TRAIN_SCENES + number - 1)
        pixels = np.asarray(image.decode(image.read()), float)
        assert np.abs(pixels - scene.image).mean() < 6


def test_means_of_draws_are_resampled_in_suites():
    hits = np.random.default_rng(0).random((50, 3)) < 0.6
    first_draw = Proportion(hits[:, 0])
    estimates = {"all draws": CrossedMean(hits), "first draw": first_draw}
    resampled, n = suites.resample(estimates, seed=1)
    assert n == 50
    standard_error = np.sqrt(first_draw.value * (1 - first_draw.value) / 50)
    assert np.std(resampled["first draw"]) == pytest.approx(standard_error, 0.1)
    assert resampled["all draws"].mean() == pytest.approx(hits.mean(), abs=0.01)
    assert without(CrossedMean(hits), np.arange(50) < 10).value == hits[:10].mean()


def test_tables_say_that_intervals_are_for_these_training_images():
    """A note names what was fitted once, and not the mean over draws."""
    rows = [make_result(task, 0.5, 0)[0] for task in ("probe", "cls")]
    probed, classified = ("\n".join(make_boards(entries_of_rows([row]))[0].notes) for row in rows)
    assert (
        "Intervals of linear probe acc1 and kNN acc1 are for the training images that were used: "
        "they do not cover the choice of training images." in probed
    )
    assert "training images" not in classified
    conditional = [metric.name for metric in probe.TASK.metrics if metric.conditional_on]
    fitted_once = ["linear_acc1", "linear_mean_per_class_recall", "knn_acc1"]
    assert conditional == [*fitted_once, "cache_16_harmonic_mean"]
