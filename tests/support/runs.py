"""Tiny runs of `cosmos-train` in processes of their own, to be stopped and resumed."""

import json
import time

from safetensors.torch import load_file
from support.forked import Forked, torchrun, train_as_rank
from support.processes import free_port

from cosmos_core import train
from cosmos_core.recipes import RECIPES

STEPS = 6
TINY = [
    "scenes_cosmos",
    *("--set", "data.shards=scenes:24"),
    *("--set", "data.workers=0"),
    *("--set", "optim.batch_size=4"),
    *("--set", f"optim.steps={STEPS}"),
    *("--set", "optim.warmup_steps=2"),
    *("--set", "save.every=1"),
    *("--set", "watch.log_every=1"),
    *("--set", "watch.pictures=false"),
]


def start(output, *arguments, processes=1, launcher=()):
    words = [*TINY, "--output", str(output), *arguments]
    if processes == 1:
        return Forked(words)
    launcher = [f"--nproc-per-node={processes}", *launcher]
    return Forked([*launcher, train.__file__, *words], target=torchrun)


def start_ranks(output, *arguments, size=2):
    """Processes that train together, each with a status: no torchrun ends the others."""
    port, words = free_port(), [*TINY, "--output", str(output), *arguments]
    return [Forked([rank, size, port, *words], target=train_as_rank) for rank in range(size)]


def shard_settings(shards):
    """Return the options by which a tiny run reads shards, whose captions are not of scenes."""
    architecture = json.loads(json.dumps(RECIPES["scenes_cosmos"]().architecture))
    architecture["text_cfg"]["vocab_size"] = 49408  # of the tokenizer of shards
    settings = (f"data.shards={shards}", f"architecture={json.dumps(architecture)}")
    return [word for setting in settings for word in ("--set", setting)]


def finish(process, status=0):
    out, err = process.communicate(timeout=150)
    assert process.returncode == status, err
    return out + err


def wait_for_step(process, output, step):
    """Until the log has this step's line."""
    deadline = time.monotonic() + 120
    while not any(record["step"] >= step for record in log(output)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_snapshot(process, output):
    """Until a snapshot is whole. It is written while the next steps are taken and logged."""
    deadline = time.monotonic() + 120
    while not list((output / "snapshots").glob("step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def log(output):
    path = output / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def reproducible(output):
    """The log without what a clock measured."""
    return [{k: v for k, v in record.items() if k != "timing"} for record in log(output)]


def assert_same_run(output, reference):
    ours, theirs = (load_file(folder / "checkpoint.safetensors") for folder in (output, reference))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []
    ours, theirs = reproducible(output), reproducible(reference)
    assert ours == theirs, f"{ours}\n{theirs}"
    assert [record["step"] for record in log(output)] == list(range(STEPS))
