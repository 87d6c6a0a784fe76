"""Streams that are resumed at a position: the batches of a whole run, without reading it all."""

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
    """Shards, of which one has a sample that cannot be decoded, and another is cut off."""
    folder = write_shards(tmp_path_factory.mktemp("shards"), SIZES)
    broken_sample = {**sample(9), "jpg": b"no"}
    write_shard(folder / "2.tar", [sample(6), sample(7), sample(8), broken_sample])
    content = (folder / "4.tar").read_bytes()
    (folder / "4.tar").write_bytes(content[: len(content) * 3 // 4])
    return folder


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch):
    monkeypatch.setattr(stream, "SHUFFLE_BUFFER", 4)


def spec(folder):
    return f"pipe:cat {folder}/{{0..{len(SIZES) - 1}}}.tar"


def load(config, **options):
    return list(make_loader(config, tokenize, **options))


def positions_after(batches):
    """Return the last position of each lane, as a snapshot has them."""
    return {batch.lane: batch.position for batch in batches}


def stream_batches(config, first_step=0, positions=None):
    """Return the batches of a run that are made in this process, without workers."""
    schedule = Schedule(config.optim.batch_size, config.optim.steps, first_step)
    view_maker = ViewMaker(config, tokenize)
    shards = parse_shards(config.data)
    return StreamBatches(shards, config.seed, schedule, 1, view_maker, positions)


@pytest.mark.parametrize("weights", ["", "1::3"], ids=["unweighted", "weighted"])
def test_a_run_can_be_resumed_after_every_step_of_three_passes(folder, weights):
    shards = spec(folder)
    if weights:
        shards = f"pipe:cat {folder}/{{0..3}}.tar::pipe:cat {folder}/{{4..7}}.tar"
    config = train_config(shards, steps=24, batch_size=4, weights=weights)
    batches = list(stream_batches(config))
    assert max(batch.position.pass_number for batch in batches) >= 2
    problem_kinds = {problem.kind for batch in batches for problem in batch.problems}
    assert problem_kinds == {"image_broken", "truncated"}
    for first_step in range(1, 24):
        positions = positions_after(batches[:first_step])
        reader = stream_batches(config, first_step, positions)
        resumed = list(itertools.islice(reader, 3))
        expected = batches[first_step : first_step + 3]
        assert_same_batches(resumed, expected)
        assert [batch.position for batch in resumed] == [batch.position for batch in expected]


def test_each_worker_resumes_at_its_own_position(folder):
    config = train_config(spec(folder), steps=24, batch_size=3, workers=3)
    expected = load(config)
    for first_step in (1, 18):  # before each worker had a batch, and after
        positions = positions_after(expected[:first_step])
        resumed = load(config, first_step=first_step, positions=positions)
        assert_same_batches(resumed, expected[first_step:])


@pytest.fixture
def counts(monkeypatch):
    """Numbers of the shards that are opened and of the samples that are decoded."""
    counts = Counter()
    read_stream, decode = stream.read_stream, stream.StreamSample.decode

    def count_and_read(shard):
        counts["opened shards"] += 1
        return read_stream(shard)

    def count_and_decode(stream_sample, view_maker):
        counts["decoded samples"] += 1
        return decode(stream_sample, view_maker)

    monkeypatch.setattr(stream, "read_stream", count_and_read)
    monkeypatch.setattr(stream.StreamSample, "decode", count_and_decode)
    return counts


def test_a_late_step_opens_only_the_shards_of_the_shuffle_buffer(tmp_path, counts):
    write_shards(tmp_path, [4] * 20)
    config = train_config(f"pipe:cat {tmp_path}/{{0..19}}.tar", steps=60, batch_size=4)
    batches = list(stream_batches(config))
    position = batches[55].position  # in the third pass
    assert position.pass_number == 2
    assert len(position.finished_shard_sizes) > 12
    counts.clear()
    (batch,) = itertools.islice(stream_batches(config, 56, {0: position}), 1)
    assert_same_batches([batch], [batches[56]])
    # The shards of the 4 samples in the buffer, the current shard, and the next one.
    assert counts["opened shards"] <= 6
    assert counts["decoded samples"] == 4


def test_a_shard_that_lost_samples_is_named(tmp_path):
    write_shards(tmp_path, [6, 6])
    config = train_config(f"pipe:cat {tmp_path}/{{0..1}}.tar", steps=4, batch_size=2)
    position = list(stream_batches(config))[1].position
    for name in ("0.tar", "1.tar"):
        write_shard(tmp_path / name, [sample(0)])
    (error,) = stream_batches(config, 2, {0: position})
    assert isinstance(error, UnreadableDataError)
    assert "0.tar has 1 samples, and had" in str(error) or "1.tar has 1 samples" in str(error)


def test_a_shard_that_cannot_be_read_for_a_moment_is_named_with_the_reason(tmp_path):
    write_shards(tmp_path, [6])
    (tmp_path / "up").touch()
    shards = f"pipe:test -e {tmp_path}/up && cat {tmp_path}/0.tar"
    config = train_config(shards, steps=3, batch_size=2)
    position = next(iter(stream_batches(config))).position
    (tmp_path / "up").unlink()
    (error,) = stream_batches(config, 1, {0: position})
    assert isinstance(error, UnreadableDataError)
    reason = "0.tar: after 0 samples: the command ended with status 1 (unreadable), and the snap"
    assert reason in str(error)
    assert "go on by --resume when it can be read" in str(error)


def test_the_same_processes_and_workers_resume_at_the_sample_and_others_at_a_pass(caplog):
    first, second = StreamPosition(1, 5, 5, (3, 2), 1), StreamPosition(2, 1, 1, (), 2)
    stored = pack_positions([{0: first, 1: second}, {1: first}], lanes=2)
    assert resumed_positions(stored, rank=1, world_size=2, lanes=2) == {1: first}
    assert caplog.messages == []
    # The snapshot is in pass 2 (counted from 0), so that other workers begin with pass 3.
    expected = {lane: StreamPosition(3) for lane in range(3)}
    assert resumed_positions(stored, rank=0, world_size=2, lanes=3) == expected
    assert resumed_positions(stored, rank=0, world_size=1, lanes=3) == expected
    assert caplog.messages[0] == (
        "the streams go on at the beginning of pass 4: 2 processes of 2 workers wrote the "
        "snapshot, and this run has 2 of 3; with the same numbers it goes on at the next sample"
    )
    nothing_read = pack_positions([{}], lanes=1)
    assert resumed_positions(nothing_read, rank=0, world_size=1, lanes=2)[1] == StreamPosition(0)


def test_a_pass_that_is_begun_with_other_workers_has_every_sample_once(folder):
    config = train_config(spec(folder), steps=12, batch_size=2, workers=2)
    positions = {lane: StreamPosition(1) for lane in range(2)}
    resumed = load(config, first_step=3, positions=positions)
    assert {batch.position.pass_number for batch in resumed[:4]} == {1}
    numbers = [number for batch in resumed for number in numbers_in(batch)]
    assert max(batch.position.pass_number for batch in resumed) == 1
    assert len(set(numbers)) == len(numbers) == 18
