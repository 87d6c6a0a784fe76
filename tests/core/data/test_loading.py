"""Batches of local tars: the same for any workers, processes and first step, whatever is broken."""

import dataclasses
import os
import random
import signal
import time

import cv2
import numpy as np
import pytest
import torch
from support.shards import (
    assert_same_batches,
    jpeg,
    numbers_in,
    sample,
    tokenize,
    train_config,
    write_shard,
    write_shards,
)

from cosmos_core.data.loading import make_loader
from cosmos_core.data.samples import Batch, UnreadableDataError
from cosmos_core.data.shards import ShardError
from cosmos_core.types import Views

# More workers than cores are no reason to fail here.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), [5, 7, 9])


def load(config, **share):
    return list(make_loader(config, tokenize, **share))


def joined(parts):
    """The batches of several processes, as one."""
    for step in zip(*parts, strict=True):
        tensors = zip(*(batch.views for batch in step), strict=True)
        problems = tuple(problem for batch in step for problem in batch.problems)
        yield Batch(Views(*(torch.cat(tensor, dim=1) for tensor in tensors)), problems)


def test_batches_are_uint8_images_and_tokens(folder):
    first, *_ = load(train_config(f"{folder}/*.tar"))
    assert first.views.global_images.shape == (2, 8, 3, 32, 32)
    assert first.views.local_images.shape == (2, 8, 3, 16, 16)
    assert first.views.texts.shape == (4, 8, 40)
    assert [tensor.dtype for tensor in first.views] == [torch.uint8, torch.uint8, torch.int64]
    assert all(tensor.is_contiguous() for tensor in first.views)
    assert first.problems == ()


def test_batches_are_the_same_for_any_workers_processes_and_first_step(folder):
    config = train_config(f"{folder}/*.tar")
    whole = load(config)
    assert len(whole) == 6
    for first_step, workers in ((0, 1), (0, 3), (1, 0), (4, 2), (5, 0)):
        late = load(train_config(f"{folder}/*.tar", workers=workers), first_step=first_step)
        assert_same_batches(late, whole[first_step:])
    for size in (2, 4):
        parts = [load(config, rank=rank, world_size=size) for rank in range(size)]
        assert_same_batches(list(joined(parts)), whole)
    assert load(config, first_step=6) == []


@pytest.mark.parametrize("prefix", ["", "pipe:cat "])
def test_captions_of_a_training_are_chosen_by_their_keys(tmp_path, prefix):
    """Every third sample lacks the raw caption: it is bad, and replaced."""
    entries = [sample(number) for number in range(9)]
    for number, entry in enumerate(entries):
        record = {"longIB_captions": ["x" * 20]} | (entry["json"] if number % 3 else {})
        entries[number] = {**entry, "json": record}
    path = write_shard(tmp_path / "0.tar", entries)
    config = train_config(f"{prefix}{path}", workers=0, batch_size=6, steps=2)
    for batch in load(config):
        assert (batch.views.texts == ord("x")).any()
        assert batch.problems == ()
    raw = dataclasses.replace(config.text, captions=("raw_caption",))
    problems = []
    for batch in load(dataclasses.replace(config, text=raw)):
        assert not (batch.views.texts == ord("x")).any()
        assert {number % 3 for number in numbers_in(batch)} == {1, 2}
        problems += batch.problems
    assert {problem.kind for problem in problems} == {"captions_missing"}
    assert str(problems[0]).endswith("0.tar: no raw_caption among: longIB_captions")


def test_every_epoch_has_every_sample_augmented_anew(folder):
    batches = load(train_config(f"{folder}/*.tar", steps=6, batch_size=7))
    numbers = [number for batch in batches for number in numbers_in(batch)]
    assert sorted(numbers[:21]) == sorted(numbers[21:]) == list(range(21))
    views = torch.cat([batch.views.global_images for batch in batches], dim=1)
    first, second = (views[:, numbers.index(4, start)] for start in (0, 21))
    assert not torch.equal(first, second)


def test_a_seed_decides(folder):
    some = load(train_config(f"{folder}/*.tar", seed=1))
    again = load(train_config(f"{folder}/*.tar", seed=1))
    other = load(train_config(f"{folder}/*.tar", seed=2))
    assert_same_batches(some, again)
    assert numbers_in(some[0]) != numbers_in(other[0])


def test_several_sets_follow_each_other_and_weights_favour_one(folder):
    spec = f"{folder}/{{0,1}}.tar::{folder}/2.tar"
    assert_same_batches(load(train_config(spec)), load(train_config(f"{folder}/*.tar")))
    spec = f"{folder}/0.tar::{folder}/2.tar"  # 5 and 9 samples
    config = train_config(spec, weights="90::1", steps=20)
    batches = load(config)
    numbers = np.array([number for batch in batches for number in numbers_in(batch)])
    # 450 to 9: of 160 draws about 3 are from the second set.
    assert np.count_nonzero(numbers >= 12) < 12
    assert set(numbers[numbers < 12]) == set(range(5))
    workers = load(train_config(spec, weights="90::1", steps=20, workers=2), first_step=13)
    assert_same_batches(workers, batches[13:])


def test_the_global_generators_are_left_alone(folder):
    def state():
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())

    before = state()
    for workers in (0, 1):
        load(train_config(f"{folder}/*.tar", workers=workers))
    assert state() == before


def broken_samples():
    """One sample of each kind that can be broken in a whole tar, by key."""
    whole = sample(0)
    return {
        "image_missing": {"json": whole["json"]},
        "image_broken": {"jpg": jpeg(1)[:300], "json": whole["json"]},
        "record_missing": {"jpg": whole["jpg"]},
        "record_broken": {"jpg": whole["jpg"], "json": b"{"},
        "captions_missing": {"jpg": whole["jpg"], "json": {"raw_caption": []}},
        "captions_wrong": {"jpg": whole["jpg"], "json": {"raw_caption": [None]}},
    }


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """20 good samples and six broken ones."""
    folder = tmp_path_factory.mktemp("broken")
    bad = [{"__key__": kind, **files} for kind, files in broken_samples().items()]
    write_shard(folder / "a.tar", [*map(sample, range(10)), *bad, *map(sample, range(10, 20))])
    return folder


def test_bad_samples_are_reported_and_replaced(broken):
    config = train_config(f"{broken}/*.tar", steps=2, batch_size=13)  # one epoch of 26 samples
    batches = load(config)
    assert all(batch.views.texts.shape[1] == 13 for batch in batches)
    problems = [problem for batch in batches for problem in batch.problems]
    # Substitutes may be bad as well, so that a kind can come twice.
    assert {problem.kind for problem in problems} == {*broken_samples()}
    for problem in problems:
        assert problem.key == problem.kind
        assert problem.detail.startswith(f"{broken}/")
    numbers = [number for batch in batches for number in numbers_in(batch)]
    assert len(numbers) == 26
    assert set(numbers) == set(range(20))


def test_bad_samples_do_not_disturb_the_order(broken):
    spec = f"{broken}/*.tar"
    alone, one, three = (train_config(spec, steps=5, batch_size=4, workers=n) for n in (0, 1, 3))
    whole = load(alone)
    assert any(batch.problems for batch in whole[2:])
    assert_same_batches(load(three), whole)
    assert_same_batches(load(one, first_step=2), whole[2:])
    parts = [load(alone, rank=rank, world_size=2) for rank in range(2)]
    assert_same_batches(list(joined(parts)), whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_without_a_good_sample_stop_the_run(tmp_path, workers):
    shard = write_shard(tmp_path / "a.tar", [{**sample(n), "jpg": b"no"} for n in range(3)])
    with pytest.raises(UnreadableDataError, match="100 samples in a row could not be read") as e:
        load(train_config(shard, workers=workers))
    assert "image_broken: " in str(e.value)
    assert "\n" not in str(e.value)


def test_bad_specifications_are_refused_at_once(folder):
    with pytest.raises(ShardError, match=r"no such shard: .*no.tar"):
        make_loader(train_config(f"{folder}/no.tar"), tokenize)
    with pytest.raises(ValueError, match=r"optim.batch_size=8 cannot be dealt to 3 processes"):
        make_loader(train_config(f"{folder}/*.tar"), tokenize, world_size=3)


def kill_worker(texts):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_one_line(folder):
    loader = make_loader(train_config(f"{folder}/*.tar", workers=1), kill_worker)
    with pytest.raises(ChildProcessError, match=r"^a data worker died \(DataLoader") as error:
        list(loader)
    assert "\n" not in str(error.value)


def group_as_tokens(texts):
    return torch.full((len(texts), 1), os.getpgid(0))


def test_signals_to_the_group_of_the_main_process_do_not_reach_its_workers(folder):
    loader = make_loader(train_config(f"{folder}/*.tar", workers=2), group_as_tokens)
    groups = {batch.views.texts.unique().item() for batch in loader}
    assert len(groups) == 2
    assert os.getpgid(0) not in groups


@pytest.fixture
def alarm():
    """Fails a test that hangs."""

    def fail(*_):
        raise TimeoutError

    former = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


def threads_as_tokens(texts):
    return torch.full((len(texts), 1), cv2.getNumThreads())


def test_workers_start_whatever_opencv_has_done_in_the_main_process(folder, alarm):
    threads = cv2.getNumThreads()
    pixels = np.zeros((2000, 2000, 3), dtype=np.uint8)
    cv2.resize(pixels, (999, 777), interpolation=cv2.INTER_AREA)  # starts its threads
    time.sleep(0.3)  # and they fall asleep, which is when a copy of the process would hang
    config = train_config(f"{folder}/*.tar", steps=1, workers=1)
    (batch,) = make_loader(config, threads_as_tokens)
    assert batch.views.texts.unique().tolist() == [1]
    assert cv2.getNumThreads() == threads
