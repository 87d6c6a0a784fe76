"""The training loop in this process."""

import os
import signal

from cosmos_core.engine.snapshot import Snapshots
from cosmos_core.engine.trainer import Trainer
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override


def test_a_run_stopped_before_its_first_step_can_go_on(setting, scene_shards):
    def interrupted(texts):
        """As if the signal came while the first batch was made."""
        os.kill(os.getpid(), signal.SIGTERM)
        return setting.tokenizer(texts)

    settings = ["optim.steps=1", "optim.batch_size=4", "data.workers=0"]
    config = override(RECIPES["scenes_cosmos"](), settings)
    assert Trainer(config, setting._replace(tokenizer=interrupted)).run(scene_shards) == 0
    assert Snapshots(setting.output, keep=1).steps() == [0]
    assert (setting.output / "checkpoint.safetensors").exists()
    assert Trainer(config, setting, resume=True).run(scene_shards) == 1
