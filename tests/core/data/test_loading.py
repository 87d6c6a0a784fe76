"""Batches of local tars: the same for any workers, processes and first step, also if data fail."""

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


def load(config, **options):
    """Return all batches of a run; the options are those of make_loader."""
    return list(make_loader(config, tokenize, **options))


def load_in_processes(config, world_size):
    """Return the batches of each of so many processes."""
    return [load(config, rank=rank, world_size=world_size) for rank in range(world_size)]


def join_processes(batches_by_rank):
    """Return the global batches: for each step, the batches of all processes as one."""
    global_batches = []
    for batches_of_step in zip(*batches_by_rank, strict=True):
        problems = []
        for batch in batches_of_step:
            problems += batch.problems
        tensors_by_field = zip(*(batch.views for batch in batches_of_step), strict=True)
        views = Views(*(torch.cat(tensors, dim=1) for tensors in tensors_by_field))
        global_batches.append(Batch(views, tuple(problems)))
    return global_batches


def numbers_in_all(batches):
    """Return the numbers of the samples of all batches, in order."""
    return [number for batch in batches for number in numbers_in(batch)]


def test_batches_are_uint8_images_and_tokens(folder):
    batch, *_ = load(train_config(f"{folder}/*.tar"))
    assert batch.views.global_images.shape == (2, 8, 3, 32, 32)
    assert batch.views.local_images.shape == (2, 8, 3, 16, 16)
    assert batch.views.texts.shape == (4, 8, 40)
    assert [tensor.dtype for tensor in batch.views] == [torch.uint8, torch.uint8, torch.int64]
    assert all(tensor.is_contiguous() for tensor in batch.views)
    assert batch.problems == ()


def test_batches_are_the_same_for_any_workers_processes_and_first_step(folder):
    config = train_config(f"{folder}/*.tar")
    expected = load(config)
    assert len(expected) == 6
    for first_step, workers in ((0, 1), (0, 3), (1, 0), (4, 2), (5, 0)):
        resumed = load(train_config(f"{folder}/*.tar", workers=workers), first_step=first_step)
        assert_same_batches(resumed, expected[first_step:])
    for world_size in (2, 4):
        batches_by_rank = load_in_processes(config, world_size)
        assert_same_batches(join_processes(batches_by_rank), expected)
    assert load(config, first_step=6) == []


@pytest.mark.parametrize("prefix", ["", "pipe:cat "], ids=["local", "stream"])
def test_captions_of_a_training_are_chosen_by_their_keys(tmp_path, prefix):
    # Every sample has a long caption of twenty letters x. Samples 0, 3 and 6 have no raw caption.
    samples = []
    for number in range(9):
        record = {"longIB_captions": ["x" * 20]}
        if number % 3:
            record.update(sample(number)["json"])
        samples.append({**sample(number), "json": record})
    path = write_shard(tmp_path / "0.tar", samples)
    config = train_config(f"{prefix}{path}", workers=0, batch_size=6, steps=2)
    for batch in load(config):
        assert (batch.views.texts == ord("x")).any()
        assert batch.problems == ()

    # If only raw captions are used, samples without one are reported and replaced.
    only_raw = dataclasses.replace(config.text, captions=("raw_caption",))
    problems = []
    for batch in load(dataclasses.replace(config, text=only_raw)):
        assert not (batch.views.texts == ord("x")).any()
        assert {number % 3 for number in numbers_in(batch)} == {1, 2}
        problems += batch.problems
    assert {problem.kind for problem in problems} == {"captions_missing"}
    assert str(problems[0]).endswith("0.tar: no raw_caption among: longIB_captions")


def test_every_epoch_has_every_sample_with_other_augmentation(folder):
    batches = load(train_config(f"{folder}/*.tar", steps=6, batch_size=7))
    numbers = numbers_in_all(batches)  # two epochs of 21 samples
    assert sorted(numbers[:21]) == sorted(numbers[21:]) == list(range(21))
    views = torch.cat([batch.views.global_images for batch in batches], dim=1)
    views_in_first_epoch = views[:, numbers.index(4, 0)]
    views_in_second_epoch = views[:, numbers.index(4, 21)]
    assert not torch.equal(views_in_first_epoch, views_in_second_epoch)


def test_batches_follow_from_the_seed(folder):
    batches = load(train_config(f"{folder}/*.tar", seed=1))
    batches_of_same_seed = load(train_config(f"{folder}/*.tar", seed=1))
    batches_of_other_seed = load(train_config(f"{folder}/*.tar", seed=2))
    assert_same_batches(batches, batches_of_same_seed)
    assert numbers_in(batches[0]) != numbers_in(batches_of_other_seed[0])


def test_several_sets_follow_each_other_and_weights_favour_one(folder):
    spec = f"{folder}/{{0,1}}.tar::{folder}/2.tar"
    assert_same_batches(load(train_config(spec)), load(train_config(f"{folder}/*.tar")))
    spec = f"{folder}/0.tar::{folder}/2.tar"  # 5 and 9 samples
    config = train_config(spec, weights="90::1", steps=20)
    batches = load(config)
    numbers = np.array(numbers_in_all(batches))
    # The sets are drawn as 90 * 5 = 450 to 9. Of 160 draws, about 3 are from the second set, whose
    # samples have the numbers from 12 on.
    assert np.count_nonzero(numbers >= 12) < 12
    assert set(numbers[numbers < 12]) == set(range(5))
    with_workers = train_config(spec, weights="90::1", steps=20, workers=2)
    assert_same_batches(load(with_workers, first_step=13), batches[13:])


def test_the_state_of_global_random_generators_stays(folder):
    def state():
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())

    expected = state()
    for workers in (0, 1):
        load(train_config(f"{folder}/*.tar", workers=workers))
    assert state() == expected


def broken_samples():
    """Return the files of a sample of each kind of problem that a whole tar can have."""
    image, record = sample(0)["jpg"], sample(0)["json"]
    return {
        "image_missing": {"json": record},
        "image_broken": {"jpg": jpeg(1)[:300], "json": record},
        "record_missing": {"jpg": image},
        "record_broken": {"jpg": image, "json": b"{"},
        "captions_missing": {"jpg": image, "json": {"raw_caption": []}},
        "captions_wrong": {"jpg": image, "json": {"raw_caption": [None]}},
    }


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A folder with a tar of 20 good samples and six broken ones, whose keys are the problems."""
    folder = tmp_path_factory.mktemp("broken")
    good_samples = [sample(number) for number in range(20)]
    bad_samples = [{"__key__": kind, **files} for kind, files in broken_samples().items()]
    write_shard(folder / "a.tar", [*good_samples[:10], *bad_samples, *good_samples[10:]])
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
    numbers = numbers_in_all(batches)
    assert len(numbers) == 26
    assert set(numbers) == set(range(20))


def test_bad_samples_do_not_disturb_the_order(broken):
    def config(workers):
        return train_config(f"{broken}/*.tar", steps=5, batch_size=4, workers=workers)

    expected = load(config(workers=0))
    assert any(batch.problems for batch in expected[2:])
    assert_same_batches(load(config(workers=3)), expected)
    assert_same_batches(load(config(workers=1), first_step=2), expected[2:])
    batches_by_rank = load_in_processes(config(workers=0), world_size=2)
    assert_same_batches(join_processes(batches_by_rank), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_without_a_good_sample_stop_the_run(tmp_path, workers):
    samples = [{**sample(number), "jpg": b"no"} for number in range(3)]
    shard = write_shard(tmp_path / "a.tar", samples)
    message = "100 samples in a row could not be read"
    with pytest.raises(UnreadableDataError, match=message) as error:
        load(train_config(shard, workers=workers))
    assert "image_broken: " in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_specifications_are_refused_at_once(folder):
    with pytest.raises(ShardError, match=r"no such shard: .*no.tar"):
        make_loader(train_config(f"{folder}/no.tar"), tokenize)
    with pytest.raises(ValueError, match=r"optim.batch_size=8 cannot be dealt to 3 processes"):
        make_loader(train_config(f"{folder}/*.tar"), tokenize, world_size=3)


# Functions that take the place of the tokenizer, which runs in the workers.


def kill_worker(texts):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_one_line(folder):
    loader = make_loader(train_config(f"{folder}/*.tar", workers=1), kill_worker)
    with pytest.raises(ChildProcessError, match=r"^a data worker died \(DataLoader") as error:
        list(loader)
    assert "\n" not in str(error.value)


def process_group_as_token(texts):
    return torch.full((len(texts), 1), os.getpgid(0))


def test_signals_to_the_group_of_the_main_process_do_not_reach_its_workers(folder):
    loader = make_loader(train_config(f"{folder}/*.tar", workers=2), process_group_as_token)
    groups = {batch.views.texts.unique().item() for batch in loader}
    assert len(groups) == 2
    assert os.getpgid(0) not in groups


@pytest.fixture
def alarm():
    """Fail a test that takes over a minute, because it hangs."""

    def fail(signal_number, frame):
        raise TimeoutError

    former_handler = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former_handler)


def number_of_threads_as_token(texts):
    return torch.full((len(texts), 1), cv2.getNumThreads())


def test_workers_start_after_opencv_has_used_threads_in_the_main_process(folder, alarm):
    threads = cv2.getNumThreads()
    pixels = np.zeros((2000, 2000, 3), dtype=np.uint8)
    cv2.resize(pixels, (999, 777), interpolation=cv2.INTER_AREA)  # starts its threads
    time.sleep(0.3)  # and they fall asleep, which is when a copy of the process would hang
    config = train_config(f"{folder}/*.tar", steps=1, workers=1)
    (batch,) = make_loader(config, number_of_threads_as_token)
    assert batch.views.texts.unique().tolist() == [1]
    assert cv2.getNumThreads() == threads
