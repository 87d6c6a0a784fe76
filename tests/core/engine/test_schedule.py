"""Learning-rate schedules at points solved by hand."""

import pytest

from cosmos_core.config import OptimConfig
from cosmos_core.engine.build import learning_rate


def rate(step, **settings):
    optim = OptimConfig(lr=1.0, warmup_steps=10, steps=110, batch_size=1, **settings)
    return learning_rate(step, optim)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (60, 0.5), (110, 0.0)],
)
def test_warm_up_then_half_cosine(step, expected):
    assert rate(step) == pytest.approx(expected)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.1), (4, 0.5), (10, 1.0), (109, 1.0)])
def test_warm_up_then_constant(step, expected):
    assert rate(step, schedule="constant") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (9, 1.0), (10, 1.0), (74, 1.0), (85, 1.0), (86, 0.8), (89, 0.6), (101, 0.2)],
)
def test_warm_up_then_constant_then_one_minus_the_square_root(step, expected):
    """Of 25 steps of cooldown after step 85: 1 - sqrt(1/25), 1 - sqrt(4/25), 1 - sqrt(16/25)."""
    assert rate(step, schedule="wsd", cooldown_steps=25) == pytest.approx(expected)


def test_a_cooldown_ends_at_zero():
    assert rate(110, schedule="wsd", cooldown_steps=25) == 0.0
