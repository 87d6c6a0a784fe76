"""benchmarks/study_claims.py: families of tests over trainings, and when it refuses to test."""

from __future__ import annotations

import json
import shutil
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import t as student_t
from scipy.stats import ttest_ind
from support.benchmark_modules import import_benchmarks
from support.models import store

from cosmos_eval.results.groups import Moments
from cosmos_eval.results.store import read_stored, result_paths
from cosmos_eval.types import UsageError

ROOT = Path(__file__).parents[1]
SECOND_STUDY = ROOT / "benchmarks" / "scenes2" / "family.yaml"
SEEDS = (0, 1, 2, 3, 4)
FACTS = {"recipe_sha256": None, "samples": 1000, "flops": 2e12}
SKILLS = {"ours": 0.8, "clip": 0.6, "same": 0.8}
FAMILY = {
    "title": "A study",
    "stated": "2024-12-31T23:00:00+00:00",
    "methods": {
        "OURS": {"group": "ours", "seeds": [*SEEDS]},
        "CLIP": {"group": "clip-0123abcd", "seeds": [*SEEDS]},
        "SAME": {"group": "same", "seeds": [*SEEDS]},
    },
    "settings_chosen_with_seeds": [100],
    "metrics": {
        "acc1": {"dataset": "scenes-cls", "protocol": "scenes", "metric": "acc1"}
        | {"expected": "higher"},
        "acc5": {"dataset": "scenes-cls", "protocol": "scenes", "metric": "acc5"}
        | {"expected": "higher"},
    },
    "tests": {
        "level": 0.05,
        "decides": "permutation",
        "differences": [{"a": "OURS", "b": ["CLIP", "SAME"], "metrics": ["acc1"]}],
        "equivalences": [{"a": "OURS", "b": ["SAME"], "metrics": ["acc1"]}],
        "margin": {"points": 30.0, "reason": "a wide one."},
    },
    "rules": ["Failed trainings are not replaced."],
    "exploratory": ["all else"],
}


@pytest.fixture(scope="module")
def modules():
    """The modules of the benchmark: the file of a family, its tests, and the command."""
    with import_benchmarks("_family", "_family_tests", "study_claims") as modules:
        yield modules


class Study:
    """A family of tests and made-up trainings, to be changed by tests."""

    def __init__(self, folder, main):
        self.folder, self.main = folder, main
        self.family = yaml.safe_load(yaml.safe_dump(FAMILY))

    def train(self, group, seed, *, recipe="0123abcd", data="d" * 64):
        training = {**FACTS, "group": f"{group}-{recipe}", "seed": seed, "data_sha256": data}
        weights = f"{seed + 1000 * len(group) + int(recipe, 16):064x}"
        model = {"spec": f"{group}-{recipe}-{seed}", "weights_sha256": weights}
        model["training"] = training
        random_seed = seed + 17 * ord(group[0])
        return store(self.folder / "trainings", "cls", SKILLS[group], random_seed, model=model)

    def run(self, monkeypatch, capsys, *options):
        """Run the command. Return its exit status, its output and its errors."""
        path = self.folder / "family.yaml"
        path.write_text(yaml.safe_dump(self.family, sort_keys=False))
        monkeypatch.setattr("sys.argv", ["study_claims.py", str(path), *options])
        status = 0
        try:
            self.main()
        except SystemExit as ended:
            status = ended.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Return a folder with five trainings of each method."""
    study = Study(tmp_path_factory.mktemp("study"), None)
    for group in SKILLS:
        for seed in SEEDS:
            study.train(group, seed)
    return study.folder / "trainings"


@pytest.fixture
def study(tmp_path, trainings, modules):
    shutil.copytree(trainings, tmp_path / "trainings")
    return Study(tmp_path, modules[2].main)


@pytest.fixture
def run(study, monkeypatch, capsys):
    def run_study(*options):
        return study.run(monkeypatch, capsys, *options)

    return run_study


def enumerated_p(a, b, alternative="two-sided"):
    """Return the p-value by a plain loop over all divisions of the values into two groups."""
    values, n = np.array([*a, *b]), len(a)
    observed = np.mean(a) - np.mean(b)
    differences = []
    for indices in combinations(range(len(values)), n):
        first_group, second_group = values[list(indices)], np.delete(values, indices)
        differences.append(first_group.mean() - second_group.mean())
    greater = np.mean(np.array(differences) >= observed - 1e-12)
    less = np.mean(np.array(differences) <= observed + 1e-12)
    p_values = {"greater": greater, "less": less, "two-sided": min(1, 2 * min(greater, less))}
    return p_values[alternative]


def test_permutation_p_values_by_hand(modules):
    exact_p_value = modules[1].exact_p_value
    # Of six divisions, the observed one is the most extreme: one sixth, on two sides.
    assert exact_p_value([3, 4], [1, 2]) == pytest.approx(2 / 6)
    # {2, 4} - {1, 3} is 1. Of the sums 3, 4, 5, 5, 6 and 7 for A, three are at least 6 - no: 6, 7.
    assert exact_p_value([2, 4], [1, 3]) == pytest.approx(2 * 2 / 6)
    assert exact_p_value([5, 6, 7, 8, 9], [1, 2, 3]) == pytest.approx(2 / 56)
    assert exact_p_value(range(8, 16), range(8)) == pytest.approx(2 / 12870)
    assert exact_p_value([1, 1], [1, 1]) == 1
    # Differences of pairs of 1, 2 and 3: of eight signs, all plus is the most extreme.
    assert exact_p_value([2, 4, 6], [1, 2, 3], is_paired=True) == pytest.approx(2 / 8)
    # 3, 2 and -1 sum to 4. So do, at least, +++ (6) and ++- (4): two of eight.
    assert exact_p_value([4, 4, 2], [1, 2, 3], is_paired=True) == pytest.approx(2 * 2 / 8)


@pytest.mark.parametrize(("n_a", "n_b"), [(5, 5), (5, 3), (2, 4)])
def test_permutation_p_values_by_a_plain_loop(modules, n_a, n_b):
    rng = np.random.default_rng(n_a)
    for shift, decimals in product((0, 1), (1, 9)):
        a = np.round(rng.normal(shift, 1, n_a), decimals)  # one decimal: with ties
        b = np.round(rng.normal(0, 2, n_b), decimals)
        assert modules[1].exact_p_value(a, b) == pytest.approx(enumerated_p(a, b))
        expected = max(enumerated_p(a - 2, b, "less"), enumerated_p(a + 2, b, "greater"))
        assert modules[1].exact_p_equivalent(a, b, 2) == pytest.approx(expected)


def test_ties_of_fractions_count_as_those_of_the_whole_numbers(modules):
    """Divisions of numbers of right answers tie; those of the same numbers over 1,200 must, too."""
    right_of_a = np.array([1025, 1025, 1023, 1027, 1024, 1027, 1027, 1021])
    right_of_b = np.array([1018, 1018, 1020, 1020, 1020, 1018, 1021, 1023])
    expected = enumerated_p(right_of_a, right_of_b)
    assert expected == pytest.approx(10 / 12870)
    assert modules[1].exact_p_value(right_of_a / 1200, right_of_b / 1200) == expected


def test_equivalence_is_two_welch_tests_if_images_do_not_vary(modules):
    values = np.array([0.50, 0.52, 0.51, 0.55, 0.53, 0.50, 0.54, 0.49])
    moments = Moments(values, np.zeros((8, 8)), 10**6)
    difference = moments.difference(np.arange(4), np.arange(4, 8))
    a, b = values[:4], values[4:]
    for margin in (0.01, 0.03, 0.04):
        below = ttest_ind(a - margin, b, equal_var=False, alternative="less").pvalue
        above = ttest_ind(a + margin, b, equal_var=False, alternative="greater").pvalue
        p_value = modules[1].p_equivalent(difference, margin)
        assert p_value == pytest.approx(max(below, above), rel=1e-6)
        low, high, *_ = difference.interval(0.9)
        assert (p_value <= 0.05) == (-margin < low and high < margin)
    assert (
        modules[1].p_equivalent(difference, 0.04) < 0.05 < modules[1].p_equivalent(difference, 0.01)
    )


def outcomes_of(study, modules):
    """The outcomes of the tests of a study, through its files."""
    path = study.folder / "family.yaml"
    path.write_text(yaml.safe_dump(study.family))
    family = modules[0].read_family(path)
    stored = read_stored(result_paths(study.folder / "trainings"))
    return modules[1].StudyTests(family, modules[1].results_by_side(family, stored)).outcomes()


def test_outcomes_are_those_of_the_stored_metrics(study, modules):
    study.family["tests"]["margin"]["points"] = 2.0
    values = {group: [] for group in SKILLS}
    for path in sorted((study.folder / "trainings").glob("*.json")):
        record = json.loads(path.read_text())
        values[record["model"]["spec"].partition("-")[0]].append(record["metrics"]["acc1"])
    better, same, equivalent = outcomes_of(study, modules)
    ours, clip, as_good = (np.array(values[group]) for group in SKILLS)
    p_values = [
        enumerated_p(ours, clip),
        enumerated_p(ours, as_good),
        max(
            enumerated_p(ours - 0.02, as_good, "less"),
            enumerated_p(ours + 0.02, as_good, "greater"),
        ),
    ]
    for outcome, p_value in zip((better, same, equivalent), p_values, strict=True):
        assert outcome.p_exact == pytest.approx(p_value)
        assert (outcome.n_a, outcome.n_b) == (5, 5)
    assert (better.a, better.b) == pytest.approx((100 * ours.mean(), 100 * clip.mean()))
    # Holm by hand: the smallest p-value is multiplied by 3, the next one by 2.
    first, second, third = sorted(p_values)
    expected = [3 * first, max(3 * first, 2 * second), max(3 * first, 2 * second, third)]
    assert sorted(outcome.p_holm for outcome in (better, same, equivalent)) == pytest.approx(
        np.minimum(expected, 1)
    )
    # 90% of a level of 5% for equivalence, which is narrower than 95% of the same difference.
    assert equivalent.difference == same.difference
    assert same.low < equivalent.low < equivalent.high < same.high
    assert better.least_p_exact == pytest.approx(2 / 252)
    assert equivalent.least_p_exact == pytest.approx(1 / 252)


def test_a_report_has_the_verdict_the_tests_and_when_they_were_stated(run, study):
    study.train("clip", 100)
    status, out, _ = run()
    assert status == 0
    lines = out.splitlines()
    assert lines[2].startswith("- 1 of 2 differences (1 as expected) and 1 of 1 equivalences are")
    assert "| OURS minus CLIP | acc1 | A higher | 5 / 5 |" in out
    assert "| OURS minus SAME | acc1 | no | 5 / 5 |" in out
    assert "| OURS minus SAME | acc1 | yes | 5 / 5 |" in out
    flat = " ".join(out.split())
    assert "correction over all 3 tests" in flat
    assert "23:00 UTC, before the earliest of the stored results, of 2025-01-01 00:00 UTC" in flat
    assert "3 times its least p-value is" not in flat  # 3 / 252 is below 5%
    assert "Not in the family: CLIP, seed 100." in flat
    assert "without seed" not in out
    study.family["stated"] = "2025-01-01T03:00:00+02:00"
    assert "2025-01-01 01:00 UTC, after the earliest" in " ".join(run()[1].split())


def test_tests_are_repeated_without_seeds_of_chosen_settings(run, study):
    study.family["settings_chosen_with_seeds"] = [2]
    study.family["tests"]["decides"] = "seeds and images"
    _, out, _ = run()
    assert "- Without seed 2, with which settings were chosen: " in out
    section = out.partition("## Differences without seed 2")[2]
    assert "| OURS minus CLIP | acc1 | " in section
    assert "| 4 / 4 |" in section
    assert "| 5 / 5 |" not in section


def test_tests_can_be_repeated_without_a_seed_that_was_seen(run, study):
    study.family["tests"]["decides"] = "seeds and images"
    status, out, _ = run("--without-seed", "2")
    assert (status, out.splitlines()[0]) == (0, "# A study: the tests without seed 2")
    study.family["settings_chosen_with_seeds"] = [2]
    section = run()[1].partition("## Differences without seed 2")[2].partition("\n## Trainings")[0]
    assert out.partition("## Differences without seed 2")[2].strip() == section.strip()
    assert "| 4 / 4 |" in section
    assert run("--without-seed", "9") == (2, "", "study_claims: no training has seed 9\n")


def test_few_trainings_cannot_pass_the_correction(run, study):
    for method in study.family["methods"].values():
        method["seeds"] = [0, 1, 2]
    del study.family["tests"]["equivalences"]
    assert "2 times its least p-value is 0.2." in " ".join(run()[1].split())  # 2 * 2 / 20


def test_missing_trainings_are_refused_unless_interim_or_failed(run, study):
    study.family["methods"]["CLIP"]["seeds"].append(5)
    study.family["methods"]["SAME"]["seeds"] += [5, 6]
    status, out, err = run()
    assert (status, out) == (2, "")
    assert err == (
        "study_claims: CLIP lacks seed 5 in acc1 (1 more such gaps): "
        "--interim prints means and counts of the others\n"
    )
    status, out, _ = run("--interim")
    assert status == 0
    assert out.startswith("# INTERIM: A study\n\n15 of 18 trainings are complete. ")
    assert "| SAME | 5 / 7 | " in out
    assert "(5) |" in out
    assert "p, permutation" not in out
    study.family["failed"] = [
        {"method": "CLIP", "seed": 5, "reason": "weights are not finite"},
        {"method": "SAME", "seed": 5, "reason": "killed"},
        {"method": "SAME", "seed": 6, "reason": "killed"},
        {"method": "OURS", "seed": 0, "reason": "NaN"},  # although it was measured
    ]
    status, out, _ = run()
    assert status == 0
    assert "- Failed: CLIP, seed 5: weights are not finite\n" in out
    assert "| OURS minus CLIP | acc1 | A higher | 4 / 5 |" in out


def copy_with_other_data(study):
    study.train("clip", 0, data="e" * 64)


def edit(study):
    path = next((study.folder / "trainings").glob("clip*.json"))
    path.write_text(path.read_text().replace('"acc1": 0.', '"acc1": 0.1'))


def add_training_of_another_recipe(study):
    study.train("same", 0, recipe="89abcdef")


def state_a_word_for_a_time(study):
    study.family["stated"] = "yesterday"


def state_a_time_without_its_zone(study):
    study.family["stated"] = "2026-01-01T00:00"


def add_unknown_key(study):
    study.family["level"] = 0.1


def repeat_a_test(study):
    study.family["tests"]["differences"][0]["b"].append("CLIP")


def add_unknown_metric(study):
    study.family["tests"]["differences"][0]["metrics"].append("mIoU")


def add_failure_of_unknown_seed(study):
    study.family["failed"] = [{"method": "CLIP", "seed": 9, "reason": "x"}]


def repeat_a_seed(study):
    study.family["methods"]["CLIP"]["seeds"] = [0, 0, 1]


def compare_metrics_of_different_samples(study):
    test = {"method": "OURS", "a": "acc1", "b": "acc5"}
    study.family["tests"]["metric_differences"] = [test]


def forget_the_margin(study):
    del study.family["tests"]["margin"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (forget_the_margin, "`tests.equivalences` need `tests.margin`"),
        (add_training_of_another_recipe, "SAME has trainings of several"),
        (copy_with_other_data, "saw different training data"),
        (edit, "edited"),
        (state_a_word_for_a_time, "`stated` must be a time"),
        (state_a_time_without_its_zone, "`stated` must be a time"),
        (add_unknown_key, "unknown key `level`"),
        (repeat_a_test, "OURS minus CLIP, acc1, is stated twice"),
        (add_unknown_metric, "unknown metric 'mIoU'"),
        (add_failure_of_unknown_seed, "CLIP has no seed 9"),
        (repeat_a_seed, "`methods.CLIP.seeds` repeats a seed"),
        (compare_metrics_of_different_samples, "the metrics belong to different samples"),
    ],
)
def test_faults_are_one_line(run, study, change, message):
    change(study)
    status, out, err = run()
    assert (status, out) == (2, "")
    assert err.startswith("study_claims: ")
    assert err.count("\n") == 1
    assert message in err


def test_the_second_study_states_75_tests_that_can_pass(modules):
    family = modules[0].read_family(SECOND_STUDY)
    tests = family.planned_tests()
    assert sum(not test.is_equivalence for test in tests) == 9 * 7
    assert sum(test.is_equivalence for test in tests) == 3 * 4
    assert {test.a.method for test in tests} == {"COSMOS"}
    assert all(family.seeds_of(method) == [*range(8)] for method in family.methods)
    assert not {100} & {seed for method in family.methods for seed in family.seeds_of(method)}
    least = max(modules[0].least_p_value(test, 8, 8) for test in tests)
    assert least == 2 / 12870
    assert f"{len(tests) * least:.3f}" == "0.012"
    text = SECOND_STUDY.read_text("utf-8")
    assert "75 in all" in text
    assert "0.012 after the correction" in text


def test_the_stated_spread_of_seeds_is_the_largest_that_shows_equivalence():
    # Two methods of equal means, and eight trainings each.
    text = " ".join(SECOND_STUDY.with_name("README.md").read_text("utf-8").split())
    largest_spreads = []
    for n_tests in (75, 12):
        quantile = student_t.ppf(1 - 0.05 / n_tests, 14)
        largest_spreads.append(1 / (quantile * np.sqrt(2 / 8)))
    first, second = largest_spreads
    assert f"by {first:.2f} points or less (standard deviation), or {second:.2f} if" in text


def test_the_second_family_tests_seeds_that_were_not_seen(modules):
    family = modules[0].read_family(SECOND_STUDY.with_name("family_beside.yaml"))
    first_family = modules[0].read_family(SECOND_STUDY)
    tests = family.planned_tests()
    assert len(tests) == 11
    assert not any(test.is_equivalence for test in tests)
    assert {test.a.metric for test in tests} == {"loss beside a dominant thing"}
    groups = {method: trainings.group for method, trainings in family.methods.items()}
    assert groups == {method: trainings.group for method, trainings in first_family.methods.items()}
    assert all(family.seeds_of(method) == [*range(1, 8)] for method in family.methods)
    least = max(modules[0].least_p_value(test, 7, 7) for test in tests)
    assert least == 2 / 3432
    text = SECOND_STUDY.with_name("family_beside.yaml").read_text("utf-8")
    assert f"{len(tests) * least:.4f} after the correction" in text


def test_a_family_that_is_missing_is_one_line(modules, tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        modules[0].read_family(tmp_path / "family.yaml")
