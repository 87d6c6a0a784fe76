"""The names that messages suggest for an unknown one."""

from __future__ import annotations

import pytest

from cosmos_core.utils.text import nearest

SETS = ["ade20k", "cars", "cifar10", "cifar100", "coco", "country211", "dtd", "eurosat", "food101",
        "imagenet1k", "sun397", "voc20", "voc21"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("imagnet", ["imagenet1k"]),
        ("VOC20", ["voc20", "voc21"]),  # capital letters do not matter
        ("cifar", ["cifar10", "cifar100"]),
    ],
)
def test_similar_names_come_first(name, names):
    assert nearest(name, SETS).split(", ")[: len(names)] == names


def test_few_names_are_all_listed_if_none_is_similar():
    assert nearest("zzz", ["seg", "cls"]) == "seg, cls"


def test_of_many_names_the_least_different_are_listed():
    """Only `yy19` shares characters with the name, and too few of them to be similar."""
    names = [f"x{number:02}" for number in range(20)]
    assert nearest("yyabcdefgh", [*names, "yy19"]).startswith("yy19, x")


def test_a_known_name_keeps_its_capital_letters():
    assert nearest("vit", ["RN50", "VIT"]) == "VIT"
