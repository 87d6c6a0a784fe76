"""What `data.shards` and `data.weights` may say, and which sample comes when."""

import itertools

import numpy as np
import pytest
from scipy import stats

from cosmos_core.config import DataConfig
from cosmos_core.data import shards
from cosmos_core.data.shards import (
    BatchOrder,
    KeyedPermutation,
    Schedule,
    ShardError,
    ShardSets,
    parse_shards,
)


@pytest.fixture
def folder(tmp_path):
    for name in ("a-0.tar", "a-1.tar", "a-2.tar", "b.tar", "odd[1].tar"):
        (tmp_path / name).touch()
    return tmp_path


def sets(spec, weights=""):
    return parse_shards(DataConfig(shards=spec, weights=weights))


def test_paths_braces_patterns_and_several_sets(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))

    def names(*wanted):
        return tuple(str(folder / name) for name in wanted)

    assert sets("~/b.tar") == ShardSets((names("b.tar"),), None, False)
    assert sets(f"{folder}/b.tar") == ShardSets((names("b.tar"),), None, False)
    assert sets(f"{folder}/a-{{0..2}}.tar").sets == (names("a-0.tar", "a-1.tar", "a-2.tar"),)
    assert sets(f"{folder}/{{b,a-1}}.tar").sets == (names("b.tar", "a-1.tar"),)
    assert sets(f"{folder}/a-*.tar").sets == (names("a-0.tar", "a-1.tar", "a-2.tar"),)
    assert sets(f"{folder}/odd[1].tar").sets == (names("odd[1].tar"),)
    both = sets(f"{folder}/a-{{0,1}}.tar::{folder}/b.tar", "1::0.5")
    assert both == ShardSets((names("a-0.tar", "a-1.tar"), names("b.tar")), (1.0, 0.5), False)
    assert both.shards == list(names("a-0.tar", "a-1.tar", "b.tar"))


def test_commands_and_urls_are_streams():
    spec = "pipe:cat /x/{00..01}.tar::https://host/{a,b}.tar"
    commands = "pipe:cat /x/00.tar", "pipe:cat /x/01.tar"
    urls = "https://host/a.tar", "https://host/b.tar"
    assert sets(spec) == ShardSets((commands, urls), None, True)


@pytest.mark.parametrize(
    ("spec", "weights", "message"),
    [
        ("", "", "data.shards is empty"),
        ("{folder}/b.tar::", "", "has an empty set"),
        ("{folder}/no.tar", "", "^no such shard: .*no.tar$"),
        ("{folder}/a-{{1..3}}.tar", "", "^no such shard: .*a-3.tar$"),
        ("{folder}/c*.tar", "", r"^no such shard: nothing matches .*c\*.tar$"),
        ("{folder}", "", r"^no such shard: .*; name its tars, as in .*/\*.tar$"),
        ("{folder}/{{b.tar", "", "cannot be expanded"),
        ("${{NOWHERE}}/b.tar", "", "cannot be expanded"),
        ("{folder}/b.tar::pipe:cat x", "", "mixes local tars with streams"),
        ("{folder}/b.tar::{folder}/a-1.tar", "1", "has 1 weights for 2 sets"),
        ("{folder}/b.tar", "1::2", "has 2 weights for 1 sets"),
        ("{folder}/b.tar", "many", "'many': a weight is not a number"),
        ("{folder}/b.tar", "0", "must be greater than 0"),
        ("{folder}/b.tar", "inf", "must be greater than 0"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(folder, spec, weights, message):
    with pytest.raises(ShardError, match=message) as error:
        sets(spec.format(folder=folder), weights)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spec",
    [
        "/x/{0..999999999}.tar",
        "/x/{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}.tar",
        "/x/{a..z}{a..z}{a..z}{a..z}{a..z}.tar",
        "/x/" + "{a,b}" * 64,
        "/x/{0.." + "9" * 6000 + "}.tar",
        "pipe:cat /x/{00000000..99999999}.tar",
    ],
    ids=lambda spec: spec[:30],
)
def test_more_shards_than_there_can_be_are_not_expanded(spec):
    with pytest.raises(ShardError, match="names more than 1000000 shards"):
        sets(spec)


def test_nested_braces_are_counted_as_they_are_expanded(monkeypatch):
    """Up to the largest number of shards, which takes seconds with that of a user."""
    monkeypatch.setattr(shards, "MAX_SHARDS", 1000)
    assert len(sets("pipe:{{0..9},{0..9}}{0..49}.tar").shards) == 1000
    with pytest.raises(ShardError, match="names more than 1000 shards"):
        sets("/x/{{0..9},{0..9}}{0..50}.tar")


def test_shards_of_a_folder_that_cannot_be_read_are_not_left_out(tmp_path, monkeypatch):
    with pytest.raises(ShardError, match="File name too long"):
        sets("x" * 5000)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.tar").touch()
    locked = str(tmp_path / "b")
    # Permissions do not hinder root, who runs tests in containers.
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != locked)
    with pytest.raises(ShardError, match=f"^cannot read folder {locked}: permission denied$"):
        sets(f"{tmp_path}/*/*.tar")


def test_braces_are_counted_as_they_are_expanded():
    assert len(sets("pipe:x{00000..23134}").shards) == 23135
    assert len(sets("pipe:{a,b{0..999},c{0..999..2}}").shards) == 1501
    assert len(sets("pipe:{train-{000..999},val-{000..999}}").shards) == 2000
    assert len(sets("pipe:awk '{print}' {1,2}").shards) == 2


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


@pytest.mark.parametrize("samples", [96, 100, 127])
def test_no_batch_has_a_sample_twice_where_two_epochs_meet(samples):
    batch, steps = 32, 60
    for seed in range(5):
        order = BatchOrder([samples], None, seed, Schedule(batch, steps))
        batches = [[draw.number for draw in one] for one in order]
        assert all(len(set(one)) == batch for one in batches)
        drawn = list(itertools.chain(*batches))
        for start in range(0, len(drawn) - samples + 1, samples):
            assert sorted(drawn[start : start + samples]) == list(range(samples))
        for step in (1, 7, 50):  # from which a run may go on
            (first, *_) = BatchOrder([samples], None, seed, Schedule(batch, steps, step))
            assert [draw.number for draw in first] == batches[step]


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


@pytest.mark.parametrize("size", [65_536, 65_537, 100_000])
def test_a_keyed_permutation_is_one_of_all_numbers(size):
    for seed in range(2):
        numbers = KeyedPermutation(size, [seed, 7])(np.arange(size))
        assert np.array_equal(np.sort(numbers), np.arange(size))


def test_keyed_permutations_are_uniform_and_independent():
    """Over 2,000 keys: where the first position goes, where it and the second go together, and
    their distance; in one permutation, where neighbours go."""
    size = 70_000
    pairs = np.array([KeyedPermutation(size, [key])(np.arange(2)) for key in range(2000)])
    first, second = pairs.astype(np.int64).T
    fifth = size // 5
    assert stats.chisquare(np.bincount(first // (size // 50))).pvalue > 1e-4
    assert stats.chisquare(np.bincount(first // fifth * 5 + second // fifth)).pvalue > 1e-4
    assert stats.chisquare(np.bincount((first - second) % size // (size // 50))).pvalue > 1e-4
    numbers = KeyedPermutation(200_000, [0])(np.arange(200_000)).astype(np.int64) // 20_000
    assert stats.chisquare(np.bincount(numbers[:-1] * 10 + numbers[1:])).pvalue > 1e-4


def test_a_keyed_order_visits_every_sample_once_an_epoch_from_any_step():
    size = KeyedPermutation.MIN_SIZE
    whole = batches(size, Schedule(size // 2 + 1, 4), keyed=True)
    numbers = [draw.number for batch in whole for draw in batch]
    assert sorted(numbers[:size]) == sorted(numbers[size : 2 * size]) == list(range(size))
    assert numbers[:size] != numbers[size : 2 * size]
    assert batches(size, Schedule(size // 2 + 1, 4, 3), keyed=True) == whole[3:]
    few = batches(9, Schedule(9, 2), keyed=True)
    assert few == batches(9, Schedule(9, 2))


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
