"""benchmarks/scenes2_order.py: agreement of two recipes, by hand, and what it reads."""

import pytest
from support.benchmark_modules import import_benchmarks

from cosmos_eval.types import UsageError

FIRST = {"A": [10.0, 11, 12], "B": [20.0, 21, 22], "C": [30.0, 31, 32]}


@pytest.fixture(scope="module")
def order():
    with import_benchmarks("scenes2_order") as (module,):
        yield module


def test_a_reversed_pair_counts_only_if_both_recipes_show_it(order):
    # B and C differ by 3 points, with a standard deviation of 1: t = 3.67, p = 0.021.
    cheap = {"C": [4.0, 5, 6], "A": [1.0, 2, 3], "B": [7.0, 8, 9]}
    agreement = order.compare_orders(FIRST, cheap)
    assert agreement == (3, 2, 3, (("B", "C"),), pytest.approx(0.5))
    assert order.agreement_cells(agreement) == ["3", "2", "3", "B and C", "0.50"]
    # By 1.5 points: t = 1.84, p = 0.14.
    cheap["C"] = [5.5, 6.5, 7.5]
    agreement = order.compare_orders(FIRST, cheap)
    assert agreement == (3, 2, 2, (), pytest.approx(0.5))
    assert order.agreement_cells(agreement)[3] == "0"
    assert order.compare_orders(FIRST, FIRST) == (3, 3, 3, (), pytest.approx(1))


def test_methods_that_lack_a_seed_are_left_out(order):
    cheap = {"A": [1.0, 2, 3], "B": [7.0, 8], "C": [4.0, 5, 6], "D": [1.0, 2, 3]}
    assert order.complete_methods({"C": FIRST["C"], **FIRST}, cheap) == ["A", "C"]
    with pytest.raises(UsageError, match="fewer than two methods"):
        order.complete_methods(FIRST, {"A": [1.0, 2, 3], "B": [7.0, 8]})


def test_the_report_has_a_table_for_each_metric(order):
    cheap = {"A": [1.0, 2, 3], "B": [7.0, 8, 9], "C": [4.0, 5, 6]}
    values = [dict.fromkeys(order.METRICS, method_values) for method_values in (FIRST, cheap)]
    text = "\n".join(order.report(*values))
    assert text.count("| A | 11.0 ± 1.0 (3) | 2.0 ± 1.0 (3) |") == len(order.METRICS) == 4
    assert "| acc1 | 3 | 2 | 3 | B and C | 0.50 |" in text


def test_values_of_the_first_study_are_those_of_its_table(order):
    """benchmarks/study/table.md has the means of the methods that have the seeds 0 to 2 only."""
    values = order.values_of_first_study()
    assert sum(values["R@1 image to text"]["SLIP"]) / 3 == pytest.approx(73.9, abs=0.05)
    assert sum(values["R@1 text to image"]["SILC"]) / 3 == pytest.approx(69.4, abs=0.05)
    assert sum(values["acc1"]["CLIP, equal compute"]) / 3 == pytest.approx(88.3, abs=0.05)
    assert sum(values["mIoU, tuned"]["SLIP"]) / 3 == pytest.approx(26.0, abs=0.05)
    assert {
        len(seeds) for method_values in values.values() for seeds in method_values.values()
    } == {3}


def test_values_of_the_study_of_suppression_are_those_of_the_seeds(order, monkeypatch):
    monkeypatch.setattr(order, "SEEDS", (0,))  # which all methods have
    for method_values in order.values_of_scenes2().values():
        assert len(method_values) == 10
        assert {len(values) for values in method_values.values()} == {1}


def test_the_strongest_methods_are_not_ordered_by_both_recipes(order):
    """As benchmarks/scenes2/README.md says of R@1 and acc1."""
    methods = (
        "COSMOS",
        "COSMOS without cross-attention",
        "CLIP, equal compute",
        "multi-view CLIP, equal compute",
    )
    first_values, cheap_values = order.values_of_first_study(), order.values_of_scenes2()
    for title in ("R@1 image to text", "R@1 text to image", "acc1"):
        agreement = order.compare_orders(
            {method: first_values[title][method] for method in methods},
            {method: cheap_values[title][method] for method in methods},
        )
        assert (agreement.n_pairs, agreement.n_shown) == (6, 0)
