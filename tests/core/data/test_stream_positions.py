"""Streams that go on at a position: the batches of an uninterrupted run, without reading it all."""

import itertools
from collections import Counter

import pytest
from support.shards import (
    assert_same_batches,
    numbers_in,
    sample,
    tokenize,
    train_config,
    write_shard,
    write_shards,
)

from cosmos_core.data import stream
from cosmos_core.data.loading import make_loader
from cosmos_core.data.samples import StreamPosition, UnreadableDataError, ViewMaker
from cosmos_core.data.shards import Schedule, parse_shards
from cosmos_core.data.stream import StreamBatches, pack_positions, resumed_positions

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
SIZES = [5, 1, 4, 3, 6, 2, 5, 4]  # samples in the shards
SAMPLES = sum(SIZES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards, of which one has a sample that cannot be decoded, and another breaks off."""
    folder = write_shards(tmp_path_factory.mktemp("shards"), SIZES)
    write_shard(folder / "2.tar", [*map(sample, (6, 7, 8)), {**sample(9), "jpg": b"no"}])
    cut = (folder / "4.tar").read_bytes()
    (folder / "4.tar").write_bytes(cut[: len(cut) * 3 // 4])
    return folder


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch):
    monkeypatch.setattr(stream, "SHUFFLE_BUFFER", 4)


def spec(folder):
    return f"pipe:cat {folder}/{{0..{len(SIZES) - 1}}}.tar"


def load(config, **options):
    return list(make_loader(config, tokenize, **options))


def positions_after(batches):
    """The last position of each lane, as a snapshot holds them."""
    return {batch.lane: batch.position for batch in batches}


def in_this_process(config, first_step=0, positions=None):
    schedule = Schedule(config.optim.batch_size, config.optim.steps, first_step)
    maker = ViewMaker(config, tokenize)
    return StreamBatches(parse_shards(config.data), config.seed, schedule, 1, maker, positions)


@pytest.mark.parametrize("weights", ["", "1::3"])
def test_every_step_of_three_passes_can_be_gone_on_from(folder, weights):
    shards = spec(folder)
    if weights:
        shards = f"pipe:cat {folder}/{{0..3}}.tar::pipe:cat {folder}/{{4..7}}.tar"
    config = train_config(shards, steps=24, batch_size=4, weights=weights)
    whole = list(in_this_process(config))
    assert max(batch.position.pass_number for batch in whole) >= 2
    problems = Counter(problem.kind for batch in whole for problem in batch.problems)
    assert problems.keys() == {"image_broken", "truncated"}
    for first_step in range(1, 24):
        reader = in_this_process(config, first_step, positions_after(whole[:first_step]))
        resumed = list(itertools.islice(reader, 3))
        expected = whole[first_step : first_step + 3]
        assert_same_batches(resumed, expected)
        assert [batch.position for batch in resumed] == [batch.position for batch in expected]


def test_workers_go_on_each_at_its_own_position(folder):
    config = train_config(spec(folder), steps=24, batch_size=3, workers=3)
    whole = load(config)
    for first_step in (1, 18):  # before each worker had a batch, and after
        positions = positions_after(whole[:first_step])
        resumed = load(config, first_step=first_step, positions=positions)
        assert_same_batches(resumed, whole[first_step:])


@pytest.fixture
def work(monkeypatch):
    """Counts the shards that are opened and the samples that are decoded."""
    counts = Counter()
    read, decode = stream.read_stream, stream.StreamSample.decode

    def counted_read(shard):
        counts["opened"] += 1
        return read(shard)

    def counted_decode(entry, view_maker):
        counts["decoded"] += 1
        return decode(entry, view_maker)

    monkeypatch.setattr(stream, "read_stream", counted_read)
    monkeypatch.setattr(stream.StreamSample, "decode", counted_decode)
    return counts


def test_a_late_step_opens_the_shards_of_the_buffer_alone(tmp_path, work):
    write_shards(tmp_path, [4] * 20)
    config = train_config(f"pipe:cat {tmp_path}/{{0..19}}.tar", steps=60, batch_size=4)
    whole = list(in_this_process(config))
    positions = {0: whole[55].position}  # in the third pass
    assert positions[0].pass_number == 2
    assert len(positions[0].finished_shard_sizes) > 12
    work.clear()
    (batch,) = itertools.islice(in_this_process(config, 56, positions), 1)
    assert_same_batches([batch], [whole[56]])
    # The buffer of 4 has samples of the last shards; of the shard in which it is, and the next.
    assert work["opened"] <= 6
    assert work["decoded"] == 4


def test_a_shard_that_lost_samples_is_named(tmp_path):
    write_shards(tmp_path, [6, 6])
    config = train_config(f"pipe:cat {tmp_path}/{{0..1}}.tar", steps=4, batch_size=2)
    first = list(in_this_process(config))[1]
    for name in "01":
        write_shard(tmp_path / f"{name}.tar", [sample(0)])
    (error,) = in_this_process(config, 2, {0: first.position})
    assert isinstance(error, UnreadableDataError)
    assert "0.tar has 1 samples, and had" in str(error) or "1.tar has 1 samples" in str(error)


def test_the_same_numbers_go_on_at_the_sample_and_others_at_a_pass(caplog):
    first, second = StreamPosition(1, 5, 5, (3, 2), 1), StreamPosition(2, 1, 1, (), 2)
    stored = pack_positions([{0: first, 1: second}, {1: first}], lanes=2)
    assert resumed_positions(stored, rank=1, world_size=2, lanes=2) == {1: first}
    assert caplog.messages == []
    expected = {lane: StreamPosition(3) for lane in range(3)}
    assert resumed_positions(stored, rank=0, world_size=2, lanes=3) == expected
    assert resumed_positions(stored, rank=0, world_size=1, lanes=3) == expected
    assert caplog.messages[0] == (
        "the streams go on at the beginning of pass 4: 2 processes of 2 workers wrote the "
        "snapshot, and this run has 2 of 3; with the same numbers it goes on at the next sample"
    )
    unread = pack_positions([{}], lanes=1)
    assert resumed_positions(unread, rank=0, world_size=1, lanes=2)[1] == StreamPosition(0)


def test_a_pass_that_is_begun_with_other_workers_has_every_sample(folder):
    config = train_config(spec(folder), steps=12, batch_size=2, workers=2)
    positions = {lane: StreamPosition(1) for lane in range(2)}
    resumed = load(config, first_step=3, positions=positions)
    assert {batch.position.pass_number for batch in resumed[:4]} == {1}
    numbers = [number for batch in resumed for number in numbers_in(batch)]
    assert len(set(numbers)) == len(numbers) or max(b.position.pass_number for b in resumed) > 1
