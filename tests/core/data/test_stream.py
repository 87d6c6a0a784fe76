"""Batches of streams (pipes, HTTP, S3, other file systems), against the same tars read locally."""

import bz2
import functools
import gzip
import http.server
import lzma
import shutil
import sys
import threading

import fsspec
import numpy as np
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

from cosmos_core.config import DataConfig
from cosmos_core.data.loading import make_loader
from cosmos_core.data.samples import Problem, UnreadableDataError
from cosmos_core.data.shards import Schedule, ShardError, ShardSets, parse_shards
from cosmos_core.data.stream import StreamBatches, read_stream

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
SHARDS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), [3] * SHARDS)


@pytest.fixture
def piped(folder):
    return f"pipe:cat {folder}/{{0..{SHARDS - 1}}}.tar"


@pytest.fixture(scope="module")
def server(folder):
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """A server of files that logs nothing."""

    def log_message(self, *_):
        pass


def load(config, **options):
    """Return all batches of a run; the options are those of make_loader."""
    return list(make_loader(config, tokenize, **options))


def all_numbers(batches):
    """Return the numbers of the samples of all batches, sorted."""
    return sorted(number for batch in batches for number in numbers_in(batch))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_has_the_samples_of_its_tars(piped, workers):
    # A pass has 24 samples, or 12 of each of two workers: whole batches of 4, with every sample.
    batches = load(train_config(piped, steps=6, batch_size=4, workers=workers))
    assert all_numbers(batches) == list(range(3 * SHARDS))
    assert all(batch.problems == () for batch in batches)
    assert numbers_in(batches[0]) != sorted(numbers_in(batches[0]))


def test_processes_read_different_shards(piped):
    config = train_config(piped, steps=2, batch_size=8, workers=2)
    batches = load(config, rank=0, world_size=2) + load(config, rank=1, world_size=2)
    assert all(batch.views.texts.shape[1] == 4 for batch in batches)
    # Each of the four readers has 6 samples in its pass, of which it gives 4.
    numbers = all_numbers(batches)
    assert len(numbers) == len(set(numbers)) == 16


@pytest.mark.parametrize("workers", [0, 3])
def test_a_run_goes_on_exactly_with_the_same_workers(piped, workers):
    config = train_config(piped, steps=11, batch_size=4, workers=workers)
    expected = load(config)
    assert_same_batches(load(config), expected)
    for first_step in (1, 9):
        assert_same_batches(load(config, first_step=first_step), expected[first_step:])


def test_passes_differ_in_order_and_augmentation(piped):
    batches = load(train_config(piped, steps=4, batch_size=12))
    first_pass, second_pass = batches[:2], batches[2:]
    assert all_numbers(first_pass) == all_numbers(second_pass)
    first_order = [numbers_in(batch) for batch in first_pass]
    assert first_order != [numbers_in(batch) for batch in second_pass]
    views = {}  # (number of the sample, number of the pass) -> pixels of its global views
    for pass_number, batches_of_pass in enumerate((first_pass, second_pass)):
        for batch in batches_of_pass:
            for row, number in enumerate(numbers_in(batch)):
                pixels = batch.views.global_images[:, row]
                views[number, pass_number] = pixels.numpy().tobytes()
    assert len(views) == len(set(views.values())) == 2 * 3 * SHARDS


def raw_samples(stream):
    """Return the bytes of all samples of a stream that is whole."""
    return [sample.raw for sample in read_stream(stream)]


def test_http_gives_what_a_pipe_gives(server, folder):
    if shutil.which("curl") is None:
        pytest.skip("webdataset reads HTTP by curl")
    assert raw_samples(f"{server}/2.tar") == raw_samples(f"pipe:cat {folder}/2.tar")
    keys = [sample.key for sample in read_stream(f"{server}/2.tar")]
    assert keys == ["000006", "000007", "000008"]
    batches = load(train_config(f"{server}/{{0..7}}.tar", steps=3, batch_size=8))
    assert all_numbers(batches) == list(range(3 * SHARDS))
    (problem,) = read_stream(f"{server}/missing.tar")
    assert (problem.kind, problem.key) == ("unreadable", f"{server}/missing.tar")
    assert "ended with status 22" in problem.detail


@pytest.mark.slow
def test_s3_gives_what_a_pipe_gives(bucket, folder):
    fsspec.filesystem("s3").put(str(folder), "s3://bucket/shards", recursive=True)
    assert raw_samples("s3://bucket/shards/2.tar") == raw_samples(f"pipe:cat {folder}/2.tar")
    # Workers read as well, whose parent has connections to S3.
    config = train_config("s3://bucket/shards/{0..7}.tar", steps=6, batch_size=4, workers=2)
    batches = load(config)
    assert all_numbers(batches) == list(range(3 * SHARDS))
    positions = {batch.lane: batch.position for batch in batches[:3]}
    assert_same_batches(load(config, first_step=3, positions=positions), batches[3:])
    (problem,) = read_stream("s3://bucket/missing.tar")
    assert (problem.kind, problem.key) == ("unreadable", "s3://bucket/missing.tar")
    assert "\n" not in problem.detail


def test_other_file_systems_of_fsspec_are_read(folder):
    files = fsspec.filesystem("memory")
    files.put(str(folder / "1.tar"), "/shards/1.tar")
    keys = [sample.key for sample in read_stream("memory://shards/1.tar")]
    assert keys == ["000003", "000004", "000005"]
    files.pipe_file("/shards/cut.tar", files.cat_file("/shards/1.tar")[:3000])
    *_, problem = read_stream("memory://shards/cut.tar")
    assert problem.kind in ("unreadable", "truncated")
    files.rm("/shards", recursive=True)


def test_a_scheme_without_its_package_is_refused_at_once(monkeypatch):
    with pytest.raises(ShardError, match=r"data\.shards s4://bucket/1\.tar: Protocol not known"):
        parse_shards(DataConfig(shards="s4://bucket/1.tar"))
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ShardError, match=r"; pip install 'cosmos-eval\[s3\]'"):
        parse_shards(DataConfig(shards="s3://bucket/1.tar"))


def stream_batches(sets, weights=None, rank=0, world_size=1, lanes=1):
    """Return the batches of a process, of which only the shards of each pass are asked for.

    A lane is a worker of a process.
    """
    shard_sets = ShardSets(sets, weights, streams=True)
    schedule = Schedule(batch_size=1, steps=1, rank=rank, world_size=world_size)
    return StreamBatches(shard_sets, 0, schedule, lanes, None)


def test_every_pass_deals_every_shard_to_one_worker():
    shards = tuple(f"pipe:{number}" for number in range(10))
    orders = set()
    for pass_number in range(3):
        shards_of_all_workers = []
        for rank in (0, 1):
            batches = stream_batches((shards,), rank=rank, world_size=2, lanes=2)
            for lane in (0, 1):
                shards_of_all_workers += batches.shards_of_pass(lane, pass_number)
        assert sorted(shards_of_all_workers) == sorted(shards)
        orders.add(tuple(shards_of_all_workers))
    assert len(orders) == 3


def test_shards_are_drawn_by_the_weights_of_their_sets():
    # 30 shards of weight 1 and 10 of weight 3: half of the draws each.
    set_a = tuple(f"pipe:a{number}" for number in range(30))
    set_b = tuple(f"pipe:b{number}" for number in range(10))
    batches = stream_batches((set_a, set_b), weights=(1.0, 3.0))
    drawn_shards = []
    for pass_number in range(500):
        drawn_shards += batches.shards_of_pass(0, pass_number)
    fraction_of_a = np.mean([shard.startswith("pipe:a") for shard in drawn_shards])
    # For 20,000 draws, 4 standard deviations are 0.014.
    assert fraction_of_a == pytest.approx(0.5, abs=0.0142)


def test_weighted_streams_may_have_fewer_shards_than_workers_and_are_resumed_exactly(folder):
    spec = f"pipe:cat {folder}/0.tar::pipe:cat {folder}/1.tar"
    config = train_config(spec, weights="1::4", steps=30, batch_size=4, workers=3)
    batches = load(config)
    numbers = np.array(all_numbers(batches))
    assert set(numbers) <= set(range(6))
    assert np.mean(numbers >= 3) == pytest.approx(0.8, abs=0.25)
    assert_same_batches(load(config, first_step=25), batches[25:])


def test_fewer_shards_than_readers_are_refused(piped):
    with pytest.raises(ShardError, match="8 stream shards are too few for 3 processes of 4 work"):
        make_loader(train_config(piped, batch_size=9, workers=4), tokenize, world_size=3)


def test_bad_samples_are_replaced_by_the_next_ones(tmp_path):
    good_samples = [sample(number) for number in range(6)]
    bad_samples = [{**sample(6), "jpg": b"no"}, {**sample(7), "json": b"{"}]
    write_shard(tmp_path / "a.tar", [*good_samples[:2], *bad_samples, *good_samples[2:]])
    config = train_config(f"pipe:cat {tmp_path}/a.tar", steps=8, batch_size=3)
    batches = load(config)
    problems = [problem for batch in batches for problem in batch.problems]
    assert {(problem.key, problem.kind) for problem in problems} == {
        ("000006", "image_broken"),
        ("000007", "record_broken"),
    }
    assert problems[0].detail.startswith(f"pipe:cat {tmp_path}/a.tar: ")
    assert all_numbers(batches) == sorted([*range(6)] * 4)
    for first_step in (1, 3, 6):
        assert_same_batches(load(config, first_step=first_step), batches[first_step:])


def test_a_stream_that_breaks_off_gives_the_samples_before(folder):
    command = f"pipe:head -c {(folder / '1.tar').stat().st_size // 2} {folder}/1.tar"
    *samples, problem = read_stream(command)
    assert 1 <= len(samples) <= 2
    assert samples[0].raw == next(read_stream(f"pipe:cat {folder}/1.tar")).raw
    assert (problem.kind, problem.key) == ("truncated", command)


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
def test_compressed_streams_are_read_whole_or_fail(folder, tmp_path, module):
    content = module.compress((folder / "1.tar").read_bytes())
    path = tmp_path / "1.tar.packed"
    path.write_bytes(content)
    assert raw_samples(f"file:{path}") == raw_samples(f"file:{folder}/1.tar")
    cut_off = content[:-3]
    written_twice = content + content
    overwritten = content[:200] + b"wrong" + content[205:]
    for damaged_content in (cut_off, written_twice, overwritten):
        path.write_bytes(damaged_content)
        *samples, problem = read_stream(f"file:{path}")
        assert len(samples) <= 3
        assert problem.kind == ("truncated" if samples else "unreadable")
        assert "\n" not in problem.detail


def test_a_damaged_stream_is_not_read_to_its_end(folder):
    # `yes` never ends.
    *samples, problem = read_stream(f"pipe:cat {folder}/1.tar; yes")
    assert len(samples) == 2  # the stream fails in the third one
    assert "goes on after its end" in problem.detail


@pytest.mark.parametrize(
    ("command", "kind", "n_samples"),
    [
        ("pipe:false", "unreadable", 0),
        ("pipe:true", "unreadable", 0),
        ("pipe:head -c 5000 /dev/zero | tr '\\0' x", "unreadable", 0),
        ("pipe:cat {folder}/1.tar; exit 3", "truncated", 3),
        ("nowhere:1.tar", "unreadable", 0),
    ],
)
def test_a_stream_that_fails_ends_with_a_problem(folder, command, kind, n_samples):
    command = command.format(folder=folder)
    *samples, problem = read_stream(command)
    assert len(samples) == n_samples
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.key) == (kind, command)
    assert "\n" not in problem.detail


def test_a_stream_can_be_left_early(folder):
    stream = read_stream(f"pipe:cat {folder}/1.tar; yes")
    assert next(stream).key == "000003"
    stream.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_streams_without_a_good_sample_stop_the_run(workers):
    config = train_config("pipe:false", workers=workers)
    message = r"no good sample .* pipe:false: unreadable"
    with pytest.raises(UnreadableDataError, match=message) as error:
        load(config)
    assert "\n" not in str(error.value)
