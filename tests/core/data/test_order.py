"""Which sample comes when."""

import itertools

import numpy as np
import pytest
from scipy import stats

from cosmos_core.data.shards import BatchOrder, Schedule


def batches(size, schedule, **order):
    options = {"weights": None, "seed": 0, **order}
    return list(BatchOrder([size], schedule=schedule, **options))


def test_an_epoch_visits_every_sample_once_in_an_order_of_its_own():
    draws = list(itertools.chain.from_iterable(batches(9, Schedule(4, 9))))
    epochs = [draws[first : first + 9] for first in range(0, 36, 9)]
    for number, epoch in enumerate(epochs):
        assert sorted(draw.number for draw in epoch) == list(range(9))
        assert {draw.seed for draw in epoch} == {(0, number, sample) for sample in range(9)}
    orders = [tuple(draw.number for draw in epoch) for epoch in epochs]
    assert len(set(orders)) == 4


def test_a_batch_may_be_larger_than_the_data():
    (only,) = batches(3, Schedule(8, 1))
    assert [draw.seed[1] for draw in only] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_another_seed_is_another_order():
    assert batches(50, Schedule(50, 1)) != batches(50, Schedule(50, 1), seed=1)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_take_the_parts_of_every_global_batch(world_size):
    whole = batches(10, Schedule(8, 5))
    parts = [batches(10, Schedule(8, 5, 0, rank, world_size)) for rank in range(world_size)]
    assert [list(itertools.chain(*step)) for step in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("weights", [None, (2.0,)])
def test_a_run_can_begin_at_any_step(weights):
    whole = batches(10, Schedule(4, 9), weights=weights)
    for step in range(10):
        assert batches(10, Schedule(4, 9, step), weights=weights) == whole[step:]


def test_weights_draw_sets_by_weight_times_size_and_their_samples_evenly():
    # 300 samples of weight 1 and 100 of weight 3: half of the draws each.
    sizes, epochs = (300, 100), 50
    order = BatchOrder(sizes, (1.0, 3.0), 0, Schedule(sum(sizes), epochs))
    numbers = np.array([draw.number for batch in order for draw in batch])
    counts = np.bincount(numbers, minlength=400)
    assert len(counts) == 400
    # 20,000 draws at 1/2 each: 4 standard deviations are 0.014.
    assert counts[:300].sum() / len(numbers) == pytest.approx(0.5, abs=0.0142)
    assert stats.chisquare(counts[:300]).pvalue > 1e-4
    assert stats.chisquare(counts[300:]).pvalue > 1e-4


def test_a_sample_drawn_twice_in_an_epoch_is_not_augmented_alike():
    (draws,) = batches(5, Schedule(50, 1), weights=(1.0,))
    assert len({draw.seed for draw in draws}) == 50
    assert any(a.number == b.number for a, b in itertools.pairwise(draws))
