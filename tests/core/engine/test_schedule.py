"""Learning-rate schedule at points solved by hand."""

import pytest

from cosmos_core.config import OptimConfig
from cosmos_core.engine.build import learning_rate


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (60, 0.5), (110, 0.0)],
)
def test_warm_up_then_half_cosine(step, expected):
    optim = OptimConfig(lr=1.0, warmup_steps=10, steps=110, batch_size=1)
    assert learning_rate(step, optim) == pytest.approx(expected)
