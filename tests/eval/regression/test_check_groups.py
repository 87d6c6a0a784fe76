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

FACTS = dict.fromkeys(["recipe_sha256", "data_sha256", "samples", "flops"])
N = 40


def put(folder, seed, right, group="clip", model=None, **more):
    """Store a classification of 40 images of one class, the first `right` of which are hits."""
    training = {**FACTS, "group": group, "seed": seed}
    spec = model or f"{group}-{folder.name}-{seed}"
    weights = f"{sum(map(ord, spec)) + 1000 * seed:064x}"
    top5 = np.where(np.arange(N) < right, 0, 1)[:, None]
    samples = {"labels": np.zeros(N, int), "top5": top5, "classes": np.array(["a", "b"])}
    model = {"spec": spec, "weights_sha256": weights, "training": training}
    return store(folder, "cls", samples=samples, model=model, **more)


@pytest.fixture
def check(command, tmp_path):
    """Check a folder against the baseline that `old` was made."""

    def run(folder, *more):
        return command("check", tmp_path / folder, "--baseline", tmp_path / "base.json", *more)

    return run


@pytest.fixture
def baseline(check, tmp_path):
    """Five trainings, which get 30, 32, 28, 31 and 29 of 40 images right."""
    for seed, right in enumerate((30, 32, 28, 31, 29)):
        put(tmp_path / "old", seed, right)
    assert check("old", "--update", "--reason", "seeds").status == 0


def test_a_new_seed_is_no_regression_and_a_worse_training_is(check, baseline, tmp_path):
    put(tmp_path / "near", 7, 28)
    ended = check("near", "--json")
    found = json.loads(ended.out)
    assert (ended.status, found["notes"]) == (0, [])
    first = found["findings"][0]
    assert (first["model"], first["metric"], first["k"]) == ("clip", "acc1", [1, 5])
    assert (first["baseline"], first["new"]) == (30 / 40, 28 / 40)
    put(tmp_path / "worse", 8, 10)
    ended = check("worse")
    assert ended.status == 1
    assert "1 / 5" in ended.out
    put(tmp_path / "more", 9, 29)
    put(tmp_path / "more", 10, 31)
    assert json.loads(check("more", "--json").out)["findings"][0]["k"] == [2, 5]


def test_without_variation_of_images_it_is_students_test():
    """Of one new training against five it is that of a prediction, t of 4 degrees of freedom."""
    old, new = np.array([0.75, 0.8, 0.7, 0.775, 0.725]), np.array([0.6])
    found = group_difference(new, old, np.zeros((6, 6)), 40, pooled=True)
    assert found.p_value == pytest.approx(ttest_ind(new, old, equal_var=True).pvalue)
    assert found.p_below(0) == pytest.approx(found.p_value / 2)
    assert found.flipped().p_below(0) == pytest.approx(1 - found.p_value / 2)
    several = np.array([0.6, 0.65, 0.62])
    found = group_difference(several, old, np.zeros((8, 8)), 40, pooled=True)
    expected = ttest_ind(several, old, equal_var=True)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval()[:2] == pytest.approx((*expected.confidence_interval(),))


def test_the_detectable_loss_is_found_in_four_of_five_checks():
    """Of seeds alone, with a standard deviation of one point."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.01, (1000, 6))
    known = np.array([0.0, 1, 2, 3, 4])
    known *= 0.01 / known.std(ddof=1)
    none = np.zeros((6, 6))
    size = group_difference(np.zeros(1), known, none, 100, pooled=True).detectable(0.05)
    differences = [group_difference(v[:1] - size, v[1:], none, 100, pooled=True) for v in values]
    assert np.mean([one.p_below(0) <= 0.025 for one in differences]) == pytest.approx(
        0.8, abs=0.035
    )


def test_a_new_seed_is_rarely_a_regression_in_any_of_twenty_metrics():
    """One training against three, without effect of seeds. Of 60 checks at 2.5%, five or more
    raise an alarm in 2% of all studies."""
    design, rng, metrics = Design((1, 3), 500, (0, 0)), np.random.default_rng(0), 20
    alarms = 0
    for _ in range(60):
        findings = []
        for _ in range(metrics):
            drawn = trainings(design, rng)
            values = np.array([training.value for training in drawn])
            covariance, n = image_covariance(drawn)
            change = group_difference(values[:1], values[1:], covariance, n, pooled=True)
            findings.append(Finding(Key("m", "set", "cosmos"), "cls", "acc1", change))
        decided = decide_findings(findings, 0.0, metrics)
        alarms += any(finding.adjusted <= ALPHA for finding in decided)
    assert alarms <= 4


def test_trainings_of_the_baseline_are_compared_one_by_one(check, baseline, tmp_path):
    ended = check("old", "--json")
    findings = json.loads(ended.out)["findings"]
    assert (ended.status, len({one["model"] for one in findings})) == (0, 5)
    assert all("k" not in one for one in findings)
    put(tmp_path / "old", 9, 30)
    ended = check("old")
    assert ended.status == 2
    assert ended.err.count("is a training of the baseline: check it apart from others") == 5


def test_one_training_in_the_baseline_says_so(check, tmp_path):
    put(tmp_path / "old", 0, 30, model="it")
    check("old", "--update", "--reason", "one")
    assert "one training in the baseline" not in check("old").err
    put(tmp_path / "new", 1, 29, model="it")
    ended = check("new")
    assert ended.status == 0
    assert (
        "note: one training in the baseline: changes are those between these two trainings, and "
        "another seed may give others: it on scenes-cls (scenes)"
    ) in ended.err.splitlines()


def test_two_trainings_in_the_baseline_need_two_new_ones(check, tmp_path):
    for seed in range(2):
        put(tmp_path / "old", seed, 30 + seed)
    check("old", "--update", "--reason", "two")
    put(tmp_path / "new", 5, 20)
    ended = check("new")
    assert (ended.status, "do not show how much seeds vary" in ended.err) == (2, True)
    put(tmp_path / "new", 6, 20)
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
def test_what_cannot_be_decided(check, baseline, tmp_path, changes, message):
    put(tmp_path / "new", 7, 28, **changes)
    ended = check("new")
    assert (ended.status, message in ended.err) == (2, True)


def test_replicates_are_distinct_and_have_samples(check, baseline, tmp_path):
    put(tmp_path / "twice", 7, 28)
    put(tmp_path / "twice" / "again", 7, 29)
    assert "belong to one training" in check("twice").err
    put(tmp_path / "old", 0, 29, model="other")
    ended = check("old", "--update", "--reason", "x")
    assert (ended.status, "belong to one training" in ended.err) == (2, True)
    (tmp_path / "old" / "other__scenes-cls__scenes.json").unlink()
    assert check("old", "--update", "--reason", "x", "--metrics-only").status == 0
    put(tmp_path / "new", 7, 28)
    ended = check("new")
    assert (ended.status, "which --metrics-only left out" in ended.err) == (2, True)


def test_edited_groups_are_refused(check, baseline, tmp_path):
    """A baseline whose hash was made anew must still be of the schema."""
    path = tmp_path / "base.json"
    document = json.loads(path.read_text())
    document["results"][0]["training"] = {"group": "", "seed": 0}
    path.write_text(json.dumps(document))
    seal(path)
    assert check("old").status == 2
