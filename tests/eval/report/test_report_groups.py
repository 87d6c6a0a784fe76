"""Groups of trainings on a page: as `cosmos-eval compare --group` and leaderboards have them."""

from __future__ import annotations

from operator import attrgetter

import numpy as np
import pytest
from support.html import Page
from support.models import make_result
from support.report_pages import ODD, MadeUpResults

from cosmos_eval.reporting.groups import difference_lines, mean_lines, summarize_groups
from cosmos_eval.reporting.page import to_page
from cosmos_eval.results.groups import compare, select_group_results

FACTS = dict.fromkeys(["recipe_sha256", "data_sha256", "samples", "flops"])


def add(made_up, group, seed, task="cls", skill=0.5, **changes):
    training = {**FACTS, "group": group, "seed": seed}
    number = seed + 100 * len(group)
    model = {"spec": f"{group}-{seed}", "weights_sha256": f"{number:064x}", "training": training}
    made_up.add(*make_result(task, skill, number, model=model, **changes))


def made_up_groups(sizes: dict[str, int], tasks: tuple[str, ...] = ("cls", "seg")) -> MadeUpResults:
    made_up = MadeUpResults()
    for place, (group, k) in enumerate(sizes.items()):
        for seed in range(k):
            for task in tasks:
                add(made_up, group, seed, task, 0.5 + 0.2 * place)
    return made_up


def figures_of(test):
    """Return the numbers of a test, whose last digits depend on the processor; NaN for None."""
    difference = test.difference
    numbers = [difference.a, difference.b, *difference.interval()[:2], test.detectable]
    return np.array([*numbers, test.adjusted], float)


def test_comparisons_have_the_tests_of_compare():
    made_up = made_up_groups({"clip": 3, "slips": 2, "cosmos": 1})
    view = summarize_groups(made_up.results, made_up.read)
    assert [(comparison.a, comparison.b) for comparison in view.comparisons] == [
        ("clip", "cosmos"),
        ("clip", "slips"),
        ("cosmos", "slips"),
    ]
    for comparison in view.comparisons:
        results_a = select_group_results(made_up.results, comparison.a)
        results_b = select_group_results(made_up.results, comparison.b)
        expected = compare(results_a, results_b, made_up.read)
        shown = {(test.dataset, test.metric) for test in comparison.tests}
        assert {metric for _, metric in shown} == {"acc1", "mIoU", "mIoU_things"}
        expected_tests = [test for test in expected.tests if (test.dataset, test.metric) in shown]
        expected_tests.sort(key=attrgetter("dataset"))
        for test, expected_test in zip(comparison.tests, expected_tests, strict=True):
            assert test[:4] == expected_test[:4]
            assert figures_of(test) == pytest.approx(
                figures_of(expected_test), rel=1e-9, nan_ok=True
            )
        assert comparison.trainings == expected.trainings
    (slips_mean,) = [mean for mean in view.means if (mean.group, mean.metric) == ("slips", "acc1")]
    accuracies = [make_result("cls", 0.7, 500 + seed)[0].metrics["acc1"] for seed in range(2)]
    assert (slips_mean.seeds, list(slips_mean.values)) == ((0, 1), accuracies)
    assert slips_mean.estimate.a == pytest.approx(sum(accuracies) / 2)
    assert any("cosmos has one training" in remark for remark in view.remarks)


def test_lines_are_on_common_scales():
    """The lowest end is 4% from the left, the highest 4% from the right; zero is in the middle."""
    view = summarize_groups((made_up := made_up_groups({"a": 3, "bb": 2})).results, made_up.read)
    lines = mean_lines(view.means[:2])
    ends = [number for line in lines for number in (line.low, line.high, *line.trainings)]
    assert (min(ends), max(ends), len(lines[0].trainings)) == (4, 96, 3)
    (comparison,) = view.comparisons
    lines = difference_lines(comparison.tests)
    reach = max(abs(end) for test in comparison.tests for end in test.difference.interval()[:2])
    for line, test in zip(lines, comparison.tests, strict=True):
        assert line.value == pytest.approx(50 + 46 * test.difference.difference / reach, abs=0.01)


def test_groups_of_other_settings_are_shown_and_not_compared():
    made_up = made_up_groups({"clip": 2}, ("cls",))
    for seed in range(2):
        add(made_up, "other", seed, hashes={"templates": "f" * 64})
    view = summarize_groups(made_up.results, made_up.read)
    assert {mean.group for mean in view.means} == {"clip", "other"}
    assert view.comparisons == ()


def test_what_is_no_replicate_or_cannot_be_read_has_a_note():
    made_up = made_up_groups({"clip": 2, "slips": 2}, ("cls",))
    first = made_up.results[0]
    made_up.add(first.row, {"labels": made_up.read(first.path)["labels"]})
    (note,) = summarize_groups(made_up.results, made_up.read).notes
    assert note.startswith("clip: ")
    assert "belong to one training" in note
    made_up = made_up_groups({"clip": 2, "slips": 2}, ("cls",))
    made_up._samples[first.path] = {"labels": made_up.read(first.path)["labels"]}
    view = summarize_groups(made_up.results, made_up.read)
    assert ({mean.group for mean in view.means}, view.comparisons) == ({"slips"}, ())
    assert [note.split(":")[0] for note in view.notes] == ["clip, slips", "clip"]


def test_single_trainings_have_no_section():
    content = made_up_groups({"clip": 1, "slips": 1}).content()
    assert (content.groups.means, content.groups.remarks) == ((), ())
    assert 'id="groups"' not in to_page(content).content.decode()


@pytest.mark.parametrize("odd", [ODD[0], ODD[-1]])
def test_the_section_of_groups_shows_odd_names_as_text(odd):
    made_up = made_up_groups({odd: 2, f"{odd} too": 2}, ("cls", "retrieval"))
    page = to_page(made_up.content()).content.decode()
    texts = [element.text for element in Page(page).elements]
    assert any("Groups of trainings" in text for text in texts)
    assert "2" in {text.strip() for text in texts}  # trainings
    assert "<b>bold</b>" not in page
    assert "<script>window" not in page
