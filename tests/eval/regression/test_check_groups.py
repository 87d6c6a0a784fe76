"""Checks of new trainings of a recipe against several in the baseline."""

import json

import numpy as np
import pytest
from scipy.stats import ttest_ind
from support.groups import Design, trainings
from support.models import HASHES, seal, store

from cosmos_eval.results.gate.baseline import Key
from cosmos_eval.results.gate.check import ALPHA, Finding, decide_findings
from cosmos_eval.stats.groups import group_difference, image_covariance

UNKNOWN_FACTS = dict.fromkeys(["recipe_sha256", "data_sha256", "samples", "flops"])
N_IMAGES = 40


def store_training(folder, seed, n_right, group="clip", model=None, n_samples=None, **changes):
    """Store a classification of 40 images of one class, the first `n_right` of which are hits."""
    training = {**UNKNOWN_FACTS, "group": group, "seed": seed, "samples": n_samples}
    spec = model or f"{group}-{folder.name}-{seed}"
    weights_sha256 = f"{sum(map(ord, spec)) + 1000 * seed:064x}"  # differs from model to model
    top5 = np.where(np.arange(N_IMAGES) < n_right, 0, 1)[:, None]
    samples = {"labels": np.zeros(N_IMAGES, int), "top5": top5, "classes": np.array(["a", "b"])}
    model = {"spec": spec, "weights_sha256": weights_sha256, "training": training}
    return store(folder, "cls", samples=samples, model=model, **changes)


@pytest.fixture
def check(command, tmp_path):
    """Check a folder against the baseline `base.json`."""

    def check_folder(folder, *options):
        return command("check", tmp_path / folder, "--baseline", tmp_path / "base.json", *options)

    return check_folder


@pytest.fixture
def baseline(check, tmp_path):
    """Make a baseline of five trainings, which get 30, 32, 28, 31 and 29 of 40 images right."""
    for seed, n_right in enumerate((30, 32, 28, 31, 29)):
        store_training(tmp_path / "old", seed, n_right)
    assert check("old", "--update", "--reason", "seeds").status == 0


def test_a_new_seed_is_no_regression_and_a_worse_training_is(check, baseline, tmp_path):
    store_training(tmp_path / "near", 7, 28)
    ended = check("near", "--json")
    report = json.loads(ended.out)
    assert (ended.status, report["notes"]) == (0, [])
    finding = report["findings"][0]
    assert (finding["model"], finding["metric"], finding["k"]) == ("clip", "acc1", [1, 5])
    assert (finding["baseline"], finding["new"]) == (30 / 40, 28 / 40)
    store_training(tmp_path / "worse", 8, 10)
    ended = check("worse")
    assert ended.status == 1
    assert "1 / 5" in ended.out
    store_training(tmp_path / "more", 9, 29)
    store_training(tmp_path / "more", 10, 31)
    assert json.loads(check("more", "--json").out)["findings"][0]["k"] == [2, 5]


def test_a_training_of_another_length_is_noted(check, tmp_path):
    for seed, n_right in enumerate((30, 32, 28)):
        store_training(tmp_path / "old", seed, n_right, n_samples=12_800_000)
    assert check("old", "--update", "--reason", "seeds").status == 0
    store_training(tmp_path / "whole", 3, 29, n_samples=12_800_000)
    assert json.loads(check("whole", "--json").out)["notes"] == []
    store_training(tmp_path / "half", 4, 20, n_samples=6_400_000)
    (note,) = json.loads(check("half", "--json").out)["notes"]
    assert note == "clip: its trainings saw 6,400,000 and 12,800,000 samples"


def test_without_variation_of_images_it_is_students_test():
    """One new training against five is tested by Student's t of 4 degrees of freedom."""
    old, new = np.array([0.75, 0.8, 0.7, 0.775, 0.725]), np.array([0.6])
    difference = group_difference(new, old, np.zeros((6, 6)), 40, pooled=True)
    assert difference.p_value == pytest.approx(ttest_ind(new, old, equal_var=True).pvalue)
    assert difference.p_below(0) == pytest.approx(difference.p_value / 2)
    assert difference.flipped().p_below(0) == pytest.approx(1 - difference.p_value / 2)
    three_new = np.array([0.6, 0.65, 0.62])
    difference = group_difference(three_new, old, np.zeros((8, 8)), 40, pooled=True)
    expected = ttest_ind(three_new, old, equal_var=True)
    assert difference.p_value == pytest.approx(expected.pvalue)
    assert difference.interval()[:2] == pytest.approx((*expected.confidence_interval(),))


def test_the_detectable_loss_is_found_in_four_of_five_checks():
    """One new training against five, which vary only by seeds: a standard deviation of 0.01."""
    rng = np.random.default_rng(0)
    studies = rng.normal(0, 0.01, (1000, 6))
    no_covariance = np.zeros((6, 6))
    old = np.array([0.0, 1, 2, 3, 4])
    old *= 0.01 / old.std(ddof=1)
    difference = group_difference(np.zeros(1), old, no_covariance, 100, pooled=True)
    loss = difference.detectable(0.05)
    detected = []
    for values in studies:
        new, old = values[:1] - loss, values[1:]
        difference = group_difference(new, old, no_covariance, 100, pooled=True)
        detected.append(difference.p_below(0) <= 0.025)
    assert np.mean(detected) == pytest.approx(0.8, abs=0.035)


def test_a_new_seed_is_rarely_a_regression_in_any_of_twenty_metrics():
    """One training is compared with three; seeds have no effect.

    Of 60 checks at 2.5%, five or more raise an alarm in 2% of all studies.
    """
    design, rng = Design((1, 3), 500, (0, 0)), np.random.default_rng(0)
    n_metrics, alarms = 20, 0
    for _ in range(60):
        findings = []
        for _ in range(n_metrics):
            estimates = trainings(design, rng)
            values = np.array([estimate.value for estimate in estimates])
            covariance, n = image_covariance(estimates)
            change = group_difference(values[:1], values[1:], covariance, n, pooled=True)
            findings.append(Finding(Key("m", "set", "cosmos"), "cls", "acc1", change))
        decided = decide_findings(findings, 0.0, n_metrics)
        alarms += any(finding.adjusted <= ALPHA for finding in decided)
    assert alarms <= 4


def test_trainings_of_the_baseline_are_compared_one_by_one(check, baseline, tmp_path):
    ended = check("old", "--json")
    findings = json.loads(ended.out)["findings"]
    assert (ended.status, len({finding["model"] for finding in findings})) == (0, 5)
    assert all("k" not in finding for finding in findings)
    store_training(tmp_path / "old", 9, 30)
    ended = check("old")
    assert ended.status == 2
    assert ended.err.count("is a training of the baseline: check it apart from others") == 5


def test_a_check_against_one_training_has_a_note(check, tmp_path):
    store_training(tmp_path / "old", 0, 30, model="it")
    check("old", "--update", "--reason", "one")
    assert "one training in the baseline" not in check("old").err
    store_training(tmp_path / "new", 1, 29, model="it")
    ended = check("new")
    assert ended.status == 0
    assert (
        "note: one training in the baseline: changes are those between these two trainings, and "
        "another seed may give others: it on scenes-cls (scenes)"
    ) in ended.err.splitlines()


def test_two_trainings_in_the_baseline_need_two_new_ones(check, tmp_path):
    for seed in range(2):
        store_training(tmp_path / "old", seed, 30 + seed)
    check("old", "--update", "--reason", "two")
    store_training(tmp_path / "new", 5, 20)
    ended = check("new")
    assert (ended.status, "do not show how much seeds vary" in ended.err) == (2, True)
    store_training(tmp_path / "new", 6, 20)
    assert check("new").status == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hashes": {**HASHES, "templates": "f" * 64}}, "measured otherwise than the baseline"),
        ({"dataset": "other"}, "the baseline has it, the results have not"),
        ({"group": "other"}, "is not in the baseline"),
        ({"provenance": {"precision": "bf16"}}, "is not in the baseline"),
    ],
)
def test_other_measurements_are_not_decided(check, baseline, tmp_path, changes, message):
    store_training(tmp_path / "new", 7, 28, **changes)
    ended = check("new")
    assert (ended.status, message in ended.err) == (2, True)


def test_replicates_are_distinct_and_have_samples(check, baseline, tmp_path):
    store_training(tmp_path / "twice", 7, 28)
    store_training(tmp_path / "twice" / "second", 7, 29)
    assert "belong to one training" in check("twice").err
    store_training(tmp_path / "old", 0, 29, model="other")
    ended = check("old", "--update", "--reason", "x")
    assert (ended.status, "belong to one training" in ended.err) == (2, True)
    (tmp_path / "old" / "other__scenes-cls__scenes.json").unlink()
    assert check("old", "--update", "--reason", "x", "--metrics-only").status == 0
    store_training(tmp_path / "new", 7, 28)
    ended = check("new")
    assert (ended.status, "which --metrics-only left out" in ended.err) == (2, True)


def test_edited_groups_are_refused(check, baseline, tmp_path):
    """A baseline with a new hash must still follow the schema."""
    path = tmp_path / "base.json"
    document = json.loads(path.read_text())
    document["results"][0]["training"] = {"group": "", "seed": 0}
    path.write_text(json.dumps(document))
    seal(path)
    assert check("old").status == 2
