"""`cosmos-train --resume` on streams: at the next sample, or with other workers at a pass."""

import random
import signal

import pytest
from support.runs import (
    STEPS,
    assert_same_run,
    finish,
    log,
    shard_settings,
    start,
    wait_for_snapshot,
    wait_for_step,
)
from support.shards import write_shards

pytestmark = pytest.mark.slow  # starts processes of its own


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The options of a run on four streams of five samples each."""
    folder = write_shards(tmp_path_factory.mktemp("shards"), [5] * 4)
    return shard_settings(f"pipe:cat {folder}/{{0..3}}.tar")


def kill(output, words, step):
    process = start(output, *words)
    wait_for_step(process, output, step)
    wait_for_snapshot(process, output)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_killed_run_goes_on_bitwise(tmp_path, words):
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    finish(start(uninterrupted, *words))
    kill(killed, words, random.randrange(1, STEPS - 1))
    printed = finish(start(killed, *words, "--resume"))
    assert "the streams go on at" not in printed
    assert_same_run(killed, uninterrupted)


def test_other_workers_go_on_at_a_pass_and_a_line_says_so(tmp_path, words):
    kill(tmp_path / "run", words, 2)
    more = ("--set", "data.workers=2")
    printed = finish(start(tmp_path / "run", *words, *more, "--resume"))
    assert "the streams go on at the beginning of pass 2: 1 processes of 1 workers" in printed
    assert [record["step"] for record in log(tmp_path / "run")] == list(range(STEPS))
