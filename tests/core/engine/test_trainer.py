"""The training loop in this process."""

import os
import signal

import pytest
import torch

from cosmos_core.data.scenes import TRAIN, scenes_tokenizer, write_layouts
from cosmos_core.engine.distributed import World
from cosmos_core.engine.snapshot import Snapshots
from cosmos_core.engine.trainer import Setting, Trainer
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes") / "data"
    write_layouts(root, split=TRAIN, count=8, layouts=["shards"])
    return str(root / "shards" / "*.tar")


def test_a_run_stopped_before_its_first_step_can_go_on(tmp_path, shards):
    tokenize = scenes_tokenizer()

    def interrupted(texts):
        """As if the signal came while the first batch was made."""
        os.kill(os.getpid(), signal.SIGTERM)
        return tokenize(texts)

    config = override(
        RECIPES["scenes_cosmos"](),
        ["optim.steps=1", "optim.batch_size=4", "data.workers=0"],
    )
    setting = Setting(
        tokenizer=interrupted,
        decode=tokenize.decode,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        output=tmp_path,
        command="cosmos-train scenes_cosmos",
        world=World(0, 1, torch.device("cpu")),
    )
    outcome = Trainer(config, setting).run(shards)
    assert (outcome.steps, outcome.of) == (0, 1)
    assert Snapshots(tmp_path, keep=1).steps() == [0]
    assert outcome.checkpoint.exists()
    resumed = Trainer(config, setting._replace(tokenizer=tokenize), resume=True).run(shards)
    assert resumed.steps == 1
