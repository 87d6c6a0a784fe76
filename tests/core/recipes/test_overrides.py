"""`--set` on the scenes recipe."""

import pytest

from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override


@pytest.fixture(scope="module")
def config():
    return RECIPES["scenes_cosmos"]()


def test_values_are_replaced_and_nothing_else(config):
    changed = override(
        config, ["optim.steps=7", "optim.lr=1", "image.global_scale=[0.9, 1]", "compute.precision=fp32"]
    )
    assert (changed.optim.steps, changed.optim.lr) == (7, 1.0)
    assert changed.image.global_scale == (0.9, 1.0)
    assert changed.compute.precision == "fp32"
    assert changed.text == config.text
    assert changed.optim.betas == config.optim.betas


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.step=7", r"no 'step'; nearest: steps"),
        ("optm.steps=7", r"no 'optm'; nearest: optim"),
        ("optim.steps", r"takes key=value"),
        ("optim.steps=many", r"expected int, like"),
        ("optim.steps.x=1", r"'steps' has no parts"),
        ("image.global_scale=[0.9]", r"expected tuple"),
    ],
)
def test_bad_assignments(config, assignment, message):
    with pytest.raises(ValueError, match=message):
        override(config, [assignment])
