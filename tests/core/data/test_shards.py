"""The settings `data.shards` and `data.weights`, and the order in which samples are drawn."""

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


def parse(spec, weights=""):
    return parse_shards(DataConfig(shards=spec, weights=weights))


def test_paths_braces_patterns_and_several_sets(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))

    def paths(*names):
        return tuple(str(folder / name) for name in names)

    only_b = ShardSets(sets=(paths("b.tar"),), weights=None, streams=False)
    assert parse("~/b.tar") == only_b
    assert parse(f"{folder}/b.tar") == only_b
    assert parse(f"{folder}/a-{{0..2}}.tar").sets == (paths("a-0.tar", "a-1.tar", "a-2.tar"),)
    assert parse(f"{folder}/{{b,a-1}}.tar").sets == (paths("b.tar", "a-1.tar"),)
    assert parse(f"{folder}/a-*.tar").sets == (paths("a-0.tar", "a-1.tar", "a-2.tar"),)
    assert parse(f"{folder}/odd[1].tar").sets == (paths("odd[1].tar"),)
    two_sets = parse(f"{folder}/a-{{0,1}}.tar::{folder}/b.tar", "1::0.5")
    assert two_sets == ShardSets(
        sets=(paths("a-0.tar", "a-1.tar"), paths("b.tar")), weights=(1.0, 0.5), streams=False
    )
    assert two_sets.shards == list(paths("a-0.tar", "a-1.tar", "b.tar"))


def test_commands_and_urls_are_streams():
    spec = "pipe:cat /x/{00..01}.tar::https://host/{a,b}.tar"
    commands = "pipe:cat /x/00.tar", "pipe:cat /x/01.tar"
    urls = "https://host/a.tar", "https://host/b.tar"
    assert parse(spec) == ShardSets(sets=(commands, urls), weights=None, streams=True)


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
def test_settings_that_cannot_be_used_are_refused_in_one_line(folder, spec, weights, message):
    with pytest.raises(ShardError, match=message) as error:
        parse(spec.format(folder=folder), weights)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param("/x/{0..999999999}.tar", id="numbers"),
        pytest.param("/x/{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}.tar", id="digits"),
        pytest.param("/x/{a..z}{a..z}{a..z}{a..z}{a..z}.tar", id="letters"),
        pytest.param("/x/" + "{a,b}" * 64, id="many choices of two"),
        pytest.param("/x/{0.." + "9" * 6000 + "}.tar", id="a number of 6000 digits"),
        pytest.param("pipe:cat /x/{00000000..99999999}.tar", id="padded numbers"),
    ],
)
def test_specifications_of_over_a_million_shards_are_refused(spec):
    with pytest.raises(ShardError, match="names more than 1000000 shards"):
        parse(spec)


def test_nested_braces_are_counted_as_they_are_expanded(monkeypatch):
    # The real limit of a million shards would take seconds.
    monkeypatch.setattr(shards, "MAX_SHARDS", 1000)
    assert len(parse("pipe:{{0..9},{0..9}}{0..49}.tar").shards) == 1000
    with pytest.raises(ShardError, match="names more than 1000 shards"):
        parse("/x/{{0..9},{0..9}}{0..50}.tar")


def test_shards_of_a_folder_that_cannot_be_read_are_not_left_out(tmp_path, monkeypatch):
    with pytest.raises(ShardError, match="File name too long"):
        parse("x" * 5000)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.tar").touch()
    locked_folder = str(tmp_path / "b")

    # Permissions do not hinder root, who runs tests in containers.
    def may_access(path, mode):
        return str(path) != locked_folder

    monkeypatch.setattr("os.access", may_access)
    message = f"^cannot read folder {locked_folder}: permission denied$"
    with pytest.raises(ShardError, match=message):
        parse(f"{tmp_path}/*/*.tar")


def test_braces_are_counted_as_they_are_expanded():
    assert len(parse("pipe:x{00000..23134}").shards) == 23135
    assert len(parse("pipe:{a,b{0..999},c{0..999..2}}").shards) == 1501
    assert len(parse("pipe:{train-{000..999},val-{000..999}}").shards) == 2000
    assert len(parse("pipe:awk '{print}' {1,2}").shards) == 2


def draw_batches(size, schedule, *, weights=None, seed=0, keyed=False):
    """Return all batches of draws from one data set of this size."""
    return list(BatchOrder([size], weights, seed, schedule, keyed=keyed))


def sample_numbers(batches):
    """Return the numbers of the samples of all batches, in the order in which they are drawn."""
    return [draw.number for batch in batches for draw in batch]


def test_an_epoch_visits_every_sample_once_in_an_order_of_its_own():
    # Nine steps of four samples are four epochs of nine samples.
    draws = list(itertools.chain.from_iterable(draw_batches(9, Schedule(4, 9))))
    epochs = [draws[start : start + 9] for start in range(0, 36, 9)]
    for number, epoch in enumerate(epochs):
        assert sorted(draw.number for draw in epoch) == list(range(9))
        assert {draw.seed for draw in epoch} == {(0, number, sample) for sample in range(9)}
    orders = {tuple(draw.number for draw in epoch) for epoch in epochs}
    assert len(orders) == 4


def test_a_batch_may_be_larger_than_the_data():
    (batch,) = draw_batches(3, Schedule(8, 1))
    epochs = [draw.seed[1] for draw in batch]
    assert epochs == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("size", [96, 100, 127])
def test_no_batch_has_a_sample_twice_where_two_epochs_meet(size):
    batch_size, steps = 32, 60
    for seed in range(5):
        batches = draw_batches(size, Schedule(batch_size, steps), seed=seed)
        assert all(len(set(sample_numbers([batch]))) == batch_size for batch in batches)
        numbers = sample_numbers(batches)
        for start in range(0, len(numbers) - size + 1, size):
            assert sorted(numbers[start : start + size]) == list(range(size))
        for first_step in (1, 7, 50):  # steps from which a run goes on
            schedule = Schedule(batch_size, steps, first_step)
            batch, *_ = draw_batches(size, schedule, seed=seed)
            assert sample_numbers([batch]) == sample_numbers([batches[first_step]])


def test_another_seed_is_another_order():
    assert draw_batches(50, Schedule(50, 1)) != draw_batches(50, Schedule(50, 1), seed=1)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_batches_of_processes_join_to_the_global_batches(world_size):
    global_batches = draw_batches(10, Schedule(8, 5))
    batches_by_rank = []
    for rank in range(world_size):
        schedule = Schedule(8, 5, first_step=0, rank=rank, world_size=world_size)
        batches_by_rank.append(draw_batches(10, schedule))
    joined_batches = [
        list(itertools.chain(*batches_of_step))
        for batches_of_step in zip(*batches_by_rank, strict=True)
    ]
    assert joined_batches == global_batches


@pytest.mark.parametrize("weights", [None, (2.0,)], ids=["unweighted", "weighted"])
def test_a_run_can_begin_at_any_step(weights):
    batches = draw_batches(10, Schedule(4, 9), weights=weights)
    for step in range(10):
        assert draw_batches(10, Schedule(4, 9, step), weights=weights) == batches[step:]


@pytest.mark.parametrize("size", [65_536, 65_537, 100_000])
def test_a_keyed_permutation_has_every_number_once(size):
    for seed in range(2):
        numbers = KeyedPermutation(size, [seed, 7])(np.arange(size))
        assert np.array_equal(np.sort(numbers), np.arange(size))


def is_uniform(bins):
    """Tell whether a chi-squared test accepts that all bins are equally frequent."""
    return stats.chisquare(np.bincount(bins)).pvalue > 1e-4


def test_keyed_permutations_are_uniform_and_independent():
    # Over 2,000 keys: the numbers at the first position, at the first two positions together, and
    # the distance between these two.
    size = 70_000
    pairs = np.array([KeyedPermutation(size, [key])(np.arange(2)) for key in range(2000)])
    first, second = pairs.astype(np.int64).T
    fiftieth, fifth = size // 50, size // 5
    assert is_uniform(first // fiftieth)
    assert is_uniform(first // fifth * 5 + second // fifth)
    assert is_uniform((first - second) % size // fiftieth)
    # In one permutation: the numbers at neighbouring positions, in 10 x 10 bins.
    numbers = KeyedPermutation(200_000, [0])(np.arange(200_000)).astype(np.int64)
    tenths = numbers // 20_000
    assert is_uniform(tenths[:-1] * 10 + tenths[1:])


def test_a_keyed_order_visits_every_sample_once_an_epoch_from_any_step():
    size = KeyedPermutation.MIN_SIZE
    batch_size = size // 2 + 1  # four batches have more than two epochs
    batches = draw_batches(size, Schedule(batch_size, 4), keyed=True)
    numbers = sample_numbers(batches)
    first_epoch, second_epoch = numbers[:size], numbers[size : 2 * size]
    assert sorted(first_epoch) == sorted(second_epoch) == list(range(size))
    assert first_epoch != second_epoch
    assert draw_batches(size, Schedule(batch_size, 4, 3), keyed=True) == batches[3:]
    # Small data sets have the same order with and without the option.
    assert draw_batches(9, Schedule(9, 2), keyed=True) == draw_batches(9, Schedule(9, 2))


def test_weights_draw_sets_by_weight_times_size_and_their_samples_evenly():
    # 300 samples of weight 1 and 100 of weight 3: half of the draws each.
    sizes, epochs = (300, 100), 50
    order = BatchOrder(sizes, (1.0, 3.0), 0, Schedule(sum(sizes), epochs))
    numbers = np.array(sample_numbers(order))
    counts = np.bincount(numbers, minlength=400)
    assert len(counts) == 400
    # 20,000 draws at 1/2 each: 4 standard deviations are 0.014.
    assert counts[:300].sum() / len(numbers) == pytest.approx(0.5, abs=0.0142)
    assert stats.chisquare(counts[:300]).pvalue > 1e-4
    assert stats.chisquare(counts[300:]).pvalue > 1e-4


def test_a_sample_drawn_twice_in_an_epoch_is_not_augmented_alike():
    (batch,) = draw_batches(5, Schedule(50, 1), weights=(1.0,))
    assert len({draw.seed for draw in batch}) == 50
    assert any(draw.number == following.number for draw, following in itertools.pairwise(batch))
